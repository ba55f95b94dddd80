"""Arrivals: sorted, inside their time, at the rate and burstiness asked for, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.workload.arrivals import Segment, arrivals, poisson, scaled

rates = st.floats(0, 2000, allow_subnormal=False)
segments = st.lists(st.builds(Segment, st.floats(0.01, 20), rates, rates), min_size=1, max_size=5)
seeds = st.integers(0, 2**63 - 1)


def gap_cv(offsets: np.ndarray) -> float:
    gaps = np.diff(offsets)
    return float(gaps.std() / gaps.mean())


@given(segments=segments, cv=st.one_of(st.just(0.0), st.floats(0.1, 8)), seed=seeds)
def test_offsets_are_sorted_inside_their_time_and_the_same_for_the_same_seed(
    segments: list[Segment], cv: float, seed: int
) -> None:
    offsets = arrivals(segments, cv=cv, seed=seed)
    assert offsets.dtype == np.int64
    assert np.all(np.diff(offsets) >= 0)
    if len(offsets):
        assert offsets[0] >= 0
        assert offsets[-1] < sum(segment.duration_s for segment in segments) * 1e9
    np.testing.assert_array_equal(offsets, arrivals(segments, cv=cv, seed=seed))


@given(segments=segments)
def test_without_burstiness_each_segment_gets_its_own_share_of_requests(segments: list[Segment]) -> None:
    offsets = arrivals(segments, cv=0.0, seed=0)
    assert len(offsets) == np.ceil(sum(segment.expected for segment in segments))
    ends = np.cumsum([segment.duration_s for segment in segments])
    reached = np.cumsum([segment.expected for segment in segments])
    counted = np.searchsorted(offsets, ends * 1e9)
    np.testing.assert_allclose(counted, reached, atol=1.01)


@given(seed=seeds)
def test_another_seed_is_another_schedule(seed: int) -> None:
    assert not np.array_equal(poisson(100, 5, seed), poisson(100, 5, seed + 1))


def test_a_constant_rate_is_evenly_spaced_from_zero() -> None:
    assert arrivals([Segment(1, 4, 4)], cv=0, seed=0).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 5.0])
def test_gaps_have_the_rate_and_the_coefficient_of_variation_asked_for(cv: float) -> None:
    offsets = arrivals([Segment(400, 500, 500)], cv=cv, seed=7)
    assert len(offsets) == pytest.approx(200_000, rel=0.03)
    assert gap_cv(offsets) == pytest.approx(cv, rel=0.05)


def test_poisson_counts_in_equal_windows_vary_as_poisson_counts_do() -> None:
    counts = np.bincount(poisson(50, 2000, seed=3) // 1_000_000_000, minlength=2000)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.1)


def test_steps_hold_their_rates_one_after_the_other() -> None:
    offsets = arrivals([Segment(1, rate, rate) for rate in (10, 0, 100)], cv=0, seed=0)
    assert np.bincount(offsets // 1_000_000_000, minlength=3).tolist() == [10, 0, 100]


def test_a_ramp_grows_in_a_straight_line() -> None:
    offsets = arrivals([Segment(10, 0, 200)], cv=0, seed=0)
    assert np.bincount(offsets // 1_000_000_000).tolist() == pytest.approx(np.arange(10) * 20 + 10, abs=1)


@given(offsets=st.lists(st.integers(0, 10**13), max_size=50), scale=st.floats(0.01, 1000))
def test_a_scaled_trace_starts_at_zero_keeps_its_order_and_its_proportions(offsets: list[int], scale: float) -> None:
    result = scaled(np.array(offsets, dtype=np.int64), scale)
    assert len(result) == len(offsets)
    if offsets:
        expected = (np.sort(offsets) - min(offsets)) / scale
        np.testing.assert_allclose(result, expected, atol=1, rtol=1e-12)
        assert result[0] == 0


@pytest.mark.parametrize("bad", [{"duration_s": 0.0}, {"start_rps": -1.0}, {"end_rps": -1.0}])
def test_a_segment_that_makes_no_sense_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="segment"):
        Segment(**{"duration_s": 1.0, "start_rps": 1.0, "end_rps": 1.0, **bad})


def test_a_negative_burstiness_or_a_zero_time_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="cv"):
        arrivals([Segment(1, 1, 1)], cv=-1, seed=0)
    with pytest.raises(ValueError, match="time scale"):
        scaled(np.zeros(1, dtype=np.int64), 0)
