"""When faults strike: by probability, count, window and schedule, on a fake clock."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mock_backends.faults import Fault, FaultPlan, load_faults, read_faults
from mock_backends.strict import Refused

S = 10**9


def plan(*rows: dict[str, Any], endpoint: str = "mock-0", seed: int = 0) -> FaultPlan:
    return FaultPlan(read_faults(list(rows), "test"), endpoint, seed, start=0)


def strikes(of: FaultPlan, n: int, at: int = 0, **how: Any) -> list[bool]:
    how = {"health": False, "stream": False, **how}
    return [of.for_request(at, **how) is not None for _ in range(n)]


def test_skip_and_count_choose_by_number() -> None:
    assert strikes(plan({"fault": "error", "skip": 2, "count": 3}), 8) == [False] * 2 + [True] * 3 + [False] * 3


def test_probability_is_kept_and_repeats_with_the_seed() -> None:
    row = {"fault": "error", "probability": 0.2}
    struck = strikes(plan(row), 5000)
    assert 0.18 < sum(struck) / 5000 < 0.22
    assert strikes(plan(row), 5000) == struck
    assert strikes(plan(row, seed=1), 5000) != struck
    assert strikes(plan(row, endpoint="mock-1"), 5000) != struck


def test_a_window_repeats_with_its_period() -> None:
    p = plan({"fault": "error", "at": "10s", "lasts": "2s", "every": "5s"})
    assert [at for at in range(22) if strikes(p, 1, at * S)[0]] == [10, 11, 15, 16, 20, 21]


def test_a_schedule_lists_its_windows() -> None:
    p = plan({"fault": "error", "schedule": [{"at": "1s", "lasts": "1s"}, {"at": "5s"}]})
    assert [at for at in range(8) if strikes(p, 1, at * S)[0]] == [1, 5, 6, 7]


@pytest.mark.parametrize(("scope", "traffic", "health"), [("traffic", 1, 0), ("health", 0, 1), ("all", 1, 1)])
def test_scope_tells_health_from_traffic(scope: str, traffic: int, health: int) -> None:
    assert strikes(plan({"fault": "error", "scope": scope}), 1, health=False) == [bool(traffic)]
    assert strikes(plan({"fault": "error", "scope": scope}), 1, health=True) == [bool(health)]


def test_faults_of_streams_leave_other_replies_alone_and_are_not_used_up_by_them() -> None:
    p = plan({"fault": "malformed-chunk", "count": 1})
    assert strikes(p, 3) == [False] * 3
    assert strikes(p, 2, stream=True) == [True, False]


def test_the_first_fault_that_wants_a_request_gets_it() -> None:
    p = plan({"fault": "error", "count": 1}, {"fault": "garbage"})
    assert [p.for_request(0, health=False, stream=False).fault for _ in range(2)] == ["error", "garbage"]  # type: ignore[union-attr]  # both strike


def test_a_fault_for_another_endpoint_is_none_of_ours() -> None:
    assert not plan({"fault": "error", "endpoint": "mock-1"})
    assert plan({"fault": "error", "endpoint": "mock-1"}, endpoint="mock-1")


def test_a_port_is_closed_only_for_faults_that_are_sure() -> None:
    sure = plan({"fault": "refuse", "at": "1s", "lasts": "2s"})
    assert [sure.port_closed(at * S) for at in range(4)] == [False, True, True, False]
    assert sure.for_connection(1 * S) is None
    counted = plan({"fault": "refuse", "count": 2})
    assert not counted.port_closed(0)
    assert [counted.for_connection(0) is not None for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("row", "edges"),
    [
        ({"fault": "refuse"}, []),
        ({"fault": "refuse", "at": "3s"}, [3]),
        ({"fault": "refuse", "at": "3s", "lasts": "2s"}, [3, 5]),
        ({"fault": "refuse", "at": "3s", "lasts": "2s", "every": "10s"}, [3, 5, 13, 15, 23]),
        ({"fault": "refuse", "schedule": [{"at": "1s", "lasts": "1s"}, {"at": "4s"}]}, [1, 2, 4]),
    ],
)
def test_a_port_knows_when_it_opens_or_closes_next(row: dict[str, Any], edges: list[int]) -> None:
    p, now, seen = plan(row), 0, []
    while (edge := p.next_port_edge(now)) is not None and len(seen) < 5:
        assert p.port_closed(edge) != p.port_closed(edge - 1)
        seen.append(edge // S)
        now = edge
    assert seen == edges


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([{"fault": "hang"}], "f: 0.fault: "),
        ([{"fault": "error", "probabilty": 1}], "f: 0: unknown key 'probabilty'; did you mean 'probability'?"),
        ([{"fault": "error", "probability": 0}], "f: 0.probability: "),
        ([{"fault": "error", "status": 200}], "f: 0.status: "),
        ([{"fault": "error", "every": "5s"}], "with every, lasts must be given"),
        ([{"fault": "error", "at": "1s", "schedule": [{"at": "1s"}]}], "either schedule or"),
        ([{"fault": "refuse", "scope": "health"}], "have no scope"),
        ([{"fault": "error", "endpoint": "mock-9"}], "f: 0.endpoint: no 'mock-9'"),
        ({"fault": "error"}, "f: expected a list"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_in_a_sentence(rows: Any, why: str) -> None:
    with pytest.raises(Refused) as caught:
        read_faults(rows, "f", ["mock-0"])
    assert why in str(caught.value)


def test_a_faults_file_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="No such file"):
        load_faults(str(tmp_path / "none.yaml"), [])
    (tmp_path / "bad.yaml").write_text("- {fault: [")
    with pytest.raises(Refused, match="not YAML"):
        load_faults(str(tmp_path / "bad.yaml"), [])
    (tmp_path / "late.yaml").write_text("- {fault: error, schedule: nowhere.yaml}")
    with pytest.raises(Refused, match=r"nowhere\.yaml: No such file"):
        load_faults(str(tmp_path / "late.yaml"), [])


def test_faults_are_values() -> None:
    assert Fault(fault="error") == Fault(fault="error")
