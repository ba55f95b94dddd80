"""How often a prompt's turn before was served by the same backend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from reports.parts.caches import prefix_caches
from reports.parts.latency import part
from reports.study import Study


def test_hits_and_misses_of_all_backends_and_rounds_are_added(copied: Callable[[], Path]) -> None:
    folder = copied()
    rounds = 0
    for path in folder.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        if record["target"] == "olla":
            rounds += 1
            known = {"prefix_hits": 60, "prefix_misses": 7}, {"prefix_hits": 30, "prefix_misses": 3}
            record["summary"]["mocks"] = list(known)
            path.write_text(json.dumps(record))
    table = prefix_caches(Study.load(folder))
    assert table is not None
    assert {row.cells[1].say for row in table.rows} == {"Olla"}
    assert sum(row.cells[2].value or 0 for row in table.rows) == 90 * rounds
    assert sum(row.cells[3].value or 0 for row in table.rows) == 10 * rounds
    assert {row.cells[4].say for row in table.rows} == {"90 %"}
    assert table in part(Study.load(folder)).blocks


def test_without_prefix_caches_there_is_no_table(small: Path) -> None:
    assert prefix_caches(Study.load(small)) is None
