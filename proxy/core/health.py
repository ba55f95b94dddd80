"""When an endpoint counts as dead and when as alive again. Pure: results and `now` come in, a decision comes out."""

from __future__ import annotations

# An endpoint that answers "who are you?" or "not so fast" is alive: credentials and quotas are the client's business.
ALIVE_STATUSES = frozenset({401, 403, 429})

# However fast traffic fails, an endpoint is not checked more often than this, in seconds. So a dead endpoint under load
# is left out after `unhealthy_after` - 1 of these, and a live one that fails requests is not flooded with checks.
HURRY_GAP = 0.1


def alive(status: int) -> bool:
    """Whether a health check's HTTP status means that the endpoint lives."""
    return 200 <= status < 400 or status in ALIVE_STATUSES


class HealthState:
    """Counts checks in a row and knows when the next one is due. Times are monotonic seconds.

    The first check is due at once, the second after a share `phase` of the interval: endpoints that came together are
    checked one after the other from then on, not in a burst that requests would feel.
    """

    __slots__ = (
        "_healthy_after",
        "_interval",
        "_phase",
        "_started_at",
        "_unhealthy_after",
        "due_at",
        "failures",
        "healthy",
        "successes",
    )

    def __init__(
        self, interval: float, unhealthy_after: int, healthy_after: int, now: float, phase: float = 1.0
    ) -> None:
        self._interval = interval
        self._phase = phase
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after
        self.healthy = True
        self.failures = 0
        self.successes = 0
        self._started_at = now - interval
        self.due_at = now

    def due(self, now: float) -> bool:
        """Whether a check should start now."""
        return now >= self.due_at

    def started(self, now: float) -> None:
        """A check starts: the next one is one interval away, unless `hurry` is called meanwhile."""
        self._started_at = now
        self.due_at = now + self._interval * self._phase
        self._phase = 1.0

    def hurry(self, now: float) -> bool:
        """Traffic failed: check at once, or HURRY_GAP after the last check; True when that is sooner than planned."""
        soonest = max(now, self._started_at + HURRY_GAP)
        if soonest >= self.due_at:
            return False
        self.due_at = soonest
        return True

    def record(self, ok: bool) -> bool:
        """Take one check's result; True when it changed `healthy`."""
        if ok:
            self.failures = 0
            self.successes += 1
            if not self.healthy and self.successes >= self._healthy_after:
                self.healthy = True
                return True
        else:
            self.successes = 0
            self.failures += 1
            if self.healthy and self.failures >= self._unhealthy_after:
                self.healthy = False
                return True
        return False
