from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from reports import plots
from reports.compare import compare
from reports.page import Figure, Note
from reports.parts import PARTS, figure, latency
from reports.places import names, use_cases
from reports.plots import Palette, panel, spread
from reports.schema import ScenarioRecord
from reports.study import Study
from reports.summarise import Requests
from tests.reports.synthetic import campaign_of, fact


@pytest.fixture(scope="module")
def study(small: Path) -> Study:
    return Study.load(small)


@pytest.fixture(scope="module")
def drawn(study: Study) -> list[Figure]:
    return [block for make in PARTS for block in make(study).blocks if isinstance(block, Figure)]


def test_every_figure_has_words_for_those_who_cannot_see_it(drawn: list[Figure]) -> None:
    assert {"effects", "cpu", "overhead", "transit", "tail", "gc", "memory"} <= {one.name for one in drawn}
    assert all(one.caption and len(one.alt) > 30 and one.panels for one in drawn)


def test_svg_has_no_date_no_program_and_text_that_is_text(drawn: list[Figure]) -> None:
    for one in (plot for made in drawn for plot in made.panels):
        assert "<metadata" not in one.svg
        assert not re.search(r"20\d\d-\d\d-\d\d", one.svg)
        assert "<text" in one.svg
        assert one.png.startswith(b"\x89PNG")


def test_drawing_leaves_the_style_of_others_alone() -> None:
    before = dict(mpl.rcParams)
    with panel() as ((ax,), made):
        ax.plot([1, 2], [1, 2])
    assert len(made) == 1
    assert dict(mpl.rcParams) == before


def test_a_target_has_one_colour_everywhere_and_a_mark_of_its_own(study: Study, drawn: list[Figure]) -> None:
    palette = Palette(study.targets)
    assert len({palette.colour(name) for name in ("sherpa", "olla", "nginx", "direct")}) == 4
    assert len({palette.mark(name) for name in ("sherpa", "olla", "nginx")}) == 3
    assert palette.colour("sherpa@aa") == palette.colour("sherpa")
    for one in drawn:
        if one.name in ("overhead", "cpu", "gc"):
            assert all(palette.colour("olla") in panel.svg for panel in one.panels)


def test_lines_carry_their_names(drawn: list[Figure]) -> None:
    (tail,) = (one for one in drawn if one.name == "tail")
    assert all(">Olla<" in panel.svg and ">Sherpa<" in panel.svg for panel in tail.panels)


def test_labels_move_apart_and_keep_their_order() -> None:
    assert spread([10, 10, 50, 9], 5) == [14, 19, 50, 9]
    assert spread([10, 10, 50, 49], 5, 50) == [10, 15, 50, 45]


def test_a_long_name_is_folded_once_and_never_loses_its_end_on_the_first_line() -> None:
    assert plots.folded("500 open streams") == "500 open streams"
    assert plots.folded("small answers, 1,400 req/s (chat-small)") == "small answers, 1,400\nreq/s (chat-small)"
    assert plots.folded("word " * 20).count("\n") == 1


@pytest.mark.parametrize(("low", "high"), [(0.6, 1.3), (0.13, 1.6), (1.01, 1.02), (3, 900_000)])
def test_a_log_axis_has_plain_numbers_however_short_it_is(low: float, high: float) -> None:
    with panel() as ((ax,), made):
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        found = plots.log_ticks(ax.xaxis, low, high, prefix="×")
        texts = [tick.get_text() for tick in ax.get_xticklabels()]
    assert "mathdefault" not in made[0].svg
    assert found == (len(texts) >= 2)
    assert len(texts) <= 6
    assert all(re.fullmatch(r"×[\d.,]+", text) for text in texts)


def test_one_figure_can_be_had_by_name(study: Study) -> None:
    assert figure(study, "cpu").name == "cpu"
    with pytest.raises(KeyError, match="no figure of that name"):
        figure(study, "unknown")


def test_the_tail_ends_where_ten_samples_remain() -> None:
    times = np.linspace(1, 2, 1000)
    nothing = np.full(1000, np.nan)
    seen = Requests(times, nothing, nothing, times, times, nothing, np.full(1000, "mock-0", dtype=object))
    facts = tuple(replace(fact("chat", n, t, {}), requests=seen) for n in (1, 2) for t in ("sherpa", "olla"))
    campaign = campaign_of(("sherpa", "olla"), ("chat",), 2)
    blocks = latency.part(Study(campaign, facts, compare(campaign, facts))).blocks
    (tail,) = (block for block in blocks if isinstance(block, Figure) and block.name == "tail")
    assert ">99<" in tail.panels[0].svg  # 2,000 samples pooled carry p99.5
    assert ">99.9<" not in tail.panels[0].svg
    assert any(isinstance(block, Note) for block in blocks)  # what could not be drawn says so


