"""One simulated TCP connection: the transport that the proxy holds, and the wire to its peer.

    peer --send--> [in flight] --> [inbox] --data_received--> proxy
    peer <--arrived-- [kernel] <-- [out] <----------write---- proxy

What the peer sends is real bytes. What the proxy writes is read at once by `watch` (see ledger.py), so that only its
length travels on: a peer knows by the count of bytes that arrived how far it got.

Where asyncio and uvloop differ, `reads_on` says which: uvloop reads until nothing is left, the end of the stream
included, asyncio once a pass.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random
from socket import SO_LINGER, SOL_SOCKET, AddressFamily
from typing import Any, Protocol

from tests.simulation.loop import SimulatedLoop

LATENCIES = (0.0, 0.0, 0.0005, 0.0005, 0.001, 0.003)
READ_SIZE = 256 * 1024  # of one read, as asyncio and uvloop have it


class Peer(Protocol):
    """The other end: a client or an endpoint."""

    def arrived(self, total: int) -> None:
        """So many bytes of what the proxy wrote have come by now."""

    def ended(self, clean: bool) -> None:
        """The proxy sent FIN (clean) or RST."""


class Watch(Protocol):
    """Reads along at the proxy's end."""

    def wrote(self, data: bytes) -> None:
        """The proxy wrote."""

    def delivered(self, data: bytes) -> None:
        """The proxy is given bytes, now."""

    def end_delivered(self, clean: bool) -> None:
        """The proxy is told of the peer's FIN or RST, now."""

    def paused(self, reading: bool) -> None:
        """The proxy stopped reading (False) or reads again."""

    def writing_paused(self, paused: bool) -> None:
        """The proxy is told to write no more (True), or to go on."""

    def closing(self) -> None:
        """The proxy closed or aborted, or the connection broke."""

    def lost(self) -> None:
        """`connection_lost` ran."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a connection's kernel and loop are like, in bytes."""

    kernel: int  # taken from the proxy before the peer has it
    high_water: int
    reads_on: bool


class FakeSocket:
    """What is asked of `get_extra_info("socket")`: no address family that has options, and SO_LINGER."""

    __slots__ = ("resets",)
    family = AddressFamily.AF_UNIX

    def __init__(self) -> None:
        self.resets = False

    def fileno(self) -> int:
        return -1

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (SOL_SOCKET, SO_LINGER):
            self.resets = True

    def listen(self, backlog: int) -> None:
        """It listens anyway."""


