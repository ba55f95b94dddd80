"""Adaptive flushing: when bytes read from an upstream are passed on to the client. Pure.

The seed's rule is to flush a small chunk (a token) at once and to gather larger ones up to the buffer or for 50 ms. A
read on an event loop returns what is there, and nobody tells that no more is: so gathering ends at the latest when
the loop's present pass ends, which the caller arranges by one `call_soon` for each burst. No byte waits longer than
that pass, and the seed's interval is an upper bound that is never reached. The first bytes of a response are never
gathered.
"""

from __future__ import annotations


class Gatherer:
    """Bytes of one response on their way: what is due now comes back from `add`, the rest waits inside.

    `small`: reads below this many bytes go out at once. `limit`: so do gathered bytes from this many on.
    """

    __slots__ = ("_limit", "_pieces", "size", "small")

    def __init__(self, small: int, limit: int) -> None:
        self.small = small
        self._limit = limit
        self._pieces: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> bytes | None:
        """Take one read. Returns what must be written now, or None while it is gathered."""
        size = len(data)
        pieces = self._pieces
        if not pieces:
            if size < self.small or size >= self._limit:
                return data
            pieces.append(data)
            self.size = size
            return None
        pieces.append(data)
        self.size += size
        if size < self.small or self.size >= self._limit:
            return self.take()
        return None

    def take(self) -> bytes:
        """Everything gathered, in order; empty if nothing is."""
        pieces = self._pieces
        if not pieces:
            return b""
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.size = 0
        return data

    def __len__(self) -> int:
        return self.size
