"""Starting, stopping and taking a new config, with streams in flight."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.peers import PATIENCE, Cut, answering
from tests.contract.running import ProcessProxy, connect, settled, until


def stream(proxy, endpoint):
    """A stream that has begun: its client and the endpoint's end."""
    client = proxy.client()
    client.get()
    peer = endpoint.accept()
    peer.request()
    peer.begin_chunked().chunk(b"begun")
    client.response_head()
    client.receive_until(b"begun\r\n")
    return client, peer


@pytest.mark.promise("LIFE-STOP")
def test_a_stream_may_finish_within_the_grace_period(start, endpoint):
    proxy = start(endpoint, server__shutdown_timeout="5s")
    client, peer = stream(proxy, endpoint)
    wait = proxy.begin_stop(5)
    time.sleep(0.1)
    peer.chunk(b"more").chunk(b"")
    assert client.receive_until(b"0\r\n\r\n").endswith(b"4\r\nmore\r\n0\r\n\r\n")
    began = time.monotonic()
    wait()
    assert time.monotonic() - began < 3, "it does not sit out its grace period"
    assert client.ended() in ("closed", "reset"), "and the connection is not kept"


@pytest.mark.promise("LIFE-STOP")
def test_a_request_that_waits_for_its_answer_may_finish(start, endpoint):
    proxy = start(endpoint, server__shutdown_timeout="5s")
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        wait = proxy.begin_stop(5)
        time.sleep(0.1)
        peer.respond(b"done")
        answer = client.response()
        assert answer.body == b"done"
        wait()
        assert client.ended() in ("closed", "reset")


@pytest.mark.promise("LIFE-STOP")
def test_no_new_connection_is_accepted_while_it_stops(start, endpoint):
    proxy = start(endpoint, server__shutdown_timeout="5s")
    client, peer = stream(proxy, endpoint)
    wait = proxy.begin_stop(5)
    time.sleep(0.2)
    with pytest.raises((OSError, Cut)):
        late = connect(proxy.port)
        late.get().response()
    peer.chunk(b"")
    client.receive_until(b"0\r\n\r\n")
    wait()


@pytest.mark.promise("LIFE-STOP")
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n"])
def test_a_request_on_a_connection_that_was_accepted_just_before_is_served(start, endpoint, begun):
    """A worker that is replaced would lose it, while the others go on serving."""
    endpoint.serve(answering(b"served"))
    proxy = start(endpoint, server__shutdown_timeout="5s")
    with proxy.client() as client:
        client.send(begun)
        until(lambda: proxy.stats()["proxy.client_connections"] == 1, "it is accepted")
        wait = proxy.begin_stop(5)
        client.send(b"\r\n") if begun else client.get()
        assert client.response().body == b"served"
        assert client.ended() in ("closed", "reset")
        wait()


@pytest.mark.promise("LIFE-STOP")
def test_connections_that_send_no_request_are_closed_while_streams_go_on(start, endpoint):
    proxy = start(endpoint, server__shutdown_timeout="5s")
    client, peer = stream(proxy, endpoint)
    with proxy.client() as silent:
        until(lambda: proxy.stats()["proxy.client_connections"] == 2, "it is accepted")
        wait = proxy.begin_stop(5)
        assert silent.ended(4) in ("closed", "reset"), "before the grace is over"
    peer.chunk(b"")
    client.receive_until(b"0\r\n\r\n")
    wait()


@pytest.mark.promise("LIFE-GRACE")
@pytest.mark.one_worker
def test_when_the_grace_is_over_streams_are_cut_and_counted_as_failed(start, endpoint):
    proxy = start(endpoint)
    client, peer = stream(proxy, endpoint)
    began = time.monotonic()
    proxy.begin_stop(0.2)()
    assert 0.15 < time.monotonic() - began < 3
    with pytest.raises(Cut):
        client._chunked()
    assert peer.ended() in ("closed", "reset")
    settled(proxy.stats, total=1, failed=1, client_disconnected=0)


@pytest.mark.promise("LIFE-RELOAD")
def test_a_reload_replaces_endpoints_and_cuts_no_stream(start, endpoints):
    a, b = endpoints(2)
    b.serve(answering(b"b"))
    proxy = start(a)
    client, peer = stream(proxy, a)
    proxy.reload([b], {})
    with proxy.client() as other:
        assert other.get().response().body == b"b"
    peer.chunk(b"still here").chunk(b"")
    assert b"still here" in client.receive_until(b"0\r\n\r\n")
    settled(proxy.stats, success=2, failed=0)
    client.close()


