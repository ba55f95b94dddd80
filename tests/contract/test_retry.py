"""When a failed request is sent again, and when never (RFC 9110 9.2.2)."""

from __future__ import annotations

import pytest

from tests.contract.peers import Silence, answering, free_port, full_backlog
from tests.contract.running import settled

IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]
UNSAFE = ["POST", "PATCH"]


def first_asked(*endpoints):
    """The connection to whichever of the endpoints the balancer chose, and the others."""
    for _ in range(40):
        for endpoint in endpoints:
            try:
                return endpoint.accept(within=0.05), endpoint, [e for e in endpoints if e is not endpoint]
            except Silence:
                continue
    raise AssertionError("no endpoint was asked")


@pytest.mark.promise("RETRY-UNSENT")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_connection_lets_any_method_try_the_next_endpoint(start, endpoint, method):
    endpoint.serve(answering(b"served"))
    proxy = start({"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}, endpoint)
    with proxy.client() as client:
        for _ in range(4):
            answer = client.post(b"hello", method=method).response()
            assert (answer.status, answer.body) == (200, b"served")
    stats = settled(proxy.stats, success=4, failed=0)
    assert stats["endpoints"]["a"]["success"] == 4


@pytest.mark.promise("RETRY-UNSENT")
def test_a_name_that_is_not_found_lets_a_post_try_the_next_endpoint(start, endpoint):
    endpoint.serve(answering())
    proxy = start({"name": "dead", "url": "http://does-not-exist.invalid:80"}, endpoint)
    with proxy.client() as client:
        assert [client.post(b"x").response().status for _ in range(2)] == [200, 200]


@pytest.mark.promise("RETRY-UNSENT")
@pytest.mark.promise("TIME-CONNECT")
def test_a_connect_timeout_lets_a_post_try_the_next_endpoint(start, endpoint):
    endpoint.serve(answering())
    with full_backlog() as port:
        dead = {"name": "dead", "url": f"http://127.0.0.1:{port}"}
        proxy = start(dead, endpoint, proxy__connect_timeout="200ms")
        with proxy.client() as client:
            assert [client.post(b"x").response().status for _ in range(2)] == [200, 200]


@pytest.mark.promise("RETRY-UNSENT")
def test_when_no_endpoint_can_be_reached_the_answer_is_502(start):
    proxy = start(*[{"name": name, "url": f"http://127.0.0.1:{free_port()}"} for name in "ab"])
    with proxy.client() as client:
        answer = client.post(b"x").response()
        assert answer.status == 502
        assert b'"upstream_unreachable"' in answer.body
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("RETRY-IDEMPOTENT")
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("method", IDEMPOTENT)
def test_an_idempotent_request_whose_connection_died_goes_to_the_next_endpoint(start, endpoints, method, end):
    a, b = endpoints(2)
    proxy = start(a, b)
    with proxy.client() as client:
        client.get("/x", method=method)
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        getattr(peer, end)()
        second = other.accept()
        assert second.request().method == method
        second.respond(b"" if method == "HEAD" else b"ok")
        assert client.response(method).status == 200
    settled(proxy.stats, total=1, success=1)


@pytest.mark.promise("RETRY-NEVER-TWICE")
@pytest.mark.parametrize("method", UNSAFE)
def test_a_post_that_was_sent_is_never_sent_twice(start, endpoints, method):
    a, b = endpoints(2)
    proxy = start(a, b)
    with proxy.client() as client:
        client.post(b"charge my card", method=method)
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        peer.close()
        answer = client.response()
        assert answer.status == 502
        assert b'"upstream_closed"' in answer.body
        assert other.untouched()
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("RETRY-NEVER-TWICE")
def test_a_post_whose_head_only_was_sent_is_not_sent_twice_either(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__max_replay_body="1KiB")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
        peer, _, (other,) = first_asked(a, b)
        peer.request_head()
        peer.reset()
        client.send(b"x" * 95000)
        assert client.response().status == 502
        assert other.untouched()


@pytest.mark.promise("RETRY-OPT-IN")
def test_retry_non_idempotent_sends_a_post_again(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__retry_non_idempotent=True)
    with proxy.client() as client:
        client.post(b"again please")
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        peer.close()
        second = other.accept()
        assert second.request().body == b"again please"
        second.respond()
        assert client.response().status == 200


@pytest.mark.promise("RETRY-STALE")
def test_a_stale_connection_is_tried_once_more_on_a_fresh_one_to_the_same_endpoint(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/first")
        old = endpoint.accept()
        old.request()
        old.respond()
        client.response()
        client.get("/second")
        old.request()
        old.close()  # it had decided to close before it read this
        fresh = endpoint.accept()
        assert fresh.request().target == "/second"
        fresh.respond(b"fresh")
        assert client.response().body == b"fresh"
    settled(proxy.stats, total=2, success=2)


@pytest.mark.promise("RETRY-STALE")
def test_a_post_on_a_stale_connection_is_not_sent_again(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        old = endpoint.accept()
        old.request()
        old.respond()
        client.response()
        client.post(b"x")
        old.request()
        old.close()
        assert client.response().status == 502
        assert endpoint.untouched()


@pytest.mark.promise("RETRY-ONCE-EACH")
def test_each_endpoint_is_tried_at_most_once(start, endpoints):
    named = endpoints(3)
    proxy = start(*named)
    with proxy.client() as client:
        client.get()
        left = list(named)
        while left:
            peer, _, left = first_asked(*left)
            peer.request()
            peer.close()
        assert client.response().status == 502
    assert [e.accepted for e in named] == [1, 1, 1]
    stats = settled(proxy.stats, total=1, failed=1)
    assert [stats["endpoints"][name]["requests"] for name in "abc"] == [1, 1, 1]


@pytest.mark.promise("RETRY-REPLAY")
@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_is_replayed_whole(start, endpoints, chunked):
    a, b = endpoints(2)
    body = bytes(range(256)) * 400
    proxy = start(a, b)
    with proxy.client() as client:
        if chunked:
            client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:1000], body[1000:])) + b"0\r\n\r\n")
        else:
            client.post(body, method="PUT")
        peer, _, (other,) = first_asked(a, b)
        assert peer.request().body == body
        peer.close()
        second = other.accept()
        replayed = second.request()
        assert replayed.body == body
        assert (replayed.get("Transfer-Encoding") == "chunked") is chunked
        second.respond()
        assert client.response().status == 200


