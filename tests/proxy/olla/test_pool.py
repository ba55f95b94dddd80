"""Connections to an endpoint: reuse, limits, waiters, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.core.endpoint import EndpointSpec
from proxy.core.keep_alive import CLOSINGS, SOON, WATCH_EVERY
from proxy.http1.heads import CHUNKED
from proxy.net.dial import Dialer
from proxy.olla.pool import Budget, EndpointPool
from proxy.olla.upstream import PlainUpstreamConnection
from tests.proxy.olla.fakes import FakeLoop


class FakeExchange:
    """A wish for a connection and its owner in one."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.fresh = False
        self.owner = self
        self.connection: PlainUpstreamConnection | None = None
        self.opening = False
        self.failed = ""

    def connecting(self) -> None:
        self.opening = True

    def connected(self, connection: PlainUpstreamConnection) -> None:
        self.connection = connection
        connection.exchange = self  # type: ignore[assignment]

    def connect_failed(self, detail: str) -> None:
        self.failed = detail

    def upstream_lost(self, clean: bool) -> None:
        self.connection = None


class Wish:
    """One wish of an owner that has several, one after the other."""

    fresh = False

    def __init__(self, owner: FakeExchange) -> None:
        self.owner = owner


def make_pool(loop: FakeLoop, budget: Budget, name: str = "a") -> EndpointPool:
    spec = EndpointSpec(name=name, scheme="http", host="127.0.0.1", port=1)
    return EndpointPool(spec, budget, loop, PlainUpstreamConnection, loop)  # type: ignore[arg-type]


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


def connect(pool: EndpointPool, loop: FakeLoop) -> FakeExchange:
    exchange = FakeExchange()
    pool.request(exchange)
    loop.run()
    assert exchange.connection is not None
    return exchange


