"""Object pools, as the seed has them: read buffers and per-request contexts that are lent, given back and lent again.

A pool is a list used as a stack: what was used last is warm in the cache and goes out first. What it buys is
measured, not believed: the ablation profile of `compare` switches each pool off alone.

**Who owns the bytes.** A buffer belongs to the borrower from `get` until `put`. Nobody may keep a view of it after
`put`: an asyncio transport that could not send everything keeps a reference to the memory it was given, so what is
written to a transport is always a `bytes` copy, never the buffer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class ObjectPool(Generic[T]):
    """Lends objects made by `make`; keeps at most `keep` idle ones. Not for use from several threads."""

    __slots__ = ("_dropped", "_idle", "_keep", "_make", "created", "enabled")

    def __init__(self, make: Callable[[], T], keep: int, enabled: bool = True) -> None:
        self._make = make
        self._keep = keep if enabled else 0
        self._idle: list[T] = []
        self.enabled = enabled  # off: every `get` makes, every `put` forgets
        self.created = 0
        self._dropped = 0

    def prewarm(self, count: int) -> None:
        """Make `count` objects now instead of when they are first needed (the seed's PreWarm)."""
        if not self.enabled:
            return
        self._keep = max(self._keep, count)
        while len(self._idle) < count:
            self.created += 1
            self._idle.append(self._make())

    def shrink(self, count: int) -> None:
        """Let go of idle objects beyond `count`."""
        self._dropped += len(self._idle[count:])
        del self._idle[count:]

    def get(self) -> T:
        """Borrow one."""
        if self._idle:
            return self._idle.pop()
        self.created += 1
        return self._make()

    def put(self, item: T) -> None:
        """Give back what `get` lent; the caller keeps no reference."""
        if len(self._idle) < self._keep:
            self._idle.append(item)
        else:
            self._dropped += 1

    @property
    def active(self) -> int:
        """How many are lent: made, not let go of, and not idle."""
        return self.created - self._dropped - len(self._idle)

    def __len__(self) -> int:
        return len(self._idle)
