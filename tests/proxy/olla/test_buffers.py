"""Object pools: what is lent, kept and counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.olla.buffers import ObjectPool


def test_what_was_given_back_last_is_lent_first() -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=8)
    first, second = pool.get(), pool.get()
    pool.put(first)
    pool.put(second)
    assert pool.get() is second
    assert pool.get() is first
    assert (pool.created, pool.active) == (2, 2)


def test_it_keeps_no_more_than_it_may() -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=1)
    items = [pool.get(), pool.get()]
    for item in items:
        pool.put(item)
    assert len(pool) == 1
    assert pool.active == 0


def test_switched_off_it_makes_every_object_anew() -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=8, enabled=False)
    item = pool.get()
    pool.put(item)
    assert pool.get() is not item
    assert (pool.created, len(pool)) == (2, 0)
    pool.prewarm(3)
    assert len(pool) == 0


def test_after_a_peak_it_lets_go_of_what_it_does_not_need() -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=10)
    for item in [pool.get() for _ in range(8)]:
        pool.put(item)
    pool.shrink(3)
    assert len(pool) == 3
    pool.shrink(5)
    assert len(pool) == 3


def test_prewarming_makes_objects_before_they_are_needed() -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=1)
    pool.prewarm(5)
    assert (len(pool), pool.created, pool.active) == (5, 5, 0)
    pool.get()
    assert pool.created == 5
    pool.prewarm(2)
    assert (len(pool), pool.created) == (4, 5)


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 4))
def test_nothing_is_lent_twice_at_once(steps: list[bool], keep: int) -> None:
    pool: ObjectPool[list[int]] = ObjectPool(list, keep=keep)
    lent: list[list[int]] = []
    for get in steps:
        if get:
            item = pool.get()
            assert all(item is not other for other in lent)
            lent.append(item)
        elif lent:
            pool.put(lent.pop())
        assert pool.active == len(lent)
        assert len(pool) <= keep