def test_the_connection_used_last_goes_out_first(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    first, second = connect(pool, loop).connection, connect(pool, loop).connection
    assert first and second
    pool.release(first, 1.0)
    pool.release(second, 2.0)
    assert pool.take() is second
    assert pool.take() is first
    assert pool.take() is None
    assert (first.used, pool.created, pool.open) == (1, 2, 2)


def test_an_idle_connection_that_ended_is_never_handed_out(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    dead, ended, good = (connect(pool, loop).connection for _ in range(3))
    assert dead and ended and good
    for connection in (good, ended, dead):
        pool.release(connection, 1.0)
    dead.transport.abort()
    ended.eof_received()
    assert pool.take() is good
    assert pool.take() is None
    assert (pool.open, pool.budget.open, pool.budget.idle) == (1, 1, 0)


def test_bytes_on_an_idle_connection_take_it_out_of_the_pool(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    connection = connect(pool, loop).connection
    assert connection
    pool.release(connection, 1.0)
    connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
    assert pool.take() is None
    assert connection.transport.is_closing()
    connection.connection_lost(None)  # the loop tells later; nothing is counted twice
    assert (pool.open, pool.budget.open, pool.budget.idle) == (0, 0, 0)


def test_above_the_limit_exchanges_wait_in_order_of_arrival(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    holder = connect(pool, loop)
    second, third = FakeExchange("second"), FakeExchange("third")
    pool.request(second)
    pool.request(third)
    assert not second.opening
    assert holder.connection
    pool.release(holder.connection, 1.0)
    assert second.connection is not None and third.connection is None
    pool.release(second.connection, 2.0)
    assert third.connection is not None
    assert pool.created == 1


def test_a_lost_connection_lets_the_next_waiter_open_one(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    holder, waiter = connect(pool, loop), FakeExchange()
    pool.request(waiter)
    assert holder.connection
    holder.connection.connection_lost(None)
    assert waiter.opening
    loop.run()
    assert waiter.connection is not None
    assert pool.open == 1


def test_a_waiter_that_left_is_passed_over(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    holder, gone, next_one = connect(pool, loop), FakeExchange(), FakeExchange()
    pool.request(gone)
    pool.request(next_one)
    pool.cancel(gone)
    assert holder.connection
    pool.release(holder.connection, 1.0)
    assert gone.connection is None and next_one.connection is not None


def test_leaving_while_connecting_gives_the_slot_back(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    gone = FakeExchange()
    pool.request(gone)
    pool.cancel(gone)
    loop.turn()
    assert (pool.open, pool.budget.open) == (0, 0)
    assert connect(pool, loop).connection is not None


def test_a_refused_connection_is_told_and_costs_no_slot(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    loop.fail = True
    exchange = FakeExchange()
    pool.request(exchange)
    loop.run()
    assert exchange.failed == "refused"
    assert (pool.open, pool.budget.open) == (0, 0)


def test_idle_connections_above_the_limit_are_closed(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 1))
    first, second = connect(pool, loop).connection, connect(pool, loop).connection
    assert first and second
    pool.release(first, 1.0)
    pool.release(second, 1.0)
    assert second.transport.is_closing() and not first.transport.is_closing()
    assert (pool.open, pool.budget.idle) == (1, 1)


def test_connections_idle_for_too_long_are_closed(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    old, young, youngest = (connect(pool, loop).connection for _ in range(3))
    assert old and young and youngest
    pool.release(old, 1.0)
    pool.release(young, 5.0)
    pool.release(youngest, 6.0)
    pool.expire(5.0)
    assert old.transport.is_closing() and not young.transport.is_closing()
    assert (pool.open, pool.budget.idle) == (2, 2)


def test_a_closed_pool_keeps_nothing(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    idle, busy = connect(pool, loop).connection, connect(pool, loop).connection
    assert idle and busy
    pool.release(idle, 1.0)
    pool.close()
    assert idle.transport.is_closing() and not busy.transport.is_closing()
    pool.release(busy, 2.0)
    assert busy.transport.is_closing()
    assert pool.open == pool.budget.open == pool.budget.idle == 0


def test_a_connection_that_was_ready_when_its_exchange_left_waits_for_the_next(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    gone = FakeExchange()
    pool.request(gone)
    loop.end_tasks()
    loop.now = 5.0
    pool.cancel(gone)
    loop.turn()
    (idle,) = pool.idle
    assert gone.connection is None
    assert (idle.used, idle.idle_since, pool.open) == (0, 5.0, 1)
    assert pool.take() is idle


def test_b1_the_end_of_a_cancelled_task_is_not_taken_for_a_later_wish(loop: FakeLoop) -> None:
    """B1: a client leaves while its connection is made, and its exchange, lent again, asks the same pool."""
    pool, owner = make_pool(loop, Budget(0, 10)), FakeExchange()
    gone, next_one = Wish(owner), Wish(owner)
    pool.request(gone)
    pool.cancel(gone)
    pool.request(next_one)
    loop.turn()  # the cancelled task ends
    assert (owner.failed, pool.open) == ("", 1)
    loop.run()
    assert owner.connection is not None


def test_b6_a_wish_is_told_when_its_connection_is_being_opened(loop: FakeLoop) -> None:
    """B6: from then on the endpoint is waited for, with another limit."""
    pool = make_pool(loop, Budget(1, 10))
    holder, waiter = connect(pool, loop), FakeExchange()
    pool.request(waiter)
    assert not waiter.opening
    assert holder.connection
    holder.connection.connection_lost(None)
    assert waiter.opening and waiter.connection is None
    loop.run()


def test_b14_a_limit_of_zero_idle_connections_is_no_limit(loop: FakeLoop) -> None:
    """B14: as every limit of the config."""
    pool = make_pool(loop, Budget(0, 0))
    for holder in [connect(pool, loop) for _ in range(3)]:
        assert holder.connection
        pool.release(holder.connection, 1.0)
    assert (len(pool.idle), pool.budget.max_idle) == (3, 0)
    pool.budget.configure(0, 2)
    assert pool.budget.max_idle == 2


def test_b29_dropped_idle_connections_give_their_places_back(loop: FakeLoop) -> None:
    """B29: one was found closed; those that idled as long say as little."""
    pool = make_pool(loop, Budget(2, 10))
    idle, busy = connect(pool, loop).connection, connect(pool, loop).connection
    assert idle and busy
    pool.release(idle, 1.0)
    pool.drop_idle()
    assert idle.transport.is_closing() and not busy.transport.is_closing()
    assert (pool.open, pool.budget.open, pool.budget.idle, pool.closed) == (1, 1, 0, False)


def test_a_wish_for_a_fresh_connection_closes_an_idle_one_where_there_is_no_room(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    idle = connect(pool, loop).connection
    assert idle
    pool.release(idle, 1.0)
    assert connect(pool, loop).connection is not None
    assert idle.transport.is_closing()
    assert (pool.open, pool.budget.idle) == (1, 0)


def test_who_waits_for_a_fresh_connection_gets_none_that_was_used(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    used = connect(pool, loop).connection
    assert used
    waiter = FakeExchange()
    waiter.fresh = True
    pool.request(waiter)

    pool.release(used, 1.0)
    loop.end_tasks()
    loop.turn()

    assert used.transport.is_closing()
    assert waiter.connection is not None and waiter.connection is not used
    assert waiter.connection.used == 0
    assert pool.open == 1


def test_cancelling_what_never_waited_changes_nothing(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    pool.cancel(FakeExchange())
    assert (pool.open, pool.budget.open, pool.closed) == (0, 0, False)


def test_a_connection_that_closed_at_once_is_no_connection(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    exchange = FakeExchange()
    pool.request(exchange)
    (task,) = loop.tasks
    loop.end_tasks()
    task.result().transport.abort()
    loop.turn()
    assert (exchange.failed, pool.open, pool.created) == ("closed at once", 0, 0)


def test_it_counts_how_often_a_connection_served(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    connection = connect(pool, loop).connection
    assert connection
    for served in (1, 2, 3):
        pool.release(connection, 1.0)
        assert connection.used == served
        assert connection.exchange is None
        assert pool.take() is connection


def test_it_connects_to_its_endpoint_and_to_one_with_tls_by_tls(loop: FakeLoop) -> None:
    connect(make_pool(loop, Budget(1, 1)), loop)
    secret = EndpointSpec(name="s", scheme="https", host="model.example", port=8443, tls_verify=False)
    connect(EndpointPool(secret, Budget(1, 1), loop, PlainUpstreamConnection, loop), loop)  # type: ignore[arg-type]  # as above
    plain, (host, port, context) = loop.asked
    assert plain == ("127.0.0.1", 1, None)
    assert (host, port) == ("model.example", 8443)
    assert isinstance(context, ssl.SSLContext) and context.verify_mode == ssl.CERT_NONE


def test_its_repr_tells_connections_and_waiters(loop: FakeLoop) -> None:
    budget = Budget(1, 1)
    pool, other = make_pool(loop, budget, "a"), make_pool(loop, budget, "b")
    connect(pool, loop)
    for _ in range(2):
        pool.request(FakeExchange())
    other.request(FakeExchange())
    assert repr(pool) == "<EndpointPool a open=1 idle=0 waiting=2>"


def test_in_a_shared_budget_the_longest_idle_connection_makes_room(loop: FakeLoop) -> None:
    budget = Budget(2, 2)
    old, young, new = (make_pool(loop, budget, name) for name in ("old", "young", "new"))
    holders = [(pool, connect(pool, loop).connection) for pool in (young, old)]
    for pool, connection in holders:
        assert connection
        pool.release(connection, 1.0 if pool is old else 2.0)
    assert connect(new, loop).connection is not None
    assert (old.open, young.open, new.open, len(young.idle), budget.idle) == (0, 1, 1, 1, 1)


def test_a_closed_pool_leaves_its_budget_and_may_be_closed_again(loop: FakeLoop) -> None:
    budget = Budget(0, 10)
    pool, other = make_pool(loop, budget, "a"), make_pool(loop, budget, "b")
    pool.close()
    pool.close()
    assert budget.pools == [other]


def test_endpoints_with_budgets_of_their_own_do_not_disturb_each_other(loop: FakeLoop) -> None:
    slow, fast = make_pool(loop, Budget(1, 1), "slow"), make_pool(loop, Budget(1, 1), "fast")
    connect(slow, loop)
    assert connect(fast, loop).connection is not None


def test_a_shared_budget_lets_one_endpoint_starve_another(loop: FakeLoop) -> None:
    budget = Budget(1, 1)
    slow, fast = make_pool(loop, budget, "slow"), make_pool(loop, budget, "fast")
    holder, waiter = connect(slow, loop), FakeExchange()
    fast.request(waiter)
    assert not waiter.opening
    assert holder.connection
    slow.release(holder.connection, 1.0)  # idle now, and given up for the other endpoint
    loop.run()
    assert waiter.connection is not None
    assert (budget.open, budget.idle, slow.open, fast.open) == (1, 0, 0, 1)


def test_a_request_says_whether_a_connection_is_being_opened_or_waited_for(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    assert pool.request(FakeExchange()) is True
    assert pool.request(FakeExchange()) is False
    loop.run()


def test_a_discarded_connection_is_closed_at_once_and_its_place_given_to_who_waits(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    connection, waiter = connect(pool, loop).connection, FakeExchange()
    assert connection
    pool.request(waiter)

    pool.discard(connection)
    assert connection.transport.is_closing()
    assert connection.exchange is None and connection.ended
    connection.connection_lost(None)  # the loop tells later; nothing is counted twice
    loop.run()

    assert waiter.connection is not None and waiter.connection is not connection
    assert (pool.open, pool.budget.open, pool.budget.idle) == (1, 1, 0)


def test_a_higher_limit_lets_those_in_that_waited(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 1))
    connect(pool, loop)
    waiting = [FakeExchange() for _ in range(3)]
    for waiter in waiting:
        pool.request(waiter)

    spec = replace(pool.spec, max_conns=3, max_idle=2)
    pool.configure(spec)
    loop.run()

    assert [waiter.connection is not None for waiter in waiting] == [True, True, False]
    assert (pool.spec, pool.open, pool.budget.max_conns, pool.budget.max_idle) == (spec, 3, 3, 2)


def test_b13_a_higher_limit_of_a_shared_budget_lets_those_in_that_waited(loop: FakeLoop) -> None:
    """B13: a reload reaches what is open, as it does in a pool with a budget of its own."""
    budget = Budget(1, 1, shared=True)
    slow, fast = make_pool(loop, budget, "slow"), make_pool(loop, budget, "fast")
    connect(slow, loop)
    waiter = FakeExchange()
    fast.request(waiter)
    budget.configure(2, 1)
    loop.run()
    assert waiter.connection is not None
    assert (slow.open, fast.open, budget.open) == (1, 1, 2)


@pytest.mark.parametrize("someone_waits", [False, True])
def test_b13_connections_above_a_lower_limit_are_closed_as_they_come_free(loop: FakeLoop, someone_waits: bool) -> None:
    pool = make_pool(loop, Budget(3, 10))
    first, second, third = (connect(pool, loop).connection for _ in range(3))
    assert first and second and third
    waiter = FakeExchange()
    if someone_waits:
        pool.request(waiter)
    pool.configure(replace(pool.spec, max_conns=1))

    pool.release(first, 1.0)
    pool.release(second, 2.0)
    assert first.transport.is_closing() and second.transport.is_closing()
    assert (pool.open, waiter.connection) == (1, None)

    pool.release(third, 3.0)
    assert not third.transport.is_closing()
    assert waiter.connection is (third if someone_waits else None)
    assert (pool.open, pool.budget.open) == (1, 1)


@pytest.mark.parametrize(("max_conns", "max_idle", "kept"), [(2, 10, 0), (0, 1, 0), (3, 10, 2), (3, 2, 2), (0, 0, 2)])
def test_b13_idle_connections_are_closed_where_there_are_more_than_a_new_limit_allows(
    loop: FakeLoop, max_conns: int, max_idle: int, kept: int
) -> None:
    pool = make_pool(loop, Budget(0, 0))
    busy, *idle = (connect(pool, loop).connection for _ in range(3))
    assert busy
    for connection in idle:
        assert connection
        pool.release(connection, 1.0)
    pool.configure(replace(pool.spec, max_conns=max_conns, max_idle=max_idle))
    assert not busy.transport.is_closing()
    assert (pool.open, pool.budget.open, pool.budget.idle) == (1 + kept, 1 + kept, kept)


def test_limits_of_one_endpoint_do_not_change_a_shared_budget(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 2, shared=True))
    connect(pool, loop)
    waiter = FakeExchange()
    pool.request(waiter)
    spec = replace(pool.spec, max_conns=3, max_idle=4)
    pool.configure(spec)
    loop.run()
    assert waiter.connection is None
    assert (pool.spec, pool.budget.max_conns, pool.budget.max_idle) == (spec, 1, 2)


def test_in_a_shared_budget_the_idle_connections_of_all_endpoints_count(loop: FakeLoop) -> None:
    budget = Budget(0, 2, shared=True)
    pools = [make_pool(loop, budget, name) for name in "abc"]
    connections = [connect(pool, loop).connection for pool in pools]
    for pool, connection in zip(pools, connections, strict=True):
        assert connection
        pool.release(connection, 1.0)
    assert [len(pool.idle) for pool in pools] == [1, 1, 0]


def test_a_pool_keeps_the_tls_settings_that_it_was_made_with(loop: FakeLoop) -> None:
    """By them the service sees whether a reload changed what its connections trust."""
    spec = EndpointSpec(name="s", scheme="https", host="model.example", port=8443)
    pool = EndpointPool(spec, Budget(1, 1), loop, PlainUpstreamConnection, loop)  # type: ignore[arg-type]  # as above
    assert isinstance(pool.context, ssl.SSLContext)
    assert make_pool(loop, Budget(1, 1)).context is None


def watch_one(pool: EndpointPool, loop: FakeLoop) -> PlainUpstreamConnection:
    """The endpoint closes one connection after the other, until one that it leaves open is watched."""
    for _ in range(CLOSINGS):
        closed = connect(pool, loop).connection
        assert closed
        pool.release(closed, loop.now, CHUNKED)
        closed.eof_received()
    watched, refused = connect(pool, loop).connection, connect(pool, loop).connection
    assert watched and refused
    pool.release(watched, loop.now, CHUNKED)
    pool.release(refused, loop.now, CHUNKED)
    assert (pool.watched, pool.idle, pool.open) == ([watched], [], 1)
    assert refused.transport.is_closing()
    return watched


def test_a_watched_connection_is_lent_to_nobody_and_what_it_shows_holds_for_the_next(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    watched = watch_one(pool, loop)
    assert pool.take() is None
    assert pool.unused == 1
    loop.now += SOON
    pool.end_watch(loop.now)
    assert pool.watched == [watched]
    loop.now += 0.1
    pool.end_watch(loop.now)
    assert (pool.watched, pool.open) == ([], 0)
    kept = connect(pool, loop).connection
    assert kept
    pool.release(kept, loop.now, CHUNKED)
    assert pool.take() is kept


def test_an_endpoint_that_closes_the_watched_connection_stays_suspect(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    watch_one(pool, loop).eof_received()
    assert (pool.watched, pool.open) == ([], 0)
    refused = connect(pool, loop).connection
    assert refused
    pool.release(refused, loop.now, CHUNKED)
    assert refused.transport.is_closing()


def test_a_watched_connection_makes_room_for_a_request(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(2, 10))
    watched = watch_one(pool, loop)
    connect(pool, loop)
    connect(pool, loop)
    assert watched.transport.is_closing()
    assert pool.open == 2


def test_none_is_watched_while_a_request_waits_for_its_place(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(1, 10))
    for _ in range(CLOSINGS):
        closed = connect(pool, loop).connection
        assert closed
        pool.release(closed, loop.now, CHUNKED)
        closed.eof_received()
    first, waiting = connect(pool, loop), FakeExchange()
    pool.request(waiting)
    assert first.connection
    pool.release(first.connection, loop.now, CHUNKED)
    loop.run()
    assert not pool.watched
    assert waiting.connection not in (None, first.connection)
    assert waiting.connection
    pool.release(waiting.connection, loop.now, CHUNKED)
    assert pool.watched == [waiting.connection], "the turn to watch was left to the next one"


def test_a_connection_that_nobody_used_tells_nothing_of_the_endpoint(loop: FakeLoop) -> None:
    """After answers that are not chunked the endpoint closes; a connection that answered nothing stays open."""
    pool = make_pool(loop, Budget(0, 10))
    for _ in range(CLOSINGS):
        closed = connect(pool, loop).connection
        assert closed
        pool.release(closed, loop.now)
        closed.eof_received()
    gone = FakeExchange()
    pool.request(gone)
    loop.end_tasks()
    pool.cancel(gone)
    loop.turn()
    assert not pool.watched
    assert pool.unused == 1
    used = connect(pool, loop).connection
    assert used
    pool.release(used, loop.now)
    assert pool.watched == [used]


def test_a_connection_handed_on_unused_is_a_fresh_one(loop: FakeLoop) -> None:
    """What was never used cannot have been closed since: its next exchange must not take a failure for that."""
    pool = make_pool(loop, Budget(1, 10))
    gone, used = FakeExchange(), []

    class Next(FakeExchange):
        def connected(self, connection: PlainUpstreamConnection) -> None:
            super().connected(connection)
            used.append(connection.used)

    pool.request(gone)
    loop.end_tasks()
    pool.cancel(gone)
    pool.request(Next())
    loop.turn()
    assert used == [0]


def test_a_closed_pool_closes_what_it_watches(loop: FakeLoop) -> None:
    pool = make_pool(loop, Budget(0, 10))
    watched = watch_one(pool, loop)
    pool.close()
    assert watched.transport.is_closing()
    assert (pool.watched, pool.open) == ([], 0)


class PoolMachine(RuleBasedStateMachine):
    """Two pools on one budget, any order of events: limits hold and every slot is accounted for."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = FakeLoop()
        self.budget = Budget(max_conns=3, max_idle=2, shared=True)
        self.pools = [make_pool(self.loop, self.budget, name) for name in "ab"]
        self.flying: list[tuple[EndpointPool, FakeExchange]] = []
        self.now = 0.0

    @rule(which=st.integers(0, 1))
    def ask(self, which: int) -> None:
        pool, exchange = self.pools[which], FakeExchange()
        connection = pool.take()
        if connection is not None:
            exchange.connected(connection)
        else:
            pool.request(exchange)
        self.flying.append((pool, exchange))

    @rule(fail=st.booleans())
    def network(self, fail: bool) -> None:
        self.loop.fail = fail
        self.loop.end_tasks()

    @rule()
    def loop_passes(self) -> None:
        self.loop.turn()
        self.flying = [(pool, e) for pool, e in self.flying if not e.failed]

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(["release", "lose", "cancel", "close"]))
    def end(self, data: st.DataObject, how: str) -> None:
        pool, exchange = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.now = self.loop.now = self.now + 1
        if exchange.connection is None:
            pool.cancel(exchange)
        elif how in ("release", "close"):
            connection = exchange.connection
            pool.release(connection, self.now)
            if how == "close" and not connection.ended and connection.exchange is None:
                connection.eof_received()
        elif how == "lose":
            exchange.connection.connection_lost(None)
        else:
            exchange.connection.abort()

    @rule(which=st.integers(0, 1))
    def drop_idle(self, which: int) -> None:
        self.pools[which].drop_idle()

    @rule()
    def expire(self) -> None:
        for pool in self.pools:
            pool.expire(self.now - 2)
            pool.end_watch(self.now)

    @rule(which=st.integers(0, 1))
    def endpoint_has_closed_some_in_a_row(self, which: int) -> None:
        for i in range(CLOSINGS):
            self.pools[which].keep_alive.closed(False, self.now + i / 10, self.now + i / 10)
        self.now = self.loop.now = self.now + 1

    @rule()
    def time_passes(self) -> None:
        self.now = self.loop.now = self.now + WATCH_EVERY

    @precondition(lambda self: any(pool.watched for pool in self.pools))
    @rule()
    def endpoint_closes_what_is_watched(self) -> None:
        next(pool for pool in self.pools if pool.watched).watched[0].eof_received()

    def teardown(self) -> None:
        for task in self.loop.tasks:
            task.cancel()

    @invariant()
    def limits_hold(self) -> None:
        assert 0 <= self.budget.open <= 3
        assert self.budget.idle <= 2
        assert self.budget.open == sum(pool.open for pool in self.pools)
        assert self.budget.idle == sum(len(pool.idle) for pool in self.pools)

    @invariant()
    def every_open_connection_is_used_idle_or_on_its_way(self) -> None:
        used = sum(e.connection is not None for _, e in self.flying)
        connecting = sum(not task.over for task in self.loop.tasks) + len(self.loop.soon)
        assert self.budget.open == used + connecting + sum(pool.unused for pool in self.pools)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        assert not self.budget.waiting or self.budget.full()


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_task_cancelled_before_its_first_step_returns_its_slot_on_a_real_loop() -> None:
    async def scenario() -> int:
        pool = EndpointPool(
            EndpointSpec(name="a", scheme="http", host="127.0.0.1", port=1),
            Budget(1, 1),
            asyncio.get_running_loop(),
            PlainUpstreamConnection,
            Dialer(),
        )
        exchange = FakeExchange()
        pool.request(exchange)
        pool.cancel(exchange)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return pool.budget.open

    assert asyncio.run(scenario()) == 0
