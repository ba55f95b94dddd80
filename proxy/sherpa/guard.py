"""The side of the clients: aiohttp's server behind a gate, and the few places where it must act otherwise.

service.py and relay.py read as if aiohttp behaved so. A gate (proxy/http1/gate.py) gives aiohttp's parser one plain,
judged request at a time; endpoints.py has the same for responses. What still differs is in tests/contract/BEHAVIOUR.md;
tests/proxy/sherpa/test_upstream_mended.py notices when aiohttp needs a fix no more.

Private names of aiohttp 3.14 that are used here, because no public one does it:

    _prepare_headers            is where Server and Content-Type are made up (aiohttp#1958, aiohttp#4612)
    _send_headers_immediately   lets a head wait for the first bytes of its body, as web.Response does
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import aiohttp
from aiohttp import hdrs, http_parser, web
from aiohttp.web_protocol import RequestHandler

from proxy.config import Config
from proxy.core.errors import ErrorKind, ProxyError, error_body, render_error
from proxy.core.headers import Pairs, client_address
from proxy.http1.gate import RequestGate
from proxy.http1.heads import HEAD_END, Limits
from proxy.http1.recall import Request, RequestReader
from proxy.net.listen import accept_on, reset_on_close, set_user_timeout
from proxy.net.write_stall import STEP

READ_BUFFER = 64 * 2**10  # of one stream, each side; aiohttp's 256 KiB let a slow one hold a megabyte
WRITE_BUFFER = 64 * 2**10  # a writer to a client pauses there, and goes on when STEP of it was taken
MAX_HELD = 64 * 2**10  # pipelined bytes kept during an exchange; then the client is read no further
LINGER = 2.0  # how long the rest of a refused request is read, so that its client sees the answer and not a reset
NO_LIMIT = 2**31 - 1
FOREVER = 365 * 24 * 3600.0


def require_c_parser() -> None:
    """Refuse aiohttp's Python parser: ten times slower, and laxer about framing. Raises RuntimeError."""
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise RuntimeError("aiohttp runs without its C extension (AIOHTTP_NO_EXTENSIONS, or no wheel for this machine)")


class WriteTimeout:
    """Bounds how long a paused writer waits for its peer; aiohttp waits for ever."""

    transport: asyncio.Transport | None
    write_timeout: float
    _write_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The peer does not take what was written."""
        super().pause_writing()  # type: ignore[misc]  # mixed into BaseProtocol, whose slots forbid a common base
        if self.write_timeout:
            loop = asyncio.get_running_loop()
            self._write_timer = loop.call_later(self.write_timeout, self.write_timed_out)

    def resume_writing(self) -> None:
        """It took enough of it."""
        self._end_write_timer()
        super().resume_writing()  # type: ignore[misc]  # as above

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._end_write_timer()
        super().connection_lost(exc)  # type: ignore[misc]  # as above

    def write_timed_out(self) -> None:
        """The peer had its time."""
        raise NotImplementedError

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


class _Plain(web.StreamResponse):
    """A response without the Server and Content-Type that aiohttp makes up."""

    async def _prepare_headers(self) -> None:
        missing = [name for name in (hdrs.SERVER, hdrs.CONTENT_TYPE) if name not in self.headers]
        await super()._prepare_headers()
        for name in missing:
            self.headers.pop(name, None)


class RelayedResponse(_Plain):
    """An upstream's response on its way to the client."""

    def __init__(self, request: web.BaseRequest, upstream: aiohttp.ClientResponse, headers: Pairs) -> None:
        reason = upstream.reason if upstream.reason and upstream.reason.isascii() else None
        super().__init__(status=upstream.status, reason=reason, headers=headers)
        # As web.Response has it: if body bytes are here already, the head goes out with them, in one write.
        self._send_headers_immediately = not (upstream.content.total_bytes or upstream.content.is_eof())
        # aiohttp announces that it closes then, and does not if an HTTP/1.0 client asked for keep-alive.
        self.ends_by_close = request.version.minor == 0 and hdrs.CONTENT_LENGTH not in self.headers
        if self.ends_by_close or connection_of(request).last or not request.content.is_eof():
            self.force_close()


class ErrorResponse(_Plain, web.Response):
    """An answer that the proxy makes itself."""

    def __init__(self, kind: ErrorKind, request_id: str, *, close: bool = False) -> None:
        headers = {"Content-Type": "application/json", "X-Olla-Request-ID": request_id}
        if kind.retry_after is not None:
            headers["Retry-After"] = str(kind.retry_after)
        super().__init__(body=error_body(kind), status=kind.status, headers=headers)
        if kind.close or close:
            self.force_close()


def connection_of(request: web.BaseRequest) -> ClientConnection:
    """The connection that a request came on."""
    return cast(ClientConnection, request.protocol)


async def flush(request: web.BaseRequest) -> None:
    """Wait until the kernel took the whole response; aiohttp calls it sent when it is in the transport's buffer."""
    transport = request.transport
    if transport is None or not transport.get_write_buffer_size():
        return
    while size := transport.get_write_buffer_size():
        rest = max(size - STEP, 0)
        transport.set_write_buffer_limits(high=rest, low=rest)  # pauses the writer until STEP of it was taken
        await request.writer.drain()
    transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)


