"""Whole exchanges between a fake client and fake endpoints: Olla's real objects on a loop and a clock of the test's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from proxy.config import parse
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.olla.downstream import ClientConnection
from proxy.olla.phases import PHASE_NAMES
from proxy.olla.service import OllaProxy
from proxy.olla.upstream import PlainUpstreamConnection
from tests.proxy.olla.fakes import FakeLoop, FakeTransport

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BEGUN = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
TO_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nok"


class Rig:
    """Olla before endpoints a, b ..., without sockets. What `loop.fail` says happens to connections."""

    def __init__(self, endpoints: int = 1, **settings: Any) -> None:
        self.loop = FakeLoop()
        # The first in the list is the first by priority, for the tests that ask for that.
        specs = [{"name": "ab"[i], "url": f"http://127.0.0.1:{i + 1}", "priority": 9 - i} for i in range(endpoints)]
        text = str({"endpoints": specs})
        overrides = {"proxy.engine": "olla", **{key.replace("__", "."): value for key, value in settings.items()}}
        self.config = parse(text, "test", overrides).config
        self.discovery = DiscoveryService(self.config.endpoint_specs(), 0.0)
        self.stats = StatsCollector()
        loop: Any = self.loop
        self.proxy = OllaProxy(self.config, self.discovery, self.stats, Instance(via="test"), loop)
        self.state = self.proxy._state
        self.state.loop = loop
        self.proxy._rebuild_routes()
        self.proxy._tick()

    def client(self, data: bytes = b"") -> Client:
        client = Client(self)
        if data:
            client.send(data)
        return client

    def wait(self, seconds: float) -> None:
        """Time passes, a tick at a time; what is to happen soon happens."""
        ends = self.loop.now + seconds
        while self.loop.now < ends - 1e-9:
            self.loop.now += 0.1
            self.proxy._tick()
            self.loop.turn()

    @property
    def peers(self) -> list[PlainUpstreamConnection]:
        """The connections to endpoints, oldest first."""
        return self.loop.connections

    def breaker(self, name: str = "a") -> Any:
        return next(route.breaker for e, route in self.state.routes.items() if e.name == name)

    def ended(self) -> dict[str, int]:
        """The counts that are not 0. Whatever happened, they add up, and nothing is left behind when it is over."""
        stats = self.stats
        assert stats.total == stats.success + stats.failed + stats.client_disconnected + stats.active
        for e in self.discovery.endpoints:
            assert e.requests == e.success + e.failed + e.client_disconnected + e.active
        if not stats.active:
            assert self.proxy._contexts.active == 0
            assert not any(e.active for e in self.discovery.endpoints)
        names = ("success", "failed", "client_disconnected", "active")
        return {name: getattr(stats, name) for name in names if getattr(stats, name)}

    def requests(self) -> list[int]:
        return [e.requests for e in self.discovery.endpoints]


class Client:
    """A client's end."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.connection = ClientConnection(rig.state, rig.proxy._contexts, rig.proxy._clients)
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]  # all that is asked of one

    def send(self, data: bytes) -> None:
        self.connection.data_received(data)

    def leave(self) -> None:
        self.transport.closed = True
        self.connection.connection_lost(None)

    @property
    def status(self) -> int:
        """Of the last answer, 0 if there is none."""
        at = self.transport.written.rfind(b"HTTP/1.1 ")
        return int(self.transport.written[at + 9 : at + 12]) if at >= 0 else 0

    @property
    def phase(self) -> str:
        exchange = self.connection.exchange
        return "none" if exchange is None else PHASE_NAMES[exchange.phase]


def written(peer: PlainUpstreamConnection) -> bytes:
    transport: Any = peer.transport
    return bytes(transport.written)


def lose(peer: PlainUpstreamConnection, clean: bool = True) -> None:
    """The endpoint ends its connection."""
    if clean:
        peer.eof_received()
    peer.connection_lost(None if clean else ConnectionResetError())


# -- the phases in their order


