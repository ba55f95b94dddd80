"""When is whose turn: one wheel for all paced events of a process (pure, the clock is an argument).

Turns are kept in slots of 2**18 ns (262 us), each a plain list, found by number; a heap orders the slots in use. Adding
a turn is one dict look-up and one append; a heap operation is paid once a slot, not once an event. A turn comes up to
one slot late and never early.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

SLOT_BITS = 18
SLOT_NS = 1 << SLOT_BITS

Turn = Callable[[int], None]  # called with the clock when it is due


class Wheel:
    """Turns in the order of their times. There is no removal: who no longer wants a turn ignores it when it comes."""

    __slots__ = ("_order", "_slots")

    def __init__(self) -> None:
        self._slots: dict[int, list[Turn]] = {}
        self._order: list[int] = []

    def add(self, due: int, turn: Turn) -> bool:
        """Asks for `turn` not before `due`. True if that is now the first slot, so that the alarm must be set anew."""
        number = (due >> SLOT_BITS) + 1
        waiting = self._slots.get(number)
        if waiting is not None:
            waiting.append(turn)
            return False
        self._slots[number] = [turn]
        heappush(self._order, number)
        return self._order[0] == number

    @property
    def next(self) -> int:
        """When to come next, or 0 if nobody waits."""
        return self._order[0] << SLOT_BITS if self._order else 0

    def run(self, now: int) -> None:
        """Calls all turns whose slot has come. Turns they add wait for the next run if due at `now` or later."""
        order, slots = self._order, self._slots
        while order and order[0] << SLOT_BITS <= now:
            for turn in slots.pop(heappop(order)):
                turn(now)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))
