"""What must hold for any bytes at all: a function a property, for atheris and for Hypothesis.

Each takes arbitrary bytes, reads a few decisions from the first of them, and raises AssertionError (or whatever
crashes) when the property does not hold. `SEPARATOR` keeps several heads of one connection apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from httptools import HttpParserError

from loadgen.errors import BadInput
from loadgen.wire import stream, whole
from loadgen.workload.trace import read_trace
from proxy.core.errors import ProxyError
from proxy.http1 import chunked, heads, recall
from tests.fuzz import strict

SEPARATOR = b"\n\n\n"
SMALL = heads.Limits(head=600, fields=8, target=60, field=120)
LARGE = heads.Limits(head=64 * 1024, fields=100, target=8192, field=16384)
UNKNOWN = {"not_implemented", "target_too_long", "headers_too_large"}  # valid HTTP may be refused with these


def requests(data: bytes) -> None:
    """A connection with a past reads each head as a fresh one does, and accepts only what a strict reader accepts."""
    choice, several = data[:1], _heads(data[1:])
    limits = SMALL if choice and choice[0] & 1 else LARGE
    used = _request_reader(limits, choice)
    for head in several:
        fresh = _request(_request_reader(limits, choice), head)
        assert _request(used, head) == fresh, head
        _agrees_with_strict(head, fresh)
    for head in several:
        for cut in range(0, len(head), 1 + len(head) // 16):
            _never_hurries(head, cut, limits)


def responses(data: bytes) -> None:
    """The same for the heads of an endpoint's responses."""
    choice, several = data[:1], _heads(data[1:])
    used = recall.ResponseReader()
    for i, head in enumerate(several):
        to_head = bool(choice and choice[0] >> (i % 8) & 1)
        fresh = _response(recall.ResponseReader(), head, to_head)
        assert _response(used, head, to_head) == fresh, head
        if isinstance(fresh, dict):
            found = strict.response_head(head, b"HEAD" if to_head else b"GET")
            assert found is not None
            length = {heads.CHUNKED: None, heads.UNTIL_CLOSE: -1}.get(fresh["length"], fresh["length"])
            assert found.length == length or fresh["interim"], (found.length, length)


