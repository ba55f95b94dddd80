"""Thresholds and schedule of one endpoint's checks."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.health import HURRY_GAP, HealthState, alive


def test_a_server_that_refuses_or_throttles_is_alive_and_one_that_fails_is_not():
    assert all(alive(status) for status in (200, 204, 302, 401, 403, 429))
    assert not any(alive(status) for status in (100, 400, 404, 500, 502, 503))


def test_n_failures_in_a_row_make_it_unhealthy_and_m_successes_healthy_again():
    state = HealthState(interval=5, unhealthy_after=3, healthy_after=2, now=0)
    assert [state.record(ok) for ok in (False, False, True, False, False, False)] == [False] * 5 + [True]
    assert not state.healthy
    assert [state.record(ok) for ok in (True, False, True, True)] == [False, False, False, True]
    assert state.healthy


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_health_changes_exactly_when_the_last_results_say_so(unhealthy_after, healthy_after, results):
    state = HealthState(5, unhealthy_after, healthy_after, now=0)
    expected = True
    for i, ok in enumerate(results):
        changed = state.record(ok)
        tail = results[: i + 1][-unhealthy_after if expected else -healthy_after :]
        enough = len(tail) == (unhealthy_after if expected else healthy_after)
        flips = enough and (not any(tail) if expected else all(tail))
        assert changed == flips
        expected = expected != flips
        assert state.healthy == expected


def test_the_first_check_is_due_at_once_and_the_next_an_interval_after_the_last_one_started():
    state = HealthState(interval=5, unhealthy_after=3, healthy_after=1, now=100)
    assert state.due(100)
    state.started(100)
    state.ended()
    assert not state.due(104.999)
    assert state.due(105)


def test_endpoints_that_came_together_are_checked_apart_from_the_second_time_on():
    states = [HealthState(10, 3, 1, now=0, phase=phase) for phase in (0.25, 0.5, 0.75, 1.0)]
    for state in states:
        state.started(0)
    assert [state.due_at for state in states] == [2.5, 5.0, 7.5, 10.0]
    for state in states:
        state.started(state.due_at)
    assert [state.due_at for state in states] == [12.5, 15.0, 17.5, 20.0]


def test_a_passive_failure_makes_the_next_check_due_at_once_but_not_more_often_than_the_gap():
    state = HealthState(interval=5, unhealthy_after=3, healthy_after=1, now=100)
    state.started(100)
    assert state.hurry(102)
    assert state.due_at == 102
    assert not state.hurry(102)  # already as soon as it gets
    state.started(102)
    assert state.hurry(102.01)
    assert state.due_at == 102 + HURRY_GAP


def test_an_interval_shorter_than_the_gap_is_not_made_longer_by_a_failure():
    state = HealthState(interval=0.05, unhealthy_after=3, healthy_after=1, now=0)
    state.started(0)
    assert not state.hurry(0.01)
    assert state.due_at == 0.05


def test_no_check_is_due_while_one_is_in_flight():
    state = HealthState(interval=1, unhealthy_after=3, healthy_after=1, now=0)
    state.started(0)
    assert not state.due(50)
    state.ended()
    assert state.due(50)


def test_a_failure_during_a_check_makes_another_one_due_when_that_ends():
    state = HealthState(interval=3600, unhealthy_after=3, healthy_after=1, now=0)
    state.started(0)
    assert state.hurry(0.5)
    assert not state.due(1)
    state.ended()
    assert state.due(1)


def test_new_settings_are_tried_at_once_and_what_is_known_stays():
    state = HealthState(interval=3600, unhealthy_after=2, healthy_after=1, now=0)
    state.started(0)
    state.record(False)
    state.record(False)
    state.ended()
    state.configure(interval=5, unhealthy_after=2, healthy_after=2, now=100)
    assert (state.healthy, state.failures, state.due(100)) == (False, 2, True)
    state.started(100)
    state.ended()
    assert state.next_due() == 105
    assert [state.record(True), state.record(True)] == [False, True]
