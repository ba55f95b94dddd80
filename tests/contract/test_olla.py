"""What only Olla promises: the circuit breaker, adaptive flushing, and that each idea can be switched off alone."""

from __future__ import annotations

import time

import pytest

from tests.contract.peers import Cut, Silence, answering, free_port
from tests.contract.running import settled

BREAKER = {"failure_threshold": 3, "timeout": "400ms", "half_open_requests": 2}


def breaker(proxy, name: str = "a") -> dict:
    """What the status says of an endpoint's breaker."""
    return proxy.status()["endpoints"][name]["circuit_breaker"]


def fail(proxy, endpoint, count: int = 1) -> None:
    """Requests that their endpoint closes without an answer."""
    for _ in range(count):
        with proxy.client() as client:
            client.post(b"x")
            peer = endpoint.accept()
            peer.request()
            peer.close()
            assert client.response().status == 502


@pytest.mark.promise("BREAKER-OPENS")
@pytest.mark.one_worker
def test_it_opens_after_that_many_consecutive_failures_and_fails_fast(start_olla, endpoint):
    """Claim C10."""
    proxy = start_olla(endpoint, proxy__circuit_breaker={**BREAKER, "timeout": "30s"})
    fail(proxy, endpoint, 2)
    assert breaker(proxy)["state"] == "closed"
    fail(proxy, endpoint)
    assert breaker(proxy)["state"] == "open"
    assert proxy.stats()["proxy.circuit_breaker.open"] == 1
    with proxy.client() as client:
        began = time.monotonic()
        answer = client.get().response()
        assert answer.status == 503, "never a 502 from a breaker that could have been avoided"
        assert int(str(answer.get("Retry-After"))) > 0
        assert time.monotonic() - began < 1
    assert endpoint.untouched()


