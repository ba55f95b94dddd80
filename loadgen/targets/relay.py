"""The raw relay: copies bytes both ways on uvloop and understands none of them. The floor for any proxy in Python.

    python -m loadgen.targets.relay [--port N] [--work N] [--delay-us N] [--extra-cpu SHARE] BACKEND_URL...

One upstream connection per client connection, backends in turn. The knobs make a relay that is worse by a known amount;
the harness is checked with them (`proxy-engines verify sensitivity`) and no campaign profile uses them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import uvloop

Address = tuple[str, int]


_DOCUMENT = json.dumps({"model": "mock-model", "messages": [{"role": "user", "content": "tell me more " * 70}]})


class Burden:
    """Work that is only there to be found again, for each chunk from the client: `work` times a JSON document is read
    and written, as a busy proxy might; a delay; and CPU in proportion to all that the process uses."""

    def __init__(self, work: int, delay_us: float, extra_cpu: float) -> None:
        self._work = work
        self._delay_s = delay_us / 1e6
        self._extra_cpu = extra_cpu
        self._spun_ns = 0

    def bear(self) -> None:
        """Called once per chunk that a client sent, before it is passed on."""
        for _ in range(self._work):
            json.dumps(json.loads(_DOCUMENT))
        if self._delay_s:
            # Spinning, not sleeping: a sleep is late by the timer slack (50 us) and would blur what is to be found.
            until = time.perf_counter() + self._delay_s
            while time.perf_counter() < until:
                pass
        if self._extra_cpu:
            # The whole process's CPU time, kernel included, grows by the share, whatever the load is.
            own = time.process_time_ns() - self._spun_ns
            goal = own + int(own * self._extra_cpu)
            while (now := time.process_time_ns()) < goal:
                pass
            self._spun_ns = max(now - own, self._spun_ns)


class Half(asyncio.Protocol):
    """One of the two connections of a pair; hands what it reads to the other. Bytes are passed on in the same call.

    A half-closed connection is closed, and the other with it once it has what was sent: no HTTP client here goes on
    after half a close, and passing it on by `write_eof` is suspected of two crashes of uvloop 0.23 ("double free").
    """

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: Half | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Bytes go out as they came in."""
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        """This end does not take more: stop reading from the other."""
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """It takes more again."""
        if self.peer is not None and self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """An aborted connection aborts the other, a closed one closes it."""
        peer, self.peer = self.peer, None
        if peer is not None and peer.transport is not None:
            peer.peer = None
            if exc is None:
                peer.transport.close()
            else:
                reset(peer.transport)


def reset(transport: asyncio.Transport) -> None:
    """Closes with RST: `abort` alone sends a clean FIN, which would turn a broken reply into a finished one."""
    socket_ = transport.get_extra_info("socket")
    if socket_ is not None:
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class ClientSide(Half):
    """The side that accepted: it opens its upstream and keeps what the client sends until that is there."""

    def __init__(self, next_backend: Callable[[], Address], burden: Burden | None) -> None:
        super().__init__()
        self._next_backend = next_backend
        self._burden = burden
        self._early: list[bytes] | None = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts to connect upstream."""
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        upstream = Half()
        host, port = self._next_backend()
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, host, port)
        except OSError:
            if self.transport is not None:
                reset(self.transport)
            return
        assert self.transport is not None and upstream.transport is not None
        if self.transport.is_closing():
            upstream.transport.abort()
            return
        self.peer, upstream.peer = upstream, self
        early, self._early = self._early, None
        if early:
            upstream.transport.write(b"".join(early))

    def data_received(self, data: bytes) -> None:
        """As `Half`, after the burden if there is one."""
        if self._burden is not None:
            self._burden.bear()
        if self._early is not None:
            self._early.append(data)
        else:
            super().data_received(data)


async def serve(backends: list[Address], port: int, burden: Burden | None) -> None:
    """Listens, prints the ready line, relays until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    turn = itertools.cycle(backends)
    server = await loop.create_server(lambda: ClientSide(lambda: next(turn), burden), "127.0.0.1", port, backlog=4096)
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps({"ready": True, "url": url, "admin": None, "pid": os.getpid()}), flush=True)
    await over.wait()
    server.close()


def main() -> None:
    """The command line of this process."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.targets.relay", description="raw TCP relay")
    parser.add_argument("backends", nargs="+", metavar="BACKEND_URL")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--work", type=int, default=0, help="read and write a JSON document so often per chunk")
    parser.add_argument("--delay-us", type=float, default=0.0, help="wait this long before passing on a client's chunk")
    parser.add_argument("--extra-cpu", type=float, default=0.0, help="burn this share of CPU time on top, e.g. 0.1")
    options = parser.parse_args()
    backends: list[Address] = []
    for url in options.backends:
        parts = urlsplit(url)
        if parts.hostname is None:
            sys.exit(f"{url}: must look like http://127.0.0.1:9001")
        backends.append((parts.hostname, parts.port or 80))
    knobs = options.work, options.delay_us, options.extra_cpu
    burden = Burden(*knobs) if any(knobs) else None
    uvloop.run(serve(backends, options.port, burden))


if __name__ == "__main__":
    main()
