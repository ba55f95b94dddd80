"""The config's values as the data path reads them."""

from __future__ import annotations

from proxy.config import Config
from proxy.core.retry import RetryLimits
from proxy.http1.heads import Limits

NEVER = float("inf")


class Settings:
    """Made anew at each reload. Without limit, times are NEVER, and sizes and counts are 0 unless noted."""

    __slots__ = (
        "adaptive_flush", "body_timeout", "connect_timeout", "count_5xx", "flush_limit", "flush_small", "head_wait",
        "header_timeout", "idle_wait", "keep_alive_timeout", "limits", "max_body", "max_connections", "max_duration",
        "max_in_flight", "max_replay", "pool_wait", "retry_all", "retry_limits", "strip_credentials", "write_timeout",
    )  # fmt: skip

    def __init__(self, config: Config, engine: str) -> None:
        server, proxy = config.server, config.proxy
        self.adaptive_flush = proxy.flush.policy == "adaptive"
        self.body_timeout = _wait(server.body_timeout)
        self.connect_timeout = _wait(proxy.connect_timeout)
        self.count_5xx = proxy.circuit_breaker.count_5xx
        self.flush_limit = proxy.read_buffer(engine)
        self.flush_small = proxy.flush.small
        self.head_wait = _wait(proxy.head_wait)
        self.header_timeout = _wait(server.header_timeout)
        self.idle_wait = _wait(proxy.idle_wait)
        self.keep_alive_timeout = _wait(server.keep_alive_timeout)
        self.limits = Limits(server.max_header_size, server.max_headers, server.max_target_size, server.max_field_size)
        self.max_body: float = server.max_body_size or NEVER
        self.max_connections = server.max_connections
        self.max_duration = proxy.max_duration or 0.0
        self.max_in_flight = server.max_in_flight
        self.max_replay = proxy.max_replay_body
        self.pool_wait = _wait(proxy.pool_wait_timeout)
        self.retry_all = proxy.retry_non_idempotent
        self.retry_limits = RetryLimits(proxy.retry.max_attempts, proxy.retry.max_time)
        self.strip_credentials = proxy.strip_credentials
        self.write_timeout = _wait(server.write_timeout)


def _wait(seconds: float) -> float:
    return seconds or NEVER
