"""Two targets, round by round: the estimate, its 95 % interval, and one word.

The sample is the run, one process start. In each round baseline and candidate ran side by side, so each round gives one
log ratio; their mean is the estimate and the t interval with n-1 degrees of freedom its uncertainty. Percentiles of the
tail are pooled: all rounds' requests form one sample, and whole rounds are resampled for its interval. A capacity is
known between two bounds in each run; its interval reaches from the lower bound's low end to the upper bound's high end.

Whether a row is a ratio or a difference is a property of its metric (`Metric.basis`), never of the data.

A scenario declares its primary metrics before measuring. The primary rows of one scenario and candidate form a family:
Holm's method keeps their false alarms together at 5 %. The interval that a row prints is always its own 95 % interval;
its word follows the adjusted p, and is withheld where the baseline differs from itself (its A/A row, at 95 % too) by as
much. All other rows are secondary: they are called `lower` or `higher`, never `faster`
or `slower`, from a false discovery rate of 5 % on, and no decision is made on them alone.

What a target does wrong is a result (`Blame`): it is counted and shown, and its rounds stay. A target that fails in
more than one round of eight, or that changed a single reply, is `unreliable`; one that cannot carry the offered load
is `overloaded`. Only what the bench spoilt is void, for all targets of that round.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from reports import stats
from reports.schema import AA_SUFFIX, FLOOR_TARGETS, METRICS, Basis, Check, Family, Metric, ScenarioRecord
from reports.stats import LEVEL, Estimate, Interval, Tail
from reports.store import Campaign, ReportError
from reports.summarise import Facts

Floats: TypeAlias = npt.NDArray[np.float64]
Fault = Literal["unreliable", "overloaded"]
Word = Literal[
    "not-measured", "void", "unreliable", "overloaded", "equivalent", "faster", "slower", "too-noisy",
    "similar", "lower", "higher", "unclear",
]  # fmt: skip
"""`similar`, `lower`, `higher`, `unclear` are the words of secondary rows."""

DECIDED: Final = ("faster", "slower")

MARGINS: Final[dict[Family, float]] = {
    "latency": 0.05,
    "cpu": 0.03,
    "throughput": 0.01,
    "memory": 0.05,
    "gc": 0.10,
    "stall": 0.10,
    "errors": 0.10,
    "stream": 0.05,
}
"""Differences within this share of the baseline do not matter to anybody choosing an engine."""

DRIFT: Final = 0.10
"""A change of latency from the first to the last quarter of the runs that is too large to speak of one latency."""
BUSY: Final = 0.30
"""CPU per request falls with load (wake-ups are shared), so the less busy target is overcharged: a CPU verdict against
it, or one within a factor of two, needs both targets at least this busy."""
TOLERATED: Final = 1 / 8
"""Share of a target's rounds that may fail by its own fault before it is called unreliable (or overloaded)."""


