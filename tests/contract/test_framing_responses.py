"""Where a response ends, and what is not one (RFC 9112 sections 4, 6 and 8; RFC 9110 section 15)."""

from __future__ import annotations

import contextlib

import pytest

from tests.contract.peers import Cut, Silence
from tests.contract.running import settled

OK = b"HTTP/1.1 200 OK\r\n"


def answered(
    start, endpoint, data: bytes, *, method: str = "POST", split: str = "whole", close: bool = True, **settings
):
    """What the client gets when the endpoint sends `data` for its request (a POST, so nothing is retried)."""
    proxy = start(endpoint, **settings)
    with proxy.client() as client:
        client.get("/", method=method)
        peer = endpoint.accept()
        peer.request()
        with contextlib.suppress(OSError):
            peer.send(data, split=split)
            if close:
                peer.finish_sending()
        answer = client.response(method)
    return proxy, answer


@pytest.mark.promise("RESP-INVALID")
@pytest.mark.parametrize("split", ["whole", "bytes"])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"garbage\r\n\r\n", id="garbage"),
        pytest.param(b"<html>oops</html>", id="HTTP/0.9"),
        pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="status that is no number"),
        pytest.param(b"HTTP/1.1 99 OK\r\n\r\n", id="two digits"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="four digits"),
        pytest.param(b"HTTP/1.1\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", id="HTTP/2.0"),
        pytest.param(b"HTTP/1.1200 OK\r\n\r\n", id="no blank"),
        pytest.param(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two lengths"),
        pytest.param(OK + b"Content-Length: +5\r\n\r\nhello", id="signed length"),
        pytest.param(OK + b"Content-Length: 5x\r\n\r\nhello", id="bad length"),
        pytest.param(OK + b"Content-Length: 99999999999999999999\r\n\r\nhello", id="overflow"),
        pytest.param(OK + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n", id="NUL"),
        pytest.param(OK + b"X: a\x01b\r\nContent-Length: 0\r\n\r\n", id="control byte"),
        pytest.param(OK + b"X : a\r\nContent-Length: 0\r\n\r\n", id="blank before the colon"),
        pytest.param(OK + b"no colon\r\nContent-Length: 0\r\n\r\n", id="no colon"),
    ],
)
def test_what_is_no_valid_response_is_502(start, endpoint, head, split):
    proxy, answer = answered(start, endpoint, head, split=split)
    assert answer.status == 502
    assert b'"upstream_' in answer.body
    settled(proxy.stats, failed=1, success=0)


@pytest.mark.promise("RESP-INVALID")
@pytest.mark.parametrize("byte", [b"\x00", b"\x01", b"\x7f"])
def test_a_control_byte_in_a_reason_is_502(start, endpoint, byte):
    """RFC 9112 4. Found by fuzzing: llhttp takes any byte there."""
    _, answer = answered(start, endpoint, b"HTTP/1.1 200 O" + byte + b"K\r\nContent-Length: 0\r\n\r\n")
    assert answer.status == 502


@pytest.mark.promise("RESP-INVALID")
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip", b"gzip, chunked", b"xchunked", b"identity", b""])
def test_a_transfer_coding_other_than_chunked_is_502(start, endpoint, coding, version):
    """RFC 9112 6.1. Found by fuzzing: the field is not forwarded, so the client would take the coding for content."""
    head = b"HTTP/" + version + b" 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"
    _, answer = answered(start, endpoint, head + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.status == 502


@pytest.mark.promise("RESP-INVALID")
def test_chunks_in_http_1_0_are_502(start, endpoint):
    """RFC 9112 6.1: faulty framing."""
    head = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, answer = answered(start, endpoint, head + b"5\r\nhello\r\n0\r\n\r\n")
    assert answer.status == 502


@pytest.mark.promise("RESP-INVALID")
def test_a_length_with_a_transfer_coding_never_reaches_the_client_as_both(start, endpoint):
    """RFC 9112 6.3: 3."""
    _, answer = answered(
        start, endpoint, OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    assert answer.status == 502 or answer.body == b"hello"


@pytest.mark.promise("RESP-LIMITS")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X: " + b"a" * 200_000 + b"\r\n", id="one field"),
        pytest.param(b"".join(b"X-%d: %b\r\n" % (i, b"a" * 1000) for i in range(90)), id="all fields"),
    ],
)
@pytest.mark.parametrize("split", ["whole", "lines"])
def test_an_oversized_head_is_502(start, endpoint, fields, split):
    _, answer = answered(start, endpoint, OK + b"Content-Length: 0\r\n" + fields + b"\r\n", split=split, close=False)
    assert answer.status == 502


