"""Random exchanges: a request with what follows it on the connection, and the endpoint's answer. Pure: seed and number.

Half of the requests are valid; the others carry one or two faults of the kinds that have fooled proxies before. A
second, ordinary request follows each on the same connection: whatever the first one was read as, the second tells.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

Rng = random.Random
Fault = Callable[[Rng, bytes], bytes]

AGAIN = 1 << 31  # in the number of a tag: of a second run


@dataclass(frozen=True, slots=True)
class Exchange:
    """`segments` are written one by one. `answer` is what the endpoint says to the first request; it closes if `close`.

    `faults` and `answer_faults` name what was broken; a request without faults is valid HTTP.
    """

    number: int
    tag: bytes
    method: bytes
    segments: tuple[bytes, ...]
    answer: bytes
    close: bool
    faults: tuple[str, ...]
    answer_faults: tuple[str, ...]

    @property
    def request(self) -> bytes:
        """The first request and what follows it."""
        return b"".join(self.segments)

    @property
    def last(self) -> bytes:
        """What the endpoint's answer to the second request holds."""
        return b"last-" + self.tag

    def again(self) -> Exchange:
        """The same exchange under another tag: what comes late of its first run is then not taken for its own."""
        tag = b"t%08xx" % (self.number | AGAIN)
        request = self.request.replace(self.tag, tag)
        ends = [*accumulate(map(len, self.segments))]
        segments = tuple(request[start:end] for start, end in pairwise([0, *ends]))
        return replace(self, tag=tag, segments=segments, answer=self.answer.replace(self.tag, tag))


def exchange(seed: int, number: int) -> Exchange:
    """The exchange with this number."""
    rng = Rng(f"{seed}/{number}")
    tag = b"t%08xx" % number
    method = rng.choice(METHODS)
    data = _request(rng, tag, method)
    faults: list[str] = []
    for _ in range(rng.choices((0, 1, 2), (5, 4, 1))[0]):
        name = rng.choice(list(FAULTS))
        broken = FAULTS[name](rng, data)
        # Where a fault hit the tag, nobody could say whose request it is that reaches an endpoint.
        if broken != data and broken.count(tag) >= data.count(tag):
            faults.append(name)
            data = broken
    data += b"GET /%b/last HTTP/1.1\r\nHost: h\r\n\r\n" % tag
    answer, close = _answer(rng, tag, method)
    answer_faults: list[str] = []
    if rng.random() < 0.15:
        name = rng.choice(list(ANSWER_FAULTS))
        broken = ANSWER_FAULTS[name](rng, answer)
        if broken != answer:
            answer_faults.append(name)
            answer, close = broken or b"H", True
    cuts = sorted(rng.sample(range(1, len(data)), rng.choices((0, 1, 2, 5), (6, 2, 1, 1))[0]))
    segments = tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))
    return Exchange(number, tag, method, segments, answer, close, tuple(faults), tuple(answer_faults))


# --- valid messages ---------------------------------------------------------------------------------------------------

METHODS = (b"GET", b"GET", b"POST", b"POST", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"PROPFIND")
_NAMES = (
    b"Accept", b"X-A", b"x-under_score", b"X-Empty", b"User-Agent", b"Authorization", b"Cookie", b"X-1",
    b"Accept-Encoding", b"Range", b"If-None-Match", b"TE", b"Trailer", b"Keep-Alive", b"Proxy-Connection",
    b"Trailers",
)  # fmt: skip
_VALUES = (
    b"*/*", b"a", b"", b"a b\tc", b"Bearer x.y", b"bytes=0-5", b'"q"', b"a, b;q=0.5", b"trailers", b"1" * 40,
    b"{}[]()<>@,;:", b"x=y; z=w",
)  # fmt: skip
_PATHS = (
    b"/v1/chat/completions", b"/", b"/a//b/../c", b"/%2e%2e/%zz", b"/a?b=c&d=%20;e", b"/?", b"/~x!$&'()*+,;=:@-._",
)  # fmt: skip


def _fields(rng: Rng, most: int) -> list[bytes]:
    blank = lambda: rng.choice((b" ", b" ", b" ", b"", b"\t", b"  "))  # noqa: E731  # three letters of noise
    return [
        rng.choice(_NAMES) + b":" + blank() + rng.choice(_VALUES) + rng.choice((b"", b"", b" "))
        for _ in range(rng.randrange(most))
    ]


def _chunked(rng: Rng, body: bytes, trailers: bool) -> bytes:
    out = []
    at = 0
    while at < len(body):
        size = rng.randint(1, len(body) - at)
        extension = rng.choice((b"", b"", b"", b";a", b";a=b", b';a="b c"'))
        out.append(rng.choice((b"%x", b"%X", b"0%x")) % size + extension + b"\r\n" + body[at : at + size] + b"\r\n")
        at += size
    end = rng.choice((b"0", b"0", b"00")) + b"\r\n"
    return b"".join(out) + end + (b"X-Sum: 1\r\n" if trailers and rng.random() < 0.3 else b"") + b"\r\n"


