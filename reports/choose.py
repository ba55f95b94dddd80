"""Advice for one deployment, from the verdicts of stored campaigns and only inside the range they measured. Pure.

Two things are taken from verdict.json: what a request costs Sherpa at the measured loads, and how Olla's cost compares
with it in the same rounds. What Olla saves is Sherpa's cost times (1 - ratio). The speed of the machine is common to
both engines and cancels in the ratio, so whether Olla saves is as certain as the ratio's own interval, and agrees with
the verdict of the campaign. How much it saves is as uncertain as Sherpa's cost besides (`Cost.error`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from reports.decide import NEGLIGIBLE_CORE
from reports.schema import ENGINES, METRICS
from reports.words import digits, number, share

Floats: TypeAlias = npt.NDArray[np.float64]

COMFORT: Final = 0.5
"""Share of its core a worker is planned for; above it queues grow steeply. In the ladder of 1 December 2026 the p95 of
Sherpa was 2.3 times that of its lowest rung at 50 % of its capacity, and 7.5 times at 70 %."""
_ORDINARY_REPLY: Final = 65_536
_BELOW: Final = 10.0
"""How far below the lowest measured rate an answer is given, with an error that says so."""
_SHARING: Final = 0.3
"""CPU per request falls with load, as wake-ups are shared: by this power of the events a second, where too few loads
were measured to tell. On this project's machine it was 0.27 for Sherpa and 0.54 for Olla from 250 to 1,000 req/s; the
error allows for anything between 0 and twice as much."""
_BETWEEN: Final = 0.1
"""Measured loads this close (on the log scale, 10 %) are one load."""


class OutsideRange(Exception):
    """The question lies outside of what was measured; the text says where the range ends and what to measure."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What somebody wants to run."""

    rate_rps: float
    endpoints: int
    streams: int | None = None
    """Streams open at once."""
    tokens: float | None = None
    """Output tokens (events) per request; None: plain replies."""
    slo: Mapping[str, float] | None = None
    """Metric id -> the value it must not exceed (fall under, where higher is better)."""


