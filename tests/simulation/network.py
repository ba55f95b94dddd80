"""Who listens where, and how connections come about: accepted, refused, never, and late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from tests.simulation.ledger import ClientWatch, UpstreamWatch
from tests.simulation.loop import SimulatedLoop
from tests.simulation.script import Mode
from tests.simulation.transport import Peer, Shape, Transport


@dataclass(slots=True, eq=False)
class Connect:
    """The proxy's wish for a connection, from the first step of its task to the last."""

    endpoint: str
    began_at: float
    task: asyncio.Task[Any] | None
    blamed: bool = False
    given_up: bool = False

    def is_cancelled(self) -> bool:
        """Whether the proxy gave it up, whether its task knows or not."""
        return self.task is not None and self.task.cancelling() > 0


class Host(Protocol):
    """An endpoint, as far as the network asks it."""

    def accept(self, name: str) -> tuple[Peer, UpstreamWatch]:
        """A connection of the proxy: the peer and who reads along."""

    def connected(self, peer: Any, transport: Transport) -> None:
        """It is there."""


class Server:
    """What `create_server` returns."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def close(self) -> None:
        self._network.accepting = None

    def is_serving(self) -> bool:
        return self._network.accepting is not None


class Network:
    """All connections of one run. `offence` is told of connects that the endpoint refused."""

    def __init__(
        self, loop: SimulatedLoop, shape: Shape, linger: int, random: Random, offence: Callable[[str, str, bool], None]
    ) -> None:
        self.loop = loop
        self.accepting: Callable[[], Any] | None = None
        self.clients: list[tuple[Transport, ClientWatch]] = []
        self.upstreams: list[tuple[Transport, UpstreamWatch]] = []
        self.connects: list[Connect] = []  # under way
        self.hosts: dict[str, Host] = {}
        self.modes: dict[str, Mode] = {}
        self.made = 0
        self.note: Callable[[str], None] = lambda _: None
        self._shape = shape
        self._linger = linger
        self._random = random
        self._offence = offence
        loop.network = self

    # -- for the proxy

    def serve(self, factory: Callable[[], Any]) -> Server:
        """Start accepting."""
        self.accepting = factory
        return Server(self)

    async def connect(self, endpoint: str, port: int, context: Any, factory: Callable[[], Any]) -> Any:
        """Open a connection to an endpoint: a Dialer."""
        connect = Connect(endpoint, self.loop.now, asyncio.current_task())
        self.connects.append(connect)
        self.note(f"{endpoint}: the proxy connects")
        random = self._random
        try:
            for _ in range(random.choice((0, 0, 0, 1, 3))):
                await asyncio.sleep(0)
            mode = self.modes[endpoint]
            answered: asyncio.Future[None] = self.loop.create_future()
            if mode.connects != "hang":
                self.loop.after(mode.delay, _resolve, answered)
            await answered
            if mode.connects == "refuse":
                connect.given_up = True
                self._offence(endpoint, "refused", True)
                raise ConnectionRefusedError(111, "Connect call failed")
            return await self._establish(factory, endpoint)
        except asyncio.CancelledError:
            connect.given_up = True
            self.note(f"{endpoint}: a connect since {connect.began_at:.4f} is cancelled")
            for _ in range(random.randint(0, self._linger)):
                await asyncio.sleep(0)
            raise
        finally:
            self.connects.remove(connect)

    async def _establish(self, factory: Callable[[], Any], endpoint: str) -> Any:
        protocol = factory()
        self.made += 1
        host = self.hosts[endpoint]
        peer, watch = host.accept(f"{endpoint}#{self.made}")
        transport = Transport(self.loop, protocol, peer, watch, self._shape, self._fork(), watch.name)
        self.upstreams.append((transport, watch))
        self.loop.call_soon(protocol.connection_made, transport)
        self.loop.call_soon(host.connected, peer, transport)
        made: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_soon(_resolve, made)
        try:
            await made
        except asyncio.CancelledError:
            transport.close()
            raise
        return protocol

    # -- for clients

    def dial(self, peer: Peer, watch: ClientWatch, connected: Callable[[Transport | None], None]) -> None:
        """A client connects; `connected` gets None when nobody listens."""
        self.loop.after(self._random.choice((0.0, 0.0005)), self._accept, peer, watch, connected)

    def _accept(self, peer: Peer, watch: ClientWatch, connected: Callable[[Transport | None], None]) -> None:
        if self.accepting is None:
            connected(None)
            return
        protocol = self.accepting()
        transport = Transport(self.loop, protocol, peer, watch, self._shape, self._fork(), watch.name)
        self.clients.append((transport, watch))
        watch.opened_at = watch.reading_since = self.loop.now
        self.loop.call_soon(protocol.connection_made, transport)
        self.loop.call_soon(connected, transport)

    def forget_closed(self) -> None:
        """Drop what is over from the lists."""
        self.clients = [pair for pair in self.clients if not pair[0].closed]
        self.upstreams = [pair for pair in self.upstreams if not pair[0].closed]

    def _fork(self) -> Random:
        return Random(self._random.getrandbits(32))


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
