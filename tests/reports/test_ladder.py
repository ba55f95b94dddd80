"""The knee of a ladder, from the runs of its rungs."""

from __future__ import annotations

import pytest

from reports.ladder import Ladder, ladders
from reports.schema import RunRecord, run_name


def run(percent: int, p95_ms: float | None, ended: str = "ok", number: int = 1, target: str = "olla") -> RunRecord:
    scenario = f"ladder-{target}-{percent}"
    return RunRecord(
        run=run_name(number, scenario, target),
        scenario=scenario,
        target=target,
        round=number,
        offered_rps=10.0 * percent,
        outcome=ended,  # type: ignore[arg-type]  # one of its words
        void_reason="bench" if ended == "void" else None,
        summary={"e2e_p50_ms": 0.5, "e2e_p95_ms": p95_ms},
    )


def ladder(*runs: RunRecord) -> Ladder:
    (found,) = ladders(runs)
    return found


def test_the_knee_is_the_last_rung_before_latency_rises_over_five_times() -> None:
    found = ladder(run(50, 1.4), run(10, 1.0), run(70, 2.0), run(85, 12.0), run(100, 90.0))
    assert [rung.percent for rung in found.rungs] == [10, 50, 70, 85, 100]
    assert found.knee is not None
    assert found.knee.percent == 70
    assert (
        found.words() == "Olla: knee at 70 % of its capacity (700 req/s, p95 2.00 ms); at 85 % it is slow, p95 12.0 ms"
    )


def test_an_overloaded_rung_ends_it_and_one_spoilt_by_the_bench_says_nothing() -> None:
    found = ladder(
        run(10, 1.0), run(100, 1.5), run(100, 800.0, "void", number=2), run(110, 700.0, "overloaded"), run(50, 1.2)
    )
    assert found.knee is not None
    assert (found.knee.percent, found.ended) == (100, True)
    assert found.words().endswith("at 110 % it is overloaded")


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([run(10, 1.0), run(50, 1.1)], "no knee up to its highest rung, 50 % of its capacity"),
        ([run(10, None, "overloaded")], "not even its lowest rung"),
    ],
)
def test_where_there_is_no_knee_it_says_so(runs: list[RunRecord], said: str) -> None:
    assert said in ladder(*runs).words()


def test_other_scenarios_are_no_rungs() -> None:
    other = run(10, 1.0).model_copy(update={"scenario": "chat-small-250"})
    assert ladders([other, run(10, 1.0, target="sherpa")])[0].target == "sherpa"
    assert len(ladders([other])) == 0