@pytest.mark.promise("RETRY-REPLAY")
def test_a_body_above_max_replay_body_is_streamed_and_not_retried(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__max_replay_body="64KiB")
    with proxy.client() as client:
        client.post(b"x" * 300_000, method="PUT")
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        peer.close()
        assert client.response().status == 502
        assert other.untouched()


@pytest.mark.promise("RETRY-STATUS")
@pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Service Unavailable", "429 Too Many", "404 No"])
def test_any_status_is_forwarded_and_never_retried(start, endpoints, status):
    a, b = endpoints(2)
    proxy = start(a, b)
    with proxy.client() as client:
        client.get()
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        peer.respond(b"mine", status=status)
        answer = client.response()
        assert (answer.status, answer.body) == (int(status[:3]), b"mine")
        assert other.untouched()
    stats = settled(proxy.stats, total=1, success=1)
    assert stats["proxy.upstream.5xx"] == (1 if status[0] == "5" else 0)


@pytest.mark.promise("RETRY-NOT-AFTER-A-BYTE")
@pytest.mark.parametrize("answer", [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_nothing_is_retried_after_the_upstream_said_a_byte(start, endpoints, answer):
    a, b = endpoints(2)
    proxy = start(a, b)
    with proxy.client() as client:
        client.get()
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        peer.send(answer)
        assert client.silent(0.05)
        peer.close()
        assert client.response().status == 502
        assert other.untouched()


@pytest.mark.promise("RETRY-HEAD-TIMEOUT")
def test_after_the_response_head_timeout_a_get_goes_to_the_next_endpoint(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__response_header_timeout="300ms")
    with proxy.client() as client:
        client.get()
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        second = other.accept()
        second.request()
        second.respond(b"second")
        assert client.response().body == b"second"
        assert peer.ended() in ("closed", "reset"), "the first is not left working for nobody"


@pytest.mark.promise("RETRY-HEAD-TIMEOUT")
def test_silence_on_a_reused_connection_does_not_ask_the_same_endpoint_again(start, endpoints):
    a, b = endpoints(2)
    b.serve(answering(b"second"))
    ranked = [{"name": "a", "url": a.url, "priority": 2}, {"name": "b", "url": b.url, "priority": 1}]
    proxy = start(*ranked, proxy__load_balancer="priority", proxy__response_header_timeout="300ms")
    with proxy.client() as client:
        client.get()
        peer = a.accept()
        peer.request()
        peer.respond(b"first")
        assert client.response().body == b"first"
        client.get()
        peer.request()
        assert client.response().body == b"second"
        assert a.untouched()
    assert settled(proxy.stats, success=2)["endpoints"]["a"]["failed"] == 1


@pytest.mark.promise("RETRY-HEAD-TIMEOUT")
def test_after_the_response_head_timeout_a_post_is_answered_504(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__response_header_timeout="300ms")
    with proxy.client() as client:
        client.post(b"x")
        peer, _, (other,) = first_asked(a, b)
        peer.request()
        answer = client.response()
        assert answer.status == 504
        assert b'"upstream_timeout"' in answer.body
        assert other.untouched()
