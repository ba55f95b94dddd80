"""How an endpoint is chosen. Each balancer picks one of the candidates it is given, in configured order.

All are O(n) or better at about 100 ns a candidate; above `SAMPLE_ABOVE` candidates least-connections compares two
random ones instead (Mitzenmacher, "The Power of Two Choices", 2001), so that a pick never costs more than a parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Protocol

from proxy.core.endpoint import Endpoint

SAMPLE_ABOVE = 16

# A failure makes its endpoint count as busier for so many seconds. Without it an endpoint that fails at once is never
# busy, and gets nearly all requests: 185 of 200 beside one that answered. nginx's `fail_timeout` is as long.
FAILURE_MEMORY = 10.0


class LoadBalancer(Protocol):
    """Picks one endpoint. `candidates` is never empty; `now` is monotonic seconds."""

    def pick(self, candidates: Sequence[Endpoint], now: float) -> Endpoint:
        """Return one of `candidates`."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[Endpoint], now: float) -> Endpoint:
        """Return the next of `candidates` in turn."""
        turn = self._turn
        self._turn = turn + 1
        return candidates[turn % len(candidates)]


class Priority:
    """The highest `priority` first; equals rotate."""

    def __init__(self) -> None:
        self._rotate = RoundRobin()

    def pick(self, candidates: Sequence[Endpoint], now: float) -> Endpoint:
        """Return one of the candidates with the highest priority, in turn."""
        best = max(e.spec.priority for e in candidates)
        return self._rotate.pick([e for e in candidates if e.spec.priority == best], now)


def load(endpoint: Endpoint, now: float) -> int:
    """Its exchanges in flight, and one more for each failure of the last FAILURE_MEMORY seconds."""
    failed_at = endpoint.failed_at
    while failed_at and failed_at[0] <= now - FAILURE_MEMORY:
        failed_at.popleft()
    return endpoint.active + len(failed_at)


class LeastConnections:
    """The one with the least `load`; ties rotate."""

    def __init__(self, random: Random | None = None) -> None:
        self._turn = 0
        self._random = random or Random()

    def pick(self, candidates: Sequence[Endpoint], now: float) -> Endpoint:
        """Return a candidate with the least load (of two random ones when there are many)."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        if count > SAMPLE_ABOVE:
            a, b = self._random.sample(candidates, 2)
            return a if load(a, now) <= load(b, now) else b
        turn = self._turn = (self._turn + 1) % count
        best = candidates[turn]  # starting elsewhere each time is what makes ties rotate
        if not best.active and not best.failed_at:
            return best
        least = load(best, now)
        for i in range(turn + 1 - count, turn):
            if not least:
                break
            endpoint = candidates[i]
            # The call costs as much as the rest of the loop, and is needed for few.
            busy = load(endpoint, now) if endpoint.failed_at else endpoint.active
            if busy < least:
                best, least = endpoint, busy
        return best


BALANCERS: dict[str, type[RoundRobin] | type[Priority] | type[LeastConnections]] = {
    "least-connections": LeastConnections,
    "priority": Priority,
    "round-robin": RoundRobin,
}


def make_balancer(name: str) -> LoadBalancer:
    """The balancer of that name (a key of BALANCERS; the config checks it)."""
    return BALANCERS[name]()
