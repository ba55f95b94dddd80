"""The control channel between the supervisor and a worker: JSON objects, one a line, over a socket pair.

A worker that reads the end of it has lost its supervisor and stops; a supervisor that reads the end has lost a worker.
"""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

# A runtime view with full rings is about 300 KiB.
_LONGEST = 2**24


class Channel:
    """One end. Made by `open_channel`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send without waiting; after the other end is gone, do nothing."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Message | None:
        """The next message, None at the end."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    async def drain(self) -> None:
        """Wait until what was sent is written."""
        with suppress(OSError):
            await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def open_channel(sock: socket.socket) -> Channel:
    """Take one end of a socket pair into use on the running loop."""
    return Channel(*await asyncio.open_connection(sock=sock, limit=_LONGEST))


def receive_first(sock: socket.socket) -> Message | None:
    """The first message, read before there is a loop. None if the other end is gone."""
    line = b""
    while not line.endswith(b"\n"):
        # Byte by byte would do, too: nothing follows the first message until it is answered.
        chunk = sock.recv(2**16)
        if not chunk:
            return None
        line += chunk
    message: Message = json.loads(line)
    return message