@pytest.mark.promise("RESP-LIMITS")
def test_a_head_that_never_ends_is_502(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        peer.send(OK)
        with pytest.raises(OSError):
            for _ in range(500):
                peer.send(b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 250)
        assert client.response().status == 502


@pytest.mark.promise("RESP-BODILESS")
@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_a_response_to_head_has_no_body(start, endpoint, length):
    """RFC 9110 9.3.2: its length is that of the GET."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/1", method="HEAD")
        peer = endpoint.accept()
        assert peer.request().method == "HEAD"
        peer.send(OK + length + b"\r\n")
        answer = client.response("HEAD")
        assert answer.status == 200
        if length.startswith(b"Content-Length"):
            assert answer.get("Content-Length") == "5"
        if answer.get("Connection") != "close":
            client.get("/2")
            with contextlib.suppress(Silence, Cut):
                peer.sock.settimeout(0.3)
                assert peer.request().target == "/2"
                peer.respond(b"next")
                assert client.response().body == b"next"


@pytest.mark.promise("RESP-BODILESS")
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("extra", [b"", b"Content-Length: 5\r\n"])
def test_204_and_304_have_no_body(start, endpoint, status, extra):
    """RFC 9110 15.3.5, 15.4.5."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/1")
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n" + extra + b"\r\n")
        answer = client.response()
        assert (answer.status, answer.get("ETag")) == (int(status[:3]), "x")
        client.get("/2")
        assert peer.request().target == "/2"
        peer.respond(b"next")
        assert client.response().body == b"next"


@pytest.mark.promise("RESP-BODILESS")
@pytest.mark.parametrize("case", ["HEAD", "204", "304"])
def test_a_body_where_none_may_be_does_not_leak_into_the_next_response(start, endpoint, case):
    proxy = start(endpoint)
    with proxy.client() as client:
        method = "HEAD" if case == "HEAD" else "GET"
        client.get("/1", method=method)
        peer = endpoint.accept()
        peer.request()
        status = b"200 OK" if case == "HEAD" else case.encode() + b" X"
        peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nEVIL!")
        client.response(method)
        client.get("/2")
        second = endpoint.accept()
        assert second.request().target == "/2"
        second.respond(b"next")
        assert client.response().body == b"next"


@pytest.mark.promise("RESP-INTERIM")
@pytest.mark.parametrize("split", ["whole", "lines"])
@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"]
)
def test_interim_responses_are_not_taken_for_the_final_one(start, endpoint, interim, split):
    """RFC 9110 15.2."""
    data = interim * 2 + OK + b"Content-Length: 5\r\n\r\nfinal"
    _, answer = answered(start, endpoint, data, split=split)
    assert (answer.status, answer.body) == (200, b"final")


