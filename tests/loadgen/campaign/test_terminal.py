"""The last screen of `compare`: the table and the sentences of the page, narrow enough for any terminal."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from loadgen.campaign.terminal import show
from reports.first_screen import FirstScreen, first_screen
from reports.study import Study
from tests.reports.synthetic import CHAT, STREAM, World, write_campaign


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> FirstScreen:
    """The first screen of a small campaign."""
    scenarios = {
        "chat": CHAT.model_copy(update={"duration_s": 2.0}),
        "chat-stream": STREAM.model_copy(update={"duration_s": 1.0}),
    }
    world = World(targets=("sherpa", "olla", "nginx", "direct"), scenarios=scenarios, rounds=4)
    return first_screen(Study.load(write_campaign(tmp_path_factory.mktemp("terminal") / "campaign", world)))


def shown(screen: FirstScreen, width: int = 80) -> list[str]:
    out = StringIO()
    show(Console(file=out, width=width, color_system=None), screen)
    return out.getvalue().splitlines()


def test_the_last_screen_says_what_the_page_says_first(screen: FirstScreen) -> None:
    text = " ".join(" ".join(shown(screen)).split())
    assert text.startswith(screen.headline)
    assert "Sherpa Olla Nginx No proxy" in text or "Sherpa Olla nginx No proxy" in text
    for entry in screen.entries:
        for target, value in entry.values.items():
            assert value.text in text, (entry.label, target)
            assert value.range in text, (entry.label, target)
    assert screen.note in text
    assert [when for when, _ in screen.choose] == ["Choose Sherpa if", "Choose Olla if", "Neither matters if"]
    for when, then in screen.choose:
        assert f"{when} {then}" in text
    for line in (*screen.worse, *screen.unknown):
        assert f"- {line}" in text


def test_each_line_of_the_table_takes_two_rows_at_eighty_columns(screen: FirstScreen) -> None:
    lines = shown(screen)
    assert max(map(len, lines)) <= 80
    end = next(number for number, line in enumerate(lines) if line.startswith("a..b"))
    assert end == 2 + 2 * len(screen.entries)
