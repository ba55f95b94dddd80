"""One scenario at several loads."""

from __future__ import annotations

import pytest

from loadgen.campaign.plan import Asked, plan
from loadgen.errors import UsageRefusal
from loadgen.workload import scenario
from loadgen.workload.scenario import Users
from loadgen.workload.sweep import points


def test_each_rate_is_a_scenario_of_its_own_with_the_same_pinned_replies() -> None:
    one = scenario.catalogue()["chat-small"]
    made = points(one, "rate=200,50,100")
    assert [each.id for each in made] == ["chat-small-rate-50", "chat-small-rate-100", "chat-small-rate-200"]
    assert [each.rate_rps() for each in made] == [50, 100, 200]
    assert {each.swept() for each in made} == {("sweep-rate rate of chat-small", rate) for rate in (50, 100, 200)}
    assert all(each.requests == one.requests for each in made)
    assert all(each.arrivals.share is None for each in made)  # type: ignore[union-attr]  # it would be calibrated away


def test_users_make_a_closed_loop_of_a_scenario_with_a_rate_and_rates_an_open_one_of_users() -> None:
    made = points(scenario.catalogue()["chat-small"], "users=1,16")
    assert [each.arrivals for each in made] == [Users(kind="closed", users=count) for count in (1, 16)]
    assert [each.rate_rps() for each in points(scenario.catalogue()["saturation-wrk"], "rate=10,20")] == [10, 20]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rate", "no list of numbers"),
        ("speed=1,2", "rate=50,100,200"),
        ("rate=1", "2 to 20 different numbers"),
        ("rate=1,1", "2 to 20 different numbers"),
        ("rate=1,nan", "no number above 0"),
        ("rate=0,1", "no number above 0"),
        ("users=1,2.5", "no whole number"),
        ("users=1,a", "no list of numbers"),
    ],
)
def test_what_is_no_sweep_is_refused_with_an_example_or_the_limit(text: str, said: str) -> None:
    with pytest.raises(UsageRefusal, match=said):
        points(scenario.catalogue()["chat-small"], text)


def test_a_scenario_without_a_single_rate_has_none_to_sweep() -> None:
    with pytest.raises(UsageRefusal, match="no single rate"):
        points(scenario.catalogue()["sessions"], "rate=1,2")


def test_a_campaign_sweeps_one_named_scenario_only() -> None:
    made = plan(Asked(scenarios=("chat-small",), targets=("relay", "direct"), sweep="rate=50,100"))
    assert [one.id for one in made.scenarios] == ["chat-small-rate-50", "chat-small-rate-100"]
    for several in (None, ("chat-small", "chat-stream")):
        with pytest.raises(UsageRefusal, match="the one scenario"):
            plan(Asked(scenarios=several, sweep="rate=50,100"))
