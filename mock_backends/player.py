"""Plays one tape on time: writes each event when it is due, and gives the place in a batch back at the end.

The speed of `Player._play` matters: one write an event, one clock reading an event, and no task, future or timer.
The wheel of `server` calls it when something is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mock_backends.counts import LATE_SLOTS, Disconnect
from mock_backends.pacing import Entry, Pace
from mock_backends.stage import Stage
from mock_backends.tape import EMPTY_TAPE, Tape

NEVER = 1 << 62
SENT = b"\r\nX-Mock-Sent-Ns: "
END_OF_HEAD = b"\r\n\r\n"
_EVENTS_A_TURN = 64  # a stream may write so many before others get their turn
_LAST_SLOT = LATE_SLOTS - 1

monotonic_ns = time.monotonic_ns


class Player:
    """The reply of one connection, played as it was written. Reused from request to request.

    `write` sends bytes to the client; `played` is called when a whole reply is out.
    """

    __slots__ = (
        "_ahead", "_base", "_behind", "_due", "_head_sent", "_next", "_pace", "_played", "_recv", "_stage", "_stop",
        "_tape", "_write", "busy", "paused",
    )  # fmt: skip

    def __init__(self, stage: Stage, write: Callable[[bytes], None], played: Callable[[], None]) -> None:
        self._stage = stage
        self._write = write
        self._played = played
        self._tape = EMPTY_TAPE
        self.busy = False  # a reply is being played or drained, or waits in the queue
        self.paused = False  # the client does not read
        self._behind = False  # and so its events are late through no fault of ours
        self._recv = 0  # when the request's head was complete
        self._ahead = 0  # by so much it is earlier than written
        self._base = 0  # when the tape began
        self._next = 0  # the event to write next
        self._due = 0  # and when
        self._stop = 0  # the event before which playing stops: after the last, unless a fault strikes earlier
        self._head_sent = False
        self._pace: Pace | None = None  # where a place must be given back

    def begin(self, tape: Tape, recv: int, now: int, ahead: int = 0) -> bool:
        """Starts to play `tape`, or returns False if the queue is full. Offsets count from `now`.

        Everything comes `ahead` ns earlier than written, as the beginning of the prompt is computed already.
        """
        stage = self._stage
        pace = stage.pace
        entry = Entry.STARTED if pace is None else pace.enter(self)
        if entry is Entry.FULL:
            return False
        counts = stage.counts
        counts.requests += 1
        counts.active += 1
        if counts.active > counts.peak:
            counts.peak = counts.active
        self.busy = True
        self._behind = False
        self._tape = tape
        self._recv = recv
        self._ahead = ahead
        self._base = now - ahead
        self._next = 0
        self._stop = self._stops_before(tape)
        self._head_sent = False
        self._pace = pace
        if entry is Entry.QUEUED:
            counts.queued += 1
            self._due = NEVER
            return True
        if pace is None:
            self._due = self._base + tape.offsets[0]
        else:
            self._due = self._first_due(pace, now)
        self._go(now)
        return True

    def drain(self, tape: Tape) -> None:
        """A reply in one piece, written and counted already, was larger than what the client takes at once."""
        self._tape = tape
        self.busy = True
        self._next = 1
        counts = self._stage.counts
        counts.active += 1
        counts.body_bytes -= tape.body_bytes  # `_finish` counts them

    def pause(self) -> None:
        """More than the high-water mark is waiting for the client."""
        self.paused = self._behind = True

    def resume(self) -> None:
        """Everything is out: catch up, or finish what waited for the last bytes to leave."""
        self.paused = False
        if not self.busy:
            return
        if self._next == self._tape.events:
            self._finish()
        elif self._due != NEVER:
            self._go(monotonic_ns())

    def disconnected(self, path: str) -> None:
        """The client left before the end of its reply to a request for `path`."""
        counts = self._stage.counts
        counts.disconnects_total += 1
        counts.disconnects.append(Disconnect(monotonic_ns(), counts.requests, path, self._next))
        self._end(self._tape.body_bytes_before(self._next))

    # --- for a player that has faults ------------------------------------------------------------

    def _stops_before(self, tape: Tape) -> int:
        """The event before which playing stops."""
        return tape.events

    def _stopped(self, now: int) -> None:
        """Playing came to an early stop, and its event is due."""
        raise AssertionError("a faithful player never stops early")

    # --- inside ----------------------------------------------------------------------------------

    def _go(self, now: int) -> None:
        """Plays now what is due, or asks for a turn when it will be."""
        tape = self._tape
        head_first = tape.stream and self._stage.profile.head_at == "accept" and self._stop == tape.events
        if head_first and not self._head_sent:
            self._write(self._head(monotonic_ns()))
            self._head_sent = True
        if self._due <= now:
            self._play(now)
        else:
            self._stage.schedule(self._due, self._play)

    def _play(self, now: int) -> None:
        """Writes every event that is due, and asks for the next turn."""
        if not self.busy or self.paused or now < self._due:
            return  # asked for by a reply that is over, or before the client stopped reading
        tape = self._tape
        i, due, stop = self._next, self._due, self._stop
        if i == stop:
            self._stopped(now)
            return
        starts, offsets, tail, last = tape.starts, tape.offsets, tape.tail, tape.events - 1
        counts = self._stage.counts
        lateness = counts.held_back if self._behind else counts.lateness
        write, base, pace = self._write, self._base, self._pace
        begun = i
        while True:
            stamp = monotonic_ns()
            piece = b"%b%020d%b" % (starts[i], stamp, tail) if i < last else tape.last_piece(stamp)
            if not self._head_sent:
                self._head_sent = True
                piece = self._head(stamp) + piece
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
            if due > stamp or i == stop or i - begun >= _EVENTS_A_TURN or self.paused:
                self._next, self._due = i, due
                counts.events += i - begun
                self._come_again(due, stamp)
                return
        counts.events += i - begun
        self._next = i
        if not self.paused:
            self._finish()

    def _come_again(self, due: int, now: int) -> None:
        """The next event is for a later turn."""
        if due > now:
            self._behind = False
            self._stage.schedule(due, self._play)
        elif not self.paused:
            self._stage.loop.call_soon(self._play, now)

    def _head(self, sent: int) -> bytes:
        return head_of(self._tape, self._stage.stamp, self._recv, sent)

    def _finish(self) -> None:
        """The whole reply is out."""
        self._end(self._tape.body_bytes)
        self._played()

    def _end(self, body_bytes: int) -> None:
        """The reply is over, with so many bytes of its body sent; its place in the batch or in the queue is free."""
        counts = self._stage.counts
        counts.active -= 1
        counts.body_bytes += body_bytes
        self.busy = False
        pace = self._pace
        if pace is None:
            return
        self._pace = None
        now = monotonic_ns()
        if pace.waits(self):
            counts.queued -= 1
        successor = pace.leave(self, now)
        if isinstance(successor, Player):
            successor._leave_queue(pace, now)

    def _leave_queue(self, pace: Pace, now: int) -> None:
        """The batched server takes up a request that waited."""
        self._stage.counts.queued -= 1
        self._due = self._first_due(pace, now)
        self._go(now)

    def _first_due(self, pace: Pace, now: int) -> int:
        return now + pace.loading(now) + int((self._tape.offsets[0] - self._ahead) * pace.stretch(now))


def head_of(tape: Tape, stamp: bytes, recv: int, sent: int) -> bytes:
    """The head of a reply, with its backend's stamp and its two clocks."""
    return b"%b%b%020d%b%020d%b" % (tape.head, stamp, recv, SENT, sent, END_OF_HEAD)
