"""The files a driver leaves in a run's folder. Standard library only.

Rows are written under names of their own, so that what judges a run can tell them from tables that are complete;
``driver.json``, the summary, comes last: its presence says that the rows are whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 1
REQUESTS: Final = "requests-0.parquet"
EVENTS: Final = "events-0.parquet"


def clear(out: Path) -> None:
    """Removes what an earlier test left in `out`, whose rows would be merged with the new."""
    for pattern in ("requests-*.parquet", "events-*.parquet", "driver.json", "wrong-*.http"):
        for file in out.glob(pattern):
            file.unlink()


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Writes ``driver.json``."""
    path = out / "driver.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps({"schema": SCHEMA, **summary}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)
