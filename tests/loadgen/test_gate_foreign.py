"""The gate over somebody else's proxy: a repository of its own, its command run in the folder of each revision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadgen.errors import UsageRefusal
from loadgen.gate import given, interleaved, run
from loadgen.gate.checkouts import checked_out
from reports import gate
from reports.gate import GateRow, Side
from tests.loadgen import console
from tests.loadgen.test_gate_revisions import do

COMMAND = "mine={python} proxy.py {port} {backends}"


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits of a proxy that is not ours, in a folder with a space; no package `proxy`, no lock."""
    root = tmp_path / "their proxy"
    root.mkdir()
    do(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    for number in (1, 2):
        (root / "proxy.py").write_text(f"NUMBER = {number}\n")
        do(root, "add", ".")
        do(root, "commit", "--quiet", "-m", f"commit {number}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(root)
    return root


def timed(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[interleaved.Pair]:
    """The gate with its times taken by nobody: a row for each word. Returns what would have been timed."""
    seen: list[interleaved.Pair] = []

    def time_pair(pair: interleaved.Pair, *_: object) -> list[GateRow]:
        seen.append(pair)
        return [
            GateRow.model_validate({"level": "L2", "subject": "mine", "metric": "x", "head": 1.0, "word": word})
            for word in words
        ]

    monkeypatch.setattr(run.interleaved, "time_pair", time_pair)
    return seen


def test_the_command_runs_in_the_folder_of_each_revision(repo: Path) -> None:
    sides = {
        name: Side(name=name, revision=do(repo, "rev-parse", rev))
        for name, rev in (("base", "HEAD^"), ("head", "HEAD"))
    }
    with checked_out(repo, sides, print, ours=False) as trees:
        pair = given.revisions_of(given.command_of(COMMAND), trees)
        assert pair.subject == "mine"
        for target, text in ((pair.base, "NUMBER = 1\n"), (pair.head, "NUMBER = 2\n")):
            assert (target.cwd / "proxy.py").read_text() == text  # type: ignore[attr-defined]
            assert target.missing() is None


def test_two_revisions_are_timed_and_kept_in_a_history(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = timed(monkeypatch, "pass")
    limits = repo / "limits.yaml"
    limits.write_text("times: {rounds: 8}\n")
    for number in range(5):
        words = ["--base", "auto", "--target", COMMAND, "--history", "history.jsonl", "--limits", "limits.yaml"]
        assert console.gate([*words, "--out", f"out{number}"]) == 0
    assert [pair.base.name for pair in seen] == ["base"] * 5
    assert "limit times.rounds: 8 instead of 5 (limits.yaml)" in (repo / "out0" / "summary.md").read_text()
    assert len((repo / "history.jsonl").read_text().splitlines()) == 5
    assert json.loads((repo / "out0" / "gate.json").read_text())["sides"]["base"]["revision"]
    capsys.readouterr()
    assert console.gate(["trend", "--history", "history.jsonl"]) == 0
    assert "5 run(s), 1 series on 1 machine(s), 0 of them changed their level" in capsys.readouterr().out


def test_u18_what_could_not_be_measured_ends_in_1_where_it_is_required(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, "pass", "could-not-measure")
    assert console.gate(["--target", COMMAND, "--out", "a"]) == gate.COULD_NOT_MEASURE
    assert console.gate(["--target", COMMAND, "--out", "b", "--require-measured"]) == gate.REGRESSION
    assert (
        console.gate(["--base", "HEAD~7", "--out", "c"]) == gate.COULD_NOT_MEASURE
    )  # refused before anything is timed
    assert console.gate(["--base", "HEAD~7", "--out", "d", "--require-measured"]) == gate.REGRESSION
    timed(monkeypatch, "pass")
    assert console.gate(["--target", COMMAND, "--out", "e", "--require-measured"]) == gate.PASSED


def test_a_history_is_read_from_a_branch_too(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "h.jsonl").write_text(json.dumps({"schema": 1, "id": "a", "values": []}) + "\n")
    do(repo, "checkout", "--quiet", "-b", "gate-history")
    do(repo, "add", "h.jsonl")
    do(repo, "commit", "--quiet", "-m", "history")
    do(repo, "checkout", "--quiet", "main")
    assert console.gate(["trend", "--history", "gate-history:h.jsonl"]) == 0
    assert "1 run(s), none of them with values" in capsys.readouterr().out


@pytest.mark.parametrize(("history", "code"), [("absent.jsonl", 69), ("absent:absent.jsonl", 69), (".", 65)])
def test_a_history_that_is_not_there_is_a_sentence(
    repo: Path, history: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.gate(["trend", "--history", history]) == code
    assert "--history" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["mine=http://127.0.0.1:1", "mine=./proxy", "mine"])
def test_only_a_command_has_revisions(text: str) -> None:
    with pytest.raises(UsageRefusal, match="--target"):
        given.command_of(text)


@pytest.mark.parametrize(
    "words",
    [
        ["--target", COMMAND, "--target-base", "a=relay", "--target-head", "b=relay"],
        ["--target", COMMAND, "--levels", "L1"],
        ["--target", COMMAND, "--repeat", "3"],
        ["trend"],
    ],
)
def test_options_that_contradict_each_other_are_64(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(words) == 64
    assert capsys.readouterr().err
