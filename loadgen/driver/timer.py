"""Calls functions at exact moments on gevent's loop.

libev, below gevent, waits in whole milliseconds: a request due in 0.3 ms is sent up to 1.1 ms late (p99, with nothing
else to do). A Linux timerfd is a file descriptor that becomes readable at a nanosecond of CLOCK_MONOTONIC; watched by
the same loop it brings that to 0.15-0.2 ms, and it costs one system call for each time it is set.
"""

from __future__ import annotations

import ctypes
import heapq
import os
import sys
from collections.abc import Callable
from itertools import count
from time import monotonic_ns
from typing import Any, Final

import gevent
from greenlet import getcurrent

_READ: Final = 1  # libev's event mask
_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1  # TFD_TIMER_ABSTIME
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC are these


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """Calls back at moments of CLOCK_MONOTONIC, in order, from the hub: callbacks must not block.

    Owned by one gevent hub (thread). `close` frees the file descriptor; nothing is called after it, and who sleeps is
    woken, or a user that thinks when its test ends would sleep for ever. `exact` is False
    where there is no timerfd (other systems than Linux): then moments are met to about a millisecond.
    """

    def __init__(self) -> None:
        self._hub = gevent.get_hub()
        self._heap: list[list[Any]] = []  # [due_ns, number, callback or None if cancelled]
        self._asleep: dict[int, Callable[[], object]] = {}  # number of the entry -> what wakes the sleeper
        self._numbers = count()
        self._firing = False  # then the timer is set once, after the last callback
        self.exact = sys.platform == "linux"
        if self.exact:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._spec = _TimerSpec()
            self._spec_address = ctypes.byref(self._spec)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create failed: " + os.strerror(ctypes.get_errno()))
            self._watcher = self._hub.loop.io(self._fd, _READ)
            # Of all that is ready in one turn of the loop, what is due comes first: replies can wait to be read.
            self._watcher.priority = self._hub.loop.MAXPRI
            self._watcher.start(self._fire)
        else:
            self._watcher = self._hub.loop.timer(0)

    def at(self, due_ns: int, callback: Callable[[], object]) -> list[Any]:
        """Has `callback` called at `due_ns`, or as soon as possible if that is past. Returns what `cancel` takes."""
        entry = [due_ns, next(self._numbers), callback]
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry and not self._firing:
            self._arm(due_ns)
        return entry

    @staticmethod
    def cancel(entry: list[Any]) -> None:
        """Makes sure the callback is not called any more; harmless if it was."""
        entry[2] = None

    def sleep_until(self, due_ns: int) -> None:
        """Lets other greenlets run until `due_ns`, or until `close`."""
        wake = getcurrent().switch
        entry = self.at(due_ns, wake)
        self._asleep[entry[1]] = wake
        try:
            self._hub.switch()
        finally:
            del self._asleep[entry[1]]
            self.cancel(entry)

    def close(self) -> None:
        """Frees the file descriptor and wakes who sleeps."""
        self._heap.clear()
        for wake in self._asleep.values():
            self._hub.loop.run_callback(wake)
        self._watcher.stop()
        self._watcher.close()
        if self.exact:
            os.close(self._fd)

    def _arm(self, due_ns: int) -> None:
        if self.exact:
            value = self._spec.value
            # 0 would disarm it; any past moment fires at once.
            value.seconds, value.nanoseconds = divmod(max(due_ns, 1), 1_000_000_000)
            # Setting it again also takes back the readiness of the moment that has passed: no read is needed.
            self._libc.timerfd_settime(self._fd, _ABSOLUTE, self._spec_address, None)
        else:
            self._watcher.stop()
            self._watcher = self._hub.loop.timer(max(due_ns - monotonic_ns(), 0) / 1e9)
            self._watcher.start(self._fire)

    def _disarm(self) -> None:
        if self.exact:
            self._spec.value.seconds = self._spec.value.nanoseconds = 0
            self._libc.timerfd_settime(self._fd, 0, self._spec_address, None)

    def _fire(self) -> None:
        heap = self._heap
        now = monotonic_ns()
        # What is added by the callbacks below waits for the next turn of the loop, so that sockets are served between.
        last = next(self._numbers)
        self._firing = True
        try:
            while heap and heap[0][0] <= now and heap[0][1] < last:
                callback = heapq.heappop(heap)[2]
                if callback is not None:
                    self._call(callback)
        finally:
            self._firing = False
        while heap and heap[0][2] is None:
            heapq.heappop(heap)
        if heap:
            self._arm(heap[0][0])
        else:
            self._disarm()

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception:
            self._hub.handle_error(self, *sys.exc_info())
