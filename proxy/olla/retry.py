"""What happens when an attempt on an endpoint does not go well. None of it runs for a request that succeeds at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core.errors import ProxyError
from proxy.olla.breaker import CLOSED, HALF_OPEN, CircuitBreaker
from proxy.olla.engine import NEVER, Route

if TYPE_CHECKING:
    from proxy.olla.exchange import Exchange


def wait_for_connection(exchange: Exchange, route: Route) -> None:
    """No idle connection is at hand: have one opened, or queue for one."""
    if not exchange.body_complete:
        exchange.client.pause_upload(True)
    route.pool.request(exchange)
    if exchange.route is route and exchange.connection is None:
        engine = exchange.engine
        connecting = route.pool.is_connecting(exchange)
        wait = engine.settings.connect_timeout if connecting else engine.settings.pool_wait
        exchange.deadline = engine.horizon + wait


def attempt_failed(
    exchange: Exchange, error: ProxyError, sent: bool, answered: bool = False, stale: bool = False
) -> None:
    """The endpoint failed before the client got a byte. Try again where that is safe, else answer with `error`.

    RFC 9110 9.2.2: what was never sent may go anywhere; what was sent and got no byte back, only if its method is
    idempotent. A stale keep-alive connection (`stale`) is nobody's failure: its request goes to a fresh one first.
    """
    route = exchange.route
    assert route is not None
    if exchange.connection is None:
        route.pool.cancel(exchange)
    else:
        exchange.connection.abort()
        exchange.connection = None
    exchange.partial = b""
    exchange.deadline = NEVER
    exchange.route = None
    engine = exchange.engine
    idempotent = exchange.request.traits.idempotent or engine.settings.retry_all
    safe = exchange.replayable and (not sent or (idempotent and not answered))
    endpoint, breaker = route.endpoint, route.breaker
    endpoint.active -= 1
    if not stale:
        endpoint.record_failure(engine.now)
        blame(exchange, route)
    else:
        if breaker is not None:
            breaker.release(exchange.epoch)
        if safe and (breaker is None or breaker.allows(engine.loop.time())):
            endpoint.requests -= 1  # it was never asked
            exchange.attempt(route, fresh=True)
            return
        endpoint.failed += 1
    if safe:
        exchange.tried.append(endpoint)
        other = engine.pick(exchange.tried)
        if other is not None:
            exchange.attempt(other, fresh=False)
            return
    exchange.fail(error)


def time_out(exchange: Exchange, detail: str) -> None:
    """A wait for the endpoint, or for a connection to it, took too long."""
    error = ProxyError("upstream_timeout", detail)
    route = exchange.route
    if exchange.response is not None:
        exchange.cut(error)
    elif route is None:  # the request body is still on its way
        exchange.client_failed(ProxyError("request_timeout", detail))
    elif exchange.connection is None and not route.pool.is_connecting(exchange):
        route.endpoint.failed += 1
        withdraw(exchange, route)
        exchange.route = None
        exchange.fail(ProxyError("pool_timeout"))
    else:
        attempt_failed(exchange, error, sent=exchange.connection is not None, answered=exchange.answered)


def withdraw(exchange: Exchange, route: Route) -> None:
    """The attempt ends without saying anything of the endpoint."""
    route.endpoint.active -= 1
    if route.breaker is not None:
        route.breaker.release(exchange.epoch)
    if exchange.connection is None:
        route.pool.cancel(exchange)


def blame(exchange: Exchange, route: Route) -> None:
    """The endpoint failed: count it, tell the breaker, have its health checked at once."""
    engine = exchange.engine
    now = engine.loop.time()
    route.endpoint.failed += 1
    if route.breaker is not None:
        _strike(exchange, route.breaker)
    engine.discovery.report_failure(route.endpoint, now)


def report_status(exchange: Exchange, route: Route, breaker: CircuitBreaker, status: int) -> None:
    """A whole answer came: a success for the breaker, unless it is a 5xx and these count."""
    if status >= 500 and exchange.engine.settings.count_5xx:
        _strike(exchange, breaker)
    else:
        breaker.record_success(exchange.epoch)
        exchange.engine.settle()


def probe(exchange: Exchange, breaker: CircuitBreaker) -> None:
    """Admit a request to an endpoint whose breaker is open and due, or half-open."""
    engine = exchange.engine
    now = engine.loop.time()
    exchange.epoch = breaker.admit(now)
    if breaker.state == HALF_OPEN:
        engine.probes.append((exchange, exchange.started, now + breaker.timeout))


def probe_due(exchange: Exchange) -> None:
    """The breaker's timeout passed since this probe started: a head is a success, no head yet counts as nothing."""
    route = exchange.route
    if route is None or route.breaker is None:
        return
    if exchange.response is not None:
        route.breaker.record_success(exchange.epoch)
    else:
        route.breaker.release(exchange.epoch)
    exchange.epoch = -1
    exchange.engine.settle()


def _strike(exchange: Exchange, breaker: CircuitBreaker) -> None:
    breaker.record_failure(exchange.epoch, exchange.engine.loop.time())
    if breaker.state != CLOSED:
        exchange.engine.settle()
