"""One exchange, from a parsed request to a delivered response: the five steps, in their order, in `Relay.run`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

from aiohttp import ClientResponse, ClientSession, web
from yarl import URL

from proxy.config import Config
from proxy.core.balancing import LoadBalancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs, passed_through, request_headers, response_headers
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.sherpa import guard

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 9.2.2


@dataclass(slots=True)
class Exchange:
    """What is known of one request while it is served. Owned by the task that serves it."""

    request: web.BaseRequest
    request_id: str
    started: float
    endpoint: Endpoint | None = None
    response: web.StreamResponse | None = None
    error: ProxyError | None = None
    timings: dict[str, float] = field(default_factory=dict)


class Relay:
    """Serves exchanges through the one session. `config` and `balancer` may be replaced between two requests."""

    def __init__(
        self,
        config: Config,
        balancer: LoadBalancer,
        discovery: DiscoveryService,
        stats: StatsCollector,
        instance: Instance,
        session: ClientSession,
        connector: guard.Connector,
    ) -> None:
        self.config = config
        self.balancer = balancer
        self._discovery = discovery
        self._stats = stats
        self._via = instance.via
        self._session = session
        self._connector = connector

    async def run(self, exchange: Exchange) -> None:
        """Serve one exchange. Raises ProxyError; if `exchange.response` is set by then, it has begun and must be cut."""
        request = exchange.request
        fields, target = guard.check_request(request)
        if passed_through(request.headers.getall("Via", ()), self._via):
            raise ProxyError("loop_detected")
        body = RequestBody(request, self.config)
        await body.gather()
        tried: list[Endpoint] = []
        again: Endpoint | None = None
        failure: ProxyError = ProxyError("no_endpoint")
        while True:
            # 1. Select endpoint
            endpoint = exchange.endpoint = again or self._select(exchange, tried, failure)
            self._stats.record_endpoint_request(endpoint)
            try:
                # 2. Clone request with new URL: as received, byte for byte (yarl would drop an empty query, yarl#293)
                spec = endpoint.spec
                url = URL.build(
                    scheme=spec.scheme, authority=endpoint.authority, path=spec.prefix + target, encoded=True
                )
                # 3. Copy headers (with sanitisation)
                headers = request_headers(
                    fields,
                    authority=endpoint.authority,
                    peer=request.remote or "unknown",
                    via=self._via,
                    request_id=exchange.request_id,
                    strip_credentials=self.config.proxy.strip_credentials,
                )
                # 4. Forward body
                upstream = await self._forward(exchange, endpoint, url, headers, body)
                # 5. Stream response back
                try:
                    await self._stream_response(exchange, endpoint, upstream)
                finally:
                    upstream.close()
                return
            except guard.UpstreamFailed as exc:
                failure = exc
                if body.error is not None:
                    raise body.error from exc  # it failed because its client did not send on
                stale = exc.reused and not exc.heard and again is None
                if not stale:
                    self._discovery.report_failure(endpoint, monotonic())
                if exchange.response is not None or not self._may_repeat(request.method, body, exc):
                    raise
                if stale:  # once more, on a connection that is not as old
                    self._connector.forget_idle(spec)
                    again = endpoint
                else:
                    tried.append(endpoint)
                    again = None
            finally:
                self._stats.release_endpoint(endpoint)

    def _select(self, exchange: Exchange, tried: Sequence[Endpoint], failure: ProxyError) -> Endpoint:
        candidates = self._discovery.routable
        if tried:
            candidates = tuple(endpoint for endpoint in candidates if endpoint not in tried)
        if not candidates:
            raise failure
        picked = self.balancer.pick(candidates)
        exchange.timings["pick"] = monotonic()
        return picked

    def _may_repeat(self, method: str, body: RequestBody, failure: guard.UpstreamFailed) -> bool:
        """RFC 9110 9.2.2: never a request that its upstream may have acted on, unless that may be done twice."""
        if failure.heard or not body.repeatable:
            return False
        return not failure.sent or method in IDEMPOTENT or self.config.proxy.retry_non_idempotent

    async def _forward(
        self, exchange: Exchange, endpoint: Endpoint, url: URL, headers: Pairs, body: RequestBody
    ) -> ClientResponse:
        """Send the request and wait for the response's head. Raises UpstreamFailed, or ProxyError when the pool is full."""
        try:
            upstream = await self._session.request(
                exchange.request.method,
                url,
                headers=headers,
                data=body.data(),
                chunked=body.chunked or None,  # False would chunk as well (aiohttp#13739)
                allow_redirects=False,
                timeout=self._connector.timeout,
                ssl=guard.trust(endpoint.spec),
                trace_request_ctx=exchange.timings,
            )
        except guard.CLIENT_ERRORS as exc:
            raise guard.upstream_failure(exc) from exc
        exchange.timings["upstream"] = monotonic()
        return upstream

    async def _stream_response(self, exchange: Exchange, endpoint: Endpoint, upstream: ClientResponse) -> None:
        request, content, proxy = exchange.request, upstream.content, self.config.proxy
        headers = response_headers(
            guard.check_response(upstream), request_id=exchange.request_id, endpoint=endpoint.name
        )
        if proxy.server_timing:
            headers.append(("Server-Timing", _server_timing(exchange)))
        response = exchange.response = guard.RelayedResponse(request, upstream, headers)
        await response.prepare(request)
        size = proxy.read_buffer("sherpa")
        while True:
            try:
                chunk = await content.read(size)
            except guard.CLIENT_ERRORS as exc:
                raise guard.UpstreamFailed("upstream_closed", repr(exc), sent=True, heard=True) from exc
            if content.at_eof():
                await response.write_eof(chunk)
                break
            await response.write(chunk)  # handed to the socket at once: aiohttp's flush
        await guard.flush(request)


