"""One client connection: cuts the byte stream into requests, one at a time, and hands each to an exchange.

States, in the order a request passes them: HEAD (waiting for one, or for the rest of it), BODY (the rest of its body),
BUSY (answered by the exchange), then HEAD again; CLOSING (what is written drains) and LINGERING (the last answer was
sent while the client still talks: read and forget for a moment, because closing with unread bytes resets the connection
and the client may never see the answer).

One `deadline` per connection, compared by the service's tick: the keep-alive, header, body or write timeout,
whichever runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from httptools import HttpParserError

from proxy.core.errors import ErrorKind, ProxyError
from proxy.core.headers import client_address
from proxy.http1.chunked import LAST_CHUNK, BodyReader, encode_chunk
from proxy.http1.heads import CHUNKED, CONTINUE, HEAD_END, check_partial_head, skip_empty_lines
from proxy.http1.recall import Request, RequestReader
from proxy.net.listen import reset_on_close
from proxy.net.write_stall import STEP, WriteStall, unacked
from proxy.olla.buffers import ObjectPool
from proxy.olla.engine import Engine
from proxy.olla.exchange import Exchange
from proxy.olla.settings import NEVER

HEAD, BODY, BUSY, CLOSING, LINGERING = range(5)

GATHERED_BODY = 64 * 1024  # a body up to this size is awaited whole, then sent in one write and can be sent again
MAX_PENDING = 64 * 1024  # pipelined bytes kept while busy; then the client is read no further
LINGER = 2.0  # seconds
LINGER_BYTES = 2**20  # what a client may still send after it was refused


class ClientConnection(asyncio.Protocol):
    """A client's TCP connection."""

    __slots__ = (
        "address", "contexts", "deadline", "decoder", "engine", "exchange", "fresh", "left", "mark", "owner", "parts",
        "pending", "read_paused", "reader", "state", "streaming", "taking", "transport", "upload_paused",
        "write_paused",
    )  # fmt: skip

    transport: asyncio.Transport
    reader: RequestReader

    def __init__(self, engine: Engine, contexts: ObjectPool[Exchange], owner: set[ClientConnection]) -> None:
        self.engine = engine
        self.contexts = contexts
        self.owner = owner
        self.exchange: Exchange | None = None
        self.state = HEAD
        self.fresh = True  # no request was answered yet
        self.pending = b""  # bytes that are not part of the present request
        self.parts: list[bytes] = []  # a small body that is still arriving
        self.left = 0  # bytes of body to come
        self.streaming = False  # the body is passed on as it arrives
        self.decoder: BodyReader | None = None
        self.deadline = NEVER
        self.mark = 0  # bytes of a body since its time was last renewed
        self.taking: WriteStall | None = None  # while something waits for the client
        self.write_paused = False
        self.read_paused = False
        self.upload_paused = False
        self.address = ""

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        engine = self.engine
        settings = engine.settings
        self.address = client_address((transport.get_extra_info("peername") or ("",))[0])
        self.configure()
        self.owner.add(self)
        if engine.stopping:  # accepted as the listener closed: its requests would outlive the service
            self._close(unread=False)
            return
        if settings.max_connections and len(self.owner) > settings.max_connections:
            # Closed at once: connections that linger would keep others out, and hold descriptors beyond the limit.
            self._refuse(ProxyError("too_many_requests_in_flight", "connections"), linger=False)
            return
        self.deadline = engine.horizon + settings.keep_alive_timeout

    def data_received(self, data: bytes) -> None:
        state = self.state
        if state == HEAD:
            self._read_head(self.pending + data if self.pending else data)
        elif state == BODY:
            self._read_body(data)
        elif state == BUSY:
            self.pending += data
            if len(self.pending) > MAX_PENDING:
                self.read_paused = True
                self._apply_pause()
        elif state == LINGERING:
            self.left -= len(data)
            if self.left < 0:
                self.abort()

    def eof_received(self) -> None:
        """The client will send nothing more; like nginx we take that for leaving. The loop closes the transport."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.discard(self)
        self.state = CLOSING
        self.deadline = NEVER
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()
        self._end_body()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.state in (BUSY, BODY):  # BODY: answered before it sent all of its request
            self._watch_taking()
        if self.exchange is not None:
            self.exchange.writing_paused(True)

    def resume_writing(self) -> None:
        self.write_paused = False
        self.taking = None
        if self.state == BODY:
            self._watch_body()
        elif self.state == BUSY:
            self.deadline = NEVER
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits()  # `await_drained` may have changed them
        if self.exchange is not None:
            self.exchange.writing_paused(False)

    # -- requests

    def _read_head(self, data: bytes) -> None:
        engine = self.engine
        recalled = self.reader.recall(data)
        if recalled is not None:
            request, rest = recalled
        else:
            if data[0] in b"\r\n":
                data = self._skip_empty_lines(data)
                if not data:
                    return
            end = data.find(HEAD_END)
            if end < 0:
                self._wait_for_head(data)
                return
            try:
                request = self.reader.read(data[: end + 4])
            except ProxyError as error:
                self._refuse(error)
                return
            rest = data[end + 4 :]
        self.deadline = NEVER
        self.exchange = exchange = self.contexts.get()
        exchange.open(self, request)
        length = request.length
        size = len(rest)
        if length > engine.settings.max_body:
            self.state = BODY
            exchange.client_failed(ProxyError("body_too_large"))
        elif size == length:
            self.state = BUSY
            self.pending = b""
            exchange.start(rest, True)
        elif 0 <= length < size:
            self.state = BUSY
            self.pending = rest[length:]
            exchange.start(rest[:length], True)
        else:
            self.pending = b""
            self._begin_body(request, exchange, rest)

    def _skip_empty_lines(self, data: bytes) -> bytes:
        """Up to two empty lines before a request line are forgiven (RFC 9112 2.2 asks for one)."""
        try:
            stripped = skip_empty_lines(data)
        except ProxyError as error:
            self._refuse(error)
            return b""
        if stripped in (b"", b"\r"):
            self.pending = data  # counted with those that follow; they begin no time and renew none
            return b""
        return stripped

    def _wait_for_head(self, data: bytes) -> None:
        engine = self.engine
        try:
            check_partial_head(data, engine.settings.limits)
        except ProxyError as error:
            self._refuse(error)
            return
        if not self._head_begun:  # the time for the whole head starts at its first byte and is not renewed
            self.deadline = engine.horizon + engine.settings.header_timeout
        self.pending = data

    def _begin_body(self, request: Request, exchange: Exchange, first: bytes) -> None:
        length = request.length
        settings = self.engine.settings
        self.state = BODY
        self.left = length
        self.mark = 0
        self.deadline = self.engine.horizon + settings.body_timeout
        if request.traits.expects_continue and not first:
            self.transport.write(CONTINUE)
        if length == CHUNKED:
            self.decoder = BodyReader()
        self.streaming = length == CHUNKED or length > GATHERED_BODY
        if self.streaming:
            exchange.start(b"", False)
        if first and self.state == BODY:
            self._read_body(first)

    def _read_body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.refused:
            return
        self.mark += len(data)
        if self.mark >= STEP:
            self.mark = 0
            if self.taking is None:  # else it is the time of its answer that runs
                self.deadline = self.engine.horizon + self.engine.settings.body_timeout
        if self.decoder is not None:
            self._read_chunks(data, self.decoder, exchange)
            return
        if len(data) > self.left:
            self.pending = data[self.left :]
            data = data[: self.left]
        self.left -= len(data)
        complete = self.left == 0
        if complete:
            self._body_complete()
        if self.streaming:
            exchange.add_body(data, complete)
        else:
            self.parts.append(data)
            if complete:
                body = b"".join(self.parts)
                self.parts.clear()
                exchange.start(body, True)

    def _read_chunks(self, data: bytes, decoder: BodyReader, exchange: Exchange) -> None:
        try:
            body = decoder.feed(data)
        except ProxyError as error:
            exchange.client_failed(error)
            return
        except HttpParserError as exc:
            exchange.client_failed(ProxyError("bad_request", f"chunk framing: {exc}"))
            return
        self.left -= len(body)  # left counts from CHUNKED (-1) downwards
        if CHUNKED - self.left > self.engine.settings.max_body:
            exchange.client_failed(ProxyError("body_too_large"))
            return
        if decoder.done:
            self._body_complete()
            self.pending = decoder.rest
            self._end_body()
        framed = encode_chunk(body) if body else b""
        exchange.add_body(framed + LAST_CHUNK if decoder.done else framed, decoder.done)

    def _body_complete(self) -> None:
        self.state = BUSY
        self.deadline = NEVER
        if self.write_paused:
            self._watch_taking()

    def _end_body(self) -> None:
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None
        if self.parts:
            self.parts.clear()

    # -- called by the exchange

    def exchange_done(self, keep_alive: bool) -> None:
        """The answer is with the kernel. Wait for the next request, or close."""
        self.exchange = None
        engine = self.engine
        if not keep_alive or engine.stopping:
            # A client that goes on sending would be reset, and might lose the end of its answer.
            self._close(unread=self.state == BODY or bool(self.pending))
            return
        self.state = HEAD
        self.fresh = False
        self.deadline = engine.keep_alive_horizon
        if self.pending or self.read_paused:
            engine.loop.call_soon(self._next_request)

    def await_drained(self) -> None:
        """Tell the exchange by `writing_paused(False)` when our memory holds nothing more of its answer."""
        if not self.transport.is_closing():  # else the exchange hears that the client left
            self.transport.set_write_buffer_limits(high=0)  # calls `pause_writing`, if it is not paused already

    def answer(self, error: ProxyError, request: Request, request_id: bytes, keep_alive: bool) -> None:
        """Send an error of our own."""
        traits = request.traits
        self._send_error(error.kind, request_id, keep_alive, to_head=traits.is_head, http10=traits.http10)

    def abort(self, reset: bool = False) -> None:
        """Cut the connection, by RST instead of FIN if `reset`."""
        self.exchange = None
        self.state = CLOSING
        if reset:
            reset_on_close(self.transport)
        self.transport.abort()

    def pause_upload(self, paused: bool) -> None:
        """Read no more of the request body (True), or read on (False)."""
        self.upload_paused = paused
        if self.state == BODY and not self.write_paused:
            self._watch_body()
        self._apply_pause()

    # -- called by the service

    def expire(self, now: float) -> None:
        """The deadline passed."""
        state = self.state
        taking = self.taking
        if taking is not None and state != LINGERING:
            limit = self.engine.settings.write_timeout
            if not taking.stalled(unacked(self.transport), now, limit):
                self.deadline = taking.next_check(now, limit)
            elif self.exchange is not None:
                self.exchange.give_client_up()
            else:
                self.abort()
        elif state == HEAD and self._head_begun:
            self._refuse(ProxyError("request_timeout", "head"))
        elif state == BODY and self.exchange is not None:
            self.exchange.client_failed(ProxyError("request_timeout", "body"))
        elif state == HEAD:
            self._close(unread=False)
        else:
            self.abort()

    def configure(self) -> None:
        """Take the settings that this connection keeps; the request that is here keeps what it was judged by."""
        engine = self.engine
        settings = engine.settings
        peer = self.address.encode() or b"unknown"
        self.reader = RequestReader(settings.limits, peer, engine.via, settings.strip_credentials)
        if self.exchange is not None:
            self.exchange.configure()
        elif self.state == HEAD and not self._head_begun:
            self.deadline = engine.horizon + settings.keep_alive_timeout

    def arriving(self) -> bool:
        """Whether a request may be under way: its head has begun, or it is a new connection's first."""
        return self.state == HEAD and (self.fresh or self._head_begun)

    def unfinished(self) -> bool:
        """Whether somebody still waits for bytes of an answer."""
        return self.exchange is not None or self.transport.get_write_buffer_size() > 0

    def close_now(self) -> None:
        """The engine's grace is over."""
        if not self.transport.is_closing():
            self._close(unread=False)

    def stop(self) -> None:
        """The engine stops: an idle connection closes now, a busy one after its answer."""
        if self.state == HEAD and not self._head_begun:
            self._close(unread=False)

    # -- inside

    @property
    def _head_begun(self) -> bool:
        """Whether more than empty lines came of a head that is awaited."""
        return bool(self.pending.lstrip(b"\r\n"))

    def _watch_taking(self) -> None:
        """The client takes its answer too slowly: see that it goes on taking."""
        engine = self.engine
        self.taking = WriteStall(unacked(self.transport), engine.horizon)
        self.deadline = self.taking.next_check(engine.horizon, engine.settings.write_timeout)

    def _watch_body(self) -> None:
        engine = self.engine
        self.deadline = NEVER if self.upload_paused else engine.horizon + engine.settings.body_timeout

    def _next_request(self) -> None:
        if self.state != HEAD:
            return
        if self.read_paused:
            self.read_paused = False
            self._apply_pause()
        data, self.pending = self.pending, b""
        if data:
            self._read_head(data)

    def _refuse(self, error: ProxyError, linger: bool = True) -> None:
        """A head that never parsed: answered, counted apart, and the connection closes."""
        self.engine.stats.record_refused()
        self._send_error(error.kind, next(self.engine.request_ids), keep_alive=False)
        self._close(unread=linger)

    def _send_error(
        self, kind: ErrorKind, request_id: bytes, keep_alive: bool, to_head: bool = False, http10: bool = False
    ) -> None:
        head, body = self.engine.rendered_error(kind)
        if to_head:
            body = b""
        connection = b""
        if not keep_alive:
            connection = b"Connection: close\r\n"
        elif http10:  # such a client waits for the close unless it is told
            connection = b"Connection: keep-alive\r\n"
        self.transport.write(b"".join((head, connection, b"X-Olla-Request-ID: ", request_id, HEAD_END, body)))

    def _close(self, unread: bool) -> None:
        engine = self.engine
        self.pending = b""
        if unread and not self.transport.is_closing():
            self.state = LINGERING
            self.left = LINGER_BYTES
            self.deadline = engine.horizon + LINGER
            self.upload_paused = self.read_paused = False
            self._apply_pause()
            with contextlib.suppress(OSError):  # the plain loop raises where the client already reset
                self.transport.write_eof()
        else:
            self.state = CLOSING
            self.deadline = engine.horizon + (engine.settings.write_timeout if self.taking is None else 0.0)
            # Not at once: this may be `resume_writing`, and where that closes the plain loop ends the connection twice.
            engine.loop.call_soon(self.transport.close)

    def _apply_pause(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        if self.upload_paused or self.read_paused:
            if transport.is_reading():
                transport.pause_reading()
        elif not transport.is_reading():
            transport.resume_reading()
