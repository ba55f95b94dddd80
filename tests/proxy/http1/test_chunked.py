"""Chunked bodies: where they end, what they hold, and which are broken."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from httptools import HttpParserError
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ProxyError
from proxy.http1 import chunked as bodies
from proxy.http1.chunked import BodyReader, ChunkReader

BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    return b"".join(map(bodies.encode_chunk, pieces)) + b"0\r\n" + trailer + b"\r\n"


def feed_in_parts(feed: Any, data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for a, b in pairwise(edges):
        feed(data[a:b])


@given(BODIES, st.lists(st.integers(0, 400), max_size=8))
def test_the_end_of_a_chunked_body_is_seen_wherever_it_is_cut(pieces: list[bytes], cuts: list[int]) -> None:
    chunks = ChunkReader()
    for _ in range(2):  # a reader is used again
        chunks.begin()
        data = chunked(pieces)
        feed_in_parts(chunks.feed, data[:-1], cuts)
        assert not chunks.done
        chunks.feed(data[-1:])
        assert chunks.done and not chunks.extra
    chunks.close()


@given(BODIES)
def test_a_chunked_body_is_seen_byte_by_byte(pieces: list[bytes]) -> None:
    chunks = ChunkReader()
    chunks.begin()
    data = chunked(pieces, b"X-Trailer: 1\r\n")
    for i in range(len(data)):
        assert not chunks.done
        chunks.feed(data[i : i + 1])
    assert chunks.done
    chunks.close()


@given(BODIES, st.binary(min_size=1, max_size=20).filter(lambda extra: extra[0] not in b"\r\n"))
def test_bytes_after_a_chunked_body_are_noticed_and_its_end_is_found(pieces: list[bytes], extra: bytes) -> None:
    chunks = ChunkReader()
    chunks.begin()
    data = chunked(pieces)
    try:
        chunks.feed(data + extra)
    except HttpParserError:
        assert chunks.done
    else:
        assert chunks.done and chunks.extra
    assert bodies.chunked_end(data + extra) == len(data)
    chunks.close()


@pytest.mark.parametrize(
    "data", [b"", b"5\r\nabc", b"zz\r\n", b"-5\r\n", b"5\r\nabcde\r\n", b"0\r\n", b"0\r\nA: 1\r\n"]
)
def test_a_body_that_does_not_end_here_has_no_end(data: bytes) -> None:
    assert bodies.chunked_end(data) is None


def test_the_end_after_a_trailer() -> None:
    assert bodies.chunked_end(b"1;ext=1\r\na\r\n0\r\nA: 1\r\n\r\nmore") == 23
    looks_like_ends = b"4\r\n\r\n\r\n\r\n0\r\nA: 1\r\n\r\n"
    assert bodies.chunked_end(looks_like_ends + b"more\r\n\r\n") == len(looks_like_ends)


def test_another_message_after_a_chunked_body_is_noticed() -> None:
    chunks = ChunkReader()
    chunks.begin()
    assert (chunks.done, chunks.extra) == (False, False)
    chunks.feed(chunked([b"a"]))
    assert (chunks.done, chunks.extra) == (True, False)
    chunks.feed(b"HTTP/1.1 200 OK\r\n")
    assert (chunks.done, chunks.extra) == (True, True)
    chunks.close()


@pytest.mark.parametrize(
    "data", [b"5\r\nabcdefg\r\n", b"-1\r\n", b"0x1\r\na\r\n", b" 1\r\na\r\n", b"1 \r\na\r\n", b"g\r\n", b"1\na\n"]
)
def test_broken_chunks_are_refused(data: bytes) -> None:
    chunks = ChunkReader()
    chunks.begin()
    with pytest.raises(HttpParserError):
        chunks.feed(data)
    chunks.close()


@given(
    BODIES, st.lists(st.integers(0, 400), max_size=8), st.sampled_from([b"", b"GET / HTTP/1.1\r\n\r\n", b"\0\r\n\r\n"])
)
def test_an_upload_is_decoded_its_trailers_dropped_and_what_follows_kept_apart(
    pieces: list[bytes], cuts: list[int], behind: bytes
) -> None:
    body = BodyReader()
    out: list[bytes] = []
    rest: list[bytes] = []

    def feed(part: bytes) -> None:
        if body.done:
            rest.append(part)
        else:
            out.append(body.feed(part))
            rest.append(body.rest)

    feed_in_parts(feed, chunked(pieces, b"X-T: 1\r\n") + behind, cuts)
    assert b"".join(out) == b"".join(pieces)
    assert body.done
    assert b"".join(rest) == behind
    body.close()


@pytest.mark.parametrize("over", [0, 1])
def test_framing_may_be_so_many_bytes_and_not_one_more(over: int) -> None:
    body = BodyReader()
    most = 16 * 1 + BodyReader._FLOOD
    data = b"1;" + b"x" * (most + over - len(b"1;\r\na\r\n")) + b"\r\na\r\n"
    if over:
        with pytest.raises(ProxyError) as caught:
            body.feed(data)
        assert str(caught.value) == "bad_request: a flood of chunk framing"
    else:
        assert body.feed(data) == b"a"
    body.close()


def test_a_flood_of_framing_is_refused() -> None:
    body = BodyReader()
    with pytest.raises(ProxyError):
        for _ in range(10_000):
            body.feed(b"1;" + b"x" * 60 + b"\r\na\r\n")
    body.close()


def test_one_byte_chunks_are_no_flood() -> None:
    body = BodyReader()
    for _ in range(50_000):
        body.feed(b"1\r\na\r\n")
    body.close()


@pytest.mark.parametrize("data", [b"5\r\nhello\r\n0\r\n\r\n", b"0\r\nX: yX \r\n\r\n"])
@pytest.mark.parametrize("behind", [b"", b"\r\n", b"\r\n\r\n", b"\n\r"])
def test_empty_lines_behind_the_end_of_a_chunked_body_are_cut_off(data: bytes, behind: bytes) -> None:
    assert bodies.trim_chunked_end(data + behind) == data


@pytest.mark.parametrize("data", [b"\r\n", b"\n", b""])
def test_of_an_end_that_began_earlier_nothing_is_cut_off(data: bytes) -> None:
    assert bodies.trim_chunked_end(data) == data


def test_a_body_of_which_nothing_came_is_not_over() -> None:
    reader = ChunkReader()
    assert (reader.done, reader.extra) == (False, False)
    decoder = BodyReader()
    assert (decoder.done, decoder.rest) == (False, b"")
    decoder.close()
