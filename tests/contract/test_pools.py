"""Connections to endpoints: reused when that is safe, never shared by accident, limited, and given up in time."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from proxy.core import keep_alive
from proxy.core.keep_alive import CLOSINGS
from tests.contract.peers import PATIENCE, Cut, Silence, answering
from tests.contract.running import settled, until


def exchange(client, peer, body=b"ok", *fields):
    """One whole exchange over a connection that exists."""
    client.get()
    peer.request()
    peer.respond(body, *fields)
    return client.response()


@pytest.mark.promise("POOL-REUSE")
def test_one_connection_serves_many_requests_of_many_clients(start, endpoint):
    """A prototype opened one for each, with 0 errors."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        client.response()
        for _ in range(10):
            assert exchange(client, peer).status == 200
    for _ in range(5):
        with proxy.client() as client:
            assert exchange(client, peer).status == 200
    assert endpoint.untouched()


@pytest.mark.promise("POOL-REUSE")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_every_framed_response_leaves_its_connection_usable(start, endpoint, answer):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        for _ in range(3):
            peer.request()
            peer.send(answer)
            assert client.response().status in (200, 204)
            client.get()
        peer.request()
        peer.respond()
        client.response()
    assert endpoint.untouched(0.05)


@pytest.mark.promise("POOL-CLOSED")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_its_endpoint_closed_while_idle_is_not_used(start, endpoint, method):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        old = endpoint.accept()
        old.request()
        old.respond()
        client.response()
        old.close()
        time.sleep(0.05)
        client.get(method=method)
        fresh = endpoint.accept()
        fresh.request()
        fresh.respond(b"fresh")
        assert client.response().body == b"fresh"
    settled(proxy.stats, success=2)


@pytest.mark.promise("POOL-CONNECTION-CLOSE")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_connection_close_is_honoured(start, endpoint, answer):
    """RFC 9112 9.3."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        first = endpoint.accept()
        first.request()
        first.send(answer)
        assert client.response().body == b"ok"
        client.get()
        second = endpoint.accept()
        second.request()
        second.respond()
        assert client.response().status == 200
        assert first.ended() in ("closed", "reset")


def stream_and_close(peer):
    """As llama.cpp's server does it: the connection ends behind a chunked answer that does not say so."""
    peer.request()
    peer.begin_chunked("Keep-Alive: timeout=5, max=100").chunk(b"ok").chunk(b"")
    peer.close()


def let_it_learn(proxy, endpoint, answer):
    """Close the connection behind each `answer` until the proxy closes one first; how many it took."""
    with proxy.client() as client:
        for count in range(40):
            client.post(b"x")
            with endpoint.accept() as peer:
                peer.request()
                answer(peer)
                assert client.response().body == b"ok"
                with contextlib.suppress(Silence):
                    peer.ended(0.1)
                    return count
                peer.finish_sending()
                peer.ended()  # so the proxy saw it: the next request does not cross it
    raise AssertionError("it keeps connections that the endpoint closes each time")


