"""Connections are kept while the endpoint keeps them, by what it was seen to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.keep_alive import CLOSINGS, SOON, WATCH_EVERY, Freed, KeepAlive

START = 1000.0
AT_ONCE = SOON / 10
FRAMINGS = pytest.mark.parametrize("chunked", [True, False])


def close_in_turn(endpoint: KeepAlive, chunked: bool, times: int, now: float = START) -> float:
    """The endpoint closes `times` connections, one after the other, at once; returns when it has."""
    for _ in range(times):
        endpoint.closed(chunked, now, now + AT_ONCE)
        now += 2 * AT_ONCE
    return now


@FRAMINGS
def test_connections_are_kept_until_some_in_a_row_were_closed_soon(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS - 1)
    assert endpoint.freed(chunked, now, watchable=True) is Freed.KEEP
    assert endpoint.closed(chunked, now, now + AT_ONCE), "that is news"
    assert not endpoint.closed(chunked, now + SOON, now + SOON + AT_ONCE), "that is not"
    assert endpoint.freed(chunked, now + SOON, watchable=True) is not Freed.KEEP


@FRAMINGS
def test_what_follows_one_framing_says_nothing_of_the_other(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS)
    endpoint.kept(not chunked)
    assert endpoint.suspect
    assert endpoint.freed(not chunked, now, watchable=True) is Freed.KEEP
    assert endpoint.freed(chunked, now, watchable=True) is not Freed.KEEP


@FRAMINGS
def test_a_connection_that_served_again_ends_the_row(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS - 1)
    endpoint.kept(chunked)
    assert not endpoint.suspect
    now = close_in_turn(endpoint, chunked, CLOSINGS - 1, now)
    assert endpoint.freed(chunked, now, watchable=True) is Freed.KEEP


@FRAMINGS
def test_closing_what_was_idle_for_long_is_no_fault_and_ends_the_row(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS - 1)
    for _ in range(2 * CLOSINGS):
        endpoint.closed(chunked, now, now + 2 * SOON)
        now += 3 * SOON
    assert not endpoint.suspect
    assert endpoint.freed(chunked, now, watchable=True) is Freed.KEEP


@FRAMINGS
def test_a_restart_that_closes_many_at_one_time_counts_once(chunked):
    endpoint = KeepAlive()
    for i in range(50):
        endpoint.closed(chunked, START + i / 1000, START + AT_ONCE + i / 1000)
    assert endpoint.freed(chunked, START + AT_ONCE, watchable=True) is Freed.KEEP


@FRAMINGS
def test_one_connection_at_first_and_then_now_and_then_is_watched(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS)
    assert endpoint.freed(chunked, now, watchable=True) is Freed.WATCH
    assert endpoint.freed(chunked, now, watchable=True) is Freed.CLOSE
    later = now + WATCH_EVERY
    assert endpoint.freed(chunked, later, watchable=True) is Freed.WATCH
    assert endpoint.freed(chunked, later, watchable=True) is Freed.CLOSE, "one is enough"
    endpoint.closed(chunked, later, later + AT_ONCE)
    assert endpoint.freed(chunked, later + SOON, watchable=True) is Freed.CLOSE
    assert endpoint.freed(chunked, later + WATCH_EVERY, watchable=True) is Freed.WATCH
    endpoint.kept(chunked)
    assert endpoint.freed(chunked, later + WATCH_EVERY, watchable=True) is Freed.KEEP
    assert not endpoint.suspect


@FRAMINGS
def test_a_connection_that_cannot_be_watched_leaves_the_turn_to_the_next(chunked):
    endpoint = KeepAlive()
    now = close_in_turn(endpoint, chunked, CLOSINGS)
    assert endpoint.freed(chunked, now, watchable=False) is Freed.CLOSE
    assert endpoint.freed(chunked, now, watchable=True) is Freed.WATCH


EVENTS = st.tuples(
    st.sampled_from(["closed", "kept", "freed"]),
    st.booleans(),
    st.floats(0, 4 * SOON),  # how long the connection was idle
    st.floats(0.001, WATCH_EVERY),  # until the next event
)


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_it_is_suspect_while_a_closing_counts_and_never_closes_without_enough(events):
    endpoint, now = KeepAlive(), START
    row = {False: 0, True: 0}  # closings since the last sign of keeping, however they are counted
    watched = {False: -WATCH_EVERY, True: -WATCH_EVERY}
    for what, chunked, idle, pause in events:
        now += pause
        if what == "kept":
            endpoint.kept(chunked)
            row[chunked] = 0
        elif what == "closed":
            endpoint.closed(chunked, now - idle, now)
            row[chunked] = 0 if idle > SOON + 1e-6 else row[chunked] + 1
        else:
            decision = endpoint.freed(chunked, now, watchable=True)
            if row[chunked] < CLOSINGS:
                assert decision is Freed.KEEP
            if decision is not Freed.KEEP:
                assert endpoint.suspect
            if decision is Freed.WATCH:
                assert now - watched[chunked] >= WATCH_EVERY - 1e-6
                watched[chunked] = now
        if not any(row.values()):
            assert not endpoint.suspect


@given(st.floats(0, SOON * 0.99), st.floats(0.001, 60), st.booleans())
def test_an_endpoint_that_closes_each_time_is_lent_to_no_more_than_a_few_times(delay, pause, chunked):
    """One request after the other: it can cross a close only on a connection that was kept."""
    endpoint, now, kept = KeepAlive(), START, 0
    for _ in range(100):
        kept += endpoint.freed(chunked, now, watchable=True) is Freed.KEEP
        endpoint.closed(chunked, now, now + delay)
        now += delay + pause
    assert kept == CLOSINGS
