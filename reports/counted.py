"""Counted work of the targets: instructions, allocations and system calls, exact and the same on every machine.

`counted.json` lies beside campaign.json: `{"counts": {target: {metric: value}}, "missing": [sentence]}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reports import store
from reports.store import ReportError

FILE: Final = "counted.json"

METRICS: Final[dict[str, str]] = {
    "instructions_per_request": "Instructions per request",
    "instructions_per_request_heads_differ": "Instructions per request, each reply's head different",
    "instructions_per_event": "Instructions per event",
    "allocations_per_request": "Allocations per request",
    "allocations_per_event": "Allocations per event",
    "syscalls_per_1000_requests": "System calls per 1,000 requests",
    "syscalls_per_1000_events": "System calls per 1,000 events",
}


@dataclass(frozen=True, slots=True)
class CountedRow:
    """One metric: a value by target, None where it was not counted, and what it is of the baseline's."""

    metric: str
    label: str
    values: tuple[float | None, ...]
    ratios: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Counted:
    """All that was counted."""

    targets: tuple[str, ...]
    rows: tuple[CountedRow, ...]
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For verdict.json."""
        rows = [
            {"metric": row.metric, "target": target, "value": value, "ratio": ratio}
            for row in self.rows
            for target, value, ratio in zip(self.targets, row.values, row.ratios, strict=True)
            if value is not None
        ]
        return {"rows": rows, "missing": list(self.missing)}

    def cells(self) -> list[list[str]]:
        """The table: label, then a text for each target."""
        return [
            [row.label, *(_text(value, ratio) for value, ratio in zip(row.values, row.ratios, strict=True))]
            for row in self.rows
        ]


def _text(value: float | None, ratio: float | None) -> str:
    if value is None:
        return "–"
    shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
    return shown if ratio is None or ratio == 1 else f"{shown} (×{ratio:.2f})"


def load(folder: Path, baseline: str | None) -> Counted | None:
    """What was counted in a campaign; None if nothing was. Raises ReportError."""
    path = folder / FILE
    if not path.is_file():
        return None
    data = store.read_json(path)
    try:
        counts: dict[str, dict[str, float]] = {
            str(target): {str(metric): float(value) for metric, value in found.items()}
            for target, found in data["counts"].items()
        }
        missing = tuple(str(text) for text in data["missing"])
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise ReportError(f"{path}: is not what `compare --counted` writes ({exc})") from exc
    targets = tuple(target for target, found in counts.items() if found)
    rows = [_row(metric, label, [counts[target].get(metric) for target in targets], counts.get(baseline or "", {}))
            for metric, label in METRICS.items()]  # fmt: skip
    return Counted(targets, tuple(row for row in rows if any(value is not None for value in row.values)), missing)


def _row(metric: str, label: str, values: Sequence[float | None], base: dict[str, float]) -> CountedRow:
    of = base.get(metric)
    ratios = [None if value is None or not of else value / of for value in values]
    return CountedRow(metric, label, tuple(values), tuple(ratios))
