"""From the raw rows of one run to its metrics: every number of the report starts here.

What counts:

- Rows marked `warmup` never count. Neither does a row whose request began outside the measured window.
- Times come from right replies only: outcome `ok` and a digest that is not wrong. Wrong replies count as errors.
- Open loop: a request belongs to the window its schedule put it in, and its times run from the *intended* send time
  (what a user feels; a stalled system cannot hide by delaying the generator). Closed loop: from the actual send time.
- Percentiles are of the whole run, interpolated linearly, and only where the run has the samples to carry them:
  ten beyond the percentile, so 20 for p50, 200 for p95, 1,000 for p99.
- CPU is that of the target's whole process tree over the window, less what the idle tree used, divided by the work
  that *ended* inside the window (that of warm-up requests included: it was paid for there).

A metric that cannot be had carries the reason instead. Pure: tables in, numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.schema import METRICS, RunRecord, Scenario
from reports.store import Run

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

SATURATED: Final = 0.95
"""Share of its cores a target must use for its throughput to be called its capacity."""

_BUCKETS_PER_DECADE: Final = 200
"""Event histograms: 1.2 % wide buckets, so that rounds can be pooled without keeping every event."""
_LOWEST_US: Final = 0.1
_DECADES: Final = 9


@dataclass(frozen=True, slots=True)
class Value:
    """A measured number, or why there is none."""

    value: float | None
    reason: str = ""

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return self.value is not None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over logarithmic buckets of microseconds; histograms of several runs add up."""

    counts: Ints

    @classmethod
    def of(cls, micros: Floats) -> Histogram:
        """The histogram of values in microseconds; values under 0.1 us fall into the first bucket."""
        scaled = np.log10(np.maximum(micros, _LOWEST_US) / _LOWEST_US) * _BUCKETS_PER_DECADE
        size = _BUCKETS_PER_DECADE * _DECADES
        indices = np.minimum(scaled.astype(np.int64), size - 1)
        return cls(np.bincount(indices, minlength=size))

    @staticmethod
    def edges() -> Floats:
        """Upper edges of the buckets, microseconds."""
        steps = np.arange(1, _BUCKETS_PER_DECADE * _DECADES + 1, dtype=np.float64)
        return _LOWEST_US * 10 ** (steps / _BUCKETS_PER_DECADE)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)


@dataclass(frozen=True, slots=True)
class Requests:
    """The right replies of one run, as aligned arrays. Seconds count from the start of the measured window."""

    at_s: Floats  # intended (open loop) or sent
    added_us: Floats  # NaN where a clock is missing
    ttft_ms: Floats
    e2e_ms: Floats
    sent_to_end_ms: Floats
    lag_ms: Floats  # sent - intended; NaN in closed loop
    endpoint: npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every counted request of one run, right or not: when it began, how it ended, at which endpoint."""

    at_s: Floats
    outcome: npt.NDArray[np.object_]
    endpoint: npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Pauses:
    """Garbage collections or loop stalls of one run within its window."""

    at_s: Floats
    ms: Floats
    generation: Floats  # NaN for stalls
    cause: npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Join:
    """The requests that had a collection inside them, and what it cost them (added time, microseconds)."""

    with_pause: int
    without: int
    added_with_us: float | None
    added_without_us: float | None


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU and memory of one role over time. `cpu` is the share of one core since the sample before."""

    at_s: Floats
    cpu: Floats
    rss_mib: Floats


@dataclass(frozen=True, slots=True)
class Facts:
    """All the report knows of one run. Parts without raw rows are None."""

    record: RunRecord
    metrics: Mapping[str, Value]
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Free numbers beside the metrics: utilisation, requests, outcomes, added_under_1ms, active_peak ..."""
    requests: Requests | None = None
    outcomes: Outcomes | None = None
    transit: Histogram | None = None
    gc: Pauses | None = None
    stalls: Pauses | None = None
    join: Join | None = None
    usage: Mapping[str, Usage] = field(default_factory=dict)
    window_s: float | None = None

    @property
    def void(self) -> bool:
        """Whether this run itself was declared void."""
        return self.record.void_reason is not None

    def value(self, metric: str) -> float | None:
        """The metric's number, or None."""
        found = self.metrics.get(metric)
        return None if found is None else found.value


