"""All statistics of the reports, the gate, the micro-benchmarks and the planner, in one place. Pure.

Callers say what their samples are; this module keeps the level with each interval (as `benchmath` of Go's benchstat
does), so that no interval can be printed under another level than its own.

What is assumed where:

- `estimate`: independent samples, one a process start (a pair of starts for a ratio), near normal. Ratios are passed as
  logarithms, so that halving and doubling are the same size.
- `welch`: two groups of independent samples that were not paired.
- `pooled_tail`: the requests of one start are not independent; the starts are. So whole starts are resampled.
- `components`, `cheapest`: a start moves the level of all that is measured in it (hash seed, memory layout, placement);
  within a start the mean of a longer load varies less, inversely to its length. T. Kalibera, R. Jones, "Rigorous
  benchmarking in reasonable time", ISMM 2013.
- `slope`: a straight line; neighbouring samples may be alike, and the interval is widened for it.

Levels are error rates: 0.05 goes with a 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import special  # not scipy.stats, whose import takes as long as the rest of a report's

Floats: TypeAlias = npt.NDArray[np.float64]
K = TypeVar("K", bound=Hashable)

LEVEL: Final = 0.05
POWER: Final = 0.80
DRAWS: Final = 600
"""Resamples behind the standard error of a pooled percentile: 3 % error of its own."""
_LARGEST_LOG: Final = 700.0
"""An interval of two samples can be wider than a float can say."""


# ----------------------------------------------------------------------------------------------------- one estimate
@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends, and the level they hold at: in `1 - level` of all repetitions the truth lies inside."""

    low: float
    high: float
    level: float

    def exp(self) -> Interval:
        """The interval of the ratio, where this one is of its logarithm."""
        low, high = max(self.low, -_LARGEST_LOG), min(self.high, _LARGEST_LOG)
        return Interval(math.exp(low), math.exp(high), self.level)

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside."""
        return not self.low <= value <= self.high

    def inside(self, low: float, high: float) -> bool:
        """Whether the whole interval lies within `low`..`high`: equivalence, two one-sided tests at half the level."""
        return low <= self.low and self.high <= high


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error. Intervals are Student's t, at the level that is asked for."""

    mean: float
    se: float | None
    """None for a single sample: nothing is known about its spread."""
    free: float
    """Degrees of freedom."""
    samples: int

    @property
    def p(self) -> float | None:
        """Two-sided p of the mean against 0."""
        if self.se is None:
            return None
        if self.se == 0.0:  # equal samples: whatever is not nothing is a difference
            return 0.0 if abs(self.mean) > _ROUNDING else 1.0
        return float(2 * special.stdtr(self.free, -abs(self.mean) / self.se))

    def half_width(self, level: float = LEVEL) -> float | None:
        """Half of the interval at `level`."""
        return None if self.se is None else _quantile(1 - level / 2, self.free) * self.se

    def interval(self, level: float = LEVEL) -> Interval | None:
        """The interval at `level`, or None for a single sample."""
        half = self.half_width(level)
        return None if half is None else Interval(self.mean - half, self.mean + half, level)

    def visible(self, level: float = LEVEL) -> float | None:
        """The smallest effect that a test at `level` would have seen four times in five (POWER)."""
        if self.se is None:
            return None
        return (_quantile(1 - level / 2, self.free) + _quantile(POWER, self.free)) * self.se


_ROUNDING: Final = 1e-12


@lru_cache(maxsize=4096)
def _quantile(probability: float, free: float) -> float:
    """Student's t."""
    return float(special.stdtrit(free, probability))


def estimate(samples: Sequence[float] | Floats) -> Estimate:
    """The mean of independent samples. ValueError if there is none."""
    values = np.asarray(samples, dtype=np.float64)
    n = values.size
    if n == 0:
        raise ValueError("no samples")
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, None, 0, 1)
    se = float(values.std(ddof=1)) / math.sqrt(n)
    # Rounding noise of equal samples is not evidence of anything.
    return Estimate(mean, 0.0 if se <= _ROUNDING * max(abs(mean), _ROUNDING) else se, n - 1, n)


