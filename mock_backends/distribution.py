"""Distributions as data (what a profile file writes) and as tables to draw from.

Every kind becomes a table of its quantiles, so that a draw is one random number and one look-up whatever the kind:
45 ns a value instead of 1.5 us for `random.gammavariate` (measured on the 2-core VM of the README). The price is a tail
that ends at the middle of the last of `STEPS` steps: the 99.988th percentile.
"""

from __future__ import annotations

import math
import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Sequence
from random import Random
from statistics import NormalDist
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from mock_backends.strict import Strict

STEPS = 4096
_SHIFT = 16 - STEPS.bit_length() + 1  # a draw takes 16 random bits; the top 12 choose the step

_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "m": 60 * 1_000_000_000, "h": 3600 * 1_000_000_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|m|h)")


def nanoseconds(value: Any) -> int:
    """`"5ms"` as 5,000,000. Bare numbers other than 0 are refused: nobody can tell their unit."""
    if value == 0 and not isinstance(value, bool):
        return 0
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{value!r} is not a duration; write a number and its unit, such as 250us, 20ms, 1.5s, 2m")
    return round(float(match[1]) * _UNITS[match[2]])


def written(ns: int) -> str:
    """A duration as `nanoseconds` reads it, in the largest unit that is exact."""
    unit = next(unit for unit, size in reversed(_UNITS.items()) if ns % size == 0)
    return f"{ns // _UNITS[unit]}{unit}"


def whole(value: Any) -> int:
    """A count: a whole number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0 or value % 1:
        raise ValueError(f"{value!r} is not a whole number of 0 or more")
    return int(value)


Duration = Annotated[
    int,
    BeforeValidator(nanoseconds),
    Field(ge=0, le=24 * 3600 * 10**9),
    PlainSerializer(written, return_type=str, when_used="json"),
]
Count = Annotated[int, BeforeValidator(whole), Field(ge=0, le=2**40)]
V = TypeVar("V")


class LogNormal(Strict, Generic[V]):
    """Long-tailed; given by two of its percentiles, which is what people have."""

    p50: V
    p99: V


class Gamma(Strict, Generic[V]):
    """Given by its mean and its coefficient of variation: 1 is exponential, below is steadier, above is burstier."""

    mean: V
    cv: float = Field(gt=0.001, le=20)


class Distribution(Strict, Generic[V]):
    """One of four kinds. A plain value in a profile file is a constant."""

    constant: V | None = None
    lognormal: LogNormal[V] | None = None
    gamma: Gamma[V] | None = None
    percentiles: dict[Annotated[float, Field(ge=0, le=100)], V] | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _plain_value_is_a_constant(cls, data: Any) -> Any:
        return data if isinstance(data, dict | Distribution) else {"constant": data}

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        kinds = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"give exactly one of constant, lognormal, gamma, percentiles; got {', '.join(kinds) or 'none'}"
            )
        if self.percentiles:
            values = [self.percentiles[p] for p in sorted(self.percentiles)]
            if values != sorted(values):  # type: ignore[type-var]  # V is always a number
                raise ValueError("the values of a percentile table must not fall as the percentile rises")
        if self.lognormal and not 0 < self.lognormal.p50 <= self.lognormal.p99:  # type: ignore[operator]  # numbers
            raise ValueError("a lognormal needs 0 < p50 <= p99")
        return self


class Sampler:
    """Draws whole numbers from a distribution. Equal generators give equal draws."""

    def __init__(self, distribution: Distribution[int]) -> None:
        self.table = _table(distribution)
        self.constant: int | None = self.table[0] if self.table[0] == self.table[-1] else None

    def draw(self, rng: Random, n: int) -> Sequence[int]:
        """`n` values. Takes `2 * n` bytes of the generator, none for a constant."""
        if self.constant is not None:
            return [self.constant] * n
        table = self.table
        return [table[u >> _SHIFT] for u in struct.unpack(f"<{n}H", rng.randbytes(2 * n))]

    @property
    def mean(self) -> float:
        """The mean of what is drawn (not of the ideal distribution, whose tail is longer)."""
        return sum(self.table) / len(self.table)


def _table(distribution: Distribution[int]) -> tuple[int, ...]:
    if distribution.constant is not None:
        return (distribution.constant,)
    if distribution.lognormal is not None:
        inverse = _lognormal(distribution.lognormal)
    elif distribution.gamma is not None:
        inverse = _gamma(distribution.gamma)
    else:
        inverse = _empirical(distribution.percentiles or {})
    return tuple(round(inverse((i + 0.5) / STEPS)) for i in range(STEPS))


def _lognormal(spec: LogNormal[int]) -> Callable[[float], float]:
    normal = NormalDist()
    sigma = math.log(spec.p99 / spec.p50) / normal.inv_cdf(0.99)
    return lambda p: spec.p50 * math.exp(sigma * normal.inv_cdf(p))


def _empirical(percentiles: dict[float, int]) -> Callable[[float], float]:
    points = sorted(percentiles)
    return _interpolation([p / 100 for p in points], [float(percentiles[p]) for p in points])


def _gamma(spec: Gamma[int], cells: int = 8192) -> Callable[[float], float]:
    """The inverse of the cumulated density, summed over a grid even in log x. (scipy is too heavy for a mock.)"""
    shape = 1 / spec.cv**2
    scale = spec.mean / shape
    # From where one millionth lies below (P(x) is x^shape / Γ(shape+1) near 0) to far beyond the last step.
    low = (math.log(1e-6) + math.lgamma(shape + 1)) / shape
    low = max(low, math.log(shape) - 12 / math.sqrt(shape)) if shape > 1 else low
    high = math.log(shape + 8 * math.sqrt(shape) + 16)
    width = (high - low) / cells
    logs = [low + (i + 0.5) * width for i in range(cells)]
    norm = math.lgamma(shape)
    total, cumulative = 0.0, []
    for y in logs:
        total += math.exp(shape * y - math.exp(y) - norm) * width
        cumulative.append(total)
    return _interpolation([c / total for c in cumulative], [scale * math.exp(y + width / 2) for y in logs])


def _interpolation(xs: list[float], ys: list[float]) -> Callable[[float], float]:
    """Piecewise linear through rising `xs`, flat beyond both ends."""

    def at(x: float) -> float:
        i = bisect_left(xs, x)
        if i == 0:
            return ys[0]
        if i == len(xs):
            return ys[-1]
        x0, x1 = xs[i - 1], xs[i]
        return ys[i] if x1 == x0 else ys[i - 1] + (ys[i] - ys[i - 1]) * (x - x0) / (x1 - x0)

    return at