Tables: TypeAlias = "Mapping[str, pd.DataFrame | None]"

_COLUMNS: Final = {
    "requests": [
        "request_id", "endpoint", "intended_ns", "sent_ns", "first_byte_ns", "first_event_ns", "end_ns", "outcome",
        "bytes_in", "events", "digest_ok", "mock_recv_ns", "mock_sent_ns", "warmup",
    ],
    "events": ["request_id", "seq", "mock_ns", "read_ns", "read_index"],
    "runtime": ["kind", "start_ns", "end_ns", "generation", "cause"],
    "usage": ["t_ns", "role", "cpu_ns", "rss_bytes"],
}  # fmt: skip


def measure_run(run: Run, scenario: Scenario) -> Facts:
    """The facts of a run on disk. ReportError if one of its tables cannot be read."""
    tables = {kind: run.table(kind, columns) for kind, columns in _COLUMNS.items()}
    return measure(run.record, scenario, tables)


def run_metrics(record: RunRecord, scenario: Scenario, tables: Tables) -> dict[str, Any]:
    """What belongs into run.json's `summary`: the metrics by id (null where not measured) and the extras."""
    facts = measure(record, scenario, tables)
    metrics = {name: facts.metrics[name].value for name in METRICS}
    return {**metrics, **facts.extras}


def measure(record: RunRecord, scenario: Scenario, tables: Tables) -> Facts:
    """The facts of one run from its tables (see schema.TABLES; each may be absent)."""
    rows = tables.get("requests")
    stored = {name: value for name, value in record.summary.items() if name not in METRICS}
    if rows is None or rows.empty:
        reason = "the run has no request rows" if rows is None else "the run has an empty request table"
        return _from_summary(record, stored, reason)
    window = record.window_ns or _window_of(rows)
    if window is None:
        return _from_summary(record, stored, "no request of the run was ever sent")
    return _Measurement(record, scenario, tables, rows, window, stored).facts()


def enough(samples: int, percent: float) -> bool:
    """Whether `samples` values carry this percentile: ten of them lie beyond it."""
    return samples * (100 - percent) >= 1000 - 1e-9


def _from_summary(record: RunRecord, stored: Mapping[str, Any], reason: str) -> Facts:
    metrics = {name: _stored(record, name, reason) for name in METRICS}
    window_s = None if record.window_ns is None else (record.window_ns[1] - record.window_ns[0]) / 1e9
    return Facts(record, metrics, dict(stored), window_s=window_s)


def _stored(record: RunRecord, name: str, reason: str) -> Value:
    """What the producer wrote for a metric that the rows cannot tell."""
    value = record.summary.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return Value(None, reason)
    return Value(float(value))


def _window_of(rows: pd.DataFrame) -> tuple[int, int] | None:
    counted = rows[~rows["warmup"].fillna(False).astype(bool)]
    starts, ends = counted["sent_ns"].dropna(), counted["end_ns"].dropna()
    if starts.empty or ends.empty or int(ends.max()) <= int(starts.min()):
        return None
    return int(starts.min()), int(ends.max()) + 1


def _floats(series: pd.Series[Any], scale: float = 1.0) -> Floats:
    """A nullable integer column as floats, NaN for null. Subtract in integers first: floats lose nanoseconds."""
    return series.to_numpy(dtype=np.float64, na_value=np.nan) * scale


def _objects(series: pd.Series[Any]) -> npt.NDArray[np.object_]:
    return series.astype(object).where(series.notna(), None).to_numpy(dtype=object)


def _between(series: pd.Series[Any], window: tuple[int, int]) -> npt.NDArray[np.bool_]:
    inside = (series >= window[0]) & (series < window[1])
    return inside.to_numpy(dtype=bool, na_value=False)


