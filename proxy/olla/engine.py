"""What all exchanges of one worker share: settings, routes, the choice of an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from proxy.control.access import AccessLog
from proxy.core.balancing import LoadBalancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ErrorKind, ProxyError
from proxy.core.stats import StatsCollector
from proxy.http1.heads import Limits
from proxy.olla.breaker import CLOSED, CircuitBreaker
from proxy.olla.buffers import ObjectPool
from proxy.olla.pool import EndpointPool
from proxy.olla.recall import Request, ResponseReader

if TYPE_CHECKING:
    from proxy.olla.exchange import Exchange

NEVER = float("inf")


class Route:
    """An endpoint with all that this engine holds for it."""

    __slots__ = ("breaker", "endpoint", "heads", "host", "pool", "prefix", "served_by")

    def __init__(self, endpoint: Endpoint, pool: EndpointPool, breaker: CircuitBreaker | None) -> None:
        self.endpoint = endpoint
        self.pool = pool
        self.breaker = breaker
        # One for all its connections: what they say is alike, and 1.5 KiB a stream less.
        self.heads = ResponseReader(endpoint.spec.origins)
        self.prefix = endpoint.spec.prefix.encode()
        self.host = b" HTTP/1.1\r\nHost: " + endpoint.authority.encode()
        self.configure()

    def prefix_for(self, target: bytes) -> bytes:
        """What goes before a target, for the few endpoints whose URL has a path."""
        return self.endpoint.spec.prefix_for(target.decode("latin-1")).encode()

    def configure(self) -> None:
        """Take the endpoint's name and limits as they are now; its address never changes."""
        self.pool.configure(self.endpoint.spec)
        name = self.endpoint.name.encode()
        self.served_by = b"\r\nX-Olla-Endpoint: " + name + b"\r\nX-Served-By: " + name + b"\r\n"


class Settings:
    """The config's values as the data path reads them. Without limit, times are NEVER and sizes and counts 0."""

    __slots__ = (
        "adaptive_flush",
        "body_timeout",
        "connect_timeout",
        "count_5xx",
        "flush_limit",
        "flush_small",
        "head_wait",
        "header_timeout",
        "idle_wait",
        "keep_alive_timeout",
        "limits",
        "max_body",
        "max_connections",
        "max_duration",
        "max_in_flight",
        "max_replay",
        "pool_wait",
        "retry_all",
        "server_timing",
        "strip_credentials",
        "timed",
        "write_timeout",
    )

    adaptive_flush: bool
    body_timeout: float
    connect_timeout: float
    count_5xx: bool
    flush_limit: int
    flush_small: int
    head_wait: float
    header_timeout: float
    idle_wait: float
    keep_alive_timeout: float
    limits: Limits
    max_body: float
    max_connections: int
    max_duration: float
    max_in_flight: int
    max_replay: int
    pool_wait: float
    retry_all: bool
    server_timing: bool
    strip_credentials: bool
    timed: bool  # server_timing or max_duration is on
    write_timeout: float


class Engine:
    """What all exchanges of one worker share. Owned and changed by OllaProxy; exchanges read it.

    `horizon` is the time (loop clock) at which the tick after next may run: a deadline is `horizon + timeout`, so
    that a timeout never fires early, and up to two ticks late.
    """

    __slots__ = (
        "access_log",
        "balancer",
        "contexts",
        "discovery",
        "horizon",
        "loop",
        "now",
        "peculiar",
        "probes",
        "rendered_error",
        "request_ids",
        "routes",
        "settings",
        "stats",
        "stopping",
        "unsettled",
        "via",
    )

    access_log: AccessLog | None
    balancer: LoadBalancer
    contexts: ObjectPool[Exchange]
    discovery: DiscoveryService
    horizon: float
    loop: asyncio.AbstractEventLoop
    now: float  # loop clock at the last tick
    peculiar: bool  # no response head may take the short way: stopping, or Server-Timing is on
    probes: list[tuple[Exchange, float, float]]  # half-open probes: exchange, its start, when it must have shown life
    rendered_error: Callable[[ErrorKind], tuple[bytes, bytes]]  # `pools.errors`: rendered once and kept
    request_ids: RequestIds
    routes: dict[Endpoint, Route]
    settings: Settings
    stats: StatsCollector
    stopping: bool
    unsettled: int  # breakers that are not closed
    via: bytes

    def pick(self, tried: list[Endpoint]) -> Route | None:
        """Choose among the routable endpoints whose breaker admits and that were not tried; None if there is none."""
        candidates = self.discovery.routable
        if self.unsettled or tried:
            now = self.loop.time()
            candidates = tuple(e for e in candidates if e not in tried and self.admits(e, now))
        if not candidates:
            return None
        return self.routes[self.balancer.pick(candidates, self.now)]

    def admits(self, endpoint: Endpoint, now: float) -> bool:
        """Whether the endpoint's breaker lets a request through."""
        breaker = self.routes[endpoint].breaker
        return breaker is None or breaker.allows(now)

    def settle(self) -> None:
        """Count the breakers that are not closed, after one of them changed."""
        self.unsettled = sum(1 for r in self.routes.values() if r.breaker is not None and r.breaker.state != CLOSED)


class RequestIds:
    """Makes request ids: a random prefix for the process and a count."""

    __slots__ = ("_count", "_prefix")

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._count = 0

    def make(self) -> bytes:
        """The next id."""
        self._count += 1
        return b"%b-%x" % (self._prefix, self._count)


class Client(Protocol):
    """The client connection as an exchange sees it."""

    transport: asyncio.Transport
    write_paused: bool
    address: str

    def answer(self, error: ProxyError, request: Request, request_id: bytes, keep_alive: bool) -> None:
        """Send an error of our own; the exchange is over."""

    def exchange_done(self, keep_alive: bool) -> None:
        """The exchange is over; the next request may come unless the connection must close."""

    def pause_upload(self, paused: bool) -> None:
        """Read no more of the request body (True), or read on (False)."""

    def abort(self, reset: bool = False) -> None:
        """Cut the connection, so that nobody takes the answer for whole; `reset`: a FIN would look like its end."""
