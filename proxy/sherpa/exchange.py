"""One request while it is served: what is known of it, its body, and how it is counted when it is over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic

from aiohttp import BytesPayload, web

from proxy.config import Config, ProxyConfig
from proxy.control.access import AccessLog
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.headers import client_address
from proxy.core.health import FAILING_STATUSES
from proxy.core.retry import Next, RetryLimits, after
from proxy.core.stats import StatsCollector
from proxy.http1.heads import CHUNKED, CONTINUE
from proxy.http1.recall import Request
from proxy.net.write_stall import STEP
from proxy.sherpa.endpoints import UpstreamFailed


@dataclass(slots=True)
class Exchange:
    """Owned by the task that serves the request. `head` is what to send on; aiohttp's request has no fields."""

    request: web.BaseRequest
    head: Request
    request_id: str
    started: float
    endpoint: Endpoint | None = None
    response: web.StreamResponse | None = None
    error: ProxyError | None = None

    def after(self, failure: UpstreamFailed, body: RequestBody, proxy: ProxyConfig, *, asked: int, fresh: bool) -> Next:
        """What follows a try that failed, by the rule of both engines. `fresh`: it cannot have been stale."""
        return after(
            sent=failure.sent,
            heard=failure.heard or self.response is not None,
            stale=failure.stale and not fresh,
            replayable=not body.sent,
            idempotent=self.head.traits.idempotent or proxy.retry_non_idempotent,
            asked=asked,
            elapsed=monotonic() - self.started,
            limits=RetryLimits(proxy.retry.max_attempts, proxy.retry.max_time),
        )


def new_id() -> str:
    """A name to find a request again by; no secret."""
    return f"{random.getrandbits(64):016x}"


def count(exchange: Exchange, outcome: str, stats: StatsCollector, access: AccessLog | None) -> None:
    """An exchange is over: `outcome` is success, failed or client_disconnected."""
    seconds, endpoint, response = monotonic() - exchange.started, exchange.endpoint, exchange.response
    status = response.status if response is not None and response.prepared else 0
    blameless = exchange.error is None or exchange.error.kind.blame == "client"
    if outcome == "success":
        stats.record_success(seconds, status)
    elif outcome == "failed":
        stats.record_failure(seconds)
    else:
        stats.record_client_disconnected()
    if endpoint is not None:
        if outcome == "success":
            endpoint.record_success(status)
            if status in FAILING_STATUSES:
                endpoint.record_failure(monotonic())
        elif outcome == "failed" and not blameless:
            endpoint.failed += 1
        else:
            endpoint.client_disconnected += 1
    if access is not None:
        request = exchange.request
        access.record(
            client=client_address(request.remote),
            method=request.method,
            target=request.raw_path,
            status=status,
            outcome=outcome,
            endpoint="" if endpoint is None else endpoint.name,
            seconds=seconds,
            request_id=exchange.request_id,
        )


class RequestBody:
    """Read within the limits of size and time. Kept up to `max_replay_body`; above it streamed, and sent only once."""

    def __init__(self, request: web.BaseRequest, head: Request, config: Config) -> None:
        limits = config.server
        self.chunked = head.length == CHUNKED
        self.error: ProxyError | None = None
        self.sent = False  # it cannot be sent again: not all of it was kept
        self._head = head
        self._request = request
        self._content = request.content
        self._limit = limits.max_body_size or float("inf")
        self._timeout = self._patience = limits.body_timeout or None
        self._keep = config.proxy.max_replay_body
        self._kept: bytes | None = None
        self._whole = not request.body_exists
        self._size = self._step = 0

    async def gather(self) -> None:
        """Read what may be kept. Raises ProxyError: too large, too slow, broken framing."""
        length = self._head.length
        if length > self._limit:
            raise ProxyError("body_too_large")
        if self._whole:
            return
        await self._invite()
        if length > self._keep:
            return
        chunks: list[bytes] = []
        while not self._whole and self._size <= self._keep:
            chunks.append(await self._read())
            self._whole = self._content.at_eof()
        self._kept = chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def data(self) -> BytesPayload | AsyncIterator[bytes] | None:
        """What aiohttp's client is given to send."""
        if not self._whole:
            return self._stream()
        return None if self._kept is None else BytesPayload(self._kept)

    async def _stream(self) -> AsyncIterator[bytes]:
        self.sent = True
        try:
            if self._kept:
                yield self._kept
            while not self._content.at_eof():
                yield await self._read()
        except ProxyError as exc:
            self.error = exc  # aiohttp makes it look like the upstream's failure
            raise

    async def _invite(self) -> None:
        """Answer `Expect: 100-continue` (RFC 9110 10.1.1), unless the body is on its way already."""
        content, transport = self._content, self._request.transport
        arrives = content.total_bytes or content.is_eof()
        if self._head.traits.expects_continue and not arrives and transport is not None:
            transport.write(CONTINUE)

    async def _read(self) -> bytes:
        """The next bytes, none only at the end. Raises ProxyError."""
        content = self._content
        try:
            if content.is_eof():
                data = content.read_nowait()
            else:
                asked = monotonic()
                async with asyncio.timeout(self._patience):  # runs only while waiting for the client
                    data = await content.readany()
                if self._patience is not None:
                    self._patience = max(self._patience - (monotonic() - asked), 0.0)
            if (broken := content.exception()) is not None:  # it broke behind the bytes that were just read
                raise broken
        except TimeoutError as exc:
            raise ProxyError("request_timeout", "the body") from exc
        self._size += len(data)
        self._step += len(data)
        if self._step >= STEP:  # `body_timeout` is for each STEP: a dribble does not renew it
            self._step, self._patience = 0, self._timeout
        if self._size > self._limit:
            raise ProxyError("body_too_large")
        return data
