"""One client connection: finds requests, plays tapes on time. The only part of the mock whose speed matters.

What a request costs is mostly the kernel's one read and one write. So: one object per connection, reused from request
to request; a request equal to the one before it is known by comparing bytes; clocks are joined between ready pieces;
no task, future or timer per request (the wheel of `server` calls when something is due).
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from typing import TYPE_CHECKING, cast

from pydantic_core import from_json

from mock_backends.counts import LATE_SLOTS, Disconnect
from mock_backends.dialects import DIALECTS, JSON, TEXT, Ask, BadRequest, Dialect, error_event
from mock_backends.faults import Ending, Fault, spoil
from mock_backends.pacing import Entry, Pace
from mock_backends.tape import SILENCE, Tape
from mock_backends.wire import BadMessage, ChunkedBody, Head, Likeness, find_head, read_head, response_head

if TYPE_CHECKING:
    from mock_backends.server import Backend

_TURN = 64  # events a stream may write before others get their turn
_KEPT_BODY = 64 * 1024  # a longer one is not remembered for comparison
_READ_AHEAD = 256 * 1024  # a client that pipelines more than this is not read until its replies are out
_SENT = b"\r\nX-Mock-Sent-Ns: "
_BODY = b"\r\n\r\n"
_LAST_SLOT = LATE_SLOTS - 1
_NEVER = 1 << 62
_HEALTH = b"/health"
_METRICS = b"/metrics"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s

monotonic_ns = time.monotonic_ns


class Connection(asyncio.Protocol):
    """One client connection, and the reply it is playing. Reused from request to request."""

    __slots__ = (
        "_backend",
        "_base",
        "_behind",
        "_block",
        "_buffer",
        "_busy",
        "_chunked",
        "_close_after",
        "_counts",
        "_dialect",
        "_drip",
        "_due",
        "_entered",
        "_fault",
        "_head",
        "_head_sent",
        "_idle_until",
        "_last",
        "_last_body",
        "_last_head",
        "_next",
        "_paused",
        "_recv",
        "_seen",
        "_stop",
        "_straight",
        "_tape",
        "_transport",
        "_write",
    )

    _transport: asyncio.Transport

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._counts = backend.counts
        # The request.
        self._buffer = bytearray()
        self._block = b""  # the head that was read last, as bytes
        self._last_head: Head | None = None  # and as it was understood
        self._last: Likeness | None = None  # of the last request
        self._last_body: bytes | None = None  # its body, if it asked for `_tape`
        self._seen: Likeness | None = None  # `_last`, while the same request would be answered by `_tape` now
        self._straight = False  # and at once, in one piece
        self._head: Head | None = None  # of the request whose body is still arriving
        self._chunked: ChunkedBody | None = None
        self._recv = 0  # when the head was complete
        # The reply.
        self._tape = SILENCE
        self._busy = False  # a reply is being played, drained, held back by a fault, or its request waits in the queue
        self._base = 0  # when its script began
        self._next = 0  # the event to write next
        self._due = 0  # and when
        self._stop = 0  # the event before which it ends, one way or another
        self._head_sent = False
        self._close_after = False
        self._paused = False  # the client does not read
        self._behind = False  # and so its events are late through no fault of ours
        self._entered: Pace | None = None  # where a place must be given back
        # Faults.
        self._fault: Fault | None = None
        self._dialect: Dialect | None = None  # in which to say so
        self._drip = b""  # what is still to be dripped
        self._idle_until = 0

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came. High water is the usual 64 KiB; writing resumes when all is out (see `_finish`)."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=65536, low=0)
        self._backend.connections.add(self)
        self._counts.connections += 1
        faults = self._backend.faults
        if faults is not None and (fault := faults.for_connection(monotonic_ns())):
            self._counts.struck(fault.fault)
            self._reset()

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
        if self._fault is None and self._next == self._tape.events:
            self._finish()
        elif self._due != _NEVER:
            self._go(monotonic_ns())

    def abort(self) -> None:
        """Ends the connection now."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Ends the connection unless a request is on its way."""
        if not self._busy and not self._buffer and self._head is None:
            self._transport.close()

    def forget(self) -> None:
        """The behaviour changed: what was remembered of the last request holds no longer."""
        self._seen = self._last_body = None

    def _reset(self) -> None:
        """Ends the connection with RST; what the kernel took before still arrives."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # --- requests --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """`data` is ours to keep (bytes never change)."""
        seen = self._seen
        if seen is not None and seen.whole(data):
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
        buffer = self._buffer
        if self._busy:
            buffer += data
            if len(buffer) > _READ_AHEAD:
                self._transport.pause_reading()
            return
        self._seen = None
        self._idle_until = 0
        if buffer:
            buffer += data
            self._read_request(buffer)
        else:
            self._read_request(data)

    def _keep(self, data: bytes | bytearray, used: int) -> None:
        """Leaves in the buffer what of `data` was not used. `data` is the buffer, or came while that was empty."""
        if data is self._buffer:
            del self._buffer[:used]
        elif used < len(data):
            self._buffer += data[used:]

    def _read_request(self, data: bytes | bytearray) -> None:
        """Reads one request from `data` (see `_keep`), if it is all there, and begins its reply."""
        head, at = self._head, 0
        arrived = monotonic_ns()
        try:
            if head is None:
                self._recv = arrived
                while data.startswith(b"\r\n", at):  # left by clients that end a body with an empty line
                    at += 2
                end = find_head(data, at)
                if not end:
                    self._keep(data, 0)
                    return
                self._block = block = bytes(data[at:end])
                at = end
                if self._last is not None and self._last_head is not None and self._last.head(block):
                    head = self._last_head
                else:
                    head = read_head(block)
                    self._last = self._last_body = None
                    self._last_head = head
                self._chunked = ChunkedBody() if head.length < 0 else None
                if head.expects_continue and at == len(data):
                    self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._chunked is not None:
                size = self._chunked.feed(data[at:] if at else data)
                body = bytes(self._chunked.body) if size else None
            else:
                size = head.length
                body = bytes(data[at : at + size]) if len(data) - at >= size else None
        except BadMessage as exc:
            self._buffer.clear()
            self._close_after = True
            self._dialect = None
            self._refuse(exc.status, json.dumps({"error": {"message": str(exc)}}).encode())
            return
        if body is None:
            self._head = head
            self._keep(data, at)
            return
        self._keep(data, at + size)
        self._head = self._chunked = None
        # An HTTP/1.0 client that asks to stay is told that it cannot.
        self._close_after = not head.keep_alive or head.http10
        if body == self._last_body and self._backend.faults is None:
            self._begin(self._tape, self._recv, arrived)
        else:
            self._last_body = None
            self._answer(head, body, arrived)

    def _answer(self, head: Head, body: bytes, arrived: int) -> None:
        """Finds the reply to a request unlike the one before it. The time that takes counts as lateness."""
        self._dialect = dialect = DIALECTS.get(head.path)
        if dialect is None:
            self._answer_plainly(head)
            return
        if head.method != dialect.method and not (head.method == b"HEAD" and dialect.method == b"GET"):
            message = f"{head.path.decode()} takes {dialect.method.decode()}"
            self._refuse(405, dialect.error(405, message), b"Allow: " + dialect.method)
            return
        try:
            tape = self._backend.library.tape(
                self._ask(dialect, head, body), chunked=not head.http10, close=self._close_after
            )
        except BadRequest as exc:
            self._refuse(exc.status, dialect.error(exc.status, str(exc)))
            return
        if head.method == b"HEAD":
            self._counts.requests += 1
            self._write(self._clocked_head(tape, monotonic_ns()))
            self._done()
            return
        faults = self._backend.faults
        if faults is not None:
            self._fault = faults.for_request(monotonic_ns(), health=False, stream=tape.stream and not head.http10)
            if self._fault and self._struck_at_once(self._fault):
                return
        self._straight = tape.one_piece and self._backend.pace is None and not self._close_after
        if len(body) <= _KEPT_BODY:
            self._last_body = body
            self._last = Likeness(self._block, body)
        self._begin(tape, self._recv, arrived)

    def _ask(self, dialect: Dialect, head: Head, body: bytes) -> Ask:
        """What the request asks for. Raises `BadRequest`."""
        model = self._backend.profile.models[0]
        if not dialect.generates:
            return dialect.read({}, head.path, model, head.options)
        try:
            fields = from_json(body, allow_inf_nan=False)
        except ValueError as exc:
            raise BadRequest(f"the body is not JSON: {exc}") from exc
        if not isinstance(fields, dict):
            raise BadRequest("the body must be a JSON object")
        return dialect.read(fields, head.path, model, head.options)

    def _answer_plainly(self, head: Head) -> None:
        """The paths that belong to no dialect."""
        faults = self._backend.faults
        if faults is not None:
            self._fault = faults.for_request(monotonic_ns(), health=head.path == _HEALTH, stream=False)
            if self._fault and self._struck_at_once(self._fault):
                return
        head_only = head.method == b"HEAD"
        if head.path not in (_HEALTH, _METRICS):
            known = ", ".join(path.decode() for path in DIALECTS)
            message = f"no such path; this mock knows {known}, /health, /metrics"
            self._refuse(404, json.dumps({"error": {"message": message, "type": "not_found", "code": 404}}).encode())
        elif head.method not in (b"GET", b"HEAD"):
            self._refuse(405, json.dumps({"error": {"message": "GET only"}}).encode(), b"Allow: GET, HEAD")
        elif head.path == _HEALTH:
            self._reply(200, JSON, b'{"status":"ok"}', head_only=head_only)
        else:
            self._reply(200, TEXT, self._backend.metrics(), head_only=head_only)

    # --- replies that are no script's ------------------------------------------------------------

    def _reply(self, status: int, kind: bytes, body: bytes, *fields: bytes, head_only: bool = False) -> None:
        """A reply made for the occasion: at once, without clocks in its body."""
        self._counts.requests += 1
        head = response_head(status, kind, len(body), *fields, close=self._close_after)
        head = b"%b%b%020d%b%020d%b" % (head, self._backend.stamp, self._recv, _SENT, monotonic_ns(), _BODY)
        fault = self._fault
        if fault is None:
            self._write(head if head_only else head + body)
            self._done()
            return
        self._busy = True
        self._counts.active += 1
        self._tape = SILENCE
        self._next = 0
        self._due = _NEVER
        self._strike(fault, head, body)

    def _refuse(self, status: int, body: bytes, *fields: bytes) -> None:
        self._counts.refused += 1
        self._reply(status, JSON, body, *fields)

    # --- playing ---------------------------------------------------------------------------------

    def _begin(self, tape: Tape, recv: int, now: int) -> None:
        """Starts to play `tape`: its offsets count from `now`, when the request was all here."""
        pace = self._backend.pace
        entry = Entry.STARTED if pace is None else pace.enter(self)
        if entry is Entry.FULL:
            self._turn_away()
            return
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
        self._stop = tape.events if self._fault is None else self._strikes_before(self._fault, tape)
        self._head_sent = False
        self._entered = pace
        if entry is Entry.QUEUED:
            counts.queued += 1
            self._due = _NEVER
            return
        if pace is None:
            self._due = now + tape.offsets[0]
        else:
            self._due = now + pace.loading(now) + int(tape.offsets[0] * pace.stretch(now))
        self._go(now)

    def _leave_queue(self, pace: Pace, now: int) -> None:
        """The batched server has taken up a request that waited."""
        self._counts.queued -= 1
        self._due = now + pace.loading(now) + int(self._tape.offsets[0] * pace.stretch(now))
        self._go(now)

    def _turn_away(self) -> None:
        """The queue is full."""
        self._fault = None
        dialect = self._dialect
        assert dialect is not None  # only its paths are queued for
        message = "the server is busy: its queue of waiting requests is full"
        self._refuse(dialect.busy, dialect.error(dialect.busy, message), b"Retry-After: 1")

    def _go(self, now: int) -> None:
        """Plays now what is due, or asks for a turn when it will be."""
        if not self._head_sent and self._tape.stream and self._backend.profile.head_at == "accept" and not self._fault:
            self._write(self._clocked_head(self._tape, monotonic_ns()))
            self._head_sent = True
        if self._due <= now:
            self._play(now)
        else:
            self._backend.schedule(self._due, self._play)

    def _play(self, now: int) -> None:
        """Writes every event that is due, and asks for the next turn."""
        if not self._busy or self._paused or now < self._due:
            return  # asked for by a reply that is over, or before the client stopped reading
        tape = self._tape
        i, due, stop = self._next, self._due, self._stop
        if i == stop:
            self._come_to_the_fault(now)
            return
        starts, offsets, tail, last = tape.starts, tape.offsets, tape.tail, tape.events - 1
        counts = self._counts
        lateness = counts.held_back if self._behind else counts.lateness
        write, base, pace = self._write, self._base, self._entered
        begun = i
        while True:
            stamp = monotonic_ns()
            piece = b"%b%020d%b" % (starts[i], stamp, tail) if i < last else _last_piece(tape, stamp)
            if not self._head_sent:
                self._head_sent = True
                piece = self._clocked_head(tape, stamp) + piece
            write(piece)
            late = (stamp - due) >> 14
            lateness[late if late < _LAST_SLOT else _LAST_SLOT] += 1
            i += 1
            if i > last:
                break
            if pace is None:
                due = base + offsets[i]
            else:
                due += int((offsets[i] - offsets[i - 1]) * pace.stretch(stamp))
            if due > stamp or i == stop or i - begun >= _TURN or self._paused:
                self._next, self._due = i, due
                counts.events += i - begun
                if due > stamp:
                    self._behind = False
                    self._backend.schedule(due, self._play)
                elif not self._paused:
                    self._backend.loop.call_soon(self._play, stamp)
                return
        counts.events += i - begun
        self._next = i
        if not self._paused:
            self._finish()

    def _clocked_head(self, tape: Tape, sent: int) -> bytes:
        return b"%b%b%020d%b%020d%b" % (tape.head, self._backend.stamp, self._recv, _SENT, sent, _BODY)

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
        if self._last_body is not None and not self._buffer and self._backend.faults is None:
            self._seen = self._last
        self._done()

    def _done(self) -> None:
        """A reply of any kind is out: close, or see what else arrived meanwhile."""
        if self._close_after:
            self._transport.close()
        elif self._buffer:
            # Not at once: a pipelining client must not make us recurse.
            self._backend.loop.call_soon(self._next_request)
        elif self._backend.faults is not None:
            self._maybe_close_idle()

    def _next_request(self) -> None:
        """The one that arrived during the last reply."""
        if not self._busy and not self._transport.is_closing():
            self._transport.resume_reading()
            self._seen = None
            self._read_request(self._buffer)

    def _leave(self) -> None:
        """Gives the place in the batch, or in the queue, back."""
        pace = self._entered
        if pace is None:
            return
        self._entered = None
        now = monotonic_ns()
        if pace.waits(self):
            self._counts.queued -= 1
        successor = pace.leave(self, now)
        if isinstance(successor, Connection):
            successor._leave_queue(pace, now)

    def _disconnected(self) -> None:
        """The client left before the end of its reply."""
        counts = self._counts
        counts.active -= 1
        counts.disconnects_total += 1
        path = self._last_head.path.decode("latin-1") if self._last_head else ""
        counts.disconnects.append(Disconnect(monotonic_ns(), counts.requests, path, self._next))
        counts.body_bytes += self._tape.body_bytes_before(self._next)
        self._leave()
        self._busy = False

    # --- faults ----------------------------------------------------------------------------------

    def _struck_at_once(self, fault: Fault) -> bool:
        """Whether the fault needs no reply to spoil; then it has struck."""
        if fault.fault not in ("error", "rate-limit"):
            return False
        self._counts.struck(fault.fault)
        self._fault = None
        status = 429 if fault.fault == "rate-limit" else fault.status
        retry_after = 10**9 if fault.retry_after is None and status == 429 else fault.retry_after
        fields = [] if retry_after is None else [b"Retry-After: %d" % -(-retry_after // 10**9)]
        message = f"a mock's fault: {fault.fault}"
        dialect = self._dialect
        body = dialect.error(status, message) if dialect else json.dumps({"error": {"message": message}}).encode()
        self._reply(status, JSON, body, *fields)
        return True

    def _strikes_before(self, fault: Fault, tape: Tape) -> int:
        """Before which event a fault strikes: the first, unless it is one that happens inside streams."""
        if not tape.stream or fault.fault in ("hang-head", "reset-head", "garbage", "drip"):
            return 0
        return min(fault.after_events, tape.events - 1)

    def _come_to_the_fault(self, now: int) -> None:
        """The next event is due, and the fault strikes instead."""
        fault, tape, i = self._fault, self._tape, self._next
        assert fault is not None  # or the reply would have ended by itself
        head = b"" if self._head_sent else self._clocked_head(tape, now)
        if fault.fault == "drip":
            piece = b"".join([b"%b%020d%b" % (start, now, tape.tail) for start in tape.starts[:-1]])
            piece += _last_piece(tape, now)
        elif i < tape.events - 1:
            piece = b"%b%020d%b" % (tape.starts[i], now, tape.tail)
        else:
            piece = _last_piece(tape, now)
        self._strike(fault, head, piece)

    def _strike(self, fault: Fault, head: bytes, piece: bytes) -> None:
        """`head` (empty if sent) and `piece` are what would be sent now."""
        self._counts.struck(fault.fault)
        if fault.fault == "drip":
            self._drip = head + piece
            self._due = _NEVER
            self._drip_on(monotonic_ns())
            return
        tape, dialect = self._tape, self._dialect
        event = b""
        if dialect is not None:
            event = error_event(dialect.error(500, f"a mock's fault: {fault.fault}"), dialect.stream_type)
        sent, ending = spoil(fault, head, piece, event, streamed=tape.stream)
        if sent:
            self._write(sent)
            self._head_sent = True
        if ending is Ending.HOLD:
            self._due = _NEVER
            if fault.hold:
                self._backend.schedule(monotonic_ns() + fault.hold, self._end_hold)
            return
        if ending is Ending.GO_ON and tape is not SILENCE:
            self._next += 1
            self._counts.events += 1
            if self._next < tape.events:
                self._fault = None
                self._stop = tape.events
                self._due = self._base + tape.offsets[self._next]
                self._go(monotonic_ns())
                return
        self._over_by_fault(ending)

    def _over_by_fault(self, ending: Ending) -> None:
        """The reply ended otherwise than it should have; this is not a disconnect of the client."""
        self._fault = None
        self._counts.active -= 1
        self._counts.body_bytes += self._tape.body_bytes_before(self._next)
        self._leave()
        self._busy = False
        self._last_body = None
        if ending is Ending.RESET:
            self._reset()
        elif ending is Ending.CLOSE:
            self._transport.close()
        else:
            self._done()

    def _end_hold(self, now: int) -> None:
        """A hang has lasted long enough."""
        if self._busy and self._fault is not None:
            self._over_by_fault(Ending.CLOSE)

    def _drip_on(self, now: int) -> None:
        """The next piece of a reply that comes slowly."""
        fault = self._fault
        if not self._busy or fault is None:
            return
        self._write(self._drip[: fault.piece])
        self._drip = self._drip[fault.piece :]
        if self._drip:
            self._backend.schedule(now + fault.interval, self._drip_on)
            return
        self._counts.events += self._tape.events
        self._next = self._tape.events
        self._over_by_fault(Ending.OVER)

    def _maybe_close_idle(self) -> None:
        """Early close of an idle connection."""
        faults = self._backend.faults
        now = monotonic_ns()
        fault = faults.for_idle(now) if faults else None
        if fault is None:
            return
        self._counts.struck(fault.fault)
        if not fault.idle:
            self._transport.close()
            return
        self._idle_until = now + fault.idle
        self._backend.schedule(self._idle_until, self._close_idle)

    def _close_idle(self, now: int) -> None:
        if self._idle_until and now >= self._idle_until:
            self.close_if_idle()


def _last_piece(tape: Tape, stamp: int) -> bytes:
    """The last event of a tape, or its only one, with what follows it."""
    digits = b"%020d" % stamp
    if not tape.middle:
        return tape.starts[-1] + digits + tape.last_tail
    split = tape.split
    return b"".join((tape.starts[-1], digits[:split], tape.middle, digits[split:], tape.last_tail))
