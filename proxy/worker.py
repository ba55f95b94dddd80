"""One engine in one process: what `serve` runs by itself with one worker, and what the supervisor starts several of.

The parts are put together here and nowhere else: discovery and stats, the engine, and what stands beside the data path.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from proxy.config import Config, LoadedConfig, merge_reload, parse
from proxy.control import build_info, gc_settings, logs
from proxy.control.channel import BrokenChannel, Channel, Message, open_channel, receive_first
from proxy.control.checks import HealthChecker
from proxy.control.recorders import Recorders
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint
from proxy.core.service import Instance
from proxy.core.stats import Snapshot, StatsCollector
from proxy.engines import engine_class, fixed_keys
from proxy.net.dial import Dialer
from proxy.net.tls import CannotTrust, read_authorities
from proxy.process import EXIT_TIMEOUT, Stop, Unavailable, reload_logged, run_on_loop

log = logging.getLogger("proxy.serve")


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
        self.instance = instance
        self.engine = engine_of(config, index)
        self._file_config = config
        self.config = _as_run(config, self.engine)
        self.digest = self.config.digest()
        self._started_at = time.monotonic()
        self.discovery = DiscoveryService(self.config.endpoint_specs(), self._started_at)
        dialer = Dialer()
        self.service = engine_class(self.engine)(self.config, self.discovery, StatsCollector(), instance, dialer)
        self._checker = HealthChecker(self.discovery, dialer)
        self._recorders = Recorders(self.config.runtime.recorders)
        self._heap: gc_settings.Heap | None = None
        self.started = asyncio.Event()
        self._about: dict[str, Any] = {}

    async def start(self, sock: socket.socket) -> None:
        """Serve on `sock`, a listening socket. Raises Unavailable."""
        load_certificates(self.config)
        await self.service.start(sock)
        self._checker.start()
        settings = self.config.runtime.gc
        # Last, so that everything that lives as long as the worker is alive by now.
        self._heap = gc_settings.apply(
            ballast=settings.ballast, thresholds=settings.thresholds, freeze=settings.freezes(self.engine)
        )
        self._about = {"module_hash": build_info.module_hash(), "versions": build_info.versions()}
        self._recorders.start()
        self.started.set()

    async def stop(self) -> None:
        """Stop accepting, let exchanges finish for up to `server.shutdown_timeout`, then cut the rest."""
        await self.service.stop(self.config.server.shutdown_timeout)
        await self._checker.stop()
        self._recorders.stop()

    def reload(self, config: Config) -> list[str]:
        """Take a new config without cutting a stream; returns a sentence for each value that has to wait.

        Raises Unavailable before anything is changed.
        """
        load_certificates(config)
        self._file_config, refused = merge_reload(self._file_config, config, fixed_keys(self._file_config))
        self.config = _as_run(self._file_config, self.engine)
        self.digest = self.config.digest()
        self.discovery.update(self.config.endpoint_specs(), time.monotonic())
        self.service.update_config(self.config)
        logging.getLogger("proxy").setLevel(self.config.server.log_level.upper())
        return refused

    def snapshot(self) -> Snapshot:
        """The counts now."""
        return self.service.stats()

    def status(self) -> dict[str, Any]:
        """What an operator asks of this worker beyond counts."""
        status = self.service.status()
        of_engine = status.get("endpoints", {})
        now = time.monotonic()
        return {
            **status,
            "worker": self.index,
            "pid": os.getpid(),
            "engine": self.engine,
            "uptime_seconds": round(now - self._started_at, 3),
            "endpoints": {
                e.name: {**self._endpoint_status(e, now), **of_engine.get(e.name, {})} for e in self.discovery.endpoints
            },
        }

    def runtime(self, since_ns: int | None) -> dict[str, Any]:
        """What this interpreter is and did since then (None: only totals); times are CLOCK_MONOTONIC ns."""
        return {
            "worker": self.index,
            "pid": os.getpid(),
            "engine": self.engine,
            "config_hash": self.digest,
            **self._about,
            "heap": self._heap.as_json() if self._heap else {},
            "rss_bytes": build_info.rss_bytes(),
            "now_ns": time.monotonic_ns(),
            **self._recorders.as_json(since_ns),
        }

    def _endpoint_status(self, endpoint: Endpoint, now: float) -> dict[str, Any]:
        health = self.discovery.health_of(endpoint)
        checked = endpoint.spec.health_enabled
        return {
            "url": endpoint.spec.url,
            "priority": endpoint.spec.priority,
            "healthy": endpoint.healthy,
            "active": endpoint.active,
            "checks": {
                "enabled": checked,
                "path": endpoint.spec.health_path or health.path,
                "failures_in_a_row": health.failures,
                "successes_in_a_row": health.successes,
                "next_in_seconds": round(max(health.due_at - now, 0), 3) if checked else None,
            },
        }


class SingleWorker:
    """The admin listener's source when there is one worker and no supervisor."""

    def __init__(self, worker: Worker, source: str) -> None:
        self._worker = worker
        self._source = source
        self.stopping = False

    def health(self) -> dict[str, Any]:
        """Ok until a stop was asked for; that no endpoint is healthy is the endpoints' illness, and said beside it."""
        discovery = self._worker.discovery
        return {
            "status": "stopping" if self.stopping else "ok",
            "endpoints": {"configured": len(discovery.endpoints), "healthy": len(discovery.routable)},
        }

    async def snapshots(self) -> list[Snapshot]:
        """The worker's counts."""
        return [self._worker.snapshot()]

    async def status(self) -> dict[str, Any]:
        """The worker's status and what is the proxy's."""
        return {
            "engine": self._worker.engine,
            "instance": self._worker.instance.via,
            "config": {"source": self._source, "hash": self._worker.digest},
            "workers": [self._worker.status()],
        }

    async def runtime(self, since_ns: int | None) -> dict[str, Any]:
        """The worker's view."""
        return self._worker.runtime(since_ns)


