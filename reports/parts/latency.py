"""Part 3: latency and its tail, and what makes the tail: collections, stalls, queues."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from reports.ladder import GROUP, KNEE, ladders
from reports.page import Block, Cell, Column, Figure, Panel, Part, Table, TableRow, Text, missing
from reports.parts.caches import prefix_caches
from reports.parts.rows import night, nights, verdicts
from reports.plots import INK, Floats, Palette, label_ends, log_x, log_y, panel, short
from reports.rules import shortened
from reports.schema import FLOOR_TARGETS, METRICS, Metric
from reports.stats import Tail
from reports.study import Study
from reports.summarise import Facts
from reports.words import number, share, shown, title


def part(study: Study) -> Part:
    """Latency and tail."""
    blocks: list[Block] = []
    for figure, reason in (
        (_overhead(study), "no valid run kept request rows with both clocks"),
        (_transit(study), "no valid run kept event rows with both clocks"),
        (_tail(study), "no valid run kept request or event rows (100 in all at least)"),
        (_load(study), "one rate per workload only: latency against load needs several"),
    ):
        blocks.append(figure or missing(reason))
    blocks += [table for table in (_ladder(study), prefix_caches(study)) if table is not None]
    blocks += verdicts(study, "latency", "Latency", lambda row: row.spec.family in ("latency", "stream"))
    blocks += _makes_the_tail(study)
    return Part("latency", "Latency and tail", tuple(blocks))


# ------------------------------------------------------------------------------------------------- added time, transit
def _overhead(study: Study) -> Figure | None:
    def samples(scenario: str, target: str) -> Floats:
        return _pool(study.runs_of(scenario, target), "added_us")

    about = (
        "Share of requests that spent at most this time inside the proxy, both directions together, by the clocks of "
        "client and mock"
    )
    return _shares(study, "overhead", "Time added to a request", samples, "added time, µs", about)


def _together(runs: Sequence[Facts], metric: str) -> Tail | None:
    """The values behind a percentile of the tail, of all runs as one; None where there are none."""
    tails = [tail for one in runs if (tail := one.tail(metric)) is not None and tail.size]
    if not tails:
        return None
    counts = [np.ones(tail.values.size, np.int64) if tail.counts is None else tail.counts for tail in tails]
    values, counted = np.concatenate([tail.values for tail in tails]), np.concatenate(counts)
    return Tail(values[counted > 0], counted[counted > 0])


def _quantiles(tail: Tail, shares: Floats) -> Floats:
    return np.asarray(np.quantile(tail.values, shares, weights=tail.counts, method="inverted_cdf"), dtype=np.float64)


def _pool(runs: Sequence[Facts], name: str) -> Floats:
    """A time of all right replies of some runs, in order."""
    found = [tail.each() for one in runs if (tail := one.times(name)) is not None]
    return np.sort(np.concatenate(found)) if found else np.empty(0)


def _transit(study: Study) -> Figure | None:
    def samples(scenario: str, target: str) -> Floats:
        found = _together(study.runs_of(scenario, target), "transit_event_p99_us")
        # One value per 1/2000 of the events: an ECDF again, at the histogram's resolution.
        return np.empty(0) if found is None else _quantiles(found, np.linspace(0, 1, 2001)[1:])

    about = "Share of streamed events that took at most this time from the backend's write to the client's read"
    return _shares(study, "transit", "Time added to a streamed token", samples, "transit, µs", about)


def _shares(
    study: Study, name: str, heading: str, samples: Callable[[str, str], Floats], axis: str, about: str
) -> Figure | None:
    """ECDFs, a panel a use case, each line labelled where it crosses a height of its own."""
    palette, panels, alt = Palette(study.targets), [], []
    for scenario in study.cases:
        found = {t: v for t in study.targets if (v := samples(scenario, t)).size >= 20}
        if not found:
            continue
        with panel() as ((ax,), made):
            for target, values in found.items():
                take = np.unique(np.linspace(0, values.size - 1, min(values.size, 160)).astype(int))
                ax.plot(values[take], (take + 1) / values.size, **palette.line(target))
            ends = np.concatenate([np.quantile(v, [0.002, 0.998]) for v in found.values()])
            log_x(ax, float(ends.min()), float(ends.max()))
            ax.set_ylim(0, 1.02)
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
            ax.set_title(short(study.called[scenario], 44))
            ax.set_xlabel(axis)
            order = sorted(found, key=lambda t: float(np.median(found[t])))
            heights = np.linspace(0.9, 0.2, len(order)) if len(order) > 1 else [0.5]
            for target, height in zip(order, heights, strict=True):
                label_ends(ax, [(target, float(np.quantile(found[target], height)), float(height))], palette)
        panels += made
        medians = ", ".join(f"{title(t)} median {number(float(np.median(v)))} µs" for t, v in found.items())
        alt.append(f"{study.called[scenario]}: {medians}")
    if not panels:
        return None
    caption = (
        f"{about}; {_pooled(study, study.cases)}. Dashed: no proxy, or a relay of bare TCP: the floor, which is never "
        "subtracted."
    )
    return Figure(name, heading, caption, "; ".join(alt), tuple(panels))


def _pooled(study: Study, scenarios: Sequence[str]) -> str:
    """Of how many rounds the samples of a figure with these scenarios are."""
    valid = study.comparison.valid.items()
    counts = sorted({len(runs) for (name, target), runs in valid if target in study.targets and name in scenarios})
    if not counts:
        return "no valid round"
    text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"all {text} valid rounds pooled"


# ----------------------------------------------------------------------------------------------------------- the tail
def _tail(study: Study) -> Figure | None:
    """Latency by percentile on a scale of nines, ending where ten samples remain."""
    palette, panels, alt = Palette(study.targets), [], []
    for scenario in study.cases:
        metric = _tail_metric(study, scenario)
        found = {
            target: tail
            for target in study.targets
            if (tail := _together(study.runs_of(scenario, target), metric.id)) is not None and tail.size >= 100
        }
        if found:
            panels.append(_tail_panel(study, palette, scenario, metric, found))
            p99 = {name: float(_quantiles(tail, np.array([0.99]))[0]) * _ms(metric) for name, tail in found.items()}
            said = ", ".join(f"{title(target)} p99 {number(one)} ms" for target, one in p99.items())
            alt.append(f"{study.called[scenario]}: {said}")
    if not panels:
        return None
    caption = (
        "Latency by percentile: of plain replies from the intended send time to the last byte, of streams from the "
        "backend's write of an event to the client's read, as their pace is the backend's; "
        f"{_pooled(study, study.cases)}. A line ends where fewer than ten samples lie beyond it. {_worst_tail(study)}"
    )
    return Figure("tail", "The tail", caption.strip(), "; ".join(alt), tuple(panels))


def _tail_metric(study: Study, scenario: str) -> Metric:
    """What the tail of a scenario is of: events in streams, whole replies else, as in `ScenarioRecord.primaries`."""
    return METRICS["transit_event_p99_us" if study.campaign.scenario(scenario).kind == "stream" else "e2e_p99_ms"]


def _ms(metric: Metric) -> float:
    """What makes milliseconds of it."""
    return 1e-3 if metric.unit == "us" else 1.0


def _tail_panel(study: Study, palette: Palette, scenario: str, metric: Metric, found: dict[str, Tail]) -> Panel:
    deepest, ends = 1.0, []
    with panel(right=0.75) as ((ax,), made):
        for target, tail in found.items():
            last = math.log10(tail.size / 10)  # ten samples beyond
            nines = np.linspace(0, last, 100)
            values = _quantiles(tail, 1 - 10.0**-nines) * _ms(metric)
            ax.plot(nines, values, **palette.line(target))
            ends.append((target, last, float(values[-1])))
            deepest = max(deepest, last)
        log_y(ax)
        ticks = [(0.30103, "50"), (1, "90"), (2, "99"), (3, "99.9"), (4, "99.99"), (5, "99.999")]
        shown = [tick for tick in ticks if tick[0] <= deepest + 0.05]
        ax.set_xticks([tick for tick, _ in shown], [text for _, text in shown])
        ax.set_xlim(0, deepest + 0.05)
        ax.set_title(short(study.called[scenario], 44))
        ax.set_xlabel("percentile")
        ax.set_ylabel(f"{metric.label.removesuffix(' p99').lower()}, ms")
        label_ends(ax, ends, palette)
    return made[0]


def _worst_tail(study: Study) -> str:
    """The use case in which the recommended engine's p99 is furthest above the other's; said, not hidden."""
    engine, worst = study.advice.engine, None
    for scenario in study.cases:
        row = study.comparison.row(scenario, _tail_metric(study, scenario).id, study.main or "")
        if engine is None or row is None or row.ratio is None:
            continue
        ratio = row.ratio if engine == study.main else 1 / row.ratio
        if ratio > 1.1 and (worst is None or ratio > worst[0]):
            worst = ratio, scenario, shown(row)
    if worst is None:
        return ""
    said = f"{title(engine or '')}'s p99 is ×{number(worst[0])} the other's with {study.called[worst[1]]}"
    return f"{said} ({worst[2]})."


# --------------------------------------------------------------------------------------------------------------- load
def _load(study: Study) -> Figure | None:
    """Latency against offered load, a panel for each workload at several rates; the last rate kept marked."""
    groups: dict[str, list[str]] = {}
    for name in study.scenarios:
        scenario = study.campaign.scenario(name)
        if "sweep-rate" in scenario.tags and scenario.rate_rps and scenario.group != GROUP:
            groups.setdefault(scenario.group or "load", []).append(name)
    palette, panels, alt = Palette(study.targets), [], []
    for names in groups.values():
        many = all(study.comparison.values(n, "e2e_p99_ms", t).size for n in names for t in study.targets)
        tail = "p99" if many else "p95"  # p99 needs 1,000 requests in a run
        lines = {t: points for t in study.targets if len(points := _points(study, names, t, tail)) > 1}
        if not lines:
            continue
        with panel(3.1, right=0.75) as ((ax,), made):
            for target, points in lines.items():
                _load_line(ax, palette, target, points)
                alt.append(_kept(target, points))
            ax.set_xscale("log")
            log_y(ax)
            low, high = (end(p[0] for points in lines.values() for p in points) for end in (min, max))
            log_x(ax, low, high)
            ax.set_title(f"{tail} (thick) and median (thin) against load")
            ax.set_xlabel("offered load, req/s")
            ax.set_ylabel("end to end, ms")
            label_ends(ax, [(t, points[-1][0], points[-1][2]) for t, points in lines.items()], palette)
        panels += made
    if not panels:
        return None
    caption = (
        "End-to-end latency from the intended send time, medians over rounds with the range of the rounds. A dotted "
        "line marks the last rate that a target kept (goodput within 1 % of the offer), where it was offered more. "
        + " ".join(f"{one}." for one in alt)
    )
    return Figure("load", "Latency against load", caption, "; ".join(alt), tuple(panels))


def _ladder(study: Study) -> Figure | None:
    """Latency from a tenth of each target's own capacity to beyond it, the knee marked."""
    found = ladders(facts.record for facts in study.facts)
    if not found:
        return None
    palette, ends = Palette(study.targets), []
    with panel(3.1, right=0.75) as ((ax,), made):
        for one in found:
            rungs = [rung for rung in one.rungs if rung.p95_ms is not None]
            if not rungs:
                continue
            rates, style = [rung.rate for rung in rungs], palette.line(one.target)
            ax.plot(rates, [rung.p50_ms or np.nan for rung in rungs], **{**style, "lw": 1.0}, alpha=0.75)
            ax.plot(rates, [rung.p95_ms or np.nan for rung in rungs], **style, marker=palette.mark(one.target), ms=4)
            if one.knee is not None and one.ended:
                ax.axvline(one.knee.rate, color=style["color"], lw=1, ls=":")
                ax.plot(
                    [one.knee.rate], [one.knee.p95_ms or np.nan], "o", ms=11, mfc="none", mec=style["color"], mew=1.6
                )
            ends.append((one.target, rates[-1], float(rungs[-1].p95_ms or np.nan)))
        log_y(ax)
        if ends:
            every = [rung.rate for one in found for rung in one.rungs]
            log_x(ax, min(every), max(every))
        ax.set_title("p95 (thick) and median (thin) up to the knee")
        ax.set_xlabel("offered load, req/s")
        ax.set_ylabel("end to end, ms")
        label_ends(ax, ends, palette)
    words = "; ".join(one.words() for one in found)
    caption = (
        "Each target alone, from a tenth of its own capacity to beyond it or to half of what driver and mocks carry. "
        f"The ring is the knee: the last rung whose p95 is at most {KNEE:g} times that of the lowest. {words}."
    )
    return Figure("ladder", "Up to the knee", caption, words, tuple(made))


