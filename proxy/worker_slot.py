"""The place of one worker: its listening socket, the process that serves it now, and the counts of those before.

    starting --it says that it serves--> serving --its process ends--> paused --after a pause--> starting ...

and `stopped` from any of them when the supervisor stops. A process may not start, or hang; a message may come twice,
after its time or joined to the next. None of it ends the slot.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from proxy.control.channel import BrokenChannel, Channel, Message, open_channel
from proxy.core.stats import Snapshot, merge
from proxy.process import EXIT_TIMEOUT

log = logging.getLogger("proxy.supervisor")

# How long a worker may take to answer; then its last numbers are shown. Longer than any pause of a healthy worker.
ANSWER_TIMEOUT = 2.0
# A process that does not say within this time that it serves is killed. Half a second is usual.
START_TIMEOUT = 60.0

# Pauses before a restart, in seconds. A single crash may be an accident, so the first one is short; a worker that keeps
# crashing has a cause that a quick restart does not cure.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LIVED_WELL = 30.0

# Starts a worker that inherits its end of the channel and its listening socket. Raises OSError.
Spawn = Callable[[socket.socket, socket.socket], "subprocess.Popen[bytes]"]


class SlotState(Enum):
    """What the slot does now."""

    STARTING = "starting"
    SERVING = "serving"
    PAUSED = "paused"
    STOPPED = "stopped"


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
    """Owner of one worker's process and channel, one after the other."""

    def __init__(self, index: int, engine: str, listener: socket.socket, spawn: Spawn) -> None:
        self.index = index
        self.engine = engine
        self.listener = listener
        self.restarts = 0
        self.state = SlotState.PAUSED
        self.served = asyncio.Event()  # for the first time
        self._spawn = spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._standing_order: Message | None = None  # to stop: a process that is being started must hear of it, too
        self._last = Snapshot(engine, {})
        self._retired: Snapshot | None = None
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count()

    @property
    def serving(self) -> bool:
        """Whether a worker serves here now."""
        return self.state is SlotState.SERVING

    def snapshot(self) -> Snapshot:
        """The newest counts of this slot, with those of its dead."""
        return self._last if self._retired is None else merge((self._retired, self._last))

    async def run(self, task: Callable[[], Message]) -> int:
        """Start one process and listen to it until it is gone. Returns its exit code, negative for a signal.

        `task` makes the first message, when it is sent: a reload before that is in it, a later one is sent as an order.
        Raises OSError if no process can be started; then nothing is left behind.
        """
        self.state = SlotState.STARTING
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._process = self._spawn(theirs, self.listener)
            except BaseException:
                ours.close()
                raise
        try:
            channel = self._channel = await open_channel(ours)
        except BaseException:
            ours.close()
            process.kill()
            await _gone(process)
            raise
        channel.send({"worker": self.index, "listener": self.listener.fileno(), **task()})
        if self._standing_order is not None:
            channel.send(self._standing_order)
        late = asyncio.get_running_loop().call_later(START_TIMEOUT, self._kill_if_starting)
        try:
            if not await self._listen(channel):
                process.kill()
            return await _gone(process)
        finally:
            late.cancel()
            channel.close()
            self._channel = None
            self._retire()

    def order(self, message: Message) -> None:
        """Send an order, if there is anybody to take it."""
        if self._channel is not None:
            self._channel.send(message)

    def stop(self, *, cut: bool = False) -> None:
        """Order the worker to stop, the one that may be starting as well; with `cut` without waiting for streams."""
        self._standing_order = {"do": "cut" if cut else "stop"}
        self.order(self._standing_order)

    def kill(self) -> None:
        """End the process at once, if it is alive."""
        if self._process is not None and self._process.poll() is None:
            log.error("worker %d did not stop in time and is killed", self.index)
            self._process.kill()

    def _kill_if_starting(self) -> None:
        if self.state is SlotState.STARTING and self._process is not None:
            log.error("worker %d does not serve after %gs and is killed", self.index, START_TIMEOUT)
            self._process.kill()

    async def ask(self, question: str, **more: Any) -> Message | None:
        """What the worker answers; None if none serves or it is too slow."""
        if self._channel is None or not self.serving:
            return None
        number = next(self._numbers)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._channel.send({"ask": question, "id": number, **more})
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                return await answer
        except (TimeoutError, asyncio.CancelledError):
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return None
        finally:
            self._answers.pop(number, None)

    async def _listen(self, channel: Channel) -> bool:
        """Take messages until the worker hangs up: True, or until it cannot be understood any more: False."""
        try:
            while message := await channel.receive():
                try:
                    self._handle(message)
                except (KeyError, TypeError, ValueError, AttributeError):
                    log.exception("worker %d sent an unusable message", self.index)
        except BrokenChannel as exc:
            log.error("worker %d sent %s and is killed", self.index, exc)
            return False
        return True

    def _handle(self, message: Message) -> None:
        match message:
            case {"ready": True}:
                if self.state is SlotState.STARTING:
                    self.state = SlotState.SERVING
                    self.served.set()
            case {"last": wire}:
                self._last = Snapshot.from_wire(wire)
            case {"answer": answer, "id": number, "asked": question}:
                if question == "snapshot":
                    # Here and not where it was asked: what comes after the worker's end must not count twice.
                    self._last = Snapshot.from_wire(answer)
                future = self._answers.get(number)
                if future is not None and not future.done():
                    future.set_result(answer)
            case _:
                log.warning("worker %d sent an unknown message: %.200r", self.index, message)

    def _retire(self) -> None:
        """The process is gone: keep its counts; what it had in flight failed."""
        self.state = SlotState.PAUSED
        if self._last.counts:
            final = self._last.final()
            self._retired = final if self._retired is None else merge((self._retired, final))
        self._last = Snapshot(self.engine, {})
        for future in self._answers.values():
            future.cancel()
        self._answers.clear()


async def _gone(process: subprocess.Popen[bytes]) -> int:
    """Wait until a worker that hung up has ended; one that does not end is killed."""
    deadline = time.monotonic() + EXIT_TIMEOUT
    while (code := process.poll()) is None:
        if time.monotonic() > deadline:
            process.kill()
        await asyncio.sleep(0.01)
    return code


def describe_exit(code: int) -> str:
    """An exit code, or the signal of a negative one, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
