"""Connects a job with Locust: its users, its shape, its page.

Locust starts and stops the users, counts them, and shows a live page. What each user does is our `Session`.

Locust's own statistics get exact counts in batches, ten times a second, in whole milliseconds as it keeps them: they
are for its page only. No `request` event is fired for single requests (it would cost more than the request itself).
"""

from __future__ import annotations

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
from locust.stats import RequestStats, StatsEntry, bucket_response_time

from loadgen.driver.session import ClosedUser, Session
from loadgen.wire.rows import OK, REQUEST_COLUMNS, Ints64
from loadgen.wire.shards import clear
from loadgen.wire.stream import NEVER
from loadgen.workload.job import Job
from loadgen.workload.plan import Plan
from reports.schema import OUTCOMES

_LEAD_S = 0.05
_LEAD_A_USER_S = 0.0003  # Locust needs about 0.1 ms to start one

_END = REQUEST_COLUMNS.index("end_ns")
_SENT = REQUEST_COLUMNS.index("sent_ns")
_TEMPLATE = REQUEST_COLUMNS.index("template")
_OUTCOME = REQUEST_COLUMNS.index("outcome")
_BYTES_IN = REQUEST_COLUMNS.index("bytes_in")


class DriverUser(User):
    """Locust's user: walks the plan (the only one), or is one of the users of a closed loop."""

    conductor: ClassVar[Conductor]

    @task
    def drive(self) -> None:
        """What Locust calls again and again, until the user stops itself or is stopped."""
        session = self.conductor.session
        if session is None:  # it could not be made: `Conductor.failure`
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
    """Tells Locust how many users there shall be: one for a plan, those of the job for a closed loop."""

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
            return 1, 1.0
        elapsed_s = time.perf_counter() - self.start_time
        for stage in job.shape:
            if elapsed_s < stage.until_s:
                return stage.users, stage.spawn_rate
        users = job.shape[-1].users if job.shape else job.closed.users
        return users, float(max(users, 1))


class Conductor:
    """One environment's side of a job. `over` is set when the test's files are written.

    `on_progress` gets a dict once a second. `summary` is the session's, empty until it has ended well.
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
        self.summary: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self.begin_ns: int | None = None
        """When it begins, where it was told."""
        self._environment = environment
        self._plan = plan
        self._out = out
        self._on_progress = on_progress
        self._tests = 0
        # A user is asked to stop between two requests; how long Locust waits for that before it kills it.
        environment.stop_timeout = job.timeout_s if job.closed is not None else 0.0
        DriverUser.conductor = JobShape.conductor = self
        events: Any = environment.events
        events.test_stop.add_listener(self._halt)
        events.test_start.add_listener(self._start)

    def interrupt(self, why: str) -> None:
        """Ends the test now; what was measured is written and `over` set. Returns at once."""
        if self.session is not None:
            self.session.interrupt(why)
        else:
            self.over.set()

    def _start(self, **_: Any) -> None:
        out = self._next_folder()
        clear(out)
        begin_ns = monotonic_ns() + self._lead_ns() if self.begin_ns is None else self.begin_ns
        self._begin(begin_ns, out)

    def _next_folder(self) -> Path:
        """Where this test's files go: a folder each, also for the second one started from Locust's page."""
        self._tests += 1
        return self._out if self._tests == 1 else self._out / f"test-{self._tests}"

    def _begin(self, t0_ns: int, out: Path) -> None:
        self.over.clear()
        try:
            self.session = Session(
                self.job,
                self._plan,
                out=out,
                on_rows=_Page(self._environment, self.job).add,
                on_progress=self._on_progress,
            )
        except Exception as exc:  # Locust would log it and go on without us
            self.failure = exc
            self.over.set()
            return
        self.session.start(t0_ns)
        gevent.spawn(self._finish, self.session)

    def _lead_ns(self) -> int:
        users = 0 if self.job.closed is None else self.job.closed.users
        return round((_LEAD_S + users * _LEAD_A_USER_S) * 1e9)

    def _finish(self, session: Session) -> None:
        session.done.wait()
        self.failure = session.failure
        self.summary = session.summary
        self.over.set()

    def _halt(self, **_: Any) -> None:
        if self.session is not None and not self.session.done.is_set():
            self.session.interrupt("the test was stopped")
            self.session.done.wait()


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
