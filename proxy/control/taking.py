"""Whether a peer takes what is written to it: `write_timeout` bounds the time for each further 16 KiB, or for the rest.

What a peer took is what its system acknowledged. What merely went from our memory into the kernel's is not: that holds
megabytes for a peer that reads nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
from typing import Final

STEP: Final = 16 * 2**10
"""Bytes that renew the limit: a peer that dribbles does not."""
LOOKS: Final = 10
"""So often within the limit somebody looks: a stalled peer is noticed a tenth of it late, at most."""


class Taking:
    """A peer that something waits for. Pure: bytes and seconds are given."""

    __slots__ = ("_since", "_waiting")

    def __init__(self, waiting: int, now: float) -> None:
        self._waiting = waiting
        self._since = now

    def stalled(self, waiting: int, now: float, limit: float) -> bool:
        """Whether it has had `limit` seconds for less than STEP; `waiting`: bytes it has not taken yet."""
        if self._waiting - waiting >= STEP:
            self._since = now
            self._waiting = waiting
        elif waiting > self._waiting:  # more was written, which is not held against it
            self._waiting = waiting
        return now - self._since >= limit

    def next_look(self, now: float, limit: float) -> float:
        """When to ask again."""
        return min(now + limit / LOOKS, self._since + limit)


def untaken(transport: asyncio.WriteTransport) -> int:
    """Bytes that were written and that the peer has not acknowledged: ours, and on Linux the kernel's."""
    ours: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None or (fd := sock.fileno()) < 0:
        return ours
    return ours + int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
