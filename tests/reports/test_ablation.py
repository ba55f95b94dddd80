"""The way from Sherpa to Olla and one switch at a time: which targets make a step, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from loadgen.campaign.plan import profiles
from loadgen.targets.catalogue import choose
from reports import ablation
from reports.ablation import Step
from reports.compare import Comparison, compare
from reports.schema import CampaignHeader, RunRecord, ScenarioRecord, TargetRecord
from reports.store import Campaign
from reports.summarise import Facts, Value

DRIFT = (1.0, 1.4, 0.8, 1.1)
"""The machine, round by round: cancels in pairs."""


def targets() -> list[TargetRecord]:
    return [target.describe() for target in choose(list(profiles()["ablation"].targets), [])]


def measured(us: Mapping[str, float], busy: float = 0.9, wobble: float = 0.0) -> tuple[Campaign, Comparison]:
    """A campaign of these targets with their CPU per request; `wobble`: a share up and down from round to round."""
    header = CampaignHeader(
        id="c", started="2026-08-01T12:00:00Z", baseline="olla", targets=[t for t in targets() if t.name in us],
        scenarios={"w1": ScenarioRecord(primary=["cpu_us_per_request"])}, rounds_planned=len(DRIFT),
    )  # fmt: skip
    facts = [
        Facts(
            RunRecord(run=f"r{n}-{name}", scenario="w1", target=name, round=n),
            {"cpu_us_per_request": Value(cost * drift * (1 + wobble * (-1) ** (n + len(name))))},
            {"utilisation": busy},
        )
        for name, cost in us.items()
        for n, drift in enumerate(DRIFT, 1)
    ]
    campaign = Campaign(path=None, header=header, runs=())  # type: ignore[arg-type]  # nothing is read from it
    return campaign, compare(campaign, facts)


def steps(us: Mapping[str, float], **how: float) -> list[Step]:
    return ablation.steps(*measured(us, **how))


def test_the_profile_has_both_sides_of_every_switch() -> None:
    found = steps(dict.fromkeys((t.name for t in targets()), 10.0))
    alone = {step.label for step in found if step.group == "alone"}
    last = {step.label for step in found if step.group == "last"}
    assert alone == {
        "pools.per_endpoint", "pools.buffers", "pools.contexts", "circuit_breaker.enabled", "flush.policy",
        "buffer_size", "runtime.gc.freeze_after_start",
    }  # fmt: skip
    assert last == alone | {"server.loop"}


def test_the_path_goes_from_sherpa_on_the_plain_loop_to_olla_and_the_engine_is_one_step() -> None:
    costs = {"sherpa-plain-loop": 200.0, "sherpa": 180.0, "olla-bare": 24.0, "olla-only-breaker": 24.0, "olla": 18.0}
    found = [step for step in steps(costs) if step.group == "path"]
    assert [(step.group, step.label, step.under, step.over) for step in found] == [
        ("path", "uvloop", "sherpa-plain-loop", "sherpa"),
        ("path", "the other engine", "sherpa", "olla-bare"),
        ("path", "all its switches", "olla-bare", "olla"),
    ]
    assert [round(step.change[0], 3) for step in found] == [-0.1, -0.867, -0.25]
    assert [step.word for step in found] == ["saves"] * 3


def test_a_switch_is_judged_alone_and_as_the_last_one_missing_always_on_over_off() -> None:
    found = steps({"olla": 18.0, "olla-no-breaker": 17.0, "olla-bare": 20.0, "olla-only-breaker": 20.1})
    breaker = {step.group: step for step in found if step.label == "circuit_breaker.enabled"}
    assert (breaker["alone"].under, breaker["alone"].over) == ("olla-bare", "olla-only-breaker")
    assert breaker["alone"].word == "buys nothing"
    assert (breaker["last"].under, breaker["last"].over) == ("olla-no-breaker", "olla")
    assert breaker["last"].change[0] == pytest.approx(18 / 17 - 1)
    assert breaker["last"].word == "costs"


def test_a_change_that_crosses_zero_is_too_noisy_and_an_idle_engine_says_so() -> None:
    (step,) = steps({"olla": 18.0, "olla-no-breaker": 18.0}, wobble=0.2, busy=0.08)
    assert step.word == "too noisy to tell"
    assert step.sentence == "too noisy to tell, at 8 % of a core"
    assert [one.sentence for one in steps({"olla": 18.0, "olla-no-breaker": 18.0})] == ["buys nothing"]


def test_one_round_makes_no_step() -> None:
    campaign, seen = measured({"olla": 18.0, "olla-no-breaker": 18.0})
    once = {key: runs[:1] for key, runs in seen.valid.items()}
    assert ablation.steps(campaign, Comparison("olla", (), once, {})) == []
