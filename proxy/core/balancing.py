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


class LoadBalancer(Protocol):
    """Picks one endpoint. `candidates` is never empty."""

    def pick(self, candidates: Sequence[Endpoint]) -> Endpoint:
        """Return one of `candidates`."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[Endpoint]) -> Endpoint:
        """Return the next of `candidates` in turn."""
        turn = self._turn
        self._turn = turn + 1
        return candidates[turn % len(candidates)]


class Priority:
    """The highest `priority` first; equals rotate."""

    def __init__(self) -> None:
        self._rotate = RoundRobin()

    def pick(self, candidates: Sequence[Endpoint]) -> Endpoint:
        """Return one of the candidates with the highest priority, in turn."""
        best = max(e.spec.priority for e in candidates)
        return self._rotate.pick([e for e in candidates if e.spec.priority == best])


class LeastConnections:
    """The one with the fewest exchanges in flight; ties rotate."""

    def __init__(self, random: Random | None = None) -> None:
        self._turn = 0
        self._random = random or Random()

    def pick(self, candidates: Sequence[Endpoint]) -> Endpoint:
        """Return a candidate with the fewest active exchanges (of two random ones when there are many)."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        if count > SAMPLE_ABOVE:
            a, b = self._random.sample(candidates, 2)
            return a if a.active <= b.active else b
        turn = self._turn = (self._turn + 1) % count
        best = candidates[turn]  # starting elsewhere each time is what makes ties rotate
        fewest = best.active
        if fewest:
            for i in range(turn + 1 - count, turn):
                endpoint = candidates[i]
                if endpoint.active < fewest:
                    best, fewest = endpoint, endpoint.active
                    if not fewest:
                        break
        return best


BALANCERS: dict[str, type[RoundRobin] | type[Priority] | type[LeastConnections]] = {
    "least-connections": LeastConnections,
    "priority": Priority,
    "round-robin": RoundRobin,
}


def make_balancer(name: str) -> LoadBalancer:
    """The balancer of that name (a key of BALANCERS; the config checks it)."""
    return BALANCERS[name]()
