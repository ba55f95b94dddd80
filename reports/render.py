"""From a campaign folder to its report: report.html, report.md, verdict.json and figures/.

Everything comes from the folder's own files, and the same files give the same bytes. The page is assembled in memory
and written at the end, so that a file that cannot be read leaves no half report behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reports import endurance, page
from reports.first_screen import FirstScreen, first_screen
from reports.page import Page, code
from reports.parts import PARTS
from reports.parts.trust import tally, valid_runs
from reports.store import ReportError, write_atomically
from reports.study import Study
from reports.verdict import dump, verdict_of
from reports.words import headline, sentence, title


@dataclass(frozen=True, slots=True)
class ReportResult:
    """What `build_report` made."""

    verdict: dict[str, Any]
    html: Path
    md: Path
    json: Path
    screen: FirstScreen
    headlines: tuple[str, ...]
    """One verdict sentence for each use case, one for each long run."""
    runs: str
    """How many runs are valid, in words."""
    valid_runs: int
    """0: no run of the campaign was valid."""


def build_report(campaign_dir: Path, others: Sequence[Path] = ()) -> ReportResult:
    """Rebuild the report of a campaign from its files. Every row shows the `others` as well, campaigns of the same
    profile. ReportError if files cannot be read or must not be mixed."""
    study = Study.load(campaign_dir, *others)
    made = page_of(study)
    verdict = verdict_of(study)
    files = {
        "verdict.json": dump(verdict),
        "report.md": page.markdown(made).encode(),
        "report.html": page.html(made).encode(),
    }
    _write(campaign_dir, made, files)
    endured = endurance.of_campaign(study.campaign, study.facts)
    return ReportResult(
        verdict=verdict,
        html=campaign_dir / "report.html",
        md=campaign_dir / "report.md",
        json=campaign_dir / "verdict.json",
        screen=first_screen(study),
        headlines=(
            *(f"{name}: {_said(study, name)}" for name in study.cases),
            *(f"{one.facts.record.scenario}, {one.facts.record.target}: {one.say()}" for one in endured),
        ),
        runs=valid_runs(study),
        valid_runs=sum(len(runs) for runs in study.comparison.valid.values()),
    )


def judged_anew(campaign_dir: Path) -> dict[str, Any]:
    """The verdict of a campaign from its runs, without a page. ReportError if they cannot be read."""
    return verdict_of(Study.load(campaign_dir))


def page_of(study: Study) -> Page:
    """The whole report as a page."""
    header = study.campaign.header
    said = f"{title(study.main)} against {title(study.baseline)}" if study.main and study.baseline else "Campaign"
    kicker = ["proxy-engines", header.id, *(_moment(one.campaign.header.started) for one in study.all)]
    if header.profile:
        kicker.append(f"profile {header.profile}")
    kicker += [str(header.machine.get("cpu_model", "")), f"{tally(study)}"]
    command = " --with ".join(
        f"proxy-engines report {one.campaign.path.name}" if one is study else one.campaign.path.name
        for one in study.all
    )
    foot = ("Rebuilt from the campaign's files with ", code(command), "; the same files give the same page.")
    return Page(
        said, first_screen(study).headline, (said, *filter(None, kicker)), tuple(make(study) for make in PARTS), foot
    )


def _said(study: Study, scenario: str) -> str:
    rows = [r for r in study.comparison.rows if r.scenario == scenario and r.candidate.target == study.main]
    lead = headline(rows)
    if lead is None:
        return (
            "Not measured: "
            f"{'no target was compared with another' if study.main is None else 'no primary metric is known'}"
        )
    return sentence(lead)


def _write(folder: Path, made: Page, files: dict[str, bytes]) -> None:
    pictures = folder / "figures"
    drawn = dict(file for figure in made.figures() for file in figure.files())
    try:
        pictures.mkdir(exist_ok=True)
        for old in pictures.iterdir():
            if old.suffix in (".svg", ".png") and old.name not in drawn:
                old.unlink()
    except OSError as exc:
        raise ReportError(f"{pictures}: cannot be made ({exc.strerror or exc})") from exc
    for name, data in drawn.items():
        write_atomically(pictures / name, data)
    for name, data in files.items():
        write_atomically(folder / name, data)


def _moment(started: str) -> str:
    """`25 November 2026, 13:01 UTC`; the text itself where it is no time."""
    try:
        when = datetime.fromisoformat(started)
    except ValueError:
        return started
    when = when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