def test_a_request_passes_the_phases_in_their_order():
    rig = Rig(proxy__max_conns_per_host=1)
    client, second = rig.client(GET), rig.client(POST[:-1])
    assert client.phase == "connecting"
    assert second.phase == "arriving"
    second.send(b"x")
    assert second.phase == "queued"
    rig.loop.run()
    assert client.phase == "sent"
    (peer,) = rig.peers
    peer.data_received(OK[:10])
    assert client.phase == "heard"
    peer.data_received(OK[10:-1])
    assert client.phase == "streaming"
    client.transport.stuck = True
    peer.data_received(OK[-1:])
    assert client.phase == "draining"
    assert second.phase == "sent", "the endpoint is done with the first"
    client.transport.take_all()
    assert client.phase == "none"
    assert rig.ended() == {"success": 1, "active": 1}
    peer.data_received(OK)
    assert rig.ended() == {"success": 2}
    assert client.transport.written.endswith(b"\r\n\r\nok") and second.status == 200


def test_a_connection_is_used_again():
    rig = Rig()
    client = rig.client(GET)
    rig.loop.run()
    (peer,) = rig.peers
    peer.data_received(OK)
    client.send(GET)
    assert client.phase == "sent"
    peer.data_received(OK)
    assert rig.ended() == {"success": 2}
    assert len(rig.peers) == 1


# -- deadlines


@pytest.mark.parametrize("endpoints", [1, 2])
def test_each_wait_ends_within_its_limit_and_two_ticks(endpoints):
    """B8, and its kind."""
    limits = {"proxy__connect_timeout": "1s", "proxy__response_header_timeout": "2s", "proxy__idle_timeout": "3s"}
    rig = Rig(endpoints, **limits, proxy__retry__max_attempts=1)
    connecting = rig.client(GET)
    rig.wait(0.9)
    assert connecting.phase == "connecting"
    rig.wait(0.3)
    assert connecting.status == 504
    rig.loop.tasks.clear()
    silent = rig.client(POST)
    rig.loop.run()
    rig.wait(1.9)
    assert silent.phase == "sent"
    rig.wait(0.3)
    assert silent.status == 504
    stream = rig.client(POST)
    rig.loop.run()
    peer = rig.peers[-1]
    peer.data_received(BEGUN)
    rig.wait(2.0)
    peer.data_received(b"more")
    rig.wait(2.9)
    assert stream.phase == "streaming"
    rig.wait(0.3)
    assert stream.phase == "none" and stream.transport.closed
    assert rig.ended() == {"failed": 3}


def test_b6_the_time_for_a_connection_begins_when_its_place_is_there():
    rig = Rig(proxy__max_conns_per_host=1, proxy__pool_wait_timeout="2s", proxy__connect_timeout="3s")
    first, second = rig.client(GET), rig.client(POST)
    rig.loop.run()
    rig.wait(1.5)
    lose(rig.peers[0])
    assert (first.status, second.phase) == (0, "connecting")
    rig.wait(2.8)
    assert second.phase == "connecting", "not the rest of the queue's time"
    rig.wait(0.5)
    assert second.status == 504


@pytest.mark.parametrize("pool_wait, still", [("1s", "none"), ("0s", "queued")])
def test_b15_the_queue_has_its_own_limit_or_none(pool_wait, still):
    rig = Rig(proxy__max_conns_per_host=1, proxy__pool_wait_timeout=pool_wait, proxy__connect_timeout="1s")
    first, second = rig.client(GET), rig.client(POST)
    rig.loop.run()
    rig.wait(1.4)
    assert (first.phase, second.phase) == ("sent", still)
    if still == "none":
        assert second.status == 503
        assert rig.breaker().failures == 0
        assert rig.requests() == [2]
    second.leave()
    first.leave()
    rig.ended()


@pytest.mark.parametrize("method", [GET, POST])
@pytest.mark.parametrize("reach", ["connecting", "sent", "heard", "streaming", "draining", "queued"])
def test_b2_the_cap_ends_an_exchange_in_every_phase(method, reach):
    rig = Rig(2, proxy__max_duration="500ms", proxy__max_conns_per_host=1)
    others = [rig.client(POST) for _ in range(2)] if reach == "queued" else []
    client = rig.client(method)
    if reach not in ("connecting", "queued"):
        rig.loop.run()
        if reach == "draining":
            client.transport.stuck = True
        said = {"heard": OK[:5], "streaming": BEGUN, "draining": OK}.get(reach, b"")
        if said:
            rig.peers[-1].data_received(said)
    assert client.phase == reach
    rig.wait(0.8)
    assert client.phase == "none"
    answered = reach in ("streaming", "draining")
    assert client.transport.closed == answered
    assert client.status == (200 if answered else 504)
    assert sum(rig.requests()) == 1 + len(others), "it was not sent anywhere else"
    assert rig.breaker("a").failures == rig.breaker("b").failures == 0, "and nobody is to blame"
    assert rig.ended() == {"failed": 1 + len(others)}


