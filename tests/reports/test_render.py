from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import numpy as np
import pytest

import reports
from loadgen.campaign import validity
from reports import choose, store
from reports.compare import compare
from reports.page import Table, md
from reports.parts import faults
from reports.parts.trust import MEANINGS, tally, valid_runs
from reports.render import ReportResult, build_report
from reports.schema import POOLED, CampaignHeader, Check, Fault, RunRecord, ScenarioRecord
from reports.store import ReportError
from reports.study import Study
from reports.summarise import Facts, Outcomes
from tests.reports.synthetic import CHAT, VARIANTS, World, campaign_of, fact, full_world, write_campaign

COPY = Callable[[], Path]
SCHEMA = json.loads(Path(reports.__file__).with_name("verdict.schema.json").read_text())


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def validate(result: ReportResult) -> dict[str, Any]:
    """verdict.json as written, checked against its published schema and for NaN."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} in verdict.json")

    verdict = json.loads(result.json.read_text(), parse_constant=refuse)
    jsonschema.validate(verdict, SCHEMA)
    assert verdict == result.verdict
    return dict(verdict)


class Shape(HTMLParser):
    """What a page is made of: tags, ids, visible text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def shown(self) -> str:
        return " ".join(" ".join(self.text).split())


# ------------------------------------------------------------------------------------------------------ the good case
def test_the_report_of_a_good_campaign_says_who_is_faster_by_how_much_and_how_sure(built: ReportResult) -> None:
    verdict = validate(built)
    rows = {(r["scenario"], r["metric"], r["candidate"]["target"]): r for r in verdict["rows"]}
    cpu = rows["chat", "cpu_us_per_request", "olla"]
    assert (cpu["verdict"], cpu["primary"], cpu["rounds"]) == ("faster", True, 4)
    assert cpu["ratio"] == pytest.approx(22 / 186, rel=0.15)
    assert rows["chat", "cpu_us_per_request", "sherpa@aa"]["verdict"] in ("equivalent", "too-noisy")
    assert verdict["recommendation"]["engine"] == "olla"
    assert built.headlines[0].startswith("chat: Olla is faster: CPU per request -8")
    assert built.valid_runs == 4 * 2 * 4


def test_both_engines_have_every_promised_number_or_the_reason_why_not(built: ReportResult) -> None:
    promised = [
        "throughput_rps", "e2e_p50_ms", "e2e_p95_ms", "e2e_p99_ms", "added_p50_us", "gc_count", "gc_total_ms",
        "gc_max_ms", "cpu_us_per_request",
    ]  # fmt: skip
    for scenario in ("chat", "chat-stream"):
        for metric in promised:
            row = next(r for r in built.verdict["rows"] if (r["scenario"], r["metric"]) == (scenario, metric))
            assert row["candidate"]["target"] == "olla"
            has_both = row["baseline"]["value"] is not None and row["candidate"]["value"] is not None
            assert has_both or row["reason"], (scenario, metric)


def test_more_targets_than_two_stand_side_by_side(built: ReportResult, tmp_path: Path) -> None:
    world = World(targets=("sherpa", "olla", "relay", "direct"), scenarios={"chat": CHAT}, rounds=2, raw=False)
    report = build_report(write_campaign(tmp_path / "four", world))
    assert "Side by side" in Shape(report.html.read_text()).shown()
    (line,) = re.findall(
        r"^\| small answers, [\d,]+ req/s: CPU per request, µs \|(.*)\|$", report.md.read_text(), re.MULTILINE
    )
    sherpa, olla, relay = (cell.strip() for cell in line.split("|"))
    assert re.fullmatch(r"[\d.]+ \(× 0\.1\d+\)", sherpa)
    assert re.fullmatch(r"[\d.]+", olla)
    assert re.fullmatch(r"[\d.]+ \(× [12]\.\d+\)", relay)
    assert "Side by side" not in Shape(built.html.read_text()).shown()


