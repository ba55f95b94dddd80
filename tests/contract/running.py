"""An engine that runs while a test talks to it: in a thread with a loop of its own, or as `python -m proxy serve`.

The environment chooses what all tests of the suite run on; `python -m tests.matrix` sets it:

* PROXY_ENGINES_TEST_LOOP=asyncio: the plain loop instead of uvloop.
* PROXY_ENGINES_TEST_SET='{"proxy.pools.buffers": false}': config keys, below those that a test sets itself.
* PROXY_ENGINES_TEST_WORKERS=2: processes with so many workers instead of a thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import uvloop

from proxy.config import Config, parse
from proxy.control.checks import HealthChecker
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.engines import engine_class
from proxy.net.dial import Dialer
from proxy.net.tls import read_authorities
from tests.contract.peers import PATIENCE, Client, Endpoint

LOOP = os.environ.get("PROXY_ENGINES_TEST_LOOP", "uvloop")
SET: dict[str, Any] = json.loads(os.environ.get("PROXY_ENGINES_TEST_SET", "{}"))
WORKERS = int(os.environ.get("PROXY_ENGINES_TEST_WORKERS", "1"))
# What a loop complained of after its test was over, when forgotten tasks and futures were collected.
LATE_TROUBLE: list[str] = []
ROOT = Path(__file__).parents[2]

Settings = Mapping[str, Any]
T = TypeVar("T")


def settings_text(engine: str, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> str:
    """A config file: `settings` are dotted keys, endpoints are peers or mappings as in the file."""
    data: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0, "loop": LOOP},
        "admin": {"port": 0},
        "proxy": {"engine": engine},
        "health": {"enabled": False},
        "endpoints": [{"name": e.name, "url": e.url} if isinstance(e, Endpoint) else dict(e) for e in endpoints],
    }
    for key, value in {**SET, **settings}.items():
        *sections, last = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return json.dumps(data)


class RunningProxy(Protocol):
    """What a test may ask of a running proxy, however it runs."""

    port: int

    def client(self) -> Client:
        """A new connection to it."""
        ...

    def stats(self) -> dict[str, Any]:
        """The counts, by the seed's names."""
        ...

    def status(self) -> dict[str, Any]:
        """What the engine says of itself."""
        ...

    def healthy(self) -> Mapping[str, bool | None]:
        """Which endpoints it believes to be healthy; None where its workers differ."""
        ...

    def reload(self, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> None:
        """Let it take another config."""
        ...

    def begin_stop(self, grace: float) -> Callable[[], None]:
        """Let it stop; the result waits until it has."""
        ...

    def close(self) -> None:
        """Stop it and check that it left nothing behind."""
        ...


def connect(port: int, receive_buffer: int | None = None) -> Client:
    """A new connection to a port of this machine; with a small `receive_buffer` little of an answer is under way."""
    sock = socket.socket()
    sock.settimeout(PATIENCE)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect(("127.0.0.1", port))
    return Client(sock)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it. Raises AssertionError with what did not happen."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def settled(read: Callable[[], dict[str, Any]], **wanted: int) -> dict[str, Any]:
    """Stats as soon as nothing is in flight and they show what is `wanted` (names without `proxy.requests.`).

    Raises AssertionError with the last ones seen.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        stats = read()
        shown = all(stats[f"proxy.requests.{name}"] == count for name, count in wanted.items())
        if shown and not stats["proxy.active_connections"]:
            return stats
        assert time.monotonic() < deadline, f"wanted {wanted} and nothing in flight, have {stats}"
        time.sleep(0.005)


def assert_identity(stats: Mapping[str, Any]) -> None:
    """total = success + failed + client_disconnected + active, always."""
    parts = [stats[f"proxy.requests.{name}"] for name in ("success", "failed", "client_disconnected")]
    assert stats["proxy.requests.total"] == sum(parts) + stats["proxy.active_connections"], stats


class ThreadProxy:
    """An engine in this process, on a loop in its own thread."""

    def __init__(self, engine: str, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> None:
        self.engine = engine
        self.config: Config = parse(settings_text(engine, endpoints, settings)).config
        self.trouble: list[str] = []
        self.discovery: DiscoveryService
        self._loop = uvloop.new_event_loop() if LOOP == "uvloop" else asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_trouble)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._stopped = False
        host = self.config.server.host
        both = host == "::"
        family = socket.AF_INET6 if both else socket.AF_INET
        sock = socket.create_server((host, 0), family=family, backlog=1024, dualstack_ipv6=both)
        sock.setblocking(False)
        self.port = int(sock.getsockname()[1])
        try:
            self.call(lambda: self._start(sock))
        except BaseException:
            self._end_loop()
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    async def _start(self, sock: socket.socket) -> None:
        self.discovery = DiscoveryService(self.config.endpoint_specs(), time.monotonic())
        instance = Instance(via=f"test-{self.port}")
        dialer = Dialer()
        self.service = engine_class(self.engine)(self.config, self.discovery, StatsCollector(), instance, dialer)
        await self.service.start(sock)
        self._checker = HealthChecker(self.discovery, dialer)
        if self.config.health.enabled:
            self._checker.start()

    def _on_trouble(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        said = f"{context.get('message')}: {context.get('exception')!r}"
        (LATE_TROUBLE if self._loop.is_closed() else self.trouble).append(said)

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine on the engine's loop."""

        async def run() -> T:
            return await make()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def do(self, function: Callable[[], T]) -> T:
        """Call a function on the engine's loop."""

        async def run() -> T:
            return function()

        return self.call(run)

    def client(self) -> Client:
        """A new connection to it."""
        return connect(self.port)

    def stats(self) -> dict[str, Any]:
        """The counts, by the seed's names."""
        return self.do(lambda: self.service.stats().as_json())

    def status(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self.do(self.service.status)

    def reload(self, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> None:
        """Let it take another config."""
        config = parse(settings_text(self.engine, endpoints, settings)).config

        def update() -> None:  # as Worker.reload has it
            read_authorities(config.endpoint_specs())
            self.discovery.update(config.endpoint_specs(), time.monotonic())
            self.service.update_config(config)

        self.do(update)

    def healthy(self) -> dict[str, bool]:
        """Which endpoints it believes to be healthy."""
        return self.do(lambda: {endpoint.name: endpoint.healthy for endpoint in self.discovery.endpoints})

    def begin_stop(self, grace: float) -> Callable[[], None]:
        """Let it stop; the result waits until it has."""
        self._stopped = True

        async def stop() -> None:
            await self._checker.stop()
            await self.service.stop(grace)

        future = asyncio.run_coroutine_threadsafe(stop(), self._loop)
        return lambda: future.result(grace + PATIENCE)

    def close(self) -> None:
        """Stop it and check that it left nothing behind: no task, no connection, no error, no endpoint in use."""
        try:
            if not self._stopped:
                self.begin_stop(0.05)()
            stats = self.stats()
            left = self.call(self._left_over)
        finally:
            self._end_loop()
        assert_identity(stats)
        assert stats["proxy.active_connections"] == 0, stats
        assert not any(row["active"] for row in stats["endpoints"].values()), stats["endpoints"]
        assert not left, left
        assert not self.trouble, self.trouble

    async def _left_over(self) -> list[str]:
        me = asyncio.current_task()
        for _ in range(50):
            tasks = [task for task in asyncio.all_tasks() if task is not me]
            if not tasks:
                break
            await asyncio.sleep(0.01)
        return [repr(task) for task in tasks]

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


class ProcessProxy:
    """`python -m proxy serve` with `workers` workers; stats and status come from its admin address."""

    def __init__(
        self,
        engine: str,
        endpoints: Sequence[Endpoint | Mapping[str, Any]],
        settings: Settings,
        workers: int = 1,
        *,
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self._workers = workers
        self._folder = tempfile.TemporaryDirectory()
        self._file = Path(self._folder.name) / "config.yaml"
        self._write(endpoints, settings)
        self._errors = (Path(self._folder.name) / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", str(self._file)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            preexec_fn=preexec,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it did not start: {self.stderr()}"
        ready = json.loads(line)
        self.port = int(ready["url"].rsplit(":", 1)[1])
        self.admin = ready["admin"]

    def _write(self, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> None:
        given = {"server.workers": self._workers, **settings}
        self._file.write_text(settings_text(self.engine, endpoints, given))

    def stderr(self) -> str:
        """What it wrote on stderr so far."""
        self._errors.flush()
        return Path(self._errors.name).read_text(errors="replace")

    def client(self) -> Client:
        """A new connection to it."""
        return connect(self.port)

    def admin_get(self, path: str) -> bytes:
        """A document of the admin address."""
        with urllib.request.urlopen(f"{self.admin}{path}", timeout=PATIENCE) as answer:
            return bytes(answer.read())

    def stats(self) -> dict[str, Any]:
        """The counts of all workers, by the seed's names."""
        return dict(json.loads(self.admin_get("/internal/stats")))

    def status(self) -> dict[str, Any]:
        """What the workers say of themselves."""
        return dict(json.loads(self.admin_get("/internal/status")))

    def healthy(self) -> dict[str, bool | None]:
        """Which endpoints the workers believe to be healthy; None where they differ."""
        workers = [worker["endpoints"] for worker in self.status()["workers"]]
        beliefs = {name: {endpoints[name]["healthy"] for endpoints in workers} for name in workers[0]}
        return {name: believed.pop() if len(believed) == 1 else None for name, believed in beliefs.items()}

    def reload(self, endpoints: Sequence[Endpoint | Mapping[str, Any]], settings: Settings) -> None:
        """Let it take another config; returns when it has."""
        before = json.loads(self.admin_get("/internal/runtime"))["config_hash"]
        self._write(endpoints, settings)
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE
        while json.loads(self.admin_get("/internal/runtime"))["config_hash"] == before:
            assert time.monotonic() < deadline, f"the config was not taken: {self.stderr()}"
            time.sleep(0.02)

    def begin_stop(self, grace: float) -> Callable[[], None]:
        """Let it stop; the result waits until it has. `grace` is the config's, `server.shutdown_timeout`."""
        self.process.send_signal(signal.SIGTERM)

        def wait() -> None:
            assert self.process.wait(grace + PATIENCE) == 0, self.stderr()

        return wait

    def close(self, expected: str | None = None) -> None:
        """Stop it and check that it ended well; complaints that hold `expected` are part of the test."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(1.2)
                except subprocess.TimeoutExpired:
                    self.process.send_signal(signal.SIGINT)  # a person's: without waiting for what is in flight
                    self.process.wait(PATIENCE)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()
            said = "".join(line for line in self.stderr().splitlines(True) if not expected or expected not in line)
            self._errors.close()
            self._folder.cleanup()
        assert "Traceback" not in said, said
        assert "never retrieved" not in said, said
