"""How often and how long each scenario is measured, so that its rows become as precise as was asked for.

After Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013): variance between starts and within a
start is taken from a pilot or from earlier campaigns on this machine; then the cheapest numbers of starts and seconds
are computed. It is decided before the first counted run, so nothing stops because it looks good; no run of the pilot
is counted. What was forecast is kept and held against what came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from loadgen.bench import machine
from loadgen.campaign.plan import Planned
from loadgen.workload.scenario import Scenario
from reports import stats, store, summarise
from reports.schema import FLOOR_TARGETS, METRICS, RunRecord, Strict
from reports.stats import Bounds, Components, Costs
from reports.store import ReportError

_PIECES = 4  # of a window: enough to tell what varies within a start
_CAMPAIGNS = 3  # the newest ones
_LIKE = 0.2  # rates, or lengths, that differ by less are the same load
_FINEST = 0.002
_WIDEST = 20.0
_HOPELESS = 0.25  # where only a time was asked for: rows that do not even get this decide nothing
_BOUNDS = Bounds(least_starts=5, most_starts=40, shortest_s=1.0, longest_s=30.0)

Row = str
"""`METRIC TARGET`: the target against the baseline."""


class Chosen(Strict):
    """What one scenario gets. `forecast`: half widths to be expected, as shares; `short`: of rows that miss what was
    wanted, the seconds their scenario would need, None where no number of starts up to 40 would do."""

    starts: int
    length_s: float
    forecast: Mapping[Row, float] = {}
    short: Mapping[Row, float | None] = {}


class Precision(Strict):
    """The plan of a campaign, as campaign.json keeps it."""

    wanted: float | None = None
    """Half width as a share."""
    time_s: float | None = None
    source: Literal["profile", "pilot", "earlier campaigns"] = "profile"
    scenarios: Mapping[str, Chosen] = Field(default_factory=dict)


# ------------------------------------------------------------------------------------------------------ what is known
def earlier(planned: Planned, folder: Path) -> Iterator[store.Campaign]:
    """The newest complete campaigns of this machine beside `folder`."""
    here = machine.describe(planned.cores)
    found = sorted(folder.parent.glob("*/campaign.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    kept = 0
    for path in found:
        if kept == _CAMPAIGNS or path.parent.is_symlink() or path.parent == folder:
            continue
        try:
            campaign = store.load_campaign(path.parent)
        except ReportError:
            continue
        same = all(campaign.header.machine.get(key) == here.get(key) for key in ("cpu_model", "cores_available"))
        if same and campaign.header.state == "complete":
            kept += 1
            yield campaign


def known(
    planned: Planned, campaigns: Sequence[store.Campaign], *, within: bool = True
) -> dict[str, dict[Row, Components]]:
    """The components of each row, by scenario, from runs under the same load.

    `within` false: only what whole runs of the same length tell, which needs no rows of requests and so no time.
    """
    found: dict[str, dict[Row, Components]] = {}
    for one in planned.scenarios:
        groups: dict[Row, list[list[float]]] = {}
        piece_s = 0.0
        for campaign in campaigns:
            if not _like(one, campaign, within=within):
                continue
            mine, its_s = _groups(planned, one, campaign, within=within)
            if groups and within and not _near(its_s, piece_s):
                continue  # shorter pieces scatter more: variances are of pieces of one length, the newest campaign's
            piece_s = piece_s or its_s
            for row, starts in mine.items():
                groups.setdefault(row, []).extend(starts)
        rows = {row: made for row, starts in groups.items() if (made := _components(starts, piece_s)) is not None}
        if rows:
            found[one.id] = rows
    return found


def _like(one: Scenario, campaign: store.Campaign, *, within: bool) -> bool:
    stored = campaign.header.scenarios.get(one.id)
    if stored is None or stored.duration_s <= 0:
        return False
    if not within and not _near(one.duration_s, stored.duration_s):
        return False
    rate = one.rate_rps()
    if rate is None or stored.rate_rps is None:
        return rate == stored.rate_rps
    return _near(rate, stored.rate_rps)


def _near(one: float, other: float) -> bool:
    return one == other or (min(one, other) > 0 and abs(math.log(one / other)) < _LIKE)


def _groups(
    planned: Planned, one: Scenario, campaign: store.Campaign, *, within: bool
) -> tuple[dict[Row, list[list[float]]], float]:
    """By row: for each round the log ratios of its pieces; and the seconds of load in a piece."""
    described = campaign.scenario(one.id)
    metrics = [name for name in described.primaries() if _plannable(name, open_loop=described.loop == "open")]
    pieces: dict[str, dict[int, dict[str, list[float | None]]]] = {}
    piece_s = 0.0
    for run in campaign.runs:
        if run.record.scenario == one.id and run.record.ended == "ok":
            whole = {name: [run.record.summary.get(name)] for name in metrics}
            mine = _pieces(run, described, metrics) if within else whole
            pieces.setdefault(run.record.target, {})[run.record.round] = mine
            if run.record.window_ns is not None:
                piece_s = (run.record.window_ns[1] - run.record.window_ns[0]) / 1e9 / run.record.turns / _PIECES
    ours = pieces.get(planned.baseline or "", {})
    found: dict[Row, list[list[float]]] = {}
    for arm in planned.arms_for(one):
        theirs = pieces.get(arm.name, {})
        if arm.name == planned.baseline or arm.name in FLOOR_TARGETS:
            continue
        for metric in metrics:
            starts = [_ratios(ours[n][metric], theirs[n][metric]) for n in sorted(ours.keys() & theirs.keys())]
            if any(starts):
                found[f"{metric} {arm.name}"] = [logs for logs in starts if logs]
    return found, piece_s


def _plannable(metric: str, *, open_loop: bool) -> bool:
    """Whether more starts or seconds make it more precise in a way that pieces tell: no tails, no peaks, no counts.

    Nor rates in open loop: in a piece they scatter as arrivals do, and over the window all targets get the same ones.
    """
    about = METRICS[metric]
    if about.family == "throughput":
        return not open_loop
    return about.tail is None and about.family in ("latency", "cpu")


def _pieces(run: store.Run, described: Any, metrics: Sequence[str]) -> dict[str, list[float | None]]:
    """Each metric in each piece of the window; of runs without rows the whole run as one piece."""
    tables = {kind: run.table(kind) for kind in ("requests", "events", "usage")}
    record, window = run.record, run.record.window_ns
    windows: list[tuple[int, int] | None] = [window]
    if window is not None and tables["requests"] is not None:
        edges = np.linspace(window[0], window[1], _PIECES + 1).astype(np.int64).tolist()
        windows = list(pairwise(edges))
    parts: list[RunRecord] = [record.model_copy(update={"window_ns": part}) for part in windows]
    facts = [summarise.measure(part, described, tables) for part in parts]
    return {name: [each.value(name) for each in facts] for name in metrics}


def _ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    return [math.log(c / b) for b, c in zip(ours, theirs, strict=False) if b and c and b > 0 and c > 0]


def _components(starts: Sequence[Sequence[float]], piece_s: float) -> Components | None:
    if len(starts) < 2:
        return None
    if all(len(one) == 1 for one in starts):  # whole runs only: their length cannot be planned
        return Components(float(np.var([one[0] for one in starts], ddof=1)), 0.0)
    try:
        return stats.components(starts, piece_s)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------------- decision
def costs(planned: Planned, one: Scenario) -> Costs:
    """What a round of one scenario takes: whatever its length, and for each second of load."""
    arms = len(planned.arms_for(one))
    return Costs(max(planned.round_s([one]) - arms * one.duration_s, 0.0), float(arms))


def decide(
    rows: Mapping[str, Mapping[Row, Components]],
    prices: Mapping[str, Costs],
    lengths: Mapping[str, float],
    wanted: float | None,
    budget_s: float | None,
) -> dict[str, Chosen]:
    """Starts and length of each scenario of `rows`. Pure.

    The cheapest that gives every row the `wanted` half width; where that takes longer than `budget_s`, the smallest
    width that all can have within it. `lengths`: of scenarios whose length cannot be planned.
    """
    hope = wanted or _HOPELESS
    plans = {name: _ScenarioRows(mine, prices[name], _bounds(mine, lengths[name]), hope) for name, mine in rows.items()}
    made = {name: one.at(wanted or _FINEST) for name, one in plans.items()}
    low, high = wanted or _FINEST, _WIDEST
    if not _fits(made, prices, budget_s):
        made = {name: one.at(high) for name, one in plans.items()}
        for _ in range(40):
            middle = math.sqrt(low * high)
            tried = {name: one.at(middle) for name, one in plans.items()}
            if _fits(tried, prices, budget_s):
                made, high = tried, middle
            else:
                low = middle
    return {name: one.chosen(*(made[name] or one.least()), wanted or _FINEST) for name, one in plans.items()}


def _fits(made: Mapping[str, tuple[int, float] | None], prices: Mapping[str, Costs], budget_s: float | None) -> bool:
    if any(one is None for one in made.values()):
        return False
    return budget_s is None or sum(prices[name].seconds(*one) for name, one in made.items() if one) <= budget_s


def _bounds(rows: Mapping[Row, Components], length_s: float) -> Bounds:
    planned = any(one.within_s > 0 for one in rows.values())
    return _BOUNDS if planned else replace(_BOUNDS, shortest_s=length_s, longest_s=length_s)


@dataclass(frozen=True, slots=True)
class _ScenarioRows:
    """The rows of one scenario and what a round of it takes. What does not reach `hope` with 40 starts is left out of
    the planning: it would make the others dear and gain nothing."""

    rows: Mapping[Row, Components]
    price: Costs
    bounds: Bounds
    hope: float

    def alone(self, row: Row, width: float) -> tuple[int, float] | None:
        """(starts, seconds) for this row only."""
        return stats.cheapest({row: self.rows[row]}, self.price, math.log1p(width), self.bounds)

    def at(self, width: float) -> tuple[int, float] | None:
        """(starts, seconds) at the least cost that give this half width; None if none do."""
        hopeful = {name: one for name, one in self.rows.items() if self.alone(name, max(self.hope, width))}
        if not hopeful:
            return self.least()
        return stats.cheapest(hopeful, self.price, math.log1p(width), self.bounds)

    def least(self) -> tuple[int, float]:
        """The least there is."""
        return self.bounds.least_starts, self.bounds.shortest_s

    def chosen(self, starts: int, length_s: float, wanted: float) -> Chosen:
        """What that gives each row, and what those that are short of `wanted` would take."""
        length = math.floor(length_s * 100) / 100
        widths = {name: math.expm1(one.half_width(starts, length)) for name, one in self.rows.items()}
        short: dict[Row, float | None] = {}
        for name, width in widths.items():
            if width > wanted * 1.02:
                alone = self.alone(name, wanted)
                short[name] = None if alone is None else self.price.seconds(*alone)
        return Chosen(starts=starts, length_s=length, forecast=widths, short=short)


def forecast(planned: Planned, rows: Mapping[str, Mapping[Row, Components]]) -> dict[str, Chosen]:
    """What is to be expected of the campaign as it is."""
    return {
        one.id: Chosen(
            starts=planned.starts(one),
            length_s=one.duration_s,
            forecast={
                name: math.expm1(each.half_width(planned.starts(one), one.duration_s))
                for name, each in rows[one.id].items()
            },
        )
        for one in planned.scenarios
        if one.id in rows and planned.starts(one) > 1
    }


def apply(planned: Planned, precision: Precision) -> Planned:
    """The campaign with these starts and lengths."""
    chosen = precision.scenarios
    scenarios = tuple(
        one.model_copy(update={"duration_s": chosen[one.id].length_s}) if one.id in chosen else one
        for one in planned.scenarios
    )
    starts = {one.id: chosen[one.id].starts if one.id in chosen else planned.starts(one) for one in scenarios}
    return replace(
        planned,
        scenarios=scenarios,
        starts_of=starts,
        rounds=max(starts.values()),
        repeats=max(starts.values()) // 2,
        precision=precision.model_dump(),
    )


# ------------------------------------------------------------------------------------------------------------- words
def words(precision: Precision) -> list[str]:
    """What was decided, a line for each scenario and for each row that stays short of what was wanted."""
    lines = []
    for name, one in precision.scenarios.items():
        widest = max(one.forecast.values(), default=0.0)
        lines.append(f"{name}: {one.starts} starts of {one.length_s:.3g} s, widest forecast +-{widest:.1%}")
        for row, needed in one.short.items():
            if precision.wanted is not None:
                more = "cannot be had with 40 starts" if needed is None else f"would take {duration(needed)} here"
                lines.append(f"  {row}: +-{one.forecast[row]:.1%}; +-{precision.wanted:.1%} {more}")
    return lines


def duration(seconds: float) -> str:
    """For people: seconds, or minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def came(precision: Precision, rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[Row, tuple[float, float]]]:
    """By scenario and row: (forecast, what came), as shares. `rows`: those of verdict.json."""
    found: dict[str, dict[Row, tuple[float, float]]] = {}
    for row in rows:
        one = precision.scenarios.get(row["scenario"])
        name = f"{row['metric']} {row['candidate']['target']}"
        if one is None or name not in one.forecast or row["basis"] != "ratio":
            continue
        low, high = row["ci_low"], row["ci_high"]
        if low and high and low > 0:
            width = math.expm1(math.log(high / low) / 2)
            found.setdefault(row["scenario"], {})[name] = (one.forecast[name], width)
    return found


def came_words(found: Mapping[str, Mapping[Row, tuple[float, float]]]) -> str | None:
    """One sentence: how well the widths were forecast. None where nothing was."""
    pairs = [pair for rows in found.values() for pair in rows.values() if min(pair) > 0]
    if not pairs:
        return None
    forecasts, widths = np.array(pairs).T
    near = int((np.abs(np.log(widths / forecasts)) <= math.log(1.5)).sum())
    return (
        f"Half widths: forecast {np.median(forecasts):.1%}, measured {np.median(widths):.1%} "
        f"(medians of {len(pairs)} rows), {near} within a factor of 1.5"
    )
