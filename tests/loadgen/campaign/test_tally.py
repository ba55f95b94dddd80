"""Runs without rows: work by the mocks' counts, CPU by the kernel's, each over the time of its own clock."""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.bench.watch import Sample
from loadgen.campaign import tally
from loadgen.campaign.tally import Reading
from loadgen.workload.scenario import Scenario

S = 1_000_000_000

SCENARIO = Scenario.model_validate(
    {
        "id": "small",
        "question": "what is the question?",
        "answer": "this would be an answer",
        "kind": "stream",
        "requests": [{"path": "/", "stream": True}],
        "arrivals": {"kind": "closed", "users": 50},
        "generator": "wrk",
        "duration_s": 4,
    }
)


def mocks(t_ns: int, requests: int, events: int, body_bytes: int) -> dict[str, Any]:
    half = {"requests": requests // 2, "events": events // 2, "body_bytes": body_bytes // 2}
    return {"t_ns": t_ns, "backends": [half, half]}


def said(**changes: Any) -> dict[str, Any]:
    return {
        "requests": 45_000, "bytes": 45_000 * 1900, "seconds": 4.5, "errors": 0, "p50_ms": 3.0, "p95_ms": 4.0,
        "p99_ms": 5.0, **changes,
    }  # fmt: skip


FIRST = Reading.of(10 * S, 1 * S, mocks(10 * S, 1_000, 20_000, 1_500_000))
# The CPU is read a tenth of a second after the mocks counted: its rate is over 4.1 s, not 4.
LAST = Reading.of(14 * S + S // 10, 1 * S + 41 * S // 20, mocks(14 * S, 41_000, 820_000, 61_500_000))
DONE = tally.count(FIRST, LAST, said())


def test_work_and_cpu_are_rates_over_their_own_times() -> None:
    found, extras = tally.metrics(DONE, SCENARIO.describe(""), (0.0, 10 * 2**20), [12 * 2**20, 20 * 2**20], 1)
    assert found["throughput_rps"] == 10_000
    assert extras["utilisation"] == pytest.approx(0.5)
    assert found["cpu_us_per_request"] == pytest.approx(50)
    assert found["cpu_us_per_event"] == pytest.approx(2.5)
    assert found["rss_kib_per_stream"] == pytest.approx(10 * 1024 / 50)
    assert "capacity_rps_per_core" not in found, "half a core is no limit"


def test_idle_cpu_is_subtracted_and_a_busy_core_has_a_capacity() -> None:
    busy = Reading.of(LAST.cpu_at_ns, FIRST.cpu_ns + 4 * S, mocks(14 * S, 41_000, 820_000, 61_500_000))  # type: ignore[operator]
    found, extras = tally.metrics(tally.count(FIRST, busy, said()), SCENARIO.describe(""), (0.1 * S, 0), [], 1)
    assert extras["utilisation"] == pytest.approx(4 / 4.1)
    assert found["cpu_us_per_request"] == pytest.approx((4 / 4.1 - 0.1) * 100)
    assert found["capacity_rps_per_core"] == pytest.approx(10_000 * 4.1 / 4)


def failed(*, stream: bool = False, **changes: Any) -> list[str]:
    done = tally.count(FIRST, LAST, said(**changes))
    found = tally.checks(done, 50, 45_040, stream=stream, saturates=False, has_process=True, target_cores=1, steal=0.0)
    return [check.check for check in found if not check.ok]


def test_a_run_whose_counts_agree_is_valid() -> None:
    assert failed() == []


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"requests": 44_900, "bytes": 44_900 * 1900}, "agreement"),
        ({"requests": 45_200, "bytes": 45_200 * 1900}, "agreement"),
        ({"errors": 100}, "errors"),
        ({"bytes": 45_000 * 1000}, "reply-size"),
        ({"bytes": 45_000 * 20_000}, "reply-size"),
    ],
)
def test_what_wrk_saw_must_be_what_the_mocks_served(changes: dict[str, Any], check: str) -> None:
    assert failed(**changes) == [check]


def test_a_window_of_streams_holds_parts_of_replies_so_their_size_is_not_judged() -> None:
    assert failed(stream=True, bytes=45_000 * 20_000) == []


def test_memory_is_summed_over_the_targets_processes_at_each_moment() -> None:
    def sample(t_ns: int, pid: int, role: Any, rss: int) -> Sample:
        return Sample(t_ns, pid, role, 0, rss, 0, 0, None)

    rows = [sample(1, 7, "target", 5), sample(1, 8, "target", 6), sample(1, 9, "mock", 100), sample(2, 7, "target", 4)]
    assert tally.resident(rows) == [11, 4]
