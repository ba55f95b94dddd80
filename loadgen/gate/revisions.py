"""Which commits are compared: names as people and CI type them, and the merge base with a pull request's target."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from loadgen.bench import git
from loadgen.errors import Missing, Refusal
from reports.gate import COULD_NOT_MEASURE, Side

AUTO: Final = "auto"
"""As `--base`: the merge base of head and the branch it is meant for."""

Say = Callable[[str], None]

_RELATIVE = re.compile(r"(.+?)(?:[~^]\d*)+")
# Where a CI system says which branch a change is meant for: GitHub, GitLab, Jenkins, Bitbucket, Azure Pipelines.
_TARGET_VARIABLES = (
    "GITHUB_BASE_REF", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CHANGE_TARGET", "BITBUCKET_PR_DESTINATION_BRANCH",
    "SYSTEM_PULLREQUEST_TARGETBRANCH",
)  # fmt: skip
_USUAL_BRANCHES = ("main", "master")
_DEEPEN = "this clone is shallow: `git fetch --unshallow`, or in a workflow actions/checkout with `fetch-depth: 0`"


class CannotMeasure(Refusal):
    """There is nothing to compare with: no history, no parent, a side that cannot be built."""

    exit_code = COULD_NOT_MEASURE


def repository(start: Path) -> Path:
    """The root of the git repository around `start`. Raises CannotMeasure or Missing."""
    if shutil.which("git") is None:
        raise Missing("git is not installed, and the gate compares commits")
    done = git.run(start, "rev-parse", "--show-toplevel")
    if done.returncode == 0:
        return Path(done.stdout.removesuffix("\n"))
    if "not a git repository" in done.stderr:
        raise CannotMeasure(f"{start} is not in a git repository: there is no history to compare with")
    # Git knows the cure, e.g. `git config --global --add safe.directory ...` for a clone of another user.
    raise Missing(f"git does not read the repository around {start}: {' '.join(done.stderr.split())}")


def is_dirty(root: Path) -> bool:
    """Whether files differ from HEAD."""
    return bool(git.ask(root, "status", "--porcelain", "--untracked-files=no"))


def resolve(root: Path, name: str, say: Say) -> Side:
    """The commit called `name`, or `origin/name` where only that exists, which is said.

    Raises Missing, or CannotMeasure for a parent that is not there.
    """
    if (revision := _commit(root, name)) is not None:
        return _side(root, name, revision)
    relative = _RELATIVE.fullmatch(name)
    if relative and _commit(root, relative[1]) is not None:
        hint = _DEEPEN if _is_shallow(root) else "it is the first commit"
        raise CannotMeasure(f"{name}: {relative[1]} has no such parent to compare with ({hint})")
    if _commit(root, "HEAD") is None:
        raise CannotMeasure("the repository has no commit yet: there is nothing to compare")
    if (revision := _commit(root, f"origin/{name}")) is not None:
        say(f"{name} is no revision here; origin/{name} is, and is taken")
        return _side(root, f"origin/{name}", revision)
    raise Missing(f"{name}: no such revision in {root}, and no origin/{name} either{_branches(root)}")


def base_of(root: Path, name: str, head: Side, say: Say, variables: Mapping[str, str] | None = None) -> Side:
    """The commit that `head` is compared with: what `--base` names, or with `auto` the merge base with the branch that
    head is meant for. Raises Missing, CannotMeasure."""
    if name != AUTO:
        base = resolve(root, name, say)
        behind = git.ask(root, "rev-list", "--count", f"{head.revision}..{base.revision}")
        if behind not in (None, "0"):
            say(
                f"{base.name} has {behind} commit(s) that {head.name} lacks; they count as head's differences. "
                "`--base auto` compares with the merge base"
            )
        return base
    branch = _target_branch(root, os.environ if variables is None else variables)
    target = resolve(root, branch, say)
    merged = git.ask(root, "merge-base", target.revision, head.revision)
    if merged is None:
        hint = _DEEPEN if _is_shallow(root) else "they have no history in common"
        raise CannotMeasure(f"--base auto: {head.name} and {target.name} have no merge base ({hint})")
    if merged == head.revision:  # head is on the branch already: its parent is what it changed
        say(f"--base auto: {head.name} is part of {target.name} already; it is compared with its parent")
        return resolve(root, f"{head.name}^", say)
    say(f"--base auto: the merge base of {head.name} and {target.name}, {merged[:12]}")
    return _side(root, f"merge base with {target.name}", merged)


def _target_branch(root: Path, variables: Mapping[str, str]) -> str:
    """The branch that a change is meant for: what CI says, else what origin says, else main or master."""
    for variable in _TARGET_VARIABLES:
        if branch := variables.get(variable, "").removeprefix("refs/heads/"):
            # The branch as the server has it: a local one of that name may be older.
            return f"origin/{branch}" if _commit(root, f"origin/{branch}") else branch
    default = git.ask(root, "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD")
    candidates = [default] if default else []
    candidates += [f"origin/{name}" for name in _USUAL_BRANCHES] + list(_USUAL_BRANCHES)
    for branch in candidates:
        if _commit(root, branch) is not None:
            return branch
    raise Missing(
        f"--base auto: no pull request is known ({', '.join(_TARGET_VARIABLES[:2])} are not set) and there is no "
        f"branch {' or '.join(_USUAL_BRANCHES)}; name the base with --base REV{_branches(root)}"
    )


def _branches(root: Path) -> str:
    names = (git.ask(root, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes") or "").split()
    return f"; branches here: {', '.join(names[:8])}" if names else ""


def _commit(root: Path, name: str) -> str | None:
    if name.startswith("-"):
        return None
    return git.ask(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def _side(root: Path, name: str, revision: str) -> Side:
    return Side(name=name, revision=revision, subject=git.ask(root, "log", "-1", "--format=%s", revision) or "")


def _is_shallow(root: Path) -> bool:
    return git.ask(root, "rev-parse", "--is-shallow-repository") == "true"