@dataclass(frozen=True, slots=True)
class Point:
    """One scenario of one campaign in which both engines ran at a fixed rate."""

    campaign: str
    scenario: str
    rate_rps: float
    events: float
    endpoints: int
    cpu_us_per_request: float
    """Of Sherpa."""
    spread: float
    """Relative half-width of its 95 % interval."""
    ratio: float
    """Olla's CPU per request / Sherpa's, paired by round."""
    ratio_low: float
    ratio_high: float
    values: Mapping[str, Mapping[str, float]]
    """Engine -> metric -> value."""

    @property
    def open_streams(self) -> float:
        """Streams open at once on average, by Little's law."""
        took = self.values["sherpa"].get("e2e_p50_ms")
        return self.rate_rps * took / 1000 if took is not None and self.events > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What an engine is expected to need."""

    engine: str
    cores: float
    error: float
    """Relative."""
    workers: int
    memory_mib: float | None
    meets_slo: bool | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """Olla's cost / Sherpa's at the load asked for, with what the measured loads around it leave open."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer of `choose`."""

    engine: str
    because: tuple[str, ...]
    costs: tuple[Cost, ...]
    ratio: Ratio
    saved_cores: tuple[float, float, float]
    """What Olla saves: estimate, and what both ends of the ratio's interval make of it."""
    break_even_rps: float | None
    """Rate at which Olla saves NEGLIGIBLE_CORE of a core; None where it does at no rate."""
    break_even_measured: bool
    """Whether that rate lies between the lowest and the highest measured one; else it is an extrapolation and said to
    be one."""
    evidence: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For `choose --json`."""
        return {
            "engine": self.engine,
            "because": list(self.because),
            "break_even_rps": self.break_even_rps,
            "break_even_measured": self.break_even_measured,
            "ratio": {"value": self.ratio.value, "low": self.ratio.low, "high": self.ratio.high},
            "saved_cores": dict(zip(("value", "low", "high"), self.saved_cores, strict=True)),
            "evidence": list(self.evidence),
            "costs": [
                {
                    "engine": cost.engine,
                    "cores": cost.cores,
                    "error": cost.error,
                    "workers": cost.workers,
                    "memory_mib": cost.memory_mib,
                    "meets_slo": cost.meets_slo,
                }
                for cost in self.costs
            ],
        }


# ----------------------------------------------------------------------------------------------------------- points
def points_of(verdict: Mapping[str, Any]) -> list[Point]:
    """The points of one verdict.json: scenarios at a fixed rate without faults, in which both engines have figures.

    A verdict without `scenarios` (of schema 1, where nobody added them) has none.
    """
    points = []
    for name, described in verdict.get("scenarios", {}).items():
        if described.get("loop", "open") != "open" or not described.get("rate_rps") or described.get("faults"):
            continue
        if described.get("ballast") is not None or (described.get("response_bytes") or 0) > _ORDINARY_REPLY:
            continue  # other settings of the collector, or bytes rather than requests: no part of this model
        rows = {row["metric"]: row for row in verdict["rows"] if row["scenario"] == name and _engines(row)}
        found = _point(str(verdict["campaign"]), name, described, rows)
        if found is not None:
            points.append(found)
    return points


def _engines(row: Mapping[str, Any]) -> bool:
    return {row["baseline"]["target"], row["candidate"]["target"]} == set(ENGINES)


def _point(
    campaign: str, name: str, described: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> Point | None:
    cost = rows.get("cpu_us_per_request")
    if cost is None or cost["ratio"] is None or cost["ci_low"] is None or cost["verdict"] in _NO_STEADY_LOAD:
        return None
    values: dict[str, dict[str, float]] = {engine: {} for engine in ENGINES}
    for metric, row in rows.items():
        for side in (row["baseline"], row["candidate"]):
            if side["value"] is not None:
                values[side["target"]][metric] = float(side["value"])
    sherpa_first = cost["baseline"]["target"] == "sherpa"
    ratio = (cost["ratio"], cost["ci_low"], cost["ci_high"])
    value, low, high = ratio if sherpa_first else tuple(1 / one for one in (ratio[0], ratio[2], ratio[1]))
    side = cost["baseline" if sherpa_first else "candidate"]
    ends = side["ci"] or (side["value"], side["value"])
    return Point(
        campaign=campaign,
        scenario=name,
        rate_rps=float(described["rate_rps"]),
        events=float(described.get("events_per_request") or 0),
        endpoints=int(described.get("endpoints") or 1),
        cpu_us_per_request=float(side["value"]),
        spread=(float(ends[1]) - float(ends[0])) / 2 / float(side["value"]),
        ratio=float(value),
        ratio_low=float(low),
        ratio_high=float(high),
        values=values,
    )


_NO_STEADY_LOAD: Final = ("void", "overloaded", "unreliable", "not-measured")


# ----------------------------------------------------------------------------------------------------------- advice
def choose(points: Sequence[Point], wanted: Deployment) -> Advice:
    """The engine for a deployment, from measured points. OutsideRange where they do not reach it."""
    if not points:
        raise OutsideRange("no campaign measured both engines at a fixed rate; run: proxy-engines compare")
    _check_range(points, wanted)
    events = wanted.tokens or 0.0
    found = fit(points)
    ratio = ratio_at(points, wanted.rate_rps, events)
    cores = found.cores(wanted.rate_rps, events)
    error = max(found.residual, max(point.spread for point in points)) + found.reach(wanted.rate_rps, events)
    costs = tuple(
        _cost(engine, cores * times, error, points, wanted)
        for engine, times in zip(ENGINES, (1.0, ratio.value), strict=True)
    )
    saved = (cores * (1 - ratio.value), cores * (1 - ratio.high), cores * (1 - ratio.low))
    rate = break_even(points, events)
    rates = [point.rate_rps for point in _of_kind(points, events)]
    engine, why = _answer(costs, saved)
    return Advice(
        engine=engine,
        because=(why, *(_cost_words(cost) for cost in costs)),
        costs=costs,
        ratio=ratio,
        saved_cores=saved,
        break_even_rps=rate,
        break_even_measured=rate is not None and min(rates) <= rate <= max(rates),
        evidence=tuple(dict.fromkeys(f"{point.campaign}/{point.scenario}" for point in points)),
    )


def _answer(costs: Sequence[Cost], saved: tuple[float, float, float]) -> tuple[str, str]:
    sherpa, olla = costs
    value, low, high = (digits(one) for one in saved)
    span = f"{value} cores ({low}..{high} by the interval of the ratio)"
    if olla.meets_slo is False and sherpa.meets_slo is not False:
        return "sherpa", "only Sherpa meets the stated limits"
    if sherpa.meets_slo is False and olla.meets_slo is not False:
        return "olla", "only Olla meets the stated limits"
    if saved[0] > NEGLIGIBLE_CORE and saved[1] > 0:
        return "olla", f"Olla saves {span} at this load"
    if sherpa.workers > olla.workers and saved[1] > 0:
        return "olla", f"Sherpa needs {sherpa.workers} workers where Olla needs {olla.workers}"
    if saved[0] <= 0:
        return "sherpa", f"Olla saves nothing here: {span}"
    doubt = "not worth its complexity" if saved[1] > 0 else "too uncertain to pay for its complexity"
    return "sherpa", f"Olla would save {span}: {doubt}"


def _check_range(points: Sequence[Point], wanted: Deployment) -> None:
    def inside(name: str, value: float, known: Iterable[float], lowest: float | None = None) -> None:
        values = list(known)
        low, high = (min(values) if lowest is None else lowest), max(values)
        if not low <= value <= high:
            raise OutsideRange(
                f"{name} {value:g} is outside the measured range {low:g}..{high:g}; "
                f"measure it first: proxy-engines compare with a scenario at {name} {value:g}"
            )

    streams = [point for point in points if point.events > 0]
    if not streams and (wanted.tokens is not None or wanted.streams is not None):
        raise OutsideRange("no streaming scenario was measured; run: proxy-engines compare --scenarios chat-stream")
    rates = [point.rate_rps for point in _of_kind(points, wanted.tokens or 0.0)]
    inside("--rate", wanted.rate_rps, rates, lowest=min(rates) / _BELOW)
    if wanted.tokens is not None:
        inside("--tokens", wanted.tokens, (point.events for point in points))
    if wanted.streams is not None:
        inside("--streams", wanted.streams, (point.open_streams for point in streams), lowest=0.0)
    inside("--endpoints", wanted.endpoints, (point.endpoints for point in points))


def _of_kind(points: Sequence[Point], events: float) -> Sequence[Point]:
    """The points of streams for streams and of plain replies for plain replies; all where none is of the kind."""
    return [point for point in points if (point.events > 0) == (events > 0)] or points


def ratio_at(points: Sequence[Point], rate_rps: float, events: float) -> Ratio:
    """Olla's cost / Sherpa's at a load: between the nearest measured loads of its kind below and above, linear in the
    logarithms; its interval holds those of both. Beyond the measured loads it is that of the nearest one."""
    kind = _of_kind(points, events)
    at = math.log(_units(rate_rps, events))
    load = {id(point): math.log(_units(point.rate_rps, point.events)) for point in kind}
    below = max((x for x in load.values() if x <= at + 1e-9), default=min(load.values()))
    above = min((x for x in load.values() if x >= at - 1e-9), default=max(load.values()))
    sides = []
    for edge in (below, above):
        near = [point for point in kind if abs(load[id(point)] - edge) <= _BETWEEN]
        logs = sum(math.log(point.ratio) for point in near) / len(near)
        sides.append((logs, min(point.ratio_low for point in near), max(point.ratio_high for point in near)))
    weight = 0.0 if above == below else min(max((at - below) / (above - below), 0.0), 1.0)
    value = math.exp(sides[0][0] * (1 - weight) + sides[1][0] * weight)
    return Ratio(value, min(side[1] for side in sides), max(side[2] for side in sides))


# -------------------------------------------------------------------------------------------------------- the costs
@dataclass(frozen=True, slots=True)
class CostModel:
    """The cost of Sherpa: (request + event x events) x (1,000 / units a second) ^ sharing, microseconds."""

    request_us: float
    event_us: float
    sharing: float
    residual: float
    """The worst relative error at a measured point."""
    loads: tuple[float, ...]
    """Units a second of the points."""
    sharing_known: bool
    """Whether three loads or more were measured, so that `sharing` is theirs."""

    def cores(self, rate_rps: float, events: float) -> float:
        """Share of one core at this load."""
        if rate_rps <= 0:
            return 0.0
        each = self.request_us + self.event_us * events
        return rate_rps * each * _shared(_units(rate_rps, events), self.sharing) / 1e6

    def reach(self, rate_rps: float, events: float) -> float:
        """Relative error for the distance to the nearest load that was measured."""
        far = min(abs(math.log(_units(rate_rps, events) / load)) for load in self.loads)
        low, high = math.log(min(self.loads)), math.log(max(self.loads))
        inside = low <= math.log(_units(rate_rps, events)) <= high
        return 0.0 if self.sharing_known and inside else math.expm1(_SHARING * far)


def _units(rate_rps: float, events: float) -> float:
    """What wakes a proxy, a second: each request once, and each event."""
    return max(rate_rps * (1 + events), 1e-9)


def _shared(units: float, sharing: float) -> float:
    return float((1000 / units) ** sharing)


def fit(points: Sequence[Point]) -> CostModel:
    """Sherpa's cost of a request and of an event by non-negative least squares on relative errors."""
    loads = tuple(_units(point.rate_rps, point.events) for point in points)
    steps = np.diff(np.sort(np.log(loads)))
    known = 1 + int((steps > _BETWEEN).sum()) >= 3
    tried = np.linspace(0, 2 * _SHARING, 13) if known else [_SHARING]
    return min((_fit_at(points, loads, float(s), known) for s in tried), key=lambda found: found.residual)