def bodies(data: bytes) -> None:
    """Chunked bodies end at the same byte however they are cut, for both readers, and as a strict reader sees it."""
    cuts, body = data[:4], data[4:]
    whole_body, end, broken = _decode([body])
    edges = sorted({0, len(body), *(cut * (1 + len(body) // 256) % (len(body) + 1) for cut in cuts)})
    pieces, cut_end, cut_broken = _decode([body[a:b] for a, b in pairwise(edges)])
    assert (end, broken) == (cut_end, cut_broken)
    if not broken:
        assert pieces == whole_body
    assert (end is not None) == _chunk_reader_done(body, end)
    assert end is None or chunked.chunked_end(body) == end
    head = strict.Head((), (), None, 0)
    try:
        found = strict.message(body, head)
    except strict.Broken:
        found = None
    if found is not None and end is not None:
        assert (found.body, found.size) == (whole_body, end)


def replies(data: bytes) -> None:
    """The load generator reads a reply the same however it is cut, and the short way says what the long way says."""
    cuts, reply = data[:4], data[4:]
    edges = sorted({0, len(reply), *(cut * (1 + len(reply) // 256) % (len(reply) + 1) for cut in cuts)})
    outcome = _reply([reply])
    cut = _reply([reply[a:b] for a, b in pairwise(edges)])
    # llhttp skips empty lines behind a reply, so whether they are noticed depends on the read that brings them.
    skipped = cut == ("wrong",) and reply.endswith((b"\r", b"\n"))
    assert outcome == ("wrong",) or skipped or cut == outcome
    short = whole.WholeReplies()
    for _ in range(2):  # learnt, and known
        found = short.read(reply)
        if found is not None:
            assert outcome[0] == "complete", outcome
            _, status, keep_alive, head, body, events, digest, fault = outcome
            assert (found.status, found.keep_alive, found.size) == (status, keep_alive, len(body))
            assert (found.events, found.digest, found.said) == (events, digest, stream.mock_head(head))
            assert fault is None


def traces(data: bytes) -> None:
    """A trace file is read, or refused in a sentence and two lines; every row is accounted for."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        file.write(data)
        file.flush()
        try:
            trace = read_trace(Path(file.name), rows=50)
        except BadInput as error:
            assert str(error).count("\n") <= 2
            return
    accounting = trace.accounting
    assert accounting.read == accounting.used + sum(accounting.dropped.values())
    assert len(trace) == accounting.used
    assert (trace.offset_ns[1:] >= trace.offset_ns[:-1]).all()


PROPERTIES: dict[str, Callable[[bytes], None]] = {
    "requests": requests,
    "responses": responses,
    "bodies": bodies,
    "replies": replies,
    "traces": traces,
}

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


def _heads(data: bytes) -> list[bytes]:
    found = []
    for part in data.split(SEPARATOR)[:8]:
        part += heads.HEAD_END
        found.append(part[: part.find(heads.HEAD_END) + 4])  # as a connection cuts it
    return found


def _request_reader(limits: heads.Limits, choice: bytes) -> recall.RequestReader:
    return recall.RequestReader(limits, b"127.0.0.1", b"me", strip_credentials=bool(choice and choice[0] & 2))


def _request(reader: recall.RequestReader, head: bytes) -> dict[str, Any] | str:
    try:
        behind = b"GET / HTTP/1.1\r\n"
        request, rest = reader.recall(head + behind) or (reader.read(head), behind)
    except ProxyError as error:
        return error.kind.code
    assert rest == behind, head
    values = {name: getattr(request, name) for name in recall.Request.__slots__ if name != "traits"}
    return values | {name: getattr(request.traits, name) for name in recall.Traits.__slots__}


def _response(reader: recall.ResponseReader, head: bytes, to_head: bool) -> dict[str, Any] | str:
    try:
        behind = b"HTTP/1.1 200 OK\r\n"
        response, rest = reader.recall(head + behind, to_head) or (reader.read(head, to_head), behind)
    except ProxyError as error:
        return error.kind.code
    assert rest == behind, head
    return {name: getattr(response, name) for name in recall.Response.__slots__}


def _agrees_with_strict(head: bytes, read: dict[str, Any] | str) -> None:
    try:
        found = strict.request_head(head)
        assert found is not None
        strict.check_request(found)
    except strict.Broken as broken:
        assert isinstance(read, str), f"accepted, though {broken}"
        return
    if isinstance(read, str):
        assert read in UNKNOWN or _harmless(found), f"refused as {read}"
        return
    assert read["length"] == (heads.CHUNKED if found.length is None else found.length)
    assert read["method"] == found.start[0] + b" "


def _harmless(found: strict.Head) -> bool:
    """Valid but refused, on purpose: llhttp's rules for odd methods and a target's bytes."""
    method, target, _ = found.start
    return method == b"PRI" or not target.isascii() or b"*" in target


def _never_hurries(head: bytes, cut: int, limits: heads.Limits) -> None:
    """What is refused early would have been refused in the end."""
    part = head[:cut]
    if heads.HEAD_END in part:
        return
    try:
        heads.check_partial_head(part, limits)
    except ProxyError:
        try:
            recall.RequestReader(limits, b"127.0.0.1", b"me", strip_credentials=False).read(head)
        except ProxyError:
            return
        raise AssertionError(f"refused after {part!r}") from None


def _decode(parts: list[bytes]) -> tuple[bytes, int | None, bool]:
    """The body, where it ended, and whether its framing was broken."""
    reader = chunked.BodyReader()
    out = b""
    end = None
    fed = 0
    try:
        for part in parts:
            out += reader.feed(part)
            fed += len(part)
            if reader.done:
                end = fed - len(reader.rest)
                break
    except HttpParserError:
        return out, None, True
    finally:
        reader.close()
    return out, end, False


def _chunk_reader_done(body: bytes, end: int | None) -> bool:
    reader = chunked.ChunkReader()
    reader.begin()
    try:
        reader.feed(body if end is None else body[:end])
    except HttpParserError:
        return reader.done
    finally:
        done = reader.done
        assert not reader.extra
        reader.close()
    return done


def _reply(parts: list[bytes]) -> tuple[Any, ...]:
    reader = stream.ResponseReader()
    scanner = stream.BodyScanner(stream=False)
    body = b""
    try:
        for i, part in enumerate(parts):
            piece = reader.feed(part)
            body += piece
            scanner.feed(piece, 1, i)
        if not reader.complete:
            reader.eof()
    except stream.WrongReply:
        return ("wrong",)
    except stream.Truncated:
        return ("truncated",)
    said = stream.mock_head(reader.head)
    fault = scanner.fault(said.events)
    return (
        "complete", reader.status, reader.keep_alive, reader.head, body, scanner.events, scanner.digest(), fault,
    )  # fmt: skip
