"""The statistics: against scipy where it has the same, and by seeded simulation of how often an interval is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from reports.stats import (
    Bounds,
    Components,
    Costs,
    Interval,
    Tail,
    cheapest,
    components,
    enough,
    estimate,
    false_discoveries,
    holm,
    pooled,
    pooled_tail,
    slope,
    welch,
)

SPREAD = st.lists(st.floats(-2, 2), min_size=2, max_size=12).filter(lambda values: float(np.std(values)) > 1e-6)


# ----------------------------------------------------------------------------------------------------- one estimate
@given(SPREAD)
def test_interval_and_p_are_those_of_a_t_test(samples: list[float]) -> None:
    found = estimate(samples)
    expected = scipy_stats.ttest_1samp(samples, 0.0)
    ends = found.interval(0.01)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert ends is not None
    assert (ends.low, ends.high) == pytest.approx(expected.confidence_interval(0.99))
    assert ends.level == 0.01


@given(SPREAD, SPREAD)
def test_unpaired_groups_are_compared_as_welch_does(ours: list[float], theirs: list[float]) -> None:
    found, expected = welch(ours, theirs), scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    ends = found.interval()
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert ends is not None
    assert (ends.low, ends.high) == pytest.approx(expected.confidence_interval(0.95))


def test_one_sample_has_an_estimate_and_no_interval() -> None:
    found = estimate([0.3])
    assert (found.mean, found.interval(), found.p, found.visible()) == (0.3, None, None, None)
    assert welch([1.0], [2.0, 3.0]).interval() is None


def test_equal_samples_have_an_interval_of_no_width() -> None:
    assert estimate([0.0] * 5).p == 1.0
    assert estimate([0.2] * 5).p == 0.0
    assert estimate([0.2] * 5).interval() == Interval(0.2, 0.2, 0.05)
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1.0


def test_the_smallest_visible_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(5)
    sd, starts = 0.05, 8
    effect = (scipy_stats.t.ppf(0.975, starts - 1) + scipy_stats.t.ppf(0.8, starts - 1)) * sd / math.sqrt(starts)
    hits = sum((estimate(rng.normal(effect, sd, starts)).p or 1) <= 0.05 for _ in range(2000))
    assert hits / 2000 == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("level", "starts"), [(0.05, 4), (0.05, 12), (0.01, 6)])
def test_an_interval_covers_the_truth_as_often_as_it_says(level: float, starts: int) -> None:
    rng = np.random.default_rng(7)
    found = [estimate(rng.normal(0.1, 0.1, starts)).interval(level) for _ in range(2000)]
    inside = sum(ends is not None and not ends.excludes(0.1) for ends in found)
    assert inside / 2000 == pytest.approx(1 - level, abs=0.015)


# ------------------------------------------------------------------------------------------------ families of tests
def test_holm_steps_down_and_stops() -> None:
    def read(**p_values: float) -> dict[str, tuple[float, float]]:
        return {key: (round(one.p, 6), round(one.level, 6)) for key, one in holm(p_values).items()}

    assert read(a=0.001, b=0.03, c=0.02) == {"a": (0.003, 0.016667), "c": (0.04, 0.025), "b": (0.04, 0.05)}
    assert read(a=0.001, b=0.03, c=0.04) == {"a": (0.003, 0.016667), "b": (0.06, 0.025), "c": (0.06, 0.025)}
    assert holm({}) == {}


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8))
def test_an_adjusted_p_rejects_exactly_what_was_rejected_at_its_own_level(p_values: dict[int, float]) -> None:
    for key, tested in holm(p_values).items():
        assert tested.p >= p_values[key]
        assert p_values[key] > 0.05 / len(p_values) or tested.p <= 0.05 + 1e-12
        if tested.p <= 0.05 - 1e-12:
            assert p_values[key] <= tested.level + 1e-12


@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1, max_size=8))
def test_false_discoveries_are_those_of_scipy(p_values: dict[int, float]) -> None:
    expected = scipy_stats.false_discovery_control(list(p_values.values()))
    assert [false_discoveries(p_values)[key] for key in p_values] == pytest.approx(list(expected))


# ------------------------------------------------------------------------------------------------------- tails
def test_a_percentile_needs_ten_values_beyond_it() -> None:
    assert [enough(n, 99) for n in (999, 1000)] == [False, True]
    assert [enough(n, 99.9) for n in (9999, 10_000)] == [False, True]


def test_the_pooled_percentile_is_that_of_all_values_and_no_mean_of_percentiles() -> None:
    rng = np.random.default_rng(2)
    starts = [rng.lognormal(size, 0.5, 400) for size in (0.0, 0.0, 1.5)]
    together = np.concatenate(starts)
    found = pooled([Tail(values) for values in starts], 99)
    assert found == pytest.approx(np.percentile(together, 99), rel=0.03)
    assert found > 1.3 * np.mean([np.percentile(values, 99) for values in starts])


def test_a_histogram_pools_like_its_values() -> None:
    rng = np.random.default_rng(4)
    starts = [rng.integers(1, 200, 3000).astype(np.float64) for _ in range(4)]
    counted = [Tail(np.arange(200.0), np.bincount(values.astype(int), minlength=200)) for values in starts]
    assert pooled(counted, 99) == pooled([Tail(values) for values in starts], 99)
    one, other = pooled_tail(counted, None, 99), pooled_tail([Tail(values) for values in starts], None, 99)
    assert one == other


def test_the_interval_of_a_pooled_tail_is_the_same_each_time_and_knows_its_rounds() -> None:
    rng = np.random.default_rng(6)
    ours, theirs = ([Tail(rng.lognormal(0, 0.5, 300)) for _ in range(6)] for _ in range(2))
    assert pooled_tail(ours, theirs, 99) == pooled_tail(ours, theirs, 99)
    assert pooled_tail(ours[:1], theirs[:1], 99).interval() is None
    with pytest.raises(ValueError, match="same rounds"):
        pooled_tail(ours, theirs[:5], 99)


@pytest.mark.parametrize(("starts", "between"), [(6, 0.0), (6, 0.1), (12, 0.1)])
def test_the_interval_of_a_pooled_tail_covers_the_truth_about_as_often_as_it_says(starts: int, between: float) -> None:
    rng = np.random.default_rng(3)

    def side(factor: float) -> list[Tail]:
        levels = factor * np.exp(rng.normal(0, between, starts))
        return [Tail(level * rng.lognormal(0, 0.5, 300)) for level in levels]

    hits = 0
    for _ in range(200):
        ends = pooled_tail(side(1.0), side(1.5), 99, draws=200).interval()
        hits += ends is not None and not ends.excludes(math.log(1.5))
    assert 0.90 <= hits / 200 <= 0.995


# ----------------------------------------------------------------------------------------------- variance, planning
def made_starts(rng: np.random.Generator, between: float, within: float, starts: int, pieces: int) -> list[np.ndarray]:
    return [level + rng.normal(0, within, pieces) for level in rng.normal(0, between, starts)]


def test_both_components_are_found_again() -> None:
    rng = np.random.default_rng(1)
    found = components(made_starts(rng, 0.10, 0.05, 400, 8), piece_s=2.0)
    assert found.between == pytest.approx(0.01, rel=0.2)
    assert found.within_s == pytest.approx(0.0025 * 2, rel=0.1)
    # Starts of unequal length say the same.
    uneven = [one[: 3 + number % 6] for number, one in enumerate(made_starts(rng, 0.10, 0.05, 400, 8))]
    assert components(uneven, 2.0).between == pytest.approx(0.01, rel=0.25)


def test_where_starts_do_not_differ_nothing_is_between_them() -> None:
    rng = np.random.default_rng(1)
    assert components(made_starts(rng, 0.0, 0.05, 30, 10), 1.0).between < 0.0003
    assert components([[1.0, 1.0], [1.0, 1.0]], 1.0) == Components(0.0, 0.0)
    with pytest.raises(ValueError, match="two starts"):
        components([[1.0, 2.0]], 1.0)


def test_the_half_width_that_a_plan_forecasts_is_what_comes() -> None:
    rng = np.random.default_rng(9)
    truth = Components(between=0.04**2, within_s=0.12**2)
    made = cheapest({"cpu": truth}, Costs(start_s=4, load_s=2), 0.03)
    assert made is not None
    starts, length_s = made
    forecast = truth.half_width(starts, length_s)
    seen = [
        estimate(rng.normal(0, math.sqrt(truth.of_start(length_s)), starts)).half_width() or 0.0 for _ in range(400)
    ]
    assert forecast <= 0.03 * (1 + 1e-9)
    assert float(np.median(seen)) == pytest.approx(forecast, rel=0.1)


def test_noise_of_the_start_is_answered_by_starts_and_noise_within_by_length() -> None:
    costs = Costs(start_s=3, load_s=2)
    start_is_noise = cheapest({"a": Components(0.05**2, 0.01**2)}, costs, 0.03)
    second_is_noise = cheapest({"a": Components(0.005**2, 0.2**2)}, costs, 0.03)
    assert start_is_noise is not None
    assert second_is_noise is not None
    assert start_is_noise[1] == 1.0
    assert second_is_noise[1] > 4


def test_no_other_plan_within_the_bounds_is_cheaper() -> None:
    row, costs, bounds = Components(0.03**2, 0.1**2), Costs(5, 3), Bounds()
    made = cheapest({"a": row}, costs, 0.025)
    assert made is not None
    for starts in range(bounds.least_starts, bounds.most_starts + 1):
        for length in np.geomspace(bounds.shortest_s, bounds.longest_s, 200):
            if row.half_width(starts, float(length)) <= 0.025:
                assert costs.seconds(starts, float(length)) >= costs.seconds(*made) * (1 - 1e-9)


def test_a_row_that_no_plan_reaches_has_none() -> None:
    assert cheapest({"a": Components(1.0, 0.0)}, Costs(1, 1), 0.01) is None


@given(st.floats(0, 0.2), st.floats(0, 0.5), st.floats(0.5, 20), st.floats(1, 6), st.floats(0.01, 0.2))
def test_a_plan_reaches_the_width_and_keeps_its_bounds(
    between: float, within: float, start: float, load: float, wanted: float
) -> None:
    row, bounds = Components(between**2, within**2), Bounds()
    made = cheapest({"a": row}, Costs(start, load), wanted, bounds)
    if made is not None:
        assert row.half_width(*made) <= wanted * (1 + 1e-9)
        assert bounds.least_starts <= made[0] <= bounds.most_starts
        assert bounds.shortest_s <= made[1] <= bounds.longest_s


# ------------------------------------------------------------------------------------------------------------ slope
def test_a_straight_line_has_its_slope_and_no_width() -> None:
    x = np.linspace(0, 1, 120)
    found = slope(x, 5 + 3 * x, 10)
    assert found is not None
    assert (found.slope, found.start) == pytest.approx((3, 5))
    assert found.interval.high - found.interval.low < 1e-6
    assert slope(x[:20], x[:20], 10) is None
