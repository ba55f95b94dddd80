"""Plays tapes on time over raw protocols. The only part of the mock whose speed matters.

What a request costs is mostly the kernel's one read and one write. So: one object per connection, reused from request
to request; a request equal to the one before it is known by comparing bytes; clocks are joined between ready pieces;
one wheel and one alarm for all paced events; no task, future or timer per request.
"""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import from_json

from mock_backends.alarm import alarm
from mock_backends.counts import LATE_SLOTS, Counts, Disconnect
from mock_backends.dialects import DIALECTS, JSON, Ask, BadRequest
from mock_backends.pacing import Entry, Pace
from mock_backends.profile import Profile
from mock_backends.script import ScriptWriter
from mock_backends.strict import Refused
from mock_backends.tape import Tape, TapeLibrary
from mock_backends.wheel import Turn, Wheel
from mock_backends.wire import BadMessage, ChunkedBody, Head, date_of, find_head, read_head, response_head

_TURN = 64  # events a stream may write before others get their turn
_KEPT_REQUEST = 64 * 1024  # a longer request is not remembered for comparison
_READ_AHEAD = 256 * 1024  # a client that pipelines more than this is not read until its replies are out
_BACKLOG = 4096
_SENT = b"\r\nX-Mock-Sent-Ns: "
_BODY = b"\r\n\r\n"
_LAST_SLOT = LATE_SLOTS - 1
_NEVER = 1 << 62

Schedule = Callable[[int, Turn], None]
monotonic_ns = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a backend behaves: its profile, its seed, and the tapes made of both. Shared by those that behave alike."""

    profile: Profile
    seed: int
    library: TapeLibrary

    @classmethod
    def of(cls, profile: Profile, seed: int) -> Behaviour:
        """A behaviour with an empty library."""
        return cls(profile, seed, TapeLibrary(ScriptWriter(profile, seed)))


class Backend:
    """One mock server: a port, a behaviour, counts. Owned by its `Mocks`."""

    def __init__(self, name: str, behaviour: Behaviour, loop: asyncio.AbstractEventLoop, schedule: Schedule) -> None:
        self.name = name
        self.counts = Counts()
        self.connections: set[Connection] = set()
        self.schedule = schedule
        self.stamp = b""
        self.host, self.port = "", 0
        self.loop = loop
        self._server: asyncio.Server | None = None
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """Behaves so from the next request on. Clocks of changes and cold starts begin anew."""
        self.behaviour = behaviour
        self.profile = behaviour.profile
        self.library = behaviour.library
        self.base = Ask(b"", behaviour.profile.models[0])
        self.pace = Pace(behaviour.profile, monotonic_ns()) if Pace.needed(behaviour.profile) else None
        for connection in self.connections:
            connection.forget()

    async def listen(self, host: str, port: int) -> None:
        """Opens the port (0: any free one). Raises OSError."""
        self._server = await self.loop.create_server(lambda: Connection(self), host, port, backlog=_BACKLOG)
        self.host, self.port = self._server.sockets[0].getsockname()[:2]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def tick(self, date: bytes) -> None:
        """Once a second: the date, and what else of the head belongs to the backend."""
        self.stamp = b"Date: %b\r\nX-Mock-Endpoint: %b\r\nX-Mock-Recv-Ns: " % (date, self.name.encode())

    def close(self) -> None:
        """Closes the port and every connection."""
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.abort()

    def metrics(self) -> bytes:
        """What vLLM's /metrics says, as far as a mock can know it."""
        c = self.counts
        model = json.dumps(self.profile.models[0])
        rows = [
            ("num_requests_running", "gauge", c.active - c.queued),
            ("num_requests_waiting", "gauge", c.queued),
            ("prompt_tokens_total", "counter", c.prompt_tokens),
            ("generation_tokens_total", "counter", c.output_tokens),
            ("request_success_total", "counter", c.requests - c.refused - c.active),
        ]
        return "".join(
            f"# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name={model}}} {value}\n" for name, kind, value in rows
        ).encode()


