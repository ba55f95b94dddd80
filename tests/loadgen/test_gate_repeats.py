"""`gate --repeat`: what varies is shown with its limit, and a red row of equal code is a false alarm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from loadgen.gate import checkouts, repeats, revisions
from loadgen.gate.repeats import spreads, verdict
from reports import gate
from reports.gate import GateRow, Side
from tests.loadgen import console

POLICY = gate.policy()
METRIC = "instructions_per_request"


def counted(base: Sequence[float], head: Sequence[float]) -> GateRow:
    return gate.judge_count("olla", METRIC, base, head, POLICY.counts[METRIC])


def timed(word: str, change: float = 0.0) -> GateRow:
    return GateRow.model_validate({"level": "L2", "subject": "olla", "metric": "x", "word": word, "change": change})


def test_the_spread_is_that_of_every_count_of_both_sides() -> None:
    (found,) = spreads([[counted([1000, 1001], [1002])], [counted([999], [1000, 1009])]], POLICY)
    assert (found.low, found.high, found.text, found.over) == (999, 1009, "1.001 %", False)


def test_equal_counts_are_steady() -> None:
    same = [[counted([1000, 1000], [1000])]] * 10
    assert spreads(same, POLICY)[0].text == "0.000 %"
    assert verdict(same, POLICY, 10)[0] == 0


def test_a_spread_over_the_limit_is_not_steady_even_if_no_single_repeat_was_red() -> None:
    code, sentence = verdict([[counted([1000], [1000])], [counted([1030], [1030])]], POLICY, 2)
    assert code == 1
    assert METRIC in sentence and "3.000 %" in sentence


def test_one_false_alarm_is_allowed_where_times_are_judged_and_none_where_work_is_counted() -> None:
    quiet = [timed("pass")]
    assert verdict([[timed("regression")], *[quiet] * 9], POLICY, 10)[0] == 0
    assert verdict([[timed("regression"), timed("regression")], *[quiet] * 9], POLICY, 10)[0] == 0
    assert verdict([[timed("regression")]] * 2, POLICY, 2)[0] == 1
    assert verdict([[counted([100], [110])], [counted([100], [100])]], POLICY, 2)[0] == 1


def test_what_could_not_be_measured_is_neither_steady_nor_unsteady() -> None:
    code, sentence = verdict([[timed("could-not-measure")], [timed("pass")]], POLICY, 2)
    assert code == 2
    assert "1 of 2" in sentence
    assert verdict([[timed("pass")]], POLICY, 2)[0] == 2


def test_the_command_measures_head_against_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared: list[dict[str, Side]] = []

    class Trees:
        def __enter__(self) -> dict[str, object]:
            return {}

        def __exit__(self, *exc: object) -> None:
            pass

    def checked_out(root: Path, sides: dict[str, Side], say: object) -> Trees:
        compared.append(sides)
        return Trees()

    def measure(*_: object) -> tuple[list[GateRow], dict[str, dict[str, float]]]:
        return [counted([1000], [1001])], {}

    monkeypatch.setattr(revisions, "repository", lambda start: start)
    monkeypatch.setattr(revisions, "resolve", lambda root, name, say: Side(name=name, revision="a" * 40))
    monkeypatch.setattr(checkouts, "checked_out", checked_out)
    monkeypatch.setattr(repeats, "measure_levels", measure)
    assert console.gate(["--repeat", "3", "--levels", "L1", "--out", str(tmp_path)]) == 0
    assert compared == [{"base": Side(name="HEAD", revision="a" * 40), "head": Side(name="HEAD", revision="a" * 40)}]
    assert "Steady: 0 false alarms in 3 repeats" in capsys.readouterr().out
    assert "0.100 %" in (tmp_path / "repeats.md").read_text()


@pytest.mark.parametrize("words", [["--repeat", "1"], ["--repeat", "x"], ["--repeat", "3", "--self-test"]])
def test_a_repeat_that_makes_no_sense_is_64(words: list[str]) -> None:
    assert console.gate(words) == 64