@pytest.mark.promise("BREAKER-OPENS")
@pytest.mark.one_worker
def test_a_complete_exchange_resets_the_count(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    for _ in range(3):
        fail(proxy, endpoint, 2)
        with proxy.client() as client:
            client.get()
            peer = endpoint.accept()
            peer.request()
            peer.respond(b"ok", "Connection: close")
            assert client.response().status == 200
    assert breaker(proxy)["state"] == "closed"


@pytest.mark.promise("BREAKER-AVOIDED")
@pytest.mark.one_worker
def test_an_endpoint_with_an_open_breaker_is_no_candidate(start_olla, endpoint):
    endpoint.serve(answering())
    dead = {"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}
    proxy = start_olla(
        endpoint, dead, proxy__load_balancer="round-robin", proxy__circuit_breaker={**BREAKER, "timeout": "30s"}
    )
    with proxy.client() as client:
        for _ in range(20):
            assert client.get().response().status == 200
    assert breaker(proxy, "dead")["state"] == "open"
    rows = settled(proxy.stats, success=20)["endpoints"]
    assert rows["dead"]["requests"] == 3


@pytest.mark.promise("BREAKER-HALF-OPEN")
@pytest.mark.one_worker
def test_after_its_timeout_probes_are_admitted_and_success_closes_it(start_olla, endpoint):
    """The seed configures half-open and never codes the way there."""
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    fail(proxy, endpoint, 3)
    time.sleep(0.5)
    with proxy.client() as first, proxy.client() as second, proxy.client() as third:
        first.get()
        probe = endpoint.accept()
        probe.request()
        second.get()
        other = endpoint.accept()
        other.request()
        assert breaker(proxy)["state"] == "half-open"
        assert third.get().response().status == 503, "no more probes at once than configured"
        probe.respond()
        assert first.response().status == 200
        assert breaker(proxy)["state"] == "half-open"
        other.respond()
        assert second.response().status == 200
        assert breaker(proxy)["state"] == "closed"


@pytest.mark.promise("BREAKER-HALF-OPEN")
@pytest.mark.one_worker
def test_one_failed_probe_opens_it_again(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    fail(proxy, endpoint, 3)
    time.sleep(0.5)
    fail(proxy, endpoint)
    assert breaker(proxy)["state"] == "open"
    with proxy.client() as client:
        assert client.get().response().status == 503


@pytest.mark.promise("BREAKER-STRAGGLERS")
@pytest.mark.one_worker
@pytest.mark.parametrize("end", ["success", "failure"])
def test_results_of_requests_from_before_it_opened_change_nothing(start_olla, endpoint, end):
    """The seed closes an open breaker on the late success of an old request."""
    proxy = start_olla(endpoint, proxy__circuit_breaker={**BREAKER, "timeout": "1s"})
    with proxy.client() as old:
        old.get("/old", method="POST")
        straggler = endpoint.accept()
        straggler.request()
        fail(proxy, endpoint, 3)
        assert breaker(proxy)["state"] == "open"
        opened = time.monotonic()
        time.sleep(0.5)
        straggler.respond() if end == "success" else straggler.close()
        assert old.response().status == (200 if end == "success" else 502)
        assert breaker(proxy)["state"] == "open"
        time.sleep(max(0.0, 1.15 - (time.monotonic() - opened)))
        with proxy.client() as client:
            client.get()
            peer = endpoint.accept()  # a probe's connection is fresh
            peer.request()
            peer.respond()
            assert client.response().status == 200, "half-open when it was due, not later"


@pytest.mark.promise("BREAKER-STRIKES")
@pytest.mark.one_worker
def test_cut_streams_timeouts_and_connect_errors_are_strikes(start_olla, endpoint):
    proxy = start_olla(
        endpoint,
        proxy__circuit_breaker={**BREAKER, "timeout": "30s"},
        proxy__response_header_timeout="200ms",
    )
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"one")
        client.response_head()
        peer.close()
        with pytest.raises(Cut):
            client._chunked()
    assert breaker(proxy)["failures"] == 1
    with proxy.client() as client:
        client.post(b"x")
        endpoint.accept().request()
        assert client.response().status == 504
    assert breaker(proxy)["failures"] == 2
    endpoint._sock.close()
    with proxy.client() as client:
        assert client.get().response().status == 502
    assert breaker(proxy)["state"] == "open"


@pytest.mark.promise("BREAKER-STRIKES")
@pytest.mark.one_worker
def test_client_errors_and_stale_connections_are_no_strikes(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker={**BREAKER, "failure_threshold": 1})
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(status="404 Not Found")
        assert client.response().status == 404
        client.get()
        peer.request()
        peer.close()  # a stale connection
        fresh = endpoint.accept()
        fresh.request()
        fresh.respond(status="400 Bad Request")
        assert client.response().status == 400
    assert breaker(proxy)["state"] == "closed"


@pytest.mark.promise("BREAKER-5XX")
@pytest.mark.one_worker
@pytest.mark.parametrize("counted", [False, True])
def test_5xx_are_strikes_if_asked_for(start_olla, endpoint, counted):
    endpoint.serve(answering(status="500 Oops"))
    proxy = start_olla(endpoint, proxy__circuit_breaker={**BREAKER, "timeout": "30s", "count_5xx": counted})
    with proxy.client() as client:
        for _ in range(3):
            assert client.get().response().status == 500
        assert client.get().response().status == (503 if counted else 500)
    assert breaker(proxy)["state"] == ("open" if counted else "closed")


@pytest.mark.promise("BREAKER-OFF")
@pytest.mark.one_worker
def test_it_can_be_switched_off(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker={**BREAKER, "enabled": False, "failure_threshold": 1})
    fail(proxy, endpoint, 4)
    assert "circuit_breaker" not in proxy.status()["endpoints"]["a"]


SWITCHES = [
    {"proxy__pools": {"per_endpoint": False}},
    {"proxy__pools": {"buffers": True}},
    {"proxy__pools": {"contexts": False}},
    {"proxy__pools": {"errors": False}},
    {"proxy__circuit_breaker": {"enabled": False}},
    {"proxy__flush": {"policy": "every-read"}},
    {"proxy__buffer_size": "4KiB"},
    {"proxy__buffer_size": "1MiB"},
]


@pytest.mark.promise("OLLA-SWITCHES")
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_behaviour_stays_correct_with_each_idea_switched_off_alone(start_olla, endpoints, switch):
    """A smoke of it; `make test-matrix` runs the whole suite with each."""
    a, b = endpoints(2)
    body = bytes(range(256)) * 1000
    for endpoint in (a, b):
        endpoint.serve(answering(body))
    proxy = start_olla(a, b, {"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}, **switch)
    with proxy.client() as client:
        for _ in range(6):
            assert client.post(b"x" * 5000).response().body == body
        assert client.send(b"broken\r\n\r\n").response().status in (400, 501)
    settled(proxy.stats, success=6, failed=0)


@pytest.mark.promise("FLUSH-ADAPTIVE")
@pytest.mark.one_worker
def test_the_end_of_a_body_is_never_held(start_olla, endpoint):
    proxy = start_olla(endpoint)
    with proxy.client() as client:
        for size in (1, 1023, 1024, 4096, 65_536, 70_000, 200_000):
            client.get()
            peer = endpoint.accept() if size == 1 else peer  # noqa: F821  # bound by the first turn
            peer.request()
            began = time.monotonic()
            peer.respond(b"x" * size)
            assert len(client.response().body) == size
            assert time.monotonic() - began < 1


@pytest.mark.promise("FLUSH-ADAPTIVE")
@pytest.mark.one_worker
@pytest.mark.parametrize("policy", ["adaptive", "every-read"])
def test_no_byte_waits_longer_than_the_interval(start_olla, endpoint, policy):
    """Reads that are large are gathered, but no longer than the interval, here with the slack of a busy machine."""
    proxy = start_olla(endpoint, proxy__flush={"policy": policy, "interval": "50ms"})
    waits = []
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 600000\r\n\r\n")
        client.response_head()
        for _ in range(20):
            began = time.monotonic()
            peer.send(b"x" * 30_000)
            client.receive(30_000)
            waits.append(time.monotonic() - began)
    assert sorted(waits)[10] < 0.05, waits


@pytest.mark.promise("OLLA-BUFFERS")
@pytest.mark.one_worker
def test_idle_streams_hold_no_buffer(start_olla, endpoint):
    """64 KiB for each of 2,000 streams would be 125 MiB."""
    proxy = start_olla(endpoint, proxy__max_conns_per_host=0, proxy__pools={"buffers": True})
    clients = [proxy.client().get() for _ in range(30)]
    for client in clients:
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"token")
        client.response_head()
        client.receive_until(b"token")
    stats = proxy.stats()
    assert stats["proxy.active_connections"] == 30
    assert stats["proxy.pool.buffer.active"] <= 2
    assert stats["proxy.pool.buffer.created"] >= 1, "the loop asks for them"
    for client in clients:
        client.close()
    settled(proxy.stats, client_disconnected=30)


@pytest.mark.promise("OLLA-POOLS")
@pytest.mark.one_worker
def test_the_pool_uses_the_connection_that_was_used_last(start_olla, endpoint):
    proxy = start_olla(endpoint)
    with proxy.client() as first, proxy.client() as second:
        first.get()
        second.get()
        one, two = endpoint.accept(), endpoint.accept()
        for peer in (one, two):
            peer.request()
        one.respond()
        first.response() if not first.silent(0.2) else second.response()
        two.respond()
        time.sleep(0.05)
        with proxy.client() as third:
            third.get()
            with pytest.raises(Silence):
                one.sock.settimeout(0.1)
                one.request()
            two.request()
            two.respond()
            assert third.response().status == 200


@pytest.mark.promise("LIFE-SAME-ENDPOINT")
@pytest.mark.one_worker
def test_a_reload_that_leaves_an_endpoint_leaves_its_breaker_and_its_idle_connections(start_olla, endpoint):
    dead = {"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}
    endpoint.serve(answering())
    proxy = start_olla(
        endpoint, dead, proxy__load_balancer="round-robin", proxy__circuit_breaker={**BREAKER, "timeout": "30s"}
    )
    with proxy.client() as client:
        for _ in range(12):
            client.get().response()
    assert breaker(proxy, "dead")["state"] == "open"
    proxy.reload(
        [{"name": "a", "url": endpoint.url, "priority": 3, "max_conns_per_host": 7}, {**dead, "priority": 3}],
        {
            "proxy.load_balancer": "round-robin",
            "proxy.circuit_breaker": {**BREAKER, "timeout": "30s"},
            "health.unhealthy_after": 2,
        },
    )
    assert breaker(proxy, "dead")["state"] == "open"
    assert proxy.status()["endpoints"]["a"]["pool"]["max_conns"] == 7
    with proxy.client() as client:
        client.get().response()
    assert endpoint.accepted == 1


@pytest.mark.promise("POOL-LIMIT")
@pytest.mark.one_worker
@pytest.mark.parametrize("per_endpoint", [True, False])
def test_a_limit_that_a_reload_lifts_lets_those_in_that_wait(start_olla, endpoint, per_endpoint):
    pools = {"per_endpoint": per_endpoint}
    proxy = start_olla(endpoint, proxy__max_conns_per_host=1, proxy__pool_wait_timeout="8s", proxy__pools=pools)
    with proxy.client() as first, proxy.client() as second:
        first.get()
        endpoint.accept().request()
        second.get()
        assert endpoint.untouched(0.2)
        settings = {"proxy.max_conns_per_host": 2, "proxy.pool_wait_timeout": "8s", "proxy.pools": pools}
        proxy.reload([endpoint], settings)
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"second")
        assert second.response().body == b"second"
