"""One try on one endpoint: what each end counts, and that there is exactly one."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.config import parse
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.olla.attempt import FAILED, PENDING, SERVED, STALE, WITHDRAWN, Attempt
from proxy.olla.breaker import CLOSED, HALF_OPEN, OPEN, CircuitBreaker
from proxy.olla.engine import Engine
from proxy.olla.pool import Budget, EndpointPool
from proxy.olla.route import Route
from proxy.olla.settings import Settings
from proxy.olla.upstream import PlainUpstreamConnection
from tests.proxy.olla.fakes import FakeLoop, FakeTransport


class Owner:
    responding = False

    def connecting(self) -> None:
        pass

    def connected(self, connection: Any) -> None:
        pass

    def connect_failed(self, detail: str) -> None:
        pass


class Rig:
    """One endpoint with a breaker, on a clock that the test moves."""

    def __init__(self, threshold: int = 2, count_5xx: bool = True, breaker: bool = True) -> None:
        self.loop = FakeLoop()
        self.engine = engine = Engine()
        text = "endpoints: [{name: a, url: 'http://127.0.0.1:1'}]"
        config = parse(text, "test", {"proxy.circuit_breaker.count_5xx": count_5xx}).config
        engine.settings = Settings(config, "olla")
        engine.loop = self.loop  # type: ignore[assignment]
        engine.discovery = DiscoveryService(config.endpoint_specs(), 0.0)
        engine.probes = []
        self.endpoint: Endpoint = engine.discovery.endpoints[0]
        spec: EndpointSpec = self.endpoint.spec
        pool = EndpointPool(spec, Budget(0, 0), self.loop, PlainUpstreamConnection, self.loop)  # type: ignore[arg-type]
        self.breaker = CircuitBreaker(threshold, 30.0, 2)
        self.route = Route(self.endpoint, pool, self.breaker if breaker else None)
        engine.routes = {self.endpoint: self.route}
        engine.open_breakers = 0
        engine.set_time(0.0, 0.1)
        self.hurried = 0
        engine.discovery.on_hurry(self._hurry)
        engine.discovery.due(0.0)
        engine.discovery.check_ended(self.endpoint)
        self.owner = Owner()

    def _hurry(self) -> None:
        self.hurried += 1

    def attempt(self) -> Attempt:
        attempt = Attempt(self.engine, self.owner)
        attempt.begin(self.route)
        return attempt

    def at(self, now: float) -> None:
        self.loop.now = now
        self.engine.set_time(now, 0.1)

    def open(self) -> None:
        for _ in range(2):
            self.attempt().failed(responding=False)
        assert self.breaker.state == OPEN

    @property
    def counts(self) -> dict[str, int]:
        """Of the endpoint, those that are not 0. They always add up."""
        e = self.endpoint
        assert e.requests == e.success + e.failed + e.client_disconnected + e.active
        names = ("requests", "success", "failed", "client_disconnected", "active", "upstream_5xx")
        return {name: getattr(e, name) for name in names if getattr(e, name)}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_one_that_begins_is_counted_as_active(rig):
    attempt = rig.attempt()
    assert rig.counts == {"requests": 1, "active": 1}
    assert (attempt.verdict, attempt.probe, attempt.waiting) == (PENDING, False, False)
    assert repr(attempt) == "<Attempt at a pending>"


def test_served(rig):
    rig.attempt().failed(responding=False)
    attempt = rig.attempt()
    attempt.served(200)
    assert rig.counts == {"requests": 2, "success": 1, "failed": 1}
    assert (attempt.verdict, rig.breaker.failures) == (SERVED, 0), "a whole answer resets the count"
    assert repr(attempt) == "<Attempt at a served>"


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_d1_a_failing_servers_answer_is_a_success_and_a_strike(status):
    rig = Rig(threshold=1)
    rig.at(7.0)
    rig.attempt().served(status)
    assert rig.counts == {"requests": 1, "success": 1, "upstream_5xx": 1}
    assert (rig.breaker.state, rig.engine.open_breakers) == (OPEN, 1)
    assert list(rig.endpoint.failed_at) == [7.0]


def test_a_501_is_about_the_request(rig):
    rig.attempt().failed(responding=False)
    rig.attempt().served(501)
    rig.attempt().served(501)
    assert rig.breaker.failures == 0
    assert rig.counts == {"requests": 3, "failed": 1, "success": 2, "upstream_5xx": 2}
    assert len(rig.endpoint.failed_at) == 1


def test_5xx_can_be_left_out(rig):
    rig = Rig(threshold=1, count_5xx=False)
    rig.attempt().served(503)
    assert rig.breaker.state == CLOSED
    assert len(rig.endpoint.failed_at) == 1, "the balancer knows"


def test_failed(rig):
    rig.at(3.0)
    attempt = rig.attempt()
    attempt.failed(responding=False)
    assert rig.counts == {"requests": 1, "failed": 1}
    assert (attempt.verdict, rig.breaker.failures, rig.hurried) == (FAILED, 1, 1)
    assert list(rig.endpoint.failed_at) == [3.0]
    rig.attempt().failed(responding=False)
    assert (rig.breaker.state, rig.engine.open_breakers) == (OPEN, 1)


def test_a_cut_answer_is_no_load(rig):
    rig.attempt().failed(responding=True)
    assert not rig.endpoint.failed_at
    assert rig.breaker.failures == 1


def test_d2_what_ends_together_is_one_strike(rig):
    attempts = [rig.attempt() for _ in range(5)]
    for attempt in attempts:
        attempt.failed(responding=False)
    assert (rig.breaker.state, rig.breaker.failures) == (CLOSED, 1)
    assert rig.counts == {"requests": 5, "failed": 5}


@pytest.mark.parametrize("again", [False, True])
def test_b29_stale(rig, again):
    idle = PlainUpstreamConnection()
    idle.on_lost = rig.route.pool.lost
    idle.connection_made(FakeTransport(idle))  # type: ignore[arg-type]
    rig.route.pool.budget.open = rig.route.pool.open = 1
    rig.route.pool.release(idle, 1.0)
    attempt = rig.attempt()
    attempt.stale(again)
    assert rig.counts == ({} if again else {"requests": 1, "failed": 1})
    assert (attempt.verdict, rig.breaker.failures, rig.hurried) == (STALE, 0, 0)
    assert idle.transport.is_closing() and not rig.route.pool.idle
    assert not rig.endpoint.failed_at


@pytest.mark.parametrize("by_client, count", [(True, "client_disconnected"), (False, "failed")])
def test_withdrawn(rig, by_client, count):
    rig.attempt().withdrawn(by_client)
    attempt = rig.attempt()
    attempt.withdrawn(by_client)
    assert rig.counts == {"requests": 2, count: 2}
    assert (attempt.verdict, rig.breaker.failures, rig.hurried) == (WITHDRAWN, 0, 0)
    assert not rig.endpoint.failed_at


@pytest.mark.parametrize("end", ["failed", "stale", "withdrawn"])
def test_it_ends_once(rig, end):
    attempt = rig.attempt()
    attempt.withdrawn(by_client=True)
    with pytest.raises(AssertionError):
        getattr(attempt, end)(True)


def test_without_a_breaker_only_the_endpoint_counts():
    rig = Rig(breaker=False)
    rig.attempt().served(200)
    rig.attempt().served(500)
    rig.attempt().failed(responding=False)
    rig.attempt().stale(again=False)
    rig.attempt().withdrawn(by_client=True)
    assert rig.attempt().probed(99.0)
    assert rig.counts == {
        "requests": 6,
        "success": 2,
        "failed": 2,
        "client_disconnected": 1,
        "active": 1,
        "upstream_5xx": 1,
    }


# -- probes


def test_a_probe_that_is_served_closes_its_part_of_the_breaker(rig):
    rig.open()
    rig.at(31.0)
    first, second = rig.attempt(), rig.attempt()
    assert first.probe and second.probe
    assert (rig.breaker.state, rig.breaker.probes, rig.engine.probes) == (
        HALF_OPEN,
        2,
        [first.probed, second.probed],
    )
    assert not first.probed(31.0)
    first.served(200)
    assert first.probed(31.1), "it ended"
    assert rig.engine.open_breakers == 1
    second.served(200)
    assert (rig.breaker.state, rig.engine.open_breakers) == (CLOSED, 0)


def test_a_probe_that_failed_opens_it_again(rig):
    rig.open()
    rig.at(31.0)
    rig.attempt().failed(responding=False)
    assert (rig.breaker.state, rig.breaker.opened_at) == (OPEN, 31.0)


@pytest.mark.parametrize("end", ["stale", "withdrawn"])
def test_a_probe_that_says_nothing_gives_its_place_back(rig, end):
    rig.open()
    rig.at(31.0)
    getattr(rig.attempt(), end)(True)
    assert (rig.breaker.state, rig.breaker.probes) == (HALF_OPEN, 0)


@pytest.mark.parametrize("responding, successes", [(True, 1), (False, 0)])
def test_after_the_breakers_timeout_a_probe_is_judged_by_what_came(rig, responding, successes):
    rig.open()
    rig.at(31.0)
    probe = rig.attempt()
    rig.owner.responding = responding
    assert not probe.probed(60.9)
    assert probe.probed(61.0)
    assert (rig.breaker.successes, rig.breaker.probes) == (successes, 0)
    probe.served(200) if responding else probe.failed(responding=False)
    assert (rig.breaker.successes, rig.breaker.state) == (successes, HALF_OPEN), "it was told already"
    assert probe.probed(61.1)


def test_the_last_probe_that_is_judged_early_closes_it(rig):
    rig.open()
    rig.at(31.0)
    rig.attempt().served(200)
    late = rig.attempt()
    rig.owner.responding = True
    assert late.probed(61.0)
    assert (rig.breaker.state, rig.engine.open_breakers) == (CLOSED, 0)


def test_b9_a_probe_acts_on_its_own_breaker_only(rig):
    """A probe was remembered by its exchange: after a failover its time acted on the other endpoint's breaker."""
    rig.open()
    rig.at(31.0)
    probe = rig.attempt()
    other = Route(rig.endpoint, rig.route.pool, CircuitBreaker(9, 30.0, 2))
    probe.withdrawn(by_client=False)
    elsewhere = Attempt(rig.engine, rig.owner)
    elsewhere.begin(other)
    other.breaker.failures = 4
    assert probe.probed(99.0)
    assert other.breaker.failures == 4
    elsewhere.failed(responding=False)
    assert other.breaker.failures == 5


@pytest.mark.parametrize("before, after", [(False, True), (True, False), (True, True)])
def test_b7_a_breaker_that_came_later_is_not_told(before, after):
    rig = Rig(breaker=before)
    attempts = [rig.attempt() for _ in range(4)]
    rig.route.breaker = CircuitBreaker(2, 30.0, 2) if after else None
    attempts[0].failed(responding=False)
    attempts[1].withdrawn(by_client=True)
    attempts[2].served(500)
    attempts[3].stale(again=False)
    assert rig.breaker.failures == (1 if before else 0)
    assert rig.route.breaker is None or rig.route.breaker.failures == 0
