import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulation import patches

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
# Runs in the patched copy, which its working directory puts first on the path.
SWEEP = """
import json, sys
from tests.simulation.runner import sweep
tally = sweep(int(sys.argv[1]), int(sys.argv[2]), until_found=True)
kinds = [[kind.name, kind.first_world, kind.text] for kind in tally.kinds.values()]
print(json.dumps({"exchanges": tally.exchanges, "kinds": kinds}))
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one patch."""

    name: str
    exchanges: int
    kinds: list[Any]  # name, first world, text of each finding
    why: str  # what the bug is


def names() -> list[str]:
    """The patches, B1 before B10."""
    return sorted((path.stem for path in HERE.glob("*.patch")), key=lambda name: int(name[1:]))


def try_patch(name: str, seed: int, exchanges: int) -> Row:
    """Apply a patch to a copy and run worlds there until something is found. Raises CalledProcessError."""
    patch = HERE / f"{name}.patch"
    with tempfile.TemporaryDirectory() as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "proxy", Path(folder, "proxy"), ignore=ignored)
        shutil.copytree(ROOT / "tests" / "simulation", Path(folder, "tests", "simulation"), ignore=ignored)
        Path(folder, "tests", "__init__.py").touch()
        subprocess.run(["git", "apply", str(patch)], cwd=folder, check=True)
        command = [sys.executable, "-c", SWEEP, str(seed), str(exchanges)]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    return Row(name, result["exchanges"], result["kinds"], patch.read_text().partition("\n")[0])


def line(row: Row) -> str:
    """A row for people."""
    found = f"{row.exchanges:9,}" if row.kinds else "not found"
    kinds = ", ".join(kind for kind, _, _ in row.kinds)
    return f"{row.name:4} {found:>9}  {kinds:60} {row.why}"


def main(argv: Sequence[str] | None = None) -> int:
    """Try the patches named, or all; 0 when each was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.patches", description=str(patches.__doc__).partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; default: all of {', '.join(names())}")
    parser.add_argument("--exchanges", type=int, default=100_000, help="at most, for each (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the worlds (default: %(default)s)")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.names) - set(names()))
    if unknown:
        parser.error(f"{unknown[0]}: not a patch; there are {', '.join(names())}")
    print(f"{'bug':4} {'exchanges':>9}  {'found as':60} what it is", flush=True)
    missed = 0
    for name in options.names or names():
        row = try_patch(name, options.seed, options.exchanges)
        missed += not row.kinds
        print(line(row), flush=True)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
