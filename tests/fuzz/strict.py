"""HTTP/1.1 messages read strictly from bytes that are still arriving. Pure, and shares nothing with the engines.

A peer that reads like this is the judge of what a proxy lets through: what is not exactly RFC 9112 is `Broken`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Fields = tuple[tuple[bytes, bytes], ...]

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~\x80-\xff]+) HTTP/1\.([01])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t -~\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (TOKEN, TOKEN, QUOTED)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:%b)*" % _EXTENSION)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class Broken(Exception):
    """The bytes are no HTTP/1.1 message."""


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message. `size` is how many bytes it took."""

    start: tuple[bytes, ...]  # method, target, minor version; or minor version, status, reason
    fields: Fields
    body: bytes
    size: int
    trailers: Fields = ()


@dataclass(frozen=True, slots=True)
class Head:
    """A message up to its empty line. `length` is its body's: a number, None for chunked, -1 for until the close."""

    start: tuple[bytes, ...]
    fields: Fields
    length: int | None
    size: int


def request_head(data: bytes) -> Head | None:
    """The request head at the start of `data`; None if more is needed. Raises Broken."""
    found = _head(data, _REQUEST_LINE)
    if found is None:
        return None
    start, fields, size = found
    return Head(start, fields, _framing(fields, 0), size)


def response_head(data: bytes, method: bytes) -> Head | None:
    """The response head at the start of `data`, which answers a request of `method`; None if more is needed."""
    found = _head(data, _STATUS_LINE)
    if found is None:
        return None
    start, fields, size = found
    status = int(start[1])
    framing = _framing(fields, -1)
    bodiless = method == b"HEAD" or status < 200 or status in (204, 304)
    return Head(start, fields, 0 if bodiless else framing, size)


def message(data: bytes, head: Head, *, closed: bool = False) -> Message | None:
    """The whole message that begins with `head`; None if more is needed. `closed`: nothing more will come."""
    if head.length is None:
        found = _chunked(data, head.size)
        if found is None:
            return None
        body, trailers, size = found
        return Message(head.start, head.fields, body, size, trailers)
    if head.length < 0:
        return Message(head.start, head.fields, data[head.size :], len(data)) if closed else None
    size = head.size + head.length
    return Message(head.start, head.fields, data[head.size : size], size) if len(data) >= size else None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a connection's bytes are: whole requests, and what comes after them."""

    requests: list[Message]
    # broken: must be refused; incomplete: more is needed; closed: the last request was the last one; "": nothing
    rest: str
    at: int  # where the rest begins
    why: str = ""


def requests(data: bytes) -> Reading:
    """Read everything that a client sent on one connection."""
    found: list[Message] = []
    whole_size = len(data)
    while True:
        at = whole_size - len(data)
        for _ in range(2):
            data = data.removeprefix(b"\r\n")  # RFC 9112 2.2 lets a server forgive one; two are promised
        if not data:
            return Reading(found, "", whole_size)
        try:
            head = request_head(data)
            if head is not None:
                check_request(head)
            whole = message(data, head) if head else None
        except Broken as broken:
            return Reading(found, "broken", at, str(broken))
        if whole is None:
            return Reading(found, "incomplete", at)
        found.append(whole)
        data = data[whole.size :]
        options = nominated(whole.fields)
        if b"close" in options or (whole.start[2] == b"0" and b"keep-alive" not in options):
            return Reading(found, "closed", whole_size - len(data))


def check_request(head: Head) -> None:
    """The rules that need more than a look at each line. Raises Broken."""
    method, target, minor = head.start
    hosts = [value for name, value in head.fields if name.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and minor == b"1"):
        raise Broken(f"{len(hosts)} Host fields")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Broken(f"Host {hosts[0]!r}")
    if head.length is None and minor == b"0":
        raise Broken("a transfer coding in HTTP/1.0")
    if method == b"CONNECT":
        raise Broken("CONNECT")
    absolute = ABSOLUTE.match(target)
    if absolute and not _HOST.fullmatch(absolute[1]):
        raise Broken(f"authority {absolute[1][:100]!r}")
    if b"#" in target or not (target.startswith(b"/") or absolute or target == b"*"):
        raise Broken(f"target {target[:100]!r}")
    if target == b"*" and method != b"OPTIONS":
        raise Broken("* is for OPTIONS")


def nominated(fields: Fields) -> set[bytes]:
    """The options of `Connection`, in lower case."""
    values = [value for name, value in fields if name.lower() == b"connection"]
    return {option.strip(b" \t").lower() for value in values for option in value.split(b",")}


def _head(data: bytes, first: re.Pattern[bytes]) -> tuple[tuple[bytes, ...], Fields, int] | None:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        line, found, _ = data.partition(b"\r\n")
        if found and not first.fullmatch(line):
            raise Broken(f"start line {line[:100]!r}")
        return None
    line, *rest = data[:end].split(b"\r\n")
    match = first.fullmatch(line)
    if match is None:
        raise Broken(f"start line {line[:100]!r}")
    return match.groups(), tuple(map(_field, rest)), end + 4


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Broken(f"field line {line[:100]!r}")
    return match[1], match[2]


def _framing(fields: Fields, otherwise: int) -> int | None:
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if codings and (lengths or [coding.lower() for coding in codings] != [b"chunked"]):
        raise Broken(f"framed by {codings} and {lengths}")
    if codings:
        return None
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise Broken(f"Content-Length: {lengths}")
    return int(lengths[0]) if lengths else otherwise


def _chunked(data: bytes, at: int) -> tuple[bytes, Fields, int] | None:
    body = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        match = _CHUNK_SIZE.fullmatch(data, at, end)
        if match is None:
            raise Broken(f"chunk size {data[at:end][:100]!r}")
        at = end + 2
        size = int(match[1], 16)
        if size == 0:
            break
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise Broken("a chunk does not end where it should")
        body.append(data[at : at + size])
        at += size + 2
    trailers = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        if end == at:
            return b"".join(body), tuple(trailers), at + 2
        trailers.append(_field(data[at:end]))
        at = end + 2
