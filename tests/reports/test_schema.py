from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import reports
from reports.schema import (
    METRICS,
    TABLES,
    CampaignHeader,
    Check,
    RunRecord,
    ScenarioRecord,
    outcome_of,
    run_name,
    safe_name,
    table_kind,
)


def test_the_metrics_that_were_published_keep_their_ids_and_their_order() -> None:
    published = (
        "added_p50_us added_p99_us ttft_p50_ms ttft_p99_ms transit_event_p50_us transit_event_p99_us itl_p50_ms "
        "itl_p99_ms tpot_p50_ms e2e_p50_ms e2e_p95_ms e2e_p99_ms e2e_p999_ms throughput_rps goodput_rps "
        "cpu_us_per_request cpu_us_per_event cpu_us_per_mib capacity_rps_per_core rss_idle_mib rss_peak_mib "
        "rss_kib_per_stream gc_count "
        "gc_total_ms gc_max_ms stall_max_ms error_ratio coalescing"
    )
    assert [name for name in METRICS if name in published.split()] == published.split()


def test_only_throughput_goodput_and_capacity_are_better_when_higher() -> None:
    higher = {name for name, metric in METRICS.items() if metric.higher_is_better}
    assert higher == {"throughput_rps", "goodput_rps", "capacity_rps_per_core"}


def test_the_json_schema_of_verdicts_takes_any_metric_there_is() -> None:
    schema = json.loads((Path(reports.__file__).with_name("verdict.schema.json")).read_text())
    pattern = re.compile(schema["$defs"]["row"]["properties"]["metric"]["pattern"])
    assert all(pattern.search(name) for name in METRICS)


def test_the_tables_have_the_published_columns() -> None:
    columns = {kind: " ".join(schema.names) for kind, schema in TABLES.items()}
    assert columns == {
        "requests": "request_id worker scenario endpoint intended_ns sent_ns first_byte_ns first_event_ns end_ns "
        "status outcome error bytes_in bytes_out events digest_ok mock_recv_ns mock_sent_ns warmup",
        "events": "request_id seq mock_ns read_ns bytes read_index",
        "runtime": "pid kind start_ns end_ns generation collected cause",
        "usage": "t_ns pid role cpu_ns rss_bytes ctx_voluntary ctx_involuntary fds",
    }
    assert {table_kind(schema) for schema in TABLES.values()} == set(TABLES)


def test_a_run_is_named_by_round_scenario_and_target() -> None:
    assert run_name(3, "chat-stream", "olla") == "r03-chat-stream-olla"
    assert run_name(1, "chat", "sherpa@aa") == "r01-chat-sherpa@aa"


@given(st.text(max_size=300))
def test_a_safe_name_is_one_plain_path_component(name: str) -> None:
    cleaned = safe_name(name)
    assert cleaned not in ("", ".", "..")
    assert len(cleaned) <= 120
    assert Path("runs", cleaned).parent == Path("runs")
    assert all(char.isascii() and (char.isalnum() or char in "._@+-~") for char in cleaned)
    assert not cleaned.startswith(".")


@given(st.text(max_size=40), st.text(max_size=40))
def test_different_names_stay_different(one: str, other: str) -> None:
    if one != other:
        assert safe_name(one) != safe_name(other)


def test_bare_target_names_are_understood() -> None:
    header = CampaignHeader(id="x", started="now", targets=["olla", "direct", "nginx"])
    assert [(t.name, t.kind, t.engine) for t in header.targets] == [
        ("olla", "engine", "olla"),
        ("direct", "floor", None),
        ("nginx", "peer", None),
    ]


@pytest.mark.parametrize(
    ("targets", "stated", "baseline"),
    [
        (["olla", "sherpa"], "", "sherpa"),
        (["direct", "relay", "nginx", "olla"], "", "nginx"),
        (["sherpa", "olla"], "olla", "olla"),
        (["direct", "relay"], "", None),
        ([], "", None),
    ],
)
def test_the_baseline_is_the_stated_one_then_sherpa_then_the_first_that_is_no_floor(
    targets: list[str], stated: str, baseline: str | None
) -> None:
    header = CampaignHeader(id="x", started="now", targets=targets, baseline=stated)
    assert header.default_baseline() == baseline


def test_fields_that_are_not_known_yet_survive_a_round_trip() -> None:
    scenario = ScenarioRecord.model_validate({"question": "q", "colour": "blue"})
    assert scenario.model_dump()["colour"] == "blue"


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ValidationError, match="window_ns"):
        RunRecord(run="r", scenario="s", target="t", round=1, window_ns=(5, 5))


def test_a_target_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="twice"):
        CampaignHeader(id="x", started="now", targets=["olla", "olla"])


def failed(check: str, blame: str = "target", **more: object) -> Check:
    return Check.model_validate({"check": check, "ok": False, "blame": blame, **more})


@pytest.mark.parametrize(
    ("checks", "outcome"),
    [
        ([], "ok"),
        ([Check(check="trend", ok=True, warn=True, blame="target")], "ok"),
        ([failed("steal", "bench"), failed("digest"), failed("achieved-rate")], "void"),
        ([failed("achieved-rate")], "overloaded"),
        ([failed("achieved-rate"), failed("errors"), failed("little")], "overloaded"),
        ([failed("achieved-rate"), failed("digest")], "failed"),
        ([failed("completed"), failed("achieved-rate")], "failed"),
        ([failed("errors")], "failed"),
    ],
)
def test_only_the_bench_voids_a_run_and_what_its_target_did_wrong_is_its_result(
    checks: list[Check], outcome: str
) -> None:
    assert outcome_of(checks) == outcome


def test_a_record_without_an_outcome_derives_it_from_its_checks() -> None:
    def run(**changes: object) -> RunRecord:
        return RunRecord.model_validate({"run": "r", "scenario": "s", "target": "t", "round": 1, **changes})

    assert run().ended == "ok"
    assert run(void_reason="because").ended == "void"
    assert run(void_reason="slow", validity=[failed("achieved-rate")]).ended == "overloaded"
    assert run(void_reason="stolen", validity=[failed("steal", "bench")]).ended == "void"
    assert run(outcome="failed", fault="it crashed").why == "it crashed"


def test_one_wrong_digest_is_counted_as_wrong_replies() -> None:
    record = RunRecord(run="r", scenario="s", target="t", round=1, validity=[failed("digest", value=3.0)])
    assert record.wrong_replies == 3
    assert RunRecord(run="r", scenario="s", target="t", round=1).wrong_replies == 0
