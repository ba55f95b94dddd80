"""When a peer that something waits for is given up: by bytes and seconds alone."""

from __future__ import annotations

import itertools

from proxy.net.write_stall import CHECKS, STEP, WriteStall

LIMIT = 5.0


def test_who_takes_nothing_is_stalled_when_the_limit_is_over_and_not_before() -> None:
    peer = WriteStall(100_000, 10.0)
    assert not peer.stalled(100_000, 14.999, LIMIT)
    assert peer.stalled(100_000, 15.0, LIMIT)


def test_a_step_renews_the_limit_and_less_than_a_step_does_not() -> None:
    peer = WriteStall(100_000, 0.0)
    assert not peer.stalled(100_000 - STEP + 1, 4.0, LIMIT)
    assert peer.stalled(100_000 - STEP + 1, 5.0, LIMIT)
    peer = WriteStall(100_000, 0.0)
    assert not peer.stalled(100_000 - STEP, 4.0, LIMIT)
    assert not peer.stalled(100_000 - STEP, 8.9, LIMIT)
    assert peer.stalled(100_000 - STEP, 9.0, LIMIT)


def test_small_steps_add_up() -> None:
    peer = WriteStall(100_000, 0.0)
    assert not any(peer.stalled(100_000 - STEP * i // 4, float(i), LIMIT) for i in range(20))


def test_what_is_written_meanwhile_is_not_held_against_the_peer() -> None:
    peer = WriteStall(10_000, 0.0)
    assert not peer.stalled(50_000, 1.0, LIMIT)
    assert not peer.stalled(50_000 - STEP, 2.0, LIMIT), "a step from where it stood"
    assert not peer.stalled(50_000 - STEP, 6.9, LIMIT)


def test_somebody_looks_so_often_that_a_stall_is_noticed_a_tenth_of_the_limit_late_at_most() -> None:
    """Whenever the peer takes its last step, and however the looks fall."""
    for stops in (0.0, 0.01, 0.49, 0.5, 0.51, 2.3, 4.99):
        peer, now, waiting = WriteStall(10 * STEP, 0.0), 0.0, 10 * STEP
        for _ in itertools.count():
            now = peer.next_check(now, LIMIT)
            waiting = 9 * STEP if now >= stops else waiting
            if peer.stalled(waiting, now, LIMIT):
                break
        assert stops + LIMIT <= now <= stops + LIMIT * (1 + 1 / CHECKS) + 1e-9