def _body(rng: Rng, tag: bytes) -> bytes:
    """Some look like a request, which must never be read as one."""
    plain = rng.randbytes(rng.choice((0, 1, 5, 50, 300)))
    smuggled = b"GET /%b/smuggled HTTP/1.1\r\nHost: h\r\n\r\n" % tag
    return rng.choice(
        (plain, plain, b"hello", smuggled, b"0\r\n\r\n" + smuggled, b"\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n")
    )


def _request(rng: Rng, tag: bytes, method: bytes) -> bytes:
    version = rng.choices((b"1.1", b"1.0"), (9, 1))[0]
    target = b"/" + tag + rng.choice(_PATHS)
    if rng.random() < 0.05:
        target = b"http://other.example:80" + target
    lines = [b"%b %b HTTP/%b" % (method, target, version)]
    fields = _fields(rng, 6)
    fields.append(rng.choice((b"Host: h", b"Host: h:80", b"hOST:h", b"Host: [::1]:8080")))
    body = b""
    if method in (b"POST", b"PUT", b"PATCH") or rng.random() < 0.1:
        content = _body(rng, tag)
        if version == b"1.1" and rng.random() < 0.5:
            fields.append(rng.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:chunked")))
            body = _chunked(rng, content, trailers=True)
        else:
            fields.append(b"Content-Length: %d" % len(content))
            body = content
    if rng.random() < 0.25:
        fields.append(b"Connection: " + rng.choice((b"keep-alive", b"close", b"X-A", b"x-a, keep-alive", b"X-Nothing")))
    if body and version == b"1.1" and rng.random() < 0.05:
        fields.append(b"Expect: 100-continue")
    rng.shuffle(fields)
    before = rng.choices((b"", b"\r\n", b"\r\n\r\n"), (18, 1, 1))[0]
    return before + b"\r\n".join([*lines, *fields, b"", b""]) + body


def _answer(rng: Rng, tag: bytes, method: bytes) -> tuple[bytes, bool]:
    status = rng.choice((b"200 OK", b"200 OK", b"201 Created", b"204 No Content", b"304 Not Modified", b"302 Found",
                         b"404 Not Found", b"500 Oops", b"429 Slow Down", b"200 "))  # fmt: skip
    bodiless = method == b"HEAD" or status[:3] in (b"204", b"304")
    fields = [b"X-Script: " + tag, b"Date: Mon, 01 Jan 2024 00:00:00 GMT", *_fields(rng, 4)]
    if rng.random() < 0.3:
        fields += [b"Set-Cookie: a=1", b"Set-Cookie: b=2; Path=/"]
    content = _body(rng, tag)
    kind = rng.choice(("length", "length", "chunked", "close"))
    body = content
    if status[:3] == b"204":
        body = b""
    elif kind == "length":
        fields.append(b"Content-Length: %d" % len(content))
    elif kind == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        body = _chunked(rng, content, trailers=True)
    close = kind == "close" and not bodiless
    if close or rng.random() < 0.1:
        fields.append(b"Connection: close")
        close = True
    rng.shuffle(fields)
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" if rng.random() < 0.05 else b""
    return interim + b"\r\n".join([b"HTTP/1.1 " + status, *fields, b"", b""]) + (b"" if bodiless else body), close


# --- faults -----------------------------------------------------------------------------------------------------------

_MEANING = (
    b"\r", b"\n", b"\r\n", b"\0", b":", b" ", b"\t", b",", b";", b"\x0b", b"\x7f", b"\xff", b"\x85",
)  # fmt: skip
_LENGTHS = (
    b"+5", b"-5", b"5,5", b"5, 6", b"0x5", b"5_0", b"", b" 5 ", b"05", b"99999999999999999999", b"\xd9\xa5", b"5;",
    b"5 5", b"4",
)  # fmt: skip
_CODINGS = (
    b"Chunked", b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b"", b",chunked",
    b"chunked,", b"chunked;q=1", b'"chunked"', b"chunked\x0b", b"\x0bchunked",
)  # fmt: skip
_SIZES = (
    b"0x5", b"5_", b"+5", b"-5", b" 5", b"5 ", b"5\t", b"", b"g", b"ffffffffffffffff1", b"5;\n", b"5;a\nb",
    b'5;a="\r\n"', b"5\r", b"05",
)  # fmt: skip
_VERSIONS = (
    b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.10", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1",
    b"HTTP /1.1", b"", b"RTSP/1.0", b"HTTP/1.1x", b"HTTP/1.\xb9",
)  # fmt: skip
_HOSTS = (
    b"", b"a b", b"a/b", b"a@b", b"a,b", b"a:b", b"[::1", b"a#b", b"\xff", b"a\tb", b"a?b",
)  # fmt: skip
_STATUSES = (
    b"HTTP/1.1 99 x", b"HTTP/1.1 1000 x", b"HTTP/1.1  200 x", b"HTTP/2 200 x", b"HTTP/1.1 2x0", b"garbage",
    b"HTTP/1.1 200\tx", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 200", b"http/1.1 200 x", b"HTTP/1.1 20 x",
    b"HTTP/1.1 200 x\0",
)  # fmt: skip


def _at(rng: Rng, data: bytes) -> int:
    """A place, more often in the head than in the body."""
    end = data.find(b"\r\n\r\n") + 4
    return rng.randrange(end if end > 3 and rng.random() < 0.8 else len(data))


def _line(rng: Rng, data: bytes) -> tuple[int, int]:
    """A field line of the head, with its CRLF."""
    head = data[: data.find(b"\r\n\r\n") + 2]
    lines = head.split(b"\r\n")[:-1]
    if len(lines) < 2:
        return 0, 0
    i = rng.randrange(1, len(lines))
    start = sum(len(line) + 2 for line in lines[:i])
    return start, start + len(lines[i]) + 2


def _delete(rng: Rng, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at + 1 :]


def _replace(rng: Rng, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.randbytes(1) + data[at + 1 :]


def _insert(rng: Rng, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.choice(_MEANING) + data[at:]


def _double_line(rng: Rng, data: bytes) -> bytes:
    start, end = _line(rng, data)
    return data[:end] + data[start:end] + data[end:]


def _drop_line(rng: Rng, data: bytes) -> bytes:
    start, end = _line(rng, data)
    return data[:start] + data[end:]


def _fold_line(rng: Rng, data: bytes) -> bytes:
    start, _ = _line(rng, data)
    return data[:start] + rng.choice((b" ", b"\t")) + data[start:]


def _bare_end(rng: Rng, data: bytes) -> bytes:
    ends = [i for i in range(len(data)) if data.startswith(b"\r\n", i)]
    at = rng.choice(ends) if ends else 0
    return data[:at] + rng.choice((b"\n", b"\r", b"\r\r\n", b"\n\r")) + data[at + 2 :]


def _blank_before_colon(rng: Rng, data: bytes) -> bytes:
    start, end = _line(rng, data)
    line = data[start:end]
    return data[:start] + line.replace(b":", rng.choice((b" :", b"\t:", b"\0:", b"", b"::")), 1) + data[end:]


def _set_field(name: bytes, values: tuple[bytes, ...]) -> Fault:
    def fault(rng: Rng, data: bytes) -> bytes:
        """A line more, or one instead of another; of that name, or nearly."""
        start, end = _line(rng, data)
        shown = rng.choice((name, name, name.lower(), name.upper()))
        line = shown + b": " + rng.choice(values) + b"\r\n"
        return data[:start] + line + data[start if rng.random() < 0.7 else end :]

    return fault


def _chunk_size(rng: Rng, data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n") + 4
    line = data.find(b"\r\n", end)
    if end < 4 or line < 0 or b"hunked" not in data[:end]:
        return data
    return data[:end] + rng.choice(_SIZES) + data[line:]


def _version(rng: Rng, data: bytes) -> bytes:
    return data.replace(b"HTTP/1.1", rng.choice(_VERSIONS), 1)


def _line_blanks(rng: Rng, data: bytes) -> bytes:
    at = data.find(b" ")
    return data[:at] + rng.choice((b"  ", b"\t", b"", b" \t")) + data[at + 1 :]


def _truncate(rng: Rng, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def _grow(rng: Rng, data: bytes) -> bytes:
    return data + rng.choice((b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"\0", b"0\r\n\r\n"))


def _status(rng: Rng, data: bytes) -> bytes:
    return rng.choice(_STATUSES) + data[data.find(b"\r\n") :]


_COMMON: dict[str, Fault] = {
    "delete": _delete,
    "replace": _replace,
    "insert": _insert,
    "double-line": _double_line,
    "fold": _fold_line,
    "bare-end": _bare_end,
    "colon": _blank_before_colon,
    "length": _set_field(b"Content-Length", _LENGTHS),
    "coding": _set_field(b"Transfer-Encoding", _CODINGS),
    "chunk-size": _chunk_size,
    "version": _version,
}
FAULTS: dict[str, Fault] = {
    **_COMMON,
    "drop-line": _drop_line,
    "host": _set_field(b"Host", _HOSTS),
    "nominate": _set_field(
        b"Connection", (b"Host", b"Content-Length", b"close, x", b"Transfer-Encoding", b"Via", b",,", b"\xff")
    ),
    "upgrade": _set_field(b"Upgrade", (b"h2c", b"websocket", b"foo/1")),
    "line-blanks": _line_blanks,
}
ANSWER_FAULTS: dict[str, Fault] = {**_COMMON, "truncate": _truncate, "grow": _grow, "status": _status}
