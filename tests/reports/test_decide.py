from __future__ import annotations

from collections.abc import Mapping

import pytest

from reports.compare import Comparison, compare, within_noise
from reports.decide import Deployment, OutsideRange, Point, Recommendation, action, choose, fit, points_of, recommend
from reports.schema import Scenario
from reports.store import Campaign
from tests.reports.synthetic import CHAT, STREAM, campaign_of, fact

WOBBLE = (1.0, 1.004, 0.996, 1.002, 0.998, 1.0)
SAME = {"cpu_us_per_request": 100.0, "added_p50_us": 400.0, "goodput_rps": 200.0, "error_ratio": 0.0}


def recommended(
    olla: Mapping[str, float], *, targets: tuple[str, ...] = ("sherpa", "olla"), baseline: str = "", noise: float = 1.0
) -> Recommendation:
    """What six rounds of sherpa at SAME and olla at SAME with changes recommend."""
    campaign, comparison = compared(olla, targets=targets, baseline=baseline, noise=noise)
    return recommend(campaign, comparison)


def compared(
    olla: Mapping[str, float], *, targets: tuple[str, ...] = ("sherpa", "olla"), baseline: str = "", noise: float = 1.0
) -> tuple[Campaign, Comparison]:
    """Sherpa at SAME, olla at SAME with changes, six rounds."""
    facts = []
    for n, wobble in enumerate(WOBBLE, 1):
        for target in targets:
            values = SAME | (dict(olla) if target == "olla" else {})
            wobbled = {m: v * (1 + (wobble - 1) * noise * (1 if target == "olla" else -1)) for m, v in values.items()}
            facts.append(fact("chat", n, target, {**wobbled, "goodput_rps": values["goodput_rps"]}))
    campaign = campaign_of(targets, {"chat": Scenario(rate_rps=200)}, 6, baseline=baseline)
    return campaign, compare(campaign, facts)


def said(olla: Mapping[str, float], noise: float = 1.0) -> str:
    """What to do for the one use case, in words."""
    _, comparison = compared(olla, noise=noise)
    return action([row for row in comparison.rows if row.candidate.target == "olla"], comparison).say


def test_each_use_case_says_what_to_do() -> None:
    assert said({"cpu_us_per_request": 22.0}) == "Use Olla"
    assert said({"cpu_us_per_request": 300.0}) == "Use Sherpa"
    assert said({}) == "Use either; Sherpa is simpler"
    assert said({}, noise=60.0) == "No answer yet"
    assert said({"cpu_us_per_request": 22.0, "goodput_rps": 150.0}) == "Use Sherpa"
    assert said({"cpu_us_per_request": 22.0, "added_p50_us": 9000.0}) == (
        "Weigh: Olla for CPU per request, Sherpa for Added time p50"
    )


def test_the_engine_that_wins_a_primary_and_loses_none_is_recommended() -> None:
    found = recommended({"cpu_us_per_request": 22.0, "added_p50_us": 100.0})
    assert found.engine == "olla"
    assert found.because[0].startswith("chat: Olla is faster: CPU per request -78 %")
    assert any("simpler engine" in reason for reason in found.unless)


def test_the_other_way_round_the_simpler_engine_is_recommended() -> None:
    assert recommended({"cpu_us_per_request": 300.0, "added_p50_us": 900.0}).engine == "sherpa"


def test_the_answer_does_not_depend_on_which_engine_is_the_baseline() -> None:
    assert recommended({"cpu_us_per_request": 22.0}, baseline="olla").engine == "olla"


def test_an_engine_that_answers_fewer_requests_is_out_however_cheap() -> None:
    assert recommended({"cpu_us_per_request": 22.0, "goodput_rps": 150.0}).engine == "sherpa"
    assert recommended({"cpu_us_per_request": 300.0, "goodput_rps": 250.0}).engine == "olla"


def test_where_each_wins_something_there_is_no_general_answer() -> None:
    found = recommended({"cpu_us_per_request": 22.0, "added_p50_us": 9000.0})
    assert found.engine is None
    assert "each engine wins something" in found.because[0]


def test_a_tie_is_no_reason_for_complexity() -> None:
    found = recommended({})
    assert found.engine == "sherpa"
    assert "simpler" in found.because[0]


def test_noise_recommends_nothing() -> None:
    found = recommended({}, noise=60.0)
    assert found.engine is None
    assert found.unless == ("repeat with more rounds",)


def test_an_effect_no_larger_than_the_baseline_against_itself_recommends_nothing() -> None:
    again = (1.2, 0.8, 1.25, 0.85, 1.15, 0.82)
    facts = []
    for n, wobble in enumerate(WOBBLE, 1):
        facts.append(fact("chat", n, "sherpa", SAME))
        facts.append(fact("chat", n, "olla", SAME | {"cpu_us_per_request": 92.0 * wobble}))
        facts.append(fact("chat", n, "sherpa@aa", SAME | {"cpu_us_per_request": 100.0 * again[n - 1]}))
    campaign = campaign_of(("sherpa", "olla"), {"chat": Scenario(rate_rps=200)}, 6)
    comparison = compare(campaign, facts)
    row = comparison.row("chat", "cpu_us_per_request", "olla")
    assert row is not None
    assert row.verdict == "faster"
    assert within_noise(row, comparison)
    assert recommend(campaign, comparison).engine is None


def test_a_campaign_whose_runs_are_all_void_says_that_and_not_that_it_is_noisy() -> None:
    facts = [
        fact("chat", n, target, SAME, void="steal 9 %, limit 5 %") for n in (1, 2) for target in ("sherpa", "olla")
    ]
    found = recommend(campaign := campaign_of(("sherpa", "olla"), {"chat": Scenario()}, 2), compare(campaign, facts))
    assert found.engine is None
    assert found.because == ("too few runs are valid to compare the engines", "steal 9 %, limit 5 %")


