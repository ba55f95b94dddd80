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
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loadgen.bench import git
from loadgen.gate.revisions import CannotMeasure, Say
from reports.gate import Side

_PREFIX = "proxy-engines-gate-"
_LOCK = "requirements.lock"
# An editable install finds what a checkout lacks in the working tree: a module that a revision forgot to commit would
# seem to be there. Python imports this file at its start, after the install's own hook.
_ONLY_HERE = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != "_EditableFinder"]
"""


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


@contextlib.contextmanager
def checked_out(root: Path, sides: Mapping[str, Side], say: Say, *, ours: bool = True) -> Iterator[dict[str, Checkout]]:
    """A worktree for each side (base, head) and its environment; all gone afterwards, also after Ctrl-C.

    `ours`: whether they hold this project; somebody else's proxy brings its environment in its command. Raises
    CannotMeasure for a side that cannot be built.
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
            python = sys.executable
            if ours:
                python = _environment(root, path, name, say)
                _compile(path, python, name)
            found[name] = Checkout(name, path, python, side, site)
        yield found
    finally:
        for name in sides:
            git.ask(root, "worktree", "remove", "--force", str(folder / name))
        shutil.rmtree(folder, ignore_errors=True)
        git.ask(root, "worktree", "prune")


def _add_worktree(root: Path, path: Path, side: Side) -> None:
    done = git.run(root, "worktree", "add", "--quiet", "--detach", str(path), side.revision)
    if done.returncode != 0:
        raise CannotMeasure(f"{side.name}: git cannot check it out: {_last_line(done.stderr)}")


def _remove_orphans(root: Path) -> None:
    for line in (git.ask(root, "worktree", "list", "--porcelain") or "").splitlines():
        path = Path(line.removeprefix("worktree "))
        match = re.match(rf"{_PREFIX}(\d+)-", path.parent.name)
        if line.startswith("worktree ") and match and not Path("/proc", match[1]).exists():
            git.ask(root, "worktree", "remove", "--force", str(path))
            shutil.rmtree(path.parent, ignore_errors=True)
    git.ask(root, "worktree", "prune")


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
            done = git.plain(command)
            if done.returncode != 0:
                raise CannotMeasure(f"{name} cannot be built: {_LOCK} does not install: {_last_line(done.stderr)}")
        (cache / "complete").touch()
    return str(python)


def _compile(path: Path, python: str, name: str) -> None:
    """Bytecode beforehand: the first start of a fresh worktree would do other work than the second."""
    if not (path / "proxy").is_dir():
        raise CannotMeasure(f"{name} cannot be built: it has no proxy package")
    done = git.plain([python, "-m", "compileall", "-q", "proxy"], path)
    if done.returncode != 0:
        raise CannotMeasure(f"{name} cannot be built: {_last_line(done.stdout + done.stderr)}")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


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
