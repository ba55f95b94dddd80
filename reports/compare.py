"""Two targets, round by round: the estimate, its interval, and one of six words.

The sample is the run, one process start. In each round baseline and candidate ran side by side, so each round gives
one log ratio; their mean is the estimate and the t interval with n-1 degrees of freedom its uncertainty (coverage
checked by `python -m tests.reports.calibrate`). The median and an exact sign-flip permutation p stand beside it as a
cross-check and decide nothing.

Where a ratio says little - a round holds a 0, or a latency lies near the noise floor - the difference is judged
instead (`basis` `difference`), against the same share of the baseline's mean.

Each scenario has three primary metrics, declared before measuring. All primary rows of one candidate share a false
alarm budget of 5 % by Holm's method; their intervals are widened to the level they were tested at, so that word and
interval never contradict each other. Other rows are secondary: judged one by one at 5 %.

The baseline also runs against itself (`<baseline>@aa`). That row is the noise floor: what this machine calls a
difference when there is none.

A target whose latency drifts within its runs, alike in round after round, has no one value to compare: its runs are
void (see `drift`). In a single run a drift is a warning, as the machine's own speed may step just there.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special

from reports.schema import AA_SUFFIX, FLOOR_TARGETS, METRICS, Check, Family, Metric, Scenario
from reports.store import Campaign, ReportError
from reports.summarise import Facts

Floats: TypeAlias = npt.NDArray[np.float64]
Word = Literal["not-measured", "void", "equivalent", "faster", "slower", "too-noisy"]
Basis = Literal["ratio", "difference"]

LEVEL: Final = 0.05

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

ADDED_MARGIN_US: Final = 50.0
"""Margin of added time where it is judged as a difference."""
NOISE_FACTOR: Final = 3.0
"""A ratio of added times needs both to exceed this many half-widths of the A/A interval."""
DRIFT: Final = 0.10
"""A change of latency from the first to the last quarter of the runs that is too large to speak of one latency."""
BUSY: Final = 0.30
"""CPU per request falls with load (wake-ups are shared), so the less busy target is overcharged: a CPU verdict against
it, or one within a factor of two, needs both targets at least this busy."""


@dataclass(frozen=True, slots=True)
class Side:
    """One target's value of a metric over the rounds: geometric mean for a ratio, mean for a difference."""

    target: str
    value: float | None
    ci: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Paired samples reduced. On the log scale for ratios, in the metric's unit for differences."""

    mean: float
    half_width: float | None  # at `level`; None for a single round
    p: float | None
    level: float
    rounds: int
    se: float | None
    median: float
    permutation_p: float | None

    def interval(self) -> tuple[float, float] | None:
        """The interval at `level`, or None for a single round."""
        if self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width

    def at(self, level: float) -> Estimate:
        """The same samples with an interval of 1 - `level`."""
        if self.se is None:
            return self
        return replace(self, level=level, half_width=_quantile(1 - level / 2, self.rounds - 1) * self.se)

    def visible(self) -> float | None:
        """The smallest effect that would be seen at `level` with a chance of 80 %."""
        if self.se is None:
            return None
        free = self.rounds - 1
        return (_quantile(1 - self.level / 2, free) + _quantile(0.8, free)) * self.se


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the verdict: a metric of a scenario, baseline against candidate."""

    scenario: str
    metric: str
    baseline: Side
    candidate: Side
    basis: Basis
    verdict: Word
    reason: str
    rounds: int
    primary: bool
    ratio: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    level: float = LEVEL
    p: float | None = None
    permutation_p: float | None = None
    median: float | None = None
    """Median of the rounds' ratios (or differences)."""
    visible: float | None = None
    """Smallest visible effect: a share for ratios, in the unit for differences."""
    difference: float | None = None
    """candidate - baseline in the unit, where the basis is difference."""
    runs: tuple[str, ...] = ()
    """The run folders behind it."""

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


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every verdict row of a campaign, in the order scenario, candidate, metric."""

    baseline: str | None
    rows: tuple[Row, ...]
    valid: Mapping[tuple[str, str], tuple[Facts, ...]]
    """(scenario, target) -> its valid runs by round; rounds voided by the bench are gone for every target."""
    voided: Mapping[tuple[str, str], tuple[tuple[Facts, str], ...]]
    """(scenario, target) -> its void runs with the reason."""
    main: str | None = None
    """The candidate of the headline (see `main_candidate`)."""

    _index: dict[tuple[str, str, str], Row] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = {(row.scenario, row.metric, row.candidate.target): row for row in self.rows}
        object.__setattr__(self, "_index", found)

    def row(self, scenario: str, metric: str, candidate: str) -> Row | None:
        """The row of one metric, if there is one."""
        return self._index.get((scenario, metric, candidate))

    def counted(self, scenario: str, target: str) -> tuple[Facts, ...]:
        """The valid runs of the rounds that the main table compares: the other side of it is valid there as well.

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


