"""The files a driver leaves, and whether they are all there. Standard library only: the campaign asks this too.

Each worker writes ``requests-<worker>.parquet``, ``events-<worker>.parquet`` if there were events, and, last,
``driver-<worker>.json`` (its summary; so its presence says that the shards are whole). Whoever conducts the workers, or
the only worker itself, writes ``driver.json``: how many workers there were and which were lost.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1


def requests_shard(worker: int) -> str:
    """File name of a worker's request rows."""
    return f"requests-{worker}.parquet"


def events_shard(worker: int) -> str:
    """File name of a worker's event rows."""
    return f"events-{worker}.parquet"


def summary_file(worker: int) -> str:
    """File name of a worker's summary."""
    return f"driver-{worker}.json"


def clear(out: Path) -> None:
    """Removes what an earlier test left in `out`: shards of workers there are no more would be merged with the new."""
    for pattern in ("requests-*.parquet", "events-*.parquet", "driver.json", "driver-*.json", "wrong-*.http"):
        for file in out.glob(pattern):
            file.unlink()


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Writes a worker's ``driver-<worker>.json``."""
    _write_json(out / summary_file(summary["worker"]), {"schema": SCHEMA, **summary})


def write_index(out: Path, workers: int, lost: Iterable[int], summaries: Iterable[dict[str, Any]]) -> None:
    """Writes ``driver.json``: the number of workers dealt to, the lost ones, and the summaries that came."""
    index = {"schema": SCHEMA, "workers": workers, "lost": sorted(lost), "summaries": list(summaries)}
    _write_json(out / "driver.json", index)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """What a folder of shards holds against what it should. `problems` are sentences for people; none: all is there."""

    workers: int
    lost: tuple[int, ...]
    problems: tuple[str, ...]


def check_shards(folder: Path) -> ShardCheck:
    """Whether every worker's rows are in `folder`: the run's own, or where the shards of several machines were put."""
    try:
        index = json.loads((folder / "driver.json").read_text(encoding="utf-8"))
        workers = int(index["workers"])
        lost = {int(worker) for worker in index["lost"]}
    except (OSError, ValueError, KeyError, TypeError) as exc:
        return ShardCheck(0, (), (f"{folder / 'driver.json'}: missing or damaged ({exc}): the driver did not finish",))
    problems = []
    for worker in range(workers):
        try:
            summary = json.loads((folder / summary_file(worker)).read_text(encoding="utf-8"))
            files = [str(name) for name in summary["files"]]
            planned, done = summary["planned"], summary["done"]
        except (OSError, ValueError, KeyError, TypeError):
            lost.add(worker)
            problems.append(f"worker {worker} of {workers} left no rows: it was lost, or its files were not collected")
            continue
        problems += [
            f"worker {worker} of {workers}: {name} is missing" for name in files if not (folder / name).exists()
        ]
        if planned is not None and done != planned:
            problems.append(f"worker {worker} of {workers} ended after {done} of its {planned} requests")
    return ShardCheck(workers, tuple(sorted(lost)), tuple(problems))
