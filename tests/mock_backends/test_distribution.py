"""Distributions reproduce the figures they are given, and equal seeds draw equally."""

from __future__ import annotations

import statistics
from random import Random
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import gamma

from mock_backends.distribution import STEPS, Count, Distribution, Duration, Sampler, nanoseconds, written

DRAWS = 40_000


def sampler(spec: Any) -> Sampler:
    return Sampler(Distribution[Duration].model_validate(spec))


def draws(spec: Any) -> list[int]:
    return sorted(sampler(spec).draw(Random(1), DRAWS))


def test_a_lognormal_has_the_percentiles_it_was_given() -> None:
    values = draws({"lognormal": {"p50": "12ms", "p99": "40ms"}})
    assert values[DRAWS // 2] == pytest.approx(12e6, rel=0.02)
    assert values[DRAWS * 99 // 100] == pytest.approx(40e6, rel=0.04)


@pytest.mark.parametrize("cv", [0.15, 0.5, 1.0, 3.0])
def test_a_gamma_has_the_mean_and_the_variation_it_was_given(cv: float) -> None:
    values = draws({"gamma": {"mean": "10ms", "cv": cv}})
    assert statistics.fmean(values) == pytest.approx(10e6, rel=0.04)
    assert statistics.pstdev(values) / statistics.fmean(values) == pytest.approx(cv, rel=0.06)


@pytest.mark.parametrize("cv", [0.05, 0.25, 1.0])
def test_the_gamma_table_agrees_with_scipy(cv: float) -> None:
    table = numpy.array(Sampler(Distribution[Count].model_validate({"gamma": {"mean": 10**9, "cv": cv}})).table)
    exact = gamma.ppf((numpy.arange(STEPS) + 0.5) / STEPS, 1 / cv**2, scale=1e9 * cv**2)
    assert abs(table - exact).max() < 1e5  # of a mean of 1e9


def test_a_percentile_table_is_interpolated_between_its_points() -> None:
    values = draws({"percentiles": {0: "0s", 50: "1ms", 99: "3ms", 100: "9ms"}})
    assert values[DRAWS // 4] == pytest.approx(0.5e6, rel=0.05)
    assert values[DRAWS // 2] == pytest.approx(1e6, rel=0.03)
    assert values[DRAWS * 99 // 100] == pytest.approx(3e6, rel=0.05)


def test_a_plain_value_is_a_constant_and_takes_nothing_from_the_generator() -> None:
    rng = Random(5)
    before = rng.getstate()
    assert sampler("5ms").draw(rng, 3) == [5_000_000] * 3
    assert rng.getstate() == before


def test_equal_seeds_draw_equally_and_others_do_not() -> None:
    one = sampler({"gamma": {"mean": "10ms", "cv": 1}})
    assert one.draw(Random(3), 50) == one.draw(Random(3), 50)
    assert one.draw(Random(3), 50) != one.draw(Random(4), 50)


@given(st.integers(min_value=0, max_value=24 * 3600 * 10**9))
def test_a_duration_is_read_back_as_it_was_written(ns: int) -> None:
    assert nanoseconds(written(ns)) == ns


@pytest.mark.parametrize("text", ["5", "ms", "-5ms", "5 minutes", "nan ms", True, None, 5, float("nan")])
def test_a_duration_without_a_unit_or_a_number_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="write a number and its unit"):
        nanoseconds(text)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({}, "exactly one"),
        ({"constant": "1ms", "gamma": {"mean": "1ms", "cv": 1}}, "exactly one"),
        ({"gama": {"mean": "1ms", "cv": 1}}, "did you mean 'gamma'"),
        ({"gamma": {"mean": "1ms", "cv": 0}}, "greater than"),
        ({"lognormal": {"p50": "2ms", "p99": "1ms"}}, "p50 <= p99"),
        ({"percentiles": {50: "2ms", 99: "1ms"}}, "must not fall"),
        ({"percentiles": {101: "2ms"}}, "less than or equal to 100"),
        ({"percentiles": {}}, "at least 1"),
        ("25h", "less than or equal"),
    ],
)
def test_a_distribution_that_cannot_be_is_refused_in_a_sentence(spec: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Distribution[Duration].model_validate(spec)