@pytest.mark.promise("RESP-INTERIM")
def test_a_flood_of_interim_responses_ends(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        with pytest.raises(OSError):
            for _ in range(2000):
                peer.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
        assert client.response().status == 502


@pytest.mark.promise("RESP-INTERIM")
@pytest.mark.parametrize("split", ["whole", "lines"])
def test_as_many_interim_responses_pass_as_fit_into_the_limit_of_heads(start, endpoint, split):
    """A heartbeat by 102, while a long prompt is worked on."""
    data = b"HTTP/1.1 102 Processing\r\n\r\n" * 1000 + OK + b"Content-Length: 5\r\n\r\nfinal"
    _, answer = answered(start, endpoint, data, split=split)
    assert (answer.status, answer.body) == (200, b"final")


@pytest.mark.promise("RESP-LIMITS")
@pytest.mark.parametrize("split", ["whole", "lines"])
def test_all_heads_of_a_response_share_one_limit(start, endpoint, split):
    field = b"X: " + b"a" * 3000 + b"\r\n"
    data = (b"HTTP/1.1 103 Early Hints\r\n" + field * 6 + b"\r\n") * 3 + OK + field * 5 + b"Content-Length: 0\r\n\r\n"
    _, answer = answered(start, endpoint, data, split=split, close=False)
    assert answer.status == 502


@pytest.mark.promise("RESP-LIMITS")
@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(b"X: " + b"a" * 40_000 + b"\r\n", id="one field"),
        pytest.param(b"".join(b"X-%d: a\r\n" % i for i in range(500)), id="their number"),
    ],
)
def test_a_head_within_the_limit_passes_whatever_it_is_made_of(start, endpoint, fields):
    """`max_field_size` and `max_headers` are for clients: an endpoint's head has one limit, `max_header_size`."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(OK + b"Content-Length: 2\r\n" + fields + b"\r\nok")
        head = client.receive(len(fields))
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.promise("RESP-101")
@pytest.mark.parametrize("asked", [False, True])
def test_switching_protocols_is_502(start, endpoint, asked):
    """RFC 9110 7.8: nobody asked, since Upgrade is not forwarded."""
    proxy = start(endpoint)
    fields = ["Connection: upgrade", "Upgrade: websocket"] if asked else []
    with proxy.client() as client:
        client.get("/", *fields, method="POST")
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello")
        assert client.response().status == 502
        assert peer.ended() in ("closed", "reset")


@pytest.mark.promise("RESP-TRAILERS")
@pytest.mark.parametrize("split", ["whole", "bytes"])
def test_response_trailers_stay_trailers_or_are_dropped(start, endpoint, split):
    """RFC 9110 6.5.1: never merged."""
    body = b"5\r\nhello\r\n0\r\nX-T: 1\r\nX-Olla-Endpoint: evil\r\n\r\n"
    _, answer = answered(start, endpoint, OK + b"Transfer-Encoding: chunked\r\n\r\n" + body, split=split)
    assert answer.body == b"hello"
    assert answer.all("X-T") == []
    assert answer.get("X-Olla-Endpoint") == "a"


@pytest.mark.promise("RESP-SPLITS")
@pytest.mark.parametrize("split", ["whole", "bytes", "lines"])
@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 11\r\n\r\nhello world",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n005;x=y\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        OK + b"Connection: close\r\n\r\nhello world",
    ],
)
def test_a_response_may_come_in_any_pieces(start, endpoint, data, split):
    proxy, answer = answered(start, endpoint, data, split=split)
    assert (answer.status, answer.body) == (200, b"hello world")
    settled(proxy.stats, success=1)


@pytest.mark.promise("RESP-EARLY")
def test_a_response_before_the_request_s_end_is_passed_on(start, endpoint):
    """A server may answer 413 without reading on (RFC 9112 9.6)."""
    proxy = start(endpoint, proxy__max_replay_body="1KiB")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000)
        peer = endpoint.accept()
        peer.request_head()
        peer.respond(b"too much", status="413 Content Too Large")
        answer = client.response()
        assert (answer.status, answer.body) == (413, b"too much")
    settled(proxy.stats, total=1)


@pytest.mark.promise("RESP-REASON")
@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 200 All is well", b"HTTP/1.1 299 X"])
def test_a_reason_is_optional(start, endpoint, line):
    """RFC 9112 4."""
    _, answer = answered(start, endpoint, line + b"\r\nContent-Length: 2\r\n\r\nok")
    assert (answer.status, answer.body) == (int(line.split()[1]), b"ok")
