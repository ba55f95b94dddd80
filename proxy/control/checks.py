"""Active health checks: a GET to each endpoint on its own schedule, with a client small enough to read at a glance.

One task keeps the schedule, one task runs each check; at most `CONCURRENT` at once, one at a time per endpoint, each
with its own deadline. DiscoveryService decides when a check is due and what its result means. Where the config names no
path, a check tries those that servers for LLMs have, and goes on with the first that is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import cast

from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.errors import ProxyError
from proxy.core.health import MISSING_STATUSES, alive, paths_to_try
from proxy.core.service import Dialer
from proxy.http1.heads import HEAD_END, judge_response
from proxy.net.tls import tls_context

log = logging.getLogger("proxy.health")

CONCURRENT = 32
_LONGEST_STATUS_LINE = 1024


class HealthChecker:
    """Owner of the checks in flight. Start it on the loop; it follows every change of the discovery by itself."""

    def __init__(self, discovery: DiscoveryService, dialer: Dialer) -> None:
        self._discovery = discovery
        self._dialer = dialer
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(CONCURRENT)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._schedule: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start checking on the running loop; every endpoint is due at once."""
        self._discovery.on_change(self._wake.set)
        self._discovery.on_hurry(self._wake.set)
        self._schedule = asyncio.get_running_loop().create_task(self._keep_schedule())

    async def stop(self) -> None:
        """Stop checking; checks in flight are given up."""
        tasks = [*self._in_flight, *([self._schedule] if self._schedule else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_schedule(self) -> None:
        while True:
            self._wake.clear()
            for endpoint in self._discovery.due(time.monotonic()):
                task = asyncio.ensure_future(self._check(endpoint))
                self._in_flight.add(task)
                task.add_done_callback(self._in_flight.discard)
            due_at = self._discovery.next_due()
            wait = None if due_at is None else max(due_at - time.monotonic(), 0)
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _check(self, endpoint: Endpoint) -> None:
        try:
            async with self._places:
                spec = endpoint.spec
                found = await check(spec, self._dialer, self._discovery.health_path(endpoint))
            # A reload may have changed meanwhile what is asked; then another check is due, and this one says nothing.
            if endpoint.spec is spec:
                self._take(endpoint, found)
        except Exception:
            log.exception("the health check of endpoint %s failed in the proxy", endpoint.name)
        finally:
            self._discovery.check_ended(endpoint)
            self._wake.set()

    def _take(self, endpoint: Endpoint, found: CheckResult) -> None:
        if self._discovery.record_check(endpoint, found.problem is None):
            _log_change(endpoint, found.problem)
        if found.path is not None and self._discovery.record_health_path(endpoint, found.path):
            log.info(
                "endpoint %s: its health is asked at %s",
                endpoint.name,
                found.path,
                extra={"fields": {"endpoint": endpoint.name}},
            )


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found: `problem` in a few words, None if the endpoint lives; `path`: where it was answered."""

    problem: str | None
    path: str | None = None


async def check(spec: EndpointSpec, dialer: Dialer, found: str | None = None) -> CheckResult:
    """Ask one endpoint whether it lives, within `health_timeout`. `found`: the path that was there the last time."""
    paths = paths_to_try(spec.health_path, found)
    try:
        async with asyncio.timeout(spec.health_timeout):
            for path in paths:
                status = await _get_status(spec, dialer, path)
                if status not in MISSING_STATUSES:
                    return CheckResult(None if alive(status) else f"status {status} at {path}", path)
    except TimeoutError:
        return CheckResult(f"no answer within {spec.health_timeout:g}s")
    except OSError as exc:
        return CheckResult(f"cannot connect: {exc.strerror or exc}")
    except (ProxyError, EOFError, asyncio.LimitOverrunError):
        return CheckResult("the answer is not HTTP")
    asked = f"{', '.join(paths[:-1])} and {paths[-1]}" if len(paths) > 1 else paths[0]
    return CheckResult(f"status {status} at {asked}; set health.path to one that this server has")


async def _get_status(spec: EndpointSpec, dialer: Dialer, path: str) -> int:
    reader = asyncio.StreamReader(_LONGEST_STATUS_LINE)
    protocol = _Answer(reader)
    await dialer.connect(spec.host, spec.port, tls_context(spec), lambda: protocol)
    try:
        protocol.transport.write(
            f"GET {spec.prefix_for(path)}{path} HTTP/1.1\r\nHost: {spec.authority}\r\n"
            "User-Agent: proxy-engines-health\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        line = await reader.readuntil(b"\n")
        return judge_response(line.rstrip(b"\r\n") + HEAD_END, to_head=True).status
    finally:
        protocol.transport.abort()  # nothing more is of interest, and a graceful TLS end could wait for a dead peer


class _Answer(asyncio.StreamReaderProtocol):
    """Feeds a StreamReader, and knows its transport."""

    transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast("asyncio.WriteTransport", transport)
        super().connection_made(transport)


def _log_change(endpoint: Endpoint, problem: str | None) -> None:
    if problem is None:
        log.info("endpoint %s is healthy again", endpoint.name, extra={"fields": {"endpoint": endpoint.name}})
    else:
        log.warning(
            "endpoint %s is unhealthy: %s", endpoint.name, problem, extra={"fields": {"endpoint": endpoint.name}}
        )
