"""DiscoveryService: which endpoints there are and which of them may be asked now.

Static endpoints from the config; their health comes from active checks (`proxy.control.checks` does the I/O) and from
traffic, which can only hurry the next check. Readers use `routable`, a tuple that is rebuilt when something changes and
costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf

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
        self._on_alive: list[Callable[[Endpoint], None]] = []
        self.update(specs, now)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of `endpoints` or `routable`."""
        self._on_change.append(listener)

    def on_hurry(self, listener: Callable[[], None]) -> None:
        """Call `listener` when traffic brought a check forward."""
        self._on_hurry.append(listener)

    def on_alive(self, listener: Callable[[Endpoint], None]) -> None:
        """Call `listener` after each good check of an endpoint."""
        self._on_alive.append(listener)

    def update(self, specs: Iterable[EndpointSpec], now: float) -> None:
        """Take a new list. An endpoint is its address: one that stays keeps its object, health and counts."""
        specs = list(specs)
        health: dict[Endpoint, HealthState] = {}
        for i, (spec, known) in enumerate(zip(specs, _carried_over(specs, self.endpoints), strict=True), start=1):
            endpoint = known or Endpoint(spec)
            health[endpoint] = self._configured(endpoint, spec, now, phase=i / len(specs))
        self._health = health
        self.endpoints = tuple(health)
        self._rebuild()

    def _configured(self, endpoint: Endpoint, spec: EndpointSpec, now: float, phase: float) -> HealthState:
        """Give an endpoint its new spec. Returns the state of its checks."""
        settings = spec.health_interval, spec.unhealthy_after, spec.healthy_after
        state = self._health.get(endpoint)
        if state is None or not spec.health_enabled:  # without checks nothing could make it healthy again
            state = HealthState(*settings, now, phase)
        elif endpoint.spec.checks != spec.checks:
            state.configure(*settings, now, phase)
        endpoint.configure(spec)
        endpoint.healthy = state.healthy
        return state

    def due(self, now: float) -> Sequence[Endpoint]:
        """The endpoints whose check should start now; each is marked as started. Pair it with `check_ended`."""
        due = [e for e, state in self._health.items() if e.spec.health_enabled and state.due(now)]
        for endpoint in due:
            self._health[endpoint].started(now)
        return due

    def next_due(self) -> float | None:
        """When the next check is due, None without one to wait for."""
        due_at = min((s.next_due() for e, s in self._health.items() if e.spec.health_enabled), default=inf)
        return None if due_at == inf else due_at

    def check_ended(self, endpoint: Endpoint) -> None:
        """The check in flight is over, whether it had a result or was given up."""
        state = self._health.get(endpoint)
        if state is not None:
            state.ended()

    def record_check(self, endpoint: Endpoint, ok: bool) -> bool:
        """Take one active check's result; True when the endpoint became healthy or unhealthy by it."""
        state = self._health.get(endpoint)
        if state is None:  # a reload may have removed it meanwhile
            return False
        if ok:
            for listener in self._on_alive:
                listener(endpoint)
        if not state.record(ok):
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

    def health_path(self, endpoint: Endpoint) -> str | None:
        """Where a check was answered the last time; None before that, and where the config names the path."""
        state = self._health.get(endpoint)
        return None if state is None else state.path

    def record_health_path(self, endpoint: Endpoint, path: str) -> bool:
        """A check was answered at `path`; True when that was found out just now."""
        state = self._health.get(endpoint)
        if state is None or endpoint.spec.health_path is not None or state.path == path:
            return False
        state.path = path
        return True

    def health_of(self, endpoint: Endpoint) -> HealthState:
        """The checks of an endpoint of `endpoints`, to look at."""
        return self._health[endpoint]

    def _rebuild(self) -> None:
        self.routable = tuple(e for e in self.endpoints if e.healthy)
        for listener in self._on_change:
            listener()


def _carried_over(specs: Sequence[EndpointSpec], endpoints: Iterable[Endpoint]) -> list[Endpoint | None]:
    """For each spec the endpoint that has its address already, None if there is none.

    Of several at one address the one of the same name; an endpoint that was renamed goes on, too.
    """
    same_name = {(endpoint.name, endpoint.spec.address): endpoint for endpoint in endpoints}
    found = [same_name.pop((spec.name, spec.address), None) for spec in specs]
    renamed = {endpoint.spec.address: endpoint for endpoint in same_name.values()}
    return [endpoint or renamed.pop(spec.address, None) for spec, endpoint in zip(specs, found, strict=True)]
