from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reports import archive
from reports.splice import PUBLISHED, splice, spliced
from reports.store import ReportError

ROOT = PUBLISHED.parents[1]
RUNS = """run,scenario,target,round,void,cpu_us_per_request
a,chat,sherpa,1,,100
b,chat,sherpa,2,,400
c,chat,olla,1,,25
d,chat,olla,2,,100
e,chat,olla,3,too late,9999
"""
TEXT = """before
<!-- report night: sherpa, olla, nginx
CPU, ms | chat | cpu_us_per_request | 0.001
-->
<!-- /report -->
after
"""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    folder = tmp_path / "night"
    folder.mkdir()
    (folder / "runs.csv").write_text(RUNS)
    (folder / "report.md").write_text("Command: proxy-engines compare. Seed 1\n- revision: abc123\n")
    return tmp_path


@pytest.mark.parametrize("document", ["README.md", "RESULTS.md"])
def test_the_tables_of_a_document_are_those_of_the_published_campaigns(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert spliced(text, PUBLISHED, document) == text, f"run `proxy-engines report --splice {document}`"


def test_a_table_has_geometric_means_of_valid_runs_and_paired_factors(published: Path) -> None:
    made = spliced(TEXT, published)
    assert "| CPU, ms | **0.20**" in made
    assert "**0.050**" in made
    assert "<br>×0.25 (0.25..0.25)" in made
    assert "| – |" in made
    assert "`proxy-engines compare`, commit abc123" in made
    assert made.startswith("before\n")
    assert made.endswith("after\n")
    assert spliced(made, published) == made


def test_a_percentile_of_the_tail_is_the_pooled_one_of_the_report(published: Path) -> None:
    row = {"scenario": "chat", "metric": "added_p99_us", "ratio": 0.5, "ci_low": 0.4, "ci_high": 0.6}
    sides = {"baseline": ("sherpa", 2000.0), "candidate": ("olla", 1000.0)}
    row |= {side: {"target": name, "value": us, "ci": [us - 100, us + 100]} for side, (name, us) in sides.items()}
    (published / "night" / "verdict.json").write_text(json.dumps({"rows": [row]}))
    (published / "night" / archive.FILE).touch()
    wanted = "CPU, ms | chat | cpu_us_per_request", "p99, ms | chat | added_p99_us"
    made = spliced(TEXT.replace(*wanted), published)
    assert "| p99, ms | **2.00** (1.90..2.10) | **1.00** (0.90..1.10)<br>×0.50 (0.40..0.60) | – |" in made
    other = spliced(TEXT.replace(*wanted).replace("sherpa, olla", "olla, sherpa"), published)
    assert "| p99, ms | **1.00** (0.90..1.10) | **2.00** (1.90..2.10) | – |" in other


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing", "holds no `<!-- report"),
        (TEXT.replace("chat |", "tea |"), "no cpu_us_per_request of tea"),
        (TEXT.replace("| 0.001", ""), "is not `label"),
        (TEXT.replace("night", "day"), "cannot be used"),
    ],
)
def test_what_cannot_be_written_says_why(text: str, said: str, published: Path) -> None:
    with pytest.raises(ReportError, match=said):
        spliced(text, published)


def test_a_document_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read"):
        splice(tmp_path / "none.md")


def test_a_profile_is_its_newest_campaign_whatever_its_folder_is_called(published: Path) -> None:
    for name, started in (("2026-12-01-full", "2026-12-01T04:00:00Z"), ("2026-12-01-2-full", "2026-12-01T09:00:00Z")):
        shutil.copytree(published / "night", published / name)
        (published / name / "campaign.json").write_text(f'{{"started": "{started}"}}')
        (published / name / "screen-1600.png").write_bytes(b"grey")
    made = spliced("<!-- picture full -->\n<!-- /picture -->\n" + TEXT.replace("night", "full"), published)
    assert "(reports/published/2026-12-01-2-full/screen-1600.png)" in made
    assert "[report](reports/published/2026-12-01-2-full/report.md)" in made
    with pytest.raises(ReportError, match=r"no screen-1600\.png; publish the campaign again"):
        spliced("<!-- picture night -->\n<!-- /picture -->\n", published)
