"""Gates: from whatever segments arrive to messages that are judged already. No I/O.

`RequestGate` lets one request of a client pass at a time, in a plain form, so that the parser behind it never meets a
broken head, a broken chunk or a second request. `ResponseGate` does the same for the heads of an endpoint.
"""

from __future__ import annotations

from httptools import HttpParserError

from proxy.core.errors import ProxyError
from proxy.http1.chunked import LAST_CHUNK, BodyReader, encode_chunk
from proxy.http1.heads import (
    CHUNKED,
    HEAD_END,
    check_partial_head,
    skip_empty_lines,
)
from proxy.http1.recall import Request, RequestReader, Response, ResponseReader


class RequestGate:
    """The requests of one client connection, one at a time.

    What passes has a plain head, with method, path, length and whether the connection goes on; what to send on is
    `head`. Bodies are framed anew, without chunk extensions and trailers. What comes behind a request is held until
    `proceed`. Once `error` is set nothing more passes: it is the head's if `head` is None, else the body's.
    """

    __slots__ = ("_decoder", "_held", "_left", "_whole", "error", "head", "reader")

    reader: RequestReader  # given before the first bytes; a new one is asked for the next head

    def __init__(self) -> None:
        self.head: Request | None = None  # of the request in progress
        self.error: ProxyError | None = None
        self._held = b""  # the beginning of the next head; behind a whole request, anything
        self._left = 0  # bytes of the body to come, where it has a length
        self._decoder: BodyReader | None = None
        self._whole = False

    @property
    def head_begun(self) -> bool:
        """Whether a part of a head is here, and its rest is not."""
        return self.head is None and bool(self._held.lstrip(b"\r\n"))

    @property
    def held(self) -> int:
        """How many bytes wait for the request in progress to be over."""
        return len(self._held) if self._whole else 0

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; returns what may pass."""
        if self._whole:
            self._held += data
            return b""
        passed = b""
        try:
            if self.error is None and self.head is None:
                data = self._read_head(self._held + data)
                if self.head is not None:
                    passed = plain_head(self.head)
            if self.error is None and self.head is not None:
                passed += self._read_body(data)
        except ProxyError as error:
            self.error = error
        return passed

    def proceed(self) -> bytes:
        """The request in progress is over, and was whole: go on with the bytes behind it."""
        data, self._held = self._held, b""
        self.head = None
        self._whole = False
        return self.feed(data) if data else b""

    def close(self) -> None:
        """Break the cycle that a parser makes, so that no garbage collection is needed to free it."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _read_head(self, data: bytes) -> bytes:
        """Judge the head at the start of `data` once it is whole; returns what follows it."""
        self._held = data
        data = skip_empty_lines(data)
        recalled = self.reader.recall(data)
        if recalled is not None:
            head, rest = recalled
        else:
            end = data.find(HEAD_END)
            if end < 0:
                check_partial_head(data, self.reader.limits)
                return b""
            head, rest = self.reader.read(data[: end + 4]), data[end + 4 :]
        self._held = b""
        self.head = head
        if head.length == CHUNKED:
            self._decoder = BodyReader()
        else:
            self._left = head.length
        return rest

    def _read_body(self, data: bytes) -> bytes:
        if self._decoder is None:
            body, rest = data[: self._left], data[self._left :]
            self._left -= len(body)
            self._whole = not self._left
        elif data:
            body, rest = self._read_chunks(data, self._decoder)
        else:
            return b""
        if self._whole:
            self._held = rest
            self.close()
        return body

    def _read_chunks(self, data: bytes, decoder: BodyReader) -> tuple[bytes, bytes]:
        try:
            body = decoder.feed(data)
        except HttpParserError as exc:
            raise ProxyError("bad_request", f"chunk framing: {exc}") from None
        self._whole = decoder.done
        framed = encode_chunk(body) if body else b""
        return framed + LAST_CHUNK if decoder.done else framed, decoder.rest


def plain_head(head: Request) -> bytes:
    """A head that says no more than a server must know to read the request and to answer it."""
    length, traits = head.length, head.traits
    framing = b"Transfer-Encoding: chunked\r\n" if length == CHUNKED else b"Content-Length: %d\r\n" % length
    return b"%b%b HTTP/1.%d\r\nHost: -\r\nConnection: %b\r\n%b\r\n" % (
        traits.method,
        head.target,
        0 if traits.http10 else 1,
        b"keep-alive" if traits.keep_alive else b"close",
        framing if length else b"",
    )


class ResponseGate:
    """One response of an endpoint.

    Its head passes once it is whole and judged, as it is sent on, with what it says of framing and of the connection;
    interim ones never pass. The body passes as it comes. `to_head`: it answers a HEAD request. `max_head` bounds the
    bytes of its head and of the interim ones before it together; 0 is no limit.
    """

    __slots__ = ("_held", "_interims", "_max_head", "_reader", "_to_head", "head")

    def __init__(self, reader: ResponseReader, max_head: int, *, to_head: bool) -> None:
        self.head: Response | None = None
        self._reader = reader
        self._held = b""
        self._interims = 0
        self._max_head = max_head
        self._to_head = to_head

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they came; returns those that may pass. Raises ProxyError `upstream_invalid`."""
        if self.head is not None:
            return data
        data = self._held + data
        limit = self._max_head
        recalled = self._reader.recall(data, self._to_head)
        if recalled is None:
            judged, start = self._reader.read_final(data, self._to_head, limit, self._interims)
            if judged is None:
                self._interims += start
                self._held = data[start:]
                return b""
            recalled = judged, data[start + judged.size :]
        elif 0 < limit < self._interims + recalled[0].size:
            raise ProxyError("upstream_invalid", "its heads are too large")
        head, rest = recalled
        self.head = head
        self._held = b""
        close = b"" if head.keep_alive else b"Connection: close\r\n"
        return b"".join((head.line, close, head.fields, rest))
