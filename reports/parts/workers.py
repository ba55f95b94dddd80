"""What several worker processes cost and carry, and how evenly the kernel deals connections to them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from reports.page import Cell, Column, Table, TableRow
from reports.parts.rows import night, nights
from reports.study import Study
from reports.words import number, title


def workers(study: Study) -> Table | None:
    """One row for each target of each scenario that sets the number of workers; None if there is none."""
    rows = []
    for one, scenario, target, runs in study.each():
        several = [facts for facts in runs if facts.extras.get("workers") is not None]
        if not several:
            continue
        stream = study.campaign.scenario(scenario).kind == "stream"
        names = ("goodput_rps", "cpu_us_per_event" if stream else "cpu_us_per_request", "rss_peak_mib")
        shares = [facts.extras.get("busiest_worker") for facts in several]
        cells = (
            Cell(study.called[scenario], hint=scenario),
            Cell(title(target)),
            *night(study, one),
            Cell(f"{several[0].extras['workers']:.0f}"),
            Cell(f"{several[0].record.cores}"),
            *(_mean(facts.value(name) for facts in several) for name in names),
            _mean((None if share is None else 100 * share for share in shares), most=True),
        )
        rows.append(TableRow(cells))
    if not rows:
        return None
    caption = (
        "Workers, means over valid rounds. The kernel deals new connections to workers by a hash: many short ones fall "
        "evenly, few long ones do not"
    )
    columns = (
        Column("Scenario"),
        Column("Target"),
        *nights(study),
        Column("Workers", True),
        Column("Cores", True, "that they had; the bench has others"),
        Column("Right replies/s", True),
        Column("CPU, µs", True, "for a request, in streams for an event"),
        Column("Peak, MiB", True, "resident, of all processes"),
        Column("Busiest worker, %", True, "its share of the CPU that all used"),
    )
    return Table("workers", caption, columns, tuple(rows))


def _mean(values: Iterable[float | None], *, most: bool = False) -> Cell:
    """The mean of what is known; `most`: with the largest."""
    known = [value for value in values if value is not None]
    if not known:
        return Cell("–")
    mean = float(np.mean(known))
    return Cell(number(mean), mean, more=f"(at most {number(max(known))})" if most else "")
