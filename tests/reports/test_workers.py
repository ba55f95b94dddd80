"""What several workers cost and carry, and the share of the busiest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from reports.parts.cost import part
from reports.parts.workers import workers
from reports.study import Study


def test_workers_have_a_row_for_each_target_with_the_mean_and_the_largest_share(copied: Callable[[], Path]) -> None:
    folder = copied()
    for path in folder.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        if record["target"] == "olla":
            busiest = 0.9 if record["round"] == 1 else 0.5
            record["summary"] |= {"workers": 2.0, "busiest_worker": busiest}
            path.write_text(json.dumps(record))
    table = workers(Study.load(folder))
    assert table is not None
    assert {row.cells[1].say for row in table.rows} == {"Olla"}
    assert {row.cells[2].say for row in table.rows} == {"2"}
    for row in table.rows:
        assert row.cells[-1].more == "(at most 90.0)"
        assert 50 < (row.cells[-1].value or 0) < 90
    assert table in part(Study.load(folder)).blocks


def test_without_scenarios_that_set_the_workers_there_is_no_table(small: Path) -> None:
    assert workers(Study.load(small)) is None
