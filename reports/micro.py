"""Micro-benchmarks beside a campaign: `proxy-engines micro --out CAMPAIGN/micro` writes them, the report shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from reports.store import ReportError
from reports.words import number

FOLDER: Final = "micro"
FILE: Final = "micro.json"
_SCHEMA: Final = 1


def rows(campaign: Path) -> list[dict[str, str]]:
    """A row a benchmark, as texts; empty if the campaign has none. ReportError if its file cannot be used."""
    path = campaign / FOLDER / FILE
    if not path.exists():
        return []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != _SCHEMA:
            raise ReportError(f"{path}: written with schema {data['schema']!r}, this program reads {_SCHEMA}")
        against = {one["name"]: one for one in data["comparisons"] if not one["against"].endswith(" before")}
        return [_row(one, against.get(one["name"])) for one in data["benchmarks"]]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ReportError(f"{path}: not what `proxy-engines micro` writes ({type(exc).__name__}: {exc})") from exc


def _row(one: Mapping[str, Any], against: Mapping[str, Any] | None) -> dict[str, str]:
    interval = "–" if one["ci_ns"] is None else f"{_time(one['ci_ns'][0])} .. {_time(one['ci_ns'][1])}"
    return {
        "name": one["name"],
        "does": one["does"],
        "median": _time(one["median_ns"]),
        "ci": interval,
        "gc": " / ".join(f"{count:.3g}" for count in one["gc_per_1000"]),
        "peak": f"{one['peak_bytes'] / 1024:.1f} KiB",
        "against": "" if against is None else _against(against),
    }


def _against(one: Mapping[str, Any]) -> str:
    text = f"{one['ratio']:.3f} of {one['against']}"
    if one["ci_low"] is not None:
        text += f" (95 % CI {one['ci_low']:.3f}..{one['ci_high']:.3f})"
    return f"{text}: {one['word']}"


def _time(ns: float) -> str:
    return f"{number(ns)} ns" if ns < 1000 else f"{number(ns / 1000)} µs"
