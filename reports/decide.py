"""From verdicts to a decision: which engine, because of what, unless what.

The rule is written down here and nowhere else:

1. An engine that answers fewer requests rightly (goodput or errors `slower`) is out.
2. Otherwise the engine with a `faster` primary and no `slower` one is recommended.
3. Where each wins something, there is no general answer: the reasons say which workload wants which engine.
4. Where every primary is `equivalent`, the simpler engine (Sherpa) is recommended: a tie is no reason for complexity.
5. Where the campaign cannot tell, it says so and recommends nothing. An effect that is no larger than what the
   baseline may differ from itself by in the same campaign tells nothing.

`choose` answers for one deployment by a cost model fitted to stored campaigns, only inside the range they measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import optimize

from reports.compare import Comparison, Row, estimate, within_noise
from reports.schema import ENGINES, METRICS, Scenario
from reports.store import Campaign
from reports.words import headline, number, sentence, share, title

Floats: TypeAlias = npt.NDArray[np.float64]

NEGLIGIBLE_CORE: Final = 0.05
"""A saving below this share of one core changes nobody's bill: under it, simplicity decides."""
COMFORT: Final = 0.7
"""Share of its core a worker is planned for; above it queues grow steeply."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An engine or None, the reasons, and when the opposite is right."""

    engine: str | None
    because: tuple[str, ...]
    unless: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------- recommendation
def recommend(campaign: Campaign, comparison: Comparison) -> Recommendation:
    """The engine this campaign speaks for, by the rule above."""
    names = {str(t.engine): t.name for t in campaign.header.targets if t.kind == "engine" and t.engine}
    if not all(engine in names for engine in ENGINES):
        missing = " and ".join(engine for engine in ENGINES if engine not in names)
        return Recommendation(None, (f"the campaign did not compare both engines: {missing} is missing",), ())
    if comparison.baseline not in names.values():
        said = f"the baseline is {comparison.baseline}; engines are recommended against each other only"
        return Recommendation(None, (said,), ("repeat the report with --baseline sherpa",))
    baseline = "sherpa" if comparison.baseline == names["sherpa"] else "olla"
    other = "olla" if baseline == "sherpa" else "sherpa"
    rows = [row for row in comparison.rows if row.candidate.target == names[other]]
    primaries = [row for row in rows if row.primary]
    service = [row for row in rows if row.metric in _SERVICE]
    broken, rescued = _clear(service, "slower", comparison), _clear(service, "faster", comparison)
    won = _one_each(_clear(primaries, "faster", comparison))
    lost = _one_each(_clear(primaries, "slower", comparison))
    if broken and not rescued:
        return Recommendation(baseline, tuple(map(_reason, broken)), ())
    if rescued and not broken:
        return Recommendation(
            other, tuple(map(_reason, _one_each(rescued + won))), _unless(campaign, comparison, other, lost)
        )
    if won and not lost:
        return Recommendation(other, tuple(map(_reason, won)), _unless(campaign, comparison, other, lost))
    if lost and not won:
        return Recommendation(baseline, tuple(map(_reason, lost)), _unless(campaign, comparison, baseline, won))
    if won and lost:
        because = [f"each engine wins something: {_reason(row)}" for row in won + lost]
        return Recommendation(
            None, tuple(because), ("your workload is like one of the scenarios above: take its winner",)
        )
    if primaries and all(row.verdict == "equivalent" for row in primaries):
        tie = ("every primary metric is equivalent, and Sherpa is the simpler engine",)
        return Recommendation("sherpa", tie, ("you need circuit breakers or per-endpoint pools",))
    void = [row for row in primaries if row.verdict == "void"]
    if void and len(void) == len(primaries):
        quiet = ("repeat on a quieter machine, or with fewer other programs running",)
        return Recommendation(None, ("too few runs are valid to compare the engines", void[0].reason), quiet)
    return Recommendation(
        None, ("no primary metric of this campaign decides between the engines",), ("repeat with more rounds",)
    )


_SERVICE: Final = ("goodput_rps", "error_ratio")
"""Metrics that say whether requests are answered at all."""


def _clear(rows: Sequence[Row], word: str, comparison: Comparison) -> list[Row]:
    return [row for row in rows if row.verdict == word and not within_noise(row, comparison)]


@dataclass(frozen=True, slots=True)
class Action:
    """What to do for one use case: whom to use (None: it cannot be said), and that in a few words."""

    use: str | None
    say: str


