"""The timer: in order, never early, cancellable, and it lets the loop breathe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from time import monotonic_ns

import gevent
import pytest
from gevent.event import Event

from loadgen.driver.timer import Timer

MS = 1_000_000


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.close()


def test_callbacks_come_in_the_order_of_their_moments_and_never_early(timer: Timer) -> None:
    now = monotonic_ns()
    called: list[tuple[int, int]] = []
    end = Event()
    for after_ms in (7, 1, 5, 3):
        due = now + after_ms * MS
        timer.at(due, lambda due=due: called.append((due, monotonic_ns())))  # type: ignore[misc]  # bound by default
    timer.at(now + 8 * MS, end.set)
    assert end.wait(5)
    assert [due - now for due, _ in called] == [1 * MS, 3 * MS, 5 * MS, 7 * MS]
    assert all(when >= due for due, when in called)


def test_a_moment_that_is_past_is_called_at_the_next_turn(timer: Timer) -> None:
    end = Event()
    timer.at(0, end.set)
    assert not end.is_set()
    assert end.wait(5)


def test_a_cancelled_callback_is_not_called_and_holds_up_nothing(timer: Timer) -> None:
    called: list[str] = []
    end = Event()
    now = monotonic_ns()
    timer.cancel(timer.at(now + MS, lambda: called.append("cancelled")))
    timer.at(now + 2 * MS, end.set)
    assert end.wait(5)
    assert called == []


def test_sleeping_greenlets_wake_at_their_own_moments_while_others_run(timer: Timer) -> None:
    woken: list[int] = []

    def sleeper(after_ms: int) -> None:
        due = monotonic_ns() + after_ms * MS
        timer.sleep_until(due)
        assert monotonic_ns() >= due
        woken.append(after_ms)

    gevent.joinall([gevent.spawn(sleeper, n) for n in (30, 10, 20)], timeout=5, raise_error=True)
    assert woken == [10, 20, 30]


def test_a_killed_sleeper_is_not_woken_later_in_something_else(timer: Timer) -> None:
    reached: list[str] = []

    def sleeper() -> None:
        try:
            timer.sleep_until(monotonic_ns() + 5 * MS)
        except gevent.GreenletExit:
            gevent.sleep(0.05)  # a stray switch would cut this short
            reached.append("end")

    begun = monotonic_ns()
    greenlet = gevent.spawn(sleeper)
    gevent.sleep(0)
    greenlet.kill()
    assert reached == ["end"]
    assert monotonic_ns() - begun >= 50 * MS


def test_a_callback_that_calls_itself_again_at_once_leaves_room_for_the_loop(timer: Timer) -> None:
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        timer.at(0, again)

    timer.at(0, again)
    gevent.sleep(0.01)  # would never come back if the callbacks kept the loop
    assert calls > 1


def test_what_is_due_comes_before_sockets_that_are_ready_in_the_same_turn(timer: Timer) -> None:
    order: list[str] = []
    end = Event()
    pipes = [os.pipe() for _ in range(5)]
    watchers = []

    def read(fd: int) -> None:
        os.read(fd, 1)
        order.append("socket")

    for reader, writer in pipes:
        os.write(writer, b"x")
        watcher = gevent.get_hub().loop.io(reader, 1)
        watcher.start(read, reader)
        watchers.append(watcher)
    timer.at(0, lambda: order.append("due"))
    timer.at(monotonic_ns() + 20 * MS, end.set)
    assert end.wait(5)
    assert order == ["due"] + ["socket"] * 5
    for watcher, pipe in zip(watchers, pipes, strict=True):
        watcher.stop()
        watcher.close()
        os.close(pipe[0])
        os.close(pipe[1])


def test_an_error_in_a_callback_does_not_stop_the_others(timer: Timer, capsys: pytest.CaptureFixture[str]) -> None:
    end = Event()
    now = monotonic_ns()
    timer.at(now + MS, lambda: 1 // 0)
    timer.at(now + MS, end.set)
    assert end.wait(5)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_without_timerfd_moments_are_still_met_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "other")
    timer = Timer()
    assert not timer.exact
    called: list[int] = []
    end = Event()
    now = monotonic_ns()
    for after_ms in (4, 2):
        timer.at(now + after_ms * MS, lambda n=after_ms: called.append(n))  # type: ignore[misc]  # bound by default
    timer.at(now + 6 * MS, end.set)
    assert end.wait(5)
    assert called == [2, 4]
    timer.close()


def test_who_sleeps_when_the_timer_is_closed_is_woken_and_nothing_else_is_called() -> None:
    timer = Timer()
    called: list[str] = []
    timer.at(monotonic_ns() + 3_600_000 * MS, lambda: called.append("called"))
    asleep = gevent.spawn(timer.sleep_until, monotonic_ns() + 3_600_000 * MS)
    gevent.sleep(0)
    timer.close()
    asleep.join(10)
    assert asleep.dead
    assert called == []
