"""One connection to an endpoint: who is using it, and whether it may be used again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from proxy.http1.chunked import ChunkReader
from proxy.net.listen import bound_window
from proxy.olla.buffers import ObjectPool


class Consumer(Protocol):
    """The exchange that a connection works for at the moment."""

    def received(self, data: bytes) -> None:
        """Bytes of the response arrived. They are immutable and may be kept."""

    def upstream_lost(self, clean: bool) -> None:
        """The connection is gone; `clean` when the upstream ended it properly (FIN), not by a reset."""

    def upload_paused(self, paused: bool) -> None:
        """The upstream takes the request body too slowly (True), or takes it again (False)."""


def nobody(connection: UpstreamConnection) -> None:
    """Hears of the loss of a connection that is not in a pool yet, or no longer."""


class UpstreamConnection(asyncio.BaseProtocol):
    """A TCP (or TLS) connection to one endpoint. `exchange` is None while it idles in its pool.

    How bytes are read is said by its two kinds below.
    """

    __slots__ = (
        "answer_length", "chunks", "ended", "exchange", "idle_since", "on_lost", "reading_paused", "transport", "used",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.on_lost: Callable[[UpstreamConnection], None] = nobody  # of the pool that it belongs to
        self.exchange: Consumer | None = None
        self.chunks: ChunkReader | None = None
        self.used = 0  # exchanges before the present one: a fresh connection has 0
        self.ended = False  # it will bring nothing more: the upstream sent FIN, or it is lost
        self.idle_since = 0.0  # or was, before the present exchange
        self.answer_length = 0  # of the answer before that, as its head has it
        self.reading_paused = False

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        bound_window(transport.get_extra_info("socket"))

    def eof_received(self) -> None:
        self.ended = True
        if self.exchange is None:
            self.on_lost(self)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # a close would wait until the endpoint took a request that it has answered

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        clean = self.ended  # an `exc` after the FIN is of our own writing, and says nothing of the answer
        self.ended = True
        self.on_lost(self)
        if self.chunks is not None:
            self.chunks.close()
            self.chunks = None
        if exchange is not None:
            exchange.upstream_lost(clean)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upload_paused(True)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upload_paused(False)

    # -- called by pool and exchange

    @property
    def usable(self) -> bool:
        """Whether another request may be written to it."""
        return not self.ended and not self.transport.is_closing()

    def chunk_reader(self) -> ChunkReader:
        """This connection's reader of chunked bodies, expecting a body."""
        if self.chunks is None:
            self.chunks = ChunkReader()
        self.chunks.begin()
        return self.chunks

    def pause_reading(self) -> None:
        """Read nothing more until `resume_reading`: the client takes too slowly."""
        if not self.reading_paused and not self.transport.is_closing():
            self.reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.reading_paused and not self.transport.is_closing():
            self.reading_paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Close at once; nothing that is buffered is sent, and nobody is told."""
        self.exchange = None
        self.ended = True
        self.on_lost(self)
        self.transport.abort()


class PlainUpstreamConnection(UpstreamConnection, asyncio.Protocol):
    """Reads what the loop hands out: a fresh `bytes` each time."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None:
            exchange.received(data)
        else:
            self.abort()  # an answer nobody asked for must never become the answer of the next request


class BufferedUpstreamConnection(UpstreamConnection, asyncio.BufferedProtocol):
    """Reads into pooled buffers (`pools.buffers`).

    It must not be an `asyncio.Protocol` as well: uvloop then never asks it for a buffer.

    The buffer is lent from `get_buffer` to `buffer_updated` only: a loop reads one socket at a time, so an idle stream
    holds none. `bytes` are made of it before anyone sees the data (see `buffers`: who owns the bytes).
    """

    __slots__ = ("_buffers", "_lent")

    def __init__(self, buffers: ObjectPool[memoryview]) -> None:
        super().__init__()
        self._buffers = buffers
        self._lent: memoryview | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        lent = self._lent
        if lent is None:
            lent = self._lent = self._buffers.get()
        return lent

    def buffer_updated(self, nbytes: int) -> None:
        lent = self._lent
        assert lent is not None  # the loop calls get_buffer first
        data = bytes(lent[:nbytes])
        self._lent = None
        self._buffers.put(lent)
        exchange = self.exchange
        if exchange is not None:
            exchange.received(data)
        else:
            self.abort()

    def eof_received(self) -> None:
        self._give_back()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_back()
        super().connection_lost(exc)

    def _give_back(self) -> None:
        lent, self._lent = self._lent, None
        if lent is not None:  # the loop asked for a buffer and then read an end or nothing
            self._buffers.put(lent)
