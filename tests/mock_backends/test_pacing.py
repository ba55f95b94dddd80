"""Batches, queues, cold starts and changes over time, on a fake clock."""

from __future__ import annotations

from typing import Any

import pytest

from mock_backends.pacing import Entry, Pace, change_at
from mock_backends.profile import Change, read_profile

S = 10**9


def pace(start: int = 0, **keys: Any) -> Pace:
    return Pace(read_profile({"name": "p", **keys}, "test"), start)


def change(**keys: Any) -> Change:
    return Change.model_validate(keys)


def test_gaps_grow_with_what_is_in_flight_beyond_the_free_ones() -> None:
    p = pace(batch={"slots": 10, "free": 4, "growth": 0.5})
    factors = []
    for who in range(6):
        assert p.enter(who) is Entry.STARTED
        factors.append(p.stretch(0))
    assert factors == [1, 1, 1, 1, 1.5, 2.0]
    p.leave(0, 0)
    assert p.stretch(0) == 1.5


def test_beyond_the_slots_a_queue_forms_first_come_first_served_and_beyond_it_nobody_gets_in() -> None:
    p = pace(batch={"slots": 2, "queue": 2})
    assert [p.enter(who) for who in "abcde"] == [
        Entry.STARTED, Entry.STARTED, Entry.QUEUED, Entry.QUEUED, Entry.FULL
    ]  # fmt: skip
    assert (p.running, p.waiting) == (2, 2)
    assert p.leave("b", 0) == "c"
    assert p.waits("d")
    assert p.leave("d", 0) is None  # gave up waiting
    assert p.leave("a", 0) is None
    assert (p.running, p.waiting) == (1, 0)


def test_everybody_waits_for_a_cold_model_and_nobody_for_a_warm_one() -> None:
    p = pace(cold_start={"load": "6s"})
    p.enter("a")
    assert p.loading(1 * S) == 6 * S
    p.enter("b")
    assert p.loading(3 * S) == 4 * S
    assert p.loading(7 * S) == 0
    p.leave("a", 8 * S)
    p.leave("b", 8 * S)
    p.enter("c")
    assert p.loading(10_000 * S) == 0


def test_an_idle_model_is_unloaded_and_must_be_loaded_again() -> None:
    p = pace(cold_start={"load": "2s", "unload_after": "60s"})
    p.enter("a")
    assert p.loading(0) == 2 * S
    p.leave("a", 3 * S)
    p.enter("b")
    assert p.loading(62 * S) == 0
    p.leave("b", 63 * S)
    p.enter("c")
    assert p.loading(124 * S) == 2 * S
    p.enter("d")
    assert p.loading(125 * S) == 1 * S


@pytest.mark.parametrize(
    ("given", "factors"),
    [
        (change(shape="step", at="10s", factor=3), {0: 1, 9: 1, 10: 3, 1000: 3}),
        (change(shape="spike", at="10s", lasts="2s", factor=5), {9: 1, 10: 5, 11: 5, 12: 1}),
        (change(shape="spike", at="10s", lasts="2s", factor=5, every="60s"), {11: 5, 12: 1, 69: 1, 70: 5, 131: 5}),
        (change(shape="ramp", at="10s", lasts="10s", factor=3), {10: 1, 15: 2, 20: 3, 99: 3}),
        (change(shape="ramp", at="10s", factor=3), {9: 1, 10: 3}),
    ],
)
def test_changes_over_time_take_the_shape_they_name(given: Change, factors: dict[int, float]) -> None:
    assert {at: change_at([given], at * S) for at in factors} == pytest.approx(factors)


def test_changes_multiply_and_count_from_the_start_of_the_behaviour() -> None:
    p = pace(100 * S, over_time=[{"shape": "step", "factor": 2}, {"shape": "step", "at": "1s", "factor": 3}])
    assert [p.stretch((100 + s) * S) for s in (0, 1)] == [2, 6]
