"""Several workers behind one port: starts them, restarts those that die, adds up what they count. Serves no request.

Each worker has its own listening socket on the shared port (SO_REUSEPORT), made and kept here: the kernel deals
connections out among them, and those that wait for a worker that died are taken by its successor. The admin listener is
here, too, and asks the workers over their control channels.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
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

from proxy.config import LoadedConfig, taken_over
from proxy.control.admin import AdminListener
from proxy.control.channel import Channel, Message, open_channel
from proxy.control.runtime import rss_bytes
from proxy.core.stats import Snapshot, merge
from proxy.engines import fixed_keys
from proxy.worker import Stop, engine_of, load_certificates, new_instance, reload_logged

log = logging.getLogger("proxy.supervisor")

# A worker that keeps dying is started again after these, in seconds: at once is right for an accident, not for a cause.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
_LIVED_WELL = 30.0

# How long a worker may take to answer; then its last numbers are shown. Longer than any pause of a healthy worker.
_ANSWER_TIMEOUT = 2.0
_ASK_EVERY = 1.0
# After the grace period a worker has this long to be gone.
_EXIT_TIMEOUT = 5.0

_INTERNAL_ERROR = 70


class Seat:
    """The place of one worker: its socket, the process that sits there now, and what its predecessors left behind."""

    def __init__(self, index: int, engine: str, listener: socket.socket) -> None:
        self.index = index
        self.engine = engine
        self.listener = listener
        self.ready = asyncio.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.channel: Channel | None = None
        self.restarts = 0
        self.last = Snapshot(engine, {})
        self._buried: Snapshot | None = None
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count()

    def snapshot(self) -> Snapshot:
        """The newest counts of this seat, with those of its dead."""
        return self.last if self._buried is None else merge((self._buried, self.last))

    def bury(self) -> None:
        """The worker died: keep its counts, what it had in flight failed."""
        if self.last.counts:
            buried = self.last.buried()
            self._buried = buried if self._buried is None else merge((self._buried, buried))
        self.last = Snapshot(self.engine, {})
        self.ready.clear()
        for future in self._answers.values():
            future.cancel()
        self._answers.clear()

    async def ask(self, question: str, **more: Any) -> Message | None:
        """What the worker answers; None if there is none or it is too slow."""
        if self.channel is None or not self.ready.is_set():
            return None
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self.channel.send({"ask": question, "id": number, **more})
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                return await answer
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return None
        finally:
            self._answers.pop(number, None)

    async def listen_to(self, channel: Channel) -> None:
        """Take messages until the worker is gone."""
        while message := await channel.receive():
            match message:
                case {"ready": True}:
                    self.ready.set()
                case {"last": wire}:
                    self.last = Snapshot.from_wire(wire)
                case {"answer": answer, "id": number, "asked": question}:
                    if question == "snapshot":
                        # Here and not where it was asked: what comes after the worker's end must not count twice.
                        self.last = Snapshot.from_wire(answer)
                    future = self._answers.get(number)
                    if future is not None and not future.done():
                        future.set_result(answer)


class Supervisor:
    """Owner of the workers' processes and sockets; the admin listener's source when there are several workers."""

    def __init__(self, loaded: LoadedConfig, listeners: list[socket.socket]) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._via = new_instance().via
        self._stop = Stop()
        self._started_at = time.monotonic()
        self._all_ready = False
        self._seats = [Seat(i, engine_of(self._config, i), sock) for i, sock in enumerate(listeners)]

    async def run(self, admin_sock: socket.socket, ready: Callable[[], None]) -> int:
        """Run until a signal ends it, or until a worker does not even come up. Returns the exit code."""
        self._stop.listen((signal.SIGTERM, 0), (signal.SIGINT, 130))
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: reload_logged(self._reload))
        keeping = [asyncio.ensure_future(self._keep(seat)) for seat in self._seats]
        asking = asyncio.ensure_future(self._keep_asking())
        admin = AdminListener(self)
        await admin.start(admin_sock)
        if await self._wait_until_ready():
            ready()
            await self._stop.asked.wait()
            log.info("stopping: waiting up to %gs for streams in flight", self._config.server.shutdown_timeout)
        asking.cancel()
        await self._stop_workers(keeping)
        admin.close()
        return self._stop.code

    def health(self) -> dict[str, Any]:
        """Ok while every worker serves or is being replaced by others that do."""
        serving = sum(seat.ready.is_set() for seat in self._seats)
        status = "stopping" if self._stop.asked.is_set() else "ok" if serving else "no worker"
        return {"status": status, "workers": {"configured": len(self._seats), "serving": serving}}

    async def snapshots(self) -> list[Snapshot]:
        """Fresh counts of every seat; of one that does not answer, its last ones."""
        await asyncio.gather(*(seat.ask("snapshot") for seat in self._seats))
        return [seat.snapshot() for seat in self._seats]

    async def status(self) -> dict[str, Any]:
        """What is the proxy's, and each worker's own status."""
        answers = await asyncio.gather(*(seat.ask("status") for seat in self._seats))
        return {
            "engine": self._engines(),
            "instance": self._via,
            "config": {"source": self._loaded.source, "hash": self._config.digest()},
            "supervisor": {"pid": os.getpid(), "uptime_seconds": round(time.monotonic() - self._started_at, 3)},
            "workers": [
                {
                    "worker": seat.index,
                    "engine": seat.engine,
                    **(answer or {}),
                    "answering": answer is not None,
                    "restarts": seat.restarts,
                }
                for seat, answer in zip(self._seats, answers, strict=True)
            ],
        }

    async def runtime(self, since_ns: int | None) -> dict[str, Any]:
        """Each worker's view under `workers`. The supervisor has no recorders: it serves no request."""
        answers = await asyncio.gather(*(seat.ask("runtime", since_ns=since_ns) for seat in self._seats))
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
        return "+".join(sorted({seat.engine for seat in self._seats}))

    async def _keep_asking(self) -> None:
        """What a worker counted in its last second is lost if it is killed; no more than that."""
        while True:
            await asyncio.sleep(_ASK_EVERY)
            await self.snapshots()

    async def _wait_until_ready(self) -> bool:
        async def everyone() -> None:
            for seat in self._seats:
                await seat.ready.wait()

        ready = asyncio.ensure_future(everyone())
        stop = asyncio.ensure_future(self._stop.asked.wait())
        await asyncio.wait((ready, stop), return_when=asyncio.FIRST_COMPLETED)
        self._all_ready = ready.done()
        ready.cancel()
        stop.cancel()
        return self._all_ready

    async def _keep(self, seat: Seat) -> None:
        """Keep a worker in its seat until the proxy stops."""
        pause = _FIRST_PAUSE
        while not self._stop.asked.is_set():
            began = time.monotonic()
            code = await self._sit(seat)
            if self._stop.asked.is_set():
                return
            if not self._all_ready:
                log.error("worker %d ended with %s before it served", seat.index, _how(code))
                self._stop.ask(code if code > 0 else _INTERNAL_ERROR)
                return
            if time.monotonic() - began > _LIVED_WELL:
                pause = _FIRST_PAUSE
            log.error("worker %d ended with %s; starting another in %gs", seat.index, _how(code), pause)
            seat.restarts += 1
            try:
                async with asyncio.timeout(pause):
                    await self._stop.asked.wait()
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _sit(self, seat: Seat) -> int:
        """Start one worker and listen to it until it is gone. Returns its exit code, negative for a signal."""
        ours, theirs = socket.socketpair()
        try:
            seat.process = _spawn(theirs, seat.listener)
        finally:
            theirs.close()
        seat.channel = await open_channel(ours)
        seat.channel.send(
            {
                "worker": seat.index,
                "via": self._via,
                "listener": seat.listener.fileno(),
                "config": self._config.as_written(),
                "source": self._loaded.source,
            }
        )
        if self._stop.asked.is_set():
            seat.channel.send({"do": "stop"})
        try:
            await seat.listen_to(seat.channel)
            return await _gone(seat.process)
        finally:
            seat.channel.close()
            seat.channel = None
            seat.bury()

    def _reload(self) -> list[str]:
        loaded = self._loaded.again()
        load_certificates(loaded.config)
        self._config, refused = taken_over(self._config, loaded.config, fixed_keys(self._config))
        order = {"do": "reload", "config": self._config.as_written(), "source": loaded.source}
        for seat in self._seats:
            if seat.channel is not None:
                seat.channel.send(order)
        logging.getLogger("proxy").setLevel(self._config.server.log_level.upper())
        return refused

    async def _stop_workers(self, keeping: list[asyncio.Task[None]]) -> None:
        """Ask all workers to stop, wait for the grace period, and kill what is still there."""
        self._tell_all({"do": "stop"})
        for seat in self._seats:
            seat.listener.close()  # the last copy: from now on, connecting is refused instead of waited for
        done = asyncio.gather(*keeping)
        again = asyncio.ensure_future(self._stop.at_once.wait())
        grace = self._config.server.shutdown_timeout + _EXIT_TIMEOUT
        await asyncio.wait((done, again), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            self._tell_all({"do": "stop"})
            await asyncio.wait((done,), timeout=_EXIT_TIMEOUT)
        again.cancel()
        for seat in self._seats:
            if seat.process is not None and seat.process.poll() is None:
                log.error("worker %d did not stop in time and is killed", seat.index)
                seat.process.kill()
        await done

    def _tell_all(self, order: Message) -> None:
        for seat in self._seats:
            if seat.channel is not None:
                seat.channel.send(order)


def _spawn(channel: socket.socket, listener: socket.socket) -> subprocess.Popen[bytes]:
    """A worker process. Ctrl-C and a hang-up go to the whole group; workers hear of both from their supervisor only."""
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


async def _gone(process: subprocess.Popen[bytes]) -> int:
    """Wait until a worker that hung up has ended; one that does not end is killed."""
    deadline = time.monotonic() + _EXIT_TIMEOUT
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            process.kill()
        await asyncio.sleep(0.01)
    return code


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _one_hash(hashes: list[str]) -> str:
    """The hash that all share, or one over them all (a canary loads other modules); empty if nobody answered."""
    different = sorted(set(hashes))
    if len(different) <= 1:
        return "".join(different)
    return hashlib.sha256(json.dumps(different).encode()).hexdigest()
