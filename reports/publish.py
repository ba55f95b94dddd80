"""`proxy-engines publish`: a campaign as it is committed, and the documents that quote it.

A published folder has the measurements (`runs.parquet`), the report that is built from them, one row of metrics a run
(`runs.csv`), and the report's first screen as a picture. `proxy-engines report` on the folder rebuilds the same bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reports import archive, claims, counted, micro
from reports.plots import small
from reports.render import build_report
from reports.splice import PUBLISHED, SCREEN, splice
from reports.store import ReportError, read_json, write_atomically
from reports.study import Study

MOST_BYTES: Final = 3_000_000
"""A published folder stays below this."""
_SIZE: Final = (1600, 1000)
_PATIENCE_S: Final = 120
DOCUMENTS: Final = ("README.md", "RESULTS.md")
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_CLAIMS: Final = "-claims"
"""Ends the name of a campaign of few scenarios that was made for the claims about variants of Olla."""
_OF_VARIANTS: Final = ("C8", "C11", "C12", "C13")
"""All that such a campaign is asked: the other claims are about what is typical, and need all scenarios."""
_RETRACTED: Final = {"2026-11-25-full": ("C3", "C12", "C13"), "2026-11-26-full": ("C3", "C12", "C13")}
"""Folder -> claims that its campaign answered by a mistake in measuring."""
_SHARED_A_START: Final = (
    "**What the campaigns of 25 and 26 November 2026 said of C3, C12 and C13 is retracted**: most scenarios shared "
    "one start of their target, so 500 streams were measured in the process that had held 1,000, and a cold start in "
    "a warm one. "
    "C10's times are about a second too long. The notes at the top of both reports have the rest; the rules that were "
    "changed since say so in `reports/claims.py`."
)
"""Campaigns that are superseded: said as long as they are published."""


class NoBrowser(Exception):
    """No Chromium is installed: one sentence for people."""


@dataclass(frozen=True, slots=True)
class Published:
    """What `publish` made."""

    folder: Path
    size: int
    """Bytes of the folder."""
    documents: tuple[Path, ...]
    """Documents whose tables or picture changed."""


def publish(campaign: Path, into: Path | None = None, published: Path = PUBLISHED) -> Published:
    """Publish `campaign` as `into`, else as `published`/<its date>-<its profile>, and refresh the documents beside
    `published`. ReportError as in `report`, and if the folder holds another campaign or would be too large."""
    browser = _browser()
    study = Study.load(campaign)
    header = study.campaign.header
    folder = (into or published / "-".join(filter(None, (header.started[:10], header.profile)))).resolve()
    _refuse_another(folder, header.id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made beside it and moved at the end: an interruption leaves what was there.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        fresh = Path(made) / folder.name
        _fill(fresh, campaign, study, browser)
        size = sum(path.stat().st_size for path in fresh.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise ReportError(
                f"{campaign}: {size:,} bytes to publish, more than {MOST_BYTES:,}; leave targets out of the campaign"
            )
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    if published.resolve() in folder.parents:
        write_atomically(published / "claims.md", claims_page(published).encode())
    return Published(folder, size, tuple(refresh(published)))


def refresh(published: Path = PUBLISHED) -> Iterable[Path]:
    """Write current tables and pictures into the documents of the clone; yields those that changed."""
    clone = published.parents[1]
    return [path for name in DOCUMENTS if (path := clone / name).exists() and splice(path, published)]


def _refuse_another(folder: Path, campaign: str) -> None:
    header = folder / "campaign.json"
    if folder.exists() and (not header.exists() or read_json(header).get("id") != campaign):
        raise ReportError(f"{folder}: another campaign is published there; name a folder with --into")


def _fill(folder: Path, campaign: Path, study: Study, browser: str) -> None:
    folder.mkdir()
    for name in ("campaign.json", counted.FILE, f"{micro.FOLDER}/{micro.FILE}"):
        if (campaign / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(campaign / name, folder / name)
    archive.write(folder, study.campaign, study.facts, claims.extras_of(study.campaign, study.facts))
    built = build_report(folder)
    for picture in (folder / "figures").glob("*.svg"):  # report.html has them inside, report.md shows the PNG
        picture.unlink()
    Study.load(folder).runs().to_csv(folder / "runs.csv", index=False, float_format="%.6g")
    photograph(browser, built.html, folder / SCREEN)


def photograph(browser: str, page: Path, picture: Path) -> None:
    """The first screen of `page` as a PNG. ReportError if the browser makes none."""
    width, height = _SIZE
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", f"--window-size={width},{height}", f"--screenshot={picture.resolve()}",
            page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ReportError(f"{page}: {browser} made no picture of it ({exc})") from exc
    if done.returncode or not picture.exists():
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ReportError(f"{page}: {browser} made no picture of it (exit code {done.returncode}: {said})")
    picture.write_bytes(small(picture.read_bytes()))


def _browser() -> str:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise NoBrowser("publishing photographs the report: install Chromium (apt-get install chromium)")
    return found


def claims_page(published: Path) -> str:
    """Markdown: what each published campaign that is `full`, or was made for claims, says about each claim."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    sentences: dict[str, str] = {}
    for path in sorted(published.glob("*/verdict.json")):
        verdict = json.loads(path.read_text(encoding="utf-8"))
        if path.parent.name.endswith(("-full", _CLAIMS)):
            for one in verdict["claims"]:
                if path.parent.name.endswith(_CLAIMS) and one["claim"] not in _OF_VARIANTS:
                    one |= {"verdict": "not-asked", "measured": "it has few scenarios"}
                if one["claim"] in _RETRACTED.get(path.parent.name, ()):
                    one |= {"verdict": "retracted", "measured": f"it said {one['verdict']}: {one['measured']}"}
                found.setdefault(path.parent.name, {})[one["claim"]] = one
                sentences[one["claim"]] = one["sentence"]
    ours = [claim for claim in sentences if claim.startswith("C")]
    answers = ("holds", "does-not-hold")
    answered = [claim for claim in ours if any(one[claim]["verdict"] in answers for one in found.values())]
    lines = [
        "# Claims of the original Olla, by every campaign that tests them",
        "",
        f"Written by `proxy-engines publish`. {len(answered)} of the {len(ours)} claims are answered by at "
        "least one campaign. Each rule, and the runs behind each answer, stand in the reports' ledgers.",
        "",
        *([_SHARED_A_START, ""] if found.keys() & _RETRACTED.keys() else []),
        "| | claim | " + " | ".join(f"[{name}]({name}/report.md)" for name in found) + " |",
        "|---" * (len(found) + 2) + "|",
    ]
    for claim, sentence in sentences.items():
        said = [f"**{one[claim]['verdict']}**: {one[claim]['measured']}" for one in found.values()]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (claim, sentence, *said)) + " |")
    return "\n".join(lines) + "\n"
