"""A request's body: read within the limits of size and time, kept if it is small enough to be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from aiohttp import BytesPayload, web

from proxy.config import Config
from proxy.core.errors import ProxyError
from proxy.http1.heads import CHUNKED, CONTINUE
from proxy.http1.recall import Request
from proxy.net.write_stall import STEP


class RequestBody:
    """Kept whole up to `max_replay_body`; above it streamed, and sent once only."""

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
