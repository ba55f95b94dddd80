"""A published campaign is small, says what the campaign said, and its report can be rebuilt from it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports import archive, claims
from reports import publish as publishing
from reports.publish import MOST_BYTES, claims_page, publish
from reports.render import ReportResult, build_report, judged_anew
from reports.schema import METRICS
from reports.splice import PUBLISHED
from reports.stats import Tail
from reports.store import ReportError, update_header
from reports.study import Study
from tests.reports.synthetic import full_world, write_campaign

NOVEMBER = {"2026-11-25", "2026-11-25-full", "2026-11-25-gc", "2026-11-25-peers", "2026-11-26-full"}
"""Reports from before campaigns were archived: no raw row of them is left."""
FOLDERS = sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir())


# -------------------------------------------------------------------------------------------------- what is committed
@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_campaign_is_small(name: str) -> None:
    folder = PUBLISHED / name
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES
    assert (folder / "verdict.json").stat().st_size < 400_000
    if name not in NOVEMBER:
        assert len((folder / "report.md").read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_report_can_be_rebuilt_or_says_what_is_wrong_with_it(name: str, tmp_path: Path) -> None:
    said = (PUBLISHED / name / "report.md").read_text(encoding="utf-8")
    if name in NOVEMBER:
        assert "**What is wrong with this report" in said
        return
    command = re.search(r"`proxy-engines report (\S+)((?: --with \S+)*)`", said)
    assert command is not None
    for one in (name, *command[2].split()[1::2]):
        shutil.copytree(PUBLISHED / one, tmp_path / one)
    built = build_report(tmp_path / name, [tmp_path / other for other in command[2].split()[1::2]])
    # The page's words come from the code, which changes; its figures must not.
    kept = json.loads((PUBLISHED / name / "verdict.json").read_text(encoding="utf-8"))
    assert [figures(row) for row in built.verdict["rows"]] == [figures(row) for row in kept["rows"]]


def figures(row: dict[str, object]) -> tuple[object, ...]:
    """What a row of verdict.json measured."""
    return tuple(row[key] for key in ("scenario", "metric", "baseline", "candidate", "ratio", "ci_low", "ci_high"))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_report_links_to_nothing_that_is_not_there(name: str) -> None:
    said = (PUBLISHED / name / "report.md").read_text(encoding="utf-8")
    missing = [
        link
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", said)
        if not link.startswith("http") and not (PUBLISHED / name / link).exists()
    ]
    assert not [link for link in missing if not link.startswith("runs/")]
    assert name in NOVEMBER or not missing


def test_the_page_of_claims_says_what_the_published_verdicts_say() -> None:
    page = (PUBLISHED / "claims.md").read_text(encoding="utf-8")
    assert page == claims_page(PUBLISHED)
    campaigns = [path.parent.name for end in ("full", "claims") for path in PUBLISHED.glob(f"*-{end}/verdict.json")]
    assert campaigns
    for name in campaigns:
        ledger = json.loads((PUBLISHED / name / "verdict.json").read_text(encoding="utf-8"))["claims"]
        assert f"[{name}]({name}/report.md)" in page
        assert all(claim["sentence"] in page for claim in ledger)


def test_the_page_counts_a_claim_that_any_campaign_answers_and_nobody_retracted() -> None:
    answered = {
        claim["claim"]
        for end in ("full", "claims")
        for path in PUBLISHED.glob(f"*-{end}/verdict.json")
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]
        if claim["verdict"] in ("holds", "does-not-hold") and claim["claim"].startswith("C")
        and not (path.parent.name in NOVEMBER and claim["claim"] in ("C3", "C12", "C13"))
        and (end == "full" or claim["claim"] in ("C8", "C11", "C12", "C13"))
    }  # fmt: skip
    page = claims_page(PUBLISHED)
    assert f" {len(answered)} of the 14 claims are answered" in page
    assert page.count("**retracted**: it said ") == 6


# --------------------------------------------------------------------------------------------------------- publishing
@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a README that wants a picture and a table, and a browser that draws a grey one."""

    def grey(_: str, __: Path, picture: Path) -> None:
        picture.write_bytes(b"grey")

    monkeypatch.setattr(publishing, "_browser", lambda: "chromium")
    monkeypatch.setattr(publishing, "photograph", grey)
    (tmp_path / "reports" / "published").mkdir(parents=True)
    (tmp_path / "README.md").write_text(
        "<!-- picture synthetic -->\n<!-- /picture -->\n"
        "<!-- report synthetic: sherpa, olla\nCPU | chat | cpu_us_per_request | 1\n-->\n<!-- /report -->\n"
    )
    return tmp_path


def test_publishing_writes_folder_picture_and_table_in_one_go(small: Path, clone: Path) -> None:
    published = clone / "reports" / "published"
    made = publish(small, published=published)
    header = json.loads((small / "campaign.json").read_text())
    assert made.folder == published / f"{header['started'][:10]}-synthetic"
    assert {path.name for path in made.folder.iterdir()} == {
        "campaign.json", "figures", "report.html", "report.md", "runs.csv", "runs.parquet", "screen-1600.png",
        "verdict.json",
    }  # fmt: skip
    assert made.documents == (clone / "README.md",)
    readme = (clone / "README.md").read_text()
    assert f"(reports/published/{made.folder.name}/screen-1600.png)" in readme
    assert "| CPU | **" in readme
    assert [path.name for path in published.iterdir() if path.name.startswith(".")] == []
    assert publish(small, published=published).documents == ()


