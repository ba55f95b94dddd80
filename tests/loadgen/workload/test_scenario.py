"""Scenarios are data that is checked, complete, and the same for every target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loadgen.campaign.plan import profiles
from loadgen.errors import BadInput, UsageRefusal
from loadgen.workload import scenario
from loadgen.workload.scenario import Fitted, Open, Scenario

MINIMAL: dict[str, Any] = {
    "id": "small",
    "question": "what is the question?",
    "answer": "this would be an answer",
    "kind": "request",
    "requests": [{"path": "/v1/models", "method": "GET"}],
    "arrivals": {"kind": "constant", "rate": 10},
    "duration_s": 5,
}


def written(folder: Path, name: str = "small", **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "id": name, **changes}))
    return path


def test_every_shipped_scenario_is_valid_and_belongs_to_a_profile_that_exists() -> None:
    known = scenario.catalogue()
    assert {"chat-small", "chat-stream"} <= set(known)
    for one in known.values():
        assert set(one.campaigns) <= set(profiles()), one.id
        assert one.healthy == "" or one.healthy in known, one.id


def test_every_profile_has_scenarios_and_the_quick_one_has_its_two() -> None:
    for profile in profiles():
        assert scenario.in_profile(profile), profile
    assert [one.id for one in scenario.in_profile("quick")] == ["chat-small", "chat-stream"]


def test_a_standard_campaign_says_something_to_every_claim_its_tags_can_answer() -> None:
    tags = {tag for one in scenario.in_profile("full") for tag in one.tags}
    assert tags >= {"slow-endpoint", "failing-endpoint", "large-response", "gc-load", "cold-start", "saturation"}
    assert tags >= {"sweep-rate", "sweep-connections", "sweep-body", "sweep-events", "sweep-endpoints"}


def test_a_full_campaign_measures_what_the_claims_need() -> None:
    chosen = {one.id: one.for_campaign("full") for one in scenario.in_profile("full")}
    told = {name: one.describe("") for name, one in chosen.items()}

    def tagged(tag: str) -> dict[str, scenario.Scenario]:
        return {name: one for name, one in chosen.items() if tag in one.tags}

    def measured_with(tag: str) -> set[str]:
        return {name for one in tagged(tag).values() for name in one.variants}

    assert len({one.connections for one in tagged("sweep-connections").values()}) >= 3  # C3
    assert any(one.generator == "wrk" for one in tagged("saturation").values())  # C2, C6
    assert measured_with("gc-load") == {"olla-buffer-pool", "olla-no-pools"}  # C8
    assert measured_with("large-response") == {"olla-buffer-pool", "olla-8k"}  # C11
    assert any("olla-every-read" in one.variants for one in chosen.values() if one.kind == "stream")  # C12
    assert measured_with("cold-start") == {"olla-prewarm"}  # C13
    assert {told[name].endpoints for name in tagged("sweep-endpoints")} >= {2, 10}  # C14
    for name in tagged("slow-endpoint"):  # C9: 1,000 requests to the three healthy of four endpoints, in both
        for one in (chosen[name], chosen[told[name].healthy]):
            assert (one.rate_rps() or 0) * one.duration_s * 3 / 4 > 1100
    for name in tagged("failing-endpoint"):  # C10: the breaker closes and opens again while the fault lasts
        fault = told[name].faults[0]
        assert told[name].settings["proxy.circuit_breaker.timeout"] == "2s"
        assert fault.to_s is not None
        assert fault.to_s - fault.from_s > 2
        assert chosen[name].duration_s > fault.to_s + 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"duration": 3}, r"small\.yaml: duration: Extra inputs are not permitted"),
        ({"duration_s": -1}, r"small\.yaml: duration_s: Input should be greater than 0"),
        ({"arrivals": {"kind": "poisson"}}, "poisson needs a `rate`"),
        ({"arrivals": {"kind": "ramp", "rates": [1]}}, "ramp needs at least two `rates`"),
        ({"primary": ["speed"]}, "'speed' is not a metric"),
        ({"tags": ["fast"]}, "'fast' is not known"),
        ({"requests": [{"path": "/", "body": "{{prompt}}"}]}, "nothing says what to fill in"),
        ({"mock": {"faults": [{"fault": "refuse", "endpoint": "mock-7"}]}}, "no endpoint 'mock-7' among 1"),
        ({"like": "nobody"}, "there is no scenario 'nobody' beside it"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        scenario.load(written(tmp_path, **changes))


def test_a_file_that_is_no_yaml_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(BadInput, match="is not YAML") as caught:
        scenario.load(path)
    assert "\n" not in str(caught.value)


def test_like_takes_everything_that_is_not_written_but_never_the_campaigns(tmp_path: Path) -> None:
    written(tmp_path, "first", seed=9, campaigns={"quick": {}})
    path = tmp_path / "second.yaml"
    path.write_text("like: first\nid: second\nduration_s: 7\n")
    (second,) = scenario.load(path)
    assert (second.id, second.seed, second.duration_s, second.campaigns) == ("second", 9, 7, {})


def test_a_sweep_is_one_file_whose_points_differ_in_what_they_write(tmp_path: Path) -> None:
    own = {
        "10": {"seed": 3},
        "20": {"seed": 4, "campaigns": {"full": {}}},
        "each": {"question": "What of {point} here?"},
    }
    base, first, second = scenario.load(written(tmp_path, campaigns={"quick": {}}, sweep=own))
    assert (first.id, first.seed, first.question, first.campaigns) == (f"{base.id}-10", 3, "What of 10 here?", {})
    assert (second.id, second.seed, list(second.campaigns)) == (f"{base.id}-20", 4, ["full"])
    assert list(base.campaigns) == ["quick"]
    assert first.requests == base.requests


def test_points_of_a_sweep_are_in_the_order_of_their_numbers() -> None:
    names = [name for name in scenario.catalogue() if name.startswith("streams-")]
    assert names == ["streams-100", "streams-500", "streams-1000", "streams-2000"]


def test_a_sweep_that_is_no_mapping_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="sweep: must be points"):
        scenario.load(written(tmp_path, sweep=[1, 2]))


def test_a_name_nobody_knows_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UsageRefusal, match="did you mean chat-small"):
        scenario.choose(["chat-smal"])


def test_a_scenario_can_be_given_by_path(tmp_path: Path) -> None:
    assert [one.id for one in scenario.choose([str(written(tmp_path))])] == ["small"]


def test_a_profile_and_then_the_command_line_change_the_duration() -> None:
    one = Scenario.model_validate({**MINIMAL, "campaigns": {"quick": {"duration_s": 2, "warmup_s": 0.5}}})
    assert one.for_campaign("quick").total_s() == 2.5
    assert one.for_campaign("full").duration_s == 5
    assert one.for_campaign("quick", 9).duration_s == 9


def test_copies_are_requests_whose_heads_differ_and_share_the_weight() -> None:
    one = Scenario.model_validate(
        {**MINIMAL, "requests": [{"path": "/a", "copies": 3, "weight": 6}, {"path": "/b", "weight": 2}]}
    )
    templates = one.templates()
    copies = [t.headers for t in templates[:3]]
    assert len({tuple(headers) for headers in copies}) == 3, "other names, not only values"
    assert len({sum(map(len, headers.values())) for headers in copies}) > 1, "other lengths"
    assert [t.headers for t in one.templates()[:3]] == copies, "the same in every run"
    assert not templates[3].headers
    assert one.template_weights() == [2, 2, 2, 2]


def test_a_target_that_remakes_requests_is_not_held_to_the_pinned_reply() -> None:
    digest = "sha256=" + "0" * 64
    one = Scenario.model_validate(
        {**MINIMAL, "requests": [{"path": "/a", "expect": {"status": 201, "digest": digest, "events": 3}}]}
    )
    assert one.templates()[0].expect.digest == digest
    loose = one.templates(pinned=False)[0].expect
    assert (loose.status, loose.digest, loose.events) == (201, None, None)


def test_rates_are_those_of_the_arrivals() -> None:
    def rate(**arrivals: Any) -> float | None:
        return Scenario.model_validate({**MINIMAL, "arrivals": arrivals}).rate_rps()

    assert rate(kind="gamma", rate=7, cv=3) == 7
    assert rate(kind="steps", rates=[1, 2, 6]) == 3
    assert rate(kind="ramp", rates=[10, 30]) == 20
    assert rate(kind="fitted", fit="conv", rate=4) == 4
    assert rate(kind="closed", users=4) is None


def test_the_report_is_told_what_the_scenario_is() -> None:
    one = scenario.catalogue()["failing-endpoint"]
    told = one.describe("pinned")
    assert told.endpoints == 4
    assert told.rate_rps == 200
    assert told.pinning == "pinned"
    assert told.hash == one.hash()
    (fault,) = told.faults
    # Faults count from the start of the load, the report from the start of the measured window.
    assert (fault.endpoint, fault.from_s, fault.to_s) == ("mock-1", 3 - one.warmup_s, 7 - one.warmup_s)


def test_a_slow_endpoint_and_a_flapping_one_are_told_by_their_words() -> None:
    assert [fault.kind for fault in scenario.catalogue()["slow-endpoint"].faults()] == ["slow"]
    assert [fault.kind for fault in scenario.catalogue()["flapping-endpoint"].faults()] == ["flap"]


def test_the_hash_changes_with_anything_that_is_asked() -> None:
    one = Scenario.model_validate(MINIMAL)
    assert one.hash() == Scenario.model_validate(MINIMAL).hash()
    assert one.hash() != one.model_copy(update={"seed": 2}).hash()


def test_request_sizes_are_known_where_they_are_the_same_for_all() -> None:
    body = {"messages": [{"content": "{{prompt}}"}]}
    one = Scenario.model_validate({**MINIMAL, "requests": [{"path": "/", "body": body}], "prompt_bytes": 100})
    assert one.describe("").request_bytes == len('{"messages":[{"content":""}]}') + 100


def test_kinds_of_arrivals_are_told_apart() -> None:
    known = scenario.catalogue()
    assert isinstance(known["chat-small"].arrivals, Open)
    assert isinstance(known["conv-mix"].arrivals, Fitted)
    assert known["saturation-wrk"].saturates
    assert not known["saturation-wrk"].open_loop


def test_users_who_come_and_go_are_stages_of_locusts_shape() -> None:
    arrivals = {"kind": "closed", "users": 9, "stages": [2, 9, 1]}
    one = Scenario.model_validate({**MINIMAL, "arrivals": arrivals, "duration_s": 6, "warmup_s": 1})
    assert [(stage.until_s, stage.users) for stage in one.shape()] == [(3, 2), (5, 9), (7, 1)]
    assert Scenario.model_validate({**MINIMAL, "arrivals": {"kind": "closed", "users": 9}}).shape() == ()
    with pytest.raises(ValueError, match="the largest of `stages` is 9"):
        Scenario.model_validate({**MINIMAL, "arrivals": {**arrivals, "users": 10}})