def load_certificates(config: Config) -> None:
    """Read the authorities of all endpoints (again) now, not while requests wait. Raises Unavailable."""
    try:
        read_authorities(config.endpoint_specs())
    except CannotTrust as exc:
        raise Unavailable(str(exc)) from exc


async def serve_alone(
    loaded: LoadedConfig, sock: socket.socket, admin_sock: socket.socket, ready: Callable[[], None]
) -> int:
    """Run one worker and the admin listener until a signal ends it. Returns the exit code."""
    # Here and not above: a worker under a supervisor has no admin listener, and prometheus_client takes 2.3 MiB.
    from proxy.control.admin import AdminListener

    stop = Stop()
    stop.listen(interrupts=True)
    worker = Worker(loaded.config, new_instance())
    source = SingleWorker(worker, loaded.source)
    admin = AdminListener(source)

    def hang_up() -> None:
        if worker.started.is_set():  # until then the file has just been read
            reload_logged(lambda: worker.reload(loaded.again().config), stop)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    await worker.start(sock)
    await admin.start(admin_sock)
    ready()
    await stop.asked.wait()
    source.stopping = True
    log.info("stopping: waiting up to %gs for streams in flight", worker.config.server.shutdown_timeout)
    await stop.graceful(worker.stop())
    admin.close()
    return stop.code


def run_supervised(channel_fd: int) -> int:
    """A worker started by the supervisor, which sends its task over the channel. Returns the exit code."""
    faulthandler.enable()  # the supervisor ends a worker that hangs by SIGABRT: where it hung is written down
    sock = socket.socket(fileno=channel_fd)
    task = receive_first(sock)
    if task is None:
        return 0
    config = parse(task["config"], task["source"]).config
    logs.set_up(config.server.log_level, worker=task["worker"], pid=os.getpid())
    listener = socket.socket(fileno=task["listener"])
    worker = Worker(config, Instance(via=task["via"]), task["worker"])
    return run_on_loop(lambda: _serve_supervised(worker, listener, sock), config.server.loop)


async def _serve_supervised(worker: Worker, listener: socket.socket, sock: socket.socket) -> int:
    stop = Stop()
    stop.listen(interrupts=False)  # the supervisor decides what Ctrl-C means
    channel = await open_channel(sock)
    obeying = asyncio.ensure_future(_obey(worker, channel, stop))
    await worker.start(listener)
    channel.send({"ready": True})
    await stop.asked.wait()
    channel.send({"leaving": True})  # so that a successor accepts while streams finish here
    await stop.graceful(worker.stop())
    channel.send({"last": worker.snapshot().as_wire()})
    obeying.cancel()
    await channel.finish(EXIT_TIMEOUT)
    return stop.code


async def _obey(worker: Worker, channel: Channel, stop: Stop) -> None:
    """Do what the supervisor says until it hangs up, which is an order to stop: a worker does not outlive it."""
    try:
        while message := await channel.receive():
            try:
                await _do(worker, message, channel, stop)
            except Exception:  # after a question that fails the worker must still hear the next ones
                log.exception("%.200r failed", message)
    except BrokenChannel as exc:
        log.error("the supervisor sent %s", exc)
    if not stop.asked.is_set():
        log.warning("the supervisor is gone: stopping")
        stop.order()


async def _do(worker: Worker, message: Message, channel: Channel, stop: Stop) -> None:
    match message:
        case {"do": "stop"}:
            stop.order()
        case {"do": "cut"}:
            stop.cut()
        case {"do": "reload", "config": text, "source": source}:
            await worker.started.wait()
            reload_logged(lambda: worker.reload(parse(text, source).config), stop)
        case {"ask": question, "id": number}:
            channel.send({"id": number, "asked": question, "answer": _answer(worker, message)})
        case _:
            log.warning("the supervisor sent an unknown message: %.200r", message)


def _answer(worker: Worker, question: Message) -> Message:
    match question["ask"]:
        case "snapshot":
            return worker.snapshot().as_wire()
        case "status":
            return worker.status()
        case "runtime":
            return worker.runtime(question["since_ns"])
        case other:
            raise ValueError(f"an unknown question: {other}")


def _as_run(config: Config, engine: str) -> Config:
    """`config` as this worker runs it: a canary's own engine is the engine."""
    if config.proxy.engine == engine:
        return config
    return config.model_copy(update={"proxy": config.proxy.model_copy(update={"engine": engine})})
