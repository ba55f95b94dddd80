"""All that reads result files, and the file format itself. A leaf: works without locust and without the engines.

A campaign's folder goes in, a report comes out, and nothing is measured again::

    schema     what the files hold           words      the fixed words of every report
    store      reading and writing them      decide     which engine, and what gets worse with it
    stats      estimates, intervals, plans   choose     which engine for one deployment
    summarise  one run's rows to metrics     plots      what it looks like
    compare    two targets, round by round   render     report.html, report.md, verdict.json
    claims     what has been said, tested    rules      what its rules are made of
    archive    a campaign in one file        publish    how it is committed

`reports.render.build_report(folder)` is the whole of it in one call; `reports.load(folder)` gives the measured facts
and verdict rows without drawing anything, for notebooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from reports.study import Study


def load(folder: str | PathLike[str]) -> Study:
    """A campaign read, measured and compared. ReportError if its files cannot be used."""
    from reports.study import Study

    return Study.load(folder)