def cut(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """End a response that has begun in a way that cannot look complete."""
    transport = request.transport
    if transport is None:
        return
    if isinstance(response, RelayedResponse) and response.ends_by_close:
        reset_on_close(transport)  # anywhere else it would merely take away what the client has not read yet
    transport.abort()


class ClientConnection(WriteTimeout, RequestHandler):
    """aiohttp's server protocol behind a gate: it is given one plain, judged request at a time."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=server.config.server.keep_alive_timeout or FOREVER,  # aiohttp's default is an hour
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            max_line_size=NO_LIMIT,  # the gate has the limits
            lingering_time=LINGER,
            read_bufsize=READ_BUFFER,
        )
        self.was_cut = False  # by the proxy; else a connection that is lost is one that the client left
        self.fresh = True  # no request was answered yet
        self.busy = False  # a request is in progress
        self.last = False  # no other one will be served
        self._server = server
        self._gate = RequestGate()
        self._content: aiohttp.StreamReader | None = None  # of the request in progress
        self._timer: asyncio.TimerHandle | None = None  # for the rest of a head, or of what was refused

    @property
    def head(self) -> Request:
        """What to send on of the request in progress."""
        assert self._gate.head is not None
        return self._gate.head

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        """A client connected. One too many is turned away, and one that was accepted as the service stops."""
        transport = cast(asyncio.Transport, base)  # uvloop's does not inherit from it
        peer = transport.get_extra_info("peername")
        self._address = client_address(peer[0] if peer else None).encode() or b"unknown"
        self.configure()
        self._server.open += 1
        if self._server.stopping or self._server.open > (self._server.config.server.max_connections or NO_LIMIT):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)
        super().connection_made(transport)

    def configure(self) -> None:
        """Take the server's config, from the next head on. (Its keep-alive time aiohttp has read once.)"""
        config = self._server.config
        server = config.server
        self.write_timeout = server.write_timeout
        self._header_timeout = server.header_timeout or FOREVER
        limits = Limits(server.max_header_size, server.max_headers, server.max_target_size, server.max_field_size)
        strip = config.proxy.strip_credentials
        self._gate.reader = RequestReader(limits, self._address, self._server.via, strip)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left, or was cut off."""
        self._server.open -= 1
        self._end_timer()
        self._gate.close()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; or none, which is how aiohttp wakes its parser."""
        if data:
            self._pass_on(self._gate.feed(data))
        else:
            super().data_received(data)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have a request served, then let the next one pass."""
        self._content = request.content
        self._break_body()
        keep_alive = False
        try:
            response = await self._server.handler(request)
            if self.last:
                response.force_close()
            keep_alive = bool(response.keep_alive)
            return response
        finally:
            self.fresh = self.busy = False
            self.last = not keep_alive
            if keep_alive and self.transport is not None:
                if not self.transport.is_reading():
                    self.transport.resume_reading()
                self._pass_on(self._gate.proceed())

    def close(self) -> None:
        """Close when the request in progress is answered, or now if there is none."""
        self.last = True
        if not self.busy:
            self.force_close()

    def arriving(self) -> bool:
        """Whether a request may be under way: its head has begun, or it is a new connection's first."""
        return not self.busy and not self.last and (self.fresh or self._gate.head_begun)

    def write_timed_out(self) -> None:
        """It did not take its response in time."""
        self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.was_cut = True
        if self.transport is not None:
            self.transport.abort()

    def _pass_on(self, data: bytes) -> None:
        gate, transport = self._gate, self.transport
        if data:
            self.busy = self.busy or not self.last
            super().data_received(data)
        if gate.error is not None and gate.head is None:
            self._refuse(gate.error)
        elif gate.error is not None:
            self._break_body()
        elif not gate.head_begun:
            self._end_timer()
        elif self._timer is None:
            self.keep_alive(True)  # ends aiohttp's timer for idle connections
            late = ProxyError("request_timeout", "the head")
            self._timer = asyncio.get_running_loop().call_later(self._header_timeout, self._refuse, late)
        if gate.held > MAX_HELD and transport is not None and transport.is_reading():
            transport.pause_reading()

    def _refuse(self, error: ProxyError) -> None:
        """Answer a head that aiohttp never saw, and read on for a moment: a reset could take the answer away."""
        if self.last or self.transport is None:
            return
        self.last = True
        self._gate.error = error
        self._end_timer()
        head, body = render_error(error.kind)
        own = f"Connection: close\r\nX-Olla-Request-ID: {self._server.refused()}".encode()
        self.transport.write(head + own + HEAD_END + body)
        with contextlib.suppress(OSError):  # the plain loop raises where the client already reset
            self.transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER, self.transport.abort)

    def _break_body(self) -> None:
        """Tell the handler, once it has begun, that the body cannot be read on."""
        if self._gate.error is not None and self._content is not None:
            self.last = True
            self._content.set_exception(self._gate.error)
            self._content.feed_eof()

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(web.Server):
    """aiohttp's low-level server. `refused` counts a refused request, and makes an id for its answer."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        config: Config,
        via: bytes,
        refused: Callable[[], str],
    ) -> None:
        super().__init__(lambda request: connection_of(request).serve(request), handler_cancellation=True)
        self.handler = handler
        self.config = config
        self.via = via
        self.refused = refused
        self.open = 0  # connections
        self.stopping = False

    async def listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        """Accept connections on `sock`."""
        self._sock = sock
        return await accept_on(sock, self, self.config.server.write_timeout)

    def configure(self, config: Config) -> None:
        """Connections take `config`, those that are open too."""
        self.config = config
        set_user_timeout(self._sock, config.server.write_timeout)
        for connection in self.connections:
            cast(ClientConnection, connection).configure()

    def __call__(self) -> ClientConnection:
        """A protocol for a new connection."""
        return ClientConnection(self)

    def arriving(self) -> bool:
        """Whether a request may be under way on any connection."""
        return any(cast(ClientConnection, connection).arriving() for connection in self.connections)

    def abort(self) -> None:
        """Cut every connection."""
        for connection in self.connections:
            cast(ClientConnection, connection).abort()
