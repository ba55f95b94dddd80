"""The place of one worker: its listening socket, the workers that serve it, and the counts of those that are gone.

One worker serves it at a time. One that was signalled to stop accepts no more connections but finishes what it has, for
up to `server.shutdown_timeout`. Its successor serves meanwhile, on the same socket: new connections wait until it has
started, half a second, and not until the other has finished.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from proxy.control.channel import Message
from proxy.core.stats import Snapshot, merge
from proxy.worker_process import WorkerProcess, WorkerState, describe_exit

log = logging.getLogger("proxy.supervisor")

# Pauses before a restart, in seconds. A single crash may be an accident, so the first one is short; a worker that keeps
# crashing has a cause that a quick restart does not cure.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LIVED_WELL = 30.0

# Starts a worker that inherits its end of the channel and its listening socket. Raises OSError.
Spawn = Callable[[socket.socket, socket.socket], "subprocess.Popen[bytes]"]


class RestartPause:
    """How long to wait before a restart. The pause doubles each time; a worker that lived long resets it."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, lived: float) -> float:
        """The pause after a worker that lived so many seconds."""
        if lived > LIVED_WELL:
            self._next = FIRST_PAUSE
        pause = self._next
        self._next = min(pause * 2, LONGEST_PAUSE)
        return pause


class WorkerSlot:
    """Owner of the workers of one place."""

    def __init__(self, index: int, engine: str, listener: socket.socket, spawn: Spawn) -> None:
        self.index = index
        self.engine = engine
        self.listener = listener
        self.restarts = 0
        self.served = asyncio.Event()  # for the first time
        self._spawn = spawn
        self._worker: WorkerProcess | None = None
        self._leaving: dict[WorkerProcess, asyncio.Future[int]] = {}
        self._standing_order: Message | None = None  # to stop: a process that is being started must hear of it, too
        self._retired: Snapshot | None = None

    @property
    def serving(self) -> bool:
        """Whether a worker serves here now."""
        return self._worker is not None and self._worker.state is WorkerState.SERVING

    def snapshot(self) -> Snapshot:
        """The newest counts of this slot, with those of workers that are gone."""
        retired = [] if self._retired is None else [self._retired]
        workers = [worker.last for worker in self._workers()] or [Snapshot(self.engine, {})]
        return merge((*retired, *workers))

    async def run(self, task: Callable[[], Message]) -> int | None:
        """Have one worker until it is gone or leaves. Returns its exit code, negative for a signal; None if it leaves.

        `task` makes the first message, when it is sent: a reload before that is in it, a later one is sent as an order.
        Raises OSError if no process can be started; then nothing is left behind.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._spawn(theirs, self.listener)
            except BaseException:
                ours.close()
                raise
        worker = self._worker = WorkerProcess(self.index, self.engine, process, self.served.set)
        try:
            await worker.connect(ours)
        except BaseException:
            self._worker = None
            raise
        worker.send({"worker": self.index, "listener": self.listener.fileno(), **task()})
        if self._standing_order is not None:
            worker.send(self._standing_order)
        ended = asyncio.ensure_future(worker.ended())
        leaves = asyncio.ensure_future(worker.leaves.wait())
        await asyncio.wait((ended, leaves), return_when=asyncio.FIRST_COMPLETED)
        leaves.cancel()
        self._worker = None
        if ended.done():
            self._retire(worker)
            return ended.result()
        self._leaving[worker] = ended
        ended.add_done_callback(lambda _: self._finished(worker, ended))
        return None

    def order(self, message: Message) -> None:
        """Send an order to the worker that serves, if there is one."""
        if self._worker is not None:
            self._worker.send(message)

    def stop(self, *, cut: bool = False) -> None:
        """Order all workers to stop, one that may be starting as well; with `cut` without waiting for streams."""
        self._standing_order = {"do": "cut" if cut else "stop"}
        for worker in self._workers():
            worker.send(self._standing_order)

    def kill(self) -> None:
        """End the processes at once that are alive."""
        for worker in self._workers():
            worker.kill()

    async def left(self) -> None:
        """Wait until those that leave are gone."""
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    async def ask(self, question: str, **more: Any) -> Message | None:
        """What the worker answers; None if none serves or it is too slow."""
        return await self._worker.ask(question, **more) if self._worker is not None else None

    async def refresh(self) -> None:
        """Fetch the counts of all workers."""
        await asyncio.gather(*(worker.ask("snapshot") for worker in self._workers()))

    async def watch(self) -> None:
        """Fetch the counts of all workers, and end those that hang."""
        await asyncio.gather(*(worker.watch() for worker in self._workers()))

    def _finished(self, worker: WorkerProcess, ended: asyncio.Future[int]) -> None:
        self._retire(worker)
        log.info("worker %d, which was signalled to stop, ended with %s", self.index, describe_exit(ended.result()))

    def _workers(self) -> list[WorkerProcess]:
        return [*self._leaving, *([] if self._worker is None else [self._worker])]

    def _retire(self, worker: WorkerProcess) -> None:
        """The process is gone: keep its counts; what it had in flight failed."""
        self._leaving.pop(worker, None)
        if worker.last.counts:
            final = worker.last.final()
            self._retired = final if self._retired is None else merge((self._retired, final))
