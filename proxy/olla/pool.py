"""Connections to one endpoint: idle ones by last use, a limit, waiters in order of arrival.

All bookkeeping is synchronous; only opening a connection takes a task. A request never waits for a task where an idle
connection is at hand, and the one used last goes out first, so that the others can grow old and be closed.

`Budget` holds the limits. With `pools.per_endpoint` each pool has its own; switched off, all pools share one, and a
slow endpoint then uses up what the fast ones need: what the seed's per-endpoint pools are there to prevent.

An endpoint that closes its connections after an answer without saying so is found out by `proxy.core.keep_alive`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from proxy.core.endpoint import EndpointSpec
from proxy.core.keep_alive import CLOSES_UNSAID, SOON, Freed, KeepAlive
from proxy.core.service import Dialer
from proxy.http1.heads import CHUNKED
from proxy.net.tls import tls_context
from proxy.olla.upstream import UpstreamConnection, nobody

log = logging.getLogger("proxy.olla")


class Owner(Protocol):
    """Who is told of a connection."""

    def connecting(self) -> None:
        """It queued; now there is a place for one, and it is being opened."""

    def connected(self, connection: UpstreamConnection) -> None:
        """Here it is."""

    def connect_failed(self, detail: str) -> None:
        """None could be opened."""


class Waiter(Protocol):
    """One wish for a connection, known by identity: each wish needs an object of its own, which is never used again."""

    fresh: bool  # none that was used before will do

    @property
    def owner(self) -> Owner:
        """Who is told."""


_NO_LIMIT = float("inf")


class Budget:
    """Limits and counts of connections. `max_conns` and `max_idle`: 0 is no limit."""

    __slots__ = ("idle_limit", "limit", "open", "pools", "shared", "waiting")

    def __init__(self, max_conns: int, max_idle: int, *, shared: bool = False) -> None:
        self.limit: float = max_conns or _NO_LIMIT
        self.idle_limit: float = max_idle or _NO_LIMIT
        self.shared = shared
        self.open = 0  # connecting ones included
        self.waiting: deque[tuple[EndpointPool, Waiter]] = deque()
        self.pools: list[EndpointPool] = []

    def configure(self, max_conns: int, max_idle: int) -> None:
        """Take new limits. Where there are too many connections the idle ones go now, others as they come free."""
        self.limit = max_conns or _NO_LIMIT
        self.idle_limit = max_idle or _NO_LIMIT
        if self.open > self.limit or self.idle > self.idle_limit:
            for pool in self.pools:
                pool.drop_idle()
        self.admit()

    @property
    def max_conns(self) -> int:
        """Connections open at once, 0 without limit."""
        return 0 if self.limit == _NO_LIMIT else int(self.limit)

    @property
    def max_idle(self) -> int:
        """Connections kept idle for reuse, 0 without limit."""
        return 0 if self.idle_limit == _NO_LIMIT else int(self.idle_limit)

    @property
    def idle(self) -> int:
        """Connections idle in its pools."""
        return sum(len(pool.idle) for pool in self.pools)

    def full(self) -> bool:
        """Whether no further connection may be opened."""
        return self.open >= self.limit

    def admit(self) -> None:
        """Connect for those that wait, as far as the limit allows."""
        while self.waiting and not self.full():
            pool, waiter = self.waiting.popleft()
            pool._connect(waiter)
            waiter.owner.connecting()


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
        "keep_alive",
        "open",
        "spec",
        "watched",
    )

    def __init__(
        self,
        spec: EndpointSpec,
        budget: Budget,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], UpstreamConnection],
        dialer: Dialer,
    ) -> None:
        self.spec = spec
        self.budget = budget
        self.idle: list[UpstreamConnection] = []
        self.watched: list[UpstreamConnection] = []  # idle too, lent to nobody
        self.keep_alive = KeepAlive()
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
            if not connection.ended and not connection.transport.is_closing():  # `usable`, without a call
                return connection
            self._close(connection)
        return None

    def request(self, waiter: Waiter) -> bool:
        """Open a connection for `waiter` (True), or queue it until one may be opened or comes free (False)."""
        if self.budget.full() and not self._evict():
            self.budget.waiting.append((self, waiter))
            return False
        self._connect(waiter)
        return True

    def cancel(self, waiter: Waiter) -> None:
        """`waiter` no longer wants a connection; its place is given back."""
        task = self._connecting.pop(waiter, None)
        if task is not None:
            task.cancel()
        else:
            with contextlib.suppress(ValueError):
                self.budget.waiting.remove((self, waiter))

    def release(self, connection: UpstreamConnection, now: float, length: int = 0) -> None:
        """An exchange ended and its connection can serve another one. `length`: of its answer, as its head has it."""
        connection.exchange = None
        connection.used += 1
        if self.keep_alive.suspect and connection.used:  # one that answered nothing tells nothing
            now = self._loop.time()  # the engine's is up to a tick older: too rough to tell what came first
            if not self._keeps(connection, length, now):
                return
        connection.answer_length = length
        connection.idle_since = now
        budget = self.budget
        idle = budget.idle if budget.shared else len(self.idle)
        if budget.waiting:
            self._hand_over(connection)
        elif self.closed or connection.ended or idle >= budget.idle_limit or budget.open > budget.limit:
            self._close(connection)
        else:
            self.idle.append(connection)

    def discard(self, connection: UpstreamConnection) -> None:
        """An exchange ended and its connection cannot serve another one: close it at once, with what is buffered."""
        connection.exchange = None
        connection.ended = True
        connection.on_lost(connection)
        connection.transport.abort()

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection ended or must not be used again. Only its first call counts: it then belongs to nobody."""
        connection.on_lost = nobody
        for unused in (self.idle, self.watched):
            if connection in unused:
                unused.remove(connection)
                self.closed_by_endpoint(connection)
        self._slot_freed()

    def closed_by_endpoint(self, connection: UpstreamConnection) -> None:
        """A connection was ended, or spoilt, while it was idle, or while its next request had no byte of an answer."""
        chunked = connection.answer_length == CHUNKED
        if connection.used and self.keep_alive.closed(chunked, connection.idle_since, self._loop.time()):
            log.info(CLOSES_UNSAID, self.spec.name, "chunked" if chunked else "other")

    # -- for the service

    @property
    def unused(self) -> int:
        """Connections that no exchange has."""
        return len(self.idle) + len(self.watched)

    def end_watch(self, now: float) -> None:
        """Judge the watched connections that their endpoint left open: the next ones may be kept again."""
        while self.watched and now - self.watched[0].idle_since > SOON:
            connection = self.watched.pop(0)
            self.keep_alive.kept(connection.answer_length == CHUNKED)
            self._close(connection)

    def drop_idle(self) -> None:
        """Close all idle connections: one that was as old was found closed, and the next must say something."""
        idle, self.idle = self.idle, []
        for connection in idle:
            self._close(connection)

    def configure(self, spec: EndpointSpec) -> None:
        """Take new limits for the same address; they concern the pool's own budget only, not a shared one."""
        self.spec = spec
        if not self.budget.shared:
            self.budget.configure(spec.max_conns, spec.max_idle)

    def expire(self, before: float) -> None:
        """Close connections idle since before that time. The list is in order of last use."""
        while self.idle and self.idle[0].idle_since < before:
            connection = self.idle.pop(0)
            self._close(connection)

    def close(self) -> None:
        """Close idle connections; those in use are closed when their exchange ends."""
        self.closed = True
        self.drop_idle()
        while self.watched:
            self._close(self.watched.pop())
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
                waiter.owner.connect_failed(str(failure or "closed at once"))
            return
        connection = task.result()
        connection.on_lost = self.lost
        self.created += 1
        if wanted:
            waiter.owner.connected(connection)
        else:  # the exchange left while the handshake ended: the next one can have it
            connection.used = -1  # it served nobody
            self.release(connection, self._loop.time())

    async def _open(self) -> UpstreamConnection:
        spec = self.spec
        # Not `self.context`: of a pool that was replaced, those who still wait must not connect under the old one.
        return await self._dialer.connect(spec.host, spec.port, tls_context(spec), self._make)

    def _hand_over(self, connection: UpstreamConnection) -> None:
        """Give a connection to whoever waits longest, if it will do for that one; else only its slot is of use."""
        budget = self.budget
        pool, waiter = budget.waiting[0]
        will_do = pool is self and not waiter.fresh and connection.usable
        if will_do and not self.closed and budget.open <= budget.limit:
            budget.waiting.popleft()
            waiter.owner.connected(connection)
        else:
            self._close(connection)

    def _evict(self) -> bool:
        """Close the longest idle connection to make room: another endpoint's, or ours if a fresh one is wanted."""
        pools = [pool for pool in self.budget.pools if pool.idle]
        if pools:
            oldest = min(pools, key=lambda pool: pool.idle[0].idle_since)
            oldest._close(oldest.idle.pop(0))
        elif self.watched:
            self._close(self.watched.pop())
        return not self.budget.full()

    def _keeps(self, connection: UpstreamConnection, length: int, now: float) -> bool:
        """Whether a connection that came free is kept for the next exchange; else it is closed, or watched."""
        if connection.used > 1:
            self.keep_alive.kept(connection.answer_length == CHUNKED)
        watchable = not self.closed and not self.budget.waiting and connection.usable
        decision = self.keep_alive.freed(length == CHUNKED, now, watchable=watchable)
        if decision is Freed.WATCH:
            connection.answer_length = length
            connection.idle_since = now
            self.watched.append(connection)
        elif decision is not Freed.KEEP:
            self._close(connection)
        return decision is Freed.KEEP

    def _close(self, connection: UpstreamConnection) -> None:
        connection.exchange = None
        connection.on_lost(connection)
        connection.transport.close()

    def _slot_freed(self) -> None:
        self.budget.open -= 1
        self.open -= 1
        self.budget.admit()
