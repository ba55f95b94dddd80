"""HTTP/1 requests found in what arrived (pure). llhttp judges the head; lengths and limits are ours."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus
from typing import NamedTuple

import httptools

MAX_HEAD = 64 * 1024
MAX_BODY = 100 * 2**20
_OPTIONS = {  # what load tests may ask for by header: its place in `Head.options`, least, most
    b"x-mock-body-bytes": (0, 1, 2**28),
    b"x-mock-event-bytes": (1, 1, 2**20),
    b"x-mock-events": (2, 1, 1_000_000),
    b"x-mock-chunk-bytes": (3, 20, 2**28),
}
Options = tuple[int | None, int | None, int | None, int | None]
_NO_OPTIONS: Options = (None, None, None, None)
# The fields that mean something here, wherever they stand. llhttp has judged all of them before.
_FIELDS = re.compile(
    rb"\r\n(host|content-length|transfer-encoding|connection|expect|x-mock-[a-z-]+):[ \t]*([^\r\n]*)",
    re.IGNORECASE,
)


_ID_FIELD = re.compile(rb"\r\n(?:x-request-id|x-correlation-id|traceparent):[ \t]*([0-9A-Za-z._-]+)\r\n", re.IGNORECASE)
_LONGEST_ID = 128


class BadMessage(Exception):
    """A request that is not HTTP, or too large. Answered with `status`, then the connection ends."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Head(NamedTuple):
    """What matters of a request's head. `length` is -1 for a chunked body."""

    method: bytes
    path: bytes
    length: int
    keep_alive: bool
    http10: bool
    expects_continue: bool
    options: Options  # bytes of the body, of an event; how many events; bytes of a chunk


def read_head(block: bytes) -> Head:
    """The head in `block`, which ends with its blank line. Raises `BadMessage`.

    llhttp judges, without calling back; one search finds the fields that matter. (Callbacks for each field: 9 us a head
    instead of 5.)
    """
    try:
        httptools.HttpRequestParser(None).feed_data(block)
    except httptools.HttpParserUpgrade:
        raise BadMessage("no upgrades here") from None
    except httptools.HttpParserError as exc:
        raise BadMessage(f"not a valid request: {exc}") from exc
    line = block[: block.index(b"\r\n")].split(b" ")
    if len(line) != 3 or line[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadMessage("the request line must end with HTTP/1.1 or HTTP/1.0")
    method, target, version = line
    http10 = version == b"HTTP/1.0"
    length, hosts, keep_alive, expects, options = 0, 0, not http10, False, _NO_OPTIONS
    for name, value in _FIELDS.findall(block):
        name = name.lower()
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            length = int(value)
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadMessage("the only transfer coding is chunked", 501)
            length = -1
        elif name == b"connection":
            tokens = {token.strip() for token in value.lower().split(b",")}
            keep_alive = b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)
        elif name == b"expect":
            expects = value.strip().lower() == b"100-continue"
        elif name in _OPTIONS:
            options = _with_option(options, name, value.strip())
    if hosts > 1 or not (hosts or http10):
        raise BadMessage("exactly one Host header is needed")
    if length > MAX_BODY:
        raise BadMessage(f"the body is longer than {MAX_BODY} bytes", 413)
    path = target if target.startswith(b"/") and b"?" not in target else _path_of(target)
    return Head(method, path, length, keep_alive, http10, expects, options)


def _with_option(options: Options, name: bytes, value: bytes) -> Options:
    place, least, most = _OPTIONS[name]
    if not (value.isdigit() and least <= int(value) <= most):
        raise BadMessage(f"{name.decode()} must be a whole number from {least} to {most}")
    changed = list(options)
    changed[place] = int(value)
    return changed[0], changed[1], changed[2], changed[3]


def _path_of(target: bytes) -> bytes:
    try:
        return httptools.parse_url(target).path or b"/"
    except httptools.HttpParserInvalidURLError as exc:
        raise BadMessage("the request target is not valid") from exc


class Likeness:
    """Recognises the same request when it comes again, whatever its id, by comparing bytes.

    Clients and proxies give each request an id of its own, so whole requests are never equal. Costs 0.5 us, where
    reading the head again costs 5 and the body another 5.
    """

    __slots__ = ("_after", "_before", "_body", "_room")

    def __init__(self, block: bytes, body: bytes) -> None:
        """`block` is the head of a request that was read and found good; both are kept."""
        found = _ID_FIELD.search(block)
        begin, end = found.span(1) if found else (len(block), len(block))
        self._before = block[:begin]
        self._after = block[end:]
        self._body = body
        self._room = _LONGEST_ID if found else 0

    def whole(self, data: bytes) -> bool:
        """Whether `data` is the same request, head and body and nothing else."""
        return data.endswith(self._body) and self._starts(data, len(data) - len(self._body))

    def head(self, block: bytes) -> bool:
        """Whether `block` is the same head."""
        return self._starts(block, len(block))

    def _starts(self, data: bytes, end: int) -> bool:
        """Whether the same head fills `data` up to `end`."""
        begin, end = len(self._before), end - len(self._after)
        return (
            0 <= end - begin <= self._room
            and data.startswith(self._before)
            and data.startswith(self._after, end)
            and (not self._room or data[begin:end].translate(None, b"-_.").isalnum())
        )


def find_head(buffer: bytes | bytearray, start: int = 0) -> int:
    """Where the head at `start` of `buffer` ends, blank line included; 0 if part is missing. Raises `BadMessage`."""
    end = buffer.find(b"\r\n\r\n", start) + 4
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
