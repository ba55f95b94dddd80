"""One test: from the first request to the rows on disk.

A session is used once: `start`, then one user calls `walk` (open loop), or each user has a `new_user` (closed loop);
`done` is set when the rows are written. While it measures, Python's garbage collector is frozen and off (a full
collection of what Locust keeps alive would be a pause of 10 ms and more in somebody's latency); the summary says so.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic_ns, process_time_ns
from typing import Any, Final

import gevent
import numpy as np
from gevent.event import Event

from loadgen.driver.client import Client, ToSend
from loadgen.driver.timer import Timer
from loadgen.driver.walker import PlanWalker
from loadgen.wire.rows import (
    CLIENT_CANCELLED,
    REFUSED,
    REQUEST_COLUMNS,
    RESET,
    TIMEOUT,
    EventRows,
    Ints64,
    RequestRows,
)
from loadgen.wire.shards import EVENTS, REQUESTS, write_summary
from loadgen.wire.stream import NEVER
from loadgen.workload.job import Job
from loadgen.workload.payload import Payloads
from loadgen.workload.plan import Plan, chosen
from reports.schema import OUTCOMES

_TICK_S: Final = 0.1  # a tick at 10,000 requests/s takes 0.3 ms, in which nothing is sent: rather often and short
_TICKS_A_PROGRESS_LINE: Final = 10
_MOST_WRONG_KEPT: Final = 10
_PAUSE_AFTER_REFUSAL_NS: Final = 1_000_000  # closed loop: a server that is gone is not asked 30,000 times a second
_SLICE_NS: Final = 100_000_000
_INTENDED = REQUEST_COLUMNS.index("intended_ns")
_SENT = REQUEST_COLUMNS.index("sent_ns")
_DISPATCHED = REQUEST_COLUMNS.index("dispatched_ns")
_OUTCOME = REQUEST_COLUMNS.index("outcome")
_WARMUP = REQUEST_COLUMNS.index("warmup")


class Session:
    """What the driver does.

    `on_rows` gets the new rows ten times a second, `on_progress` a dict once a second.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan | None,
        *,
        out: Path,
        on_rows: Callable[[Ints64], object] | None = None,
        on_progress: Callable[[dict[str, Any]], object] | None = None,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.job = job
        self.done = Event()
        self.summary: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self._plan = plan
        self._share = None if plan is None else np.arange(len(plan), dtype=np.int64)
        self._out = out
        self._on_rows = on_rows
        self._on_progress = on_progress
        self._wrong_kept = 0
        self._timer = Timer()
        self._rows = RequestRows(out / ".requests.spill")
        self._event_rows = EventRows(out / ".events.spill") if job.record_events else None
        self._client = Client(job, self._rows, self._event_rows, self._timer, self._keep_wrong)
        self._payloads = Payloads(job)
        self._walker: PlanWalker | None = None
        self._t0_ns = 0
        self._end_ns = 0
        self._users = 0
        self._numbers = 0
        self._cpu_ns = 0
        self._begun_ns = 0
        self._interrupted: str | None = None
        self._started = Event()
        self._wake = Event()
        self._supervisor: gevent.Greenlet | None = None
        self._tally = _Tally()

    def start(self, t0_ns: int) -> None:
        """Begins: the first request of a plan is due at `t0_ns` plus its offset; users of a closed loop begin then."""
        self._t0_ns = t0_ns
        if self._plan is not None and self._share is not None:
            self._walker = PlanWalker(self._plan, self._share, self._payloads, self._client, self._timer, t0_ns)
        if self.job.closed is not None:
            self._end_ns = t0_ns + round(self.job.closed.duration_s * 1e9)
        gc.collect()
        gc.freeze()
        gc.disable()
        self._cpu_ns = process_time_ns()
        self._begun_ns = monotonic_ns()
        self._supervisor = gevent.spawn(self._supervise)
        self._started.set()

    def walk(self) -> None:
        """Open loop: sends the plan's requests when they are due. Returns when the session is done."""
        self._started.wait()
        if self._walker is not None:
            self._walker.start()
        self.done.wait()

    def new_user(self) -> ClosedUser:
        """Closed loop: one more user."""
        self._users += 1
        return ClosedUser(self, self._users - 1)

    def running(self) -> bool:
        """Closed loop: whether users shall go on."""
        return self._interrupted is None and monotonic_ns() < self._end_ns

    def wait_for_start(self) -> None:
        """Closed loop: returns when users may send their first request."""
        self._started.wait()
        if monotonic_ns() < self._t0_ns:
            self._timer.sleep_until(self._t0_ns)

    def send_next(self, turn: int) -> None:
        """Closed loop: sends one request, template `turn` modulo their number, waits for its reply, and thinks."""
        closed = self.job.closed
        assert closed is not None
        number = self._numbers
        self._numbers += 1
        warmup = monotonic_ns() < self._t0_ns + round(closed.warmup_s * 1e9)
        outcome = self._client.exchange(self._closed_request(number, turn, warmup))
        pause_ns = round(closed.think_ms * 1e6)
        if outcome in (REFUSED, RESET):
            pause_ns = max(pause_ns, _PAUSE_AFTER_REFUSAL_NS)
        if pause_ns:
            self._timer.sleep_until(monotonic_ns() + pause_ns)

    def interrupt(self, why: str) -> None:
        """Stops now: what is in flight is written down as cancelled. Returns at once; `done` follows."""
        if self._interrupted is None and not self.done.is_set():
            self._interrupted = why
            self._wake.set()

    def _closed_request(self, number: int, turn: int, warmup: bool) -> ToSend:
        job = self.job
        assert job.closed is not None
        template = turn % len(job.requests)
        seed = number % job.closed.request_seeds if job.closed.request_seeds else NEVER
        data, size = self._payloads.build(number, template, job.closed.prompt_bytes, job.closed.output_tokens, seed)
        cancel = job.cancel is not None and chosen(job.seed, number, job.cancel.share)
        slow = job.slow_read is not None and chosen(job.seed + 1, number, job.slow_read.share)
        after = job.cancel.after_events if cancel and job.cancel else NEVER
        return ToSend(number, template, data, size, NEVER, warmup, after, slow)

    # --- running ---

    def _supervise(self) -> None:
        """Waits for the end, gives late replies their time, then writes."""
        ticker = gevent.spawn(self._tick_for_ever)
        # Rows that cannot be spilled (a full disk) are no measurement: there is no point in going on.
        ticker.link_exception(lambda _: self.interrupt("the rows could not be written"))
        measured: dict[str, Any] = {}
        try:
            self._wait_for_the_last_request()
            self._drain()
            ticker.kill()
            self._tick()
            measured = self._measured()
            self._keep_quiet()
            gc.enable()
            self._write(measured)
        except Exception as exc:
            self.failure = exc
        finally:
            ticker.kill()
            gc.enable()
            self._client.close()
            self._timer.close()
            self._rows.close()
            if self._event_rows is not None:
                self._event_rows.close()
            self.done.set()

    def _wait_for_the_last_request(self) -> None:
        if self._walker is not None:
            self._walker.finished.rawlink(lambda _: self._wake.set())
            self._wake.wait()
            self._walker.stop()
        else:
            self._wake.wait(max(self._end_ns - monotonic_ns(), 0) / 1e9)
            self._end_ns = 0  # users send nothing more

    def _drain(self) -> None:
        drain_s = self.job.timeout_s if self.job.drain_s is None else self.job.drain_s
        limit = monotonic_ns() + round(drain_s * 1e9) if drain_s else None
        while self._client.in_flight and self._interrupted is None:
            if limit is not None and monotonic_ns() > limit:
                self._client.stop_all(TIMEOUT, f"no whole reply {drain_s:g} s after the last request")
                break
            gevent.sleep(0.005)
        if self._interrupted is not None:
            self._client.stop_all(CLIENT_CANCELLED, self._interrupted)
        while self._client.in_flight:
            gevent.sleep(0.001)

    def _keep_quiet(self) -> None:
        """Until the drivers beside this one have sent, too: writing takes their core for tens of milliseconds."""
        until_ns = self._t0_ns + round(self.job.quiet_s * 1e9)
        while self._interrupted is None and monotonic_ns() < until_ns:
            gevent.sleep(0.01)

    def _tick_for_ever(self) -> None:
        ticks = 0
        while True:
            gevent.sleep(_TICK_S)
            self._tick()
            ticks += 1
            if ticks % _TICKS_A_PROGRESS_LINE == 0 and self._on_progress is not None:
                self._on_progress(self._progress())

    def _tick(self) -> None:
        rows = self._rows.spill()
        if self._event_rows is not None:
            self._event_rows.spill()
        self._tally.add(rows)
        if self._on_rows is not None and len(rows):
            self._on_rows(rows)

    def _progress(self) -> dict[str, Any]:
        client = self._client
        return {
            "t": round((monotonic_ns() - self._t0_ns) / 1e9, 3),
            "sent": client.sent,
            "done": client.done,
            "errors": client.failed,
            "lag_p99_us": self._tally.recent_lag_us(),
        }

    def _keep_wrong(self, number: int, reply: bytes) -> None:
        if self._wrong_kept < _MOST_WRONG_KEPT:
            self._wrong_kept += 1
            (self._out / f"wrong-{number}.http").write_bytes(reply)

    # --- the end ---

    def _measured(self) -> dict[str, Any]:
        """The summary, taken before anything is written, so that writing is in none of its figures."""
        now = monotonic_ns()
        cpu_ns = process_time_ns() - self._cpu_ns
        client = self._client
        wall_ns = now - self._begun_ns
        return {
            "planned": None if self._share is None else len(self._share),
            "sent": client.sent,
            "done": client.done,
            "errors": client.failed,
            "cancelled": client.cancelled,
            "outcomes": self._tally.outcomes(),
            "events": client.events,
            "event_rows": 0 if self._event_rows is None else len(self._event_rows),
            "bytes_in": client.bytes_in,
            "t0_ns": self._t0_ns,
            "last_sent_ns": self._tally.last_sent_ns,
            "t1_ns": now,
            **self._tally.lags(),
            "cpu_s": round(cpu_ns / 1e9, 6),
            "cpu_share": round(cpu_ns / wall_ns, 4),
            "cpu_us_per_request": round(cpu_ns / 1e3 / client.done, 2) if client.done else None,
            "cpu_us_per_event": round(cpu_ns / 1e3 / client.events, 2) if client.events else None,
            "gc": "frozen and off while measuring",
            "timer": "timerfd" if self._timer.exact else "milliseconds",
            "rss_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _RSS_UNITS_A_MIB, 1),
            "interrupted": self._interrupted,
        }

    def _write(self, measured: dict[str, Any]) -> None:
        requests = self._out / REQUESTS
        self._rows.write(requests, scenario=self.job.scenario)
        files = [requests.name]
        if self._event_rows is not None and len(self._event_rows):
            events = self._out / EVENTS
            self._event_rows.write(events)
            files.append(events.name)
        self.summary = {**measured, "files": files}
        write_summary(self._out, self.summary)


