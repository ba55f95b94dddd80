"""git, asked about the folder that is named and about no other.

A git hook runs with variables that name the repository, the index and the files of the commit being made. With
`commit -a` or `commit FILE` that is a temporary index: a `git worktree add` that sees it empties the user's commit. So
every call of ours leaves those variables out.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

LOCAL_VARIABLES: Final = frozenset(
    f"GIT_{name}"
    for name in (
        "ALTERNATE_OBJECT_DIRECTORIES", "COMMON_DIR", "CONFIG", "DIR", "GRAFT_FILE", "IMPLICIT_WORK_TREE", "INDEX_FILE",
        "INTERNAL_SUPER_PREFIX", "NO_REPLACE_OBJECTS", "OBJECT_DIRECTORY", "PREFIX", "QUARANTINE_PATH",
        "REPLACE_REF_BASE", "SHALLOW_FILE", "WORK_TREE",
    )
)  # fmt: skip
"""`git rev-parse --local-env-vars`, and the quarantine of pre-receive. Without GIT_CONFIG_COUNT and
GIT_CONFIG_PARAMETERS, which hold settings such as safe.directory and no place (git does the same for submodules)."""


def environment(variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """`variables` (ours if None) without those that name a repository; messages in English, no questions asked, and
    nothing written to the index of whoever is only looked at."""
    source = os.environ if variables is None else variables
    kept = {name: value for name, value in source.items() if name not in LOCAL_VARIABLES}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def run(root: Path, *words: str, timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """`git -C root WORDS`, whatever its exit code. Raises OSError where there is no git, TimeoutExpired."""
    return plain(["git", "-C", str(root), *words], timeout_s=timeout_s)


def ask(root: Path, *words: str, timeout_s: float | None = None) -> str | None:
    """What git says, None if it refuses, is not installed or takes longer than `timeout_s`."""
    try:
        done = run(root, *words, timeout_s=timeout_s)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def plain(
    command: Sequence[str], cwd: Path | None = None, *, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Any command that may call git below (pip does): run with `environment`, its output kept."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=timeout_s,
    )
