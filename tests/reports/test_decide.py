from __future__ import annotations

from collections.abc import Mapping

from reports.compare import Comparison, compare
from reports.decide import Recommendation, action, recommend
from reports.schema import Check, ScenarioRecord
from reports.store import Campaign
from tests.reports.synthetic import campaign_of, fact

WOBBLE = (1.0, 1.004, 0.996, 1.002, 0.998, 1.0)
SAME = {
    "cpu_us_per_request": 100.0, "added_p50_us": 400.0, "goodput_rps": 200.0, "e2e_p99_ms": 2.0, "error_ratio": 0.0,
}  # fmt: skip


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
    campaign = campaign_of(targets, {"chat": ScenarioRecord(rate_rps=200)}, 6, baseline=baseline)
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


def test_where_each_wins_something_in_one_use_case_they_are_weighed() -> None:
    found = recommended({"cpu_us_per_request": 22.0, "added_p50_us": 9000.0})
    assert found.engine is None
    assert found.because == (
        "each engine wins something: chat: Weigh: Olla for CPU per request, Sherpa for Added time p50",
    )


def over(
    changes: Mapping[str, Mapping[str, float]], checks: Mapping[tuple[str, int], Check] | None = None
) -> Recommendation:
    """What eight rounds recommend of scenarios in which olla is at SAME with these changes. `checks`: (target, round)
    of the first scenario -> a failed check."""
    facts = []
    for name, olla in changes.items():
        for n in range(1, 9):
            for target in ("sherpa", "olla"):
                wobble = WOBBLE[n % 6]
                values = {m: v * wobble for m, v in (SAME | (dict(olla) if target == "olla" else {})).items()}
                one = fact(name, n, target, values)
                check = (checks or {}).get((target, n))
                if check is not None and name == next(iter(changes)):
                    record = one.record.model_copy(update={"validity": [check], "void_reason": check.text})
                    object.__setattr__(one, "record", record)
                facts.append(one)
    campaign = campaign_of(("sherpa", "olla"), dict.fromkeys(changes, ScenarioRecord(rate_rps=200)), 8)
    return recommend(campaign, compare(campaign, facts))


def test_where_each_engine_wins_a_use_case_there_is_no_general_answer() -> None:
    found = over({"one": {"cpu_us_per_request": 22.0}, "two": {"cpu_us_per_request": 300.0}})
    assert found.engine is None
    assert len(found.because) == 2


def test_what_gets_worse_with_the_recommended_engine_is_listed() -> None:
    worse_tail = {"cpu_us_per_request": 22.0, "e2e_p99_ms": 12.0}
    found = over({"one": {"cpu_us_per_request": 22.0, "rss_peak_mib": 60.0}, "large": worse_tail})
    assert found.engine == "olla"
    assert [reason.split(":")[0] for reason in found.because] == ["one"]
    assert found.worse[0].startswith("large: Olla is slower: end to end p99 +500 %")


def test_secondary_rows_that_got_worse_are_listed_once_a_metric_and_decide_nothing() -> None:
    facts = []
    for name in ("one", "two"):
        for n, wobble in enumerate(WOBBLE, 1):
            for target, memory in (("sherpa", 40.0), ("olla", 60.0 if name == "one" else 80.0)):
                values = SAME | {"rss_peak_mib": memory * wobble}
                facts.append(fact(name, n, target, values | ({"cpu_us_per_request": 22.0} if target == "olla" else {})))
    campaign = campaign_of(("sherpa", "olla"), dict.fromkeys(("one", "two"), ScenarioRecord(rate_rps=200)), 6)
    found = recommend(campaign, compare(campaign, facts))
    assert found.engine == "olla"
    assert len(found.worse) == 1
    assert found.worse[0].startswith("two (and in 1 more scenario): With Olla: memory peak +100 %")


def failing(check: str, **more: object) -> Check:
    return Check.model_validate({"check": check, "ok": False, "blame": "target", "text": "it failed", **more})


def test_an_engine_that_cannot_carry_the_load_loses_however_cheap() -> None:
    cheap = {"one": {"cpu_us_per_request": 22.0}}
    found = over(cheap, {("olla", n): failing("achieved-rate") for n in range(1, 9)})
    assert found.engine == "sherpa"
    assert found.because == (
        "one: olla could not carry the offered load in 8 of 8 rounds: it failed (in r01-one-olla)",
    )
    assert over(cheap, {("sherpa", n): failing("achieved-rate") for n in range(1, 9)}).engine == "olla"


