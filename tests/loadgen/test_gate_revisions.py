"""The gate in other people's repositories: hooks, clones of other users, branches that only the server has.

U1, U7, U8 and U15 of the review are pinned here, each by its id.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.bench import git, machine
from loadgen.errors import Missing
from loadgen.gate import checkouts, revisions
from loadgen.gate.revisions import CannotMeasure
from reports.gate import Side
from tests.loadgen import console

HERE = Path(__file__).resolve().parents[2]


def do(root: Path, *words: str) -> str:
    """git in `root`, which must agree."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=git.environment()).stdout.strip()


def commit(root: Path, text: str) -> str:
    (root / "proxy" / "__init__.py").write_text(f"WORD = {text!r}\n")
    do(root, "add", ".")
    do(root, "commit", "--quiet", "-m", text)
    return do(root, "rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in a folder with a space, with two commits on `main`."""
    root = tmp_path / "my proxy"
    (root / "proxy").mkdir(parents=True)
    do(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    commit(root, "one")
    commit(root, "two")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(root)
    for variable in revisions._TARGET_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    return root


# A hook that does what the gate does: both sides checked out and removed.
HOOK = f"""#!/bin/sh
exec {sys.executable} -c '
from pathlib import Path
from loadgen.gate import checkouts, revisions
root = revisions.repository(Path.cwd())
sides = {{name: revisions.resolve(root, rev, print) for name, rev in dict(base="HEAD^", head="HEAD").items()}}
with checkouts.checked_out(root, sides, print) as found:
    assert len(found) == 2
'
"""


@pytest.mark.parametrize("how", [["-a"], ["proxy/__init__.py"], ["--only", "proxy/__init__.py"], []])
def test_u1_a_commit_whose_hook_runs_the_gate_keeps_what_was_committed(repo: Path, how: list[str]) -> None:
    hook = repo / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (repo / "proxy" / "__init__.py").write_text("WORD = 'three'\n")
    if not how:
        do(repo, "add", ".")
    env = {**git.environment(), "PYTHONPATH": str(HERE)}
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, "commit", "-m", "three", *how]
    done = subprocess.run(command, cwd=repo, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert do(repo, "show", "HEAD:proxy/__init__.py") == "WORD = 'three'"
    assert do(repo, "ls-tree", "-r", "--name-only", "HEAD") == "proxy/__init__.py"
    assert do(repo, "status", "--porcelain") == ""
    assert do(repo, "worktree", "list").count("\n") == 0


def test_u1_no_variable_that_names_a_repository_reaches_git(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = subprocess.run(["git", "rev-parse", "--local-env-vars"], capture_output=True, text=True, check=True)
    settings = {"GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS"}
    assert set(local.stdout.split()) - settings <= git.LOCAL_VARIABLES
    for name in git.LOCAL_VARIABLES:
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "0")
    assert not git.LOCAL_VARIABLES & set(git.environment())
    assert git.environment()["GIT_CONFIG_COUNT"] == "0"
    assert revisions.repository(repo) == repo
    assert machine.git_revision(repo) is not None


def test_u7_a_clone_of_another_user_is_not_called_no_repository(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Git's own switch for its tests: as if the folder belonged to somebody else.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("HOME", str(repo.parent))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    with pytest.raises(Missing, match=r"safe\.directory"):
        revisions.repository(repo)
    assert console.gate(["--out", str(repo / "out")]) == 69  # not 2, which CI lets pass
    assert "git config --global --add safe.directory" in " ".join(capsys.readouterr().out.split())


def cloned(repo: Path, branch: str = "change") -> Path:
    """A clone with a branch of its own that has one commit, while `main` has gone on by one; no local `main`."""
    clone = repo.parent / "clone"
    do(repo.parent, "clone", "--quiet", str(repo), str(clone))
    do(clone, "checkout", "--quiet", "-b", branch)
    commit(clone, "mine")
    commit(repo, "theirs")
    do(clone, "fetch", "--quiet")
    do(clone, "branch", "--quiet", "-D", "main")
    return clone


def test_u8_a_branch_that_only_the_server_has_is_taken_and_said(repo: Path) -> None:
    clone = cloned(repo)
    said: list[str] = []
    found = revisions.resolve(clone, "main", said.append)
    assert found.revision == do(repo, "rev-parse", "main")
    assert said == ["main is no revision here; origin/main is, and is taken"]


def test_u8_an_unknown_name_is_refused_with_the_branches_there_are(repo: Path) -> None:
    with pytest.raises(Missing, match=r"nonsense: no such revision in .* and no origin/nonsense either; .*: main"):
        revisions.resolve(repo, "nonsense", print)


@pytest.mark.parametrize(
    "variables", [{}, {"GITHUB_BASE_REF": "main"}, {"SYSTEM_PULLREQUEST_TARGETBRANCH": "refs/heads/main"}]
)
def test_u8_auto_is_the_merge_base_with_the_branch_a_change_is_meant_for(repo: Path, variables: dict[str, str]) -> None:
    clone = cloned(repo)
    said: list[str] = []
    head = revisions.resolve(clone, "HEAD", said.append)
    base = revisions.base_of(clone, "auto", head, said.append, variables)
    assert base.revision == do(repo, "rev-parse", "main^")
    assert base.name == "merge base with origin/main"
    assert base.revision[:12] in said[-1]


def test_u8_auto_on_the_branch_itself_is_the_parent(repo: Path) -> None:
    said: list[str] = []
    head = revisions.resolve(repo, "HEAD", said.append)
    assert revisions.base_of(repo, "auto", head, said.append, {}).revision == do(repo, "rev-parse", "HEAD^")
    assert "compared with its parent" in said[-1]


def test_u8_a_shallow_clone_says_what_to_fetch(repo: Path) -> None:
    clone = repo.parent / "shallow"
    do(repo, "checkout", "--quiet", "-b", "change", "main^")
    commit(repo, "mine")
    source = f"file://{repo}"
    do(repo.parent, "clone", "--quiet", "--depth=1", "--no-single-branch", source.replace(" ", "%20"), str(clone))
    head = revisions.resolve(clone, "HEAD", print)
    with pytest.raises(CannotMeasure, match="fetch-depth: 0"):
        revisions.base_of(clone, "auto", head, print, {"GITHUB_BASE_REF": "main"})


def test_u8_a_base_that_went_on_is_said(repo: Path) -> None:
    clone = cloned(repo)
    said: list[str] = []
    revisions.base_of(clone, "origin/main", revisions.resolve(clone, "HEAD", said.append), said.append)
    assert "origin/main has 1 commit(s) that HEAD lacks" in said[-1]


def test_u15_an_installed_copy_does_not_take_the_users_commit_for_its_own(repo: Path) -> None:
    installed = repo / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    assert "revision" not in machine.versions(installed)
    assert machine.git_revision(repo) is not None


def test_a_worktree_in_a_folder_with_a_space_is_checked_out(repo: Path) -> None:
    found = {name: Side(name=name, revision=do(repo, "rev-parse", name)) for name in ("HEAD^", "HEAD")}
    sides = {"base": found["HEAD^"], "head": found["HEAD"]}
    with checkouts.checked_out(repo, sides, print) as trees:
        assert (trees["base"].path / "proxy" / "__init__.py").read_text() == "WORD = 'one'\n"
        assert os.fspath(trees["head"].path).endswith("head")
