"""What a campaign keeps and when it stops."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from loadgen.bench.mocks import Backends, Ceiling, NoBackends
from loadgen.campaign import campaign as campaigns
from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.plan import Asked, Planned, plan, planned
from loadgen.campaign.run import Setting
from loadgen.campaign.schedule import Slot
from loadgen.campaign.voice import Silent, Terminal
from loadgen.errors import BadInput
from loadgen.targets.direct import Direct
from loadgen.workload import scenario
from reports import store
from reports.schema import Check, RunRecord, run_name


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


Spoils = Callable[[str], bool]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Callable[[Planned, Path, Spoils], list[str]]:
    """Plays a campaign without processes, a new one or one that is on disk. The bench spoils the runs that `spoils`
    names; one that is called `stop` ends the campaign as Ctrl-C does. Returns the runs made, in order."""
    made: list[str] = []
    spoils: Spoils

    def measure(slot: Slot, mocks: Backends, setting: Setting) -> Iterator[RunRecord]:
        for arm in slot.arms:
            name = run_name(slot.round, slot.scenario.id, arm.name)
            bad = spoils(name)
            one = RunRecord(
                run=name,
                scenario=slot.scenario.id,
                target=arm.name,
                round=slot.round,
                attempt=slot.attempt,
                void_reason="steal" if bad else None,
                validity=[Check(check="steal", ok=False, blame="bench")] if bad else [],
            )
            store.write_run(setting.folder, one)
            made.append(name)
            yield one

    monkeypatch.setattr(campaigns, "measure", measure)
    monkeypatch.setattr(campaigns, "_started", lambda *_: NoBackends())
    monkeypatch.setattr(campaigns.mocks, "ceiling", lambda _: Ceiling(1e9, 1e9))

    def play(of: Planned, folder: Path, which: Spoils) -> list[str]:
        nonlocal spoils
        spoils = which
        made.clear()
        campaign = LiveCampaign(of, folder, Silent())
        if folder.exists():
            campaign.adopt()
        else:
            campaign.create("proxy-engines compare")
        campaign.run()
        return list(made)

    return play


def two_alone(rounds: int, *ids: str, repeats: int | None = None) -> Planned:
    """`ids` of the catalogue with two targets that take no turns, no baseline's second."""
    known = [one.model_copy(update={"in_turns": False}) for one in scenario.choose(list(ids))]
    targets = [Direct(name="a"), Direct(name="b")]
    return planned(
        targets, known, rounds=rounds, baseline=None, aa=False, asked=Asked(), limit_s=math.inf, repeats=repeats
    )


def test_a_run_that_the_bench_spoilt_is_made_again_as_often_as_the_campaign_allows(played, tmp_path: Path) -> None:
    assert played(two_alone(1, "chat-small"), tmp_path / "none", lambda run: True) == [
        "r01-chat-small-a",
        "r01-chat-small-b",
    ]
    once = two_alone(1, "chat-small", repeats=1)
    assert played(once, tmp_path / "once", lambda run: run.startswith("r01"))[2:] == [
        "r02-chat-small-b",
        "r02-chat-small-a",
    ]
    assert len(played(once, tmp_path / "both", lambda run: True)) == 4
    assert played(once, tmp_path / "both", lambda run: True) == [], "resumed, it repeats no more than it allows"


def test_what_another_search_left_in_the_folder_takes_no_repeat_away(played, tmp_path: Path) -> None:
    """`limit` keeps the rungs of its search in one folder: each may be made twice."""
    folder = tmp_path / "c"
    first, second = (two_alone(1, name, repeats=1) for name in ("chat-small", "chat-stream"))
    both = two_alone(1, "chat-small", "chat-stream", repeats=1)
    LiveCampaign(both, folder, Silent()).create("proxy-engines limit")
    assert len(played(first, folder, lambda run: True)) == 4
    assert len(played(second, folder, lambda run: True)) == 4


def test_an_extra_round_that_was_interrupted_is_completed_by_resume(played, tmp_path: Path) -> None:
    def stopped(run: str) -> bool:
        if run == "r03-chat-small-a":
            raise KeyboardInterrupt
        return run == "r01-chat-small-a"

    campaign = two_alone(2, "chat-small", "chat-stream")
    with pytest.raises(KeyboardInterrupt):
        played(campaign, tmp_path / "c", stopped)
    there = {run.name for run in store.load_campaign(tmp_path / "c").runs if run.record.round == 3}
    rest = {"r03-chat-small-a", "r03-chat-small-b"} - there
    assert set(played(campaign, tmp_path / "c", lambda run: False)) == rest
    assert rest


def test_the_bar_of_a_resumed_campaign_counts_the_extra_rounds_too(played, tmp_path: Path) -> None:
    campaign = two_alone(2, "chat-small")
    played(campaign, tmp_path / "c", lambda run: run == "r01-chat-small-a")
    seen: list[tuple[int, int]] = []

    class Bar(Silent):
        def advance(self, runs: int, of: int, run: str) -> None:
            seen.append((runs, of))

    (tmp_path / "c" / "runs" / "r02-chat-small-a" / "run.json").unlink()
    resumed = LiveCampaign(campaign, tmp_path / "c", Bar())
    resumed.adopt()
    resumed.run()
    assert seen == [(6, 6)]
