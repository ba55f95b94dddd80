"""Sends one request and reads its reply: raw non-blocking sockets on gevent's loop, integer-nanosecond stamps.

Theory of operation. `exchange` is a plain function from top to bottom, run in a greenlet: where it must wait for a
socket it starts the connection's watcher and switches to the hub, which switches back when the kernel reports the
socket. There is no gevent socket between (each of its reads tries, fails with an exception, and waits), no Timeout
object (one deadline queue for all requests, as they all have the same time limit) and nothing that rounds times.

Stamps are CLOCK_MONOTONIC: `dispatched` when the driver took the request up, `sent` just before the first byte was
handed to the kernel, `first_byte` and each event when the read that brought it returned, `end` when the last one did.

Nothing is ever retried. A keep-alive connection that the server has closed is not used: whether it is readable is
checked before each use. If it closes in the very moment the request is sent, that is a `reset` and the row says so.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, NamedTuple

import gevent
from greenlet import GreenletExit, getcurrent

from loadgen.driver import tls
from loadgen.driver.connections import READ, WRITE, Connection, Pool, wait
from loadgen.driver.timer import Timer
from loadgen.wire.rows import (
    CLIENT_CANCELLED,
    OK,
    REFUSED,
    REQUEST_ROW,
    RESET,
    TIMEOUT,
    TRUNCATED,
    WRONG_REPLY,
    EventRows,
    RequestRows,
)
from loadgen.wire.stream import (
    NEVER,
    BodyScanner,
    BoundaryScanner,
    MockHead,
    ResponseReader,
    Scanner,
    TokenScanner,
    Truncated,
    WrongReply,
    is_event_stream,
    mock_head,
)
from loadgen.wire.verdict import Judge
from loadgen.wire.whole import WholeReplies, WholeReply
from loadgen.workload.job import Job, SlowRead

_READ_SIZE: Final = 65536
_KEPT_READS: Final = 16  # of the beginning of each reply, for the file of a wrong one
_KEPT: Final = 16384  # bytes of them that go to the file
_NOTHING_SAID: Final = MockHead(None, NEVER, NEVER, NEVER, None)


class ToSend(NamedTuple):
    """One request to be sent. `intended_ns` is NEVER in closed loop; `cancel_after` (events) NEVER: to the end."""

    number: int
    template: int
    data: bytes
    body_size: int
    intended_ns: int = NEVER
    warmup: bool = False
    cancel_after: int = NEVER
    slow: bool = False


class Client:
    """Sends a job's requests to its address and writes down what became of each.

    Mutable state of one hub. `sent`, `done`, `failed`, `cancelled`, `events` and `bytes_in` are running totals.
    `keep_wrong` is called with (request number, beginning of the reply) for each wrong reply. Raises OSError if the
    job's address cannot be resolved.
    """

    def __init__(
        self,
        job: Job,
        rows: RequestRows,
        events: EventRows | None,
        timer: Timer,
        keep_wrong: Callable[[int, bytes], object] | None = None,
    ) -> None:
        self.sent = 0
        self.done = 0
        self.failed = 0
        self.cancelled = 0
        self.events = 0
        self.bytes_in = 0
        self.job = job
        self.rows = rows
        self.event_sink = None if events is None else events.append
        self.timer = timer
        self.keep_wrong = keep_wrong
        self.hub = gevent.get_hub()
        self.pool = Pool(*job.host_port, job.connections, tls.context(job.ca) if job.secure else None)
        self.judges = [Judge(template, from_mock=job.expected_events, real=job.tokens) for template in job.requests]
        whole = WholeReplies() if job.expected_events else None
        self.whole = [None if template.stream or template.method == "HEAD" else whole for template in job.requests]
        self._timeout_ns = round(job.timeout_s * 1e9)
        self._running: dict[_Exchange, int] = {}  # -> deadline; begun in order, so in the order of their deadlines
        self._sweep: list[Any] | None = None

    @property
    def in_flight(self) -> int:
        """Requests taken up and not yet ended."""
        return len(self._running)

    def exchange(self, request: ToSend) -> int:
        """Sends `request`, reads the reply, adds one row and returns its outcome (a number of `rows.OUTCOMES`).

        Runs in a greenlet; raises only GreenletExit, when that is killed, and adds the row all the same.
        """
        exchange = _Exchange(self, request)
        deadline = exchange.dispatched_ns + self._timeout_ns
        self._running[exchange] = deadline
        if self._sweep is None and self._timeout_ns:
            self._sweep = self.timer.at(deadline, self._expire)
        try:
            exchange.run()
        finally:
            del self._running[exchange]
            exchange.add_row()
        return exchange.outcome

    def stop_all(self, outcome: int, error: str) -> None:
        """Ends every exchange at the next turn of the loop; each adds its row with `outcome` and `error`."""
        for exchange in list(self._running):
            self.hub.loop.run_callback(self._stop, exchange, Stopped(outcome, error))

    def close(self) -> None:
        """Closes the idle connections. Exchanges still running keep theirs."""
        if self._sweep is not None:
            self.timer.cancel(self._sweep)
        self.pool.close()

    def _stop(self, exchange: _Exchange, why: Stopped) -> None:
        if exchange in self._running:
            exchange.greenlet.throw(why)

    def _expire(self) -> None:
        """Ends what is over its time: looks at the first few only, as deadlines are in order."""
        now = monotonic_ns()
        self._sweep = None
        while self._running:
            exchange, deadline = next(iter(self._running.items()))
            if deadline > now:
                self._sweep = self.timer.at(deadline, self._expire)
                return
            self._stop(exchange, Stopped(TIMEOUT, f"not complete after {self.job.timeout_s:g} s"))


class Stopped(Exception):
    """Thrown into an exchange that must end now; carries the outcome and the text for its row."""

    def __init__(self, outcome: int, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


class _Leave(Exception):
    """The client disconnects, as it was asked to."""


class _Exchange:
    """One request and its reply: what happens in which order, and what is remembered of it for its row."""

    __slots__ = (
        "bytes_in",
        "client",
        "connection",
        "digest_ok",
        "dispatched_ns",
        "end_ns",
        "error",
        "events",
        "first_byte_ns",
        "first_event_ns",
        "greenlet",
        "kept",
        "outcome",
        "reads",
        "request",
        "said",
        "sent_bytes",
        "sent_ns",
        "status",
    )

    def __init__(self, client: Client, request: ToSend) -> None:
        self.dispatched_ns = monotonic_ns()
        self.client = client
        self.request = request
        self.greenlet = getcurrent()
        self.connection: Connection | None = None
        self.sent_ns = self.first_byte_ns = self.first_event_ns = self.end_ns = NEVER
        self.status = self.events = self.digest_ok = NEVER
        self.sent_bytes = self.bytes_in = self.reads = 0
        self.said = _NOTHING_SAID
        self.kept: list[bytes] = []
        self.outcome = OK
        self.error: str | None = None

    def run(self) -> None:
        """From taking a connection to judging the reply. Raises only GreenletExit."""
        client, request = self.client, self.request
        slow = client.job.slow_read if request.slow else None
        connection: Connection | None = None
        reusable = False
        try:
            connection = self.connection = client.pool.acquire(None if slow is None else slow.receive_buffer)
            connection.uses += 1
            self._send(connection)
            if request.cancel_after == 0:
                raise _Leave
            reusable = self._receive(connection, slow) and slow is None and client.job.keepalive
            reusable = reusable and self.sent_bytes == len(request.data)
        except Stopped as exc:
            self._fail(exc.outcome, exc.error)
        except _Leave:
            self._fail(CLIENT_CANCELLED, f"left after {request.cancel_after} events, as planned")
        except WrongReply as exc:
            self._fail(WRONG_REPLY, str(exc))
        except Truncated as exc:
            self._fail(*(self._no_reply("closed") if self.first_byte_ns == NEVER else (TRUNCATED, str(exc))))
        except OSError as exc:
            self._fail(*self._what_the_system_said(exc))
        except GreenletExit:
            self._fail(CLIENT_CANCELLED, "the user was stopped")
            raise
        finally:
            if connection is not None:
                client.pool.release(connection, reusable=reusable)

    def _send(self, connection: Connection) -> None:
        data = self.request.data
        self.client.sent += 1
        self.sent_ns = monotonic_ns()
        try:
            self.sent_bytes = connection.send(data)
        except BlockingIOError:
            self.sent_bytes = 0
        rest = memoryview(data)[self.sent_bytes :] if self.sent_bytes < len(data) else None
        while rest:
            connection.rest()
            wait(connection.fd, READ | WRITE)
            try:
                took = connection.send(rest)
            except BlockingIOError:
                return  # readable only: the server answers before it has read everything
            except (ConnectionResetError, BrokenPipeError):
                return  # it may have answered before it closed; if not, reading says so
            self.sent_bytes += took
            rest = rest[took:]

    def _receive(self, connection: Connection, slow: SlowRead | None) -> bool:
        """Reads the whole reply and judges it; returns whether the connection may be used again."""
        client, request = self.client, self.request
        whole = client.whole[request.template] if slow is None and request.cancel_after == NEVER else None
        reader = ResponseReader(client.job.requests[request.template].method) if whole is None else None
        scanner: Scanner | None = None
        size = _READ_SIZE if slow is None else slow.read_bytes
        recv, switch = connection.recv, client.hub.switch
        connection.watch(self.greenlet.switch)
        try:
            while True:
                switch()
                try:
                    data = recv(size)
                except BlockingIOError:
                    continue
                now = self.end_ns = monotonic_ns()
                if self.reads == 0 and data:
                    self.first_byte_ns = now
                    if whole is not None and (reply := whole.read(data)) is not None:
                        return self._judge_whole(reply, data)
                if reader is None:
                    reader = ResponseReader(client.job.requests[request.template].method)
                if not data:
                    reader.eof()
                    break
                if self.reads < _KEPT_READS:
                    self.kept.append(data)
                body = reader.feed(data)
                if body:
                    if scanner is None:
                        scanner = self._scanner(reader.head)
                    scanner.feed(body, now, self.reads)
                    if 0 < request.cancel_after <= scanner.events and not reader.complete:
                        raise _Leave
                self.reads += 1
                if reader.complete:
                    break
                if slow is not None:
                    connection.rest()
                    client.timer.sleep_until(now + len(data) * 1_000_000_000 // slow.bytes_per_s)
                    connection.watch(self.greenlet.switch)
        finally:
            if reader is not None and reader.head:
                self._note(reader, scanner)
        self._judge(scanner or BodyScanner(stream=False))  # a reply without a body has a digest too
        return reader.keep_alive

    def _scanner(self, head: bytes) -> Scanner:
        client = self.client
        kind = BodyScanner if client.job.expected_events else BoundaryScanner
        if not client.job.requests[self.request.template].stream:
            return kind(stream=False)
        if client.job.tokens:
            return TokenScanner(self.request.number, client.event_sink)
        return kind(self.request.number, client.event_sink, trailer=3 if is_event_stream(head) else 2)

    def _note(self, reader: ResponseReader, scanner: Scanner | None) -> None:
        """Takes over what came of the reply, complete or not."""
        self.status = reader.status
        self.said = mock_head(reader.head)
        self.events = 0
        if scanner is not None:
            self.events = scanner.events
            self.bytes_in = scanner.size
            self.first_event_ns = scanner.first_event_ns

    def _judge(self, scanner: Scanner) -> None:
        judge = self.client.judges[self.request.template].judge
        order = scanner.fault(self.said.events)
        self.outcome, self.error, self.digest_ok = judge(self.status, self.said, self.events, scanner.digest(), order)

    def _judge_whole(self, reply: WholeReply, data: bytes) -> bool:
        self.reads = 1
        self.status, keep_alive, self.said, self.bytes_in, self.events, digest = reply
        judge = self.client.judges[self.request.template].judge
        self.outcome, self.error, self.digest_ok = judge(self.status, self.said, self.events, digest, None)
        if self.outcome != OK:
            self.kept.append(data)
        return keep_alive

    def _fail(self, outcome: int, error: str) -> None:
        self.end_ns = monotonic_ns()
        self.outcome = outcome
        self.error = error

    def _no_reply(self, what: str) -> tuple[int, str]:
        again = self.connection is not None and self.connection.uses > 1
        return RESET, f"the connection was {what} before any reply" + (", on a connection used before" if again else "")

    def _what_the_system_said(self, exc: OSError) -> tuple[int, str]:
        text = exc.strerror or type(exc).__name__
        if exc.errno == errno.ETIMEDOUT:
            return TIMEOUT, text
        if self.connection is None:
            return REFUSED, f"no connection: {text}"
        if self.first_byte_ns == NEVER:
            return self._no_reply("reset" if exc.errno in (errno.ECONNRESET, errno.EPIPE) else f"lost ({text})")
        return RESET, f"the connection was reset in the middle of the reply: {text}"

    def add_row(self) -> None:
        """Writes down what happened."""
        client, request, said = self.client, self.request, self.said
        client.done += 1
        client.bytes_in += self.bytes_in
        if self.events > 0:
            client.events += self.events
        if self.outcome != OK:
            self._count_failure()
        client.rows.append(
            REQUEST_ROW.pack(
                request.number,
                NEVER if said.endpoint is None else client.rows.endpoints.code(said.endpoint),
                request.intended_ns,
                self.sent_ns,
                self.first_byte_ns,
                self.first_event_ns,
                self.end_ns,
                self.status,
                self.outcome,
                NEVER if self.error is None else client.rows.errors.code(self.error),
                self.bytes_in,
                max(self.sent_bytes - len(request.data) + request.body_size, 0),
                self.events,
                self.digest_ok,
                said.recv_ns,
                said.sent_ns,
                request.warmup,
                self.dispatched_ns,
                request.template,
                NEVER if self.connection is None else self.connection.number,
                self.reads,
            )
        )

    def _count_failure(self) -> None:
        if self.outcome == CLIENT_CANCELLED:
            self.client.cancelled += 1
            return
        self.client.failed += 1
        if self.outcome == WRONG_REPLY and self.client.keep_wrong is not None:
            self.client.keep_wrong(self.request.number, b"".join(self.kept)[:_KEPT])