class Transport(asyncio.Transport):
    """The proxy's end of a connection, and what lies between it and the peer."""

    def __init__(
        self, loop: SimulatedLoop, protocol: Any, peer: Peer, watch: Watch, shape: Shape, random: Random, name: str
    ) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.peer = peer
        self.watch = watch
        self.name = name
        self.out = 0  # written, in our memory
        self.kernel = 0  # taken by the kernel, not yet at the peer
        self.closed = False  # the socket is
        self.broken = False  # a RST came or was sent: nothing passes any more
        self.window: int | None = None  # what the peer would read now; None is all
        self._arrived = 0
        self._shape = shape
        self._high = shape.high_water
        self._random = random
        self._socket = FakeSocket()
        self._inbox: list[bytes] = []
        self._end: str | None = None  # fin or rst, behind the inbox
        self._reading = True
        self._protocol_paused = False
        self._closing = False
        self._lost = False
        self._eof = False
        self._fin_sent = False
        self._fin_arrived = False
        self._peer_closed = False
        self._in_at = 0.0
        self._pumping = False
        self._buffered = isinstance(protocol, asyncio.BufferedProtocol)

    def __repr__(self) -> str:
        return f"<connection {self.name}>"

    # -- asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self._socket
        return ("10.0.0.1", 4000) if name == "peername" else default

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def get_write_buffer_size(self) -> int:
        return self.out

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = self._shape.high_water if high is None else high
        self._maybe_pause()

    def pause_reading(self) -> None:
        if self.is_reading():
            self._reading = False
            self.watch.paused(False)

    def resume_reading(self) -> None:
        if not self._closing and not self._reading:
            self._reading = True
            self.watch.paused(True)
            self._maybe_readable()

    def write(self, data: Any) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not data or self._lost:
            return
        self.watch.wrote(bytes(data))
        idle = not self.out
        self.out += len(data)
        if idle:
            self.flush()
        self._maybe_pause()

    def write_eof(self) -> None:
        if self._closing or self._eof:
            return
        self._eof = True
        if not self.out:
            self._send_fin()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.watch.closing()
        if not self.out:
            self._lose(None)

    def abort(self) -> None:
        self._force_close(None)

    # -- from the loop

    def read_ready(self) -> None:
        """The loop found something to read."""
        while self.is_reading() and not self._lost:
            if self._inbox:
                data = b"".join(self._inbox) if len(self._inbox) > 1 else self._inbox[0]
                self._inbox.clear()
                if len(data) > READ_SIZE:
                    self._inbox.append(data[READ_SIZE:])
                    data = data[:READ_SIZE]
                self._guarded(self._hand_over, data)
                if not self._shape.reads_on:
                    break
            elif self._end == "fin":
                self._end = "over"
                self.watch.end_delivered(True)
                keep = self._guarded(self.protocol.eof_received)
                if not keep:
                    self.close()
            elif self._end == "rst":
                self._end = "over"
                self.watch.end_delivered(False)
                self._force_close(ConnectionResetError(104, "Connection reset by peer"))
            else:
                break
        self._maybe_readable()

    def flush(self) -> None:
        """Give the kernel what it takes."""
        if not self.out or self._lost:
            return
        if self.broken or self._end == "rst":
            self._end = "over"
            self.watch.end_delivered(False)
            self._force_close(BrokenPipeError(32, "Broken pipe"))
            return
        taken = min(self.out, self._shape.kernel - self.kernel)
        if taken > 0:
            self.out -= taken
            self.kernel += taken
            self.pump()
            self._maybe_resume()
        if not self.out:
            if self._eof:
                self._send_fin()
            if self._closing:
                self._lose(None)

    # -- from the peer

    def send(self, data: bytes, delay: float = 0.0) -> None:
        """The peer sends bytes."""
        self._come(delay, self._data_came, data)

    def send_fin(self, delay: float = 0.0) -> None:
        """The peer will send nothing more, but still reads."""
        self._come(delay, self._end_came, "fin")

    def send_rst(self, delay: float = 0.0) -> None:
        """The peer breaks the connection: what is on its way to it is lost."""
        self._peer_closed = True
        self._come(delay, self._end_came, "rst")

    def peer_closes(self, delay: float = 0.0) -> None:
        """The peer closes: FIN, and a RST for whatever still comes."""
        self._peer_closed = True
        self.send_fin(delay)

    def pump(self) -> None:
        """Let what the kernel holds travel to the peer, if that reads."""
        if self._pumping or not (self.kernel or (self._fin_sent and not self._fin_arrived)):
            return
        if self.window == 0 and self.kernel and not self._peer_closed:
            return
        self._pumping = True
        self.loop.after(self._latency(), self._travel)

    def process_ended(self) -> None:
        """The process is gone: what it had not given to the kernel is lost; the kernel closes."""
        if self.closed:
            return
        self.out = 0
        self.closed = self._lost = self._closing = True
        if self._inbox:
            self._reset_peer()
        else:
            self._send_fin()

    # -- inside

    def _hand_over(self, data: bytes) -> None:
        if not self._buffered:
            self.watch.delivered(data)
            self.protocol.data_received(data)
            return
        while data and self.is_reading():
            buffer = self.protocol.get_buffer(-1)
            count = min(len(buffer), len(data))
            buffer[:count] = data[:count]
            self.watch.delivered(data[:count])
            data = data[count:]
            self.protocol.buffer_updated(count)
        if data:
            self._inbox.insert(0, data)

    def _guarded(self, callback: Any, *args: Any) -> Any:
        try:
            return callback(*args)
        except Exception as exc:
            self.loop.failed(f"{callback.__qualname__} raised", exc)
            self._force_close(exc)
            return None

    def _latency(self) -> float:
        return self._random.choice(LATENCIES)

    def _come(self, delay: float, callback: Any, *args: Any) -> None:
        when = self.loop.now + delay + self._latency()
        self._in_at = when = max(when, self._in_at)
        self.loop.after(when - self.loop.now, callback, *args)

    def _data_came(self, data: bytes) -> None:
        if self.closed:
            self._reset_peer()
        elif self._end is None:
            self._inbox.append(data)
            self._maybe_readable()

    def _end_came(self, end: str) -> None:
        if self.closed:
            return
        if end == "rst":
            self.broken = True
            self.kernel = 0
            if self.out:
                self.loop.unflushed[self] = None  # the next attempt to send fails
        if self._end is not None:
            return
        self._end = end
        self._maybe_readable()

    def _maybe_readable(self) -> None:
        if (self._inbox or self._end in ("fin", "rst")) and self.is_reading():
            self.loop.readable[self] = None

    def _travel(self) -> None:
        self._pumping = False
        if self._peer_closed:
            if self.kernel:
                self.kernel = 0
                self._end_came("rst")
            return
        if self.broken:
            return
        count = self.kernel if self.window is None else min(self.kernel, self.window)
        if count:
            self.kernel -= count
            self._arrived += count
            if self.window is not None:
                self.window -= count
            self.peer.arrived(self._arrived)
            if self.out:
                self.flush()
        if self._fin_sent and not self.kernel and not self.out:
            if not self._fin_arrived:
                self._fin_arrived = True
                self.peer.ended(True)
        else:
            self.pump()

    def _send_fin(self) -> None:
        if not self._fin_sent:
            self._fin_sent = True
            self.pump()

    def _reset_peer(self) -> None:
        if not self.broken:
            self.broken = True
            self.kernel = 0
            self.loop.after(self._latency(), self.peer.ended, False)

    def _maybe_pause(self) -> None:
        if self.out > self._high and not self._protocol_paused and not self._lost:
            self._protocol_paused = True
            self.watch.writing_paused(True)
            self._guarded(self.protocol.pause_writing)

    def _maybe_resume(self) -> None:
        if self._protocol_paused and self.out <= self._high // 4:
            self._protocol_paused = False
            self.watch.writing_paused(False)
            self._guarded(self.protocol.resume_writing)

    def _force_close(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self.out = 0
        if not self._closing:
            self._closing = True
            self.watch.closing()
        self._lose(exc)

    def _lose(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self.loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: Exception | None) -> None:
        try:
            self.protocol.connection_lost(exc)
        finally:
            self.closed = True
            self.watch.lost()
            if self._socket.resets or self._inbox:
                self._reset_peer()
            else:
                self._send_fin()
