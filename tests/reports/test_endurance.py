"""The endurance section: what a long run left, and whether its words are true."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import reports
from reports import endurance
from reports.render import ReportResult, build_report
from reports.store import load_campaign, read_json
from reports.summarise import Usage
from tests.reports.synthetic import CHAT, World, campaign_of, fact, write_campaign

SCHEMA = json.loads(Path(reports.__file__).with_name("verdict.schema.json").read_text())
HALF_AN_HOUR = np.arange(0.0, 1800.0, 1.0)

SOAK = CHAT.model_copy(update={"rate_rps": 2.0, "duration_s": 620.0, "tags": ["soak"]})
LEFT: dict[str, Any] = {
    "fds": {"before": 43, "after": 43, "settled_s": 3.0},
    "accounting": {"total": 10, "success": 7, "failed": 1, "client_disconnected": 2, "active": 0, "sent": 10},
    "stderr": {"count": 0, "first": []},
}


def of(mib: np.ndarray[Any, Any], seconds: float = 1800.0, **left: Any) -> endurance.Endurance:
    """A run with this memory, a sample a second, and what it left."""
    at = np.arange(float(mib.size))
    facts = fact("soak", 1, "olla", {}, endurance={**LEFT, **left})
    usage = {"target": Usage(at, np.zeros(at.size), mib, np.full(at.size, 60.0))}
    return endurance.of_run(replace(facts, usage=usage, window_s=seconds))


def noise(seed: int = 1) -> np.ndarray[Any, Any]:
    """Memory that goes up and down for minutes, and comes back."""
    rng = np.random.default_rng(seed)
    level, levels = 0.0, []
    for step in rng.normal(0, 0.02, HALF_AN_HOUR.size):
        level = 0.98 * level + step
        levels.append(level)
    return 50 + np.array(levels)


def test_the_interval_holds_the_true_slope_about_as_often_as_it_says() -> None:
    """Neighbouring samples are alike (lag-1 correlation 0.98): a plain regression would hold it in a third of cases."""
    held = 0
    for seed in range(200):
        found = endurance.slope(HALF_AN_HOUR, noise(seed) + 2.0 * HALF_AN_HOUR / 3600)
        assert found is not None
        held += found.low <= 2.0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_a_leak_is_called_one_and_noise_is_not() -> None:
    leak = 6.0 * HALF_AN_HOUR / 3600
    assert of(noise()).memory == "flat"
    assert of(noise() + leak).memory == "grows"
    assert of(noise() - leak).memory == "shrinks"
    assert of(np.full(1800, 50.0)).memory == "flat"


def test_what_fills_up_in_the_first_third_is_no_leak() -> None:
    assert of(noise() + 5.0 * np.minimum(HALF_AN_HOUR / 600, 1.0)).memory == "flat"


def test_an_interval_too_wide_to_show_a_leak_is_no_pass() -> None:
    steps = np.repeat(np.random.default_rng(1).normal(0, 4.0, 6), 300)
    assert of(noise() + steps).memory == "too-noisy"


def test_minutes_say_nothing_about_an_hour() -> None:
    short = of(noise()[:300], seconds=300.0)
    assert short.memory == "too-short"
    assert short.slope is not None
    shorter = of(noise()[:50], seconds=50.0)
    assert shorter.memory == "too-short"
    assert shorter.slope is None


@pytest.mark.parametrize(
    ("changed", "exact"),
    [
        ({}, True),
        ({"sent": None}, True),
        ({"success": 6}, False),
        ({"sent": 11}, False),
        ({"active": 1, "success": 6}, False),
    ],
)
def test_accounts_are_exact_or_not(changed: dict[str, Any], exact: bool) -> None:
    assert of(noise(), accounting={**LEFT["accounting"], **changed}).accounted is exact


def test_descriptors_are_back_if_no_more_are_open_than_before() -> None:
    assert of(noise()).descriptors_back is True
    assert of(noise(), fds={"before": 43, "after": 40}).descriptors_back is True
    assert of(noise(), fds={"before": 43, "after": 44}).descriptors_back is False
    assert of(noise(), fds={"before": None, "after": 44}).descriptors_back is None
    assert of(noise()).fds_peak == 60


def test_a_run_of_which_nothing_is_known_says_so_and_is_no_pass() -> None:
    nothing = endurance.of_run(fact("soak", 1, "olla", {}))
    assert (nothing.memory, nothing.descriptors_back, nothing.accounted, nothing.complaints) == (
        "not-measured", None, None, None,
    )  # fmt: skip
    assert nothing.say().count("not measured") == 4
    jsonschema.validate(nothing.as_json(), {**SCHEMA, "$ref": "#/$defs/endurance", "required": [], "type": "object"})


def test_only_runs_of_long_scenarios_are_looked_at_and_void_ones_are_too() -> None:
    campaign = campaign_of(["olla"], {"soak": SOAK, "chat": CHAT}, 1)
    runs = [fact("soak", 1, "olla", {}, void="the generator was late"), fact("chat", 1, "olla", {})]
    (found,) = endurance.of_campaign(campaign, runs)
    assert found.as_json()["void"] == "the generator was late"


@pytest.fixture(scope="module")
def soaked(tmp_path_factory: pytest.TempPathFactory) -> ReportResult:
    """A campaign of both engines with a long run each; Sherpa has complained."""
    world = World(targets=("sherpa", "olla"), scenarios={"soak": SOAK, "chat": CHAT}, rounds=1, aa=False)
    folder = write_campaign(tmp_path_factory.mktemp("soak") / "campaign", world)
    for run in load_campaign(folder).runs:
        if run.record.scenario == "soak":
            data = read_json(run.path / "run.json")
            said = ["Task was destroyed but it is pending! <b>"] if run.record.target == "sherpa" else []
            data["summary"]["endurance"] = {**LEFT, "stderr": {"count": len(said), "first": said}}
            (run.path / "run.json").write_text(json.dumps(data))
    return build_report(folder)


def test_the_section_has_a_row_and_a_figure_for_each_long_run(soaked: ReportResult) -> None:
    page = soaked.html.read_text()
    assert 'id="endurance"' in page
    assert 'id="figure-endurance"' in page
    assert "Task was destroyed but it is pending! &lt;b&gt;" in page
    rows = [line for line in soaked.md.read_text().splitlines() if line.startswith("| r01-soak-")]
    assert len(rows) == 2
    olla = next(row for row in rows if "olla" in row)
    assert "43 / 64 / 43 | yes |" in olla
    assert "total 10, success 7, failed 1, client disconnected 2, active 0, sent 10 | yes | 0 |" in olla


def test_verdict_json_says_it_by_its_schema(soaked: ReportResult) -> None:
    verdict = json.loads(soaked.json.read_text())
    jsonschema.validate(verdict, SCHEMA)
    found = {one["target"]: one for one in verdict["endurance"]}
    assert set(found) == {"sherpa", "olla"}
    assert found["olla"]["memory"] == "flat"
    assert found["olla"]["accounted"] is True
    assert found["sherpa"]["complaints"] == 1
    assert found["olla"]["ci_low"] <= found["olla"]["rss_mib_per_hour"] <= found["olla"]["ci_high"]


def test_the_terminal_says_it_in_a_sentence(soaked: ReportResult) -> None:
    (olla,) = [line for line in soaked.headlines if line.startswith("soak, olla: ")]
    assert "memory flat (" in olla
    assert "descriptors back: yes; every request accounted for: yes; stderr: clean" in olla
    assert any("stderr: 1 complaints" in line for line in soaked.headlines)


def test_a_campaign_without_a_long_run_has_no_such_section(built: ReportResult, copied: Callable[[], Path]) -> None:
    assert "Endurance" not in built.html.read_text()
    assert "Endurance" not in built.md.read_text()
    assert "endurance" not in json.loads(built.json.read_text())
