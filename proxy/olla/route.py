"""An endpoint with all that this engine holds for it."""

from __future__ import annotations

from proxy.core.endpoint import Endpoint
from proxy.http1.recall import ResponseReader
from proxy.olla.breaker import CircuitBreaker
from proxy.olla.pool import EndpointPool


class Route:
    """Lives as long as its endpoint and the way it is trusted."""

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
