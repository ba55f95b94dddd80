"""The counts: names as the seed has them, and an identity that holds at every moment."""

from __future__ import annotations

import random
import threading

import pytest

from tests.contract.peers import Broken, Cut, Silence, answering, free_port
from tests.contract.running import assert_identity, settled

SEED_NAMES = [
    "proxy.requests.total",
    "proxy.requests.success",
    "proxy.requests.failed",
    "proxy.latency.p50",
    "proxy.latency.p95",
    "proxy.latency.p99",
    "proxy.active_connections",
]
OLLA_NAMES = [
    "proxy.circuit_breaker.open",
    "proxy.pool.buffer.active",
    "proxy.pool.buffer.created",
    "proxy.transport.connections.active",
]


@pytest.mark.promise("STATS-NAMES")
def test_the_names_are_the_seed_s(start, endpoint):
    endpoint.serve(answering())
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get().response()
    stats = settled(proxy.stats, total=1)
    assert set(SEED_NAMES) <= set(stats)
    assert set(stats["endpoints"]["a"]) >= {"requests", "success", "failed", "client_disconnected", "active"}


@pytest.mark.promise("STATS-NAMES-OLLA")
def test_olla_adds_its_own(start_olla, endpoint):
    endpoint.serve(answering())
    proxy = start_olla(endpoint)
    with proxy.client() as client:
        client.get().response()
    assert set(OLLA_NAMES) <= set(settled(proxy.stats, total=1))


@pytest.mark.promise("STATS-MEANING")
def test_a_forwarded_error_is_a_success_and_counted_beside(start, endpoint):
    endpoint.serve(answering(status="503 Busy"))
    proxy = start(endpoint)
    with proxy.client() as client:
        assert client.get().response().status == 503
    stats = settled(proxy.stats, total=1, success=1, failed=0)
    assert stats["proxy.upstream.5xx"] == 1
    assert stats["endpoints"]["a"]["upstream_5xx"] == 1


@pytest.mark.promise("STATS-MEANING")
def test_an_answer_of_the_proxy_s_own_is_a_failure(start):
    proxy = start({"name": "a", "url": f"http://127.0.0.1:{free_port()}"})
    with proxy.client() as client:
        assert client.get().response().status == 502
    settled(proxy.stats, total=1, success=0, failed=1)


@pytest.mark.promise("STATS-MEANING")
def test_a_retried_request_is_one_request(start, endpoint):
    """The real product's counts disagree after retries."""
    endpoint.serve(answering())
    dead = [{"name": name, "url": f"http://127.0.0.1:{free_port()}"} for name in ("x", "y")]
    proxy = start(*dead, endpoint)
    with proxy.client() as client:
        for _ in range(3):
            assert client.get().response().status == 200
    settled(proxy.stats, total=3, success=3, failed=0)


@pytest.mark.promise("STATS-MEANING")
def test_a_head_that_never_parsed_is_refused_and_outside_the_identity(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"garbage\r\n\r\n").response()
    settled(proxy.stats, total=0, failed=0, refused=1)


@pytest.mark.promise("STATS-MEANING")
def test_active_counts_what_is_in_flight(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        stats = proxy.stats()
        assert stats["proxy.active_connections"] == 1
        assert stats["endpoints"]["a"]["active"] == 1
        assert_identity(stats)
        peer.respond()
        client.response()
    assert settled(proxy.stats, success=1)["endpoints"]["a"]["active"] == 0


@pytest.mark.promise("STATS-LATENCY")
def test_latency_runs_from_the_head_to_the_last_byte(start, endpoint):
    import time

    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        time.sleep(0.2)
        peer.chunk(b"")
        client.response()
    stats = settled(proxy.stats, success=1)
    assert 0.19 < stats["proxy.latency.p50"] < 2
    assert stats["proxy.latency.p50"] == stats["proxy.latency.p99"]


@pytest.mark.promise("STATS-IDENTITY")
def test_the_identity_holds_under_a_storm(start, endpoints):
    """Clients leave, endpoints fail in every way, and every request ends in exactly one of the three."""
    a, b, c = endpoints(3)
    chance = random.Random(4)
    lock = threading.Lock()

    def play(peer):
        peer.request()
        with lock:
            kind = chance.randrange(7)
        match kind:
            case 0:
                peer.respond()
            case 1:
                peer.begin_chunked().chunk(b"one").chunk(b"two").chunk(b"")
            case 2:
                peer.close()
            case 3:
                peer.reset()
            case 4:
                peer.begin_chunked().chunk(b"one")
                peer.close()
            case 5:
                peer.send(b"garbage\r\n\r\n")
            case 6:
                peer.respond(status="500 Oops")

    for endpoint in (a, b, c):
        endpoint.serve(play)
    proxy = start(
        a,
        b,
        c,
        {"name": "dead", "url": f"http://127.0.0.1:{free_port()}"},
        proxy__response_header_timeout="500ms",
        proxy__circuit_breaker={"timeout": "100ms"},
    )
    seen = []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            seen.append(proxy.stats())

    def storm(seed: int):
        mine = random.Random(seed)
        for _ in range(25):
            client = proxy.client()
            client.sock.settimeout(5)
            try:
                if mine.random() < 0.5:
                    client.get()
                else:
                    client.post(b"x" * mine.choice([10, 100_000]))
                if mine.random() < 0.3:
                    client.reset()
                else:
                    client.response()
            except (Cut, Broken, Silence, OSError):
                pass
            finally:
                client.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    for stats in seen:
        assert_identity(stats)
    stats = settled(proxy.stats)
    assert_identity(stats)
    assert stats["proxy.requests.total"] > 100
    for name, row in stats["endpoints"].items():
        assert row["active"] == 0, name
        assert row["requests"] == row["success"] + row["failed"] + row["client_disconnected"], (name, row)
