"""One request's way through the proxy: choose an endpoint, get a connection, send, stream the answer back, account
for it.

The hot path is here: `open`, `start`, `connected`, `received`, `succeed`. It makes two reads and two writes a request
and no task, future or timer; all waiting is one `deadline` that the service's tick compares. What happens when an
attempt fails is in `retry`, what HTTP/1.0 and other odd framing need in `odd`.

Exactly one of four ends closes an exchange: `succeed`, `fail` (the proxy answers by itself), `cut` (a started answer is
aborted, so that nobody mistakes it for a whole one) and `client_gone`. Each ends in `_recycle`.
"""

from __future__ import annotations

from time import perf_counter

from httptools import HttpParserError

from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.health import FAILING_STATUSES
from proxy.http1.chunked import (
    ENDS_OF_LAST_CHUNK,
    LAST_CHUNK,
    BodyReader,
    ChunkReader,
    chunked_end,
    trim_chunked_end,
)
from proxy.http1.heads import CHUNKED, HEAD_END, UNTIL_CLOSE
from proxy.olla import odd, retry
from proxy.olla.breaker import CLOSED
from proxy.olla.engine import NEVER, Client, Engine, Route
from proxy.olla.flush import Gatherer
from proxy.olla.recall import Request, Response
from proxy.olla.upstream import UpstreamConnection