def action(rows: Sequence[Row], comparison: Comparison) -> Action:
    """What the rows of one scenario and candidate say to do, by the same rule as the recommendation."""
    if not rows:
        return Action(None, "Not measured")
    ours, theirs = rows[0].baseline.target, rows[0].candidate.target
    service = [row for row in rows if row.metric in _SERVICE]
    primaries = [row for row in rows if row.primary]
    broken, rescued = _clear(service, "slower", comparison), _clear(service, "faster", comparison)
    won, lost = _clear(primaries, "faster", comparison), _clear(primaries, "slower", comparison)
    if bool(broken) != bool(rescued):
        won, lost = ([], broken) if broken else (rescued, [])
    if won and not lost:
        return Action(theirs, f"Use {title(theirs)}")
    if lost and not won:
        return Action(ours, f"Use {title(ours)}")
    if won and lost:
        return Action(None, f"Weigh: {title(theirs)} for {_labels(won)}, {title(ours)} for {_labels(lost)}")
    words = {row.verdict for row in primaries}
    if words == {"equivalent"}:
        simpler = next((name for name in (ours, theirs) if name == "sherpa"), None)
        return Action(simpler, f"Use either; {title(simpler)} is simpler" if simpler else "Use either")
    if words <= {"void", "not-measured"}:
        return Action(None, "Measure again" if "void" in words else "Not measured")
    return Action(None, "No answer yet")


def _labels(rows: Sequence[Row]) -> str:
    return " and ".join(row.spec.label for row in rows)


def _one_each(rows: Sequence[Row]) -> list[Row]:
    """The strongest row of each scenario, so that a reason is read once."""
    scenarios = dict.fromkeys(row.scenario for row in rows)
    strongest = (headline([replace(row, primary=True) for row in rows if row.scenario == name]) for name in scenarios)
    return [row for row in strongest if row is not None]


def _reason(row: Row) -> str:
    return f"{row.scenario}: {sentence(row)}"


def _unless(campaign: Campaign, comparison: Comparison, engine: str, against: Iterable[Row]) -> tuple[str, ...]:
    said = [f"{_reason(row)} matters more to you" for row in against]
    if engine != "olla":
        return tuple(said)
    for name, scenario in campaign.header.scenarios.items():
        load = _measured_load(comparison, name, scenario, campaign)
        if load is not None:
            said.append(load)
            break
    said.append("you value code that is read in an hour above what is measured here: Sherpa is the simpler engine")
    return tuple(said)


def _measured_load(comparison: Comparison, name: str, scenario: Scenario, campaign: Campaign) -> str | None:
    """What both engines use at the measured rate; below it nothing is made up: CPU per request is not constant."""
    shares = []
    for engine in ENGINES:
        target = next((t.name for t in campaign.header.targets if t.kind == "engine" and t.engine == engine), "")
        used = [f.extras.get("utilisation") for f in comparison.valid.get((name, target), ())]
        known = [float(share) for share in used if isinstance(share, int | float)]
        if not known:
            return None
        shares.append(sum(known) / len(known))
    if scenario.rate_rps is None or shares[0] - shares[1] <= 0:
        return None
    small = shares[0] - shares[1] < NEGLIGIBLE_CORE
    return (
        f"your load stays near or under that of {name} ({number(scenario.rate_rps)} req/s), where Sherpa uses "
        f"{shares[0] * 100:.1f} % of one core and Olla {shares[1] * 100:.1f} %: "
        f"{'a difference nobody is billed for' if small else 'one core carries either'}"
    )


# ------------------------------------------------------------------------------------------------------------ choose
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
    """One measured place of the cost model: an engine in a scenario, means over its valid rounds."""

    campaign: str
    scenario: str
    rate_rps: float
    events: float
    endpoints: int
    cpu_us_per_request: float
    spread: float
    """Relative half-width of the 95 % interval for one further round: what another day may see."""
    utilisation: float
    rss_idle_mib: float | None
    kib_per_stream: float | None
    active_peak: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an engine is expected to need."""

    engine: str
    cores: float
    error: float
    """Relative: the larger of the fit's worst residual and the points' own spread, and what lies between the load asked
    for and the nearest one measured."""
    reach: float
    """The part of `error` for the distance to the nearest measured load; it moves both engines alike."""
    workers: int
    memory_mib: float | None
    meets_slo: bool | None
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer of `choose`."""

    engine: str
    because: tuple[str, ...]
    costs: tuple[Cost, ...]
    break_even_rps: float | None
    """Rate at which Olla saves NEGLIGIBLE_CORE of a core; None where the fitted costs do not differ."""
    break_even_measured: bool
    """Whether that rate lies inside the measured range; otherwise it is an extrapolation and said to be one."""

    def to_json(self) -> dict[str, Any]:
        """For `choose --json`."""
        return {
            "engine": self.engine,
            "because": list(self.because),
            "break_even_rps": self.break_even_rps,
            "break_even_measured": self.break_even_measured,
            "costs": [
                {
                    "engine": cost.engine,
                    "cores": cost.cores,
                    "error": cost.error,
                    "workers": cost.workers,
                    "memory_mib": cost.memory_mib,
                    "meets_slo": cost.meets_slo,
                    "evidence": list(cost.evidence),
                }
                for cost in self.costs
            ],
        }


