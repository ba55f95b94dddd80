"""Active health checks: a GET to each endpoint on its own schedule, with a client small enough to read at a glance.

One task keeps the schedule, one task runs each check; at most `CONCURRENT` at once, one at a time per endpoint, each
with its own deadline. DiscoveryService decides when a check is due and what its result means.
"""

from __future__ import annotations

import asyncio
import logging
import time

from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.health import alive
from proxy.net.tls import tls_context

log = logging.getLogger("proxy.health")

CONCURRENT = 32
_LONGEST_STATUS_LINE = 1024


class HealthChecker:
    """Owner of the checks in flight. Start it on the loop; it follows every change of the discovery by itself."""

    def __init__(self, discovery: DiscoveryService) -> None:
        self._discovery = discovery
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(CONCURRENT)
        self._in_flight: dict[Endpoint, asyncio.Task[None]] = {}
        self._schedule: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start checking on the running loop; every endpoint is due at once."""
        self._discovery.on_change(self._wake.set)
        self._discovery.on_hurry(self._wake.set)
        self._schedule = asyncio.get_running_loop().create_task(self._keep_schedule())

    async def stop(self) -> None:
        """Stop checking; checks in flight are given up."""
        tasks = [*self._in_flight.values(), *([self._schedule] if self._schedule else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_schedule(self) -> None:
        while True:
            self._wake.clear()
            for endpoint in self._discovery.due(time.monotonic()):
                if endpoint not in self._in_flight:
                    self._in_flight[endpoint] = asyncio.ensure_future(self._check(endpoint))
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
                problem = await check(endpoint.spec)
            if self._discovery.record_check(endpoint, problem is None):
                _say(endpoint, problem)
        finally:
            del self._in_flight[endpoint]


async def check(spec: EndpointSpec) -> str | None:
    """Ask one endpoint whether it lives: None if it does, else what is wrong, in a few words."""
    try:
        async with asyncio.timeout(spec.health_timeout):
            status = await _get_status(spec)
    except TimeoutError:
        return f"no answer within {spec.health_timeout:g}s"
    except OSError as exc:
        return f"cannot connect: {exc.strerror or exc}"
    except (ValueError, EOFError, asyncio.LimitOverrunError):
        return "the answer is not HTTP"
    if alive(status):
        return None
    hint = "; set health.path to one that this server has" if status == 404 else ""
    return f"status {status} at {spec.health_path}{hint}"


async def _get_status(spec: EndpointSpec) -> int:
    reader, writer = await asyncio.open_connection(
        spec.host, spec.port, ssl=tls_context(spec), limit=_LONGEST_STATUS_LINE
    )
    try:
        writer.write(
            f"GET {spec.prefix}{spec.health_path} HTTP/1.1\r\nHost: {spec.authority}\r\n"
            "User-Agent: proxy-engines-health\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode("ascii")
        )
        line = await reader.readuntil(b"\n")
        version, status = line.split(maxsplit=2)[:2]
        if not version.startswith(b"HTTP/1.") or len(status) != 3:
            raise ValueError("not a status line")
        return int(status)
    finally:
        writer.transport.abort()  # nothing more is of interest, and a graceful TLS end could wait for a dead peer


def _say(endpoint: Endpoint, problem: str | None) -> None:
    if problem is None:
        log.info("endpoint %s is healthy again", endpoint.name, extra={"fields": {"endpoint": endpoint.name}})
    else:
        log.warning(
            "endpoint %s is unhealthy: %s", endpoint.name, problem, extra={"fields": {"endpoint": endpoint.name}}
        )