_Point = tuple[float, float, float, float, float, bool]
"""Rate, median of p50, median of the tail, lowest and highest tail of the rounds, whether the rate was kept."""


def _points(study: Study, names: Sequence[str], target: str, which: str) -> list[_Point]:
    found = []
    for name in sorted(names, key=lambda n: study.campaign.scenario(n).rate_rps or 0.0):
        rate = study.campaign.scenario(name).rate_rps or 0.0
        middle, tail = (study.comparison.values(name, metric, target) for metric in ("e2e_p50_ms", f"e2e_{which}_ms"))
        goodput = study.comparison.values(name, "goodput_rps", target)
        offered = np.array([f.record.offered_rps or rate for f in study.runs_of(name, target)])
        if middle.size and tail.size:
            kept = bool(goodput.size and goodput.size == offered.size and np.all(goodput >= 0.99 * offered))
            kept = kept and all(f.record.ended != "overloaded" for f in study.runs_of(name, target))
            found.append(
                (rate, float(np.median(middle)), float(np.median(tail)), float(tail.min()), float(tail.max()), kept)
            )
    return found


def _load_line(ax: Axes, palette: Palette, target: str, points: Sequence[_Point]) -> None:
    style = palette.line(target)
    rates = [point[0] for point in points]
    ax.plot(rates, [point[1] for point in points], **{**style, "lw": 1.0}, alpha=0.75)
    ax.plot(rates, [point[2] for point in points], **{**style, "lw": 2.0}, marker=palette.mark(target), ms=4)
    ax.vlines(rates, [p[3] for p in points], [p[4] for p in points], color=style["color"], lw=1.2, alpha=0.7)
    kept = [rate for rate, *_, one in points if one]
    if kept and max(kept) < max(rates):
        ax.axvline(max(kept), color=style["color"], lw=1, ls=":")