PARTS = [
    "The answer",
    "Capacity and cost",
    "Latency and tail",
    "Memory and streams",
    "When endpoints fail",
    "Claims",
    "Trust",
    "Method and data",
]


def test_all_eight_parts_are_there_in_order_and_a_missing_one_says_why(built: ReportResult) -> None:
    page = Shape(built.html.read_text())
    ids = [attributes.get("id") for tag, attributes in page.tags if tag == "section"]
    assert ids == ["answer", "cost", "latency", "memory", "faults", "claims", "trust", "method"]
    for name in PARTS:
        assert name in page.shown()
    assert "Not measured: no scenario with a faulty endpoint was run" in page.shown()
    markdown = built.md.read_text()
    assert re.findall(r"^## (\d+) · (.+)$", markdown, re.M) == [(str(n), name) for n, name in enumerate(PARTS, 1)]


def test_two_campaigns_of_a_profile_stand_in_every_row(built: ReportResult, copied: COPY) -> None:
    folder = copied()
    rewrite(folder / "campaign.json", started="2026-08-02T12:00:00Z")
    result = build_report(folder, [built.html.parent])
    markdown = result.md.read_text()
    heading = re.findall(r"^\| Scenario \| Metric \| (.*) \|$", markdown, re.M)[0]
    assert "Olla, 2026-08-02 12:00" in heading
    assert "Olla, 2026-08-01 12:00" in heading
    assert "the same, 2026-08-01 12:00" in markdown


def test_the_same_files_give_the_same_bytes(small: Path, built: ReportResult, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        made = [folder / "report.html", folder / "report.md", folder / "verdict.json", *(folder / "figures").iterdir()]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in made}

    before = digests(small)
    script = (
        "import sys; from pathlib import Path; from reports.render import build_report; build_report(Path(sys.argv[1]))"
    )
    # Another process has another hash seed: nothing may hang on the order of a set.
    subprocess.run([sys.executable, "-c", script, str(small)], check=True, env={"PYTHONHASHSEED": "7", "PATH": ""})
    assert digests(small) == before
    assert len(before) >= 15


def test_the_page_needs_nothing_but_itself(built: ReportResult) -> None:
    page = Shape(built.html.read_text())
    assert not page.all("img")
    assert {a.get("rel") for a in page.all("link")} == {"icon"}
    assert [a.get("src") for a in page.all("script")] == [None]
    targets = {a["href"] for a in page.all("a") if a.get("href")}
    assert all(str(t).startswith(("#", "figures/", "runs/", "verdict.json", "report.md")) for t in targets)


def test_every_link_inside_the_page_leads_somewhere_and_no_id_is_used_twice(built: ReportResult) -> None:
    page = Shape(built.html.read_text())
    ids = [str(a["id"]) for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    for attributes in page.all("a"):
        target = str(attributes["href"])
        if target.startswith("#"):
            assert target[1:] in ids
        else:
            assert (built.html.parent / unquote(target)).exists()
    used = re.findall(r"url\(#([^)]+)\)", built.html.read_text())
    assert set(used) <= set(ids)


def test_figures_have_words_for_those_who_cannot_see_them(built: ReportResult) -> None:
    page = Shape(built.html.read_text())
    drawn = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawn) >= 6
    assert all(len(str(attributes["aria-label"])) > 30 for attributes in drawn)
    assert re.findall(r"!\[\]\(", built.md.read_text()) == []


def test_every_figure_is_there_as_svg_and_png(built: ReportResult) -> None:
    names = {path.stem for path in (built.html.parent / "figures").glob("*.svg")}
    assert names == {path.stem for path in (built.html.parent / "figures").glob("*.png")}
    assert {"effects", "overhead", "transit", "tail", "cpu", "gc", "memory"} <= {
        name.rpartition("-")[0] for name in names
    }