# -------------------------------------------------------------------------------------------------------- statistics
@lru_cache(maxsize=4096)
def _quantile(probability: float, free: int) -> float:
    """Student's t."""
    return float(special.stdtrit(free, probability))


@lru_cache(maxsize=16)
def _signs(n: int) -> Floats:
    """Every assignment of signs to n samples, one a row."""
    return np.array(list(product((-1.0, 1.0), repeat=n)))


def estimate(samples: Sequence[float] | Floats, level: float = LEVEL) -> Estimate:
    """Mean, t interval, t-test p against 0, median and sign-flip p of paired samples. ValueError if there is none."""
    values = np.asarray(samples, dtype=np.float64)
    n = values.size
    if n == 0:
        raise ValueError("no samples")
    mean, median = float(values.mean()), float(np.median(values))
    if n == 1:
        return Estimate(mean, None, None, level, 1, None, median, None)
    se = float(values.std(ddof=1)) / math.sqrt(n)
    # Rounding noise of equal samples is not evidence of anything.
    if se <= 1e-12 * max(abs(mean), 1e-12):
        p, se = (0.0 if abs(mean) > 1e-12 else 1.0), 0.0
    else:
        p = float(2 * special.stdtr(n - 1, -abs(mean) / se))
    half = _quantile(1 - level / 2, n - 1) * se
    return Estimate(mean, half, p, level, n, se, median, sign_flip_p(values))


def sign_flip_p(values: Floats) -> float:
    """Two-sided permutation p of the mean under random signs: exact to 14 samples, else by 16,384 fixed draws."""
    n = values.size
    if n <= 14:
        signs = _signs(n)
    else:
        signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(1 << 14, n))
        signs[0] = 1.0
    sums = np.abs(signs @ values)
    return float(np.mean(sums >= abs(values.sum()) * (1 - 1e-12)))


def holm(p_values: Mapping[int, float], level: float = LEVEL) -> dict[int, tuple[bool, float]]:
    """Holm's step-down over p values by key: (rejected, the level this hypothesis was tested at)."""
    outcome: dict[int, tuple[bool, float]] = {}
    going = True
    tested = level
    for position, key in enumerate(sorted(p_values, key=lambda k: (p_values[k], k))):
        if going:
            tested = level / (len(p_values) - position)
            going = p_values[key] <= tested
        # After the first that is kept all others are kept, at the level where it stopped.
        outcome[key] = (going, tested)
    return outcome


def _side(target: str, values: Floats, basis: Basis) -> Side:
    if values.size == 0:
        return Side(target, None, None)
    if basis == "ratio":
        found = estimate(np.log(values))
        interval = found.interval()
        return Side(target, math.exp(found.mean), None if interval is None else _exp(interval))
    found = estimate(values)
    return Side(target, found.mean, found.interval())


def _exp(interval: tuple[float, float]) -> tuple[float, float]:
    # An interval of two rounds can be wider than a float can say.
    return math.exp(max(interval[0], -700.0)), math.exp(min(interval[1], 700.0))


# --------------------------------------------------------------------------------------------------------- the rows
@dataclass(frozen=True, slots=True)
class _Pair:
    """The rounds that baseline and candidate of one scenario both finished validly, and what is missing."""

    scenario: str
    baseline: str
    candidate: str
    rounds: tuple[tuple[Facts, Facts], ...]
    ran: bool
    voided: tuple[str, ...]
    short: bool
    """Short of the planned rounds because of void runs, with nothing left to repeat."""


