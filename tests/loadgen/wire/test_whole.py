"""The short way to read a reply says what the general way says, or nothing."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire import whole
from loadgen.wire.stream import NEVER, BodyScanner, MockHead, ResponseReader, WrongReply, mock_head
from loadgen.wire.whole import WholeReplies, WholeReply
from tests.loadgen.driver.wire import digest_of

CLOCK = b'"mock":{"seq":%d,"ns":"%020d"}'


def the_general_way(data: bytes) -> WholeReply | None:
    """What ResponseReader and BodyScanner make of a reply in one read; None if it is not complete and faultless."""
    reader = ResponseReader()
    try:
        body = reader.feed(data)
    except WrongReply:
        return None
    if not reader.complete:
        return None
    scanner = BodyScanner(stream=False)
    scanner.feed(body, 0, 0)
    said = mock_head(reader.head)
    if scanner.fault(said.events) is not None:
        return None
    return WholeReply(reader.status, reader.keep_alive, said, len(body), scanner.events, scanner.digest())


def reply(body: bytes, *, status: int = 200, recv: int = 5, extra: bytes = b"", events: int = 1) -> bytes:
    head = f"HTTP/1.1 {status} Some reason\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"X-Mock-Events: {events}\r\nX-Mock-Digest: {digest_of(body)}\r\nX-Mock-Endpoint: mock-3\r\n"
    head += f"X-Mock-Recv-Ns: {recv:020}\r\nX-Mock-Sent-Ns: {recv + 1:020}\r\n"
    return head.encode() + extra + b"\r\n" + body


def body_with(text: bytes, ns: int = 7) -> bytes:
    return b'{"text":"%b",' % text + CLOCK % (0, ns) + b"}"


def test_a_whole_reply_is_read_with_all_that_its_head_says() -> None:
    body = body_with(b"hello")
    read = WholeReplies().read(reply(body, recv=123))
    assert read is not None
    assert (read.status, read.keep_alive, read.size, read.events) == (200, True, len(body), 1)
    assert read.said == MockHead(digest_of(body).encode(), 1, 123, 124, b"mock-3")
    assert read.digest == read.said.digest


@given(
    texts=st.lists(st.binary(max_size=30).map(lambda text: text.hex().encode()), min_size=1, max_size=5),
    recv=st.integers(0, 10**18),
    status=st.sampled_from([200, 201, 204, 304, 404, 503, 100, 199]),
    extra=st.sampled_from(
        [
            b"",
            b"Connection: close\r\n",
            b"Connection: keep-alive\r\n",
            b"Keep-Alive: timeout=15\r\n",
            b"X-Mock-Events: 1\r\n",
            b"X-Mock-Events: one\r\n",
            b"content-length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Bad Header: 1\r\n",
        ]
    ),
    spoil=st.sampled_from(["", "short", "long", "two clocks", "wrong seq", "no clock", "old", "bare"]),
)
def test_the_short_way_says_what_the_general_way_says_or_nothing(
    texts: list[bytes], recv: int, status: int, extra: bytes, spoil: str
) -> None:
    replies = WholeReplies()
    for number, text in enumerate(texts):
        body = body_with(text, recv + number)
        if spoil == "two clocks":
            body += CLOCK % (1, 1)
        elif spoil == "wrong seq":
            body = body.replace(b'"seq":0', b'"seq":4')
        elif spoil == "no clock":
            body = text
        data = reply(body, status=status, recv=recv, extra=extra)
        if spoil == "short":
            data = data[:-1]
        elif spoil == "long":
            data += b"x"
        elif spoil == "old":
            data = data.replace(b"HTTP/1.1", b"HTTP/1.0")
        elif spoil == "bare":
            data = data.replace(b"\r\n", b"\n", 1)
        short = replies.read(data)
        if short is not None:
            assert short == the_general_way(data)
        elif spoil == "" and extra in (b"", b"Keep-Alive: timeout=15\r\n") and status in (200, 404):
            raise AssertionError("the common kind must be read the short way")


@given(cut=st.integers(0, 400))
def test_a_reply_that_is_not_all_there_is_left_to_the_general_way(cut: int) -> None:
    data = reply(body_with(b"hello"))
    replies = WholeReplies()
    assert replies.read(data) is not None
    assert (replies.read(data[:cut]) is None) == (cut < len(data))


def test_one_shape_serves_replies_that_differ_in_digits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    replies = WholeReplies()
    first = replies.read(reply(body_with(b"hello"), recv=1))

    def never(self: ResponseReader, data: bytes) -> bytes:
        raise AssertionError("the shape is known")

    monkeypatch.setattr(ResponseReader, "feed", never)
    second = replies.read(reply(body_with(b"hello", ns=99), recv=987654321))
    assert first is not None
    assert second is not None
    assert second.said.recv_ns == 987654321
    assert second.digest == first.digest


def test_a_digit_changed_in_the_version_or_the_status_is_seen_although_the_shape_is_known() -> None:
    replies = WholeReplies()
    data = reply(body_with(b"hello"))
    assert replies.read(data) is not None
    assert replies.read(data.replace(b"HTTP/1.1", b"HTTP/1.0")) is None
    assert replies.read(data.replace(b" 200 ", b" 204 ")) is None
    other = replies.read(data.replace(b" 200 ", b" 503 "))
    assert other is not None
    assert other.status == 503


def test_a_server_with_endless_shapes_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "_MOST_SHAPES", 4)
    replies = WholeReplies()
    for letter in b"abcdefghij":
        data = reply(body_with(b"hello"), extra=b"X-Letter: %c\r\n" % letter)
        assert replies.read(data) == the_general_way(data)
    assert len(replies._shapes) == 4


def test_a_body_without_a_clock_is_no_event_and_has_its_plain_digest() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    read = WholeReplies().read(data)
    assert read == the_general_way(data)
    assert read is not None
    assert (read.events, read.said) == (0, MockHead(None, NEVER, NEVER, NEVER, None))
    assert read.digest == b"sha256=" + hashlib.sha256(b"hello").hexdigest().encode()