def answer_chunked(peer):
    peer.begin_chunked().chunk(b"ok").chunk(b"")


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
@pytest.mark.parametrize("answer", [answer_chunked, lambda peer: peer.respond()], ids=["chunked", "length"])
def test_connections_that_the_endpoint_closes_behind_each_answer_are_not_used_again(start, endpoint, answer):
    proxy = start(endpoint)
    assert let_it_learn(proxy, endpoint, answer) >= CLOSINGS
    with proxy.client() as client:
        for _ in range(5):
            client.post(b"x")
            with endpoint.accept() as peer:
                peer.request()
                answer(peer)
                assert client.response().body == b"ok"
                assert peer.ended() in ("closed", "reset"), "by the proxy: this endpoint would have kept it"
    settled(proxy.stats, failed=0)


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
def test_posts_back_to_back_meet_no_502_where_each_stream_is_followed_by_a_close(start, endpoint):
    """llama.cpp: with four clients one in ten was 502, because it crossed the close."""
    proxy = start(endpoint)
    learning = let_it_learn(proxy, endpoint, answer_chunked) + 1
    endpoint.serve(stream_and_close)
    with proxy.client() as one, proxy.client() as other:
        for _ in range(150):
            one.post(b"x")
            other.post(b"x")
            assert [one.response().status, other.response().status] == [200, 200]
    assert endpoint.accepted == learning + 300


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
def test_what_an_endpoint_does_behind_a_stream_is_not_held_against_its_other_answers(start, endpoint):
    proxy = start(endpoint)
    let_it_learn(proxy, endpoint, answer_chunked)
    with proxy.client() as client:
        client.post(b"x")
        with endpoint.accept() as peer:
            peer.request()
            peer.respond()
            assert client.response().body == b"ok"
            for _ in range(5):
                assert exchange(client, peer).status == 200


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
def test_connections_are_used_again_when_the_endpoint_was_seen_to_keep_one(start, endpoint, monkeypatch):
    """The one that is watched is lent to nobody meanwhile."""
    monkeypatch.setattr(keep_alive, "WATCH_EVERY", 1.0)
    proxy = start(endpoint)
    let_it_learn(proxy, endpoint, answer_chunked)
    learnt = time.monotonic()
    used_again = False
    with proxy.client() as client:
        peer = None
        while not used_again:
            client.post(b"x")
            try:
                peer = endpoint.accept(within=0.2)
            except Silence:
                used_again = True
            assert peer is not None
            peer.request()
            answer_chunked(peer)
            assert client.response().status == 200
            assert time.monotonic() < learnt + PATIENCE
    assert time.monotonic() > learnt + keep_alive.SOON


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
def test_an_endpoint_that_closes_what_was_idle_for_long_keeps_its_reuse(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        for _ in range(CLOSINGS + 1):
            client.post(b"x")
            with endpoint.accept() as peer:
                peer.request()
                answer_chunked(peer)
                client.response()
                time.sleep(keep_alive.SOON + 0.2)
                peer.finish_sending()
                peer.ended()
        client.post(b"x")
        with endpoint.accept() as peer:
            peer.request()
            answer_chunked(peer)
            client.response()
            for _ in range(3):
                client.post(b"x")
                peer.request()
                answer_chunked(peer)
                assert client.response().status == 200


@pytest.mark.promise("POOL-CLOSES-UNSAID")
@pytest.mark.one_worker
def test_an_endpoint_that_closes_after_some_requests_keeps_its_reuse(start, endpoint):
    """nginx's `keepalive_requests`, gunicorn's `max_requests`: a connection that served again shows that it may."""
    proxy = start(endpoint)
    with proxy.client() as client:
        for _ in range(2 * CLOSINGS):
            client.post(b"x")
            with endpoint.accept() as peer:
                peer.request()
                answer_chunked(peer)
                client.response()
                client.post(b"x")
                peer.request()  # on the same connection
                answer_chunked(peer)
                client.response()
                peer.finish_sending()
                peer.ended()


@pytest.mark.promise("POOL-UNSOLICITED")
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL", id="a response"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-", id="a part of one"),
        pytest.param(b"garbage", id="garbage"),
        pytest.param(b"\r\n", id="an empty line"),
    ],
)
def test_bytes_on_an_idle_connection_poison_nobody(start, endpoint, extra):
    """aiohttp#13656."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        client.response()
        time.sleep(0.02)
        peer.send(extra)
        time.sleep(0.05)
        for name in (b"one", b"two"):
            client.get()
            fresh = endpoint.accept() if name == b"one" else fresh  # noqa: F821  # bound by the first turn
            fresh.request()
            fresh.respond(name)
            assert client.response().body == name
        assert peer.ended() in ("closed", "reset")


@pytest.mark.promise("POOL-SURPLUS")
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", id="chunked"),
    ],
)
@pytest.mark.parametrize("extra", [b"EVIL", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"])
def test_bytes_after_a_complete_response_poison_nobody(start, endpoint, answer, extra):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(answer + extra)
        first = client.response()
        # BEHAVIOUR.md: aiohttp throws a response away together with garbage that came in the same segment.
        assert first.body == b"ok" or (first.status == 502 and not extra.startswith(b"HTTP"))
        assert client.silent(0.05)
        client.get()
        fresh = endpoint.accept()
        fresh.request()
        fresh.respond(b"next")
        assert client.response().body == b"next"
        assert peer.ended() in ("closed", "reset")


@pytest.mark.promise("POOL-SURPLUS")
def test_a_chunk_that_looks_like_the_last_one_is_no_end_even_before_surplus_bytes(start, endpoint):
    """Found by fuzzing: the second read begins inside a chunk, and what it holds reads like an end."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().send(b"15\r\nabc")
        while b"abc" not in client.sock.recv(2**16, socket.MSG_PEEK):
            pass  # until the first read has passed through
        peer.send(b"0\r\n\r\n" + b"x" * 13 + b"\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
        with contextlib.suppress(Cut):
            assert client.response().body == b"abc0\r\n\r\n" + b"x" * 13
            assert client.silent(0.05)


@pytest.mark.promise("POOL-SURPLUS")
@pytest.mark.parametrize("end", [b"0\r\n\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n\r\n\r\n", b"0\r\n\r\n\r"])
def test_empty_lines_after_a_chunked_response_reach_nobody(start, endpoint, end):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"ok").send(end)
        assert client.response().body == b"ok"
        assert client.silent(0.05)
        client.get()
        try:
            peer.request()
        except Cut:  # it was not used again, which is as well
            peer = endpoint.accept()
            peer.request()
        peer.respond(b"next")
        assert client.response().body == b"next"


