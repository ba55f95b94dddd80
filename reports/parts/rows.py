"""The verdict rows of a part as tables: primaries shown, secondaries folded. Every row shows each campaign."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reports import ladder
from reports.compare import Row, visible_text
from reports.page import Block, Cell, Column, Span, Table, TableRow
from reports.rules import patterns
from reports.schema import AA_SUFFIX
from reports.study import Study
from reports.words import interval, number, percent, shown, title


def written(row: Row, study: Study) -> bool:
    """Whether a row says anything: it has a number or a word, or it is a primary that should have one."""
    if row.verdict != "not-measured":
        return True
    if study.campaign.scenario(row.scenario).group == ladder.GROUP:
        return False  # each rung is measured with one target alone
    return row.primary and row.spec.applies(study.campaign.scenario(row.scenario))


def night(study: Study, one: Study) -> tuple[Cell, ...]:
    """Which campaign a row is of, where there are several (`nights`)."""
    return (Cell(one.name),) if study.others else ()


def nights(study: Study) -> tuple[Column, ...]:
    """The column of `night`."""
    return (Column("Campaign"),) if study.others else ()


def verdicts(study: Study, name: str, what: str, wanted: Callable[[Row], bool]) -> list[Block]:
    """The rows of the main candidate that a part asks for: those of use cases that differ, and the others folded."""
    mine = [row for row in study.comparison.rows if written(row, study) and wanted(row) and not row.is_aa]
    primary = [row for row in mine if row.primary and row.candidate.target == study.main]
    shown = [row for row in primary if row.verdict != "equivalent" and row.scenario in study.cases]
    rest = [row for row in primary if row not in shown]
    secondary = [row for row in mine if not row.primary and row.candidate.target == study.main]
    others = [row for row in mine if row.primary and row.candidate.target != study.main]
    against = f"{title(study.main or '')} against {title(study.baseline or '')}"
    blocks: list[Block] = []
    if shown:
        blocks.append(table(study, f"{name}-primary", f"{what}: {against}, metrics declared beforehand", shown))
    if rest:
        said = f"{what}: equivalent metrics, and points of sweeps"
        blocks.append(table(study, f"{name}-rest", said, rest, folded=True))
    if secondary:
        said = (
            f"{what}: {against}, secondary metrics (lower or higher at a false discovery rate of 5 %; they decide "
            "nothing)"
        )
        blocks.append(table(study, f"{name}-secondary", said, secondary, folded=True))
    if others:
        blocks.append(
            table(
                study,
                f"{name}-others",
                f"{what}: other targets against {title(study.baseline or '')}",
                others,
                folded=True,
            )
        )
    return blocks


def table(study: Study, name: str, caption: str, rows: list[Row], *, folded: bool = False) -> Table:
    """These rows as a table. With several campaigns each has columns of its own."""
    many = len({row.candidate.target for row in rows}) > 1
    columns = [Column("Scenario")] + ([Column("Target")] if many else []) + [Column("Metric")]
    for one in study.all:
        night = f", {one.name}" if study.others else ""
        value = "Target" if many else title(study.main or "")
        columns += [
            Column(f"{title(study.baseline or '')}{night}", True),
            Column(f"{value}{night}", True),
            Column(f"Change (95 % CI){night}", True),
            Column(f"Verdict{night}", about="by p adjusted within the scenario"),
        ]
    columns += [Column("Noise", True, "the baseline against itself, 95 % CI"), Column("Smallest visible", True)]
    return Table(name, caption, tuple(columns), tuple(_row(study, row, many=many) for row in rows), folded=folded)


def _row(study: Study, row: Row, *, many: bool) -> TableRow:
    cells = [Cell(study.called[row.scenario], hint=row.scenario)]
    if many:
        cells.append(Cell(title(row.candidate.target)))
    cells.append(Cell(row.spec.label, hint=row.spec.about))
    for one in study.all:
        cells += _night(one.comparison.row(row.scenario, row.metric, row.candidate.target))
    aa = study.comparison.row(row.scenario, row.metric, f"{study.baseline}{AA_SUFFIX}")
    cells.append(Cell("" if aa is None else noise(aa)))
    cells.append(Cell("" if row.visible is None else visible_text(row), row.visible))
    return TableRow(tuple(cells), primary=row.primary)


def _night(row: Row | None) -> Iterator[Cell]:
    """The four cells of one campaign."""
    if row is None:
        yield from (Cell("–"), Cell("–"), Cell("–"), Cell("–"))
        return
    unit = row.spec.shown_unit
    for side in (row.baseline, row.candidate):
        yield Cell("–" if side.value is None else f"{number(side.value)} {unit}".strip(), side.value)
    said, ends = change(row)
    effect = row.effect
    runs = f"{row.rounds} rounds: {', '.join(patterns(row.runs))}"
    yield Cell(said or "–", None if effect is None else effect[0], runs, f"({ends})" if ends else "")
    fault = [f" {row.reason}"] if row.verdict in ("void", "overloaded", "unreliable") else []
    yield Cell([Span(shown(row), word=row.verdict), *fault], hint=row.reason)


def change(row: Row) -> tuple[str, str]:
    """The effect and its 95 % interval as text; empty where there is none."""
    effect = row.effect
    if effect is None:
        return "", ""
    if row.basis == "ratio":
        return percent(effect[0]), interval(effect[1], effect[2])
    return f"{signed(effect[0])} {row.spec.shown_unit}".strip(), f"{signed(effect[1])}..{signed(effect[2])}"


def noise(aa: Row) -> str:
    """The interval of the baseline against itself."""
    if aa.effect is None:
        return ""
    unit = "%" if aa.basis == "ratio" else aa.spec.shown_unit
    ends = change(aa)[1]
    return ends if "×" in ends else f"{ends} {unit}".strip()


def signed(value: float) -> str:
    """A number with its sign."""
    return f"{'+' if value > 0 else ''}{number(value)}"