def welch(ours: Sequence[float] | Floats, theirs: Sequence[float] | Floats) -> Estimate:
    """mean(ours) - mean(theirs) of two groups that were not paired, of unequal variance. ValueError if one is empty."""
    a, b = estimate(ours), estimate(theirs)
    samples = min(a.samples, b.samples)
    mean = a.mean - b.mean
    if a.se is None or b.se is None:
        return Estimate(mean, None, 0, samples)
    variance = a.se**2 + b.se**2
    if variance == 0.0:
        return Estimate(mean, 0.0, a.free + b.free, samples)
    free = variance**2 / (a.se**4 / a.free + b.se**4 / b.free)
    return Estimate(mean, math.sqrt(variance), free, samples)


# ------------------------------------------------------------------------------------------------ families of tests
@dataclass(frozen=True, slots=True)
class Tested:
    """A p value as its family allows it to be read."""

    p: float
    """Adjusted: at most LEVEL means rejected at LEVEL for the whole family."""
    level: float
    """The level at which the unadjusted p was tested."""


def holm(p_values: Mapping[K, float]) -> dict[K, Tested]:
    """Holm's step-down: the chance of any false alarm in the family stays at LEVEL, whatever depends on what."""
    found: dict[K, Tested] = {}
    least, tested, going = 0.0, LEVEL, True
    for position, key in enumerate(sorted(p_values, key=lambda one: p_values[one])):
        left = len(p_values) - position
        least = max(least, min(1.0, left * p_values[key]))
        if going:
            tested = LEVEL / left
            going = p_values[key] <= tested
        # After the first that is kept all others are kept, at the level where it stopped.
        found[key] = Tested(least, tested)
    return found


def false_discoveries(p_values: Mapping[K, float]) -> dict[K, float]:
    """Adjusted p of Benjamini and Hochberg: of all rows at or below q, a share of q is expected to be false."""
    found: dict[K, float] = {}
    least = 1.0
    ranked = sorted(p_values, key=lambda one: p_values[one])
    for position in range(len(ranked), 0, -1):
        least = min(least, p_values[ranked[position - 1]] * len(ranked) / position)
        found[ranked[position - 1]] = least
    return found


# ------------------------------------------------------------------------------------------------------- tails
@dataclass(frozen=True, slots=True)
class Tail:
    """The values of one start. `counts`: how often each occurred (a histogram); None: once each."""

    values: Floats
    counts: npt.NDArray[np.int64] | None = None

    @property
    def size(self) -> int:
        """How many values."""
        return self.values.size if self.counts is None else int(self.counts.sum())

    def each(self) -> Floats:
        """Every value as often as it occurred."""
        return self.values if self.counts is None else np.repeat(self.values, self.counts)


def enough(samples: int, percent: float) -> bool:
    """Whether `samples` values carry this percentile: ten of them lie beyond it, so 1,000 for p99, 10,000 for p99.9."""
    return samples * (100 - percent) >= 1000 - 1e-9


def pooled(starts: Sequence[Tail], percent: float) -> float:
    """The percentile of all values together. ValueError if there is none."""
    return float(_Upper.of(starts, percent).at(np.ones((1, len(starts))))[0])


def pooled_tail(ours: Sequence[Tail], theirs: Sequence[Tail] | None, percent: float, *, draws: int = DRAWS) -> Estimate:
    """The logarithm of a pooled percentile, or of theirs / ours where `theirs` ran in the same rounds, start by start.

    The standard error comes from resampling whole starts (both sides of a round together), widened by n / (n - 1) for
    what a resample of n starts lacks in spread; the interval is Student's t with n - 1 degrees of freedom.
    `tests/reports/test_stats.py` has how often it holds the truth.
    """
    if theirs is not None and len(theirs) != len(ours):
        raise ValueError(f"{len(ours)} starts against {len(theirs)}: they must be of the same rounds")
    n = len(ours)
    uppers = [_Upper.of(side, percent) for side in (ours, theirs) if side is not None]

    def logs(weights: Floats) -> Floats:
        values = [np.log(one.at(weights)) for one in uppers]
        return values[0] if theirs is None else values[1] - values[0]

    mean = float(logs(np.ones((1, n)))[0])
    if n == 1:
        return Estimate(mean, None, 0, 1)
    weights = np.random.default_rng(0).multinomial(n, [1 / n] * n, size=draws).astype(np.float64)
    se = float(logs(weights).std(ddof=1)) * math.sqrt(n / (n - 1))
    return Estimate(mean, se, n - 1, n)


