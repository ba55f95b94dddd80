"""What the interpreter does to the loop: garbage collections and stalls, recorded as intervals of CLOCK_MONOTONIC.

Both recorders write into rings of integers made beforehand. A garbage collector's callback must not allocate containers
(that is what triggers collections), and a recorder that grows would itself be what it looks for. Nothing here is on the
path of a request; reading happens on demand, from the admin listener.

Cost: about 1 us a collection. A beat takes 2.4 us of a busy loop, 0.02 % of a core: the timer 0.8, the run delay 0.7,
the thread's CPU clock 0.4. An idle loop pays about 0.5 % of a core, because each beat wakes it: a timer that does
nothing at all costs 0.4 % there. `runtime.recorders: false` removes both, and METHODOLOGY.md has the command that
measures them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic_ns, thread_time_ns
from typing import Any

# Half an hour of one collection a second; 160 KiB together with the stalls.
GC_ENTRIES = 4096
STALL_ENTRIES = 1024

# At 2 ms the wake-ups of an otherwise idle loop cost three times as much.
PERIOD_NS = 10_000_000
# A beat this much late is a stall. Timers of a healthy loop are late by up to 2 ms (uvloop's have whole milliseconds).
# So a call that blocks for PERIOD + LATE is always found, a shorter one only if a beat falls into its first part.
LATE_NS = 5_000_000

CAUSES = ("gc", "cpu", "off-cpu", "unknown")


class Ring:
    """The newest `capacity` rows of four integers. Owner: one recorder. Row times (the first two) never decrease."""

    __slots__ = ("_capacity", "_seen", "_slots", "lost", "pushed")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots = array("q", bytes(8 * 4 * capacity))
        self._seen = 0
        self.pushed = 0
        self.lost = 0

    def push(self, start: int, end: int, a: int, b: int) -> None:
        """Add a row in place of the oldest. Allocates no container."""
        slots = self._slots
        at = self.pushed % self._capacity * 4
        slots[at] = start
        slots[at + 1] = end
        slots[at + 2] = a
        slots[at + 3] = b
        self.pushed += 1

    def newest_first(self) -> Iterator[tuple[int, int, int, int]]:
        """The rows that are still here, newest first."""
        slots = self._slots
        for row in range(self.pushed - 1, max(self.pushed - self._capacity, 0) - 1, -1):
            at = row % self._capacity * 4
            yield slots[at], slots[at + 1], slots[at + 2], slots[at + 3]

    def read(self, since_ns: int) -> list[tuple[int, int, int, int]]:
        """The rows that ended at `since_ns` or later, oldest first.

        Rows that were overwritten before anyone read them are added to `lost`.
        """
        self.lost += max(self.pushed - self._capacity - self._seen, 0)
        self._seen = self.pushed
        rows = []
        for row in self.newest_first():
            if row[1] < since_ns:
                break
            rows.append(row)
        rows.reverse()
        return rows


class GcRecorder:
    """Every collection as (start, end, generation, collected), with counts and times by generation."""

    def __init__(self, capacity: int = GC_ENTRIES) -> None:
        self.ring = Ring(capacity)
        self.count = array("q", [0, 0, 0])
        self.total_ns = array("q", [0, 0, 0])
        self.longest_ns = array("q", [0, 0, 0])
        self._started = 0

    def install(self) -> None:
        """Start recording."""
        gc.callbacks.append(self.callback)

    def remove(self) -> None:
        """Stop recording; what was recorded stays."""
        with suppress(ValueError):
            gc.callbacks.remove(self.callback)

    def callback(self, phase: str, info: dict[str, int]) -> None:
        """What the collector calls around each collection. Allocates no container."""
        if phase == "start":
            self._started = monotonic_ns()
            return
        end = monotonic_ns()
        start = self._started
        if not start:
            return  # installed in the middle of one
        generation = info["generation"]
        pause = end - start
        self.ring.push(start, end, generation, info["collected"])
        self.count[generation] += 1
        self.total_ns[generation] += pause
        if pause > self.longest_ns[generation]:
            self.longest_ns[generation] = pause

    def overlap_ns(self, start: int, end: int) -> int:
        """How much of the interval was spent collecting."""
        total = 0
        for row in self.ring.newest_first():
            if row[1] <= start:
                break
            total += max(min(row[1], end) - max(row[0], start), 0)
        return total


class StallRecorder:
    """A heartbeat on the loop. A late one is a stall: (last beat, late beat, cause), which brackets whatever blocked.

    The cause is what accounts for at least half of the delay: the collector; else the thread's own CPU time; else the
    time it was ready to run and had no CPU (run delay, Linux only); else unknown (it slept in a system call).
    """

    def __init__(self, collections: GcRecorder, capacity: int = STALL_ENTRIES) -> None:
        self.ring = Ring(capacity)
        self.count = array("q", [0] * len(CAUSES))
        self.total_ns = array("q", [0] * len(CAUSES))
        self.longest_ns = array("q", [0] * len(CAUSES))
        self._collections = collections
        self._timer: asyncio.TimerHandle | None = None
        self._schedstat = -1
        self._last = self._cpu = 0
        self._waited = b""

    def start(self) -> None:
        """Start beating on the running loop; call it from the loop's own thread."""
        self._loop = asyncio.get_running_loop()
        with suppress(OSError):
            self._schedstat = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
        self._cpu, self._waited, self._last = thread_time_ns(), self._read_schedstat(), monotonic_ns()
        self._next()

    def stop(self) -> None:
        """Stop beating; what was recorded stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedstat >= 0:
            os.close(self._schedstat)
            self._schedstat = -1

    def beat(self) -> None:
        """One beat: was it late, and why?"""
        now, cpu, waited = monotonic_ns(), thread_time_ns(), self._read_schedstat()
        late = now - self._last - PERIOD_NS
        if late > LATE_NS:
            delay = run_delay_ns(waited) - run_delay_ns(self._waited)
            self._record(self._last, now, late, cpu - self._cpu, delay)
        self._last = now
        self._cpu = cpu
        self._waited = waited
        self._next()

    def _next(self) -> None:
        self._timer = self._loop.call_at(self._loop.time() + PERIOD_NS / 1e9, self.beat)

    def _record(self, start: int, end: int, late: int, cpu: int, delay: int) -> None:
        cause = cause_of(late, self._collections.overlap_ns(start, end), cpu, delay)
        at = CAUSES.index(cause)
        self.ring.push(start, end, at, 0)
        self.count[at] += 1
        self.total_ns[at] += end - start
        self.longest_ns[at] = max(self.longest_ns[at], end - start)

    def _read_schedstat(self) -> bytes:
        """The kernel's text about this thread; a beat keeps it as it is, as only a late one needs its numbers."""
        if self._schedstat < 0:
            return b""
        try:
            return os.pread(self._schedstat, 64, 0)
        except OSError:
            return b""


