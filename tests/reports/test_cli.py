from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reports import cli, render
from reports.cli import main


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Defaults are paths under the current folder: each test has one of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("undrawn")
def test_report_prints_the_verdicts_and_where_the_page_is(
    copied: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied()
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("chat: Olla is faster")
    assert out[-1] == f"report: {folder / 'report.html'}"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["report", "absent"], 65, "absent: no such folder"),
        (["report", "."], 65, "is this a campaign folder"),
        (["report"], 69, "there is no reports/runs/latest; run `proxy-engines compare` first"),
        (["report", "a", "b"], 64, "unexpected extra argument"),
        (["nonsense"], 64, "No such command 'nonsense'"),
        (["report", "--nonsense"], 64, "--nonsense"),
        ([], 64, "Missing command; see --help"),
        (["choose"], 64, "Missing option '--rate'"),
        (["choose", "--rate", "many", "--endpoints", "2"], 64, "--rate"),
        (["choose", "--rate", "0", "--endpoints", "2"], 64, "--rate"),
        (["choose", "--rate", "1", "--endpoints", "2", "--from", "nowhere"], 65, "neither a campaign nor a verdict"),
        (["choose", "--rate", "1", "--endpoints", "2", "--slo", "speed=1"], 64, "'speed' is not a metric"),
        (["choose", "--rate", "1", "--endpoints", "2", "--slo", "gc_count=few"], 64, "'few' is not a number"),
    ],
)
def test_an_error_is_one_sentence_on_stderr_with_its_exit_code(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    seen = capsys.readouterr()
    assert says in seen.err
    assert "Traceback" not in seen.err
    assert seen.out == ""


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError("x / 0"), 70), (KeyboardInterrupt(), 130)])
def test_what_nobody_foresaw_has_no_traceback_unless_asked_for(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path, others: list[Path]) -> None:
        raise error

    monkeypatch.setattr(render, "build_report", fail)
    assert main(["report", "."]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert main(["report", ".", "--debug"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (code == 70)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert {"report", "choose"} <= set(capsys.readouterr().out.split())


def test_choose_answers_in_words_and_in_json(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["choose", "--rate", "60", "--endpoints", "2", "--tokens", "24", "--from", str(small)]
    assert main(asked) == 0
    words = capsys.readouterr().out
    assert words.startswith(("Olla: ", "Sherpa: "))
    assert "Break-even: Olla saves 5 % of a core" in words
    assert main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["engine"] in ("olla", "sherpa")
    # The synthetic truth: 186 us a request and 45 us an event for sherpa, 22 and 20 for olla.
    truths = {"sherpa": 60 * (186 + 24 * 45) / 1e6, "olla": 60 * (22 + 24 * 20) / 1e6}
    for cost in answer["costs"]:
        assert cost["error"] < 0.5
        assert cost["cores"] == pytest.approx(truths[cost["engine"]], rel=cost["error"])


def test_choose_answers_on_a_fresh_clone_from_what_is_published(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert elsewhere.is_dir()  # no campaign of its own
    assert main(["choose", "--rate", "500", "--endpoints", "4"]) == 0
    assert "2026-11-25-full" in capsys.readouterr().out
    assert main(["choose", "--rate", "500", "--endpoints", "4", "--from", "2026-11-26-full", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ratio"]["low"] < answer["ratio"]["value"] < answer["ratio"]["high"]
    assert all("20261126" in where for where in answer["evidence"])


def test_choose_refuses_outside_the_measured_range(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["choose", "--rate", "100000", "--endpoints", "2", "--from", str(small)]) == cli.OUTSIDE
    assert "outside the measured range" in capsys.readouterr().err


def test_the_package_answers_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "reports", "nonsense"], capture_output=True, text=True, check=False,
                          cwd=Path(cli.__file__).parent.parent)  # fmt: skip
    assert done.returncode == 64
    assert done.stderr.startswith("proxy-engines: No such command")
