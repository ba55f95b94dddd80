"""Part 4: memory and streams, and what long runs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports import endurance
from reports.page import Block, Cell, Column, Figure, Panel, Part, Table, TableRow, Text, missing
from reports.parts.rows import night, nights, verdicts
from reports.plots import GRID, Palette, label_ends, panel, short
from reports.rules import shortened
from reports.schema import FLOOR_TARGETS
from reports.study import Study
from reports.summarise import Facts
from reports.words import number, percent, title


def part(study: Study) -> Part:
    """Memory and streams."""
    blocks: list[Block] = [_memory(study) or missing("no valid run has memory samples of its target")]
    rows = [row for found in study.each() if (row := _row(study, *found)) is not None]
    columns = (
        Column("Scenario"),
        Column("Target"),
        *nights(study),
        Column("Idle, MiB", True),
        Column("Peak, MiB", True),
        Column("Per stream, KiB", True),
        Column("Open at once", True),
        Column("Growth", True, "second half of the window against the first"),
    )
    if rows:
        blocks.append(
            Table("memory-table", "Resident memory, means over valid rounds", columns, tuple(rows), folded=True)
        )
    blocks += verdicts(study, "memory", "Memory", lambda row: row.spec.family == "memory")
    blocks += _endurance(study)
    return Part("memory", "Memory and streams", tuple(blocks))


def _row(study: Study, one: Study, scenario: str, target: str, runs: Sequence[Facts]) -> TableRow | None:
    cells = []
    for metric in ("rss_idle_mib", "rss_peak_mib", "rss_kib_per_stream"):
        values = one.comparison.values(scenario, metric, target)
        cells.append(Cell(number(float(values.mean())), float(values.mean())) if values.size else Cell("–"))
    if all(cell.value is None for cell in cells):
        return None
    growth = [g for f in runs if isinstance(g := f.extras.get("rss_growth"), float)]
    active = [a for f in runs if isinstance(a := f.extras.get("active_peak"), int)]
    return TableRow(
        (
            Cell(study.called[scenario], hint=scenario),
            Cell(title(target), hint=", ".join(shortened(runs))),
            *night(study, one),
            *cells,
            Cell(str(max(active)) if active else "–"),
            Cell(percent(float(np.mean(growth))) if growth else "–"),
        )
    )


def _memory(study: Study) -> Figure | None:
    """Memory against open connections where they were swept, and over time in the longest streaming scenario."""
    engines = [t for t in study.targets if t not in FLOOR_TARGETS]
    palette, panels, alt = Palette(study.targets), [], []
    sweep = _sweep(study, engines)
    if sweep:
        with panel(right=0.75) as ((ax,), made):
            ends = []
            for target, points in sweep.items():
                x = np.array(sorted(points))
                y = np.array([np.mean(points[c]) for c in sorted(points)])
                low, high = (np.array([end(points[c]) for c in sorted(points)]) for end in (min, max))
                ax.vlines(x, low, high, color=palette.colour(target), lw=1.5)
                ax.plot(x, y, palette.mark(target), color=palette.colour(target), ms=5)
                slope, level = np.polyfit(x, y, 1)
                ax.plot(x, slope * x + level, **palette.line(target))
                ends.append((target, float(x[-1]), float(slope * x[-1] + level)))
                alt.append(f"{title(target)} {slope * 1024:.1f} KiB a stream")
            ax.set_ylim(bottom=0)
            ax.set_title("peak memory against open streams")
            ax.set_xlabel("open streams")
            ax.set_ylabel("resident, MiB")
            label_ends(ax, ends, palette)
        panels += made
    panels += _over_time(study, palette, engines, alt)
    if not panels:
        return None
    caption = (
        "Resident memory of the target's processes. Against streams: means with the range of the rounds and a fitted "
        "line. Over time: every valid round, the measured window shaded."
    )
    return Figure("memory", "Memory", caption, "; ".join(alt), tuple(panels))


def _over_time(study: Study, palette: Palette, engines: Sequence[str], alt: list[str]) -> list[Panel]:
    with_rss = [s for s in study.scenarios if any(_has(f) for t in engines for f in study.runs_of(s, t))]
    cases = [s for s in with_rss if s in study.cases] or with_rss
    streams = [s for s in cases if study.campaign.scenario(s).kind == "stream"] or cases
    if not streams:
        return []
    chosen = max(streams, key=lambda s: ((one := study.campaign.scenario(s)).duration_s, one.connections or 0))
    with panel(right=0.75) as ((ax,), made):
        ends = []
        for target in engines:
            for facts in study.runs_of(chosen, target):
                usage = facts.usage.get("target")
                if usage is not None and usage.rss_mib.size:
                    take = np.unique(np.linspace(0, usage.at_s.size - 1, min(usage.at_s.size, 80)).astype(int))
                    ax.plot(usage.at_s[take], usage.rss_mib[take], **{**palette.line(target), "lw": 1.1}, alpha=0.6)
                    end = (target, float(usage.at_s[take][-1]), float(usage.rss_mib[take][-1]))
            peak = study.comparison.values(chosen, "rss_peak_mib", target)
            if peak.size:
                ends.append(end)
                alt.append(f"{title(target)} peak {number(float(peak.mean()))} MiB in {study.called[chosen]}")
        ax.axvspan(0, study.campaign.scenario(chosen).duration_s, color=GRID, alpha=0.45, lw=0)
        ax.set_ylim(0, ax.get_ylim()[1] * 1.08)
        ax.set_title(short(f"over time: {study.called[chosen]}", 44))
        ax.set_xlabel("seconds")
        ax.set_ylabel("resident, MiB")
        label_ends(ax, ends, palette)
    return made


def _has(facts: Facts) -> bool:
    usage = facts.usage.get("target")
    return usage is not None and bool(np.isfinite(usage.rss_mib).any())


def _sweep(study: Study, targets: Sequence[str]) -> dict[str, dict[int, list[float]]]:
    points: dict[str, dict[int, list[float]]] = {}
    for scenario in study.scenarios:
        known = study.campaign.scenario(scenario)
        if "sweep-connections" in known.tags and known.connections:
            for target in targets:
                values = study.comparison.values(scenario, "rss_peak_mib", target)
                if values.size:
                    points.setdefault(target, {})[known.connections] = [float(value) for value in values]
    return {target: found for target, found in points.items() if len(found) >= 3}


# ---------------------------------------------------------------------------------------------------------- long runs
def _endurance(study: Study) -> list[Block]:
    found = [(one, long) for one in study.all for long in endurance.of_campaign(one.campaign, one.facts)]
    if not found:
        return []
    rows, said = [], []
    for _, long in found:
        slope, record = long.slope, long.facts.record
        fds = (long.fds_before, long.fds_peak, long.fds_after)
        rows.append(
            TableRow(
                (
                    Cell(record.run),
                    Cell(title(record.target)),
                    Cell(f"{long.seconds / 60:.1f}"),
                    Cell(f"Void: {record.void_reason}" if record.void_reason else long.memory.replace("-", " ")),
                    Cell("–" if slope is None else f"{slope.level_mib:.1f}"),
                    Cell(
                        "–" if slope is None else f"{slope.per_hour:+.2f}",
                        more="" if slope is None else f"({slope.low:+.2f}..{slope.high:+.2f})",
                    ),
                    Cell(" / ".join("–" if count is None else str(count) for count in fds)),
                    Cell(endurance.WORDS[long.descriptors_back]),
                    Cell(
                        ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in long.accounting.items())
                        or "–"
                    ),
                    Cell(endurance.WORDS[long.accounted]),
                    Cell("–" if long.complaints is None else str(long.complaints)),
                )
            )
        )
        if long.said:
            said.append(Text(heading=f"{record.run} said on stderr", literal="\n".join(long.said)))
    columns = (
        Column("Run"),
        Column("Target"),
        Column("Minutes", True),
        Column("Memory"),
        Column("From, MiB", True),
        Column("MiB an hour (95 % CI)", True),
        Column("Descriptors before / most / after", True),
        Column("Back"),
        Column("Accounts"),
        Column("Exact"),
        Column("Complaints on stderr", True),
    )
    caption = (
        f"Long runs. Memory: a line through {endurance.BLOCKS} means of the last two thirds of the window; flat if the "
        "interval of its slope holds zero and is narrow"
    )
    figure = _long_figure(study)
    return [*([figure] if figure else []), Table("endurance", caption, columns, tuple(rows)), *said]


def _long_figure(study: Study) -> Figure | None:
    """Resident memory of long runs with the line whose slope is judged, and open descriptors."""
    long = [one for one in endurance.of_campaign(study.campaign, study.facts) if one.slope is not None]
    if not long:
        return None
    palette, alt = Palette(study.targets), []
    with panel(3.4, right=0.75, rows=2) as ((memory, descriptors), made):
        ends = []
        for one in long:
            usage, slope, target = one.facts.usage["target"], one.slope, one.facts.record.target
            assert slope is not None
            take = np.unique(np.linspace(0, usage.at_s.size - 1, min(usage.at_s.size, 300)).astype(int))
            memory.plot(usage.at_s[take] / 60, usage.rss_mib[take], alpha=0.55, **{**palette.line(target), "lw": 1.0})
            x = np.array([slope.from_s, one.seconds])
            memory.plot(x / 60, slope.level_mib + slope.per_hour * (x - slope.from_s) / 3600, **palette.line(target))
            descriptors.plot(usage.at_s[take] / 60, usage.fds[take], **{**palette.line(target), "lw": 1.0})
            ends.append((target, float(usage.at_s[-1] / 60), float(usage.rss_mib[-1])))
            alt.append(
                f"{title(target)} {slope.per_hour:+.2f} MiB an hour (95 % CI {slope.low:+.2f}..{slope.high:+.2f})"
            )
        memory.set_ylim(0, memory.get_ylim()[1] * 1.08)
        memory.set_title("memory, MiB; below: open descriptors")
        memory.tick_params(labelbottom=False)
        descriptors.set_xlabel("minutes")
        label_ends(memory, ends, palette)
    caption = (
        "Resident memory of the target's processes, the line through its last two thirds (thick), and descriptors."
    )
    return Figure("endurance", "Long runs", caption, "; ".join(alt), tuple(made))
