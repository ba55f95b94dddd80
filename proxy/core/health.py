"""When an endpoint counts as dead and when as alive again. Pure: results and `now` come in, a decision comes out."""

from __future__ import annotations

from math import inf

# An endpoint that answers "who are you?" or "not so fast" is alive: credentials and quotas are the client's business.
ALIVE_STATUSES = frozenset({401, 403, 429})

# However fast traffic fails, an endpoint is not checked more often than this, in seconds. So a dead endpoint under load
# is left out after `unhealthy_after` - 1 of these, and a live one that fails requests is not flooded with checks.
HURRY_GAP = 0.1

# Statuses by which a server says that it could not do its work: Envoy's outlier detection counts 5xx; a 501 or a 505
# is about the request.
FAILING_STATUSES = frozenset({500, 502, 503, 504})

# Where a check asks when the config names no path, in this order: vLLM, llama.cpp, SGLang and LiteLLM have the first,
# nearly every server has OpenAI's list of models, Ollama has had the last from its beginning.
HEALTH_PATHS = ("/health", "/v1/models", "/api/version")

# "There is no such thing here", as against "I am not well".
MISSING_STATUSES = frozenset({404, 405, 501})


def paths_to_try(configured: str | None, found: str | None) -> tuple[str, ...]:
    """The paths a check asks until one is there: the config's only, else the one `found` before and then the others."""
    if configured is not None:
        return (configured,)
    return HEALTH_PATHS if found is None else (found, *(path for path in HEALTH_PATHS if path != found))


def alive(status: int) -> bool:
    """Whether a health check's HTTP status means that the endpoint lives."""
    return 200 <= status < 400 or status in ALIVE_STATUSES


class HealthState:
    """Counts checks in a row and knows when the next one is due. Times are monotonic seconds.

    The first check is due at once, the second after a share `phase` of the interval: endpoints that came together are
    checked one after the other from then on, not in a burst that requests would feel.
    """

    def __init__(
        self, interval: float, unhealthy_after: int, healthy_after: int, now: float, phase: float = 1.0
    ) -> None:
        self.healthy = True
        self.failures = 0
        self.successes = 0
        self.path: str | None = None  # where a check was answered, if the config leaves that to the checks
        self._checking = False
        self._started_at = now - interval
        self.configure(interval, unhealthy_after, healthy_after, now, phase)

    def configure(
        self, interval: float, unhealthy_after: int, healthy_after: int, now: float, phase: float = 1.0
    ) -> None:
        """Take new settings: they are tried at once. What is known of the endpoint stays."""
        self._interval = interval
        self._phase = phase
        self._unhealthy_after = unhealthy_after
        self._healthy_after = healthy_after
        self.due_at = now

    def next_due(self) -> float:
        """When the next check is due; never while one is in flight."""
        return inf if self._checking else self.due_at

    def due(self, now: float) -> bool:
        """Whether a check should start now."""
        return now >= self.next_due()

    def started(self, now: float) -> None:
        """A check starts. The next one is one interval away, or sooner if `hurry` is called meanwhile."""
        self._checking = True
        self._started_at = now
        self.due_at = now + self._interval * self._phase
        self._phase = 1.0

    def ended(self) -> None:
        """The check is over, with a result (`record`) or without one."""
        self._checking = False

    def hurry(self, now: float) -> bool:
        """Traffic failed: check at once, or HURRY_GAP after the last check; True when that is sooner than planned.

        A check in flight does not answer for it, as it may have asked before the failure: another one follows.
        """
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
