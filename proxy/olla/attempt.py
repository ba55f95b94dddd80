"""One try of one request on one endpoint: begun, and ended exactly once, with all that either counts.

    verdict     endpoint            breaker                             besides
    SERVED      success             success, or failure for some 5xx
    FAILED      failed              failure                             its health is checked at once
    STALE       failed, or nothing  nothing                             its idle connections are closed
    WITHDRAWN   client_disconnected nothing
                or failed

One that somebody else knows (the pool, a breaker that probes, the loop) is made for its try and never used again, so
that nothing that happens to it later can be taken for a later try's. A try on an idle connection is known to its
exchange only, which keeps an attempt for those: a new one for each would cost 3.5 % of a request's instructions.
"""

from __future__ import annotations

from typing import Protocol

from proxy.core.health import FAILING_STATUSES
from proxy.olla import pool
from proxy.olla.breaker import CLOSED, HALF_OPEN, CircuitBreaker
from proxy.olla.engine import Engine
from proxy.olla.route import Route

PENDING, SERVED, FAILED, STALE, WITHDRAWN = range(5)
VERDICTS = ("pending", "served", "failed", "stale", "withdrawn")


class Owner(pool.Owner, Protocol):
    """The exchange that an attempt belongs to."""

    @property
    def responding(self) -> bool:
        """Whether the response's head came."""


class Attempt:
    """A request at an endpoint."""

    __slots__ = (
        "_due", "_engine", "_epoch", "breaker", "fresh", "owner", "probe", "route", "verdict", "waiting",
    )  # fmt: skip

    route: Route
    breaker: CircuitBreaker | None

    def __init__(self, engine: Engine, owner: Owner) -> None:
        self.owner = owner
        self.verdict = PENDING
        self.waiting = False  # the pool knows it, and owes it a connection or a failure
        self.probe = False  # of a half-open breaker
        self.fresh = False  # not over a connection that was used before
        self._engine = engine

    def begin(self, route: Route) -> None:
        """Count it; its breaker admits it."""
        self.route = route
        self.verdict = PENDING
        endpoint = route.endpoint
        endpoint.requests += 1
        endpoint.active += 1
        # A reload may give the route another breaker, or none: what this one admitted is told to this one.
        self.breaker = breaker = route.breaker
        if breaker is not None:
            if breaker.state == CLOSED:
                self._epoch = breaker.epoch
            else:
                self._admit_probe()

    # -- ends

    def served(self, status: int) -> None:
        """A whole response came, whatever its status."""
        self.verdict = SERVED
        endpoint = self.route.endpoint
        endpoint.active -= 1
        endpoint.success += 1
        breaker = self.breaker
        if status >= 500:
            self._report_5xx(status)
        elif breaker is not None and (breaker.failures or breaker.state != CLOSED):
            breaker.record_success(self._epoch)
            self._engine.count_breakers()

    def failed(self, responding: bool) -> None:
        """The endpoint's fault: it could not be reached, was silent, or ended or broke its response.

        `responding`: that had begun, so it did work, and a balancer need not take it for busier than it is.
        """
        self._end(FAILED)
        endpoint, engine = self.route.endpoint, self._engine
        endpoint.failed += 1
        if not responding:
            endpoint.record_failure(engine.now)
        self._strike()
        engine.discovery.report_failure(endpoint, engine.loop.time())

    def stale(self, again: bool) -> None:
        """A reused connection was closed, perhaps before it got the request; `again`: which now goes over a fresh one.

        Connections that were idle meanwhile are as old: used one by one, each would hide a failure of the endpoint.
        """
        self._end(STALE)
        endpoint = self.route.endpoint
        if again:
            endpoint.requests -= 1  # it was never asked
        else:
            endpoint.failed += 1
        self._release()
        self.route.pool.drop_idle()

    def withdrawn(self, by_client: bool) -> None:
        """It ends without saying anything of the endpoint: the client left or failed, or the proxy gave up first."""
        self._end(WITHDRAWN)
        if by_client:
            self.route.endpoint.client_disconnected += 1
        else:
            self.route.endpoint.failed += 1
        self._release()

    # -- a half-open breaker's probe

    def probed(self, now: float) -> bool:
        """Whether the breaker knows how this probe went.

        A generation may take longer than the breaker waits: after its timeout a probe whose response began is a
        success, and one that is still silent gives its place back.
        """
        if self.verdict != PENDING or self.breaker is None:
            return True
        if now < self._due:
            return False
        if self.owner.responding:
            self.breaker.record_success(self._epoch)
        else:
            self.breaker.release(self._epoch)
        self.breaker = None  # it was told
        self._engine.count_breakers()
        return True

    def __repr__(self) -> str:
        return f"<Attempt at {self.route.endpoint.name} {VERDICTS[self.verdict]}>"

    # -- inside

    def _admit_probe(self) -> None:
        breaker, now = self.breaker, self._engine.loop.time()
        assert breaker is not None
        self._epoch = breaker.admit(now)
        if breaker.state == HALF_OPEN:
            self.probe = True
            self._due = now + breaker.timeout
            self._engine.probes.append(self.probed)

    def _end(self, verdict: int) -> None:
        assert self.verdict == PENDING, self
        self.verdict = verdict
        self.route.endpoint.active -= 1

    def _report_5xx(self, status: int) -> None:
        endpoint, engine = self.route.endpoint, self._engine
        endpoint.upstream_5xx += 1
        failing = status in FAILING_STATUSES
        if failing:
            endpoint.record_failure(engine.now)
        if failing and engine.settings.count_5xx:
            self._strike()
        elif self.breaker is not None:
            self.breaker.record_success(self._epoch)
            self._engine.count_breakers()

    def _strike(self) -> None:
        if self.breaker is not None:
            self.breaker.record_failure(self._epoch, self._engine.loop.time())
            self._engine.count_breakers()

    def _release(self) -> None:
        if self.breaker is not None:
            self.breaker.release(self._epoch)