def test_points_of_a_sweep_and_controls_are_no_use_cases_of_their_own() -> None:
    rate = {"tags": ["sweep-rate", "instant"], "group": "rate"}
    streams = {"tags": ["sweep-connections"], "group": "streams"}
    scenarios = {
        "chat-small-250": ScenarioRecord(rate_rps=250, **rate),
        "chat-small-2000": ScenarioRecord(rate_rps=2000, **rate),
        "chat-small": ScenarioRecord(rate_rps=1000, **rate),
        "streams-100": ScenarioRecord(connections=100, **streams),
        "streams-2000": ScenarioRecord(connections=2000, **streams),
        "streams-500": ScenarioRecord(connections=500, **streams),
        "w2-500": ScenarioRecord(),
        "slow": ScenarioRecord(healthy="fine"),
        "fine": ScenarioRecord(),
        "gc-plain": ScenarioRecord(tags=["gc-load"]),
    }
    campaign = campaign_of(("sherpa",), scenarios, 1)
    assert use_cases(campaign, list(scenarios)) == ["chat-small", "streams-2000", "w2-500", "slow"]
    called = names(campaign, list(scenarios))
    assert called["chat-small"] == "small answers, 1,000 req/s"
    assert called["streams-500"] == "500 open streams"
    assert called["w2-500"] == "w2-500"


def test_scenarios_of_several_workers_say_how_many() -> None:
    many = ScenarioRecord(settings={"server.workers": 2}, connections=64)
    few = ScenarioRecord(kind="stream", settings={"server.workers": 2}, connections=8)
    called = names(campaign_of(["sherpa"], {"many": many, "few": few}, 1), ["many", "few"])
    assert called == {"many": "2 workers, 64 connections", "few": "2 workers, 8 connections"}


def test_a_target_that_kept_every_rate_has_no_known_limit() -> None:
    scenarios = {
        f"load-{rate}": ScenarioRecord(rate_rps=rate, group="load", tags=["sweep-rate"]) for rate in (100.0, 1000.0)
    }
    facts = tuple(
        fact(name, n, target, {"e2e_p50_ms": 1.0, "e2e_p99_ms": 2.0, "goodput_rps": min(scenario.rate_rps or 0, most)})
        for name, scenario in scenarios.items()
        for n in (1, 2)
        for target, most in (("sherpa", 300.0), ("olla", 9e9))
    )
    campaign = campaign_of(("sherpa", "olla"), scenarios, 2)
    drawn = figure(Study(campaign, facts, compare(campaign, facts)), "load")
    assert "Olla kept every rate it was offered, up to 1,000 req/s" in drawn.alt
    assert "Sherpa kept up to 100 req/s" in drawn.alt


def test_a_ladder_is_drawn_with_its_knee_and_is_no_use_case() -> None:
    rungs = {10: (100.0, 1.0), 50: (500.0, 2.0), 100: (1000.0, 40.0)}
    scenarios = {
        f"ladder-olla-{share}": ScenarioRecord(rate_rps=rate, group="ladder") for share, (rate, _) in rungs.items()
    }
    facts = []
    for share, (rate, p95) in rungs.items():
        made = fact(f"ladder-olla-{share}", 1, "olla", {})
        summary = {"e2e_p50_ms": 1.0, "e2e_p95_ms": p95}
        facts.append(replace(made, record=made.record.model_copy(update={"summary": summary, "offered_rps": rate})))
    campaign = campaign_of(("sherpa", "olla"), scenarios, 1)
    study = Study(campaign, tuple(facts), compare(campaign, facts))
    drawn = figure(study, "ladder")
    assert "Olla: knee at 50 % of its capacity (500 req/s" in drawn.caption
    assert study.cases == ()
    assert study.called["ladder-olla-100"] == "ladder of Olla, 100 %"


def test_a_lean_svg_draws_the_same_and_keeps_what_is_written() -> None:
    fat = """<svg><g id="line2d_7"><path id="m63fd4d67ee" d="M 77.223642 158.4
L -0.0012345 24.48"/>
   <text x="1.98765">0.00123</text></g></svg>"""
    assert (
        plots._lean(fat)
        == """<svg><g><path id="m63fd4d67ee" d="M 77.22 158.4
L -0 24.48"/>
<text x="1.99">0.00123</text></g></svg>"""
    )
