"""A player whose replies can be spoilt: what a fault does to a reply, and how the reply ends then."""

from __future__ import annotations

from collections.abc import Callable

from mock_backends.dialects import Dialect, error_event
from mock_backends.faults import Ending, Fault, spoil
from mock_backends.player import NEVER, Player, monotonic_ns
from mock_backends.stage import Stage
from mock_backends.tape import EMPTY_TAPE, Tape

_AT_THE_HEAD = ("hang-head", "reset-head", "garbage", "drip")  # these strike before the first event


class SpoilingPlayer(Player):
    """Plays faithfully until the `fault` of the request strikes. `spoilt` is called with how the reply ended then."""

    __slots__ = ("_dripping", "_spoilt", "dialect", "fault")

    def __init__(
        self,
        stage: Stage,
        write: Callable[[bytes], None],
        played: Callable[[], None],
        spoilt: Callable[[Ending], None],
    ) -> None:
        super().__init__(stage, write, played)
        self._spoilt = spoilt
        self.fault: Fault | None = None
        self.dialect: Dialect | None = None  # in which an error event is written
        self._dripping = b""  # what is still to be sent, piece by piece

    def strike_plain(self, fault: Fault, head: bytes, body: bytes) -> None:
        """Spoils a reply that no tape has, and that is counted as a request already."""
        self.busy = True
        self._stage.counts.active += 1
        self._tape = EMPTY_TAPE
        self._next = 0
        self._due = NEVER
        self._strike(fault, head, body)

    def _stops_before(self, tape: Tape) -> int:
        fault = self.fault
        if fault is None:
            return tape.events
        if not tape.stream or fault.fault in _AT_THE_HEAD:
            return 0
        return min(fault.after_events, tape.events - 1)

    def _stopped(self, now: int) -> None:
        """The next event is due, and the fault strikes instead."""
        fault, tape, i = self.fault, self._tape, self._next
        assert fault is not None  # or the reply would have ended by itself
        head = b"" if self._head_sent else self._head(now)
        if fault.fault == "drip":
            piece = b"".join([b"%b%020d%b" % (start, now, tape.tail) for start in tape.starts[:-1]])
            piece += tape.last_piece(now)
        elif i < tape.events - 1:
            piece = b"%b%020d%b" % (tape.starts[i], now, tape.tail)
        else:
            piece = tape.last_piece(now)
        self._strike(fault, head, piece)

    def _strike(self, fault: Fault, head: bytes, piece: bytes) -> None:
        """`head` (empty if sent) and `piece` are what would be sent now."""
        self._stage.counts.struck(fault.fault)
        if fault.fault == "drip":
            self._dripping = head + piece
            self._due = NEVER
            self._drip(monotonic_ns())
            return
        event, dialect = b"", self.dialect
        if dialect is not None:
            event = error_event(dialect.error(500, f"a mock's fault: {fault.fault}"), dialect.stream_type)
        sent, ending = spoil(fault, head, piece, event, streamed=self._tape.stream)
        if sent:
            self._write(sent)
            self._head_sent = True
        if ending is Ending.HOLD:
            self._due = NEVER
            if fault.hold:
                self._stage.schedule(monotonic_ns() + fault.hold, self._end_hold)
        elif ending is not Ending.GO_ON or not self._went_on():
            self._over(ending)

    def _went_on(self) -> bool:
        """Counts the spoilt event as sent and plays the rest faithfully; False if there is no rest."""
        tape = self._tape
        if tape is EMPTY_TAPE:
            return False
        self._next += 1
        self._stage.counts.events += 1
        if self._next == tape.events:
            return False
        self.fault = None
        self._stop = tape.events
        self._due = self._base + tape.offsets[self._next]
        self._go(monotonic_ns())
        return True

    def _over(self, ending: Ending) -> None:
        """The reply ended otherwise than it should have; this is no disconnect of the client."""
        self.fault = None
        self._end(self._tape.body_bytes_before(self._next))
        self._spoilt(ending)

    def _end_hold(self, now: int) -> None:
        """A hang has lasted long enough."""
        if self.busy and self.fault is not None:
            self._over(Ending.CLOSE)

    def _drip(self, now: int) -> None:
        """Sends the next piece of a reply that comes slowly."""
        fault = self.fault
        if not self.busy or fault is None:
            return
        self._write(self._dripping[: fault.piece])
        self._dripping = self._dripping[fault.piece :]
        if self._dripping:
            self._stage.schedule(now + fault.interval, self._drip)
            return
        self._stage.counts.events += self._tape.events
        self._next = self._tape.events
        self._over(Ending.OVER)
