"""A real campaign made small enough to be committed: `python -m tests.reports.thin CAMPAIGN FOLDER [--rounds 1]`.

Keeps every run's run.json, whose summary holds its metrics, and the raw tables of the named rounds without the A/A
arm's; commands lose the path of the interpreter. Verdicts stay the same; distributions are those of the kept rounds.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path

from reports.schema import AA_SUFFIX, TABLES
from reports.store import load_campaign


def thin(campaign: Path, folder: Path, rounds: Collection[int] = (1,)) -> Path:
    """Write the small twin of `campaign` into `folder`, which is replaced; returns it."""
    found = load_campaign(campaign)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(campaign / "campaign.json", folder)
    for run in found.runs:
        source, target = campaign / "runs" / run.name, folder / "runs" / run.name
        target.mkdir(parents=True)
        record = json.loads((source / "run.json").read_text(encoding="utf-8"))
        program, _, arguments = record["command"].partition(" ")
        record["command"] = f"{Path(program).name} {arguments}".strip()
        (target / "run.json").write_text(json.dumps(record, separators=(",", ":")) + "\n", encoding="utf-8")
        if run.record.round in rounds and not run.record.target.endswith(AA_SUFFIX):
            for name in TABLES:
                table = source / f"{name}.parquet"
                if table.exists():
                    shutil.copy(table, target)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, nargs="*", default=[1], help="rounds that keep their raw tables")
    asked = parser.parse_args()
    print(thin(asked.campaign, asked.folder, asked.rounds))
