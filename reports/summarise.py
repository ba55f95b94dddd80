"""From the raw rows of one run to its metrics: every number of the report starts here.

What counts:

- Rows marked `warmup` never count. Neither does a row whose request began outside the measured window.
- Times come from right replies only: outcome `ok` and a digest that is not wrong. Wrong replies count as errors.
- Open loop: a request belongs to the window its schedule put it in, and its times run from the *intended* send time
  (what a user feels; a stalled system cannot hide by delaying the generator). Closed loop: from the actual send time.
- Percentiles are of the whole run, interpolated linearly, and only where the run has the samples to carry them:
  ten beyond the percentile, so 20 for p50, 200 for p95, 1,000 for p99. Those of the tail are pooled over the rounds of
  a target by `compare`, which takes the values themselves (`Facts.tail`).
- CPU is that of the target's whole process tree over the window, less what the idle tree used, divided by the work
  that *ended* inside the window (that of warm-up requests included: it was paid for there).

A metric that cannot be had carries the reason instead. Pure: tables in, numbers out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports import store
from reports.schema import METRICS, ROLES, RunRecord, ScenarioRecord
from reports.stats import Tail, enough
from reports.store import Run

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

SATURATED: Final = 0.85
"""Share of its cores a target must use for its throughput to bound its capacity: that lies between the rate measured
and the rate divided by this share (`Facts.bounds`), as work grows with the rate at most in proportion."""

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
    """Counts over logarithmic buckets of microseconds, the same in every run."""

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
    """The requests that had a collection (or a stall) inside them, and for how long it lay inside them.

    A request of one process is held up by a pause for at most the time that both share, so that is shown. Their whole
    time against that of other requests would not do: a long request meets more pauses because it is long.
    """

    with_pause: int
    without: int
    shared_us: float | None
    """Median over the requests with one."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU, memory and descriptors of one role over time. `cpu` is the share of one core since the sample before."""

    at_s: Floats
    cpu: Floats
    rss_mib: Floats
    fds: Floats
    """NaN where they could not be seen."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All the report knows of one run. Parts without raw rows are None."""

    record: RunRecord
    metrics: Mapping[str, Value]
    extras: Mapping[str, Any] = field(default_factory=dict)
    """Free numbers beside the metrics: utilisation, requests, outcomes, added_under_1ms, active_peak ..."""
    requests: Requests | None = None
    kept: Mapping[str, Tail] = field(default_factory=dict)
    """What an archive has in place of `requests`: see `times`."""
    outcomes: Outcomes | None = None
    transit: Histogram | None = None
    gc: Pauses | None = None
    stalls: Pauses | None = None
    join: Join | None = None
    stall_join: Join | None = None
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

    @property
    def busy(self) -> float | None:
        """Share of its cores that the target used."""
        used = self.extras.get("utilisation")
        return float(used) / self.record.cores if isinstance(used, int | float) else None

    def bounds(self, metric: str) -> tuple[float, float] | None:
        """Between what the metric lies in this run. Of a capacity: the rate measured, and that rate over the busy
        share; of all others the value itself, twice."""
        value = self.value(metric)
        if value is None:
            return None
        if metric == "capacity_rps_per_core" and self.busy is not None:
            return value * min(self.busy, 1.0), value
        return value, value

    def tail(self, metric: str) -> Tail | None:
        """The values behind a percentile of the tail, for pooling; None where no raw rows are kept."""
        if metric == "transit_event_p99_us":
            return None if self.transit is None else Tail(Histogram.edges(), self.transit.counts)
        name = {
            "added_p99_us": "added_us", "ttft_p99_ms": "ttft_ms", "e2e_p99_ms": "e2e_ms", "e2e_p999_ms": "e2e_ms",
        }.get(metric)  # fmt: skip
        return None if name is None else self.times(name)

    def times(self, name: str) -> Tail | None:
        """`added_us`, `ttft_ms` or `e2e_ms` of all right replies that have it; None where nobody kept them."""
        if self.requests is None:
            return self.kept.get(name)
        return Tail(_known(getattr(self.requests, name)))


