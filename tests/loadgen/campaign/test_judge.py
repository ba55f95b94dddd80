"""From what was seen of a run to its record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from loadgen.bench import watch
from loadgen.bench.machine import assign_cores
from loadgen.bench.mocks import Ceiling
from loadgen.campaign import judge
from loadgen.campaign.judge import Conditions, Observation
from loadgen.workload.plan import make_plan
from loadgen.workload.scenario import Scenario
from reports import store
from reports.schema import RunRecord

S = 1_000_000_000
MS = 1_000_000
BEGUN = 100 * S

SCENARIO = Scenario.model_validate(
    {
        "id": "small",
        "question": "what is the question?",
        "answer": "this would be an answer",
        "kind": "request",
        "requests": [{"path": "/"}],
        "arrivals": {"kind": "constant", "rate": 500},
        "duration_s": 4,
        "warmup_s": 1,
    }
)
PLAN = make_plan(np.arange(2500, dtype=np.int64) * 2 * MS, warmup_s=1)


def rows(**changes: Any) -> pd.DataFrame:
    due = BEGUN + PLAN.offset_ns
    table = pd.DataFrame(
        {
            "request_id": np.arange(2500),
            "worker": 0,
            "scenario": "small",
            "endpoint": "mock-0",
            "intended_ns": due,
            "dispatched_ns": due + 50_000,
            "sent_ns": due + 100_000,
            "first_byte_ns": due + 5 * MS,
            "first_event_ns": pd.NA,
            "end_ns": due + 6 * MS,
            "status": 200,
            "outcome": "ok",
            "error": None,
            "bytes_in": 100,
            "bytes_out": 10,
            "events": 1,
            "digest_ok": True,
            "mock_recv_ns": due + 2 * MS,
            "mock_sent_ns": due + 3 * MS,
            "warmup": PLAN.warmup,
        }
    )
    return store.as_read("requests", table.assign(**changes))


def samples(driver: float = 0.3, mock: float = 0.2, target: float = 0.5) -> list[watch.Sample]:
    """Ten seconds of shares of one core, around the window."""
    shares: dict[watch.Role, float] = {"driver": driver, "mock": mock, "target": target}
    return [
        watch.Sample(BEGUN + t * S // 10, pid, role, int(share * t * S // 10), 50 << 20, 1, 1, 10)
        for t in range(-10, 70)
        for pid, (role, share) in enumerate(shares.items(), 1)
    ]


def judged(seen: Observation, table: pd.DataFrame | None, **conditions: Any) -> RunRecord:
    given: dict[str, Any] = {
        "scenario": SCENARIO,
        "described": SCENARIO.describe("pinned"),
        "ceiling": Ceiling(10_000, 50_000),
        "cores": assign_cores((0, 1)),
        "has_process": True,
        "idle": (1_000_000.0, 40 << 20),
        "plan": PLAN,
        **conditions,
    }
    record = RunRecord(run="r01-small-olla", scenario="small", target="olla", round=1)
    return judge.judge(record, seen, Conditions(**given), table, None)


def seen(**changes: Any) -> Observation:
    return Observation(**{"samples": samples(), "driver": {"t0_ns": BEGUN}, "wall_s": 8.0, **changes})


def test_a_clean_run_is_valid_and_has_its_window_and_metrics() -> None:
    record = judged(seen(), rows())
    assert record.void_reason is None, record.validity
    assert record.window_ns == (BEGUN + S, BEGUN + 5 * S)
    assert record.offered_rps == 500
    assert record.summary["added_p50_us"] == pytest.approx(3900)  # 2 - 0.1 ms there, 5 - 3 ms back
    assert record.summary["cpu_us_per_request"] == pytest.approx(998, rel=0.01)  # 0.5 of a core less 1 ms/s idle
    assert {check.check for check in record.validity} >= {"generator-lag", "steal", "digest", "achieved-rate"}


@pytest.mark.parametrize(
    ("what", "changed", "table", "said"),
    [
        ("lag", {}, {"dispatched_ns": BEGUN + PLAN.offset_ns + 3 * MS}, "generator lag p99 3 ms over its 1 ms budget"),
        ("driver", {"samples": samples(driver=0.75)}, {}, "the driver used 75% of a core"),
        ("bench", {"samples": samples(driver=0.6, mock=0.4)}, {}, "driver and mocks together used 100%"),
        ("steal", {"steal": 0.2}, {}, "20.0% of CPU time was stolen"),
    ],
)
def test_a_rule_broken_by_the_bench_voids_the_run_with_its_sentence(
    what: str, changed: dict[str, Any], table: dict[str, Any], said: str
) -> None:
    record = judged(seen(**changed), rows(**table))
    assert record.outcome == "void"
    assert record.void_reason is not None
    assert said in record.void_reason


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"outcome": ["timeout"] * 50 + ["ok"] * 2400 + ["timeout"] * 50}, "ended unexpectedly"),
        ({"digest_ok": [False] + [True] * 2499}, "not what the mock sent"),
    ],
)
def test_what_the_target_did_wrong_is_a_result_with_its_sentence(table: dict[str, Any], said: str) -> None:
    record = judged(seen(), rows(**table))
    assert (record.outcome, record.void_reason) == ("failed", None)
    assert record.fault is not None
    assert said in record.fault


def slow_target(lag_ms: int = 0) -> pd.DataFrame:
    """A target that carries 250 of 500 requests a second: connections wait for it, longer and longer."""
    due = BEGUN + PLAN.offset_ns
    ended = BEGUN + PLAN.offset_ns * 2 + 2 * MS
    took_up = due + lag_ms * MS
    return rows(
        dispatched_ns=took_up,
        sent_ns=np.maximum(ended - MS, took_up),
        mock_recv_ns=ended,
        mock_sent_ns=ended,
        first_byte_ns=ended + MS,
        end_ns=ended + MS,
    )


def test_a_target_that_cannot_carry_the_load_is_overloaded_and_the_generator_is_not_blamed() -> None:
    record = judged(seen(), slow_target(lag_ms=6))
    assert (record.outcome, record.void_reason) == ("overloaded", None)
    assert record.fault is not None
    assert "50.0% were not carried" in record.fault
    assert record.summary["e2e_p50_ms"] > 1000


def test_what_its_backlog_costs_the_driver_is_a_warning_but_a_driver_that_was_late_is_not() -> None:
    record = judged(seen(samples=samples(driver=0.9, mock=0.2)), slow_target())
    assert record.outcome == "overloaded"
    assert {check.check for check in record.validity if check.warn} >= {"generator-cpu", "bench-cpu"}
    assert judged(seen(samples=samples(driver=0.9)), slow_target(lag_ms=900)).outcome == "void"
    assert judged(seen(steal=0.2, samples=samples(driver=0.9)), slow_target()).outcome == "void"


def test_time_to_connect_and_to_send_is_the_targets() -> None:
    record = judged(seen(), rows(sent_ns=BEGUN + PLAN.offset_ns + 3 * MS // 2))
    assert record.outcome == "ok", record.why


def test_mocks_that_could_not_do_twice_as_much_void_the_run() -> None:
    record = judged(seen(), rows(), ceiling=Ceiling(900, None))
    assert record.void_reason is not None
    assert "the mocks alone reach 900 req/s, 1,000 needed" in record.void_reason


def test_the_driver_counts_the_window_from_its_own_start_not_from_the_first_reply() -> None:
    late = rows(sent_ns=BEGUN + PLAN.offset_ns + 500 * MS)
    assert judged(seen(), late).window_ns == (BEGUN + S, BEGUN + 5 * S)


def test_a_run_without_rows_is_void_and_says_why() -> None:
    from loadgen.campaign import validity

    broken = validity.broken("the target was ended by SIGKILL", "target")
    record = judged(seen(broken=broken, driver={}), None)
    assert (record.outcome, record.fault) == ("failed", "the target was ended by SIGKILL")
    assert judged(seen(driver={}), None).void_reason is not None


def test_the_sum_of_a_tree_is_a_share_of_one_core() -> None:
    table = judge.usage_table(samples(target=0.5))
    assert judge.cpu_share(table, "target", (BEGUN, BEGUN + 2 * S)) == pytest.approx(0.5, abs=0.01)
    assert judge.cpu_share(table, "target", (BEGUN + 100 * S, BEGUN + 101 * S)) is None
    assert judge.cpu_share(None, "target", (0, 1)) is None


def test_pauses_of_one_process_and_of_several_workers_become_rows() -> None:
    one = {"pid": 7, "gc": [[1, 2, 0, 5]], "stalls": [[3, 4, "gc"]]}
    assert judge.recorded_pauses(one) == [(7, "gc", 1, 2, 0, 5, None), (7, "stall", 3, 4, None, None, "gc")]
    assert judge.recorded_pauses({"workers": [one, {**one, "pid": 8}]}) is not None
    assert len(judge.recorded_pauses({"workers": [one, {**one, "pid": 8}]}) or ()) == 4
    assert judge.recorded_pauses({}) is None
    assert judge.recorded_pauses({"pid": 7, "gc": None, "stalls": None}) is None
    assert judge.recorded_pauses({"pid": 7, "gc": [], "stalls": []}) == []
    assert judge.recorded_pauses({"pid": 7, "recorders": False, "gc": [], "stalls": []}) is None


def test_the_tables_fit_the_schema_also_when_nothing_happened() -> None:
    empty = judge.runtime_table([])
    assert empty is not None
    store.as_read("runtime", empty)
    some = judge.runtime_table(judge.recorded_pauses({"gc": [[1, 2, 0, 5]]}))
    assert some is not None
    store.as_read("runtime", some)
    usage = judge.usage_table(samples())
    assert usage is not None
    store.as_read("usage", usage)
    assert judge.usage_table([]) is None


def test_what_the_driver_used_before_it_ended_is_not_taken_for_somebody_elses_load() -> None:
    gone = [row for row in samples() if row.role != "driver" or row.t_ns < BEGUN + 5 * S]
    record = judged(seen(samples=gone, busy=0.5), rows())
    (check,) = [check for check in record.validity if check.check == "other-load"]
    ours = (0.3 * 5.9 + (0.2 + 0.5) * 7.9) / 8 / 2  # seconds on two cores in eight
    assert check.value == pytest.approx(0.5 - ours, abs=0.001)


def beside(first_pid: int, driver: float, target: float) -> list[watch.Sample]:
    """The samples of another run at the same time: processes of its own, the same mocks."""
    return [
        replace(row, pid=row.pid if row.role == "mock" else row.pid + first_pid)
        for row in samples(driver=driver, target=target)
    ]


def test_what_runs_made_together_share_is_held_against_them_together() -> None:
    others = [beside(10, 0.2, 0.3), beside(20, 0.2, 0.3)]
    fine = judged(seen(beside=others[:1]), rows(), turns=2)
    assert fine.void_reason is None, fine.validity
    record = judged(seen(beside=others), rows(), turns=3)
    assert record.void_reason == "driver and mocks together used 90% of a core, limit 85%"
    assert judged(seen(beside=others), rows(), turns=3, cores=assign_cores((0, 1, 2))).void_reason is None


def test_the_work_of_runs_beside_is_nobody_elses_load() -> None:
    record = judged(seen(beside=[beside(10, 0.2, 0.3)], busy=0.9), rows(), turns=2)
    (check,) = [check for check in record.validity if check.check == "other-load"]
    ours = (0.3 + 0.2 + 0.5 + 0.2 + 0.3) * 7.9 / 8 / 2
    assert check.value == pytest.approx(0.9 - ours, abs=0.001)


def test_where_all_share_one_core_our_own_work_on_it_is_nobody_elses_load() -> None:
    """The core is counted once, though target and bench both have it."""
    record = judged(seen(samples=samples(0.3, 0.2, 0.5), busy=1.0, wall_s=7.9), rows(), cores=assign_cores((5,)))
    (check,) = [check for check in record.validity if check.check == "other-load"]
    assert (check.value, check.warn) == (pytest.approx(0.0, abs=0.001), False)


def test_mocks_have_to_carry_all_that_take_turns() -> None:
    record = judged(seen(), rows(), turns=3, ceiling=Ceiling(2900, None))
    assert record.void_reason == "the mocks alone reach 2,900 req/s, 3,000 needed"


def test_a_few_samples_of_what_is_on_and_off_are_no_mean() -> None:
    (check,) = [one for one in judged(seen(), rows(), turns=2).validity if one.check == "little"]
    assert (check.ok, check.text) == (True, "not measured: load comes in turns")


@pytest.mark.parametrize(("writes", "bytes_in", "expected"), [(640, 2**18, 2560.0), (None, 2**18, None), (9, 0, None)])
def test_calls_of_write_are_told_for_each_mib(writes: int | None, bytes_in: int, expected: float | None) -> None:
    seen = Observation(samples=samples(), driver={"t0_ns": BEGUN, "bytes_in": bytes_in}, writes=writes)
    assert judged(seen, rows()).summary.get("writes_per_mib") == expected


def test_a_count_that_fell_because_a_worker_ended_is_none() -> None:
    seen = Observation(samples=samples(), driver={"t0_ns": BEGUN, "bytes_in": 2**20}, writes=-5)
    assert "writes_per_mib" not in judged(seen, rows()).summary


def of_workers(*shares: float) -> list[watch.Sample]:
    """What the workers of a target use of a core each, and their supervisor nothing."""
    each = dict(enumerate((0.0, *shares), 10))
    target = [
        watch.Sample(BEGUN + t * S // 10, pid, "target", int(share * (t + 10) * S // 10), 50 << 20, 1, 1, 10)
        for t in range(-10, 70)
        for pid, share in each.items()
    ]
    return [row for row in samples() if row.role != "target"] + target


def test_where_a_scenario_sets_the_workers_the_share_of_the_busiest_is_told() -> None:
    two = SCENARIO.model_copy(update={"settings": {"server.workers": 2}})
    summary = judged(seen(samples=of_workers(0.3, 0.1)), rows(), scenario=two).summary
    assert summary["workers"] == 2
    assert summary["busiest_worker"] == pytest.approx(0.75)
    assert "busiest_worker" not in judged(seen(samples=of_workers(0.3, 0.1)), rows()).summary


def test_workers_that_used_nothing_have_no_busiest() -> None:
    two = SCENARIO.model_copy(update={"settings": {"server.workers": 2}})
    summary = judged(seen(samples=of_workers(0.0, 0.0)), rows(), scenario=two).summary
    assert summary["workers"] == 2
    assert "busiest_worker" not in summary
