"""Endpoints are checked on a schedule of their own, and traffic that fails hurries the next check."""

from __future__ import annotations

import threading
import time

import pytest

from tests.contract.peers import Endpoint, Peer, answering
from tests.contract.running import WORKERS, until

QUICK = {
    "health__enabled": True,
    "health__path": "/alive",
    "health__interval": "100ms",
    "health__timeout": "500ms",
    "health__unhealthy_after": 2,
    "health__healthy_after": 2,
    "proxy__load_balancer": "round-robin",
}


class Checked(Endpoint):
    """An endpoint whose answer to checks can be changed while it runs."""

    def __init__(self, name: str, status: str = "200 OK") -> None:
        super().__init__(name)
        self.status = status
        self.checks: list[str] = []
        self.serve(self._play)

    def _play(self, peer: Peer) -> None:
        request = peer.request()
        if request.target == "/work":
            peer.respond(self.name.encode())
            return
        self.checks.append(request.target)
        if self.status == "silence":
            peer.receive(1)
        peer.respond(b"", status=self.status)


def work(proxy, count: int = 4) -> set[bytes]:
    """Which endpoints answer."""
    with proxy.client() as client:
        return {client.get("/work").response().body for _ in range(count)}


@pytest.mark.promise("HEALTH-ACTIVE")
@pytest.mark.parametrize("sickness", ["500 Sick", "404 Gone", "silence"])
def test_unhealthy_after_n_failures_and_back_after_m_successes(start, sickness):
    with Checked("a") as a, Checked("b") as b:
        proxy = start(a, b, **{**QUICK, "health__timeout": "100ms"})
        until(lambda: a.checks and b.checks, "checks begin")
        assert work(proxy) == {b"a", b"b"}
        a.status = sickness
        until(lambda: proxy.healthy() == {"a": False, "b": True}, "a is unhealthy")
        assert work(proxy) == {b"b"}
        a.status = "200 OK"
        until(lambda: proxy.healthy() == {"a": True, "b": True}, "a is healthy again")
        assert work(proxy) == {b"a", b"b"}


@pytest.mark.promise("HEALTH-ACTIVE")
def test_one_failure_is_not_enough(start):
    with Checked("a") as a:
        proxy = start(a, **{**QUICK, "health__unhealthy_after": 3, "health__interval": "50ms"})
        for _ in range(3):
            a.status = "500 Sick"
            seen = len(a.checks)
            until(lambda seen=seen: len(a.checks) > seen, "a check fails")
            a.status = "200 OK"
            seen = len(a.checks)
            until(lambda seen=seen: len(a.checks) > seen + 1, "two checks succeed")
            assert proxy.healthy() == {"a": True}


@pytest.mark.promise("HEALTH-ALIVE")
def test_credentials_and_quotas_do_not_mean_dead(start):
    statuses = {"a": "401 Unauthorized", "b": "403 Forbidden", "c": "429 Too Many Requests"}
    with Checked("a", statuses["a"]) as a, Checked("b", statuses["b"]) as b, Checked("c", statuses["c"]) as c:
        proxy = start(a, b, c, **QUICK)
        until(lambda: min(len(e.checks) for e in (a, b, c)) >= 4, "four checks of each")
        assert proxy.healthy() == {"a": True, "b": True, "c": True}


@pytest.mark.promise("HEALTH-PASSIVE")
@pytest.mark.one_worker  # the one that saw the failure; the others find out by their own checks
def test_a_failure_in_traffic_makes_the_next_check_immediate(start, endpoint):
    """Recovery, and leaving out, are not tied to a tick of 30 s."""
    checks = []

    def play(peer: Peer) -> None:
        if peer.request().target == "/alive" and not checks:
            peer.respond()
            checks.append("alive")
        else:
            peer.close()

    endpoint.serve(play)
    proxy = start(endpoint, **{**QUICK, "health__interval": "60s", "health__unhealthy_after": 1})
    until(lambda: checks, "the first check, which succeeds")
    began = time.monotonic()
    with proxy.client() as client:
        assert client.post(b"x").response().status == 502
    until(lambda: proxy.healthy() == {"a": False}, "it was checked at once")
    assert time.monotonic() - began < 5