@dataclass(frozen=True, slots=True)
class SideValue:
    """One target's value of a metric over the rounds: geometric mean for a ratio, mean for a difference, the pooled
    percentile for a tail. `ci`: its 95 % interval."""

    target: str
    value: float | None
    ci: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Blame:
    """What a target did wrong in a scenario, over the rounds that the bench did not spoil."""

    target: str
    rounds: int
    failed: int
    overloaded: int
    wrong_replies: int
    """Replies that were not what the mock sent, over all rounds, void ones too."""
    why: str
    """The first run's own sentence."""
    drifts: str = ""
    """The sentence of `drift` where its latency changes within each run, in round after round alike."""

    @property
    def word(self) -> Fault | None:
        """What that makes of its rows; None where it is within what is tolerated."""
        if self.wrong_replies or self.drifts or self.failed > TOLERATED * self.rounds:
            return "unreliable"
        return "overloaded" if self.failed + self.overloaded > TOLERATED * self.rounds else None

    @property
    def say(self) -> str:
        """One sentence for people."""
        if self.wrong_replies:
            replies = "reply" if self.wrong_replies == 1 else "replies"
            return f"{self.target} changed {self.wrong_replies:,} {replies}: {self.why}"
        bad = self.failed + self.overloaded
        if self.drifts and bad <= TOLERATED * self.rounds:
            return f"{self.target}: {self.drifts}"
        carried = self.failed > TOLERATED * self.rounds or not self.overloaded
        what = "failed" if carried else "could not carry the offered load"
        return f"{self.target} {what} in {bad} of {self.rounds} rounds: {self.why}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the verdict: a metric of a scenario, baseline against candidate."""

    scenario: str
    metric: str
    baseline: SideValue
    candidate: SideValue
    basis: Basis
    verdict: Word
    reason: str
    rounds: int
    primary: bool
    ratio: float | None = None
    ci_low: float | None = None
    """The 95 % interval, whatever the family of the row."""
    ci_high: float | None = None
    level: float = LEVEL
    """1 - confidence of that interval."""
    p: float | None = None
    p_adjusted: float | None = None
    """By Holm over the primaries of this scenario and candidate; by false discovery rate for secondary rows."""
    adjusted_level: float | None = None
    """The level at which Holm tested the unadjusted p; None for secondary rows."""
    visible: float | None = None
    """Smallest visible effect: for ratios the smallest increase as a share (see `visible_text`), else in the unit."""
    difference: float | None = None
    """candidate - baseline in the unit, where the basis is difference."""
    runs: tuple[str, ...] = ()
    """The run folders behind it."""
    blamed: tuple[str, ...] = ()
    """The targets that an `unreliable` or `overloaded` row is about."""

    @property
    def spec(self) -> Metric:
        """What the metric is."""
        return METRICS[self.metric]

    @property
    def is_aa(self) -> bool:
        """Whether this is the baseline against itself."""
        return self.candidate.target.endswith(AA_SUFFIX)

    @property
    def effect(self) -> tuple[float, float, float] | None:
        """(estimate, low, high) as change against the baseline: shares for ratios, in the unit for differences."""
        if self.ci_low is None or self.ci_high is None:
            return None
        if self.basis == "ratio" and self.ratio is not None:
            return self.ratio - 1, self.ci_low - 1, self.ci_high - 1
        if self.difference is not None:
            return self.difference, self.ci_low, self.ci_high
        return None

    @property
    def withheld(self) -> bool:
        """Whether the test saw an effect and the row has no word for it all the same; its `reason` says why."""
        seen = self.p_adjusted is not None and self.p_adjusted <= LEVEL
        return self.verdict in ("too-noisy", "unclear") and seen

    @property
    def winner(self) -> str | None:
        """The target that is shown to be better, by the word of a primary or of a secondary row; None without one."""
        good = "higher" if self.spec.higher_is_better else "lower"
        if self.verdict in ("faster", "slower"):
            better = self.verdict == "faster"
        elif self.verdict in ("lower", "higher"):
            better = self.verdict == good
        else:
            return None
        return self.candidate.target if better else self.baseline.target


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every verdict row of a campaign, in the order scenario, candidate, metric."""

    baseline: str | None
    rows: tuple[Row, ...]
    valid: Mapping[tuple[str, str], tuple[Facts, ...]]
    """(scenario, target) -> its runs by round that the bench did not spoil. Those that the target itself spoilt are
    among them: they are its results."""
    voided: Mapping[tuple[str, str], tuple[tuple[Facts, str], ...]]
    """(scenario, target) -> its void runs with the reason."""
    main: str | None = None
    """The candidate of the headline (see `main_candidate`)."""
    blames: Mapping[tuple[str, str], Blame] = field(default_factory=dict)
    """(scenario, target) -> what it did wrong there; absent where nothing."""

    _index: dict[tuple[str, str, str], Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {(row.scenario, row.metric, row.candidate.target): row for row in self.rows}
        object.__setattr__(self, "_index", found)

    def row(self, scenario: str, metric: str, candidate: str) -> Row | None:
        """The row of one metric, if there is one."""
        return self._index.get((scenario, metric, candidate))

    def blame(self, scenario: str, target: str) -> Fault | None:
        """The word for what a target did wrong in a scenario, beyond what is tolerated."""
        found = self.blames.get((scenario, target))
        return None if found is None else found.word

    def counted(self, scenario: str, target: str) -> tuple[Facts, ...]:
        """The runs of the rounds that the main table compares: the other side of it is valid there as well.

        So a figure and a table show the same number. All valid runs of a target that the table has no row for.
        """
        runs = self.valid.get((scenario, target), ())
        other = self.main if target == self.baseline else self.baseline
        both = {facts.record.round for facts in self.valid.get((scenario, other or ""), ())}
        return tuple(facts for facts in runs if facts.record.round in both) or runs

    def values(self, scenario: str, metric: str, target: str) -> Floats:
        """The metric in each valid round, in round order."""
        found = (facts.value(metric) for facts in self.valid.get((scenario, target), ()))
        return np.array([value for value in found if value is not None], dtype=np.float64)


# --------------------------------------------------------------------------------------------------- the comparison
def compare(campaign: Campaign, facts: Iterable[Facts]) -> Comparison:
    """Every target and the A/A arm against the baseline, in every scenario and metric."""
    by_run = {(f.record.scenario, f.record.target, f.record.round): f for f in facts}
    baseline = campaign.header.default_baseline()
    known = {target.name for target in campaign.header.targets} | {target for _, target, _ in by_run}
    if baseline is not None and baseline not in known:
        names = ", ".join(sorted(known))
        raise ReportError(f"{campaign.path / 'campaign.json'}: baseline {baseline!r} is none of its targets ({names})")
    valid, voided = _sorted_out(by_run)
    main = main_candidate(campaign, baseline)
    comparison = Comparison(baseline, (), valid, voided, main, _blames(valid, voided, baseline))
    if baseline is None:
        return comparison
    variants = {target.name for target in campaign.header.targets if target.kind == "variant"}
    rows: list[Row] = []
    for scenario in scenario_order(campaign, by_run):
        ran = {target for name, target, _ in by_run if name == scenario}
        # A variant is measured where its switch matters; its absence elsewhere is no gap.
        candidates = [name for name in candidate_order(campaign, baseline, ran) if name in ran or name not in variants]
        known_scenario = campaign.scenario(scenario)
        families = [
            [_row(known_scenario, pair, metric) for metric in METRICS.values()]
            for pair in (_pair(campaign, comparison, scenario, baseline, name) for name in candidates)
        ]
        noise = {one.row.metric: one.row for family in families for one in family if one.row.is_aa}
        for family in families:
            rows += _worded(family, comparison, noise)
    return replace(comparison, rows=tuple(rows))


_Place: TypeAlias = tuple[str, str]


def _sorted_out(
    by_run: Mapping[tuple[str, str, int], Facts],
) -> tuple[dict[_Place, tuple[Facts, ...]], dict[_Place, tuple[tuple[Facts, str], ...]]]:
    """By scenario and target: the runs that count, and those that the bench spoilt (for every target of the round)."""
    spoilt: dict[tuple[str, int], str] = {}
    for (scenario, _, number), found in by_run.items():
        if found.record.ended == "void":
            spoilt.setdefault((scenario, number), f"{found.record.why} (in {found.record.run})")
    valid: dict[_Place, list[Facts]] = defaultdict(list)
    voided: dict[_Place, list[tuple[Facts, str]]] = defaultdict(list)
    for (scenario, target, number), found in sorted(by_run.items(), key=lambda item: (item[0][2], item[0][:2])):
        reason = spoilt.get((scenario, number))
        if reason is None:
            valid[scenario, target].append(found)
        else:
            own = found.record.why if found.record.ended == "void" else None
            voided[scenario, target].append((found, own or reason))
    return {k: tuple(v) for k, v in valid.items()}, {k: tuple(v) for k, v in voided.items()}


def _blames(
    valid: Mapping[_Place, Sequence[Facts]], voided: Mapping[_Place, Sequence[tuple[Facts, str]]], baseline: str | None
) -> dict[_Place, Blame]:
    """What each target did wrong in each scenario. The baseline's two arms are one target: they drift together. A queue
    that grows where the load is not carried is an overload and no drift."""
    found = {}
    for scenario, target in dict.fromkeys((*valid, *voided)):
        runs = valid.get((scenario, target), ())
        arms = [runs]
        if baseline is not None and target.removesuffix(AA_SUFFIX) == baseline:
            arms = [valid.get((scenario, name), ()) for name in (baseline, baseline + AA_SUFFIX)]
        drifts = drift([facts.record.validity for arm in arms for facts in arm if facts.record.ended != "overloaded"])
        bad = [facts for facts in runs if facts.record.ended != "ok"]
        everything = [*runs, *(facts for facts, _ in voided.get((scenario, target), ()))]
        changed = [facts for facts in everything if facts.record.wrong_replies]
        if bad or changed or drifts is not None:
            first = next(iter(changed or bad), None)
            why = "" if first is None else f"{first.record.why or 'a wrong reply'} (in {first.record.run})"
            found[scenario, target] = Blame(
                target=target,
                rounds=len(runs),
                failed=sum(facts.record.ended == "failed" for facts in bad),
                overloaded=sum(facts.record.ended == "overloaded" for facts in bad),
                wrong_replies=sum(facts.record.wrong_replies for facts in changed),
                why=why or drifts or "",
                drifts=drifts or "",
            )
    return found


def drift(rounds: Sequence[Sequence[Check]]) -> str | None:
    """The sentence for a target that drifts within its runs of a scenario, or None. `rounds`: the checks of each run.

    A leak, a cold start or a queue that fills repeats its sign and size in every run; the speed of a shared machine
    steps up in one run and down in another. So the change in the runs must be over DRIFT in the mean, its 95 %
    interval over the rounds must exclude 0, and most runs must have warned of it. One round tells nothing.
    """
    trends = [check for checks in rounds for check in checks if check.check == "trend"]
    changes = [float(check.value) for check in trends if isinstance(check.value, int | float) and check.value > -1]
    if len(changes) < 2 or 2 * sum(check.warn for check in trends) <= len(changes):
        return None
    found = stats.estimate(np.log1p(changes))
    if found.p is None or found.p > LEVEL or abs(math.expm1(found.mean)) <= DRIFT:
        return None
    return (
        f"latency changes by {100 * math.expm1(found.mean):+.0f} % within each run, in {len(changes)} runs alike: "
        "the target does not stand still, longer runs or a longer warm-up would be needed"
    )


def scenario_order(campaign: Campaign, by_run: Iterable[tuple[str, str, int]]) -> list[str]:
    """Scenarios as the header lists them, then any that only runs name."""
    listed = list(campaign.header.scenarios)
    return listed + sorted({scenario for scenario, _, _ in by_run} - set(listed))


def candidate_order(campaign: Campaign, baseline: str, ran: Iterable[str]) -> list[str]:
    """Targets as the header lists them without the baseline, then others that ran; the A/A arm last."""
    listed = [target.name for target in campaign.header.targets if target.name != baseline]
    others = set(ran) - set(listed) - {baseline, baseline + AA_SUFFIX}
    return [*listed, *sorted(others), baseline + AA_SUFFIX]


# ------------------------------------------------------------------------------------------------------- one pair
@dataclass(frozen=True, slots=True)
class _Pair:
    """The rounds of one scenario that baseline and candidate both have, and what is missing."""

    scenario: str
    baseline: str
    candidate: str
    rounds: tuple[tuple[Facts, Facts], ...]
    ran: bool
    voided: tuple[str, ...]
    short: bool
    """Short of the planned rounds because of void ones, with nothing left to repeat."""
    blames: tuple[Blame, ...]
    """Of either side, beyond what is tolerated."""


def _pair(campaign: Campaign, seen: Comparison, scenario: str, baseline: str, candidate: str) -> _Pair:
    ours = {f.record.round: f for f in seen.valid.get((scenario, baseline), ())}
    theirs = {f.record.round: f for f in seen.valid.get((scenario, candidate), ())}
    both = sorted(ours.keys() & theirs.keys())
    voided = {
        facts.record.round: reason
        for name in (candidate, baseline)
        for facts, reason in seen.voided.get((scenario, name), ())
    }
    ran = bool(theirs) or bool(seen.voided.get((scenario, candidate)))
    planned = campaign.scenario(scenario).rounds or campaign.header.rounds_planned
    # Rounds that an interrupted campaign never ran, or never came to repeat, are missing, not void.
    short = bool(voided) and len(both) < planned and (campaign.header.state == "complete" or not both)
    reasons = tuple(voided[number] for number in sorted(voided))
    blames = [seen.blames.get((scenario, name)) for name in (baseline, candidate)]
    heavy = tuple(one for one in blames if one is not None and one.word is not None)
    return _Pair(scenario, baseline, candidate, tuple((ours[n], theirs[n]) for n in both), ran, reasons, short, heavy)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the rounds of a pair say of one metric. On the log scale for ratios, in the unit for differences."""

    mean: float
    low: Estimate
    high: Estimate
    """The estimates of the lower and the upper bound; the same one, but for capacities."""
    sides: tuple[SideValue, SideValue]
    rounds: int
    pooled: bool = False
    """Whether all rounds' requests are one sample."""

    @property
    def p(self) -> float | None:
        """The larger of the bounds' p; 1 where they point to opposite sides."""
        if self.low.p is None or self.high.p is None:
            return None
        return max(self.low.p, self.high.p) if self.low.mean * self.high.mean >= 0 else 1.0

    @property
    def interval(self) -> Interval | None:
        """From the lower bound's low end to the upper bound's high end, at 95 % each."""
        low, high = self.low.interval(), self.high.interval()
        return None if low is None or high is None else Interval(low.low, high.high, LEVEL)


