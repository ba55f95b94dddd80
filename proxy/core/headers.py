"""Which headers cross the proxy, in both directions, and which it adds. One home for the names; both engines use them.

The rules are RFC 9110 7.6.1 (hop-by-hop fields and those that `Connection` names are dropped) and 7.6.3 (`Via`). The
codec compiles the names into expressions over bytes (`http1/heads.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# The seed's list. Its "Trailers" is RFC 2616's misprint of "Trailer" (RFC 9110 6.6.2); a field that is really called
# "Trailers" is an ordinary one. "Proxy-Connection" was never standard but must not pass either (RFC 9112 C.2.2).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

# `Connection` may name further fields to drop, but these carry framing or routing: naming them changes nothing.
# So does it for the trail: a client that names X-Forwarded-For would hide where it came from ("hop-by-hop abuse").
NEVER_NOMINATED = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "via",
        "x-request-id",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    }
)

# The proxy states these itself, so what an upstream says of them never passes.
OWN_RESPONSE_PREFIX = "x-olla-"
OWN_RESPONSE_NAMES = frozenset({"x-served-by"})

# Dropped upstream when `strip_credentials` is on.
CREDENTIALS = frozenset({"authorization", "cookie", "x-api-key"})

# Restated by the proxy on the way up: `Host` is the endpoint's, the others are appended to or answered here.
RESTATED = frozenset(
    {"host", "expect", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"}
)

SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:=+/@-]{1,128}")

Pairs = list[tuple[str, str]]


def may_redirect(status: int) -> bool:
    """Whether `Location` means something in an answer with this status (RFC 9110 10.2.2)."""
    return status == 201 or (300 <= status < 400 and status != 304)


def relative_location(location: str, origins: Iterable[str]) -> str:
    """A `Location` on the endpoint itself without the endpoint's address, which clients may not be able to reach.

    `origins` are the endpoint's (`EndpointSpec.origins`). Any other value stays as it is.
    """
    for origin in origins:
        rest = location[len(origin) :]
        if location[: len(origin)].lower() == origin.lower() and rest[:1] in ("", "/", "?", "#"):
            if rest.startswith("//"):
                return "/." + rest  # it would name a host (RFC 3986 4.2)
            return rest if rest.startswith("/") else "/" + rest
    return location


def client_address(address: str | None) -> str:
    """A client's address as X-Forwarded-For and the access log show it; empty if it is not known.

    No brackets and no port: those are RFC 7239's, for `Forwarded`. An IPv4 client of a listener for both families
    arrives as `::ffff:192.0.2.1` and is written as what it is.
    """
    address = address or ""
    return address.removeprefix("::ffff:") if "." in address else address
