"""Part 2: capacity and cost. CPU per request, event and MiB, and what one core carries."""

from __future__ import annotations

import math

import numpy as np

from reports import beside, counted
from reports.page import Block, Cell, Column, Figure, Panel, Part, Table, TableRow, Text, missing
from reports.parts.rows import night, nights, verdicts
from reports.parts.workers import workers
from reports.plots import PAPER, Palette, folded, log_x, panel, short
from reports.rules import shortened
from reports.schema import METRICS, Metric
from reports.stats import estimate
from reports.study import Study
from reports.words import number, share, title


def part(study: Study) -> Part:
    """Capacity and cost."""
    blocks: list[Block] = []
    figure = _cpu(study)
    blocks.append(figure or missing("no valid run has CPU samples of its target"))
    blocks += _capacity(study)
    blocks += [table for table in (workers(study),) if table is not None]
    blocks += _side_by_side(study)
    blocks += _counted(study)
    blocks += verdicts(study, "cost", "CPU and throughput", lambda row: row.spec.family in ("cpu", "throughput"))
    return Part("cost", "Capacity and cost", tuple(blocks))


def _capacity(study: Study) -> list[Block]:
    rows = []
    for one, scenario, target, runs in study.each():
        bounds = [both for f in runs if (both := f.bounds("capacity_rps_per_core")) is not None]
        if bounds:
            low, high = (estimate(np.log([both[side] for both in bounds])) for side in (0, 1))
            ends = low.interval(), high.interval()
            interval = f"{number(ends[0].exp().low)}..{number(ends[1].exp().high)}" if ends[0] and ends[1] else "–"
            between = math.exp(low.mean), math.exp(high.mean)
            busy = np.mean([f.busy for f in runs if f.busy is not None])
            cells = (
                Cell(title(target)),
                Cell(study.called[scenario], hint=scenario),
                *night(study, one),
                Cell(f"{number(between[0])}..{number(between[1])}", between[0]),
                Cell(interval),
                Cell(share(round(float(busy), 2))),
                Cell(runs[0].record.generator),
                Cell(str(len(bounds)), hint=", ".join(shortened(runs))),
            )
            rows.append(TableRow(cells))
    if not rows:
        return [
            missing(
                "no run drove its target to saturation. Capacity is never extrapolated from a low load: CPU per "
                "request falls as load rises"
            )
        ]
    columns = (
        Column("Target"),
        Column("Load"),
        *nights(study),
        Column("Requests/s per core", True),
        Column("95 % CI", True),
        Column("Busy", True, "share of its core that the target used"),
        Column("Generator", about="the program that sent the load"),
        Column("Rounds", True),
    )
    caption = "Capacity of a core: from the rate measured to that rate divided by the busy share"
    return [Table("capacity", caption, columns, tuple(rows))]


def _side_by_side(study: Study) -> list[Block]:
    """Primary metrics of all targets; nothing where only the two engines and `direct` ran."""
    targets = [name for name in study.targets if name != "direct"]
    if set(targets) <= {study.baseline, study.main}:
        return []
    rows = []
    for line in beside.lines(study.campaign, study.comparison, study.scenarios, targets):
        unit = f", {line.metric.shown_unit}" if line.metric.shown_unit else ""
        name = Cell(
            f"{study.called[line.scenario]}: {line.metric.label}{unit}", hint=f"{line.scenario}; {line.metric.about}"
        )
        cells = [
            Cell(
                "–" if cell.value is None else number(cell.value),
                cell.value,
                f"{cell.rounds} rounds",
                "" if cell.times is None else f"(× {number(cell.times)})",
            )
            for cell in line.cells
        ]
        rows.append(TableRow((name, *cells)))
    columns = (Column("Metric"), *(Column(title(name), True) for name in targets))
    caption = f"Side by side: means over valid rounds; in brackets {title(study.main or '')} as a multiple of the other"
    return [Table("beside", caption, columns, tuple(rows), folded=len(rows) > 40)]