def _found(pair: _Pair, metric: Metric) -> _Found | str:
    """The estimate of a metric, or why there is none."""
    if metric.tail is not None:
        pooled = _pooled(pair, metric.id, metric.tail)
        if pooled is not None:
            return pooled
    bounds = [(ours.bounds(metric.id), theirs.bounds(metric.id), ours, theirs) for ours, theirs in pair.rounds]
    both = [(b, c) for b, c, _, _ in bounds if b is not None and c is not None]
    # A round that its target broke may lack the figure; what is missing from a sound round was not measured.
    sound = [1 for b, c, ours, theirs in bounds if None in (b, c) and ours.record.ended == theirs.record.ended == "ok"]
    if sound or not both:
        return _missing(pair, metric.id)
    values = np.array(both, dtype=np.float64)  # round, side, bound
    ours, theirs = values[:, 0, :], values[:, 1, :]
    if metric.basis == "difference":
        estimates = stats.estimate(theirs[:, 0] - ours[:, 1]), stats.estimate(theirs[:, 1] - ours[:, 0])
    elif not (values > 0).all():
        return "a ratio needs values above 0, and a round holds none"
    else:
        estimates = (
            stats.estimate(np.log(theirs[:, 0] / ours[:, 1])),
            stats.estimate(np.log(theirs[:, 1] / ours[:, 0])),
        )
    low, high = estimates
    sides = _side(pair.baseline, ours, metric.basis), _side(pair.candidate, theirs, metric.basis)
    return _Found((low.mean + high.mean) / 2, low, high, sides, len(both))


