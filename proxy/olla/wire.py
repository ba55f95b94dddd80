"""HTTP/1.1 heads and chunk framing, from bytes to decisions and back to bytes. No sockets.

llhttp (through httptools) judges whether a head is valid; it is used without header callbacks, because a callback
into Python for each of a dozen fields costs 2.4 us where the verdict alone costs 0.5. Of the fields only those that
decide something are looked up, by one expression; all others are forwarded as the bytes they came in, so order, case
and repeats survive by construction.

What llhttp lets pass and HTTP does not is refused here: a missing or doubled Host, a request line without a version,
versions other than 1.0 and 1.1, any transfer coding but exactly `chunked`, oversized heads (RFC 9112, sections 2.3,
3.2, 6.1).

**Memory.** Requests on one connection resemble each other, and so do the responses of one endpoint: each reader
remembers the last head it judged.

* `recall`: most heads differ from the last in digits only: a length, a date, a counter. The *shape* of a head is the
  head with every digit replaced by 0. HTTP's grammar treats all digits alike outside the version and the status,
  which are compared as they are; so a head whose shape was judged before is judged, and every field stands at the
  same offset.
* `read` of a request first tries to *adapt*: other heads differ in the values of a few fields: an id, a trace, a date.
  Lines that are equal were judged before; a changed one must have the same name, an ordinary meaning and a valid value.
* Anything else is judged whole; after many strangers in a row nothing is compared or remembered but now and then.

A request's head costs 0.1 us if equal, 0.7 by shape, 2.5 by lines, 4.4 judged; a response's 0.5 by shape, 2.6 judged
(`loadgen/micro/bench_wire.py` times the same). Adapting responses as well would cost 2.0 and is not worth its code.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from proxy.core.errors import ProxyError
from proxy.core.headers import (
    CREDENTIALS,
    HOP_BY_HOP,
    NEVER_NOMINATED,
    OWN_RESPONSE_NAMES,
    OWN_RESPONSE_PREFIX,
    RESTATED,
)
from proxy.core.headers import SANE_REQUEST_ID as _SANE_TEXT

CHUNKED = -1
UNTIL_CLOSE = -2

MISSES = 8  # heads unlike the one before, after which a reader stops comparing
PATIENCE = 64  # heads from one attempt to remember again to the next
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

HEAD_END = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
ENDS_OF_LAST_CHUNK = (b"\n", b"\r\n")  # a read that brings no more than this ends a chunked body in its last byte

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MAX_LENGTH_DIGITS = 18  # 10**18 bytes: no overflow anywhere, and no body is that long

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21\x22\x24-\x7e\x80-\xff]+ HTTP/\d\.\d\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::\d{0,5})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)([/?][^#]*)?")
_CHUNK_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,16})(?:[;\t ][^\r\n]*)?\r\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 5.5
_SANE_REQUEST_ID = re.compile(_SANE_TEXT.pattern.encode())


def _field_finder(names: Iterable[str], prefix: str = "") -> re.Pattern[bytes]:
    """An expression that finds the lines of these fields; group 1 is the name, group 2 the value.

    The look-ahead on the first letter skips most lines before the alternatives are tried: -20 % on an SDK's head.
    """
    firsts = "".join(sorted({c for name in [*names, prefix] if name for c in (name[0], name[0].upper())}))
    known = "|".join([*sorted(names), *([prefix + r"[^:\r\n]*"] if prefix else [])])
    return re.compile(rf"\r\n(?=[{firsts}])(?i:({known})):[ \t]*([^\r]*)".encode())


_REQUEST_FIELDS = _field_finder(HOP_BY_HOP | RESTATED | {"content-length"})
_REQUEST_FIELDS_AND_CREDENTIALS = _field_finder(HOP_BY_HOP | RESTATED | CREDENTIALS | {"content-length"})
_RESPONSE_FIELDS = _field_finder(HOP_BY_HOP | OWN_RESPONSE_NAMES | {"content-length"}, OWN_RESPONSE_PREFIX)
_LENGTH_VALUE = re.compile(rb"[ \t]*\d{1,18}[ \t]*")
_ID_VALUE = re.compile(rb"[ \t]*" + _SANE_TEXT.pattern.encode())
_REQUEST_RULES = {b"content-length": _LENGTH_VALUE, b"x-request-id": _ID_VALUE}
# Options of `Connection` that name no field, and fields that it cannot make us drop.
_NOT_DROPPED = frozenset({b"close", b"keep-alive", b"upgrade", *(name.encode() for name in NEVER_NOMINATED)})

Span = tuple[int, int]


class _Silent:
    """A parser's listener that hears nothing: only the verdict is wanted."""