class Exchange:
    """The context of one request, reused from request to request (`pools.contexts`)."""

    __slots__ = (
        "body",
        "body_complete",
        "chunks",
        "client",
        "connection",
        "deadline",
        "decoder",
        "ends_at",
        "engine",
        "epoch",
        "flush_pending",
        "gatherer",
        "heard",
        "interims",
        "kept_body",
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
    body_complete: bool
    epoch: int  # of the breaker's admission
    remaining: int  # bytes of body to come, CHUNKED or UNTIL_CLOSE
    heard: bool  # bytes came since the tick looked last
    chunks: ChunkReader

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        settings = engine.settings
        self.gatherer = Gatherer(settings.flush_small, settings.flush_limit) if settings.adaptive_flush else None
        self.tried: list[Endpoint] = []
        self.route: Route | None = None
        self.connection: UpstreamConnection | None = None
        self.response: Response | None = None
        self.body = b""  # as sent upstream
        self.kept_body: list[bytes] | None = None  # instead of `body`, for one that is passed on while it arrives
        self.replayable = True  # the body can be sent again
        self.partial = b""  # a response head that has not arrived whole
        self.interims = 0  # bytes of 1xx answers
        self.decoder: BodyReader | None = None
        self.deadline = NEVER
        self.ends_at = NEVER
        self.flush_pending = False
        self.marks: dict[bytes, float] | None = None  # for Server-Timing

    # -- from the client's connection

    def open(self, client: Client, request: Request) -> None:
        """A head parsed: from here on the request is counted."""
        self.client = client
        self.request = request
        self.started = perf_counter()
        self.body_complete = False
        engine = self.engine
        stats = engine.stats
        stats.total += 1
        stats.active += 1
        self.request_id = request.request_id or engine.request_ids.make()
        if engine.settings.timed:
            odd.take_times(self)

    def start(self, body: bytes, complete: bool) -> None:
        """Send the request somewhere, with its body. Unless `complete`, more of it follows by `upload`."""
        self.body = body
        self.body_complete = complete
        engine = self.engine
        limit = engine.settings.max_in_flight
        if limit and engine.stats.active > limit:
            self.fail(ProxyError("too_many_requests_in_flight"))
        elif self.request.traits.looped:
            self.fail(ProxyError("loop_detected"))
        else:
            route = engine.pick(self.tried)
            if route is None:
                self.fail(ProxyError("no_endpoint"))
            else:
                self.attempt(route, fresh=False)

    def upload(self, data: bytes, complete: bool) -> None:
        """More of the request body, already framed for the upstream."""
        odd.upload(self, data, complete)

    def client_gone(self) -> None:
        """The client left first: nobody's failure. The upstream is cancelled at once."""
        route = self.route
        self.engine.stats.record_client_disconnected(None if route is None else route.endpoint)
        if route is not None:
            retry.withdraw(self, route)
        self.close("client_disconnected", 499)

    def client_failed(self, error: ProxyError | None) -> None:
        """The client's fault, so nothing is held against the endpoint: its body is late, too long or broken, or (None)
        it does not take the answer. Answered while that is still possible, else cut."""
        route = self.route
        if route is not None:
            route.endpoint.client_disconnected += 1
            retry.withdraw(self, route)
        self.route = None
        if error is not None and self.response is None:
            self.fail(error)
        else:
            self.engine.stats.record_failure(perf_counter() - self.started, None)
            client = self.client
            self.close("failed", 0)
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

    def attempt(self, route: Route, fresh: bool) -> None:
        """Try one endpoint; `fresh`: not on a connection that was used before."""
        self.route = route
        endpoint = route.endpoint
        endpoint.requests += 1
        endpoint.active += 1
        breaker = route.breaker
        if breaker is not None:
            if breaker.state == CLOSED:
                self.epoch = breaker.epoch
            else:
                retry.probe(self, breaker)
        if self.marks is not None:
            self.marks[b"pick"] = perf_counter()
        connection = None if fresh else route.pool.take()
        if connection is not None:
            self.connected(connection)
        else:
            retry.wait_for_connection(self, route)

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection is ours: send the request, in one write with as much of its body as is here."""
        self.connection = connection
        connection.exchange = self
        request = self.request
        traits = request.traits
        route = self.route
        assert route is not None
        connection.transport.write(
            b"".join(
                (
                    traits.method,
                    route.prefix and route.prefix_for(request.target),
                    request.target,
                    route.host,
                    request.kept,
                    traits.suffix,
                    b"" if request.request_id else self.request_id,
                    HEAD_END,
                    self.body,
                )
            )
        )
        if self.body_complete and self.marks is None and self.kept_body is None:
            engine = self.engine
            self.deadline = engine.horizon + engine.settings.head_wait
        else:
            odd.connected(self, connection)

    def connect_failed(self, detail: str) -> None:
        """No connection could be opened. Nothing was sent, so any method may try elsewhere."""
        retry.attempt_failed(self, ProxyError("upstream_unreachable", detail), sent=False)

    # -- from the upstream's connection

    def received(self, data: bytes) -> None:
        """Bytes of the response."""
        if self.response is None:
            self._read_head(data)
            return
        self.heard = True
        remaining = self.remaining
        if remaining == CHUNKED:
            self._forward_chunks(data, b"")
        elif remaining > 0:
            size = len(data)
            if size < remaining:
                self.remaining = remaining - size
                self.forward(data)
            else:
                self.forward(data if size == remaining else data[:remaining])
                self.succeed(reusable=size == remaining)
        elif self.decoder is None:
            self.forward(data)
        else:
            odd.decode(self, data, self.decoder)

    def _read_head(self, data: bytes) -> None:
        route = self.route
        assert route is not None
        if self.partial:
            data = self.partial + data
        traits = self.request.traits
        response = route.heads.recall(data, traits.is_head)
        if response is None:
            end = data.find(HEAD_END)
            if end < 0:
                odd.wait_for_head(self, data)
                return
            limit = self.engine.settings.limits.head
            if limit and end + 4 + self.interims > limit:
                odd.wait_for_head(self, data)  # which refuses it
                return
            try:
                response = route.heads.read(data[: end + 4], traits.is_head)
            except ProxyError as error:
                retry.attempt_failed(self, error, sent=True, answered=True)
                return
            if response.interim:
                odd.skip_interim(self, data, end + 4)
                return
        body = data[response.size :]
        self.response = response
        length = response.length
        if not traits.plain or length == UNTIL_CLOSE or not self.body_complete or self.engine.peculiar:
            odd.send_head(self, response, body)
            return
        head = (response.line, b"X-Olla-Request-ID: ", self.request_id, route.served_by, response.fields, body)
        if length == CHUNKED:
            self.begin_chunks(b"".join(head[:5]), body)
            return
        missing = length - len(body)
        if missing >= 0:
            self.client.transport.write(b"".join(head))
        else:
            self.client.transport.write(b"".join((*head[:5], body[:length])))
        if missing > 0:
            self.remaining = missing
            self.await_body()
        else:
            self.succeed(reusable=missing == 0)

    def begin_chunks(self, head: bytes, body: bytes) -> None:
        """Send `head` and the first bytes of a chunked body in one write."""
        connection = self.connection
        assert connection is not None
        self.remaining = CHUNKED
        self.chunks = connection.chunk_reader()
        self.await_body()
        if body:
            self._forward_chunks(body, head)
        else:
            self.client.transport.write(head)

    def await_body(self) -> None:
        """The head is sent; the rest of the body comes when it comes."""
        self.body = b""  # nothing is sent again from here on, and a long prompt need not live as long as its stream
        if self.kept_body:
            self.replayable = False
            self.kept_body.clear()
        engine = self.engine
        self.heard = False
        self.deadline = engine.horizon + engine.settings.idle_wait
        if self.client.write_paused and self.connection is not None:
            self.connection.pause_reading()

    def _forward_chunks(self, data: bytes, head: bytes) -> None:
        chunks = self.chunks
        try:
            chunks.feed(data)
        except HttpParserError:
            if not chunks.done:
                self.forward(head)
                self.cut(ProxyError("upstream_invalid", "chunk framing"))
                return
            chunks.extra = True
        if not chunks.done:
            if head:
                self.client.transport.write(head + data)
            else:
                self.forward(data)
        elif chunks.extra:
            self._end_with_surplus(data, head)
        else:
            plain = data.endswith(LAST_CHUNK) or data in ENDS_OF_LAST_CHUNK
            if not plain:  # a trailer, or empty lines that llhttp does not see: those reach nobody
                data = trim_chunked_end(data)
            self.forward(head + data if head else data)
            self.succeed(reusable=plain)

    def _end_with_surplus(self, data: bytes, head: bytes) -> None:
        """The body ended inside `data`. The surplus reaches nobody, and the connection is not used again."""
        # Where it ended can only be told of a body that came whole: further reads may begin inside a chunk, whose bytes
        # can look like a last chunk. An answer that would end at the wrong byte is cut.
        end = chunked_end(data) if head else None
        if end is None:
            self.cut(ProxyError("upstream_invalid", "bytes after the response"))
        else:
            self.forward(head + data[:end])
            self.succeed(reusable=False)

    def forward(self, data: bytes) -> None:
        """Pass bytes of the answer on, now or gathered with those that follow in this pass of the loop."""
        gatherer = self.gatherer
        if gatherer is None or (len(data) < gatherer.small and not gatherer.size):
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
            stale = connection is not None and connection.used > 0 and not self.answered
            error = ProxyError("upstream_closed", "FIN" if clean else "reset")
            retry.attempt_failed(self, error, sent=True, answered=self.answered, stale=stale)
        elif self.response.length == UNTIL_CLOSE and clean:
            self.succeed(reusable=False)
        else:
            self.cut(ProxyError("upstream_closed", "in the middle of the body"))

    @property
    def answered(self) -> bool:
        """Whether the upstream said anything at all: then nothing is sent a second time."""
        return bool(self.partial or self.interims)

    def upload_paused(self, paused: bool) -> None:
        """The upstream takes the request body too slowly (True), or takes it again (False)."""
        odd.upload_paused(self, paused)

    # -- from the tick

    def expire(self, now: float) -> None:
        """The deadline passed."""
        if now >= self.ends_at:
            self.ends_at = NEVER
            retry.time_out(self, "the whole exchange")
        elif self.response is None:
            retry.time_out(self, "no response head")
        elif self.heard or self.client.write_paused:
            self.heard = False
            self.deadline = now + self.engine.settings.idle_wait
        else:
            retry.time_out(self, "silent in the middle of the body")

    # -- ends

    def succeed(self, reusable: bool) -> None:
        """The answer was delivered whole. `reusable`: nothing but the answer came over the upstream's connection."""
        engine = self.engine
        route, connection, response = self.route, self.connection, self.response
        assert route is not None and connection is not None and response is not None
        if self.flush_pending:
            self._flush()
        endpoint = route.endpoint
        endpoint.active -= 1
        engine.stats.record_success(perf_counter() - self.started, endpoint, response.status)
        if response.status >= 500 and response.status in FAILING_STATUSES:
            endpoint.record_failure(engine.now)
        breaker = route.breaker
        if breaker is not None and (breaker.failures or breaker.state != CLOSED or response.status >= 500):
            retry.report_status(self, route, breaker, response.status)
        keep_alive = self.request.traits.plain or odd.keeps_alive(self)
        if response.length == UNTIL_CLOSE or not self.body_complete:
            keep_alive = reusable = False
        if reusable and response.keep_alive:
            self.connection = None
            if connection.reading_paused:
                connection.resume_reading()
            route.pool.release(connection, engine.now)
        if engine.access_log is not None:
            odd.log(self, "success", response.status)
        client = self.client
        self._recycle()
        client.exchange_done(keep_alive)

    def fail(self, error: ProxyError) -> None:
        """Answer with an error of our own."""
        engine = self.engine
        engine.stats.record_failure(perf_counter() - self.started, None)
        client, request, request_id = self.client, self.request, self.request_id
        complete = self.body_complete
        keep_alive = request.traits.keep_alive and complete and not error.kind.close and not engine.stopping
        self.close("failed", error.kind.status)
        client.answer(error, request, request_id, keep_alive)

    def cut(self, error: ProxyError) -> None:
        """The answer began and cannot be ended: abort the client's connection, so that nobody takes it for whole."""
        route = self.route
        assert route is not None
        if self.flush_pending:
            self._flush()
        route.endpoint.active -= 1
        retry.blame(self, route)
        self.engine.stats.record_failure(perf_counter() - self.started, None)
        client = self.client
        unframed = self.decoder is not None or (self.response is not None and self.response.length == UNTIL_CLOSE)
        self.close("failed", 0)
        client.abort(reset=unframed)

    def close(self, outcome: str, status: int) -> None:
        """Whatever ended the exchange was counted: drop what it held."""
        if self.engine.access_log is not None:
            odd.log(self, outcome, status)
        self._recycle()

    def _recycle(self) -> None:
        """Forget everything and go back to the pool. Nothing may touch this exchange afterwards."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None
        self.route = None
        self.response = None
        self.deadline = NEVER
        self.body = b""
        if self.tried or self.partial or not self.replayable or self.kept_body is not None or self.flush_pending:
            odd.forget(self)
        if self.marks is not None or self.ends_at != NEVER or self.decoder is not None or self.interims:
            odd.forget(self)
        self.engine.contexts.put(self)
