"""The backends of a process: their ports, behaviours and counts, and the one wheel that paces them all."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from mock_backends.alarm import alarm
from mock_backends.connection import Connection
from mock_backends.faults import Fault, FaultPlan
from mock_backends.pacing import Pace
from mock_backends.prefixes import PrefixCache
from mock_backends.profile import Profile
from mock_backends.script import ScriptWriter
from mock_backends.stage import Schedule, Stage
from mock_backends.strict import Refused
from mock_backends.tape import TapeLibrary
from mock_backends.wheel import Wheel
from mock_backends.wire import date_of

_BACKLOG = 4096

# BBR paces what it sends by its estimate of the path's bandwidth. On loopback that estimate can be far too low: answers
# of 1 MiB then stop for 10 to 120 ms in between (METHODOLOGY.md, "The network of a bench"). CUBIC does not pace.
_CONGESTION_CONTROL = b"cubic"

monotonic_ns = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Profile, seed, faults, and the tapes made of the first two. Shared by all backends that behave alike."""

    profile: Profile
    seed: int
    faults: tuple[Fault, ...]
    library: TapeLibrary

    @classmethod
    def of(cls, profile: Profile, seed: int, faults: tuple[Fault, ...] | None = None) -> Behaviour:
        """A behaviour with an empty library. The profile's own faults hold unless others are given."""
        return cls(
            profile, seed, profile.faults if faults is None else faults, TapeLibrary(ScriptWriter(profile, seed))
        )


class Backend:
    """One mock server: a port, a behaviour, counts. Owned by its `Mocks`."""

    def __init__(self, name: str, behaviour: Behaviour, loop: asyncio.AbstractEventLoop, schedule: Schedule) -> None:
        self.name = name
        self.stage = Stage(loop, schedule)
        self.counts = self.stage.counts
        self.connections: set[Connection] = set()
        self.host, self.port = "", 0
        self._holder: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._opening: asyncio.Task[None] | None = None
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour, since_ns: int | None = None) -> None:
        """Behaves so from the next request on. The clocks of changes and cold starts begin anew; those of faults at
        `since_ns`, which may lie ahead: a fault that is due at 0 then begins at that moment."""
        now = monotonic_ns()
        self.behaviour = behaviour
        stage = self.stage
        stage.profile = self.profile = profile = behaviour.profile
        stage.library = behaviour.library
        stage.pace = Pace(profile, now) if Pace.needed(profile) else None
        stage.prefixes = PrefixCache(profile.prefix_cache.prompts) if profile.prefix_cache else None
        since = now if since_ns is None else since_ns
        stage.faults = FaultPlan(behaviour.faults, self.name, behaviour.seed, since) or None
        for connection in self.connections:
            connection.forget()
        if self._holder:
            self._open_or_close(now)

    async def listen(self, host: str, port: int) -> None:
        """Opens the port (0: any free one). Raises OSError."""
        # A second socket, bound but not listening, keeps the port ours while a fault has closed it.
        self._holder = _bound(host, port)
        self.host, self.port = self._holder.getsockname()[:2]
        await self._serve(self._listening())
        self._open_or_close(monotonic_ns())

    def _listening(self) -> socket.socket:
        """From now on clients can connect; they are served when `_serve` has run."""
        sock = _bound(self.host, self.port)
        try:
            with contextlib.suppress(OSError):  # a kernel without it, or one that permits it to root only
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    async def _serve(self, sock: socket.socket) -> None:
        self._server = await self.stage.loop.create_server(
            lambda: Connection(self.stage, self.connections), sock=sock, backlog=_BACKLOG
        )

    def _open_or_close(self, now: int) -> None:
        """Does with the port what the faults say, and comes back when they may say otherwise."""
        faults = self.stage.faults
        closed = faults is not None and faults.port_closed(now)
        if closed and self._server:
            self._server.close()
            self._server = None
            self.counts.struck("refuse")
            for connection in list(self.connections):
                connection.close_if_idle()
        elif not closed and self._server is None and self._opening is None:
            self._opening = self.stage.loop.create_task(self._serve(self._listening()))
            self._opening.add_done_callback(self._opened)
        edge = faults.next_port_edge(now) if faults is not None else None
        if edge is not None:
            self.stage.schedule(edge, self._edge)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        task.result()
        self._edge(monotonic_ns())  # the faults may have changed meanwhile

    def _edge(self, now: int) -> None:
        if self._holder:
            self._open_or_close(now)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def tick(self, date: bytes) -> None:
        """Once a second."""
        self.stage.stamp = b"Date: %b\r\nX-Mock-Endpoint: %b\r\nX-Mock-Recv-Ns: " % (date, self.name.encode())

    def close(self) -> None:
        """Closes the port and every connection."""
        if self._server:
            self._server.close()
        if self._holder:
            self._holder.close()
            self._holder = None
        for connection in list(self.connections):
            connection.abort()


class Mocks:
    """K backends in one process, on one loop, with one wheel."""

    def __init__(self, behaviour: Behaviour, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarm = alarm(loop, self._ring)
        self._wheel = Wheel(self._alarm.set)
        self.backends = [Backend(f"mock-{i}", behaviour, loop, self._wheel.add) for i in range(count)]
        self._ticker: asyncio.TimerHandle | None = None

    async def listen(self, host: str, port: int) -> None:
        """Opens consecutive ports from `port`, or any free ones if it is 0. Raises `Refused` if one is in use."""
        self._tick()
        for i, backend in enumerate(self.backends):
            await opened(backend.listen(host, port + i if port else 0), host, port + i if port else 0)

    def _ring(self) -> None:
        self._wheel.run(monotonic_ns())

    def _tick(self) -> None:
        date = date_of(time.time())
        for backend in self.backends:
            backend.tick(date)
        self._ticker = self._loop.call_later(1.0, self._tick)

    def close(self) -> None:
        """Closes everything."""
        if self._ticker:
            self._ticker.cancel()
        self._alarm.close()
        for backend in self.backends:
            backend.close()


async def opened(opening: Awaitable[None], host: str, port: int) -> None:
    """Awaits the opening of a port; says in one sentence why it could not be opened."""
    try:
        await opening
    except OSError as exc:
        reason = "is in use" if exc.errno == errno.EADDRINUSE else f"cannot be opened: {exc.strerror or exc}"
        raise Refused(f"port {port} of {host} {reason}; choose another --port, or 0 for any free one") from exc


def _bound(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address that other sockets of this process may share as long as only one listens."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock
