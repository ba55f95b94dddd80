"""HTTP/1 requests found in what arrived (pure). llhttp judges the head; lengths and limits are ours."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

import httptools

MAX_HEAD = 64 * 1024
MAX_BODY = 100 * 2**20
_OPTIONS = {  # what load tests may ask for by header: (least, most)
    b"x-mock-body-bytes": ("body_bytes", 1, 2**28),
    b"x-mock-event-bytes": ("event_bytes", 1, 2**20),
    b"x-mock-events": ("events", 1, 1_000_000),
    b"x-mock-chunk-bytes": ("chunk_bytes", 20, 2**28),
}


class BadMessage(Exception):
    """A request that is not HTTP, or too large. Answered with `status`, then the connection ends."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head(NamedTuple):
    """What matters of a request's head. `length` is -1 for a chunked body."""

    method: bytes
    path: bytes
    query: bytes
    length: int
    keep_alive: bool
    http10: bool
    expects_continue: bool
    options: tuple[tuple[str, int], ...]


class _Reader:
    """Collects what llhttp calls back."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.keep_alive = self.parser.should_keep_alive()


def read_head(block: bytes) -> Head:
    """The head in `block`, which ends with its blank line. Raises `BadMessage`."""
    reader = _Reader()
    try:
        reader.parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        raise BadMessage("no upgrades here") from None
    except httptools.HttpParserError as exc:
        raise BadMessage(f"not a valid request: {exc}") from exc
    parser = reader.parser
    if not reader.url or not block.split(b"\r\n", 1)[0].endswith((b" HTTP/1.1", b" HTTP/1.0")):
        raise BadMessage("the request line must end with HTTP/1.1 or HTTP/1.0")
    length, hosts, expects, options = 0, 0, False, []
    for name, value in reader.fields:
        if name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise BadMessage("the only transfer coding is chunked", 501)
            length = -1
        elif name == b"host":
            hosts += 1
        elif name == b"expect":
            expects = value.lower() == b"100-continue"
        elif name in _OPTIONS:
            field, least, most = _OPTIONS[name]
            if not (value.isdigit() and least <= int(value) <= most):
                raise BadMessage(f"{name.decode()} must be a whole number from {least} to {most}")
            options.append((field, int(value)))
    http10 = parser.get_http_version() == "1.0"
    if hosts > 1 or not (hosts or http10):
        raise BadMessage("exactly one Host header is needed")
    if length > MAX_BODY:
        raise BadMessage(f"the body is longer than {MAX_BODY} bytes", 413)
    path, query = reader.url, b""
    if not path.startswith(b"/") or b"?" in path:
        try:
            url = httptools.parse_url(reader.url)
        except httptools.HttpParserInvalidURLError as exc:
            raise BadMessage("the request target is not valid") from exc
        path, query = url.path or b"/", url.query or b""
    method = parser.get_method()
    return Head(method, path, query, length, reader.keep_alive, http10, expects, tuple(options))


def find_head(buffer: bytes | bytearray) -> int:
    """Where the head at the start of `buffer` ends, blank line included; 0 if part is missing. Raises `BadMessage`."""
    end = buffer.find(b"\r\n\r\n") + 4
    if end > MAX_HEAD or (end == 3 and len(buffer) > MAX_HEAD):
        raise BadMessage(f"the head is longer than {MAX_HEAD} bytes", 431)
    return 0 if end == 3 else end


class ChunkedBody:
    """Takes a chunked request body out of a growing buffer, without reading any byte twice."""

    def __init__(self) -> None:
        self.body = bytearray()
        self._at = 0

    def feed(self, buffer: bytes | bytearray) -> int:
        """`buffer` is all that arrived since the head. Where the body ends in it, or 0 if more is to come."""
        while True:
            line = buffer.find(b"\r\n", self._at)
            if line < 0:
                if len(buffer) - self._at > 1024:
                    raise BadMessage("a chunk's size line is too long")
                return 0
            digits = bytes(buffer[self._at : line]).split(b";", 1)[0]
            if not 0 < len(digits) <= 8 or digits.strip(b"0123456789abcdefABCDEF"):
                raise BadMessage("a chunk's size is not hexadecimal")
            size = int(digits, 16)
            if size == 0:
                return self._end_of_trailers(buffer, line + 2)
            if len(self.body) + size > MAX_BODY:
                raise BadMessage(f"the body is longer than {MAX_BODY} bytes", 413)
            end = line + 2 + size
            if len(buffer) < end + 2:
                return 0
            if buffer[end : end + 2] != b"\r\n":
                raise BadMessage("a chunk is longer than its size says")
            self.body += buffer[line + 2 : end]
            self._at = end + 2

    def _end_of_trailers(self, buffer: bytes | bytearray, at: int) -> int:
        while True:
            line = buffer.find(b"\r\n", at)
            if line < 0:
                if len(buffer) - at > MAX_HEAD:
                    raise BadMessage("the trailers are too long", 431)
                return 0
            if line == at:
                return line + 2
            at = line + 2


def date_of(seconds: float) -> bytes:
    """The value of a Date field."""
    return formatdate(seconds, usegmt=True).encode()


def response_head(status: int, content_type: bytes, length: int, *extra: bytes, close: bool = False) -> bytes:
    """The head of a reply beside the scripts, without its blank line. `extra` are whole fields, without line ends."""
    fields = [b"Content-Type: %b" % content_type, b"Content-Length: %d" % length, *extra]
    if close:
        fields.append(b"Connection: close")
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, phrase.encode(), b"\r\n".join(fields))
