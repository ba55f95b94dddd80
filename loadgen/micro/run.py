"""`micro`: runs every benchmark of `bench_*.py` by pyperf, keeps pyperf's own files beside ours, prints a table.

Each benchmark runs in processes of its own, one per sample (pyperf's way); counts that no clock takes (collections,
peak memory) come from one more. The suite is gone through several times, with a few samples each: so a machine that
gets faster or slower meanwhile changes both sides of a comparison. With one benchmark after the other a shared machine
had made the exchange without breaker a third faster than the same with it.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyperf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import loadgen.micro
from loadgen.bench import machine
from loadgen.errors import INTERNAL, INTERRUPTED, BadInput, Refusal, UsageRefusal
from loadgen.micro import result
from loadgen.micro.result import BenchmarkRatio, BenchmarkResult
from loadgen.micro.suite import Benchmark

_LONGEST_S = 600

PASSES = 3
# More samples a pass, longer ones: four times the processes halve the interval.
RIGOROUS = ("--processes", "8", "--values", "5", "--min-time", "0.1")
# One value of one loop: whether it runs, not how fast.
QUICKEST = ("--debug-single-value",)


class BenchmarkFailed(Refusal):
    """A benchmark did not come to its end."""

    exit_code = INTERNAL


@dataclass(frozen=True, slots=True)
class ScriptedBenchmark:
    """A benchmark and the script that has it."""

    module: str
    benchmark: Benchmark


def suite(only: Sequence[str] = ()) -> list[ScriptedBenchmark]:
    """All benchmarks, or those whose names match one of the patterns. Raises UsageRefusal if none does."""
    entries = [
        ScriptedBenchmark(f"{loadgen.micro.__name__}.{module.name}", benchmark)
        for module in sorted(pkgutil.iter_modules(loadgen.micro.__path__), key=lambda m: m.name)
        if module.name.startswith("bench_")
        for benchmark in importlib.import_module(f"{loadgen.micro.__name__}.{module.name}").BENCHMARKS
    ]
    chosen = [e for e in entries if not only or any(fnmatch(e.benchmark.name, pattern) for pattern in only)]
    if not chosen:
        names = ", ".join(entry.benchmark.name for entry in entries)
        raise UsageRefusal(f"no benchmark matches {', '.join(only)}. Known are: {names}")
    return chosen


def main(
    out: Path | None = None,
    *,
    only: Sequence[str] = (),
    against: Path | None = None,
    options: Sequence[str] = (),
) -> int:
    """Run the suite; returns the exit code. `only`: name patterns. `against`: the folder of an earlier run.

    `options` go to pyperf: RIGOROUS, QUICKEST, or any of its own. The default takes three minutes.
    """
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        return _main(console, out, only, against, options)
    except Refusal as exc:
        console.print(str(exc), style="red", markup=False, highlight=False)
        return exc.exit_code
    except KeyboardInterrupt:
        console.print("interrupted: the benchmarks that had ended are in the folder", style="yellow")
        return INTERRUPTED


def _main(console: Console, out: Path | None, only: Sequence[str], against: Path | None, options: Sequence[str]) -> int:
    entries = suite(only)
    before = None if against is None else result.load(against)
    started = datetime.now(UTC)
    folder = out or Path("reports/runs") / started.strftime("%Y%m%dT%H%M%SZ-micro")
    _make(folder)
    (folder / "passes").mkdir(exist_ok=True)
    passes = 1 if set(QUICKEST) & set(options) else PASSES
    counted: dict[str, dict[str, Any]] = {}
    results: list[BenchmarkResult] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True) as progress:
            bar = progress.add_task("micro", total=passes * len(entries))
            for number in range(passes):
                for entry in entries:
                    progress.update(bar, description=entry.benchmark.name)
                    _time(entry, folder, options, first=number == 0)
                    if number == 0:
                        counted[entry.benchmark.name] = _count(entry)
                    if not console.is_terminal:
                        print(f"pass {number + 1}/{passes} {entry.benchmark.name}", flush=True)
                    progress.advance(bar)
    finally:
        results = [_result(entry, folder, counts) for entry in entries if (counts := counted.get(entry.benchmark.name))]
        if results:
            pairs = {e.benchmark.name: e.benchmark.against for e in entries if e.benchmark.against}
            inside = result.compare_within(results, pairs)
            since = [] if before is None else result.compare_suites(results, before)
            _write(folder, started, results, [*inside, *since])
            _gather(folder, results)
    console.print(_table(results))
    if inside:
        console.print(_comparisons("against each other", inside))
    if before is not None and against is not None:
        console.print(_comparisons(f"against {against}", since))
        _cross_check(console, folder, against)
    console.print(f"{folder / result.FILE}; the same as pyperf writes it: {folder / result.PYPERF}", highlight=False)
    return 0


def _make(folder: Path) -> None:
    if (folder / result.FILE).exists():
        raise BadInput(f"{folder}: has a {result.FILE} already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"{folder}: cannot be made: {exc.strerror}") from exc


def _file(entry: ScriptedBenchmark) -> str:
    """Relative to the run's folder: the passes of one benchmark."""
    return f"passes/{entry.benchmark.name}.json"