def _kept(target: str, points: Sequence[_Point]) -> str:
    rates, kept = [point[0] for point in points], [point[0] for point in points if point[5]]
    if not kept:
        return f"{title(target)} kept none of the rates"
    if max(kept) < max(rates):
        return f"{title(target)} kept up to {number(max(kept))} req/s"
    return f"{title(target)} kept every rate it was offered, up to {number(max(rates))} req/s"


# ------------------------------------------------------------------------------------ what makes the tail
def _makes_the_tail(study: Study) -> list[Block]:
    blocks: list[Block] = [
        Text(
            "A garbage collection stops the process, a stall is an event loop that runs late, and a queue shows as "
            "latency that rises with load. The first two are recorded inside the engines.",
            heading="What makes the tail",
        )
    ]
    figure = _collections(study)
    if figure is None:
        return [*blocks, missing("no recorder ran inside a target, or no collection happened in a measured window")]
    blocks.append(figure)
    rows = [
        _pauses(study, one, scenario, target, runs)
        for one, scenario, target, runs in study.each()
        if target not in FLOOR_TARGETS and any(f.gc is not None for f in runs)
    ]
    columns = (
        Column("Scenario"),
        Column("Target"),
        *nights(study),
        Column("Collections, gen 0 / 1 / 2", True),
        Column("Total, ms", True),
        Column("Median, ms", True),
        Column("Longest, ms", True),
        Column("Share of time", True),
        Column("Requests hit", True),
        Column("Held up by at most, µs", True, "median over the requests that had one inside"),
        Column("Stalls by cause", True),
        Column("Longest stall, ms", True),
        Column("Requests stalled", True),
    )
    blocks.append(Table("pauses", "Collections and stalls in the measured windows", columns, tuple(rows), folded=True))
    blocks += verdicts(study, "gc", "Collections and stalls", lambda row: row.spec.family in ("gc", "stall"))
    return blocks


