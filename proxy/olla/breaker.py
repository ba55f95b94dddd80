"""CircuitBreaker: stops asking an endpoint that keeps failing. Pure: `now` (monotonic seconds) is an argument.

    CLOSED     --failure_threshold consecutive failures-->  OPEN
    OPEN       --timeout after opening-->                   HALF_OPEN
    HALF_OPEN  --half_open_requests successes-->            CLOSED
    HALF_OPEN  --one failure-->                             OPEN

Every admission carries the breaker's epoch, which each change of state bumps; a result from an older epoch is
ignored. So a straggler that was admitted before the breaker opened neither closes it by a late success (the seed's
code does) nor keeps it open by a late failure.

What counts as what is the caller's: a complete exchange is a success; a cut stream, a timeout or a connect error is a
failure; a client that left or a stale reused connection is neither (`release`).
"""

from __future__ import annotations

CLOSED, OPEN, HALF_OPEN = 0, 1, 2  # the seed's numbers
STATE_NAMES = ("closed", "open", "half-open")


class CircuitBreaker:
    """One endpoint's breaker in one worker."""

    __slots__ = (
        "_half_open_requests",
        "_threshold",
        "epoch",
        "failures",
        "opened_at",
        "opened_count",
        "probes",
        "state",
        "successes",
        "timeout",
    )

    def __init__(self, failure_threshold: int, timeout: float, half_open_requests: int) -> None:
        self._threshold = failure_threshold
        self.timeout = timeout
        self._half_open_requests = half_open_requests
        self.state = CLOSED
        self.epoch = 0
        self.failures = 0  # in a row, while closed
        self.probes = 0  # in flight, while half-open
        self.successes = 0  # of probes, while half-open
        self.opened_at = 0.0
        self.opened_count = 0  # how often it opened, for metrics

    def configure(self, failure_threshold: int, timeout: float, half_open_requests: int) -> None:
        """Take new settings. The state stays, unless it has all the good probes that are now asked for."""
        self._threshold = failure_threshold
        self.timeout = timeout
        self._half_open_requests = half_open_requests
        if self.state == HALF_OPEN and self.successes >= half_open_requests:
            self._become(CLOSED)  # no further probe would be admitted, so none could close it

    def allows(self, now: float) -> bool:
        """Whether a request may be admitted now. Changes nothing."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN:
            return now - self.opened_at >= self.timeout
        return self.probes + self.successes < self._half_open_requests

    def admit(self, now: float) -> int:
        """Admit a request that `allows` permitted; returns the epoch to report its end with."""
        if self.state == OPEN:
            self._become(HALF_OPEN)
        if self.state == HALF_OPEN:
            self.probes += 1
        return self.epoch

    def record_success(self, epoch: int) -> None:
        """An exchange admitted in `epoch` completed."""
        if epoch != self.epoch:
            return
        if self.state == CLOSED:
            self.failures = 0
        elif self.state == HALF_OPEN:
            self.probes -= 1
            self.successes += 1
            if self.successes >= self._half_open_requests:
                self._become(CLOSED)

    def record_failure(self, epoch: int, now: float) -> bool:
        """An exchange admitted in `epoch` failed by the endpoint's fault; True when that opened the breaker."""
        if epoch != self.epoch:
            return False
        if self.state == CLOSED:
            self.failures += 1
            if self.failures < self._threshold:
                return False
        self.opened_at = now
        self.opened_count += 1
        self._become(OPEN)
        return True

    def release(self, epoch: int) -> None:
        """An exchange admitted in `epoch` ended in a way that says nothing of the endpoint."""
        if epoch == self.epoch and self.state == HALF_OPEN:
            self.probes -= 1

    def _become(self, state: int) -> None:
        self.state = state
        self.epoch += 1
        self.failures = self.probes = self.successes = 0

    def __repr__(self) -> str:
        return (
            f"<CircuitBreaker {STATE_NAMES[self.state]} epoch={self.epoch} failures={self.failures} "
            f"probes={self.probes} successes={self.successes}>"
        )
