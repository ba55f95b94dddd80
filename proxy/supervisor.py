"""Several workers behind one port: starts them, restarts those that die, adds up what they count. Serves no request.

Each worker has its own listening socket on the shared port (SO_REUSEPORT), made and kept here: the kernel deals
connections out among them, and those that wait for a worker that died are taken by its successor. The admin listener is
here, too, and asks the workers over their control channels.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from proxy.config import LoadedConfig, merge_reload
from proxy.control.admin import AdminListener
from proxy.control.build_info import rss_bytes
from proxy.control.channel import Message
from proxy.core.stats import Snapshot
from proxy.engines import fixed_keys
from proxy.process import EXIT_TIMEOUT, Stop, reload_logged
from proxy.worker import engine_of, load_certificates, new_instance
from proxy.worker_process import describe_exit
from proxy.worker_slot import FIRST_PAUSE, RestartPause, Spawn, WorkerSlot

log = logging.getLogger("proxy.supervisor")

_ASK_EVERY = 1.0

_UNAVAILABLE = 69
_INTERNAL_ERROR = 70


def spawn_worker(channel: socket.socket, listener: socket.socket) -> subprocess.Popen[bytes]:
    """A worker process. It ignores SIGINT and SIGHUP: a terminal sends them to the group, and the supervisor acts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # a child inherits the mask
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "proxy", "worker", str(channel.fileno())],
            pass_fds=(channel.fileno(), listener.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Supervisor:
    """Owner of the workers' processes and sockets; the admin listener's source when there are several workers."""

    def __init__(self, loaded: LoadedConfig, listeners: list[socket.socket], spawn: Spawn | None = None) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._via = new_instance().via
        self._stop = Stop()
        self._started_at = time.monotonic()
        self._all_ready = False
        self._slots = [
            WorkerSlot(i, engine_of(self._config, i), sock, spawn or spawn_worker) for i, sock in enumerate(listeners)
        ]

    async def run(self, admin_sock: socket.socket, ready: Callable[[], None]) -> int:
        """Run until a signal ends it, or until a worker does not even come up. Returns the exit code."""
        self._stop.listen(interrupts=True)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: reload_logged(self._reload, self._stop))
        supervising = [asyncio.ensure_future(self._supervise(slot)) for slot in self._slots]
        asking = [asyncio.ensure_future(self._keep_asking(slot)) for slot in self._slots]
        admin = AdminListener(self)
        await admin.start(admin_sock)
        if await self._wait_until_ready():
            ready()
            await self._stop.asked.wait()
            log.info("stopping: waiting up to %gs for streams in flight", self._config.server.shutdown_timeout)
        for task in asking:
            task.cancel()
        await self._stop_workers(supervising)
        admin.close()
        return self._stop.code

    def health(self) -> dict[str, Any]:
        """Ok while any worker serves: those that ended are being started again."""
        serving = sum(slot.serving for slot in self._slots)
        status = "stopping" if self._stop.asked.is_set() else "ok" if serving else "no worker"
        return {"status": status, "workers": {"configured": len(self._slots), "serving": serving}}

    async def snapshots(self) -> list[Snapshot]:
        """Fresh counts of every slot; of one that does not answer, its last ones.

        Endpoints that a reload removed are left out. Workers that live forget them; the rest, of those that died, would
        be less than was shown before, and so a counter that began anew.
        """
        await asyncio.gather(*(slot.refresh() for slot in self._slots))
        names = {endpoint.name for endpoint in self._config.endpoints}
        return [slot.snapshot().of_endpoints(names) for slot in self._slots]

    async def status(self) -> dict[str, Any]:
        """What is the proxy's, and each worker's own status."""
        answers = await asyncio.gather(*(slot.ask("status") for slot in self._slots))
        return {
            "engine": self._engines(),
            "instance": self._via,
            "config": {"source": self._loaded.source, "hash": self._config.digest()},
            "supervisor": {"pid": os.getpid(), "uptime_seconds": round(time.monotonic() - self._started_at, 3)},
            "workers": [
                {
                    "worker": slot.index,
                    "engine": slot.engine,
                    **(answer or {}),
                    "answering": answer is not None,
                    "restarts": slot.restarts,
                }
                for slot, answer in zip(self._slots, answers, strict=True)
            ],
        }

    async def runtime(self, since_ns: int | None) -> dict[str, Any]:
        """Each worker's view under `workers`. The supervisor has no recorders: it serves no request."""
        answers = await asyncio.gather(*(slot.ask("runtime", since_ns=since_ns) for slot in self._slots))
        workers = [answer for answer in answers if answer is not None]
        return {
            "pid": os.getpid(),
            "engine": self._engines(),
            "config_hash": self._config.digest(),
            "module_hash": _one_hash([worker["module_hash"] for worker in workers]),
            "versions": {name: v for worker in workers for name, v in worker["versions"].items()},
            "rss_bytes": rss_bytes(),
            "now_ns": time.monotonic_ns(),
            "recorders": self._config.runtime.recorders,
            "gc": [],
            "stalls": [],
            "workers": workers,
        }

    def _engines(self) -> str:
        return "+".join(sorted({slot.engine for slot in self._slots}))

    async def _keep_asking(self, slot: WorkerSlot) -> None:
        """Fetch a slot's counts once a second, so that a worker that is killed takes no more than that with it."""
        while True:
            await asyncio.sleep(_ASK_EVERY)
            await slot.watch()

    async def _wait_until_ready(self) -> bool:
        async def everyone() -> None:
            for slot in self._slots:
                await slot.served.wait()

        ready = asyncio.ensure_future(everyone())
        stop = asyncio.ensure_future(self._stop.asked.wait())
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        self._all_ready = ready.done()
        ready.cancel()
        stop.cancel()
        return self._all_ready

    async def _supervise(self, slot: WorkerSlot) -> None:
        """Keep a worker in a slot until the proxy stops. Never raises: nothing that happens to one ends another."""
        pauses = RestartPause()
        while not self._stop.asked.is_set():
            began = time.monotonic()
            how, code = await self._run(slot)
            # A signal to the whole group may reach a worker before its supervisor.
            if await self._stop.asked_within(FIRST_PAUSE):
                break
            if not (slot.served.is_set() or self._all_ready):
                log.error("worker %d %s before it served", slot.index, how)
                self._stop.order(code)
                break
            pause = pauses.after(time.monotonic() - began)
            log.error("worker %d %s; starting another in %gs", slot.index, how, pause)
            slot.restarts += 1
            await self._stop.asked_within(pause - FIRST_PAUSE)
        await slot.left()

    async def _run(self, slot: WorkerSlot) -> tuple[str, int]:
        """Have one process in a slot. Returns how it went, in words, and the exit code that means for the proxy."""
        try:
            code = await slot.run(self._task)
        except OSError as exc:  # no process, no memory, no descriptor left
            return f"could not be started ({exc.strerror or exc})", _UNAVAILABLE
        except Exception:
            log.exception("worker %d could not be supervised", slot.index)
            return "could not be supervised", _INTERNAL_ERROR
        if code is None:
            return "was signalled to stop and finishes what it has", 0
        return f"ended with {describe_exit(code)}", code if code > 0 else _INTERNAL_ERROR

    def _task(self) -> Message:
        return {"via": self._via, "config": self._config.as_written(), "source": self._loaded.source}

    def _reload(self) -> list[str]:
        loaded = self._loaded.again()
        load_certificates(loaded.config)
        self._config, refused = merge_reload(self._config, loaded.config, fixed_keys(self._config))
        for slot in self._slots:
            slot.order({"do": "reload", "config": self._config.as_written(), "source": loaded.source})
        logging.getLogger("proxy").setLevel(self._config.server.log_level.upper())
        return refused

    async def _stop_workers(self, supervising: list[asyncio.Task[None]]) -> None:
        """Order all workers to stop, wait for the grace period, cut, and kill what is still there."""
        for slot in self._slots:
            slot.stop()
            slot.listener.close()  # the last copy: from now on, connecting is refused instead of waited for
        cut = asyncio.ensure_future(self._stop.at_once.wait())
        gone = asyncio.gather(*supervising)
        grace = self._config.server.shutdown_timeout + EXIT_TIMEOUT
        await asyncio.wait((gone, cut), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if not gone.done():
            for slot in self._slots:
                slot.stop(cut=True)
            await asyncio.wait((gone,), timeout=EXIT_TIMEOUT)
        for slot in self._slots:
            slot.kill()
        await gone


def _one_hash(hashes: list[str]) -> str:
    """The hash that all share, or one over them all (a canary loads other modules); empty without answers."""
    different = sorted(set(hashes))
    if len(different) <= 1:
        return "".join(different)
    return hashlib.sha256(json.dumps(different).encode()).hexdigest()
