"""Detects a peer that stopped reading: `write_timeout` bounds the time for each further 16 KiB, or for the rest.

Only bytes that the peer's system has acknowledged count as read. Bytes that merely left our memory for the kernel's do
not: the kernel holds megabytes for a peer that reads nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
from typing import Final

STEP: Final = 16 * 2**10
"""Acknowledged bytes that renew the limit; fewer do not, so that a peer that dribbles is cut."""
CHECKS: Final = 10
"""Checks per limit: a stalled peer is found at most a tenth of the limit late."""


class WriteStall:
    """The progress of one peer while something waits for it to read. Pure: the caller passes bytes and seconds."""

    __slots__ = ("_since", "_unacked")

    def __init__(self, unacked: int, now: float) -> None:
        self._unacked = unacked
        self._since = now

    def stalled(self, unacked: int, now: float, limit: float) -> bool:
        """Whether the peer acknowledged less than STEP in `limit` seconds; `unacked`: bytes it still owes."""
        if self._unacked - unacked >= STEP:
            self._since = now
            self._unacked = unacked
        elif unacked > self._unacked:  # more was written meanwhile, which is not the peer's fault
            self._unacked = unacked
        return now - self._since >= limit

    def next_check(self, now: float, limit: float) -> float:
        """When to call `stalled` again."""
        return min(now + limit / CHECKS, self._since + limit)


def unacked(transport: asyncio.WriteTransport) -> int:
    """Bytes written that the peer has not acknowledged: those in our buffer and, on Linux, those in the kernel's."""
    ours: int = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock is None or (fd := sock.fileno()) < 0:
        return ours
    return ours + int(struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
