"""Reads replies of the common kind at a fraction of the cost: no stream, all of it in one read, with a length. Pure.

Theory of operation. A response head with its digits zeroed is its shape. Heads of one shape have the same fields at the
same offsets, so llhttp judges the first head of each shape, and later ones are cut up by its offsets. Where digits do
decide something (version, status, length) they are read each time. A server has a handful of shapes.

Whatever is not exactly of this kind is left to `stream.ResponseReader` and `stream.BodyScanner`, which would say the
same of every reply that is (a test holds the two against each other).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

from loadgen.wire.stream import (
    CLOCK,
    CLOCK_MARK,
    MOCK_HEADERS,
    NEVER,
    ZEROS,
    MockHead,
    ResponseReader,
    WrongReply,
    mock_head,
)

_MOST_SHAPES: Final = 256
_ZEROED: Final = bytes.maketrans(b"123456789", b"000000000")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.I)


class WholeReply(NamedTuple):
    """A complete reply. Its framing is right and its events are those that its head states."""

    status: int
    keep_alive: bool
    said: MockHead
    size: int  # bytes of the body
    events: int
    digest: bytes


class _Shape(NamedTuple):
    """Where things stand in the heads of one shape; None where a header is missing or no number."""

    keep_alive: bool
    length: slice
    digest: slice | None
    events: slice | None
    recv_ns: slice | None
    sent_ns: slice | None
    endpoint: slice | None


class WholeReplies:
    """Reads whole replies, and remembers the shapes of their heads."""

    def __init__(self) -> None:
        self._shapes: dict[bytes, _Shape | None] = {}

    def read(self, data: bytes) -> WholeReply | None:
        """The reply in `data`, the first read of a response; None if it must be read the general way."""
        end = data.find(b"\r\n\r\n") + 4
        if end == 3 or data[:9] != b"HTTP/1.1 ":
            return None
        head = data[:end]
        key = head.translate(_ZEROED)
        shape = self._shapes.get(key)
        if shape is None:
            if key in self._shapes:
                return None
            shape = self._learn(key, head, data)
            if shape is None:
                return None
        status = int(head[9:12])
        if int(head[shape.length]) != len(data) - end or status < 200 or status in (204, 304):
            return None
        said = _said(head, shape)
        mark = data.find(CLOCK_MARK, end)
        if mark < 0:
            events = 0
            zeroed = data[end:]
        else:
            clock = CLOCK.match(data, mark)
            if clock is None or clock[1] != b"0" or data.find(CLOCK_MARK, clock.end()) >= 0:
                return None
            events = 1
            digits = clock.start(2)
            zeroed = b"".join((data[end:digits], ZEROS, data[digits + 20 :]))
        if said.events not in (NEVER, events):
            return None
        digest = b"sha256=" + hashlib.sha256(zeroed).hexdigest().encode()
        return WholeReply(status, shape.keep_alive, said, len(data) - end, events, digest)

    def _learn(self, key: bytes, head: bytes, data: bytes) -> _Shape | None:
        """The shape of `head`, if llhttp has no objection to the whole reply; remembered for the next of its kind."""
        reader = ResponseReader()
        try:
            reader.feed(data)
        except WrongReply:
            return None
        if not reader.complete or reader.head != head:
            return None
        lengths = list(_LENGTH.finditer(head))
        shape = None
        if len(lengths) == 1:
            shape = _shape(head, slice(*lengths[0].span(1)), keep_alive=reader.keep_alive)
        if len(self._shapes) < _MOST_SHAPES:
            self._shapes[key] = shape
        return shape


def _shape(head: bytes, length: slice, *, keep_alive: bool) -> _Shape | None:
    spans: dict[bytes, slice] = {}
    for found in MOCK_HEADERS.finditer(head):
        name = found[1].lower()
        if name in spans:
            return None  # twice: which one counts is for the general way to say
        spans[name] = slice(found.start(2), found.start(2) + len(found[2].rstrip()))
    said = mock_head(head)
    return _Shape(
        keep_alive,
        length,
        digest=spans.get(b"digest"),
        # A value that is no number counts as absent, and whether it is one does not depend on which digits it has.
        events=spans[b"events"] if said.events != NEVER else None,
        recv_ns=spans[b"recv-ns"] if said.recv_ns != NEVER else None,
        sent_ns=spans[b"sent-ns"] if said.sent_ns != NEVER else None,
        endpoint=spans.get(b"endpoint"),
    )


def _said(head: bytes, shape: _Shape) -> MockHead:
    _, _, digest, events, recv_ns, sent_ns, endpoint = shape
    return MockHead(
        None if digest is None else head[digest],
        NEVER if events is None else int(head[events]),
        NEVER if recv_ns is None else int(head[recv_ns]),
        NEVER if sent_ns is None else int(head[sent_ns]),
        None if endpoint is None else head[endpoint],
    )
