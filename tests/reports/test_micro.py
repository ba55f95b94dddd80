"""Micro-benchmarks beside a campaign, as the report shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports import micro
from reports.store import ReportError

ONE = {
    "name": "wire.request.same", "does": "a request head like the last", "median_ns": 612.3, "ci_ns": [600.1, 625.0],
    "gc_per_1000": [0, 0, 0], "peak_bytes": 2048,
}  # fmt: skip
AGAINST = {"name": "wire.request.same", "against": "wire.request.new", "ratio": 0.07, "word": "faster"}


def written(folder: Path, data: object) -> Path:
    (folder / "micro").mkdir()
    (folder / "micro" / "micro.json").write_text(json.dumps(data))
    return folder


def test_each_benchmark_is_a_row_with_its_interval_and_what_it_is_compared_with(tmp_path: Path) -> None:
    data = {"schema": 1, "benchmarks": [ONE], "comparisons": [{**AGAINST, "ci_low": 0.06, "ci_high": 0.08}]}
    (row,) = micro.rows(written(tmp_path, data))
    assert (row["median"], row["ci"], row["gc"], row["peak"]) == ("612 ns", "600 ns .. 625 ns", "0 / 0 / 0", "2.0 KiB")
    assert row["against"] == "0.070 of wire.request.new (95 % CI 0.060..0.080): faster"


def test_a_single_process_has_no_interval(tmp_path: Path) -> None:
    data = {"schema": 1, "benchmarks": [{**ONE, "ci_ns": None}], "comparisons": [{**AGAINST, "ci_low": None}]}
    (row,) = micro.rows(written(tmp_path, data))
    assert (row["ci"], row["against"]) == ("–", "0.070 of wire.request.new: faster")


def test_a_campaign_without_any_has_no_rows(tmp_path: Path) -> None:
    assert micro.rows(tmp_path) == []


@pytest.mark.parametrize(
    "data", [{"schema": 2}, {"schema": 1}, [], {"schema": 1, "benchmarks": [1], "comparisons": []}]
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, data: object) -> None:
    with pytest.raises(ReportError, match=r"micro\.json"):
        micro.rows(written(tmp_path, data))
