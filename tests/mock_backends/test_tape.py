"""A tape sends what its script says, framed; a library keeps tapes while they fit."""

from __future__ import annotations

import re

import pytest

from mock_backends.dialects import ZEROS, Ask
from mock_backends.profile import load_profile
from mock_backends.script import ScriptWriter
from mock_backends.tape import Tape, TapeLibrary

WRITER = ScriptWriter(load_profile("instant"), 0)
CHAT = b"/v1/chat/completions"


def wire(tape: Tape, digits: bytes = ZEROS) -> bytes:
    """The body as it goes over the wire."""
    parts = [start + digits + tape.tail for start in tape.starts[:-1]]
    return b"".join([*parts, tape.starts[-1], digits[: tape.split], tape.middle, digits[tape.split :], tape.last_tail])


def unframed(body: bytes) -> list[bytes]:
    chunks = []
    while body:
        line, _, body = body.partition(b"\r\n")
        size = int(line, 16)
        chunks.append(body[:size])
        assert body[size : size + 2] == b"\r\n"
        body = body[size + 2 :]
    assert chunks.pop() == b""
    return chunks


def test_a_stream_is_one_chunk_an_event_and_the_trailer_one_more() -> None:
    script = WRITER.write(Ask(CHAT, "m", True, tokens=7))
    tape = Tape(script, chunked=True)
    assert unframed(wire(tape)) == [*script.events, script.trailer]
    assert tape.body_bytes == sum(map(len, script.events)) + len(script.trailer)
    for i in range(len(script.events)):
        assert tape.body_bytes_before(i) == sum(map(len, script.events[:i]))
    assert tape.body_bytes_before(len(script.events)) == tape.body_bytes


def test_unframed_for_http_1_0_and_the_end_is_announced() -> None:
    script = WRITER.write(Ask(b"/api/chat", "m", True, tokens=7))
    tape = Tape(script, chunked=False)
    assert wire(tape) == b"".join(script.events)
    assert b"Connection: close\r\n" in tape.head
    assert b"chunked" not in tape.head


@pytest.mark.parametrize("size", [20, 23, 64, 300, 10_000])
def test_a_body_cut_into_chunks_keeps_its_clock_wherever_it_falls(size: int) -> None:
    digits = b"12345678901234567890"
    for body_bytes in range(400, 480):
        script = WRITER.write(Ask(CHAT, "m", False, options=(body_bytes, None, None, size)))
        chunks = unframed(wire(Tape(script, chunked=True), digits))
        assert b"".join(chunks) == script.events[0].replace(ZEROS, digits)
        assert {len(chunk) for chunk in chunks[:-1]} <= {size}


def test_only_a_whole_reply_due_at_once_is_in_one_piece() -> None:
    assert Tape(WRITER.write(Ask(CHAT, "m")), chunked=True).one_piece
    assert not Tape(WRITER.write(Ask(CHAT, "m", True)), chunked=True).one_piece
    late = ScriptWriter(load_profile("chat-8b"), 0).write(Ask(CHAT, "m"))
    assert not Tape(late, chunked=True).one_piece


def test_the_head_carries_digest_events_and_framing() -> None:
    script = WRITER.write(Ask(CHAT, "m"))
    head = Tape(script, chunked=True, close=True).head.decode()
    assert re.search(rf"^X-Mock-Digest: sha256={script.digest}\r$", head, re.MULTILINE)
    assert f"Content-Length: {len(script.events[0])}\r\n" in head
    assert "X-Mock-Events: 1\r\n" in head
    assert "Connection: close\r\n" in head


def test_a_library_gives_the_same_tape_again_and_drops_the_oldest_beyond_its_budget() -> None:
    library = TapeLibrary(WRITER, budget=100_000)
    first = library.tape(Ask(CHAT, "m", True, seed=0))
    assert library.tape(Ask(CHAT, "m", True, seed=0)) is first
    for seed in range(1, 200):
        library.tape(Ask(CHAT, "m", True, seed=seed))
    assert len(library) < 30
    assert library.tape(Ask(CHAT, "m", True, seed=199)) is library.tape(Ask(CHAT, "m", True, seed=199))
    assert library.tape(Ask(CHAT, "m", True, seed=0)) is not first


def test_a_tape_larger_than_the_budget_is_still_played() -> None:
    library = TapeLibrary(WRITER, budget=10)
    assert library.tape(Ask(CHAT, "m", True)).events == 19
    assert len(library) == 1
