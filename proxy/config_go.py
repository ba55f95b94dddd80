"""What the config keys of the Go product (github.com/thushan/olla) are called here.

Its files are YAML of the same shape, so users bring them. Each key that is unknown here gets a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_NOT_HERE = "this proxy has no such thing: leave it out"

# Keys as they stand in the Go product's files. Endpoints count from their list, which is `endpoints` here.
_CALLED_HERE: Mapping[str, str] = {
    "discovery": "discovery.static.endpoints is `endpoints` here, a list at the top of the file",
    "model_registry": _NOT_HERE,
    "translators": _NOT_HERE,
    "engineering": _NOT_HERE,
    "dashboard": f"{_NOT_HERE}; metrics are on the admin listener",
    "logging": "logging.level is server.log_level here; logs are JSON lines on stderr",
    "security": f"{_NOT_HERE}; server.max_in_flight and server.max_connections bound the load",
    "server.read_timeout": "server.header_timeout and server.body_timeout here",
    "server.idle_timeout": "server.keep_alive_timeout here",
    "server.request_logging": "server.access_log here",
    "server.request_limits": "server.max_body_size and server.max_header_size here",
    "server.rate_limits": f"{_NOT_HERE}; server.max_in_flight and server.max_connections bound the load",
    "proxy.profile": "proxy.flush.policy is the nearest thing here",
    "proxy.connection_timeout": "proxy.connect_timeout here",
    "proxy.connection_keep_alive": "proxy.idle_conn_timeout here",
    "proxy.response_timeout": "proxy.max_duration here; proxy.response_header_timeout bounds the wait for a first byte",
    "proxy.read_timeout": "proxy.idle_timeout here",
    "proxy.max_retries": "proxy.retry.max_attempts here, which counts the first try, too",
    "proxy.retry_backoff": "leave it out: the next endpoint is asked at once",
    "proxy.retry.enabled": "proxy.retry.max_attempts of 1 switches retries off here",
    "proxy.retry.on_connection_failure": "leave it out: what was never sent is tried elsewhere",
    "proxy.stream_buffer_size": "proxy.buffer_size here",
    "proxy.sticky_sessions": _NOT_HERE,
    "proxy.profile_filter": _NOT_HERE,
    "endpoints.type": "leave it out: requests are passed on as they are",
    "endpoints.model_url": "leave it out: models are not looked up",
    "endpoints.model_filter": _NOT_HERE,
    "endpoints.preserve_path": "leave it out: a path is never cut, and a prefix is not doubled",
    "endpoints.auth": "leave it out: clients' credentials are passed on, unless proxy.strip_credentials is true",
    "endpoints.headers": _NOT_HERE,
    "endpoints.health_check_url": "endpoints[].health.path here; left out, the check finds its own",
    "endpoints.check_interval": "endpoints[].health.interval here",
    "endpoints.check_timeout": "endpoints[].health.timeout here",
}


def called_here(place: Sequence[int | str]) -> str | None:
    """What to write instead of the unknown key at `place`, None if the Go product does not know it either."""
    return _CALLED_HERE.get(".".join(str(part) for part in place if isinstance(part, str)))
