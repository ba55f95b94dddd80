"""The order of runs, what shares a process start, what is repeated, and how long it all takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from loadgen.campaign import schedule
from loadgen.campaign.campaign import Asked, plan
from loadgen.campaign.schedule import Arm, arms_of, benches, order_of, shortfall
from loadgen.targets.direct import Given
from loadgen.workload.scenario import Scenario
from reports.schema import Check, RunRecord, run_name


def target(name: str) -> Given:
    return Given(name=name, url="http://127.0.0.1:1")


def scenario(name: str = "one", **changes: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "id": name,
            "question": "what is the question?",
            "answer": "this would be an answer",
            "kind": "request",
            "requests": [{"path": "/"}],
            "arrivals": {"kind": "poisson", "rate": 10},
            "duration_s": 5,
            **changes,
        }
    )


def names(arms: list[Arm]) -> list[str]:
    return [arm.name for arm in arms]


def test_the_baseline_runs_twice_a_round_far_from_itself() -> None:
    arms = arms_of([target("sherpa"), target("olla"), target("direct")], "sherpa")
    assert names(arms) == ["sherpa", "olla", "direct", "sherpa@aa"]
    assert arms[3].is_aa
    assert not arms[0].is_aa
    assert names(arms_of([target("direct"), target("relay"), target("sherpa")], "sherpa"))[0] == "sherpa@aa"


def test_without_a_baseline_there_is_no_second_arm() -> None:
    assert names(arms_of([target("direct"), target("relay")], None)) == ["direct", "relay"]


def test_sherpa_is_the_baseline_where_it_is_present_and_a_floor_never_is() -> None:
    assert schedule.default_baseline([target("direct"), target("olla"), target("sherpa")]) == "sherpa"
    assert schedule.default_baseline([target("direct"), target("relay"), target("nginx")]) == "nginx"
    assert schedule.default_baseline([target("direct"), target("relay")]) is None


def test_the_order_goes_forth_and_back() -> None:
    arms = arms_of([target("a"), target("b"), target("c")], None)
    assert names(order_of(arms, 1)) == ["a", "b", "c"]
    assert names(order_of(arms, 2)) == ["c", "b", "a"]
    assert names(order_of(arms, 3)) == ["b", "c", "a"]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_arm_has_the_same_places_over_a_whole_turn(count: int) -> None:
    arms = arms_of([target(str(number)) for number in range(count)], None)
    places: dict[str, Counter[int]] = {arm.name: Counter() for arm in arms}
    for number in range(1, 2 * count + 1):
        for place, arm in enumerate(order_of(arms, number)):
            places[arm.name][place] += 1
    assert len({tuple(sorted(counter.items())) for counter in places.values()}) == 1


def test_scenarios_with_the_same_backends_and_settings_share_a_process_start() -> None:
    arms = arms_of([target("a"), target("b")], None)
    one, two = scenario("one"), scenario("two")
    many = scenario("many", mock={"endpoints": 10})
    heap = scenario("heap", settings={"runtime.gc.ballast": 1000})
    made = list(benches(arms, {arm.name: [one, two, many, heap] for arm in arms}, 1))
    assert [[s.id for s in bench.sittings[0].scenarios] for bench in made] == [["one", "two"], ["many"], ["heap"]]
    assert [bench.endpoints for bench in made] == [1, 10, 1]
    assert [sitting.order for bench in made for sitting in bench.sittings] == [0, 1, 2, 3, 4, 5]


def test_a_bench_is_held_one_by_one_or_all_at_once() -> None:
    arms = arms_of([target("a"), target("b")], "a")
    wanted = {arm.name: [scenario("one"), scenario("two")] for arm in arms}
    (alone,), (together,) = benches(arms, wanted, 1), benches(arms, wanted, 1, together=True)
    assert [[sitting.arm.name for sitting in group] for group in alone.groups()] == [["a"], ["b"], ["a@aa"]]
    assert [[sitting.arm.name for sitting in group] for group in together.groups()] == [["a", "b", "a@aa"]]
    assert [one.id for one in schedule.loaded(together.sittings)] == ["one", "two"]
    # The load, 5 s and 1 s of warm-up twice, is there once instead of three times.
    assert schedule.bench_seconds(alone, 0.5) - schedule.bench_seconds(together, 0.5) == pytest.approx(24, abs=2)


def record(one: str, arm: str, number: int, blame: str | None = None) -> RunRecord:
    checks = [Check(check="x", ok=False, blame=blame, text="bad")] if blame else []  # type: ignore[arg-type]
    return RunRecord(
        run=run_name(number, one, arm), scenario=one, target=arm, round=number, validity=checks, void_reason=blame
    )


ARMS = arms_of([target("sherpa"), target("olla"), target("direct")], "sherpa")


def wanted_again(records: list[RunRecord], planned: int = 2) -> dict[str, list[str]]:
    again = shortfall(records, ARMS, [scenario("one")], planned, "sherpa")
    return {arm: [one.id for one in scenarios] for arm, scenarios in again.items()}


def all_valid(rounds_run: int) -> list[RunRecord]:
    return [record("one", arm.name, number) for number in range(1, rounds_run + 1) for arm in ARMS]


def test_nothing_is_repeated_where_everything_is_valid() -> None:
    assert wanted_again(all_valid(2)) == {}


def test_a_run_voided_by_its_target_is_repeated_with_the_baseline_only() -> None:
    records = [r for r in all_valid(2) if r.run != "r02-one-olla"] + [record("one", "olla", 2, "target")]
    assert wanted_again(records) == {"sherpa": ["one"], "olla": ["one"]}


def test_a_run_voided_by_the_bench_repeats_its_round_for_every_target() -> None:
    records = [r for r in all_valid(2) if r.run != "r02-one-olla"] + [record("one", "olla", 2, "bench")]
    assert set(wanted_again(records)) == {arm.name for arm in ARMS}


def test_a_target_that_never_had_a_valid_run_is_not_repeated() -> None:
    records = [r for r in all_valid(2) if r.target != "olla"]
    records += [record("one", "olla", number, "target") for number in (1, 2)]
    assert wanted_again(records) == {}


def test_a_repeat_that_was_good_ends_the_repeating() -> None:
    records = [r for r in all_valid(2) if r.run != "r02-one-olla"] + [record("one", "olla", 2, "target")]
    records += [record("one", "olla", 3), record("one", "sherpa", 3)]
    assert wanted_again(records) == {}


def test_a_variant_that_scenarios_name_is_measured_in_those_alone() -> None:
    scenarios = [scenario("one", variants=["olla-8k"]), scenario("two")]
    arms = arms_of([target("sherpa"), target("olla-8k")], "sherpa")
    wanted = schedule.wanted_of(arms, scenarios)
    assert {name: [one.id for one in mine] for name, mine in wanted.items()} == {
        "sherpa": ["one", "two"],
        "olla-8k": ["one"],
        "sherpa@aa": ["one", "two"],
    }


def test_the_full_campaign_leaves_a_twentieth_of_its_budget_for_repeats() -> None:
    planned = plan(Asked(profile="full"))
    assert {"olla-8k", "olla-every-read", "olla-no-pools", "olla-prewarm"} <= {arm.name for arm in planned.arms}
    assert planned.seconds() < 0.95 * planned.profile.budget_s


def test_targets_that_were_asked_for_by_name_are_measured_and_no_others() -> None:
    planned = plan(Asked(profile="full", targets=("sherpa", "olla-8k")))
    assert names(list(planned.arms)) == ["sherpa", "olla-8k", "sherpa@aa"]
    assert len(planned.wanted()["olla-8k"]) == len(planned.scenarios)


def test_the_announced_time_is_that_of_all_sittings() -> None:
    one = scenario("one", duration_s=5, warmup_s=1)
    arms = arms_of([target("a"), target("b")], None)
    single = schedule.campaign_seconds(arms, [one], 1, 1.0, report=False)
    assert schedule.campaign_seconds(arms, [one], 6, 1.0, report=False) == pytest.approx(6 * single)
    assert single > 2 * (1.0 + 6.0)


def test_every_profile_names_targets_and_a_baseline_that_exist() -> None:
    from loadgen.targets.catalogue import catalogue

    for name, profile in schedule.profiles().items():
        assert set(profile.targets) <= set(catalogue()), name
        assert profile.baseline in profile.targets, name


def test_the_quick_profile_is_what_the_documents_promise() -> None:
    quick = schedule.profiles()["quick"]
    assert quick.rounds == 6
    assert quick.targets == ("sherpa", "olla", "direct")
