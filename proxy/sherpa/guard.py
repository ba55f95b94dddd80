"""Mends of aiohttp 3.14: what the engine promises and aiohttp does not keep, with upstream's issue where there is one.

service.py and relay.py read as if aiohttp behaved so. What is not mended is listed in tests/contract/BEHAVIOUR.md, and
tests/proxy/sherpa/test_upstream_mended.py notices when aiohttp no longer needs a mend.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from logging import Logger
from time import monotonic
from typing import Any, cast

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientMiddlewareType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    TraceConfig,
    hdrs,
    web,
)
from aiohttp.client_exceptions import ConnectionTimeoutError, SocketTimeoutError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, HttpResponseParser, HttpResponseParserPy
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo
from multidict import CIMultiDict

from proxy.config import Config
from proxy.core.endpoint import EndpointSpec
from proxy.core.errors import ERRORS, ErrorKind, ProxyError, error_body
from proxy.core.headers import Pairs, may_redirect, relative_location
from proxy.core.service import Dialer
from proxy.net.listen import accept_on, bound_window, set_user_timeout
from proxy.net.tls import tls_context
from proxy.net.write_stall import STEP, WriteStall, unacked
from proxy.sherpa.heads import check_response, refusal

READ_BUFFER = 64 * 2**10  # of one stream, each side; aiohttp's 256 KiB let a slow one hold a megabyte
WRITE_BUFFER = 64 * 2**10  # a paused writer goes on when STEP of it was taken
LINGER = 2.0  # how long the rest of a refused request is read, so that its client sees the answer and not a reset
MAX_FRAMING = (
    16  # bytes of a chunked body for each byte of content (chunks of one byte need six), beyond one head's limit
)
NO_LIMIT = 2**31 - 1
FOREVER = 365 * 24 * 3600.0

CLIENT_ERRORS = (ClientError, TimeoutError, OSError)


def require_c_parser() -> None:
    """Refuse aiohttp's Python parser: ten times slower, and laxer about framing. Raises RuntimeError."""
    if HttpRequestParser is HttpRequestParserPy or HttpResponseParser is HttpResponseParserPy:
        raise RuntimeError("aiohttp runs without its C extension (AIOHTTP_NO_EXTENSIONS, or no wheel for this machine)")


def _field_bytes(message: Any) -> int:
    return sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


