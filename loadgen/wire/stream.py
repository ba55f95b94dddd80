"""What a reply says, worked out from its bytes as they come: HTTP framing, events, sequence, digest. Pure: no sockets.

`ResponseReader` takes raw bytes and gives the head and the de-chunked body; llhttp does the framing, strictly.
`BodyScanner` takes body bytes and finds the mock's clock fields, also across the borders of reads::

    ..."mock":{"seq":12,"ns":"00000012345678901234"}}

Each is one event: its number tells lost, doubled and reordered events apart, its 20 digits are when the mock wrote it.
The digest is SHA-256 of the body with those digits replaced by zeros, so that the same reply has the same digest at any
time. `BoundaryScanner` does what can be done for servers that know nothing of this: it counts events by their ends.

Who owns the bytes: everything given to `feed` is `bytes`; parts of it may be kept until the reply is complete.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

import httptools

NEVER: Final = -1
"""In integer columns: there was no such moment or value."""

ZEROS: Final = b"0" * 20
CLOCK_MARK: Final = b'"mock":{"seq":'
CLOCK: Final = re.compile(rb'"mock":\{"seq":(\d{1,18}),"ns":"(\d{20})"\}')
_LONGEST_CLOCK: Final = 14 + 18 + 7 + 20 + 2
# A content event carries at least one character of text: OpenAI chat and Ollama chat ("content"), OpenAI completions
# and Anthropic ("text"), Ollama generate ("response"). A role-only first event has an empty text and is not content.
_CONTENT: Final = re.compile(rb'"(?:content|text|response)":"[^"]')
_HASH_AT: Final = 65536  # bytes gathered before SHA-256 is updated: one update a read costs twice as much

_LONGEST_HEAD: Final = 1 << 20

MOCK_HEADERS: Final = re.compile(rb"\r\nx-mock-(digest|events|recv-ns|sent-ns|endpoint):[ \t]*([^\r]*)", re.I)
_FRAMED: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.I)
_EVENT_STREAM: Final = re.compile(rb"\r\ncontent-type:[ \t]*text/event-stream", re.I)


class WrongReply(Exception):
    """The server's bytes are not a reply that HTTP/1.1 allows. The message says what was wrong, for people."""


class Truncated(Exception):
    """The connection ended in the middle of a reply."""


class ResponseReader:
    """Reads one HTTP/1.1 response from the bytes of a connection.

    `status` and `head` are there once `head` is not empty; it is the final response's (1xx are skipped), with its blank
    line. `complete` says that the response has ended; then `keep_alive` says whether the connection may carry another.
    """

    __slots__ = (
        "_heads",
        "_is_head_request",
        "_parser",
        "_pieces",
        "_start",
        "complete",
        "head",
        "keep_alive",
        "on_body",
        "status",
    )

    def __init__(self, method: str = "POST") -> None:
        self.status = NEVER
        self.head = b""
        self.complete = False
        self.keep_alive = False
        self._is_head_request = method == "HEAD"
        self._start = b""
        self._heads = 0
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by llhttp too, without a Python frame between
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """Takes bytes as they were read and returns the bytes of the body among them, without chunk framing.

        Raises WrongReply; then reader and connection are of no more use.
        """
        if self.complete:
            raise WrongReply("bytes after the end of the reply")
        if not self.head:
            self._start = self._start + data if self._start else data
            if len(self._start) > _LONGEST_HEAD and not self._heads:
                raise WrongReply(f"a response head of more than {_LONGEST_HEAD} bytes")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            raise WrongReply("the server switched protocols") from exc
        except httptools.HttpParserError as exc:
            if self.complete:
                raise WrongReply("bytes after the end of the reply") from exc
            raise WrongReply(f"not HTTP/1.1: {exc}") from exc
        if not self.head and self.status != NEVER:
            self._cut_head()
        pieces = self._pieces
        if not pieces:
            return b""
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def eof(self) -> None:
        """The connection has ended. A reply without framing is complete by it; any other is Truncated."""
        if self.complete:
            return
        if not self.head:
            raise Truncated("the connection ended before a whole response head" if self._start else "no reply at all")
        if _FRAMED.search(self.head):
            raise Truncated("the connection ended in the middle of the body")
        self.complete = True

    def _cut_head(self) -> None:
        if self._heads == 1:
            self.head = self._start[: self._start.index(b"\r\n\r\n") + 4]
            self._start = b""
            return
        begin = end = 0
        for _ in range(self._heads):  # interim responses came before
            begin, end = end, self._start.index(b"\r\n\r\n", end) + 4
        self.head = self._start[begin:end]
        self._start = b""

    # --- called by llhttp, from inside feed ---

    def on_message_begin(self) -> None:
        """A response begins; after a complete one nobody asked for it."""
        if self.complete and not self._is_head_request:
            raise WrongReply("bytes after the end of the reply")

    def on_headers_complete(self) -> None:
        """A head was read, of an interim response or of the final one."""
        self._heads += 1
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
            # llhttp does not know what was asked and would wait for the body that a HEAD announces.
            self.complete = self._is_head_request

    def on_message_complete(self) -> None:
        """A response has ended; only here llhttp can tell whether the connection stays."""
        if self.status != NEVER:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()