def test_one_engine_alone_is_not_recommended() -> None:
    assert recommended({}, targets=("sherpa", "nginx")).because == (
        "the campaign did not compare both engines: olla is missing",
    )


def test_against_another_baseline_nothing_is_said() -> None:
    assert recommended({}, targets=("sherpa", "olla", "nginx"), baseline="nginx").engine is None


# ------------------------------------------------------------------------------------------------------------ choose
def point(engine: str, rate: float, events: float, cpu: float, **changes: object) -> Point:
    values = {
        "campaign": "c", "scenario": f"{engine}-{rate:g}", "rate_rps": rate, "events": events, "endpoints": 4,
        "cpu_us_per_request": cpu, "spread": 0.02, "utilisation": rate * cpu / 1e6, "rss_idle_mib": 50.0,
        "kib_per_stream": 32.0, "active_peak": 500.0, "metrics": {"e2e_p99_ms": 2.0 if engine == "sherpa" else 1.0},
    }  # fmt: skip
    return Point(**{**values, **changes})  # type: ignore[arg-type]  # keyword arguments checked by the dataclass itself


POINTS = {
    "sherpa": [point("sherpa", 500, 0, 180.0), point("sherpa", 50, 100, 180.0 + 100 * 45)],
    "olla": [point("olla", 500, 0, 22.0), point("olla", 50, 100, 22.0 + 100 * 20)],
}


def test_at_a_measured_point_the_model_says_what_was_measured() -> None:
    for point_ in POINTS["sherpa"]:
        advice = choose(POINTS, Deployment(rate_rps=point_.rate_rps, endpoints=4, streams=200, tokens=point_.events))
        sherpa, _ = advice.costs
        assert sherpa.cores == pytest.approx(point_.rate_rps * point_.cpu_us_per_request / 1e6)
        assert sherpa.memory_mib == pytest.approx(50 + 200 * 32 / 1024)
        assert sherpa.error == pytest.approx(0.02)
        assert advice.engine == "olla"


def test_the_error_grows_with_the_distance_to_the_nearest_measured_load() -> None:
    errors = [choose(POINTS, Deployment(rate_rps=rate, endpoints=4)).costs[0].error for rate in (500, 250, 100, 50)]
    assert errors[0] == pytest.approx(0.02)
    assert errors[1] == pytest.approx(0.02 + 2**0.3 - 1)
    assert errors == sorted(errors)


def test_three_loads_tell_how_cost_falls_with_load() -> None:
    points = [point("olla", rate, 0, 100.0 * (1000 / rate) ** 0.5) for rate in (250.0, 1000.0, 4000.0)]
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
    assert advice.break_even_measured
    there = choose(POINTS, Deployment(rate_rps=advice.break_even_rps, endpoints=4)).costs
    assert there[0].cores - there[1].cores == pytest.approx(0.05)


def test_a_break_even_beyond_the_measured_range_is_called_an_extrapolation() -> None:
    cheap = {"sherpa": [point("sherpa", 100, 0, 30.0)], "olla": [point("olla", 100, 0, 20.0)]}
    advice = choose(cheap, Deployment(rate_rps=50, endpoints=4))
    assert advice.break_even_rps is not None
    assert advice.break_even_rps > 5000
    assert not advice.break_even_measured


def test_limits_rule_an_engine_out() -> None:
    assert choose(POINTS, Deployment(100, 4, slo={"e2e_p99_ms": 1.5})).engine == "olla"
    assert choose(POINTS, Deployment(100, 4, slo={"e2e_p99_ms": 5.0})).engine == "sherpa"


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (Deployment(501, 4), r"--rate 501 is outside the measured range 5\.\.500"),
        (Deployment(4, 4), r"--rate 4 is outside the measured range 5\.\.500"),
        (Deployment(100, 5), r"--endpoints 5 is outside the measured range 4\.\.4"),
        (Deployment(100, 4, tokens=101), r"--tokens 101 is outside the measured range 0\.\.100"),
        (Deployment(100, 4, streams=501, tokens=9), r"--streams 501 is outside the measured range 0\.\.500"),
        (Deployment(100, 4, slo={"gc_count": 1}), "gc_count: not measured"),
    ],
)
def test_questions_outside_the_measured_range_are_refused_with_what_to_measure(wanted: Deployment, says: str) -> None:
    with pytest.raises(OutsideRange, match=says):
        choose(POINTS, wanted)


def test_an_engine_without_points_is_refused() -> None:
    with pytest.raises(OutsideRange, match="no campaign measured olla"):
        choose({"sherpa": POINTS["sherpa"], "olla": []}, Deployment(100, 4))


def test_points_are_the_scenarios_at_a_fixed_rate() -> None:
    scenarios = {"chat": CHAT, "chat-stream": STREAM, "full": Scenario(loop="closed", tags=["saturation"])}
    facts = [
        fact(name, n, engine, {"cpu_us_per_request": 100.0 + n, "rss_idle_mib": 40.0}, utilisation=0.4, active_peak=12)
        for name in scenarios
        for n in (1, 2, 3)
        for engine in ("sherpa", "olla")
    ]
    campaign = campaign_of(("sherpa", "olla"), scenarios, 3)
    points = points_of(campaign, compare(campaign, facts))
    assert [(p.scenario, p.rate_rps, p.events) for p in points["olla"]] == [("chat", 200, 0), ("chat-stream", 130, 24)]
    assert points["olla"][0].cpu_us_per_request == pytest.approx(102)
    assert points["olla"][0].active_peak == 12