def points_of(campaign: Campaign, comparison: Comparison) -> dict[str, list[Point]]:
    """The cost model's points of one campaign, by engine: scenarios at a fixed rate without faults."""
    points: dict[str, list[Point]] = {engine: [] for engine in ENGINES}
    engines = {t.name: t.engine for t in campaign.header.targets if t.kind == "engine" and t.engine in ENGINES}
    for (name, target), runs in comparison.valid.items():
        scenario, engine = campaign.scenario(name), engines.get(target)
        if engine is None or scenario.loop != "open" or scenario.faults or scenario.rate_rps is None or not runs:
            continue
        if scenario.ballast or (scenario.response_bytes or 0) > _ORDINARY_REPLY:
            continue  # another heap, or bytes rather than requests: no part of this model

        def mean(metric: str, rounds: Sequence[Any] = runs) -> float | None:
            known = [value for value in (facts.value(metric) for facts in rounds) if value is not None]
            return sum(known) / len(known) if known else None

        def extra(key: str, rounds: Sequence[Any] = runs) -> float:
            known = [float(f.extras[key]) for f in rounds if isinstance(f.extras.get(key), int | float)]
            return sum(known) / len(known) if known else 0.0

        costs = comparison.values(name, "cpu_us_per_request", target)
        if not costs.size:
            continue
        found = estimate(costs)
        points[engine].append(
            Point(
                campaign=campaign.header.id,
                scenario=name,
                rate_rps=scenario.rate_rps,
                events=extra("events_per_request") or float(scenario.events_per_request or 0),
                endpoints=scenario.endpoints or 1,
                cpu_us_per_request=found.mean,
                spread=(found.half_width or 0.0) * math.sqrt(found.rounds + 1) / found.mean,
                utilisation=extra("utilisation"),
                rss_idle_mib=mean("rss_idle_mib"),
                kib_per_stream=mean("rss_kib_per_stream"),
                active_peak=extra("active_peak"),
                metrics={metric: value for metric in METRICS if (value := mean(metric)) is not None},
            )
        )
    return points


def choose(points: Mapping[str, Sequence[Point]], wanted: Deployment) -> Advice:
    """The engine for a deployment, from measured points. OutsideRange where they do not reach it."""
    for engine in ENGINES:
        if not points.get(engine):
            raise OutsideRange(f"no campaign measured {engine} at a fixed rate; run: proxy-engines compare")
        _check_range(points[engine], wanted)
    fits = {engine: fit(points[engine]) for engine in ENGINES}
    costs = tuple(_cost(engine, points[engine], fits[engine], wanted) for engine in ENGINES)
    sherpa, olla = costs
    saved = sherpa.cores - olla.cores
    break_even = _break_even(fits, wanted.tokens or 0.0)
    top = max(point.rate_rps for point in points["olla"])
    unsure = math.hypot(*(cost.cores * (cost.error - cost.reach) for cost in costs))
    unsure += abs(saved) * max(cost.reach for cost in costs)
    because = [_cost_words(cost) for cost in costs]
    if olla.meets_slo is False and sherpa.meets_slo is not False:
        engine, why = "sherpa", "only Sherpa meets the stated limits"
    elif sherpa.meets_slo is False and olla.meets_slo is not False:
        engine, why = "olla", "only Olla meets the stated limits"
    elif saved > max(NEGLIGIBLE_CORE, unsure):
        engine, why = "olla", f"Olla saves {saved:.2f} of a core at this load"
    elif sherpa.workers > olla.workers:
        engine, why = "olla", f"Sherpa needs {sherpa.workers} workers where Olla needs {olla.workers}"
    else:
        engine = "sherpa"
        doubt = "not worth its complexity" if saved <= NEGLIGIBLE_CORE else "too uncertain to pay for its complexity"
        why = f"Olla would save {max(saved, 0.0):.2f} of a core (±{unsure:.2f}): {doubt}"
    return Advice(engine, (why, *because), costs, break_even, break_even is not None and break_even <= top)


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
    lowest = min(point.rate_rps for point in points) / _BELOW
    if wanted.tokens is None and (wanted.streams is None):
        # Plain replies: the cost of a request is known from request scenarios alone.
        inside("--rate", wanted.rate_rps, (p.rate_rps for p in points), lowest=lowest)
    else:
        if not streams:
            raise OutsideRange("no streaming scenario was measured; run: proxy-engines compare --scenarios chat-stream")
        inside("--rate", wanted.rate_rps, (p.rate_rps for p in points), lowest=lowest)
    if wanted.tokens is not None:
        inside("--tokens", wanted.tokens, (p.events for p in points))
    if wanted.streams is not None:
        inside("--streams", wanted.streams, (p.active_peak for p in streams), lowest=0.0)
    inside("--endpoints", wanted.endpoints, (p.endpoints for p in points))


