"""L2 with real processes: base, head and base again are alive at once, get the same requests, and get them in turns."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from loadgen.gate import interleaved
from loadgen.gate.given import pair_of
from loadgen.workload import timetable
from reports import store
from reports.gate import BASE, HEAD, Span, TimeLimit, Times
from tests.loadgen.campaign.test_campaign import Silent

METRIC = "cpu_us_per_request"
SLICE_NS = round(timetable.SLICE_S * 1e9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign of two rounds, as the gate makes it."""
    place = tmp_path_factory.mktemp("gate") / "times"
    times = Times(
        rounds=2,
        idle_s=0.2,
        budget_s=1,  # no repeats
        scenarios={"chat-small": Span(duration_s=0.4, warmup_s=0.2, metrics=(METRIC,))},
        metrics={METRIC: TimeLimit(margin=0.03, blind=0.3, why="for these tests")},
    )
    rows = interleaved.time_pair(pair_of("a=olla", "b=sherpa"), times, place, "gate", Silent())
    assert [row.metric for row in rows] == [METRIC]
    return place


def test_every_run_is_on_disk_with_the_same_window(folder: Path) -> None:
    found = store.load_campaign(folder)
    assert len(found.runs) == 6
    for number in (1, 2):
        windows = {run.record.window_ns for run in found.runs if run.record.round == number}
        assert len(windows) == 1
        (window,) = windows
        assert window is not None
        assert window[1] - window[0] == pytest.approx(3 * 0.4e9)
    assert "in turns of 0.1 s" in found.header.scenarios["chat-small"].arrivals


def test_the_requests_are_the_same_and_come_in_turns(folder: Path) -> None:
    found = store.load_campaign(folder)
    for number in (1, 2):
        slices: dict[str, list[int]] = {}
        begins, counts = set(), set()
        for run in found.runs:
            table = run.table("requests")
            if run.record.round == number:
                assert table is not None
                begin = run.record.summary["driver"]["t0_ns"]
                slices[run.record.target] = sorted(set((table["intended_ns"] - begin) // SLICE_NS))
                begins.add(begin)
                counts.add(len(table))
        assert len(begins) == len(counts) == 1
        assert sorted(slices) == [BASE, f"{BASE}@aa", HEAD]
        first, second, third = sorted(slices.values())
        assert first == [0, 5, 8, 9, 13, 16]
        assert second == [1, 4, 6, 11, 14, 15]
        assert third == [2, 3, 7, 10, 12, 17]


def test_nothing_is_left_running(folder: Path) -> None:
    assert folder.exists()
    left = [
        child
        for child in psutil.Process(os.getpid()).children(recursive=True)
        if "loadgen" in " ".join(child.cmdline())
    ]
    assert left == []