def _pooled(pair: _Pair, metric: str, percent: float) -> _Found | str | None:
    """A percentile of all rounds' requests; None where the raw rows are not all there."""
    tails = [(ours.tail(metric), theirs.tail(metric)) for ours, theirs in pair.rounds]
    known = [(b, c) for b, c in tails if b is not None and c is not None]
    if not known or len(known) < len(tails):
        return None
    ours, theirs = [b for b, _ in known], [c for _, c in known]
    least = min(sum(one.size for one in side) for side in (ours, theirs))
    if not least:
        return None
    if not stats.enough(least, percent):
        return f"p{percent:g} needs {round(1000 / (100 - percent)):,} samples over all rounds, these have {least:,}"
    found = stats.pooled_tail(ours, theirs, percent)
    sides = _pooled_side(pair.baseline, ours, percent), _pooled_side(pair.candidate, theirs, percent)
    return _Found(found.mean, found, found, sides, len(known), pooled=True)


def _pooled_side(target: str, rounds: Sequence[Tail], percent: float) -> SideValue:
    found = stats.pooled_tail(rounds, None, percent)
    ends = found.interval()
    return SideValue(target, math.exp(found.mean), None if ends is None else _ends(ends.exp()))


def _side(target: str, values: Floats, basis: Basis) -> SideValue:
    """`values`: by round, the lower and the upper bound."""
    scaled = np.log(values) if basis == "ratio" else values
    low, high = stats.estimate(scaled[:, 0]), stats.estimate(scaled[:, 1])
    mean, ends = (low.mean + high.mean) / 2, (low.interval(), high.interval())
    whole = None if ends[0] is None or ends[1] is None else Interval(ends[0].low, ends[1].high, LEVEL)
    if basis == "ratio":
        mean, whole = math.exp(mean), None if whole is None else whole.exp()
    return SideValue(target, mean, None if whole is None else _ends(whole))