class _StallWatch:
    """Bounds how long a peer may not take what is written to it; aiohttp waits for ever."""

    transport: asyncio.Transport | None
    _loop: asyncio.AbstractEventLoop
    _stall_limit: float
    _stall_timer: asyncio.TimerHandle | None = None
    _taking: WriteStall

    def pause_writing(self) -> None:
        """The peer does not take what was written."""
        super().pause_writing()  # type: ignore[misc]  # mixed into BaseProtocol, whose slots forbid a common base
        if self._stall_limit and self.transport is not None:
            now = self._loop.time()
            self._taking = WriteStall(unacked(self.transport), now)
            self._stall_timer = self._loop.call_at(self._taking.next_check(now, self._stall_limit), self._look)

    def resume_writing(self) -> None:
        """It took enough of it."""
        super().resume_writing()  # type: ignore[misc]  # as above
        self._end_stall()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone."""
        self._end_stall()
        super().connection_lost(exc)  # type: ignore[misc]  # as above

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _look(self) -> None:
        now = self._loop.time()
        if self.transport is None or self._taking.stalled(unacked(self.transport), now, self._stall_limit):
            self._stalled()
        else:
            self._stall_timer = self._loop.call_at(self._taking.next_check(now, self._stall_limit), self._look)

    def _stalled(self) -> None:
        raise NotImplementedError


# --- the side of the clients ------------------------------------------------------------------------------------------


class _Plain(web.StreamResponse):
    """A response without the Server (aiohttp#1958) and Content-Type (aiohttp#4612) that aiohttp makes up."""

    async def _prepare_headers(self) -> None:
        headers = self._headers
        missing = [name for name in (hdrs.SERVER, hdrs.CONTENT_TYPE) if name not in headers]
        await super()._prepare_headers()
        for name in missing:
            headers.pop(name, None)


class RelayedResponse(_Plain):
    """An upstream's response on its way to the client."""

    def __init__(self, request: web.BaseRequest, upstream: ClientResponse, headers: Pairs) -> None:
        reason = upstream.reason or ""
        plain = reason.isascii() and reason.isprintable()
        super().__init__(status=upstream.status, reason=reason if plain else None, headers=headers)
        # As web.Response has it: if body bytes are here already, the head goes out with them, in one write.
        self._send_headers_immediately = not (upstream.content.total_bytes or upstream.content.is_eof())
        self.ends_by_close = request.version.minor == 0 and hdrs.CONTENT_LENGTH not in self._headers
        # aiohttp announces that it closes then, and does not if an HTTP/1.0 client asked for keep-alive. And after an
        # `Upgrade` that it does not know it drops what followed in the same segment: that client must ask again.
        if self.ends_by_close or hdrs.UPGRADE in request.headers or chunked(request):
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


def chunked(request: web.BaseRequest) -> bool:
    """Whether a request came in chunks: its connection must not serve another one.

    aiohttp's parser keeps the last trailer and makes it a field of the next request, which may be somebody else's
    where a balancer in front shares connections.
    """
    return hdrs.TRANSFER_ENCODING in request.headers


async def flush(request: web.BaseRequest) -> None:
    """Wait until the kernel took the whole response; aiohttp calls it sent when it is in the transport's buffer."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)  # pauses the writer until nothing is left
        await request.writer.drain()
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)


def cut(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """End a response that has begun in a way that cannot look complete."""
    transport = request.transport
    if transport is None:
        return
    # Where the end of the connection is the end of the response, only a reset tells that it came too early. Anywhere
    # else a reset would merely take away what the client has not read yet.
    sock = transport.get_extra_info("socket")
    if sock is not None and isinstance(response, RelayedResponse) and response.ends_by_close:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def stalled(request: web.BaseRequest) -> bool:
    """Whether the client was cut off because it did not take its response."""
    return isinstance(request.protocol, ClientConnection) and request.protocol.stalled


def head_began(request: web.BaseRequest) -> float:
    """When the first byte of the request came, in monotonic seconds."""
    return request.protocol.head_began if isinstance(request.protocol, ClientConnection) else monotonic()


class _HeadRefused(Exception):
    """A head was refused before aiohttp had parsed it; `code` is a key of ERRORS."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _refused(code: str) -> _ErrInfo:
    return _ErrInfo(ERRORS[code].status, _HeadRefused(code), "")


class ClientConnection(_StallWatch, RequestHandler):
    """aiohttp's server protocol with limits for whole heads in time and size, and with bodies that fail loudly."""

    def __init__(self, server: Server, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        limits = config.server
        self._max_target = limits.max_target_size or NO_LIMIT
        max_field = limits.max_field_size or NO_LIMIT
        max_field += max_field == self._max_target  # the limit in aiohttp's error tells which of the two was broken
        max_headers = limits.max_headers or NO_LIMIT
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.keep_alive_timeout or FOREVER,  # aiohttp's default is an hour
            logger=server.log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            max_line_size=self._max_target,
            max_headers=max_headers,
            max_field_size=max_field,
            lingering_time=LINGER,
            read_bufsize=READ_BUFFER,
        )
        # One request at a time: aiohttp parses 32 ahead, and a broken one makes it forget those before it.
        self._max_msg_queue_size, self._msg_queue_resume_size = 1, 0
        self._parser = HttpRequestParser(
            self,
            loop,
            READ_BUFFER,
            max_line_size=self._max_target,
            max_headers=max_headers,
            max_field_size=max_field,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=1,
        )
        self.stalled = False
        self.head_began = 0.0
        self._server = server
        self._limits = limits
        self._max_head = limits.max_header_size or NO_LIMIT
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._body_bytes = 0
        self._stall_limit = limits.write_timeout

    def connection_made(self, base: asyncio.BaseTransport) -> None:
        """A client connected. One too many is turned away."""
        transport = cast(asyncio.Transport, base)  # uvloop's does not inherit from it
        if len(self._server.connections) >= (self._limits.max_connections or NO_LIMIT):
            transport.abort()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left, or was cut off."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came; or none, which is how aiohttp wakes its parser."""
        between = not self._messages and (self._waiter is not None or not self._request_count)
        if between and not self._head_bytes:
            self.head_began = monotonic()
        super().data_received(data)
        if self._messages:
            self._head_came(len(data))
        elif not data:
            return
        elif between:
            self._head_goes_on(len(data))
        elif not self._body.is_eof():
            # aiohttp has no limit for chunk extensions: without one, a body that never comes costs CPU for ever.
            self._body_bytes += len(data)
            if self._body_bytes > self._max_head + MAX_FRAMING * self._body.total_bytes:
                self._fail_body()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """aiohttp's own answers in our words: to heads that do not parse. The handler lets nothing escape."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the response has begun")
        if isinstance(exc, _HeadRefused):
            code = exc.code
        elif status == 400 and exc is not None:
            code = refusal(exc, self._max_target)
        else:
            code = "internal_error"
            self.logger.error("request failed inside the proxy", exc_info=exc)
        return self._server.refused(ERRORS[code])

    def close(self) -> None:
        """Take no more requests. aiohttp would leave an idle connection open until its `shutdown`."""
        if self._waiter is not None:
            self.force_close()
        else:
            super().close()

    def _head_goes_on(self, size: int) -> None:
        # aiohttp has no other limit for a head that dribbles than the keep-alive timeout, and none for its whole size.
        self._head_bytes += size
        if self._head_bytes > self._max_head:
            self._refuse_head("headers_too_large")
        elif self._head_timer is None and self._limits.header_timeout:
            self._head_timer = self._loop.call_later(self._limits.header_timeout, self._refuse_head, "request_timeout")

    def _head_came(self, size: int) -> None:
        message, payload = self._messages[-1]
        if not isinstance(message, _ErrInfo):
            if self._head_bytes + size > self._max_head and _field_bytes(message) > self._max_head:
                self._messages[-1] = (_refused("headers_too_large"), payload)
            elif message.version.major != 1 or message.version.minor > 1:
                # llhttp reads a request line without a version as 0.9; aiohttp answers 2.0 in kind.
                code = "version_not_supported" if message.version.major else "bad_request"
                self._messages[-1] = (_refused(code), payload)
            self._body, self._body_bytes = payload, 0
        elif not self._body.is_eof():  # it is in the body of the request in hand, whose handler aiohttp would let hang
            self._messages.pop()
            self._fail_body()
        self._end_head()

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self, code: str) -> None:
        self._end_head()
        self._messages.append((_refused(code), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail_body(self) -> None:
        self._body.set_exception(RequestPayloadError("the framing of the body is broken"))
        self._body.feed_eof()
        self.close()

    def _stalled(self) -> None:
        self.stalled = True
        if self.transport is not None:
            self.transport.abort()


class Server(web.Server):
    """aiohttp's low-level server."""

    async def listen(self, sock: socket.socket) -> asyncio.AbstractServer:
        """Accept connections on `sock`."""
        self._sock = sock
        return await accept_on(sock, self, self.config.server.write_timeout)

    def configure(self, config: Config) -> None:
        """New connections take `config`."""
        self.config = config
        set_user_timeout(self._sock, config.server.write_timeout)

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        config: Config,
        refused: Callable[[ErrorKind], ErrorResponse],
        log: Logger,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.config = config
        self.refused = refused
        self.log = log

    def __call__(self) -> ClientConnection:
        """A protocol for a new connection."""
        return ClientConnection(self, self.config, self._loop)

    async def drain(self, seconds: float) -> None:
        """Wait up to `seconds` until no request is in progress."""
        ends = monotonic() + seconds
        # Polled: an event would have every request pay for what happens once.
        while any(c._request_in_progress for c in self.connections) and monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def abort(self) -> None:
        """Cut every connection."""
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()


# --- the side of the endpoints ----------------------------------------------------------------------------------------


class UpstreamFailed(ProxyError):
    """An exchange with an endpoint failed. `sent`: it may have read the request. `heard`: it answered at least a byte.

    `stale`: its connection had served before, and the endpoint may have closed it before it read this request.
    """

    def __init__(
        self, code: str, detail: str = "", *, sent: bool = True, heard: bool = True, stale: bool = False
    ) -> None:
        super().__init__(code, detail)
        self.sent = sent
        self.heard = heard
        self.stale = stale


def upstream_failure(exc: BaseException) -> UpstreamFailed:
    """What aiohttp's client raises before it sent a request; later failures come from UpstreamConnection."""
    code = "upstream_timeout" if isinstance(exc, ConnectionTimeoutError) else "upstream_unreachable"
    return UpstreamFailed(code, repr(exc), sent=False, heard=False)


def response_fields(upstream: ClientResponse, spec: EndpointSpec) -> Pairs:
    """A response's fields; a redirect of the endpoint to itself does not show its address. Raises UpstreamFailed."""
    try:
        fields = check_response(upstream)
    except ProxyError as exc:
        raise UpstreamFailed(exc.kind.code, exc.detail) from exc
    if not may_redirect(upstream.status):
        return fields
    return [
        (name, relative_location(value, spec.origins) if name.lower() == "location" else value)
        for name, value in fields
    ]


class UpstreamConnection(_StallWatch, ResponseHandler):
    """aiohttp's client protocol; it knows when it is idle, and its failures say what a retry must know.

    They are no exceptions of aiohttp's, so its own retry never begins, which cannot be switched off (aiohttp#10790).
    """

    def __init__(self, connector: Connector, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.idle = False
        self._connector = connector
        self._exchanges = 0
        self._heard = False
        self._answered = False
        self._head_due: float | None = None  # by the loop's clock, from the end of the request on
        self._interim_bytes = 0
        self._head_bytes = 0
        self._max_head = connector.config.server.max_header_size or NO_LIMIT
        self._stall_limit = connector.config.proxy.idle_wait

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The endpoint accepted."""
        bound_window(transport.get_extra_info("socket"))
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """A new exchange begins."""
        self.idle = self._heard = self._answered = False
        self._exchanges += 1
        self._interim_bytes = self._head_bytes = 0
        self._head_due = None
        super().set_response_params(**params)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone; `exc` when it was not closed but broken."""
        if exc is not None:  # aiohttp takes a reset for the proper end of a response that ends by closing
            self.set_exception(exc)
        super().connection_lost(exc)

    def is_connected(self) -> bool:
        """Whether it can be used: not if it is idle and received something all the same (aiohttp#13656)."""
        return super().is_connected() and not (self.idle and self.should_close)

    def data_received(self, data: bytes) -> None:
        """Bytes came; or none, which is how aiohttp wakes its parser."""
        if data:
            if self.idle:
                self.abort()
                return
            self._heard = True
            if not self._answered:
                self._head_bytes += len(data)
        super().data_received(data)
        if not self._answered:
            if self._head_bytes > self._max_head:
                self._fail(UpstreamFailed("upstream_invalid", "its heads are too large"))
            elif self._head_due is not None and self._read_timeout_handle is None and self._exception is None:
                # aiohttp gave it up at an interim response: silence after it would last for ever.
                self._read_timeout_handle = self._loop.call_at(self._head_due, self._on_read_timeout)

    def start_timeout(self) -> None:
        """The request is sent: from now on the endpoint has `response_header_timeout`."""
        if self._read_timeout:
            self._head_due = self._loop.time() + self._read_timeout
        super().start_timeout()

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head is complete. From the final one on, silence is measured by the idle timeout."""
        message = data[0]
        if message.code < 200 and message.code != 101:
            self._interim_bytes += len("HTTP/1.1 100 ") + len(message.reason) + 4 + _field_bytes(message)
        elif self._head_bytes > self._max_head and self._interim_bytes + _field_bytes(message) > self._max_head:
            self._fail(UpstreamFailed("upstream_invalid", "its heads are too large"))
            return
        else:
            self._answered = True
            self.read_timeout = self._connector.config.proxy.idle_wait
            self._reschedule_timeout()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """The exchange in hand failed: all of aiohttp's reasons pass here."""
        if not isinstance(exc, ProxyError):
            if isinstance(exc, SocketTimeoutError):
                code = "upstream_timeout"
            else:
                code = "upstream_invalid" if isinstance(exc, HttpProcessingError) else "upstream_closed"
            cause = (exc,)
            # Only a close may have been meant for the exchange before; silence on it is the endpoint's.
            stale = self._exchanges > 1 and code == "upstream_closed"
            exc = UpstreamFailed(code, repr(exc), heard=self._heard, stale=stale)
        super().set_exception(exc, *cause)
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(exc, *cause)  # after a framing error aiohttp lets its reader wait for ever

    def close(self) -> None:
        """Close at once: aiohttp would first wait until the rest of a given-up request is taken."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.abort()
        else:
            super().close()

    def _reschedule_timeout(self) -> None:
        # aiohttp renews its read timeout at every byte: a head that dribbles would never be over.
        if self._answered or self._read_timeout_handle is None:
            super()._reschedule_timeout()

    def _stalled(self) -> None:
        self._fail(UpstreamFailed("upstream_timeout", "it does not take the request", heard=self._heard))

    def _fail(self, failure: UpstreamFailed) -> None:
        self.set_exception(failure)
        if self.transport is not None:
            self.transport.abort()


class Connector(TCPConnector):
    """The one pool of connections to all endpoints."""

    def __init__(self, config: Config, dialer: Dialer) -> None:
        self._dialer = dialer
        self._trusted: set[ssl.SSLContext | None] = set()
        proxy = config.proxy
        per_host = proxy.connection_limit("sherpa")
        super().__init__(limit=0, limit_per_host=per_host, keepalive_timeout=proxy.idle_conn_timeout or None)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take the time limits of `config`, from the next exchange on."""
        self.config = config
        proxy = config.proxy
        # No total: a generation may run for an hour. The connection goes on from head_wait to idle_wait by itself.
        self.timeout = ClientTimeout(
            total=None, sock_connect=proxy.connect_timeout or None, sock_read=proxy.head_wait or None
        )

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Any],
        timeout: ClientTimeout,  # noqa: ASYNC109  # aiohttp calls it so
    ) -> UpstreamConnection:
        # aiohttp keeps using addresses that it cannot connect to, and its TLS is the loop's: see proxy/net.
        make = functools.partial(UpstreamConnection, self, self._loop)
        host, context = req.url.raw_host or "", self._get_ssl_context(req)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                return await self._dialer.connect(host, req.port or 0, context, make)
        except TimeoutError:
            raise
        except OSError as exc:
            raise ClientConnectorError(req.connection_key, exc) from exc

    def trust(self, specs: Iterable[EndpointSpec]) -> None:
        """From now on keep connections only to `specs` as they are trusted now (`ca_file` may have been replaced)."""
        self._trusted = {tls_context(spec) for spec in specs}
        for key in [key for key in self._conns if not self._trusts(key)]:
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    def _trusts(self, key: ConnectionKey) -> bool:
        return not isinstance(key.ssl, ssl.SSLContext) or key.ssl in self._trusted

    def forget_idle(self, spec: EndpointSpec) -> None:
        """Close the idle connections to an endpoint: one of them was found dead, and the retry wants a fresh one."""
        for key in [key for key in self._conns if key.host == spec.host and key.port == spec.port]:
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    def idle(self, spec: EndpointSpec) -> int:
        """How many idle connections to an endpoint there are."""
        return sum(len(c) for key, c in self._conns.items() if key.host == spec.host and key.port == spec.port)

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Any]) -> None:
        try:
            async with asyncio.timeout(self.config.proxy.pool_wait_timeout or None):
                await super()._wait_for_available_connection(key, traces)
        except TimeoutError as exc:
            raise ProxyError("pool_timeout") from exc

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        # aiohttp has a limit for connections, none for idle ones.
        full = sum(map(len, self._conns.values())) >= (self.config.proxy.max_idle_conns or NO_LIMIT)
        if isinstance(protocol, UpstreamConnection):
            protocol.idle = True
        super()._release(key, protocol, should_close=should_close or full or not self._trusts(key))


