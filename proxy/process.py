"""What a process of the proxy does whatever runs in it: its loop, its orders to stop, its reloads."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from proxy.config import ConfigError

log = logging.getLogger("proxy.serve")

# A person's second order comes later than this, in seconds. Programs that pass a signal on to a group that got it
# already (timeout, npm, uv) repeat one key press within milliseconds.
PERSON_GAP = 1.0

# A process that has done its work has this long, in seconds, to be gone.
EXIT_TIMEOUT = 5.0


class Unavailable(Exception):
    """This machine lacks something that is needed: one sentence with what to do."""


def run_on_loop(main: Callable[[], Coroutine[Any, Any, int]], loop: str) -> int:
    """Run `main` on uvloop or on asyncio's own loop; its result is the exit code. Raises Unavailable."""
    require_loop(loop)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def require_loop(loop: str) -> None:
    """Raises Unavailable if that loop is not installed."""
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise Unavailable("server.loop: uvloop is not installed; pip install uvloop, or write `loop: asyncio`")


class Stop:
    """Orders to stop, and how far they go.

        running   --the first order, of any kind-->                            stopping
        stopping  --an interrupt, more than PERSON_GAP after the first order-> cutting

    SIGTERM is a machine's order. It may come any number of times and stays one order: dumb-init, timeout and systemd
    send it to the whole process group, so that a worker hears it from them and from its supervisor. SIGINT (Ctrl-C) is
    a person's: pressed again, it means that the person does not wait for streams any longer.

    `code` is the exit code that the first order means.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.code = 0
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self._clock = clock
        self._asked_at = 0.0

    def listen(self, *, interrupts: bool) -> None:
        """Take orders by signals: SIGTERM, and SIGINT where `interrupts`."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.order)
        if interrupts:
            loop.add_signal_handler(signal.SIGINT, self.interrupt)

    def order(self, code: int = 0) -> None:
        """Stop, and let streams in flight finish. Ordered again, nothing changes."""
        if not self.asked.is_set():
            self.code = code
            self._asked_at = self._clock()
            self.asked.set()

    def interrupt(self) -> None:
        """A person's order: the first stops, one that comes later cuts."""
        if self.asked.is_set() and self._clock() - self._asked_at > PERSON_GAP:
            self.cut()
        self.order(128 + signal.SIGINT)

    def cut(self) -> None:
        """Stop without waiting for streams in flight."""
        self.order()
        self.at_once.set()

    async def asked_within(self, seconds: float) -> bool:
        """Wait for an order, but no longer than that; whether there is one."""
        try:
            async with asyncio.timeout(seconds):
                await self.asked.wait()
        except TimeoutError:
            return False
        return True

    async def graceful(self, stopping: Coroutine[Any, Any, None]) -> None:
        """Wait until `stopping` is done, or until it has to be cut."""
        work = asyncio.ensure_future(stopping)
        cut = asyncio.ensure_future(self.at_once.wait())
        await asyncio.wait((work, cut), return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if work.done():
            work.result()
        else:
            log.warning("interrupted while stopping: not waiting for streams in flight")
            work.cancel()


def reload_logged(reload: Callable[[], list[str]], stop: Stop) -> None:
    """Do a reload asked for by SIGHUP and log how it went; a config that cannot be used changes nothing.

    Nor does any once the process stops: its listening socket, which a reload changes as well, is closed by then.
    """
    if stop.asked.is_set():
        log.warning("stopping: the config is not read again")
        return
    try:
        refused = reload()
    except (ConfigError, Unavailable) as exc:
        for sentence in str(exc).splitlines():
            log.error("config refused, the old one stays: %s", sentence)
        return
    for sentence in refused:
        log.warning("%s", sentence)
    log.info("config reloaded")
