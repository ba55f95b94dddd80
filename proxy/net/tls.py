"""TLS towards endpoints: whom to believe. Loading the system's certificates takes 20 ms, so contexts are shared."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from proxy.core.endpoint import EndpointSpec


class CannotTrust(Exception):
    """An endpoint's `ca_file` cannot be used: one sentence."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    state: str  # of the files it was loaded from


_loaded: dict[tuple[bool, str | None], _Loaded] = {}
"""By `verify` and `ca_file`: endpoints with the same settings share a context."""


def tls_context(spec: EndpointSpec) -> ssl.SSLContext | None:
    """The context for connections to `spec` as `read_authorities` left it, None for plain http. Raises OSError."""
    if spec.scheme != "https":
        return None
    key = spec.tls
    loaded = _loaded.get(key)
    if loaded is None:
        loaded = _loaded[key] = _load(key)
    return loaded.context


def read_authorities(specs: Iterable[EndpointSpec]) -> None:
    """Read the authorities of these endpoints, or read them again: those whose files changed get a new context.

    A connection made under an old context must not be used again. Raises CannotTrust, and then nothing has changed.
    """
    fresh = {}
    for spec in specs:
        key = spec.tls
        if spec.scheme != "https" or key in fresh:
            continue
        try:
            known = _loaded.get(key)
            fresh[key] = known if known is not None and known.state == _state(spec.tls_ca_file) else _load(key)
        except OSError as exc:
            message = f"endpoint {spec.name}: tls.ca_file: {spec.tls_ca_file} cannot be used: {exc}"
            raise CannotTrust(message) from exc
    _loaded.clear()
    _loaded.update(fresh)


def _load(key: tuple[bool, str | None]) -> _Loaded:
    verify, ca_file = key
    state = _state(ca_file)
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return _Loaded(context, state)


def _state(ca_file: str | None) -> str:
    """Differs when what would be loaded differs. Raises OSError."""
    if ca_file is not None:
        return hashlib.sha256(Path(ca_file).read_bytes()).hexdigest()
    paths = ssl.get_default_verify_paths()
    return " ".join(str(Path(path).stat().st_mtime_ns) for path in (paths.cafile, paths.capath) if path)
