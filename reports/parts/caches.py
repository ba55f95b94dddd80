"""How often the turn before was served by the same backend, where the backends have a prefix cache."""

from __future__ import annotations

from reports.page import Cell, Column, Table, TableRow
from reports.parts.rows import night, nights
from reports.study import Study
from reports.words import share, title


def prefix_caches(study: Study) -> Table | None:
    """One row for each scenario and target; None if no mock had a prefix cache. Warm-up is counted, too."""
    rows = []
    for one, scenario, target, runs in study.each():
        backends = [backend for facts in runs for backend in facts.extras.get("mocks") or ()]
        hits, misses = (sum(int(backend.get(name) or 0) for backend in backends) for name in _COUNTS)
        if hits + misses:
            rate = hits / (hits + misses)
            cells = (
                Cell(study.called[scenario], hint=scenario),
                Cell(title(target)),
                *night(study, one),
                Cell(f"{hits:,}", float(hits)),
                Cell(f"{misses:,}", float(misses)),
                Cell(share(rate), rate),
            )
            rows.append(TableRow(cells))
    if not rows:
        return None
    columns = (
        Column("Scenario"),
        Column("Target"),
        *nights(study),
        Column("Prefix hits", True),
        Column("Misses", True),
        Column("Hit rate", True),
    )
    return Table("prefixes", "Prompts whose turn before was served by the same backend", columns, tuple(rows))


_COUNTS = ("prefix_hits", "prefix_misses")
