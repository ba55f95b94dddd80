"""What all exchanges of one worker share: settings, clocks, routes and the choice among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from proxy.control.access import AccessLog
from proxy.core.balancing import LoadBalancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ErrorKind
from proxy.core.stats import StatsCollector
from proxy.http1.recall import Request
from proxy.olla.breaker import CLOSED
from proxy.olla.route import Route
from proxy.olla.settings import Settings


@dataclass(slots=True, init=False, eq=False, repr=False)
class Engine:
    """Owned and changed by OllaProxy; exchanges read it.

    `horizon` is the time (loop clock) at which the next tick is due: a deadline is `horizon + timeout`, so that
    a timeout never fires early, and up to two ticks late. The sums that each request or each read of a stream needs are
    made once a tick: `head_horizon` until a response's head must be here, `idle_horizon` until its next bytes,
    `keep_alive_horizon` until the client's next request.
    """

    access_log: AccessLog | None
    balancer: LoadBalancer
    discovery: DiscoveryService
    head_horizon: float
    horizon: float
    idle_horizon: float
    keep_alive_horizon: float
    loop: asyncio.AbstractEventLoop
    now: float  # loop clock at the last tick
    open_breakers: int  # open and half-open ones
    probes: list[Callable[[float], bool]]  # `Attempt.probed` of those in flight
    rendered_error: Callable[[ErrorKind], tuple[bytes, bytes]]  # `pools.errors`: rendered once and kept
    request_ids: Iterator[bytes]
    routes: dict[Endpoint, Route]
    session_of: Callable[[Request], bytes] | None  # None: the balancer needs no session
    settings: Settings
    stats: StatsCollector
    stopping: bool
    via: bytes

    def pick(self, request: Request, tried: Sequence[Endpoint]) -> Route | None:
        """Choose among the routable endpoints whose breaker admits and that were not tried; None if there is none."""
        candidates = self.discovery.routable
        if self.open_breakers or tried:
            candidates = self._admitted(candidates, tried)
        if not candidates:
            return None
        if self.session_of is None:
            return self.routes[self.balancer.pick(candidates, self.now)]
        return self.routes[self.balancer.pick(candidates, self.now, self.session_of(request))]

    def count_breakers(self) -> None:
        """Count the breakers that are not closed, after one of them changed."""
        self.open_breakers = sum(
            1 for route in self.routes.values() if route.breaker is not None and route.breaker.state != CLOSED
        )

    def set_time(self, now: float, tick: float) -> None:
        """A tick: deadlines are counted from here."""
        self.now = now
        self.horizon = now + tick
        self.idle_horizon = self.horizon + self.settings.idle_wait
        self.head_horizon = self.horizon + self.settings.head_wait
        self.keep_alive_horizon = self.horizon + self.settings.keep_alive_timeout

    def _admitted(self, candidates: Sequence[Endpoint], tried: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
        now = self.loop.time()
        return tuple(e for e in candidates if e not in tried and self._admits(e, now))

    def _admits(self, endpoint: Endpoint, now: float) -> bool:
        breaker = self.routes[endpoint].breaker
        return breaker is None or breaker.allows(now)


def make_request_ids(prefix: bytes) -> Iterator[bytes]:
    """Request ids without end: a prefix that is the process's own, in hexadecimal, and a count.

    No Python runs for the next one: 630 instructions a request less than a method that counts.
    """
    return map((prefix + b"-%x").__mod__, count(1))
