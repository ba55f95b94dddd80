"""The gate proves itself: seeds fit the code they are put into, tries add up to an honest verdict, resume is safe."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from loadgen.errors import BadInput
from loadgen.gate import revisions, selftest
from loadgen.gate.selftest import NEEDED, TRIES, Level, PendingTry, Seed, State, Try, page, score, seeds, steps, verdict
from reports.gate import Side
from tests.loadgen import console

ROOT = Path(__file__).resolve().parents[2]
DIGEST = selftest._digest()


def state(*tries: Try) -> State:
    return State(revision="a" * 40, seeds=DIGEST, started="2026-08-01T12:00:00+00:00", machine_class="x", tries=tries)


def tries_of(
    caught: Mapping[tuple[str, Level], int], unmeasured: Mapping[tuple[str, Level], int] | None = None
) -> State:
    """Every planned try, so many of them caught or not measured."""
    made = []
    for step in steps(()):
        key = (step.seed, step.level)
        red = step.number <= caught.get(key, 0)
        lost = not red and step.number <= caught.get(key, 0) + (unmeasured or {}).get(key, 0)
        made.append(
            Try(
                seed=step.seed,
                level=step.level,
                number=step.number,
                caught=("a_metric",) if red else (),
                why="too noisy" if lost else "",
            )
        )
    return state(*made)


PERFECT: Mapping[tuple[str, Level], int] = {
    (name, seed.level): TRIES[seed.level] for name, seed in seeds().items() if seed.level is not None
}


@pytest.mark.parametrize("name", list(seeds()))
def test_a_seed_fits_the_code_as_it_is_and_still_compiles(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proxy", tmp_path / "proxy", ignore=shutil.ignore_patterns("__pycache__"))
    selftest.apply(seeds()[name], tmp_path)
    for edit in seeds()[name].edits:
        text = (tmp_path / edit.file).read_text()
        compile(text, edit.file, "exec")
        assert text != (ROOT / edit.file).read_text()


def test_a_seed_that_no_longer_fits_says_where(tmp_path: Path) -> None:
    seed = Seed.model_validate({"what": "x", "edits": [{"file": "gone.py", "find": "x", "replace": "y"}]})
    with pytest.raises(BadInput, match=r"gone\.py holds 'x' 0 times"):
        selftest.apply(seed, tmp_path)


def test_there_is_a_no_op_and_a_seed_for_every_level() -> None:
    assert {seed.level for seed in seeds().values()} == {None, "L0", "L1", "L2"}
    (no_op,) = (seed for seed in seeds().values() if seed.level is None)
    assert no_op.tried_at() == ("L0", "L1", "L2")


def test_cheap_levels_come_first_and_seeds_take_turns() -> None:
    planned = list(steps(()))
    levels = [step.level for step in planned]
    assert levels == sorted(levels)
    first = [step.seed for step in planned if (step.level, step.number) == ("L0", 1)]
    assert first == list(seeds())
    assert len(planned) == len(set(planned))


def test_what_is_done_is_not_done_again() -> None:
    done = [Try(seed="no-op", level="L0", number=1), Try(seed="extra-copy", level="L1", number=3)]
    left = list(steps(done))
    assert PendingTry("no-op", "L0", 1) not in left and PendingTry("extra-copy", "L1", 3) not in left
    assert len(left) == len(list(steps(()))) - 2


def test_all_caught_and_a_quiet_no_op_is_proof() -> None:
    assert verdict(tries_of(PERFECT))[0] == 0


@pytest.mark.parametrize("name", [name for name, seed in seeds().items() if seed.level is not None])
def test_one_seed_caught_too_seldom_is_no_proof(name: str) -> None:
    level = seeds()[name].level
    assert level is not None
    code, sentence = verdict(tries_of({**PERFECT, (name, level): NEEDED[level] - 1}))
    assert (code, name in sentence) == (1, True)
    assert verdict(tries_of({**PERFECT, (name, level): NEEDED[level]}))[0] == 0


def test_a_red_no_op_is_no_proof_but_one_of_the_timed_level_is_allowed() -> None:
    assert verdict(tries_of({**PERFECT, ("no-op", "L1"): 1}))[0] == 1
    assert verdict(tries_of({**PERFECT, ("no-op", "L2"): 1}))[0] == 0
    assert verdict(tries_of({**PERFECT, ("no-op", "L2"): 2}))[0] == 1


def test_tries_that_could_not_be_measured_are_neither_proof_nor_disproof() -> None:
    code, sentence = verdict(tries_of({**PERFECT, ("sleep", "L2"): 1}, {("sleep", "L2"): 4}))
    assert code == 2
    assert "sleep" in sentence
    assert verdict(state())[0] == 2


def test_a_score_counts_what_was_red_most_often_first() -> None:
    made = [
        Try(seed="sleep", level="L1", number=1, caught=("b", "a")),
        Try(seed="sleep", level="L1", number=2, caught=("a",)),
        Try(seed="sleep", level="L1", number=3, words={"could-not-measure": 1, "pass": 6}),
    ]
    found = score(state(*made), "sleep", "L1")
    assert (found.caught, found.measured, found.tries, found.rows) == (2, 2, 3, ("a", "b"))


def test_the_page_has_a_row_for_each_seed_and_the_command() -> None:
    text = page(tries_of(PERFECT))
    assert all(f"| {name} |" in text for name in seeds())
    assert "`proxy-engines gate --self-test`" in text
    assert "10/10" in text and "5/5" in text


def resume(folder: Path, revision: str) -> State:
    return selftest._resumed(folder, revision)


def test_a_self_test_goes_on_only_with_the_same_commit_and_seeds(tmp_path: Path) -> None:
    begun = state(Try(seed="no-op", level="L0", number=1))
    (tmp_path / "selftest.json").write_text(begun.model_dump_json())
    assert resume(tmp_path, "a" * 40).tries == begun.tries
    with pytest.raises(BadInput, match="have changed"):
        resume(tmp_path, "b" * 40)
    (tmp_path / "selftest.json").write_text(begun.model_copy(update={"seeds": "old"}).model_dump_json())
    with pytest.raises(BadInput, match="have changed"):
        resume(tmp_path, "a" * 40)


@pytest.mark.parametrize("text", ["{}", "[]", '{"schema": 1, "tries": 3}'])
def test_a_folder_without_a_self_test_is_bad_input(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(revisions, "repository", lambda start: start)
    monkeypatch.setattr(revisions, "resolve", lambda root, name, say: Side(name=name, revision="a" * 40))
    (tmp_path / "selftest.json").write_text(text)
    assert console.gate(["--self-test", "--resume", str(tmp_path)]) == 65
    assert "selftest.json" in capsys.readouterr().out


def test_an_interrupted_self_test_keeps_its_tries_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[PendingTry] = []

    def attempt(root: Path, side: Side, step: PendingTry, *rest: object) -> Try:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(step)
        return Try(seed=step.seed, level=step.level, number=step.number, caught=("x",))

    monkeypatch.setattr(revisions, "repository", lambda start: start)
    monkeypatch.setattr(revisions, "resolve", lambda root, name, say: Side(name=name, revision="a" * 40))
    monkeypatch.setattr(selftest, "_try", attempt)
    out = tmp_path / "out"
    assert console.gate(["--self-test", "--out", str(out)]) == 130
    assert "--resume" in capsys.readouterr().out
    assert len(resume(out, "a" * 40).tries) == 2
    assert "| no-op |" in (out / "selftest.md").read_text()


def test_levels_can_be_tried_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attempt(root: Path, side: Side, step: PendingTry, *rest: object) -> Try:
        caught = seeds()[step.seed].level == step.level
        return Try(seed=step.seed, level=step.level, number=step.number, caught=("x",) if caught else ())

    monkeypatch.setattr(revisions, "repository", lambda start: start)
    monkeypatch.setattr(revisions, "resolve", lambda root, name, say: Side(name=name, revision="a" * 40))
    monkeypatch.setattr(selftest, "_try", attempt)
    out = tmp_path / "out"
    assert console.gate(["--self-test", "--levels", "L0,L1", "--out", str(out)]) == 2
    assert "sleep at L2: 0 of 5 tries" in capsys.readouterr().out
    assert {one.level for one in resume(out, "a" * 40).tries} == {"L0", "L1"}
    assert console.gate(["--self-test", "--levels", "L2", "--resume", str(out)]) == 0
