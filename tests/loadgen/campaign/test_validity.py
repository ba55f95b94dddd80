"""Each rule of METHODOLOGY.md on both sides of its limit."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.campaign import validity
from loadgen.workload.arrivals import poisson
from loadgen.workload.plan import make_plan
from loadgen.workload.timetable import Turn, in_turns
from reports.schema import Check, outcome_of

MS = 1_000_000


@pytest.mark.parametrize(
    ("lag_ms", "ttft_ms", "ok"),
    [(0.99, None, True), (1.01, None, False), (1.01, 10.0, False), (1.9, 40.0, True), (2.1, 40.0, False)],
)
def test_the_generator_may_lag_a_millisecond_or_a_twentieth_of_the_first_token(
    lag_ms: float, ttft_ms: float | None, ok: bool
) -> None:
    check = validity.generator_lag(lag_ms, ttft_ms)
    assert check.ok is ok
    assert check.blame == "bench"


def test_in_closed_loop_there_is_no_lag_to_judge() -> None:
    assert validity.generator_lag(None, 5.0).ok


@pytest.mark.parametrize(("share", "ok"), [(0.69, True), (0.71, False)])
def test_the_driver_may_use_seven_tenths_of_a_core_in_open_loop_only(share: float, ok: bool) -> None:
    assert validity.generator_cpu(share, open_loop=True).ok is ok
    assert validity.generator_cpu(share, open_loop=False).ok


def test_driver_and_mocks_are_added_up_on_one_core_and_looked_at_singly_on_more() -> None:
    assert not validity.bench_cpu(0.5, 0.36, open_loop=True, cores=1).ok
    assert validity.bench_cpu(0.5, 0.34, open_loop=True, cores=1).ok
    assert validity.bench_cpu(0.5, 0.84, open_loop=True, cores=2).ok
    assert not validity.bench_cpu(0.5, 0.86, open_loop=True, cores=2).ok


@pytest.mark.parametrize(("share", "warns"), [(0.84, True), (0.86, False), (0.94, False)])
def test_a_target_short_of_its_limit_in_closed_loop_is_warned_of_and_never_void(share: float, warns: bool) -> None:
    check = validity.saturation(share, open_loop=False, has_process=True)
    assert (check.ok, check.warn) == (True, warns)
    assert not validity.saturation(share, open_loop=True, has_process=True).warn


def test_mocks_must_reach_twice_what_is_asked_of_them() -> None:
    assert validity.mock_ceiling(1000, 2000, "req/s").ok
    assert not validity.mock_ceiling(1000, 1999, "req/s").ok
    assert "not measured" in (validity.mock_ceiling(1000, None, "req/s").text or "")


@pytest.mark.parametrize(("share", "ok", "warn"), [(0.005, True, False), (0.02, True, True), (0.06, False, False)])
def test_stolen_time_warns_from_one_percent_and_voids_from_five(share: float, ok: bool, warn: bool) -> None:
    check = validity.steal(share)
    assert (check.ok, check.warn, check.blame) == (ok, warn, "bench")


def served(rate: float, seconds: float, capacity: float, took_s: float) -> tuple[validity.Floats, validity.Floats]:
    """Due and end times of Poisson arrivals at a server that finishes at most `capacity` a second."""
    rng = np.random.default_rng(3)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    end = np.empty_like(due)
    free = 0.0
    for number, moment in enumerate(due):
        free = max(free, moment) + 1 / capacity
        end[number] = free + took_s
    return due * 1e9, end * 1e9


@pytest.mark.parametrize("took_s", [0.0005, 0.2])
def test_a_target_that_keeps_up_is_seen_to_whatever_its_replies_take(took_s: float) -> None:
    due, end = served(rate=500, seconds=4, capacity=5000, took_s=took_s)
    check = validity.achieved_rate(due, end, (1_000 * MS, 3_500 * MS))
    assert check.ok, check.text


def test_a_target_that_falls_behind_by_a_tenth_is_seen() -> None:
    due, end = served(rate=500, seconds=4, capacity=450, took_s=0.001)
    check = validity.achieved_rate(due, end, (1_000 * MS, 3_500 * MS))
    assert not check.ok
    assert check.blame == "target"


@pytest.mark.parametrize("capacity", [125, 250, 400])
def test_a_target_that_carries_a_part_of_the_load_only_is_seen_however_late_its_replies_are(capacity: int) -> None:
    due, end = served(rate=500, seconds=5, capacity=capacity, took_s=0.001)
    check = validity.achieved_rate(due, end, (1_000 * MS, 5_000 * MS))
    assert not check.ok
    assert check.value == pytest.approx(1 - capacity / 500, abs=0.02)


def test_poisson_arrivals_that_scatter_are_no_overload() -> None:
    for seed in range(50):
        due = poisson(400, 3.0, seed).astype(np.float64)
        check = validity.achieved_rate(due, due + 170 * MS, (500 * MS, 3_000 * MS))
        assert check.ok, check.text


def test_a_load_in_turns_is_kept_up_with_whatever_turn_the_window_begins_in() -> None:
    plan = make_plan(poisson(400, 2.0, 1))
    for place in range(4):
        due = in_turns(plan, 8.0, 1.0, Turn(place, 4)).offset_ns.astype(np.float64)
        check = validity.achieved_rate(due, due + 170 * MS, (1_000 * MS, 8_000 * MS))
        assert check.ok, check.text


def test_requests_that_never_ended_are_no_achievement() -> None:
    due = np.arange(100) * 1e7
    check = validity.achieved_rate(due, np.full(100, np.nan), (0, 1_000 * MS))
    assert not check.ok


@pytest.mark.parametrize(("ratio", "ok"), [(0.0009, True), (0.0011, False), (None, False)])
def test_one_unexpected_outcome_in_a_thousand_is_allowed(ratio: float | None, ok: bool) -> None:
    assert validity.errors(ratio).ok is ok


def test_little_agrees_within_a_tenth_and_the_scatter_of_its_samples() -> None:
    # 100 requests/s of 0.5 s each: 50 are active.
    assert validity.little([50.0] * 10, completions=1000, rate_rps=100, mean_s=0.5).ok
    assert not validity.little([70.0] * 10, completions=1000, rate_rps=100, mean_s=0.5).ok
    fewer = validity.little([33.0] * 10, completions=1000, rate_rps=100, mean_s=0.5)
    assert (fewer.ok, fewer.warn) == (True, True)  # some wait in the kernel until the engine reads them


@pytest.mark.parametrize(
    ("active", "completions", "mean_s"), [([], 1000, 0.5), ([50.0], 499, 0.5), ([1.0], 1000, 0.01), ([1.0], 1000, None)]
)
def test_little_is_silent_where_it_cannot_tell(active: list[float], completions: int, mean_s: float | None) -> None:
    check = validity.little(active, completions, 100, mean_s)
    assert check.ok
    assert check.value is None


def test_a_growing_latency_warns_and_voids_nothing_by_itself() -> None:
    rng = np.random.default_rng(1)
    at = np.sort(rng.uniform(0, 10, 2000))
    steady = rng.gamma(4, 1, 2000)
    assert not validity.trend(at, steady, 10, steady=True).warn
    growing = validity.trend(at, steady * (1 + at / 20), 10, steady=True)
    assert growing.warn
    assert growing.ok
    assert growing.value == pytest.approx(0.33, abs=0.1)
    assert not validity.trend(at, steady * (1 + at / 20), 10, steady=False).warn


def test_a_drift_of_less_than_fifty_microseconds_is_none() -> None:
    at = np.linspace(0, 10, 2000)
    assert not validity.trend(at, 0.2 + at * 0.0045, 10, steady=True).warn
    assert validity.trend(at, 0.2 + at * 0.0100, 10, steady=True).warn


def test_a_clear_but_tiny_trend_does_no_harm() -> None:
    at = np.linspace(0, 10, 2000)
    assert not validity.trend(at, 5 + at / 100, 10, steady=True).warn


def test_a_single_wrong_digest_voids_the_run() -> None:
    assert validity.digest(0, 1000).ok
    assert not validity.digest(1, 1000).ok


def test_the_bench_is_named_before_the_target_as_the_reason() -> None:
    checks = [
        Check(check="errors", ok=False, blame="target", text="errors"),
        Check(check="steal", ok=False, blame="bench", text="steal"),
    ]
    assert validity.reason(checks, "void") == "steal"
    assert validity.reason(checks[:1], "failed") == "errors"
    assert validity.reason([Check(check="steal")], "ok") is None


def test_a_wrong_reply_is_named_before_an_overload() -> None:
    failed = [Check(check=name, ok=False, blame="target", text=name) for name in ("achieved-rate", "errors", "digest")]
    assert (outcome_of(failed), validity.reason(failed, outcome_of(failed))) == ("failed", "digest")
    assert (outcome_of(failed[:2]), validity.reason(failed[:2], "overloaded")) == ("overloaded", "achieved-rate")


def test_where_lengths_vary_on_purpose_all_that_was_due_must_have_ended() -> None:
    due = np.linspace(0, 10e9, 400, endpoint=False)
    end = due + np.where(np.arange(400) % 2, 0.1e9, 4e9)  # no latency is typical
    window = (2_000_000_000, 10_000_000_000)
    assert validity.achieved_rate(due, end, window, steady=False).ok
    end[-20:] = np.nan
    check = validity.achieved_rate(due, end, window, steady=False)
    assert not check.ok
    assert check.text == "300 of 320 requests that were due came to an end, limit 99%"