def test_the_silence_of_an_endpoint_that_we_do_not_read_is_ours():
    rig = Rig(proxy__idle_timeout="1s", server__write_timeout="60s")
    client = rig.client(GET)
    rig.loop.run()
    (peer,) = rig.peers
    peer.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    client.transport.stuck = True
    peer.data_received(b"x" * 100_000)
    transport: Any = peer.transport
    assert not transport.reading
    rig.wait(5.0)
    assert client.phase == "streaming"
    client.transport.take_all()
    assert transport.reading
    rig.wait(0.9)
    assert client.phase == "streaming"
    rig.wait(0.4)
    assert client.phase == "none"


# -- failures and what follows


@pytest.mark.parametrize("method, statuses", [(GET, 200), (POST, 502)])
def test_a_request_that_may_have_been_acted_on_is_sent_once_unless_that_is_harmless(method, statuses):
    rig = Rig(2)
    client = rig.client(method)
    rig.loop.run()
    lose(rig.peers[0])
    rig.loop.run()
    if statuses == 200:
        assert client.phase == "sent"
        rig.peers[1].data_received(OK)
    assert client.status == statuses
    assert sum(rig.requests()) == (2 if statuses == 200 else 1)
    rig.ended()


def test_a_client_that_leaves_between_two_tries_ends_the_exchange():
    rig = Rig(2)
    client = rig.client(GET)
    rig.loop.run()
    lose(rig.peers[0])
    assert client.phase == "retrying"
    client.leave()
    assert rig.ended() == {"client_disconnected": 1}
    newcomer = rig.client(GET)  # gets the same context
    rig.loop.run()
    assert newcomer.phase == "sent"
    assert sum(rig.requests()) == 2
    assert len(rig.peers) == 2


def test_b1_a_context_that_is_lent_again_hears_nothing_of_its_last_connection():
    rig = Rig()
    gone = rig.client(GET)
    gone.leave()
    next_one = rig.client(GET)
    rig.loop.turn()  # the cancelled task ends here
    assert next_one.phase == "connecting"
    rig.loop.run()
    rig.peers[-1].data_received(OK)
    assert rig.ended() == {"success": 1, "client_disconnected": 1}
    assert rig.breaker().failures == 0


def test_a_stale_connection_is_replaced_once():
    rig = Rig()
    client = rig.client(GET)
    rig.loop.run()
    rig.peers[0].data_received(OK)
    client.send(GET)
    lose(rig.peers[0])
    rig.loop.run()
    assert rig.requests() == [2]
    lose(rig.peers[1])
    rig.loop.run()
    assert client.status == 502
    assert rig.breaker().failures == 1
    assert rig.ended() == {"success": 1, "failed": 1}


def test_an_endpoint_whose_breaker_opened_beside_a_stale_connection_is_not_asked_again():
    rig = Rig(2, proxy__load_balancer="priority", proxy__circuit_breaker__timeout="1s")
    client = rig.client(GET)
    rig.loop.run()
    rig.peers[0].data_received(OK)
    client.send(GET)
    a = rig.breaker("a")
    for _ in range(5):
        a.record_failure(a.epoch, rig.loop.now)
    rig.state.count_breakers()
    lose(rig.peers[0])
    rig.loop.run()
    assert client.phase == "sent" and len(rig.peers) == 2, "to b, as a's breaker is open"
    rig.wait(1.2)  # it lets a probe in
    lose(rig.peers[1])
    rig.loop.run()
    assert client.status == 502 and len(rig.peers) == 2
    assert rig.ended() == {"success": 1, "failed": 1}


