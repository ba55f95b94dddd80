"""ProxyService: what both engines are to everyone else. Swapping engines changes one config key and nothing here."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from proxy.core.discovery import DiscoveryService
from proxy.core.stats import Snapshot, StatsCollector

if TYPE_CHECKING:
    import ssl

ProtocolT = TypeVar("ProtocolT")
ConfigT_contra = TypeVar("ConfigT_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Instance:
    """Who this proxy is, the same in all its workers. `via` is its name in Via, unique for the process tree."""

    via: str


class Dialer(Protocol):
    """Opens connections to endpoints; `proxy.net.dial` does. A worker's engine and health checks share one."""

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, make: Callable[[], ProtocolT]
    ) -> ProtocolT:
        """Connect what `make` makes, behind TLS if there is a context. Raises OSError."""
        ...


class ProxyService(Protocol[ConfigT_contra]):
    """One engine in one worker. Constructed as `Service(config, discovery, stats, instance, dialer)`."""

    engine: ClassVar[str]

    def __init__(
        self,
        config: ConfigT_contra,
        discovery: DiscoveryService,
        stats: StatsCollector,
        instance: Instance,
        dialer: Dialer,
    ) -> None: ...

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, a bound TCP socket that is already listening; returns when requests are accepted.

        `create_server(sock=...)` would shrink its backlog to 100; `proxy.net.listen.accept_on` does not.
        """
        ...

    async def stop(self, grace: float) -> None:
        """Stop accepting, close idle connections, let exchanges finish for up to `grace` seconds, then cut the rest."""
        ...

    def stats(self) -> Snapshot:
        """The counts now; costs the request path nothing."""
        ...

    def status(self) -> dict[str, Any]:
        """What an operator asks of an engine beyond counts, as JSON values; the admin listener adds each one's health.

        `{"endpoints": {name: {"circuit_breaker": {"state": "closed" | "open" | "half-open", ...}, "pool": {"open": 3,
        "idle": 2, "waiting": 0, "max_conns": 50, ...}}}, ...}`: an engine leaves out what it has not and may add more.
        """
        ...

    def update_config(self, config: ConfigT_contra) -> None:
        """Take balancer, breaker settings and timeouts of `config`; cut no stream.

        The discovery already has its endpoints; those that did not change are the same objects as before.
        """
        ...
