"""Gates: from whatever segments arrive to messages that are judged already. No I/O.

`RequestGate` shows one request of a client at a time, so that whoever stands behind it never sees a broken head, a
broken chunk or a second request. `ResponseGate` does the same for the heads of an endpoint.
"""

from __future__ import annotations

from enum import Enum

from httptools import HttpParserError

from proxy.core.errors import ProxyError
from proxy.http1.chunked import BodyReader
from proxy.http1.heads import (
    CHUNKED,
    HEAD_END,
    Limits,
    RequestHead,
    ResponseHead,
    check_partial_head,
    judge_request,
    judge_response,
    skip_empty_lines,
)


class Mark(Enum):
    """What a gate says besides heads and bodies."""

    END = "the request is whole"


END = Mark.END
Event = RequestHead | bytes | Mark | ProxyError


class RequestGate:
    """The requests of one client connection, one at a time: a head, the bytes of its body, END.

    Bodies come decoded, without chunk extensions and trailers. A ProxyError in place of an event is the last event: the
    connection cannot be read on. What a client sends behind a request is held, unread, until `proceed`.
    """

    __slots__ = ("_decoder", "_failed", "_held", "_left", "_limits", "_whole", "head")

    def __init__(self, limits: Limits) -> None:
        self.head: RequestHead | None = None  # of the request in progress
        self._limits = limits
        self._held = b""  # the beginning of the next head; behind a whole request, anything
        self._left = 0  # bytes of the body to come, where it has a length
        self._decoder: BodyReader | None = None
        self._whole = False
        self._failed = False

    @property
    def head_begun(self) -> bool:
        """Whether a part of a head is here, and its rest is not."""
        return self.head is None and bool(self._held.lstrip(b"\r\n"))

    @property
    def held(self) -> int:
        """How many bytes wait for the request in progress to be over."""
        return len(self._held) if self._whole else 0

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes as they came; returns what they complete."""
        if self._whole or self._failed:
            self._held += data
            return []
        events: list[Event] = []
        try:
            if self.head is None:
                data = self._read_head(self._held + data)
                if self.head is None:
                    return events
                events.append(self.head)
            self._read_body(data, events)
        except ProxyError as error:
            self._failed = True
            events.append(error)
        return events

    def proceed(self) -> list[Event]:
        """The request in progress is over, whole or not: go on with the bytes behind it."""
        if not self._whole:
            self._failed = self.head is not None
            return []
        data, self._held = self._held, b""
        self.head = None
        self._whole = False
        return self.feed(data) if data else []

    def close(self) -> None:
        """Break the cycle that a parser makes, so that no garbage collection is needed to free it."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _read_head(self, data: bytes) -> bytes:
        """Judge the head at the start of `data` once it is whole; returns what follows it."""
        self._held = data
        data = skip_empty_lines(data)
        end = data.find(HEAD_END)
        if end < 0:
            check_partial_head(data, self._limits)
            return b""
        self._held = b""
        self.head = judge_request(data[: end + 4], self._limits)
        if self.head.length == CHUNKED:
            self._decoder = BodyReader()
        else:
            self._left = self.head.length
        return data[end + 4 :]

    def _read_body(self, data: bytes, events: list[Event]) -> None:
        if self._decoder is not None:
            try:
                body = self._decoder.feed(data) if data else b""
            except HttpParserError as exc:
                raise ProxyError("bad_request", f"chunk framing: {exc}") from None
            self._whole = self._decoder.done
            rest = self._decoder.rest
        else:
            body, rest = data[: self._left], data[self._left :]
            self._left -= len(body)
            self._whole = not self._left
        if body:
            events.append(body)
        if self._whole:
            self._held = rest
            self.close()
            events.append(END)


class ResponseGate:
    """The head of one response: whole, judged, and never an interim one. What follows it passes as it comes.

    `to_head`: it answers a HEAD request. `max_head` bounds the bytes of its head and of the interim ones before it
    together; 0 is no limit.
    """

    __slots__ = ("_held", "_interims", "_max_head", "_to_head", "head")

    def __init__(self, max_head: int, *, to_head: bool) -> None:
        self.head: ResponseHead | None = None
        self._held = b""
        self._interims = 0
        self._max_head = max_head
        self._to_head = to_head

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; returns those that may pass. Raises ProxyError `upstream_invalid`."""
        if self.head is not None:
            return data
        data = self._held + data
        while (end := data.find(HEAD_END)) >= 0 and not self._too_large(end + 4):
            head = judge_response(data[: end + 4], self._to_head)
            if head.status >= 200:
                self.head = head
                self._held = b""
                return data
            self._interims += end + 4
            data = data[end + 4 :]
        if self._too_large(len(data)):
            raise ProxyError("upstream_invalid", "its heads are too large")
        self._held = data
        return b""

    def _too_large(self, size: int) -> bool:
        return 0 < self._max_head < self._interims + size
