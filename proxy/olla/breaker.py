"""CircuitBreaker: stops asking an endpoint that keeps failing. Pure: `now` (monotonic seconds) is an argument.

    CLOSED     --failure_threshold consecutive failures-->  OPEN
    OPEN       --timeout after opening-->                   HALF_OPEN
    HALF_OPEN  --half_open_requests successes-->            CLOSED
    HALF_OPEN  --one failure-->                             OPEN

Every admission carries the breaker's epoch: a number that grows with each change of state and each failure that counts.
A result that was admitted before the last change of state is ignored. So a straggler that was admitted before the
breaker opened neither closes it by a late success (the seed's code does) nor keeps it open by a late failure.

What ends together counts once: ten streams that one restart cuts are one failure, not ten in a row. A failure is taken
for part of the last one if its exchange had begun before that was counted, and ended at most TOGETHER seconds after it.
(Both: with the first alone an endpoint that lets every connect time out would be noticed five timeouts late.)

An open breaker whose endpoint passed an active check lets probes in before its timeout (`endpoint_alive`): most
restarts take less. After a probe failed it does not: a check says that the server lives, not that it can serve.

What counts as what is the caller's: a complete exchange is a success; a cut stream, a timeout or a connect error is a
failure; a client that left or a stale reused connection is neither (`release`).
"""

from __future__ import annotations

CLOSED, OPEN, HALF_OPEN = 0, 1, 2  # the seed's numbers
TOGETHER = 0.5  # seconds
STATE_NAMES = ("closed", "open", "half-open")


class CircuitBreaker:
    """One endpoint's breaker in one worker."""

    __slots__ = (
        "_half_open_requests",
        "_probe_failed",
        "_since",
        "_struck_at",
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
        self._since = 0  # the epoch in which the present state began
        self._struck_at = 0.0  # when the last failure counted
        self._probe_failed = False  # since it was closed last
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
        if epoch < self._since:
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
        if epoch < self._since:
            return False
        if self.state == CLOSED:
            if epoch < self.epoch and now - self._struck_at <= TOGETHER:
                return False
            self.epoch += 1
            self._struck_at = now
            self.failures += 1
            if self.failures < self._threshold:
                return False
        else:
            self._probe_failed = True
        self.opened_at = now
        self.opened_count += 1
        self._become(OPEN)
        return True

    def endpoint_alive(self, now: float) -> None:
        """An active check was good: if no probe failed yet, the next request may be one."""
        if self.state == OPEN and not self._probe_failed:
            self.opened_at = min(self.opened_at, now - self.timeout)

    def release(self, epoch: int) -> None:
        """An exchange admitted in `epoch` ended in a way that says nothing of the endpoint."""
        if epoch >= self._since and self.state == HALF_OPEN:
            self.probes -= 1

    def _become(self, state: int) -> None:
        self.state = state
        self.epoch += 1
        self._since = self.epoch
        if state == CLOSED:
            self._probe_failed = False
        self.failures = self.probes = self.successes = 0

    def __repr__(self) -> str:
        return (
            f"<CircuitBreaker {STATE_NAMES[self.state]} epoch={self.epoch} failures={self.failures} "
            f"probes={self.probes} successes={self.successes}>"
        )
