"""What each idea of an engine buys: the way from Sherpa to Olla, then one switch at a time. Pure.

Three groups of steps, each the ratio of CPU per unit of two targets that ran in the same rounds:

- ``path``: Sherpa on the plain loop -> Sherpa -> Olla with its switches off -> Olla. The change of engine is one
  step: what no switch turns off cannot be split.
- ``alone``: a switch turned on in an Olla that has none.
- ``last``: the same switch as the last one missing from Olla as it is.

A switch may save alone and buy nothing last, when another one has saved the same already; so both are shown. A ratio is
always with the step over without it: below 1 it saves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from reports.compare import BUSY, MARGINS, Comparison
from reports.schema import METRICS, ScenarioRecord, TargetRecord
from reports.stats import Estimate, Interval, estimate
from reports.store import Campaign

Group: TypeAlias = Literal["path", "alone", "last"]
Word: TypeAlias = Literal["saves", "costs", "buys nothing", "too noisy to tell"]

_LOOP: Final = "server.loop"


@dataclass(frozen=True, slots=True)
class Step:
    """One step in one scenario: `over` has what `under` lacks. `before`, `after`: their geometric means in the unit."""

    group: Group
    scenario: str
    metric: str
    label: str
    under: str
    over: str
    effect: Estimate
    before: float
    after: float
    busy: float | None
    """Share of a core of the less busy of the two; CPU per unit of an idle process is mostly wake-ups."""

    @property
    def change(self) -> tuple[float, float, float]:
        """(estimate, low, high) as shares at 95 %: -0.1 saves a tenth."""
        ends = self._ratio
        return math.expm1(self.effect.mean), ends.low - 1, ends.high - 1

    @property
    def _ratio(self) -> Interval:
        found = self.effect.interval()
        assert found is not None  # a step has two rounds or more
        return found.exp()

    @property
    def word(self) -> Word:
        """What the step does: nothing, if its interval lies within the margin of CPU."""
        ends = self._ratio
        if ends.inside(1 - MARGINS["cpu"], 1 + MARGINS["cpu"]):
            return "buys nothing"
        if not ends.excludes(1):
            return "too noisy to tell"
        return "saves" if ends.high < 1 else "costs"

    @property
    def sentence(self) -> str:
        """For the table: the word, with its doubt."""
        if self.busy is not None and self.busy < BUSY and self.group != "path":
            return f"{self.word}, at {100 * self.busy:.0f} % of a core"
        return self.word


def steps(campaign: Campaign, comparison: Comparison) -> list[Step]:
    """All steps that were measured in two rounds or more, by scenario in the order path, alone, last."""
    known = {target.name: target for target in campaign.header.targets}
    found = []
    for name in campaign.header.scenarios:
        metric = _metric(campaign.scenario(name))
        for group, label, under, over in _pairs(known):
            step = _step(comparison, group, name, metric, label, under, over)
            if step is not None:
                found.append(step)
    return found


def _metric(scenario: ScenarioRecord) -> str:
    """The CPU metric it declared, else the one of its kind."""
    return next((m for m in scenario.primaries() if METRICS[m].family == "cpu"), scenario.cpu_metric())


def _pairs(known: Mapping[str, TargetRecord]) -> Iterator[tuple[Group, str, str, str]]:
    """(group, label, without, with) of all steps that the targets of a campaign make up."""
    parents = {t.variant_of for t in known.values() if t.variant_of is not None}
    bare = {name for name in parents & known.keys() if len(known[name].switches) > 1}
    for target in known.values():
        if target.kind == "variant" and _LOOP in target.switches and target.engine == "sherpa":
            yield "path", "uvloop", target.name, target.variant_of or ""
    for name in bare:
        if "sherpa" in known:
            yield "path", "the other engine", "sherpa", name
    for name in bare:
        yield "path", "all its switches", name, known[name].variant_of or ""
    for target in known.values():
        if target.name not in bare and bare.intersection(_ancestors(known, target)):
            yield "alone", _label(target), target.variant_of or "", target.name
    for target in known.values():
        mine = target.kind == "variant" and target.name not in bare and not bare.intersection(_ancestors(known, target))
        if mine and target.engine != "sherpa":
            yield "last", _label(target), target.name, target.variant_of or ""


def _ancestors(known: Mapping[str, TargetRecord], target: TargetRecord) -> Iterator[str]:
    """What it is a variant of, what that is a variant of, and so on."""
    while (parent := known.get(target.variant_of or "")) is not None:
        yield parent.name
        target = parent


def _label(target: TargetRecord) -> str:
    """What is switched, without its value: both groups name a switch the same way."""
    return next((key for key in target.switches if key.startswith("runtime.gc")), ", ".join(target.switches))


def _step(
    comparison: Comparison, group: Group, scenario: str, metric: str, label: str, under: str, over: str
) -> Step | None:
    runs = [{f.record.round: f for f in comparison.valid.get((scenario, name), ())} for name in (under, over)]
    both = [(runs[0][n], runs[1][n]) for n in sorted(runs[0].keys() & runs[1].keys())]
    pairs = [(a.value(metric), b.value(metric)) for a, b in both]
    values = np.array([(a, b) for a, b in pairs if a and b], dtype=np.float64)
    if len(values) < 2:
        return None
    logs = np.log(values)
    known = [facts.busy for pair in both for facts in pair if facts.busy is not None]
    means = np.exp(logs.mean(axis=0))
    return Step(
        group=group,
        scenario=scenario,
        metric=metric,
        label=label,
        under=under,
        over=over,
        effect=estimate(logs[:, 1] - logs[:, 0]),
        before=float(means[0]),
        after=float(means[1]),
        busy=min(known) if known else None,
    )
