"""Part 6: what has been said about the engines, each sentence with a rule written before measuring."""

from __future__ import annotations

from reports.page import Cell, Column, Part, Span, Table, TableRow, Text, strong, ticks
from reports.study import Study


def part(study: Study) -> Part:
    """Claims."""
    words = [one.finding.verdict for one in study.judged if one.claim.id.startswith("C")]
    held, not_held, open_ = (words.count(word) for word in ("holds", "does-not-hold", "not-testable"))
    say = (
        f"The engine guide of the original Olla, a proxy in Go, makes {len(words)} claims about its two engines. "
        f"Here {held} of them hold, {not_held} do not hold, and {open_} cannot be tested by this campaign."
    )
    others = [{one.claim.id: one for one in other.judged} for other in study.others]
    rows = []
    for one in study.judged:
        nights = [
            (
                Cell(Span(found.finding.verdict.replace("-", " "), word=found.finding.verdict)),
                Cell(ticks(found.finding.measured)),
            )
            for found in (one, *(other[one.claim.id] for other in others))
        ]
        rows.append(
            TableRow(
                (
                    Cell(strong(one.claim.id)),
                    Cell(one.claim.sentence, hint=one.claim.source),
                    *(cell for night in nights for cell in night),
                    Cell(ticks(one.claim.rule)),
                )
            )
        )
    night = [f", {one.name}" for one in study.all] if study.others else [""]
    columns = [Column("No."), Column("Claim")]
    for suffix in night:
        columns += [Column(f"Verdict{suffix}"), Column(f"Measured{suffix}")]
    columns.append(Column("Rule"))
    return Part("claims", "Claims", (Text(say), Table("ledger", "Claims and findings", tuple(columns), tuple(rows))))
