"""Whether all rows are there: a lost worker is named, never passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadgen.wire.shards import check_shards, clear, events_shard, requests_shard, write_index, write_summary


def leave(folder: Path, worker: int, workers: int, **changes: Any) -> None:
    files = [requests_shard(worker), events_shard(worker)]
    for name in files:
        (folder / name).touch()
    write_summary(folder, {"worker": worker, "workers": workers, "planned": 5, "done": 5, "files": files, **changes})


def test_a_folder_with_the_rows_of_every_worker_has_no_problems(tmp_path: Path) -> None:
    for worker in range(2):
        leave(tmp_path, worker, 2)
    write_index(tmp_path, 2, [], [])
    check = check_shards(tmp_path)
    assert (check.workers, check.lost, check.problems) == (2, (), ())


def test_a_worker_that_left_no_rows_is_named(tmp_path: Path) -> None:
    leave(tmp_path, 0, 3)
    leave(tmp_path, 2, 3)
    write_index(tmp_path, 3, [], [])
    check = check_shards(tmp_path)
    assert check.lost == (1,)
    assert check.problems == ("worker 1 of 3 left no rows: it was lost, or its files were not collected",)


def test_a_missing_shard_and_an_unfinished_plan_are_told(tmp_path: Path) -> None:
    leave(tmp_path, 0, 2)
    (tmp_path / events_shard(0)).unlink()
    leave(tmp_path, 1, 2, done=3)
    write_index(tmp_path, 2, [], [])
    assert check_shards(tmp_path).problems == (
        "worker 0 of 2: events-0.parquet is missing",
        "worker 1 of 2 ended after 3 of its 5 requests",
    )


def test_a_folder_without_an_index_is_a_driver_that_did_not_finish(tmp_path: Path) -> None:
    leave(tmp_path, 0, 1)
    assert "did not finish" in check_shards(tmp_path).problems[0]
    (tmp_path / "driver.json").write_text("{")
    assert "did not finish" in check_shards(tmp_path).problems[0]


def test_what_an_earlier_test_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    leave(tmp_path, 0, 2)
    leave(tmp_path, 1, 2)
    write_index(tmp_path, 2, [], [])
    (tmp_path / "wrong-0-5.http").touch()
    (tmp_path / "usage.parquet").touch()
    (tmp_path / "JOB.json").touch()
    clear(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["JOB.json", "usage.parquet"]
    clear(tmp_path / "not there yet")
