"""The side of the endpoints: aiohttp's client, with a gate before its parser and failures that a retry can judge.

Private names of aiohttp 3.14 that are used here, because no public one does it:

    _create_connection              the only way to connect by our own Dialer
    _conns                          the idle connections: to close some, and to count them
    _release                        is where a connection becomes idle
    _wait_for_available_connection  the queue for a connection, which has no time limit of its own
    _release_waiter                 lets the next of that queue go on
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple

import aiohttp
from aiohttp import hdrs
from aiohttp.client_exceptions import SocketTimeoutError
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from proxy.config import Config
from proxy.core.endpoint import EndpointSpec
from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs
from proxy.core.keep_alive import CLOSES_UNSAID, SOON, Freed, KeepAlive
from proxy.core.service import Dialer
from proxy.http1.gate import ResponseGate
from proxy.http1.heads import CHUNKED
from proxy.http1.recall import Response, ResponseReader
from proxy.net.listen import bound_window
from proxy.net.tls import tls_context
from proxy.sherpa.guard import NO_LIMIT, READ_BUFFER, WriteTimeout

CLIENT_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)

log = logging.getLogger("proxy.sherpa")


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


class Known(NamedTuple):
    """What is known of an endpoint, beyond one connection."""

    name: str
    reader: ResponseReader
    keep_alive: KeepAlive


class UpstreamConnection(WriteTimeout, ResponseHandler):
    """aiohttp's client protocol behind a gate; it knows when it is idle, and its failures say what a retry must know.

    They are no exceptions of aiohttp's, so its own retry never begins, which cannot be switched off (aiohttp#10790).
    """

    idle = True
    _used = 0  # exchanges, the present one included
    _answer: Response | None = None  # to the last exchange that is over
    _freed_at = 0.0  # when that was
    _heard = False
    _ended = False  # the endpoint sent FIN
    _content: aiohttp.StreamReader | None = None

    def __init__(self, connector: Connector, known: Known) -> None:
        super().__init__(asyncio.get_running_loop())
        self._connector = connector
        self._known = known

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The endpoint accepted."""
        bound_window(transport.get_extra_info("socket"))
        super().connection_made(transport)

    def set_response_params(self, **params: Any) -> None:
        """A new exchange begins."""
        self.idle = self._heard = False
        self._content = None
        self._used += 1
        self.write_timeout = self._connector.config.proxy.idle_wait
        max_head = self._connector.config.server.max_header_size
        self._gate = ResponseGate(self._known.reader, max_head, to_head=params["skip_payload"])
        super().set_response_params(**params)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is gone; `exc` when it was not closed but broken."""
        if exc is not None:  # aiohttp takes a reset for the proper end of a response that ends by closing
            self._closed_by_endpoint()
            self.set_exception(exc)
        super().connection_lost(exc)
        if self.idle:
            self._connector.forget(self)

    def eof_received(self) -> None:
        """The endpoint sent FIN: what it answered is all here, whether it takes the rest of the request or not."""
        self._ended = True
        self._closed_by_endpoint()
        super().eof_received()
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()  # a close would wait until the endpoint took the rest

    def data_received(self, data: bytes) -> None:
        """Bytes came; or none, which is how aiohttp wakes its parser."""
        if data and self.idle:  # aiohttp would take the connection for usable (aiohttp#13656)
            self.abort()
            return
        if data and self._gate.head is None:
            self._heard = True
            try:
                data = self._gate.feed(data)
            except ProxyError as error:
                self._fail(UpstreamFailed(error.kind.code, error.detail))
                return
            if not data:  # the time for the head goes on; aiohttp would renew it at every byte
                return
            self.read_timeout = self._connector.config.proxy.idle_wait
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """aiohttp has parsed a head; `data` holds the reader of its content, too."""
        self._content = data[1]
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """The exchange failed: all of aiohttp's reasons pass here."""
        if self._ended and isinstance(exc, OSError):
            return  # of our own writing; `connection_lost` follows, and looks at the answer
        if not isinstance(exc, ProxyError):
            if isinstance(exc, SocketTimeoutError):
                code = "upstream_timeout"
            else:
                code = "upstream_invalid" if isinstance(exc, HttpProcessingError) else "upstream_closed"
            cause = (exc,)
            # Only a close may have been meant for the exchange before; silence on it is the endpoint's.
            stale = self._used > 1 and code == "upstream_closed"
            exc = UpstreamFailed(code, repr(exc), heard=self._heard, stale=stale)
        super().set_exception(exc, *cause)
        if self._content is not None and not self._content.is_eof():
            self._content.set_exception(exc, *cause)  # after a framing error aiohttp lets its reader wait for ever

    def close(self) -> None:
        """Close at once: aiohttp would first wait until the rest of a given-up request is taken."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.abort()
        else:
            super().close()

    def freed(self, *, watchable: bool) -> Freed | None:
        """Its exchange is over; says what to do with the connection, None if nothing speaks against keeping it.

        `watchable`: it may stay open, lent to nobody."""
        keep_alive, before = self._known.keep_alive, self._answer
        self._answer = self._gate.head
        self._freed_at = now = monotonic()
        if not keep_alive.suspect or self._answer is None:
            return None
        if before is not None:
            keep_alive.kept(before.length == CHUNKED)  # it served another exchange since
        return keep_alive.freed(self._answer.length == CHUNKED, now, watchable=watchable)

    def end_watch(self) -> None:
        """Nobody used it for a while after its last answer: if it is open, the next ones may be kept again."""
        if self._answer is not None and self.is_connected():
            self._known.keep_alive.kept(self._answer.length == CHUNKED)

    def _closed_by_endpoint(self) -> None:
        answer = self._answer
        if answer is None or self.transport is None or (self._heard and not self.idle):
            return  # it never answered, or we closed it, or it ends an answer
        chunked = answer.length == CHUNKED
        if self._known.keep_alive.closed(chunked, self._freed_at, monotonic()):
            log.info(CLOSES_UNSAID, self._known.name, "chunked" if chunked else "other")

    def write_timed_out(self) -> None:
        """The endpoint does not take the request."""
        self._fail(UpstreamFailed("upstream_timeout", "it does not take the request", heard=self._heard))

    def _fail(self, failure: UpstreamFailed) -> None:
        self.set_exception(failure)
        if self.transport is not None:
            self.transport.abort()


class Connector(aiohttp.TCPConnector):
    """The one pool of connections to all endpoints, and `session`, which sends over them."""

    def __init__(self, config: Config, specs: Sequence[EndpointSpec], dialer: Dialer) -> None:
        self._dialer = dialer
        proxy = config.proxy
        per_host = proxy.connection_limit("sherpa")
        self._known: dict[tuple[str, int], Known] = {}
        super().__init__(limit=0, limit_per_host=per_host, keepalive_timeout=proxy.idle_conn_timeout or None)
        self.session = _new_session(self)
        self.configure(config, specs)

    def configure(self, config: Config, specs: Sequence[EndpointSpec]) -> None:
        """Take what `config` says, from the next exchange on. A `ca_file` may have been replaced."""
        self.config = config
        self._trusted = {tls_context(spec) for spec in specs}
        self._known = {(spec.host, spec.port): self._known_of(spec) for spec in specs}
        self._close_idle([key for key in self._conns if not self._keeps(key)])
        proxy = config.proxy
        # No total: a generation may run for an hour. The connection goes on from head_wait to idle_wait by itself.
        self.timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=proxy.connect_timeout or None, sock_read=proxy.head_wait or None
        )

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any) -> UpstreamConnection:
        # aiohttp keeps using addresses that it cannot connect to, and its TLS is the loop's: see proxy/net.
        host, port = req.url.raw_host or "", req.port or 0
        context = req.ssl if isinstance(req.ssl, ssl.SSLContext) else None
        known = self._known.get((host, port)) or Known(host, ResponseReader(), KeepAlive())  # a reload removed it
        try:
            async with asyncio.timeout(self.timeout.sock_connect):
                return await self._dialer.connect(host, port, context, lambda: UpstreamConnection(self, known))
        except TimeoutError:
            raise
        except OSError as exc:
            raise aiohttp.ClientConnectorError(req.connection_key, exc) from exc

    def forget(self, lost: UpstreamConnection) -> None:
        """A connection is gone; aiohttp would count an idle one until it was wanted, or its time was over."""
        for key, conns in self._conns.items():
            for entry in conns:
                if entry[0] is lost:
                    conns.remove(entry)
                    if not conns:
                        del self._conns[key]
                    return

    def forget_idle(self, spec: EndpointSpec) -> None:
        """Close the idle connections to an endpoint: one of them was found dead, and the retry wants a fresh one."""
        self._close_idle([key for key in self._conns if key.host == spec.host and key.port == spec.port])

    def idle(self, spec: EndpointSpec) -> int:
        """How many idle connections there are to an endpoint's host and port. Endpoints of other paths share them."""
        return sum(len(c) for key, c in self._conns.items() if key.host == spec.host and key.port == spec.port)

    def _known_of(self, spec: EndpointSpec) -> Known:
        before = self._known.get((spec.host, spec.port))
        return Known(spec.name, ResponseReader(spec.origins), before.keep_alive if before else KeepAlive())

    def _close_idle(self, keys: Iterable[ConnectionKey]) -> None:
        for key in keys:
            for protocol, _ in self._conns.pop(key):
                protocol.close()

    def _keeps(self, key: ConnectionKey) -> bool:
        """Whether connections may be used again: the config has their endpoint, and they are trusted as it says now."""
        return (key.host, key.port) in self._known and (key.ssl is True or key.ssl in self._trusted)

    async def _wait_for_available_connection(self, key: ConnectionKey, traces: list[Any]) -> None:
        try:
            async with asyncio.timeout(self.config.proxy.pool_wait_timeout or None):
                await super()._wait_for_available_connection(key, traces)
        except BaseException as exc:
            self._release_waiter()  # a place may be its already, and aiohttp would offer it to nobody else
            if isinstance(exc, TimeoutError):
                raise ProxyError("pool_timeout") from exc
            raise

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        # aiohttp has a limit for connections, none for idle ones.
        full = sum(map(len, self._conns.values())) >= (self.config.proxy.max_idle_conns or NO_LIMIT)
        if isinstance(protocol, UpstreamConnection):
            protocol.idle = True
            ends = should_close or protocol.should_close
            decision = protocol.freed(watchable=not ends and not self._waiters.get(key))
            if decision is Freed.WATCH:
                asyncio.get_running_loop().call_later(SOON, self._end_watch, key, protocol)
                return
            should_close = should_close or decision is Freed.CLOSE
        super()._release(key, protocol, should_close=should_close or full or not self._keeps(key))

    def _end_watch(self, key: ConnectionKey, protocol: UpstreamConnection) -> None:
        protocol.end_watch()
        super()._release(key, protocol, should_close=True)


