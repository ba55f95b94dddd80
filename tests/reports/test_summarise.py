"""Small runs written out by hand, whose metrics can be checked with a pencil."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from reports import store, summarise
from reports.schema import METRICS, REQUESTS, Fault, RunRecord, ScenarioRecord
from reports.summarise import Facts, Histogram

T0 = 5_000_000_000
MS = 1_000_000
US = 1_000
WINDOW = (T0, T0 + 1_000 * MS)

REQUEST = ScenarioRecord(kind="request")
STREAM = ScenarioRecord(kind="stream")


def requests(count: int = 1, **columns: Any) -> pd.DataFrame:
    """Right replies, one each millisecond: 100 us to the mock, 200 us in it, 300 us back; 1 ms from end to end."""
    intended = T0 + np.arange(count) * MS
    frame = pd.DataFrame(
        {
            "request_id": np.arange(count),
            "worker": 0,
            "scenario": "s",
            "endpoint": "mock-0",
            "intended_ns": intended,
            "sent_ns": intended + 50 * US,
            "first_byte_ns": intended + 650 * US,
            "first_event_ns": intended + 700 * US,
            "end_ns": intended + 1 * MS,
            "status": 200,
            "outcome": "ok",
            "error": None,
            "bytes_in": 1024,
            "bytes_out": 10,
            "events": 1,
            "digest_ok": True,
            "mock_recv_ns": intended + 150 * US,
            "mock_sent_ns": intended + 350 * US,
            "warmup": False,
        }
    )
    return frame.assign(**columns)


def usage(*samples: tuple[float, int, int, int], role: str = "target") -> pd.DataFrame:
    """(milliseconds into the window, pid, CPU ms, RSS MiB) as usage rows."""
    return pd.DataFrame(
        [
            {"t_ns": T0 + int(at * MS), "pid": pid, "role": role, "cpu_ns": cpu * MS, "rss_bytes": rss << 20}
            | dict.fromkeys(("ctx_voluntary", "ctx_involuntary", "fds"), 0)
            for at, pid, cpu, rss in samples
        ]
    )


def runtime(*pauses: tuple[str, float, float, int | None]) -> pd.DataFrame:
    """(kind, start ms, length ms, generation) as runtime rows."""
    columns = ["pid", "kind", "start_ns", "end_ns", "generation", "collected", "cause"]
    rows = [
        [1, kind, T0 + int(start * MS), T0 + int((start + length) * MS), generation, 0, None]
        for kind, start, length, generation in pauses
    ]
    return pd.DataFrame(rows, columns=columns).astype({"generation": "Int64", "cause": "object"})


def measured(
    scenario: ScenarioRecord = REQUEST, *, record: dict[str, Any] | None = None, **tables: pd.DataFrame
) -> Facts:
    values = {"run": "r", "scenario": "s", "target": "t", "round": 1, "window_ns": WINDOW, **(record or {})}
    typed = {kind: store.as_read(kind, table) for kind, table in tables.items()}
    return summarise.measure(RunRecord(**values), scenario, typed)


# ---------------------------------------------------------------------------------------------------------- latency
def test_added_time_is_what_both_directions_took_without_the_mock() -> None:
    assert measured(requests=requests(20)).value("added_p50_us") == pytest.approx(100 + 300)


def test_latency_runs_from_the_intended_time_in_open_loop_and_from_the_sent_time_in_closed_loop() -> None:
    assert measured(requests=requests(20)).value("e2e_p50_ms") == pytest.approx(1.0)
    closed = ScenarioRecord(kind="request", loop="closed")
    assert measured(closed, requests=requests(20)).value("e2e_p50_ms") == pytest.approx(0.95)


def test_a_late_generator_cannot_hide_the_wait() -> None:
    late = requests(20, sent_ns=T0 + 500 * MS, end_ns=T0 + 501 * MS)
    assert measured(requests=late).value("e2e_p50_ms") == pytest.approx(501 - 9.5)


def test_time_to_first_token_of_a_stream_ends_at_the_first_event() -> None:
    assert measured(STREAM, requests=requests(20)).value("ttft_p50_ms") == pytest.approx(0.7)
    assert measured(REQUEST, requests=requests(20)).metrics["ttft_p50_ms"].reason == "the scenario does not stream"


def test_a_percentile_needs_ten_samples_beyond_it() -> None:
    few, enough = measured(requests=requests(999)), measured(requests=requests(1000))
    assert few.value("e2e_p99_ms") is None
    assert few.metrics["e2e_p99_ms"].reason == "p99 needs 1,000 requests in each run, this one has 999"
    assert enough.value("e2e_p99_ms") is not None
    assert measured(requests=requests(199)).value("e2e_p95_ms") is None
    assert measured(requests=requests(200)).value("e2e_p95_ms") is not None
    assert measured(requests=requests(19)).value("e2e_p50_ms") is None


def test_warm_up_is_kept_on_file_and_never_counts() -> None:
    slow = requests(40)
    slow.loc[:19, "end_ns"] += 900 * MS
    slow["warmup"] = slow.index < 20
    facts = measured(requests=slow)
    assert facts.value("e2e_p50_ms") == pytest.approx(1.0)
    assert facts.value("throughput_rps") == 20
    assert facts.extras["requests"] == 20


def test_what_began_outside_the_window_does_not_count() -> None:
    assert measured(record={"window_ns": (T0 + 10 * MS, T0 + 30 * MS)}, requests=requests(40)).extras["requests"] == 20


# ------------------------------------------------------------------------------------------------- right and wrong
@pytest.mark.parametrize("wrong", [{"outcome": "wrong_reply"}, {"digest_ok": False}])
def test_the_times_of_wrong_replies_never_count_and_they_are_errors(wrong: dict[str, object]) -> None:
    rows = requests(40)
    fast = rows.index < 20
    rows.loc[fast, "end_ns"] -= 900 * US
    rows.loc[fast, list(wrong)] = list(wrong.values())
    facts = measured(requests=rows)
    assert facts.value("e2e_p50_ms") == pytest.approx(1.0)
    assert facts.value("throughput_rps") == 40
    assert facts.value("goodput_rps") == 20
    assert facts.value("error_ratio") == 0.5
    assert facts.extras["outcomes"] == {"ok": 20, "wrong_reply": 20}


def test_outcomes_that_are_part_of_the_plan_are_no_errors_and_no_goodput() -> None:
    rows = requests(10)
    rows.loc[:1, "outcome"] = "client_cancelled"
    facts = measured(ScenarioRecord(expected_outcomes=["client_cancelled"]), requests=rows)
    assert facts.value("error_ratio") == 0
    assert facts.value("goodput_rps") == 8


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        ({"e2e_ms": 1.0}, 10),
        ({"e2e_ms": 0.9}, 0),
        ({"ttft_ms": 0.69}, 0),
        ({"tpot_ms": 0.1}, 10),
        ({"tpot_ms": 0.09}, 0),
    ],
)
def test_goodput_counts_only_replies_within_their_limits(slo: dict[str, float], good: int) -> None:
    facts = measured(ScenarioRecord(kind="stream", slo=slo), requests=requests(10, events=4))
    assert facts.value("goodput_rps") == good
    assert facts.value("throughput_rps") == 10


def test_requests_that_never_got_an_answer_are_counted_not_timed() -> None:
    rows = requests(30)
    refused = rows.index < 10
    rows.loc[refused, "outcome"] = "refused"
    for column in ("first_byte_ns", "mock_recv_ns", "mock_sent_ns", "status", "endpoint", "digest_ok"):
        rows[column] = rows[column].astype(object).mask(refused, None)
    facts = measured(requests=rows)
    assert facts.value("error_ratio") == pytest.approx(1 / 3)
    assert facts.value("added_p50_us") == pytest.approx(400)


# ----------------------------------------------------------------------------------------------------------- events
def events(reads: list[list[float]], transit_us: float = 100) -> pd.DataFrame:
    """Per stream the reads in ms; an event for each, those with equal times in one read."""
    rows = []
    for request, times in enumerate(reads):
        for seq, at in enumerate(times):
            read = T0 + int(at * MS)
            index = sorted(set(times)).index(at)
            rows.append((request, seq, read - int(transit_us * US), read, 50, index))
    return pd.DataFrame(rows, columns=["request_id", "seq", "mock_ns", "read_ns", "bytes", "read_index"])


def test_transit_is_from_the_mocks_write_to_the_clients_read() -> None:
    facts = measured(STREAM, requests=requests(10), events=events([[1, 2]] * 10, transit_us=123))
    assert facts.value("transit_event_p50_us") == pytest.approx(123)
    assert facts.transit is not None
    assert facts.transit.counts.sum() == 20


def test_gaps_are_between_events_of_one_stream_only() -> None:
    facts = measured(STREAM, requests=requests(10), events=events([[10, 13, 16]] * 10))
    assert facts.value("itl_p50_ms") == pytest.approx(3)


def test_coalescing_counts_events_per_read() -> None:
    facts = measured(STREAM, requests=requests(2), events=events([[1, 1, 2, 2], [5, 5, 6, 6]]))
    assert facts.value("coalescing") == 2.0
    assert measured(STREAM, requests=requests(1), events=events([[1, 2, 3]])).value("coalescing") == 1.0


def test_events_of_wrong_replies_do_not_count() -> None:
    rows = requests(20)
    rows.loc[10:, "outcome"] = "truncated"
    reads = events([[1, 2]] * 10 + [[1, 900]] * 10)
    assert measured(STREAM, requests=rows, events=reads).value("itl_p50_ms") is None  # 10 gaps left, p50 needs 20


def test_time_per_output_token_leaves_the_first_out() -> None:
    facts = measured(STREAM, requests=requests(20, events=4))
    assert facts.value("tpot_p50_ms") == pytest.approx(0.3 / 3)


def test_histograms_of_rounds_add_up_to_two_percent() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.lognormal(5, 1, 5000), rng.lognormal(6, 1, 5000)
    counts = Histogram.of(one).counts + Histogram.of(two).counts
    median = Histogram.edges()[np.searchsorted(np.cumsum(counts), 5000)]
    assert median == pytest.approx(np.median(np.concatenate([one, two])), rel=0.02)


# -------------------------------------------------------------------------------------------------------------- CPU
def test_cpu_per_request_is_the_window_less_idle_by_requests_that_ended_in_it() -> None:
    samples = usage((-500, 1, 100, 10), (0, 1, 100, 10), (500, 1, 350, 10), (1000, 1, 600, 10), (1500, 1, 999, 10))
    facts = measured(record={"idle_cpu_ns_per_s": 100 * MS}, requests=requests(100), usage=samples)
    assert facts.value("cpu_us_per_request") == pytest.approx((500 - 100) * 1000 / 100)
    assert facts.extras["cpu_us_per_request_gross"] == pytest.approx(5000)
    assert facts.extras["utilisation"] == pytest.approx(0.5)


def test_cpu_between_samples_is_interpolated() -> None:
    facts = measured(requests=requests(100), usage=usage((-1000, 1, 0, 10), (2000, 1, 300, 10)))
    assert facts.value("cpu_us_per_request") == pytest.approx(1000)


def test_the_whole_tree_counts_and_a_reaped_child_counts_once() -> None:
    samples = usage(
        (0, 1, 100, 10), (0, 2, 40, 5), (500, 1, 150, 10), (500, 2, 90, 5), (1000, 1, 300, 10)
    )  # the child's last 100 ms went to its parent's counter when it was reaped
    facts = measured(requests=requests(100), usage=samples)
    assert facts.value("cpu_us_per_request") == pytest.approx((300 - 140) * 1000 / 100)


def test_a_child_born_in_the_window_counts_from_its_birth() -> None:
    samples = usage((0, 1, 100, 10), (1000, 1, 150, 10), (1000, 2, 50, 5))
    assert measured(requests=requests(100), usage=samples).value("cpu_us_per_request") == pytest.approx(1000)


def test_cpu_of_mocks_and_driver_is_not_the_targets() -> None:
    mocks = usage((0, 9, 0, 10), (1000, 9, 900, 10), role="mock")
    facts = measured(requests=requests(10), usage=mocks)
    assert facts.metrics["cpu_us_per_request"].reason == "no CPU samples of the target"
    assert facts.usage["mock"].cpu[-1] == pytest.approx(0.9)


def test_samples_that_miss_the_window_give_no_cpu_but_a_reason() -> None:
    facts = measured(requests=requests(10), usage=usage((0, 1, 0, 10), (800, 1, 100, 10)))
    assert facts.metrics["cpu_us_per_request"].reason == "CPU samples leave 20 % of the window uncovered"


def test_cpu_per_event_and_per_mib_divide_the_same_cpu() -> None:
    rows = requests(1024, intended_ns=T0 + np.arange(1024) * 100 * US, bytes_in=2048, events=4)
    rows["end_ns"] = rows["intended_ns"] + MS
    facts = measured(STREAM, requests=rows, usage=usage((0, 1, 0, 10), (1000, 1, 512, 10)))
    assert facts.value("cpu_us_per_request") == pytest.approx(500)
    assert facts.value("cpu_us_per_event") == pytest.approx(125)
    assert facts.value("cpu_us_per_mib") == pytest.approx(512_000 / 2)


def test_capacity_is_measured_at_saturation_in_closed_loop_and_nowhere_else() -> None:
    closed = ScenarioRecord(loop="closed")
    busy, lazy = usage((0, 1, 0, 10), (1000, 1, 980, 10)), usage((0, 1, 0, 10), (1000, 1, 500, 10))
    assert measured(closed, requests=requests(490), usage=busy).value("capacity_rps_per_core") == pytest.approx(500)
    assert measured(closed, requests=requests(490), usage=lazy).value("capacity_rps_per_core") is None
    assert measured(REQUEST, requests=requests(490), usage=busy).value("capacity_rps_per_core") is None


# ----------------------------------------------------------------------------------------------------------- memory
def test_memory_is_idle_before_the_first_request_and_peak_inside_the_window() -> None:
    samples = usage((-10, 1, 0, 40), (-10, 2, 0, 2), (500, 1, 1, 90), (500, 2, 1, 2), (1500, 1, 1, 400))
    facts = measured(requests=requests(10), usage=samples)
    assert facts.value("rss_idle_mib") == 42
    assert facts.value("rss_peak_mib") == 92


def test_memory_per_stream_is_growth_by_streams_open_at_once() -> None:
    rows = requests(32, intended_ns=T0 + 10 * MS, sent_ns=T0 + 10 * MS, end_ns=T0 + 500 * MS)
    facts = measured(STREAM, requests=rows, usage=usage((0, 1, 0, 40), (500, 1, 1, 41)))
    assert facts.extras["active_peak"] == 32
    assert facts.value("rss_kib_per_stream") == 32
    few = measured(STREAM, requests=rows.head(19), usage=usage((0, 1, 0, 40), (500, 1, 1, 41)))
    assert few.metrics["rss_kib_per_stream"].reason == "needs 20 streams open at once, had 19"


# --------------------------------------------------------------------------------------------------------------- GC
def test_collections_in_the_window_are_counted_added_and_the_longest_found() -> None:
    pauses = runtime(("gc", -5, 100, 2), ("gc", 10, 2, 0), ("gc", 20, 5, 2), ("stall", 19, 12, None))
    facts = measured(requests=requests(10), runtime=pauses)
    assert facts.value("gc_count") == 2
    assert facts.value("gc_total_ms") == pytest.approx(7)
    assert facts.value("gc_max_ms") == pytest.approx(5)
    assert facts.value("stall_max_ms") == pytest.approx(12)
    assert facts.extras["gc_share"] == pytest.approx(0.007)


def test_no_collection_is_zero_and_no_recorder_is_not_measured() -> None:
    quiet = measured(requests=requests(10), runtime=runtime())
    assert (quiet.value("gc_count"), quiet.value("gc_max_ms"), quiet.value("stall_max_ms")) == (0, 0, 0)
    assert measured(requests=requests(10)).metrics["gc_count"].reason == "no recorder ran inside the target"


def test_the_join_finds_the_requests_that_had_a_pause_inside() -> None:
    facts = measured(requests=requests(10), runtime=runtime(("gc", 4.2, 0.1, 0)))
    assert facts.join is not None
    assert (facts.join.with_pause, facts.join.without) == (1, 9)
    assert facts.join.shared_us == pytest.approx(100)


def test_a_pause_holds_a_request_up_for_no_longer_than_it_lasts_however_long_the_request_is() -> None:
    rows = requests(10)
    rows["end_ns"] += 40 * MS  # long requests meet every pause; nothing of their length is the pauses' doing
    rows["first_byte_ns"] += 40 * MS
    facts = measured(requests=rows, runtime=runtime(("gc", 12.0, 0.3, 0)))
    assert facts.join is not None
    assert facts.join.with_pause == 10
    assert facts.join.shared_us == pytest.approx(300)


def test_two_pauses_inside_a_request_and_a_part_of_a_third_add_up() -> None:
    rows = requests(1)
    rows["end_ns"] = rows["sent_ns"] + 10 * MS
    begun = float(rows["sent_ns"].iloc[0] - T0) / MS
    pauses = (("gc", begun + 1, 0.2, 0), ("gc", begun + 3, 0.3, 0), ("gc", begun + 9.5, 2.0, 0))
    facts = measured(requests=rows, runtime=runtime(*pauses))
    assert facts.join is not None
    assert facts.join.shared_us == pytest.approx(1000, abs=0.01)


def test_the_join_agrees_with_comparing_every_request_to_every_pause() -> None:
    rng = np.random.default_rng(3)
    rows = requests(200)
    rows["end_ns"] = rows["sent_ns"] + rng.integers(100 * US, 30 * MS, 200)
    pauses = [("gc", float(rng.uniform(0, 220)), float(rng.uniform(0.01, 9)), 0) for _ in range(25)]
    facts = measured(requests=rows, runtime=runtime(*pauses))
    spans = [(T0 + int(start * MS), T0 + int((start + length) * MS)) for _, start, length, _ in pauses]
    inside = sum(
        any(start < row.end_ns and end > row.sent_ns for start, end in spans) for row in rows.itertuples(index=False)
    )
    assert facts.join is not None
    assert facts.join.with_pause == inside


def test_stalls_are_joined_with_requests_by_themselves() -> None:
    facts = measured(requests=requests(10), runtime=runtime(("gc", 1.2, 0.1, 0), ("stall", 4.2, 2.1, None)))
    assert facts.join is not None and facts.stall_join is not None
    assert (facts.join.with_pause, facts.stall_join.with_pause) == (1, 3)


# ------------------------------------------------------------------------------------------------------- resilience
def test_a_run_through_a_fault_tells_what_was_lost_when_it_stopped_and_when_the_endpoint_was_used_again() -> None:
    rows = requests(1000)
    at = (rows["intended_ns"] - T0) / MS
    rows["endpoint"] = "mock-0"
    rows.loc[(at < 300) | (at >= 730), "endpoint"] = "mock-1"
    rows.loc[at.isin([300, 310, 320, 520]), "outcome"] = "reset"
    scenario = ScenarioRecord(
        faults=[Fault(endpoint="mock-1", kind="reset", from_s=0.29, to_s=0.7)], expected_outcomes=["reset"]
    )
    found = summarise.resilience(measured(scenario, requests=rows), scenario, pause_s=0.1)
    assert found is not None
    assert (found.lost, found.before_pause) == (4, 3)
    assert found.paused_s == pytest.approx(0.2)
    assert found.stopped_s == pytest.approx(0.03)
    assert found.recovered_s == pytest.approx(0.03)
    assert summarise.resilience(measured(requests=rows), REQUEST, 0.1) is None


# ------------------------------------------------------------------------------------------------------ no raw rows
def test_without_rows_the_summary_speaks_and_with_rows_the_rows_do() -> None:
    stored = {"summary": {"throughput_rps": 30_000.0, "e2e_p50_ms": 77.0, "breaker_open_s": 3.0, "gc_count": None}}
    alone = measured(record=stored)
    assert alone.value("throughput_rps") == 30_000
    assert alone.metrics["gc_count"].reason == "the run has no request rows"
    assert alone.extras["breaker_open_s"] == 3.0
    both = measured(record=stored, requests=requests(20))
    assert both.value("e2e_p50_ms") == pytest.approx(1.0)
    assert both.extras["breaker_open_s"] == 3.0


def test_what_a_summary_holds_that_is_no_number_is_not_measured() -> None:
    facts = measured(record={"summary": {"e2e_p50_ms": "fast", "gc_count": True}})
    assert facts.value("e2e_p50_ms") is None
    assert facts.value("gc_count") is None


def test_a_summary_round_trips_through_the_record() -> None:
    record = RunRecord(run="r", scenario="s", target="t", round=1, window_ns=WINDOW)
    summary = summarise.run_metrics(record, REQUEST, {"requests": requests(30)})
    again = summarise.measure(record.model_copy(update={"summary": summary}), REQUEST, {})
    assert {m: again.value(m) for m in METRICS} == {m: summary[m] for m in METRICS}


def test_a_run_without_a_stated_window_takes_that_of_its_counted_rows() -> None:
    rows = requests(40)
    rows["warmup"] = rows.index < 20
    facts = measured(record={"window_ns": None}, requests=rows)
    assert facts.window_s == pytest.approx((19 + 1 - 0.05) / 1000, rel=1e-3)


def test_an_empty_table_is_said() -> None:
    empty = pd.DataFrame({field.name: [] for field in REQUESTS})
    assert measured(requests=empty).metrics["e2e_p50_ms"].reason == "the run has an empty request table"
