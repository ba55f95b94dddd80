"""HTTP/1.1 as the simulated peers read and write it: small, strict, and apart from the code under test.

Every body is a pattern of its tag, so that a byte of another message, a lost or a doubled one is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

CHUNKED, UNTIL_CLOSE = -1, -2

HeadReader = Callable[[bytes, dict[bytes, bytes]], int]


class Garbled(Exception):
    """The bytes are not HTTP."""


@lru_cache(maxsize=4096)
def pattern(tag: str, size: int) -> bytes:
    """The body of `size` bytes that belongs to a tag."""
    unit = tag.encode() + b"|"
    return (unit * (size // len(unit) + 1))[:size]


def chunked(body: bytes, pieces: int) -> bytes:
    """`body` as a chunked one of about that many chunks."""
    step = max(1, -(-len(body) // max(1, pieces)))
    parts = [b"%x\r\n%b\r\n" % (len(body[i : i + step]), body[i : i + step]) for i in range(0, len(body), step)]
    return b"".join(parts) + b"0\r\n\r\n"


class MessageReader:
    """Cuts a stream into messages. `on_head` gets first line and fields and says how long the body is."""

    def __init__(self, on_head: HeadReader, on_body: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._on_head = on_head
        self._on_body = on_body
        self._on_end = on_end
        self._buffer = b""
        self._fed = 0
        self._left: int | None = None  # of a body or chunk; None: a head is awaited
        self._in_chunks = False

    @property
    def position(self) -> int:
        """Bytes read so far: where the part ends that was told of last."""
        return self._fed - len(self._buffer)

    @property
    def between(self) -> bool:
        """Whether nothing of a message is read."""
        return self._left is None and not self._buffer

    def feed(self, data: bytes) -> None:
        """Read on. Raises Garbled."""
        self._fed += len(data)
        self._buffer = self._buffer + data if self._buffer else data
        while self._step():
            pass

    def _step(self) -> bool:
        buffer = self._buffer
        if self._left is None:
            return self._head(buffer)
        if self._left == UNTIL_CLOSE:
            self._take(len(buffer))
            return False
        if self._in_chunks and self._left == 0:
            return self._chunk_size(buffer)
        if not buffer:
            return False
        count = min(self._left, len(buffer))
        self._left -= count
        self._take(count)
        if not self._left and not self._in_chunks:
            self._finish()
        elif not self._left:
            self._left = 0
        return True

    def _head(self, buffer: bytes) -> bool:
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = buffer[:end].split(b"\r\n")
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon:
                raise Garbled(f"no field: {line!r}")
            fields[name.lower()] = value.strip()
        self._buffer = buffer[end + 4 :]
        length = self._on_head(first, fields)
        self._in_chunks = length == CHUNKED
        self._left = 0 if self._in_chunks else length
        if length == 0:
            self._finish()
        return True

    def _chunk_size(self, buffer: bytes) -> bool:
        start = 2 if buffer.startswith(b"\r\n") else 0
        end = buffer.find(b"\r\n", start)
        if end < 0:
            return False
        try:
            size = int(buffer[start:end].partition(b";")[0], 16)
        except ValueError as exc:
            raise Garbled(f"no chunk: {buffer[:40]!r}") from exc
        if size:
            self._buffer = buffer[end + 2 :]
            self._left = size
            return True
        end = buffer.find(b"\r\n\r\n", end)
        if end < 0:
            return False
        self._buffer = buffer[end + 4 :]
        self._finish()
        return True

    def _take(self, count: int) -> None:
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        if data:
            self._on_body(data)

    def _finish(self) -> None:
        self._left = None
        self._in_chunks = False
        self._on_end()


def body_length(fields: dict[bytes, bytes], otherwise: int) -> int:
    """What the fields say of a body's length."""
    if b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"].lower() != b"chunked" or b"content-length" in fields:
            raise Garbled(f"framing: {fields!r}")
        return CHUNKED
    return int(fields[b"content-length"]) if b"content-length" in fields else otherwise
