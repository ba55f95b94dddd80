"""Requests are found in bytes, bad ones refused, equal ones recognised."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mock_backends.wire import MAX_BODY, MAX_HEAD, BadMessage, ChunkedBody, Likeness, find_head, read_head

LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"


def head(*fields: bytes, line: bytes = LINE) -> bytes:
    return line + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


def test_a_head_is_read_for_what_matters() -> None:
    read = read_head(head(b"hOsT: a", b"CONTENT-length:  12", b"X-Mock-Events: 7", b"Expect: 100-continue"))
    assert read.method == b"POST"
    assert read.path == b"/v1/chat/completions"
    assert read.length == 12
    assert read.keep_alive
    assert not read.http10
    assert read.expects_continue
    assert read.options == (None, None, 7, None)


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"/v1/models?x=/y", b"/v1/models"), (b"http://mock:1/v1/models?x", b"/v1/models"), (b"http://mock", b"/")],
)
def test_query_and_authority_do_not_belong_to_the_path(target: bytes, path: bytes) -> None:
    assert read_head(head(b"Host: a", line=b"GET " + target + b" HTTP/1.1\r\n")).path == path


@pytest.mark.parametrize(
    ("fields", "version", "stays"),
    [
        ([b"Host: a"], b"1.1", True),
        ([b"Host: a", b"Connection: Close"], b"1.1", False),
        ([b"Host: a", b"Connection: foo, close"], b"1.1", False),
        ([b"Host: a", b"Connection: closed"], b"1.1", True),
        ([], b"1.0", False),
        ([b"Connection: keep-alive"], b"1.0", True),
    ],
)
def test_whether_a_connection_stays(fields: list[bytes], version: bytes, stays: bool) -> None:
    read = read_head(head(*fields, line=b"GET / HTTP/" + version + b"\r\n"))
    assert read.keep_alive is stays
    assert read.http10 is (version == b"1.0")


@pytest.mark.parametrize(
    "block",
    [
        head(),
        head(b"Host: a", b"Host: b"),
        head(b"Host: a", b"Content-Length: 1", b"Content-Length: 2"),
        head(b"Host: a", b"Content-Length: +1"),
        head(b"Host: a", b"Content-Length: 0x1"),
        head(b"Host: a", b"Content-Length: 1", b"Transfer-Encoding: chunked"),
        head(b"Host: a", b"Transfer-Encoding: xchunked"),
        head(b"Host: a", b"Transfer-Encoding: gzip"),
        head(b"Host : a"),
        head(b"Host: a", b" folded"),
        head(b"Host: a\0"),
        head(b"Host: a", b"Content-Length: %d" % (MAX_BODY + 1)),
        head(b"Host: a", b"X-Mock-Events: many"),
        head(b"Host: a", b"X-Mock-Chunk-Bytes: 19"),
        head(b"Host: a", b"Connection: Upgrade", b"Upgrade: h2c"),
        head(b"Host: a", line=b"GET /\r\n"),
        head(b"Host: a", line=b"GET / HTTP/2.0\r\n"),
        head(b"Host: a", line=b"G@T / HTTP/1.1\r\n"),
        head(b"Host: a", line=b"CONNECT a:1 HTTP/1.1\r\n"),
        b"\x16\x03\x01 hello\r\n\r\n",
    ],
)
def test_a_head_that_is_not_right_is_refused(block: bytes) -> None:
    with pytest.raises(BadMessage) as caught:
        read_head(block)
    assert 400 <= caught.value.status <= 501


def test_an_endless_head_is_refused() -> None:
    assert find_head(b"GET / HTTP/1.1\r\n") == 0
    with pytest.raises(BadMessage) as caught:
        find_head(b"x" * (MAX_HEAD + 1))
    assert caught.value.status == 431


BODY = b"hello, chunks"
CHUNKED = b"5\r\nhello\r\n8;x=y\r\n, chunks\r\n0\r\nTrailer: x\r\n\r\n"


@given(st.lists(st.integers(1, len(CHUNKED)), max_size=6))
def test_a_chunked_body_is_the_same_wherever_it_is_split(cuts: list[int]) -> None:
    body, buffer, end = ChunkedBody(), bytearray(), 0
    edges = sorted({0, *cuts, len(CHUNKED)})
    for a, b in pairwise(edges):
        assert not end
        buffer += CHUNKED[a:b]
        end = body.feed(buffer)
    assert end == len(CHUNKED)
    assert bytes(body.body) == BODY


def test_what_follows_a_chunked_body_is_not_part_of_it() -> None:
    body = ChunkedBody()
    assert body.feed(CHUNKED + b"GET / HTTP/1.1\r\n") == len(CHUNKED)


@pytest.mark.parametrize(
    "data",
    [b"x\r\n", b"\r\nabc", b"-1\r\n", b"5\r\nhelloXX", b"fffffffff\r\n", b"7fffffff\r\n", b"1" * 2000],
)
def test_a_chunk_that_is_not_right_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessage):
        ChunkedBody().feed(data)


def request(id_: bytes) -> tuple[bytes, bytes]:
    return head(b"Host: a", b"X-Request-ID: " + id_, b"Content-Length: 4"), b"body"


def test_a_request_is_recognised_whatever_its_id() -> None:
    like = Likeness(*request(b"aaa-1"))
    for id_ in (b"aaa-1", b"b", b"0123456789abcdef" * 8):
        block, body = request(id_)
        assert like.whole(block + body)
        assert like.head(block)


@pytest.mark.parametrize(
    "other",
    [
        b"".join(request(b"a" * 129)),
        b"".join(request(b"")),
        b"".join(request(b"a b")),
        b"".join(request(b"a\r\nX-Mock-Events: 5")),
        b"".join(request(b"a"))[:-1],
        b"".join(request(b"a")) + b"x",
        b"".join(request(b"a")).replace(b"body", b"BODY"),
        b"".join(request(b"a")).replace(b"Host: a", b"Host: b"),
        b"".join(request(b"a")).replace(b"Length: 4", b"Length: 3"),
        request(b"a")[0],
        b"",
    ],
)
def test_another_request_is_not_taken_for_the_same(other: bytes) -> None:
    assert not Likeness(*request(b"aaa-1")).whole(other)


def test_without_an_id_only_equal_bytes_are_the_same() -> None:
    block = head(b"Host: a", b"Content-Length: 4")
    like = Likeness(block, b"body")
    assert like.whole(block + b"body")
    assert not like.whole(block + b"a" + b"body")
