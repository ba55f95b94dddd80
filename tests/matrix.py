"""`make test-matrix`: the contract suite once more for each thing that may be chosen, and a table of how it went.

    python -m tests.matrix [--list] [NAME ...]

The plain loop, each of Olla's switches off alone, and two workers as processes. `make test` runs it with the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SUITE = "tests/contract"

# Where the number of workers can make a difference; how bytes are read is the same in each of them.
SHARED_BY_WORKERS = (
    "selecting", "retry", "truth", "timeouts", "client_gone", "errors", "streaming", "stats", "health", "loops_ssrf",
    "life",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """One run of the suite."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    engines: str = "sherpa,olla"
    loop: str = "uvloop"
    workers: int = 1
    arguments: tuple[str, ...] = (SUITE,)

    def environment(self) -> dict[str, str]:
        """What tests/contract/running.py and conftest.py read."""
        return {
            **os.environ,
            "PROXY_ENGINES_TEST_LOOP": self.loop,
            "PROXY_ENGINES_TEST_SET": json.dumps(self.settings),
            "PROXY_ENGINES_TEST_WORKERS": str(self.workers),
            "PROXY_ENGINES_TEST_ENGINES": self.engines,
        }


CHOICES = (
    Choice("plain-loop", loop="asyncio"),
    Choice("no-per-endpoint-pools", {"proxy.pools.per_endpoint": False}, "olla"),
    Choice("pooled-buffers", {"proxy.pools.buffers": True}, "olla"),
    Choice("no-pooled-contexts", {"proxy.pools.contexts": False}, "olla"),
    Choice("no-pooled-errors", {"proxy.pools.errors": False}, "olla"),
    Choice("no-breaker", {"proxy.circuit_breaker.enabled": False}, "olla"),
    Choice("flush-every-read", {"proxy.flush.policy": "every-read"}, "olla"),
    Choice(
        "two-workers",
        workers=2,
        arguments=("-m", "not one_worker", *(f"{SUITE}/test_{name}.py" for name in SHARED_BY_WORKERS)),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run. `failures` are test ids; without any and with `code` set, pytest itself failed."""

    choice: Choice
    passed: int
    failures: list[str]
    seconds: float
    code: int


def run(choice: Choice) -> Outcome:
    """Run the suite with one choice; its output passes through."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        began = time.monotonic()
        code = subprocess.run([*command, *choice.arguments], cwd=ROOT, env=choice.environment(), check=False).returncode
        seconds = time.monotonic() - began
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    failures = sorted({f"{case.get('classname')}::{case.get('name')}" for case in bad})
    return Outcome(choice, len(cases) - len(bad), failures, seconds, code)


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes for people."""
    width = max(len(outcome.choice.name) for outcome in outcomes)
    lines = [f"{'choice':{width}}  {'passed':>6}  {'failed':>6}  {'seconds':>7}"]
    for outcome in outcomes:
        lines.append(
            f"{outcome.choice.name:{width}}  {outcome.passed:6}  {len(outcome.failures):6}  {outcome.seconds:7.0f}"
            + (f"  pytest ended with {outcome.code}" if outcome.code > 1 else "")
        )
        lines += [f"{'':{width}}  {failure}" for failure in outcome.failures]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the choices named, or all; 0 when nothing failed."""
    names = [choice.name for choice in CHOICES]
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description="the contract suite for each choice")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which ones; default: all of {', '.join(names)}")
    parser.add_argument("--list", action="store_true", help="print the names and leave")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"{unknown[0]}: not a choice; there are {', '.join(names)}")
    if options.list:
        print("\n".join(names))
        return 0
    outcomes = []
    for choice in CHOICES:
        if not options.names or choice.name in options.names:
            print(f"\n=== {choice.name}", flush=True)
            outcomes.append(run(choice))
    print("\n" + table(outcomes))
    return int(any(outcome.code for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
