"""One request's way through the proxy: choose an endpoint, get a connection, send, stream the answer back, account
for it.

The hot path is `start`, `connected`, `received` and `_succeed`: two reads and two writes a request, no task, no
future, no timer. All waiting is one `deadline` that the service's tick compares. Everything else here is a cold path:
retries, cuts, timeouts, odd framing.

Ends: exactly one of `_succeed`, `_fail` (the proxy answers), `_cut` (a started answer is aborted, so that nobody
mistakes it for a whole one) and `client_gone` closes an exchange; each goes through `_close`, which gives the context
back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from httptools import HttpParserError

from proxy.control.access import AccessLog
from proxy.core.balancing import LoadBalancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ErrorKind, ProxyError
from proxy.core.stats import StatsCollector
from proxy.olla.breaker import CLOSED, HALF_OPEN, CircuitBreaker
from proxy.olla.buffers import ObjectPool
from proxy.olla.flush import Gatherer
from proxy.olla.pool import EndpointPool
from proxy.olla.upstream import UpstreamConnection
from proxy.olla.wire import (
    CHUNKED,
    HEAD_END,
    UNTIL_CLOSE,
    BodyReader,
    ChunkReader,
    Limits,
    Request,
    Response,
    chunked_end,
)

NEVER = float("inf")
MAX_INTERIM = 16  # interim (1xx) answers before a final one must come


class Route:
    """An endpoint with all that this engine holds for it."""

    __slots__ = ("breaker", "endpoint", "host", "pool", "prefix", "served_by")

    def __init__(self, endpoint: Endpoint, pool: EndpointPool, breaker: CircuitBreaker | None) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.breaker = breaker
        self.prefix = endpoint.spec.prefix.encode()
        self.host = b" HTTP/1.1\r\nHost: " + endpoint.authority.encode()
        name = endpoint.name.encode()
        self.served_by = b"\r\nX-Olla-Endpoint: " + name + b"\r\nX-Served-By: " + name + b"\r\n"


class Settings:
    """The config's values as the data path reads them. Without limit, times are NEVER and sizes and counts 0."""

    __slots__ = (
        "adaptive_flush",
        "body_timeout",
        "connect_timeout",
        "count_5xx",
        "flush_limit",
        "flush_small",
        "head_wait",
        "header_timeout",
        "idle_wait",
        "keep_alive_timeout",
        "limits",
        "max_body",
        "max_connections",
        "max_duration",
        "max_in_flight",
        "max_replay",
        "pool_wait",
        "retry_all",
        "server_timing",
        "strip_credentials",
        "write_timeout",
    )

    adaptive_flush: bool
    body_timeout: float
    connect_timeout: float
    count_5xx: bool
    flush_limit: int
    flush_small: int
    head_wait: float
    header_timeout: float
    idle_wait: float
    keep_alive_timeout: float
    limits: Limits
    max_body: int
    max_connections: int
    max_duration: float
    max_in_flight: int
    max_replay: int
    pool_wait: float
    retry_all: bool
    server_timing: bool
    strip_credentials: bool
    write_timeout: float


