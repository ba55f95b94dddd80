"""From what was calibrated to the campaign that is run; the measuring itself is in tests/end_to_end/test_compare.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.campaign import calibrate, ladder
from loadgen.campaign.plan import Asked, plan
from loadgen.errors import BadInput, Missing
from loadgen.workload.load import Load, Loads
from loadgen.workload.scenario import catalogue
from reports.schema import AA_SUFFIX

LOADS = Loads(
    capacities={"sherpa": {"requests": 1500, "events": 8000}, "olla": {"requests": 9000, "events": 30_000}},
    bench={"requests": 5000, "events": 25_000},
    scenarios={"chat-small": Load(rate=600, why="so"), "chat-stream": Load(rate=190, why="so")},
)


def test_the_slower_engine_is_meant_and_no_rival_that_is_slower_still() -> None:
    one = catalogue()["chat-small"]
    loads = LOADS.model_copy(update={"capacities": {**LOADS.capacities, "litellm": {"requests": 300}}})
    assert calibrate.slowest(loads, one) == "sherpa"
    assert calibrate.slowest(Loads(capacities={"nginx": {"requests": 9}}), one) == "nginx"
    assert calibrate.slowest(Loads(), one) is None


def test_only_the_kinds_of_work_of_scenarios_that_state_a_share_are_measured_once_each() -> None:
    needed = calibrate._needed(plan(Asked()))
    assert {kind: [target.name for target in targets] for kind, targets in needed.items()} == {
        "requests": ["direct", "sherpa", "olla"],
        "events": ["direct", "sherpa", "olla"],
    }
    assert calibrate._needed(plan(Asked(scenarios=("saturation-wrk",)))) == {}


def test_the_campaign_offers_what_was_chosen_and_says_so() -> None:
    made = calibrate.fit(plan(Asked()), LOADS)
    assert {one.id: one.rate_rps() for one in made.scenarios} == {"chat-small": 600, "chat-stream": 190}
    assert made.described()["chat-small"].rate_rps == 600
    assert made.alone == {}
    assert calibrate.words(LOADS)[0] == "chat-small: 600/s (so)"


def test_a_target_without_room_is_alone_with_both_its_arms() -> None:
    slow = LOADS.model_copy(update={"capacities": {"sherpa": {"requests": 700}, "olla": {"requests": 9000}}})
    made = calibrate.fit(plan(Asked()), slow)
    ((_, slots),) = [each for each in made.slots(made.scenarios, 1) if each[0].id == "chat-small"]
    alone = [slot.arms[0].name for slot in slots if len(slot.arms) == 1]
    assert alone == ["sherpa", "sherpa" + AA_SUFFIX]


def test_the_same_loads_can_be_offered_again(tmp_path: Path) -> None:
    (tmp_path / calibrate.FILE).write_text(LOADS.model_dump_json())
    assert calibrate.load_file(tmp_path) == LOADS == calibrate.load_file(tmp_path / calibrate.FILE)
    with pytest.raises(Missing, match="no such file"):
        calibrate.load_file(tmp_path / "other.json")
    (tmp_path / calibrate.FILE).write_text('{"scenarios": {"chat-small": {"rate": -1}}}')
    with pytest.raises(BadInput, match=r"chat-small\.rate"):
        calibrate.load_file(tmp_path)


def test_a_ladder_climbs_from_a_tenth_of_each_targets_own_capacity_to_beyond_it() -> None:
    made = calibrate.fit(plan(Asked(profile="full")), LOADS)
    rates = {one.id: one.rate_rps() for one in made.scenarios if one.group == "ladder"}
    assert rates["ladder-sherpa-10"] == 150
    assert rates["ladder-sherpa-110"] == 1600
    assert "ladder-olla-25" in rates
    assert "ladder-olla-50" not in rates  # 4,500/s: driver and mocks carry half of 5,000
    assert "ladder-relay-10" not in rates  # nobody calibrated it
    (rung,) = [one for one in made.scenarios if one.id == "ladder-sherpa-10"]
    assert [arm.name for arm in made.arms_for(rung)] == ["sherpa"]
    assert made.starts(rung) == 3
    assert rung.duration_s * 150 >= 400


def test_a_ladder_that_ends_at_the_bench_says_so() -> None:
    full = plan(Asked(profile="full"))
    assert full.ladder is not None
    _, said = ladder.rungs(full.ladder, ["sherpa", "olla"], LOADS)
    (sentence,) = said
    assert sentence.startswith("The ladder of olla ends at 25% of the 9,000 requests/s it carries")
    assert sentence.endswith("2,500 are half of what driver and mocks carry")


def test_what_somebody_names_is_measured_without_a_ladder() -> None:
    assert calibrate.fit(plan(Asked(profile="full", scenarios=("chat-small",))), LOADS).scenarios[1:] == ()
