"""L1: work that is counted, not timed: instructions, allocations, system calls, garbage collections.

Every count is taken while a Lockstep makes the proxy do exactly the same each time, with hash seed and GC thresholds
fixed, health checks and recorders off. What then still varies is what runs by the clock (Olla looks at its deadlines
ten times a second); it is measured while idle and taken off, or is too little to matter.

    instructions   valgrind's callgrind, switched on in a warm process and read out after each of several phases
    allocations    memray, every allocation of Python's allocators, by the slope between runs
    system calls   strace, by the slope between runs; calls that only wait are left out, as the clock decides them
    collections    the engine's own recorder at (700, 10, 10) while 32 requests at a time are in flight

A tool that is not installed is said, and changes nothing else.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import ask
from loadgen.gate.checkouts import Checkout
from loadgen.gate.lockstep import Lockstep, Recording, differing
from loadgen.gate.serving import Served, Servers

Counts = dict[str, list[float]]
"""Metric -> the values counted, one for each phase or pair of runs."""

_PATIENCE_S = 60.0  # callgrind makes a request fifty times as long


@dataclass(frozen=True, slots=True)
class CountingJob:
    """What a tool counts: one revision's proxy with one config."""

    servers: Servers
    checkout: Checkout
    config: Mapping[str, Any]
    whole: Recording
    stream: Recording
    folder: Path

    def serve(
        self, config: Mapping[str, Any], backend: str, prefix: Sequence[str] = (), python_options: Sequence[str] = ()
    ) -> AbstractContextManager[Served]:
        """The proxy in front of `backend`; see `Servers.serve`."""
        return self.servers.serve(self.checkout, config, [backend], self.folder, prefix, python_options)


class Work(Protocol):
    """What a tool counts: a proxy that can be started in front of a backend, and what is sent through it."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the proxy."""

    @property
    def whole(self) -> Recording:
        """A request with a whole reply."""

    @property
    def stream(self) -> Recording:
        """A request with a streamed reply."""

    @property
    def folder(self) -> Path:
        """Where a tool may write."""

    def serve(
        self, config: Mapping[str, Any], backend: str, prefix: Sequence[str] = (), python_options: Sequence[str] = ()
    ) -> AbstractContextManager[Served]:
        """The proxy in front of `backend`. `prefix`: a tool that runs it; `python_options`: before its `-m`."""


class NoCount(Exception):
    """The tool ran and its count cannot be read; the message says why."""


class Tool(Protocol):
    """Something that counts."""

    @property
    def name(self) -> str:
        """The program's."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What it counts, as in gate.yaml."""

    def missing(self, checkout: Checkout) -> str | None:
        """What is not installed, one sentence; None if it can count."""

    def count(self, job: Work) -> Counts:
        """The counts. Raises NoCount, ChildError, WrongAnswer."""


class Callgrind:
    """Instructions, by valgrind. The start runs without instrumentation, or it would take minutes."""

    name = "valgrind"
    metrics = ("instructions_per_request", "instructions_per_request_heads_differ", "instructions_per_event")

    _WARM = (400, 30)  # requests and streams after which CPython has specialised what it will
    _PHASES = 4
    _EACH = (250, 6)
    _IDLE_S = 1.0

    def missing(self, checkout: Checkout) -> str | None:
        """Valgrind and its vgdb."""
        for program in ("valgrind", "vgdb"):
            if shutil.which(program) is None:
                return f"{program} is not installed (apt install valgrind): instructions are not counted"
        return None

    def count(self, job: Work) -> Counts:
        """Several phases in one process; what the idle process does in the same time is taken off each."""
        out = job.folder / "callgrind"
        prefix = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        requests: list[float] = []
        unlike: list[float] = []
        events: list[float] = []
        with Lockstep(_PATIENCE_S) as ends, job.serve(job.config, ends.backend, prefix) as on:
            ends.connect(on.url, pid=on.pid)
            meter = _Meter(on.pid, out)
            meter.tell("instrumentation", "on")
            ends.exchange(job.whole, self._WARM[0])
            ends.exchange(job.stream, self._WARM[1])
            ends.exchange(job.whole, 20)
            meter.read()
            time.sleep(self._IDLE_S)
            idle, seconds = meter.read()
            per_second = idle / seconds
            for _ in range(self._PHASES):
                ends.exchange(job.whole, self._EACH[0])
                instructions, seconds = meter.read()
                requests.append((instructions - per_second * seconds) / self._EACH[0])
            # Equal heads are what a proxy can remember best, and what no real server sends for long.
            others = [differing(job.whole, number) for number in range(self._EACH[0])]
            for other in others[:20]:
                ends.exchange(other)
            meter.read()
            for _ in range(self._PHASES):
                for other in others:
                    ends.exchange(other)
                instructions, seconds = meter.read()
                unlike.append((instructions - per_second * seconds) / len(others))
            ends.exchange(job.stream, self._EACH[1])  # the change of work costs 450,000 instructions once
            meter.read()
            for _ in range(self._PHASES):
                ends.exchange(job.stream, self._EACH[1])
                instructions, seconds = meter.read()
                events.append((instructions - per_second * seconds) / (self._EACH[1] * job.stream.events))
        counts = (requests, unlike, events)
        return dict(zip(self.metrics, counts, strict=True))


