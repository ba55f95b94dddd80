"""L2 before its first run: what load base and head get, who takes turns, what is said of rows that stay short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.campaign import calibrate, pilot
from loadgen.campaign.plan import Planned
from loadgen.campaign.precision import Chosen, Precision
from loadgen.gate import given, interleaved
from loadgen.gate.revisions import CannotMeasure
from loadgen.workload import load
from loadgen.workload.load import Kind, Loads
from reports import gate
from reports.stats import Costs
from tests.loadgen.test_gate import Silent

OURS = gate.policy().times


def calibrated(head: float | None) -> Planned:
    """The gate's campaign where base carries 1,000 small answers and 4,000 events a second, and head this share."""
    made = interleaved.plan(given.pair_of("a=olla", "a=olla"), OURS)
    of_base: dict[Kind, float] = {"requests": 1000.0, "events": 4000.0}
    carried = {"base": of_base}
    if head is not None:
        carried["head"] = {kind: rate * head for kind, rate in of_base.items()}
    loads = Loads(capacities=carried, bench={"requests": 9000.0, "events": 90_000.0})
    chosen = {one.id: mine for one in made.scenarios if (mine := load.choose(one, loads, None))}
    return calibrate.fit(made, loads.model_copy(update={"scenarios": chosen}))


@pytest.mark.parametrize("head", [0.02, 1.0, 3.0, None])
def test_the_load_is_a_share_of_what_base_carries_whatever_head_does(head: float | None) -> None:
    assert {one.id: one.rate_rps() for one in calibrated(head).scenarios} == {
        "chat-small": 400,
        "chat-stream": 84,
    }  # of 19 events


@pytest.mark.parametrize(("head", "apart"), [(0.02, True), (0.3, True), (None, True), (0.95, False), (2.0, False)])
def test_only_a_head_without_room_for_the_load_is_kept_from_the_turns_of_base(
    tmp_path: Path, head: float | None, apart: bool
) -> None:
    voice = Silent()
    made = interleaved.with_loads(calibrated(head), tmp_path, voice)
    slots = [[arm.name for arm in slot.arms] for _, mine in made.slots(made.scenarios, 1) for slot in mine]
    assert sorted(map(sorted, slots)) == (
        [["base", "base@aa"], ["base", "base@aa"], ["head"], ["head"]]
        if apart
        else [["base", "base@aa", "head"], ["base", "base@aa", "head"]]
    )
    assert len(voice.said) == (2 if apart else 0)


def test_a_base_that_gives_no_right_answer_cannot_be_measured_against(tmp_path: Path) -> None:
    made = calibrated(1.0)
    without = replace(made, loads=made.loads.model_copy(update={"capacities": {"head": {"requests": 10.0}}}))
    with pytest.raises(CannotMeasure, match="base gave no right answer"):
        interleaved.with_loads(without, tmp_path, Silent())


def test_a_row_that_stays_short_of_its_precision_says_what_it_takes() -> None:
    chosen = Chosen(
        starts=6, length_s=1.0, short={"cpu_us_per_request head": 720.0, "added_p50_us head": None, "x base@aa": 9.0}
    )
    plan = Precision(wanted=0.02, scenarios={"chat-small": chosen})
    assert interleaved.would_take(replace(calibrated(1.0), precision=plan.model_dump())) == {
        ("chat-small", "cpu_us_per_request"): "+-2.0% would take 12 min here",
        ("chat-small", "added_p50_us"): "+-2.0% cannot be had with 40 starts",
    }


def test_a_machine_that_starts_processes_slowly_is_planned_for_as_its_pilot_found_it() -> None:
    prices = {"a": Costs(4.0, 3.0), "b": Costs(6.0, 3.0)}
    lengths = {"a": 1.0, "b": 2.0}  # a round is announced to take 10 s of starts and 9 s of load
    assert pilot.as_slow(prices, lengths, 39.0) == {"a": Costs(12.0, 3.0), "b": Costs(18.0, 3.0)}
    assert pilot.as_slow(prices, lengths, 15.0) == prices
