"""Whole exchanges of an engine in memory: a canned backend, and a client that sends again when an answer is whole."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from loadgen.micro.memory_loop import MemoryLoop, MemoryTransport
from loadgen.micro.suite import Run
from proxy.config import parse
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.engines import engine_class
from proxy.net.dial import Dialer

_LONGEST = 0.05  # seconds an exchange may take before the engine counts as silent; real ones take 0.002


class WorkNotDone(Exception):
    """The engine did not do its work: what was timed would mean nothing."""


class Rig:
    """One engine on a MemoryLoop, one client connection. `request` is sent, the backend says `pieces`, one a pass.

    `body` is what the client must find at the end of the reply. Raises WrongReply where it does not.
    """

    def __init__(
        self,
        engine: str,
        request: bytes,
        pieces: Sequence[bytes],
        body: bytes,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._request = request
        self._request_end = request[-16:]
        self._pieces = tuple(pieces)
        self._body = body
        self._end = pieces[-1][-16:]
        self._left = 0
        self._kept: list[bytes] | None = []
        self._loop = MemoryLoop(self._connect_backend)
        # Without a limit on purpose: nothing here is to wait for a connection.
        text = yaml.safe_dump({"endpoints": [{"name": "a", "url": "http://127.0.0.1:9001"}]})
        config = parse(text, "benchmark", {"proxy.engine": engine, "health.enabled": False, **(settings or {})}).config
        self.stats = StatsCollector()
        discovery = DiscoveryService(config.endpoint_specs(), time.monotonic())
        self.service = engine_class(engine)(config, discovery, self.stats, Instance(via="benchmark"), Dialer())
        asyncio.set_event_loop(self._loop)
        sock = socket.socket()
        try:
            self._loop.run_until_complete(self.service.start(sock))
        finally:
            sock.close()
        self._client = self._loop.run_until_complete(self._loop.accept())
        self._client.taken = self._answered
        try:
            self._check()
        except WorkNotDone:
            self.close()
            raise

    def run(self, times: int) -> None:
        """That many exchanges, one after the other."""
        done = self.stats.success
        self._turn(times)
        # Asked after the last byte, which an engine may count a pass later (and its last of the run before).
        if self._left or abs(self.stats.success - done - times) > 1:
            raise WorkNotDone(f"{self.stats.success - done} of {times} exchanges succeeded")

    def close(self) -> None:
        """End the engine and the loop."""
        self._loop.run_until_complete(self.service.stop(0.0))
        tasks = asyncio.all_tasks(self._loop)  # aiohttp's, which end once they hear that their connections closed
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
        asyncio.set_event_loop(None)
        self._loop.close()

    def _turn(self, times: int) -> None:
        self._left = times
        self._loop.call_soon(self._client.deliver, self._request)
        watchdog = self._loop.call_later(5.0 + times * _LONGEST, self._loop.stop)  # an engine that falls silent
        self._loop.run_forever()
        watchdog.cancel()

    def _check(self) -> None:
        self._turn(1)
        reply, self._kept = b"".join(self._kept or ()), None
        if not reply.startswith(b"HTTP/1.1 200 ") or not reply.endswith(self._body):
            raise WorkNotDone(f"the engine answered {reply[:200]!r}")

    def _answered(self, data: bytes) -> None:
        if self._kept is not None:
            self._kept.append(data)
        if data.endswith(self._end):
            self._left -= 1
            if self._left:
                self._loop.call_soon(self._client.deliver, self._request)
            else:
                self._loop.stop()

    def _connect_backend(self, transport: MemoryTransport) -> None:
        end, loop, pieces = self._request_end, self._loop, self._pieces
        last = len(pieces) - 1

        def say(number: int) -> None:
            if number < last:
                loop.call_soon(say, number + 1)
            transport.deliver(pieces[number])

        def taken(data: bytes) -> None:
            if data.endswith(end):
                loop.call_soon(say, 0)

        transport.taken = taken


@contextmanager
def exchanges(
    engine: str, request: bytes, pieces: Sequence[bytes], body: bytes, settings: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """The benchmark's work: exchanges of `engine` with `settings` (dotted config keys) on top of the defaults."""
    rig = Rig(engine, request, pieces, body, settings)
    try:
        yield rig.run
    finally:
        rig.close()