class _Meter:
    """Reads callgrind's counter of a running process by `vgdb dump`, which also sets it back to zero."""

    _SETTLE_S = 0.05
    _TOTAL = re.compile(r"^(?:totals|summary): (\d+)", re.M)

    def __init__(self, pid: int, out: Path) -> None:
        self._pid = pid
        self._out = out
        self._dumps = 0
        self._since = time.monotonic()

    def tell(self, *words: str) -> None:
        """One monitor command."""
        command = ["vgdb", f"--pid={self._pid}", *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            raise NoCount(f"vgdb did not reach valgrind within {_PATIENCE_S:g} s") from None
        if done.returncode != 0:
            raise NoCount(f"vgdb cannot talk to valgrind: {done.stderr.strip() or done.returncode}")

    def read(self) -> tuple[int, float]:
        """Instructions since the last reading, and seconds."""
        time.sleep(self._SETTLE_S)  # what the proxy does after its last write belongs to the same phase
        self.tell("dump")
        now = time.monotonic()
        self._dumps += 1
        path = self._out.with_name(f"{self._out.name}.{self._dumps}")
        total = self._TOTAL.search(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else None
        if total is None:
            raise NoCount(f"callgrind left no count in {path}")
        path.unlink()
        seconds, self._since = now - self._since, now
        return int(total[1]), seconds


class _Slope:
    """A tool that tells its total when the process ended: the work of one request is the slope between two runs.

    With `by_the_clock` one more run that idles tells what the process does in a second of its own accord, which is
    taken off each total: a busy machine makes runs longer, and their looks at deadlines more.
    """

    by_the_clock = False
    _FEW = (200, 4)
    _MORE = (2000, 60)
    _IDLE_S = 2.0

    def _slopes(self, job: Work, per_request: str, per_event: str, scale: float) -> Counts:
        requests, streams = self._FEW
        more_requests, more_streams = self._MORE
        few, few_s = self._total(job, requests, streams)
        per_second = 0.0
        if self.by_the_clock:
            idle, idle_s = self._total(job, requests, streams, self._IDLE_S)
            per_second = (idle - few) / (idle_s - few_s)
        many, many_s = self._total(job, requests + more_requests, streams)
        long, long_s = self._total(job, requests, streams + more_streams)
        by_request = many - few - per_second * (many_s - few_s)
        by_event = long - few - per_second * (long_s - few_s)
        return {
            per_request: [by_request * scale / more_requests],
            per_event: [by_event * scale / (more_streams * job.stream.events)],
        }

    def _total(self, job: Work, requests: int, streams: int, idle_s: float = 0.0) -> tuple[int, float]:
        """The total of one run, and the seconds between its first request and its end."""
        out = job.folder / "total"
        out.unlink(missing_ok=True)
        prefix, options = self._around(out)
        with Lockstep(_PATIENCE_S) as ends, job.serve(job.config, ends.backend, prefix, options) as on:
            begun = time.monotonic()
            ends.connect(on.url, pid=on.pid)
            ends.exchange(job.whole, requests)
            ends.exchange(job.stream, streams)
            time.sleep(idle_s)
            seconds = time.monotonic() - begun
        return self._read(out), seconds

    def _around(self, out: Path) -> tuple[list[str], list[str]]:
        """What goes before the interpreter, and before its `-m proxy`."""
        raise NotImplementedError

    def _read(self, out: Path) -> int:
        raise NotImplementedError


class Memray(_Slope):
    """Gross allocations, by memray: also those that were freed at once, which no look at the heap shows."""

    name = "memray"
    metrics = ("allocations_per_request", "allocations_per_event")
    by_the_clock = True

    def missing(self, checkout: Checkout) -> str | None:
        """Memray in the revision's own environment, and in ours to read its file."""
        for python in {checkout.python, sys.executable}:
            if subprocess.run([python, "-c", "import memray"], capture_output=True, check=False).returncode:
                return "memray is not installed (pip install memray): allocations are not counted"
        return None

    def count(self, job: Work) -> Counts:
        """Two slopes."""
        return self._slopes(job, "allocations_per_request", "allocations_per_event", 1)

    def _around(self, out: Path) -> tuple[list[str], list[str]]:
        options = ["--quiet", "--no-compress", "--trace-python-allocators", "--output", str(out)]
        return [], ["-m", "memray", "run", *options]

    def _read(self, out: Path) -> int:
        import memray

        try:
            with memray.FileReader(str(out)) as reader:
                total: int = reader.metadata.total_allocations
        except (OSError, ValueError) as exc:
            raise NoCount(f"memray left no count: {exc}") from exc
        return total


class Strace(_Slope):
    """System calls, by strace."""

    name = "strace"
    metrics = ("syscalls_per_1000_requests", "syscalls_per_1000_events")

    # How often a loop looks and finds nothing to do is the clock's business.
    _WAITS = frozenset(
        {"epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "futex", "restart_syscall",
         "io_uring_enter", "rt_sigreturn", "sched_yield"}
    )  # fmt: skip
    _ROW = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", re.M)

    def missing(self, checkout: Checkout) -> str | None:
        """Strace, and the right to use it."""
        if shutil.which("strace") is None:
            return "strace is not installed (apt install strace): system calls are not counted"
        tried = subprocess.run(["strace", "-c", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            return f"strace may not trace here ({tried.stderr.strip()}): system calls are not counted"
        return None

    def count(self, job: Work) -> Counts:
        """Two slopes."""
        return self._slopes(job, "syscalls_per_1000_requests", "syscalls_per_1000_events", 1000)

    def _around(self, out: Path) -> tuple[list[str], list[str]]:
        return ["strace", "-f", "-c", "-o", str(out)], []

    def _read(self, out: Path) -> int:
        return calls(out.read_text(encoding="utf-8", errors="replace") if out.exists() else "")


def calls(table: str) -> int:
    """Pure: the calls in the table of `strace -c`, without those that only wait. Raises NoCount."""
    rows = Strace._ROW.findall(table)
    if not rows:
        raise NoCount("strace left no table")
    return sum(int(count) for count, name in rows if name not in Strace._WAITS and name != "total")


class Collections:
    """Collections of the youngest generation, by the engine's own recorder."""

    name = "recorder"
    metrics = ("gc_gen0_per_1000_requests",)

    _CONNECTIONS = 32
    _WARM = 15
    _PHASES = 3
    _EACH = 40

    def missing(self, checkout: Checkout) -> str | None:
        """Never: it is a part of the engine."""
        return None

    def count(self, job: Work) -> Counts:
        """Several phases in one process."""
        runtime = {**job.config.get("runtime", {}), "recorders": True}
        config = {**job.config, "runtime": runtime}
        found: list[float] = []
        with Lockstep(_PATIENCE_S) as ends, job.serve(config, ends.backend) as on:
            ends.connect(on.url, self._CONNECTIONS, on.pid)
            ends.waves(job.whole, self._WARM)
            before = self._collections(on.admin)
            for _ in range(self._PHASES):
                ends.waves(job.whole, self._EACH)
                after = self._collections(on.admin)
                found.append((after - before) * 1000 / (self._EACH * self._CONNECTIONS))
                before = after
        return {"gc_gen0_per_1000_requests": found}

    def _collections(self, admin: str | None) -> int:
        if admin is None:
            raise NoCount("it has no admin listener")
        try:
            found = ask(admin, "GET", "/internal/runtime?since_ns=9223372036854775807")
            return int(found["totals"]["gc"]["0"]["count"])
        except (ChildError, KeyError, TypeError, ValueError) as exc:
            raise NoCount(f"its /internal/runtime does not count collections ({exc})") from exc


TOOLS: Sequence[Tool] = (Callgrind(), Memray(), Strace(), Collections())
