"""A client that leaves cancels its upstream at once, whatever is going on, and that is nobody's failure."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.contract.peers import Cut, Silence, full_backlog
from tests.contract.running import settled

AT_ONCE = 0.1


def leave(client, how: str) -> float:
    """The client goes; returns when."""
    client.reset() if how == "reset" else client.close()
    return time.monotonic()


def gone_within(peer, since: float) -> None:
    """The upstream sees its connection end. Generous, because others use the machine; see the median below."""
    assert peer.ended(3) in ("closed", "reset")
    assert time.monotonic() - since < 5 * AT_ONCE


def nobody_failed(proxy) -> None:
    stats = settled(proxy.stats, total=1, client_disconnected=1, success=0, failed=0)
    assert stats["endpoints"]["a"]["client_disconnected"] == 1
    assert stats["endpoints"]["a"]["failed"] == 0


@pytest.mark.promise("GONE-CANCELS")
@pytest.mark.parametrize("how", ["close", "reset"])
def test_while_the_head_is_awaited(start, endpoint, how):
    proxy = start(endpoint)
    client = proxy.client()
    client.post(b"generate")
    peer = endpoint.accept()
    peer.request()
    gone_within(peer, leave(client, how))
    nobody_failed(proxy)


@pytest.mark.promise("GONE-CANCELS")
@pytest.mark.parametrize("how", ["close", "reset"])
def test_between_two_tokens(start, endpoint, how):
    proxy = start(endpoint)
    client = proxy.client()
    client.get()
    peer = endpoint.accept()
    peer.request()
    peer.begin_chunked().chunk(b"token")
    client.response_head()
    client.receive_until(b"token")
    gone_within(peer, leave(client, how))
    nobody_failed(proxy)


@pytest.mark.promise("GONE-CANCELS")
def test_in_the_middle_of_its_upload(start, endpoint):
    proxy = start(endpoint, proxy__max_replay_body="1KiB")
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
    peer = endpoint.accept()
    peer.request_head()
    since = leave(client, "close")
    with contextlib.suppress(Cut):
        peer.receive_to_end()
    assert time.monotonic() - since < 5 * AT_ONCE
    nobody_failed(proxy)


@pytest.mark.promise("GONE-CANCELS")
def test_in_the_middle_of_an_upload_that_is_still_gathered(start, endpoint):
    proxy = start(endpoint)
    client = proxy.client()
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nhello")
    time.sleep(0.05)
    leave(client, "close")
    settled(proxy.stats, total=1, client_disconnected=1)
    try:
        peer = endpoint.accept(within=0.05)
        assert peer.ended() in ("closed", "reset")
    except Silence:
        pass  # it was not asked yet


@pytest.mark.promise("GONE-CANCELS")
def test_while_the_response_waits_for_the_client_to_read(start, endpoint):
    proxy = start(endpoint)
    client = proxy.client()
    client.get()
    peer = endpoint.accept()
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    assert peer.send_what_fits(b"x" * 100_000_000, within=0.1) < 100_000_000
    since = leave(client, "reset")
    with pytest.raises(OSError):
        for _ in range(1000):
            peer.send(b"x" * 100_000)
    assert time.monotonic() - since < 5 * AT_ONCE
    nobody_failed(proxy)


@pytest.mark.promise("GONE-CANCELS")
def test_while_the_connection_is_made(start):
    with full_backlog() as port:
        proxy = start({"name": "a", "url": f"http://127.0.0.1:{port}"}, proxy__connect_timeout="30s")
        client = proxy.client()
        client.post(b"x")
        time.sleep(0.1)
        since = leave(client, "close")
        settled(proxy.stats, total=1, client_disconnected=1)
        assert time.monotonic() - since < 5 * AT_ONCE


@pytest.mark.promise("GONE-CANCELS")
def test_while_a_place_in_the_pool_is_awaited(start, endpoint):
    proxy = start(endpoint, proxy__max_conns_per_host=1, proxy__pool_wait_timeout="30s")
    with proxy.client() as first:
        first.get()
        peer = endpoint.accept()
        peer.request()
        second = proxy.client()
        second.get()
        time.sleep(0.1)
        leave(second, "close")
        settled_one = time.monotonic() + 3
        while proxy.stats()["proxy.requests.client_disconnected"] != 1:
            assert time.monotonic() < settled_one
            time.sleep(0.005)
        peer.respond(b"first")
        assert first.response().body == b"first"
        first.get()  # the place was given back
        peer.request()
        peer.respond(b"again")
        assert first.response().body == b"again"


@pytest.mark.promise("GONE-100MS")
@pytest.mark.one_worker
def test_the_upstream_is_cancelled_within_100_ms(start, endpoint):
    """The median of nine, so that one slice of time given to somebody else on this machine does not matter."""
    proxy = start(endpoint)
    delays = []
    for _ in range(9):
        client = proxy.client()
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"token")
        client.response_head()
        since = leave(client, "close")
        peer.ended(3)
        delays.append(time.monotonic() - since)
    assert sorted(delays)[4] < AT_ONCE, delays
    settled(proxy.stats, client_disconnected=9)


@pytest.mark.promise("GONE-BLAMELESS")
def test_clients_that_leave_never_make_an_endpoint_unavailable(start, endpoint):
    """The real product opens its breaker on them."""
    proxy = start(endpoint, proxy__circuit_breaker={"failure_threshold": 2})
    for _ in range(6):
        client = proxy.client()
        client.get()
        peer = endpoint.accept()
        peer.request()
        client.reset()
        peer.ended()
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"still here")
        assert client.response().body == b"still here"
    settled(proxy.stats, client_disconnected=6, success=1, failed=0)
