"""L2 with real processes: all three alive at once get the same requests in turns, and a head that fails is a result."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from loadgen.gate import interleaved, selftest
from loadgen.gate.checkouts import Checkout
from loadgen.gate.given import pair_of
from loadgen.gate.selftest import seeds
from loadgen.workload import scenario, timetable
from reports import store
from reports.gate import BASE, HEAD, GateRow, LoadTime, Side, TimeLimit, Times, exit_code
from tests.loadgen.campaign.test_campaign import Silent

ROOT = Path(__file__).resolve().parents[2]
METRIC = "cpu_us_per_request"
SLICE_NS = round(timetable.SLICE_S * 1e9)


def small(duration_s: float, warmup_s: float) -> Times:
    """Two rounds of one scenario, and nothing planned."""
    return Times(
        rounds=2,
        pilot_rounds=0,
        half_width=0.02,
        idle_s=0.2,
        budget_s=1,  # no repeats
        scenarios={"chat-small": LoadTime(duration_s=duration_s, warmup_s=warmup_s, metrics=(METRIC,))},
        metrics={METRIC: TimeLimit(margin=0.03, blind=0.3, why="for these tests")},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The campaign of two rounds, as the gate makes it."""
    place = tmp_path_factory.mktemp("gate") / "times"
    times = small(0.4, 0.2)
    rows = interleaved.time_pair(pair_of("a=sherpa", "b=olla"), times, place, "gate", Silent())
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


# ------------------------------------------------------------------------------------------------ a head that fails
@pytest.fixture
def a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load is a tenth of what base carries, so that base carries it although others slow this machine down."""
    (one,) = scenario.choose(["chat-small"])
    less = one.model_copy(update={"arrivals": one.arrivals.model_copy(update={"share": 0.1})})
    monkeypatch.setattr(scenario, "choose", lambda _: [less])


def judged(seed: str, folder: Path, *more: tuple[str, str]) -> list[GateRow]:
    """The rows of a small campaign of Olla against itself with a seed in it. `more`: what else is replaced in it."""
    shutil.copytree(ROOT / "proxy", folder / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    selftest.apply(seeds()[seed], folder)
    for old, new in more:
        path = folder / "proxy" / "olla" / "exchange.py"
        path.write_text(path.read_text().replace(old, new))
    trees = {
        name: Checkout(name, path, sys.executable, Side(name=name)) for name, path in ((BASE, ROOT), (HEAD, folder))
    }
    return interleaved.time_pair(
        interleaved.engine_pair("olla", trees), small(1.0, 0.2), folder / "times", "", Silent()
    )


@pytest.mark.usefixtures("a_tenth")
def test_a_head_that_blocks_60_ms_a_request_is_a_regression_and_not_a_bench_too_slow(tmp_path: Path) -> None:
    rows = judged("blocks-60-ms", tmp_path)
    assert {row.word for row in rows} == {"regression"}, rows
    assert "were not carried" in rows[0].reason
    assert exit_code(rows) == 1


@pytest.mark.usefixtures("a_tenth")
def test_a_head_that_changes_a_byte_in_some_answers_is_void(tmp_path: Path) -> None:
    """One in twenty and not in a thousand, so that the test does not need a fast machine."""
    rows = judged("corrupts-1-in-1000", tmp_path, ("0.001", "0.05"))
    assert {row.word for row in rows} == {"void"}, rows
    assert exit_code(rows) == 3
