"""What a benchmark is here, and how a `bench_*.py` script runs: by pyperf, or counted without a clock.

    python -m loadgen.micro.bench_wire                 pyperf's own command line (`--help`)
    python -m loadgen.micro.bench_wire --only NAME     that benchmark alone
    python -m loadgen.micro.bench_wire --count NAME    one JSON line: collections per 1,000 iterations, peak memory

Timing and counting never share a process: tracemalloc would be in the times, and a benchmark that is timed runs with
the interpreter's own GC settings while counts are taken at (700, 10, 10).
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter
from typing import Any

import pyperf

COUNTED_THRESHOLDS = (700, 10, 10)
_COUNTED = 2000
_TRACED = 200

Run = Callable[[int], None]
"""Does the benchmark's work that many times."""
Prepared = AbstractContextManager[Run]
"""A benchmark ready to run; leaving it gives back what it held."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One thing that is timed. `make` prepares it, in the process that times it, and raises if its result is wrong.

    - ``name``: `group.case`, unique in the suite.
    - ``does``: what one iteration is, for the table.
    - ``per``: how many units one iteration has, where a part is of interest (events of a stream).
    - ``against``: name of the benchmark it is to be compared with: the plain way to do the same.
    """

    name: str
    does: str
    make: Callable[[], Prepared]
    per: int = 1
    against: str | None = None


def each(operation: Callable[[], object]) -> Prepared:
    """Call `operation` again and again. The loop and the call cost about 30 ns (`floor.call` measures it here)."""

    def run(times: int) -> None:
        for _ in repeat(None, times):
            operation()

    return nullcontext(run)


def script(benchmarks: Sequence[Benchmark], module: str) -> None:
    """The `main` of a bench script; `module` is its dotted name, by which pyperf starts its workers."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--only", choices=[b.name for b in benchmarks], metavar="NAME", help="this benchmark alone")
    own.add_argument("--count", choices=[b.name for b in benchmarks], metavar="NAME", help="count instead of timing")
    if "--count" in sys.argv:
        name = own.parse_known_args()[0].count
        print(json.dumps(counts_of(next(b for b in benchmarks if b.name == name))))
        return

    def pass_on(command: list[str], args: argparse.Namespace) -> None:
        if args.only:
            command.extend(("--only", args.only))

    # 2 processes of 3 values in each pass of `micro`: the sample is the process (hash seed, layout).
    runner = pyperf.Runner(
        processes=2,
        values=3,
        min_time=0.05,
        program_args=("-m", module),
        add_cmdline_args=pass_on,
        _argparser=argparse.ArgumentParser(parents=[own]),
    )
    chosen = runner.parse_args().only
    for benchmark in benchmarks:
        if chosen in (None, benchmark.name):
            metadata = {"does": benchmark.does}
            runner.bench_time_func(benchmark.name, _timed(benchmark.make), inner_loops=benchmark.per, metadata=metadata)


def _timed(make: Callable[[], Prepared]) -> Callable[[int], float]:
    made: list[Run] = []

    def time(loops: int) -> float:
        if not made:  # not earlier: the process that only starts workers has no use for it
            open_until_exit = ExitStack()
            atexit.register(open_until_exit.close)
            made.append(open_until_exit.enter_context(make()))
            made[0](1)
        run = made[0]
        start = perf_counter()
        run(loops)
        return perf_counter() - start

    return time


def counts_of(benchmark: Benchmark) -> dict[str, Any]:
    """Collections by generation per 1,000 iterations at (700, 10, 10), and bytes allocated at the peak above rest."""
    with benchmark.make() as run:
        run(_COUNTED // 10)
        before, after = _collections(run)
        peak = _peak(run)
    per_thousand = [(b - a) * 1000 / (_COUNTED * benchmark.per) for a, b in zip(before, after, strict=True)]
    return {"gc_per_1000": per_thousand, "peak_bytes": peak}


def _collections(run: Run) -> tuple[list[int], list[int]]:
    own = gc.get_threshold()
    gc.set_threshold(*COUNTED_THRESHOLDS)
    try:
        gc.collect()
        before = [generation["collections"] for generation in gc.get_stats()]
        run(_COUNTED)
        return before, [generation["collections"] for generation in gc.get_stats()]
    finally:
        gc.set_threshold(*own)


def _peak(run: Run) -> int:
    tracemalloc.start()
    try:
        run(_TRACED // 10)
        gc.collect()
        tracemalloc.reset_peak()
        rest, _ = tracemalloc.get_traced_memory()
        run(_TRACED)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return max(peak - rest, 0)
