"""Proxies under the same bytes: each in front of an endpoint of its own, which reads strictly and keeps what came.

Client, endpoints and records live on one loop of this process; the proxies are processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from proxy.engines import ENGINES
from tests.contract.running import ProcessProxy
from tests.fuzz.strict import Broken, Message, message, request_head

# What an endpoint answers to a request: the bytes, and whether it closes afterwards.
Answer = tuple[bytes, bool]
NGINX = shutil.which("nginx")

ENOUGH = 60.0  # seconds for one exchange; of one that needs more nothing can be said
_PLAIN_TARGET = b"/is-there-time"  # the endpoint keeps no record of it
_PLAIN_REQUEST = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % _PLAIN_TARGET

# Nothing that depends on time or on what happened before may differ between two proxies.
SETTINGS = {
    "proxy.circuit_breaker.enabled": False,
    "proxy.max_conns_per_host": 0,
    "server.keep_alive_timeout": "5m",
    "server.header_timeout": "5m",
    "server.body_timeout": "5m",
    "server.shutdown_timeout": "1s",
}

_NGINX_CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log /dev/null crit;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off; tcp_nodelay on; keepalive_timeout 300s; keepalive_requests 1000000000;
    large_client_header_buffers 8 64k; underscores_in_headers on; ignore_invalid_headers off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream backend {{ server 127.0.0.1:{backend} max_fails=0; keepalive 256; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffer_size 64k;
            proxy_buffers 8 64k; proxy_busy_buffers_size 128k; proxy_next_upstream off; proxy_pass_header Date;
            proxy_pass_header Server;
        }}
    }}
}}
"""


class TooSlow(Exception):
    """An exchange was still under way after ENOUGH seconds: this machine has no time for it, so it is not judged."""


@dataclass(slots=True)
class Party:
    """A proxy and what reached the endpoint behind it."""

    name: str
    port: int
    reached: list[Message | Broken] = field(default_factory=list)


class Upstream(asyncio.Protocol):
    """A connection of the strict endpoint. `record` hears each whole request, or Broken when there was none."""

    def __init__(self, answer: Callable[[Message], Answer], record: Callable[[Message | Broken], None]) -> None:
        self._answer = answer
        self._record = record
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data and not self._transport.is_closing():
            try:
                head = request_head(self._data)
                whole = message(self._data, head) if head else None
            except Broken as broken:
                self._record(Broken(f"{broken} in {self._data[:400]!r}"))
                self._transport.close()
                return
            if whole is None:
                return
            self._data = self._data[whole.size :]
            if whole.start[1] != _PLAIN_TARGET:
                self._record(whole)
            answer, close = self._answer(whole)
            self._transport.write(answer)
            if close:
                self._transport.close()


class Conversation(asyncio.Protocol):
    """A client's connection: what came back, whether the other side ended it, and whether it did so by a reset.

    Where a message ends with its connection, a reset is what tells that it is not whole.
    """

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.reset = False
        self._until = b""
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self._until and self._until in self.data:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed:
            self.ended, self.reset = True, exc is not None
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def say(self, segments: Sequence[bytes]) -> None:
        """Send, with a pass of the loop between segments, so that most arrive alone."""
        for i, segment in enumerate(segments):
            if i:
                await asyncio.sleep(0.0005)
            if self._transport.is_closing():
                return
            self._transport.write(segment)

    async def hear(self, until: bytes, patience: float) -> bool:
        """Wait until `until` came back or the end (True), or nothing for `patience` seconds (False)."""
        self._until = until
        while not self.ended and not (until and until in self.data):
            had = len(self.data)
            self._waiter = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._waiter
            if len(self.data) == had and not self.ended:
                return False
        return True

    def close(self) -> None:
        """Close. What comes of it is not the other side's doing."""
        self._closed = True
        self._transport.abort()


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Conversation]:
    loop = asyncio.get_running_loop()
    _, conversation = await loop.create_connection(Conversation, "127.0.0.1", port)
    try:
        yield conversation
    finally:
        conversation.close()


async def converse(port: int, segments: Sequence[bytes], until: bytes, patience: float) -> Conversation:
    """Say `segments` on a new connection; returns it, closed, with what came back.

    The exchange is over when `until` came back, when the other side closed, or when nothing came for `patience` seconds
    though the proxy has time: it then answers a plain request on another connection in half of them. If it takes longer
    or if something came meanwhile, `patience` is doubled. Raises TooSlow after ENOUGH seconds.
    """
    try:
        async with asyncio.timeout(ENOUGH), _connected(port) as conversation:
            await conversation.say(segments)
            while not await conversation.hear(until, patience):
                heard = len(conversation.data)
                quick = await _answers_within(port, patience / 2)
                if quick and len(conversation.data) == heard and not conversation.ended:
                    break
                patience *= 2
            return conversation
    except TimeoutError:
        raise TooSlow from None


async def _answers_within(port: int, seconds: float) -> bool:
    """Whether a plain request is answered in so many seconds. Waits for the answer in any case."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with _connected(port) as conversation:
        await conversation.say([_PLAIN_REQUEST])
        await conversation.hear(b"\r\n\r\n", ENOUGH)
    return loop.time() - began <= seconds


@contextlib.asynccontextmanager
async def parties(
    names: Sequence[str], answer: Callable[[Message], Answer], **settings: Any
) -> AsyncIterator[list[Party]]:
    """Start proxies (engines, `nginx`), each in front of a strict endpoint that answers what `answer` says."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:
            party = Party(name, 0)
            server = await loop.create_server(
                lambda party=party: Upstream(answer, party.reached.append), "127.0.0.1", 0, backlog=4096
            )
            stack.callback(server.close)
            backend = int(server.sockets[0].getsockname()[1])
            if name in ENGINES:
                config = {**SETTINGS, **settings}
                proxy = ProcessProxy(name, [{"name": "e", "url": f"http://127.0.0.1:{backend}"}], config)
                stack.callback(proxy.close)
                party.port = proxy.port
            else:
                party.port = stack.enter_context(_nginx(backend))
            found.append(party)
        yield found


@contextlib.contextmanager
def _nginx(backend: int) -> Any:
    assert NGINX is not None, "nginx is not installed"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nginx.conf"
        file.write_text(_NGINX_CONFIG.format(folder=folder, backend=backend, port=port))
        process = subprocess.Popen([NGINX, "-c", str(file)], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait()
