"""The rare shapes of an exchange: streamed uploads, HTTP/1.0, interim answers, closing connections, times, logs."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from httptools import HttpParserError

from proxy.core.errors import ProxyError
from proxy.http1.chunked import BodyReader
from proxy.http1.heads import CHUNKED, HEAD_END, UNTIL_CLOSE
from proxy.olla import retry
from proxy.olla.engine import NEVER
from proxy.olla.recall import Response

if TYPE_CHECKING:
    from proxy.olla.exchange import Exchange
    from proxy.olla.upstream import UpstreamConnection


def take_times(exchange: Exchange) -> None:
    """`server_timing` or `max_duration` is on: note when what happened, and when it must end."""
    settings = exchange.engine.settings
    if settings.server_timing:
        exchange.marks = {}
    if settings.max_duration:
        exchange.ends_at = exchange.engine.horizon + settings.max_duration


# -- uploads


def upload(exchange: Exchange, data: bytes, complete: bool) -> None:
    """More of a request body that is passed on while it arrives. It can be sent again while all of it is kept."""
    connection = exchange.connection
    engine = exchange.engine
    exchange.body_complete = complete
    if exchange.kept_body is None:
        exchange.kept_body = []
    if data:
        if exchange.replayable or connection is None:
            exchange.kept_body.append(data)
        if connection is not None:
            connection.transport.write(data)
            _limit_replay(exchange)
    if complete:
        exchange.client.pause_upload(False)  # it may have come whole in the read that had to wait for a connection
        if connection is not None and exchange.response is None:
            exchange.deadline = engine.horizon + engine.settings.head_wait


def _limit_replay(exchange: Exchange) -> None:
    kept = exchange.kept_body
    if kept and exchange.replayable and sum(map(len, kept)) > exchange.engine.settings.max_replay:
        exchange.replayable = False
        kept.clear()


def connected(exchange: Exchange, connection: UpstreamConnection) -> None:
    """The head was sent; send what came of the body since, and go on reading it from the client."""
    if exchange.marks is not None:
        exchange.marks[b"connect"] = perf_counter()
    if exchange.kept_body:
        connection.transport.write(b"".join(exchange.kept_body))
        _limit_replay(exchange)
    engine = exchange.engine
    if exchange.body_complete:
        exchange.deadline = engine.horizon + engine.settings.head_wait
    else:
        exchange.deadline = NEVER  # the client's own timeouts run while its body is awaited
        exchange.client.pause_upload(False)


def upload_paused(exchange: Exchange, paused: bool) -> None:
    """The upstream takes the request body too slowly (True), or takes it again (False)."""
    if exchange.body_complete:
        return
    exchange.client.pause_upload(paused)
    if exchange.response is None:
        engine = exchange.engine
        exchange.deadline = engine.horizon + engine.settings.head_wait if paused else NEVER


# -- heads


def wait_for_head(exchange: Exchange, data: bytes) -> None:
    """A response head that has not arrived whole."""
    limit = exchange.engine.settings.limits.head
    if limit and len(data) + exchange.interims > limit:
        error = ProxyError("upstream_invalid", "its heads are too large")
        retry.attempt_failed(exchange, error, sent=True, answered=True)
    else:
        exchange.partial = data


def skip_interim(exchange: Exchange, data: bytes, size: int) -> None:
    """Interim answers (1xx) are not the answer; the first of them in `data` is `size` bytes long.

    They renew no deadline, and share the limit of heads with the final one: as many may come as fit in.
    """
    route = exchange.route
    assert route is not None
    limit = exchange.engine.settings.limits.head
    exchange.partial = b""
    exchange.interims += size
    while not limit or exchange.interims <= limit:
        end = data.find(HEAD_END, size)
        if end < 0 or data[size + 9 : size + 10] != b"1":  # the first digit of a status
            break
        try:
            interim = route.heads.read(data[size : end + 4], exchange.request.traits.is_head).interim
        except ProxyError:
            break  # it is found again below
        if not interim:
            break
        exchange.interims += end + 4 - size
        size = end + 4
    if limit and exchange.interims > limit:
        error = ProxyError("upstream_invalid", "its heads are too large")
        retry.attempt_failed(exchange, error, sent=True, answered=True)
    elif size < len(data):
        exchange.received(data[size:])


def send_head(exchange: Exchange, response: Response, body: bytes) -> None:
    """HTTP/1.0, connections that close, answers before the request ended, Server-Timing, a stopping engine."""
    http10 = exchange.request.traits.http10
    line, length = response.line, response.length
    if http10 and length == CHUNKED:  # such a client knows no chunks: its body ends when we close
        line = line.replace(b"Transfer-Encoding: chunked\r\n", b"")
        length = UNTIL_CLOSE
        exchange.decoder = BodyReader()
    added = b""
    if not keeps_alive(exchange):
        added = b"Connection: close\r\n"
    elif http10:
        added = b"Connection: keep-alive\r\n"
    if exchange.marks is not None:
        added += _server_timing(exchange, exchange.marks)
    route = exchange.route
    assert route is not None
    parts = (line, added, b"X-Olla-Request-ID: ", exchange.request_id, route.served_by, response.fields)
    head = b"".join(parts)
    if length == CHUNKED:
        exchange.begin_chunks(head, body)
        return
    exchange.client.transport.write(head)
    exchange.remaining = length
    if length == 0:
        exchange.succeed(reusable=not body)
        return
    exchange.await_body()
    if body:
        exchange.received(body)


def keeps_alive(exchange: Exchange) -> bool:
    """Whether the client's connection can serve another request after this answer."""
    response, traits = exchange.response, exchange.request.traits
    assert response is not None
    framed = response.length != UNTIL_CLOSE and exchange.decoder is None
    return traits.keep_alive and framed and exchange.body_complete and not exchange.engine.stopping