class RequestBody:
    """A request's body: kept whole up to `max_replay_body`; above it streamed, and sent once only."""

    def __init__(self, request: web.BaseRequest, config: Config) -> None:
        self.chunked = "Transfer-Encoding" in request.headers
        self.error: ProxyError | None = None
        self._request = request
        self._reader = guard.BodyReader(request, config.server)
        self._keep = config.proxy.max_replay_body
        self._kept: bytes | None = None
        self._whole = not request.body_exists
        self._begun = False

    @property
    def repeatable(self) -> bool:
        """Whether the request can be sent (again)."""
        return self._whole or not self._begun

    async def gather(self) -> None:
        """Read what may be kept. Raises ProxyError: too large, too slow, broken framing."""
        if self._whole:
            return
        length = self._reader.declared_length()
        if length is not None and length > self._keep:
            return
        chunks, size = [], 0
        while size <= self._keep:
            chunk = await self._reader.read()
            if not chunk:
                self._whole = True
                break
            chunks.append(chunk)
            size += len(chunk)
        self._kept = b"".join(chunks)

    def data(self) -> bytes | AsyncIterator[bytes] | None:
        """What aiohttp's client is given to send."""
        return self._kept if self._whole else self._stream()

    async def _stream(self) -> AsyncIterator[bytes]:
        self._begun = True
        if self._kept:
            yield self._kept
        try:
            while chunk := await self._reader.read():
                yield chunk
        except ProxyError as exc:
            self.error = exc
            raise


def _server_timing(exchange: Exchange) -> str:
    """The phases so far in milliseconds (https://www.w3.org/TR/server-timing/)."""
    at = exchange.timings
    connect = at.get("connected", 0.0) - at.get("connecting", 0.0)
    phases = {
        "parse": exchange.started - guard.head_began(exchange.request),
        "pick": at["pick"] - exchange.started,
        "connect": connect,
        "upstream": at["upstream"] - at["pick"] - connect,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.3f}" for name, seconds in phases.items())
