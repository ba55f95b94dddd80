"""Where a request ends: everything that two readers could read differently is refused (RFC 9112 sections 2, 5 to 7).

Refused means: a 4xx, 501 or 505, the connection is closed, and nothing complete reaches an endpoint. What followed the
refused request on its connection is never read as the next one.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.contract.peers import Broken, Cut, Silence, free_port
from tests.contract.running import settled

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\n"


SPLITS = ("whole", "bytes", "lines")


def refused(start, endpoint, data: bytes, *, splits=SPLITS, allowed=(400, 501), **settings) -> set[int]:
    """Send `data` in each of the ways and check that it is refused; returns the statuses."""
    proxy = start(endpoint, **settings)
    statuses = set()
    for split in splits:
        with proxy.client() as client:
            with contextlib.suppress(OSError):  # it may be refused before its last byte
                client.send(data, split=split)
            answer = client.response()
            assert answer.status in allowed, (split, answer)
            assert answer.get("X-Olla-Request-ID")
            statuses.add(answer.status)
            with contextlib.suppress(OSError):
                client.finish_sending()
            assert client.ended() in ("closed", "reset"), split
    with contextlib.suppress(Silence, Cut, Broken):
        while True:
            peer = endpoint.accept(within=0.02)
            peer.sock.settimeout(0.05)
            request = peer.request()
            raise AssertionError(f"an endpoint was sent a complete request: {request}")
    stats = settled(proxy.stats, success=0)
    assert stats["proxy.requests.refused"] + stats["proxy.requests.failed"] == len(splits), "one answer, one count"
    return statuses


def served(start, endpoint, data: bytes, *, splits=SPLITS, **settings):
    """Send `data`, which is one good request, in each of the ways; returns what the endpoint was sent last."""
    proxy = start(endpoint, **settings)
    peer = None
    for split in splits:
        with proxy.client() as client:
            client.send(data, split=split)
            peer = peer or endpoint.accept()
            request = peer.request()
            peer.respond(b"fine")
            assert client.response().body == b"fine"
    settled(proxy.stats, success=len(splits), refused=0)
    return request


@pytest.mark.promise("FRAME-LENGTH")
@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param([b"5", b"6"], id="two that differ"),
        pytest.param([b"+5"], id="plus"),
        pytest.param([b"-5"], id="minus"),
        pytest.param([b"0x5"], id="hex"),
        pytest.param([b"5_0"], id="underscore"),
        pytest.param([b"5 5"], id="blank inside"),
        pytest.param([b"5,6"], id="a list that differs"),
        pytest.param([b""], id="empty"),
        pytest.param([b"5.0"], id="fraction"),
        pytest.param([b"1e1"], id="exponent"),
        pytest.param([b"99999999999999999999"], id="overflow"),
        pytest.param([b"18446744073709551621"], id="wraps to 5"),
        pytest.param(["٥".encode()], id="non-ASCII digit"),
        pytest.param([b"five"], id="a word"),
        pytest.param([b"5;x"], id="parameter"),
    ],
)
def test_a_content_length_that_is_not_one_number_is_refused(start, endpoint, lengths):
    """RFC 9112 6.3: 4 and 5."""
    lines = b"".join(b"Content-Length: %b\r\n" % length for length in lengths)
    refused(start, endpoint, HEAD + lines + b"\r\nhello" + SMUGGLED, allowed=(400, 413))


@pytest.mark.promise("FRAME-LENGTH")
@pytest.mark.parametrize("lengths", [[b"5", b"5"], [b"5, 5"]])
def test_equal_lengths_are_refused_or_become_one(start, endpoint, lengths):
    """RFC 9112 6.3 leaves both open; two must never reach an endpoint."""
    lines = b"".join(b"Content-Length: %b\r\n" % length for length in lengths)
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(HEAD + lines + b"\r\nhello")
        with contextlib.suppress(Silence):
            peer = endpoint.accept(within=0.2)
            assert peer.request().all("Content-Length") == ["5"]
            peer.respond()
            assert client.response().status == 200
            return
        assert client.response().status == 400


@pytest.mark.promise("FRAME-TE")
@pytest.mark.parametrize("order", ["length first", "coding first"])
def test_a_length_with_a_transfer_coding_is_refused(start, endpoint, order):
    """RFC 9112 6.1: this is how requests are smuggled."""
    fields = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
    fields = fields if order == "length first" else fields[::-1]
    refused(start, endpoint, HEAD + b"".join(fields) + b"\r\n0\r\n\r\n" + SMUGGLED)


@pytest.mark.promise("FRAME-TE")
@pytest.mark.parametrize(
    "coding",
    [
        b"gzip, chunked",
        b"chunked, chunked",
        b"chunked, identity",
        b"identity",
        b"xchunked",
        b"chunkedx",
        b"chunked;q=1",
        b",chunked",
        b"chunked,",
        b'"chunked"',
        b"",
        b"\x0bchunked",
        b"gzip",
        b"chun\xe2\x84\xaaed",
    ],
)
def test_any_transfer_coding_but_exactly_chunked_is_refused(start, endpoint, coding):
    refused(
        start,
        endpoint,
        HEAD + b"Transfer-Encoding: %b\r\n\r\n0\r\n\r\n" % coding + SMUGGLED,
    )


@pytest.mark.promise("FRAME-TE")
def test_two_transfer_encoding_fields_are_refused(start, endpoint):
    refused(start, endpoint, HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + SMUGGLED)


@pytest.mark.promise("FRAME-TE")
def test_an_unknown_transfer_coding_is_501(start, endpoint):
    """RFC 9112 6.1."""
    assert refused(start, endpoint, HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n") == {501}


@pytest.mark.promise("FRAME-TE")
@pytest.mark.parametrize("coding", [b"chunked", b"CHUNKED", b"Chunked"])
def test_chunked_in_any_case_is_chunked(start, endpoint, coding):
    request = served(start, endpoint, HEAD + b"Transfer-Encoding: %b\r\n\r\n5\r\nhello\r\n0\r\n\r\n" % coding)
    assert request.body == b"hello"


@pytest.mark.promise("FRAME-TE-1.0")
def test_a_transfer_coding_in_http_1_0_is_refused(start, endpoint):
    """RFC 9112 6.1."""
    head = b"POST /x HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"
    refused(start, endpoint, head + b"0\r\n\r\n" + SMUGGLED)


@pytest.mark.promise("FRAME-FIELD-LINES")
@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"Content-Length : 5\r\n", id="blank before the colon"),
        pytest.param(b"Transfer-Encoding\t: chunked\r\n", id="tab before the colon"),
        pytest.param(b"X: a\r\n b\r\n", id="obs-fold"),
        pytest.param(b"X: a\r\n\tb\r\n", id="obs-fold with a tab"),
        pytest.param(b" X: a\r\n", id="leading blank"),
        pytest.param(b"X: a\x00b\r\n", id="NUL in a value"),
        pytest.param(b"X\x00: a\r\n", id="NUL in a name"),
        pytest.param(b"X: a\x01b\r\n", id="control byte"),
        pytest.param(b"X: a\x7fb\r\n", id="DEL"),
        pytest.param(b"X: a\rb\r\n", id="bare CR in a value"),
        pytest.param(b"X: a\nY: b\r\n", id="bare LF between fields"),
        pytest.param(b"X: a\n\r\n", id="bare LF at the end of a line"),
        pytest.param(b"no colon\r\n", id="no colon"),
        pytest.param(b": value\r\n", id="no name"),
        pytest.param(b"X(Y): a\r\n", id="not a token"),
        pytest.param(b"X Y: a\r\n", id="blank in a name"),
        pytest.param("Xé: a\r\n".encode(), id="non-ASCII name"),
        pytest.param(b"X: a\x0bb\r\n", id="vertical tab"),
    ],
)
def test_a_field_line_that_is_not_valid_is_refused(start, endpoint, line):
    """RFC 9112 5.1, 5.2 and RFC 9110 5.5."""
    refused(start, endpoint, b"GET /x HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n" + SMUGGLED)


@pytest.mark.promise("FRAME-FIELD-LINES")
@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\nHost: h\n\n", b"GET / HTTP/1.1\r\nHost: h\r\n\n"])
def test_bare_line_feeds_do_not_end_lines(start, endpoint, head):
    """RFC 9112 2.2 lets a recipient accept them; where two read differently, requests are smuggled."""
    refused(start, endpoint, head + b"\r\n\r\n")


@pytest.mark.promise("FRAME-CHUNKS")
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"x\r\nhello\r\n0\r\n\r\n", id="no hex digit"),
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="0x"),
        pytest.param(b"+5\r\nhello\r\n0\r\n\r\n", id="plus"),
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="minus"),
        pytest.param(b" 5\r\nhello\r\n0\r\n\r\n", id="leading blank"),
        pytest.param(b"5_\r\nhello\r\n0\r\n\r\n", id="underscore"),
        pytest.param(b"\r\nhello\r\n0\r\n\r\n", id="empty"),
        pytest.param(b"10000000000000005\r\nhello\r\n0\r\n\r\n", id="overflow"),
        pytest.param(b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n", id="far too large"),
        pytest.param(b"5\nhello\r\n0\r\n\r\n", id="bare LF after the size"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="bare LF after the data"),
        pytest.param(b"5\r\nhelloX\r\n0\r\n\r\n", id="more data than its size"),
        pytest.param(b"5\r\nhell\r\n0\r\n\r\n", id="less data than its size"),
        pytest.param(b"5;a\nb\r\nhello\r\n0\r\n\r\n", id="LF in an extension"),
        pytest.param(b"5;a\x00b\r\nhello\r\n0\r\n\r\n", id="NUL in an extension"),
        pytest.param(b"0\r\nX: a\x00\r\n\r\n", id="NUL in a trailer"),
        pytest.param(b"0\r\n X: a\r\n\r\n", id="a folded trailer"),
    ],
)
def test_chunks_that_are_not_valid_are_refused(start, endpoint, body):
    """RFC 9112 7.1."""
    refused(start, endpoint, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + SMUGGLED)


@pytest.mark.promise("FRAME-CHUNKS")
@pytest.mark.parametrize("first", [b"5\r\nhello", b"5\r\nhello\r\n3\r\nabc"])
def test_chunk_data_beyond_its_size_in_a_later_segment_is_refused(start, endpoint, first):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + first)
        assert client.silent(0.05)
        client.send(b"XX\r\n0\r\n\r\n" + SMUGGLED)
        assert client.response().status == 400
        client.finish_sending()
        assert client.ended() in ("closed", "reset")
    with contextlib.suppress(Silence, Cut):
        peer = endpoint.accept(within=0.1)
        peer.sock.settimeout(0.2)
        raise AssertionError(peer.request())
    settled(proxy.stats, failed=1)


@pytest.mark.promise("FRAME-CHUNKS")
@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
        b'005\r\nhello\r\n6;ext=1;b="c"\r\n world\r\n0\r\n\r\n',
        b"5\r\nhello\r\n6\r\n world\r\n000;last\r\nX-Trailer: dropped\r\n\r\n",
        b"1\r\nh\r\nA\r\nello world\r\n0\r\n\r\n",
    ],
)
def test_valid_chunks_are_passed_on(start, endpoint, body):
    request = served(start, endpoint, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert request.body == b"hello world"
    assert request.get("Transfer-Encoding") == "chunked"


def flooded(proxy, first: bytes, piece: bytes) -> int:
    """Send `first` and then `piece` again and again until there is an answer; returns its status, 0 for a mere close.

    Fails when 16 MB did not bring one.
    """
    with proxy.client() as client:
        client.send(first)
        with contextlib.suppress(OSError):
            for _ in range(16_000_000 // len(piece)):
                client.send(piece)
                if not client.silent(0):
                    break
        try:
            return client.response().status
        except Cut:
            return 0


@pytest.mark.promise("FRAME-FLOODS")
@pytest.mark.parametrize(
    ("first", "piece"),
    [
        pytest.param(b"5;", b"a=b;" * 5000, id="one extension without end"),
        pytest.param(b"", (b"1;" + b"x" * 1000 + b"\r\ny\r\n") * 20, id="long extensions"),
        pytest.param(b"0\r\n", b"X: aaaaa\r\n" * 2000, id="trailers"),
        pytest.param(b"0\r\nX: ", b"a" * 20_000, id="one trailer without end"),
        pytest.param(b"0", b"0" * 20_000, id="zeros"),
    ],
)
def test_a_flood_of_framing_ends(start, endpoint, first, piece):
    """RFC 9112 7.1.1: a recipient ought to limit the total length of chunk extensions."""
    proxy = start(endpoint, server__body_timeout="60s")
    assert flooded(proxy, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + first, piece) in (0, 400, 413, 431)
    settled(proxy.stats, success=0)


@pytest.mark.promise("FRAME-TRAILERS")
def test_request_trailers_are_dropped(start, endpoint):
    """RFC 9110 6.5.1."""
    body = b"5\r\nhello\r\n0\r\nX-Forwarded-For: evil\r\nAuthorization: evil\r\nX-T: evil\r\n\r\n"
    request = served(start, endpoint, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    assert request.body == b"hello"
    assert b"evil" not in request.head
    assert request.trailers == []


@pytest.mark.promise("FRAME-TRAILERS")
@pytest.mark.parametrize("trailer", [b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Host: evil"])
def test_trailers_that_would_be_framing_or_routing_are_dropped_or_refused(start, endpoint, trailer):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n" + SMUGGLED)
        try:
            peer = endpoint.accept(within=0.2)
            peer.sock.settimeout(0.2)
            request = peer.request()
        except (Silence, Cut):
            assert client.response().status == 400
            assert client.ended() in ("closed", "reset")
            return
        assert (request.body, request.get("Host")) == (b"hello", f"127.0.0.1:{endpoint.port}")


@pytest.mark.promise("FRAME-TRAILERS")
@pytest.mark.parametrize("pipelined", [True, False])
@pytest.mark.parametrize("status", ["200 OK", "502 Bad Gateway"])
def test_a_trailer_is_no_field_of_the_next_request(start, endpoint, pipelined, status):
    """Found by the differential test: aiohttp's parser keeps the last trailer for the next head."""
    proxy = start(endpoint)
    following = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
    with proxy.client() as client, contextlib.suppress(Cut, OSError):
        chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nAuthorization: evil\r\n\r\n"
        client.send(HEAD + chunked + (following if pipelined else b""))
        peer = endpoint.accept()
        peer.request()
        if status[0] == "2":
            peer.respond()
        else:
            peer.send(b"garbage\r\n\r\n")
        client.response()
        if not pipelined:
            client.send(following)
        with contextlib.suppress(Silence):
            peer = peer if status[0] == "2" else endpoint.accept(within=0.5)
            assert b"evil" not in peer.request().head


