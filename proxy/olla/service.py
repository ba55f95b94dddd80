"""OllaProxy: the fast engine as a ProxyService. Wires the parts, listens, ticks, reloads, stops.

Cold by design: nothing here runs for a request. What does: `downstream` (bytes to requests), `exchange` (a request's
way) and `upstream` (bytes to exchanges), with `http1`, `breaker`, `flush` and `buffers` deciding.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import socket
import sys
from functools import cache
from secrets import token_hex
from typing import Any, ClassVar

from proxy.config import Config
from proxy.control.access import AccessLog
from proxy.core.balancing import make_balancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import render_error
from proxy.core.service import Dialer, Instance
from proxy.core.stats import Snapshot, StatsCollector
from proxy.http1.session import session_reader
from proxy.net.listen import accept_on, requests_arrived, set_user_timeout
from proxy.net.tls import tls_context
from proxy.olla.breaker import OPEN, STATE_NAMES, CircuitBreaker
from proxy.olla.buffers import ObjectPool
from proxy.olla.downstream import ClientConnection
from proxy.olla.engine import Engine, make_request_ids
from proxy.olla.exchange import Exchange
from proxy.olla.pool import Budget, EndpointPool
from proxy.olla.route import Route
from proxy.olla.settings import NEVER, Settings
from proxy.olla.upstream import BufferedUpstreamConnection, PlainUpstreamConnection, UpstreamConnection

log = logging.getLogger("proxy.olla")

TICK = 0.1  # seconds between looks at the deadlines: a timeout fires up to two ticks late, never early
STOOD_STILL = 1.0  # seconds that a tick is late, from which on the process itself was stopped or starved
TRIM_AFTER = 5.0  # seconds without a request after which freed memory is given back to the system
KEPT_CONTEXTS = 4096
KEPT_IDLE_CONTEXTS = 64  # after TRIM_AFTER
KEPT_BUFFERS = 64

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class OllaProxy:
    """The performance engine: raw asyncio protocols, per-endpoint pools, circuit breakers, object pools."""

    engine: ClassVar[str] = "olla"

    def __init__(
        self,
        config: Config,
        discovery: DiscoveryService,
        stats: StatsCollector,
        instance: Instance,
        dialer: Dialer,
    ) -> None:
        self._config = config
        self._dialer = dialer
        self._discovery = discovery
        self._clients: set[ClientConnection] = set()
        self._server: asyncio.AbstractServer | None = None
        self._sock: socket.socket | None = None
        self._tick_handle: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._shared_budget: Budget | None = None

        size = config.proxy.read_buffer(self.engine)
        pools = config.proxy.pools
        self._buffers: ObjectPool[memoryview] = ObjectPool(
            lambda: memoryview(bytearray(size)), KEPT_BUFFERS, enabled=pools.buffers
        )
        self._state = state = Engine()
        state.settings = Settings(config, self.engine)
        state.stats = stats
        state.discovery = discovery
        state.balancer = make_balancer(config.proxy.load_balancer)
        state.session_of = session_reader(config.proxy)
        state.via = instance.via.encode()
        state.request_ids = make_request_ids(token_hex(6).encode())
        state.access_log = AccessLog(self.engine) if config.server.access_log else None
        state.rendered_error = cache(render_error) if pools.errors else render_error
        state.routes = {}
        state.probes = []
        state.stopping = False
        state.open_breakers = 0
        state.set_time(0.0, TICK)
        self._contexts: ObjectPool[Exchange] = ObjectPool(
            lambda: Exchange(state, self._contexts), KEPT_CONTEXTS, enabled=pools.contexts
        )

    # -- ProxyService

    async def start(self, sock: socket.socket) -> None:
        """Serve on a bound, listening socket."""
        loop = asyncio.get_running_loop()
        state = self._state
        state.loop = loop
        keep_freed_memory()
        self._tick()
        self._rebuild_routes()
        self._discovery.on_change(self._rebuild_routes)
        self._discovery.on_alive(self._let_probe_in)
        pools = self._config.proxy.pools
        if pools.prewarm:
            self._contexts.prewarm(pools.prewarm)
            self._buffers.prewarm(pools.prewarm)
        self._sock = sock
        write_timeout = self._config.server.write_timeout
        self._server = await accept_on(
            sock, lambda: ClientConnection(state, self._contexts, self._clients), write_timeout
        )

    async def stop(self, grace: float) -> None:
        """Stop accepting, let exchanges finish for up to `grace` seconds, cut the rest."""
        state = self._state
        ends = state.loop.time() + grace
        if self._server is not None:
            self._server.close()
        await requests_arrived(lambda: any(client.arriving() for client in self._clients), grace)
        state.stopping = True
        for client in list(self._clients):
            client.stop()
        while any(client.unfinished() for client in self._clients):
            left = ends - state.loop.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, 0.02))  # polled: an event would cost every request a check
        for client in list(self._clients):
            if client.exchange is not None:
                client.exchange.give_client_up()
            client.close_now()
        for route in state.routes.values():
            route.pool.close()
        if self._tick_handle is not None:
            self._tick_handle.cancel()
        await asyncio.sleep(0)  # let the loop report what was closed

    def stats(self) -> Snapshot:
        """The counts now."""
        state = self._state
        routes = state.routes.values()
        gauges = {
            "proxy.client_connections": len(self._clients),
            "proxy.circuit_breaker.open": sum(1 for r in routes if r.breaker is not None and r.breaker.state == OPEN),
            "proxy.pool.buffer.active": self._buffers.active,
            "proxy.pool.buffer.created": self._buffers.created,
            "proxy.pool.context.active": self._contexts.active,
            "proxy.pool.context.created": self._contexts.created,
            "proxy.transport.connections.active": sum(r.pool.open - r.pool.unused for r in routes),
            "proxy.transport.connections.idle": sum(r.pool.unused for r in routes),
            "proxy.transport.connections.created": sum(r.pool.created for r in routes),
        }
        return state.stats.snapshot(self.engine, self._discovery.endpoints, gauges)

    def status(self) -> dict[str, Any]:
        """Pools and breakers per endpoint."""
        now = self._state.loop.time()
        return {"endpoints": {e.name: _route_status(self._state.routes[e], now) for e in self._discovery.endpoints}}

    def update_config(self, config: Config) -> None:
        """Take endpoints, balancer, breaker settings and timeouts; streams go on undisturbed."""
        state = self._state
        old, self._config = self._config, config
        state.settings = Settings(config, self.engine)
        if self._sock is not None and not state.stopping:
            set_user_timeout(self._sock, config.server.write_timeout)
        if config.proxy.load_balancer != old.proxy.load_balancer:
            state.balancer = make_balancer(config.proxy.load_balancer)
        state.session_of = session_reader(config.proxy)
        breaker = config.proxy.circuit_breaker
        for route in state.routes.values():
            if not breaker.enabled:
                route.breaker = None
            elif route.breaker is None:
                route.breaker = self._make_breaker()
            else:
                route.breaker.configure(breaker.failure_threshold, breaker.timeout, breaker.half_open_requests)
        if self._shared_budget is not None:
            self._shared_budget.configure(config.proxy.connection_limit(self.engine), config.proxy.max_idle_conns)
        state.set_time(state.now, TICK)
        self._contexts.shrink(0)  # they keep settings
        for client in self._clients:
            client.configure()
        self._rebuild_routes()

    # -- inside

    def _rebuild_routes(self) -> None:
        state = self._state
        known = state.routes
        wanted = self._discovery.endpoints
        state.routes = {endpoint: self._route_for(endpoint, known.get(endpoint)) for endpoint in wanted}
        for endpoint, route in known.items():
            if endpoint not in state.routes:
                route.pool.close()
        state.count_breakers()

    def _route_for(self, endpoint: Endpoint, known: Route | None) -> Route:
        """The route of an endpoint: its pool and breaker live on while its address stays."""
        spec = endpoint.spec
        if known is None:
            return self._make_route(endpoint, self._make_breaker())
        if known.pool.context is not tls_context(spec):
            known.pool.close()  # what was trusted under other rules is not used again
            return self._make_route(endpoint, known.breaker)
        if known.pool.spec is not spec:
            known.configure()
        return known

    def _make_route(self, endpoint: Endpoint, breaker: CircuitBreaker | None) -> Route:
        proxy = self._config.proxy
        if proxy.pools.per_endpoint:
            budget = Budget(endpoint.spec.max_conns, endpoint.spec.max_idle)
        else:
            if self._shared_budget is None:
                self._shared_budget = Budget(proxy.connection_limit(self.engine), proxy.max_idle_conns, shared=True)
            budget = self._shared_budget
        pool = EndpointPool(endpoint.spec, budget, self._state.loop, self._make_connection, self._dialer)
        return Route(endpoint, pool, breaker)

    def _make_breaker(self) -> CircuitBreaker | None:
        breaker = self._config.proxy.circuit_breaker
        if not breaker.enabled:
            return None
        return CircuitBreaker(breaker.failure_threshold, breaker.timeout, breaker.half_open_requests)

    def _make_connection(self) -> UpstreamConnection:
        if self._buffers.enabled:
            return BufferedUpstreamConnection(self._buffers)
        return PlainUpstreamConnection()

    def _let_probe_in(self, endpoint: Endpoint) -> None:
        """An active check found the endpoint alive: a breaker that opened meanwhile need not wait for its timeout."""
        route = self._state.routes.get(endpoint)
        if route is not None and route.breaker is not None:
            route.breaker.endpoint_alive(self._state.loop.time())

    def _tick(self) -> None:
        """Look at every deadline. O(connections) at about 0.1 us each, ten times a second."""
        state = self._state
        loop = state.loop
        now = loop.time()
        late = now - state.horizon
        if late > STOOD_STILL:
            self._forgive(late)
        state.set_time(now, TICK)
        self._tick_handle = loop.call_at(now + TICK, self._tick)
        for client in list(self._clients):
            try:
                exchange = client.exchange
                if exchange is not None and (exchange.deadline <= now or exchange.ends_at <= now):
                    exchange.expire(now)
                if client.deadline <= now:
                    client.expire(now)
            except Exception:  # one fault of ours must not take their deadlines from all the others
                log.exception("a deadline failed; its client is cut")
                client.transport.abort()  # not its own `abort`: its exchange must hear of it, and end
        if state.probes:
            state.probes = [probed for probed in state.probes if not probed(now)]
        idle = self._config.proxy.idle_conn_timeout
        for route in state.routes.values():
            if idle and route.pool.idle:
                route.pool.expire(now - idle)
            if route.pool.watched:
                route.pool.end_watch(now)
        self._trim(now)

    def _forgive(self, late: float) -> None:
        """Nobody was read for so many seconds: they count against nobody, not even where something was read since."""
        for client in self._clients:
            client.deadline += late
            if client.exchange is not None:
                client.exchange.deadline += late

    def _trim(self, now: float) -> None:
        """After a while without work give freed memory back: `keep_freed_memory` made the allocator hold on to it."""
        if self._state.stats.active:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif self._idle_since != _TRIMMED and now - self._idle_since > TRIM_AFTER:
            self._idle_since = _TRIMMED
            # Contexts lie between all else that a peak of streams allocated, and a page is freed only when it is empty.
            self._contexts.shrink(max(self._config.proxy.pools.prewarm, KEPT_IDLE_CONTEXTS))
            _libc_call("malloc_trim", 0)


_TRIMMED = NEVER


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: giving them back is a `brk` per two reads, 35 % of the CPU per MiB."""
    _libc_call("mallopt", _M_TRIM_THRESHOLD, 64 * 2**20)
    _libc_call("mallopt", _M_MMAP_THRESHOLD, 32 * 2**20)


def _libc_call(name: str, *args: int) -> None:
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # musl has neither: nothing to tune there
        getattr(ctypes.CDLL("libc.so.6"), name)(*args)


def _route_status(route: Route, now: float) -> dict[str, Any]:
    pool, breaker = route.pool, route.breaker
    status: dict[str, Any] = {
        "active": route.endpoint.active,
        "pool": {
            "open": pool.open,
            "idle": pool.unused,
            "created": pool.created,
            "waiting": sum(waiting is pool for waiting, _ in pool.budget.waiting),
            "max_conns": pool.budget.max_conns,
            "max_idle": pool.budget.max_idle,
        },
    }
    if breaker is not None:
        status["circuit_breaker"] = {
            "state": STATE_NAMES[breaker.state],
            "failures": breaker.failures,
            "opened": breaker.opened_count,
            "probes": breaker.probes,
            "half_open_in_s": max(0.0, breaker.opened_at + breaker.timeout - now) if breaker.state == OPEN else None,
        }
    return status