_ORDINARY_REPLY: Final = 65_536
_BELOW: Final = 10.0
"""How far below the lowest measured rate an answer is given, with an error that says so."""
_SHARING: Final = 0.3
"""CPU per request falls with load, as wake-ups are shared: by this power of the events a second, where too few loads
were measured to tell. On this project's machine it was 0.27 for Sherpa and 0.54 for Olla from 250 to 1,000 req/s; the
error allows for anything between 0 and twice as much."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The cost of an engine: (request + event x events) x (1,000 / units a second) ^ sharing, microseconds."""

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


def fit(points: Sequence[Point]) -> Fit:
    """The costs of a request and of an event by non-negative least squares on relative errors."""
    loads = tuple(_units(point.rate_rps, point.events) for point in points)
    known = len({round(math.log(load), 1) for load in loads}) >= 3
    tried = np.linspace(0, 2 * _SHARING, 13) if known else [_SHARING]
    return min((_fit_at(points, loads, float(s), known) for s in tried), key=lambda found: found.residual)


def _fit_at(points: Sequence[Point], loads: tuple[float, ...], sharing: float, known: bool) -> Fit:
    factor = np.array([_shared(load, sharing) for load in loads])
    y = np.array([point.cpu_us_per_request for point in points]) / factor
    events = np.array([point.events for point in points])
    columns = [np.ones(y.size)] + ([events] if np.unique(events).size > 1 else [])
    design = np.column_stack(columns) / y[:, None]
    found, _ = optimize.nnls(design, np.ones(y.size))
    residual = float(np.abs(design @ found - 1).max())
    return Fit(float(found[0]), float(found[1]) if found.size > 1 else 0.0, sharing, residual, loads, known)


def _break_even(fits: Mapping[str, Fit], events: float) -> float | None:
    """The lowest rate at which Olla saves NEGLIGIBLE_CORE of a core; None if it does nowhere below a million."""

    def short(rate: float) -> float:
        return NEGLIGIBLE_CORE - (fits["sherpa"].cores(rate, events) - fits["olla"].cores(rate, events))

    rates = np.geomspace(0.01, 1e6, 200)
    first = next((number for number, rate in enumerate(rates) if short(float(rate)) <= 0), None)
    if first is None:
        return None
    return float(rates[0]) if first == 0 else float(optimize.brentq(short, rates[first - 1], rates[first]))


def _cost(engine: str, points: Sequence[Point], found: Fit, wanted: Deployment) -> Cost:
    events = wanted.tokens or 0.0
    cores = found.cores(wanted.rate_rps, events)
    workers = max(1, math.ceil(cores / COMFORT))
    idle = [point.rss_idle_mib for point in points if point.rss_idle_mib is not None]
    each = [point.kib_per_stream for point in points if point.kib_per_stream is not None]
    memory = workers * max(idle) if idle else None
    if memory is not None and wanted.streams:
        memory = memory + wanted.streams * max(each) / 1024 if each else None
    own = max(found.residual, max(point.spread for point in points))
    reach = found.reach(wanted.rate_rps, events)
    return Cost(
        engine,
        cores,
        own + reach,
        reach,
        workers,
        memory,
        _meets(points, wanted),
        tuple(f"{point.campaign}/{point.scenario} at {share(point.utilisation)} of a core" for point in points),
    )


def _meets(points: Sequence[Point], wanted: Deployment) -> bool | None:
    """Whether the measured values at the next higher rate keep every stated limit; None without limits."""
    if not wanted.slo:
        return None
    kind = [p for p in points if (p.events > 0) == (wanted.tokens is not None)] or list(points)
    nearest = min(
        (p for p in kind if p.rate_rps >= wanted.rate_rps), key=lambda p: p.rate_rps, default=max(kind, key=_rate)
    )
    for metric, limit in wanted.slo.items():
        value = nearest.metrics.get(metric)
        if value is None:
            raise OutsideRange(f"--slo {metric}: not measured in {nearest.scenario}; measure a scenario that has it")
        if (value < limit) if METRICS[metric].higher_is_better else (value > limit):
            return False
    return True


def _rate(point: Point) -> float:
    return point.rate_rps


def _cost_words(cost: Cost) -> str:
    memory = "" if cost.memory_mib is None else f", {number(cost.memory_mib)} MiB"
    workers = f"{cost.workers} worker{'' if cost.workers == 1 else 's'}"
    return f"{cost.engine.capitalize()}: {cost.cores:.2f} cores (±{share(round(cost.error, 2))}), {workers}{memory}"
