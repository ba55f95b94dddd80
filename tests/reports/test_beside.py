"""Side by side: means of each target, and the main candidate as a multiple of it, in the rounds that both have."""

from __future__ import annotations

import pytest

from reports import beside
from reports.compare import compare
from reports.schema import ScenarioRecord, TargetRecord
from tests.reports.synthetic import campaign_of, fact

NGINX = TargetRecord(name="nginx", kind="peer")
W1 = {"w1": ScenarioRecord(primary=["cpu_us_per_request"])}
COSTS = {"sherpa": (140.0, 150.0, 130.0), "olla": (18.0, 20.0, 16.0), "nginx": (16.0, 40.0)}
"""By round; nginx has no third."""


def lines() -> list[beside.MetricLine]:
    facts = [
        fact("w1", number, target, {"cpu_us_per_request": cost, "throughput_rps": 1e6 / cost})
        for target, costs in COSTS.items()
        for number, cost in enumerate(costs, 1)
    ]
    campaign = campaign_of(["sherpa", "olla", NGINX], W1, 3)
    return beside.lines(campaign, compare(campaign, facts), ["w1"], ["sherpa", "olla", "nginx", "relay"])


def test_a_value_is_a_geometric_mean_and_a_ratio_that_of_the_rounds_both_have() -> None:
    cpu = {cell.target: cell for cell in lines()[0].cells}
    assert (cpu["sherpa"].value, cpu["sherpa"].rounds) == (pytest.approx((140 * 150 * 130) ** (1 / 3)), 3)
    assert cpu["nginx"].times == pytest.approx((18 / 16 * 20 / 40) ** 0.5), "nginx has no third round"
    assert cpu["olla"].times is None
    assert cpu["relay"] == beside.TargetCell("relay")


def test_where_the_rate_is_a_result_it_has_a_line_of_its_own() -> None:
    assert [line.metric.id for line in lines()] == ["cpu_us_per_request", "throughput_rps"]


def test_no_metric_has_two_lines() -> None:
    cold = ScenarioRecord(rate_rps=100, primary=["added_p99_us", "added_p50_us"])
    facts = [fact("cold", n, name, {"added_p50_us": 1.0, "added_p99_us": 2.0}) for n in (1, 2) for name in COSTS]
    campaign = campaign_of(["sherpa", "olla", NGINX], {"cold": cold}, 2)
    found = beside.lines(campaign, compare(campaign, facts), ["cold"], ["sherpa", "olla"])
    assert [line.metric.id for line in found] == ["added_p99_us", "added_p50_us"]


def test_a_line_without_the_main_candidate_is_left_out() -> None:
    campaign = campaign_of(["sherpa", "olla", NGINX], W1, 1)
    seen = compare(campaign, [fact("w1", 1, "nginx", {"cpu_us_per_request": 16.0})])
    assert beside.lines(campaign, seen, ["w1"], ["sherpa", "olla", "nginx"]) == []
