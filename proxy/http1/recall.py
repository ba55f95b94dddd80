"""What is sent on of a judged head, and the memory of the last heads, which saves judging the next one. No I/O.

Requests on one connection resemble each other, and so do the responses of one endpoint. Each reader remembers the last
few *kinds* of head that it judged. Heads of one kind are equally long, and equal but for some words: the digits of
Content-Length, and words that were seen to differ before, in a target, a request id or the value of a field that
decides nothing. A word is a run of letters and digits, so a date, a count and most ids are words with fixed signs
between them. HTTP's grammar treats all letters and digits there alike: a head of a kind that was judged is judged. Any
other is judged whole, and teaches which words are free. After many unlike heads in a row a reader compares and
remembers only every `PATIENCE`th.

A request through Olla takes 49,000 instructions where both heads equal the last ones, 56,200 where a count in the
reply's head differs each time, 55,400 where an id does (judged each time: 103,000).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from struct import Struct
from typing import TypeVar

from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs, may_redirect, relative_location
from proxy.http1.heads import (
    CHUNKED,
    HEAD_END,
    IDEMPOTENT,
    REQUEST_FIELDS,
    REQUEST_FIELDS_AND_CREDENTIALS,
    RESPONSE_FIELDS,
    Limits,
    RequestHead,
    Span,
    judge_request,
    judge_response,
    passed_through,
)

MISSES = 8  # heads unlike the one before, after which a reader stops remembering
PATIENCE = 64  # heads from one attempt to remember again to the next
WORDS = 24  # that may be free in a kind: comparing heads with more is no quicker than judging them
KINDS = 4  # remembered by a reader: an endpoint answers whole, by streams and with errors in turn

_LOCATION = re.compile(rb"(?im)^(location:[ \t]*)([^\r\n]*)")
_WORD = re.compile(rb"[0-9A-Za-z]+")


def _cutter(spans: Iterable[Span]) -> Callable[[bytes], tuple[bytes, ...]]:
    """What cuts these spans out of a head in one call: four cost 2,000 instructions, as slices or comparisons 4,400."""
    layout = ""
    at = 0
    for a, b in spans:
        layout += f"{a - at}x{b - a}s"
        at = b
    return Struct(layout).unpack_from


_NO_CUTTER = _cutter(())


class _Kind:
    """A judged head and, once another one of its kind came, what those may differ in.

    Until then `fixed` is None and only an equal head is recalled.
    """

    __slots__ = ("fixed", "fixed_of", "free", "free_of", "head", "kept", "kept_of", "length", "size")

    def __init__(self, head: bytes, kept: list[Span]) -> None:
        self.head = head
        self.size = len(head)
        self.kept = kept  # what is sent on
        self.length: Span | None = None  # the digits of Content-Length, where they differ
        self.free: frozenset[Span] = frozenset()  # words that may be other ones of the same length
        self.fixed: tuple[bytes, ...] | None = None  # what stands between them
        self.fixed_of = self.free_of = self.kept_of = _NO_CUTTER

    def widen(self, known: _Kind, deciding: re.Pattern[bytes], length: Span | None, places: Sequence[Span]) -> bool:
        """Learn from the head of `known` in what heads of this kind differ; False if that was of another kind.

        Words are free in `places` and in all fields but those that `deciding` finds, digits in `length`.
        """
        if known.size != self.size:
            return False
        free = known.free
        spans = _differing_words(known.head, self.head, deciding, places)
        if length is not None and (length in free or known.head[slice(*length)] != self.head[slice(*length)]):
            spans = chain((length,), spans)
        for a, b in spans:
            if all(b <= start or end <= a for start, end in free):
                free |= {(a, b)}
            if len(free) > WORDS:
                return False
        self.length = length if length in free else None
        words = sorted(free)
        starts, ends = [0, *(b for _, b in words)], [*(a for a, _ in words), self.size]
        fixed_of = _cutter(zip(starts, ends, strict=True))
        fixed = fixed_of(self.head)
        if fixed_of(known.head) != fixed:
            return False
        self.free, self.fixed, self.fixed_of = free, fixed, fixed_of
        self.free_of = _cutter(words)
        self.kept_of = _cutter(self.kept)
        return True


@dataclass(slots=True, init=False, eq=False)
class Traits:
    """What follows from the fields that decide. Requests in which these are equal share it."""

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


class _RequestKind(_Kind):
    """A kind of request; `request` is the one that was judged."""

    __slots__ = ("request", "request_id", "target")

    request: Request
    request_id: Span | None
    target: Span


class RequestReader:
    """Reads the request heads of one client connection.

    `peer` is the client's address, `via` this instance's name. Ask `recall` first, which knows heads like the last ones
    without looking for their end; `read` judges any other and raises ProxyError for what must be refused.
    """

    __slots__ = ("_fields", "_kinds", "_misses", "_peer", "_traits", "_traits_key", "_via", "limits")

    def __init__(self, limits: Limits, peer: bytes, via: bytes, strip_credentials: bool) -> None:
        self.limits = limits
        self._peer = peer
        self._via = via
        self._fields = REQUEST_FIELDS_AND_CREDENTIALS if strip_credentials else REQUEST_FIELDS
        self._traits_key: tuple[object, ...] = ()
        self._kinds: list[_RequestKind] = []
        self._misses = 0  # heads in a row that had to be judged

    def recall(self, data: bytes) -> tuple[Request, bytes] | None:
        """The request at the start of `data`, and what follows its head, if that is of a known kind; else None."""
        kinds = self._kinds
        for known in kinds:
            # Compares and cuts in one call: 2 % of a request. What it does not remove it returns as it is.
            rest = data.removeprefix(known.head)
            if rest is not data:
                request = known.request
                break
            if len(data) >= known.size and known.fixed_of(data) == known.fixed:
                if not b"".join(known.free_of(data)).isalnum():
                    return None
                model = known.request
                request = Request()
                span = known.length
                if span is None:
                    request.length = model.length
                else:
                    digits = data[span[0] : span[1]]
                    if not digits.isdigit():
                        return None
                    request.length = int(digits)
                a, b = known.target
                request.target = data[a:b]
                span = known.request_id
                request.request_id = None if span is None else data[span[0] : span[1]]
                request.kept = b"".join(known.kept_of(data))
                request.traits = model.traits
                request.size = known.size
                rest = data[known.size :]
                break
        else:
            return None
        self._misses = 0
        if known is not kinds[0]:
            kinds.remove(known)
            kinds.insert(0, known)
        return request, rest

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
        if _worth_remembering(self._misses):
            self._remember(head, judged, request)
        else:
            self._kinds.clear()
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

    def _remember(self, head: bytes, judged: RequestHead, request: Request) -> None:
        a, b = judged.target_at
        if judged.nominated or b - a != len(judged.target):
            return  # what is sent on is not what stands in the head
        kind = _RequestKind(head, judged.fields.others)
        kind.request = request
        kind.target = judged.target_at
        kind.request_id = id_at = judged.fields.request_id_at
        places = [kind.target] if id_at is None else [kind.target, id_at]
        _add(self._kinds, kind, self._fields, judged.length_at, places)


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


class _ResponseKind(_Kind):
    """A kind of response; `response` is the one that was judged."""

    __slots__ = ("response",)

    response: Response


class ResponseReader:
    """Reads the response heads of one endpoint, like RequestReader. Raises ProxyError `upstream_invalid`.

    `origins` are the endpoint's, which `Location` does not show. `to_head`: the response answers a HEAD request and has
    no body, whatever it says.
    """

    __slots__ = ("_kinds", "_misses", "_origins")

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        self._origins = origins
        self._kinds: tuple[list[_ResponseKind], list[_ResponseKind]] = ([], [])  # the second: to HEAD
        self._misses = 0

    def recall(self, data: bytes, to_head: bool) -> tuple[Response, bytes] | None:
        """The response at the start of `data`, and what follows its head, if that is of a known kind; else None."""
        kinds = self._kinds[to_head]
        for known in kinds:
            rest = data.removeprefix(known.head)
            if rest is not data:
                response = known.response
                break
            if len(data) >= known.size and known.fixed_of(data) == known.fixed:
                if not b"".join(known.free_of(data)).isalnum():
                    return None
                model = known.response
                response = Response()
                span = known.length
                if span is None:
                    response.length = model.length
                else:
                    digits = data[span[0] : span[1]]
                    if not digits.isdigit():
                        return None
                    response.length = int(digits)
                response.status = model.status
                response.line = model.line
                response.fields = b"".join(known.kept_of(data))
                response.keep_alive = model.keep_alive
                response.interim = False
                response.size = known.size
                rest = data[known.size :]
                break
        else:
            return None
        self._misses = 0
        if known is not kinds[0]:
            kinds.remove(known)
            kinds.insert(0, known)
        return response, rest

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
        self._misses += 1
        kinds = self._kinds[to_head]
        if not _worth_remembering(self._misses):
            kinds.clear()
        elif not judged.nominated and not redirects:
            kind = _ResponseKind(head, judged.others)
            kind.response = response
            _add(kinds, kind, RESPONSE_FIELDS, judged.length_at)
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


_K = TypeVar("_K", bound=_Kind)


def _add(
    kinds: list[_K], kind: _K, deciding: re.Pattern[bytes], length: Span | None, places: Sequence[Span] = ()
) -> None:
    """Remember a kind of which one head was judged, instead of the same one if that is known."""
    for known in kinds:
        if kind.widen(known, deciding, length, places):
            kinds.remove(known)
            break
    kinds.insert(0, kind)
    del kinds[KINDS:]


def _differing_words(known: bytes, head: bytes, deciding: re.Pattern[bytes], places: Sequence[Span]) -> Iterable[Span]:
    """Words of `head` for which `known`, of the same length, has others; see `_Kind.widen` for where."""
    at = 0
    spans = list(places)
    for line in head.split(b"\r\n"):
        colon = line.find(b":")
        if at and colon > 0 and not deciding.match(b"\r\n" + line):
            spans.append((at + colon, at + len(line)))
        at += len(line) + 2
    for a, b in spans:
        if head[a:b] != known[a:b]:
            for word in _WORD.finditer(head, a, b):
                if word[0] != known[word.start() : word.end()]:
                    yield word.span()


def _cut(head: bytes, spans: list[Span]) -> bytes:
    return b"".join([head[a:b] for a, b in spans])


def _without(fields: bytes, names: Collection[bytes]) -> bytes:
    """`fields` (each with its CRLF in front) less those that `Connection` named."""
    lines = fields.split(b"\r\n")
    return b"\r\n".join([lines[0], *[line for line in lines[1:] if line.partition(b":")[0].lower() not in names]])