class _Measurement:
    """One pass over the tables of one run."""

    def __init__(
        self,
        record: RunRecord,
        scenario: Scenario,
        tables: Tables,
        rows: pd.DataFrame,
        window: tuple[int, int],
        stored: Mapping[str, Any],
    ) -> None:
        self.record, self.scenario, self.tables, self.window = record, scenario, tables, window
        self.stored = stored
        self.seconds = (window[1] - window[0]) / 1e9
        self.all_rows = rows
        open_loop = scenario.loop == "open" and bool(rows["intended_ns"].notna().any())
        begun = rows["intended_ns"].fillna(rows["sent_ns"]) if open_loop else rows["sent_ns"]
        # A refused connection in closed loop may have no sent_ns: it still is a request, and an error.
        begun = begun.fillna(rows["end_ns"])
        chosen = begun if open_loop else rows["end_ns"].fillna(begun)
        counted = ~rows["warmup"].to_numpy(dtype=bool, na_value=False) & _between(chosen, window)
        self.rows = rows[counted]
        self.begun = begun[counted]
        wrong = self.rows["digest_ok"].eq(False).to_numpy(dtype=bool, na_value=False)
        self.outcome = _objects(self.rows["outcome"])
        self.outcome[(self.outcome == "ok") & wrong] = "wrong_reply"
        self.ok = self.outcome == "ok"
        self.values: dict[str, Value] = {}
        self.extras: dict[str, Any] = dict(stored)

    def facts(self) -> Facts:
        requests = self._requests()
        self._latency(requests)
        transit = self._events()
        self._rates(requests)
        self._errors()
        active_peak = self._active_peak()
        usage = self._usage(active_peak)
        gc, stalls = self._runtime()
        metrics = {name: self.values.get(name) or _stored(self.record, name, "not recorded") for name in METRICS}
        for name, found in metrics.items():
            if not found.measured:
                metrics[name] = _stored(self.record, name, found.reason)
        outcomes = Outcomes(self._seconds(self.begun), self.outcome, _objects(self.rows["endpoint"]))
        join = None if gc is None else self._join(requests, gc)
        return Facts(
            self.record, metrics, self.extras, requests, outcomes, transit, gc, stalls, join, usage, self.seconds
        )

    def _seconds(self, times: pd.Series[Any]) -> Floats:
        return _floats(times - self.window[0], 1e-9)

    # -------------------------------------------------------------------------------------------------- requests
    def _requests(self) -> Requests:
        right = self.rows[self.ok]
        begun = self.begun[self.ok]
        to_mock = right["mock_recv_ns"] - right["sent_ns"]
        from_mock = right["first_byte_ns"] - right["mock_sent_ns"]
        first = right["first_event_ns"] if self.scenario.kind == "stream" else right["first_byte_ns"]
        return Requests(
            at_s=self._seconds(begun),
            added_us=_floats(to_mock + from_mock, 1e-3),
            ttft_ms=_floats(first - begun, 1e-6),
            e2e_ms=_floats(right["end_ns"] - begun, 1e-6),
            sent_to_end_ms=_floats(right["end_ns"] - right["sent_ns"], 1e-6),
            lag_ms=_floats(right["sent_ns"] - right["intended_ns"], 1e-6),
            endpoint=_objects(right["endpoint"]),
        )

    def _percentiles(self, values: Floats, names: Mapping[float, str], what: str) -> None:
        present = values[~np.isnan(values)]
        for percent, name in names.items():
            if enough(present.size, percent):
                self.values[name] = Value(float(np.percentile(present, percent)))
            else:
                needed = int(np.ceil(1000 / (100 - percent)))
                said = f"has {present.size:,}" if present.size else "has none"
                self.values[name] = Value(None, f"p{percent:g} needs {needed:,} {what} in each run, this one {said}")

    def _latency(self, requests: Requests) -> None:
        self._percentiles(requests.added_us, {50: "added_p50_us", 99: "added_p99_us"}, "requests with both clocks")
        self._percentiles(requests.e2e_ms, {50: "e2e_p50_ms", 95: "e2e_p95_ms", 99: "e2e_p99_ms"}, "requests")
        if self.scenario.kind == "stream":
            self._percentiles(requests.ttft_ms, {50: "ttft_p50_ms", 99: "ttft_p99_ms"}, "streams")
        else:
            for name in ("ttft_p50_ms", "ttft_p99_ms"):
                self.values[name] = Value(None, "the scenario does not stream")
        added = requests.added_us[~np.isnan(requests.added_us)]
        lag = requests.lag_ms[~np.isnan(requests.lag_ms)]
        wall = requests.sent_to_end_ms[~np.isnan(requests.sent_to_end_ms)]
        if added.size:
            self.extras["added_under_1ms"] = float(np.mean(added < 1000.0))
        if lag.size:
            self.extras["lag_p99_ms"] = float(np.percentile(lag, 99))
        if wall.size:
            self.extras["wall_mean_ms"] = float(np.mean(wall))

    def _rates(self, requests: Requests) -> None:
        whole = int(np.isin(self.outcome, ("ok", "wrong_reply")).sum())
        good = np.ones(requests.at_s.size, dtype=bool)
        for key, limit in self.scenario.slo.items():
            measured = {"ttft_ms": requests.ttft_ms, "e2e_ms": requests.e2e_ms, "tpot_ms": self._tpot()}.get(key)
            if measured is not None:
                good &= ~(measured > limit)
        self.values["throughput_rps"] = Value(whole / self.seconds)
        self.values["goodput_rps"] = Value(float(good.sum()) / self.seconds)

    def _tpot(self) -> Floats:
        """Per right reply: milliseconds per event after the first; NaN for replies of one event."""
        right = self.rows[self.ok]
        gaps = _floats(right["events"] - 1)
        gaps[gaps < 1] = np.nan
        spread: Floats = _floats(right["end_ns"] - right["first_event_ns"], 1e-6) / gaps
        return spread

    def _errors(self) -> None:
        expected = {"ok", *self.scenario.expected_outcomes}
        total = self.outcome.size
        names, counts = np.unique(self.outcome.astype(str), return_counts=True)
        self.extras["requests"] = total
        self.extras["outcomes"] = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
        unexpected = sum(int(count) for name, count in zip(names, counts, strict=True) if str(name) not in expected)
        if total:
            self.values["error_ratio"] = Value(unexpected / total)
        else:
            self.values["error_ratio"] = Value(None, "no request fell into the measured window")

    def _active_peak(self) -> int:
        """The most requests that were open at once within the window."""
        starts = self.all_rows["sent_ns"].dropna().to_numpy(dtype=np.int64)
        ends = self.all_rows["end_ns"].dropna().to_numpy(dtype=np.int64)
        times = np.concatenate([starts, ends])
        steps = np.concatenate([np.ones(starts.size, np.int64), -np.ones(ends.size, np.int64)])
        order = np.lexsort((steps, times))
        active = np.cumsum(steps[order])
        inside = (times[order] >= self.window[0]) & (times[order] < self.window[1])
        peak = int(active[inside].max()) if inside.any() else 0
        self.extras["active_peak"] = peak
        return peak

    # ---------------------------------------------------------------------------------------------------- events
    def _events(self) -> Histogram | None:
        names = (
            "transit_event_p50_us", "transit_event_p99_us", "itl_p50_ms", "itl_p99_ms", "tpot_p50_ms", "coalescing",
        )  # fmt: skip
        if self.scenario.kind != "stream":
            self.values |= {name: Value(None, "the scenario does not stream") for name in names}
            return None
        self._percentiles(self._tpot(), {50: "tpot_p50_ms"}, "streams of two events or more")
        events = self.tables.get("events")
        if events is None or events.empty:
            missing = Value(None, "no event rows were kept")
            self.values |= {name: missing for name in names if name != "tpot_p50_ms"}
            return None
        ended = events["read_ns"].to_numpy(dtype=np.int64)
        self.extras["events_in_window"] = int(((ended >= self.window[0]) & (ended < self.window[1])).sum())
        right = events[events["request_id"].isin(self.rows["request_id"][self.ok])]
        right = right.sort_values(["request_id", "seq"], kind="stable")
        request = right["request_id"].to_numpy(dtype=np.int64)
        read = right["read_ns"].to_numpy(dtype=np.int64)
        index = right["read_index"].to_numpy(dtype=np.int64)
        transit = _floats(right["read_ns"] - right["mock_ns"], 1e-3)
        same = request[1:] == request[:-1]
        gaps = (read[1:] - read[:-1])[same] * 1e-6
        self._percentiles(transit, {50: "transit_event_p50_us", 99: "transit_event_p99_us"}, "events")
        self._percentiles(gaps, {50: "itl_p50_ms", 99: "itl_p99_ms"}, "gaps")
        if request.size:
            reads = 1 + int((~(same & (index[1:] == index[:-1]))).sum())
            self.values["coalescing"] = Value(request.size / reads)
            mib = float(self.rows["bytes_in"][self.ok].sum()) / 2**20
            if mib > 0:
                self.extras["reads_per_mib"] = reads / mib
        else:
            self.values["coalescing"] = Value(None, "no event belongs to a right reply")
        return Histogram.of(transit[~np.isnan(transit)])

    # ----------------------------------------------------------------------------------------------------- usage
    def _usage(self, active_peak: int) -> dict[str, Usage]:
        table = self.tables.get("usage")
        samples: dict[str, pd.DataFrame] = {}
        if table is not None:
            for role, part in table.groupby("role", observed=True):
                # One sample of a role is one t_ns: adding its processes keeps the CPU of exited children, which their
                # parent's counter took over, from being counted twice.
                samples[str(role)] = part.groupby("t_ns", sort=True)[["cpu_ns", "rss_bytes"]].sum(min_count=1)
        self._cpu(samples.get("target"))
        self._memory(samples.get("target"), active_peak)
        shown = {}
        for role, sums in samples.items():
            times = sums.index.to_numpy(dtype=np.int64)
            cpu = sums["cpu_ns"].to_numpy(dtype=np.float64, na_value=np.nan)
            share = np.full(times.size, np.nan)
            if times.size > 1:
                share[1:] = np.diff(cpu) / np.maximum(np.diff(times), 1)
            rss = sums["rss_bytes"].to_numpy(dtype=np.float64, na_value=np.nan) / 2**20
            at_s = (times - self.window[0]).astype(np.float64) * 1e-9
            shown[role] = Usage(at_s, share, rss)
        return shown

    def _cpu(self, sums: pd.DataFrame | None) -> None:
        names = ("cpu_us_per_request", "cpu_us_per_event", "cpu_us_per_mib", "capacity_rps_per_core")
        if sums is None or len(sums) < 2:
            self.values |= {name: Value(None, "no CPU samples of the target") for name in names}
            return
        times = sums.index.to_numpy(dtype=np.int64)
        start, end = self.window
        uncovered = max(times[0] - start, 0) + max(end - times[-1], 0)
        if uncovered > 0.1 * (end - start):
            reason = f"CPU samples leave {uncovered / (end - start):.0%} of the window uncovered"
            self.values |= {name: Value(None, reason) for name in names}
            return
        at = np.interp([start, end], times, sums["cpu_ns"].to_numpy(dtype=np.float64, na_value=np.nan))
        covered = (end - start - uncovered) / 1e9
        gross = float(at[1] - at[0]) * (self.seconds / covered)
        net = gross - (self.record.idle_cpu_ns_per_s or 0.0) * self.seconds
        utilisation = gross / (self.seconds * 1e9)
        self.extras["utilisation"] = utilisation
        ended = self.all_rows[_between(self.all_rows["end_ns"], self.window)]
        self.extras["cpu_us_per_request_gross"] = gross / 1e3 / len(ended) if len(ended) else None
        events = self.extras.get("events_in_window") or int(ended["events"].fillna(0).sum())
        mib = float(ended["bytes_in"].sum()) / 2**20
        for name, work, what in (
            ("cpu_us_per_request", len(ended), "no request ended in the window"),
            ("cpu_us_per_event", events if self.scenario.kind == "stream" else 0, "the scenario does not stream"),
            ("cpu_us_per_mib", mib if mib >= 1 else 0, "less than 1 MiB of replies in the window"),
        ):
            if net <= 0:
                self.values[name] = Value(None, "the target used no more CPU under load than idle")
            elif work <= 0:
                self.values[name] = Value(None, what)
            else:
                self.values[name] = Value(net / 1e3 / work)
        throughput = self.values["goodput_rps"].value or 0.0
        if self.scenario.loop == "closed" and utilisation >= SATURATED and throughput > 0:
            self.values["capacity_rps_per_core"] = Value(throughput / utilisation)
        else:
            said = f"the target used {utilisation:.0%} of a core; capacity is measured at saturation in closed loop"
            self.values["capacity_rps_per_core"] = Value(None, said)

    def _memory(self, sums: pd.DataFrame | None, active_peak: int) -> None:
        idle = self.record.idle_rss_bytes
        known = None if sums is None else sums["rss_bytes"].dropna()
        if idle is None and known is not None:
            first_sent = self.all_rows["sent_ns"].min()
            before = known[known.index < first_sent] if pd.notna(first_sent) else known
            idle = int(before.iloc[-1]) if len(before) else None
        self.values["rss_idle_mib"] = (
            Value(idle / 2**20) if idle is not None else Value(None, "no memory sample before load")
        )
        inside = None if known is None else known[(known.index >= self.window[0]) & (known.index <= self.window[1])]
        if inside is None or inside.empty:
            self.values["rss_peak_mib"] = Value(None, "no memory samples of the target in the window")
            self.values["rss_kib_per_stream"] = Value(None, "no memory samples of the target in the window")
            return
        peak = float(inside.max())
        self.values["rss_peak_mib"] = Value(peak / 2**20)
        half = len(inside) // 2
        if half >= 2:
            early, late = float(inside.iloc[:half].mean()), float(inside.iloc[half:].mean())
            self.extras["rss_growth"] = (late - early) / early if early > 0 else None
        if self.scenario.kind != "stream" or active_peak < 20:
            reason = "the scenario does not stream" if self.scenario.kind != "stream" else "needs 20 streams at once"
            self.values["rss_kib_per_stream"] = Value(None, reason)
        elif idle is None:
            self.values["rss_kib_per_stream"] = Value(None, "no memory sample before load")
        else:
            self.values["rss_kib_per_stream"] = Value(max(peak - idle, 0.0) / 1024 / active_peak)

    # --------------------------------------------------------------------------------------------------- runtime
    def _runtime(self) -> tuple[Pauses | None, Pauses | None]:
        table = self.tables.get("runtime")
        if table is None:
            for name in ("gc_count", "gc_total_ms", "gc_max_ms", "stall_max_ms"):
                self.values[name] = Value(None, "no recorder ran inside the target")
            return None, None
        gc, stalls = (self._pauses(table, kind) for kind in ("gc", "stall"))
        self.values["gc_count"] = Value(float(gc.ms.size))
        self.values["gc_total_ms"] = Value(float(gc.ms.sum()))
        self.values["gc_max_ms"] = Value(float(gc.ms.max(initial=0.0)))
        self.values["stall_max_ms"] = Value(float(stalls.ms.max(initial=0.0)))
        self.extras["gc_share"] = float(gc.ms.sum()) / 1e3 / self.seconds
        return gc, stalls

    def _pauses(self, table: pd.DataFrame, kind: str) -> Pauses:
        part = table[(table["kind"] == kind).to_numpy(dtype=bool) & _between(table["start_ns"], self.window)]
        return Pauses(
            at_s=self._seconds(part["start_ns"]),
            ms=_floats(part["end_ns"] - part["start_ns"], 1e-6),
            generation=_floats(part["generation"]),
            cause=_objects(part["cause"]),
        )

    def _join(self, requests: Requests, gc: Pauses) -> Join:
        # `at_s` is the intended time; a request is on the wire from its sent time, lag later.
        starts = requests.at_s + np.nan_to_num(requests.lag_ms) / 1e3
        ends = starts + requests.sent_to_end_ms / 1e3
        order = np.argsort(gc.at_s)
        pause_start, pause_end = gc.at_s[order], (gc.at_s + gc.ms / 1e3)[order]
        # The pause that could overlap a request is any that starts before the request's end and ends after its start.
        hit = np.searchsorted(pause_start, ends, "left") > np.searchsorted(np.maximum.accumulate(pause_end), starts)
        added, known = requests.added_us, ~np.isnan(requests.added_us)
        with_pause, without = added[hit & known], added[~hit & known]
        return Join(
            with_pause=int(hit.sum()),
            without=int((~hit).sum()),
            added_with_us=float(np.median(with_pause)) if with_pause.size else None,
            added_without_us=float(np.median(without)) if without.size else None,
        )