def _ends(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def _missing(pair: _Pair, metric: str) -> str:
    """Why a metric that is absent in some valid round is absent."""
    for ours, theirs in pair.rounds:
        for facts in (theirs, ours):
            found = facts.metrics.get(metric)
            if found is None or not found.measured:
                return f"{found.reason if found and found.reason else 'not recorded'} ({facts.record.run})"
    return "not recorded"


# --------------------------------------------------------------------------------------------------------- the rows
@dataclass(frozen=True, slots=True)
class _Open:
    """A row and what was found; judged when its whole family is known. `found` None: it has its word already."""

    row: Row
    found: _Found | None


def _row(scenario: ScenarioRecord, pair: _Pair, metric: Metric) -> _Open:
    primary = metric.id in scenario.primaries()
    word: Word | None = None
    reason = ""
    if pair.blames:
        word = "unreliable" if any(one.word == "unreliable" for one in pair.blames) else "overloaded"
        reason = "; ".join(one.say for one in pair.blames)
    row = Row(
        scenario=pair.scenario,
        metric=metric.id,
        baseline=SideValue(pair.baseline, None, None),
        candidate=SideValue(pair.candidate, None, None),
        basis=metric.basis,
        verdict="not-measured",
        reason="",
        rounds=len(pair.rounds),
        primary=primary,
        runs=tuple(facts.record.run for both in pair.rounds for facts in both),
        blamed=tuple(one.target for one in pair.blames),
    )
    if not pair.ran:
        return _Open(replace(row, reason=f"{pair.candidate} did not run in this scenario"), None)
    if not pair.rounds:
        why = pair.voided[0] if pair.short else "no round in which both targets finished"
        return _Open(replace(row, verdict="void" if pair.short else "not-measured", reason=why), None)
    found = _found(pair, metric)
    if isinstance(found, str):
        if word is not None and primary:
            return _Open(replace(row, verdict=word, reason=reason), None)
        return _Open(replace(row, reason=found), None)
    row = _filled(row, found)
    if word is not None:
        return _Open(replace(row, verdict=word, reason=reason), None)
    if pair.short:
        return _Open(replace(row, verdict="void", reason=pair.voided[0]), None)
    return _Open(row, found)


def _filled(row: Row, found: _Found) -> Row:
    """The row with the figures."""
    ends = found.interval
    row = replace(row, baseline=found.sides[0], candidate=found.sides[1], rounds=found.rounds, p=found.p)
    if row.basis == "difference":
        low, high = (None, None) if ends is None else _ends(ends)
        return replace(row, difference=found.mean, ci_low=low, ci_high=high)
    low, high = (None, None) if ends is None else _ends(ends.exp())
    return replace(row, ratio=math.exp(found.mean), ci_low=low, ci_high=high)


def _worded(family: Sequence[_Open], seen: Comparison, noise: Mapping[str, Row]) -> list[Row]:
    """The rows of one scenario and candidate, each with its word."""
    judged = {one.row.metric: one for one in family if one.found is not None}
    p_values = {name: one.row.p for name, one in judged.items() if one.row.p is not None}
    primary = stats.holm({name: p for name, p in p_values.items() if judged[name].row.primary})
    others = stats.false_discoveries({name: p for name, p in p_values.items() if not judged[name].row.primary})
    rows = []
    for one in family:
        row = one.row
        if one.found is not None:
            tested = primary.get(row.metric)
            level = LEVEL if tested is None else tested.level
            adjusted = others.get(row.metric) if tested is None else tested.p
            visible = max(
                (v for end in (one.found.low, one.found.high) if (v := end.visible(level)) is not None), default=None
            )
            if visible is not None and row.basis == "ratio":
                visible = math.expm1(min(visible, 700.0))
            row = replace(
                row, p_adjusted=adjusted, adjusted_level=None if tested is None else tested.level, visible=visible
            )
            row = _judged(row, seen, None if row.is_aa else noise.get(row.metric))
            if row.spec.tail is not None and not one.found.pooled:
                row = replace(row, reason=f"{row.reason} (of each run by itself: no raw rows are left to pool)")
        rows.append(row)
    return rows


def _judged(row: Row, seen: Comparison, aa: Row | None) -> Row:
    """The row with its word: `equivalent`, `faster`, `slower` or `too-noisy`; its own words if it is secondary."""
    doubtful: Word = "too-noisy" if row.primary else "unclear"
    row = replace(row, verdict=doubtful)
    if row.ci_low is None or row.p_adjusted is None:
        return replace(row, reason="one round has no interval: nothing can be concluded from it")
    if inside_margin(row):
        alike: Word = "equivalent" if row.primary else "similar"
        return replace(row, verdict=alike, reason=f"interval within {_margin_text(row)}")
    null = "1" if row.basis == "ratio" else "0"
    if row.p_adjusted > LEVEL:
        unseen = f"effects under {visible_text(row)} are not visible here"
        if row.p is not None and row.p <= LEVEL:
            family = "the primary metrics of its scenario" if row.primary else "all secondary metrics of its scenario"
            return replace(row, reason=f"p is {row.p_adjusted:.2g} when {family} share one error rate; {unseen}")
        return replace(row, reason=f"the interval crosses {null}; {unseen}")
    doubt = _cpu_doubt(row, seen) or _noise_doubt(row, aa)
    if doubt is not None:
        return replace(row, reason=doubt)
    lower = (row.ratio or 0.0) < 1 if row.basis == "ratio" else (row.difference or 0.0) < 0
    said = f"interval excludes {null}, adjusted p {row.p_adjusted:.2g}"
    if not row.primary:
        return replace(row, verdict="lower" if lower else "higher", reason=said)
    return replace(row, verdict="faster" if lower != row.spec.higher_is_better else "slower", reason=said)


def margin(row: Row) -> float:
    """The margin of a row: a share for ratios, in the unit for differences."""
    share = MARGINS[row.spec.family]
    return share if row.basis == "ratio" else share * abs(row.baseline.value or 0.0)


def inside_margin(row: Row) -> bool:
    """Whether the row's interval lies within the margin on both sides."""
    if row.ci_low is None or row.ci_high is None:
        return False
    allowed, middle = margin(row), 1.0 if row.basis == "ratio" else 0.0
    return Interval(row.ci_low, row.ci_high, LEVEL).inside(middle - allowed, middle + allowed)


def _cpu_doubt(row: Row, seen: Comparison) -> str | None:
    """Why utilisation forbids a CPU verdict, or None (see BUSY)."""
    if row.spec.family != "cpu" or row.ratio is None:
        return None

    def busy(target: str) -> float | None:
        known = [facts.busy for facts in seen.valid.get((row.scenario, target), ()) if facts.busy is not None]
        return sum(known) / len(known) if known else None

    ours, theirs = busy(row.baseline.target), busy(row.candidate.target)
    if ours is None or theirs is None:
        return None
    if min(ours, theirs) >= BUSY:
        return None
    cheaper_is_less_busy = (row.ratio < 1) == (theirs < ours)
    if cheaper_is_less_busy and not 0.5 <= row.ratio <= 2:
        return None
    return (
        f"CPU per unit falls with load, and the targets were {100 * ours:.0f} % and {100 * theirs:.0f} % busy; "
        f"a verdict this close needs both at {100 * BUSY:.0f} %"
    )


def _noise_doubt(row: Row, aa: Row | None) -> str | None:
    """Said where the baseline differs from itself in this campaign, by as much as the row's effect or more.

    The pairs' own interval holds the noise of the rounds already. What the A/A row adds is whether something else moves
    one arm against the other; then its interval leaves out "no difference", and an effect of that size means nothing.
    """
    if aa is None or row.effect is None or aa.effect is None or inside_margin(aa):
        return None
    if aa.effect[1] <= 0 <= aa.effect[2]:
        return None
    if row.basis == "ratio":
        # On the log scale, where halving and doubling are the same size.
        sizes = [abs(math.log1p(max(end, -1 + 1e-300))) for end in (row.effect[0], *aa.effect[1:])]
        ends = "..".join(f"{100 * end:+.0f}" for end in aa.effect[1:]) + " %"
    else:
        sizes = [abs(end) for end in (row.effect[0], *aa.effect[1:])]
        ends = "..".join(f"{end:+.3g}" for end in aa.effect[1:]) + f" {row.spec.shown_unit}".rstrip()
    if sizes[0] > max(sizes[1:]):
        return None
    return f"{row.baseline.target} differs from itself here ({ends}), by as much as this"


def _margin_text(row: Row) -> str:
    if row.basis == "ratio":
        return f"{100 * margin(row):.0f} % of the baseline"
    return f"{margin(row):.3g} {row.spec.shown_unit}".rstrip()


def visible_text(row: Row) -> str:
    """The smallest visible effect in words: `12 %`, `-53 %/+110 %` where a ratio's two sides differ, or `3.1 us`."""
    if row.visible is None:
        return "any size"
    if row.basis == "difference":
        return f"{_two_digits(row.visible)} {row.spec.shown_unit}".rstrip()
    if row.visible < 0.2:
        return f"{_two_digits(row.visible * 100)} %"
    less = 1 - 1 / (1 + row.visible)
    more = f"+{_two_digits(row.visible * 100)} %" if row.visible < 9 else f"×{_two_digits(min(row.visible, 999) + 1)}"
    return f"-{_two_digits(min(less * 100, 99.0))} %/{more}"


def _two_digits(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{float(f'{value:.2g}'):,.0f}"


def main_candidate(campaign: Campaign, baseline: str | None) -> str | None:
    """The candidate of the headline: the other engine if it ran, else the first that is neither floor nor A/A."""
    if baseline is None:
        return None
    names = [target.name for target in campaign.header.targets if target.name != baseline]
    engines = [target.name for target in campaign.header.targets if target.kind == "engine" and target.name in names]
    others = [name for name in names if name not in FLOOR_TARGETS]
    return next(iter(engines + others), None)
