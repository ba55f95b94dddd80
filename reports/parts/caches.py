"""How often the turn before was served by the same backend, where the backends have a prefix cache."""

from __future__ import annotations

from reports.page import Cell, Column, Table, TableRow
from reports.study import Study
from reports.words import title


def prefix_caches(study: Study) -> Table | None:
    """One row for each scenario and target; None if no mock had a prefix cache. Warm-up is counted, too."""
    rows = []
    for one, scenario, target, runs in study.each():
        backends = [backend for facts in runs for backend in facts.extras.get("mocks") or ()]
        hits, misses = (sum(int(backend.get(name) or 0) for backend in backends) for name in _COUNTS)
        if hits + misses:
            share = hits / (hits + misses)
            cells = (
                Cell(study.called[scenario], hint=scenario),
                Cell(title(target)),
                Cell(one.name),
                Cell(f"{hits:,}", float(hits)),
                Cell(f"{misses:,}", float(misses)),
                Cell(f"{share:.1%}", share),
            )
            rows.append(TableRow(cells))
    if not rows:
        return None
    return Table("prefixes", "Prompts whose turn before was served by the same backend", _COLUMNS, tuple(rows))


_COUNTS = ("prefix_hits", "prefix_misses")
_COLUMNS = (
    Column("Scenario"),
    Column("Target"),
    Column("Campaign"),
    Column("Prefix hits", True),
    Column("Misses", True),
    Column("Hit rate", True),
)