class ClosedUser:
    """One user of a closed loop."""

    def __init__(self, session: Session, turn: int) -> None:
        self._session = session
        self._turn = turn

    def run_slice(self) -> bool:
        """Sends requests one after the other for about 0.1 s; then Locust may stop the user. False: time is over."""
        session = self._session
        session.wait_for_start()
        limit = monotonic_ns() + _SLICE_NS
        while session.running():
            if monotonic_ns() > limit:
                return True
            session.send_next(self._turn)
            self._turn += 1
        return False


_RSS_UNITS_A_MIB: Final = 1 << 20 if sys.platform == "darwin" else 1 << 10


class _Tally:
    """Outcomes and lags of the rows so far. A lag is how late a request was; warm-up is not counted in lags."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(OUTCOMES), dtype=np.int64)
        self._sent_late: list[Ints64] = []
        self._taken_up_late: list[Ints64] = []
        self._told = 0
        self.last_sent_ns: int | None = None

    def add(self, rows: Ints64) -> None:
        self._counts += np.bincount(rows[:, _OUTCOME], minlength=len(OUTCOMES))
        sent, intended = rows[:, _SENT], rows[:, _INTENDED]
        last = int(sent.max(initial=NEVER))
        if last != NEVER:
            self.last_sent_ns = max(self.last_sent_ns or 0, last)
        due = (intended != NEVER) & (rows[:, _WARMUP] == 0)
        self._taken_up_late.append((rows[:, _DISPATCHED] - intended)[due])
        self._sent_late.append((sent - intended)[due & (sent != NEVER)])

    def outcomes(self) -> dict[str, int]:
        return {name: int(count) for name, count in zip(OUTCOMES, self._counts, strict=True) if count}

    def recent_lag_us(self) -> float | None:
        """p99 of the lags since this was last asked."""
        recent = self._sent_late[self._told :]
        self._told = len(self._sent_late)
        return _percentile_us(recent, 99)

    def lags(self) -> dict[str, float | None]:
        return {
            "lag_p50_us": _percentile_us(self._sent_late, 50),
            "lag_p99_us": _percentile_us(self._sent_late, 99),
            "lag_max_us": _percentile_us(self._sent_late, 100),
            # Without the time to open or to wait for a connection, which can be the target's doing.
            "dispatch_lag_p99_us": _percentile_us(self._taken_up_late, 99),
        }


def _percentile_us(parts: list[Ints64], percent: float) -> float | None:
    values = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return round(float(np.percentile(values, percent)) / 1e3, 1) if len(values) else None