def test_b9_after_a_failover_the_first_endpoints_probe_leaves_the_seconds_breaker_alone():
    rig = Rig(2, proxy__load_balancer="priority", proxy__circuit_breaker__timeout="1s")
    a, b = rig.breaker("a"), rig.breaker("b")
    for _ in range(5):
        a.record_failure(a.epoch, rig.loop.now)
    rig.state.count_breakers()
    b.failures = 4
    rig.wait(1.2)
    client = rig.client(GET)
    assert (a.probes, rig.requests()) == (1, [1, 0])
    rig.loop.run()
    lose(rig.peers[-1])
    rig.loop.run()
    assert (client.phase, rig.requests()) == ("sent", [1, 1])
    rig.wait(2.0)
    assert (a.state, b.failures) == (1, 4), "the probe's time would have acted on b"
    rig.peers[-1].data_received(OK)
    assert b.failures == 0


def test_b7_a_fault_of_ours_takes_nobody_elses_deadline(monkeypatch):
    rig = Rig(proxy__response_header_timeout="1s")
    clients = [rig.client(POST) for _ in range(3)]
    rig.loop.run()

    faulty = next(iter(rig.proxy._clients))
    faulty.deadline = 0.0

    def expire(client: ClientConnection, now: float) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(ClientConnection, "expire", expire)
    rig.wait(0.1)
    assert faulty.transport.is_closing()
    faulty.connection_lost(None)
    rig.wait(1.4)
    assert sorted(client.status for client in clients) == [0, 504, 504]
    assert rig.ended() == {"failed": 2, "client_disconnected": 1}, "its exchange ended with it"


# -- reloads


def test_b13_a_reload_reaches_exchanges_in_flight_and_contexts_at_rest():
    rig = Rig()
    done, client = rig.client(GET), rig.client(GET)
    rig.loop.run()
    rig.peers[0].data_received(OK)
    done_exchange_gatherers = [e.gatherer for e in rig.proxy._contexts._idle]
    assert done_exchange_gatherers and done.status == 200
    exchange = client.connection.exchange
    assert exchange is not None and exchange.gatherer is not None
    changed = parse(
        str({"endpoints": [{"name": "a", "url": "http://127.0.0.1:1"}], "proxy": {"flush": {"policy": "every-read"}}})
    ).config
    rig.discovery.update(changed.endpoint_specs(), 0.0)
    rig.proxy.update_config(changed)
    assert exchange.gatherer is None
    assert not rig.proxy._contexts._idle
    newcomer = rig.client(GET)
    assert newcomer.connection.exchange is not None and newcomer.connection.exchange.gatherer is None


# -- one direction


@contextmanager
def entered(modules: list[list[str]]) -> Iterator[None]:
    """Note for each call into Olla which of its modules are on the stack, each stay once, outermost first."""

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not frame.f_globals.get("__name__", "").startswith("proxy.olla."):
            return
        stack: list[str] = []
        at: FrameType | None = frame
        while at is not None:
            name = at.f_globals.get("__name__", "")
            if name.startswith("proxy.olla.") and (not stack or stack[-1] != name):
                stack.append(name)
            at = at.f_back
        modules.append(stack[::-1])

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


def refuse(rig: Rig) -> None:
    rig.loop.fail = True
    rig.loop.end_tasks()
    rig.loop.turn()


def late_head(rig: Rig) -> None:
    rig.wait(3.0)


FAILING: dict[str, tuple[Callable[[Rig], None], Callable[[Rig], None]]] = {
    "connection refused": (lambda rig: None, refuse),
    "connect timeout": (lambda rig: None, late_head),
    "closed": (lambda rig: rig.loop.run(), lambda rig: lose(rig.peers[0])),
    "reset": (lambda rig: rig.loop.run(), lambda rig: lose(rig.peers[0], clean=False)),
    "no head": (lambda rig: rig.loop.run(), late_head),
    "no HTTP": (lambda rig: rig.loop.run(), lambda rig: rig.peers[0].data_received(b"rubbish\r\n\r\n")),
}


@pytest.mark.parametrize("how", FAILING)
@pytest.mark.parametrize("endpoints", [1, 2])
def test_a_failed_attempt_is_handled_in_one_direction(how, endpoints):
    """Its call chain enters each module at most once: no module calls one that is waiting for it."""
    before, fails = FAILING[how]
    rig = Rig(endpoints, proxy__connect_timeout="1s", proxy__response_header_timeout="1s")
    client = rig.client(GET)
    before(rig)
    stacks: list[list[str]] = []
    with entered(stacks):
        fails(rig)
    assert any("proxy.olla.attempt" in stack for stack in stacks)
    for stack in stacks:
        assert len(set(stack)) == len(stack), " -> ".join(stack)
    client.leave()


CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"


@pytest.mark.parametrize("before", [b"", CHUNKED_POST], ids=["first", "behind-a-chunked-one"])
def test_the_body_of_a_request_that_is_too_large_is_dropped_while_its_refusal_waits_for_the_client(
    before: bytes,
) -> None:
    rig = Rig(server__max_body_size=10)
    client = rig.client(before)
    if before:
        rig.loop.end_tasks()
        rig.loop.turn()
        rig.peers[0].data_received(OK)
    client.transport.stuck = True
    client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n")
    assert (client.status, client.phase) == (413, "draining")
    client.send(b"x" * 11)
    assert client.phase == "draining"
    client.transport.take_all()
    assert client.phase == "none"
    assert rig.ended() == ({"success": 1, "failed": 1} if before else {"failed": 1})


def test_a_body_that_comes_after_its_time_is_sent_nowhere_while_the_refusal_waits_for_the_client() -> None:
    rig = Rig(server__body_timeout="1s")
    client = rig.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nx")
    client.transport.stuck = True
    rig.wait(1.5)
    assert (client.status, client.phase) == (408, "draining")
    client.send(b"y")
    rig.loop.end_tasks()
    rig.loop.turn()
    assert client.phase == "draining"
    assert rig.peers == []
    client.transport.take_all()
    assert rig.ended() == {"failed": 1}


def test_a_connection_that_comes_while_the_engine_stops_is_closed_and_its_request_goes_nowhere() -> None:
    rig = Rig()
    rig.state.stopping = True
    client = rig.client(GET)
    rig.loop.turn()
    rig.loop.end_tasks()
    assert client.transport.closed
    assert (rig.peers, rig.ended()) == ([], {})


def test_empty_lines_before_a_request_are_counted_over_all_reads() -> None:
    rig = Rig()
    client = rig.client()
    for _ in range(3):
        client.send(b"\r\n")
    assert client.status == 400


def test_empty_lines_renew_no_time_and_begin_none() -> None:
    rig = Rig(server__keep_alive_timeout="2s", server__header_timeout="1s")
    client = rig.client()
    rig.wait(1.0)
    client.send(b"\r\n")
    rig.wait(0.7)
    client.send(b"\r\n")
    rig.wait(0.7)
    assert client.transport.closed, "it was idle for 2 s"
    assert client.status == 0


def test_a_client_that_takes_nothing_is_cut_though_it_goes_on_sending() -> None:
    rig = Rig(server__body_timeout=0, server__write_timeout="1s")
    client = rig.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n")
    rig.loop.run()
    client.transport.stuck = True
    rig.peers[0].data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
    client.send(b"y" * 20_000)
    rig.wait(1.5)
    assert client.transport.closed
    assert rig.ended() == {"failed": 1}


def test_a_tick_that_is_late_because_the_process_stood_still_takes_nobodys_time() -> None:
    rig = Rig(proxy__idle_timeout="1s")
    client = rig.client(GET)
    rig.loop.run()
    rig.peers[0].data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok")
    rig.loop.now += 5.0
    rig.peers[0].data_received(b"x")  # a loop reads before it looks at its timers
    rig.proxy._tick()
    assert not client.transport.closed
    rig.peers[0].data_received(b"y")
    assert rig.ended() == {"success": 1}


def test_a_head_of_a_known_kind_shares_the_limit_of_the_interim_ones_before_it() -> None:
    rig = Rig(server__max_header_size=1000)
    client = rig.client(GET)
    rig.loop.run()
    rig.peers[0].data_received(OK)
    client.send(GET)
    interim = b"HTTP/1.1 103 Early Hints\r\nX: %b\r\n\r\n"
    rig.peers[0].data_received(interim % (b"a" * (990 - len(interim) + 2)))
    rig.peers[0].data_received(OK)
    assert client.status == 502


def test_a_connection_with_an_unsent_rest_of_an_upload_is_not_used_again() -> None:
    rig = Rig()
    client = rig.client(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
    rig.loop.run()
    upstream: Any = rig.peers[0].transport
    upstream.stuck = True
    client.send(b"x" * 100_000)
    rig.peers[0].data_received(OK)
    client.send(GET)
    rig.loop.run()
    assert len(rig.peers) == 2