def test_a_rebuilt_report_leaves_no_figure_of_an_older_one(copied: COPY) -> None:
    folder = copied()
    build_report(folder)
    for run in (folder / "runs").iterdir():
        (run / "events.parquet").unlink(missing_ok=True)
    build_report(folder)
    assert not list((folder / "figures").glob("transit-*"))
    assert "no valid run kept event rows" in (folder / "report.html").read_text()


# --------------------------------------------------------------------------------------------------- troubled cases
@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_campaign_has_a_report_that_says_so(copied: COPY) -> None:
    folder = copied()
    store.update_header(folder, state="interrupted")
    for run in (folder / "runs").glob("r0[34]-*"):
        shutil.rmtree(run)
    half = folder / "runs" / "r02-chat-stream-olla"
    (half / "run.json").unlink()
    result = build_report(folder)
    verdict = validate(result)
    words = {row["verdict"] for row in verdict["rows"]}
    assert "void" not in words
    page = Shape(result.html.read_text()).shown()
    assert "did not run to its end" in page
    assert "Unfinished runs, not measured: r02-chat-stream-olla" in page


def test_a_python_without_optimisations_is_warned_of(copied: COPY) -> None:
    warning = "built without --enable-optimizations"
    folder = copied()
    assert warning not in build_report(folder).html.read_text()
    rewrite(folder / "campaign.json", machine={"python_optimisations": "none"})
    assert warning in build_report(folder).html.read_text()


def test_a_machine_whose_kernel_paces_large_answers_is_warned_of(copied: COPY) -> None:
    warning = "congestion control is BBR"
    folder = copied()
    assert warning not in build_report(folder).html.read_text()
    rewrite(folder / "campaign.json", machine={"tcp_congestion_control": "bbr"})
    assert warning in build_report(folder).html.read_text()


def test_void_runs_are_shown_with_their_reason_and_drawn_hollow(copied: COPY) -> None:
    folder = copied()
    check = {"check": "generator-lag", "value": 9.0, "limit": 2.0, "ok": False, "blame": "bench", "unit": "ms"}
    reason = "generator lag p99 9 ms over its 2 ms budget"
    rewrite(folder / "runs" / "r02-chat-olla" / "run.json", validity=[check], void_reason=reason)
    result = build_report(folder)
    verdict = validate(result)
    row = next(r for r in verdict["rows"] if (r["scenario"], r["metric"]) == ("chat", "cpu_us_per_request"))
    assert (row["verdict"], row["rounds"]) == ("void", 3)
    assert result.headlines[0] == f"chat: Void: {reason} (in r02-chat-olla)"
    failed = [check for check in verdict["validity"] if not check["ok"]]
    assert [(c["run"], c["check"]) for c in failed] == [("r02-chat-olla", "generator-lag")]
    page = Shape(result.html.read_text()).shown()
    assert reason in page
    # The whole round of this scenario: sherpa, olla, direct and the second arm.
    assert f": 4 of 16 runs are void (direct, olla, sherpa, sherpa@aa): {reason}" in page
    assert "fill: none" in (folder / "figures" / "cpu-1.svg").read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_target_that_never_ran_is_named(copied: COPY) -> None:
    folder = copied()
    rewrite(folder / "campaign.json", targets=["sherpa", "olla", "direct", "litellm"])
    result = build_report(folder)
    validate(result)
    assert "Listed but never run: litellm." in Shape(result.html.read_text()).shown()


@pytest.mark.usefixtures("undrawn")
def test_a_campaign_without_the_other_engine_compares_nothing_and_says_so(copied: COPY) -> None:
    folder = copied()
    for run in [*(folder / "runs").glob("*-olla"), *(folder / "runs").glob("*-direct")]:
        shutil.rmtree(run)
    rewrite(folder / "campaign.json", targets=["sherpa"])
    result = build_report(folder)
    verdict = validate(result)
    assert verdict["recommendation"]["engine"] is None
    assert {row["candidate"]["target"] for row in verdict["rows"]} == {"sherpa@aa"}