_SILENT = _Silent()


class Limits:
    """What a request's head may be. 0 is no limit."""

    __slots__ = ("field", "fields", "head", "target")

    def __init__(self, head: int, fields: int, target: int, field: int) -> None:
        self.head = head
        self.fields = fields
        self.target = target
        self.field = field


class _KnownLines:
    """The lines of a judged head, and for each whether a changed value leaves the judgement standing."""

    __slots__ = ("_rules", "lines")

    def __init__(self, head: bytes, fixed: re.Pattern[bytes], special: dict[bytes, re.Pattern[bytes]]) -> None:
        """`fixed` finds the fields that must not change at all, `special` gives the pattern of a name's values."""
        self.lines = head.split(b"\r\n")
        rules: list[tuple[bytes, re.Pattern[bytes]] | None] = [None]
        for line in self.lines[1:]:
            name, colon, _ = line.partition(b":")
            pattern = special.get(name.lower())
            if not colon or (pattern is None and fixed.match(b"\r\n" + line)):
                rules.append(None)
            else:
                rules.append((name + colon, pattern or _VALUE))
        self._rules = rules

    def fix(self, line: int) -> None:
        """Let this line change no more."""
        self._rules[line] = None

    def accept(self, lines: list[bytes]) -> bool:
        """Whether a head of these lines is valid and means the same, changed values of ordinary fields aside."""
        known = self.lines
        if len(lines) != len(known):
            return False
        for i, line in enumerate(lines):
            if line != known[i]:
                rule = self._rules[i]
                if rule is None:
                    return False
                name, pattern = rule
                if not line.startswith(name) or not pattern.fullmatch(line, len(name)):
                    return False
        return True


class Traits:
    """What requests of one shape have in common."""

    __slots__ = (
        "authority",
        "expects_continue",
        "http10",
        "idempotent",
        "is_head",
        "keep_alive",
        "looped",
        "method",
        "plain",
        "suffix",
    )

    method: bytes  # with the blank that follows it
    authority: bytes  # what the client called us
    suffix: bytes  # the proxy's own fields; where the client gave no request id, up to its value
    http10: bool
    keep_alive: bool
    plain: bool  # HTTP/1.1 and kept alive: nothing about the connection needs to be said
    idempotent: bool
    is_head: bool
    expects_continue: bool
    looped: bool


# What a request's traits follow from: the parameters of `RequestReader._make_traits`.
_Decided = tuple[bytes, bytes, bool, bool, bool, bool, bytes, bytes, bytes, bytes, bool]


class Request:
    """A judged request head, ready to be sent to any endpoint. Never changed after it was made."""

    __slots__ = ("kept", "length", "request_id", "size", "target", "traits")

    traits: Traits
    target: bytes
    kept: bytes  # the forwarded fields, each with its CRLF in front
    request_id: bytes | None  # None: one is made
    length: int  # bytes of body, or CHUNKED
    size: int  # bytes of head


class _RequestShape:
    """Where things stand in heads of one shape."""

    __slots__ = (
        "head", "host", "kept", "kept_lines", "length", "length_line", "lines", "request", "request_id",
        "request_id_line", "shape", "size", "target", "version", "version_at",
    )  # fmt: skip

    head: bytes
    size: int
    shape: bytes
    request: Request
    version: bytes
    version_at: int
    target: Span
    host: Span
    length: Span | None
    request_id: Span | None
    kept: tuple[Span, ...]
    # the same by lines, made when first needed
    lines: _KnownLines | None
    kept_lines: list[int]
    length_line: int
    request_id_line: int


