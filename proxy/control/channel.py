"""The control channel between the supervisor and a worker: JSON objects over a socket pair, each behind its length.

A message is cut out by its length and by nothing else: it may come in pieces or joined to the next one. A worker that
reads the end of the channel has lost its supervisor and stops; a supervisor that reads the end has lost a worker.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

# multiprocessing.connection frames like this, too, but reads a message to its end before anything else: half a message
# of a process that hangs would stop the loop, and a thread for each channel is one more thing that cannot be started.
_LENGTH = struct.Struct("!I")
# A runtime view with full rings is about 300 KiB.
_LONGEST = 2**24


class BrokenChannel(Exception):
    """What came is no message, so that nothing after it can be understood either."""


class Channel:
    """One end. Made by `open_channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send without waiting; after the other end is gone, do nothing."""
        if not self._writer.is_closing():
            data = json.dumps(message).encode()
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Message | None:
        """The next message, None at the end. Raises BrokenChannel."""
        try:
            size = _size(await self._reader.readexactly(_LENGTH.size))
            return _decoded(await self._reader.readexactly(size))
        except (OSError, EOFError):
            return None

    def close(self) -> None:
        """Hang up; what was sent goes first, if the loop runs long enough."""
        self._writer.close()

    async def finish(self, within: float) -> None:
        """Hang up and wait until what was sent has left, or for `within` seconds."""
        self.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(within):
                await self._writer.wait_closed()


async def open_channel(sock: socket.socket) -> Channel:
    """Take one end of a socket pair into use on the running loop."""
    return Channel(*await asyncio.open_connection(sock=sock))


def receive_first(sock: socket.socket) -> Message | None:
    """The first message, read before there is a loop; what follows it stays in the socket. None at the end."""
    head = sock.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    size = _size(head)
    data = sock.recv(size, socket.MSG_WAITALL)
    return _decoded(data) if len(data) == size else None


def _size(head: bytes) -> int:
    (size,) = _LENGTH.unpack(head)
    if size > _LONGEST:
        raise BrokenChannel(f"a message of {size} bytes")
    return int(size)


def _decoded(data: bytes) -> Message:
    try:
        message = json.loads(data)
    except ValueError as exc:
        raise BrokenChannel("a message that is not JSON") from exc
    if not isinstance(message, dict):
        raise BrokenChannel("a message that is not an object")
    return message