@pytest.mark.usefixtures("undrawn")
def test_one_round_shows_values_and_concludes_nothing(copied: COPY) -> None:
    folder = copied()
    rewrite(folder / "campaign.json", rounds_planned=1)
    for run in (folder / "runs").glob("r0[234]-*"):
        shutil.rmtree(run)
    result = build_report(folder)
    verdict = validate(result)
    assert {r["verdict"] for r in verdict["rows"]} <= {"too-noisy", "unclear", "not-measured"}
    assert verdict["recommendation"]["engine"] is None
    assert "Too noisy to tell: CPU per request, one round has no interval" in result.headlines[0]


@pytest.mark.usefixtures("undrawn")
def test_an_empty_campaign_has_a_report_with_every_part(tmp_path: Path) -> None:
    header = CampaignHeader(
        id="nothing", started="2026-08-01T12:00:00Z", targets=["sherpa", "olla"], state="interrupted"
    )
    store.Campaign.create(tmp_path, header)
    result = build_report(tmp_path)
    verdict = validate(result)
    assert (verdict["rows"], result.valid_runs, result.headlines) == ([], 0, ())
    page = Shape(result.html.read_text()).shown()
    assert "Not measured: the campaign lists no scenario" in page
    assert "no run finished" in page


@pytest.mark.usefixtures("undrawn")
def test_a_campaign_with_scenarios_and_not_one_run_names_them(tmp_path: Path) -> None:
    world = World(rounds=2)
    store.Campaign.create(tmp_path, world.header())
    result = build_report(tmp_path)
    verdict = validate(result)
    assert {row["verdict"] for row in verdict["rows"]} == {"not-measured"}
    assert result.headlines[0].startswith("chat: Not measured:")


