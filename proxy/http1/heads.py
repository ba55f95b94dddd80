"""Heads of requests and responses: whether they are valid HTTP/1, and what they decide. No I/O.

llhttp (through httptools) checks the grammar. It runs without header callbacks: a callback into Python for each of a
dozen fields costs 2.4 us, the verdict alone 0.5. One expression then finds the fields that decide something. All others
are left as the bytes they came in, so their order, case and repeats survive.

What llhttp accepts and HTTP does not is refused here: a missing or doubled Host, a request line without a version,
versions other than 1.0 and 1.1, any transfer coding but exactly `chunked`, oversized heads (RFC 9112, sections 2.3,
3.2, 6.1). `judge_request` and `judge_response` are the only judges in this program.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from proxy.core import retry
from proxy.core.errors import ProxyError
from proxy.core.headers import (
    CREDENTIALS,
    HOP_BY_HOP,
    NEVER_NOMINATED,
    OWN_RESPONSE_NAMES,
    OWN_RESPONSE_PREFIX,
    RESTATED,
    SANE_REQUEST_ID,
)

CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""Body lengths that are no number of bytes."""

HEAD_END: Final = b"\r\n\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
IDEMPOTENT: Final = frozenset(method.encode() for method in retry.IDEMPOTENT)

Span = tuple[int, int]

# Heads are made by one function each and not changed afterwards. They have no `__init__`: filling the slots of a dozen
# fields costs 0.3 us where a NamedTuple's constructor costs 0.9.

