"""An event loop whose connections are memory: whole engines run on it without sockets, system calls and kernel time.

asyncio's own loop, with three things replaced. `create_server` remembers the protocol factory instead of listening,
`create_connection` gives back a transport whose other end is a canned backend, and the selector finds nothing. So an
engine is started through its ProxyService interface and runs its real code, timers and callbacks; what is missing is
the kernel, two thirds of a real exchange. (uvloop cannot be subclassed this way: this is the plain loop.)

Both peers answer one loop pass later, as a real loop would have it, never from inside a `write`.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

PEER = ("127.0.0.1", 40000)
Taken = Callable[[bytes], None]


class MemoryTransport(asyncio.Transport):
    """One end of a connection: `taken` gets what the protocol writes, `deliver` is what it reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol) -> None:
        super().__init__({"peername": PEER, "sockname": ("127.0.0.1", 8080)})
        self._loop = loop
        self._protocol = protocol
        self._closing = False
        self.taken: Taken = _nothing
        self.deliver: Taken = (
            self._buffered if isinstance(protocol, asyncio.BufferedProtocol) else protocol.data_received  # type: ignore[attr-defined]  # every other streaming protocol has it
        )

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Everything is taken at once."""
        self.taken(bytes(data))

    def writelines(self, list_of_data: Any) -> None:
        """As one write, as both loops do it."""
        self.taken(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Always empty."""
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Never reached."""
        return 0, 65536

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Never reached."""

    def can_write_eof(self) -> bool:
        """As TCP."""
        return True

    def write_eof(self) -> None:
        """Nobody waits for it."""

    def is_reading(self) -> bool:
        """Nothing here is ever paused for long enough to matter: one message is in flight at a time."""
        return True

    def pause_reading(self) -> None:
        """See `is_reading`."""

    def resume_reading(self) -> None:
        """See `is_reading`."""

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called."""
        return self._closing

    def close(self) -> None:
        """The protocol hears of it one pass later."""
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        """As `close`: there is nothing unsent."""
        self.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who reads."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Not supported: no engine changes protocols."""
        raise NotImplementedError

    def _buffered(self, data: bytes) -> None:
        protocol = self._protocol
        assert isinstance(protocol, asyncio.BufferedProtocol)
        while data:
            buffer = memoryview(protocol.get_buffer(-1))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]


def _nothing(data: bytes) -> None:
    pass


class _NoSelector(selectors.BaseSelector):
    """Finds nothing. asyncio registers its self-pipe, which nobody needs here."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, -1, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, -1, 0, None)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:  # only while an engine starts or stops; exchanges never wait
            time.sleep(min(timeout or 0.001, 0.001))
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class _Listener:
    """What `create_server` gives: nothing listens."""

    sockets = ()

    def close(self) -> None:
        pass


class MemoryLoop(asyncio.SelectorEventLoop):
    """See above. `backend(transport)` is called for each connection an engine opens, and sets its `taken`."""

    def __init__(self, backend: Callable[[MemoryTransport], None]) -> None:
        super().__init__(_NoSelector())
        self._backend = backend
        self._factory: Callable[[], asyncio.BaseProtocol] | None = None

    async def create_server(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """Remember who takes connections."""
        self._factory = protocol_factory
        return _Listener()

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        """Connect to the backend, at once."""
        sock: socket.socket | None = kwargs.get("sock")
        if sock is not None:
            sock.close()
        protocol = protocol_factory()
        transport = MemoryTransport(self, protocol)
        self._backend(transport)
        protocol.connection_made(transport)
        return transport, protocol

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """aiohttp connects its socket by itself, before it asks for a transport."""

    async def accept(self) -> MemoryTransport:
        """A client's connection to the engine that was started on this loop, which asks for the running loop."""
        if self._factory is None:
            raise RuntimeError("no engine was started on this loop")
        protocol = self._factory()
        transport = MemoryTransport(self, protocol)
        protocol.connection_made(transport)
        return transport
