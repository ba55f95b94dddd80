"""The comparison of a campaign that is on disk, for whoever runs small campaigns of its own."""

from __future__ import annotations

from pathlib import Path

from reports import store, summarise
from reports.compare import Comparison, compare


def compared(folder: Path) -> Comparison:
    """Measures every run in the campaign's `folder` and compares the targets."""
    found = store.load_campaign(folder)
    return compare(found, [summarise.measure_run(run, found.scenario(run.record.scenario)) for run in found.runs])