def _pauses(study: Study, one: Study, scenario: str, target: str, runs: Sequence[Facts]) -> TableRow:
    recorded = [f for f in runs if f.gc is not None]
    ms = np.concatenate([f.gc.ms for f in recorded if f.gc is not None])
    generation = np.concatenate([f.gc.generation for f in recorded if f.gc is not None])
    seconds = sum(f.window_s or 0.0 for f in recorded)
    joins = [f.join for f in recorded if f.join is not None]
    hit = sum(join.with_pause for join in joins)
    shared = [join.shared_us for join in joins if join.shared_us is not None]
    stalls = [f.stalls for f in recorded if f.stalls is not None]
    causes = Counter(str(cause) for stall in stalls for cause in stall.cause)
    longest = max((float(stall.ms.max()) for stall in stalls if stall.ms.size), default=None)
    stalled = [f.stall_join for f in recorded if f.stall_join is not None]
    held = sum(join.with_pause for join in stalled)
    return TableRow(
        (
            Cell(study.called[scenario], hint=scenario),
            Cell(title(target), hint=", ".join(shortened(recorded))),
            *night(study, one),
            Cell(" / ".join(str(int((generation == g).sum())) for g in (0, 1, 2)), float(ms.size)),
            Cell(number(float(ms.sum())), float(ms.sum())),
            Cell(number(float(np.median(ms))) if ms.size else "–"),
            Cell(number(float(ms.max())) if ms.size else "–"),
            Cell(share(float(ms.sum()) / 1e3 / seconds) if seconds else "–"),
            Cell(f"{hit:,} of {hit + sum(join.without for join in joins):,}"),
            Cell(number(float(np.median(shared))) if shared else "–"),
            Cell(", ".join(f"{count} {cause}" for cause, count in sorted(causes.items())) or "none"),
            Cell("–" if longest is None else number(longest), longest),
            Cell(f"{held:,} of {held + sum(join.without for join in stalled):,}"),
        )
    )


