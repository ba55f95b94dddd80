"""Connections to one endpoint: idle ones by last use, a limit, waiters in order of arrival.

All bookkeeping is synchronous; only opening a connection takes a task. A request never waits for a task where an idle
connection is at hand, and the one used last goes out first, so that the others can grow old and be closed.

`Budget` holds the limits. With `pools.per_endpoint` each pool has its own; switched off, all pools share one, and a
slow endpoint then uses up what the fast ones need: what the seed's per-endpoint pools are there to prevent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from proxy.core.endpoint import EndpointSpec
from proxy.core.service import Dialer
from proxy.net.tls import tls_context
from proxy.olla.upstream import Keeper, UpstreamConnection


class Waiter(Protocol):
    """An exchange that wants a connection."""

    def connected(self, connection: UpstreamConnection) -> None:
        """Here it is."""

    def connect_failed(self, detail: str) -> None:
        """There is none to be had."""


class Budget:
    """Limits and counts of connections. `max_conns` 0 is no limit; `max_idle` 0 keeps none idle for reuse."""

    __slots__ = ("idle", "max_conns", "max_idle", "open", "pools", "shared", "waiting")

    def __init__(self, max_conns: int, max_idle: int, *, shared: bool = False) -> None:
        self.max_conns = max_conns
        self.max_idle = max_idle
        self.shared = shared
        self.open = 0  # connecting ones included
        self.idle = 0
        self.waiting: deque[tuple[EndpointPool, Waiter]] = deque()
        self.pools: list[EndpointPool] = []

    def full(self) -> bool:
        """Whether no further connection may be opened."""
        return bool(self.max_conns) and self.open >= self.max_conns


class EndpointPool:
    """The connections to one endpoint."""

    __slots__ = (
        "_connecting",
        "_dialer",
        "_loop",
        "_make",
        "budget",
        "closed",
        "context",
        "created",
        "idle",
        "open",
        "spec",
    )

    def __init__(
        self,
        spec: EndpointSpec,
        budget: Budget,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[Keeper], UpstreamConnection],
        dialer: Dialer,
    ) -> None:
        self.spec = spec
        self.budget = budget
        self.idle: list[UpstreamConnection] = []
        self.open = 0
        self.created = 0
        self.closed = False
        self.context = tls_context(spec)
        self._loop = loop
        self._make = make
        self._dialer = dialer
        self._connecting: dict[Waiter, asyncio.Task[UpstreamConnection]] = {}
        budget.pools.append(self)

    # -- for exchanges

    def take(self) -> UpstreamConnection | None:
        """The idle connection that was used last, or None."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            self.budget.idle -= 1
            if connection.usable:
                return connection
            self._close(connection)
        return None

    def request(self, waiter: Waiter) -> None:
        """Open a connection for `waiter`, or queue it until one may be opened or comes free."""
        if self.budget.full() and not self._evict():
            self.budget.waiting.append((self, waiter))
        else:
            self._connect(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """`waiter` no longer wants a connection; its place is given back."""
        task = self._connecting.pop(waiter, None)
        if task is not None:
            task.cancel()
        else:
            with contextlib.suppress(ValueError):
                self.budget.waiting.remove((self, waiter))

    def is_connecting(self, waiter: Waiter) -> bool:
        """Whether a connection is being opened for `waiter` (else it queues)."""
        return waiter in self._connecting

    def release(self, connection: UpstreamConnection, now: float) -> None:
        """An exchange ended and its connection can serve another one."""
        connection.exchange = None
        connection.used += 1
        budget = self.budget
        if budget.waiting:
            self._hand_over(connection)
        elif self.closed or connection.ended or budget.idle >= budget.max_idle:
            self._close(connection)
        else:
            connection.idle_since = now
            budget.idle += 1
            self.idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection ended or must not be used again. Only its first call counts: it then belongs to nobody."""
        connection.keeper = _NOBODY
        if connection in self.idle:
            self.idle.remove(connection)
            self.budget.idle -= 1
        self._slot_freed()

    # -- for the service

    def prewarm(self, count: int) -> None:
        """Open up to `count` connections ahead of the first request, within the limits; failures are silent."""
        budget = self.budget
        for _ in range(min(count, budget.max_idle - budget.idle)):
            if budget.full():
                break
            self._connect(_Prewarmer(self))

    def configure(self, spec: EndpointSpec) -> None:
        """Take new limits for the same address; they concern the pool's own budget only, not a shared one."""
        self.spec = spec
        budget = self.budget
        if not budget.shared:
            budget.max_conns, budget.max_idle = spec.max_conns, spec.max_idle
            self._admit()

    def expire(self, before: float) -> None:
        """Close connections idle since before that time. The list is in order of last use."""
        while self.idle and self.idle[0].idle_since < before:
            connection = self.idle.pop(0)
            self.budget.idle -= 1
            self._close(connection)

    def close(self) -> None:
        """Close idle connections; those in use are closed when their exchange ends."""
        self.closed = True
        idle, self.idle = self.idle, []
        self.budget.idle -= len(idle)
        for connection in idle:
            self._close(connection)
        if self in self.budget.pools:
            self.budget.pools.remove(self)

    def __repr__(self) -> str:
        waiting = sum(pool is self for pool, _ in self.budget.waiting)
        return f"<EndpointPool {self.spec.name} open={self.open} idle={len(self.idle)} waiting={waiting}>"

    # -- inside

    def _connect(self, waiter: Waiter) -> None:
        self.budget.open += 1
        self.open += 1
        task = self._loop.create_task(self._open())
        self._connecting[waiter] = task
        # A callback, not the coroutine's end: a task cancelled before its first step never runs at all.
        task.add_done_callback(partial(self._opened, waiter))

    def _opened(self, waiter: Waiter, task: asyncio.Task[UpstreamConnection]) -> None:
        wanted = self._connecting.pop(waiter, None) is not None
        failure = None if task.cancelled() else task.exception()
        if task.cancelled() or failure is not None or not task.result().usable:
            self._slot_freed()
            if wanted:
                waiter.connect_failed(str(failure or "closed at once"))
            return
        connection = task.result()
        connection.keeper = self
        self.created += 1
        if wanted:
            waiter.connected(connection)
        else:  # the exchange left while the handshake ended: the next one can have it
            self.release(connection, self._loop.time())
            connection.used = 0

    async def _open(self) -> UpstreamConnection:
        spec = self.spec
        # Not `self.context`: of a pool that was replaced, those who still wait must not connect under the old one.
        return await self._dialer.connect(spec.host, spec.port, tls_context(spec), lambda: self._make(_NOBODY))

    def _hand_over(self, connection: UpstreamConnection) -> None:
        """Give a connection to whoever waits longest, if it is for this endpoint; else only its slot is of use."""
        pool, waiter = self.budget.waiting[0]
        if pool is self and connection.usable and not self.closed:
            self.budget.waiting.popleft()
            waiter.connected(connection)
        else:
            self._close(connection)

    def _evict(self) -> bool:
        """In a shared budget: close the longest idle connection of another endpoint to make room."""
        others = [pool for pool in self.budget.pools if pool.idle and pool is not self]
        if not others:
            return False
        oldest = min(others, key=lambda pool: pool.idle[0].idle_since)
        connection = oldest.idle.pop(0)
        self.budget.idle -= 1
        oldest._close(connection)
        return not self.budget.full()

    def _close(self, connection: UpstreamConnection) -> None:
        connection.exchange = None
        connection.keeper.lost(connection)
        connection.transport.close()

    def _slot_freed(self) -> None:
        self.budget.open -= 1
        self.open -= 1
        self._admit()

    def _admit(self) -> None:
        """Connect for those that wait, as far as the limit allows."""
        budget = self.budget
        while budget.waiting and not budget.full():
            pool, waiter = budget.waiting.popleft()
            pool._connect(waiter)


class _Prewarmer:
    """Takes a connection only to leave it idle."""

    __slots__ = ("_pool",)

    def __init__(self, pool: EndpointPool) -> None:
        self._pool = pool

    def connected(self, connection: UpstreamConnection) -> None:
        self._pool.release(connection, self._pool._loop.time())
        connection.used = 0

    def connect_failed(self, detail: str) -> None:
        pass


class _Nobody:
    """Keeps connections that are not in a pool yet or no longer."""

    def lost(self, connection: UpstreamConnection) -> None:
        pass


_NOBODY = _Nobody()