@pytest.mark.promise("POOL-IDLE-TIMEOUT")
def test_an_idle_connection_is_closed_after_its_timeout(start, endpoint):
    proxy = start(endpoint, proxy__idle_conn_timeout="300ms")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        client.response()
        began = time.monotonic()
        assert peer.ended(3) == "closed"
        assert 0.2 < time.monotonic() - began < 2


@pytest.mark.promise("POOL-MAX-IDLE")
@pytest.mark.one_worker
def test_no_more_connections_are_kept_idle_than_allowed(start, endpoint):
    proxy = start(endpoint, proxy__max_idle_conns=2)
    clients = [proxy.client().get() for _ in range(5)]
    peers = [endpoint.accept() for _ in clients]
    for peer in peers:
        peer.request()
        peer.respond()
    for client in clients:
        client.response()
    ended = 0
    for peer in peers:
        try:
            peer.ended(0.15)
            ended += 1
        except Silence:
            pass
    assert ended == 3
    for client in clients:
        client.close()


@pytest.mark.promise("POOL-MAX-IDLE")
@pytest.mark.one_worker
def test_a_connection_that_its_endpoint_closed_takes_no_place_among_the_idle_ones(start, endpoints):
    """Sherpa counted it for up to twice `idle_conn_timeout`; no other endpoint's connection was kept meanwhile."""
    first, second = endpoints(2)
    proxy = start(first, second, proxy__max_idle_conns=1, proxy__load_balancer="round-robin")

    def idle():
        return proxy.status()["endpoints"]["a"]["pool"]["idle"]

    with proxy.client() as client:
        client.get()
        with first.accept() as peer:
            peer.request()
            peer.respond()
            client.response()
            until(lambda: idle() == 1, "it is kept")
        until(lambda: idle() == 0, "it is no longer counted")
        client.get()
        kept = second.accept()
        kept.request()
        kept.respond()
        client.response()
        client.get()
        with first.accept() as peer:
            peer.request()
            peer.respond()
            client.response()
        assert exchange(client, kept).status == 200
        kept.close()