def run_delay_ns(schedstat: bytes) -> int:
    """How long a thread has been waiting for a CPU (proc(5): schedstat's second field), ns; 0 where unknown."""
    try:
        return int(schedstat.split()[1])
    except (IndexError, ValueError):
        return 0


def cause_of(late: int, collecting: int, cpu: int, delay: int) -> str:
    """Which of CAUSES explains at least half of a delay of `late` ns: a short collection in a long stall does not."""
    if 2 * collecting >= late:
        return "gc"
    if 2 * cpu >= late and cpu >= delay:
        return "cpu"
    if 2 * delay >= late:
        return "off-cpu"
    return "unknown"


class Recorders:
    """Both recorders of one process, behind the switch `runtime.recorders`."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.collections = GcRecorder()
        self.stalls = StallRecorder(self.collections)

    def start(self) -> None:
        """Start, if enabled, on the running loop."""
        if self.enabled:
            self.collections.install()
            self.stalls.start()

    def stop(self) -> None:
        """Stop both."""
        self.collections.remove()
        self.stalls.stop()

    def as_json(self, since_ns: int | None) -> dict[str, Any]:
        """`gc` rows [start_ns, end_ns, generation, collected] and `stalls` rows [start_ns, end_ns, cause].

        Rows that ended before `since_ns` are left out, with None all are; `totals` count everything since start, `lost`
        the rows that were overwritten before anyone read them.
        """
        collections, stalls = self.collections, self.stalls
        return {
            "recorders": self.enabled,
            "gc": [] if since_ns is None else [list(row) for row in collections.ring.read(since_ns)],
            "stalls": []
            if since_ns is None
            else [[start, end, CAUSES[cause]] for start, end, cause, _ in stalls.ring.read(since_ns)],
            "lost": {"gc": collections.ring.lost, "stalls": stalls.ring.lost},
            "totals": {
                "gc": {
                    str(generation): _totals(collections, generation) for generation in range(len(collections.count))
                },
                "stalls": {cause: _totals(stalls, at) for at, cause in enumerate(CAUSES)},
            },
        }


def _totals(recorder: GcRecorder | StallRecorder, at: int) -> dict[str, int]:
    return {
        "count": recorder.count[at],
        "total_ns": recorder.total_ns[at],
        "longest_ns": recorder.longest_ns[at],
    }
