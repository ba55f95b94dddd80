"""The console script: verbs, exit codes, and one clear sentence for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadgen import cli

TRACE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "loadgen", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
    )


def test_help_lists_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['proxy-engines', '--help']\n"
        "from loadgen.cli import main\n"
        "try: main()\n"
        "except SystemExit as exc: assert exc.code == 0\n"
        "heavy = {'pandas', 'numpy', 'locust', 'gevent', 'matplotlib', 'aiohttp', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("compare", "micro", "gate", *cli.ELSEWHERE):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("verb", "module", "words"),
    [
        ("serve", "proxy", ["serve"]),
        ("mock", "mock_backends", []),
        ("report", "reports", ["report"]),
        ("choose", "reports", ["choose"]),
    ],
)
def test_verbs_of_other_packages_replace_the_process_and_pass_everything_on(
    verb: str, module: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []

    class Became(Exception):
        pass

    def execv(program: str, arguments: list[str]) -> None:
        assert program == sys.executable
        became.append(arguments)
        raise Became

    monkeypatch.setattr("os.execv", execv)
    monkeypatch.setattr(sys, "argv", ["proxy-engines", verb, "--help", "--", "--x=1", "a b"])
    with pytest.raises(Became):
        cli.main()
    assert became == [[sys.executable, "-P", "-m", module, *words, "--help", "--", "--x=1", "a b"]]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["compare", "--nonsense"], 64, "No such option"),
        (["nonsense"], 64, "No such command"),
        (["compare", "--rounds", "many"], 64, "Invalid value"),
        (["compare", "--rounds", "0", "--dry-run"], 64, "from 1 to 1000"),
        (["compare", "--profile", "quik", "--dry-run"], 64, "'quik' is not known"),
        (["compare", "--targets", "shepra", "--dry-run"], 64, "did you mean sherpa?"),
        (["compare", "--scenarios", "chat-smal", "--dry-run"], 64, "did you mean chat-small?"),
        (["compare", "--baseline", "nginx", "--dry-run"], 64, "none of the targets"),
        (["compare", "--target", "x", "--dry-run"], 64, "--target x: write NAME=URL"),
        (["compare", "--trace", "no-such.csv", "--dry-run"], 69, "no-such.csv"),
        (["compare", "--trace", "bad.csv", "--dry-run"], 65, "bad.csv"),
        (["compare", "--scenarios", "bad.yaml", "--dry-run"], 65, "bad.yaml"),
        (["compare", "--resume", "no-such-folder"], 69, "no such folder"),
        (["compare", "--resume", "."], 65, "campaign.json"),
        (["compare", "--resume", ".", "--loads", "."], 64, "keeps the loads it began with"),
        *(
            (["compare", "--time", text, "--dry-run"], 64, "such as 90s")
            for text in ("10ms", "inf", "nanm", "0", "-1m")
        ),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_the_documented_exit_code(
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bad.csv").write_text("what,is,this\n1,2,3\n")
    (tmp_path / "bad.yaml").write_text("id: bad\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["proxy-engines", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == code, told
    assert said in told
    assert "Traceback" not in told


def test_a_dry_run_prints_the_plan_and_its_duration_and_starts_nothing(tmp_path: Path) -> None:
    done = run("compare", "--dry-run", "--targets", "direct,relay,no-proxy".removesuffix(",no-proxy"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 rounds of direct, relay" in done.stdout
    assert "chat-small" in done.stdout
    assert "Takes about" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_promises_no_rounds_that_are_to_be_planned_first(tmp_path: Path) -> None:
    done = run("compare", "--dry-run", "--targets", "direct,relay", "--time", "1.5m", cwd=tmp_path)
    assert "starts and seconds are planned first, for direct, relay" in done.stdout
    assert "Takes at most 90 s" in done.stdout
    assert "rounds of direct" not in done.stdout


def test_a_target_that_is_not_installed_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLA_GO_BINARY", str(tmp_path / "nothing-here"))
    done = run("compare", "--dry-run", "--targets", "direct,olla-go-olla", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Not measured: olla-go-olla: olla is not installed" in done.stdout
    alone = run("compare", "--dry-run", "--targets", "olla-go-olla", cwd=tmp_path)
    assert alone.returncode == 69
    assert "none of the targets can be started here" in alone.stderr


def test_a_trace_is_planned_with_every_row_accounted_for(tmp_path: Path) -> None:
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},20" for second in range(30)]
    (tmp_path / "my trace.csv").write_text(TRACE_HEAD + "\n".join([*rows, "garbage,1,2", ""]))
    done = run("compare", "--dry-run", "--trace", "my trace.csv", "--time-scale", "10", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trace-my-trace" in done.stdout
    assert "31 rows read, 30 used" in done.stdout
    assert "chat-small" not in done.stdout


def test_an_internal_error_has_no_traceback_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\n"
        "import loadgen.campaign.plan as c\n"
        "def boom(*a, **k): raise RuntimeError('boom')\n"
        "c.plan = boom\n"
        "import loadgen.campaign.terminal\n"
        "loadgen.campaign.terminal.plan = boom\n"
        "sys.argv = ['proxy-engines', 'compare', '--dry-run', *sys.argv[1:]]\n"
        "from loadgen.cli import main\nmain()\n"
    )

    def outcome(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    quiet = outcome()
    assert quiet.returncode == 70
    assert quiet.stderr == "proxy-engines: internal error: RuntimeError: boom (--debug shows where)\n"
    assert "Traceback" in outcome("--debug").stderr