class MockHead(NamedTuple):
    """What a mock says about its reply in the response head; None or NEVER where it says nothing."""

    digest: bytes | None
    events: int
    recv_ns: int
    sent_ns: int
    endpoint: bytes | None


def mock_head(head: bytes) -> MockHead:
    """The ``X-Mock-*`` headers of a response head; a value that is not what it must be counts as absent."""
    said = {name.lower(): value.rstrip() for name, value in MOCK_HEADERS.findall(head)}
    return MockHead(
        digest=said.get(b"digest"),
        events=_number(said.get(b"events")),
        recv_ns=_number(said.get(b"recv-ns")),
        sent_ns=_number(said.get(b"sent-ns")),
        endpoint=said.get(b"endpoint"),
    )


def is_event_stream(head: bytes) -> bool:
    """Whether the reply is Server-Sent Events (else newline-delimited JSON, if it is a stream at all)."""
    return _EVENT_STREAM.search(head) is not None


def _number(text: bytes | None) -> int:
    return int(text) if text is not None and text.isdigit() and len(text) <= 20 else NEVER


EVENT_ROW: Final = struct.Struct("=6q")
"""A row of events.parquet: request, seq, mock_ns, read_ns, bytes, read_index. Packed: half the cost of array.extend."""

EventSink: TypeAlias = Callable[[bytes], object]
"""Takes packed rows of EVENT_ROW."""


class Scanner(Protocol):
    """What the client needs of a scanner."""

    events: int
    size: int
    first_event_ns: int

    def feed(self, data: bytes, read_ns: int, read_index: int) -> None:
        """Takes body bytes of the read with number `read_index`, which returned at `read_ns`."""

    def digest(self) -> bytes:
        """``sha256=<hex>`` of the body so far; the last thing asked of a scanner."""

    def fault(self, stated: int) -> str | None:
        """What is wrong with the order or number of events, against the number the server stated."""


