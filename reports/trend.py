"""Gate runs over time: one JSON line a run, and where a series of them changes its level.

A gate compares two commits, so ten steps of 1 % each pass it. A history shows their sum. A line holds what head
measured; series of different machines are never mixed, because counts depend on processor, C library and Python, and
times on everything.

Change points are found by PELT (Killick et al., JASA 2012; the library `ruptures`) on the logarithms, with a penalty
that grows with the logarithm of their number. A level is a mean; its noise is taken from the differences of neighbours.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from reports.gate import HEAD, GateRun
from reports.store import ReportError

SCHEMA: Final = 1
LEAST_RUNS: Final = 4
"""Fewer say nothing about a level and a change of it."""
_AT_LEAST: Final = {"L1": 0.002, "L2": 0.02}
"""Noise that a series has at least, as a share: a tenth of the limit for counts, less than the margins of times."""
_NO_LEVEL: Final = frozenset({"goodput_rps"})
"""What a run offers is what its calibration found: between two runs it says something of the machine, not of head."""
# Of steady series of 6, 10, 20 and 50 runs, 7, 5, 2 and 0 % show a step (400 draws each; with the usual 3: 24, 17, 9
# and 5 %, because the noise itself is estimated from few runs); a step of three times the noise is found in 85 % of 20.
_PENALTY: Final = 6.0


class NoLibrary(ReportError):
    """The library that finds change points is not installed."""

    exit_code = 69


@dataclass(frozen=True, slots=True)
class Change:
    """A level begins with run number `index` of its series."""

    index: int
    run: str
    head: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """After against before."""
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True)
class Series:
    """One metric of one subject on one machine, oldest run first. `values` are above 0."""

    machine: str
    level: str
    subject: str
    metric: str
    unit: str
    runs: tuple[str, ...]
    heads: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def share(self) -> float:
        """The newest value against the oldest."""
        return self.values[-1] / self.values[0] - 1


def line(run: GateRun) -> str:
    """What a history keeps of a run: one line of JSON without its end."""
    head = run.sides.get(HEAD)
    kept = {
        "schema": SCHEMA,
        "id": run.id,
        "started": run.started,
        "base": run.base,
        "head": run.head or ("" if head is None else head.name),
        "exit_code": run.exit_code,
        "machine": run.machine_class,
        "cpu": run.machine.get("cpu_model", ""),
        "values": [
            {"level": row.level, "subject": row.subject, "metric": row.metric, "unit": row.unit, "value": row.head}
            for row in run.rows
            if row.head is not None and row.level in _AT_LEAST
        ],
    }
    return json.dumps(kept, allow_nan=False)


def append(file: Path, run: GateRun) -> None:
    """Adds the run to the history. Raises ReportError where that cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as history:
            history.write(line(run) + "\n")
    except OSError as exc:
        raise ReportError(f"--history {file}: cannot be written: {exc.strerror}") from exc


def read(text: str, where: str) -> list[dict[str, Any]]:
    """The lines of a history. Raises ReportError with the number of the line that is none."""
    found = []
    for number, raw in enumerate(text.splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            data = json.loads(raw)
        except ValueError as exc:
            raise ReportError(f"{where}:{number}: not a line of JSON ({exc})") from exc
        if not isinstance(data, dict) or not isinstance(data.get("values"), list):
            raise ReportError(f"{where}:{number}: not a line of `gate --history`: it has no values")
        if data.get("schema") != SCHEMA:
            raise ReportError(f"{where}:{number}: schema {data.get('schema')!r}; this version reads {SCHEMA}")
        found.append(data)
    return found


def series(lines: Iterable[Mapping[str, Any]]) -> list[Series]:
    """The lines by machine, subject and metric, in their order.

    What was 0 or not measured has no place in it, nor has what has no level: goodput is the rate that a run chose.
    """
    found: dict[tuple[str, ...], list[tuple[str, str, float]]] = {}
    for entry in lines:
        for one in entry["values"]:
            value = one.get("value")
            if one.get("metric") in _NO_LEVEL or not isinstance(value, int | float) or not value > 0:
                continue
            machine = str(entry.get("machine", ""))
            if one.get("level") == "L2":  # times depend on the processor itself, counts on its family only
                machine += f", {entry.get('cpu', '')}"
            key = (machine, *(str(one.get(name, "")) for name in ("level", "subject", "metric", "unit")))
            found.setdefault(key, []).append((str(entry.get("id", "")), str(entry.get("head", "")), float(value)))
    made = []
    for (machine, level, subject, metric, unit), rows in found.items():
        runs, heads, values = zip(*rows, strict=True)
        made.append(Series(machine, level, subject, metric, unit, runs, heads, values))
    return made


def changes(one: Series) -> list[Change]:
    """Where the series changes its level, oldest first. Raises NoLibrary."""
    if len(one.values) < LEAST_RUNS:
        return []
    logs = np.log(one.values)
    # The median of the neighbours' differences: steps are few, so they do not move it (1.4826: a normal's MAD).
    noise = 1.4826 * float(np.median(np.abs(np.diff(logs)))) / math.sqrt(2)
    noise = max(noise, _AT_LEAST.get(one.level, 0.02))
    bounds = [0, *_levels(logs, _PENALTY * noise * noise * math.log(len(logs)))]
    means = [math.exp(float(logs[a:b].mean())) for a, b in itertools.pairwise(bounds)]
    return [
        Change(at, one.runs[at], one.heads[at], before, after)
        for at, before, after in zip(bounds[1:-1], means, means[1:], strict=False)
    ]


def _levels(values: Sequence[float] | np.ndarray[Any, Any], penalty: float) -> list[int]:
    """Where each level ends."""
    try:
        import ruptures  # C code and scipy, for one verb: an extra of the package
    except ImportError as exc:
        raise NoLibrary("change points are found by the library ruptures: pip install 'proxy-engines[trend]'") from exc
    # min_size 1: counts hold still, so that one run is enough to see a step.
    found = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(np.asarray(values).reshape(-1, 1)).predict(pen=penalty)
    return [int(end) for end in found]
