"""Watches whole process trees from outside: CPU, memory, context switches, open files, about ten times a second.

CPU is the kernel's process CPU clock: nanoseconds, all threads, ended ones too. `/proc/PID/schedstat` would count the
main thread only (1.71 s in four threads read 0.21 on the machine this was written on), `/proc/PID/stat` counts in
10 ms ticks. A child that ended is in its parent's `cutime + cstime` (10 ms ticks) once it was waited for, and is added
to the parent's row; so the sum over the rows of one moment is the CPU time of the whole tree.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

Role = Literal["target", "mock", "driver"]

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
# A new worker process appears within a second; looking for it walks all of /proc, which is not free (some ms).
_TREE_EVERY_S = 1.0
# The watch shares a core with the driver, which must send on time: whoever wakes up goes before a thread this nice.
_NICE = 19


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment; a row of usage.parquet. Times in ns, sizes in bytes, counters cumulative."""

    t_ns: int
    pid: int
    role: Role
    cpu_ns: int
    rss_bytes: int
    ctx_voluntary: int
    ctx_involuntary: int
    fds: int | None


def cpu_clock_id(pid: int) -> int:
    """The kernel's clock id for the CPU time of process `pid` (see clock_getcpuclockid(3))."""
    return (~pid << 3) | 2


def process_cpu_ns(pid: int) -> int:
    """CPU time of one live process in ns, all its threads. Raises OSError if there is no such process."""
    return time.clock_gettime_ns(cpu_clock_id(pid))


def reaped_children_ns(stat: str) -> int:
    """CPU time of the ended and waited-for children, from the text of /proc/PID/stat: fields 16 and 17, in ns.

    The command name in field 2 may hold spaces and parentheses, so fields are counted from the last `)`.
    """
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[13]) + int(fields[14])) * _TICK_NS


def context_switches(status: str) -> tuple[int, int]:
    """Voluntary and involuntary context switches from the text of a /proc/.../status file."""
    voluntary = involuntary = 0
    for line in status.splitlines()[-2:]:
        name, _, value = line.partition(":")
        if name == "voluntary_ctxt_switches":
            voluntary = int(value)
        elif name == "nonvoluntary_ctxt_switches":
            involuntary = int(value)
    return voluntary, involuntary


def sample(pid: int, role: Role, t_ns: int) -> Sample | None:
    """One row about `pid` at `t_ns`; None when it is gone."""
    root = Path("/proc", str(pid))
    try:
        cpu_ns = process_cpu_ns(pid) + reaped_children_ns((root / "stat").read_text(errors="replace"))
        rss = int((root / "statm").read_text().split()[1]) * _PAGE
        voluntary = involuntary = 0
        for task in (root / "task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended meanwhile, and its process lives on
                one, other = context_switches((task / "status").read_text(errors="replace"))
                voluntary += one
                involuntary += other
    except (OSError, ValueError, IndexError):
        return None
    return Sample(t_ns, pid, role, cpu_ns, rss, voluntary, involuntary, _open_files(root / "fd"))


def _open_files(folder: Path) -> int | None:
    """How many descriptors a process has; None where it may not be read."""
    try:
        # Since Linux 6.2 the folder's size is the count; before that it is 0 and the entries are counted.
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    except OSError:
        return None


def tree(pid: int) -> list[int]:
    """`pid` and all its live descendants; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.Error:
        return []


def tree_sample(pid: int, role: Role) -> list[Sample]:
    """One row for each process of a tree, as of now."""
    now = time.monotonic_ns()
    return [row for one in tree(pid) if (row := sample(one, role, now)) is not None]


def tree_cpu_ns(samples: Iterable[Sample], role: Role) -> int:
    """CPU time of all processes with `role` in the rows of one moment."""
    return sum(row.cpu_ns for row in samples if row.role == role)


def tree_write_calls(pid: int) -> int | None:
    """How often a tree has called `write` or `writev` (proc(5): syscw), which is how uvloop, nginx and Go send.

    `send` is not in it, so asyncio's own loop and HAProxy show next to nothing. None where it may not be read.
    """
    try:
        return sum(psutil.Process(one).io_counters().write_count for one in tree(pid))
    except (psutil.Error, OSError):
        return None


class Watch(threading.Thread):
    """Samples the trees below `roots` until `stop`. Owns its list of rows; read it after `stop`."""

    def __init__(self, roots: Mapping[Role, Iterable[int]], interval_s: float = 0.1) -> None:
        super().__init__(name="watch", daemon=True)
        self._roots: list[tuple[int, Role]] = [(pid, role) for role, pids in roots.items() for pid in pids]
        self._interval_s = interval_s
        self._over = threading.Event()
        self.samples: list[Sample] = []

    def run(self) -> None:
        """The thread: a sample at each multiple of the interval, the trees looked up again once a second."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # on Linux: of this thread alone
        members: list[tuple[int, Role]] = []
        looked_up = -_TREE_EVERY_S
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now - looked_up >= _TREE_EVERY_S:
                members = [(pid, role) for root, role in self._roots for pid in tree(root)]
                looked_up = now
            t_ns = time.monotonic_ns()
            self.samples.extend(row for pid, role in members if (row := sample(pid, role, t_ns)) is not None)
            if self._over.is_set():
                return
            due = max(due + self._interval_s, time.monotonic())
            self._over.wait(due - time.monotonic())

    def stop(self) -> list[Sample]:
        """Takes a last sample, ends the thread and returns all rows in the order they were taken."""
        self._over.set()
        self.join()
        return self.samples