def _collections(study: Study) -> Figure | None:
    """Pauses of the collector by generation: from shortest to longest, half of them thick, the median a mark."""
    palette, panels, alt = Palette(study.targets), [], []
    drawn = []
    for scenario in study.scenarios:
        found = {
            target: runs
            for target in study.targets
            if target not in FLOOR_TARGETS
            and (runs := [f for f in study.runs_of(scenario, target) if f.gc is not None])
        }
        wanted = scenario in study.cases or "gc-load" in study.campaign.scenario(scenario).tags
        if not wanted or not any(f.gc.ms.size for runs in found.values() for f in runs if f.gc):
            continue
        drawn.append(scenario)
        with panel(2.4, left=0.75) as ((ax,), made):
            ticks = []
            for place, (target, runs) in enumerate(found.items()):
                ms = np.concatenate([f.gc.ms for f in runs if f.gc is not None])
                generation = np.concatenate([f.gc.generation for f in runs if f.gc is not None])
                colour = palette.colour(target)
                for which in (0, 1, 2):
                    x, chosen = place + (which - 1) * 0.26, np.maximum(ms[generation == which], 1e-3)
                    ticks.append((x, str(which)))
                    if chosen.size:
                        low, middle, high = np.quantile(chosen, [0.25, 0.5, 0.75])
                        ax.vlines(x, chosen.min(), chosen.max(), color=colour, lw=1)
                        ax.vlines(x, low, high, color=colour, lw=5, alpha=0.55)
                        ax.plot([x], [middle], "_", color=INK, ms=9, mew=1.8)
                ax.annotate(
                    short(title(target), 16),
                    (place, 0),
                    (0, -22),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="center",
                    va="top",
                    color=colour,
                    weight="bold",
                )
                total = number(float(ms.sum()))
                alt.append(f"{study.called[scenario]} {title(target)}: {ms.size} collections, {total} ms in all")
            log_y(ax)
            ax.set_xlim(-0.5, len(found) - 0.5)
            ax.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
            ax.set_title(short(study.called[scenario], 44))
            ax.set_ylabel("pause, ms")
            ax.grid(visible=False, axis="x")
        panels += made
    if not panels:
        return None
    caption = (
        f"Garbage collections by generation (0, 1, 2): shortest to longest, the middle half thick, median as a bar; "
        f"{_pooled(study, drawn)}. A pause depends on the live heap, so compare within one plot only."
    )
    return Figure("gc", "Garbage collection", caption, "; ".join(alt), tuple(panels))