@pytest.mark.promise("LIFE-RELOAD")
def test_an_unchanged_endpoint_keeps_its_connections_and_counts(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a)
    with proxy.client() as client:
        client.get()
        peer = a.accept()
        peer.request()
        peer.respond()
        client.response()
        b.close()
        proxy.reload([a, {"name": "late", "url": b.url}], {"proxy.load_balancer": "priority"})
        client.get()
        if not peer.silent(0.5):
            peer.request()
            peer.respond()
            assert client.response().status == 200
    stats = settled(proxy.stats)
    assert stats["endpoints"]["a"]["requests"] >= 1


@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_a_removed_endpoint_loses_its_connections_as_soon_as_they_are_idle(start, endpoints):
    """Who takes an endpoint out, to stop it, waits for its connections to end. Sherpa kept them `idle_conn_timeout`."""
    removed, stays = endpoints(2)
    proxy = start(removed, stays, proxy__load_balancer="round-robin")
    with proxy.client() as first, proxy.client() as second, proxy.client() as third:
        first.get()
        busy = removed.accept()
        busy.request()
        second.get()
        kept = stays.accept()
        kept.request()
        kept.respond()
        second.response()
        third.get()
        idle = removed.accept()
        idle.request()
        idle.respond()
        third.response()
        proxy.reload([stays], {"proxy.load_balancer": "round-robin"})
        assert idle.ended() == "closed"
        busy.respond()
        assert first.response().status == 200
        assert busy.ended() == "closed"
        second.get()
        kept.request()
        kept.respond()
        assert second.response().status == 200
    for peer in (busy, kept, idle):
        peer.close()


@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_a_reload_changes_the_balancer(start, endpoints):
    a, b = endpoints(2)
    for endpoint in (a, b):
        endpoint.serve(answering())
    ranked = [{"name": "a", "url": a.url, "priority": 1}, {"name": "b", "url": b.url, "priority": 2}]
    proxy = start(*ranked, proxy__load_balancer="round-robin")
    with proxy.client() as client:
        served = {client.get().response().get("X-Olla-Endpoint") for _ in range(4)}
        assert served == {"a", "b"}
        proxy.reload(ranked, {"proxy.load_balancer": "priority"})
        assert {client.get().response().get("X-Olla-Endpoint") for _ in range(4)} == {"b"}


@pytest.mark.promise("LIFE-RELOAD")
def test_a_reload_changes_timeouts(start, endpoint):
    proxy = start(endpoint)
    proxy.reload([endpoint], {"proxy.response_header_timeout": "200ms"})
    with proxy.client() as client:
        client.post(b"x")
        peer = endpoint.accept()
        peer.request()
        assert client.response().status == 504


@pytest.mark.promise("LIFE-SAME-KEYS")
def test_both_engines_take_the_seed_s_configurations(start, endpoint):
    """The seed's own blocks; a key that an engine has no use for is accepted."""
    endpoint.serve(answering())
    proxy = start(
        endpoint,
        proxy__timeout="300s",
        proxy__max_idle_conns=100,
        proxy__max_conns_per_host=50,
        proxy__idle_conn_timeout="90s",
        proxy__circuit_breaker={"failure_threshold": 5, "timeout": "30s", "half_open_requests": 3},
    )
    with proxy.client() as client:
        assert client.get().response().status == 200


@pytest.mark.promise("LIFE-PROCESS")
def test_the_whole_life_of_a_process(engine, endpoints):
    """Ready line, a SIGHUP that cuts nothing, a refused one that changes nothing, SIGTERM with exit code 0."""
    a, b = endpoints(2)
    b.serve(answering(b"b"))
    proxy = ProcessProxy(engine, [a], {"server.shutdown_timeout": "10s"})
    try:
        client, peer = stream(proxy, a)
        proxy.reload([b], {"server.shutdown_timeout": "10s"})
        with proxy.client() as other:
            assert other.get().response().body == b"b"
        good = proxy._file.read_text()
        proxy._file.write_text("proxy: {engine: nonsense}")
        proxy.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 5
        while "nonsense" not in proxy.stderr():
            assert time.monotonic() < deadline, "the refusal is logged"
            time.sleep(0.02)
        proxy._file.write_text(good)
        with proxy.client() as other:
            assert other.get().response().body == b"b", "the old config stays"
        wait = proxy.begin_stop(10)
        time.sleep(0.2)
        with pytest.raises((OSError, Cut)):
            connect(proxy.port).get().response()
        peer.chunk(b"to the end").chunk(b"")
        assert b"to the end" in client.receive_until(b"0\r\n\r\n")
        wait()
    finally:
        proxy.close()