def _new_session(connector: Connector) -> aiohttp.ClientSession:
    """The one session for all endpoints. What it would add, follow, keep or decode by itself is switched off."""
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),  # a real one would hand a client's cookies to the next client
        auto_decompress=False,
        skip_auto_headers=("Content-Type",),
        trust_env=False,
        read_bufsize=READ_BUFFER,
        max_line_size=NO_LIMIT,  # the gate has the limits
        max_field_size=NO_LIMIT,
        max_headers=NO_LIMIT,
    )


def sending(headers: Pairs, *, chunked: bool) -> aiohttp.ClientMiddlewareType:
    """A middleware that lets a request have these fields and this framing.

    Given the usual way, `X-A: 1` and `x-a: 2` would become the second alone, a DELETE would gain `Content-Length: 0`,
    and `chunked=False` would chunk (aiohttp#13739).
    """

    async def send(request: aiohttp.ClientRequest, forward: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.headers = CIMultiDict(headers)
        request.chunked = chunked or None
        if chunked:
            request.headers[hdrs.TRANSFER_ENCODING] = "chunked"
        return await forward(request)

    return send


def response_fields(response: aiohttp.ClientResponse) -> Pairs:
    """The fields of a response as they are sent on; those of framing are aiohttp's business. Raises UpstreamFailed."""
    try:
        fields = [(name.decode("ascii"), value.decode()) for name, value in response.raw_headers]
    except UnicodeDecodeError as exc:
        raise UpstreamFailed("upstream_invalid", "a field holds bytes that are not UTF-8") from exc
    return [field for field in fields if field[0] not in (hdrs.TRANSFER_ENCODING, hdrs.CONNECTION)]
