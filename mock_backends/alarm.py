"""Wakes an event loop at a time in nanoseconds. libuv's own timers know whole milliseconds only."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME


class Alarm(Protocol):
    """One alarm: setting it again replaces what was set."""

    def set(self, when: int) -> None:
        """Ring once the monotonic clock reads `when` ns."""

    def close(self) -> None:
        """Never ring again."""


def alarm(loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> Alarm:
    """The finest alarm this system has."""
    if sys.platform == "linux":
        return _TimerFd(loop, ring)
    return _LoopTimer(loop, ring)


class _TimerFd:
    """A timerfd watched by the loop (`os.timerfd_create` comes with Python 3.13). Setting it costs about 1 us."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._settime = libc.timerfd_settime
        # struct itimerspec: interval (s, ns), value (s, ns); time_t and long are both a C long on Linux.
        self._spec = (ctypes.c_long * 4)()
        self._pointer = ctypes.byref(self._spec)
        self._loop = loop
        self._ring = ring
        self._pending = False
        loop.add_reader(self._fd, self._rang)

    def set(self, when: int) -> None:
        self._pending = True
        spec = self._spec
        spec[2], spec[3] = divmod(when, 1_000_000_000)
        self._settime(self._fd, _ABSOLUTE, self._pointer, None)

    def _rang(self) -> None:
        # Setting a timerfd also takes back that it rang: a read, and its system call, is only needed if nobody does.
        self._pending = False
        self._ring()
        if not self._pending:
            self._read()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)


class _LoopTimer:
    """`call_later`: exact to a millisecond on uvloop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None

    def set(self, when: int) -> None:
        if self._handle:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0.0, (when - time.monotonic_ns()) / 1e9), self._ring)

    def close(self) -> None:
        if self._handle:
            self._handle.cancel()