class Connection(asyncio.Protocol):
    """One client connection, and the reply it is playing. Reused from request to request."""

    __slots__ = (
        "_backend",
        "_base",
        "_behind",
        "_block",
        "_body",
        "_buffer",
        "_busy",
        "_chunked",
        "_close_after",
        "_counts",
        "_due",
        "_entered",
        "_head",
        "_head_sent",
        "_last_body",
        "_last_head",
        "_next",
        "_paused",
        "_recv",
        "_remembered",
        "_seen",
        "_straight",
        "_tape",
        "_transport",
        "_write",
    )

    _transport: asyncio.Transport
    _tape: Tape

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._counts = backend.counts
        self._buffer = bytearray()
        self._busy = False  # a reply is being played, drained or queued
        self._paused = False  # the client does not read
        self._behind = False  # and so its events are late through no fault of ours
        self._seen: bytes | None = None  # the last request, while the next one could be answered the same way
        self._remembered: bytes | None = None  # it becomes `_seen` when the reply is over
        self._straight = False  # the remembered request is answered at once, in one piece
        self._block = b""  # the last head as bytes, so that an equal one is not read again
        self._last_head: Head | None = None
        self._last_body: bytes | None = None
        self._head: Head | None = None  # of the request whose body is still arriving
        self._chunked: ChunkedBody | None = None
        self._close_after = False
        self._recv = self._base = self._due = self._next = 0
        self._head_sent = False
        self._entered: Pace | None = None

    # --- the connection -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came. High water is the usual 64 KiB; writing resumes when all is out (see `_finish`)."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=65536, low=0)
        self._backend.connections.add(self)
        self._counts.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed."""
        self._backend.connections.discard(self)
        self._counts.connections -= 1
        if self._busy:
            self._disconnected()

    def pause_writing(self) -> None:
        """More than the high water mark is waiting for the client."""
        self._paused = self._behind = True

    def resume_writing(self) -> None:
        """Everything is out: catch up, or finish what waited for the last bytes to leave."""
        self._paused = False
        if not self._busy:
            return
        if self._next == self._tape.events:
            self._finish()
        elif self._due != _NEVER:
            self._go(monotonic_ns())

    def abort(self) -> None:
        """Ends the connection now."""
        self._transport.abort()

    def forget(self) -> None:
        """The behaviour changed: what was remembered of the last request holds no longer."""
        self._seen = self._remembered = self._last_body = None

    # --- requests -------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """`data` is ours to keep (bytes never change)."""
        if data == self._seen:
            recv = monotonic_ns()
            tape = self._tape
            if not self._straight:
                self._begin(tape, recv, recv)
                return
            counts = self._counts
            counts.requests += 1
            counts.events += 1
            counts.body_bytes += tape.body_bytes
            sent = b"%020d" % monotonic_ns()
            self._write(
                b"".join(
                    (
                        tape.head,
                        self._backend.stamp,
                        b"%020d" % recv,
                        _SENT,
                        sent,
                        _BODY,
                        tape.starts[0],
                        sent,
                        tape.last_tail,
                    )
                )
            )
            if self._paused:  # a reply larger than the buffers: it is over when it has left
                self._wait_until_out()
            return
        whole = not self._buffer and not self._head and not self._busy
        self._buffer += data
        if self._busy:
            if len(self._buffer) > _READ_AHEAD:
                self._transport.pause_reading()
            return
        self._remembered = self._seen = None
        self._read_request()
        if (
            whole
            and not self._buffer
            and self._head is None
            and len(data) <= _KEPT_REQUEST
            and self._last_body is not None
        ):
            self._remembered = data
            if not self._busy:
                self._seen = data

    def _read_request(self) -> None:
        """Reads one request from the buffer, if it is all there, and begins its reply."""
        buffer = self._buffer
        head = self._head
        try:
            if head is None:
                self._recv = monotonic_ns()
                while buffer.startswith(b"\r\n"):  # left by clients that end a body with an empty line
                    del buffer[:2]
                end = find_head(buffer)
                if not end:
                    return
                block = bytes(buffer[:end])
                del buffer[:end]
                if block == self._block and self._last_head is not None:
                    head = self._last_head
                else:
                    head = read_head(block)
                    self._block, self._last_head, self._last_body = block, head, None
                self._head = head
                self._chunked = ChunkedBody() if head.length < 0 else None
                if head.expects_continue and not buffer:
                    self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._chunked is not None:
                end = self._chunked.feed(buffer)
                if not end:
                    return
                body = bytes(self._chunked.body)
            else:
                end = head.length
                if len(buffer) < end:
                    return
                body = bytes(buffer[:end])
            del buffer[:end]
        except BadMessage as exc:
            self._close_after = True
            self._counts.requests += 1
            self._refuse(exc.status, json.dumps({"error": {"message": str(exc)}}).encode())
            return
        self._head = self._chunked = None
        self._close_after = not head.keep_alive or head.http10
        if body == self._last_body:
            self._begin(self._tape, self._recv, monotonic_ns())
        else:
            self._last_body = None
            self._answer(head, body)

    def _answer(self, head: Head, body: bytes) -> None:
        """Finds the reply to a request that is not the same as the one before it."""
        path = head.path
        dialect = DIALECTS.get(path)
        if dialect is None:
            self._counts.requests += 1
            self._answer_plainly(head)
            return
        if head.method != dialect.method and not (head.method == b"HEAD" and dialect.method == b"GET"):
            self._counts.requests += 1
            message = f"{path.decode()} takes {dialect.method.decode()}"
            self._refuse(405, dialect.error(405, message), b"Allow: " + dialect.method)
            return
        try:
            options: dict[str, Any] = dict(head.options)
            ask = self._backend.base._replace(path=path, **options)
            if dialect.generates:
                try:
                    fields = from_json(body, allow_inf_nan=False)
                except ValueError as exc:
                    raise BadRequest(f"the body is not JSON: {exc}") from exc
                if not isinstance(fields, dict):
                    raise BadRequest("the body must be a JSON object")
                ask = dialect.read(fields, ask)
            tape = self._backend.library.tape(ask, chunked=not head.http10, close=self._close_after)
        except BadRequest as exc:
            self._counts.requests += 1
            self._refuse(exc.status, dialect.error(exc.status, str(exc)))
            return
        if head.method == b"HEAD":
            self._counts.requests += 1
            self._write(self._whole_head(tape, self._recv))
            self._done()
            return
        self._straight = tape.one_piece and self._backend.pace is None and not self._close_after
        self._last_body = body
        self._begin(tape, self._recv, monotonic_ns())

    def _answer_plainly(self, head: Head) -> None:
        """The paths that belong to no dialect."""
        if head.path not in (b"/health", b"/metrics"):
            known = ", ".join(path.decode() for path in DIALECTS)
            message = f"no such path; this mock knows {known}, /health, /metrics"
            self._refuse(404, json.dumps({"error": {"message": message, "type": "not_found", "code": 404}}).encode())
        elif head.method not in (b"GET", b"HEAD"):
            self._refuse(405, json.dumps({"error": {"message": "GET only"}}).encode(), b"Allow: GET, HEAD")
        elif head.path == b"/health":
            self._reply(200, JSON, b'{"status":"ok"}', head_only=head.method == b"HEAD")
        else:
            text = b"text/plain; version=0.0.4; charset=utf-8"
            self._reply(200, text, self._backend.metrics(), head_only=head.method == b"HEAD")

    # --- replies --------------------------------------------------------------------------------------

    def _reply(self, status: int, kind: bytes, body: bytes, *fields: bytes, head_only: bool = False) -> None:
        """A reply that is no script's: at once, without clocks in it."""
        sent = monotonic_ns()
        head = response_head(status, kind, len(body), *fields, close=self._close_after)
        stamp = b"%b%020d%b%020d%b" % (self._backend.stamp, self._recv or sent, _SENT, sent, _BODY)
        self._write(head + stamp + (b"" if head_only else body))
        self._done()

    def _refuse(self, status: int, body: bytes, *fields: bytes) -> None:
        self._counts.refused += 1
        self._reply(status, JSON, body, *fields)

    def _whole_head(self, tape: Tape, recv: int) -> bytes:
        return b"%b%b%020d%b%020d%b" % (tape.head, self._backend.stamp, recv, _SENT, monotonic_ns(), _BODY)

    def _begin(self, tape: Tape, recv: int, now: int) -> None:
        """Starts to play `tape`: its offsets count from `now`, when the request was all here."""
        counts = self._counts
        counts.requests += 1
        counts.active += 1
        if counts.active > counts.peak:
            counts.peak = counts.active
        self._busy = True
        self._behind = False
        self._seen = None
        self._tape = tape
        self._recv = recv
        self._base = now
        self._next = 0
        self._head_sent = False
        pace = self._backend.pace
        if pace is not None:
            entry = pace.enter(self)
            if entry is Entry.FULL:
                self._turned_away()
                return
            self._entered = pace
            if entry is Entry.QUEUED:
                counts.queued += 1
                self._due = _NEVER
                return
            self._due = now + pace.loading(now) + int(tape.offsets[0] * pace.stretch(now))
        else:
            self._due = now + tape.offsets[0]
        self._go(now)

    def _leave_queue(self, pace: Pace, now: int) -> None:
        """The batched server has taken up a request that waited."""
        self._counts.queued -= 1
        self._due = now + pace.loading(now) + int(self._tape.offsets[0] * pace.stretch(now))
        self._go(now)

    def _go(self, now: int) -> None:
        """Plays now what is due, or asks for a turn when it will be."""
        if not self._head_sent and self._tape.stream and self._backend.profile.head_at == "accept":
            self._write(self._whole_head(self._tape, self._recv))
            self._head_sent = True
        if self._due <= now:
            self._play(now)
        else:
            self._backend.schedule(self._due, self._play)

    def _turned_away(self) -> None:
        """The queue is full."""
        self._counts.active -= 1
        self._busy = False
        assert self._last_head is not None  # of the request being refused
        dialect = DIALECTS[self._last_head.path]
        message = "the server is busy: its queue of waiting requests is full"
        self._refuse(dialect.busy, dialect.error(dialect.busy, message), b"Retry-After: 1")
        self._seen = self._remembered

    def _play(self, now: int) -> None:
        """Writes every event that is due, and asks for the next turn."""
        if not self._busy or self._paused or now < self._due:
            return  # asked for by a reply that is over, or before the client stopped reading
        tape = self._tape
        starts, offsets, tail, events = tape.starts, tape.offsets, tape.tail, tape.events
        counts = self._counts
        lateness = counts.held_back if self._behind else counts.lateness
        write = self._write
        i, due, base, pace = self._next, self._due, self._base, self._entered
        begun = i
        while True:
            stamp = monotonic_ns()
            piece = b"%b%020d%b" % (starts[i], stamp, tail) if i + 1 < events else self._last_piece(tape, i, stamp)
            if not self._head_sent:
                self._head_sent = True
                piece = b"%b%b%020d%b%020d%b%b" % (
                    tape.head, self._backend.stamp, self._recv, _SENT, stamp, _BODY, piece
                )  # fmt: skip
            write(piece)
            late = (stamp - due) >> 14
            lateness[late if late < _LAST_SLOT else _LAST_SLOT] += 1
            i += 1
            if i == events:
                break
            if pace is None:
                due = base + offsets[i]
            else:
                due += int((offsets[i] - offsets[i - 1]) * pace.stretch(stamp))
            if due > stamp or self._paused or i - begun >= _TURN:
                self._next, self._due = i, due
                counts.events += i - begun
                if due > stamp:
                    self._behind = False
                if not self._paused:
                    self._backend.schedule(due if due > stamp else stamp, self._play)
                return
        counts.events += i - begun
        self._next = i
        if not self._paused:
            self._finish()

    def _last_piece(self, tape: Tape, i: int, stamp: int) -> bytes:
        digits = b"%020d" % stamp
        if tape.split == 20:
            return tape.starts[i] + digits + tape.last_tail
        return b"".join((tape.starts[i], digits[: tape.split], tape.middle, digits[tape.split :], tape.last_tail))

    def _wait_until_out(self) -> None:
        """A reply in one piece was larger than what the client takes at once: `_finish` counts its bytes."""
        self._busy = True
        self._seen = None
        self._next = 1
        self._counts.active += 1
        self._counts.body_bytes -= self._tape.body_bytes

    def _finish(self) -> None:
        """The reply is out."""
        counts = self._counts
        counts.active -= 1
        counts.body_bytes += self._tape.body_bytes
        self._leave()
        self._busy = False
        self._seen = self._remembered
        self._done()

    def _done(self) -> None:
        """A reply of any kind is out: close, or see what else arrived meanwhile."""
        if self._close_after:
            self._transport.close()
        elif self._buffer:
            # Not at once: a pipelining client must not make us recurse.
            self._backend.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._busy and not self._transport.is_closing():
            self._transport.resume_reading()
            self._seen = self._remembered = None
            self._read_request()

    def _leave(self) -> None:
        """Gives the place in the batch, or in the queue, back."""
        pace = self._entered
        if pace is None:
            return
        self._entered = None
        now = monotonic_ns()
        if self._due == _NEVER:
            self._counts.queued -= 1
        successor = pace.leave(self, now)
        if isinstance(successor, Connection):
            successor._leave_queue(pace, now)

    def _disconnected(self) -> None:
        """The client left before the end of its reply."""
        counts = self._counts
        self._busy = False
        counts.active -= 1
        counts.disconnects_total += 1
        path = self._last_head.path.decode("latin-1") if self._last_head else ""
        counts.disconnects.append(Disconnect(monotonic_ns(), counts.requests, path, self._next))
        counts.body_bytes += sum(map(len, self._tape.starts[: self._next]))
        self._leave()


