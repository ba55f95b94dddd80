"""A script made ready to send: framed, cut where its clocks go, so that playing it is one join and one write (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from mock_backends.dialects import ZEROS, Ask
from mock_backends.script import Script, ScriptWriter

_WIDTH = len(ZEROS)
LAST_CHUNK = b"0\r\n\r\n"


class Tape:
    """What goes over the wire for one script.

    The head is sent as `head`, then the endpoint's stamp (which ends in the name of the first clock field: `server`).
    Event i is sent as `starts[i] + 20 digits + tail`, the last with `last_tail` instead. In a body cut into chunks a
    chunk may end inside the digits: then `middle` stands after the first `split` of them.
    """

    __slots__ = (
        "body_bytes",
        "bytes_held",
        "events",
        "framed",
        "head",
        "last_tail",
        "middle",
        "offsets",
        "one_piece",
        "split",
        "starts",
        "stream",
        "tail",
    )

    def __init__(self, script: Script, *, chunked: bool, close: bool = False) -> None:
        """`chunked` frames a stream (always true but for HTTP/1.0); `close` announces the end of the connection."""
        self.offsets: Sequence[int] = script.offsets
        self.events = len(script.events)
        self.stream = script.stream
        self.body_bytes = sum(map(len, script.events)) + len(script.trailer)
        self.split, self.middle = _WIDTH, b""
        self.framed = script.stream and chunked
        cut = _WIDTH + len(script.tail)
        starts = [event[:-cut] for event in script.events]
        self.tail = script.tail
        self.last_tail = script.tail + script.trailer
        if not script.stream and script.chunk_bytes and chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
            self._cut_into_chunks(script.events[0], len(starts[0]), script.chunk_bytes)
        elif not script.stream:
            framing = b"Content-Length: %d\r\n" % len(script.events[0])
            self.starts = starts
        elif self.framed:
            framing = b"Transfer-Encoding: chunked\r\n"
            self.starts = [b"%x\r\n%b" % (len(start) + cut, start) for start in starts]
            self.tail = script.tail + b"\r\n"
            trailer = b"%x\r\n%b\r\n" % (len(script.trailer), script.trailer) if script.trailer else b""
            self.last_tail = self.tail + trailer + LAST_CHUNK
        else:
            framing = b""
            self.starts = starts
        if close or not (framing or chunked):
            framing += b"Connection: close\r\n"
        cache = b"Cache-Control: no-cache\r\n" if script.stream else b""
        self.head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b%bX-Mock-Events: %d\r\nX-Mock-Digest: sha256=%b\r\n" % (
            script.content_type,
            cache,
            framing,
            self.events,
            script.digest.encode(),
        )
        # Everything at once, in one write, with nothing to wait for: the hot path of `connection`.
        self.one_piece = self.events == 1 and self.split == _WIDTH and script.offsets[0] == 0
        # For the budget of a cache: the bytes, and what CPython adds for each object and each offset.
        self.bytes_held = sum(map(len, self.starts)) + 80 * self.events + 1024

    def body_bytes_before(self, event: int) -> int:
        """Bytes of the body in the first `event` events."""
        if event >= self.events:
            return self.body_bytes
        frames = sum(start.index(b"\r\n") + 4 for start in self.starts[:event]) if self.framed else 0
        return sum(map(len, self.starts[:event])) + event * (_WIDTH + len(self.tail)) - frames

    def last_piece(self, stamp: int) -> bytes:
        """The last event, or the only one, with the clock `stamp` and what follows it."""
        digits = b"%020d" % stamp
        if not self.middle:
            return self.starts[-1] + digits + self.last_tail
        split = self.split
        return b"".join((self.starts[-1], digits[:split], self.middle, digits[split:], self.last_tail))

    def _cut_into_chunks(self, body: bytes, digits: int, size: int) -> None:
        """Frames `body` in chunks of `size` and finds its clock, which begins at `digits`, again."""
        pieces: list[bytes] = []
        for at in range(0, len(body), size):
            part = body[at : at + size]
            pieces += [b"%x\r\n" % len(part), part, b"\r\n"]
        wire = b"".join([*pieces, LAST_CHUNK])
        # A byte at offset i of the body stands behind the frames of all chunks before it and its own size line.
        frame = len(b"%x\r\n" % size) + 2

        def place(i: int) -> int:
            line = len(b"%x\r\n" % min(size, len(body) - i // size * size))
            return i + i // size * frame + line

        first = place(digits)
        self.split = min(_WIDTH, size - digits % size)
        self.starts = [wire[:first]]
        self.middle = wire[first + self.split : place(digits + self.split)] if self.split < _WIDTH else b""
        self.tail = self.last_tail = wire[place(digits + _WIDTH - 1) + 1 :]


EMPTY_TAPE = Tape(
    Script(content_type=b"", events=[ZEROS], offsets=[0], tail=b"", trailer=b"", digest="", stream=False), chunked=True
)
"""The tape of a connection that has played none."""


class TapeLibrary:
    """Tapes of one profile and seed by what was asked, kept while they fit the budget; the oldest go first.

    Owned by the server that plays them. A tape handed out stays valid for as long as someone holds it.
    """

    def __init__(self, writer: ScriptWriter, budget: int = 64 * 2**20) -> None:
        self._writer = writer
        self._budget = budget
        self._held = 0
        self._tapes: dict[tuple[Ask, bool, bool], Tape] = {}

    def tape(self, ask: Ask, *, chunked: bool = True, close: bool = False) -> Tape:
        """The tape for a request. Raises `BadRequest`."""
        key = (ask, chunked, close)
        tape = self._tapes.get(key)
        if tape is None:
            tape = Tape(self._writer.write(ask), chunked=chunked, close=close)
            self._held += tape.bytes_held
            self._tapes[key] = tape
            while self._held > self._budget and len(self._tapes) > 1:
                self._held -= self._tapes.pop(next(iter(self._tapes))).bytes_held
        return tape

    def __len__(self) -> int:
        return len(self._tapes)
