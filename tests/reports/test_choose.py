"""Advice for one deployment: by Sherpa's cost and the paired ratio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from reports.choose import Deployment, OutsideRange, Point, choose, fit, points_of, ratio_at
from reports.cli import PUBLISHED


def point(rate: float, events: float, cpu: float, ratio: float, **changes: object) -> Point:
    values: Mapping[str, Any] = {
        "campaign": "c", "scenario": f"s-{rate:g}", "rate_rps": rate, "events": events, "endpoints": 4,
        "cpu_us_per_request": cpu, "spread": 0.02, "ratio": ratio, "ratio_low": ratio * 0.9, "ratio_high": ratio * 1.1,
        "values": {
            "sherpa": {"e2e_p99_ms": 2.0, "rss_idle_mib": 50.0, "rss_kib_per_stream": 32.0, "e2e_p50_ms": 10_000.0},
            "olla": {"e2e_p99_ms": 1.0, "rss_idle_mib": 50.0, "rss_kib_per_stream": 6.0, "e2e_p50_ms": 10_000.0},
        },
    }  # fmt: skip
    return Point(**{**values, **changes})  # type: ignore[arg-type]  # keyword arguments checked by the dataclass itself


POINTS = [point(500, 0, 180.0, 22 / 180), point(50, 100, 180.0 + 100 * 45, 0.45)]


def test_at_a_measured_point_the_model_says_what_was_measured() -> None:
    for one in POINTS:
        advice = choose(POINTS, Deployment(rate_rps=one.rate_rps, endpoints=4, streams=200, tokens=one.events))
        sherpa, olla = advice.costs
        assert sherpa.cores == pytest.approx(one.rate_rps * one.cpu_us_per_request / 1e6)
        assert olla.cores == pytest.approx(sherpa.cores * one.ratio)
        assert sherpa.memory_mib == pytest.approx(50 + 200 * 32 / 1024)
        assert sherpa.error == pytest.approx(0.02)
        assert advice.engine == "olla"


def test_a_saving_is_as_certain_as_the_paired_ratio_and_not_as_the_level() -> None:
    # Levels that differ by half from night to night, and a ratio that does not.
    unsure = [point(rate, 0, 180.0, 0.3, spread=1.2, ratio_low=0.27, ratio_high=0.33) for rate in (250, 1000)]
    advice = choose(unsure, Deployment(1000, 4))
    cores = advice.costs[0].cores
    assert advice.engine == "olla"
    assert advice.saved_cores == pytest.approx((cores * 0.7, cores * 0.67, cores * 0.73))
    assert advice.costs[0].error > 1


def test_a_ratio_whose_interval_holds_one_pays_for_no_complexity() -> None:
    unsure = [point(2000, 0, 180.0, 0.7, ratio_low=0.4, ratio_high=1.2)]
    advice = choose(unsure, Deployment(2000, 4))
    assert advice.engine == "sherpa"
    assert "too uncertain" in advice.because[0]
    assert choose([point(2000, 0, 180.0, 1.2)], Deployment(2000, 4)).because[0].startswith("Olla saves nothing here")


def test_between_measured_loads_the_ratio_is_interpolated_and_its_interval_holds_both() -> None:
    points = [point(100, 0, 200.0, 0.2), point(10_000, 0, 100.0, 0.8)]
    found = ratio_at(points, 1000, 0)
    assert found.value == pytest.approx(0.4)
    assert (found.low, found.high) == pytest.approx((0.18, 0.88))
    assert ratio_at(points, 50_000, 0).value == pytest.approx(0.8)
    assert ratio_at(points, 100, 0).value == pytest.approx(0.2)


def test_plain_replies_are_answered_by_plain_replies_and_streams_by_streams() -> None:
    assert ratio_at(POINTS, 50, 100).value == pytest.approx(0.45)
    assert ratio_at(POINTS, 5, 0).value == pytest.approx(22 / 180)


def test_the_error_grows_with_the_distance_to_the_nearest_measured_load() -> None:
    errors = [choose(POINTS, Deployment(rate_rps=rate, endpoints=4)).costs[0].error for rate in (500, 250, 100, 50)]
    assert errors[0] == pytest.approx(0.02)
    assert errors[1] == pytest.approx(0.02 + 2**0.3 - 1)
    assert errors == sorted(errors)


def test_three_loads_tell_how_cost_falls_with_load() -> None:
    points = [point(rate, 0, 100.0 * (1000 / rate) ** 0.5, 0.3) for rate in (250.0, 1000.0, 4000.0)]
    found = fit(points)
    assert found.sharing == pytest.approx(0.5)
    assert found.residual < 1e-9
    assert found.cores(500, 0) == pytest.approx(500 * 100 * 2**0.5 / 1e6)
    assert found.reach(500, 0) == 0
    assert found.reach(100, 0) > 0


def test_a_saving_nobody_is_billed_for_is_no_reason_for_complexity() -> None:
    advice = choose(POINTS, Deployment(rate_rps=100, endpoints=4))
    assert advice.engine == "sherpa"
    assert "not worth its complexity" in advice.because[0]
    assert advice.break_even_rps is not None
    there = choose(POINTS, Deployment(rate_rps=advice.break_even_rps, endpoints=4)).costs
    assert there[0].cores - there[1].cores == pytest.approx(0.05)


def test_a_break_even_beyond_the_measured_range_is_called_an_extrapolation() -> None:
    advice = choose([point(100, 0, 30.0, 2 / 3)], Deployment(rate_rps=50, endpoints=4))
    assert advice.break_even_rps is not None
    assert advice.break_even_rps > 5000
    assert not advice.break_even_measured


def test_a_break_even_below_the_measured_rates_is_an_extrapolation_too() -> None:
    inside = choose([point(rate, 0, 180.0, 0.3) for rate in (100, 1000)], Deployment(rate_rps=100, endpoints=4))
    assert inside.break_even_measured
    below = choose([point(500, 0, 180.0, 0.3)], Deployment(rate_rps=100, endpoints=4))
    assert below.break_even_rps is not None
    assert below.break_even_rps < 500
    assert not below.break_even_measured


def test_a_rate_is_measured_where_requests_of_its_kind_were() -> None:
    # Plain replies at 500/s say nothing of streams at 500/s.
    with pytest.raises(OutsideRange, match=r"--rate 500 is outside the measured range 5\.\.50"):
        choose(POINTS, Deployment(500, 4, tokens=100))


def test_three_loads_of_nearly_the_same_size_are_one() -> None:
    assert not fit([point(rate, 0, 100.0, 0.3) for rate in (990, 1000, 1060)]).sharing_known
    assert fit([point(rate, 0, 100.0, 0.3) for rate in (500, 1000, 2000)]).sharing_known


def test_limits_rule_an_engine_out() -> None:
    assert choose(POINTS, Deployment(100, 4, slo={"e2e_p99_ms": 1.5})).engine == "olla"
    assert choose(POINTS, Deployment(100, 4, slo={"e2e_p99_ms": 5.0})).engine == "sherpa"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Deployment(501, 4), r"--rate 501 is outside the measured range 50\.\.500"),
        (Deployment(49, 4), r"--rate 49 is outside the measured range 50\.\.500"),
        (Deployment(100, 5), r"--endpoints 5 is outside the measured range 4\.\.4"),
        (Deployment(50, 4, tokens=101), r"--tokens 101 is outside the measured range 0\.\.100"),
        (Deployment(50, 4, streams=501, tokens=9), r"--streams 501 is outside the measured range 0\.\.500"),
        (Deployment(100, 4, slo={"gc_count": 1}), "gc_count: not measured"),
    ],
)
def test_questions_outside_the_measured_range_are_refused_with_what_to_measure(wanted: Deployment, says: str) -> None:
    with pytest.raises(OutsideRange, match=says):
        choose(POINTS, wanted)


def test_without_points_nothing_is_advised() -> None:
    with pytest.raises(OutsideRange, match="no campaign measured both engines"):
        choose([], Deployment(100, 4))


# ----------------------------------------------------------------------------------------------------------- points
def row(metric: str, sherpa: float, olla: float, **changes: Any) -> dict[str, Any]:
    ratio = olla / sherpa
    found = {
        "scenario": "chat", "metric": metric, "ratio": ratio, "ci_low": ratio * 0.9, "ci_high": ratio * 1.1,
        "verdict": "faster", "baseline": {"target": "sherpa", "value": sherpa, "ci": [sherpa * 0.9, sherpa * 1.1]},
        "candidate": {"target": "olla", "value": olla, "ci": None},
    }  # fmt: skip
    return {**found, **changes}


def verdict(*rows: dict[str, Any], **scenario: Any) -> dict[str, Any]:
    described = {"rate_rps": 200.0, "loop": "open", "endpoints": 2, **scenario}
    return {"campaign": "c", "rows": list(rows), "scenarios": {"chat": described}}


def test_a_point_is_a_scenario_at_a_fixed_rate_with_both_engines() -> None:
    (found,) = points_of(verdict(row("cpu_us_per_request", 100.0, 25.0), row("rss_idle_mib", 40.0, 50.0)))
    assert (found.rate_rps, found.events, found.endpoints, found.cpu_us_per_request) == (200, 0, 2, 100)
    assert (found.ratio, found.ratio_low, found.ratio_high) == pytest.approx((0.25, 0.225, 0.275))
    assert found.spread == pytest.approx(0.1)
    assert found.values["olla"]["rss_idle_mib"] == 50


def test_the_baseline_may_be_either_engine() -> None:
    turned = row("cpu_us_per_request", 100.0, 25.0)
    turned |= {"baseline": turned["candidate"], "candidate": turned["baseline"]}
    turned |= {"ratio": 4.0, "ci_low": 3.0, "ci_high": 5.0}
    (found,) = points_of(verdict(turned))
    assert (found.ratio, found.ratio_low, found.ratio_high) == pytest.approx((0.25, 0.2, 1 / 3))
    assert found.cpu_us_per_request == 100


@pytest.mark.parametrize(
    "scenario",
    [
        {"loop": "closed"},
        {"rate_rps": None},
        {"faults": [{"endpoint": "mock-1"}]},
        {"ballast": 500_000},
        {"ballast": 0},
        {"response_bytes": 2**20},
    ],
)
def test_other_scenarios_are_no_part_of_the_cost_model(scenario: dict[str, Any]) -> None:
    assert points_of(verdict(row("cpu_us_per_request", 100.0, 25.0), **scenario)) == []


@pytest.mark.parametrize("word", ["overloaded", "unreliable", "void", "not-measured"])
def test_an_engine_that_did_not_carry_the_load_has_no_cost_at_it(word: str) -> None:
    assert points_of(verdict(row("cpu_us_per_request", 100.0, 25.0, verdict=word))) == []


def test_the_published_campaigns_answer_as_their_own_verdicts_do() -> None:
    for name in ("2026-11-25-full", "2026-11-26-full"):
        published = json.loads((PUBLISHED / name / "verdict.json").read_text(encoding="utf-8"))
        assert published["recommendation"]["engine"] == "olla"
        points = points_of(published)
        assert choose(points, Deployment(rate_rps=1000, endpoints=4)).engine == "olla"


def test_a_cost_is_never_negative() -> None:
    # Costs that fall with the events: the event costs nothing, and the request the mean.
    found = fit([point(100, 0, 100.0, 0.3), point(100, 10, 9.0, 0.3)])
    assert found.event_us == 0
    assert found.request_us > 0
