"""SherpaProxy: the simple engine. One aiohttp server, one aiohttp session for all endpoints; no breaker, no tricks.

A request arrives in `_handle`, judged already; it is counted here, and what goes wrong is answered. relay.py serves it
in five steps. guard.py and endpoints.py are what stands between aiohttp and the world.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from time import monotonic
from typing import Any, ClassVar

from aiohttp import web

from proxy.config import Config
from proxy.control.access import AccessLog
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import EndpointSpec
from proxy.core.errors import ERRORS, ProxyError
from proxy.core.headers import Pairs
from proxy.core.service import Dialer, Instance
from proxy.core.stats import Snapshot, StatsCollector
from proxy.net.listen import requests_arrived
from proxy.sherpa import guard
from proxy.sherpa.endpoints import Connector
from proxy.sherpa.exchange import Exchange, count, new_id
from proxy.sherpa.relay import Relay

UNCAPPED = contextlib.nullcontext()  # `asyncio.timeout(None)` would be two system calls a request

log = logging.getLogger("proxy.sherpa")


class SherpaProxy:
    """A ProxyService on aiohttp. All of it belongs to the thread of the loop that `start` ran on."""

    engine: ClassVar[str] = "sherpa"

    def __init__(
        self, config: Config, discovery: DiscoveryService, stats: StatsCollector, instance: Instance, dialer: Dialer
    ) -> None:
        self._config = config
        self._dialer = dialer
        self._discovery = discovery
        self._stats = stats
        self._instance = instance
        self._access = AccessLog(self.engine) if config.server.access_log else None

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, bound and listening. Raises RuntimeError when aiohttp lacks its C parser."""
        guard.require_c_parser()
        self._connector = Connector(self._config, self._specs(), self._dialer)
        self._relay = Relay(self._config, self._discovery, self._connector)
        self._server = guard.Server(self._handle, self._config, self._instance.via.encode(), self._refused)
        self._listener = await self._server.listen(sock)

    async def stop(self, grace: float) -> None:
        """Stop accepting, close idle connections, let exchanges finish for up to `grace` seconds, then cut the rest."""
        self._listener.close()
        cutting = asyncio.get_running_loop().call_later(grace, self._server.abort)
        await requests_arrived(self._server.arriving, grace)
        self._server.stopping = True
        self._server.pre_shutdown()
        await self._server.shutdown(grace + 1.0)
        cutting.cancel()
        await self._connector.session.close()

    def stats(self) -> Snapshot:
        """The counts now."""
        gauges = {"proxy.client_connections": len(self._server.connections)}
        return self._stats.snapshot(self.engine, self._discovery.endpoints, gauges)

    def status(self) -> dict[str, Any]:
        """Connections on the client side, and the shared pool by endpoint."""
        return {
            "client_connections": len(self._server.connections),
            "endpoints": {
                e.name: {"healthy": e.healthy, "active": e.active, "pool": {"idle": self._connector.idle(e.spec)}}
                for e in self._discovery.endpoints
            },
        }

    def update_config(self, config: Config) -> None:
        """Take balancer, limits and timeouts of `config` for what comes; what is in flight keeps its own."""
        self._config = config
        self._server.configure(config)
        self._connector.configure(config, self._specs())
        self._relay = Relay(config, self._discovery, self._connector)

    def _specs(self) -> list[EndpointSpec]:
        return [endpoint.spec for endpoint in self._discovery.endpoints]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Count one request, serve it, and answer what goes wrong."""
        connection = guard.connection_of(request)
        head = connection.head
        request_id = head.request_id.decode() if head.request_id else new_id()
        try:
            fields = head.text_fields(request_id)  # aiohttp would cut out what is not UTF-8 (aiohttp#3279)
        except ProxyError as error:
            return guard.ErrorResponse(error.kind, self._refused())
        self._stats.record_request()
        exchange = Exchange(request, head, request_id, monotonic())
        outcome = "client_disconnected"
        try:
            await self._serve(exchange, fields)
            outcome = "success" if exchange.error is None else "failed"
        except ConnectionError:
            pass  # the client left while it was written to; aiohttp finds the connection closed
        finally:
            # Cancelled: the connection is gone. The client left, unless it was cut here.
            if outcome == "client_disconnected" and connection.was_cut:
                outcome = "failed"
            count(exchange, outcome, self._stats, self._access)
        return exchange.response or guard.ErrorResponse(ERRORS["internal_error"], exchange.request_id)

    async def _serve(self, exchange: Exchange, fields: Pairs) -> None:
        limit = self._config.server.max_in_flight
        try:
            if limit and self._stats.active > limit:
                raise ProxyError("too_many_requests_in_flight")
            cap = self._config.proxy.max_duration
            async with asyncio.timeout(cap) if cap else UNCAPPED:
                await self._relay.run(exchange, fields)
        except ProxyError as exc:
            await self._fail(exchange, exc)
        except TimeoutError:
            await self._fail(exchange, ProxyError("upstream_timeout", "max_duration"))
        except ConnectionError:
            raise
        except Exception:
            log.exception("request failed inside the proxy")
            await self._fail(exchange, ProxyError("internal_error"))

    async def _fail(self, exchange: Exchange, error: ProxyError) -> None:
        request, exchange.error = exchange.request, error
        log.debug("%s: %s", exchange.request_id, error)
        if exchange.response is not None and exchange.response.prepared:
            guard.cut(request, exchange.response)  # it has begun, and must not look complete
            return
        unread = not request.content.is_eof()
        exchange.response = guard.ErrorResponse(error.kind, exchange.request_id, close=unread)
        await exchange.response.prepare(request)
        await exchange.response.write_eof()
        await guard.flush(request)

    def _refused(self) -> str:
        self._stats.record_refused()
        return new_id()