@dataclass(frozen=True, slots=True)
class _Upper:
    """The values of all starts that a pooled percentile can be, largest first, and how many lie below them.

    A percentile of a mixture lies between the least and the greatest of its parts' percentiles, however the parts are
    weighted. So only what is at or above the least has to be kept: a few in a hundred.
    """

    values: Floats
    of_start: npt.NDArray[np.intp]
    counts: Floats
    sizes: Floats
    share: float
    """Of all values, that lies above the percentile."""

    @classmethod
    def of(cls, starts: Sequence[Tail], percent: float) -> _Upper:
        sizes = np.array([one.size for one in starts], dtype=np.float64)
        if not sizes.sum():
            raise ValueError("no values")
        least = min(_step(one, percent) for one in starts if one.size)
        kept = [one.values >= least for one in starts]
        values = np.concatenate([one.values[chosen] for one, chosen in zip(starts, kept, strict=True)])
        counts = np.concatenate(
            [
                np.ones(int(chosen.sum())) if one.counts is None else one.counts[chosen].astype(np.float64)
                for one, chosen in zip(starts, kept, strict=True)
            ]
        )
        of_start = np.repeat(np.arange(len(starts)), [int(chosen.sum()) for chosen in kept])
        order = np.argsort(-values, kind="stable")
        return cls(values[order], of_start[order], counts[order], sizes, 1 - percent / 100)

    def at(self, weights: Floats) -> Floats:
        """The percentile for each row of `weights` (how often each start counts)."""
        beyond = np.cumsum(weights[:, self.of_start] * self.counts, axis=1)
        allowed = (weights @ self.sizes) * self.share
        # The first value that has more than its share at or above it.
        places = (beyond <= allowed[:, None] * (1 + 1e-12)).sum(axis=1)
        found: Floats = self.values[np.minimum(places, self.values.size - 1)]
        return found


def _step(one: Tail, percent: float) -> float:
    """The percentile of one start, as the value that has more than its share at or above it."""
    order = np.argsort(-one.values, kind="stable")
    counts = np.ones(order.size) if one.counts is None else one.counts[order].astype(np.float64)
    place = int((np.cumsum(counts) <= one.size * (1 - percent / 100) * (1 + 1e-12)).sum())
    return float(one.values[order][min(place, order.size - 1)])


# ----------------------------------------------------------------------------------------------- variance, planning
@dataclass(frozen=True, slots=True)
class Components:
    """Where the variance of a figure comes from: between starts, and within one (of the mean of one second's load)."""

    between: float
    within_s: float

    def of_start(self, length_s: float) -> float:
        """Variance of what one start of this length says."""
        return self.between + self.within_s / length_s

    def half_width(self, starts: int, length_s: float) -> float:
        """Half width to be expected of the 95 % interval over so many starts."""
        return _quantile(1 - LEVEL / 2, starts - 1) * math.sqrt(self.of_start(length_s) / starts)


