"""The breaker's state table, and that no order of events leads outside it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.olla.breaker import CLOSED, HALF_OPEN, OPEN, CircuitBreaker


def opened(threshold: int = 5, timeout: float = 30.0, probes: int = 3, at: float = 100.0) -> CircuitBreaker:
    breaker = CircuitBreaker(threshold, timeout, probes)
    for _ in range(threshold):
        breaker.record_failure(breaker.admit(at), at)
    return breaker


def test_a_new_one_lets_everything_through() -> None:
    breaker = CircuitBreaker(5, 30.0, 3)
    assert breaker.allows(0.0)
    assert [breaker.admit(0.0), breaker.admit(1.0)] == [0, 0]
    assert (breaker.state, breaker.probes) == (CLOSED, 0)


def test_it_opens_at_the_threshold_and_not_one_failure_earlier() -> None:
    breaker = CircuitBreaker(5, 30.0, 3)
    for n in range(1, 5):
        assert breaker.record_failure(breaker.admit(0.0), 0.0) is False
        assert (breaker.state, breaker.failures) == (CLOSED, n)
    assert breaker.record_failure(breaker.admit(0.0), 0.0) is True
    assert (breaker.state, breaker.opened_count) == (OPEN, 1)


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = CircuitBreaker(2, 30.0, 3)
    breaker.record_failure(breaker.admit(0.0), 0.0)
    breaker.record_success(breaker.admit(0.0))
    breaker.record_failure(breaker.admit(0.0), 0.0)
    assert (breaker.state, breaker.failures) == (CLOSED, 1)


def test_open_admits_nothing_until_its_timeout_and_half_open_admits_three() -> None:
    breaker = opened(timeout=30.0, at=100.0)
    assert not breaker.allows(129.999)
    assert breaker.allows(130.0)
    assert breaker.state == OPEN, "asking changes nothing"
    for n in range(1, 4):
        assert breaker.allows(130.0)
        breaker.admit(130.0)
        assert (breaker.state, breaker.probes) == (HALF_OPEN, n)
    assert not breaker.allows(130.0)


def test_three_good_probes_close_it_and_two_do_not() -> None:
    breaker = opened()
    epochs = [breaker.admit(130.0) for _ in range(3)]
    assert len(set(epochs)) == 1
    breaker.record_success(epochs[0])
    assert (breaker.probes, breaker.successes) == (2, 1)
    breaker.record_success(epochs[1])
    assert (breaker.state, breaker.probes, breaker.successes) == (HALF_OPEN, 1, 2)
    assert not breaker.allows(130.0), "three in all, not three at a time"
    breaker.record_success(epochs[2])
    assert (breaker.state, breaker.failures, breaker.probes, breaker.successes) == (CLOSED, 0, 0, 0)


def test_one_bad_probe_opens_it_again_for_a_whole_timeout() -> None:
    breaker = opened()
    first, second = breaker.admit(130.0), breaker.admit(130.0)
    breaker.record_success(first)
    assert breaker.record_failure(second, 131.0) is True
    assert (breaker.state, breaker.opened_at, breaker.opened_count) == (OPEN, 131.0, 2)
    assert not breaker.allows(160.9)
    assert breaker.allows(161.0)


def test_a_probe_that_says_nothing_gives_its_place_back() -> None:
    breaker = opened(probes=1)
    epoch = breaker.admit(130.0)
    assert not breaker.allows(130.0)
    breaker.release(epoch)
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 0)
    assert breaker.allows(130.0)


def test_release_while_closed_changes_nothing() -> None:
    breaker = CircuitBreaker(5, 30.0, 3)
    breaker.release(breaker.admit(0.0))
    assert (breaker.state, breaker.probes) == (CLOSED, 0)


def test_stragglers_of_an_older_epoch_neither_close_nor_extend() -> None:
    breaker = CircuitBreaker(2, 30.0, 1)
    late = breaker.admit(0.0)
    for _ in range(2):
        breaker.record_failure(breaker.admit(0.0), 0.0)
    breaker.record_success(late)
    assert breaker.state == OPEN, "the seed's code closes here"
    assert breaker.record_failure(late, 20.0) is False
    assert breaker.opened_at == 0.0
    probe = breaker.admit(30.0)
    breaker.release(late)
    breaker.record_success(late)
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 1)
    breaker.record_success(probe)
    assert breaker.state == CLOSED
    assert breaker.record_failure(probe, 40.0) is False
    assert breaker.failures == 0


def test_new_settings_leave_the_state_alone() -> None:
    breaker = opened(timeout=30.0, at=100.0)
    breaker.configure(failure_threshold=1, timeout=5.0, half_open_requests=1)
    assert breaker.state == OPEN
    assert breaker.allows(105.0)
    breaker.record_success(breaker.admit(105.0))
    assert breaker.state == CLOSED
    assert breaker.record_failure(breaker.admit(106.0), 106.0) is True


def test_half_open_with_all_the_good_probes_that_are_asked_for_now_closes() -> None:
    breaker = opened()
    first, second = breaker.admit(130.0), breaker.admit(130.0)
    breaker.record_success(first)
    breaker.release(second)
    breaker.configure(failure_threshold=5, timeout=30.0, half_open_requests=2)
    assert breaker.state == HALF_OPEN
    breaker.configure(failure_threshold=5, timeout=30.0, half_open_requests=1)
    assert breaker.state == CLOSED, "it would admit nobody, and nobody could close it"
    assert breaker.allows(130.0)


@pytest.mark.parametrize(("breaker", "words"), [(CircuitBreaker(5, 30.0, 3), "closed"), (opened(), "open")])
def test_its_repr_says_the_state_in_words(breaker: CircuitBreaker, words: str) -> None:
    assert words in repr(breaker)


def together(breaker: CircuitBreaker, at: list[float], admitted: float = 0.0) -> int:
    """How many of failures at these times count, of exchanges that were all admitted before the first of them."""
    epochs = [breaker.admit(admitted) for _ in at]
    for epoch, now in zip(epochs, at, strict=True):
        breaker.record_failure(epoch, now)
    return breaker.failures


@pytest.mark.parametrize(
    ("at", "counted"),
    [
        ([1.0] * 10, 1),
        ([1.0, 1.1, 1.2], 1),
        ([1.0, 1.5], 1),
        ([1.0, 1.51], 2),
        ([1.0, 1.4, 1.6], 2),
        ([1.0, 3.0, 5.0], 3),
    ],
)
def test_d2_failures_that_end_together_count_once(at: list[float], counted: int) -> None:
    assert together(CircuitBreaker(20, 30.0, 3), at) == counted


def test_d2_a_failure_of_what_began_after_the_last_one_counts_however_soon() -> None:
    breaker = CircuitBreaker(20, 30.0, 3)
    for n in range(1, 5):
        breaker.record_failure(breaker.admit(1.0), 1.0)
        assert breaker.failures == n


def test_a_success_that_was_admitted_before_the_last_failure_resets_the_count_too() -> None:
    breaker = CircuitBreaker(20, 30.0, 3)
    long_stream = breaker.admit(0.0)
    breaker.record_failure(breaker.admit(1.0), 1.0)
    breaker.record_success(long_stream)
    assert breaker.failures == 0


def test_d2_a_good_check_lets_a_probe_in_at_once() -> None:
    breaker = opened(at=100.0)
    assert not breaker.allows(101.0)
    breaker.endpoint_alive(101.0)
    assert breaker.allows(101.0)
    assert (breaker.state, breaker.opened_at) == (OPEN, 71.0)
    breaker.admit(101.0)
    assert breaker.state == HALF_OPEN
    breaker.endpoint_alive(102.0)
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 1)


def test_d2_not_again_after_a_probe_failed_until_it_was_closed() -> None:
    """A check says that the server lives, not that it can serve: checks at once would hold the breaker closed."""
    breaker = opened(at=100.0)
    breaker.endpoint_alive(101.0)
    breaker.record_failure(breaker.admit(101.0), 101.0)
    breaker.endpoint_alive(102.0)
    assert not breaker.allows(130.9)
    assert breaker.allows(131.0)
    for _ in range(3):
        breaker.record_success(breaker.admit(131.0))
    assert breaker.state == CLOSED
    for _ in range(5):
        breaker.record_failure(breaker.admit(140.0), 140.0)
    breaker.endpoint_alive(141.0)
    assert breaker.allows(141.0)


def test_a_check_long_after_it_opened_does_not_put_probes_off() -> None:
    breaker = opened(at=100.0)
    breaker.endpoint_alive(500.0)
    assert (breaker.opened_at, breaker.allows(500.0)) == (100.0, True)
    closed = CircuitBreaker(5, 30.0, 3)
    closed.endpoint_alive(1.0)
    assert (closed.state, closed.opened_at) == (CLOSED, 0.0)


class BreakerMachine(RuleBasedStateMachine):
    """Any order of admissions and ends, with stragglers: what must hold at every step."""

    THRESHOLD, TIMEOUT = 3, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.probes = self.most_probes = 2
        self.breaker = CircuitBreaker(self.THRESHOLD, self.TIMEOUT, self.probes)
        self.now = 0.0
        self.flying: list[int] = []
        self.state, self.since = CLOSED, 0  # as of the last step, and the epoch in which that began

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.5, 10.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(probes=st.integers(1, 3))
    def reload(self, probes: int) -> None:
        self.probes = probes
        self.most_probes = max(self.most_probes, probes)
        self.breaker.configure(self.THRESHOLD, self.TIMEOUT, probes)

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def admit(self) -> None:
        self.flying.append(self.breaker.admit(self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), end=st.sampled_from(["success", "failure", "release"]))
    def end(self, data: st.DataObject, end: str) -> None:
        epoch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        before = (self.breaker.state, self.breaker.epoch, self.breaker.opened_at)
        if end == "success":
            self.breaker.record_success(epoch)
        elif end == "failure":
            self.breaker.record_failure(epoch, self.now)
        else:
            self.breaker.release(epoch)
        if epoch < self.since:
            assert (self.breaker.state, self.breaker.epoch, self.breaker.opened_at) == before
        if end == "release":
            assert self.breaker.state == before[0]

    @rule()
    def check(self) -> None:
        self.breaker.endpoint_alive(self.now)

    @invariant()
    def note_a_change_of_state(self) -> None:
        if self.breaker.state != self.state:
            self.state, self.since = self.breaker.state, self.breaker.epoch

    @invariant()
    def counts_are_within_the_table(self) -> None:
        b = self.breaker
        assert 0 <= b.probes + b.successes <= self.most_probes
        assert b.successes < self.probes
        assert 0 <= b.failures < self.THRESHOLD
        assert b.state == HALF_OPEN or (b.probes, b.successes) == (0, 0)
        assert b.state == CLOSED or b.failures == 0
        since = self.since if b.state == self.state else b.epoch
        assert b.probes == (sum(e >= since for e in self.flying) if b.state == HALF_OPEN else 0)

    @invariant()
    def it_is_never_shut_for_ever(self) -> None:
        b = self.breaker
        assert b.state != OPEN or b.allows(b.opened_at + self.TIMEOUT)
        assert b.state != HALF_OPEN or b.probes or b.allows(self.now)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
