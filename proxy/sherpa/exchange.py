"""What is known of one request while it is served, and how it is counted when it is over."""

from __future__ import annotations

import random
from dataclasses import dataclass
from time import monotonic

from aiohttp import web

from proxy.config import ProxyConfig
from proxy.control.access import AccessLog
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.headers import client_address
from proxy.core.health import FAILING_STATUSES
from proxy.core.retry import Next, RetryLimits, after
from proxy.core.stats import StatsCollector
from proxy.http1.recall import Request
from proxy.sherpa.body import RequestBody
from proxy.sherpa.endpoints import UpstreamFailed


@dataclass(slots=True)
class Exchange:
    """Owned by the task that serves the request. `head` is what to send on; aiohttp's request has no fields."""

    request: web.BaseRequest
    head: Request
    request_id: str
    started: float
    endpoint: Endpoint | None = None
    response: web.StreamResponse | None = None
    error: ProxyError | None = None

    def after(self, failure: UpstreamFailed, body: RequestBody, proxy: ProxyConfig, *, asked: int, fresh: bool) -> Next:
        """What follows a try that failed, by the rule of both engines. `fresh`: it cannot have been stale."""
        return after(
            sent=failure.sent,
            heard=failure.heard or self.response is not None,
            stale=failure.stale and not fresh,
            replayable=body.repeatable,
            idempotent=self.head.traits.idempotent or proxy.retry_non_idempotent,
            asked=asked,
            elapsed=monotonic() - self.started,
            limits=RetryLimits(proxy.retry.max_attempts, proxy.retry.max_time),
        )


def new_id() -> str:
    """A name to find a request again by; no secret."""
    return f"{random.getrandbits(64):016x}"


def count(exchange: Exchange, outcome: str, stats: StatsCollector, access: AccessLog | None) -> None:
    """An exchange is over: `outcome` is success, failed or client_disconnected."""
    seconds, endpoint, response = monotonic() - exchange.started, exchange.endpoint, exchange.response
    status = response.status if response is not None and response.prepared else 0
    blameless = exchange.error is None or exchange.error.kind.blame == "client"
    if outcome == "success":
        stats.record_success(seconds, status)
    elif outcome == "failed":
        stats.record_failure(seconds)
    else:
        stats.record_client_disconnected()
    if endpoint is not None:
        if outcome == "success":
            endpoint.record_success(status)
            if status in FAILING_STATUSES:
                endpoint.record_failure(monotonic())
        elif outcome == "failed" and not blameless:
            endpoint.failed += 1
        else:
            endpoint.client_disconnected += 1
    if access is not None:
        request = exchange.request
        access.record(
            client=client_address(request.remote),
            method=request.method,
            target=request.raw_path,
            status=status,
            outcome=outcome,
            endpoint="" if endpoint is None else endpoint.name,
            seconds=seconds,
            request_id=exchange.request_id,
        )
