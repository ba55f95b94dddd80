"""From what was seen of one run to its record: window, checks, summary. Tables in, record out; no processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd

from loadgen.bench import watch
from loadgen.bench.machine import Cores
from loadgen.bench.mocks import Ceiling
from loadgen.campaign import tally, validity
from loadgen.workload.plan import Plan
from loadgen.workload.scenario import Scenario
from reports import store, summarise
from reports.schema import Check, RunRecord, ScenarioRecord, outcome_of

USAGE_COLUMNS: Final = ("t_ns", "pid", "role", "cpu_ns", "rss_bytes", "ctx_voluntary", "ctx_involuntary", "fds")
RUNTIME_COLUMNS: Final = ("pid", "kind", "start_ns", "end_ns", "generation", "collected", "cause")
_KEPT_MOCK_FIGURES: Final = (
    "requests", "events", "body_bytes", "refused", "peak", "lateness_p50_ns", "lateness_p99_ns", "held_back_events",
    "disconnects_total", "faults", "prefix_hits", "prefix_misses",
)  # fmt: skip


@dataclass(slots=True)
class Observation:
    """What was seen of one run. The run writes it while it lasts; it is read here afterwards."""

    wall_s: float = 0.0
    samples: Sequence[watch.Sample] = ()
    beside: Sequence[Sequence[watch.Sample]] = ()
    """Those of the runs that were made together with this one."""
    active: list[tuple[int, float]] = field(default_factory=list)
    """(ns, the engine's own count of active requests)."""
    steal: float = 0.0
    """Share of the machine's CPU time that the hypervisor took meanwhile."""
    busy: float = 0.0
    """Share of it in which the cores in use worked, whoever for."""
    driver: Mapping[str, Any] = field(default_factory=dict)
    """The driver's last line."""
    mocks: Mapping[str, Any] = field(default_factory=dict)
    """The mocks' own counts."""
    inside: Mapping[str, Any] = field(default_factory=dict)
    """The target's own `/internal/runtime`, empty if it has none."""
    pauses: Sequence[tuple[object, ...]] | None = None
    """Rows of RUNTIME_COLUMNS; None: nothing recorded them."""
    writes: int | None = None
    """Calls of write by the target while the driver ran."""
    readings: list[tally.Reading] = field(default_factory=list)
    """At both ends of the measured window, where the generator keeps no rows."""
    left: Mapping[str, Any] = field(default_factory=dict)
    """What a long run left behind (`leftovers`); empty for others."""
    broken: Check | None = None
    """Why the run did not come to its end."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the run was made under."""

    scenario: Scenario
    described: ScenarioRecord
    ceiling: Ceiling
    cores: Cores
    has_process: bool
    idle: tuple[float, int] | None
    """CPU ns per second and resident bytes before load."""
    plan: Plan | None
    turns: int = 1
    """Between how many runs the load went round."""


def usage_table(samples: Sequence[watch.Sample]) -> pd.DataFrame | None:
    """usage.parquet, None if nothing was sampled."""
    rows = [tuple(getattr(sample, column) for column in USAGE_COLUMNS) for sample in samples]
    return pd.DataFrame(rows, columns=list(USAGE_COLUMNS)) if rows else None


def runtime_table(pauses: Sequence[tuple[object, ...]] | None) -> pd.DataFrame | None:
    """runtime.parquet; None if nothing was recorded, an empty table if nothing happened."""
    if pauses is None:
        return None
    table = pd.DataFrame(list(pauses), columns=list(RUNTIME_COLUMNS))
    numbers = {"pid": "int64", "start_ns": "int64", "end_ns": "int64", "generation": "Int64", "collected": "Int64"}
    return table.astype({**numbers, "kind": "string", "cause": "string"})


def recorded_pauses(inside: Mapping[str, Any]) -> list[tuple[object, ...]] | None:
    """Rows of RUNTIME_COLUMNS from `/internal/runtime`: of one process, or of each under `workers`.

    None if nothing was recorded there (recorders off).
    """
    rows: list[tuple[object, ...]] = []
    recorded = False
    for process in inside.get("workers") or [inside]:
        if not process.get("recorders", True):
            continue  # it answers with empty lists: nothing was recorded, which is not nothing happened
        pid = process.get("pid", 0)
        if process.get("gc") is not None:
            recorded = True
            rows += [(pid, "gc", start, end, gen, collected, None) for start, end, gen, collected in process["gc"]]
        if process.get("stalls") is not None:
            recorded = True
            rows += [(pid, "stall", start, end, None, None, cause) for start, end, cause in process["stalls"]]
    return rows if recorded else None


def window_of(begun_ns: int, scenario: Scenario) -> tuple[int, int]:
    """The measured window [start, end), after the warm-up. `begun_ns`: the driver's own start of the schedule."""
    start = begun_ns + round(scenario.warmup_s * 1e9)
    return start, start + round(scenario.duration_s * 1e9)


def offered_rps(plan: Plan | None, scenario: Scenario, turns: int = 1) -> float | None:
    """Requests per second that the schedule holds after the warm-up, in the turns of its target."""
    if plan is None:
        return None
    return float((~plan.warmup).sum()) * turns / scenario.duration_s


def cpu_share(usage: pd.DataFrame | None, role: watch.Role, window: tuple[int, int]) -> float | None:
    """CPU of one role over the window, as a share of one core; None without samples."""
    if usage is None:
        return None
    sums = usage[usage["role"] == role].groupby("t_ns", sort=True)["cpu_ns"].sum()
    if len(sums) < 2:
        return None
    times = sums.index.to_numpy(dtype=np.int64)
    start, end = max(window[0], times[0]), min(window[1], times[-1])
    if end <= start:
        return None
    at = np.interp([start, end], times, sums.to_numpy(dtype=np.float64))
    return float(at[1] - at[0]) / float(end - start)


def judge(
    record: RunRecord, seen: Observation, conditions: Conditions, rows: pd.DataFrame | None, events: pd.DataFrame | None
) -> RunRecord:
    """The record with window, checks, summary, how it ended and, if a check failed, why."""
    scenario = conditions.scenario
    if scenario.generator == "wrk":
        return _tallied(record, seen, conditions)
    usage = usage_table(seen.samples)
    begun = seen.driver.get("t0_ns")
    window = None if begun is None else window_of(int(begun), scenario)
    idle = conditions.idle
    record = record.model_copy(
        update={
            "duration_s": seen.wall_s,
            "window_ns": window,
            "idle_cpu_ns_per_s": None if idle is None else idle[0],
            "idle_rss_bytes": None if idle is None else idle[1],
            "offered_rps": offered_rps(conditions.plan, scenario, conditions.turns),
        }
    )
    checks: list[Check] = [] if seen.broken is None else [seen.broken]
    summary: dict[str, Any] = {}
    if rows is not None and not rows.empty and window is not None:
        runtime = runtime_table(seen.pauses)
        tables = {
            "requests": rows,
            "events": events,
            "runtime": None if runtime is None else store.as_read("runtime", runtime),
            "usage": None if usage is None else store.as_read("usage", usage),
        }
        facts = summarise.measure(record, conditions.described, tables)
        checks += _checks(seen, conditions, facts, rows, usage, window)
        summary = summarise.summary_of(facts) | _writes(seen)
    elif seen.broken is None:
        checks.append(validity.broken("no request of the run was ever due: the driver wrote no rows", "bench"))
    return _judged(record, seen, checks, summary | _workers(record, seen, scenario))


def _writes(seen: Observation) -> dict[str, float]:
    """`writes_per_mib`: the target's calls of write in the whole run, to both sides, for a MiB that the driver read."""
    mib = float(seen.driver.get("bytes_in") or 0) / 2**20
    if seen.writes is None or seen.writes <= 0 or mib <= 0:  # a worker ended, and took its count with it
        return {}
    return {"writes_per_mib": seen.writes / mib}


def _tallied(record: RunRecord, seen: Observation, conditions: Conditions) -> RunRecord:
    """The same for a run without rows."""
    scenario, idle = conditions.scenario, conditions.idle
    update: dict[str, Any] = {
        "duration_s": seen.wall_s,
        "idle_cpu_ns_per_s": None if idle is None else idle[0],
        "idle_rss_bytes": None if idle is None else idle[1],
    }
    checks = [] if seen.broken is None else [seen.broken]
    summary: dict[str, Any] = {}
    if len(seen.readings) == 2 and seen.broken is None:
        first, last = seen.readings
        done = tally.count(first, last, seen.driver)
        update["window_ns"] = done.window_ns
        users = conditions.described.connections or 1
        rss = tally.resident(seen.samples)
        summary, extras = tally.metrics(done, conditions.described, idle, rss, conditions.cores.target_size())
        summary |= extras
        checks += tally.checks(
            done,
            users,
            sum(int(one["requests"]) for one in seen.mocks.get("backends", ())),
            stream=scenario.kind == "stream",
            saturates=scenario.saturates,
            has_process=conditions.has_process,
            target_cores=conditions.cores.target_size(),
            steal=seen.steal,
        )
        checks.append(validity.other_load(_other_load(seen, conditions)))
    elif seen.broken is None:
        checks.append(validity.broken("wrk ended before its window was measured", "bench"))
    record = record.model_copy(update=update)
    return _judged(record, seen, checks, summary | _workers(record, seen, scenario))


def _workers(record: RunRecord, seen: Observation, scenario: Scenario) -> dict[str, float]:
    """`workers`, and `busiest_worker`: its share of the CPU that the target used in the window. Only where a scenario
    sets their number."""
    if "server.workers" not in scenario.settings or record.window_ns is None:
        return {}
    start, end = record.window_ns
    rows: dict[int, list[int]] = {}
    for row in seen.samples:
        if row.role == "target" and start <= row.t_ns < end:
            rows.setdefault(row.pid, []).append(row.cpu_ns)
    used = [cpu_ns[-1] - cpu_ns[0] for cpu_ns in rows.values()]
    share = {"busiest_worker": max(used) / sum(used)} if sum(used) > 0 else {}
    return {"workers": float(scenario.workers), **share}


def _judged(record: RunRecord, seen: Observation, checks: list[Check], summary: Mapping[str, Any]) -> RunRecord:
    mocks = [{key: one.get(key) for key in _KEPT_MOCK_FIGURES} for one in seen.mocks.get("backends", ())]
    extras = {"mocks": mocks, "driver": dict(seen.driver), "steal": seen.steal}
    if seen.left:
        extras["endurance"] = dict(seen.left)
    outcome = outcome_of(checks)
    why = validity.reason(checks, outcome)
    return record.model_copy(
        update={
            "validity": checks,
            "outcome": outcome,
            "void_reason": why if outcome == "void" else None,
            "fault": None if outcome == "void" else why,
            "summary": {**summary, **extras},
        }
    )


def _checks(
    seen: Observation,
    conditions: Conditions,
    facts: summarise.Facts,
    rows: pd.DataFrame,
    usage: pd.DataFrame | None,
    window: tuple[int, int],
) -> list[Check]:
    scenario = conditions.scenario
    requests = facts.requests
    assert requests is not None  # there are rows
    driver, mocks, target = (cpu_share(usage, role, window) for role in ("driver", "mock", "target"))
    drivers = driver
    if driver is not None and conditions.cores.bench_size() == 1:  # the others' share it
        drivers = driver + sum(cpu_share(usage_table(one), "driver", window) or 0.0 for one in seen.beside)
    begun = rows["intended_ns"].fillna(rows["sent_ns"])
    # Until the driver took a request up. What follows, connecting and sending, waits for the target.
    lag = (rows["dispatched_ns"] - rows["intended_ns"])[((begun >= window[0]) & (begun < window[1])).fillna(False)]
    lag_ms = lag.dropna().to_numpy(dtype=np.float64) / 1e6
    wait_ms = requests.ttft_ms[~np.isnan(requests.ttft_ms)]
    checked = rows["digest_ok"].dropna()
    inside = [value for t_ns, value in seen.active if _middle(t_ns, window)]
    mean_s = _mean_s(rows, window)
    completions = int(((rows["end_ns"] >= window[0]) & (rows["end_ns"] < window[1])).sum())
    offered, ceiling, unit = asked_of_mocks(scenario, conditions.plan, conditions.ceiling, conditions.turns)
    checks = [
        # First of the bench's, as it explains the others: mocks that are asked for too much take the generator's CPU.
        validity.mock_ceiling(offered, ceiling, unit),
        validity.generator_lag(
            float(np.percentile(lag_ms, 99)) if lag_ms.size else None,
            float(np.median(wait_ms)) if wait_ms.size else None,
        ),
        validity.generator_cpu(driver, scenario.open_loop),
        validity.bench_cpu(drivers, mocks, scenario.open_loop, conditions.cores.bench_size()),
        validity.saturation(
            None if target is None else target / conditions.cores.target_size(),
            scenario.open_loop or not scenario.saturates,
            conditions.has_process,
        ),
        validity.steal(seen.steal),
        validity.other_load(_other_load(seen, conditions)),
        validity.errors(facts.value("error_ratio")),
        validity.little(inside, completions, completions / scenario.duration_s, mean_s, steady=conditions.turns == 1),
        validity.trend(requests.at_s, requests.e2e_ms, scenario.duration_s, scenario.steady),
        validity.digest(int((~checked.astype(bool)).sum()), len(checked)),
    ]
    if scenario.open_loop:
        due = begun.to_numpy(dtype=np.float64, na_value=np.nan)
        ended = rows["end_ns"].to_numpy(dtype=np.float64, na_value=np.nan)
        # Before the others that a target which falls behind breaks too: the first one is what people read.
        checks.insert(0, validity.achieved_rate(due, ended, window, scenario.steady))
    return validity.excused(checks)


def _other_load(seen: Observation, conditions: Conditions) -> float | None:
    """Share of the cores in use that was spent on none of our process trees."""
    if not seen.samples or seen.wall_s <= 0:
        return None
    rows = [*seen.samples, *(row for one in seen.beside for row in one if row.role != "mock")]
    # Process by process: the driver has ended when the last samples are taken.
    first = {row.pid: row.cpu_ns for row in reversed(rows)}
    last = {row.pid: row.cpu_ns for row in rows}
    used = sum(last.values()) - sum(first.values())
    cores = len(conditions.cores.all())
    return max(seen.busy - used / 1e9 / seen.wall_s / cores, 0.0)


def _middle(t_ns: int, window: tuple[int, int]) -> bool:
    edge = (window[1] - window[0]) // 10
    return window[0] + edge <= t_ns < window[1] - edge


def _mean_s(rows: pd.DataFrame, window: tuple[int, int]) -> float | None:
    """Mean time from sent to end of what ended in the window, whatever the outcome: all of it was active."""
    ended = rows[((rows["end_ns"] >= window[0]) & (rows["end_ns"] < window[1])).fillna(False)]
    took = (ended["end_ns"] - ended["sent_ns"]).dropna()
    return None if took.empty else float(took.mean()) / 1e9


def asked_of_mocks(
    scenario: Scenario, plan: Plan | None, ceiling: Ceiling, turns: int = 1
) -> tuple[float | None, float | None, str]:
    """What is asked of the mocks a second, what they reach alone, and the unit: events for streams, else requests.

    The first is None in closed loop, and where nothing says how many events a stream has. `turns`: so many runs have
    such a plan at the same time, each for its part of it.
    """
    offered = offered_rps(plan, scenario, turns)
    if scenario.kind == "request":
        return offered, ceiling.requests_per_s, "req/s"
    per_stream: float | None = scenario.requests[0].expect.events
    if per_stream is None and plan is not None and (plan.output_tokens >= 0).all():
        per_stream = float(plan.output_tokens.mean())
    if offered is None or per_stream is None:
        return None, ceiling.events_per_s, "events/s"
    return offered * per_stream, ceiling.events_per_s, "events/s"
