"""What the proxy answers by itself: JSON as an OpenAI client expects it, with an id, and nothing it should not tell."""

from __future__ import annotations

import json

import pytest

from proxy.core.errors import ERRORS
from tests.contract.peers import Message, free_port
from tests.contract.running import settled


def check(answer: Message, code: str) -> None:
    """An answer of the proxy's own: its shape, its status, and that it tells no secrets."""
    kind = ERRORS[code]
    assert answer.status == kind.status
    assert str(answer.get("Content-Type")).startswith("application/json")
    assert answer.get("X-Olla-Request-ID")
    error = json.loads(answer.body)
    assert error == {"error": {"message": kind.message, "type": kind.type, "code": code, "param": None}}
    assert "Traceback" not in answer.body.decode()
    assert "127.0.0.1" not in (answer.head + answer.body).decode()
    if kind.status == 503:
        assert int(str(answer.get("Retry-After"))) > 0
    if kind.close:
        assert str(answer.get("Connection")).lower() == "close" or answer.start.startswith("HTTP/1.0")


@pytest.mark.promise("ERR-SHAPE")
@pytest.mark.parametrize(
    ("code", "request_bytes"),
    [
        ("bad_request", b"GET / HTTP/1.1\r\n\r\n"),
        ("target_too_long", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("headers_too_large", b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000 + b"\r\n\r\n"),
        ("headers_too_large", b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * 200 + b"\r\n"),
        ("body_too_large", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999\r\n\r\n"),
        ("not_implemented", b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n"),
        ("version_not_supported", b"GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
    ],
)
def test_refusals(start, endpoint, code, request_bytes):
    proxy = start(endpoint)
    with proxy.client() as client:
        check(client.send(request_bytes).response(), code)
        client.finish_sending()
        assert client.ended() in ("closed", "reset")


@pytest.mark.promise("ERR-SHAPE")
def test_unreachable(start):
    proxy = start({"name": "a", "url": f"http://127.0.0.1:{free_port()}"})
    with proxy.client() as client:
        check(client.get().response(), "upstream_unreachable")
        check(client.get().response(), "upstream_unreachable")  # the connection goes on


@pytest.mark.promise("ERR-SHAPE")
def test_closed_without_an_answer(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        peer.close()
        check(client.response(), "upstream_closed")


@pytest.mark.promise("ERR-SHAPE")
def test_invalid_answer(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        check(client.response(), "upstream_invalid")


@pytest.mark.promise("ERR-SHAPE")
def test_no_answer_in_time(start, endpoint):
    proxy = start(endpoint, proxy__response_header_timeout="200ms")
    with proxy.client() as client:
        client.post(b"x")
        endpoint.accept().request()
        check(client.response(), "upstream_timeout")


@pytest.mark.promise("ERR-SHAPE")
@pytest.mark.one_worker
def test_no_endpoint(start, endpoint):
    proxy = start(endpoint)
    proxy.do(lambda: [proxy.discovery.record_check(proxy.discovery.endpoints[0], ok=False) for _ in range(3)])
    with proxy.client() as client:
        check(client.get().response(), "no_endpoint")


@pytest.mark.promise("ERR-SHAPE")
@pytest.mark.one_worker
def test_too_many_requests_in_flight(start, endpoint):
    proxy = start(endpoint, server__max_in_flight=1)
    with proxy.client() as first, proxy.client() as second:
        first.get()
        peer = endpoint.accept()
        peer.request()
        check(second.get().response(), "too_many_requests_in_flight")
        peer.respond()
        assert first.response().status == 200


@pytest.mark.promise("ERR-HEAD")
def test_an_error_for_head_has_no_body(start):
    """RFC 9110 9.3.2."""
    proxy = start({"name": "a", "url": f"http://127.0.0.1:{free_port()}"})
    with proxy.client() as client:
        for _ in range(2):
            client.get(method="HEAD")
            assert client.response("HEAD").status == 502


@pytest.mark.promise("ERR-KEEP-ALIVE")
def test_after_an_upstream_s_failure_the_client_s_connection_goes_on(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        peer.close()
        assert client.response().status == 502
        client.post(b"y")
        peer = endpoint.accept()
        assert peer.request().body == b"y"
        peer.respond(b"fine")
        assert client.response().body == b"fine"
    settled(proxy.stats, total=2, failed=1, success=1)


@pytest.mark.promise("ERR-KEEP-ALIVE")
def test_an_http_1_0_client_that_may_go_on_is_told_so(start, endpoint):
    """RFC 9112 9.3, C.2.2: it waits for the close of a connection that is not said to stay."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx")
        peer = endpoint.accept()
        peer.request()
        peer.close()
        answer = client.response()
        assert answer.status == 502
        assert str(answer.get("Connection")).lower() == "keep-alive"
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"fine")
        assert client.response().body == b"fine"


@pytest.mark.promise("ERR-UNREAD-BODY")
@pytest.mark.parametrize("announced", [50, 500_000_000])
def test_an_error_sent_before_the_body_was_read_closes_the_connection(start, endpoint, announced):
    proxy = start({"name": "a", "url": f"http://127.0.0.1:{free_port()}"}, server__max_body_size="100MiB")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % announced)
        client.send_what_fits(b"x" * min(announced, 100_000), within=0.1)
        answer = client.response()
        assert answer.status in (413, 502)
        if announced > 50:
            client.finish_sending()
            assert client.ended() in ("closed", "reset")