class RequestReader:
    """Reads the request heads of one client connection.

    `peer` is the client's address, `via` this instance's name. Ask `recall` first, which knows heads like the last one
    without looking for their end; `read` judges any other and raises ProxyError for what must be refused.
    """

    __slots__ = (
        "_authority",
        "_decided",
        "_fields",
        "_limits",
        "_misses",
        "_peer",
        "_shape",
        "_strangers",
        "_traits",
        "_via",
    )

    def __init__(self, limits: Limits, peer: bytes, via: bytes, strip_credentials: bool) -> None:
        self._limits = limits
        self._peer = peer
        self._via = via
        self._fields = _REQUEST_FIELDS_AND_CREDENTIALS if strip_credentials else _REQUEST_FIELDS
        self._authority: bytes | None = None  # the last valid Host
        self._decided: _Decided | None = None
        self._shape: _RequestShape | None = None
        self._misses = 0  # heads in a row that differed in more than digits
        self._strangers = 0  # heads in a row that had to be judged whole

    def recall(self, data: bytes) -> Request | None:
        """The request at the start of `data` if its head is the last one's but for digits; else None."""
        known = self._shape
        if known is None:
            return None
        head = data[: known.size]
        model = known.request
        if head == known.head:
            return model
        if self._misses > MISSES:
            return None
        # A head of this shape holds its first empty line where the known one does: at its end.
        if head.translate(_ZEROS) != known.shape or not head.startswith(known.version, known.version_at):
            return None
        a, b = known.host
        traits = model.traits
        if head[a:b] != traits.authority:
            return None
        self._misses = 0
        request = Request()
        request.traits = traits
        request.size = known.size
        a, b = known.target
        request.target = head[a:b]
        spans = known.kept
        if len(spans) == 1:
            a, b = spans[0]
            request.kept = head[a:b]
        else:
            request.kept = b"".join([head[a:b] for a, b in spans])
        span = known.request_id
        request.request_id = None if span is None else head[span[0] : span[1]]
        span = known.length
        request.length = 0 if span is None else int(head[span[0] : span[1]])
        return request

    def read(self, head: bytes) -> Request:
        """Judge one head, which ends with an empty line."""
        known = self._shape
        if known is not None:
            request = self._adapt(head, known)
            if request is not None:
                self._strangers = 0
                return request
        self._strangers += 1
        return self._judge(head)

    def _adapt(self, head: bytes, known: _RequestShape) -> Request | None:
        limits = self._limits
        if (limits.field and len(head) > limits.field) or (limits.head and len(head) > limits.head):
            return None
        if known.lines is None:
            self._index_lines(known)
            assert known.lines is not None
        lines = head.split(b"\r\n")
        if not known.lines.accept(lines):
            return None
        self._misses += 1
        model = known.request
        request = Request()
        request.traits = model.traits
        request.size = len(head)
        request.target = model.target
        request.kept = b"\r\n".join([b"", *[lines[i] for i in known.kept_lines]])
        i = known.request_id_line
        request.request_id = lines[i].partition(b":")[2].strip(b" \t") if i else None
        i = known.length_line
        request.length = int(lines[i].partition(b":")[2]) if i else 0
        return request

    def _index_lines(self, known: _RequestShape) -> None:
        known.lines = _KnownLines(known.head, self._fields, _REQUEST_RULES)
        known.kept_lines = []
        known.length_line = known.request_id_line = 0
        at = len(known.lines.lines[0])
        for i, line in enumerate(known.lines.lines[1:-2], 1):
            if any(a <= at < b for a, b in known.kept):
                known.kept_lines.append(i)
            name = line.partition(b":")[0].lower()
            if name == b"content-length":
                known.length_line = i
            elif (
                name == b"x-request-id"
                and known.request_id is not None
                and at < known.request_id[0] < at + len(line) + 2
            ):
                known.request_id_line = i
            elif name == b"x-request-id":
                known.lines.fix(i)  # dropped because it is not sane or not the first; changed, it may be neither
            at += len(line) + 2

    def _judge(self, head: bytes) -> Request:
        line = _REQUEST_LINE.match(head)
        if line is None:
            raise ProxyError("version_not_supported" if _OTHER_VERSION.match(head) else "bad_request", "request line")
        method, target = line.group(1, 2)
        limits = self._limits
        if limits.target and len(target) > limits.target:
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
        if method == b"CONNECT":
            raise ProxyError("not_implemented", "CONNECT")

        http10 = line.group(3) == b"0"
        start = line.end() - 2
        kept: list[Span] = []
        hosts: list[bytes] = []
        codings: list[bytes] = []
        tokens: list[bytes] = []
        via = forwarded_for = forwarded_host = forwarded_proto = b""
        host_span = length_span = id_span = None
        expect = b""
        for match in self._fields.finditer(head, start):
            name = match[1].lower()
            if name == b"content-length":
                length_span = match.span(2)
                continue
            if name == b"x-request-id" and id_span is None and _SANE_REQUEST_ID.fullmatch(match[2]):
                id_span = match.span(2)
                continue
            if match.start() > start:
                kept.append((start, match.start()))
            start = match.end()
            if name == b"host":
                hosts.append(match[2].rstrip(b" \t"))
                host_span = match.span(2)
            elif name == b"connection":
                tokens += [token.strip(b" \t").lower() for token in match[2].split(b",")]
            elif name == b"transfer-encoding":
                codings.append(match[2].rstrip(b" \t").lower())
            elif name == b"expect":
                expect = match[2].rstrip(b" \t").lower()
            elif name == b"via":
                via += match[2].rstrip(b" \t") + b", "
            elif name == b"x-forwarded-for":
                forwarded_for += match[2].rstrip(b" \t") + b", "
            elif name == b"x-forwarded-host":
                forwarded_host = forwarded_host or match[2].rstrip(b" \t")
            elif name == b"x-forwarded-proto":
                forwarded_proto = forwarded_proto or match[2].rstrip(b" \t")
        if start < len(head) - 4:
            kept.append((start, len(head) - 4))

        if len(hosts) > 1 or (not hosts and not http10):
            raise ProxyError("bad_request", "Host")
        authority = hosts[0] if hosts else b""
        if hosts and authority != self._authority:
            if not _HOST.fullmatch(authority):
                raise ProxyError("bad_request", "Host")
            self._authority = authority
        absolute = None
        if not target.startswith(b"/"):
            absolute = _ABSOLUTE.fullmatch(target)
            if absolute is not None:  # RFC 9112 3.2.2: the target's authority wins over Host
                authority, path = absolute[1], absolute[2] or b"/"
                target = path if path.startswith(b"/") else b"/" + path
                if not _HOST.fullmatch(authority):
                    raise ProxyError("bad_request", "authority")
            elif target != b"*" or method != b"OPTIONS":
                raise ProxyError("bad_request", "target")

        length = 0
        if codings:
            if http10:
                raise ProxyError("bad_request", "Transfer-Encoding in HTTP/1.0")
            if codings != [b"chunked"]:
                raise ProxyError("not_implemented", "transfer coding")
            if length_span is not None:
                raise ProxyError("bad_request", "Transfer-Encoding with Content-Length")
            length = CHUNKED
        elif length_span is not None:
            digits = head[length_span[0] : length_span[1]].rstrip(b" \t")
            length_span = (length_span[0], length_span[0] + len(digits))
            if not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
                raise ProxyError("bad_request", "Content-Length")
            length = int(digits)

        extra = {token for token in tokens if token} - _NOT_DROPPED if tokens else ()
        request = Request()
        request.size = len(head)
        request.target = target
        request.length = length
        request.request_id = None if id_span is None else head[id_span[0] : id_span[1]]
        request.kept = b"".join([head[a:b] for a, b in kept])
        if extra:
            request.kept = _without(request.kept, extra)
        keep_alive = b"close" not in tokens and (not http10 or b"keep-alive" in tokens)
        decided = (
            method, authority, http10, keep_alive, expect == b"100-continue", bool(codings), forwarded_for,
            forwarded_host, forwarded_proto, via, id_span is None,
        )  # fmt: skip
        if decided != self._decided:
            self._decided = decided
            self._traits = self._make_traits(*decided)
        request.traits = self._traits

        self._shape = None
        # `Expect` is remembered by nobody: the digits of its one value have a meaning.
        ordinary = not (
            extra or via or forwarded_for or forwarded_host or forwarded_proto or absolute or codings or expect
        )
        if ordinary and host_span is not None and _worth_remembering(self._strangers):
            self._shape = known = _RequestShape()
            known.head = head
            known.size = len(head)
            known.shape = head.translate(_ZEROS)
            known.request = request
            known.version_at = line.end() - 5
            known.version = head[line.end() - 5 : line.end() - 2]
            known.target = line.span(2)
            known.host = (host_span[0], host_span[0] + len(authority))
            known.length = length_span
            known.request_id = id_span
            known.kept = tuple(kept)
            known.lines = None
        return request

    def _make_traits(
        self, method: bytes, authority: bytes, http10: bool, keep_alive: bool, expects: bool, chunked: bool,
        forwarded_for: bytes, forwarded_host: bytes, forwarded_proto: bytes, via: bytes, wants_id: bool,
    ) -> Traits:  # fmt: skip
        traits = Traits()
        traits.method = method + b" "
        traits.authority = authority
        traits.http10 = http10
        traits.keep_alive = keep_alive
        traits.plain = keep_alive and not http10
        traits.idempotent = method in IDEMPOTENT
        traits.is_head = method == b"HEAD"
        traits.expects_continue = expects and not http10
        traits.looped = bool(via) and any(entry.split()[1:2] == [self._via] for entry in via.split(b","))
        traits.suffix = b"".join(
            (
                b"\r\nTransfer-Encoding: chunked" if chunked else b"",
                b"\r\nX-Forwarded-For: ",
                forwarded_for,
                self._peer,
                b"\r\nX-Forwarded-Proto: ",
                forwarded_proto or b"http",
                b"\r\nX-Forwarded-Host: ",
                forwarded_host or authority,
                b"\r\nVia: ",
                via,
                b"1.1 ",
                self._via,
                b"\r\nX-Request-ID: " if wants_id else b"",
            )
        )
        return traits


