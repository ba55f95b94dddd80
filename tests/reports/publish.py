"""A campaign as it is committed: `python -m tests.reports.publish CAMPAIGN` fills `reports/published/<its date>/`.

The report in both forms, the verdict, the figures, one row of metrics a run, and the first screen at 400 and 1600
pixels as Chromium shows it. Raw rows stay in the campaign's folder: they are hundreds of times larger. Beside the
folders `claims.md` puts the claims of all published campaigns of the profile `full` side by side.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
from pathlib import Path

from reports.render import build_report
from reports.study import Study
from tests.reports.browser import chromium

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
SCREENS = {400: 900, 1600: 1000}
_SHARED_A_START = (
    "**In the campaigns of 25 and 26 November 2026 C3, C12 and C13 have no answer**: most scenarios shared one start "
    "of their target, so 500 streams were measured in the process that had held 1,000, and a cold start in a warm one. "
    "C10's times are about a second too long. The notes at the top of both reports have the rest; the rules that were "
    "changed since say so in `reports/claims.py`."
)
"""Campaigns that are superseded: said as long as they are published."""


def publish(campaign: Path, into: Path | None = None) -> Path:
    """Rebuild the report of `campaign` and copy what is small; returns its folder. ReportError as in `report`."""
    built = build_report(campaign)
    study = Study.load(campaign)
    folder = into or PUBLISHED / study.campaign.header.started[:10]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in (built.html, built.md, built.json, campaign / "campaign.json"):
        shutil.copy(path, folder)
    shutil.copytree(campaign / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.svg"))
    study.runs().to_csv(folder / "runs.csv", index=False, float_format="%.6g")
    with chromium() as page:
        for width, height in SCREENS.items():
            page.open(built.html, width, height)
            picture = page.call("Page.captureScreenshot", format="png")["data"]
            (folder / f"screen-{width}.png").write_bytes(base64.b64decode(picture))
    return folder


def claims_page(published: Path) -> str:
    """Markdown: what each published campaign of the profile `full` says about each claim, and how many are answered."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    sentences: dict[str, str] = {}
    for path in sorted(published.glob("*/verdict.json")):
        verdict = json.loads(path.read_text(encoding="utf-8"))
        if verdict["campaign"].endswith("-full"):
            for one in verdict["claims"]:
                found.setdefault(path.parent.name, {})[one["claim"]] = one
                sentences[one["claim"]] = one["sentence"]
    ours = [claim for claim in sentences if claim.startswith("C")]
    answered = [claim for claim in ours if any(one[claim]["verdict"] != "not-testable" for one in found.values())]
    lines = [
        "# Claims of the original Olla, by every full campaign",
        "",
        f"Written by `python -m tests.reports.publish`. {len(answered)} of the {len(ours)} claims are answered by at "
        "least one campaign. Each rule, and the runs behind each answer, stand in the reports' ledgers.",
        "",
        *([_SHARED_A_START, ""] if found.keys() & {"2026-11-25-full", "2026-11-26-full"} else []),
        "| | claim | " + " | ".join(f"[{name}]({name}/report.md)" for name in found) + " |",
        "|---" * (len(found) + 2) + "|",
    ]
    for claim, sentence in sentences.items():
        said = [f"**{one[claim]['verdict']}**: {one[claim]['measured']}" for one in found.values()]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (claim, sentence, *said)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("--into", type=Path, help="a folder, replaced (default: reports/published/<date>)")
    asked = parser.parse_args()
    print(publish(asked.campaign, asked.into))
    (PUBLISHED / "claims.md").write_text(claims_page(PUBLISHED), encoding="utf-8")
