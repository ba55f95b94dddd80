"""What the suite found, as `micro.json` keeps it, and comparisons of it. Pure but for reading and writing files.

The sample is the process: hash seed and memory layout persist inside one, so the three values of a process are reduced
to their median first, and only the medians are compared: Welch's t interval on their logarithms. (pyperf's own test
pools all values as if they were independent; it is shown beside as a cross-check and decides nothing.)

`micro.json`, schema 1:

    {"schema": 1, "started": ISO 8601 UTC, "machine": {...}, "versions": {...}, "command": [...],
     "benchmarks": [{"name", "does", "unit": "ns", "file": pyperf's own JSON below the folder,
                     "process_medians_ns": [..], "median_ns", "ci_ns": [low, high] | null,
                     "gc_per_1000": [gen 0, gen 1, gen 2], "peak_bytes"}],
     "comparisons": [{"name", "against", "ratio", "ci_low", "ci_high", "word"}]}

`ratio` is name / against; `word` is `faster`, `slower`, `equivalent` (within 5 %) or `too-noisy`. Null: not known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pyperf

from loadgen.errors import BadInput
from reports.stats import LEVEL, Estimate, Interval, estimate, welch

SCHEMA = 1
FILE = "micro.json"
PYPERF = "pyperf.json"
"""All benchmarks of a run as pyperf keeps them: `pyperf compare_to A/pyperf.json B/pyperf.json`."""
MARGIN = 0.05
Word = Literal["faster", "slower", "equivalent", "too-noisy"]


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One benchmark. Times are nanoseconds for one iteration (one event of a stream)."""

    name: str
    does: str
    file: str
    process_medians_ns: tuple[float, ...]
    gc_per_1000: tuple[float, ...]
    peak_bytes: int

    @property
    def median_ns(self) -> float:
        """The middle process."""
        return median(self.process_medians_ns)

    @property
    def ci_ns(self) -> tuple[float, float] | None:
        """Where the geometric mean of processes lies, at 95 %; None for a single process."""
        ends = estimate(np.log(self.process_medians_ns)).interval()
        return None if ends is None else (ends.exp().low, ends.exp().high)

    def as_json(self) -> dict[str, Any]:
        """For micro.json."""
        return {**asdict(self), "unit": "ns", "median_ns": self.median_ns, "ci_ns": self.ci_ns}


@dataclass(frozen=True, slots=True)
class BenchmarkRatio:
    """Two benchmarks, or one in two suites. `ratio`: name / against, with its interval at 95 %."""

    name: str
    against: str
    ratio: float
    ci_low: float | None
    ci_high: float | None

    @property
    def word(self) -> Word:
        """Lower is better."""
        if self.ci_low is None or self.ci_high is None:
            return "too-noisy"
        ends = Interval(self.ci_low, self.ci_high, LEVEL)
        if ends.inside(1 - MARGIN, 1 + MARGIN):
            return "equivalent"
        if not ends.excludes(1):
            return "too-noisy"
        return "faster" if ends.high < 1 else "slower"

    def as_json(self) -> dict[str, Any]:
        """For micro.json."""
        return {**asdict(self), "word": self.word}


def process_medians(bench: pyperf.Benchmark) -> tuple[float, ...]:
    """The median of each process's values, in ns; calibration runs have none."""
    return tuple(median(run.values) * 1e9 for run in bench.get_runs() if run.values)


def compare(name: str, ours: Sequence[float], against: str, theirs: Sequence[float]) -> BenchmarkRatio:
    """Per-process medians of two benchmarks."""
    return _comparison(name, against, welch(np.log(ours), np.log(theirs)))


def compare_paired(name: str, ours: Sequence[float], against: str, theirs: Sequence[float]) -> BenchmarkRatio:
    """Per-process medians of two benchmarks that took turns: the n-th of both ran in the same pass."""
    if len(ours) != len(theirs) or len(ours) < 2:
        return compare(name, ours, against, theirs)
    return _comparison(name, against, estimate(np.log(ours) - np.log(theirs)))


def _comparison(name: str, against: str, found: Estimate) -> BenchmarkRatio:
    """`found`: of the logarithm of the ratio."""
    ends = found.interval()
    if ends is None:
        return BenchmarkRatio(name, against, math.exp(found.mean), None, None)
    return BenchmarkRatio(name, against, math.exp(found.mean), ends.exp().low, ends.exp().high)


def compare_within(results: Iterable[BenchmarkResult], pairs: Mapping[str, str]) -> list[BenchmarkRatio]:
    """The benchmarks that have another to be compared with. `pairs`: name -> against."""
    found = {result.name: result for result in results}
    return [
        compare_paired(name, found[name].process_medians_ns, other, found[other].process_medians_ns)
        for name, other in pairs.items()
        if name in found and other in found
    ]


def compare_suites(now: Iterable[BenchmarkResult], before: Iterable[BenchmarkResult]) -> list[BenchmarkRatio]:
    """Each benchmark that both suites have, now against before."""
    known = {result.name: result for result in before}
    return [
        compare(r.name, r.process_medians_ns, f"{r.name} before", known[r.name].process_medians_ns)
        for r in now
        if r.name in known
    ]


def load(folder: Path) -> list[BenchmarkResult]:
    """The results in a folder that `micro` made. Raises BadInput."""
    path = folder / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise BadInput(f"{path}: {exc.strerror}; is this the folder of a micro run?") from exc
    except ValueError as exc:
        raise BadInput(f"{path}: not JSON ({exc})") from exc
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise BadInput(f"{path}: written with another schema than {SCHEMA}")
    try:
        return [
            BenchmarkResult(
                name=row["name"],
                does=row["does"],
                file=row["file"],
                process_medians_ns=tuple(map(float, row["process_medians_ns"])),
                gc_per_1000=tuple(map(float, row["gc_per_1000"])),
                peak_bytes=int(row["peak_bytes"]),
            )
            for row in data["benchmarks"]
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"{path}: benchmarks: {exc!r} is missing or wrong") from exc
