"""Part 5: what clients notice when endpoints fail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from reports import stats, summarise
from reports.first_screen import lost_share
from reports.page import Block, Cell, Column, Figure, Panel, Part, Table, TableRow, missing
from reports.parts.rows import night, nights, verdicts
from reports.plots import GRID, MUTED, Palette, panel, short
from reports.rules import shortened
from reports.study import Study
from reports.summarise import Facts
from reports.words import digits, number, title

PAUSE_S: Final = 1.0
"""Losses that stop for this long have stopped: something avoids the endpoint."""
_SHADES: Final[Mapping[str, str]] = {
    "ok": "#b9c4d0",
    "refused": "#c24a00",
    "timeout": "#e69f00",
    "reset": "#8b3a62",
    "truncated": "#cc79a7",
    "wrong_reply": "#5b2a86",
    "client_cancelled": "#8f7a2b",
}


def part(study: Study) -> Part:
    """When endpoints fail."""
    rows = [
        _ending(study, one, scenario, target, runs)
        for one, scenario, target, runs in study.each()
        if study.campaign.scenario(scenario).faults
    ]
    if not rows:
        return Part("faults", "When endpoints fail", (missing("no scenario with a faulty endpoint was run"),))
    columns = (
        Column("Scenario"),
        Column("Target"),
        *nights(study),
        Column("Requests", True),
        Column("Lost of 1,000 (95 % CI)", True),
        Column("How they ended", about="refused: no connection, or an answer that says the request failed"),
        Column("Losses stopped after", True, "in the slowest round: from the fault's begin to a second without a loss"),
        Column("Endpoint used again after", True, "in the slowest round: from the fault's end"),
    )
    blocks: list[Block] = [Table("endings", "How requests ended while an endpoint failed", columns, tuple(rows))]
    figure = _resilience(study)
    if figure is not None:
        blocks.insert(0, figure)
    blocks += verdicts(study, "faults", "Errors", lambda row: row.spec.family == "errors")
    return Part("faults", "When endpoints fail", tuple(blocks))


def _ending(study: Study, one: Study, scenario: str, target: str, runs: Sequence[Facts]) -> TableRow:
    counts: dict[str, int] = {}
    for facts in runs:
        for name, count in (facts.extras.get("outcomes") or {}).items():
            counts[name] = counts.get(name, 0) + int(count)
    known = [
        seen for f in runs if (seen := summarise.resilience(f, one.campaign.scenario(scenario), PAUSE_S)) is not None
    ]
    shares = [share * 1000 for f in runs if (share := lost_share(f)) is not None]
    lost = stats.estimate(shares) if shares else None
    ends = None if lost is None else lost.interval()
    stopped = [seen.stopped_s for seen in known if seen.lost]
    ends_s = [math.inf if fault.to_s is None else fault.to_s for fault in one.campaign.scenario(scenario).faults]
    lasting = all(end >= (facts.window_s or 0.0) for end in ends_s for facts in runs)
    again = slowest([seen.recovered_s for seen in known], "not used again")
    return TableRow(
        (
            Cell(study.called[scenario], hint=scenario),
            Cell(title(target), hint=", ".join(shortened(runs))),
            *night(study, one),
            Cell(f"{sum(counts.values()):,}", float(sum(counts.values()))),
            Cell(
                "–" if lost is None else number(lost.mean),
                None if lost is None else lost.mean,
                more="" if ends is None else f"({number(max(ends.low, 0.0))}..{number(ends.high)})",
            ),
            Cell(", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))),
            Cell("no request was lost" if known and not stopped else slowest(stopped, "not while it failed")),
            Cell("it failed to the end" if lasting else again),
        )
    )


def slowest(values: Sequence[float | None], never: str) -> str:
    """The slowest of some times in words; `never` where it happened in no run."""
    known = [value for value in values if value is not None]
    if not known:
        return never if values else "no request rows"
    more = f" ({never} in {len(values) - len(known)} runs)" if len(known) < len(values) else ""
    return f"{digits(max(known))} s{more}"


def _resilience(study: Study) -> Figure | None:
    """Outcomes per second while an endpoint fails, a panel for each target and scenario."""
    palette, panels, alt = Palette(study.targets), [], []
    for scenario in study.scenarios:
        for target in (name for name in (study.baseline, study.main) if name):
            runs = [f for f in study.runs_of(scenario, target) if f.outcomes is not None]
            if runs and study.campaign.scenario(scenario).faults:
                panels.append(_panel(study, palette, scenario, target, runs))
                lost = sum(int((f.outcomes.outcome != "ok").sum()) for f in runs if f.outcomes)
                alt.append(f"{study.called[scenario]}, {title(target)}: {lost} requests lost in {len(runs)} rounds")
    if not panels:
        return None
    caption = (
        "Requests by the second they were due, mean over valid rounds; the fault is shaded, lost requests are coloured."
    )
    return Figure("resilience", "When an endpoint fails", caption, "; ".join(alt), tuple(panels))


def _panel(study: Study, palette: Palette, scenario: str, target: str, runs: Sequence[Facts]) -> Panel:
    seconds = max(f.window_s or 1.0 for f in runs)
    edges = np.arange(0, math.ceil(seconds) + 1)
    seen = [f.outcomes for f in runs if f.outcomes is not None]
    names = sorted(
        {str(name) for one in seen for name in np.unique(one.outcome)}, key=lambda name: (name != "ok", name)
    )
    stack = [np.mean([np.histogram(one.at_s[one.outcome == name], edges)[0] for one in seen], axis=0) for name in names]
    with panel(2.4) as ((ax,), made):
        colours = [_SHADES.get(name, MUTED) for name in names]
        ax.stackplot(edges[:-1], *stack, colors=colours, step="post", lw=0)
        for fault in study.campaign.scenario(scenario).faults:
            end = seconds if fault.to_s is None else fault.to_s
            ax.axvspan(fault.from_s, end, color=GRID, alpha=0.6, lw=0, zorder=0)
        top = float(np.sum(stack, axis=0).max()) if stack else 1.0
        ax.set_ylim(0, top * 1.35)
        for place, (name, colour, counts) in enumerate(zip(names, colours, stack, strict=True)):
            text = "answered" if name == "ok" else f"{name.replace('_', ' ')} {counts.sum():.0f}"
            ax.annotate(
                text,
                (0.02 + 0.3 * (place % 3), 0.97 - 0.1 * (place // 3)),
                xycoords="axes fraction",
                va="top",
                fontsize=8,
                weight="bold",
                color=MUTED if name == "ok" else colour,
            )
        ax.set_xlim(0, max(edges[-2], 1))
        ax.set_title(short(f"{title(target)}: {study.called[scenario]}", 46), color=palette.colour(target))
        ax.set_xlabel("seconds into the measured window")
        ax.set_ylabel("requests/s")
    return made[0]