def new_session(connector: Connector) -> ClientSession:
    """The one session for all endpoints. What it would add, follow, keep or decode by itself is switched off."""
    config = connector.config
    return ClientSession(
        connector=connector,
        cookie_jar=DummyCookieJar(),  # a real one would hand a client's cookies to the next client
        auto_decompress=False,
        skip_auto_headers=("Content-Type",),
        trust_env=False,
        read_bufsize=READ_BUFFER,
        # UpstreamConnection bounds heads as a whole, as Olla does.
        max_line_size=NO_LIMIT,
        max_field_size=NO_LIMIT,
        max_headers=NO_LIMIT,
        trace_configs=[_connect_times()] if config.proxy.server_timing else None,
    )


def sending(headers: Pairs, *, chunked: bool) -> ClientMiddlewareType:
    """A middleware that lets a request have these fields and this framing.

    Given the usual way, `X-A: 1` and `x-a: 2` would become the second alone, a DELETE would gain `Content-Length: 0`,
    and `chunked=False` would chunk (aiohttp#13739).
    """

    async def send(request: ClientRequest, forward: ClientHandlerType) -> ClientResponse:
        request.headers = CIMultiDict(headers)
        request.chunked = chunked or None
        if chunked:
            request.headers[hdrs.TRANSFER_ENCODING] = "chunked"
        return await forward(request)

    return send


def _connect_times() -> TraceConfig:
    """Notes in the dict given as `trace_request_ctx` when a connection was made; only for Server-Timing."""

    async def note(name: str, _session: Any, context: Any, _params: Any) -> None:
        context.trace_request_ctx[name] = monotonic()

    config = TraceConfig()
    config.on_connection_create_start.append(functools.partial(note, "connecting"))
    config.on_connection_create_end.append(functools.partial(note, "connected"))
    return config
