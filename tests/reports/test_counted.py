"""Counts beside campaign.json become rows of a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import counted
from reports.store import ReportError


def written(folder: Path, data: object) -> Path:
    (folder / counted.FILE).write_text(json.dumps(data))
    return folder


def test_each_count_stands_beside_the_baselines_and_as_a_multiple_of_it(tmp_path: Path) -> None:
    counts = {
        "sherpa": {"instructions_per_request": 1000.0, "allocations_per_request": 200.0},
        "olla": {"instructions_per_request": 250.0},
        "nginx": {},
    }
    found = counted.load(written(tmp_path, {"counts": counts, "missing": ["nginx, valgrind: no"]}), "sherpa")
    assert found is not None
    assert found.targets == ("sherpa", "olla")
    assert found.cells() == [
        ["Instructions per request", "1,000", "250 (×0.25)"],
        ["Allocations per request", "200", "–"],
    ]
    assert found.as_json()["rows"][1] == {
        "metric": "instructions_per_request", "target": "olla", "value": 250.0, "ratio": 0.25,
    }  # fmt: skip
    assert found.as_json()["missing"] == ["nginx, valgrind: no"]


def test_without_counts_there_is_no_table_and_a_broken_file_is_named(tmp_path: Path) -> None:
    assert counted.load(tmp_path, None) is None
    with pytest.raises(ReportError, match=r"counted\.json"):
        counted.load(written(tmp_path, {"counts": 5}), None)
