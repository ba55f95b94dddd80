"""One engine in one process: what `serve` runs by itself with one worker, and what the supervisor starts several of.

The parts are put together here and nowhere else: discovery and stats, the engine, and what stands beside the data path.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.config import Config, LoadedConfig
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import Snapshot, StatsCollector
from proxy.engines import ENGINES

log = logging.getLogger("proxy.worker")


class MissingPart(Exception):
    """Something this machine lacks is needed: one sentence with what to do."""


def new_instance() -> Instance:
    """A name no other proxy has: 508 is answered to a request that already carries it in Via."""
    return Instance(via=f"proxy-engines-{secrets.token_hex(5)}")


def engine_of(config: Config, index: int) -> str:
    """The engine of worker `index` (0-based): the last `canary.workers` of them run the canary's."""
    if config.canary.engine is not None and index >= config.server.workers - config.canary.workers:
        return config.canary.engine
    return config.proxy.engine


class Worker:
    """Owner of one engine and of what it needs. `config` is the whole file's; `index` says which worker this is."""

    def __init__(self, config: Config, instance: Instance, index: int = 0) -> None:
        self.index = index
        self.engine = engine_of(config, index)
        self.config = _as_run(config, self.engine)
        self.discovery = DiscoveryService(self.config.endpoint_specs(), time.monotonic())
        self.service = ENGINES[self.engine](self.config, self.discovery, StatsCollector(), instance)

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, a listening socket."""
        await self.service.start(sock)

    async def stop(self) -> None:
        """Stop accepting, let exchanges finish for up to `server.shutdown_timeout`, then cut the rest."""
        await self.service.stop(self.config.server.shutdown_timeout)

    def reload(self, config: Config) -> None:
        """Take a new config (whose unchangeable keys are the old ones); no stream is cut."""
        self.config = _as_run(config, self.engine)
        self.discovery.update(self.config.endpoint_specs(), time.monotonic())
        self.service.update_config(self.config)

    def snapshot(self) -> Snapshot:
        """The counts now."""
        return self.service.stats()

    def status(self) -> dict[str, Any]:
        """What an operator asks of this worker beyond counts."""
        return {"worker": self.index, "engine": self.engine, **self.service.status()}


def run_on_loop(main: Callable[[], Coroutine[Any, Any, int]], loop: str) -> int:
    """Run `main` on uvloop or on asyncio's own loop; its result is the exit code. Raises MissingPart."""
    if loop == "asyncio":
        factory = asyncio.new_event_loop
    elif importlib.util.find_spec("uvloop") is None:
        raise MissingPart("server.loop: uvloop is not installed; pip install uvloop, or write `loop: asyncio`")
    else:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


class Stop:
    """A stop asked for by a signal: `code` is the exit code it means. A second signal of either kind stops at once."""

    def __init__(self) -> None:
        self.code = 0
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.ask, 0)
        loop.add_signal_handler(signal.SIGINT, self.ask, 130)

    def ask(self, code: int) -> None:
        """Stop; asked twice, without waiting for anyone."""
        if self.asked.is_set():
            self.at_once.set()
        else:
            self.code = code
            self.asked.set()

    async def graceful(self, stopping: Coroutine[Any, Any, None]) -> None:
        """Wait until `stopping` is done or a second signal says at once."""
        work = asyncio.ensure_future(stopping)
        hurry = asyncio.ensure_future(self.at_once.wait())
        await asyncio.wait((work, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if work.done():
            work.result()
        else:
            log.warning("second signal: not waiting for exchanges in flight")
            work.cancel()


async def serve(loaded: LoadedConfig, sock: socket.socket, ready: Callable[[], None]) -> int:
    """Run one worker without a supervisor until a signal ends it. Returns the exit code."""
    stop = Stop()
    worker = Worker(loaded.config, new_instance())
    await worker.start(sock)
    ready()
    await stop.asked.wait()
    await stop.graceful(worker.stop())
    return stop.code


def _as_run(config: Config, engine: str) -> Config:
    """`config` as this worker runs it: a canary's own engine is the engine."""
    if config.proxy.engine == engine:
        return config
    return config.model_copy(update={"proxy": config.proxy.model_copy(update={"engine": engine})})
