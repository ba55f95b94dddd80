"""Replies read from bytes: the same answer fed whole, byte by byte and in random pieces, and with bytes too many."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.wire.stream import (
    EVENT_ROW,
    NEVER,
    BodyScanner,
    BoundaryScanner,
    MockHead,
    ResponseReader,
    Truncated,
    WrongReply,
    is_event_stream,
    mock_head,
)

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: mock\r\nX-Mock-Digest: sha256=00ff\r\nx-mock-events:3\r\n"
    b"X-MOCK-RECV-NS: 00000000000000000005\r\n"
    b"X-Mock-Sent-Ns: 00000000000000000007 \r\nX-Mock-Endpoint: mock-0\r\nContent-Type: text/event-stream\r\n"
)


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


ways = pytest.mark.parametrize("cut", [whole, byte_by_byte])
Cut = Callable[[bytes], list[bytes]]


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def read(pieces: Iterable[bytes], method: str = "POST") -> tuple[ResponseReader, bytes]:
    reader = ResponseReader(method)
    body = b""
    for piece in pieces:
        body += reader.feed(piece)
    return reader, body


def event(seq: int, ns: int = 0, text: str = "hi") -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}],"mock":{"seq":%d,"ns":"%020d"}}\n\n' % (
        text.encode(),
        seq,
        ns,
    )


class TestResponseReader:
    @ways
    def test_a_body_with_a_length_ends_with_its_last_byte(self, cut: Cut) -> None:
        reader, body = read(cut(HEAD + b"Content-Length: 5\r\n\r\nhello"))
        assert (reader.status, body, reader.complete, reader.keep_alive) == (200, b"hello", True, True)
        assert reader.head == HEAD + b"Content-Length: 5\r\n\r\n"

    @ways
    def test_a_chunked_body_comes_without_its_framing(self, cut: Cut) -> None:
        reader, body = read(cut(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"one ", b"two ", b"three")))
        assert (body, reader.complete, reader.keep_alive) == (b"one two three", True, True)

    @ways
    def test_trailers_and_chunk_extensions_are_no_part_of_the_body(self, cut: Cut) -> None:
        data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0\r\nX-T: 1\r\n\r\n"
        reader, body = read(cut(data))
        assert (body, reader.complete) == (b"ab", True)

    @ways
    def test_interim_responses_are_skipped_also_when_all_come_in_one_read(self, cut: Cut) -> None:
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        reader, body = read(cut(interim + HEAD + b"Content-Length: 2\r\n\r\nok"))
        assert (reader.status, body, reader.complete) == (200, b"ok", True)
        assert reader.head == HEAD + b"Content-Length: 2\r\n\r\n"

    @ways
    @pytest.mark.parametrize("status", [204, 304])
    def test_replies_that_cannot_have_a_body_end_with_their_head(self, cut: Cut, status: int) -> None:
        reader, body = read(cut(b"HTTP/1.1 %d X\r\nServer: x\r\n\r\n" % status))
        assert (reader.status, body, reader.complete) == (status, b"", True)

    @ways
    def test_the_reply_to_head_ends_with_its_head_whatever_length_it_announces(self, cut: Cut) -> None:
        reader, body = read(cut(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), method="HEAD")
        assert (body, reader.complete) == (b"", True)

    @ways
    def test_connection_close_and_http_1_0_do_not_keep_the_connection(self, cut: Cut) -> None:
        assert not read(cut(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))[0].keep_alive
        assert not read(cut(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"))[0].keep_alive

    @ways
    def test_a_reply_without_framing_is_complete_when_the_connection_ends(self, cut: Cut) -> None:
        reader, body = read(cut(b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello"))
        assert (body, reader.complete) == (b"hello", False)
        reader.eof()
        assert (reader.complete, reader.keep_alive) == (True, False)

    @ways
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nServer",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
        ],
    )
    def test_a_connection_that_ends_early_truncates_the_reply(self, cut: Cut, data: bytes) -> None:
        reader, _ = read(cut(data))
        assert not reader.complete
        with pytest.raises(Truncated):
            reader.eof()

    @ways
    @pytest.mark.parametrize(
        "data",
        [
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ],
    )
    def test_what_is_not_http_is_a_wrong_reply(self, cut: Cut, data: bytes) -> None:
        with pytest.raises(WrongReply):
            read(cut(data))

    @ways
    @pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"0\r\n\r\n"])
    @pytest.mark.parametrize(
        "reply",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ],
    )
    def test_bytes_after_the_end_are_a_wrong_reply(self, cut: Cut, reply: bytes, extra: bytes) -> None:
        with pytest.raises(WrongReply, match="bytes after the end"):
            read(cut(reply + extra))

    def test_a_head_without_end_is_given_up(self) -> None:
        reader = ResponseReader()
        reader.feed(b"HTTP/1.1 200 OK\r\n")
        with pytest.raises(WrongReply, match="head of more than"):
            for _ in range(1000):
                reader.feed(b"X-A: " + b"a" * 4000 + b"\r\n")

    def test_the_mocks_headers_are_found_in_any_case_and_damaged_ones_count_as_absent(self) -> None:
        assert mock_head(HEAD + b"\r\n") == MockHead(b"sha256=00ff", 3, 5, 7, b"mock-0")
        in_order = b"HTTP/1.1 200 OK\r\nX-Mock-Events: 3\r\nX-Mock-Digest: sha256=00ff\r\n%bX-Mock-Endpoint: mock-0\r\n"
        in_order += b"X-Mock-Recv-Ns: 00000000000000000005\r\nX-Mock-Sent-Ns: 00000000000000000007\r\n\r\n"
        for between in (b"", b"Date: now\r\n", b"Date: now\r\nVia: 1.1 x\r\n"):
            assert mock_head(in_order % between) == MockHead(b"sha256=00ff", 3, 5, 7, b"mock-0")
        damaged = b"HTTP/1.1 200 OK\r\nX-Mock-Events: -3\r\nX-Mock-Recv-Ns: 1e9\r\nX-Mock-Sent-Ns: " + b"9" * 30
        assert mock_head(damaged + b"\r\n\r\n") == MockHead(None, NEVER, NEVER, NEVER, None)
        assert is_event_stream(HEAD + b"\r\n")
        assert not is_event_stream(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n")


def scan(pieces: Iterable[bytes], trailer: int = 3) -> tuple[BodyScanner, list[tuple[int, ...]]]:
    rows: list[bytes] = []
    scanner = BodyScanner(42, rows.append, trailer)
    for index, piece in enumerate(pieces):
        scanner.feed(piece, 1000 + index, index)
    return scanner, [EVENT_ROW.unpack(row) for row in rows]


def zeroed(body: bytes) -> bytes:
    """The digest as a mock would state it, computed the plain way."""
    return b"sha256=" + hashlib.sha256(re.sub(rb'(?<=,"ns":")\d{20}(?="\})', b"0" * 20, body)).hexdigest().encode()


class TestBodyScanner:
    @ways
    def test_events_are_found_with_their_number_their_clock_and_their_size(self, cut: Cut) -> None:
        events = [event(seq, 10 + seq, "x" * seq) for seq in range(5)]
        scanner, rows = scan(cut(b"".join(events) + b"data: [DONE]\n\n"))
        assert [row[:3] for row in rows] == [(42, seq, 10 + seq) for seq in range(5)]
        assert [row[4] for row in rows] == [len(e) for e in events]
        assert scanner.events == 5
        assert scanner.fault(5) is None

    def test_an_event_belongs_to_the_read_that_completed_its_clock(self) -> None:
        first, second, third = event(0), event(1), event(2)
        _, rows = scan([first + second, third[:-10], third[-10:]])
        assert [(row[3], row[5]) for row in rows] == [(1000, 0), (1000, 0), (1002, 2)]

    def test_json_lines_have_a_trailer_of_two(self) -> None:
        lines = [b'{"response":"a","mock":{"seq":%d,"ns":"%020d"}}\n' % (seq, 5) for seq in range(3)]
        _, rows = scan([b"".join(lines)], trailer=2)
        assert [row[4] for row in rows] == [len(line) for line in lines]

    @given(data=st.data(), texts=st.lists(st.text('ab"\\:mock{}0123456789', max_size=30), max_size=8))
    def test_digest_and_rows_do_not_depend_on_where_the_reads_are_cut(
        self, data: st.DataObject, texts: list[str]
    ) -> None:
        escaped = [text.replace("\\", "\\\\").replace('"', '\\"') for text in texts]
        body = b"".join(event(seq, 7 * 10**18 + seq, text) for seq, text in enumerate(escaped)) + b"data: [DONE]\n\n"
        cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=12)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        scanner, rows = scan(pieces)
        assert scanner.digest() == zeroed(body)
        assert scanner.events == len(texts)
        assert [row[1:3] for row in rows] == [(seq, 7 * 10**18 + seq) for seq in range(len(texts))]
        assert scanner.fault(len(texts)) is None
        assert scanner.size == len(body)

    @ways
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"no events at all",
            b'"mock":{"seq":1,"ns":"123"}',
            b'"mock":{"seq":x,"ns":"00000000000000000001"}' + b"y" * 100,
            b'"mock":{"seq":1,"ns":"0000000000000000000',
            b'"mock":{"seq":' + b"1" * 50 + b',"ns":"00000000000000000001"}',
        ],
    )
    def test_what_only_looks_like_a_clock_field_is_hashed_as_it_is(self, cut: Cut, body: bytes) -> None:
        scanner, rows = scan(cut(body))
        assert scanner.digest() == b"sha256=" + hashlib.sha256(body).hexdigest().encode()
        assert rows == []

    def test_a_large_body_is_hashed_piece_by_piece(self) -> None:
        body = b'{"text":"' + b"z" * 300_000 + b'","mock":{"seq":0,"ns":"00000000000000000009"}}'
        scanner = BodyScanner()
        for begin in range(0, len(body), 50_001):
            scanner.feed(body[begin : begin + 50_001], 1, 0)
        assert scanner.digest() == zeroed(body)
        assert scanner.events == 1

    @pytest.mark.parametrize(
        ("numbers", "stated", "lost", "doubled", "reordered"),
        [
            ([0, 1, 2, 3], 4, 0, 0, 0),
            ([0, 1, 3], 4, 1, 0, 0),
            ([0, 1, 2], 4, 1, 0, 0),
            ([], 2, 2, 0, 0),
            ([1, 2], 3, 1, 0, 0),
            ([0, 1, 1, 2], 3, 0, 1, 0),
            ([0, 2, 1, 3], 4, 0, 0, 1),
            ([3, 2, 1, 0], 4, 0, 0, 3),
            ([0, 2, 2, 4, 3], 5, 1, 1, 1),
            ([0, 1, 2, 3, 4], 4, 0, 0, 0),
        ],
    )
    def test_lost_doubled_and_reordered_events_are_told_apart(
        self, numbers: list[int], stated: int, lost: int, doubled: int, reordered: int
    ) -> None:
        scanner, _ = scan([b"".join(event(seq) for seq in numbers)])
        assert (scanner.lost(stated), scanner.doubled, scanner.reordered) == (lost, doubled, reordered)
        assert (scanner.fault(stated) is None) == (numbers == list(range(stated)))

    def test_without_a_stated_number_only_the_order_is_judged(self) -> None:
        assert scan([event(0) + event(1)])[0].fault(NEVER) is None
        assert "1 doubled" in (scan([event(0) + event(0)])[0].fault(NEVER) or "")

    @ways
    @pytest.mark.parametrize(
        "first",
        [
            b'data: {"choices":[{"delta":{"role":"assistant","content":""}}],"mock":{"seq":0,"ns":"%020d"}}\n\n' % 1,
            b'{"message":{"role":"assistant","content":""},"done":false,"mock":{"seq":0,"ns":"%020d"}}\n' % 1,
        ],
    )
    def test_the_first_content_is_not_the_event_that_only_names_the_role(self, cut: Cut, first: bytes) -> None:
        pieces = cut(first) + cut(event(1))
        scanner, rows = scan(pieces)
        assert scanner.first_event_ns == rows[1][3] != rows[0][3]

    @pytest.mark.parametrize("field", [b'"content":"x', b'"text":"x', b'"response":"x'])
    def test_content_is_known_in_each_dialect_wherever_the_read_is_cut(self, field: bytes) -> None:
        body = b'{"a":{%b y"},"mock":{"seq":0,"ns":"00000000000000000001"}}\n' % field
        for cut in range(len(body)):
            scanner, rows = scan([body[:cut], body[cut:]])
            assert scanner.first_event_ns == rows[0][3]

    def test_a_stream_without_any_content_began_with_its_first_event(self) -> None:
        body = b'data: {"x":1,"mock":{"seq":%d,"ns":"00000000000000000001"}}\n\n'
        scanner, _ = scan([body % 0, body % 1])
        assert scanner.first_event_ns == 1000

    def test_a_reply_that_is_no_stream_has_no_first_event(self) -> None:
        scanner = BodyScanner(stream=False)
        scanner.feed(event(0), 5, 0)
        assert (scanner.events, scanner.first_event_ns) == (1, NEVER)


class TestBoundaryScanner:
    def scan(self, pieces: Iterable[bytes], trailer: int = 3) -> tuple[BoundaryScanner, list[tuple[int, ...]]]:
        rows: list[bytes] = []
        scanner = BoundaryScanner(42, rows.append, trailer)
        for index, piece in enumerate(pieces):
            scanner.feed(piece, 1000 + index, index)
        return scanner, [EVENT_ROW.unpack(row) for row in rows]

    @ways
    def test_events_of_an_unknown_server_are_counted_by_their_ends(self, cut: Cut) -> None:
        body = b': ping\n\ndata: {"content": ""}\n\ndata: {"content": "x"}\n\ndata: [DONE]\n\n'
        scanner, rows = self.scan(cut(body))
        assert [row[1:3] for row in rows] == [(0, NEVER), (1, NEVER)]
        assert scanner.first_event_ns == rows[1][3]
        assert scanner.digest() == b"sha256=" + hashlib.sha256(body).hexdigest().encode()
        assert scanner.fault(99) is None

    @ways
    def test_json_lines_end_with_a_newline_of_either_kind(self, cut: Cut) -> None:
        scanner, rows = self.scan(cut(b'{"response":"a"}\r\n{"response":"b"}\n'), trailer=2)
        assert scanner.events == 2
        assert [row[4] for row in rows] == [17, 17]
