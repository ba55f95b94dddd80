"""A loop, tasks and transports that do what a test says, and nothing sooner than real ones would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from proxy.olla.upstream import PlainUpstreamConnection


class FakeTransport:
    """Takes what is written, unless `stuck`; then it is kept in the write buffer until `take_all`."""

    def __init__(self, protocol: asyncio.BaseProtocol | None = None, peer: str = "192.0.2.1") -> None:
        self.protocol = protocol
        self.peer = peer
        self.written = b""
        self.closed = False
        self.reading = True
        self.stuck = False
        self.buffered = 0
        self.high = 65536
        self.paused = False

    def write(self, data: bytes) -> None:
        self.written += data
        if self.stuck:
            self.buffered += len(data)
            self._pause()

    def set_write_buffer_limits(self, high: int | None = None) -> None:
        self.high = 65536 if high is None else high
        self._pause()

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def take_all(self) -> None:
        """The peer took everything."""
        self.stuck, self.buffered = False, 0
        if self.paused:
            self.paused = False
            self.protocol.resume_writing()  # type: ignore[union-attr]

    def _pause(self) -> None:
        if self.buffered > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()  # type: ignore[union-attr]

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> Any:
        return (self.peer, 1) if name == "peername" else None

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        pass

    abort = close


class FakeTask:
    """A task that ends when the test says so, and whose callbacks run a pass of the loop later, as real ones do."""

    def __init__(self, coro: Coroutine[Any, Any, PlainUpstreamConnection], loop: FakeLoop) -> None:
        self._coro = coro
        self._loop = loop
        self._done: list[Callable[[Any], None]] = []
        self._result: PlainUpstreamConnection | None = None
        self._error: Exception | None = None
        self._cancelled = False
        self.over = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._done.append(callback)

    def run(self) -> None:
        try:
            self._coro.send(None)
        except StopIteration as stop:
            self._result = stop.value
        except OSError as exc:
            self._error = exc
        self._end()

    def cancel(self) -> None:
        if self.over:
            return  # its callbacks are on their way
        self._coro.close()  # as a task that is cancelled before its first step
        self._cancelled = True
        self._end()

    def _end(self) -> None:
        self.over = True
        self._loop.soon += [partial(callback, self) for callback in self._done]

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> Exception | None:
        return self._error

    def result(self) -> PlainUpstreamConnection:
        assert self._result is not None
        return self._result


class FakeLoop:
    """The loop, and the Dialer, that a pool is given."""

    def __init__(self) -> None:
        self.tasks: list[FakeTask] = []
        self.soon: list[Callable[[], None]] = []  # for the next pass
        self.fail = False
        self.connections: list[PlainUpstreamConnection] = []  # all that were made
        self.asked: list[tuple[object, ...]] = []
        self.now = 0.0

    def create_task(self, coro: Coroutine[Any, Any, PlainUpstreamConnection]) -> FakeTask:
        self.tasks.append(FakeTask(coro, self))
        return self.tasks[-1]

    async def connect(self, host: str, port: int, context: object, make: Callable[[], PlainUpstreamConnection]) -> Any:
        self.asked.append((host, port, context))
        if self.fail:
            raise ConnectionRefusedError("refused")
        connection = make()
        connection.connection_made(FakeTransport(connection))  # type: ignore[arg-type]  # all that is asked of one
        self.connections.append(connection)
        return connection

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self.soon.append(partial(callback, *arguments))

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        """Tests tick by themselves."""

    def time(self) -> float:
        return self.now

    def end_tasks(self) -> None:
        """What the network decided is known; nobody was told yet."""
        for task in self.tasks:
            if not task.over:
                task.run()

    def turn(self) -> None:
        """One pass: what was due when it began."""
        due, self.soon = self.soon, []
        for callback in due:
            callback()

    def run(self) -> None:
        """Until nothing is left to do."""
        while self.soon or not all(task.over for task in self.tasks):
            self.end_tasks()
            self.turn()
