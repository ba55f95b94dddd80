"""Mends of aiohttp: what the engine promises and aiohttp 3.14 does not keep by itself. Each names its upstream issue.

Most are a few lines in a subclass of the part that is mended; service.py and relay.py read as if aiohttp behaved so. The
page tests/contract/BEHAVIOUR.md lists what is not mended, and tests/proxy/sherpa/test_guard.py notices when upstream does it.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
import struct
from collections.abc import Callable
from logging import Logger
from time import monotonic
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientTimeout, TCPConnector, TraceConfig, hdrs, web
from aiohttp.client_exceptions import ConnectionTimeoutError, SocketTimeoutError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, HttpProcessingError, LineTooLong
from aiohttp.http_parser import HttpRequestParser, HttpRequestParserPy, HttpResponseParser, HttpResponseParserPy
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from proxy.config import Config, ServerConfig
from proxy.core.endpoint import EndpointSpec
from proxy.core.errors import ERRORS, ErrorKind, ProxyError, error_body
from proxy.core.headers import Pairs

# Bytes a StreamReader keeps before it stops reading its socket. aiohttp's own 256 KiB would be 512 KiB a slow stream.
READ_BUFFER = 64 * 2**10
# A paused writer resumes when this much was taken: the step in which `write_timeout` and `body_timeout` measure progress.
STEP = 16 * 2**10
WRITE_BUFFER = 64 * 2**10
# How long the rest of a refused request is read and dropped, so that the client sees the answer and not a reset.
LINGER = 2.0
# More interim responses than this before the final one are a flood.
MAX_INTERIM = 16
# Framing bytes allowed for each byte of a chunked body (a chunk of one byte has five), beyond the limit of one head.
MAX_FRAMING_RATIO = 16
BACKLOG = 4096
FOREVER = 365 * 24 * 3600.0
NO_LIMIT = 2**31 - 1

_FORBIDDEN = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_REASON = re.compile(r"[\t -~]*")
_UNKNOWN_METHOD = re.compile(r"""\n\n  b['"][!#$%&'*+.^_`|~0-9A-Za-z-]+ """)
_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]+)(.*)")


def require_c_parser() -> None:
    """Refuse to run on aiohttp's Python parser: it is ten times slower and its framing is laxer. Raises RuntimeError."""
    if HttpRequestParser is HttpRequestParserPy or HttpResponseParser is HttpResponseParserPy:
        raise RuntimeError("aiohttp lacks its C extension (AIOHTTP_NO_EXTENSIONS, or no wheel for this machine)")


# --- requests ---------------------------------------------------------------------------------------------------------


def check_request(request: web.BaseRequest) -> tuple[Pairs, str]:
    """Refuse what llhttp lets pass and HTTP does not. Returns the fields and the target's path and query, as received.

    The names keep their case here (`request.headers` loses it). Raises ProxyError.
    """
    try:
        # aiohttp cuts bytes that are not UTF-8 out of a forwarded value without a word; strict decoding does not.
        fields = [(name.decode("ascii"), value.decode()) for name, value in request.raw_headers]
    except UnicodeDecodeError as exc:
        raise ProxyError("bad_request", "a field holds bytes that are not UTF-8") from exc
    headers, version, target = request.headers, request.version, request.raw_path
    if version.major != 1 or version.minor not in (0, 1):
        # llhttp reads a request line without a version as 0.9, and takes 2.0 for 1.1.
        raise ProxyError("bad_request" if version.major == 0 else "version_not_supported")
    if request.method == "CONNECT":
        raise ProxyError("not_implemented", "CONNECT")
    coding = headers.get("Transfer-Encoding")
    if coding is not None and (version.minor == 0 or coding.lower() != "chunked"):
        # RFC 9112 6.1; llhttp accepts any list that ends in chunked, and accepts it in HTTP/1.0.
        raise ProxyError("bad_request" if version.minor == 0 else "not_implemented", "Transfer-Encoding")
    host = headers.get("Host")
    if target[0] != "/":
        if absolute := _ABSOLUTE.fullmatch(target):
            # RFC 9112 3.2.2: the target's authority replaces Host; where to connect to is still only the config's business.
            host, target = absolute[1], absolute[2]
            target = target if target[:1] == "/" else "/" + target
            fields = [(name, host if name.lower() == "host" else value) for name, value in fields]
        elif target != "*":
            raise ProxyError("bad_request", "the target is neither a path nor a URL")
    if host is not None and not _HOST.fullmatch(host) and (host or version.minor == 1):
        raise ProxyError("bad_request", "Host is not valid")
    if not target.isascii() or "#" in target:
        raise ProxyError("bad_request", "the target holds bytes that no URL has")
    return fields, target


def _refusal(exc: BaseException, max_target: int) -> str:
    """The code of the error table for what aiohttp's parser found wrong with a head."""
    message = str(getattr(exc, "message", ""))
    match exc:
        case BadHttpMethod():
            return "not_implemented" if _UNKNOWN_METHOD.search(message) else "bad_request"
        case LineTooLong():
            return "target_too_long" if str(exc.args[1]) == str(max_target) else "headers_too_large"
        case BadStatusLine() if message.lstrip().startswith(
            ("Bad status line:\n  Invalid HTTP version", "Invalid HTTP version")
        ):
            return "version_not_supported"
    if message.startswith("Too many headers"):
        return "headers_too_large"
    if message.startswith("Request has invalid `Transfer-Encoding`"):
        return "not_implemented"
    return "bad_request"


def _size(message: Any) -> int:
    """Bytes of a parsed head's field lines."""
    return sum(len(name) + len(value) + 4 for name, value in message.raw_headers)


class _HeadRefused(Exception):
    """A head that was refused before it was complete; `code` is a key of ERRORS."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# --- responses --------------------------------------------------------------------------------------------------------


class _Plain(web.StreamResponse):
    """A response to which nothing is added: aiohttp invents Server (aiohttp#1958) and Content-Type (aiohttp#4612)."""

    async def _prepare_headers(self) -> None:
        headers = self._headers
        invented = [name for name in (hdrs.SERVER, hdrs.CONTENT_TYPE) if name not in headers]
        await super()._prepare_headers()
        for name in invented:
            headers.pop(name, None)


class RelayedResponse(_Plain):
    """An upstream's response on its way to the client."""

    def __init__(self, request: web.BaseRequest, upstream: ClientResponse, headers: Pairs) -> None:
        reason = upstream.reason or ""
        super().__init__(status=upstream.status, reason=reason if _REASON.fullmatch(reason) else None, headers=headers)
        # As web.Response has it: when body bytes are here already, the head goes out with them, in one write.
        content = upstream.content
        self._send_headers_immediately = not (content.is_eof() or content.total_bytes)
        self.ends_by_close = request.version.minor == 0 and hdrs.CONTENT_LENGTH not in self._headers
        # aiohttp says `Connection: close` for such a response, but keeps the connection open if its client had asked to.
        # After a declined upgrade its parser loses what followed in the same segment: that client must ask again.
        if self.ends_by_close or hdrs.UPGRADE in request.headers:
            self.force_close()


class ErrorResponse(_Plain, web.Response):
    """An answer the proxy makes itself."""

    def __init__(self, kind: ErrorKind, request_id: str, *, close: bool = False) -> None:
        headers = {"Content-Type": "application/json", "X-Olla-Request-ID": request_id}
        if kind.retry_after is not None:
            headers["Retry-After"] = str(kind.retry_after)
        super().__init__(body=error_body(kind), status=kind.status, headers=headers)
        if kind.close or close:
            self.force_close()


# --- a connection from a client ---------------------------------------------------------------------------------------


class _StallWatch:
    """Bounds how long a peer may not take what was written to it. aiohttp's drain() waits for ever."""

    __slots__ = ()
    _loop: asyncio.AbstractEventLoop
    _stall_limit: float
    _stall_timer: asyncio.TimerHandle | None

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]  # a mixin of BaseProtocol, whose slots forbid a common base
        if self._stall_limit:
            self._stall_timer = self._loop.call_later(self._stall_limit, self._stalled)

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._end_stall()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._end_stall()
        super().connection_lost(exc)  # type: ignore[misc]

    def _end_stall(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _stalled(self) -> None:
        raise NotImplementedError


class ClientConnection(_StallWatch, RequestHandler):
    """aiohttp's server protocol with a time limit for heads, a size limit for whole heads, and bodies that fail loudly."""

    def __init__(self, server: Server, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        limits = config.server
        sizes = {
            "max_line_size": limits.max_target_size or NO_LIMIT,
            "max_headers": limits.max_headers or NO_LIMIT,
            # One more than the target's limit when they are equal: the limit tells which of the two was broken.
            "max_field_size": (limits.max_field_size or NO_LIMIT - 1)
            + (limits.max_field_size == limits.max_target_size),
        }
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.keep_alive_timeout or FOREVER,
            logger=server.log,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own way to have none
            lingering_time=LINGER,
            read_bufsize=READ_BUFFER,
            auto_decompress=False,
            **sizes,
        )
        # One request at a time. aiohttp parses 32 ahead, and one broken request in a segment loses the good ones before it.
        self._max_msg_queue_size, self._msg_queue_resume_size = 1, 0
        self._parser = HttpRequestParser(
            self,
            loop,
            READ_BUFFER,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=1,
            **sizes,
        )
        self._limits = limits
        self._max_target = sizes["max_line_size"]
        self._server = server
        self._head_bytes = 0
        self._head_limit = limits.max_header_size or NO_LIMIT
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._body_bytes = 0
        self._stall_limit = limits.write_timeout
        self._stall_timer = None
        self.stalled = False
        self.head_began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected: refuse it when there are too many."""
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        limit = self._limits.max_connections
        if limit and len(self._server.connections) >= limit:
            transport.abort()  # type: ignore[attr-defined]
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)  # type: ignore[attr-defined]
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came (or none: aiohttp's own way to resume its parser)."""
        waiting = self._waiter is not None and not self._messages
        if not self._head_bytes and self._current_request is None:
            self.head_began = monotonic()
        super().data_received(data)
        if self._messages:
            self._head_complete(len(data))
        elif waiting and data:
            self._head_goes_on(len(data))
        elif data and not self._body.is_eof():
            # Chunk extensions and trailers without end are a body that never comes (aiohttp has no limit for them).
            self._body_bytes += len(data)
            if self._body_bytes > self._head_limit + MAX_FRAMING_RATIO * self._body.total_bytes:
                self._body_failed()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left or was cut off."""
        self._end_head()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp answers by itself, in our words: heads that do not parse. Handlers let nothing escape."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the response has begun already")
        if isinstance(exc, _HeadRefused):
            code = exc.code
        elif status == 400 and exc is not None:
            code = _refusal(exc, self._max_target)
        else:
            code = "internal_error"
            self.logger.error("request failed inside the proxy", exc_info=exc)
        return self._server.refused(ERRORS[code])

    def close(self) -> None:
        """Take no more requests. aiohttp would leave an idle connection open until `shutdown`."""
        if self._waiter is not None:
            self.force_close()
        else:
            super().close()

    def _head_goes_on(self, size: int) -> None:
        # aiohttp's only limit for a head that dribbles is the keep-alive timeout.
        self._head_bytes += size
        if self._head_timer is None and self._limits.header_timeout:
            self._head_timer = self._loop.call_later(self._limits.header_timeout, self._refuse_head, "request_timeout")
        if self._head_bytes > self._head_limit:
            self._refuse_head("headers_too_large")

    def _head_complete(self, size: int) -> None:
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            if (
                not self._body.is_eof()
            ):  # the error is in the body of the request in hand: aiohttp lets its handler hang
                self._messages.pop()
                self._body_failed()
        else:
            if self._head_bytes + size > self._head_limit and _size(message) > self._head_limit:
                self._messages[-1] = (_ErrInfo(431, _HeadRefused("headers_too_large"), ""), payload)
            self._body, self._body_bytes = payload, 0
        self._end_head()

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self, code: str) -> None:
        self._end_head()
        if self._waiter is not None and not self._waiter.done():
            self._messages.append((_ErrInfo(ERRORS[code].status, _HeadRefused(code), ""), EMPTY_PAYLOAD))
            self._waiter.set_result(None)

    def _body_failed(self) -> None:
        self._body.set_exception(RequestPayloadError("the body's framing is broken"))
        self._body.feed_eof()  # nothing more is parsed on this connection
        self.close()

    def _stalled(self) -> None:
        self.stalled = True
        if self.transport is not None:
            self.transport.abort()


class Server(web.Server):
    """aiohttp's low-level server, making ClientConnections. `config` may be replaced: new connections take the new one."""

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

    def abort(self) -> None:
        """Cut every connection."""
        for connection in self.connections:
            if connection.transport is not None:
                connection.transport.abort()

    def __call__(self) -> ClientConnection:
        return ClientConnection(self, self.config, self._loop)


def stalled(request: web.BaseRequest) -> bool:
    """Whether the client was cut off because it did not take its response."""
    return isinstance(request.protocol, ClientConnection) and request.protocol.stalled


def head_began(request: web.BaseRequest) -> float:
    """When the first byte of the request came, in monotonic seconds."""
    return request.protocol.head_began if isinstance(request.protocol, ClientConnection) else monotonic()


class BodyReader:
    """Reads a request's body within the size and time limits; answers `Expect: 100-continue` when it is read first."""

    def __init__(self, request: web.BaseRequest, limits: ServerConfig) -> None:
        self._request = request
        self._content = request.content
        self._limit = limits.max_body_size or FOREVER
        self._timeout = self._patience = limits.body_timeout or None
        self._size = 0
        self._step = 0
        self._expected = request.version.minor == 1 and request.headers.get("Expect", "").lower() == "100-continue"

    def declared_length(self) -> int | None:
        """The body's Content-Length. Raises ProxyError when that is too large already."""
        length = self._request.content_length
        if length is not None and length > self._limit:
            raise ProxyError("body_too_large")
        return length

    async def read(self) -> bytes:
        """The next bytes, none at the end. Raises ProxyError. Each further 16 KiB has `body_timeout`."""
        content = self._content
        if self._expected:
            self._expected = False
            if not content.total_bytes and not content.is_eof() and self._request.transport is not None:
                self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if content.is_eof():
                data = content.read_nowait()
            else:
                asked = monotonic()
                async with asyncio.timeout(
                    self._patience
                ):  # only while waiting: no timer runs while the upstream is slow
                    data = await content.readany()
                if self._patience is not None:
                    self._patience = max(self._patience - (monotonic() - asked), 0.0)
        except TimeoutError as exc:
            raise ProxyError("request_timeout", "the body") from exc
        except RequestPayloadError as exc:
            raise ProxyError("bad_request", str(exc)) from exc
        self._size += len(data)
        self._step += len(data)
        if self._step >= STEP:
            self._step, self._patience = 0, self._timeout
        if self._size > self._limit:
            raise ProxyError("body_too_large")
        return data


async def flush(request: web.BaseRequest) -> None:
    """Wait until the kernel took the whole response: only then it was delivered as far as the proxy can know."""
    transport = request.transport
    if transport is not None and transport.get_write_buffer_size():
        transport.set_write_buffer_limits(high=0)  # pauses the protocol until nothing is left
        await request.writer.drain()
        if not transport.is_closing():
            transport.set_write_buffer_limits(high=WRITE_BUFFER, low=WRITE_BUFFER - STEP)


def cut(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """End a response that has begun so that it cannot look complete."""
    transport = request.transport
    if transport is None:
        return
    # Where the end of the response is the end of the connection, only a reset tells that it came too early. Elsewhere a
    # reset would only take away what the client has not read yet.
    sock = transport.get_extra_info("socket")
    if sock is not None and getattr(response, "ends_by_close", False):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


CLIENT_ERRORS = (ClientError, TimeoutError, OSError)

# --- a connection to an endpoint --------------------------------------------------------------------------------------


class UpstreamFailed(ProxyError):
    """An exchange with an endpoint failed. `sent`: it may have read the request; `heard`: it answered at least a byte."""

    def __init__(self, code: str, detail: str = "", *, sent: bool, heard: bool = False, reused: bool = False) -> None:
        super().__init__(code, detail)
        self.sent = sent
        self.heard = heard
        self.reused = reused


def upstream_failure(exc: BaseException) -> UpstreamFailed:
    """The one translation of what aiohttp's client raises before a response's head was read."""
    if isinstance(exc, UpstreamFailed):
        return exc
    code = "upstream_timeout" if isinstance(exc, ConnectionTimeoutError) else "upstream_unreachable"
    return UpstreamFailed(code, repr(exc), sent=False)


class UpstreamConnection(_StallWatch, ResponseHandler):
    """aiohttp's client protocol: knows whether it is idle, whether the endpoint spoke, and says so when it fails.

    Its exceptions are not aiohttp's, so aiohttp's own retry, which may send a request to an endpoint that already took it
    and cannot be switched off, never starts.
    """

    def __init__(self, connector: Connector, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._connector = connector
        self.idle = False
        self._exchanges = 0
        self._heard = False
        self._answered = False
        self._interim = 0
        self._head_bytes = 0
        self._head_limit = connector.config.server.max_header_size or NO_LIMIT
        self._stall_limit = connector.config.proxy.idle_wait
        self._stall_timer = None

    def set_response_params(self, **params: Any) -> None:
        """A new exchange begins."""
        self._exchanges += 1
        self.idle = self._heard = self._answered = False
        self._interim = self._head_bytes = 0
        super().set_response_params(**params)

    def is_connected(self) -> bool:
        """Whether the connection can be used; an idle one that received anything cannot (aiohttp#13656)."""
        return super().is_connected() and not (self.idle and self.should_close)

    def data_received(self, data: bytes) -> None:
        """Bytes came (or none: aiohttp's own way to resume its parser)."""
        if data:
            if self.idle:
                if self.transport is not None:
                    self.transport.abort()
                return
            self._heard = True
            if not self._answered:
                self._head_bytes += len(data)
        super().data_received(data)
        if not self._answered and self._head_bytes > self._head_limit:
            self._refuse("the head is too large")

    def feed_data(self, data: Any, size: int = 0) -> None:
        """A head was parsed: from here silence is measured by the idle timeout, and interim heads are counted."""
        message = data[0]
        if 100 <= message.code < 200 and message.code != 101:
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._refuse("a flood of interim responses")
                return
        else:
            if self._head_bytes > self._head_limit and _size(message) > self._head_limit:
                self._refuse("the head is too large")
                return
            self._answered = True
            self.read_timeout = self._connector.config.proxy.idle_wait
            self._reschedule_timeout()
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Every failure of the exchange in hand passes here: say what a retry must know."""
        if not isinstance(exc, ProxyError):
            if isinstance(exc, SocketTimeoutError):
                code = "upstream_timeout"
            elif isinstance(exc, HttpProcessingError):
                code = "upstream_invalid"
            else:
                code = "upstream_closed"
            cause = (exc,)
            exc = UpstreamFailed(code, repr(exc), sent=True, heard=self._heard, reused=self._exchanges > 1)
        super().set_exception(exc, *cause)

    def close(self) -> None:
        """Close at once: what was not taken of a request is of no use any more."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.abort()
        else:
            super().close()

    def _reschedule_timeout(self) -> None:
        # aiohttp renews its read timeout with every byte: a head that dribbles would never end.
        if self._answered or self._read_timeout_handle is None:
            super()._reschedule_timeout()

    def _refuse(self, detail: str) -> None:
        self.set_exception(UpstreamFailed("upstream_invalid", detail, sent=True, heard=True))
        if self.transport is not None:
            self.transport.abort()

    def _stalled(self) -> None:
        self.set_exception(
            UpstreamFailed("upstream_timeout", "it does not take the request", sent=True, heard=self._heard)
        )
        if self.transport is not None:
            self.transport.abort()


def check_response(upstream: ClientResponse) -> Pairs:
    """The fields of a response as received. aiohttp's parser is lenient here. Raises UpstreamFailed."""
    if upstream.status < 200:
        raise UpstreamFailed("upstream_invalid", f"unasked {upstream.status}", sent=True, heard=True)
    raw = upstream.raw_headers
    try:
        if _FORBIDDEN.search(b"".join([value for _, value in raw])):
            raise UpstreamFailed("upstream_invalid", "control bytes in a field", sent=True, heard=True)
        return [(name.decode("ascii"), value.decode()) for name, value in raw]
    except UnicodeDecodeError as exc:
        raise UpstreamFailed("upstream_invalid", "a field is not UTF-8", sent=True, heard=True) from exc


def parser_limits(config: Config) -> dict[str, int]:
    """The limits of a response's head, as ClientSession takes them: the same as for requests."""
    limits = config.server
    return {
        "read_bufsize": READ_BUFFER,
        "max_line_size": limits.max_target_size or NO_LIMIT,
        "max_field_size": limits.max_field_size or NO_LIMIT,
        "max_headers": limits.max_headers or NO_LIMIT,
    }


@functools.lru_cache(maxsize=256)
def _ca(path: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=path)


def trust(spec: EndpointSpec) -> ssl.SSLContext | bool:
    """How aiohttp is to check this endpoint's certificate."""
    if spec.tls_ca_file is not None and spec.tls_verify:
        return _ca(spec.tls_ca_file)
    return spec.tls_verify


def connect_times() -> TraceConfig:
    """Notes when a connection is made in the dict given as `trace_request_ctx`; for Server-Timing only."""

    async def note(name: str, _session: Any, context: Any, _params: Any) -> None:
        context.trace_request_ctx[name] = monotonic()

    config = TraceConfig()
    config.on_connection_create_start.append(functools.partial(note, "connecting"))
    config.on_connection_create_end.append(functools.partial(note, "connected"))
    return config


class Connector(TCPConnector):
    """The one pool of connections to all endpoints. `config` may be replaced at any time."""

    def __init__(self, config: Config) -> None:
        proxy = config.proxy
        # Sherpa's limit for one endpoint is none, unless the file asks for one.
        per_host = proxy.max_conns_per_host if "max_conns_per_host" in proxy.model_fields_set else 0
        super().__init__(limit=0, limit_per_host=per_host, keepalive_timeout=proxy.idle_conn_timeout or None)
        self._factory = functools.partial(UpstreamConnection, self, self._loop)
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Take the time limits of `config`; for connections that exist as well, from their next exchange."""
        self.config = config
        proxy = config.proxy
        connect = proxy.connect_timeout
        whole = connect and connect + (
            proxy.pool_wait_timeout if self.limit_per_host else 0
        )  # names are resolved in it
        # No total limit: a generation may run for an hour. UpstreamConnection goes on from head_wait to idle_wait.
        self.timeout = ClientTimeout(
            total=None, connect=whole or None, sock_connect=connect or None, sock_read=proxy.head_wait or None
        )

    def forget_idle(self, spec: EndpointSpec) -> None:
        """Close the idle connections to an endpoint: one of them was found dead, so a retry gets a fresh one."""
        for key in [key for key in self._conns if key.host == spec.host and key.port == spec.port]:
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    def idle(self) -> dict[tuple[str, int | None], int]:
        """How many idle connections there are to each (host, port)."""
        return {(key.host, key.port): len(conns) for key, conns in self._conns.items()}

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Any]) -> None:
        try:
            async with asyncio.timeout(self.config.proxy.pool_wait_timeout or None):
                await super()._wait_for_available_connection(key, traces)
        except TimeoutError as exc:
            raise ProxyError("pool_timeout") from exc

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        limit = self.config.proxy.max_idle_conns
        full = bool(limit) and sum(map(len, self._conns.values())) >= limit  # aiohttp cannot cap idle connections
        if isinstance(protocol, UpstreamConnection):
            protocol.idle = True
        super()._release(key, protocol, should_close=should_close or full)