def _server_timing(exchange: Exchange, marks: dict[bytes, float]) -> bytes:
    picked = marks.get(b"pick", exchange.started)
    connected_at = marks.get(b"connect", picked)
    steps = (
        (b"parse", marks.get(b"parse", 0.0)),
        (b"pick", picked - exchange.started),
        (b"connect", connected_at - picked),
        (b"upstream", perf_counter() - connected_at),
    )
    return b"Server-Timing: %b\r\n" % b", ".join(b"%b;dur=%.3f" % (name, seconds * 1e3) for name, seconds in steps)


def decode(exchange: Exchange, data: bytes, decoder: BodyReader) -> None:
    """A chunked answer for a client that knows no chunks."""
    try:
        body = decoder.feed(data)
    except (HttpParserError, ProxyError):
        exchange.cut(ProxyError("upstream_invalid", "chunk framing"))
        return
    if body:
        exchange.forward(body)
    if decoder.done:
        exchange.succeed(reusable=False)


# -- ends


def log(exchange: Exchange, outcome: str, status: int) -> None:
    """One line of the access log."""
    access_log = exchange.engine.access_log
    if access_log is not None:
        access_log.record(
            client=exchange.client.address,
            method=exchange.request.traits.method.decode("ascii").rstrip(),
            target=exchange.request.target.decode("latin-1"),
            status=status,
            outcome=outcome,
            endpoint="" if exchange.route is None else exchange.route.endpoint.name,
            seconds=perf_counter() - exchange.started,
            request_id=exchange.request_id.decode("ascii"),
        )


def forget(exchange: Exchange) -> None:
    """Reset what an ordinary exchange never touches."""
    exchange.tried.clear()
    exchange.partial = b""
    exchange.replayable = True
    exchange.kept_body = None
    exchange.interims = 0
    exchange.marks = None
    exchange.ends_at = NEVER
    exchange.flush_pending = False
    if exchange.gatherer:
        exchange.gatherer.take()
    if exchange.decoder is not None:
        exchange.decoder.close()
        exchange.decoder = None
