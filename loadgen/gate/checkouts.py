"""Two revisions side by side: git worktrees in a temporary folder, each with the Python environment its lock asks for.

Only commits are measured. The folder's name holds our pid, so that a worktree left by a killed gate (nothing can run
after SIGKILL) is recognised and removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.errors import Missing, Refusal
from reports.gate import COULD_NOT_MEASURE, Side

_PREFIX = "proxy-engines-gate-"
_LOCK = "requirements.lock"
_RELATIVE = re.compile(r"(.+?)(?:[~^]\d*)+")
# An editable install finds what a checkout lacks in the working tree: a module that a revision forgot to commit would
# seem to be there. Python imports this file at its start, after the install's own hook.
_ONLY_HERE = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]
"""
Say = Callable[[str], None]


class CannotMeasure(Refusal):
    """There is nothing to compare with: no history, no parent, a side that cannot be built."""

    exit_code = COULD_NOT_MEASURE


@dataclass(frozen=True, slots=True)
class Checkout:
    """One revision's files and the interpreter that runs them. `name`: base or head. `site`: see _ONLY_HERE."""

    name: str
    path: Path
    python: str
    side: Side
    site: Path | None = None

    @property
    def env(self) -> dict[str, str]:
        """What makes its interpreter import its files and no others of ours, wherever it is started."""
        places = [str(place) for place in (self.path, self.site) if place is not None]
        return {"PYTHONPATH": os.pathsep.join(places), "PYTHONSAFEPATH": "1"}

    def module(self, *words: str) -> list[str]:
        """The command of `python -m ...`; run it with `env`."""
        return [self.python, "-m", *words]


def repository(start: Path) -> Path:
    """The root of the git repository around `start`. Raises CannotMeasure or Missing."""
    if shutil.which("git") is None:
        raise Missing("git is not installed, and the gate compares commits")
    root = _git(start, "rev-parse", "--show-toplevel")
    if root is None:
        raise CannotMeasure(f"{start} is not in a git repository: there is no history to compare with")
    return Path(root)


def is_dirty(root: Path) -> bool:
    """Whether files differ from HEAD."""
    return bool(_git(root, "status", "--porcelain", "--untracked-files=no"))


def resolve(root: Path, name: str) -> Side:
    """The commit called `name`. Raises Missing, or CannotMeasure for a parent that is not there."""
    revision = None if name.startswith("-") else _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if revision is not None:
        subject = _git(root, "log", "-1", "--format=%s", revision) or ""
        return Side(name=name, revision=revision, subject=subject)
    relative = _RELATIVE.fullmatch(name)
    if relative and _git(root, "rev-parse", "--verify", "--quiet", f"{relative[1]}^{{commit}}") is not None:
        shallow = _git(root, "rev-parse", "--is-shallow-repository") == "true"
        hint = "this clone is shallow: git fetch --deepen=1" if shallow else "it is the first commit"
        raise CannotMeasure(f"{name}: {relative[1]} has no such parent to compare with ({hint})")
    if _git(root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        raise CannotMeasure("the repository has no commit yet: there is nothing to compare")
    raise Missing(f"{name}: no such revision in {root}")


@contextlib.contextmanager
def checked_out(root: Path, sides: Mapping[str, Side], say: Say) -> Iterator[dict[str, Checkout]]:
    """A worktree for each side (base, head) and its environment; all gone afterwards, also after Ctrl-C.

    Raises CannotMeasure for a side that cannot be built.
    """
    _remove_orphans(root)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        found = {}
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(_ONLY_HERE, encoding="utf-8")
        for name, side in sides.items():
            path = folder / name  # base and head: equally long, so that no buffer grows with the path
            _add_worktree(root, path, side)
            python = _environment(root, path, name, say)
            _compile(path, python, name)
            found[name] = Checkout(name, path, python, side, site)
        yield found
    finally:
        for name in sides:
            _git(root, "worktree", "remove", "--force", str(folder / name))
        shutil.rmtree(folder, ignore_errors=True)
        _git(root, "worktree", "prune")


def _add_worktree(root: Path, path: Path, side: Side) -> None:
    done = _run(["git", "-C", str(root), "worktree", "add", "--quiet", "--detach", str(path), side.revision])
    if done.returncode != 0:
        raise CannotMeasure(f"{side.name}: git cannot check it out: {_last_line(done.stderr)}")


def _remove_orphans(root: Path) -> None:
    for line in (_git(root, "worktree", "list", "--porcelain") or "").splitlines():
        path = Path(line.removeprefix("worktree "))
        match = re.match(rf"{_PREFIX}(\d+)-", path.parent.name)
        if line.startswith("worktree ") and match and not Path("/proc", match[1]).exists():
            _git(root, "worktree", "remove", "--force", str(path))
            shutil.rmtree(path.parent, ignore_errors=True)
    _git(root, "worktree", "prune")


def _environment(root: Path, path: Path, name: str, say: Say) -> str:
    """The interpreter for a checkout: ours if it locks what we run with, else one made for its lock and kept."""
    wanted = _text(path / _LOCK)
    if wanted is None or wanted == _text(root / _LOCK):
        return sys.executable
    digest = hashlib.sha256(f"{platform.python_version()}\n{wanted}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxy-engines" / f"env-{digest}"
    python = cache / "bin" / "python"
    if not (cache / "complete").exists():
        say(f"{name} locks other packages: making an environment for it in {cache}")
        shutil.rmtree(cache, ignore_errors=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(cache)], [*pip, "-r", str(path / _LOCK)]):
            done = _run(command)
            if done.returncode != 0:
                raise CannotMeasure(f"{name} cannot be built: {_LOCK} does not install: {_last_line(done.stderr)}")
        (cache / "complete").touch()
    return str(python)


def _compile(path: Path, python: str, name: str) -> None:
    """Bytecode beforehand: the first start of a fresh worktree would do other work than the second."""
    if not (path / "proxy").is_dir():
        raise CannotMeasure(f"{name} cannot be built: it has no proxy package")
    done = _run([python, "-m", "compileall", "-q", "proxy"], path)
    if done.returncode != 0:
        raise CannotMeasure(f"{name} cannot be built: {_last_line(done.stdout + done.stderr)}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _git(root: Path, *words: str) -> str | None:
    """What git says, None if it refuses."""
    done = _run(["git", "-C", str(root), *words])
    return done.stdout.strip() if done.returncode == 0 else None


def _run(command: Sequence[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def machine_class() -> str:
    """What counts depend on besides the code: processor family, vector unit (string functions), C library, Python."""
    libc = "".join(platform.libc_ver()) or "libc"
    return "-".join((platform.system().lower(), platform.machine(), _vectors(), libc, f"py{platform.python_version()}"))


def _vectors() -> str:
    """The widest vector unit: the C library chooses its memcpy by it."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        for name in ("avx512f", "avx2", "sse4_2", "asimd"):
            if f" {name}" in flags:
                return name
    return "plain"