def _fit_at(points: Sequence[Point], loads: tuple[float, ...], sharing: float, known: bool) -> CostModel:
    factor = np.array([_shared(load, sharing) for load in loads])
    y = np.array([point.cpu_us_per_request for point in points]) / factor
    events = np.array([point.events for point in points])
    columns = [np.ones(y.size)] + ([events] if np.unique(events).size > 1 else [])
    design = np.column_stack(columns) / y[:, None]
    found = _not_negative(design)
    residual = float(np.abs(design @ found - 1).max())
    return CostModel(float(found[0]), float(found[1]) if found.size > 1 else 0.0, sharing, residual, loads, known)


def _not_negative(design: Floats) -> Floats:
    """Least squares for `design @ x = 1` with no negative x, for one or two columns of values above or at 0."""
    ones = np.ones(len(design))
    found = np.zeros(design.shape[1])
    found[:] = np.linalg.lstsq(design, ones, rcond=None)[0]
    if (found < 0).any():  # one of two: it is 0, and the other one fits alone
        kept = found >= 0
        found[:] = 0.0
        found[kept] = np.linalg.lstsq(design[:, kept], ones, rcond=None)[0]
    return found


def break_even(points: Sequence[Point], events: float) -> float | None:
    """The lowest rate at which Olla saves NEGLIGIBLE_CORE of a core; None if it does nowhere below a million.

    Bisection and `_not_negative` are written out: importing scipy.optimize takes a third of the time of a whole answer.
    """
    found = fit(points)

    def short(rate: float) -> float:
        return NEGLIGIBLE_CORE - found.cores(rate, events) * (1 - ratio_at(points, rate, events).value)

    rates = np.geomspace(0.01, 1e6, 200)
    first = next((number for number, rate in enumerate(rates) if short(float(rate)) <= 0), None)
    if first is None:
        return None
    if first == 0:
        return float(rates[0])
    low, high = float(rates[first - 1]), float(rates[first])
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if short(middle) <= 0 else (middle, high)
    return high