def compare(campaign: Campaign, facts: Iterable[Facts]) -> Comparison:
    """Every target and the A/A arm against the baseline, in every scenario and metric."""
    by_run = {(f.record.scenario, f.record.target, f.record.round): f for f in facts}
    baseline = campaign.header.default_baseline()
    known = {target.name for target in campaign.header.targets} | {target for _, target, _ in by_run}
    if baseline is not None and baseline not in known:
        names = ", ".join(sorted(known))
        raise ReportError(f"{campaign.path / 'campaign.json'}: baseline {baseline!r} is none of its targets ({names})")
    bench_void: dict[tuple[str, int], str] = {}
    for (scenario, _, round_number), found in by_run.items():
        blame = bench_fault(found.record.validity)
        if found.void and blame is not None:
            bench_void.setdefault((scenario, round_number), f"{found.record.void_reason} (in {found.record.run})")
    valid: dict[tuple[str, str], list[Facts]] = defaultdict(list)
    voided: dict[tuple[str, str], list[tuple[Facts, str]]] = defaultdict(list)
    for (scenario, target, round_number), found in sorted(by_run.items(), key=lambda item: (item[0][2], item[0][:2])):
        reason = found.record.void_reason or bench_void.get((scenario, round_number))
        if reason is None:
            valid[scenario, target].append(found)
        else:
            voided[scenario, target].append((found, reason))
    for place, runs in valid.items():
        drifts = drift([found.record.validity for found in runs])
        if drifts is not None:
            voided[place] += [(found, drifts) for found in runs]
            runs.clear()
    comparison = Comparison(
        baseline,
        (),
        {k: tuple(v) for k, v in valid.items()},
        {k: tuple(v) for k, v in voided.items()},
        main_candidate(campaign, baseline),
    )
    if baseline is None:
        return comparison
    variants = {target.name for target in campaign.header.targets if target.kind == "variant"}
    rows: list[Row] = []
    for scenario in scenario_order(campaign, by_run):
        ran = {target for name, target, _ in by_run if name == scenario}
        # A variant is measured where its switch matters; its absence elsewhere is no gap.
        candidates = [name for name in candidate_order(campaign, baseline, ran) if name in ran or name not in variants]
        pairs = [_pair(campaign, comparison, scenario, baseline, name) for name in candidates]
        noise = _noise_us(next((pair for pair in pairs if pair.candidate == baseline + AA_SUFFIX), None))
        for pair in pairs:
            rows += [_row(campaign.scenario(scenario), pair, metric, noise) for metric in METRICS.values()]
    return replace(comparison, rows=tuple(_share_the_budget(rows, comparison)))


