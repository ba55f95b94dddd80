"""Campaigns that several tests read: written once a session, never changed; a test that breaks one takes a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas

from reports import plots
from reports.page import Panel
from reports.render import ReportResult, build_report
from tests.reports.synthetic import CHAT, STREAM, World, write_campaign

SMALL = World(
    scenarios={
        "chat": CHAT.model_copy(update={"duration_s": 4.0, "rate_rps": 300}),
        "chat-stream": STREAM.model_copy(update={"duration_s": 2.0}),
    },
    rounds=4,
)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete campaign of sherpa, olla and direct: two scenarios, four rounds, an A/A arm, raw rows."""
    return write_campaign(tmp_path_factory.mktemp("campaigns") / "small", SMALL)


@pytest.fixture(scope="session")
def built(small: Path) -> ReportResult:
    """The report of `small`, built in its folder."""
    return build_report(small)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the figures out, which is most of the time, for tests that are not about them."""

    def empty(_: Canvas) -> Panel:
        return Panel('<svg width="1pt" height="1pt"></svg>', b"")

    monkeypatch.setattr(plots, "_finish", empty)


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes copies of `small` to break."""

    def copy() -> Path:
        target = tmp_path / "copy"
        shutil.copytree(small, target, ignore=shutil.ignore_patterns("report.*", "verdict.json", "figures"))
        return target

    return copy