class Engine:
    """What all exchanges of one worker share. Owned and changed by OllaProxy; exchanges read it.

    `horizon` is the time (loop clock) at which the tick after next may run: a deadline is `horizon + timeout`, so
    that a timeout never fires early, and up to two ticks late.
    """

    __slots__ = (
        "access_log",
        "balancer",
        "contexts",
        "discovery",
        "horizon",
        "loop",
        "now",
        "probes",
        "rendered_error",
        "request_ids",
        "routes",
        "settings",
        "stats",
        "stopping",
        "unsettled",
        "via",
    )

    access_log: AccessLog | None
    balancer: LoadBalancer
    contexts: ObjectPool[Exchange]
    discovery: DiscoveryService
    horizon: float
    loop: asyncio.AbstractEventLoop
    now: float  # loop clock at the last tick
    probes: list[tuple[Exchange, float, float]]  # half-open probes: exchange, its start, when it must have shown life
    rendered_error: Callable[[ErrorKind], tuple[bytes, bytes]]  # `pools.errors`: rendered once and kept
    request_ids: RequestIds
    routes: dict[Endpoint, Route]
    settings: Settings
    stats: StatsCollector
    stopping: bool
    unsettled: int  # breakers that are not closed
    via: bytes

    def pick(self, tried: list[Endpoint]) -> Route | None:
        """Choose among the routable endpoints whose breaker admits and that were not tried; None if there is none."""
        candidates = self.discovery.routable
        if self.unsettled or tried:
            now = self.loop.time()
            candidates = tuple(e for e in candidates if e not in tried and self.admits(e, now))
        if not candidates:
            return None
        return self.routes[self.balancer.pick(candidates)]

    def admits(self, endpoint: Endpoint, now: float) -> bool:
        """Whether the endpoint's breaker lets a request through."""
        breaker = self.routes[endpoint].breaker
        return breaker is None or breaker.allows(now)

    def settle(self) -> None:
        """Count the breakers that are not closed, after one of them changed."""
        self.unsettled = sum(1 for r in self.routes.values() if r.breaker is not None and r.breaker.state != CLOSED)


class RequestIds:
    """Makes request ids: a random prefix for the process and a count."""

    __slots__ = ("_count", "_prefix")

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._count = 0

    def make(self) -> bytes:
        """The next id."""
        self._count += 1
        return b"%b-%x" % (self._prefix, self._count)


class Client(Protocol):
    """The client connection as an exchange sees it."""

    transport: asyncio.Transport
    write_paused: bool
    address: str

    def answer(self, error: ProxyError, request_id: bytes, keep_alive: bool) -> None:
        """Send an error of our own; the exchange is over."""

    def exchange_done(self, keep_alive: bool) -> None:
        """The exchange is over; the next request may come unless the connection must close."""

    def pause_upload(self, paused: bool) -> None:
        """Read no more of the request body (True), or read on (False)."""

    def abort(self) -> None:
        """Cut the connection, so that the client sees that the answer is not whole."""