Tables: TypeAlias = "Mapping[str, pd.DataFrame | None]"

_NO_STREAM: Final = "the scenario does not stream"
_FEW_STREAMS: Final = 20
"""Memory per stream from fewer would be the rounding of a page."""

_REQUEST_CLOCKS: Final = (
    "intended_ns", "sent_ns", "first_byte_ns", "first_event_ns", "end_ns", "mock_recv_ns", "mock_sent_ns",
)  # fmt: skip
_COLUMNS: Final = {
    "requests": [
        *_REQUEST_CLOCKS, "request_id", "endpoint", "outcome", "bytes_in", "events", "digest_ok", "warmup",
    ],
    "events": ["request_id", "seq", "mock_ns", "read_ns", "read_index"],
    "runtime": ["kind", "start_ns", "end_ns", "generation", "cause"],
    "usage": ["t_ns", "role", "cpu_ns", "rss_bytes", "fds"],
}  # fmt: skip


def measure_run(run: Run, scenario: ScenarioRecord) -> Facts:
    """The facts of a run on disk. ReportError if one of its tables cannot be read."""
    tables = {kind: run.table(kind, columns) for kind, columns in _COLUMNS.items()}
    return measure(run.record, scenario, tables)


@dataclass(frozen=True, slots=True)
class Resilience:
    """How one run came through the first fault of its scenario. Seconds; None where it did not happen."""

    lost: int
    """Requests that were not answered rightly, over the whole window."""
    before_pause: int | None
    """Requests lost in the fault before the losses first paused, as they do when a breaker opens."""
    paused_s: float | None
    """How long they paused."""
    stopped_s: float | None
    """From the fault's begin to the loss before that pause."""
    recovered_s: float | None
    """From the fault's end to the first right reply from its endpoint."""


def resilience(facts: Facts, scenario: ScenarioRecord, pause_s: float) -> Resilience | None:
    """The run seen from its scenario's first fault; `pause_s` without a loss is a pause. None without rows or fault."""
    if facts.outcomes is None or not scenario.faults:
        return None
    fault, end = scenario.faults[0], facts.window_s or 0.0
    over = end if fault.to_s is None else min(fault.to_s, end)
    seen = facts.outcomes
    wrong = np.sort(seen.at_s[seen.outcome != "ok"])
    losses = wrong[(wrong >= fault.from_s) & (wrong < over)]
    gaps = np.diff([*losses, over])
    pauses = np.flatnonzero(gaps >= pause_s)
    before, paused, stopped = None, None, None
    if losses.size and pauses.size:
        last = int(pauses[0])
        before, paused, stopped = last + 1, float(gaps[last]), float(losses[last] - fault.from_s)
    again = seen.at_s[(seen.outcome == "ok") & (seen.endpoint == fault.endpoint) & (seen.at_s >= over)]
    recovered = float(again.min() - over) if again.size and fault.to_s is not None else None
    return Resilience(int(wrong.size), before, paused, stopped, recovered)


def run_metrics(record: RunRecord, scenario: ScenarioRecord, tables: Tables) -> dict[str, Any]:
    """What belongs into run.json's `summary`: the metrics by id (null where not measured) and the extras.

    `tables` may hold any frames that `store.write_run` would accept. Where the tables are on disk already, use
    `measure_run(Run(folder, record), scenario)`.
    """
    typed = {kind: None if table is None else store.as_read(kind, table) for kind, table in tables.items()}
    return summary_of(measure(record, scenario, typed))


def summary_of(facts: Facts) -> dict[str, Any]:
    """The facts as run.json's `summary` holds them."""
    metrics = {name: facts.metrics[name].value for name in METRICS}
    return {**metrics, **facts.extras}


