"""What is left where a pilot was stopped: nothing that keeps the same command from beginning again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from loadgen.campaign import calibrate, pilot, terminal
from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.plan import Asked, planned
from loadgen.campaign.voice import Silent
from loadgen.errors import INTERRUPTED
from loadgen.targets.direct import Direct
from loadgen.workload import scenario


def decide(folder: Path) -> None:
    made = planned(
        [Direct(name="a"), Direct(name="b")],
        scenario.choose(["chat-small"]),
        rounds=2,
        baseline=None,
        asked=Asked(precision=0.05),
    )
    pilot.decide(made, (), folder, Silent(), time.monotonic())


@pytest.mark.parametrize("ended", [KeyboardInterrupt, OSError])
def test_a_pilot_that_was_stopped_or_killed_can_be_made_again(
    ended: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: LiveCampaign) -> None:
        raise ended

    monkeypatch.setattr(LiveCampaign, "run", stop)
    killed = tmp_path / pilot.FOLDER
    killed.mkdir()
    (killed / "campaign.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(ended):
            decide(tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_who_stops_a_campaign_before_its_first_run_is_told_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "calibrated", stop)
    code = terminal.compare(
        Asked(targets=("direct", "relay")),
        out=tmp_path / "c",
        resume=None,
        loads=None,
        dry_run=False,
        command="proxy-engines compare",
        count=lambda *_: None,
    )
    assert code == INTERRUPTED
    assert "Interrupted before the first counted run: nothing is kept" in capsys.readouterr().out
    assert not (tmp_path / "c" / "campaign.json").exists()