def components(starts: Sequence[Sequence[float] | Floats], piece_s: float) -> Components:
    """Both variances from pieces of `piece_s` seconds of load, in several starts (one-way analysis of variance).

    For the ratio of two targets pass the log ratio of each pair of pieces. ValueError with fewer than two starts, or
    where no start has two pieces.
    """
    groups = [np.asarray(one, dtype=np.float64) for one in starts if len(one)]
    sizes = np.array([one.size for one in groups], dtype=np.float64)
    if len(groups) < 2 or sizes.max() < 2:
        raise ValueError("needs two starts or more, with two pieces or more")
    total, k = float(sizes.sum()), len(groups)
    means = np.array([one.mean() for one in groups])
    grand = float((sizes * means).sum() / total)
    within = float(sum(((one - one.mean()) ** 2).sum() for one in groups)) / (total - k) if total > k else 0.0
    among = float((sizes * (means - grand) ** 2).sum()) / (k - 1)
    typical = (total - float((sizes**2).sum()) / total) / (k - 1)  # pieces a start, where starts have unequal numbers
    return Components(max((among - within) / typical, 0.0), within * piece_s)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round takes, seconds: `start_s` whatever its length (starts, checks, idle, stops of all targets), and
    `load_s` for each second of load that one target is measured under (the number of targets, usually)."""

    start_s: float
    load_s: float

    def seconds(self, starts: int, length_s: float) -> float:
        """What so many rounds take."""
        return starts * (self.start_s + self.load_s * length_s)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between what a plan may choose."""

    least_starts: int = 4
    most_starts: int = 40
    shortest_s: float = 1.0
    longest_s: float = 60.0


def cheapest(
    rows: Mapping[K, Components], costs: Costs, half_width: float, bounds: Bounds | None = None
) -> tuple[int, float] | None:
    """(starts, length of each) of least cost under which every row is expected to reach `half_width`, on the scale of
    the components (log ratios: 0.05 is about 5 %); None if no plan within the bounds does. Nothing here looks at a
    result: the plan is made before the first counted run.

    For each number of starts the shortest load that suffices is found in closed form (variance between + within /
    length); of those the cheapest is taken. Kalibera and Jones' optimum, with whole starts and Student's t.
    """
    limits, found = bounds or Bounds(), []
    for starts in range(max(limits.least_starts, 2), limits.most_starts + 1):
        allowed = starts * (half_width / _quantile(1 - LEVEL / 2, starts - 1)) ** 2
        if all(one.between < allowed for one in rows.values()):
            needed = max(one.within_s / (allowed - one.between) for one in rows.values())
            if needed <= limits.longest_s:
                found.append((starts, max(needed, limits.shortest_s)))
    return min(found, key=lambda one: costs.seconds(*one), default=None)


# ------------------------------------------------------------------------------------------------------------ slope
@dataclass(frozen=True, slots=True)
class StraightLine:
    """A straight line through samples over time, with the interval of its slope."""

    slope: float
    interval: Interval
    start: float
    """Its value at the first sample."""


def slope(x: Floats, y: Floats, blocks: int) -> StraightLine | None:
    """The slope of `y` over `x`; None with fewer than four samples a block.

    Neighbouring samples say the same, so a line through all of them would be far too sure of itself. Means of `blocks`
    parts are taken instead, and what still is alike between neighbours (lag-1 correlation of the residuals, corrected
    for its bias in short series) widens the interval as fewer independent blocks would.
    `tests/reports/test_endurance.py` has how often the interval holds the truth.
    """
    if x.size < 4 * blocks:
        return None
    parts = np.array_split(np.arange(x.size), blocks)
    at = np.array([x[part].mean() for part in parts])
    means = np.array([y[part].mean() for part in parts])
    away = at - at.mean()
    found = float(away @ means / (away @ away))
    residual = means - means.mean() - found * away
    spread = float(residual @ residual)
    alike = float(residual[1:] @ residual[:-1]) / spread if spread > 0 else 0.0
    alike = min(max(alike + (1 + 4 * alike) / blocks, 0.0), 0.95)
    independent = max(blocks * (1 - alike) / (1 + alike), 3.0)
    # With `blocks` independent ones the divisor would be blocks - 2.
    error = math.sqrt(spread / (independent - 2) / float(away @ away))
    reach = _quantile(1 - LEVEL / 2, independent - 2) * error
    return StraightLine(
        found,
        Interval(found - reach, found + reach, LEVEL),
        float(means.mean()) + found * (float(x[0]) - float(at.mean())),
    )