def measure(record: RunRecord, scenario: ScenarioRecord, tables: Tables) -> Facts:
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
    counted = rows[~_flags(rows["warmup"])]
    starts, ends = counted["sent_ns"].dropna(), counted["end_ns"].dropna()
    if starts.empty or ends.empty or int(ends.max()) <= int(starts.min()):
        return None
    return int(starts.min()), int(ends.max()) + 1


_NULL: Final = np.iinfo(np.int64).min


def _clock(series: pd.Series[Any], origin: int) -> Floats:
    """A column of nanoseconds as nanoseconds since `origin`, NaN for null; exact within 104 days of `origin`."""
    stamps = series.to_numpy(dtype=np.int64, na_value=_NULL)
    since = (stamps - origin).astype(np.float64)
    since[stamps == _NULL] = np.nan
    return since


def _numbers(series: pd.Series[Any]) -> Floats:
    return series.to_numpy(dtype=np.float64, na_value=np.nan)


def _flags(series: pd.Series[Any]) -> npt.NDArray[np.bool_]:
    """A boolean column; null is False."""
    return series.to_numpy(dtype=bool, na_value=False)


def _texts(series: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """A text column as Python strings, None for null."""
    words = series.astype("category").cat
    known = np.array([*words.categories, None], dtype=np.object_)
    return known[words.codes.to_numpy()]  # null has code -1: the last entry


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


class _Measurement:
    """One pass over the tables of one run. All times are nanoseconds since the start of the window, NaN for never."""

    def __init__(
        self,
        record: RunRecord,
        scenario: ScenarioRecord,
        tables: Tables,
        rows: pd.DataFrame,
        window: tuple[int, int],
        stored: Mapping[str, Any],
    ) -> None:
        self.record, self.scenario, self.tables, self.origin = record, scenario, tables, window[0]
        self.length = float(window[1] - window[0])
        self.seconds = self.length / 1e9
        self.loaded_s = self.seconds / record.turns
        """Of the window in which this target had the load; all of it unless targets took turns."""
        self.values: dict[str, Value] = {}
        self.extras: dict[str, Any] = dict(stored)
        times = {name: _clock(rows[name], self.origin) for name in _REQUEST_CLOCKS}
        self.open_loop = scenario.loop == "open" and not bool(np.isnan(times["intended_ns"]).all())
        begun = times["sent_ns"]
        if self.open_loop:
            begun = np.where(np.isnan(times["intended_ns"]), begun, times["intended_ns"])
        # A refused connection in closed loop may never have been sent: it still is a request, and an error.
        begun = np.where(np.isnan(begun), times["end_ns"], begun)
        belongs = begun if self.open_loop else np.where(np.isnan(times["end_ns"]), begun, times["end_ns"])
        counted = ~_flags(rows["warmup"]) & self._inside(belongs)
        outcome = _texts(rows["outcome"])
        outcome[(outcome == "ok") & _flags(rows["digest_ok"].eq(False))] = "wrong_reply"
        self.sent, self.end = times["sent_ns"], times["end_ns"]
        self.bytes_in, self.event_counts = _numbers(rows["bytes_in"]), _numbers(rows["events"])
        self.ids = rows["request_id"].to_numpy(dtype=np.int64)
        endpoint = _texts(rows["endpoint"])
        self.outcomes = Outcomes(begun[counted] * 1e-9, outcome[counted], endpoint[counted])
        self.right = counted & (outcome == "ok")
        self.times = {name: values[self.right] for name, values in times.items()}
        self.times["begun"] = begun[self.right]
        self.endpoint = endpoint[self.right]

    def _inside(self, times: Floats) -> npt.NDArray[np.bool_]:
        return (times >= 0) & (times < self.length)

    def facts(self) -> Facts:
        requests = self._requests()
        self._latency(requests)
        tpot = self._tpot()
        transit = self._events(tpot)
        self._rates(requests, tpot)
        self._errors()
        usage = self._usage(self._active_peak())
        gc, stalls = self._runtime()
        metrics = {}
        for name in METRICS:
            found = self.values.get(name, Value(None, "not recorded"))
            metrics[name] = found if found.measured else _stored(self.record, name, found.reason)
        return Facts(
            record=self.record,
            metrics=metrics,
            extras=self.extras,
            requests=requests,
            outcomes=self.outcomes,
            transit=transit,
            gc=gc,
            stalls=stalls,
            join=None if gc is None else _join(requests, gc),
            stall_join=None if stalls is None else _join(requests, stalls),
            usage=usage,
            window_s=self.seconds,
        )

    def _missing(self, names: Iterable[str], reason: str) -> None:
        self.values |= {name: Value(None, reason) for name in names}

    # -------------------------------------------------------------------------------------------------- requests
    def _requests(self) -> Requests:
        t = self.times
        first = t["first_event_ns"] if self.scenario.kind == "stream" else t["first_byte_ns"]
        return Requests(
            at_s=t["begun"] * 1e-9,
            added_us=(t["mock_recv_ns"] - t["sent_ns"] + t["first_byte_ns"] - t["mock_sent_ns"]) * 1e-3,
            ttft_ms=(first - t["begun"]) * 1e-6,
            e2e_ms=(t["end_ns"] - t["begun"]) * 1e-6,
            sent_to_end_ms=(t["end_ns"] - t["sent_ns"]) * 1e-6,
            lag_ms=(t["sent_ns"] - t["intended_ns"]) * 1e-6,
            endpoint=self.endpoint,
        )

    def _percentiles(self, values: Floats, names: Mapping[float, str], what: str) -> None:
        present = _known(values)
        for percent, name in names.items():
            if enough(present.size, percent):
                self.values[name] = Value(float(np.percentile(present, percent)))
            else:
                needed = int(np.ceil(1000 / (100 - percent) - 1e-9))
                said = f"has {present.size:,}" if present.size else "has none"
                self.values[name] = Value(None, f"p{percent:g} needs {needed:,} {what} in each run, this one {said}")

    def _latency(self, requests: Requests) -> None:
        self._percentiles(requests.added_us, {50: "added_p50_us", 99: "added_p99_us"}, "requests with both clocks")
        self._percentiles(
            requests.e2e_ms, {50: "e2e_p50_ms", 95: "e2e_p95_ms", 99: "e2e_p99_ms", 99.9: "e2e_p999_ms"}, "requests"
        )
        if self.scenario.kind == "stream":
            self._percentiles(requests.ttft_ms, {50: "ttft_p50_ms", 99: "ttft_p99_ms"}, "streams")
        else:
            self._missing(("ttft_p50_ms", "ttft_p99_ms"), _NO_STREAM)
        if (added := _known(requests.added_us)).size:
            self.extras["added_under_1ms"] = float(np.mean(added < 1000.0))
        if (lag := _known(requests.lag_ms)).size:
            self.extras["lag_p99_ms"] = float(np.percentile(lag, 99))
        if self.scenario.kind == "stream" and (events := _known(self.event_counts[self.right])).size:
            self.extras["events_per_request"] = float(events.mean())
        if (wall := _known(requests.sent_to_end_ms)).size:
            self.extras["wall_mean_ms"] = float(np.mean(wall))

    def _tpot(self) -> Floats:
        """Per right reply: milliseconds per event after the first; NaN for replies of one event."""
        gaps = self.event_counts[self.right] - 1
        gaps[gaps < 1] = np.nan
        spread: Floats = (self.times["end_ns"] - self.times["first_event_ns"]) * 1e-6 / gaps
        return spread

    def _rates(self, requests: Requests, tpot: Floats) -> None:
        whole = int(np.isin(self.outcomes.outcome, ("ok", "wrong_reply")).sum())
        good = np.ones(requests.at_s.size, dtype=bool)
        for key, values in (("ttft_ms", requests.ttft_ms), ("e2e_ms", requests.e2e_ms), ("tpot_ms", tpot)):
            if key in self.scenario.slo:
                good &= ~(values > self.scenario.slo[key])
        self.values["throughput_rps"] = Value(whole / self.loaded_s)
        self.values["goodput_rps"] = Value(float(good.sum()) / self.loaded_s)

    def _errors(self) -> None:
        expected = {"ok", *self.scenario.expected_outcomes}
        counts = Counter(str(name) for name in self.outcomes.outcome)
        total = counts.total()
        self.extras["requests"] = total
        self.extras["outcomes"] = dict(sorted(counts.items()))
        unexpected = sum(count for name, count in counts.items() if name not in expected)
        nothing = "no request fell into the measured window"
        self.values["error_ratio"] = Value(unexpected / total) if total else Value(None, nothing)

    def _active_peak(self) -> int:
        """The most requests that were open at once within the window, warm-up included."""
        starts, ends = _known(self.sent), _known(self.end)
        times = np.concatenate([starts, ends])
        steps = np.concatenate([np.ones(starts.size, np.int64), -np.ones(ends.size, np.int64)])
        order = np.lexsort((steps, times))
        inside = self._inside(times[order])
        peak = int(np.cumsum(steps[order])[inside].max()) if inside.any() else 0
        self.extras["active_peak"] = peak
        return peak

    # ---------------------------------------------------------------------------------------------------- events
    def _events(self, tpot: Floats) -> Histogram | None:
        per_event = ("transit_event_p50_us", "transit_event_p99_us", "itl_p50_ms", "itl_p99_ms", "coalescing")
        if self.scenario.kind != "stream":
            self._missing((*per_event, "tpot_p50_ms"), _NO_STREAM)
            return None
        self._percentiles(tpot, {50: "tpot_p50_ms"}, "streams of two events or more")
        events = self.tables.get("events")
        if events is None or events.empty:
            self._missing(per_event, "no event rows were kept")
            return None
        request = events["request_id"].to_numpy(dtype=np.int64)
        read, written = _clock(events["read_ns"], self.origin), _clock(events["mock_ns"], self.origin)
        self.extras["events_in_window"] = int(self._inside(read).sum())
        order = np.lexsort((events["seq"].to_numpy(dtype=np.int64), request))
        order = order[np.isin(request[order], self.ids[self.right])]
        request, read, written = request[order], read[order], written[order]
        index = events["read_index"].to_numpy(dtype=np.int64)[order]
        transit = (read - written) * 1e-3
        same_stream = request[1:] == request[:-1]
        self._percentiles(transit, {50: "transit_event_p50_us", 99: "transit_event_p99_us"}, "events")
        self._percentiles(np.diff(read)[same_stream] * 1e-6, {50: "itl_p50_ms", 99: "itl_p99_ms"}, "gaps")
        if not request.size:
            self._missing(("coalescing",), "no event belongs to a right reply")
            return None
        reads = 1 + int((~(same_stream & (index[1:] == index[:-1]))).sum())
        self.values["coalescing"] = Value(request.size / reads)
        mib = float(self.bytes_in[self.right].sum()) / 2**20
        if mib > 0:
            self.extras["reads_per_mib"] = reads / mib
        return Histogram.of(_known(transit))

    # ----------------------------------------------------------------------------------------------------- usage
    def _usage(self, active_peak: int) -> dict[str, Usage]:
        table = self.tables.get("usage")
        sums: dict[str, _Samples] = {}
        if table is not None and len(table):
            role = _texts(table["role"])
            at, cpu, rss = _clock(table["t_ns"], self.origin), _numbers(table["cpu_ns"]), _numbers(table["rss_bytes"])
            fds = _numbers(table["fds"])
            for name in ROLES:
                chosen = role == name
                if chosen.any():
                    sums[name] = _Samples.of(at[chosen], cpu[chosen], rss[chosen], fds[chosen])
        target = sums.get("target")
        self._cpu(target)
        self._memory(target, active_peak)
        return {name: samples.shown() for name, samples in sums.items()}

    def _cpu(self, samples: _Samples | None) -> None:
        names = ("cpu_us_per_request", "cpu_us_per_event", "cpu_us_per_mib", "capacity_rps_per_core")
        if samples is None or samples.at.size < 2:
            self._missing(names, "no CPU samples of the target")
            return
        uncovered = max(samples.at[0], 0.0) + max(self.length - samples.at[-1], 0.0)
        if uncovered > 0.1 * self.length:
            self._missing(names, f"CPU samples leave {100 * uncovered / self.length:.0f} % of the window uncovered")
            return
        used = np.interp([0.0, self.length], samples.at, samples.cpu_ns)
        gross = float(used[1] - used[0]) * self.length / (self.length - uncovered)
        idle = self.record.idle_cpu_ns_per_s or 0.0
        net = gross - idle * self.seconds
        utilisation = max(gross - idle * (self.seconds - self.loaded_s), 0.0) / (self.loaded_s * 1e9)
        self.extras["utilisation"] = utilisation
        ended = self._inside(self.end)
        requests = int(ended.sum())
        if requests:
            self.extras["cpu_us_per_request_gross"] = gross / 1e3 / requests
        stream = self.scenario.kind == "stream"
        events = self.extras.get("events_in_window") or float(np.nansum(self.event_counts[ended]))
        mib = float(np.nansum(self.bytes_in[ended])) / 2**20
        for name, work, nothing in (
            ("cpu_us_per_request", requests, "no request ended in the window"),
            ("cpu_us_per_event", events if stream else 0, _NO_STREAM if not stream else "no event in the window"),
            ("cpu_us_per_mib", mib if mib >= 1 else 0, "less than 1 MiB of replies in the window"),
        ):
            if net <= 0:
                self._missing((name,), "the target used no more CPU under load than idle")
            elif work <= 0:
                self._missing((name,), nothing)
            else:
                self.values[name] = Value(net / 1e3 / work)
        goodput = self.values["goodput_rps"].value or 0.0
        busy = utilisation / self.record.cores
        if self.scenario.loop == "closed" and busy >= SATURATED and goodput > 0:
            self.values["capacity_rps_per_core"] = Value(goodput / utilisation)
        else:
            least = f"capacity is measured in closed loop from {100 * SATURATED:.0f} % busy on"
            self._missing(("capacity_rps_per_core",), f"{least}; the target was {100 * busy:.0f} % busy")

    def _memory(self, samples: _Samples | None, active_peak: int) -> None:
        idle = self.record.idle_rss_bytes
        at, rss = (np.empty(0), np.empty(0)) if samples is None else (samples.at, samples.rss_bytes)
        at, rss = at[~np.isnan(rss)], _known(rss)
        first_sent = _known(self.sent)
        before = rss[at < (first_sent.min() if first_sent.size else 0.0)]
        if idle is None and before.size:
            idle = int(before[-1])
        if idle is None:
            self._missing(("rss_idle_mib",), "no memory sample before load")
        else:
            self.values["rss_idle_mib"] = Value(idle / 2**20)
        inside = rss[(at >= 0) & (at <= self.length)]
        if not inside.size:
            self._missing(("rss_peak_mib", "rss_kib_per_stream"), "no memory samples of the target in the window")
            return
        peak = float(inside.max())
        self.values["rss_peak_mib"] = Value(peak / 2**20)
        if inside.size >= 4:
            early, late = (float(part.mean()) for part in np.array_split(inside, 2))
            self.extras["rss_growth"] = (late - early) / early if early > 0 else None
        if self.scenario.kind != "stream":
            self._missing(("rss_kib_per_stream",), _NO_STREAM)
        elif active_peak < _FEW_STREAMS:
            self._missing(("rss_kib_per_stream",), f"needs {_FEW_STREAMS} streams open at once, had {active_peak}")
        elif idle is None:
            self._missing(("rss_kib_per_stream",), "no memory sample before load")
        else:
            self.values["rss_kib_per_stream"] = Value(max(peak - idle, 0.0) / 1024 / active_peak)

    # --------------------------------------------------------------------------------------------------- runtime
    def _runtime(self) -> tuple[Pauses | None, Pauses | None]:
        table = self.tables.get("runtime")
        if table is None:
            self._missing(("gc_count", "gc_total_ms", "gc_max_ms", "stall_max_ms"), "no recorder ran inside the target")
            return None, None
        kind, cause = _texts(table["kind"]), _texts(table["cause"])
        start, end = _clock(table["start_ns"], self.origin), _clock(table["end_ns"], self.origin)
        generation = _numbers(table["generation"])

        def pauses(name: str) -> Pauses:
            chosen = (kind == name) & self._inside(start)
            ms = (end - start)[chosen] * 1e-6
            return Pauses(start[chosen] * 1e-9, ms, generation[chosen], cause[chosen])

        gc, stalls = pauses("gc"), pauses("stall")
        self.values["gc_count"] = Value(float(gc.ms.size))
        self.values["gc_total_ms"] = Value(float(gc.ms.sum()))
        self.values["gc_max_ms"] = Value(float(gc.ms.max(initial=0.0)))
        self.values["stall_max_ms"] = Value(float(stalls.ms.max(initial=0.0)))
        self.extras["gc_share"] = float(gc.ms.sum()) / 1e3 / self.seconds
        return gc, stalls


@dataclass(frozen=True, slots=True)
class _Samples:
    """CPU, memory and descriptors of one role: the sum over its processes at each sample, in time order.

    All processes of a role share one t_ns per sample. So the CPU of a child that exited, which its parent's counter
    takes over, is never counted twice.
    """

    at: Floats
    cpu_ns: Floats
    rss_bytes: Floats
    fds: Floats

    @classmethod
    def of(cls, at: Floats, *columns: Floats) -> _Samples:
        times, where = np.unique(at, return_inverse=True)
        return cls(times, *(np.bincount(where, column, times.size).astype(np.float64) for column in columns))

    def shown(self) -> Usage:
        share = np.full(self.at.size, np.nan)
        share[1:] = np.diff(self.cpu_ns) / np.maximum(np.diff(self.at), 1.0)
        return Usage(self.at * 1e-9, share, self.rss_bytes / 2**20, self.fds)


def _join(requests: Requests, pauses: Pauses) -> Join:
    # `at_s` is the intended time; a request is on the wire from its sent time, lag later.
    starts = requests.at_s + np.nan_to_num(requests.lag_ms) / 1e3
    ends = starts + requests.sent_to_end_ms / 1e3
    order = np.argsort(pauses.at_s)
    pause_start, pause_end = pauses.at_s[order], (pauses.at_s + pauses.ms / 1e3)[order]
    # A pause lies inside if one that starts before the request's end has not ended before its start.
    begun_before_end = np.searchsorted(pause_start, ends, "left")
    over_before_start = np.searchsorted(np.maximum.accumulate(pause_end), starts, "right")
    hit = begun_before_end > over_before_start
    shared = _paused_before(ends[hit], pause_start, pause_end) - _paused_before(starts[hit], pause_start, pause_end)
    return Join(
        with_pause=int(hit.sum()),
        without=int((~hit).sum()),
        shared_us=float(np.median(shared)) * 1e6 if shared.size else None,
    )


def _paused_before(at: Floats, starts: Floats, ends: Floats) -> Floats:
    """Seconds of pauses before each moment. `starts` in order; pauses of one process do not overlap."""
    if not starts.size:
        return np.zeros(at.size)
    total = np.concatenate([[0.0], np.cumsum(ends - starts)])
    begun = np.searchsorted(starts, at, "right")
    last = np.maximum(begun - 1, 0)
    left = np.where(begun > 0, np.maximum(ends[last] - at, 0.0), 0.0)  # of the pause that is still going on
    return total[begun] - left