@pytest.mark.promise("FRAME-NOT-THE-NEXT")
@pytest.mark.parametrize("settings", [{"server__max_body_size": "10B"}])
def test_the_body_of_a_refused_request_is_not_read_as_the_next_one(start, endpoint, settings):
    body = SMUGGLED * 3
    refused(
        start,
        endpoint,
        HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + SMUGGLED,
        allowed=(413,),
        **settings,
    )


@pytest.mark.promise("LINE-VERSION")
@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/2.0",
        b"GET / HTTP/1.2",
        b"GET / HTTP/0.9",
        b"GET / HTTP/3.1",
        b"GET / HTTP/11",
        b"GET / HTTP/1",
        b"GET / HTTP/1.10",
        b"GET / http/1.1",
        b"GET / HTTPS/1.1",
        b"GET / HTTP/1.1 x",
        b"GET /",
        b"GET  HTTP/1.1",
        b"GET",
        b"GET /a b HTTP/1.1",
        b"GET\t/\tHTTP/1.1",
        b"GET /\x00 HTTP/1.1",
        b"GET /\x7f HTTP/1.1",
    ],
)
def test_a_request_line_without_a_known_version_or_target_is_refused(start, endpoint, line):
    """RFC 9112 3: a missing version is not HTTP/0.9 here."""
    refused(start, endpoint, line + b"\r\nHost: h\r\n\r\n", allowed=(400, 501, 505))