@pytest.mark.promise("LIFE-ONE-ORDER")
@pytest.mark.parametrize("workers", [1, 2])
def test_the_order_to_stop_is_one_order_and_an_interrupt_later_cuts(engine, endpoint, workers):
    proxy = ProcessProxy(engine, [endpoint], {"server.shutdown_timeout": "30s"}, workers=workers)
    try:
        everyone = {proxy.process.pid, *(worker["pid"] for worker in proxy.status()["workers"])}
        client, peer = stream(proxy, endpoint)
        wait = proxy.begin_stop(30)
        for _ in range(3):
            for pid in everyone:
                with contextlib.suppress(ProcessLookupError):  # a worker without streams is gone at once
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.5)
        peer.chunk(b"not cut")
        client.receive_until(b"not cut\r\n")
        proxy.process.send_signal(signal.SIGINT)
        with pytest.raises(Cut):
            client._chunked()
        began = time.monotonic()
        wait()
        assert time.monotonic() - began < 20, "it does not sit out its grace period"
    finally:
        proxy.close()


@pytest.mark.promise("LIFE-WORKERS")
def test_workers_share_a_port_and_a_dead_one_is_replaced_without_losing_its_counts(engine, endpoint):
    proxy = ProcessProxy(engine, [endpoint], {}, workers=2)
    try:
        client = proxy.client()
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        assert client.response().status == 200
        settled(proxy.stats, total=1, success=1)
        client.get()  # in flight when its worker dies
        peer.request()
        assert proxy.stats()["proxy.active_connections"] == 1
        before = {worker["pid"] for worker in proxy.status()["workers"]}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while True:
            workers = [w for w in proxy.status()["workers"] if w.get("answering")]
            if len(workers) == 2 and not before & {w["pid"] for w in workers}:
                break
            assert time.monotonic() < deadline, proxy.status()
            time.sleep(0.05)
        endpoint.serve(answering())
        for _ in range(20):
            with proxy.client() as fresh:
                assert fresh.get().response().status == 200
        stats = settled(proxy.stats, total=22, success=21, failed=1)
        assert stats["endpoints"]["a"]["success"] == 21
        client.close()
    finally:
        proxy.close()


@pytest.mark.promise("LIFE-ROLLING")
def test_a_worker_that_is_signalled_to_stop_keeps_no_new_connection_waiting(engine, endpoint):
    """Its stream is held open until all others are answered, so that a request that waits for its end is Silence."""
    settings = {"server.shutdown_timeout": f"{4 * PATIENCE:g}s"}
    proxy = ProcessProxy(engine, [endpoint], settings, workers=2)
    try:
        client, peer = stream(proxy, endpoint)
        endpoint.serve(answering())
        (leaving,) = [w["pid"] for w in proxy.status()["workers"] if w["endpoints"]["a"]["active"]]
        enough = threading.Event()

        def keep_connecting():
            count = 0
            while not enough.is_set() or count < 20:
                with proxy.client() as fresh:
                    assert fresh.get().response().status == 200
                count += 1

        with ThreadPoolExecutor(4) as threads:
            try:
                connecting = [threads.submit(keep_connecting) for _ in range(4)]
                os.kill(leaving, signal.SIGTERM)
                until(
                    lambda: all(w["answering"] and w["pid"] != leaving for w in proxy.status()["workers"]),
                    "a successor serves while the stream goes on",
                )
            finally:
                enough.set()
            for each in connecting:
                each.result()
        os.kill(leaving, 0)  # raises if it is gone
        peer.chunk(b"to the end").chunk(b"")
        assert b"to the end" in client.receive_until(b"0\r\n\r\n")
    finally:
        proxy.close()


@pytest.mark.promise("LIFE-CANARY")
def test_some_workers_may_run_the_other_engine(endpoint):
    """The seed's gradual rollout."""
    endpoint.serve(answering())
    settings = {"canary.engine": "olla", "canary.workers": 1}
    proxy = ProcessProxy("sherpa", [endpoint], settings, workers=2)
    try:
        for _ in range(30):
            with proxy.client() as client:
                assert client.get().response().status == 200
        stats = settled(proxy.stats, total=30, success=30)
        assert set(stats["engines"]) == {"sherpa", "olla"}
        by_engine = {name: row["proxy.requests.total"] for name, row in stats["engines"].items()}
        assert sum(by_engine.values()) == 30
        assert all(by_engine.values()), by_engine
    finally:
        proxy.close()
