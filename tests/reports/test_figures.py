from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from reports.compare import compare
from reports.figures import FIGURES, Figure, Gallery, NotDrawn, representatives
from reports.schema import Scenario
from reports.study import Study
from reports.summarise import Requests
from tests.reports.synthetic import campaign_of, fact


@pytest.fixture(scope="module")
def study(small: Path) -> Study:
    return Study.load(small)


def test_every_figure_is_drawn_or_says_why_not(study: Study) -> None:
    assert tuple(study.drawn) == FIGURES
    for name, drawn in study.drawn.items():
        assert drawn.name == name
        assert drawn.reason if isinstance(drawn, NotDrawn) else drawn.caption and drawn.alt


def test_captions_state_scenarios_and_rounds(study: Study) -> None:
    for drawn in study.drawn.values():
        if isinstance(drawn, Figure) and drawn.name not in ("timeline", "effects"):
            assert "4 valid rounds" in drawn.caption, drawn.name
            assert "chat" in drawn.caption, drawn.name


def test_svg_has_no_date_no_program_and_text_that_is_text(study: Study) -> None:
    for drawn in study.drawn.values():
        if isinstance(drawn, Figure):
            assert "<metadata" not in drawn.svg
            assert not re.search(r"20\d\d-\d\d-\d\d", drawn.svg)
            assert "<text" in drawn.svg
            assert drawn.png.startswith(b"\x89PNG")


def test_drawing_leaves_the_style_of_others_alone(study: Study) -> None:
    before = dict(mpl.rcParams)
    Gallery(study.campaign, study.comparison).all()
    assert dict(mpl.rcParams) == before


def test_a_target_has_one_colour_everywhere(study: Study) -> None:
    gallery = Gallery(study.campaign, study.comparison)
    assert len({gallery.colour(name) for name in ("sherpa", "olla", "direct", "relay")}) == 4
    assert gallery.colour("sherpa@aa") == gallery.colour("sherpa")
    for name in ("overhead", "cpu", "gc"):
        drawn = study.drawn[name]
        assert isinstance(drawn, Figure)
        assert gallery.colour("olla") in drawn.svg


def test_the_tail_ends_where_ten_samples_remain() -> None:
    times = np.linspace(1, 2, 1000)
    nothing = np.full(1000, np.nan)
    seen = Requests(times, nothing, nothing, times, times, nothing, np.full(1000, "mock-0", dtype=object))
    facts = [replace(fact("chat", n, t, {}), requests=seen) for n in (1, 2) for t in ("sherpa", "olla")]
    campaign = campaign_of(("sherpa", "olla"), ("chat",), 2)
    drawn = Gallery(campaign, compare(campaign, facts)).all()["tail"]
    assert isinstance(drawn, Figure)
    assert ">99<" in drawn.svg  # 2,000 samples pooled carry p99.5
    assert ">99.9<" not in drawn.svg


def test_points_of_a_sweep_are_no_use_cases_of_their_own() -> None:
    rate = {"tags": ["sweep-rate"], "group": "rate"}
    streams = {"tags": ["sweep-connections"], "group": "streams"}
    scenarios = {
        "chat-small-250": Scenario(rate_rps=250, **rate),
        "chat-small-2000": Scenario(rate_rps=2000, **rate),
        "chat-small": Scenario(rate_rps=1000, **rate),
        "streams-100": Scenario(connections=100, **streams),
        "streams-2000": Scenario(connections=2000, **streams),
        "streams-500": Scenario(connections=500, **streams),
        "w2-500": Scenario(),
    }
    campaign = campaign_of(("sherpa",), scenarios, 1)
    assert representatives(campaign, list(scenarios)) == ["chat-small", "streams-2000", "w2-500"]


def test_a_target_that_kept_every_rate_has_no_known_limit() -> None:
    scenarios = {f"load-{rate}": Scenario(rate_rps=rate, group="load", tags=["sweep-rate"]) for rate in (100.0, 1000.0)}
    facts = [
        fact(name, n, target, {"e2e_p50_ms": 1.0, "e2e_p99_ms": 2.0, "goodput_rps": min(scenario.rate_rps or 0, most)})
        for name, scenario in scenarios.items()
        for n in (1, 2)
        for target, most in (("sherpa", 300.0), ("olla", 9e9))
    ]
    campaign = campaign_of(("sherpa", "olla"), scenarios, 2)
    drawn = Gallery(campaign, compare(campaign, facts)).load()
    assert isinstance(drawn, Figure)
    assert "Olla kept every rate it was offered, up to 1,000 req/s" in drawn.alt
    assert "Sherpa kept up to 100 req/s" in drawn.alt