def _cost(engine: str, cores: float, error: float, points: Sequence[Point], wanted: Deployment) -> Cost:
    def known(metric: str) -> list[float]:
        return [value for point in points if (value := point.values[engine].get(metric)) is not None]

    workers = max(1, math.ceil(cores / COMFORT))
    idle, each = known("rss_idle_mib"), known("rss_kib_per_stream")
    memory = workers * max(idle) if idle else None
    if memory is not None and wanted.streams:
        memory = memory + wanted.streams * max(each) / 1024 if each else None
    return Cost(engine, cores, error, workers, memory, _meets(engine, points, wanted))


def _meets(engine: str, points: Sequence[Point], wanted: Deployment) -> bool | None:
    """Whether the measured values at the next higher rate keep every stated limit; None without limits."""
    if not wanted.slo:
        return None
    higher = (one for one in _of_kind(points, wanted.tokens or 0.0) if one.rate_rps >= wanted.rate_rps)
    nearest = min(higher, key=lambda one: one.rate_rps)
    for metric, limit in wanted.slo.items():
        value = nearest.values[engine].get(metric)
        if value is None:
            raise OutsideRange(f"--slo {metric}: not measured in {nearest.scenario}; measure a scenario that has it")
        if (value < limit) if METRICS[metric].higher_is_better else (value > limit):
            return False
    return True


def _cost_words(cost: Cost) -> str:
    memory = "" if cost.memory_mib is None else f", {number(cost.memory_mib)} MiB"
    workers = f"{cost.workers} worker{'' if cost.workers == 1 else 's'}"
    return f"{cost.engine.capitalize()}: {cost.cores:.2f} cores (±{share(round(cost.error, 2))}), {workers}{memory}"