class BodyScanner:
    """Finds clock fields, checks their sequence and computes the zeroed digest of one body.

    With a `sink`, each event is put there as a packed row. An event belongs to
    the read that completed its clock field. `trailer` is the number of bytes that follow a clock field up to the end of
    its event (``}`` and the newlines): it makes `bytes` the size of the whole event. `first_event_ns` is the first
    event with content of a `stream`, or its first event as long as none had any.
    """

    __slots__ = (
        "_awaits_content",
        "_content_begun",
        "_event_end",
        "_gathered",
        "_next",
        "_parts",
        "_request",
        "_seen",
        "_sha",
        "_sink",
        "_tail",
        "_trailer",
        "doubled",
        "events",
        "first_event_ns",
        "reordered",
        "size",
    )

    def __init__(
        self, request: int = 0, sink: EventSink | None = None, trailer: int = 3, *, stream: bool = True
    ) -> None:
        self.events = 0
        self.size = 0
        self.doubled = 0
        self.reordered = 0
        self.first_event_ns = NEVER
        self._request = request
        self._sink = sink
        self._trailer = trailer
        self._tail = b""
        self._event_end = 0
        self._awaits_content = stream
        self._content_begun = False
        self._next = 0  # one more than the highest number seen
        self._seen: set[int] | None = None  # only made when the order is not 0, 1, 2 ...
        self._sha = hashlib.sha256()
        self._parts: list[bytes] = []
        self._gathered = 0

    def feed(self, data: bytes, read_ns: int, read_index: int) -> None:
        """Takes body bytes of the read with number `read_index`, which returned at `read_ns`."""
        begin = self.size - len(self._tail)  # offset in the body of data[0]
        self.size += len(data)
        if self._tail:
            data = self._tail + data
        parts = self._parts
        done = 0
        mark = data.find(CLOCK_MARK)
        while mark >= 0:
            clock = CLOCK.match(data, mark)
            if clock is None:
                if len(data) - mark < _LONGEST_CLOCK:
                    break  # perhaps the rest of it is in the next read
                mark = data.find(CLOCK_MARK, mark + 1)
                continue
            if self._awaits_content:
                self._awaits_content = not (self._content_begun or _CONTENT.search(data, done, mark))
                if self.first_event_ns == NEVER or not self._awaits_content:
                    self.first_event_ns = read_ns
            digits = clock.start(2)
            end = clock.end()
            parts += (data[done:digits], ZEROS, b'"}')
            done = end
            self._event(clock, begin + end + self._trailer, read_ns, read_index)
            mark = data.find(CLOCK_MARK, done)
        self._keep_tail(data, done, mark, read_ns)

    def _event(self, clock: re.Match[bytes], end: int, read_ns: int, read_index: int) -> None:
        text, digits = clock.groups()
        seq = int(text)
        self.events += 1
        if seq == self._next and self._seen is None:
            self._next += 1
        else:
            self._out_of_order(seq)
        if self._sink is not None:
            self._sink(EVENT_ROW.pack(self._request, seq, int(digits), read_ns, end - self._event_end, read_index))
            self._event_end = end

    def _keep_tail(self, data: bytes, done: int, mark: int, read_ns: int) -> None:
        """Keeps back what may be the beginning of a clock field; everything before it is settled."""
        if mark < 0:
            # A clock field begins with a quote. The usual end of a read is the end of an event, where there is none.
            mark = data.find(b'"', max(done, len(data) - _LONGEST_CLOCK + 1))
            if mark < 0:
                mark = len(data)
        if self._awaits_content and _CONTENT.search(data, done, mark):
            self._content_begun = True  # in an event that a later read completes
        self._tail = data[mark:]
        self._parts.append(data[done:mark])
        self._gathered += mark
        if self._gathered >= _HASH_AT:
            self._sha.update(b"".join(self._parts))
            self._parts.clear()
            self._gathered = 0

    def _out_of_order(self, seq: int) -> None:
        if self._seen is None:
            self._seen = set(range(self._next))
        if seq in self._seen:
            self.doubled += 1
        elif seq < self._next:
            self.reordered += 1
        self._seen.add(seq)
        self._next = max(self._next, seq + 1)

    def lost(self, stated: int) -> int:
        """How many of the `stated` events never came."""
        came = self.events if self._seen is None else sum(seq < stated for seq in self._seen)
        return max(stated - came, 0)

    def digest(self) -> bytes:
        """``sha256=<hex>`` of the body with its clock digits zeroed; the last thing asked of a scanner."""
        self._parts.append(self._tail)
        self._sha.update(b"".join(self._parts))
        return b"sha256=" + self._sha.hexdigest().encode()

    def fault(self, stated: int) -> str | None:
        """What is wrong with the events, against the number the server stated (NEVER: it stated none)."""
        lost = self.lost(stated) if stated != NEVER else 0
        if not (lost or self.doubled or self.reordered or (stated != NEVER and self.events != stated)):
            return None
        return (
            f"events: {self.events} came of {stated}, {lost} lost, {self.doubled} doubled, {self.reordered} reordered"
        )