class Response:
    """A judged response head. Never changed after it was made."""

    __slots__ = ("fields", "interim", "keep_alive", "length", "line", "size", "status")

    status: int
    line: bytes  # the status line with its CRLF, always as HTTP/1.1
    fields: bytes  # the forwarded fields and the empty line
    length: int  # bytes of body, CHUNKED or UNTIL_CLOSE
    keep_alive: bool
    interim: bool
    size: int  # bytes of head


class _ResponseShape:
    """Where things stand in heads of one shape."""

    __slots__ = ("kept", "length", "response", "shape", "size", "status_line", "to_head")

    size: int
    shape: bytes
    response: Response
    status_line: bytes
    to_head: bool
    length: Span | None
    kept: tuple[Span, ...]


class ResponseReader:
    """Reads the response heads of one endpoint, like RequestReader. Raises ProxyError `upstream_invalid`.

    `to_head`: the response answers a HEAD request and has no body, whatever it says.
    """

    __slots__ = ("_shape", "_strangers")

    def __init__(self) -> None:
        self._shape: _ResponseShape | None = None
        self._strangers = 0

    def recall(self, data: bytes, to_head: bool) -> Response | None:
        """The response at the start of `data` if its head is the last one's but for digits; else None."""
        known = self._shape
        if known is None:
            return None
        size = known.size
        head = data[:size]
        if head.translate(_ZEROS) != known.shape or not head.startswith(known.status_line) or known.to_head != to_head:
            return None
        self._strangers = 0
        model = known.response
        response = Response()
        response.status = model.status
        response.line = model.line
        response.keep_alive = model.keep_alive
        response.interim = False
        response.size = size
        span = known.length
        response.length = model.length if span is None else int(head[span[0] : span[1]])
        spans = known.kept
        if len(spans) == 1:
            response.fields = head[spans[0][0] :]
        else:
            response.fields = b"".join([head[a:b] for a, b in spans])
        return response

    def read(self, head: bytes, to_head: bool) -> Response:
        """Judge one head, which ends with an empty line."""
        self._strangers += 1
        return self._judge(head, to_head)

    def _judge(self, head: bytes, to_head: bool) -> Response:
        line = _STATUS_LINE.match(head)
        if line is None:
            raise ProxyError("upstream_invalid", "status line")
        try:
            HttpResponseParser(_SILENT).feed_data(head)
        except HttpParserUpgrade:
            raise ProxyError("upstream_invalid", "an upgrade nobody asked for") from None
        except HttpParserError as exc:
            raise ProxyError("upstream_invalid", str(exc)) from None
        status = int(line[2])
        if status == 101:
            raise ProxyError("upstream_invalid", "an upgrade nobody asked for")

        http10 = line[1] == b"0"
        start = line.end()
        kept: list[Span] = []
        codings: list[bytes] = []
        tokens: list[bytes] = []
        length_span = None
        for match in _RESPONSE_FIELDS.finditer(head, line.end() - 2):
            name = match[1].lower()
            if name == b"content-length":
                if length_span is not None:
                    raise ProxyError("upstream_invalid", "two Content-Length")
                length_span = match.span(2)
                continue
            if match.start() + 2 > start:  # lines are cut from their first byte through their CRLF
                kept.append((start, match.start() + 2))
            start = match.end() + 2
            if name == b"connection":
                tokens += [token.strip(b" \t").lower() for token in match[2].split(b",")]
            elif name == b"transfer-encoding":
                codings.append(match[2].rstrip(b" \t").lower())
        kept.append((start, len(head)))

        response = Response()
        response.status = status
        response.interim = status < 200
        response.line = b"HTTP/1.1" + line[0][8:]
        if len(line[0]) == len(b"HTTP/1.1 200\r\n"):  # the blank belongs there even without a reason (RFC 9112 4)
            response.line = b"HTTP/1.1 %d \r\n" % status
        response.keep_alive = b"close" not in tokens and (not http10 or b"keep-alive" in tokens)
        bodiless = to_head or status in (204, 304) or status < 200
        framing = b""
        if codings:
            if codings != [b"chunked"] or http10 or length_span is not None:
                raise ProxyError("upstream_invalid", "transfer coding")
            response.length = CHUNKED
            framing = b"Transfer-Encoding: chunked\r\n" if not to_head and not bodiless else b""
        elif length_span is not None:
            digits = head[length_span[0] : length_span[1]].rstrip(b" \t")
            length_span = (length_span[0], length_span[0] + len(digits))
            if not digits.isdigit() or len(digits) > _MAX_LENGTH_DIGITS:
                raise ProxyError("upstream_invalid", "Content-Length")
            response.length = int(digits)
        else:
            response.length = UNTIL_CLOSE
        if bodiless:
            response.length = 0
        response.line += framing
        response.fields = b"".join([head[a:b] for a, b in kept])
        extra = {token for token in tokens if token} - _NOT_DROPPED if tokens else ()
        if extra:
            response.fields = _without(b"\r\n" + response.fields, extra)[2:]

        response.size = len(head)
        self._shape = None
        if not extra and not response.interim and _worth_remembering(self._strangers):
            self._shape = known = _ResponseShape()
            known.size = len(head)
            known.shape = head.translate(_ZEROS)
            known.response = response
            known.status_line = line[0]
            known.to_head = to_head
            known.length = None if bodiless or codings else length_span
            known.kept = tuple(kept)
        return response


