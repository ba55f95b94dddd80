"""SherpaProxy: the simple engine. One aiohttp server, one aiohttp session for all endpoints, no breaker, no tricks.

A request arrives in `_handle`, which counts it and answers what goes wrong; relay.py serves it in the seed's five steps.
What aiohttp does otherwise than promised is mended in guard.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from time import monotonic
from typing import Any, ClassVar

from aiohttp import ClientSession, DummyCookieJar, web

from proxy.config import Config
from proxy.control.access import AccessLog
from proxy.core.balancing import make_balancer
from proxy.core.discovery import DiscoveryService
from proxy.core.errors import ErrorKind, ProxyError
from proxy.core.headers import sane_request_id
from proxy.core.service import Instance
from proxy.core.stats import Snapshot, StatsCollector
from proxy.sherpa import guard
from proxy.sherpa.relay import Exchange, Relay

log = logging.getLogger("proxy.sherpa")


class SherpaProxy:
    """A ProxyService on aiohttp. All of it runs on one event loop and is owned by that loop's thread."""

    engine: ClassVar[str] = "sherpa"

    def __init__(self, config: Config, discovery: DiscoveryService, stats: StatsCollector, instance: Instance) -> None:
        self._config = config
        self._discovery = discovery
        self._stats = stats
        self._instance = instance
        self._access = AccessLog(self.engine) if config.server.access_log else None
        self._cutting = False
        self._drained: asyncio.Event | None = None

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, bound and listening. Raises RuntimeError when aiohttp lacks its C parser."""
        guard.require_c_parser()
        config = self._config
        self._connector = guard.Connector(config)
        self._session = ClientSession(
            connector=self._connector,
            cookie_jar=DummyCookieJar(),  # a jar would hand one client's cookies to the next
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            trust_env=False,
            trace_configs=[guard.connect_times()] if config.proxy.server_timing else None,
            **guard.parser_limits(config),
        )
        balancer = make_balancer(config.proxy.load_balancer)
        self._relay = Relay(
            config, balancer, self._discovery, self._stats, self._instance, self._session, self._connector
        )
        self._server = guard.Server(self._handle, config, self._refuse, log)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._server, sock=sock, backlog=guard.BACKLOG)

    async def stop(self, grace: float) -> None:
        """Stop accepting, close idle connections, let exchanges finish for up to `grace` seconds, then cut the rest."""
        self._drained = asyncio.Event()
        self._listener.close()
        self._server.pre_shutdown()
        await self._wait_drained(grace)
        self._cutting = True
        self._server.abort()
        await self._wait_drained(1.0)
        await self._server.shutdown(1.0)
        await self._session.close()

    def stats(self) -> Snapshot:
        """The counts now."""
        return self._stats.snapshot(self.engine, self._discovery.endpoints)

    def status(self) -> dict[str, Any]:
        """Connections by side, and the pool by endpoint."""
        idle = self._connector.idle()
        return {
            "client_connections": len(self._server.connections),
            "endpoints": {
                e.name: {
                    "healthy": e.healthy,
                    "active": e.active,
                    "idle_connections": idle.get((e.spec.host, e.spec.port), 0),
                }
                for e in self._discovery.endpoints
            },
        }

    def update_config(self, config: Config) -> None:
        """Take the balancer and the limits of `config` for what comes; exchanges in flight keep theirs."""
        if config.proxy.load_balancer != self._config.proxy.load_balancer:
            self._relay.balancer = make_balancer(config.proxy.load_balancer)
        self._config = self._relay.config = self._server.config = config
        self._connector.configure(config)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Count one request, serve it, and answer what goes wrong."""
        self._stats.record_request()
        exchange = Exchange(request, _request_id(request), monotonic())
        outcome = "client_disconnected"
        try:
            await self._serve(exchange)
            outcome = "success" if exchange.error is None else "failed"
        except ConnectionError:
            pass  # the client left while it was written to; aiohttp finds the connection closed
        finally:
            # Cancelled: the connection is gone. The client left, unless it was cut here.
            if outcome == "client_disconnected" and (self._cutting or guard.stalled(request)):
                outcome = "failed"
            self._record(exchange, outcome)
        assert exchange.response is not None
        return exchange.response

    async def _serve(self, exchange: Exchange) -> None:
        limit = self._config.server.max_in_flight
        try:
            if limit and self._stats.active > limit:
                raise ProxyError("too_many_requests_in_flight")
            async with asyncio.timeout(self._config.proxy.max_duration or None):
                await self._relay.run(exchange)
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

    def _refuse(self, kind: ErrorKind) -> guard.ErrorResponse:
        self._stats.record_refused()
        return guard.ErrorResponse(kind, _new_id())

    def _record(self, exchange: Exchange, outcome: str) -> None:
        seconds, endpoint, response = monotonic() - exchange.started, exchange.endpoint, exchange.response
        status = 0 if response is None else response.status
        if outcome == "success":
            assert endpoint is not None
            self._stats.record_success(seconds, endpoint, status)
        elif outcome == "failed":
            blamed = exchange.error is not None and exchange.error.kind.blame == "endpoint"
            self._stats.record_failure(seconds, endpoint if blamed else None)
        else:
            self._stats.record_client_disconnected(endpoint)
        if self._drained is not None and not self._stats.active:
            self._drained.set()
        if self._access is not None:
            request = exchange.request
            self._access.record(
                client=request.remote or "",
                method=request.method,
                target=request.raw_path,
                status=status,
                outcome=outcome,
                endpoint="" if endpoint is None else endpoint.name,
                seconds=seconds,
                request_id=exchange.request_id,
            )

    async def _wait_drained(self, seconds: float) -> None:
        assert self._drained is not None
        if self._stats.active:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._drained.wait()


def _new_id() -> str:
    return f"{random.getrandbits(64):016x}"  # to find a request again, not to keep a secret


def _request_id(request: web.BaseRequest) -> str:
    given = request.headers.get("X-Request-ID")
    return given if given is not None and sane_request_id(given) else _new_id()