def _time(entry: ScriptedBenchmark, folder: Path, options: Sequence[str], *, first: bool) -> None:
    """One pass of one benchmark, added to pyperf's file; the first begins it anew."""
    file = folder / _file(entry)
    if first:
        file.unlink(missing_ok=True)  # left by a run that was interrupted
    timing = [sys.executable, "-m", entry.module, "--only", entry.benchmark.name, "--quiet"]
    timing += ["--append", str(file), *options]
    if "PYTHONPATH" in os.environ:  # pyperf's workers get a clean environment, but must find the same code
        timing += ["--inherit-environ", "PYTHONPATH"]
    _run(entry.benchmark.name, timing)


def _count(entry: ScriptedBenchmark) -> dict[str, Any]:
    """Collections and peak memory, which no clock takes."""
    name = entry.benchmark.name
    words = _run(name, [sys.executable, "-m", entry.module, "--count", name])
    counted: dict[str, Any] = json.loads(words.strip().splitlines()[-1])
    return counted


def _result(entry: ScriptedBenchmark, folder: Path, counted: Mapping[str, Any]) -> BenchmarkResult:
    """What pyperf's file holds of a benchmark by now, and its counts."""
    return BenchmarkResult(
        name=entry.benchmark.name,
        does=entry.benchmark.does,
        file=_file(entry),
        process_medians_ns=result.process_medians(pyperf.Benchmark.load(str(folder / _file(entry)))),
        gc_per_1000=tuple(counted["gc_per_1000"]),
        peak_bytes=counted["peak_bytes"],
    )


def _gather(folder: Path, results: Sequence[BenchmarkResult]) -> None:
    """One file of pyperf for all benchmarks, which its commands take."""
    together = [pyperf.Benchmark.load(str(folder / found.file)) for found in results]
    pyperf.BenchmarkSuite(together).dump(str(folder / result.PYPERF), replace=True)


def _run(name: str, command: Sequence[str]) -> str:
    """Run a script to its end, with all the processes it starts; returns its stdout. Raises Broken."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=_LONGEST_S)
    except subprocess.TimeoutExpired:
        raise BenchmarkFailed(f"{name}: did not end within {_LONGEST_S} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        words = " | ".join(line.strip() for line in (err or out).strip().splitlines()[-3:])
        raise BenchmarkFailed(f"{name}: ended with exit code {process.returncode}: {words}")
    return out


def _write(
    folder: Path, started: datetime, results: Sequence[BenchmarkResult], comparisons: Sequence[BenchmarkRatio]
) -> None:
    cores = machine.Cores(None, None, None, "not pinned")
    data = {
        "schema": result.SCHEMA,
        "started": started.isoformat(timespec="seconds"),
        "command": sys.argv,
        "machine": machine.describe(cores),
        "versions": machine.versions(),
        "benchmarks": [r.as_json() for r in results],
        "comparisons": [c.as_json() for c in comparisons],
    }
    (folder / result.FILE).write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def show_ns(ns: float) -> str:
    """Three digits and a unit: `87.2 ns`, `12.3 us`."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def _table(results: Sequence[BenchmarkResult]) -> Table:
    table = Table(title="micro", title_justify="left", caption="GC: collections per 1,000 iterations at (700, 10, 10)")
    table.add_column("benchmark", no_wrap=True)
    for column in ("median", "95 % CI", "GC", "peak"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("one iteration")
    for r in results:
        interval = "" if r.ci_ns is None else f"{show_ns(r.ci_ns[0])} .. {show_ns(r.ci_ns[1])}"
        collections = "/".join(f"{n:.3g}" for n in r.gc_per_1000)
        table.add_row(r.name, show_ns(r.median_ns), interval, collections, f"{r.peak_bytes / 1024:.1f} KiB", r.does)
    return table


def _comparisons(title: str, comparisons: Sequence[BenchmarkRatio]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("benchmark", "against", "ratio", "95 % CI", ""):
        table.add_column(column, no_wrap=True)
    for c in comparisons:
        interval = "" if c.ci_low is None or c.ci_high is None else f"{c.ci_low:.3f} .. {c.ci_high:.3f}"
        table.add_row(c.name, c.against, f"{c.ratio:.3f}", interval, c.word)
    return table


def _cross_check(console: Console, folder: Path, against: Path) -> None:
    """pyperf's own comparison, which pools the values of all processes: shown, and decides nothing."""
    if not (against / result.PYPERF).exists():
        return
    console.print("cross-check: pyperf compare_to (pools the values of all processes; decides nothing)")
    command = [sys.executable, "-m", "pyperf", "compare_to", "--table"]
    command += [str(against / result.PYPERF), str(folder / result.PYPERF)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    console.print(done.stdout or done.stderr, highlight=False, markup=False)
