"""Turns come in order, never early, at most one slot and one rest late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mock_backends.wheel import REST_NS, SLOT_NS, Wheel


class Clock:
    """Runs the wheel exactly when it asks to be woken, as a perfect alarm would."""

    def __init__(self) -> None:
        self.when = 0
        self.wheel = Wheel(self.wake)

    def wake(self, when: int) -> None:
        self.when = when

    def run(self) -> None:
        while self.when:
            now, self.when = self.when, 0
            self.wheel.run(now)


@given(st.lists(st.integers(0, 10**10), max_size=50))
def test_every_turn_comes_once_not_early_and_at_most_one_slot_and_one_rest_late(dues: list[int]) -> None:
    clock, called = Clock(), []
    for due in dues:
        clock.wheel.add(due, lambda now, due=due: called.append((due, now)))
    clock.run()
    assert sorted(due for due, _ in called) == sorted(dues)
    assert all(0 < now - due <= SLOT_NS + REST_NS for due, now in called)
    assert [now for _, now in called] == sorted(now for _, now in called)
    assert len(clock.wheel) == 0


def test_a_turn_added_for_now_waits_for_the_next_run() -> None:
    clock, called = Clock(), []

    def again(now: int) -> None:
        called.append(now)
        if len(called) < 5:
            clock.wheel.add(now, again)

    clock.wheel.add(0, again)
    clock.run()
    assert len(set(called)) == 5


def test_the_alarm_is_set_anew_only_when_the_first_turn_changes() -> None:
    wakes: list[int] = []
    wheel = Wheel(wakes.append)
    for due in (10 * SLOT_NS, 20 * SLOT_NS, 20 * SLOT_NS, 5 * SLOT_NS):
        wheel.add(due, lambda now: None)
    assert wakes == [11 * SLOT_NS, 6 * SLOT_NS]
    wheel.run(6 * SLOT_NS)
    assert wakes[-1] == 11 * SLOT_NS
    wheel.add(7 * SLOT_NS, lambda now: None)
    assert wakes[-1] == 6 * SLOT_NS + REST_NS  # it rests after a run, however early a turn is due
    assert len(wheel) == 4