@pytest.mark.promise("LINE-VERSION")
def test_another_version_is_505(start, endpoint):
    """RFC 9110 15.6.6."""
    assert refused(start, endpoint, b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", allowed=(505,)) == {505}


@pytest.mark.promise("LINE-METHOD")
@pytest.mark.parametrize("method", [b"BREW", b"get", b"FOO-BAR", b"X"])
def test_a_method_that_is_not_known_is_501(start, endpoint, method):
    """RFC 9110 15.6.2."""
    data = method + b" / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert refused(start, endpoint, data, splits=("whole", "lines"), allowed=(501,)) == {501}


@pytest.mark.promise("LINE-METHOD")
def test_a_method_that_is_not_known_may_be_refused_before_it_is_complete(start, endpoint):
    refused(start, endpoint, b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", splits=("bytes",), allowed=(400, 501))


@pytest.mark.promise("LINE-METHOD")
@pytest.mark.parametrize("method", [b"GE T", b"G(ET", b"G\x00T", b"\xc3\xa9", b"", b"\x16\x03\x01"])
def test_a_method_that_is_no_token_is_refused(start, endpoint, method):
    refused(start, endpoint, method + b" / HTTP/1.1\r\nHost: h\r\n\r\n", allowed=(400, 501))


@pytest.mark.promise("LINE-CONNECT")
@pytest.mark.parametrize("target", [b"example.com:443", b"/", b"127.0.0.1:80"])
def test_connect_is_refused(start, endpoint, target):
    """RFC 9110 9.3.6: no tunnels."""
    refused(start, endpoint, b"CONNECT " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n", allowed=(400, 405, 501))


@pytest.mark.promise("LINE-EMPTY-BEFORE")
def test_more_than_two_empty_lines_are_refused_however_they_come(start, endpoint):
    refused(start, endpoint, b"\r\n" * 3 + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")


@pytest.mark.promise("LINE-EMPTY-BEFORE")
@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n"])
def test_up_to_two_empty_lines_before_a_request_are_skipped(start, endpoint, empty):
    """RFC 9112 2.2."""
    served(start, endpoint, empty + b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")


@pytest.mark.promise("LINE-EMPTY-BEFORE")
def test_a_flood_of_empty_lines_ends(start, endpoint):
    proxy = start(endpoint, server__header_timeout="60s")
    assert flooded(proxy, b"", b"\r\n" * 10_000) in (0, 400, 431)


@pytest.mark.promise("LINE-BYTES")
@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/a/../b",
        "/a//b",
        "//a",
        "/%2e%2e/%2F",
        "/a%zz",
        "/a?",
        "/a?b=c&d=%20+x?y",
        "/?",
        "/a;b=c",
        "/a:b@c",
        "/~!$&'()*+,;=",
        '/a?q={x}|[y]^`"<>\\',
        "/%C3%A9?%E2%98%83",
    ],
)
def test_path_and_query_are_forwarded_byte_for_byte(start, endpoint, target):
    request = served(start, endpoint, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert request.target == target


@pytest.mark.promise("LINE-BYTES")
def test_a_path_in_the_endpoint_s_url_is_a_prefix(start, endpoint):
    proxy = start({"name": "a", "url": endpoint.url + "/base/v2/"})
    with proxy.client() as client:
        client.get("/x?y=/z")
        peer = endpoint.accept()
        assert peer.request().target == "/base/v2/x?y=/z"
        peer.respond()
        client.response()


@pytest.mark.promise("LINE-PREFIX")
@pytest.mark.parametrize("target", ["/v1/models?x=1", "/models?x=1"])
def test_a_prefix_is_not_doubled_when_the_client_s_path_has_it_already(start, endpoint, target):
    """`http://host/v1` is what OpenAI's clients call a base URL: users write it here, too."""
    proxy = start({"name": "a", "url": endpoint.url + "/v1"})
    with proxy.client() as client:
        client.get(target)
        peer = endpoint.accept()
        assert peer.request().target == "/v1/models?x=1"
        peer.respond()
        client.response()


@pytest.mark.promise("LINE-PIPELINE")
@pytest.mark.parametrize("split", SPLITS)
def test_pipelined_requests_are_answered_one_after_the_other(start, endpoint, split):
    """RFC 9112 9.3.2."""
    proxy = start(endpoint)
    count = 5
    with proxy.client() as client:
        requests = b"".join(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi" % i for i in range(count))
        client.send(requests, split=split)
        peer = endpoint.accept()
        for i in range(count):
            assert peer.request().target == f"/{i}"
            assert endpoint.untouched(0.02), "the next waits until this one is answered"
            peer.respond(b"%d" % i)
            assert client.response().body == b"%d" % i
    settled(proxy.stats, success=count)


@pytest.mark.promise("LINE-PIPELINE")
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("trailer", [b"", b"X-Sum: 1\r\n"])
def test_what_follows_a_chunked_request_is_the_next_one(start, endpoint, split, trailer):
    """RFC 9112 7.1: the body ends with the empty line behind the last chunk."""
    proxy = start(endpoint)
    with proxy.client() as client:
        chunked = (
            b"POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n%b\r\n" % trailer
        )
        client.send(chunked + b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n", split=split)
        peer = endpoint.accept()
        assert peer.request().body == b"\r\n\r\n"
        peer.respond(b"1")
        assert client.response().body == b"1"
        assert peer.request().target == "/2"
        peer.respond(b"2")
        assert client.response().body == b"2"
    settled(proxy.stats, success=2)


@pytest.mark.promise("LINE-PIPELINE")
@pytest.mark.parametrize("reachable", [True, False])
@pytest.mark.parametrize("upload", ["chunked", "large"])
def test_after_an_upload_that_came_at_once_its_connection_goes_on(start, endpoint, upload, reachable):
    """Found by fuzzing: reading paused until there was a connection to the endpoint, and then for ever."""
    proxy = start(endpoint if reachable else {"name": "a", "url": f"http://127.0.0.1:{free_port()}"})
    body = b"x" * (5 if upload == "chunked" else 100_000)
    framing = b"Transfer-Encoding: chunked" if upload == "chunked" else b"Content-Length: %d" % len(body)
    sent = b"5\r\nxxxxx\r\n0\r\n\r\n" if upload == "chunked" else body
    with proxy.client() as client:
        client.send(b"POST /1 HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + sent)
        if reachable:
            peer = endpoint.accept()
            assert peer.request().body == body
            peer.respond(b"1")
        answer = client.response()
        assert answer.status == (200 if reachable else 502)
        if answer.get("Connection") == "close":
            assert not reachable  # it did not come at once this time: refused before its last bytes
            return
        client.get("/2")
        if reachable:
            assert peer.request().target == "/2"
            peer.respond(b"2")
        assert client.response().status == (200 if reachable else 502)


@pytest.mark.promise("LINE-PIPELINE")
def test_a_client_that_sends_on_while_its_answer_ends_by_closing_is_not_reset(start, endpoint):
    """RFC 9112 9.6. Found by fuzzing: a reset may take the end of the answer with it."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTT")
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello").close()
        _, fields, _ = client.response_head()
        rest = b"P/1.1\r\nHost: h\r\n\r\n"
        if ("Transfer-Encoding", "chunked") in fields:  # a framing in which the connection can go on
            client.send(rest)
            assert endpoint.accept().request().target == "/2"
            return
        assert client.receive_to_end() == b"hello"
        client.send(rest)
        time.sleep(0.05)
        client.send(b"GET /3")  # raises once it was reset


@pytest.mark.promise("LINE-PIPELINE")
def test_a_good_request_before_a_broken_one_is_answered(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"GET /good HTTP/1.1\r\nHost: h\r\n\r\nGARBAGE\r\n\r\n")
        peer = endpoint.accept()
        assert peer.request().target == "/good"
        peer.respond(b"good")
        assert client.response().body == b"good"
        assert client.response().status in (400, 501)
        assert client.ended() in ("closed", "reset")
    settled(proxy.stats, success=1, refused=1)


@pytest.mark.promise("LINE-UPGRADE")
@pytest.mark.parametrize("protocol", ["websocket", "h2c", "foo"])
def test_an_upgrade_is_forwarded_as_a_plain_request_or_refused(start, endpoint, protocol):
    """RFC 9110 7.8."""
    proxy = start(endpoint)
    fields = ["Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    if protocol == "websocket":
        fields += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    with proxy.client() as client:
        client.get("/ws", *fields)
        peer = endpoint.accept()
        request = peer.request()
        assert request.all("Upgrade") == request.all("Connection") == request.all("HTTP2-Settings") == []
        peer.respond(b"plain")
        assert client.response().body == b"plain"


@pytest.mark.promise("LINE-UPGRADE")
@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_bytes_after_an_upgrade_request_are_still_http(start, endpoint, protocol):
    """Either they are answered as the next request, or the first answer says that the connection ends."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(
            f"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
            + b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"
        )
        peer = endpoint.accept()
        assert peer.request().target == "/1"
        peer.respond(b"1")
        first = client.response()
        if str(first.get("Connection")).lower() == "close":
            assert client.ended() in ("closed", "reset")
            return
        assert peer.request().target == "/2"
        peer.respond(b"2")
        assert client.response().body == b"2"


@pytest.mark.promise("EXPECT")
@pytest.mark.parametrize("size", [5, 3_000_000])
def test_expect_is_answered_by_the_proxy_and_not_forwarded(start, endpoint, size):
    """RFC 9110 10.1.1: nobody waits for anybody."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % size)
        assert client.receive_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer = None
        sent = client.send_what_fits(b"x" * size, within=0.2)
        peer = endpoint.accept()
        _, fields, _ = peer.request_head()
        assert "expect" not in [name.lower() for name, _ in fields]
        taken = 0
        while taken < size:
            taken += len(peer.receive_some())
            if sent < size:
                sent += client.send_what_fits(b"x" * min(2**18, size - sent), within=0.01)
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("EXPECT")
def test_a_client_that_does_not_wait_for_100_gets_none_or_one(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        peer = endpoint.accept()
        assert peer.request().body == b"hello"
        peer.respond(b"done")
        assert client.response().body == b"done"
        client.get()
        peer.request()
        peer.respond(b"next")
        assert client.response().body == b"next"


@pytest.mark.promise("EXPECT")
def test_an_http_1_0_client_is_never_sent_100(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert client.silent(0.1)
        client.send(b"hello")
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        assert client.response_head()[2].startswith(b"HTTP/1.")
