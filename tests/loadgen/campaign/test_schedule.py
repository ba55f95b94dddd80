"""The order of runs, who is alive with whom, what is repeated, and how long it all takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from loadgen.bench.machine import assign_cores
from loadgen.campaign import schedule
from loadgen.campaign.plan import Asked, plan, planned, profiles
from loadgen.campaign.schedule import Arm, Slot, arms_of, order_of, scenarios_of, spoilt
from loadgen.targets.direct import Direct, Given
from loadgen.targets.target import Target
from loadgen.workload.scenario import Scenario, catalogue
from reports.schema import Check, RunRecord, default_baseline, run_name


def target(name: str) -> Direct:
    return Direct(name=name)


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
    assert default_baseline(["direct", "olla", "sherpa"]) == "sherpa"
    assert default_baseline(["direct", "relay", "nginx"]) == "nginx"
    assert default_baseline(["direct", "relay"]) is None


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


def slots_of(targets: list[Target], scenarios: list[Scenario], number: int = 1) -> list[Slot]:
    arms = arms_of(targets, "a")
    return [slot for _, each in schedule.slots(arms, scenarios, number) for slot in each]


ALONE = {"arrivals": {"kind": "closed", "users": 2}}


def test_each_run_has_a_process_start_of_its_own() -> None:
    two = [target("a"), target("b")]
    slots = slots_of(two, [scenario("one", **ALONE), scenario("two", **ALONE), scenario("many")])
    starts = [(slot.scenario.id, arm.name) for slot in slots for arm in slot.arms]
    assert sorted(starts) == sorted((one, arm) for one in ("one", "two", "many") for arm in ("a", "b", "a@aa"))
    assert [slot.order for slot in slots] == [0, 1, 2, 3, 4, 5, 6]
    assert [run for slot in slots for run in slot.runs()][-1] == "r01-many-a@aa"


def test_open_loop_loads_are_given_in_turns_to_targets_that_are_alive_at_once() -> None:
    (slot,) = slots_of([target("a"), target("b")], [scenario("one")])
    assert names(list(slot.arms)) == ["a", "b", "a@aa"]
    assert [(slot.turn(place).place, slot.turn(place).of) for place in range(3)] == [(0, 3), (1, 3), (2, 3)]


@pytest.mark.parametrize(
    "changes",
    [
        ALONE,
        {"mock": {"faults": [{"fault": "error"}]}},
        {"connections": 100},
        {"steady": False},
        {"tags": ["cold-start"]},
        {"arrivals": {"kind": "steps", "rates": [1, 2]}},
        {"in_turns": False},
    ],
)
def test_where_the_moment_or_what_is_open_matters_each_target_is_alone(changes: dict[str, Any]) -> None:
    slots = slots_of([target("a"), target("b")], [scenario("one", **changes)])
    assert [names(list(slot.arms)) for slot in slots] == [["a"], ["b"], ["a@aa"]]


def test_a_proxy_that_runs_already_is_one_process_however_often_it_is_listed() -> None:
    slots = slots_of([target("a"), Given(name="b", url="http://127.0.0.1:1")], [scenario("one")])
    assert [len(slot.arms) for slot in slots] == [1, 1, 1]


def test_each_target_that_takes_turns_gets_the_seconds_of_its_scenario() -> None:
    made = planned(
        [target("a"), target("b")], [scenario("one"), scenario("two", **ALONE)], rounds=1, baseline="a", asked=Asked()
    )
    spans = [
        (slot.scenario.id, len(slot.arms), slot.scenario.warmup_s, slot.scenario.duration_s)
        for _, slots in made.slots(made.scenarios, 1)
        for slot in slots
    ]
    assert spans == [("one", 3, 3, 15), *[("two", 1, 1, 5)] * 3]
    assert "in turns of 0.1 s among 3 targets" in made.described()["one"].arrivals
    assert "turns" not in made.described()["two"].arrivals


def test_a_target_without_room_for_the_load_takes_no_turn_and_spoils_none() -> None:
    arms = arms_of([target("a"), target("b"), target("slow")], "a")
    ((_, found),) = schedule.slots(arms, [scenario("one")], 1, alone={"one": {"slow"}})
    assert [names(list(slot.arms)) for slot in found] == [["a", "b", "a@aa"], ["slow"]]
    assert [slot.order for slot in found] == [0, 3]
    assert [slot.scenario.duration_s for slot in found] == [15, 5]
    ((_, found),) = schedule.slots(arms, [scenario("one")], 1, alone={"one": {"a", "slow"}})
    assert [len(slot.arms) for slot in found] == [1, 1, 1, 1]


def test_the_order_of_scenarios_changes_from_round_to_round_and_sweeps_run_from_small_to_large() -> None:
    sweep = [
        scenario(f"streams-{n}", connections=n, tags=["sweep-connections"], group="streams") for n in (1000, 100, 500)
    ]
    all_of_them = [scenario("first"), *sweep, scenario("last")]
    orders = [[one.id for one in scenarios_of(all_of_them, number)] for number in (1, 2, 3)]
    rising = ["streams-100", "streams-500", "streams-1000"]
    assert orders == [["first", *rising, "last"], ["last", *rising, "first"], [*rising, "last", "first"]]


def test_the_catalogue_counts_numbers_in_names_as_numbers() -> None:
    known = [name for name in catalogue() if name.startswith("streams-")]
    assert known == ["streams-100", "streams-500", "streams-1000", "streams-2000"]


def test_idle_cpu_is_measured_once_a_round_for_the_same_settings_and_endpoints() -> None:
    one, two, heap = scenario("one"), scenario("two"), scenario("heap", settings={"runtime.gc.ballast": 1000})
    many = scenario("many", mock={"endpoints": 10})
    slots = slots_of([target("a")], [one, two, heap, many]) + slots_of([target("a")], [one], 2)
    keys = {schedule.idle_key(slot, arm) for slot in slots for arm in slot.arms if arm.name == "a"}
    assert len(keys) == 4


def record(one: str, arm: str, number: int, blame: str | None = None) -> RunRecord:
    checks = [Check(check="x", ok=False, blame=blame, text="bad")] if blame else []  # type: ignore[arg-type]
    return RunRecord(
        run=run_name(number, one, arm), scenario=one, target=arm, round=number, validity=checks, void_reason=blame
    )


ARMS = arms_of([target("sherpa"), target("olla"), target("direct")], "sherpa")


def wanted_again(records: list[RunRecord], rounds: int = 2) -> list[str]:
    return [one.id for one in spoilt(records, [scenario("one")], lambda _: rounds)]


def all_valid(rounds_run: int) -> list[RunRecord]:
    return [record("one", arm.name, number) for number in range(1, rounds_run + 1) for arm in ARMS]


def test_nothing_is_repeated_where_everything_is_valid() -> None:
    assert wanted_again(all_valid(2)) == []


def test_what_a_target_did_wrong_is_a_result_and_not_repeated() -> None:
    records = [r for r in all_valid(2) if r.run != "r02-one-olla"] + [record("one", "olla", 2, "target")]
    assert wanted_again(records) == []


def test_a_round_spoilt_by_the_bench_is_repeated_for_all_targets_until_there_are_enough() -> None:
    records = [r for r in all_valid(2) if r.run != "r02-one-olla"] + [record("one", "olla", 2, "bench")]
    assert wanted_again(records) == ["one"]
    assert wanted_again([*records, *(record("one", arm.name, 3) for arm in ARMS)]) == []
    assert wanted_again([*records, *(record("one", arm.name, 3, "bench") for arm in ARMS)]) == ["one"]


def test_a_variant_that_scenarios_name_is_measured_in_those_alone() -> None:
    scenarios = [scenario("one", variants=["olla-8k"]), scenario("two")]
    arms = arms_of([target("sherpa"), target("olla-8k")], "sherpa", scenarios)
    measured = {one.id: names(schedule.arms_for(one, arms)) for one in scenarios}
    assert measured == {"one": ["sherpa", "olla-8k", "sherpa@aa"], "two": ["sherpa", "sherpa@aa"]}


def test_a_round_of_some_scenarios_measures_the_same_arms_as_a_round_of_all() -> None:
    both = [scenario("one", variants=["olla-8k"]), scenario("two")]
    made = planned([target("sherpa"), target("olla-8k")], both, rounds=2, baseline="sherpa", asked=Asked())
    ((_, (again,)),) = made.slots([both[1]], 3, attempt=2)
    assert sorted(names(list(again.arms))) == ["sherpa", "sherpa@aa"]
    assert sum(made.round_s([one]) for one in both) == pytest.approx(made.round_s(both))


def test_the_full_campaign_leaves_a_twentieth_of_its_budget_for_repeats() -> None:
    full = plan(Asked(profile="full"))
    assert {"olla-8k", "olla-every-read", "olla-no-pools", "olla-prewarm"} <= {arm.name for arm in full.arms}
    assert full.seconds() < 0.95 * full.limit_s


def test_the_ladder_is_announced_too() -> None:
    full = plan(Asked(profile="full", targets=("sherpa", "olla", "direct")))
    assert full.ladder is not None
    rungs = 2 * len(full.ladder.shares) * full.ladder.rounds
    assert rungs * full.ladder.seconds < full.ladder_s() < rungs * (full.ladder.seconds + 5)
    assert plan(Asked(profile="quick")).ladder_s() == 0


def test_targets_that_were_asked_for_by_name_are_measured_and_no_others() -> None:
    made = plan(Asked(profile="full", targets=("sherpa", "olla-8k")))
    assert names(list(made.arms)) == ["sherpa", "olla-8k", "sherpa@aa"]
    assert made.runs(made.scenarios) == 3 * len(made.scenarios)


def test_the_announced_time_is_that_of_all_rounds() -> None:
    one = scenario("one", duration_s=5, warmup_s=1)
    made = [planned([target("a"), target("b")], [one], rounds=n, baseline=None, asked=Asked()) for n in (1, 6)]
    assert made[1].seconds() - made[0].seconds() == pytest.approx(5 * made[0].round_s(made[0].scenarios))
    assert made[0].round_s(made[0].scenarios) > 3 * 6.0


def test_every_profile_names_targets_and_a_baseline_that_exist() -> None:
    from loadgen.targets import catalogue as targets

    for name, profile in profiles().items():
        assert set(profile.targets) <= set(targets.catalogue()), name
        assert profile.baseline in profile.targets, name


def test_the_quick_profile_is_what_the_documents_promise() -> None:
    quick = profiles()["quick"]
    assert quick.rounds == 7
    assert quick.targets == ("sherpa", "olla", "direct")


def test_each_worker_has_a_core_where_one_is_left_for_the_bench_and_all_share_one_where_not() -> None:
    asked = Asked(scenarios=("workers-1", "workers-2"), targets=("olla",))
    one, two = (planned := plan(asked)).scenarios
    four, pair = (
        replace(planned, cores=assign_cores(available), available=available) for available in ((0, 1, 2, 3), (0, 1))
    )
    assert four.cores_for(one).target == (0,)
    assert four.cores_for(two).target == (0, 1)
    assert pair.cores_for(two).target == pair.cores.target == (0,)
    assert "core 0, 1;" in four.described()["workers-2"].pinning


def test_every_scenario_is_measured_by_a_profile_or_by_a_study_of_the_harness() -> None:
    of_studies = {"probe", "overload"}
    idle = [one.id for one in catalogue().values() if not one.campaigns and one.group not in of_studies]
    assert idle == []
    assert {name for one in catalogue().values() for name in one.campaigns} == set(profiles())
