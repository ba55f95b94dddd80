"""The knee of a ladder: up to which share of its capacity a target answers as fast as when it has little to do.

A ladder's rungs are scenarios of one group, `ladder-TARGET-PERCENT`, each measured with that target alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from reports.schema import RunRecord
from reports.words import digits, title

GROUP: Final = "ladder"
KNEE: Final = 5.0
"""Beyond the knee p95 from the intended moment is over so many times that of the lowest rung. p95, as p99 needs 1,000
requests in a run, which a low rung does not have."""


def called(scenario: str) -> str:
    """A rung in words, from its name: `ladder of Sherpa, 110 %`."""
    target, _, percent = scenario.removeprefix(f"{GROUP}-").rpartition("-")
    return f"{GROUP} of {title(target)}, {percent} %"


@dataclass(frozen=True, slots=True)
class Rung:
    """One share of a target's capacity. Times are medians over its runs; None where all were overloaded or void."""

    percent: int
    rate: float
    p50_ms: float | None
    p95_ms: float | None
    overloaded: bool
    """Most of its runs that the bench did not spoil were not carried."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rungs of one target, from low to high."""

    target: str
    rungs: tuple[Rung, ...]

    @property
    def knee(self) -> Rung | None:
        """The highest rung before the first that is overloaded or slow; None if the lowest is either."""
        last = None
        for rung in self.rungs:
            if rung.overloaded or rung.p95_ms is None or not self._quick(rung.p95_ms):
                return last
            last = rung
        return last

    @property
    def ended(self) -> bool:
        """Whether the knee lies below the last rung, so that it is the target's and not the ladder's end."""
        return bool(self.rungs) and self.knee != self.rungs[-1]

    def _quick(self, p95_ms: float) -> bool:
        first = self.rungs[0].p95_ms
        return first is not None and p95_ms <= KNEE * first

    def words(self) -> str:
        """One sentence."""
        knee = self.knee
        name = title(self.target)
        if knee is None:
            return f"{name}: not even its lowest rung was carried quickly"
        at = f"{knee.percent} % of its capacity ({knee.rate:,.0f} req/s, p95 {digits(knee.p95_ms or 0)} ms)"
        if not self.ended:
            return f"{name}: no knee up to its highest rung, {at}"
        after = self.rungs[self.rungs.index(knee) + 1]
        late = "" if after.p95_ms is None else f", p95 {digits(after.p95_ms)} ms"
        word = "overloaded" if after.overloaded else "slow"
        return f"{name}: knee at {at}; at {after.percent} % it is {word}{late}"


def ladders(records: Iterable[RunRecord]) -> list[Ladder]:
    """The ladders in a campaign's runs, by target."""
    found: dict[str, dict[int, list[RunRecord]]] = {}
    for record in records:
        name, _, percent = record.scenario.rpartition("-")
        if name == f"{GROUP}-{record.target}" and percent.isdecimal() and record.ended != "void":
            found.setdefault(record.target, {}).setdefault(int(percent), []).append(record)
    return [
        Ladder(target, tuple(_rung(percent, runs) for percent, runs in sorted(rungs.items())))
        for target, rungs in sorted(found.items())
    ]


def _rung(percent: int, runs: Sequence[RunRecord]) -> Rung:
    ok = [run for run in runs if run.ended == "ok"]

    def median(metric: str) -> float | None:
        values = [float(value) for run in ok if isinstance(value := run.summary.get(metric), int | float)]
        return statistics.median(values) if values else None

    return Rung(
        percent,
        statistics.median([run.offered_rps or 0.0 for run in runs]),
        median("e2e_p50_ms"),
        median("e2e_p95_ms"),
        overloaded=2 * sum(run.ended == "overloaded" for run in runs) > len(runs),
    )