@pytest.mark.promise("HEALTH-PASSIVE")
def test_a_failure_in_traffic_alone_does_not_take_an_endpoint_out(start, endpoint):
    def play(peer: Peer) -> None:
        if peer.request().target == "/alive":
            peer.respond()
        else:
            peer.close()

    endpoint.serve(play)
    proxy = start(endpoint, **{**QUICK, "proxy__circuit_breaker": {"enabled": False}})
    with proxy.client() as client:
        for _ in range(5):
            assert client.post(b"x").response().status == 502
    assert proxy.healthy() == {"a": True}


@pytest.mark.promise("HEALTH-PER-ENDPOINT")
def test_an_endpoint_may_have_its_own_path_and_interval(start):
    with Checked("a") as a, Checked("b") as b:
        own = {"name": "b", "url": b.url, "health": {"path": "/ready", "interval": "50ms"}}
        start(a, own, **{**QUICK, "health__interval": "60s"})
        until(lambda: len(b.checks) >= 4, "checks of b")
        assert set(b.checks) == {"/ready"}
        assert a.checks == ["/alive"] * len(a.checks)
        assert len(a.checks) <= WORKERS, "each worker checks for itself"


@pytest.mark.promise("HEALTH-OFF")
def test_checks_can_be_switched_off(start, endpoint):
    endpoint.serve(answering())
    start(endpoint)
    time.sleep(0.2)
    assert endpoint.accepted == 0


@pytest.mark.promise("HEALTH-PATH")
@pytest.mark.parametrize("there", ["/health", "/v1/models", "/api/version"])
def test_without_a_path_the_check_finds_one_that_the_server_has(start, endpoint, there):
    """llama.cpp and vLLM, an OpenAI look-alike, Ollama: each has another one."""
    asked = []

    def play(peer: Peer) -> None:
        asked.append(peer.request().target)
        peer.respond(b"", status="200 OK" if asked[-1] == there else "404 Not Found")

    endpoint.serve(play)
    proxy = start(endpoint, **{**QUICK, "health__path": None})
    until(lambda: asked.count(there) >= 4 * WORKERS, "the path is asked again and again")
    assert proxy.healthy() == {"a": True}
    if WORKERS == 1:
        assert asked[-3:] == [there] * 3, "the others are not asked again"


@pytest.mark.promise("HEALTH-PASSIVE")
@pytest.mark.one_worker
def test_a_failure_in_traffic_during_a_check_is_checked_on_its_own(start, endpoint):
    """The check in flight may have asked before the failure; the next one by the schedule is a minute away."""
    checks = []

    def play(peer: Peer) -> None:
        if peer.request().target != "/alive":
            peer.close()
            return
        checks.append(time.monotonic())
        if len(checks) == 1:
            until(failed.is_set, "the failure in traffic")
        peer.respond()

    failed = threading.Event()
    endpoint.serve(play)
    proxy = start(endpoint, **{**QUICK, "health__interval": "60s", "health__timeout": "20s"})
    until(lambda: checks, "the first check")
    with proxy.client() as client:
        assert client.post(b"x").response().status == 502
    time.sleep(0.3)  # longer than the gap between two checks: the hurried one is due while the first is in flight
    assert len(checks) == 1
    failed.set()
    until(lambda: len(checks) == 2, "another check")


@pytest.mark.promise("LIFE-SAME-ENDPOINT")
def test_a_reload_that_leaves_an_endpoint_leaves_its_health(start):
    with Checked("a", "500 Sick") as a, Checked("b") as b:
        proxy = start(a, b, **QUICK)
        until(lambda: proxy.healthy() == {"a": False, "b": True}, "a is unhealthy")
        asked = b"".join(sorted(work(proxy, 8)))
        changed = [{"name": e.name, "url": e.url, "priority": 7} for e in (a, b)]
        settings = {key.replace("__", "."): value for key, value in QUICK.items()}
        proxy.reload(changed, {**settings, "health.interval": "30s", "health.unhealthy_after": 50})
        assert proxy.healthy() == {"a": False, "b": True}
        assert asked == b"b" == b"".join(sorted(work(proxy, 8)))
