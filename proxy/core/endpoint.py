"""An endpoint is one LLM server: what the config says of it, and the little that changes while it is used."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What the config says of an endpoint. Durations in seconds; a limit of 0 is no limit."""

    name: str
    scheme: str
    host: str
    port: int
    prefix: str = ""
    priority: int = 100
    max_conns: int = 50
    max_idle: int = 100
    health_enabled: bool = True
    health_path: str = "/health"
    health_interval: float = 5.0
    health_timeout: float = 2.0
    unhealthy_after: int = 3
    healthy_after: int = 1
    tls_verify: bool = True
    tls_ca_file: str | None = None

    @property
    def authority(self) -> str:
        """The `Host` this endpoint is addressed by (RFC 9110 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Scheme, authority and path prefix, without a trailing slash."""
        return f"{self.scheme}://{self.authority}{self.prefix}"


def parse_url(url: str) -> tuple[str, str, int, str]:
    """Split an endpoint URL into (scheme, host, port, prefix). Raises ValueError with a sentence for people."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        # Its own words may quote what stands before an @.
        raise ValueError("not a URL with a host and a port from 1 to 65535") from exc
    if parts.scheme not in ("http", "https"):
        raise ValueError("an endpoint's URL starts with http:// or https://")
    if not parts.hostname:
        raise ValueError("an endpoint's URL needs a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong in an endpoint's URL")
    if parts.query or parts.fragment:
        raise ValueError("an endpoint's URL has no query and no fragment")
    if any(c <= " " or c == "\x7f" for c in url):
        raise ValueError("an endpoint's URL holds no blanks or control characters")
    if not url.isascii():
        raise ValueError("an endpoint's URL is written in ASCII (punycode, percent-encoding)")
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname, port or default, parts.path.rstrip("/")


class Endpoint:
    """One endpoint in use. DiscoveryService owns `healthy`; the engine's StatsCollector owns `active` and the counts.

    Engines compare endpoints by identity: an unchanged spec keeps its object over a reload.
    """

    __slots__ = (
        "active",
        "authority",
        "client_disconnected",
        "failed",
        "healthy",
        "name",
        "requests",
        "spec",
        "success",
        "upstream_5xx",
    )

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.authority = spec.authority
        self.healthy = True
        self.active = 0
        self.requests = 0
        self.success = 0
        self.failed = 0
        self.client_disconnected = 0
        self.upstream_5xx = 0

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "unhealthy"
        return f"<Endpoint {self.name} {self.spec.url} {state} active={self.active}>"
