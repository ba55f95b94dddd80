"""Every wait has a limit of its own, enforced while waiting; a dribble does not renew it."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.contract.peers import Cut, full_backlog
from tests.contract.running import settled

SHORT = "200ms"


def took(since: float) -> float:
    return time.monotonic() - since


def dribbled(client, piece: bytes) -> int:
    """Send a piece every 30 ms until there is an answer; returns its status."""
    for _ in range(100):
        client.send(piece)
        if not client.silent(0.03):
            break
    return client.response().status


@pytest.mark.promise("TIME-CONNECT")
def test_an_endpoint_that_does_not_accept_is_a_gateway_error_after_the_connect_timeout(start):
    with full_backlog() as port:
        proxy = start({"name": "dead", "url": f"http://127.0.0.1:{port}"}, proxy__connect_timeout=SHORT)
        with proxy.client() as client:
            began = time.monotonic()
            answer = client.get().response()
        assert answer.status in (502, 504)
        assert 0.15 < took(began) < 3


@pytest.mark.promise("TIME-HEAD")
def test_no_response_head_within_its_timeout_is_504(start, endpoint):
    proxy = start(endpoint, proxy__response_header_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.get()
        peer = endpoint.accept()
        peer.request()
        answer = client.response()
        assert answer.status == 504
        assert 0.15 < took(began) < 3
        assert peer.ended() in ("closed", "reset"), "its work is cancelled"
    settled(proxy.stats, failed=1)


@pytest.mark.promise("TIME-HEAD")
@pytest.mark.promise("TIME-DRIBBLE")
def test_a_response_head_that_dribbles_does_not_renew_its_timeout(start, endpoint):
    proxy = start(endpoint, proxy__response_header_timeout=SHORT)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        began = time.monotonic()
        peer.send(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises((OSError, Cut)):
            for _ in range(100):
                peer.send(b"X-A: 1\r\n")
                time.sleep(0.03)
        assert client.response().status in (502, 504)
        assert took(began) < 3


@pytest.mark.promise("TIME-HEAD")
@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
@pytest.mark.parametrize("body", [b"", b"x", b"x" * 100_000])
def test_silence_after_an_interim_response_is_504(start, endpoint, status, body):
    proxy = start(endpoint, proxy__response_header_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.post(body)
        peer = endpoint.accept()
        peer.request()
        peer.send(f"HTTP/1.1 {status}\r\n\r\n".encode())
        assert client.response().status == 504
        assert 0.15 < took(began) < 3
        assert peer.ended() in ("closed", "reset"), "its work is cancelled"
    settled(proxy.stats, failed=1)


@pytest.mark.promise("TIME-HEAD")
@pytest.mark.promise("TIME-DRIBBLE")
def test_interim_responses_do_not_renew_the_timeout_of_the_head(start, endpoint):
    proxy = start(endpoint, proxy__response_header_timeout=SHORT)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        began = time.monotonic()
        with pytest.raises((OSError, Cut)):
            for _ in range(100):
                peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
                time.sleep(0.03)
        assert client.response().status == 504
        assert took(began) < 3


@pytest.mark.promise("TIME-DEFAULT")
def test_timeout_is_the_default_of_the_response_head_and_idle_timeouts(start, endpoint):
    proxy = start(endpoint, proxy__timeout=SHORT)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        assert client.response().status == 504
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"one")
        client.response_head()
        with pytest.raises(Cut):
            client._chunked()


@pytest.mark.promise("TIME-IDLE")
def test_a_stream_may_last_much_longer_than_the_idle_timeout(start, endpoint):
    proxy = start(endpoint, proxy__idle_timeout="250ms", proxy__response_header_timeout="250ms")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        for _ in range(8):
            time.sleep(0.06)
            peer.chunk(b"token")
        peer.chunk(b"")
        assert client.response().body == b"token" * 8


@pytest.mark.promise("TIME-REQUEST-HEAD")
@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: h\r\nX-A: "])
def test_a_request_head_that_does_not_go_on_is_408(start, endpoint, part):
    proxy = start(endpoint, server__header_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.send(part)
        answer = client.response()
        assert answer.status == 408
        assert 0.15 < took(began) < 3
        assert client.ended() in ("closed", "reset")
    stats = settled(proxy.stats, total=0, refused=1)
    assert stats["proxy.requests.failed"] == 0


@pytest.mark.promise("TIME-REQUEST-HEAD")
@pytest.mark.promise("TIME-DRIBBLE")
def test_a_request_head_that_dribbles_does_not_renew_its_timeout(start, endpoint):
    proxy = start(endpoint, server__header_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n")
        assert dribbled(client, b"X-A: 1\r\n") == 408
        assert took(began) < 3


@pytest.mark.promise("TIME-REQUEST-HEAD")
def test_the_head_timeout_starts_at_the_first_byte_also_on_a_connection_that_served_before(start, endpoint):
    proxy = start(endpoint, server__header_timeout=SHORT)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        client.response()
        time.sleep(0.4)  # idle for longer than the head may take: nothing happens
        client.send(b"GET / HTTP/1.1\r\nHos")
        assert client.response().status == 408


@pytest.mark.promise("TIME-REQUEST-BODY")
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_request_body_that_does_not_go_on_is_408(start, endpoint, framing):
    proxy = start(endpoint, server__body_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.send(f"POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\nhello\r\n".encode())
        answer = client.response()
        assert answer.status == 408
        assert 0.15 < took(began) < 3
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("TIME-REQUEST-BODY")
@pytest.mark.promise("TIME-DRIBBLE")
def test_a_request_body_that_dribbles_does_not_renew_its_timeout(start, endpoint):
    proxy = start(endpoint, server__body_timeout=SHORT)
    with proxy.client() as client:
        began = time.monotonic()
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        assert dribbled(client, b"x") == 408
        assert took(began) < 3


@pytest.mark.promise("TIME-REQUEST-BODY")
def test_a_long_upload_that_makes_progress_is_not_cut(start, endpoint):
    proxy = start(endpoint, server__body_timeout="250ms")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 160000\r\n\r\n")
        for _ in range(8):
            time.sleep(0.06)
            client.send(b"x" * 20000)
        peer = endpoint.accept()
        assert len(peer.request().body) == 160000
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("TIME-WRITE")
def test_a_client_that_does_not_take_its_response_is_cut_off_after_the_write_timeout(start, endpoint):
    proxy = start(endpoint, server__write_timeout=SHORT)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(1000):
                peer.send(b"x" * 100_000)
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("TIME-WRITE")
@pytest.mark.one_worker
def test_the_last_bytes_of_a_response_have_a_write_timeout_too(start, endpoint):
    """Whatever its size, no response is held for ever for a client that takes nothing: not in the kernel, not here."""
    proxy = start(endpoint, server__write_timeout=SHORT, server__keep_alive_timeout=SHORT)

    def play(peer):
        size = int(peer.request().target[1:])
        peer.respond(b"x" * size)

    endpoint.serve(play)
    with contextlib.ExitStack() as stack:
        for size in (100_000, 2_000_000, 2_600_000, 3_000_000, 4_000_000, 6_000_000):
            stack.enter_context(proxy.client()).get(f"/{size}")
        deadline = time.monotonic() + 5
        while proxy.stats()["proxy.client_connections"]:
            assert time.monotonic() < deadline, proxy.stats()
            time.sleep(0.02)


@pytest.mark.promise("TIME-KEEP-ALIVE")
@pytest.mark.parametrize("used", [False, True])
def test_an_idle_client_connection_is_closed_after_the_keep_alive_timeout(start, endpoint, used):
    proxy = start(endpoint, server__keep_alive_timeout=SHORT)
    with proxy.client() as client:
        if used:
            client.get()
            peer = endpoint.accept()
            peer.request()
            peer.respond()
            client.response()
        began = time.monotonic()
        assert client.ended(3) == "closed"
        assert 0.15 < took(began) < 3  # it began when the response was written, a little before it was read here
    settled(proxy.stats, refused=0)


@pytest.mark.promise("TIME-MAX-DURATION")
def test_max_duration_caps_the_wait_for_a_head(start, endpoint):
    proxy = start(endpoint, proxy__max_duration="300ms")
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        assert client.response().status == 504
        assert peer.ended() in ("closed", "reset")


@pytest.mark.promise("TIME-MAX-DURATION")
def test_max_duration_cuts_a_stream_that_goes_on(start, endpoint):
    proxy = start(endpoint, proxy__max_duration="300ms")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        began = time.monotonic()
        with pytest.raises(OSError):
            for _ in range(60):
                peer.chunk(b"token")
                time.sleep(0.05)
        assert 0.2 < took(began) < 3
        client.response_head()
        with pytest.raises(Cut):
            client._chunked()


@pytest.mark.promise("TIME-MAX-DURATION")
@pytest.mark.parametrize(("before", "after", "cut"), [("800ms", None, True), (None, "300ms", False)])
def test_a_reload_changes_the_cap_of_new_requests_only(start, endpoint, before, after, cut):
    proxy = start(endpoint, proxy__max_duration=before)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        proxy.reload([endpoint], {"proxy.max_duration": after})
        began, ended = time.monotonic(), False
        while not ended and took(began) < 1.6:
            try:
                peer.chunk(b"token")
            except OSError:
                ended = True
            time.sleep(0.05)
        assert ended is cut


@pytest.mark.promise("TIME-OWN-PAUSE")
def test_no_timer_runs_against_an_upstream_that_the_proxy_itself_does_not_read(start, endpoint):
    """The client takes nothing for longer than the idle timeout; the upstream has no part in that."""
    proxy = start(endpoint, proxy__idle_timeout="200ms", server__write_timeout="10s")
    total = 20_000_000
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        sent = peer.send_what_fits(b"x" * total, within=0.1)
        assert sent < total, "the proxy stopped reading"
        time.sleep(0.6)
        assert client.response_head()[0].startswith("HTTP/1.1 200")
        taken = 0
        while taken < total:
            if sent < total:
                sent += peer.send_what_fits(b"x" * min(2**18, total - sent), within=0.01)
            taken += len(client.receive_some(2**18))
        assert taken == total
    settled(proxy.stats, success=1)


@pytest.mark.promise("TIME-OWN-PAUSE")
def test_no_timer_runs_against_a_client_that_the_proxy_itself_does_not_read(start, endpoint):
    """The upstream takes nothing for longer than the body timeout; the client has no part in that."""
    proxy = start(endpoint, server__body_timeout="200ms", server__max_body_size=0, proxy__timeout="10s")
    total = 20_000_000
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
        sent = client.send_what_fits(b"x" * total, within=0.1)
        assert sent < total, "the proxy stopped reading"
        time.sleep(0.6)
        peer = endpoint.accept()
        peer.request_head()
        taken = 0
        while taken < total:
            if sent < total:
                sent += client.send_what_fits(b"x" * min(2**18, total - sent), within=0.01)
            taken += len(peer.receive_some(2**18))
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("TIME-UPSTREAM-WRITE")
def test_an_upstream_that_does_not_take_the_request_is_given_up(start, endpoint):
    proxy = start(endpoint, server__max_body_size=0, proxy__timeout="400ms")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000000\r\n\r\n")
        try:
            client.send_what_fits(b"x" * 60_000_000, within=2)
            endpoint.accept()
            assert client.response().status in (502, 504)
        except (OSError, Cut):
            pass  # it was answered and closed while it still sent
    settled(proxy.stats, total=1, failed=1)
