"""`make mutation`: how many small faults, seeded one at a time into what decides, the pure tests notice.

    python -m tests.mutation [--children N]

mutmut seeds them and runs, for each, the tests that reach it; `[tool.mutmut]` in pyproject.toml says where and by which
tests. Needs mutmut, which `make mutation` installs. `mutants/` keeps what survived: `mutmut browse` shows it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
WANTED = 0.90
NOTICED = {"killed", "timeout"}  # a fault that makes an endless loop is noticed, too
RESULT = re.compile(r"^\s*(\S+)\.x\S*__mutmut_\d+: (.+)$", re.MULTILINE)


def mutmut(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mutmut", *arguments]


def rates(results: str) -> dict[str, Counter[str]]:
    """By module, how many mutants came to which end: from the lines of `mutmut results --all true`."""
    found: dict[str, Counter[str]] = {}
    for module, end in RESULT.findall(results):
        found.setdefault(module, Counter())[end.strip()] += 1
    return found


def table(found: dict[str, Counter[str]]) -> tuple[str, float]:
    """The rates for people, and the rate of all."""
    everything: Counter[str] = sum(found.values(), Counter())
    width = max(map(len, found))
    lines = []
    for module, ends in [*sorted(found.items()), ("all", everything)]:
        noticed = sum(ends[end] for end in NOTICED)
        others = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()) if end not in NOTICED)
        lines.append(f"{module:{width}}  {noticed:5} of {ends.total():5}  {noticed / ends.total():6.1%}  {others}")
    return "\n".join(lines), sum(everything[end] for end in NOTICED) / everything.total()


def main(argv: Sequence[str] | None = None) -> int:
    """Run all of it; 0 when the rate is what it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--children", type=int, default=os.cpu_count(), help="processes at once (default: %(default)s)")
    options = parser.parse_args(argv)
    shutil.rmtree(ROOT / "mutants", ignore_errors=True)  # results of an older state would be kept
    code = subprocess.run(mutmut("run", "--max-children", str(options.children)), cwd=ROOT, check=False).returncode
    if code:
        return code
    results = subprocess.run(mutmut("results", "--all", "true"), cwd=ROOT, capture_output=True, text=True, check=True)
    text, rate = table(rates(results.stdout))
    print(f"\n{text}")
    return int(rate < WANTED)


if __name__ == "__main__":
    sys.exit(main())