class Mocks:
    """K backends in one process, on one loop, with one wheel."""

    def __init__(self, behaviour: Behaviour, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wheel = Wheel()
        self._alarm = alarm(loop, self._ring)
        self._running = False
        self.backends = [Backend(f"mock-{i}", behaviour, loop, self._schedule) for i in range(count)]
        self._ticker: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> None:
        """Opens consecutive ports from `port`, or any free ones if it is 0. Raises `Refused` if one is in use."""
        self._tick()
        for i, backend in enumerate(self.backends):
            await opened(backend.listen(host, port + i if port else 0), host, port + i if port else 0)

    def _schedule(self, due: int, turn: Turn) -> None:
        if self._wheel.add(due, turn) and not self._running:
            self._alarm.set(self._wheel.next)

    def _ring(self) -> None:
        self._running = True  # set the alarm once, after all turns
        self._wheel.run(monotonic_ns())
        self._running = False
        if self._wheel.next:
            self._alarm.set(self._wheel.next)

    def _tick(self) -> None:
        date = date_of(time.time())
        for backend in self.backends:
            backend.tick(date)
        self._ticker = self._loop.call_later(1.0, self._tick)

    def close(self) -> None:
        """Closes everything."""
        if self._ticker:
            self._ticker.cancel()
        self._alarm.close()
        for backend in self.backends:
            backend.close()


async def opened(opening: Awaitable[None], host: str, port: int) -> None:
    """Awaits the opening of a port; says in one sentence why it could not be opened."""
    try:
        await opening
    except OSError as exc:
        reason = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be opened: {exc.strerror or exc}"
        raise Refused(f"port {port} of {host} {reason}; choose another --port, or 0 for any free one") from exc
