"""The gate in CI of others: workflows that a linter accepts, the action's own script in a scratch repository (U18)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from loadgen.bench import git
from loadgen.gate.cli import app
from loadgen.gate.run import tell_ci
from reports import gate
from reports.gate import GateRun
from tests.loadgen.test_gate_revisions import do

GITHUB = Path(__file__).resolve().parents[2] / ".github"
ACTION = GITHUB / "actions" / "gate"
WORKFLOWS = sorted([*(GITHUB / "workflows").glob("*.yml"), *(GITHUB / "examples").glob("*.yml")])

# Stands in for the command: notes how it was called, writes what the gate writes, ends as it is told.
STAND_IN = """#!/bin/sh
[ "$2" = trend ] && exit 0
printf '%s\\n' "$*" >> "$CALLS"
for word in "$@"; do
  case "$word" in --history=*) echo '{"schema": 1, "values": []}' >> "${word#--history=}";; esac
done
exit "$CODE"
"""


def test_a_linter_accepts_every_workflow_and_example() -> None:
    linter = shutil.which(os.environ.get("ACTIONLINT_BINARY", "actionlint"))
    if linter is None:
        pytest.skip("actionlint is not installed: go install github.com/rhysd/actionlint/cmd/actionlint@latest")
    done = subprocess.run([linter, "-shellcheck=", *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_text_of_others_is_pasted_into_a_script() -> None:
    """Names of revisions and branches come by environment: `${{ }}` in a script is how workflows are broken into."""

    def scripts(tree: Any) -> list[str]:
        if isinstance(tree, dict):
            own = [tree["run"]] if isinstance(tree.get("run"), str) else []
            return own + [text for value in tree.values() for text in scripts(value)]
        return [text for value in tree for text in scripts(value)] if isinstance(tree, list) else []

    for path in [*WORKFLOWS, ACTION / "action.yml"]:
        found = scripts(yaml.safe_load(path.read_text()))
        assert found or "uses:" in path.read_text()
        assert not any("${{" in text for text in found), path


def test_the_script_uses_options_that_there_are() -> None:
    script = (ACTION / "gate.sh").read_text()
    known = {option for one in typer.main.get_command(app).params for option in one.opts}
    used = set(re.findall(r"words(?:\+)?=\(.*", script))
    named = {option for line in used for option in re.findall(r"--[a-z-]+", line)}
    assert {"--base", "--head", "--out", "--target", "--limits", "--history", "--require-measured"} <= named <= known


def test_the_action_and_the_workflow_hand_on_each_of_their_inputs() -> None:
    action = yaml.safe_load((ACTION / "action.yml").read_text())
    env = action["runs"]["steps"][-1]["env"]
    handed = {value.split("inputs.")[1].split(" ")[0] for value in env.values()}
    assert handed == set(action["inputs"]) - {"python-version"}
    workflow = yaml.safe_load((GITHUB / "workflows" / "gate.yml").read_text())
    on = workflow[True]  # YAML 1.1 reads the key `on` as true
    assert on["workflow_call"] == on["workflow_dispatch"]
    (step,) = (one for one in workflow["jobs"]["gate"]["steps"] if one.get("name") == "Gate")
    handed = {value.split("inputs.")[1].split(" ")[0] for value in step["env"].values()}
    assert handed == set(on["workflow_call"]["inputs"])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone, in a folder with a space, of a bare repository with one commit."""
    origin, root = tmp_path / "origin.git", tmp_path / "my proxy"
    do(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(origin))
    do(tmp_path, "clone", "--quiet", str(origin), str(root))
    do(root, "commit", "--quiet", "--allow-empty", "-m", "one")
    do(root, "push", "--quiet", "origin", "HEAD:main")
    program = tmp_path / "bin" / "proxy-engines"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return root


def step(clone: Path, code: int = 0, **inputs: str) -> tuple[int, str]:
    """The action's script; its exit code and how the gate was called."""
    calls = clone.parent / "calls"
    calls.unlink(missing_ok=True)
    path = f"{clone.parent / 'bin'}:{os.environ['PATH']}"
    env = {**git.environment(), "PATH": path, "CALLS": str(calls), "CODE": str(code), **inputs}
    done = subprocess.run([str(ACTION / "gate.sh")], cwd=clone, env=env, capture_output=True, text=True, check=False)
    return done.returncode, calls.read_text() if calls.exists() else done.stderr


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (1, 1), (2, 0), (3, 3), (69, 69)])
def test_the_step_ends_as_the_gate_does_but_for_what_could_not_be_measured(clone: Path, code: int, ends: int) -> None:
    assert step(clone, code)[0] == ends


def test_the_step_passes_texts_on_as_one_word_each(clone: Path) -> None:
    _, called = step(clone, TARGET="mine={python} my proxy.py {port}", BASE="a b; $(touch pwned)", LIMITS="l.yaml")
    assert "--base=a b; $(touch pwned) --head=HEAD" in called
    assert "--target=mine={python} my proxy.py {port} --limits=l.yaml" in called
    assert not (clone / "pwned").exists()
    _, called = step(clone, REQUIRE_MEASURED="true")
    assert called.strip() == (
        "gate --base=auto --head=HEAD --out=gate-result --levels=L0,L1 --engines=olla,sherpa --require-measured"
    )


def test_a_history_grows_by_a_line_on_a_branch_of_its_own(clone: Path) -> None:
    for number in (1, 2, 3):
        assert step(clone, 0, HISTORY_BRANCH="gate-history", HISTORY_PUSH="true")[0] == 0
        do(clone, "fetch", "--quiet", "origin", "gate-history")
        kept = do(clone, "show", "FETCH_HEAD:gate.jsonl").splitlines()
        assert len(kept) == number
        assert json.loads(kept[-1])["schema"] == 1
    origin = clone.parent / "origin.git"
    assert do(origin, "rev-list", "--count", "gate-history") == "3"
    step(clone, 0, HISTORY_BRANCH="gate-history")  # a pull request reads it and does not write
    assert do(origin, "rev-list", "--count", "gate-history") == "3"
    assert do(clone, "status", "--porcelain") == ""


def test_u18_what_could_not_be_measured_is_shown_on_the_page_and_as_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "summary"
    run = GateRun(id="x", started="2026", notes=["no parent, 100 % sure"], exit_code=gate.COULD_NOT_MEASURE)
    tell_ci(run, {})
    assert capsys.readouterr().out == ""
    tell_ci(run, {"GITHUB_STEP_SUMMARY": str(page)})
    assert "## Performance gate: Could not measure" in page.read_text()
    assert capsys.readouterr().out == "::warning title=Performance gate::Could not measure: no parent, 100 %25 sure\n"
