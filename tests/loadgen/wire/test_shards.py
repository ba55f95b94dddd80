"""What a driver leaves in a folder, and what of it the next one removes."""

from __future__ import annotations

import json
from pathlib import Path

from loadgen.wire.shards import EVENTS, REQUESTS, clear, write_summary


def test_what_an_earlier_test_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (REQUESTS, EVENTS, "wrong-5.http", "usage.parquet", "JOB.json"):
        (tmp_path / name).touch()
    write_summary(tmp_path, {"done": 5})
    assert json.loads((tmp_path / "driver.json").read_text()) == {"schema": 1, "done": 5}
    clear(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["JOB.json", "usage.parquet"]
    clear(tmp_path / "not there yet")
