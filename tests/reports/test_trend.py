"""A history of gate runs: one line a run, read back whole, and steps found where they are and nowhere else."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from reports import gate, trend
from reports.gate import GateRow, GateRun, Side
from reports.store import ReportError


def run_of(number: int, value: float, level: str = "L1", machine: str = "linux-a", cpu: str = "one") -> GateRun:
    row = GateRow.model_validate(
        {"level": level, "subject": "olla", "metric": "x", "unit": "calls", "head": value, "word": "pass"}
    )
    made = GateRun(
        id=f"run{number}", started="2026", machine_class=machine, head=f"{number:040x}", machine={"cpu_model": cpu},
        sides={"head": Side(name="HEAD", revision=f"{number:040x}")},
    )  # fmt: skip
    return made.judged([row])


def series_of(values: list[float], level: str = "L1") -> trend.Series:
    text = "\n".join(trend.line(run_of(number, value, level)) for number, value in enumerate(values))
    (found,) = trend.series(trend.read(text, "x"))
    return found


def test_u18_a_run_is_one_line_and_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "history.jsonl"
    for number, value in enumerate((100.0, 101.0)):
        trend.append(file, run_of(number, value))
    assert len(file.read_text().splitlines()) == 2
    (found,) = trend.series(trend.read(file.read_text(), str(file)))
    assert (found.values, found.runs, found.unit) == ((100.0, 101.0), ("run0", "run1"), "calls")
    assert found.share == pytest.approx(0.01)


def test_a_step_is_found_at_the_run_that_made_it() -> None:
    (change,) = trend.changes(series_of([100, 100.1, 100, 99.95, 103, 103.1, 103]))
    assert (change.index, change.run, change.head) == (4, "run4", f"{4:040x}")
    assert change.share == pytest.approx(0.03, abs=0.002)


def test_many_small_steps_that_each_pass_the_gate_show_as_their_sum() -> None:
    one = series_of([100 * 1.015**number for number in range(8)])
    assert one.share > 0.10
    assert trend.changes(one)


@pytest.mark.parametrize("level", ["L1", "L2"])
def test_noise_is_no_step(level: str) -> None:
    """Of 200 steady series, fewer than one in twenty show one."""
    rng = random.Random(4)
    false = 0
    for _ in range(200):
        values = [100 * (1 + rng.gauss(0, 0.002 if level == "L1" else 0.05)) for _ in range(20)]
        false += bool(trend.changes(series_of(values, level)))
    assert false < 10


def test_too_few_runs_say_nothing() -> None:
    assert trend.changes(series_of([100, 100, 200])) == []


def test_machines_are_never_mixed() -> None:
    lines = [run_of(1, 5.0), run_of(2, 6.0, machine="linux-b"), run_of(3, 7.0, "L2"), run_of(4, 7.0, "L2", cpu="two")]
    found = trend.series(trend.read("\n".join(map(trend.line, lines)), "x"))
    assert [one.machine for one in found] == ["linux-a", "linux-b", "linux-a, one", "linux-a, two"]


def test_goodput_has_no_trend_because_each_run_chooses_its_rate() -> None:
    run = run_of(1, 1000.0, "L2")
    lines = trend.read(trend.line(run).replace('"metric": "x"', '"metric": "goodput_rps"'), "history")
    assert lines[0]["values"]
    assert trend.series(lines) == []


def test_what_is_zero_or_was_not_measured_has_no_place_in_a_series() -> None:
    assert trend.series(trend.read(trend.line(run_of(1, 0.0)), "x")) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "h:1: not a line of JSON"),
        ("[]", "h:1: not a line of `gate --history`"),
        ('{"schema": 9, "values": []}', "h:1: schema 9"),
    ],
)
def test_a_damaged_history_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(ReportError, match=says):
        trend.read(text, "h")


def test_a_history_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="--history"):
        trend.append(tmp_path, run_of(1, 1.0))


def test_a_line_holds_nothing_but_json(tmp_path: Path) -> None:
    assert "\n" not in trend.line(run_of(1, 1.0))
    assert json.loads(trend.line(run_of(1, 1.0)))["machine"] == "linux-a"
    assert gate.HEAD == "head"
