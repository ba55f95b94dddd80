"""Result tables and pictures in documents, written by `proxy-engines publish` or `report --splice FILE`, never by hand.

A document holds what it wants, as a comment, and gets it below::

    <!-- report full: sherpa, olla, nginx
    Cores for 1,000 req/s | chat-small | cpu_us_per_request | 0.001
    -->
    (the table)
    <!-- /report -->

    <!-- picture full -->
    (the first screen of the report)
    <!-- /picture -->

`full` is the newest published campaign of that profile; the name of a folder, `2026-11-25-full`, is that one. Each line
of a table is a label, a scenario, a metric, and what a value is multiplied by. Values come from `runs.csv`: geometric
means over the runs that count, with their 95 % intervals, and for each target the ratio to the first one over the
rounds that both have. Percentiles of the tail are pooled over the rounds, as the report has them, and come from
`verdict.json`; in campaigns from before reports pooled them, which have no archive, they are means as all others. A
line below says the command and the commit.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reports import archive
from reports.first_screen import ShownValue
from reports.schema import METRICS
from reports.stats import estimate
from reports.store import ReportError, read_json, write_atomically
from reports.words import title

PUBLISHED: Final = Path(__file__).with_name("published")
_BLOCK: Final = re.compile(r"(<!-- report ([\w.-]+): ([^\n]*)\n(.*?)-->\n)(.*?)(<!-- /report -->)", re.S)
_PICTURE: Final = re.compile(r"(<!-- picture ([\w.-]+) -->\n)(.*?)(<!-- /picture -->)", re.S)
TAILS: Final = {name for name, metric in METRICS.items() if metric.tail is not None}
SCREEN: Final = "screen-1600.png"
"""The first screen of a report, in its published folder."""
_Runs = Mapping[tuple[str, str], Mapping[int, Mapping[str, str]]]
"""(scenario, target) -> round -> the line of runs.csv."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """One line of a table."""

    label: str
    scenario: str
    metric: str
    scale: float


def splice(document: Path, published: Path = PUBLISHED) -> bool:
    """Write the current tables into a document; whether anything changed. ReportError names document and line."""
    try:
        before = document.read_text(encoding="utf-8")
    except OSError as exc:
        raise ReportError(f"{document}: cannot be read ({exc.strerror or exc})") from exc
    after = spliced(before, published, str(document))
    if after != before:
        write_atomically(document, after.encode())
    return after != before


def spliced(text: str, published: Path, where: str = "text") -> str:
    """The text with current tables. ReportError if a marker asks for what is not there."""
    if not _BLOCK.search(text) and not _PICTURE.search(text):
        raise ReportError(f"{where}: holds no `<!-- report CAMPAIGN: TARGETS` with a `<!-- /report -->` after it")

    def made(found: re.Match[str]) -> str:
        opening, campaign, targets, lines, _, closing = found.groups()
        folder = _folder(published, campaign)
        names = [name.strip() for name in targets.split(",")]
        wanted = [_wanted(line, where) for line in lines.strip().splitlines()]
        table = _table(folder, names, wanted, where)
        return f"{opening}\n{table}\n\n{provenance(folder)}\n\n{closing}"

    def shown(found: re.Match[str]) -> str:
        opening, campaign, _, closing = found.groups()
        folder = _folder(published, campaign)
        if not (folder / SCREEN).exists():
            raise ReportError(f"{where}: {folder} has no {SCREEN}; publish the campaign again")
        return f"{opening}![The first screen of a report](reports/published/{folder.name}/{SCREEN})\n{closing}"

    return _PICTURE.sub(shown, _BLOCK.sub(made, text))


def _folder(published: Path, campaign: str) -> Path:
    """A published folder by its name, or the newest of a profile."""
    if (published / campaign).is_dir():
        return published / campaign
    found = sorted(published.glob(f"[0-9]*-{campaign}"), key=_started)
    return found[-1] if found else published / campaign


def _started(folder: Path) -> str:
    """When a campaign began; the day in the folder's name where no header is left."""
    header = folder / "campaign.json"
    return str(read_json(header).get("started", "")) if header.exists() else folder.name[:10]


def _wanted(line: str, where: str) -> _Wanted:
    try:
        label, scenario, metric, scale = (part.strip() for part in line.split("|"))
        return _Wanted(label, scenario, metric, float(scale))
    except ValueError as exc:
        raise ReportError(f"{where}: {line!r} is not `label | scenario | metric | factor`") from exc


