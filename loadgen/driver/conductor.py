"""Connects a job with Locust: its users, its shape, its master and workers, its page.

Locust starts and stops the users, counts them, deals them to workers, and shows a live page. What each user does is
our `Session`. With a master, its `test_start` deals the plan's rows to the workers that are there: worker ``k`` of
``n`` sends every ``n``-th row, from one common start. A worker answers with its summary once its shard is written; one
that is lost before is named in ``driver.json``, and its rows are missing, never made up for.

Locust's own statistics get exact counts in batches, ten times a second, in whole milliseconds as it keeps them: they
are for its page only. No `request` event is fired for single requests (it would cost more than the request itself).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any, ClassVar

import gevent
import numpy as np
from gevent.event import Event
from locust import LoadTestShape, User, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import STATE_MISSING, MasterRunner, WorkerRunner
from locust.stats import RequestStats, StatsEntry, bucket_response_time

from loadgen.driver.session import ClosedUser, Session
from loadgen.wire.rows import OK, OUTCOMES, REQUEST_COLUMNS, Ints64
from loadgen.wire.shards import clear, write_index
from loadgen.wire.stream import NEVER
from loadgen.workload.job import Job
from loadgen.workload.plan import Plan

_LEAD_LOCAL_S = 0.05
_LEAD_WORKERS_S = 1.0
_LEAD_A_USER_S = 0.0003  # Locust needs about 0.1 ms to start one
_HALT_S = 30.0  # for workers to write their shards after a halt
_SILENT_S = 15.0  # after Locust has missed a worker's heartbeats; it may only have been short of processor time
_WRITING_S = 600.0  # the same for a worker that said it is writing its shard, which sends no heartbeats meanwhile

_END = REQUEST_COLUMNS.index("end_ns")
_SENT = REQUEST_COLUMNS.index("sent_ns")
_TEMPLATE = REQUEST_COLUMNS.index("template")
_OUTCOME = REQUEST_COLUMNS.index("outcome")
_BYTES_IN = REQUEST_COLUMNS.index("bytes_in")


class DriverUser(User):
    """Locust's user: walks the plan (one a worker), or is one of the users of a closed loop."""

    conductor: ClassVar[Conductor]

    @task
    def drive(self) -> None:
        """What Locust calls again and again, until the user stops itself or is stopped."""
        session = self.conductor.session
        if session is None:  # a worker that came after the rows were dealt
            raise StopUser
        if session.job.closed is None:
            session.walk()
            raise StopUser
        closed_user: ClosedUser | None = getattr(self, "_closed_user", None)
        if closed_user is None:
            closed_user = self._closed_user = session.new_user()
        if not closed_user.run_slice():
            raise StopUser


class JobShape(LoadTestShape):
    """Tells Locust how many users there shall be: one a worker for a plan, those of the job for a closed loop."""

    conductor: ClassVar[Conductor]

    def reset_time(self) -> None:
        """Locust calls this when a test begins, also the second one from its page."""
        super().reset_time()  # type: ignore[no-untyped-call]  # Locust's own
        self.conductor.over.clear()

    def tick(self) -> tuple[int, float] | None:
        """(users, spawn rate), or None when the test is over. Locust asks once a second."""
        conductor = self.conductor
        if conductor.over.is_set():
            return None
        job = conductor.job
        if job.closed is None:
            return conductor.workers_expected(), float(conductor.workers_expected())
        elapsed_s = time.perf_counter() - self.start_time
        for stage in job.shape:
            if elapsed_s < stage.until_s:
                return stage.users, stage.spawn_rate
        users = job.shape[-1].users if job.shape else job.closed.users
        return users, float(max(users, 1))


