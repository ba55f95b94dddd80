"""What the simulation sees of Olla's insides: all of it, so that a change inside Olla changes this file only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

from proxy.core.endpoint import Endpoint
from proxy.olla import exchange
from proxy.olla import service as olla_service
from proxy.olla.breaker import HALF_OPEN, OPEN, CircuitBreaker
from proxy.olla.service import TICK, OllaProxy

__all__ = ["HALF_OPEN", "OPEN", "TICK", "breakers", "ordered_clients", "queues", "simulated_machine"]


class _OrderedSet(dict[Any, None]):
    """A set in the order of its arrivals: the addresses of objects, and with them a set's order, differ by run."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


def ordered_clients(service: OllaProxy) -> None:
    """Make the order in which the tick looks at clients the same in each run."""
    service._clients = _OrderedSet()  # type: ignore[assignment]  # all that the service asks of a set


class Clock(Protocol):
    def time(self) -> float: ...


@contextmanager
def simulated_machine(loop: Clock) -> Iterator[None]:
    """The clock that is read beside the loop's, and an allocator that is left alone: giving memory back takes long."""
    with (
        mock.patch.object(olla_service, "_libc_call", lambda *_: None),
        mock.patch.object(exchange, "perf_counter", loop.time),
    ):
        yield


def breakers(service: OllaProxy) -> dict[Endpoint, CircuitBreaker | None]:
    """The breaker of each endpoint, None while breakers are off."""
    return {endpoint: route.breaker for endpoint, route in service._state.routes.items()}


def queues(service: OllaProxy) -> list[deque[Any]]:
    """The queues for connections, whose items are (pool, who waits); those of a removed endpoint go on after it."""
    return [route.pool.budget.waiting for route in service._state.routes.values()]