def _worth_remembering(strangers: int) -> bool:
    """Whether to keep what a head was judged to be, after so many in a row that resembled none.

    Clients behind one connection of a load balancer resemble each other in nothing; remembering their heads for
    nothing costs twice the judgement. So that a change of mind is noticed, it is tried again now and then.
    """
    return strangers <= MISSES or strangers % PATIENCE == 0


class ChunkReader:
    """Tells where a chunked body ends while its bytes are forwarded as they are. One per upstream connection, reused.

    `feed` is llhttp's own method (0.1 us for an event where walking the chunks in Python costs 0.3, and 2 us for 256
    KiB where that costs 18). `begin` before each body; after each feed look at `done`. Bytes after the end set `extra`.
    """

    __slots__ = ("_parser", "done", "extra", "feed")

    _PRIME = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self.done = False
        self.extra = False
        self._parser = HttpResponseParser(self)
        self.feed = self._parser.feed_data

    def begin(self) -> None:
        """Expect a chunked body next."""
        self.done = False
        self.extra = False
        self.feed(self._PRIME)

    def on_message_begin(self) -> None:
        """llhttp starts a message: after the end of the body that is a surplus byte."""
        if self.done:
            self.extra = True

    def on_message_complete(self) -> None:
        """llhttp saw the last chunk and the trailer's end."""
        self.done = True

    def close(self) -> None:
        """Break the cycle between reader and parser, so that no garbage collection is needed to free them."""
        del self._parser, self.feed


