"""An event loop whose clock jumps to what comes next. Passes are as asyncio and uvloop have them.

One pass polls the network, then runs what was ready when it began: what a callback adds runs in the next pass. uvloop
runs timers and ready callbacks before it polls, asyncio after; `polls_first` says which. Only what Olla uses is there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.network import Network
    from tests.simulation.transport import Transport

GRID = 2000  # moments a second at which the network moves: what is due at the same one meets in one pass


class Handle:
    """A callback that was scheduled, and may be cancelled."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        return self.callback is None


class SimulatedLoop(asyncio.AbstractEventLoop):
    """`after_event` runs behind every callback; `failed` takes what a callback raised."""

    def __init__(self, random: Random, polls_first: bool) -> None:
        self.now = 0.0
        self.passes = 0
        self.readable: dict[Transport, None] = {}
        self.unflushed: dict[Transport, None] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.after_event: Callable[[], None] = lambda: None
        self.failed: Callable[[str, BaseException | None], None]
        self.network: Network
        self._random = random
        self._polls_first = polls_first
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._count = 0

    # -- what asyncio's objects call

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = Handle(callback, args)
        self._count += 1
        heappush(self._timers, (when, self._count, handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.now + delay, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **_: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self)
        self.tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failed(str(context.get("message")), context.get("exception"))

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        return self.network.serve(protocol_factory)

    # -- what the network calls

    def after(self, delay: float, callback: Callable[..., object], *args: Any) -> float:
        """Let the network do something `delay` seconds from now, at the next moment of the grid. Returns when."""
        when = round((self.now + delay) * GRID) / GRID
        if when < self.now:
            when = self.now
        self.at(when, callback, *args)
        return when

    def at(self, when: float, callback: Callable[..., object], *args: Any) -> None:
        """Let the network do something at that time."""
        self._count += 1
        heappush(self._events, (when, self._count, callback, args))

    # -- running

    def run_once(self) -> bool:
        """One pass; False when nothing will ever happen again."""
        if not self._ready and not self.readable:
            soonest = [heap[0][0] for heap in (self._events, self._timers) if heap]
            if not soonest:
                return False
            self.now = max(self.now, min(soonest))
        self.passes += 1
        if self._polls_first:
            self._poll()
            self._take_timers()
            self._run_ready()
        else:
            self._take_timers()
            self._run_ready()
            self._flush()
            self._poll()
            self._run_ready()
        self._flush()
        return True

    def run_until(self, done: Callable[[], bool], until: float) -> None:
        """Run passes until `done` or that time."""
        while not done() and self.now < until and self.run_once():
            pass

    def timers_left(self) -> list[Handle]:
        """Timers that would still fire."""
        return [handle for _, _, handle in self._timers if handle.callback is not None]

    def _poll(self) -> None:
        events, now = self._events, self.now
        while events and events[0][0] <= now:
            _, _, callback, args = heappop(events)
            callback(*args)
        if self.readable:
            ready = list(self.readable)
            self.readable.clear()
            if len(ready) > 1:
                self._random.shuffle(ready)
            for transport in ready:
                self._ready.append(Handle(transport.read_ready, ()))

    def _take_timers(self) -> None:
        timers, now = self._timers, self.now
        while timers and timers[0][0] <= now:
            self._ready.append(heappop(timers)[2])

    def _run_ready(self) -> None:
        ready = self._ready
        for _ in range(len(ready)):
            handle = ready.popleft()
            callback = handle.callback
            if callback is None:
                continue
            try:
                callback(*handle.args)
            except Exception as exc:
                self.failed(f"a callback raised: {callback!r}", exc)
            self.after_event()

    def _flush(self) -> None:
        while self.unflushed:
            transports = list(self.unflushed)
            self.unflushed.clear()
            for transport in transports:
                transport.flush()


def spawn(loop: SimulatedLoop, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task of the simulation itself."""
    return loop.create_task(coro)
