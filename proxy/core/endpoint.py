"""An endpoint is one LLM server: what the config says of it, and the little that changes while it is used."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

_LONGEST_LABEL, _LONGEST_HOST = 63, 253  # RFC 1035 2.3.4
_HOST = re.compile(r"[A-Za-z0-9._-]+")

# More failures than these are not remembered one by one: the oldest are dropped.
_MOST_FAILURES = 1024


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
    health_path: str | None = None
    health_interval: float = 5.0
    health_timeout: float = 2.0
    unhealthy_after: int = 3
    healthy_after: int = 1
    tls_verify: bool = True
    tls_ca_file: str | None = None

    @property
    def address(self) -> tuple[str, str, int, str]:
        """What makes it this endpoint and no other: a reload may change all else."""
        return self.scheme, self.host, self.port, self.prefix

    @property
    def checks(self) -> tuple[object, ...]:
        """The settings of its health checks."""
        return (
            self.health_enabled,
            self.health_path,
            self.health_interval,
            self.health_timeout,
            self.unhealthy_after,
            self.healthy_after,
        )

    @property
    def tls(self) -> tuple[bool, str | None]:
        """How a connection to it is trusted: `tls_verify` and `tls_ca_file`."""
        return self.tls_verify, self.tls_ca_file

    def prefix_for(self, target: str) -> str:
        """What goes before a target: the URL's path, or nothing if the target begins with it already.

        So `http://host/v1` serves clients that ask for `/v1/models` as well as those that ask for `/models`.
        """
        prefix = self.prefix
        has_it = target.startswith(prefix) and target[len(prefix) : len(prefix) + 1] in ("", "/", "?")
        return "" if has_it or target == "*" else prefix

    @property
    def authority(self) -> str:
        """The `Host` this endpoint is addressed by (RFC 9110 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    @property
    def origins(self) -> tuple[str, ...]:
        """How a URL on this endpoint begins: scheme and authority, also with the scheme's own port written out."""
        origin = f"{self.scheme}://{self.authority}"
        return (origin,) if origin.endswith(f":{self.port}") else (origin, f"{origin}:{self.port}")

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
    _check_host(parts.hostname)
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname, port or default, parts.path.rstrip("/")


def _check_host(host: str) -> None:
    """Raise ValueError unless a resolver may be asked for `host`: Python's own answers some names with a traceback."""
    if ":" in host:
        try:
            ip_address(host)
        except ValueError as exc:
            raise ValueError("what stands in brackets is not an IPv6 address") from exc
        return
    labels = host.removesuffix(".").split(".")
    if "" in labels:
        raise ValueError("its host has an empty part: a dot too many")
    if max(map(len, labels)) > _LONGEST_LABEL or len(host) > _LONGEST_HOST:
        raise ValueError(f"a host has at most {_LONGEST_LABEL} characters between dots and {_LONGEST_HOST} in all")
    if not _HOST.fullmatch(host):
        raise ValueError("a host is letters, digits, dots, - and _")


class Endpoint:
    """One endpoint in use. DiscoveryService owns `spec` and `healthy`; the engine owns the rest.

    requests = success + failed + client_disconnected + active, at every moment.

    Engines compare endpoints by identity: one whose address did not change keeps its object over a reload.
    """

    __slots__ = (
        "active",
        "authority",
        "client_disconnected",
        "failed",
        "failed_at",
        "healthy",
        "identity",
        "name",
        "requests",
        "spec",
        "success",
        "upstream_5xx",
    )

    def __init__(self, spec: EndpointSpec) -> None:
        self.configure(spec)
        self.healthy = True
        self.active = 0
        self.requests = 0
        self.success = 0
        self.failed = 0
        self.client_disconnected = 0
        self.upstream_5xx = 0
        self.failed_at: deque[float] = deque(maxlen=_MOST_FAILURES)  # oldest first; balancers drop what is too old

    def configure(self, spec: EndpointSpec) -> None:
        """Take a new spec of the same address."""
        self.spec = spec
        self.name = spec.name
        self.identity = spec.url.encode()  # its address, for hashing: another name does not move its sessions
        self.authority = spec.authority

    def record_failure(self, now: float) -> None:
        """An attempt on it failed before an answer began, or its answer was an error. `now`: monotonic seconds."""
        self.failed_at.append(now)

    def begin(self) -> None:
        """It is asked. What ends the attempt takes one from `active` and adds one to a count."""
        self.requests += 1
        self.active += 1

    def record_success(self, status: int) -> None:
        """It gave a whole response, whatever its status."""
        self.success += 1
        if status >= 500:
            self.upstream_5xx += 1

    def __repr__(self) -> str:
        state = "healthy" if self.healthy else "unhealthy"
        return f"<Endpoint {self.name} {self.spec.url} {state} active={self.active}>"