def test_a_campaign_without_raw_rows_still_has_its_table(copied: COPY) -> None:
    folder = copied()
    before = build_report(folder).verdict
    for table in folder.glob("runs/*/*.parquet"):
        table.unlink()
    result = build_report(folder)
    verdict = validate(result)

    def words(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
        # Tails are pooled from raw rows; without them each run's own percentile has to do, and the row says so.
        return [(row["scenario"], row["metric"], row["verdict"]) for row in rows if row["metric"] not in POOLED]

    tails = [row for row in verdict["rows"] if row["metric"] in POOLED and row["ci_low"] is not None]
    assert tails
    assert all("of each run by itself" in row["reason"] for row in tails)
    assert words(verdict["rows"]) == words(before["rows"])
    assert "no valid run kept request rows" in result.html.read_text()


@pytest.mark.usefixtures("undrawn")
def test_mixed_configurations_are_refused_and_nothing_is_written(copied: COPY) -> None:
    folder = copied()
    rewrite(folder / "runs" / "r03-chat-olla" / "run.json", config_hash="other")
    with pytest.raises(ReportError, match="config_hash is 'other' but 'cfg-olla'"):
        build_report(folder)
    assert not list(folder.glob("report.*"))


@pytest.mark.usefixtures("undrawn")
def test_a_cut_table_is_refused_and_nothing_is_written(copied: COPY) -> None:
    folder = copied()
    path = folder / "runs" / "r03-chat-olla" / "requests.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ReportError, match="truncated"):
        build_report(folder)
    assert not list(folder.glob("report.*"))


# ------------------------------------------------------------------------------------------------------ hostile names
HOSTILE = '<b onmouseover="alert(1)">$x$ </script><script>alert(1)</script> =cmd|\' /C calc\'!A0 `id` [a](http://x) "q"'


def test_names_from_outside_are_shown_as_text_and_never_run(tmp_path: Path) -> None:
    world = World(
        targets=("sherpa", "olla", HOSTILE),
        scenarios={HOSTILE[:100]: CHAT.model_copy(update={"duration_s": 1.0, "question": HOSTILE})},
        rounds=2,
    )
    folder = write_campaign(tmp_path / "hostile", world)
    header = json.loads((folder / "campaign.json").read_text())
    rewrite(folder / "campaign.json", id=HOSTILE[:100], command=HOSTILE, machine={HOSTILE: HOSTILE})
    for target in header["targets"]:
        target["config"] = HOSTILE
    rewrite(folder / "campaign.json", targets=header["targets"])
    runs = sorted((folder / "runs").iterdir())
    rewrite(runs[0] / "run.json", void_reason=HOSTILE, validity=[{"check": HOSTILE, "ok": False, "value": HOSTILE}])
    result = build_report(folder)
    validate(result)
    text = result.html.read_text()
    page = Shape(text)
    assert len(page.all("script")) == 1
    assert not page.all("b") or all("onmouseover" not in a for a in page.all("b"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert HOSTILE[:40] in page.shown()
    assert "alert(1)</script>" not in text.replace("&lt;/script&gt;", "")
    for svg in (folder / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text()
    assert {path.name for path in folder.iterdir()} == {
        "campaign.json", "runs", "figures", "report.html", "report.md", "verdict.json",
    }  # fmt: skip
    # Indented lines are code, which Markdown shows as it is.
    markdown = "\n".join(line for line in result.md.read_text().splitlines() if not line.startswith("    "))
    assert "<script" not in re.sub(r"\\<", "", markdown)
    assert "](http" not in markdown.replace("\\](http", "").replace("\\]\\(http", "")


def test_markdown_from_outside_stays_one_line_of_plain_text() -> None:
    assert md("a|b\n# c <i> [x](y) `z` $1$ *w*") == r"a\|b \# c \<i\> \[x\](y) \`z\` \$1\$ \*w\*"


def test_a_figures_names_cannot_start_mathematics(tmp_path: Path) -> None:
    scenarios = {"cost $5^{x$": CHAT.model_copy(update={"duration_s": 1.0, "tags": [], "profile": ""})}
    folder = write_campaign(tmp_path / "dollars", World(scenarios=scenarios, rounds=2))
    build_report(folder)
    assert "cost $5^{x$" in (folder / "figures" / "overhead-1.svg").read_text()


# ------------------------------------------------------------------------------------------------------------- whole
@pytest.mark.slow
def test_a_campaign_with_every_kind_of_scenario_fills_every_part(tmp_path: Path) -> None:
    world = full_world(rounds=2, targets=("sherpa", "olla"), variants=(VARIANTS[2],))
    quick = {
        name: scenario.model_copy(update={"duration_s": min(scenario.duration_s, 1.5)})
        for name, scenario in world.scenarios.items()
    }
    folder = write_campaign(tmp_path / "full", replace(world, scenarios=quick, aa=False))
    result = build_report(folder)
    validate(result)
    drawn = {path.stem.rpartition("-")[0] for path in (folder / "figures").glob("*.svg")}
    assert drawn == {"effects", "cpu", "overhead", "transit", "tail", "load", "gc", "memory", "resilience"}
    page = Shape(result.html.read_text()).shown()
    assert "Capacity of a core" in page
    assert "Requests/s per core" in page
    assert len(result.md.read_text().splitlines()) < 300
    assert result.json.stat().st_size < 400_000
    assert {case.split(":")[0] for case in result.headlines} == {
        "chat", "chat-stream", "load-800", "streams-80", "slow-endpoint", "saturation",
    }  # fmt: skip


def test_reading_results_needs_neither_locust_nor_the_engines() -> None:
    script = (
        "import sys; import reports.cli, reports.render, reports.study; "
        "print([n for n in sys.modules if n.split('.')[0] in ('locust', 'gevent', 'aiohttp', 'loadgen', 'proxy', "
        "'mock_backends')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("undrawn")
def test_a_run_record_of_tomorrow_with_more_fields_is_read_today(copied: COPY) -> None:
    folder = copied()
    path = folder / "runs" / "r01-chat-olla" / "run.json"
    rewrite(path, colour="blue", summary={**json.loads(path.read_text())["summary"], "new": [1]})
    assert RunRecord.model_validate(json.loads(path.read_text())).model_extra == {"colour": "blue"}
    validate(build_report(folder))


def spoil(run: Path, check: str, **more: Any) -> None:
    """Let a check of a run fail by its target's fault."""
    failed = {"check": check, "ok": False, "blame": "target", "text": f"{check} failed", **more}
    record = json.loads((run / "run.json").read_text())
    rewrite(run / "run.json", validity=[*record["validity"], failed], outcome=None, fault=f"{check} failed")


@pytest.mark.usefixtures("undrawn")
def test_one_wrong_reply_stands_on_the_first_screen_and_takes_its_engine_out(copied: COPY) -> None:
    folder = copied()
    spoil(folder / "runs" / "r02-chat-olla", "digest", value=1.0)
    result = build_report(folder)
    verdict = validate(result)
    first = Shape(result.html.read_text().split('<section id="cost">')[0]).shown()
    assert "olla changed 1 reply: digest failed (in r02-chat-olla)" in first
    assert "Use Sherpa: Olla is unreliable" in first
    assert verdict["recommendation"]["engine"] == "sherpa"
    assert [(one["target"], one["word"], one["wrong_replies"]) for one in verdict["faults"]] == [
        ("olla", "unreliable", 1)
    ]
    assert {row["verdict"] for row in verdict["rows"] if row["scenario"] == "chat" and row["primary"]
            and row["candidate"]["target"] == "olla"} == {"unreliable"}  # fmt: skip
    assert "✗ failed digest failed" in " ".join(Shape(result.html.read_text()).shown().split())


@pytest.mark.usefixtures("undrawn")
def test_a_wrong_reply_of_any_target_stands_on_the_first_screen(copied: COPY) -> None:
    folder = copied()
    spoil(folder / "runs" / "r03-chat-direct", "digest", value=4.0)
    first = Shape(build_report(folder).html.read_text().split('<section id="cost">')[0]).shown()
    assert "chat: direct changed 4 replies: digest failed (in r03-chat-direct)." in first


@pytest.mark.usefixtures("undrawn")
def test_a_target_that_cannot_carry_the_load_loses_with_its_own_figures_and_spoils_no_other(copied: COPY) -> None:
    folder = copied()
    for number in (1, 2, 3, 4):
        spoil(folder / "runs" / f"r{number:02d}-chat-sherpa", "achieved-rate")
    result = build_report(folder)
    verdict = validate(result)
    rows = {(row["metric"], row["candidate"]["target"]): row for row in verdict["rows"] if row["scenario"] == "chat"}
    cpu = rows["cpu_us_per_request", "olla"]
    assert (cpu["verdict"], cpu["blamed"], cpu["rounds"]) == ("overloaded", ["sherpa"], 4)
    assert cpu["baseline"]["value"] > cpu["candidate"]["value"] > 0
    assert "Use Olla: Sherpa is overloaded" in Shape(result.html.read_text()).shown()
    other = [row["verdict"] for row in verdict["rows"] if row["scenario"] == "chat-stream" and row["primary"]]
    assert "overloaded" not in other


@pytest.mark.usefixtures("undrawn")
def test_every_row_carries_the_level_of_the_interval_it_prints(built: ReportResult) -> None:
    rows = [row for row in built.verdict["rows"] if row["ci_low"] is not None]
    assert {row["level"] for row in rows} == {0.05}
    primary = [row for row in rows if row["primary"] and row["p"] is not None]
    assert all(row["p_adjusted"] >= row["p"] for row in primary)
    said = {"faster", "slower", "equivalent", "too-noisy"}
    assert all(row["verdict"] not in said for row in rows if not row["primary"])
    assert "% CI" in built.md.read_text()
    assert set(re.findall(r"([\d.]+) % CI", built.md.read_text())) == {"95"}


@pytest.mark.usefixtures("undrawn")
def test_what_olla_wins_in_a_closed_loop_speaks_for_it_on_the_first_screen(copied: COPY) -> None:
    folder = copied()
    scenarios = json.loads((folder / "campaign.json").read_text())["scenarios"]
    for one in scenarios.values():
        one.update(loop="closed", rate_rps=None)
    rewrite(folder / "campaign.json", scenarios=scenarios)
    first = Shape(build_report(folder).html.read_text().split('<section id="cost">')[0]).shown()
    assert "no figure here speaks for it" not in first
    assert "you pay for CPU" in first


def test_runs_that_count_are_those_whose_round_the_bench_did_not_spoil_whatever_their_target_did(
    copied: COPY,
) -> None:
    folder = copied()
    before = valid_runs(Study.load(folder))
    path = next(folder.glob("runs/r01-*-olla/run.json"))
    record = json.loads(path.read_text())
    record |= {"outcome": "overloaded", "fault": "requests in flight went from 1 to 900", "void_reason": None}
    path.write_text(json.dumps(record))
    assert valid_runs(Study.load(folder)) == f"{before} (1 overloaded)"


def studied(scenario: ScenarioRecord, *facts: Facts) -> Study:
    campaign = campaign_of(("sherpa", "olla"), {"chat": scenario}, 1)
    return Study(campaign, facts, compare(campaign, facts))


def test_replies_without_a_digest_are_not_said_to_have_been_compared() -> None:
    ours, wrk = (
        fact("chat", n, "sherpa", {}, requests=12, outcomes={"ok": 9, "wrong_reply": 1, "refused": 2}) for n in (1, 2)
    )
    ours.record.validity.append(Check(check="digest", value=0.0))
    wrk.record.validity.append(Check(check="digest", text="not measured: no reply had a digest"))
    assert tally(studied(ScenarioRecord(), ours, wrk)).endswith(
        "; 10 replies were compared byte for byte with what was sent"
    )


@pytest.mark.parametrize(("to_s", "said"), [(None, "it failed to the end"), (4.0, "0.50 s")])
def test_an_endpoint_that_fails_to_the_end_is_never_used_again_and_nobody_is_blamed(
    to_s: float | None, said: str
) -> None:
    fault = Fault(endpoint="mock-1", kind="slow", from_s=1.0, to_s=to_s)
    at = np.array([0.5, 1.5, 4.5])
    seen = Outcomes(at, np.full(3, "ok", dtype=object), np.full(3, "mock-1", dtype=object))
    one = replace(fact("chat", 1, "sherpa", {}, outcomes={"ok": 3}), outcomes=seen, window_s=6.0)
    blocks = faults.part(studied(ScenarioRecord(faults=[fault]), one)).blocks
    table = next(block for block in blocks if isinstance(block, Table))
    assert table.rows[0].cells[-1].say == said


@pytest.mark.parametrize("cpu", [200.0, 4000.0])
def test_the_first_screen_and_choose_name_the_same_break_even(copied: COPY, cpu: float) -> None:
    folder = copied()
    for path in (folder / "runs").glob("*-chat-sherpa*/run.json"):
        rewrite(path, summary={"cpu_us_per_request": cpu})
        (path.parent / "usage.parquet").unlink()
    result = build_report(folder)
    rate = choose.break_even(choose.points_of(result.verdict), 0.0)
    assert rate is not None
    said = dict(result.screen.choose)["Neither matters if"]
    assert f"fewer than {float(f'{rate:.2g}'):,.0f} small requests/s" in said


def test_the_report_says_of_every_check_what_it_looks_at() -> None:
    assert MEANINGS.keys() == {*validity.LIMITS, "completed"}
