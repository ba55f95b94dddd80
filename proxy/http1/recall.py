"""What is sent on of a judged head, and the memory of the last head, which saves judging the next one. No I/O.

Requests on one connection resemble each other, and so do the responses of one endpoint: each reader remembers the last
head that it judged. Most heads differ from the last in digits only: a length, a date, a counter. The *shape* of a head
is the head with every digit replaced by 0. HTTP's grammar treats all digits alike outside the version and the status,
which are compared as they are; so a head whose shape was judged before is judged, and every field stands at the same
offset. Any other head is judged whole. After many unlike heads in a row a reader compares and remembers only every
`PATIENCE`th.

A request's head costs 0.1 us if equal, 0.7 by shape, 5 judged; a response's 0.5 by shape, 3 judged
(`loadgen/micro/bench_wire.py` times the same). Responses are equal where a server says the time in seconds and no
length, or the same one: streams that begin within one second. Such a request takes 49,200 instructions through Olla,
and 59,500 where its reply is recalled by shape.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs, may_redirect, relative_location
from proxy.http1.heads import (
    CHUNKED,
    HEAD_END,
    IDEMPOTENT,
    REQUEST_FIELDS,
    REQUEST_FIELDS_AND_CREDENTIALS,
    Limits,
    RequestHead,
    Span,
    judge_request,
    judge_response,
    passed_through,
)

MISSES = 8  # heads unlike the one before, after which a reader stops remembering
PATIENCE = 64  # heads from one attempt to remember again to the next

_LOCATION = re.compile(rb"(?im)^(location:[ \t]*)([^\r\n]*)")
_ZEROS = bytes.maketrans(b"123456789", b"000000000")


@dataclass(slots=True, init=False, eq=False)
class Traits:
    """What requests of one shape have in common."""

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


@dataclass(slots=True, init=False, eq=False)
class Request:
    """A judged request head, ready to be sent to any endpoint. Never changed after it was made."""

    traits: Traits
    target: bytes
    kept: bytes  # the forwarded fields, each with its CRLF in front
    request_id: bytes | None  # None: one is made
    length: int  # bytes of body, or CHUNKED
    size: int  # bytes of head

    def text_fields(self, request_id: str) -> Pairs:
        """All fields that are sent on, but Host, as text. Raises ProxyError for bytes that are not UTF-8."""
        try:
            lines = (self.kept + self.traits.suffix).decode().split("\r\n")
        except UnicodeDecodeError:
            raise ProxyError("bad_request", "a field holds bytes that are not UTF-8") from None
        if self.request_id is None:
            lines[-1] += request_id
        return [(name, value.strip(" \t")) for name, _, value in [line.partition(":") for line in lines[1:]]]


@dataclass(slots=True, init=False, eq=False)
class _RequestShape:
    """Where things stand in heads of one shape."""

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
    kept: list[Span]


class RequestReader:
    """Reads the request heads of one client connection.

    `peer` is the client's address, `via` this instance's name. Ask `recall` first, which knows heads like the last one
    without looking for their end; `read` judges any other and raises ProxyError for what must be refused.
    """

    __slots__ = ("_fields", "_misses", "_peer", "_shape", "_traits", "_traits_key", "_via", "limits")

    def __init__(self, limits: Limits, peer: bytes, via: bytes, strip_credentials: bool) -> None:
        self.limits = limits
        self._peer = peer
        self._via = via
        self._fields = REQUEST_FIELDS_AND_CREDENTIALS if strip_credentials else REQUEST_FIELDS
        self._traits_key: tuple[object, ...] = ()
        self._shape: _RequestShape | None = None
        self._misses = 0  # heads in a row that had to be judged

    def recall(self, data: bytes) -> Request | None:
        """The request at the start of `data` if its head is the last one's but for digits; else None."""
        known = self._shape
        if known is None:
            return None
        model = known.request
        if data.startswith(known.head):
            self._misses = 0
            return model
        head = data[: known.size]
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
        request.kept = _cut(head, known.kept)
        span = known.request_id
        request.request_id = None if span is None else head[span[0] : span[1]]
        span = known.length
        request.length = 0 if span is None else int(head[span[0] : span[1]])
        return request

    def read(self, head: bytes) -> Request:
        """Judge one head, which ends with an empty line."""
        self._misses += 1
        judged = judge_request(head, self.limits, self._fields)
        fields = judged.fields
        request = Request()
        request.size = len(head)
        request.target = judged.target
        request.length = judged.length
        request.request_id = judged.request_id
        request.kept = _cut(head, fields.others)
        if judged.nominated:
            request.kept = _without(request.kept, judged.nominated)
        request.traits = self._traits_of(judged)
        self._shape = self._shape_of(head, judged, request) if _worth_remembering(self._misses) else None
        return request

    def _traits_of(self, judged: RequestHead) -> Traits:
        """The traits of the request before, as long as all that they follow from is the same."""
        fields = judged.fields
        key = (
            judged.method, judged.authority, judged.http10, judged.keep_alive, judged.expects_continue,
            fields.codings, fields.forwarded_for, fields.forwarded_host, fields.forwarded_proto, fields.via,
            fields.request_id_at is None,
        )  # fmt: skip
        if key != self._traits_key:
            self._traits_key = key
            self._traits = self._make_traits(judged)
        return self._traits

    def _make_traits(self, judged: RequestHead) -> Traits:
        fields = judged.fields
        traits = Traits()
        traits.method = judged.method + b" "
        traits.authority = judged.authority
        traits.http10 = judged.http10
        traits.keep_alive = judged.keep_alive
        traits.plain = judged.keep_alive and not judged.http10
        traits.idempotent = judged.method in IDEMPOTENT
        traits.is_head = judged.method == b"HEAD"
        traits.expects_continue = judged.expects_continue
        traits.looped = passed_through(fields.via, self._via)
        traits.suffix = b"".join(
            (
                b"\r\nTransfer-Encoding: chunked" if judged.length == CHUNKED else b"",
                b"\r\nX-Forwarded-For: ",
                b", ".join((*fields.forwarded_for, self._peer)),
                b"\r\nX-Forwarded-Proto: ",
                fields.forwarded_proto or b"http",
                b"\r\nX-Forwarded-Host: ",
                fields.forwarded_host or judged.authority,
                b"\r\nVia: ",
                b", ".join((*fields.via, b"1.1 " + self._via)),
                b"\r\nX-Request-ID: " if fields.request_id_at is None else b"",
            )
        )
        return traits

    def _shape_of(self, head: bytes, judged: RequestHead, request: Request) -> _RequestShape | None:
        """None for heads whose digits decide more than a length, a target or an id: their shape says too little."""
        fields = judged.fields
        a, b = judged.target_at
        if (
            judged.nominated or fields.via or fields.forwarded_for or fields.forwarded_host or fields.forwarded_proto
            or fields.codings or fields.expect or not fields.hosts or b - a != len(judged.target)
        ):  # fmt: skip
            return None
        known = _RequestShape()
        known.head = head
        known.size = len(head)
        known.shape = head.translate(_ZEROS)
        known.request = request
        known.version_at = judged.version_at
        known.version = head[judged.version_at : judged.version_at + 3]
        known.target = judged.target_at
        known.host = (fields.host_at, fields.host_at + len(judged.authority))
        known.length = judged.length_at
        known.request_id = fields.request_id_at
        known.kept = fields.others
        return known


