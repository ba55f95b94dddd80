"""Gates: every head of the other tests, and bodies, fed whole, byte by byte and with bytes behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ProxyError
from proxy.http1.chunked import BodyReader, encode_chunk
from proxy.http1.gate import RequestGate, ResponseGate
from proxy.http1.heads import CHUNKED, Limits, judge_request, judge_response
from proxy.http1.recall import RequestReader, ResponseReader
from tests.proxy.http1.cases import (
    ACCEPTED,
    ACCEPTED_RESPONSES,
    LIMITS,
    REFUSED,
    REFUSED_RESPONSES,
    answer,
    head,
)

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def gate_of(limits: Limits) -> RequestGate:
    gate = RequestGate()
    gate.reader = RequestReader(limits, b"10.0.0.9", b"me", strip_credentials=False)
    return gate


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]


def with_trailing_bytes(data: bytes) -> Iterator[bytes]:
    yield data + NEXT


Feed = Callable[[bytes], Iterator[bytes]]
each_way = pytest.mark.parametrize("feed", [whole, byte_by_byte, with_trailing_bytes])


def passed(gate: RequestGate, parts: Iterator[bytes]) -> tuple[bytes, bytes]:
    """What passes a gate: the head, and the body as a strict reader decodes it."""
    sent = b"".join(map(gate.feed, parts))
    head, _, body = sent.partition(b"\r\n\r\n")
    if b"\r\nTransfer-Encoding: chunked" in head:
        decoder = BodyReader()
        body = decoder.feed(body)
        assert decoder.done or gate.error
        assert not decoder.rest
        decoder.close()
    return head, body


def body_for(length: int) -> tuple[bytes, bytes]:
    """A body as it is sent, and what it holds."""
    if length == CHUNKED:
        return encode_chunk(b"ab") + encode_chunk(b"c") + b"0\r\nHost: evil\r\n\r\n", b"abc"
    return b"x" * length, b"x" * length


# -- requests


@each_way
@pytest.mark.parametrize("case", ACCEPTED)
def test_a_request_passes_in_a_plain_form(case: str, feed: Feed) -> None:
    data, (method, target, authority, length, keep_alive) = ACCEPTED[case]
    sent, body = body_for(length)
    gate = gate_of(LIMITS)
    plain, passed_body = passed(gate, feed(data + sent))
    assert gate.error is None
    assert gate.head is not None
    assert (gate.head.traits.authority, gate.head.size) == (authority, len(data.lstrip(b"\r\n")))
    again = judge_request(plain + b"\r\n\r\n", LIMITS)
    assert (again.method, again.target, again.length, again.keep_alive) == (method, target, length, keep_alive)
    assert again.http10 is gate.head.traits.http10
    assert passed_body == body
    assert gate.held == (len(NEXT) if feed is with_trailing_bytes else 0)


@each_way
@pytest.mark.parametrize("case", REFUSED)
def test_of_a_refused_head_nothing_passes_however_it_comes(case: str, feed: Feed) -> None:
    data, expected = REFUSED[case]
    gate = gate_of(LIMITS)
    assert passed(gate, feed(data)) == (b"", b"")
    assert gate.error is not None
    assert gate.head is None
    assert gate.error.kind.code in {expected.partition(":")[0], "bad_request"}
    assert gate.feed(NEXT) == b""


def test_the_next_request_waits_until_the_one_before_is_over() -> None:
    gate = gate_of(LIMITS)
    assert passed(gate, whole(head("Content-Length: 2") + b"ab" + NEXT + NEXT[:9]))[1] == b"ab"
    assert gate.feed(NEXT[9:]) == b""
    assert gate.held == 2 * len(NEXT)
    for _ in range(2):
        assert gate.proceed().startswith(b"GET /next HTTP/1.1\r\n")
    assert gate.proceed() == b""
    assert (gate.head, gate.held) == (None, 0)


def test_what_is_sent_on_is_that_of_the_present_head_also_when_it_resembles_the_last() -> None:
    gate = gate_of(LIMITS)
    for length in (1, 1, 2, 17):
        gate.feed(head(f"Content-Length: {length}", "X-Request-ID: id") + b"x" * length)
        assert gate.head is not None
        assert gate.head.text_fields("unused") == [
            ("Content-Length", str(length)),
            ("X-Request-ID", "id"),
            ("X-Forwarded-For", "10.0.0.9"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "me:8080"),
            ("Via", "1.1 me"),
        ]
        assert gate.proceed() == b""


def test_a_request_without_an_id_gets_one_and_bytes_beyond_utf_8_are_refused() -> None:
    gate = gate_of(LIMITS)
    gate.feed(head())
    assert gate.head is not None
    assert gate.head.text_fields("made")[-1] == ("X-Request-ID", "made")
    gate.proceed()
    gate.feed(head("X-A: \xff"))
    with pytest.raises(ProxyError):
        gate.head.text_fields("made")


def test_a_broken_request_behind_a_good_one_is_refused_when_its_turn_comes() -> None:
    gate = gate_of(LIMITS)
    assert gate.feed(NEXT + b"BROKEN\r\n\r\n")
    assert gate.error is None
    assert gate.proceed() == b""
    assert gate.error is not None
    assert gate.error.kind.code == "bad_request"


@each_way
@pytest.mark.parametrize("broken", [b"5\r\nabcdefg\r\n", b"-1\r\n", b"g\r\n", b"1\na\n", b"1\r\naXX0\r\n\r\n"])
def test_behind_a_broken_chunk_nothing_passes(broken: bytes, feed: Feed) -> None:
    gate = gate_of(LIMITS)
    plain, body = passed(gate, feed(head("Transfer-Encoding: chunked") + broken))
    assert plain
    assert b"abcde".startswith(body)
    assert gate.head is not None
    assert str(gate.error).startswith("bad_request: chunk framing: ")
    assert gate.feed(NEXT) == b""
    gate.close()


def test_a_flood_of_chunk_extensions_is_an_error() -> None:
    gate = gate_of(LIMITS)
    gate.feed(head("Transfer-Encoding: chunked"))
    for _ in range(10_000):
        gate.feed(b"1;" + b"x" * 60 + b"\r\na\r\n")
    assert str(gate.error) == "bad_request: a flood of chunk framing"
    gate.close()


def test_a_head_has_begun_with_its_first_byte_and_not_with_an_empty_line() -> None:
    gate = gate_of(LIMITS)
    assert not gate.head_begun
    gate.feed(b"\r\n")
    assert not gate.head_begun
    gate.feed(NEXT[:-1])
    assert gate.head_begun
    gate.feed(NEXT[-1:])
    assert not gate.head_begun


@each_way
def test_more_than_two_empty_lines_are_refused(feed: Feed) -> None:
    gate = gate_of(LIMITS)
    assert passed(gate, feed(b"\r\n" * 3 + NEXT)) == (b"", b"")
    assert str(gate.error) == "bad_request: empty lines"


def test_a_head_that_is_too_large_is_refused_before_it_is_whole() -> None:
    gate = gate_of(Limits(100, 0, 0, 0))
    assert gate.feed(b"GET / HTTP/1.1\r\nA: " + b"a" * 90) == b""
    assert str(gate.error) == "headers_too_large: all fields"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_any_bytes_give_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    data = NEXT[:16] + data.replace(b"\n", b"\r\n")
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    one, other = gate_of(LIMITS), gate_of(LIMITS)
    assert passed(one, iter([data[a:b] for a, b in pairwise(edges)])) == passed(other, whole(data))
    assert (one.held, one.head is None, one.error is None) == (other.held, other.head is None, other.error is None)


# -- responses


def response_gate(max_head: int = 0, *, to_head: bool = False) -> ResponseGate:
    return ResponseGate(ResponseReader(), max_head, to_head=to_head)


@each_way
@pytest.mark.parametrize("case", ACCEPTED_RESPONSES)
def test_a_response_passes_once_its_head_is_whole(case: str, feed: Feed) -> None:
    data, (status, length, keep_alive) = ACCEPTED_RESPONSES[case]
    gate = response_gate()
    for interim in (answer(line="HTTP/1.1 100 Continue"), answer("Link: x", line="HTTP/1.1 103 Early Hints")):
        assert b"".join(map(gate.feed, byte_by_byte(interim))) == b""
    passed_head, rest = next(part for part in map(gate.feed, feed(data)) if part).split(b"\r\n\r\n", 1)
    assert rest == (NEXT if feed is with_trailing_bytes else b"")
    again = judge_response(passed_head + b"\r\n\r\n", to_head=False)
    assert gate.head is not None
    for said in (gate.head, again):
        assert (said.status, said.length, said.keep_alive) == (status, length, keep_alive)
    assert gate.feed(b"body") == b"body"


def test_of_a_response_passes_what_is_sent_on_and_how_it_is_framed() -> None:
    gate = response_gate()
    data = answer(
        "A: 1", "Connection: close, X-Hop", "X-Hop: 1", "Transfer-Encoding: chunked", "X-Olla-Endpoint: forged"
    )
    assert gate.feed(data + b"0") == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nA: 1\r\n\r\n0"
    )


@each_way
@pytest.mark.parametrize("data", REFUSED_RESPONSES)
def test_a_response_that_is_not_http_passes_nothing(data: bytes, feed: Feed) -> None:
    gate = response_gate()
    with pytest.raises(ProxyError) as caught:
        for part in feed(data):
            assert gate.feed(part) == b""
    assert caught.value.kind.code == "upstream_invalid"


def test_the_response_to_a_head_request_has_no_body() -> None:
    gate = response_gate(to_head=True)
    gate.feed(answer("Content-Length: 9"))
    assert gate.head is not None
    assert gate.head.length == 0


@each_way
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("interims", [0, 1, 20])
def test_a_head_and_the_interim_ones_before_it_may_have_so_many_bytes_and_not_one_more(
    interims: int, known: bool, feed: Feed
) -> None:
    final = answer("X: " + "a" * 50, "Content-Length: 0")
    data = answer(line="HTTP/1.1 102 Processing") * interims + final
    reader = ResponseReader()
    if known:
        reader.read(final, to_head=False)
    gate = ResponseGate(reader, len(data), to_head=False)
    for part in feed(data):
        gate.feed(part)
    assert gate.head is not None
    less = ResponseGate(reader, len(data) - 1, to_head=False)
    with pytest.raises(ProxyError, match="its heads are too large"):
        for part in feed(data):
            assert less.feed(part) == b""


def test_a_head_of_a_known_kind_is_held_to_no_limit_where_there_is_none() -> None:
    reader, data = ResponseReader(), answer("Content-Length: 3")
    for _ in range(2):
        assert ResponseGate(reader, 0, to_head=False).feed(data + b"abc").endswith(b"\r\n\r\nabc")
    with pytest.raises(ProxyError) as refused:
        ResponseGate(reader, 1, to_head=False).feed(data)
    assert refused.value.detail == "its heads are too large"