def bench_fault(checks: Sequence[Check]) -> Check | None:
    """The first failed check that the bench is to blame for."""
    return next((check for check in checks if not check.ok and check.blame == "bench"), None)


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
    found = estimate(np.log1p(changes))
    if found.p is None or found.p > LEVEL or abs(math.expm1(found.mean)) <= DRIFT:
        return None
    return (
        f"latency changes by {math.expm1(found.mean):+.0%} within each run, in {len(changes)} rounds alike: "
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
    planned = campaign.header.rounds_planned
    # Rounds that an interrupted campaign never ran, or never came to repeat, are missing, not void.
    short = bool(voided) and len(both) < planned and (campaign.header.state == "complete" or not both)
    reasons = tuple(voided[number] for number in sorted(voided))
    return _Pair(scenario, baseline, candidate, tuple((ours[n], theirs[n]) for n in both), ran, reasons, short)


def _samples(pair: _Pair, metric: str) -> tuple[Floats, Floats]:
    """The metric's values of both sides in the rounds where both have one."""
    values = [(ours.value(metric), theirs.value(metric)) for ours, theirs in pair.rounds]
    both = [(b, c) for b, c in values if b is not None and c is not None]
    return np.array([b for b, _ in both], dtype=np.float64), np.array([c for _, c in both], dtype=np.float64)


def _noise_us(aa: _Pair | None) -> float | None:
    """Half-width of the A/A interval of added time, microseconds; None if there is none."""
    if aa is None:
        return None
    ours, again = _samples(aa, "added_p50_us")
    return estimate(again - ours).half_width if ours.size > 1 else None


def _basis(metric: Metric, ours: Floats, theirs: Floats, noise: float | None) -> Basis:
    if not (np.all(ours > 0) and np.all(theirs > 0)):
        return "difference"
    if metric.id == "added_p50_us":
        near = noise is None or min(float(ours.mean()), float(theirs.mean())) <= NOISE_FACTOR * noise
        return "difference" if near else "ratio"
    return "ratio"


def _missing(pair: _Pair, metric: str) -> str:
    """Why a metric that is absent in some valid round is absent."""
    for ours, theirs in pair.rounds:
        for facts in (theirs, ours):
            found = facts.metrics.get(metric)
            if found is None or not found.measured:
                return f"{found.reason if found and found.reason else 'not recorded'} ({facts.record.run})"
    return "not recorded"


def _row(scenario: Scenario, pair: _Pair, metric: Metric, noise: float | None) -> Row:
    primary = metric.id in scenario.primaries()

    def said(verdict: Word, reason: str) -> Row:
        nothing = Side(pair.baseline, None, None), Side(pair.candidate, None, None)
        return Row(
            pair.scenario, metric.id, *nothing, "ratio", verdict, reason, len(pair.rounds), primary, runs=_runs(pair)
        )

    if not pair.ran:
        return said("not-measured", f"{pair.candidate} did not run in this scenario")
    if not pair.rounds and not pair.short:
        return said("not-measured", "no round in which both targets finished")
    ours, theirs = _samples(pair, metric.id)
    if pair.rounds and ours.size < len(pair.rounds):
        return said("not-measured", _missing(pair, metric.id))
    if ours.size == 0:
        return said("void", pair.voided[0])
    basis = _basis(metric, ours, theirs, noise)
    found = estimate(np.log(theirs / ours) if basis == "ratio" else theirs - ours)
    row = Row(
        pair.scenario,
        metric.id,
        _side(pair.baseline, ours, basis),
        _side(pair.candidate, theirs, basis),
        basis,
        "too-noisy",
        "",
        found.rounds,
        primary,
        p=found.p,
        permutation_p=found.permutation_p,
        runs=_runs(pair),
    )
    row = _with_interval(row, found)
    if pair.short:
        return replace(row, verdict="void", reason=pair.voided[0])
    return row


def _runs(pair: _Pair) -> tuple[str, ...]:
    return tuple(facts.record.run for both in pair.rounds for facts in both)


def _with_interval(row: Row, found: Estimate) -> Row:
    interval, visible = found.interval(), found.visible()
    if row.basis == "ratio":
        ends = (None, None) if interval is None else _exp(interval)
        return replace(
            row,
            ratio=math.exp(found.mean),
            ci_low=ends[0],
            ci_high=ends[1],
            level=found.level,
            median=math.exp(found.median),
            visible=None if visible is None else math.expm1(min(visible, 700.0)),
        )
    ends = (None, None) if interval is None else interval
    return replace(
        row,
        difference=found.mean,
        ci_low=ends[0],
        ci_high=ends[1],
        level=found.level,
        median=found.median,
        visible=visible,
    )


def margin(row: Row) -> float:
    """The margin of a row: a share for ratios, in the unit for differences."""
    share = MARGINS[row.spec.family]
    if row.basis == "ratio":
        return share
    if row.metric == "added_p50_us":
        return ADDED_MARGIN_US
    return share * abs(row.baseline.value or 0.0)


def inside_margin(row: Row) -> bool:
    """Whether the row's interval lies within the margin on both sides."""
    if row.ci_low is None or row.ci_high is None:
        return False
    allowed = margin(row)
    if row.basis == "ratio":
        return row.ci_low >= 1 - allowed and row.ci_high <= 1 + allowed
    return row.ci_low >= -allowed and row.ci_high <= allowed


def _share_the_budget(rows: list[Row], seen: Comparison) -> list[Row]:
    """Give every judged row its word: primaries of one candidate by Holm, the others one by one."""
    families: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.primary and row.verdict == "too-noisy" and row.p is not None:
            families[row.candidate.target].append(index)
    tested: dict[int, tuple[bool, float]] = {}
    for members in families.values():
        tested |= holm({index: rows[index].p or 0.0 for index in members})
    judged = []
    for index, row in enumerate(rows):
        if row.verdict != "too-noisy":
            judged.append(row)
        else:
            rejected, level = tested.get(index, (row.p is not None and row.p <= LEVEL, LEVEL))
            judged.append(_judge(row, rejected, level, seen))
    return judged


def _judge(row: Row, rejected: bool, level: float, seen: Comparison) -> Row:
    if row.ci_low is None:
        return replace(row, reason="one round has no interval: nothing can be concluded from it")
    if inside_margin(row):
        return replace(row, verdict="equivalent", reason=f"interval within {_margin_text(row)}")
    if level < LEVEL:
        row = _widened(row, seen, level)
    if not rejected:
        unseen = f"effects under {visible_text(row)} are not visible here"
        return replace(row, reason=f"the interval crosses {_null_text(row)}; {unseen}")
    doubt = _cpu_doubt(row, seen)
    if doubt is not None:
        return replace(row, reason=doubt)
    lower = (row.ratio or 0.0) < 1 if row.basis == "ratio" else (row.difference or 0.0) < 0
    better = lower != row.spec.higher_is_better
    word: Word = "faster" if better else "slower"
    return replace(row, verdict=word, reason=f"interval excludes {_null_text(row)}")


def _widened(row: Row, seen: Comparison, level: float) -> Row:
    ours, theirs = _paired_values(row, seen)
    found = estimate(np.log(theirs / ours) if row.basis == "ratio" else theirs - ours).at(level)
    return _with_interval(row, found)


def _paired_values(row: Row, seen: Comparison) -> tuple[Floats, Floats]:
    ours = {f.record.round: f.value(row.metric) for f in seen.valid.get((row.scenario, row.baseline.target), ())}
    theirs = {f.record.round: f.value(row.metric) for f in seen.valid.get((row.scenario, row.candidate.target), ())}
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    pairs = np.array([(b, c) for b, c in both if b is not None and c is not None], dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def _cpu_doubt(row: Row, seen: Comparison) -> str | None:
    """Why utilisation forbids a CPU verdict, or None (see BUSY)."""
    if row.spec.family != "cpu" or row.ratio is None:
        return None

    def busy(target: str) -> float | None:
        shares = [f.extras.get("utilisation") for f in seen.valid.get((row.scenario, target), ())]
        known = [float(share) for share in shares if isinstance(share, int | float)]
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
        f"CPU per unit falls with load, and the targets were only {ours:.0%} and {theirs:.0%} busy: "
        f"a verdict this close needs both at {BUSY:.0%}"
    )


def within_noise(row: Row, comparison: Comparison) -> bool:
    """Whether a decided effect is no larger than what the baseline may differ from itself by in the same campaign."""
    aa = comparison.row(row.scenario, row.metric, f"{comparison.baseline}{AA_SUFFIX}")
    if row.verdict not in ("faster", "slower") or aa is None or aa.basis != row.basis:
        return False
    if row.effect is None or aa.effect is None:
        return False
    if row.basis == "ratio":
        # On the log scale, where halving and doubling are the same size.
        return abs(math.log1p(row.effect[0])) <= max(abs(math.log1p(end)) for end in aa.effect[1:])
    return abs(row.effect[0]) <= max(abs(end) for end in aa.effect[1:])


def _null_text(row: Row) -> str:
    return "1" if row.basis == "ratio" else "0"


def _margin_text(row: Row) -> str:
    if row.basis == "ratio":
        return f"{margin(row):.0%} of the baseline"
    return f"{margin(row):.3g} {row.spec.shown_unit}".rstrip()


def visible_text(row: Row) -> str:
    """The smallest visible effect in words: `12 %` or `3.1 us`."""
    if row.visible is None:
        return "any size"
    if row.basis == "ratio":
        return f"{_two_digits(row.visible * 100)} %" if row.visible <= 10 else "1,000 %"
    return f"{_two_digits(row.visible)} {row.spec.shown_unit}".rstrip()


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