class Conductor:
    """One environment's side of a job: local runner, master or worker. `over` is set when the test's files are written.

    `session` is this process's own share (a master has none). `on_progress` gets a dict once a second, on a master the
    sum over its workers. `results` are the summaries of all workers that finished, `lost` the workers that did not.
    """

    def __init__(
        self,
        environment: Environment,
        job: Job,
        plan: Plan | None,
        out: Path,
        on_progress: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        self.job = job
        self.session: Session | None = None
        self.over = Event()
        self.results: dict[int, dict[str, Any]] = {}
        self.lost: set[int] = set()
        self.failure: BaseException | None = None
        self.begin_ns: int | None = None
        """When a driver of one process begins, where it was told."""
        self._environment = environment
        self._runner: Any = environment.runner  # which of Locust's runners it is decides what is called on it
        self._plan = plan
        self._out = out
        self._on_progress = on_progress
        self._tests = 0
        self._workers: dict[str, int] = {}  # on a master: Locust's client id -> our worker number
        self._pids: dict[int, int] = {}  # of workers on this machine
        self._latest: dict[int, dict[str, Any]] = {}
        self._writing: set[int] = set()
        # A user is asked to stop between two requests; how long Locust waits for that before it kills it.
        environment.stop_timeout = job.timeout_s if job.closed is not None else 0.0
        DriverUser.conductor = JobShape.conductor = self
        events: Any = environment.events
        if isinstance(self._runner, MasterRunner):
            events.test_start.add_listener(self._deal)
            events.test_stop.add_listener(self._halt_workers)
            self._runner.register_message("pe-begun", self._worker_begun)
            self._runner.register_message("pe-measured", self._worker_measured)
            self._runner.register_message("pe-shard", self._shard_written)
            self._runner.register_message("pe-progress", self._worker_progress)
        else:
            events.test_stop.add_listener(self._halt)
            if isinstance(self._runner, WorkerRunner):
                self._runner.register_message("pe-assignment", self._assigned)
                self._runner.register_message("pe-halt", self._told_to_halt)
            else:
                events.test_start.add_listener(self._start_local)

    def workers_expected(self) -> int:
        """Over how many workers a plan is dealt."""
        if not isinstance(self._runner, MasterRunner):
            return 1
        return len(self._workers) or max(self._runner.worker_count, 1)

    def interrupt(self, why: str) -> None:
        """Ends the test now; what was measured is written and `over` set. Returns at once."""
        if self.session is not None:
            self.session.interrupt(why)
        elif isinstance(self._runner, MasterRunner) and self._workers:
            self._runner.send_message("pe-halt", {"why": why})
        else:
            self.over.set()

    # --- one process ---

    def _start_local(self, **_: Any) -> None:
        out = self._next_folder()
        clear(out)
        begin_ns = monotonic_ns() + self._lead_ns(_LEAD_LOCAL_S) if self.begin_ns is None else self.begin_ns
        self._begin(0, 1, begin_ns, out)

    def _next_folder(self) -> Path:
        """Where this test's files go: a folder each, also for the second one started from Locust's page."""
        self._tests += 1
        return self._out if self._tests == 1 else self._out / f"test-{self._tests}"

    def _begin(self, worker: int, workers: int, t0_ns: int, out: Path) -> None:
        self.over.clear()
        try:
            self.session = Session(
                self.job,
                self._plan,
                out=out,
                worker=worker,
                workers=workers,
                on_rows=_Page(self._environment, self.job).add,
                on_progress=self._progress,
                on_measured=self._measured,
            )
        except Exception as exc:  # Locust would log it and go on without us
            self.failure = exc
            self._tell_end(worker, {}, out)
            return
        self.session.start(t0_ns)
        gevent.spawn(self._finish, self.session, out)

    def _lead_ns(self, seconds: float) -> int:
        users = 0 if self.job.closed is None else self.job.closed.users
        return round((seconds + users * _LEAD_A_USER_S) * 1e9)

    def _finish(self, session: Session, out: Path) -> None:
        session.done.wait()
        self.failure = session.failure
        self._tell_end(session.worker, session.summary, out)

    def _tell_end(self, worker: int, summary: dict[str, Any], out: Path) -> None:
        if isinstance(self._runner, WorkerRunner):
            self._runner.send_message("pe-shard", {"worker": worker, "summary": summary})
        elif summary:
            self.results = {0: summary}
            write_index(out, 1, (), [summary])
        else:
            self.lost = {0}
        self.over.set()

    def _measured(self) -> None:
        if isinstance(self._runner, WorkerRunner):
            assert self.session is not None
            self._runner.send_message("pe-measured", {"worker": self.session.worker})

    def _progress(self, line: dict[str, Any]) -> None:
        if isinstance(self._runner, WorkerRunner):
            assert self.session is not None
            self._runner.send_message("pe-progress", {"worker": self.session.worker, "line": line})
        elif self._on_progress is not None:
            self._on_progress(line)

    def _halt(self, **_: Any) -> None:
        if self.session is not None and not self.session.done.is_set():
            self.session.interrupt("the test was stopped")
            self.session.done.wait()

    # --- a worker ---

    def _assigned(self, msg: Any, **_: Any) -> None:
        data = msg.data
        t0_ns = data["t0_ns"]
        if data["boot"] != _boot():  # another machine: its monotonic clock is not ours
            t0_ns = monotonic_ns() + data["t0_wall_ns"] - time.time_ns()
        self._runner.send_message("pe-begun", {"worker": data["worker"], "pid": os.getpid()})
        self._begin(data["worker"], data["workers"], t0_ns, self._next_folder())

    def _told_to_halt(self, msg: Any, **_: Any) -> None:
        if self.session is not None:
            self.session.interrupt(msg.data["why"])

    # --- a master ---

    def _deal(self, **_: Any) -> None:
        ready = [*self._runner.clients.ready, *self._runner.clients.spawning, *self._runner.clients.running]
        self.over.clear()
        self.results = {}
        self.lost = set()
        self._latest = {}
        self._writing = set()
        out = self._next_folder()
        clear(out)
        self._workers = {client.id: number for number, client in enumerate(sorted(ready, key=lambda c: c.id))}
        lead_ns = self._lead_ns(_LEAD_WORKERS_S)
        common = {
            "workers": len(self._workers),
            "t0_ns": monotonic_ns() + lead_ns,
            "t0_wall_ns": time.time_ns() + lead_ns,
            "boot": _boot(),
        }
        for client_id, worker in self._workers.items():
            self._runner.send_message("pe-assignment", {**common, "worker": worker}, client_id=client_id)
        gevent.spawn(self._watch_workers, self._workers, out)

    def _watch_workers(self, workers: dict[str, int], out: Path) -> None:
        """Until every worker has finished or is lost; then the index is written."""
        clients = self._runner.clients
        heard = dict.fromkeys(workers.values(), time.monotonic())
        while self._workers is workers and not self.over.is_set():
            now = time.monotonic()
            for client_id, worker in workers.items():
                client = clients.get(client_id)
                if client is not None and client.state != STATE_MISSING:
                    heard[worker] = now
                patience_s = _WRITING_S if worker in self._writing else _SILENT_S
                if worker not in self.results and now - heard[worker] > patience_s:
                    self.lost.add(worker)
            if len(self.results.keys() | self.lost) >= len(workers):
                self._write_index(out)
                return
            gevent.sleep(0.05)

    def _write_index(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        ordered = [self.results[worker] for worker in sorted(self.results)]
        write_index(out, len(self._workers), self.lost, ordered)
        self.over.set()

    def worker_gone(self, pid: int) -> None:
        """Says at once that the worker process `pid` has ended; Locust misses its heartbeats only after seconds."""
        worker = self._pids.get(pid)
        if worker is not None and worker not in self.results:
            self.lost.add(worker)

    def _worker_begun(self, msg: Any, **_: Any) -> None:
        self._pids[msg.data["pid"]] = msg.data["worker"]

    def _worker_measured(self, msg: Any, **_: Any) -> None:
        self._writing.add(msg.data["worker"])

    def _shard_written(self, msg: Any, **_: Any) -> None:
        if msg.data["summary"]:
            self.results[msg.data["worker"]] = msg.data["summary"]
            self.lost.discard(msg.data["worker"])
        else:
            self.lost.add(msg.data["worker"])

    def _worker_progress(self, msg: Any, **_: Any) -> None:
        self._latest[msg.data["worker"]] = msg.data["line"]
        if self._on_progress is not None and msg.data["worker"] == min(self._latest):
            lines = list(self._latest.values())
            lags = [line["lag_p99_us"] for line in lines if line["lag_p99_us"] is not None]
            sums = {name: sum(line[name] for line in lines) for name in ("sent", "done", "errors")}
            self._on_progress({"t": lines[0]["t"], **sums, "lag_p99_us": max(lags, default=None)})

    def _halt_workers(self, **_: Any) -> None:
        if self.over.is_set() or not self._workers:
            return
        self._runner.send_message("pe-halt", {"why": "the test was stopped"})
        if not self.over.wait(_HALT_S):
            self.lost |= set(self._workers.values()) - set(self.results)
            self.over.wait()


class _Page:
    """Feeds Locust's statistics from our rows, so that its page shows what is going on."""

    def __init__(self, environment: Environment, job: Job) -> None:
        self._environment = environment
        self._names = [(template.path, template.method) for template in job.requests]
        self._wall_minus_monotonic_ns = time.time_ns() - monotonic_ns()

    def add(self, rows: Ints64) -> None:
        """Adds rows of ended requests."""
        stats: RequestStats = self._environment.stats
        for number, (name, method) in enumerate(self._names):
            part = rows if len(self._names) == 1 else rows[rows[:, _TEMPLATE] == number]
            if not len(part):
                continue
            entry = self._entry(stats, name, method, part)
            stats.entries[(name, method)].extend(entry)
            stats.total.extend(entry)
            outcomes = part[:, _OUTCOME]
            for outcome in outcomes[outcomes != OK].tolist():
                stats.log_error(method, name, OUTCOMES[outcome])

    def _entry(self, stats: RequestStats, name: str, method: str, rows: Ints64) -> StatsEntry:
        entry = StatsEntry(stats, name, method)
        sent = rows[:, _SENT]
        times_ms = (rows[:, _END] - sent + 500_000) // 1_000_000
        times_ms = times_ms[sent != NEVER]
        entry.num_requests = len(rows)
        entry.num_none_requests = len(rows) - len(times_ms)
        entry.total_content_length = int(rows[:, _BYTES_IN].sum())
        if len(times_ms):
            entry.total_response_time = int(times_ms.sum())
            entry.min_response_time = int(times_ms.min())
            entry.max_response_time = int(times_ms.max())
        for value, count in _counted(times_ms):
            entry.response_times[bucket_response_time(value)] += count
        for value, count in _counted((rows[:, _END] + self._wall_minus_monotonic_ns) // 1_000_000_000):
            entry.num_reqs_per_sec[value] = count
        entry.last_request_timestamp = time.time()
        return entry


def _counted(values: Ints64) -> Iterator[tuple[int, int]]:
    """Each distinct value and how often it occurs."""
    if not len(values):
        return
    least = int(values.min())
    counts = np.bincount(values - least)
    for at in np.flatnonzero(counts).tolist():
        yield least + at, int(counts[at])


def _boot() -> str:
    """Names this start of this machine: processes that read the same share one monotonic clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        import socket

        return socket.gethostname()
