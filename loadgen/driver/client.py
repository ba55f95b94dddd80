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
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, NamedTuple

import gevent
from gevent import monkey
from greenlet import GreenletExit, getcurrent

from loadgen.driver.job import Job, SlowRead
from loadgen.driver.rows import (
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
from loadgen.driver.stream import (
    NEVER,
    BodyScanner,
    BoundaryScanner,
    MockHead,
    ResponseReader,
    Scanner,
    Truncated,
    WrongReply,
    is_event_stream,
    mock_head,
)
from loadgen.driver.timer import Timer

# Locust has patched these modules by now; our sockets and polls are the kernel's own.
_Socket: Any = monkey.get_original("socket", "socket")
_getaddrinfo: Any = monkey.get_original("socket", "getaddrinfo")
_poll: Any = monkey.get_original("select", "poll")

_READ: Final = 1  # libev's event mask
_WRITE: Final = 2
_READ_SIZE: Final = 65536
_KEPT: Final = 16384  # bytes of the beginning of each reply, for the file of a wrong one
_UNEXPECTED: Final = select.POLLIN | getattr(select, "POLLRDHUP", 0)  # errors and hang-ups are always reported
_NOTHING_SAID: Final = MockHead(None, NEVER, NEVER, NEVER, None)


class Request(NamedTuple):
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
    """All connections of one driver process to one address, and the rows of what was done with them.

    Mutable state of one hub. `sent`, `done`, `failed`, `cancelled`, `events` and `bytes_in` are running totals.
    `keep_wrong` is called with (request number, beginning of the reply) for each wrong reply.
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
        self._idle: list[_Connection] = []  # the last one used is used next: it is the least likely to be stale
        self._open = 0
        self._connections = 0
        self._waiting: deque[_Exchange] = deque()
        self._timeout_ns = round(job.timeout_s * 1e9)
        self._running: dict[_Exchange, int] = {}  # -> deadline; begun in order, so in the order of their deadlines
        self._sweep: list[Any] | None = None
        host, port = job.host_port
        found = _getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]

    @property
    def in_flight(self) -> int:
        """Requests taken up and not yet ended."""
        return len(self._running)

    def exchange(self, request: Request) -> int:
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
        while self._idle:
            self._forget(self._idle.pop())

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

    # --- connections ---

    def acquire(self, exchange: _Exchange, slow: SlowRead | None) -> _Connection:
        """A connection from the pool or a new one; waits if all that are allowed are busy. Raises OSError."""
        while True:
            while self._idle and slow is None:
                connection = self._idle.pop()
                if connection.usable():
                    return connection
                self._forget(connection)
            if not self.job.connections or self._open < self.job.connections:
                return self._connect(slow)
            if self._idle:  # a slow reader wants a socket of its own: room is made for it
                self._forget(self._idle.pop())
                continue
            exchange.waits = True
            self._waiting.append(exchange)
            try:
                self.hub.switch()
            finally:
                exchange.waits = False

    def release(self, connection: _Connection, *, reusable: bool) -> None:
        """Takes a connection back."""
        if reusable:
            self._idle.append(connection)
            self._let_one_in()
        else:
            self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        connection.close()
        self._open -= 1
        self._let_one_in()

    def _let_one_in(self) -> None:
        if self._waiting:
            self.hub.loop.run_callback(self._resume)

    def _resume(self) -> None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.waits:  # else it was stopped meanwhile
                exchange.greenlet.switch()
                return

    def _connect(self, slow: SlowRead | None) -> _Connection:
        sock = _Socket(self._family, socket.SOCK_STREAM)
        self._open += 1
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if slow is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, slow.receive_buffer)
            code = sock.connect_ex(self._address)
            if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                self.wait(sock.fileno(), _WRITE)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:  # a time limit may be thrown in here too: the socket must not stay open
            sock.close()
            self._open -= 1
            self._let_one_in()
            raise
        self._connections += 1
        return _Connection(sock, self._connections, self.hub.loop)

    def wait(self, fd: int, events: int) -> None:
        """Lets other greenlets run until the kernel reports one of `events` for `fd`."""
        watcher = self.hub.loop.io(fd, events)
        watcher.start(getcurrent().switch)
        try:
            self.hub.switch()
        finally:
            watcher.stop()
            watcher.close()


class Stopped(Exception):
    """Thrown into an exchange that must end now; carries the outcome and the text for its row."""

    def __init__(self, outcome: int, error: str) -> None:
        super().__init__(error)
        self.outcome = outcome
        self.error = error


class _Leave(Exception):
    """The client disconnects, as it was asked to."""


class _Connection:
    """A connected socket with its watcher: used by one exchange at a time, or idle in the pool."""

    __slots__ = ("_poll", "_sock", "fd", "number", "recv", "send", "uses", "watcher")

    def __init__(self, sock: Any, number: int, loop: Any) -> None:
        self._sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.uses = 0
        self.recv = sock.recv
        self.send = sock.send
        self.watcher = loop.io(self.fd, _READ)
        self._poll = _poll()
        self._poll.register(self.fd, _UNEXPECTED)

    def usable(self) -> bool:
        """Whether it is open and silent: an idle connection has nothing to say but that it was closed."""
        return not self._poll.poll(0)

    def close(self) -> None:
        self.watcher.stop()
        self.watcher.close()
        self._sock.close()


class _Exchange:
    """One request and its reply: what happens in which order, and what is remembered of it for its row."""

    __slots__ = (
        "client",
        "connection",
        "digest_ok",
        "dispatched_ns",
        "end_ns",
        "error",
        "first_byte_ns",
        "greenlet",
        "kept",
        "kept_size",
        "outcome",
        "reader",
        "reads",
        "request",
        "said",
        "scanner",
        "sent_bytes",
        "sent_ns",
        "waits",
    )

    def __init__(self, client: Client, request: Request) -> None:
        self.dispatched_ns = monotonic_ns()
        self.client = client
        self.request = request
        self.greenlet = getcurrent()
        self.waits = False
        self.connection: _Connection | None = None
        self.sent_ns = NEVER
        self.sent_bytes = 0
        self.first_byte_ns = NEVER
        self.end_ns = NEVER
        self.reads = 0
        self.reader: ResponseReader | None = None
        self.scanner: Scanner | None = None
        self.said = _NOTHING_SAID
        self.kept: list[bytes] = []
        self.kept_size = 0
        self.outcome = OK
        self.error: str | None = None
        self.digest_ok = NEVER

    def run(self) -> None:
        """From taking a connection to judging the reply. Raises only GreenletExit."""
        slow = self.client.job.slow_read if self.request.slow else None
        connection: _Connection | None = None
        reusable = False
        try:
            connection = self.client.acquire(self, slow)
            connection.uses += 1
            self.connection = connection
            self._send(connection)
            if self.request.cancel_after == 0:
                raise _Leave
            self._receive(connection, slow)
            self._judge()
            reusable = slow is None and self._may_reuse()
        except Stopped as exc:
            self._fail(exc.outcome, exc.error)
        except _Leave:
            self._fail(CLIENT_CANCELLED, f"left after {self.request.cancel_after} events, as planned")
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
                self.client.release(connection, reusable=reusable)

    def _send(self, connection: _Connection) -> None:
        data = self.request.data
        self.client.sent += 1
        self.sent_ns = monotonic_ns()
        try:
            self.sent_bytes = connection.send(data)
        except BlockingIOError:
            self.sent_bytes = 0
        rest = memoryview(data)[self.sent_bytes :] if self.sent_bytes < len(data) else None
        while rest:
            self.client.wait(connection.fd, _READ | _WRITE)
            try:
                took = connection.send(rest)
            except BlockingIOError:
                return  # readable only: the server answers before it has read everything
            except (ConnectionResetError, BrokenPipeError):
                return  # it may have answered before it closed; if not, reading says so
            self.sent_bytes += took
            rest = rest[took:]

    def _receive(self, connection: _Connection, slow: SlowRead | None) -> None:
        client = self.client
        template = client.job.requests[self.request.template]
        cancel_after = self.request.cancel_after
        reader = self.reader = ResponseReader(template.method)
        watcher = connection.watcher
        recv = connection.recv
        size = _READ_SIZE if slow is None else slow.read_bytes
        switch = client.hub.switch
        watcher.start(self.greenlet.switch)
        try:
            while not reader.complete:
                switch()
                try:
                    data = recv(size)
                except BlockingIOError:
                    continue
                now = monotonic_ns()
                self.end_ns = now
                if not data:
                    reader.eof()
                    break
                if self.reads == 0:
                    self.first_byte_ns = now
                if self.kept_size < _KEPT:
                    self.kept.append(data)
                    self.kept_size += len(data)
                body = reader.feed(data)
                if body:
                    scanner = self.scanner
                    if scanner is None:
                        scanner = self._begin_body(template.stream)
                    scanner.feed(body, now, self.reads)
                    if 0 < cancel_after <= scanner.events and not reader.complete:
                        raise _Leave
                self.reads += 1
                if slow is not None and not reader.complete:
                    watcher.stop()
                    client.timer.sleep_until(now + len(data) * 1_000_000_000 // slow.bytes_per_s)
                    watcher.start(self.greenlet.switch)
        finally:
            watcher.stop()
            if reader.head:
                self.said = mock_head(reader.head)

    def _begin_body(self, stream: bool) -> Scanner:
        client = self.client
        assert self.reader is not None
        kind = BodyScanner if client.job.expected_events else BoundaryScanner
        if stream:
            trailer = 3 if is_event_stream(self.reader.head) else 2
            self.scanner = kind(self.request.number, client.event_sink, trailer)
        else:
            self.scanner = kind(stream=False)
        return self.scanner

    def _may_reuse(self) -> bool:
        assert self.reader is not None
        sent_all = self.sent_bytes == len(self.request.data)
        return self.reader.keep_alive and sent_all and self.client.job.keepalive

    def _judge(self) -> None:
        """Compares the complete reply with what the job expects and with what the mock stated."""
        assert self.reader is not None
        job = self.client.job
        expect = job.requests[self.request.template].expect
        status = self.reader.status
        if status != expect.status:
            self.outcome = REFUSED if status >= 400 else WRONG_REPLY
            self.error = f"status {status}, not {expect.status}"
            return
        scanner = self.scanner or BodyScanner(stream=False)  # a reply without a body has a digest too
        stated = self.said.digest if job.expected_events else None
        faults = []
        if stated is not None or expect.digest is not None:
            digest = scanner.digest()
            if stated is not None and digest != stated:
                faults.append("the digest is not the one in X-Mock-Digest")
            if expect.digest is not None and digest != expect.digest.encode():
                faults.append("the digest is not the one the scenario pins")
        if job.expected_events:
            if stated is None or self.said.events == NEVER:
                faults.append("no X-Mock-Digest or X-Mock-Events header")
            if fault := scanner.fault(self.said.events):
                faults.append(fault)
        if expect.events is not None and scanner.events != expect.events:
            faults.append(f"{scanner.events} events, not the {expect.events} the scenario expects")
        if stated is not None or expect.digest is not None:
            self.digest_ok = int(not faults)
        if faults:
            self.outcome = WRONG_REPLY
            self.error = "; ".join(faults)

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
        client, request, scanner, said = self.client, self.request, self.scanner, self.said
        events = scanner.events if scanner is not None else NEVER if self.reader is None else 0
        size = scanner.size if scanner is not None else 0
        client.done += 1
        client.bytes_in += size
        client.events += max(events, 0)
        if self.outcome != OK:
            self._count_failure()
        client.rows.append(
            REQUEST_ROW.pack(
                request.number,
                NEVER if said.endpoint is None else client.rows.endpoints.code(said.endpoint),
                request.intended_ns,
                self.sent_ns,
                self.first_byte_ns,
                NEVER if scanner is None else scanner.first_event_ns,
                self.end_ns,
                NEVER if self.reader is None else self.reader.status,
                self.outcome,
                NEVER if self.error is None else client.rows.errors.code(self.error),
                size,
                max(self.sent_bytes - len(request.data) + request.body_size, 0),
                events,
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
