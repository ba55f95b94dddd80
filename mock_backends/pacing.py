"""How load and the passing of time stretch a script, and who must wait (pure, the clock is an argument)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import Enum

from mock_backends.profile import Change, Profile


class Entry(Enum):
    """What becomes of a request that arrives."""

    STARTED = 1
    QUEUED = 2
    FULL = 3


class Pace:
    """The state of one batched, cold or changing server. Owns its queue and the number in flight."""

    def __init__(self, profile: Profile, start: int) -> None:
        self._batch = profile.batch
        self._cold = profile.cold_start
        self._changes = profile.over_time
        self._start = start
        self._ready_at: int | None = None  # None: not loaded
        self._idle_since = start
        self.running = 0
        self._queue: dict[Hashable, None] = {}  # a FIFO from which anyone can leave

    @staticmethod
    def needed(profile: Profile) -> bool:
        """Whether this profile needs a pace at all: without one scripts are played as written."""
        return bool(profile.batch or profile.cold_start or profile.over_time)

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return len(self._queue)

    def waits(self, who: Hashable) -> bool:
        """Whether this one is in the queue."""
        return who in self._queue

    def enter(self, who: Hashable) -> Entry:
        """A request arrives. The one that started is ended by `leave`; so is one that waits and goes away."""
        batch = self._batch
        if batch is None or self.running < batch.slots:
            self.running += 1
            return Entry.STARTED
        if len(self._queue) >= batch.queue:
            return Entry.FULL
        self._queue[who] = None
        return Entry.QUEUED

    def leave(self, who: Hashable, now: int) -> Hashable | None:
        """A request is over. Who may start in its place, already counted as running."""
        if who in self._queue:
            del self._queue[who]
            return None
        self.running -= 1
        if not self._queue:
            if not self.running:
                self._idle_since = now
            return None
        successor = next(iter(self._queue))
        del self._queue[successor]
        self.running += 1
        return successor

    def stretch(self, now: int) -> float:
        """By how much a span of the script that begins now is longer than written."""
        factor = 1.0
        if self._batch is not None and self.running > self._batch.free:
            factor += self._batch.growth * (self.running - self._batch.free)
        return factor * change_at(self._changes, now - self._start) if self._changes else factor

    def loading(self, now: int) -> int:
        """Nanoseconds until the model is loaded. The first to ask, after a start or an unloading, sets the load off."""
        cold = self._cold
        if cold is None:
            return 0
        unloaded = (
            self._ready_at is None
            # Asked by a request that is running itself: it is alone if the server was idle.
            or (cold.unload_after and self.running <= 1 and now - self._idle_since > cold.unload_after)
        )
        if unloaded:
            self._ready_at = now + cold.load
            self._idle_since = self._ready_at
        assert self._ready_at is not None  # set above or before
        return max(0, self._ready_at - now)


def change_at(changes: Sequence[Change], elapsed: int) -> float:
    """The product of all changes `elapsed` ns after the start."""
    factor = 1.0
    for change in changes:
        at = elapsed - change.at
        if at < 0:
            continue
        if change.every:
            at %= change.every
        if change.shape == "step":
            factor *= change.factor
        elif change.shape == "spike":
            factor *= change.factor if at < change.lasts else 1.0
        else:
            factor *= 1 + (change.factor - 1) * min(1.0, at / change.lasts if change.lasts else 1.0)
    return factor
