"""The smallest honest aiohttp proxy: what a good programmer writes in an hour. It keeps Sherpa from being made slow.

    python -m loadgen.targets.aiohttp_min [--port N] BACKEND_URL...

One `ClientSession`, hop-by-hop headers removed, bodies streamed as they come. No stats, no health checks, no breakers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator

import uvloop
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

_HOP_BY_HOP = (
    "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Transfer-Encoding",
    "Upgrade",
)  # fmt: skip


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """A copy without the fields that concern one connection only."""
    kept = headers.copy()
    nominated = [name.strip() for value in kept.getall("Connection", []) for name in value.split(",")]
    for name in (*_HOP_BY_HOP, *nominated):
        kept.popall(name, None)
    return kept


class Proxy:
    """Forwards every request to the next backend."""

    def __init__(self, backends: list[str]) -> None:
        self._turn = itertools.cycle(backends)
        self._session: ClientSession | None = None

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        """Opens the one session with the application and closes it with it."""
        connector = TCPConnector(limit=0, keepalive_timeout=90)
        async with ClientSession(
            connector=connector,
            timeout=ClientTimeout(total=None, sock_connect=5, sock_read=300),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        ) as self._session:
            yield

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """One exchange."""
        assert self._session is not None
        headers = end_to_end(request.headers)
        headers.popall("Host", None)
        try:
            async with self._session.request(
                request.method,
                next(self._turn) + request.raw_path,
                headers=headers,
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=end_to_end(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except ClientError as exc:
            raise web.HTTPBadGateway(text="the backend failed") from exc


async def serve(backends: list[str], port: int) -> None:
    """Listens, prints the ready line, serves until it is told to stop."""
    proxy = Proxy(backends)
    app = web.Application(client_max_size=1 << 30)
    app.cleanup_ctx.append(proxy.session)
    app.router.add_route("*", "/{path:.*}", proxy.forward)
    runner = web.AppRunner(app, access_log=None, handle_signals=True, keepalive_timeout=75)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=4096)
    try:
        await site.start()
        host, chosen = runner.addresses[0][:2]
        print(
            json.dumps({"ready": True, "url": f"http://{host}:{chosen}", "admin": None, "pid": os.getpid()}), flush=True
        )
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.targets.aiohttp_min", description="minimal aiohttp proxy")
    parser.add_argument("backends", nargs="+", metavar="BACKEND_URL")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    with contextlib.suppress(web.GracefulExit):
        uvloop.run(serve([url.rstrip("/") for url in options.backends], options.port))


if __name__ == "__main__":
    main()