def _table(folder: Path, targets: Sequence[str], wanted: Sequence[_Wanted], where: str) -> str:
    runs = _runs(folder)
    names = [title(name) for name in targets]
    lines = ["| | " + " | ".join(names) + " |", "|---" + "|--:" * len(names) + "|"]
    for one in wanted:
        if _pools(folder) and one.metric in TAILS:
            tails = _tails(folder, one, targets[0])
            values = [tails.get(target) for target in targets]
        else:
            values = [_value(runs, one, target, targets[0]) for target in targets]
        if not any(values):
            raise ReportError(f"{where}: {folder} has no {one.metric} of {one.scenario}")
        cells = ["–" if value is None else _cell(value) for value in values]
        lines.append(f"| {one.label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _pools(folder: Path) -> bool:
    """Whether the campaign's report pools percentiles of the tail over the rounds."""
    return (folder / archive.FILE).exists()


def _tails(folder: Path, wanted: _Wanted, base: str) -> dict[str, ShownValue]:
    """A percentile of the tail of each target, with its factor to `base` if that was the campaign's baseline. Raises
    ReportError."""
    found: dict[str, ShownValue] = {}
    for row in read_json(folder / "verdict.json")["rows"]:
        if (row["scenario"], row["metric"]) != (wanted.scenario, wanted.metric):
            continue
        measured = row["ratio"] and row["baseline"]["target"] == base
        factor = (row["ratio"], row["ci_low"], row["ci_high"]) if measured else None
        for side, times in ((row["baseline"], None), (row["candidate"], factor)):
            if side["value"]:
                low, high = side["ci"] or (None, None)
                ends = (low and low * wanted.scale, high and high * wanted.scale)
                found[side["target"]] = ShownValue(side["value"] * wanted.scale, *ends, times)
    return found


def _cell(value: ShownValue) -> str:
    interval = f" ({value.range})" if value.range else ""
    return f"**{value.text}**{interval}" + (f"<br>{value.times}" if value.times else "")


def _runs(folder: Path) -> _Runs:
    path = folder / "runs.csv"
    found: dict[tuple[str, str], dict[int, Mapping[str, str]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                if not line["void"]:
                    found.setdefault((line["scenario"], line["target"]), {})[int(line["round"])] = line
    except (OSError, KeyError, ValueError) as exc:
        raise ReportError(f"{path}: cannot be used ({exc})") from exc
    return found


def _value(runs: _Runs, wanted: _Wanted, target: str, base: str) -> ShownValue | None:
    mine, theirs = (_numbers(runs, wanted, name) for name in (target, base))
    if not mine:
        return None
    mean, low, high = _geometric([value * wanted.scale for value in mine.values()])
    both = sorted(mine.keys() & theirs.keys())
    factor = None if target == base or not both else _geometric([mine[n] / theirs[n] for n in both])
    return ShownValue(mean, low, high, factor)


def _numbers(runs: _Runs, wanted: _Wanted, target: str) -> dict[int, float]:
    lines = runs.get((wanted.scenario, target), {})
    found = {number: float(text) for number, line in lines.items() if (text := line.get(wanted.metric) or "")}
    return {number: value for number, value in found.items() if value > 0}


def _geometric(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    found = estimate([math.log(value) for value in values])
    ends = found.interval()
    return (math.exp(found.mean), None, None) if ends is None else (math.exp(found.mean), *_ends(ends.low, ends.high))


def _ends(low: float, high: float) -> tuple[float, float]:
    return math.exp(low), math.exp(high)


def provenance(folder: Path) -> str:
    """One line: the command, the commit, the campaign. Reports from before campaigns kept them are read for it."""
    path = folder / "campaign.json"
    if path.exists():
        header = read_json(path)
        command, revision = header.get("command", ""), header.get("versions", {}).get("revision", "")
    else:
        report = (folder / "report.md").read_text(encoding="utf-8")
        command, revision = (_first(pattern, report) for pattern in (r"^Command: (.*?)\. Seed", r"^- revision: (\S+)"))
    command = command.replace("\\", "")
    tails, older = ", and tails over all rounds,", ""
    if not _pools(folder):
        tails, older = "", " Older code; a note in the report says what was wrong with it."
    return (
        f"*Geometric means{tails} with 95 % intervals; × is the factor to the first column. "
        f"`{command}`, commit {revision or 'unknown'}, [report](reports/published/{folder.name}/report.md).{older}*"
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.M)
    return "" if found is None else found.group(1)