class BoundaryScanner:
    """Counts events by their ends (a blank line, or a newline for JSON lines), for servers without clock fields.

    Sequence numbers are counted here and `mock_ns` is never known; the digest is over the body as it is. A reply that
    is no `stream` counts as no event.
    """

    __slots__ = (
        "_awaits_content",
        "_end",
        "_request",
        "_sha",
        "_sink",
        "_stream",
        "_tail",
        "events",
        "first_event_ns",
        "size",
    )

    def __init__(
        self, request: int = 0, sink: EventSink | None = None, trailer: int = 3, *, stream: bool = True
    ) -> None:
        self.events = 0
        self.size = 0
        self.first_event_ns = NEVER
        self._end = b"\n\n" if trailer == 3 else b"\n"
        self._request = request
        self._sink = sink
        self._stream = stream
        self._awaits_content = stream
        self._sha = hashlib.sha256()
        self._tail = b""

    def feed(self, data: bytes, read_ns: int, read_index: int) -> None:
        """Takes body bytes of the read with number `read_index`, which returned at `read_ns`."""
        self._sha.update(data)
        self.size += len(data)
        if not self._stream:
            return
        *whole, self._tail = (self._tail + data).replace(b"\r\n", b"\n").split(self._end)
        for event in whole:
            if not event.strip() or event.startswith((b"data: [DONE]", b":")):
                continue
            if self._awaits_content:
                self._awaits_content = not _CONTENT.search(event.replace(b'": "', b'":"'))
                if self.first_event_ns == NEVER or not self._awaits_content:
                    self.first_event_ns = read_ns
            if self._sink is not None:
                size = len(event) + len(self._end)
                self._sink(EVENT_ROW.pack(self._request, self.events, NEVER, read_ns, size, read_index))
            self.events += 1

    def digest(self) -> bytes:
        """``sha256=<hex>`` of the body; the last thing asked of a scanner."""
        return b"sha256=" + self._sha.hexdigest().encode()

    def fault(self, stated: int) -> str | None:
        """Nothing can be said about events nobody numbered."""
        return None


class TokenScanner(BoundaryScanner):
    """A real server's stream in OpenAI's form: an event is one that carries content, and `data: [DONE]` must end it.

    Other events (the role at the beginning, usage at the end) count as none, so that times between events are times
    between tokens, or between what the server sends of them at a time.
    """

    __slots__ = ("_done",)

    def __init__(self, request: int = 0, sink: EventSink | None = None) -> None:
        super().__init__(request, sink)
        self._done = False

    def feed(self, data: bytes, read_ns: int, read_index: int) -> None:
        """As a BoundaryScanner does."""
        self._sha.update(data)
        self.size += len(data)
        *whole, self._tail = (self._tail + data).replace(b"\r\n", b"\n").split(self._end)
        for event in whole:
            if event.strip() == b"data: [DONE]":
                self._done = True
            elif _CONTENT.search(event.replace(b'": "', b'":"')):
                if self.events == 0:
                    self.first_event_ns = read_ns
                if self._sink is not None:
                    size = len(event) + len(self._end)
                    self._sink(EVENT_ROW.pack(self._request, self.events, NEVER, read_ns, size, read_index))
                self.events += 1

    def fault(self, stated: int) -> str | None:
        """What a stream lacks that came to its end."""
        if not self._done:
            return "the stream ended without data: [DONE]"
        return None if self.events else "no event of the stream carried content"
