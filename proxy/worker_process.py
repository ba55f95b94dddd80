"""One worker: its process and the channel to it, from its start to its end.

    starting --it says that it serves--> serving --it says that it stops--> leaving --its process ends--> ended

A process may hang; a message may come twice, after its time or joined to the next. None of it ends the supervisor.
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
from proxy.core.stats import Snapshot
from proxy.process import EXIT_TIMEOUT

log = logging.getLogger("proxy.supervisor")

# How long a worker may take to answer; then its last numbers are shown. Longer than any pause of a healthy worker.
ANSWER_TIMEOUT = 2.0
# A process that does not say within this time that it serves is killed. Half a second is usual.
START_TIMEOUT = 60.0
# A worker that left so many questions in a row unanswered hangs. The supervisor asks one every three seconds then, and
# counts questions instead of seconds: while all of it stood still (Ctrl-Z, a suspended machine) it asked none.
HUNG_AFTER = 10
# After SIGABRT, for which `faulthandler` writes down where the process hangs; a stopped one does not even hear that.
ABORT_TIMEOUT = 1.0


class WorkerState(Enum):
    """How far a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"
    ENDED = "ended"


class WorkerProcess:
    """Owner of one process. `on_serving` is called when it says that it serves."""

    def __init__(
        self, index: int, engine: str, process: subprocess.Popen[bytes], on_serving: Callable[[], object]
    ) -> None:
        self.index = index
        self.state = WorkerState.STARTING
        self.leaves = asyncio.Event()  # it accepts no more connections, and finishes what it has
        self.last = Snapshot(engine, {})
        self._process = process
        self._on_serving = on_serving
        self._channel: Channel | None = None
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._numbers = itertools.count()
        self._unanswered = 0
        self._answered_at = time.monotonic()

    async def connect(self, sock: socket.socket) -> None:
        """Open our end of the channel. Raises OSError; then the process is ended and the socket closed."""
        try:
            self._channel = await open_channel(sock)
        except BaseException:
            sock.close()
            self._process.kill()
            await self._gone()
            raise

    def send(self, message: Message) -> None:
        """Send it, if there is anybody to take it."""
        if self._channel is not None:
            self._channel.send(message)

    async def ended(self) -> int:
        """Listen to the process until it is gone. Returns its exit code, negative for a signal."""
        assert self._channel is not None
        late = asyncio.get_running_loop().call_later(START_TIMEOUT, self._kill_if_starting)
        try:
            if not await self._listen(self._channel):
                self._process.kill()
            return await self._gone()
        finally:
            late.cancel()
            self._channel.close()
            self._channel = None
            self.state = WorkerState.ENDED
            for future in self._answers.values():
                future.cancel()
            self._answers.clear()

    async def ask(self, question: str, **more: Any) -> Message | None:
        """What the worker answers; None if it does not serve or is too slow."""
        if self._channel is None or self.state is WorkerState.STARTING:
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

    async def watch(self) -> None:
        """Ask for the counts, and end a worker that hangs."""
        if self.state is WorkerState.STARTING or await self.ask("snapshot") is not None:
            self._unanswered = 0
            self._answered_at = time.monotonic()
            return
        self._unanswered += 1
        if self._unanswered == HUNG_AFTER and self._process.poll() is None:
            silent = time.monotonic() - self._answered_at
            log.error(
                "worker %d (pid %d) answered nothing for %.0fs (%d questions in a row) and is killed",
                self.index,
                self._process.pid,
                silent,
                HUNG_AFTER,
            )
            self._process.send_signal(signal.SIGABRT)
            asyncio.get_running_loop().call_later(ABORT_TIMEOUT, self._process.kill)

    def kill(self) -> None:
        """End the process at once, if it is alive."""
        if self._process.poll() is None:
            log.error("worker %d did not stop in time and is killed", self.index)
            self._process.kill()

    def _kill_if_starting(self) -> None:
        if self.state is WorkerState.STARTING:
            log.error("worker %d does not serve after %gs and is killed", self.index, START_TIMEOUT)
            self._process.kill()

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
                if self.state is WorkerState.STARTING:
                    self.state = WorkerState.SERVING
                    self._on_serving()
            case {"leaving": True}:
                self.state = WorkerState.LEAVING
                self.leaves.set()
            case {"last": wire}:
                self.last = Snapshot.from_wire(wire)
            case {"answer": answer, "id": number, "asked": question}:
                if question == "snapshot":
                    # Here and not where it was asked: what comes after the worker's end must not count twice.
                    self.last = Snapshot.from_wire(answer)
                future = self._answers.get(number)
                if future is not None and not future.done():
                    future.set_result(answer)
            case _:
                log.warning("worker %d sent an unknown message: %.200r", self.index, message)

    async def _gone(self) -> int:
        """Wait until a worker that hung up has ended; one that does not end is killed."""
        deadline = time.monotonic() + EXIT_TIMEOUT
        while (code := self._process.poll()) is None:
            if time.monotonic() > deadline:
                self._process.kill()
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