class Exchange:
    """The context of one request, reused from request to request (`pools.contexts`)."""

    __slots__ = (
        "body",
        "body_complete",
        "body_size",
        "chunks",
        "client",
        "connection",
        "deadline",
        "decoder",
        "ends_at",
        "engine",
        "epoch",
        "error",
        "flush_pending",
        "gatherer",
        "heard",
        "interims",
        "marks",
        "partial",
        "remaining",
        "replayable",
        "request",
        "request_id",
        "response",
        "route",
        "started",
        "tried",
    )

    client: Client
    request: Request
    request_id: bytes
    started: float  # perf_counter

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tried: list[Endpoint] = []
        self.body: list[bytes] = []  # as sent upstream, kept while it can be sent again
        settings = engine.settings
        self.gatherer = Gatherer(settings.flush_small, settings.flush_limit) if settings.adaptive_flush else None
        self._reset()

    def _reset(self) -> None:
        self.body_size = 0
        self.body_complete = False
        self.replayable = True
        self.route: Route | None = None
        self.connection: UpstreamConnection | None = None
        self.response: Response | None = None
        self.error: ProxyError | None = None
        self.partial = b""  # a response head that has not arrived whole
        self.interims = 0
        self.remaining = 0  # bytes of body to come, CHUNKED or UNTIL_CLOSE
        self.chunks: ChunkReader | None = None
        self.decoder: BodyReader | None = None
        self.epoch = -1
        self.heard = False
        self.deadline = NEVER
        self.ends_at = NEVER
        self.flush_pending = False
        self.marks: dict[bytes, float] | None = None

    # -- from the client's connection

    def open(self, client: Client, request: Request) -> None:
        """A head parsed: from here on the request is counted."""
        self.client = client
        self.request = request
        self.started = perf_counter()
        engine = self.engine
        stats = engine.stats
        stats.total += 1
        stats.active += 1
        self.request_id = request.request_id or engine.request_ids.make()
        settings = engine.settings
        if settings.server_timing:
            self.marks = {}
        if settings.max_duration:
            self.ends_at = engine.horizon + settings.max_duration

    def start(self, body: bytes, complete: bool) -> None:
        """Send the request somewhere. `body` is what arrived of it; unless `complete` more follows by `upload`."""
        if body:
            self.body.append(body)
            self.body_size = len(body)
        self.body_complete = complete
        request = self.request
        if request.looped:
            self._fail(ProxyError("loop_detected"))
            return
        engine = self.engine
        limit = engine.settings.max_in_flight
        if limit and engine.stats.active > limit:
            self._fail(ProxyError("too_many_requests_in_flight"))
            return
        route = engine.pick(self.tried)
        if route is None:
            self._fail(ProxyError("no_endpoint"))
        else:
            self._attempt(route, fresh=False)

    def upload(self, data: bytes, complete: bool) -> None:
        """More of the request body, already framed for the upstream."""
        connection = self.connection
        self.body_complete = complete
        if data:
            self.body_size += len(data)
            if self.replayable and self.body_size > self.engine.settings.max_replay and connection is not None:
                self.replayable = False
                self.body.clear()
            if self.replayable or connection is None:
                self.body.append(data)
            if connection is not None:
                connection.transport.write(data)
        if complete and connection is not None and self.response is None:
            self.deadline = self.engine.horizon + self.engine.settings.head_wait

    def client_gone(self) -> None:
        """The client left first: nobody's failure. The upstream is cancelled at once."""
        route = self.route
        self.engine.stats.record_client_disconnected(None if route is None else route.endpoint)
        if route is not None:
            route.endpoint.active -= 1
            if route.breaker is not None:
                route.breaker.release(self.epoch)
            if self.connection is None:
                route.pool.cancel(self)
        self._close("client_disconnected", 499)

    def body_failed(self, error: ProxyError) -> None:
        """The request body is late, too long or broken: the client's fault, so nothing is held against the endpoint."""
        if self.response is not None:
            self.client_stalled()
            return
        route, self.route = self.route, None
        if route is not None:
            route.endpoint.active -= 1
            route.endpoint.client_disconnected += 1
            if route.breaker is not None:
                route.breaker.release(self.epoch)
            if self.connection is None:
                route.pool.cancel(self)
        self._fail(error)

    def client_stalled(self) -> None:
        """The client does not take the answer, or breaks its own request after the answer began: cut it."""
        route = self.route
        if route is not None:
            route.endpoint.active -= 1
            route.endpoint.client_disconnected += 1
            if route.breaker is not None:
                route.breaker.release(self.epoch)
        self.engine.stats.record_failure(perf_counter() - self.started, None)
        client = self.client
        self._close("failed", 0)
        client.abort()

    def writing_paused(self, paused: bool) -> None:
        """The client takes the answer too slowly (True), or takes it again (False)."""
        connection = self.connection
        if connection is not None:
            if paused:
                connection.pause_reading()
            else:
                self.heard = True  # the silence was ours
                connection.resume_reading()

    # -- from the pool

    def _attempt(self, route: Route, fresh: bool) -> None:
        self.route = route
        endpoint = route.endpoint
        endpoint.requests += 1
        endpoint.active += 1
        breaker = route.breaker
        if breaker is not None:
            if breaker.state == CLOSED:
                self.epoch = breaker.epoch
            else:
                self._probe(breaker)
        if self.marks is not None:
            self.marks[b"pick"] = perf_counter()
        connection = None if fresh else route.pool.take()
        if connection is not None:
            self.connected(connection)
            return
        engine = self.engine
        if not self.body_complete:
            self.client.pause_upload(True)
        route.pool.request(self)
        if self.connection is None:
            settings = engine.settings
            connecting = route.pool.is_connecting(self)
            self.deadline = engine.horizon + (settings.connect_timeout if connecting else settings.pool_wait)

    def _probe(self, breaker: CircuitBreaker) -> None:
        engine = self.engine
        now = engine.loop.time()
        self.epoch = breaker.admit(now)
        if breaker.state == HALF_OPEN:
            engine.probes.append((self, self.started, now + breaker.timeout))

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection is ours: send the request, in one write with as much of its body as is here."""
        self.connection = connection
        connection.exchange = self
        route = self.route
        assert route is not None
        request = self.request
        head = (
            request.method,
            b" ",
            route.prefix,
            request.target,
            route.host,
            request.kept,
            request.suffix,
            self.request_id,
            HEAD_END,
        )
        if self.marks is not None:
            self.marks[b"connect"] = perf_counter()
        connection.transport.write(b"".join((*head, *self.body)))
        engine = self.engine
        settings = engine.settings
        if self.body_complete:
            self.deadline = engine.horizon + settings.head_wait
        else:
            self.deadline = NEVER  # the client's own timeouts run while its body is awaited
            self.client.pause_upload(False)
        if self.body_size > settings.max_replay:
            self.replayable = False
            self.body.clear()

    def connect_failed(self, detail: str) -> None:
        """No connection could be opened. Nothing was sent, so any method may try elsewhere."""
        self._attempt_failed(ProxyError("upstream_unreachable", detail), sent=False)

    # -- from the upstream's connection

    def received(self, data: bytes) -> None:
        """Bytes of the response."""
        remaining = self.remaining
        if self.response is None:
            self._read_head(data)
        elif remaining > 0:
            self.heard = True
            size = len(data)
            if size < remaining:
                self.remaining = remaining - size
                self._forward(data)
            else:
                self._forward(data if size == remaining else data[:remaining])
                self._succeed(reusable=size == remaining)
        elif remaining == CHUNKED:
            self.heard = True
            self._forward_chunks(data)
        else:
            self.heard = True
            self._forward(data)

    def _read_head(self, data: bytes) -> None:
        if self.partial:
            data = self.partial + data
        connection = self.connection
        assert connection is not None
        end = data.find(HEAD_END) + 4
        if end == 3:
            limit = self.engine.settings.limits.head
            if limit and len(data) > limit:
                self._attempt_failed(ProxyError("upstream_invalid", "the head is too large"), sent=True, answered=True)
            else:
                self.partial = data
            return
        request = self.request
        try:
            response = connection.heads.read(data[:end], request.is_head)
        except ProxyError as error:
            self._attempt_failed(error, sent=True, answered=True)
            return
        body = data[end:]
        if response.interim:
            self._skip_interim(body)
            return
        self.response = response
        route = self.route
        assert route is not None
        length = response.length
        if request.http10 or not request.keep_alive or length == UNTIL_CLOSE or not self.body_complete:
            self._send_odd_head(response, route, body)
            return
        if self.engine.stopping or self.marks is not None:
            self._send_odd_head(response, route, body)
            return
        head = (response.line, b"X-Olla-Request-ID: ", self.request_id, route.served_by, response.fields)
        write = self.client.transport.write
        if length >= 0:
            size = len(body)
            if size == length:
                write(b"".join((*head, body)))
                self._succeed(reusable=True)
            elif size < length:
                write(b"".join((*head, body)))
                self.remaining = length - size
                self._wait_for_body()
            else:
                write(b"".join((*head, body[:length])))
                self._succeed(reusable=False)
        else:
            self._begin_chunks(b"".join(head), body)

    def _begin_chunks(self, head: bytes, body: bytes) -> None:
        connection = self.connection
        assert connection is not None
        self.remaining = CHUNKED
        self.chunks = chunks = connection.chunk_reader()
        if body:
            try:
                chunks.feed(body)
            except HttpParserError:
                if not chunks.done:
                    self.client.transport.write(head)
                    self._cut(ProxyError("upstream_invalid", "chunk framing"))
                    return
                chunks.extra = True
            if chunks.extra:
                end = chunked_end(body)
                self.client.transport.write(head)
                self._end_with_surplus(body, end)
                return
        self.client.transport.write(head + body)
        if chunks.done:
            self._succeed(reusable=body.endswith(b"0\r\n\r\n"))
        else:
            self._wait_for_body()

    def _forward_chunks(self, data: bytes) -> None:
        if self.decoder is not None:
            self._decode(data)
            return
        chunks = self.chunks
        assert chunks is not None
        try:
            chunks.feed(data)
        except HttpParserError:
            if not chunks.done:
                self._cut(ProxyError("upstream_invalid", "chunk framing"))
                return
            chunks.extra = True
        if not chunks.done:
            self._forward(data)
        elif chunks.extra:
            self._end_with_surplus(data, chunked_end(data))
        else:
            self._forward(data)
            # A stray CRLF after the end is not seen by llhttp: where the end is not plain to see, trust neither
            # connection.
            plain = data.endswith(b"0\r\n\r\n") or len(data) < 5
            self._succeed(reusable=plain)

    def _end_with_surplus(self, data: bytes, end: int | None) -> None:
        """The body ended inside `data`. The surplus reaches nobody, and the connection is not used again."""
        if end is None:
            self._cut(ProxyError("upstream_invalid", "bytes after the response"))
        else:
            self._forward(data[:end])
            self._succeed(reusable=False)

    def _wait_for_body(self) -> None:
        engine = self.engine
        self.deadline = engine.horizon + engine.settings.idle_wait
        if self.client.write_paused and self.connection is not None:
            self.connection.pause_reading()

    def _forward(self, data: bytes) -> None:
        gatherer = self.gatherer
        if gatherer is None:
            self.client.transport.write(data)
            return
        due = gatherer.add(data)
        if due is not None:
            self.client.transport.write(due)
        elif not self.flush_pending:
            self.flush_pending = True
            self.engine.loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self.flush_pending:
            self.flush_pending = False
            if self.gatherer:  # not empty
                self.client.transport.write(self.gatherer.take())

    def upstream_lost(self, clean: bool) -> None:
        """The upstream's connection ended. Whether that is the end of the response is decided by its framing."""
        connection = self.connection
        if self.response is None:
            error = ProxyError("upstream_closed", "FIN" if clean else "reset")
            stale = connection is not None and connection.used > 0 and not self.partial
            self._attempt_failed(error, sent=True, answered=bool(self.partial), stale=stale)
        elif self.remaining == UNTIL_CLOSE and clean:
            self._succeed(reusable=False)
        else:
            self._cut(ProxyError("upstream_closed", "in the middle of the body"))

    def upload_paused(self, paused: bool) -> None:
        """The upstream takes the request body too slowly (True), or takes it again (False)."""
        if not self.body_complete:
            self.client.pause_upload(paused)
            engine = self.engine
            if self.response is None:
                self.deadline = engine.horizon + engine.settings.head_wait if paused else NEVER

    # -- from the tick

    def expire(self, now: float) -> None:
        """The deadline passed."""
        if now >= self.ends_at:
            self.ends_at = NEVER
            self._time_out("the whole exchange")
        elif self.response is not None:
            if self.heard or self.client.write_paused:
                self.heard = False
                self.deadline = now + self.engine.settings.idle_wait
            else:
                self._cut(ProxyError("upstream_timeout", "silent in the middle of the body"))
        else:
            self._time_out("no response head")

    def _time_out(self, detail: str) -> None:
        route = self.route
        if self.response is not None:
            self._cut(ProxyError("upstream_timeout", detail))
        elif self.connection is None and route is not None and not route.pool.is_connecting(self):
            route.pool.cancel(self)
            self._release_endpoint(route)
            self._fail(ProxyError("pool_timeout"))
        else:
            self._attempt_failed(ProxyError("upstream_timeout", detail), sent=self.connection is not None)

    def probe_due(self) -> None:
        """The breaker's timeout passed since this probe started: a head is a success, no head yet counts as nothing."""
        route = self.route
        if route is None or route.breaker is None:
            return
        if self.response is not None:
            route.breaker.record_success(self.epoch)
        else:
            route.breaker.release(self.epoch)
        self.epoch = -1
        self.engine.settle()

    # -- cold: odd framing

    def _skip_interim(self, rest: bytes) -> None:
        self.interims += 1
        self.partial = b""
        if self.interims > MAX_INTERIM:
            self._attempt_failed(ProxyError("upstream_invalid", "a flood of 1xx"), sent=True, answered=True)
        elif rest:
            self._read_head(rest)

    def _send_odd_head(self, response: Response, route: Route, body: bytes) -> None:
        """HTTP/1.0, connections that close, answers before the request ended, Server-Timing, a stopping engine."""
        request = self.request
        line, length = response.line, response.length
        added = b""
        if request.http10 and length == CHUNKED:  # such a client knows no chunks: its body ends when we close
            line = line.replace(b"Transfer-Encoding: chunked\r\n", b"")
            self.decoder = BodyReader()
        if self._keeps_alive():
            added += b"Connection: keep-alive\r\n" if request.http10 else b""
        else:
            added += b"Connection: close\r\n"
        if self.marks is not None:
            added += self._server_timing()
        head = b"".join((line, added, b"X-Olla-Request-ID: ", self.request_id, route.served_by, response.fields))
        if length == CHUNKED and self.decoder is None:
            self._begin_chunks(head, body)
            return
        self.remaining = length
        if length == 0:
            self.client.transport.write(head)
            self._succeed(reusable=not body)
            return
        self.client.transport.write(head)
        self._wait_for_body()
        if body:
            self.received(body)

    def _keeps_alive(self) -> bool:
        response = self.response
        assert response is not None
        request = self.request
        framed = response.length != UNTIL_CLOSE and not (request.http10 and response.length == CHUNKED)
        return request.keep_alive and framed and self.body_complete and not self.engine.stopping

    def _server_timing(self) -> bytes:
        marks = self.marks or {}
        steps = []
        last = self.started
        for name in (b"pick", b"connect"):
            at = marks.get(name, last)
            steps.append(b"%b;dur=%.3f" % (name, (at - last) * 1e3))
            last = at
        steps.append(b"upstream;dur=%.3f" % ((perf_counter() - last) * 1e3))
        parse = marks.get(b"parse", 0.0)
        return b"Server-Timing: parse;dur=%.3f, %b\r\n" % (parse * 1e3, b", ".join(steps))

    def _decode(self, data: bytes) -> None:
        decoder = self.decoder
        assert decoder is not None
        try:
            pieces = decoder.feed(data)
        except (HttpParserError, ProxyError):
            if not decoder.done:
                self._cut(ProxyError("upstream_invalid", "chunk framing"))
                return
            pieces = []
        for piece in pieces:
            self._forward(piece)
        if decoder.done:
            self._succeed(reusable=False)

    # -- ends

    def _succeed(self, reusable: bool) -> None:
        engine = self.engine
        route = self.route
        connection = self.connection
        response = self.response
        assert route is not None and connection is not None and response is not None
        if self.flush_pending:
            self._flush()
        endpoint = route.endpoint
        endpoint.active -= 1
        status = response.status
        seconds = perf_counter() - self.started
        engine.stats.record_success(seconds, endpoint, status)
        breaker = route.breaker
        if breaker is not None:
            if status >= 500 and engine.settings.count_5xx:
                self._strike(route)
            elif breaker.failures or breaker.state != CLOSED:
                breaker.record_success(self.epoch)
                engine.settle()
        keep_alive = self.request.keep_alive and (not self.request.http10 or self._keeps_alive())
        if not self.body_complete or self.remaining == UNTIL_CLOSE:
            keep_alive = False
        if reusable and response.keep_alive and self.body_complete and self.remaining != UNTIL_CLOSE:
            if connection.reading_paused:
                connection.resume_reading()
            self.connection = None
            route.pool.release(connection, engine.now)
        client = self.client
        if engine.access_log is not None:
            self._log("success", status)
        self._recycle()
        client.exchange_done(keep_alive)

    def _attempt_failed(self, error: ProxyError, sent: bool, answered: bool = False, stale: bool = False) -> None:
        """This endpoint failed before the client got a byte. Try again where that is safe, else answer.

        RFC 9110 9.2.2: what was never sent may go anywhere; what was sent and got no byte back, only if its method is
        idempotent. A stale keep-alive connection is nobody's failure; its request goes to a fresh one first.
        """
        route = self.route
        assert route is not None
        endpoint = route.endpoint
        if self.connection is None:
            route.pool.cancel(self)
        self._drop_connection()
        self.partial = b""
        self.deadline = NEVER
        engine = self.engine
        safe = not sent or (not answered and (self.request.idempotent or engine.settings.retry_all))
        safe = safe and self.replayable
        endpoint.active -= 1
        if stale and safe:
            endpoint.requests -= 1
            if route.breaker is not None:
                route.breaker.release(self.epoch)
                if not route.breaker.allows(engine.loop.time()):
                    self._retry_elsewhere(error, route)
                    return
            self._attempt(route, fresh=True)
            return
        endpoint.failed += 1
        if stale:
            if route.breaker is not None:
                route.breaker.release(self.epoch)
        else:
            self._strike(route)
            engine.discovery.report_failure(endpoint, engine.loop.time())
        self.route = None
        if safe:
            self._retry_elsewhere(error, route)
        else:
            self._fail(error)

    def _retry_elsewhere(self, error: ProxyError, failed: Route) -> None:
        self.route = None
        self.tried.append(failed.endpoint)
        self.error = error
        route = self.engine.pick(self.tried)
        if route is None:
            self._fail(error)
        else:
            self._attempt(route, fresh=False)

    def _strike(self, route: Route) -> None:
        breaker = route.breaker
        if breaker is not None:
            breaker.record_failure(self.epoch, self.engine.loop.time())
            if breaker.state != CLOSED:
                self.engine.settle()

    def _release_endpoint(self, route: Route) -> None:
        route.endpoint.active -= 1
        route.endpoint.failed += 1
        if route.breaker is not None:
            route.breaker.release(self.epoch)
        self.route = None

    def _fail(self, error: ProxyError) -> None:
        """Answer with an error of our own."""
        engine = self.engine
        engine.stats.record_failure(perf_counter() - self.started, None)
        client, request_id = self.client, self.request_id
        keep_alive = self.request.keep_alive and self.body_complete and not error.kind.close and not engine.stopping
        self._drop_connection()
        if engine.access_log is not None:
            self._log("failed", error.kind.status)
        self._recycle()
        client.answer(error, request_id, keep_alive)

    def _cut(self, error: ProxyError) -> None:
        """The answer began and cannot be ended: abort the client's connection, so that nobody takes it for whole."""
        engine = self.engine
        route = self.route
        assert route is not None
        if self.flush_pending:
            self._flush()
        route.endpoint.active -= 1
        route.endpoint.failed += 1
        self._strike(route)
        engine.discovery.report_failure(route.endpoint, engine.loop.time())
        engine.stats.record_failure(perf_counter() - self.started, None)
        client = self.client
        self._close("failed", 0)
        client.abort()

    def _close(self, outcome: str, status: int) -> None:
        self._drop_connection()
        if self.engine.access_log is not None:
            self._log(outcome, status)
        self._recycle()

    def _drop_connection(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.abort()

    def _recycle(self) -> None:
        """Forget everything and go back to the pool. Nothing may touch this exchange afterwards."""
        self._drop_connection()
        if self.decoder is not None:
            self.decoder.close()
        if self.tried:
            self.tried.clear()
        if self.body:
            self.body.clear()
        if self.gatherer:
            self.gatherer.take()
        self._reset()
        self.engine.contexts.put(self)

    def _log(self, outcome: str, status: int) -> None:
        log = self.engine.access_log
        if log is not None:
            log.record(
                client=self.client.address,
                method=self.request.method.decode("ascii"),
                target=self.request.target.decode("latin-1"),
                status=status,
                outcome=outcome,
                endpoint="" if self.route is None else self.route.endpoint.name,
                seconds=perf_counter() - self.started,
                request_id=self.request_id.decode("ascii"),
            )
