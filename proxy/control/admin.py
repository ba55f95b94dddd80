"""The admin listener: a small HTTP/1.1 server on its own address, for operators, scrapers and the bench.

It answers GET and HEAD on `PATHS` and nothing else, one request a connection. It shares the loop with the
engine, so everything is bounded: the head, the time, the connections. It never shares the public port.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from proxy.control import metrics
from proxy.core.errors import ProxyError
from proxy.core.stats import Snapshot, merge
from proxy.http1.heads import Limits, RequestHead, judge_request
from proxy.net.listen import ACCEPTS_AT_ONCE

log = logging.getLogger("proxy.admin")

LONGEST_HEAD = 8 * 2**10
DEADLINE = 10.0
CONNECTIONS = 64

PATHS = ("/internal/health", "/internal/stats", "/internal/status", "/internal/runtime", "/metrics")

_NO_LIMITS = Limits(head=0, fields=0, target=0, field=0)  # LONGEST_HEAD bounds them all


class Source(Protocol):
    """Where the answers come from: one worker, or the supervisor that asks several."""

    def health(self) -> dict[str, Any]:
        """`{"status": "ok" | "stopping" | ..., ...}`; anything but ok is answered with 503."""
        ...

    async def snapshots(self) -> list[Snapshot]:
        """The counts of each worker, also of those that died."""
        ...

    async def status(self) -> dict[str, Any]:
        """`{"workers": [one object each], ...}`."""
        ...

    async def runtime(self, since_ns: int | None) -> dict[str, Any]:
        """Collections and stalls since then (None: only their totals), hashes, versions, memory.

        With several workers, one object each under `workers`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: status, body, content type, and the methods allowed where that is the matter."""

    status: int
    body: bytes
    content_type: str = "application/json"
    allow: str = ""

    def as_bytes(self, *, with_body: bool) -> bytes:
        """The whole message; HEAD is answered `with_body=False`."""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
            + (f"Allow: {self.allow}\r\n" if self.allow else "")
            + "Connection: close\r\n\r\n"
        )
        return head.encode("ascii") + (self.body if with_body else b"")


class Refused(Exception):
    """A request that gets no more than a status and a sentence."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.answer = _json(status, {"error": why}, allow="GET, HEAD" if status == 405 else "")


class AdminListener:
    """Owner of the admin address. `start` it on a listening socket, `close` it last."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open = 0
        self._loopback = True
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Answer on `sock`."""
        self._loopback = ipaddress.ip_address(sock.getsockname()[0]).is_loopback
        self._server = await asyncio.start_server(
            self._connected, sock=sock, limit=LONGEST_HEAD, backlog=ACCEPTS_AT_ONCE
        )

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                async with asyncio.timeout(DEADLINE):
                    await self._exchange(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            writer.transport.abort()  # too slow, or gone: nobody to tell
        finally:
            self._open -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_body = True
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            judged = judge_head(head)
            with_body = judged.method != b"HEAD"
            self._check_host(judged.authority.decode("ascii"))
            answer = await self._answer(judged.target.decode("ascii"))
        except asyncio.LimitOverrunError:
            answer = Refused(431, f"the request head is longer than {LONGEST_HEAD} bytes").answer
        except Refused as exc:
            answer = exc.answer
        except (OSError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("an admin request failed")
            answer = Refused(500, "internal error; the log has more").answer
        writer.write(answer.as_bytes(with_body=with_body))
        await writer.drain()

    async def _answer(self, target: str) -> Answer:
        path, _, query = target.partition("?")
        source = self._source
        match path:
            case "/internal/health":
                health = source.health()
                return _json(200 if health["status"] == "ok" else 503, health)
            case "/internal/stats":
                snapshots = await source.snapshots()
                engines = {name: snap.as_json() for name, snap in metrics.merged_by_engine(snapshots).items()}
                return _json(200, {**merge(snapshots).as_json(), "engines": engines})
            case "/internal/status":
                return _json(200, await source.status())
            case "/internal/runtime":
                return _json(200, await source.runtime(_since(query)))
            case "/metrics":
                runtime = await source.runtime(None)
                status = await source.status()
                text = await metrics.render(
                    await source.snapshots(), status["workers"], runtime.get("workers", [runtime])
                )
                return Answer(200, text, metrics.CONTENT_TYPE)
            case _:
                raise Refused(404, f"known here: {' '.join(PATHS)}")

    def _check_host(self, host: str) -> None:
        """On loopback, a name that is not this machine's is a web page trying DNS rebinding."""
        name = host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if not self._loopback or name.lower() == "localhost":
            return
        try:
            ipaddress.ip_address(name)
        except ValueError:
            raise Refused(421, "this listener is asked by address or as localhost") from None


def judge_head(head: bytes) -> RequestHead:
    """Judge a head with its empty line. Raises Refused unless it is a GET or HEAD without a body."""
    try:
        judged = judge_request(head, _NO_LIMITS)
    except ProxyError as error:
        raise Refused(error.kind.status, error.detail) from error
    if judged.method not in (b"GET", b"HEAD"):
        raise Refused(405, "only GET and HEAD are answered here")
    if judged.length:
        raise Refused(400, "a request here has no body")
    if not judged.authority:
        raise Refused(400, "a request needs a Host")
    return judged


def _since(query: str) -> int:
    since = dict(parse_qsl(query)).get("since_ns", "0")
    if not since.isascii() or not since.isdigit() or len(since) > 19:
        raise Refused(400, "since_ns is a number of nanoseconds on CLOCK_MONOTONIC")
    return int(since)


def _json(status: int, content: Mapping[str, Any], allow: str = "") -> Answer:
    return Answer(status, json.dumps(content, allow_nan=False).encode() + b"\n", allow=allow)