class BodyReader:
    """Decodes a chunked body: yields its data and drops extensions and trailers.

    For the rare ways where framing changes: uploads (request trailers are dropped, so the body is framed anew) and
    chunked answers to HTTP/1.0 clients. Raises HttpParserError where the framing is broken, ProxyError `bad_request`
    for a flood of framing. Once `done`, `rest` holds the bytes behind the body.
    """

    __slots__ = ("_body", "_data", "_parser", "_raw", "_tail", "done", "rest")

    _PRIME = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    _FLOOD = 64 * 1024  # framing bytes allowed beyond 16 for each byte of data (one-byte chunks need 5)

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._tail = b""
        self._data: list[bytes] = []
        self._raw = 0
        self._body = 0
        self._parser = HttpResponseParser(self)
        self._parser.feed_data(self._PRIME)

    def feed(self, data: bytes) -> bytes:
        """Take raw bytes; return what they held of the body."""
        self._raw += len(data)
        self._find_end(data)
        body = b"".join(self._data)
        self._data.clear()
        self._body += len(body)
        if self._raw > 16 * self._body + self._FLOOD:
            raise ProxyError("bad_request", "a flood of chunk framing")
        return body

    def _find_end(self, data: bytes) -> None:
        """Feed llhttp up to the end of the body. It does not say where that is, but it is behind an empty line."""
        seen = len(self._tail)
        seam = self._tail + data
        fed = 0
        at = seam.find(HEAD_END)
        while at >= 0:
            cut = at + 4 - seen
            self._parser.feed_data(data[fed:cut])
            fed = cut
            if self.done:
                self.rest = data[cut:]
                return
            at = seam.find(HEAD_END, at + 1)
        if fed < len(data):
            self._parser.feed_data(data[fed:])
        self._tail = seam[-3:]

    def on_body(self, data: bytes) -> None:
        """llhttp found body data."""
        self._data.append(data)

    def on_message_complete(self) -> None:
        """llhttp saw the last chunk and the trailer's end."""
        self.done = True

    def close(self) -> None:
        """Break the cycle between reader and parser."""
        del self._parser


def encode_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked_end(data: bytes) -> int | None:
    """Where a chunked body that starts at `data[0]` ends, walking its chunks; None if it does not end in `data`.

    For the one cold case in which llhttp said that a body ended somewhere inside a read: it does not say where.
    """
    at = 0
    while size_line := _CHUNK_SIZE.match(data, at):
        at = size_line.end()
        size = int(size_line[1], 16)
        if size:
            at += size + 2
        elif data.startswith(b"\r\n", at):
            return at + 2
        else:
            end = data.find(HEAD_END, at)  # a trailer
            return None if end < 0 else end + 4
    return None


def trim_chunked_end(data: bytes) -> bytes:
    """`data`, in which a chunked body ends, less empty lines behind it: the line before the end is never empty."""
    last = data.rstrip(b"\r\n")
    return last + HEAD_END if last else data


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


def _without(fields: bytes, names: Container[bytes]) -> bytes:
    """`fields` (each with its CRLF in front) less those that `Connection` named."""
    lines = fields.split(b"\r\n")
    return b"\r\n".join([lines[0], *[line for line in lines[1:] if line.partition(b":")[0].lower() not in names]])
