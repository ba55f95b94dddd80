"""DiscoveryService: which endpoints there are and which of them may be asked now.

Static endpoints from the config; their health comes from active checks (`proxy.control.checks` does the I/O) and from
traffic, which can only hurry the next check. Readers use `routable`, a tuple that is rebuilt when something changes and
costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.health import HealthState


class DiscoveryService:
    """Owner of the endpoint list and of every endpoint's `healthy`. Times are monotonic seconds."""

    def __init__(self, specs: Iterable[EndpointSpec], now: float) -> None:
        self.endpoints: tuple[Endpoint, ...] = ()
        self.routable: tuple[Endpoint, ...] = ()
        self._health: dict[Endpoint, HealthState] = {}
        self._on_change: list[Callable[[], None]] = []
        self._on_hurry: list[Callable[[], None]] = []
        self.update(specs, now)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of `endpoints` or `routable`."""
        self._on_change.append(listener)

    def on_hurry(self, listener: Callable[[], None]) -> None:
        """Call `listener` when traffic brought a check forward."""
        self._on_hurry.append(listener)

    def update(self, specs: Iterable[EndpointSpec], now: float) -> None:
        """Take a new list. Endpoints whose spec did not change keep their object, health and counts."""
        known = {endpoint.spec: endpoint for endpoint in self.endpoints}
        endpoints = [known.get(spec) or Endpoint(spec) for spec in specs]
        health = {}
        for i, endpoint in enumerate(endpoints, start=1):
            spec = endpoint.spec
            health[endpoint] = self._health.get(endpoint) or HealthState(
                spec.health_interval, spec.unhealthy_after, spec.healthy_after, now, phase=i / len(endpoints)
            )
        self._health = health
        self.endpoints = tuple(endpoints)
        self._rebuild()

    def due(self, now: float) -> Sequence[Endpoint]:
        """The endpoints whose check should start now; each is marked as started."""
        due = [e for e, state in self._health.items() if e.spec.health_enabled and state.due(now)]
        for endpoint in due:
            self._health[endpoint].started(now)
        return due

    def next_due(self) -> float | None:
        """When the next check is due, None without checks."""
        return min((s.due_at for e, s in self._health.items() if e.spec.health_enabled), default=None)

    def record_check(self, endpoint: Endpoint, ok: bool) -> bool:
        """Take one active check's result; True when the endpoint became healthy or unhealthy by it."""
        state = self._health.get(endpoint)
        if state is None or not state.record(ok):  # a reload may have removed it meanwhile
            return False
        endpoint.healthy = state.healthy
        self._rebuild()
        return True

    def report_failure(self, endpoint: Endpoint, now: float) -> None:
        """Traffic to `endpoint` failed: the next check is due at once (a passive failure never decides by itself)."""
        state = self._health.get(endpoint)
        if state is not None and state.hurry(now):
            for listener in self._on_hurry:
                listener()

    def health_of(self, endpoint: Endpoint) -> HealthState:
        """The checks of an endpoint of `endpoints`, to look at."""
        return self._health[endpoint]

    def _rebuild(self) -> None:
        self.routable = tuple(e for e in self.endpoints if e.healthy)
        for listener in self._on_change:
            listener()
