"""What a campaign keeps and when it stops."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.plan import Asked, plan
from loadgen.campaign.voice import Silent, Terminal
from loadgen.errors import BadInput
from reports import store
from reports.schema import RunRecord, run_name


def record(number: int, target: str, module_hash: str | None) -> RunRecord:
    name = run_name(number, "chat-small", target)
    return RunRecord(run=name, scenario="chat-small", target=target, round=number, module_hash=module_hash)


def test_a_campaign_stops_when_the_program_of_a_target_changed_and_forgets_that_run(tmp_path: Path) -> None:
    campaign = LiveCampaign(plan(Asked()), tmp_path / "c", Silent())
    campaign.create("proxy-engines compare")
    kept = [record(1, "sherpa", "a"), record(1, "olla", "b"), record(1, "sherpa@aa", "a"), record(1, "direct", None)]
    for one in [*kept, changed := record(2, "sherpa@aa", "c")]:
        store.write_run(tmp_path / "c", one)
        if one is changed:
            with pytest.raises(BadInput, match=r"sherpa: its program changed while the campaign ran.*--resume"):
                campaign.keep(one)
        else:
            campaign.keep(one)
    assert list(campaign.records) == kept
    found = store.load_campaign(tmp_path / "c")
    assert [run.name for run in found.runs] == sorted(one.run for one in kept)
    assert found.unfinished == (changed.run,)


def test_in_a_log_the_line_of_a_run_names_its_own_target(tmp_path: Path) -> None:
    log = io.StringIO()
    with Terminal(Console(file=log)) as voice:
        campaign = LiveCampaign(plan(Asked()), tmp_path / "c", voice)
        campaign.create("proxy-engines compare")
        voice.step("round 1 · olla · chat-small · 3 s · 100 done")  # the last word of a turn of two
        for target in ("sherpa", "olla"):
            store.write_run(tmp_path / "c", one := record(1, target, None))
            campaign.keep(one)
    assert [line.partition(" ")[2] for line in log.getvalue().splitlines()] == [
        "round 1 · sherpa · chat-small",
        "round 1 · olla · chat-small",
    ]
