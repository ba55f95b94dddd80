"""The two engines by name. The only file that knows both; it imports one only when that is asked for.

A process that runs Olla does not carry aiohttp in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from proxy.config import Config
from proxy.core.service import ProxyService

Engine = type[ProxyService[Config]]


ENGINES = ("sherpa", "olla")


def engine_class(name: str) -> Engine:
    """The service of that name, imported now. Raises ValueError for a name that is not in ENGINES."""
    match name:
        case "sherpa":
            from proxy.sherpa.service import SherpaProxy

            return SherpaProxy
        case "olla":
            from proxy.olla.service import OllaProxy

            return OllaProxy
    raise ValueError(f"{name!r} is not one of {', '.join(ENGINES)}")


# Config keys, or whole sections, that an engine has no use for. Written in a file, they are announced at start; they
# stay legal, so that switching engines changes one line.
UNUSED_KEYS: Mapping[str, tuple[str, ...]] = {
    "sherpa": (
        "proxy.circuit_breaker",
        "proxy.flush",
        "proxy.pools",
        "endpoints[].max_conns_per_host",
        "endpoints[].max_idle_conns",
    ),
    # Olla passes everything on within one pass of the loop, sooner than any interval.
    "olla": ("proxy.flush.interval",),
}

# Config keys, or whole sections, that a running proxy cannot change: sockets, processes, what is built once at start.
_FIXED_KEYS = (
    "server.host",
    "server.port",
    "server.workers",
    "server.loop",
    "server.access_log",
    "admin",
    "proxy.engine",
    "proxy.buffer_size",
    "proxy.pools",
    "runtime",
    "canary",
)
# And those that one engine cannot: Sherpa gives them to aiohttp's connector and session when it makes them.
_FIXED_KEYS_OF: Mapping[str, tuple[str, ...]] = {
    "sherpa": ("proxy.max_conns_per_host", "proxy.idle_conn_timeout"),
    "olla": (),
}


def engines_of(config: Config) -> tuple[str, ...]:
    """The engines that `config` runs: one, or a canary's besides."""
    return tuple(dict.fromkeys((config.proxy.engine, config.canary.engine or config.proxy.engine)))


def fixed_keys(config: Config) -> tuple[str, ...]:
    """What a reload leaves as it is, for the engines that `config` runs."""
    return _FIXED_KEYS + tuple(key for engine in sorted(engines_of(config)) for key in _FIXED_KEYS_OF[engine])


def unused_keys(config: Config) -> dict[str, tuple[str, ...]]:
    """By engine that `config` runs: the keys, or whole sections, that it does not use."""
    return {engine: UNUSED_KEYS[engine] for engine in engines_of(config)}
