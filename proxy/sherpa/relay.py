"""One exchange, from a parsed request to a delivered response: the five steps of `Relay.run`, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from aiohttp import ClientResponse, ConnectionTimeoutError
from yarl import URL

from proxy.config import Config
from proxy.core.balancing import make_balancer
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs
from proxy.core.retry import Next
from proxy.http1.recall import Request
from proxy.http1.session import session_reader
from proxy.net.tls import tls_context
from proxy.sherpa import guard
from proxy.sherpa.endpoints import CLIENT_ERRORS, Connector, UpstreamFailed, response_fields, sending
from proxy.sherpa.exchange import Exchange, RequestBody


class Relay:
    """Serves exchanges by one config, through the session that all endpoints share."""

    def __init__(self, config: Config, discovery: DiscoveryService, connector: Connector) -> None:
        self._config = config
        self._discovery = discovery
        self._connector = connector
        self._balancer = make_balancer(config.proxy.load_balancer)
        self._session_of = session_reader(config.proxy)

    async def run(self, exchange: Exchange, fields: Pairs) -> None:
        """Serve one exchange. Raises ProxyError, also when the response has begun already."""
        request, head = exchange.request, exchange.head
        if head.traits.looped:
            raise ProxyError("loop_detected")
        target = head.target.decode("ascii")
        body = RequestBody(request, head, self._config)
        await body.gather()
        tried: list[Endpoint] = []
        stale: Endpoint | None = None
        failure = ProxyError("no_endpoint")
        while True:
            # 1. Select endpoint
            endpoint = exchange.endpoint = stale or self._select(head, tried, failure)
            endpoint.begin()
            try:
                # 2. Clone request with new URL: byte for byte; parsed as a URL, `/path?` would lose its `?` (yarl#293)
                spec, path = endpoint.spec, endpoint.spec.prefix_for(target) + target
                url = URL.build(scheme=spec.scheme, authority=endpoint.authority, path=path, encoded=True)
                # 3. Copy headers (with sanitisation): done when the head was judged, but for Host
                headers = [("Host", endpoint.authority), *fields]
                # 4. Forward body
                upstream = await self._forward(exchange, endpoint, url, headers, body)
                # 5. Stream response back
                try:
                    await self._stream_response(exchange, endpoint, upstream)
                finally:
                    upstream.close()  # if it was not read to its end, its connection cannot be used again
                return
            except UpstreamFailed as exc:
                if body.error is not None:
                    raise body.error from exc  # the client's fault: its body did not go on
                following = exchange.after(exc, body, self._config.proxy, asked=len(tried) + 1, fresh=stale is not None)
                if exc.stale:
                    self._connector.forget_idle(spec)  # as old as the one that was closed: they would say as little
                if following is Next.SAME_ENDPOINT:
                    endpoint.requests -= 1  # it was never asked
                    stale = endpoint
                    continue
                if exchange.response is None:
                    endpoint.record_failure(monotonic())
                self._discovery.report_failure(endpoint, monotonic())
                if following is Next.GIVE_UP:
                    raise
                endpoint.failed += 1
                tried.append(endpoint)
                stale, exchange.endpoint, failure = None, None, exc
            finally:
                endpoint.active -= 1

    def _select(self, head: Request, tried: Sequence[Endpoint], failure: ProxyError) -> Endpoint:
        candidates = self._discovery.routable
        if tried:
            candidates = tuple(endpoint for endpoint in candidates if endpoint not in tried)
        if not candidates:
            raise failure
        session = b"" if self._session_of is None else self._session_of(head)
        return self._balancer.pick(candidates, monotonic(), session)

    async def _forward(
        self, exchange: Exchange, endpoint: Endpoint, url: URL, headers: Pairs, body: RequestBody
    ) -> ClientResponse:
        """Send the request and wait for the response's head. Raises ProxyError."""
        try:
            return await self._connector.session.request(
                exchange.request.method,
                url,
                data=body.data(),
                allow_redirects=False,
                timeout=self._connector.timeout,
                ssl=tls_context(endpoint.spec) or True,
                middlewares=(sending(headers, chunked=body.chunked),),
            )
        except CLIENT_ERRORS as exc:
            code = "upstream_timeout" if isinstance(exc, ConnectionTimeoutError) else "upstream_unreachable"
            raise UpstreamFailed(code, repr(exc), sent=False, heard=False) from exc

    async def _stream_response(self, exchange: Exchange, endpoint: Endpoint, upstream: ClientResponse) -> None:
        """Pass the response on as it comes. Raises ProxyError when the upstream cuts it short."""
        request, content, proxy = exchange.request, upstream.content, self._config.proxy
        own = [
            ("X-Olla-Request-ID", exchange.request_id),
            ("X-Olla-Endpoint", endpoint.name),
            ("X-Served-By", endpoint.name),
        ]
        headers = own + response_fields(upstream)
        response = exchange.response = guard.RelayedResponse(request, upstream, headers)
        await response.prepare(request)
        size = proxy.read_buffer("sherpa")
        while True:
            try:
                chunk = await content.read(size)
            except CLIENT_ERRORS as exc:
                raise UpstreamFailed("upstream_closed", repr(exc)) from exc
            if content.at_eof() and content.exception() is None:
                await response.write_eof(chunk)
                break
            await response.write(chunk)  # goes to the socket at once: the flush
        await guard.flush(request)