def test_one_round_of_eight_that_failed_takes_nobody_out() -> None:
    assert over({"one": {"cpu_us_per_request": 22.0}}, {("olla", 3): failing("errors")}).engine == "olla"


def test_one_wrong_reply_takes_an_engine_out_of_the_campaign() -> None:
    scenarios = {"one": {"cpu_us_per_request": 22.0}, "two": {"cpu_us_per_request": 22.0}}
    found = over(scenarios, {("olla", 3): failing("digest", value=1.0)})
    assert found.engine == "sherpa"
    assert found.because == ("one: olla changed 1 reply: it failed (in r03-one-olla)",)
    both = {(target, 3): failing("digest", value=1.0) for target in ("olla", "sherpa")}
    assert over(scenarios, both).engine is None


def test_a_tie_is_no_reason_for_complexity() -> None:
    found = recommended({})
    assert found.engine == "sherpa"
    assert "simpler" in found.because[0]


def test_a_tail_that_too_few_requests_carry_hinders_no_tie() -> None:
    facts = [
        fact("chat", n, target, {m: v * wobble for m, v in SAME.items() if m != "e2e_p99_ms"})
        for n, wobble in enumerate(WOBBLE, 1)
        for target in ("sherpa", "olla")
    ]
    campaign = campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord(rate_rps=200)}, 6)
    comparison = compare(campaign, facts)
    rows = [row for row in comparison.rows if row.candidate.target == "olla"]
    assert action(rows, comparison).say == "Use either; Sherpa is simpler"
    assert recommend(campaign, comparison).engine == "sherpa"


def test_noise_recommends_nothing() -> None:
    found = recommended({}, noise=60.0)
    assert found.engine is None
    assert found.unless == ("repeat with more rounds",)


def test_an_effect_by_which_the_baseline_differs_from_itself_recommends_nothing() -> None:
    again = (1.15, 1.12, 1.16, 1.13, 1.15, 1.14)
    facts = []
    for n, wobble in enumerate(WOBBLE, 1):
        facts.append(fact("chat", n, "sherpa", SAME))
        facts.append(fact("chat", n, "olla", SAME | {"cpu_us_per_request": 92.0 * wobble}))
        facts.append(fact("chat", n, "sherpa@aa", SAME | {"cpu_us_per_request": 100.0 * again[n - 1]}))
    campaign = campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord(rate_rps=200)}, 6)
    comparison = compare(campaign, facts)
    row = comparison.row("chat", "cpu_us_per_request", "olla")
    assert row is not None
    assert row.verdict == "too-noisy"
    assert recommend(campaign, comparison).engine is None


def test_a_campaign_whose_runs_are_all_void_says_that_and_not_that_it_is_noisy() -> None:
    facts = [
        fact("chat", n, target, SAME, void="steal 9 %, limit 5 %") for n in (1, 2) for target in ("sherpa", "olla")
    ]
    found = recommend(
        campaign := campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord()}, 2), compare(campaign, facts)
    )
    assert found.engine is None
    assert found.because == ("too few runs are valid to compare the engines", "steal 9 %, limit 5 %")


def test_one_engine_alone_is_not_recommended() -> None:
    assert recommended({}, targets=("sherpa", "nginx")).because == (
        "the campaign did not compare both engines: olla is missing",
    )


def test_against_another_baseline_nothing_is_said() -> None:
    assert recommended({}, targets=("sherpa", "olla", "nginx"), baseline="nginx").engine is None


def test_a_rung_of_a_ladder_beyond_capacity_decides_nothing() -> None:
    campaign, comparison = compared({"cpu_us_per_request": 50.0})
    facts = [one for runs in comparison.valid.values() for one in runs]
    late = [fact("ladder-olla-110", n, "olla", {}, void="too much", blame="target") for n in range(1, 7)]
    scenarios = {"chat": ScenarioRecord(rate_rps=200), "ladder-olla-110": ScenarioRecord(rate_rps=900, group="ladder")}
    ladder = campaign_of(("sherpa", "olla"), scenarios, 6)
    assert (
        recommend(ladder, compare(ladder, [*facts, *late])).engine == recommend(campaign, comparison).engine == "olla"
    )