def test_a_published_report_is_rebuilt_byte_for_byte(small: Path, clone: Path) -> None:
    folder = publish(small, published=clone / "reports" / "published").folder
    names = ("report.html", "report.md", "verdict.json")
    before = [(folder / name).read_bytes() for name in names]
    for name in names:
        (folder / name).unlink()
    build_report(folder)
    assert [(folder / name).read_bytes() for name in names] == before
    assert "runs/r01" not in (folder / "report.md").read_text()


def test_another_campaign_is_not_replaced(small: Path, clone: Path, tmp_path: Path) -> None:
    published = clone / "reports" / "published"
    publish(small, published=published)
    other = tmp_path / "other"
    shutil.copytree(small, other)
    update_header(other, id="other")
    with pytest.raises(ReportError, match="another campaign is published there; name a folder with --into"):
        publish(other, published=published)


def test_a_campaign_that_is_too_large_leaves_nothing(small: Path, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "MOST_BYTES", 1000)
    with pytest.raises(ReportError, match="more than 1,000"):
        publish(small, published=clone / "reports" / "published")
    assert list((clone / "reports" / "published").iterdir()) == []


# -------------------------------------------------------------------------------------------------------- the archive
@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A campaign with every kind of scenario, shortened, and a folder with its archive."""
    world = full_world(rounds=2, targets=("sherpa", "olla"))
    for name, scenario in world.scenarios.items():
        world.scenarios[name] = scenario.model_copy(update={"duration_s": min(scenario.duration_s, 2.0)})  # type: ignore[index]
    campaign = write_campaign(tmp_path_factory.mktemp("archive") / "campaign", world)
    folder = campaign.with_name("archived")
    folder.mkdir()
    shutil.copy(campaign / "campaign.json", folder)
    study = Study.load(campaign)
    archive.write(folder, study.campaign, study.facts, claims.extras_of(study.campaign, study.facts))
    return campaign, folder


def test_an_archive_holds_every_metric_exactly_and_every_reason(every_kind: tuple[Path, Path]) -> None:
    raw, kept = (Study.load(folder) for folder in every_kind)
    assert len(raw.facts) == len(kept.facts) > 50
    for ours, theirs in zip(raw.facts, kept.facts, strict=True):
        assert ours.record.run == theirs.record.run
        for name in METRICS:
            assert theirs.metrics[name] == ours.metrics[name], (ours.record.run, name)
        assert theirs.extras.items() >= {key: one for key, one in ours.extras.items() if one == one}.items()
        assert (theirs.join is None) == (ours.join is None)


def test_an_archive_keeps_times_to_a_third_of_a_percent(every_kind: tuple[Path, Path]) -> None:
    raw, kept = (Study.load(folder) for folder in every_kind)
    seen = 0
    for ours, theirs in zip(raw.facts, kept.facts, strict=True):
        for name in archive.TIMES:
            before, after = ours.times(name), theirs.times(name)
            if before is not None and after is not None:
                seen += before.size
                np.testing.assert_allclose(np.sort(after.each()), np.sort(before.values), rtol=0.003)
    assert seen > 10_000


def test_an_archive_gives_the_verdict_and_the_claims_of_its_campaign(every_kind: tuple[Path, Path]) -> None:
    raw, kept = (judged_anew(folder) for folder in every_kind)
    words = [[(row["scenario"], row["metric"], row["verdict"]) for row in one["rows"]] for one in (raw, kept)]
    assert words[0] == words[1]
    assert [one["verdict"] for one in raw["claims"]] == [one["verdict"] for one in kept["claims"]]
    assert raw["faults"] == kept["faults"]
    assert raw["validity"] == kept["validity"]


def test_an_archive_shows_losses_collections_and_memory(every_kind: tuple[Path, Path], built: ReportResult) -> None:
    made = build_report(every_kind[1])
    text = made.md.read_text(encoding="utf-8")
    for name in ("resilience", "gc", "memory", "tail", "overhead", "transit"):
        assert f"figures/{name}-1.png" in text, name


@pytest.mark.parametrize("broken", [b"", b"PAR1 not parquet PAR1"])
def test_an_archive_that_cannot_be_read_is_named(every_kind: tuple[Path, Path], tmp_path: Path, broken: bytes) -> None:
    shutil.copy(every_kind[1] / "campaign.json", tmp_path)
    (tmp_path / archive.FILE).write_bytes(broken)
    with pytest.raises(ReportError, match=r"runs\.parquet: not an archive of a campaign"):
        Study.load(tmp_path)


def test_an_archive_of_a_later_version_is_refused(every_kind: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copy(every_kind[1] / "campaign.json", tmp_path)
    table = pq.read_table(every_kind[1] / archive.FILE)
    later = table.replace_schema_metadata({**table.schema.metadata, b"proxy-engines.archive": b"2"})
    pq.write_table(later, tmp_path / archive.FILE)
    with pytest.raises(ReportError, match="written with version 2, this program reads up to 1"):
        Study.load(tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / archive.FILE)
    with pytest.raises(ReportError, match="version 0"):
        Study.load(tmp_path)


def test_a_tail_counts_its_values() -> None:
    assert Tail(np.array([1.0, 2.0]), np.array([2, 1])).each().tolist() == [1.0, 1.0, 2.0]
