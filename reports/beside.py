"""All targets side by side: each scenario's primary metrics, and how the main candidate compares with each other. Pure.

A value is the mean over a target's valid rounds, geometric where the metric is compared as a ratio; a ratio is the
geometric mean, over the rounds that both have, of the main candidate's value divided by the other's. Percentiles of the
tail are of all valid rounds together. The words of verdicts need intervals and stand elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from reports import stats
from reports.compare import Comparison
from reports.schema import METRICS, Metric
from reports.stats import Tail
from reports.store import Campaign


@dataclass(frozen=True, slots=True)
class TargetCell:
    """One target. `value` in the metric's unit or None; `times`: the main candidate as a multiple of it."""

    target: str
    value: float | None = None
    times: float | None = None
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric of one scenario, a cell for each target."""

    scenario: str
    metric: Metric
    cells: tuple[TargetCell, ...]


def lines(
    campaign: Campaign, comparison: Comparison, scenarios: Sequence[str], targets: Sequence[str]
) -> list[MetricLine]:
    """A line a scenario and primary metric that the main candidate has a value of, a cell a target in this order."""
    found = []
    for scenario in scenarios:
        for metric in _metrics(campaign, scenario):
            cells = tuple(_cell(comparison, scenario, metric, target) for target in targets)
            if any(cell.target == comparison.main and cell.rounds for cell in cells):
                found.append(MetricLine(scenario, METRICS[metric], cells))
    return found


def _metrics(campaign: Campaign, scenario: str) -> Iterator[str]:
    known = campaign.scenario(scenario)
    yield from known.primaries()
    if "added_p50_us" in known.primaries() and "added_p99_us" not in known.primaries():
        yield "added_p99_us"
    if "throughput_rps" not in known.primaries() and known.rate_rps is None:
        yield "throughput_rps"  # in closed loop it is a result


def _cell(comparison: Comparison, scenario: str, metric: str, target: str) -> TargetCell:
    tail = _tail(comparison, scenario, metric, target)
    if tail is not None:
        return tail
    theirs = _by_round(comparison, scenario, metric, target)
    if not theirs:
        return TargetCell(target)
    value, times = _mean(theirs.values(), METRICS[metric]), None
    if comparison.main is not None and target != comparison.main:
        ours = _by_round(comparison, scenario, metric, comparison.main)
        ratios = [ours[n] / theirs[n] for n in sorted(ours.keys() & theirs.keys()) if ours[n] > 0 and theirs[n] > 0]
        times = float(np.exp(np.log(ratios).mean())) if ratios else None
    return TargetCell(target, value, times, len(theirs))


def _mean(values: Iterable[float], metric: Metric) -> float:
    found = np.fromiter(values, np.float64)
    geometric = metric.basis == "ratio" and bool((found > 0).all())
    return float(np.exp(np.log(found).mean()) if geometric else found.mean())


def _tail(comparison: Comparison, scenario: str, metric: str, target: str) -> TargetCell | None:
    """A percentile of the tail over all valid rounds; None where raw rows are missing or too few."""
    percent = METRICS[metric].tail
    ours, theirs = (_tails(comparison, scenario, metric, name) for name in (comparison.main or "", target))
    if percent is None or not theirs or not stats.enough(sum(one.size for one in theirs), percent):
        return None
    value, times = stats.pooled(theirs, percent), None
    if target != comparison.main and ours and stats.enough(sum(one.size for one in ours), percent):
        times = stats.pooled(ours, percent) / value
    return TargetCell(target, value, times, len(theirs))


def _tails(comparison: Comparison, scenario: str, metric: str, target: str) -> list[Tail]:
    found = [facts.tail(metric) for facts in comparison.valid.get((scenario, target), ())]
    return [one for one in found if one is not None and one.size]


def _by_round(comparison: Comparison, scenario: str, metric: str, target: str) -> dict[int, float]:
    runs = comparison.valid.get((scenario, target), ())
    found = ((facts.record.round, facts.value(metric)) for facts in runs)
    return {number: value for number, value in found if value is not None}
