"""One request's way through the proxy: choose an endpoint, get a connection, send, stream the answer back, account
for it.

The hot path is `open`, `start`, `connected`, `received`, `succeed`. It makes two reads and two writes a request and no
task, future or timer; all waiting is one `deadline` that the service's tick compares.

Everything else that can happen comes in by `_happen`: the table in `phases` says what an event does in the phase at
hand, and the method called like that action does it. What a try costs its endpoint is counted by its `attempt`; what
the request comes to is counted here, once, by the methods under "ends", each of which ends in `_recycle`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from httptools import HttpParserError, HttpParserUpgrade

from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.retry import Next, after
from proxy.http1.chunked import (
    ENDS_OF_LAST_CHUNK,
    LAST_CHUNK,
    BodyReader,
    ChunkReader,
    chunked_end,
    trim_chunked_end,
)
from proxy.http1.heads import CHUNKED, HEAD_END, UNTIL_CLOSE
from proxy.http1.recall import Request, Response
from proxy.olla.answer import make_answer
from proxy.olla.attempt import Attempt
from proxy.olla.buffers import ObjectPool
from proxy.olla.engine import Engine
from proxy.olla.flush import Gatherer
from proxy.olla.phases import (
    ARRIVING,
    CONNECTING,
    DRAINING,
    HEARD,
    OVER,
    PHASE_NAMES,
    QUEUED,
    RETRYING,
    SENT,
    STREAMING,
    TO_CLOSE,
    Action,
    Event,
    step,
)
from proxy.olla.route import Route
from proxy.olla.settings import NEVER
from proxy.olla.upload import Upload
from proxy.olla.upstream import UpstreamConnection


class Client(Protocol):
    """The client connection as an exchange sees it."""

    transport: asyncio.Transport
    write_paused: bool
    address: str

    def answer(self, error: ProxyError, request: Request, request_id: bytes, keep_alive: bool) -> None:
        """Send an error of our own."""

    def exchange_done(self, keep_alive: bool) -> None:
        """The client took the answer; the next request may come unless the connection must close."""

    def await_drained(self) -> None:
        """Tell the exchange by `writing_paused(False)` when the client took all that was written."""

    def pause_upload(self, paused: bool) -> None:
        """Read no more of the request body (True), or read on (False)."""

    def abort(self, reset: bool = False) -> None:
        """Cut the connection, so that nobody takes the answer for whole; `reset`: a FIN would look like its end."""


class Exchange:
    """The context of one request, reused from request to request (`pools.contexts`)."""

    __slots__ = (
        "attempt", "body", "chunks", "client", "connection", "contexts", "deadline", "decoder", "ends_at", "engine",
        "failure", "flush_pending", "gatherer", "interims", "keep_alive", "own_attempt", "partial", "phase",
        "remaining", "request", "request_id", "response", "small", "started", "tried", "upload",
    )  # fmt: skip

    client: Client
    request: Request
    request_id: bytes
    started: float  # perf_counter
    keep_alive: bool  # what the answer's head told the client

    def __init__(self, engine: Engine, contexts: ObjectPool[Exchange]) -> None:
        self.engine = engine
        self.contexts = contexts
        self.gatherer: Gatherer | None = None
        self.small = 0  # reads below this many bytes go out at once, unless some are gathered
        self.phase = OVER
        # None before there is one: said to nobody, as an assertion at each use costs 1 % of a request.
        self.attempt: Attempt = None  # type: ignore[assignment]  # the last one
        self.response: Response = None  # type: ignore[assignment]
        self.own_attempt = Attempt(engine, self)  # for tries that nobody else knows
        self.tried: list[Endpoint] | None = None  # endpoints that failed
        self.failure: ProxyError | None = None  # what the client is told, or will be unless a further try succeeds
        self.connection: UpstreamConnection | None = None
        self.body = b""  # as sent upstream
        self.upload: Upload | None = None  # instead of `body`, for one that is passed on while it arrives
        self.partial = b""  # a response head that has not arrived whole
        self.remaining = 0  # bytes of the response's body to come, or UNTIL_CLOSE; of no account beside `chunks`
        self.interims = 0  # bytes of 1xx responses
        self.chunks: ChunkReader | None = None  # of a chunked body that is passed on as it comes
        self.decoder: BodyReader | None = None
        self.deadline = NEVER
        self.ends_at = NEVER
        self.flush_pending = False
        self.configure()

    def configure(self) -> None:
        """Take the engine's settings that an exchange keeps."""
        if self.flush_pending:
            self._flush()
        settings = self.engine.settings
        self.gatherer = Gatherer(settings.flush_small, settings.flush_limit) if settings.adaptive_flush else None
        self.small = settings.flush_small if settings.adaptive_flush else 0

    # -- from the client's connection

    def open(self, client: Client, request: Request) -> None:
        """A head parsed: from here on the request is counted."""
        self.client = client
        self.request = request
        self.started = perf_counter()
        self.phase = ARRIVING
        engine = self.engine
        stats = engine.stats
        stats.total += 1
        stats.active += 1
        self.request_id = request.request_id or next(engine.request_ids)
        if engine.settings.max_duration:
            self.ends_at = engine.horizon + engine.settings.max_duration

    def start(self, body: bytes, complete: bool) -> None:
        """Send the request somewhere, with its body. Unless `complete`, more of it follows by `add_body`."""
        self.body = body
        engine = self.engine
        if not complete:
            self.upload = Upload(engine.settings.max_replay)
        limit = engine.settings.max_in_flight
        if limit and engine.stats.active > limit:
            self._refuse(ProxyError("too_many_requests_in_flight"))
        elif self.request.traits.looped:
            self._refuse(ProxyError("loop_detected"))
        else:
            route = engine.pick(self.request, ())
            if route is None:
                self._refuse(ProxyError("no_endpoint"))
            else:
                self._try(route, fresh=False)

    def add_body(self, data: bytes, complete: bool) -> None:
        """More of the request body, already framed for the upstream."""
        upload, connection = self.upload, self.connection
        assert upload is not None
        upload.complete = complete
        if self.phase == DRAINING:
            return  # answered already; nobody reads the rest
        upload.add(data, sent=connection is not None)
        if connection is not None and data:
            connection.transport.write(data)
        if complete:
            self.client.pause_upload(False)  # it may have come whole in the read that had to wait for a connection
            if self.phase == SENT or self.phase == HEARD:
                self.deadline = self.engine.head_horizon

    def client_gone(self) -> None:
        """The client left first: nobody's failure. The upstream is cancelled at once."""
        self._happen(Event.CLIENT_GONE)

    def client_failed(self, error: ProxyError) -> None:
        """The client's fault: its body is late, too long or broken. Answered while that is still possible."""
        self._happen(Event.CLIENT_FAILED, error)

    def give_client_up(self) -> None:
        """The client does not take its answer, or the engine waits no longer for it."""
        self._happen(Event.CLIENT_CUT)

    def writing_paused(self, paused: bool) -> None:
        """The client takes the answer too slowly (True), or took what was written (False)."""
        connection = self.connection
        if connection is not None:
            if paused:
                connection.pause_reading()
            else:
                if self.phase >= STREAMING:
                    self.deadline = self.engine.idle_horizon  # the silence was ours
                connection.resume_reading()
        elif self.phase == DRAINING and not paused:
            self._taken()

    # -- from the pool

    def connecting(self) -> None:
        """A connection is being opened: from now on it is the endpoint that is waited for."""
        self.phase = CONNECTING
        self.deadline = self.engine.horizon + self.engine.settings.connect_timeout

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection is ours: send the request, in one write with as much of its body as is here."""
        self.connection = connection
        connection.exchange = self
        self.phase = SENT
        engine, request, route = self.engine, self.request, self.attempt.route
        traits = request.traits
        if self.upload is None:
            self.deadline = engine.head_horizon
            body = self.body
        else:
            body = self._take_upload(self.upload)
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
                    body,
                )
            )
        )

    def connect_failed(self, detail: str) -> None:
        """No connection could be opened. Nothing was sent, so any method may try elsewhere."""
        self.attempt.waiting = False
        self._happen(Event.CONNECT_FAILED, ProxyError("upstream_unreachable", detail))

    @property
    def refused(self) -> bool:
        """Whether it was answered, the client has yet to take that, and nobody reads the rest of the request's body."""
        return self.phase == DRAINING and self.upload is None

    @property
    def responding(self) -> bool:
        """Whether the response's head came."""
        return self.phase >= STREAMING

    # -- from the upstream's connection

    def received(self, data: bytes) -> None:
        """Bytes of the response."""
        chunks = self.chunks
        if chunks is not None:  # first, as streams have most reads
            self.deadline = self.engine.idle_horizon
            try:
                chunks.feed(data)
            except (HttpParserError, HttpParserUpgrade):  # the latter for a 101 behind the end: no kind of the former
                self._end_broken(data, b"", chunks)
                return
            if chunks.done:
                self._end_chunks(data, b"", chunks)
            elif len(data) < self.small and not self.flush_pending:  # `forward`, without the call: 7 % of an event
                self.client.transport.write(data)
            else:
                self.forward(data)
            return
        if self.phase < STREAMING:
            self._read_head(data)
            return
        self.deadline = self.engine.idle_horizon
        remaining = self.remaining
        if remaining > 0:
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
            self._decode(data, self.decoder)

    def upstream_lost(self, clean: bool) -> None:
        """The upstream's connection ended. Whether that is the end of the response is decided by its framing."""
        self._happen(Event.UPSTREAM_CLOSED if clean else Event.UPSTREAM_RESET)

    def upload_paused(self, paused: bool) -> None:
        """The upstream takes the request body too slowly (True), or takes it again (False)."""
        if self.upload is None or self.upload.complete:
            return
        self.client.pause_upload(paused)
        if self.phase < STREAMING:
            engine = self.engine
            self.deadline = engine.head_horizon if paused else NEVER

    # -- from the tick

    def expire(self, now: float) -> None:
        """A deadline passed."""
        if now >= self.ends_at:
            self._happen(Event.CAPPED)
        elif self.phase >= STREAMING and self.client.write_paused:
            self.deadline = self.engine.idle_horizon  # we do not read the endpoint: its silence is ours
        else:
            self._happen(Event.DEADLINE)

    # -- tries

    def _try(self, route: Route, fresh: bool) -> None:
        """Ask one endpoint; `fresh`: not on a connection that was used before."""
        engine = self.engine
        if not fresh and not engine.open_breakers:
            connection = route.pool.take()
            if connection is not None:
                self.attempt = attempt = self.own_attempt
                attempt.begin(route)
                self.connected(connection)
                return
        self.attempt = attempt = Attempt(engine, self)
        attempt.begin(route)
        # A reused connection that closes says nothing, and a probe is there to learn something.
        attempt.fresh = fresh or attempt.probe
        connection = None if attempt.fresh else route.pool.take()
        if connection is not None:
            self.connected(connection)
            return
        if self.upload is not None and not self.upload.complete:
            self.client.pause_upload(True)
        attempt.waiting = True
        if route.pool.request(attempt):
            self.connecting()
        else:
            self.phase = QUEUED
            self.deadline = engine.horizon + engine.settings.pool_wait

    def _try_again(self, failed: Attempt, same: bool) -> None:
        """The loop's next pass after a try that failed."""
        if self.attempt is not failed or self.phase != RETRYING:
            return  # ended meanwhile
        engine, route = self.engine, failed.route
        error, self.failure = self.failure, None
        tried = self.tried = self.tried or []
        if same:
            if route.breaker is None or route.breaker.allows(engine.loop.time()):
                self._try(route, fresh=True)
                return
            tried.append(route.endpoint)  # it may have had the request: at most once for each endpoint
        other = engine.pick(self.request, tried)
        if other is not None:
            self._try(other, fresh=False)
        else:
            assert error is not None
            self._answer(error)

    def _take_upload(self, upload: Upload) -> bytes:
        """What came of the body. The client is read on before the write, which may pause it again."""
        if upload.complete:
            self.deadline = self.engine.head_horizon
        else:
            self.deadline = NEVER  # the client's own timeouts run while its body is awaited
            self.client.pause_upload(False)
        return upload.send()

    def _upload_sent(self, upload: Upload, connection: UpstreamConnection) -> bool:
        """Whether all of the body is with the kernel: the next request would wait behind the rest, perhaps for ever."""
        return upload.complete and not connection.transport.get_write_buffer_size()

    # -- the response

    def _read_head(self, data: bytes) -> None:
        traits, route = self.request.traits, self.attempt.route
        if self.phase != HEARD:
            read = route.heads.recall(data, traits.is_head) or self._judge_head(data, route)
        else:
            read = self._judge_head(self.partial + data, route)
        if read is None:
            return
        response, body = read
        self.response = response
        length = response.length
        if not traits.plain or length == UNTIL_CLOSE or self.upload is not None or self.engine.stopping:
            self._send_answer(response, route, body)
            return
        self.keep_alive = True
        head = (response.line, b"X-Olla-Request-ID: ", self.request_id, route.served_by, response.fields, body)
        if length == CHUNKED:
            self._begin_chunks(b"".join(head[:5]), body)
            return
        missing = length - len(body)
        if missing >= 0:
            self.client.transport.write(b"".join(head))
        else:
            self.client.transport.write(b"".join((*head[:5], body[:length])))
        if missing > 0:
            self.remaining = missing
            self._await_body(STREAMING)
        else:
            self.succeed(reusable=missing == 0)

    def _judge_head(self, data: bytes, route: Route) -> tuple[Response, bytes] | None:
        """A head of no known kind or in several reads, and what follows it; None while or because it is not whole.

        Interim responses (1xx) before it are dropped. They renew no deadline, and share the limit of heads with the
        final one: as many may come as fit in.
        """
        if self.phase != HEARD:
            self.phase = HEARD
            self.interims = 0
        self.partial = b""
        limit = self.engine.settings.limits.head
        try:
            response, start = route.heads.read_final(data, self.request.traits.is_head, limit, self.interims)
        except ProxyError as error:
            self._happen(Event.UPSTREAM_INVALID, error)
            return None
        if response is None:
            self.interims += start
            self.partial = data[start:]
            return None
        return response, data[start + response.size :]

    def _send_answer(self, response: Response, route: Route, body: bytes) -> None:
        """The cases in which the head must say more than the endpoint's: see `answer`."""
        complete = self.upload is None or self.upload.complete
        own = b"".join((b"X-Olla-Request-ID: ", self.request_id, route.served_by))
        answer = make_answer(response, self.request.traits, own, complete and not self.engine.stopping)
        self.keep_alive = answer.keep_alive
        if answer.decoded:
            self.decoder = BodyReader()
        if answer.length == CHUNKED:
            self._begin_chunks(answer.head, body)
            return
        self.client.transport.write(answer.head)
        self.remaining = answer.length
        if answer.length == 0:
            self.succeed(reusable=not body)
            return
        self._await_body(TO_CLOSE if response.length == UNTIL_CLOSE else STREAMING)
        if body:
            self.received(body)

    def _begin_chunks(self, head: bytes, body: bytes) -> None:
        """Send `head` and the first bytes of a chunked body in one write."""
        connection = self.connection
        assert connection is not None
        self.chunks = chunks = connection.chunk_reader()
        self._await_body(STREAMING)
        try:
            chunks.feed(body)
        except (HttpParserError, HttpParserUpgrade):
            self._end_broken(body, head, chunks)
            return
        if chunks.done:
            self._end_chunks(body, head, chunks)
        else:
            self.client.transport.write(head + body)

    def _await_body(self, phase: int) -> None:
        """The head is sent; the rest of the body comes when it comes."""
        self.phase = phase
        self.body = b""  # nothing is sent again from here on, and a long prompt need not live as long as its stream
        if self.upload is not None:
            self.upload.forget()
        self.deadline = self.engine.idle_horizon
        if self.client.write_paused and self.connection is not None:
            self.connection.pause_reading()

    def _end_broken(self, data: bytes, head: bytes, chunks: ChunkReader) -> None:
        """llhttp refuses `data`: what is behind the end of a body that is whole, or the body itself."""
        if chunks.done:
            chunks.extra = True
            self._end_chunks(data, head, chunks)
        else:
            self.forward(head)
            self._happen(Event.UPSTREAM_INVALID, ProxyError("upstream_invalid", "chunk framing"))

    def _end_chunks(self, data: bytes, head: bytes, chunks: ChunkReader) -> None:
        """The body ended inside `data`; `head` was not sent yet, if it is not empty."""
        if chunks.extra:
            self._end_with_surplus(data, head)
            return
        plain = data.endswith(LAST_CHUNK) or data in ENDS_OF_LAST_CHUNK
        if not plain:  # a trailer, or empty lines behind the end, which llhttp does not report
            data = trim_chunked_end(data)
        self.forward(head + data if head else data)
        self.succeed(reusable=plain)

    def _end_with_surplus(self, data: bytes, head: bytes) -> None:
        """The body ended inside `data`. The surplus is dropped, and the connection is not used again."""
        # Where it ended can only be told of a body that came whole: further reads may begin inside a chunk, whose bytes
        # can look like a last chunk. An answer that would end at the wrong byte is cut.
        end = chunked_end(data) if head else None
        if end is None:
            self._happen(Event.UPSTREAM_INVALID, ProxyError("upstream_invalid", "bytes after the response"))
        else:
            self.forward(head + data[:end])
            self.succeed(reusable=False)

    def _decode(self, data: bytes, decoder: BodyReader) -> None:
        """A chunked answer for a client that knows no chunks."""
        try:
            body = decoder.feed(data)
        except (HttpParserError, ProxyError):
            self._happen(Event.UPSTREAM_INVALID, ProxyError("upstream_invalid", "chunk framing"))
            return
        if body:
            self.forward(body)
        if decoder.done:
            self.succeed(reusable=False)

    def forward(self, data: bytes) -> None:
        """Pass bytes of the answer on, now or gathered with those that follow in this pass of the loop."""
        gatherer = self.gatherer
        due = data if gatherer is None else gatherer.add(data)
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

    # -- what the table says

    def _happen(self, event: Event, error: ProxyError | None = None) -> None:
        """Something happened that is not the hot path's."""
        action, code, detail = step(event, self.phase)
        if error is None and code:
            error = ProxyError(code, detail)
        _ACTIONS[action](self, error)

    def _retry(self, error: ProxyError) -> None:
        attempt, engine = self.attempt, self.engine
        connection = self.connection
        sent, heard = connection is not None, self.phase == HEARD
        stale = connection is not None and connection.used > 0 and error.kind.code == "upstream_closed" and not heard
        self._let_go()
        tried = self.tried = self.tried or []
        following = after(
            sent=sent,
            heard=heard,
            stale=stale,
            replayable=self.upload is None or self.upload.replayable,
            idempotent=self.request.traits.idempotent or engine.settings.retry_all,
            asked=len(tried) + 1,
            elapsed=perf_counter() - self.started,
            limits=engine.settings.retry_limits,
        )
        same = following is Next.SAME_ENDPOINT
        if stale:
            assert connection is not None
            attempt.route.pool.closed_by_endpoint(connection)
            attempt.stale(again=same)
        else:
            attempt.failed(responding=False)
            tried.append(attempt.route.endpoint)
        if following is Next.GIVE_UP:
            self._answer(error)
            return
        self.phase = RETRYING
        self.deadline = NEVER
        self.failure = error
        if attempt is self.own_attempt:  # from here on the loop knows it, too
            self.own_attempt = Attempt(engine, self)
        engine.loop.call_soon(self._try_again, attempt, same)

    def _cut(self, error: ProxyError) -> None:
        attempt = self.attempt
        if self.flush_pending:
            self._flush()
        self._let_go()
        attempt.failed(responding=True)
        self._end_aborted()

    def _finish(self, error: ProxyError | None) -> None:
        self.succeed(reusable=False)

    def _refuse(self, error: ProxyError) -> None:
        self._withdraw(by_client=error.kind.blame == "client")
        self._answer(error)

    def _abort(self, error: ProxyError | None) -> None:
        self._withdraw(by_client=error is None or error.kind.blame == "client")
        self._end_aborted()

    def _leave(self, error: ProxyError | None) -> None:
        self._withdraw(by_client=True)
        self.engine.stats.record_client_disconnected()
        self._log("client_disconnected")
        self._recycle()

    def _withdraw(self, by_client: bool) -> None:
        attempt, phase = self.attempt, self.phase
        if self.flush_pending:
            self.flush_pending = False
            if self.gatherer:
                self.gatherer.take()  # nobody is left who could take it
        if attempt is not None and phase != RETRYING and phase != DRAINING:  # there it has ended
            self._let_go()
            attempt.withdrawn(by_client)

    def _let_go(self) -> None:
        """Give up the connection, or the wait for one."""
        connection, attempt = self.connection, self.attempt
        if connection is not None:
            self.connection = None
            if connection.exchange is self:  # else it is lost, and told us so
                attempt.route.pool.discard(connection)
        elif attempt.waiting:
            attempt.route.pool.cancel(attempt)

    # -- ends

    def succeed(self, reusable: bool) -> None:
        """The answer came whole. `reusable`: nothing but the answer came over the upstream's connection."""
        attempt, connection, response = self.attempt, self.connection, self.response
        assert connection is not None
        if self.flush_pending:
            self._flush()
        engine, client = self.engine, self.client
        attempt.served(response.status)
        self.connection = None
        if reusable and response.keep_alive and (self.upload is None or self._upload_sent(self.upload, connection)):
            if connection.reading_paused:
                connection.resume_reading()
            attempt.route.pool.release(connection, engine.now, response.length)
        elif connection.exchange is self:
            attempt.route.pool.discard(connection)
        if client.transport.get_write_buffer_size():
            self._drain()
            return
        engine.stats.record_success(perf_counter() - self.started, response.status)
        if engine.access_log is not None:
            self._log("success")
        keep_alive = self.keep_alive
        self._recycle()
        client.exchange_done(keep_alive)

    def _answer(self, error: ProxyError) -> None:
        """Tell the client of a failure; the attempt, if there was one, has ended."""
        self.failure = error
        complete = self.upload is None or self.upload.complete
        traits = self.request.traits
        self.keep_alive = traits.keep_alive and complete and not error.kind.close and not self.engine.stopping
        self.client.answer(error, self.request, self.request_id, self.keep_alive)
        if self.client.transport.get_write_buffer_size():
            self._drain()
        else:
            self._taken()

    def _drain(self) -> None:
        self.phase = DRAINING
        self.deadline = NEVER  # the client's `write_timeout` runs
        self.client.await_drained()

    def _taken(self) -> None:
        """The client's kernel has all of the answer, after a while (else `succeed` does this), or all of an error."""
        stats, seconds = self.engine.stats, perf_counter() - self.started
        if self.failure is None:
            stats.record_success(seconds, self.response.status)
            self._log("success")
        else:
            stats.record_failure(seconds)
            self._log("failed")
        client, keep_alive = self.client, self.keep_alive
        self._recycle()
        client.exchange_done(keep_alive)

    def _end_aborted(self) -> None:
        """The answer cannot be ended: cut the client, so that nobody takes it for whole."""
        self.engine.stats.record_failure(perf_counter() - self.started)
        self._log("failed")
        client = self.client
        unframed = self.decoder is not None or (self.response is not None and self.response.length == UNTIL_CLOSE)
        self._recycle()
        client.abort(reset=unframed)

    def _log(self, outcome: str) -> None:
        """One line of the access log: the status that the client was sent, and the endpoint that was asked last."""
        access_log = self.engine.access_log
        if access_log is None:
            return
        status = 0
        if self.response is not None:
            status = self.response.status
        elif self.failure is not None and self.phase != RETRYING:
            status = self.failure.kind.status
        access_log.record(
            client=self.client.address,
            method=self.request.traits.method.decode("ascii").rstrip(),
            target=self.request.target.decode("latin-1"),
            status=status,
            outcome=outcome,
            endpoint="" if self.attempt is None else self.attempt.route.endpoint.name,
            seconds=perf_counter() - self.started,
            request_id=self.request_id.decode("ascii"),
        )

    def _recycle(self) -> None:
        """Forget everything and go back to the pool. Nothing may touch this exchange afterwards."""
        self.phase = OVER
        self.attempt = None  # type: ignore[assignment]
        self.tried = None
        self.failure = None
        self.response = None  # type: ignore[assignment]
        self.deadline = self.ends_at = NEVER
        self.body = b""
        self.upload = None
        self.remaining = 0
        self.chunks = None
        if self.decoder is not None:
            self.decoder.close()
            self.decoder = None
        self.contexts.put(self)

    def __repr__(self) -> str:
        return f"<Exchange {PHASE_NAMES[self.phase]} {self.attempt}>"


_ACTIONS: dict[Action, Callable[[Exchange, Any], None]] = {
    Action.RETRY: Exchange._retry,
    Action.CUT: Exchange._cut,
    Action.FINISH: Exchange._finish,
    Action.REFUSE: Exchange._refuse,
    Action.ABORT: Exchange._abort,
    Action.LEAVE: Exchange._leave,
}
