"""What a backend did, counted by itself, so that a campaign compares what was sent with what arrived."""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from typing import Any, NamedTuple

_LATE_BITS = 14  # a bucket of lateness is 16.4 us wide
LATE_SLOTS = 4096  # up to 67 ms; the last one holds all beyond
KEPT_DISCONNECTS = 1000


class Disconnect(NamedTuple):
    """A client that left before its reply was over."""

    t_ns: int
    request: int  # counted from 1 on this backend
    path: str
    events_sent: int


class Counts:
    """The counts of one backend. Its server writes them; the control listener reads and resets them."""

    __slots__ = (
        "active",
        "body_bytes",
        "connections",
        "disconnects",
        "disconnects_total",
        "events",
        "faults",
        "held_back",
        "lateness",
        "output_tokens",
        "peak",
        "prefix_hits",
        "prefix_misses",
        "prompt_tokens",
        "queued",
        "refused",
        "requests",
    )

    def __init__(self) -> None:
        self.connections = 0  # open now
        self.active = 0  # requests in flight now, those that wait in the queue included
        self.queued = 0  # of them, waiting
        self.reset()

    def reset(self) -> None:
        """Zero everything but what is open or in flight now."""
        self.requests = 0
        self.events = 0
        self.body_bytes = 0  # of bodies without their chunk frames; replies cut short count what was written of them
        self.refused = 0  # 4xx and 5xx answers that no fault asked for
        self.peak = self.active
        self.disconnects: deque[Disconnect] = deque(maxlen=KEPT_DISCONNECTS)
        self.disconnects_total = 0
        self.lateness = [0] * LATE_SLOTS
        self.held_back = [0] * LATE_SLOTS  # the same for events that waited for a client to read
        self.faults: dict[str, int] = {}
        self.prefix_hits = 0  # prompts whose turn before was served here, by a server with a prefix cache
        self.prefix_misses = 0
        self.prompt_tokens = 0
        self.output_tokens = 0

    def struck(self, fault: str) -> None:
        """A fault of this kind has struck."""
        self.faults[fault] = self.faults.get(fault, 0) + 1

    def report(self) -> dict[str, Any]:
        """Plain data for the control listener. Lateness in ns, null before the first event."""
        return {
            "requests": self.requests,
            "events": self.events,
            "body_bytes": self.body_bytes,
            "refused": self.refused,
            "connections": self.connections,
            "active": self.active,
            "queued": self.queued,
            "peak": self.peak,
            "lateness_p50_ns": percentile(self.lateness, 0.50),
            "lateness_p99_ns": percentile(self.lateness, 0.99),
            "held_back_events": sum(self.held_back),
            "disconnects_total": self.disconnects_total,
            "disconnects": [d._asdict() for d in self.disconnects],
            "faults": dict(self.faults),
            "prefix_hits": self.prefix_hits,
            "prefix_misses": self.prefix_misses,
        }


def late_slot(late_ns: int) -> int:
    """The bucket of a lateness. (The player has this inlined.)"""
    return min(late_ns >> _LATE_BITS, LATE_SLOTS - 1)


def percentile(slots: list[int], share: float) -> int | None:
    """The upper edge, in ns, of the bucket that holds this share of all events."""
    total = sum(slots)
    if not total:
        return None
    for index, below in enumerate(accumulate(slots)):
        if below >= share * total:
            return (index + 1) << _LATE_BITS
    raise AssertionError("a share is at most 1")
