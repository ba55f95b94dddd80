"""When gathered bytes go out, and that none is lost, doubled or reordered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.olla.flush import Gatherer


def test_a_small_read_goes_out_at_once() -> None:
    gatherer = Gatherer(small=1024, limit=65536)
    assert gatherer.add(b"x" * 1023) == b"x" * 1023
    assert len(gatherer) == 0


def test_a_read_of_exactly_small_is_gathered() -> None:
    gatherer = Gatherer(small=1024, limit=65536)
    assert gatherer.add(b"x" * 1024) is None
    assert len(gatherer) == 1024


def test_a_full_buffer_goes_out_at_once() -> None:
    gatherer = Gatherer(small=10, limit=100)
    assert gatherer.add(b"x" * 100) == b"x" * 100
    assert gatherer.add(b"a" * 60) is None
    assert gatherer.add(b"b" * 39) is None
    assert gatherer.add(b"c" * 10) == b"a" * 60 + b"b" * 39 + b"c" * 10
    assert len(gatherer) == 0


def test_one_byte_below_the_limit_still_waits() -> None:
    gatherer = Gatherer(small=10, limit=100)
    assert gatherer.add(b"x" * 99) is None
    assert gatherer.take() == b"x" * 99


def test_a_small_read_takes_what_was_gathered_with_it() -> None:
    gatherer = Gatherer(small=10, limit=1000)
    gatherer.add(b"large" * 20)
    assert gatherer.add(b"tail") == b"large" * 20 + b"tail"


def test_take_returns_what_waits_and_then_nothing() -> None:
    gatherer = Gatherer(small=1, limit=1000)
    assert gatherer.take() == b""
    gatherer.add(b"one")
    gatherer.add(b"two")
    assert gatherer.take() == b"onetwo"
    assert gatherer.take() == b""
    assert len(gatherer) == 0


@given(
    st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.none())),
    st.integers(0, 50),
    st.integers(50, 200),
)
def test_whatever_comes_goes_out_whole_and_in_order(reads: list[bytes | None], small: int, limit: int) -> None:
    gatherer = Gatherer(small, limit)
    out = []
    for read in reads:
        if read is None:
            out.append(gatherer.take())  # the loop's pass ends
            continue
        due = gatherer.add(read)
        if due is not None:
            out.append(due)
            assert len(gatherer) == 0
        assert len(gatherer) < limit
        assert due is not None or len(read) >= small
    out.append(gatherer.take())
    assert b"".join(out) == b"".join(read for read in reads if read is not None)
