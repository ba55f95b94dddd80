"""TLS towards endpoints. Loading the system's certificates takes some 20 ms: contexts are made at start and shared."""

from __future__ import annotations

import ssl
from functools import lru_cache

from proxy.core.endpoint import EndpointSpec


def tls_context(spec: EndpointSpec) -> ssl.SSLContext | None:
    """The context for connections to `spec`, None for plain http. Raises OSError if its ca_file cannot be loaded."""
    if spec.scheme != "https":
        return None
    return _context(spec.tls_verify, spec.tls_ca_file)


@lru_cache(maxsize=1024)
def _context(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