_MAX_LENGTH_DIGITS = 18  # 10**18 bytes: no overflow anywhere, and no body is that long

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110 5.6.2
_TARGET = rb"[\x21\x22\x24-\x7e\x80-\xff]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") (" + _TARGET + rb") HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(_TOKEN + rb" " + _TARGET + rb" HTTP/\d\.\d\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([/?][^#]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
SANE_ID: Final = re.compile(SANE_REQUEST_ID.pattern.encode())


def _field_finder(names: Iterable[str], prefix: str = "") -> re.Pattern[bytes]:
    """An expression that finds the lines of these fields; group 1 is the name, group 2 the value.

    The look-ahead on the first letter skips most lines before the alternatives are tried: -20 % on an SDK's head.
    """
    firsts = "".join(sorted({c for name in [*names, prefix] if name for c in (name[0], name[0].upper())}))
    known = "|".join([*sorted(names), *([prefix + r"[^:\r\n]*"] if prefix else [])])
    return re.compile(rf"\r\n(?=[{firsts}])(?i:({known})):[ \t]*([^\r]*)".encode())


REQUEST_FIELDS: Final = _field_finder(HOP_BY_HOP | RESTATED | {"content-length"})
REQUEST_FIELDS_AND_CREDENTIALS: Final = _field_finder(HOP_BY_HOP | RESTATED | CREDENTIALS | {"content-length"})
RESPONSE_FIELDS: Final = _field_finder(HOP_BY_HOP | OWN_RESPONSE_NAMES | {"content-length"}, OWN_RESPONSE_PREFIX)

# Options of `Connection` that name no field, and fields that it cannot make us drop.
_NOT_NOMINATED = frozenset({b"", b"close", b"keep-alive", b"upgrade", *(name.encode() for name in NEVER_NOMINATED)})


class _Silent:
    """A parser's listener without callbacks: only the verdict is wanted."""


_SILENT = _Silent()


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request's head may be, in bytes and number of fields. 0 is no limit."""

    head: int
    fields: int
    target: int
    field: int


@dataclass(slots=True, init=False, eq=False)
class RequestFields:
    """What the fields of a request say, as far as it decides something; values without the blanks around them.

    `others` are the spans of the head that hold what may be forwarded as it came, Content-Length and a sane request id
    among it: whole lines, each with its CRLF in front.
    """

    hosts: list[bytes]
    host_at: int
    codings: list[bytes]
    length_at: Span | None
    options: list[bytes]
    expect: bytes
    request_id_at: Span | None
    via: list[bytes]
    forwarded_for: list[bytes]
    forwarded_host: bytes
    forwarded_proto: bytes
    others: list[Span]


@dataclass(slots=True, init=False, eq=False)
class RequestHead:
    """A judged request head.

    `target` is a path with its query, or `*`; `authority` is whom the client means to speak to. `length` is in bytes or
    CHUNKED. `target_at` is where the target stands as it was sent; `length_at` has the digits of Content-Length,
    `version_at` is where its number begins. `raw` is the head as it came, with its empty line.
    """

    method: bytes
    target: bytes
    authority: bytes
    http10: bool
    keep_alive: bool
    expects_continue: bool
    length: int
    nominated: frozenset[bytes]
    fields: RequestFields
    target_at: Span
    version_at: int
    length_at: Span | None
    raw: bytes

    @property
    def request_id(self) -> bytes | None:
        """The client's own X-Request-ID, if it is a sane one."""
        at = self.fields.request_id_at
        return None if at is None else self.raw[at[0] : at[1]]


@dataclass(slots=True, init=False, eq=False)
class ResponseHead:
    """A judged response head. `line` is the status line with its CRLF, `others` are whole lines, CRLF behind.

    `length` is in bytes, CHUNKED or UNTIL_CLOSE; `length_at` has the digits of a Content-Length that counts.
    """

    line: bytes
    status: int
    length: int
    length_at: Span | None
    keep_alive: bool
    nominated: frozenset[bytes]
    others: list[Span]
    size: int


# -- requests


def judge_request(head: bytes, limits: Limits, fields: re.Pattern[bytes] = REQUEST_FIELDS) -> RequestHead:
    """Judge one request head, which ends with its empty line. Raises ProxyError for what must be refused.

    `fields` finds the fields that are not forwarded as they are.
    """
    line = _request_line(head, limits)
    method, target, minor = line.groups()
    judged = RequestHead()
    judged.fields = found = _request_fields(head, line.end() - 2, fields)
    judged.method = method
    judged.http10 = http10 = minor == b"0"
    judged.authority, judged.target = _authority(method, target, http10, found.hosts)
    judged.length, judged.length_at = _body_length(head, http10, found.codings, found.length_at)
    options = found.options
    judged.keep_alive = _keeps_alive(http10, options)
    judged.nominated = nominated(options) if options else _NOTHING
    judged.expects_continue = found.expect == b"100-continue" and not http10
    judged.target_at = line.span(2)
    judged.version_at = line.end() - 5
    judged.raw = head
    return judged


def _request_line(head: bytes, limits: Limits) -> re.Match[bytes]:
    """The request line: its groups are method, target and minor version (RFC 9112 3). llhttp judges the whole head."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise ProxyError("version_not_supported" if _OTHER_VERSION.match(head) else "bad_request", "request line")
    if limits.target and line.end(2) - line.start(2) > limits.target:
        raise ProxyError("target_too_long")
    check_head_limits(head, limits)
    try:
        HttpRequestParser(_SILENT).feed_data(head)
    except HttpParserUpgrade:
        pass  # `Upgrade` is hop-by-hop: the request is forwarded as a plain one
    except HttpParserInvalidMethodError:
        raise ProxyError("not_implemented", "method") from None
    except HttpParserError as exc:
        raise ProxyError("bad_request", str(exc)) from None
    if line[1] == b"CONNECT":
        raise ProxyError("not_implemented", "CONNECT")
    return line


def _request_fields(head: bytes, start: int, finder: re.Pattern[bytes]) -> RequestFields:
    others: list[Span] = []
    hosts: list[bytes] = []
    codings: list[bytes] = []
    options: list[bytes] = []
    via: list[bytes] = []
    forwarded_for: list[bytes] = []
    forwarded_host = forwarded_proto = expect = b""
    length_at = id_at = None
    host_at = 0
    for match in finder.finditer(head, start):
        name = match[1].lower()
        if name == b"content-length":
            length_at = match.span(2)
            continue
        if name == b"x-request-id" and id_at is None and SANE_ID.fullmatch(match[2]):
            id_at = match.span(2)
            continue
        if match.start() > start:
            others.append((start, match.start()))
        start = match.end()
        if name == b"host":
            hosts.append(match[2].rstrip(b" \t"))
            host_at = match.start(2)
        elif name == b"connection":
            options += options_of(match[2])
        elif name == b"transfer-encoding":
            codings.append(match[2].rstrip(b" \t").lower())
        elif name == b"expect":
            expect = match[2].rstrip(b" \t").lower()
        elif name == b"via":
            via.append(match[2].rstrip(b" \t"))
        elif name == b"x-forwarded-for":
            forwarded_for.append(match[2].rstrip(b" \t"))
        elif name == b"x-forwarded-host":
            forwarded_host = forwarded_host or match[2].rstrip(b" \t")
        elif name == b"x-forwarded-proto":
            forwarded_proto = forwarded_proto or match[2].rstrip(b" \t")
    if start < len(head) - 4:
        others.append((start, len(head) - 4))
    found = RequestFields()
    found.hosts = hosts
    found.host_at = host_at
    found.codings = codings
    found.length_at = length_at
    found.options = options
    found.expect = expect
    found.request_id_at = id_at
    found.via = via
    found.forwarded_for = forwarded_for
    found.forwarded_host = forwarded_host
    found.forwarded_proto = forwarded_proto
    found.others = others
    return found


def _authority(method: bytes, target: bytes, http10: bool, hosts: list[bytes]) -> tuple[bytes, bytes]:
    """Authority and path. Exactly one valid Host, in HTTP/1.0 at most one (RFC 9112 3.2)."""
    if len(hosts) > 1 or (not hosts and not http10) or (hosts and not _HOST.fullmatch(hosts[0])):
        raise ProxyError("bad_request", "Host")
    host = hosts[0] if hosts else b""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return host, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise ProxyError("bad_request", "target")
    host, path = absolute[1], absolute[2]  # RFC 9112 3.2.2: the target's authority wins over Host
    if not _HOST.fullmatch(host):
        raise ProxyError("bad_request", "authority")
    if not path:
        return host, b"*" if method == b"OPTIONS" else b"/"  # 3.2.4
    return host, path if path.startswith(b"/") else b"/" + path


def passed_through(via: Iterable[bytes], instance: bytes) -> bool:
    """Whether a request already went through the instance of this name (RFC 9110 7.6.3): a forwarding loop."""
    return any(entry.split()[1:2] == [instance] for value in via for entry in value.split(b","))


# -- responses


def judge_response(head: bytes, to_head: bool) -> ResponseHead:
    """Judge one response head, which ends with its empty line. Raises ProxyError `upstream_invalid`.

    `to_head`: it answers a HEAD request and has no body, whatever it says. The length of an interim response is 0.
    """
    line = _STATUS_LINE.match(head)
    if line is None:
        raise ProxyError("upstream_invalid", "status line")
    status = int(line[2])
    if status == 101:
        raise ProxyError("upstream_invalid", "an upgrade nobody asked for")
    try:
        HttpResponseParser(_SILENT).feed_data(head)
    except (HttpParserError, HttpParserUpgrade) as exc:
        raise ProxyError("upstream_invalid", str(exc)) from None
    http10 = line[1] == b"0"
    start = line.end()
    others: list[Span] = []
    codings: list[bytes] = []
    options: list[bytes] = []
    length_at = None
    for match in RESPONSE_FIELDS.finditer(head, start - 2):
        name = match[1].lower()
        if name == b"content-length":  # one: llhttp refuses a second
            length_at = match.span(2)
            continue
        if match.start() + 2 > start:
            others.append((start, match.start() + 2))
        start = match.end() + 2
        if name == b"connection":
            options += options_of(match[2])
        elif name == b"transfer-encoding":
            codings.append(match[2].rstrip(b" \t").lower())
    others.append((start, len(head)))
    judged = ResponseHead()
    judged.line = line[0]
    judged.status = status
    judged.length, judged.length_at = _body_length(
        head, http10, codings, length_at, without=UNTIL_CLOSE, refused="upstream_invalid"
    )
    if to_head or status < 200 or status in (204, 304):
        judged.length, judged.length_at = 0, None
    judged.keep_alive = _keeps_alive(http10, options)
    judged.nominated = nominated(options) if options else _NOTHING
    judged.others = others
    judged.size = len(head)
    return judged


# -- both


def nominated(options: Iterable[bytes]) -> frozenset[bytes]:
    """The fields that these options of `Connection` ask a recipient to drop (RFC 9110 7.6.1)."""
    return frozenset(options) - _NOT_NOMINATED


def options_of(connection: bytes) -> list[bytes]:
    """The options that a value of `Connection` lists, in lower case."""
    return [option.strip(b" \t").lower() for option in connection.split(b",")]


def _keeps_alive(http10: bool, options: list[bytes]) -> bool:
    """RFC 9112 9.3."""
    return b"close" not in options and (not http10 or b"keep-alive" in options)


def _body_length(
    head: bytes, http10: bool, codings: list[bytes], at: Span | None, without: int = 0, refused: str = "bad_request"
) -> tuple[int, Span | None]:
    """Length and where its digits are: exactly `chunked`, or one number, or neither, which is `without` (RFC 9112 6).

    `refused` is the code of the error, but of a request's unknown coding.
    """
    if codings:
        if http10:
            raise ProxyError(refused, "Transfer-Encoding in HTTP/1.0")
        if codings != [b"chunked"]:
            raise ProxyError("not_implemented" if refused == "bad_request" else refused, "transfer coding")
        if at is not None:
            raise ProxyError(refused, "Transfer-Encoding with Content-Length")
        return CHUNKED, None
    if at is None:
        return without, None
    digits = head[at[0] : at[1]].rstrip(b" \t")
    if not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
        raise ProxyError(refused, "Content-Length")
    return int(digits), (at[0], at[0] + len(digits))


_NOTHING: frozenset[bytes] = frozenset()


# -- size, and heads that are not whole yet


def check_head_limits(head: bytes, limits: Limits) -> None:
    """Refuse a head (or what came of it) that is too large in all, has too many fields or one too large."""
    if limits.head and len(head) > limits.head:
        raise ProxyError("headers_too_large", "all fields")
    if limits.fields and head.count(b"\r\n") - 2 > limits.fields:
        raise ProxyError("headers_too_large", "number of fields")
    if (
        limits.field
        and len(head) > limits.field
        and any(len(field) > limits.field for field in head.split(b"\r\n")[1:])
    ):
        raise ProxyError("headers_too_large", "one field")


def check_partial_head(data: bytes, limits: Limits) -> None:
    """Refuse early what can never become a valid head: too long, or with a line ended by a bare LF (RFC 9112 2.2)."""
    eol = data.find(b"\r\n")
    if limits.target and eol < 0 and len(data) > limits.target + 64:
        raise ProxyError("target_too_long")
    check_head_limits(data, limits)
    if _BARE_LF.search(data):
        raise ProxyError("bad_request", "a bare LF")


def skip_empty_lines(data: bytes) -> bytes:
    """`data` without up to two empty lines before a request line (RFC 9112 2.2 asks for one); more are refused."""
    for _ in range(2):
        data = data.removeprefix(b"\r\n")
    if data != b"\r" and data[:1] in (b"\r", b"\n"):
        raise ProxyError("bad_request", "empty lines")
    return data
