"""Part 1: the answer. One table in the reader's units, when to choose which engine, what got worse, what is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reports import decide
from reports.compare import Row
from reports.first_screen import Entry, FirstScreen, first_screen
from reports.page import Block, Cell, Column, Figure, Note, Part, Span, Table, TableRow, missing, strong
from reports.parts.rows import written
from reports.plots import GRID, INK, MUTED, folded, log_ticks, panel
from reports.schema import AA_SUFFIX
from reports.study import Study
from reports.words import headline, number, sentence, shown, title


def part(study: Study) -> Part:
    """The answer."""
    screen = first_screen(study)
    blocks: list[Block] = []
    if screen.wrong:
        blocks.append(Note(heading="Replies were changed", items=screen.wrong, tone="doubt"))
    if screen.entries:
        blocks.append(_table(study, screen))
    if screen.choose:
        blocks.append(Note(items=tuple([strong(f"{when} "), then] for when, then in screen.choose), tone="lead"))
    if screen.worse:
        with_ = title(study.advice.engine or "")
        note = Note(heading=f"What gets worse with {with_}", items=screen.worse)
        blocks.append(replace(note, tone="doubt") if study.advice.worse else note)
    if screen.unknown:
        blocks.append(Note(heading="What we could not tell", items=screen.unknown[:8], tone="doubt"))
    blocks.append(_cases(study))
    figure = _effects(study)
    if figure is not None:
        blocks.append(figure)
    return Part("answer", "The answer", tuple(blocks))


def _table(study: Study, screen: FirstScreen) -> Table:
    others = [(one, first_screen(one)) for one in study.others]
    rows = []
    for entry in screen.entries:
        about = study.called.get(entry.scenario, entry.scenario)
        cells = [Cell([strong(entry.label), Span(f" {about}", "quiet")], hint=f"{entry.about}; {entry.scenario}")]
        cells += [_cell(entry, target) for target in screen.targets]
        rows.append(TableRow(tuple(cells)))
        for one, theirs in others:
            same = next((x for x in theirs.entries if x.metric == entry.metric and x.label == entry.label), None)
            if same is not None:
                again = [Cell(Span(f"the same, {one.name}", "quiet"))]
                rows.append(TableRow((*again, *(_cell(same, target) for target in screen.targets))))
    columns = (Column("For your load"), *(Column(title(name), True) for name in screen.targets))
    return Table("first", "What it costs, in your units", columns, tuple(rows), cards=True, note=screen.note)


def _cell(entry: Entry, target: str) -> Cell:
    value = entry.values.get(target)
    if value is None:
        return Cell("–")
    return Cell(strong(value.text), value.value, more="; ".join(part for part in (value.range, value.times) if part))


def _cases(study: Study) -> Block:
    rows = []
    for scenario in study.cases:
        found = [r for r in study.comparison.rows if r.scenario == scenario and r.candidate.target == study.main]
        act, lead = decide.action(found, study.comparison), headline(found)
        said = act.because or ("not measured" if lead is None else sentence(lead))
        word = "not-measured" if lead is None else lead.verdict
        nights = []
        for one in study.others:
            theirs = [r for r in one.comparison.rows if r.scenario == scenario and r.candidate.target == one.main]
            nights.append(Cell(decide.action(theirs, one.comparison).say))
        name = Cell(study.called[scenario], hint=scenario)
        rows.append(TableRow((name, Cell(Span(act.say, word=word)), *nights, Cell(said))))
    if not rows:
        return missing("the campaign lists no scenario" if not study.scenarios else "no scenario of it is a use case")
    columns = (
        Column("Use case"),
        Column("Take"),
        *(Column(f"Take, {one.name}") for one in study.others),
        Column("Because"),
    )
    return Table("cases", "Each use case", columns, tuple(rows))


def _effects(study: Study) -> Figure | None:
    """Forest plot of the primary metrics that differ, with the noise floor of each."""
    rows = [
        row
        for row in study.comparison.rows
        if row.primary
        and row.candidate.target == study.main
        and row.basis == "ratio"
        and row.ci_low
        and row.ci_high
        and written(row, study)
        and row.scenario in study.cases
        and row.verdict != "equivalent"
    ]
    if not rows or study.baseline is None:
        return None
    panels, alt = [], []
    for label in dict.fromkeys(row.spec.label for row in rows):
        mine = [row for row in rows if row.spec.label == label]
        with panel(0.95 + 0.36 * len(mine), left=1.72) as ((ax,), made):
            for place, row in enumerate(mine):
                aa = study.comparison.row(row.scenario, row.metric, study.baseline + AA_SUFFIX)
                if aa is not None and aa.ci_low and aa.ci_high:
                    ax.plot([aa.ci_low, aa.ci_high], [-place] * 2, color=GRID, lw=9, solid_capstyle="butt", zorder=1)
                colour = INK if row.verdict in ("faster", "slower") else MUTED
                ax.plot([row.ci_low or 1, row.ci_high or 1], [-place] * 2, color=colour, lw=2.2, zorder=3)
                ax.plot([row.ratio or 1], [-place], "o", ms=6, color=colour, zorder=4)
                ax.annotate(
                    f"×{number(row.ratio or 1)}",
                    (row.ratio or 1, -place),
                    (0, 5),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    color=colour,
                )
                alt.append(f"{study.called[row.scenario]}, {row.spec.label}: ×{number(row.ratio or 1)}, {shown(row)}")
            ax.axvline(1, color=MUTED, lw=1)
            ax.set_xscale("log")
            low = max(min(0.7, *(row.ci_low or 1 for row in mine)), 1e-3)
            high = min(max(1.4, *(row.ci_high or 1 for row in mine)), 1e3)
            room = (high / low) ** 0.12  # for the numbers above the outermost marks
            ax.set_xlim(low / room, high * room)
            log_ticks(ax.xaxis, *ax.get_xlim(), prefix="×")
            ax.set_yticks(range(0, -len(mine), -1), [folded(study.called[row.scenario]) for row in mine])
            ax.set_ylim(-len(mine) + 0.5, 0.8)
            ax.grid(visible=False, axis="y")
            better = "right" if mine[0].spec.higher_is_better else "left"
            ax.set_title(f"{label} ({better} is better)", x=-0.62)
        panels += made
    caption = (
        f"{title(study.main or '')} as a multiple of {title(study.baseline)}, in metrics that were declared "
        f"beforehand and are not equivalent: estimate and 95 % interval over {_rounds(rows)}. Grey bar: "
        f"{title(study.baseline)} against itself, the noise floor."
    )
    return Figure("effects", "What differs", caption, "; ".join(alt), tuple(panels))


def _rounds(rows: Sequence[Row]) -> str:
    counts = sorted({row.rounds for row in rows})
    return f"{counts[0]} rounds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} rounds"
