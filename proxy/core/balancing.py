"""How an endpoint is chosen. Each balancer picks one of the candidates it is given, in configured order.

Most are O(n) or better at about 100 ns a candidate; above `SAMPLE_ABOVE` candidates least-connections compares two
random ones instead (Mitzenmacher, "The Power of Two Choices", 2001), so that a pick never costs more than a parse.
Consistent hashing hashes once for each candidate, at 1.4 us each.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import Protocol

from proxy.core.endpoint import Endpoint

SAMPLE_ABOVE = 16

# A failure makes its endpoint count as busier for so many seconds. Without it an endpoint that fails at once is never
# busy, and gets nearly all requests: 185 of 200 beside one that answered. nginx's `fail_timeout` is as long.
FAILURE_MEMORY = 10.0

# Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016): an endpoint with BUSY times the mean
# load gets no more until it has less, so that no session and no failing endpoint holds up the rest. Below NEVER_BUSY it
# gets its own all the same: a model server batches as many, and each request that moves misses a cache.
BUSY = 1.5
NEVER_BUSY = 8


class LoadBalancer(Protocol):
    """Picks one endpoint. `candidates` is never empty; `now` is monotonic seconds.

    `key`: what the requests of one session share, empty where there is none. Only `consistent-hash` looks at it.
    """

    def pick(self, candidates: Sequence[Endpoint], now: float, key: bytes = b"") -> Endpoint:
        """Return one of `candidates`."""
        ...


class RoundRobin:
    """One after the other."""

    def __init__(self) -> None:
        self._turn = 0

    def pick(self, candidates: Sequence[Endpoint], now: float, key: bytes = b"") -> Endpoint:
        """Return the next of `candidates` in turn."""
        turn = self._turn
        self._turn = turn + 1
        return candidates[turn % len(candidates)]


class Priority:
    """The highest `priority` first; equals rotate."""

    def __init__(self) -> None:
        self._rotate = RoundRobin()

    def pick(self, candidates: Sequence[Endpoint], now: float, key: bytes = b"") -> Endpoint:
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

    def pick(self, candidates: Sequence[Endpoint], now: float, key: bytes = b"") -> Endpoint:
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


class ConsistentHash:
    """The same one for the same key, by rendezvous hashing (Thaler, Ravishankar, 1998), unless it is too busy.

    Each candidate has a score for the key, and the highest wins. So an endpoint that leaves moves only its own
    sessions, each to its second choice, and gets them back when it returns. Every worker and every restart picks alike.

    Without a key the least busy one is picked. The client's address is no key: behind a gateway all clients have one.
    """

    def __init__(self) -> None:
        self._without_key = LeastConnections()

    def pick(self, candidates: Sequence[Endpoint], now: float, key: bytes = b"") -> Endpoint:
        """Return the candidate with the highest score for `key` among those that are not too busy."""
        if not key:
            return self._without_key.pick(candidates, now)
        loads = [load(endpoint, now) for endpoint in candidates]
        busy = max(NEVER_BUSY, BUSY * (sum(loads) + 1) / len(loads))  # more than the least of them, always
        digest = blake2b(key, digest_size=16).digest()
        _, best = max(
            (blake2b(digest + endpoint.identity, digest_size=8).digest(), i)
            for i, endpoint in enumerate(candidates)
            if loads[i] < busy
        )
        return candidates[best]


BALANCERS: dict[str, type[RoundRobin] | type[Priority] | type[LeastConnections] | type[ConsistentHash]] = {
    "consistent-hash": ConsistentHash,
    "least-connections": LeastConnections,
    "priority": Priority,
    "round-robin": RoundRobin,
}


def make_balancer(name: str) -> LoadBalancer:
    """The balancer of that name (a key of BALANCERS; the config checks it)."""
    return BALANCERS[name]()