@pytest.mark.promise("POOL-LIMIT")
@pytest.mark.one_worker
def test_a_full_pool_makes_requests_wait_their_turn(start, endpoint):
    proxy = start(endpoint, proxy__max_conns_per_host=1)
    with proxy.client() as first, proxy.client() as second, proxy.client() as third:
        first.get("/1")
        peer = endpoint.accept()
        assert peer.request().target == "/1"
        second.get("/2")
        time.sleep(0.03)
        third.get("/3")
        assert endpoint.untouched(0.1), "the limit holds"
        peer.respond(b"1")
        assert first.response().body == b"1"
        for client, target in ((second, "/2"), (third, "/3")):
            assert peer.request().target == target, "first come, first served"
            peer.respond(target.encode())
            assert client.response().body == target.encode()


@pytest.mark.promise("POOL-LIMIT")
@pytest.mark.one_worker
def test_waiting_longer_than_the_deadline_is_503_with_retry_after(start, endpoint):
    """The real product queues the 51st stream for ever."""
    proxy = start(endpoint, proxy__max_conns_per_host=1, proxy__pool_wait_timeout="300ms")
    with proxy.client() as first, proxy.client() as second:
        first.get()
        peer = endpoint.accept()
        peer.request()
        began = time.monotonic()
        answer = second.get().response()
        assert answer.status == 503
        assert b'"pool_timeout"' in answer.body
        assert int(str(answer.get("Retry-After"))) > 0
        assert 0.25 < time.monotonic() - began < 3
        peer.respond(b"first")
        assert first.response().body == b"first"
    settled(proxy.stats, total=2, success=1, failed=1)


@pytest.mark.promise("POOL-LIMIT")
@pytest.mark.one_worker
def test_a_connection_that_fails_gives_its_place_back(start, endpoint):
    proxy = start(endpoint, proxy__max_conns_per_host=1, proxy__response_header_timeout="200ms")
    with proxy.client() as client:
        for _ in range(3):
            client.post(b"x")
            peer = endpoint.accept()
            peer.request()
            assert client.response().status == 504
    settled(proxy.stats, failed=3)


@pytest.mark.promise("OLLA-POOLS")
def test_olla_s_pools_are_per_endpoint(start_olla, endpoints):
    """A slow endpoint that used up its connections does not touch a fast one (claim C9)."""
    slow, fast = endpoints(2)
    fast.serve(answering(b"fast"))
    proxy = start_olla(
        slow,
        fast,
        proxy__max_conns_per_host=1,
        proxy__load_balancer="round-robin",
        proxy__pools={"per_endpoint": True},
    )
    with proxy.client() as first, proxy.client() as second:
        first.get()
        try:
            peer = slow.accept(within=0.3)
        except Silence:  # the first went to the fast one
            assert first.response().body == b"fast"
            first.get()
            peer = slow.accept()
        peer.request()
        for _ in range(3):  # every second request waits behind the slow one; the others never do
            began = time.monotonic()
            second.get()
            assert second.response().body == b"fast"
            assert time.monotonic() - began < 2
            break
        peer.respond()
        assert first.response().status == 200


@pytest.mark.promise("OLLA-POOLS")
def test_an_endpoint_s_own_limits_override_the_general_ones(start_olla, endpoints):
    a, b = endpoints(2)
    proxy = start_olla(
        {"name": "a", "url": a.url, "max_conns_per_host": 1, "max_idle_conns": 1},
        {"name": "b", "url": b.url},
        proxy__max_conns_per_host=7,
        proxy__max_idle_conns=3,
        proxy__pools={"per_endpoint": True},
    )
    status = proxy.status()["endpoints"]
    assert (status["a"]["pool"]["max_conns"], status["a"]["pool"]["max_idle"]) == (1, 1)
    assert (status["b"]["pool"]["max_conns"], status["b"]["pool"]["max_idle"]) == (7, 3)


@pytest.mark.promise("OLLA-PREWARM")
def test_prewarm_makes_contexts_before_the_first_request_and_no_connections(start_olla, endpoint):
    """B25. The seed: pre-warm pools for predictable traffic, 1000 buffers."""
    proxy = start_olla(endpoint, proxy__pools={"prewarm": 300})
    assert proxy.stats()["proxy.pool.context.created"] >= 300
    assert endpoint.untouched(0.2)