def _counted(study: Study) -> list[Block]:
    """Instructions, allocations and system calls, where they were counted."""
    found = counted.load(study.campaign.path, study.baseline)
    if found is None:
        return []
    columns = (Column("Metric"), *(Column(title(name), True) for name in found.targets))
    rows = tuple(TableRow(tuple(map(Cell, cells))) for cells in found.cells())
    caption = (
        "Counted work of one client that waits for each answer: instructions (callgrind), allocations (memray), system "
        f"calls (strace). No clock is in it; in brackets as a multiple of {title(study.baseline or '')}'s"
    )
    missing_ = tuple(f"Not counted: {text}" for text in found.missing)
    return [Table("counted", caption, columns, rows), *([Text(items=missing_)] if missing_ else [])]


def _cpu(study: Study) -> Figure | None:
    """CPU per unit of work: a panel a unit, a line a scenario, a mark a target with its interval."""
    found: dict[str, list[str]] = {}
    for scenario in study.cases:
        known = study.campaign.scenario(scenario)
        metric = "cpu_us_per_mib" if "large-response" in known.tags else known.cpu_metric()
        if any(study.comparison.values(scenario, metric, target).size for target in study.targets):
            found.setdefault(metric, []).append(scenario)
    palette, panels, alt = Palette(study.targets), [], []
    for metric, scenarios in found.items():
        made, said = _cpu_panel(study, palette, METRICS[metric], scenarios)
        panels += made
        alt += said
    if not panels:
        return None
    caption = (
        "CPU of the target's process tree without its idle share: geometric mean and 95 % interval; small dots are "
        "single runs, hollow ones void. CPU per request falls as load rises, because requests share wake-ups: compare "
        "within a line only."
    )
    return Figure("cpu", "What the work costs", caption, "; ".join(alt), tuple(panels))


def _cpu_panel(study: Study, palette: Palette, metric: Metric, scenarios: list[str]) -> tuple[list[Panel], list[str]]:
    targets = [t for t in study.targets if any(study.comparison.values(s, metric.id, t).size for s in scenarios)]
    step = 0.8 / max(len(targets), 1)
    said, seen = [], []
    with panel(0.95 + (0.2 + 0.2 * len(targets)) * len(scenarios), left=1.72, right=0.75) as ((ax,), made):
        for line, scenario in enumerate(scenarios):
            for place, target in enumerate(targets):
                values, y = study.comparison.values(scenario, metric.id, target), -line + 0.4 - step * (place + 0.5)
                if not values.size or not (values > 0).all():
                    continue
                colour = palette.colour(target)
                void = [v for f, _ in study.comparison.voided.get((scenario, target), ()) if (v := f.value(metric.id))]
                ax.plot(void, [y] * len(void), "o", ms=3, mfc="none", mec=colour, alpha=0.8)
                ax.plot(values, [y] * values.size, "o", ms=2.5, color=colour, alpha=0.45, mew=0)
                known = estimate(np.log(values))
                ends = known.interval()
                if ends is not None and values.size > 2:
                    ax.plot([math.exp(ends.low), math.exp(ends.high)], [y, y], color=colour, lw=2)
                mean = math.exp(known.mean)
                ax.plot([mean], [y], palette.mark(target), ms=6, mec=colour, mfc=colour, mew=1.5)
                right = mean if ends is None or values.size < 3 else max(mean, math.exp(ends.high))
                ax.annotate(
                    f"{short(title(target), 14)} {number(mean)}",
                    (max(right, float(values.max())), y),
                    (5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=colour,
                    annotation_clip=False,
                    bbox={"boxstyle": "square,pad=0.05", "fc": PAPER, "ec": "none", "alpha": 0.8},
                )
                seen += [float(values.min()), float(values.max()), mean]
                said.append(f"{study.called[scenario]} {title(target)} {number(mean)} µs")
        log_x(ax, min(seen) / 1.2, max(seen) * 1.5)
        ax.set_yticks(range(0, -len(scenarios), -1), [folded(study.called[name]) for name in scenarios])
        ax.set_ylim(-len(scenarios) + 0.5, 0.5)
        ax.grid(visible=False, axis="y")
        ax.set_title(f"{metric.label}, {metric.shown_unit}", x=-0.9)
    return made, said