@dataclass(slots=True, init=False, eq=False)
class Response:
    """A judged response head. Never changed after it was made."""

    status: int
    line: bytes  # the status line with its CRLF, always as HTTP/1.1
    fields: bytes  # the forwarded fields and the empty line
    length: int  # bytes of body, CHUNKED or UNTIL_CLOSE
    keep_alive: bool
    interim: bool
    size: int  # bytes of head


@dataclass(slots=True, init=False, eq=False)
class _ResponseShape:
    """Where things stand in heads of one shape."""

    head: bytes
    size: int
    shape: bytes
    response: Response
    status_line: bytes
    to_head: bool
    length: Span | None
    kept: list[Span]


class ResponseReader:
    """Reads the response heads of one endpoint, like RequestReader. Raises ProxyError `upstream_invalid`.

    `origins` are the endpoint's, which `Location` does not show. `to_head`: the response answers a HEAD request and has
    no body, whatever it says.
    """

    __slots__ = ("_misses", "_origins", "_shape")

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        self._origins = origins
        self._shape: _ResponseShape | None = None
        self._misses = 0

    def recall(self, data: bytes, to_head: bool) -> Response | None:
        """The response at the start of `data` if its head is the last one's but for digits; else None."""
        known = self._shape
        if known is None:
            return None
        if known.to_head != to_head:
            return None
        model = known.response
        if data.startswith(known.head):
            self._misses = 0
            return model
        size = known.size
        head = data[:size]
        if head.translate(_ZEROS) != known.shape or not head.startswith(known.status_line):
            return None
        self._misses = 0
        response = Response()
        response.status = model.status
        response.line = model.line
        response.keep_alive = model.keep_alive
        response.interim = False
        response.size = size
        span = known.length
        response.length = model.length if span is None else int(head[span[0] : span[1]])
        response.fields = _cut(head, known.kept)
        return response

    def read(self, head: bytes, to_head: bool) -> Response:
        """Judge one head, which ends with an empty line."""
        judged = judge_response(head, to_head)
        line = judged.line
        response = Response()
        response.status = judged.status
        response.interim = judged.status < 200
        response.line = b"HTTP/1.1" + line[8:]
        if len(line) == len(b"HTTP/1.1 200\r\n"):  # the blank belongs there even without a reason (RFC 9112 4)
            response.line = b"HTTP/1.1 %d \r\n" % judged.status
        if judged.length == CHUNKED:
            response.line += b"Transfer-Encoding: chunked\r\n"
        response.keep_alive = judged.keep_alive
        response.length = judged.length
        response.size = judged.size
        response.fields = _cut(head, judged.others)
        if judged.nominated:
            response.fields = _without(b"\r\n" + response.fields, judged.nominated)[2:]
        redirects = may_redirect(judged.status)
        if redirects:
            response.fields = _LOCATION.sub(self._relative, response.fields)
        if response.interim:  # it comes before a final one and says nothing of how those look
            return response
        self._shape = None
        self._misses += 1
        if not judged.nominated and not redirects and _worth_remembering(self._misses):
            self._shape = known = _ResponseShape()
            known.head = head
            known.size = judged.size
            known.shape = head.translate(_ZEROS)
            known.response = response
            known.status_line = line
            known.to_head = to_head
            known.length = judged.length_at
            known.kept = judged.others
        return response

    def read_final(self, data: bytes, to_head: bool, limit: int, before: int) -> tuple[Response | None, int]:
        """Judge the final head in `data`, which begins with a head; says where it begins. Interim ones are dropped.

        None: it is not whole, and what there is of it begins there. All heads of one response have `limit` bytes (0: no
        limit), `before` of which were dropped earlier.
        """
        start = 0
        while True:
            end = data.find(HEAD_END, start)
            if 0 < limit < before + (len(data) if end < 0 else end + 4):
                raise ProxyError("upstream_invalid", "its heads are too large")
            if end < 0:
                return None, start
            response = self.read(data[start : end + 4], to_head)
            if not response.interim:
                return response, start
            start = end + 4

    def _relative(self, found: re.Match[bytes]) -> bytes:
        return found[1] + relative_location(found[2].decode("latin-1"), self._origins).encode("latin-1")


def _worth_remembering(misses: int) -> bool:
    """Whether to keep a judged head, after so many in a row that resembled none before them.

    Heads of different clients behind one balancer rarely resemble each other, and remembering each costs half as much
    again as judging it. Every PATIENCE-th is remembered all the same, so that a connection that changes is noticed.
    """
    return misses <= MISSES or misses % PATIENCE == 0


def _cut(head: bytes, spans: list[Span]) -> bytes:
    """What stands in `spans`. A comprehension in `recall` would make its variables cells, which costs each request."""
    if len(spans) == 1:
        a, b = spans[0]
        return head[a:b]
    return b"".join([head[a:b] for a, b in spans])


def _without(fields: bytes, names: Collection[bytes]) -> bytes:
    """`fields` (each with its CRLF in front) less those that `Connection` named."""
    lines = fields.split(b"\r\n")
    return b"\r\n".join([lines[0], *[line for line in lines[1:] if line.partition(b":")[0].lower() not in names]])
