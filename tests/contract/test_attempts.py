"""What a try on an endpoint may cost, how it ends, and that none touches another. Tests name the row of their bug."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from tests.contract.peers import Client, Cut, answering, free_port, full_backlog
from tests.contract.running import WORKERS, connect, settled
from tests.contract.test_olla import breaker, fail

BREAKER = {"failure_threshold": 3, "timeout": "30s", "half_open_requests": 2}


def dead(*names: str) -> list[dict[str, str]]:
    """Endpoints that refuse connections."""
    return [{"name": name, "url": f"http://127.0.0.1:{free_port()}"} for name in names]


# -- budget


@pytest.mark.promise("RETRY-BUDGET")
@pytest.mark.parametrize("attempts, asked", [(2, 2), (0, 5)])
def test_b19_a_request_goes_to_so_many_endpoints_and_no_further(start, attempts, asked):
    proxy = start(*dead(*"abcde"), proxy__retry={"max_attempts": attempts})
    with proxy.client() as client:
        assert client.get().response().status == 502
    stats = settled(proxy.stats, total=1, failed=1)
    assert sum(row["requests"] for row in stats["endpoints"].values()) == asked
    assert sum(row["failed"] for row in stats["endpoints"].values()) == asked


@pytest.mark.promise("RETRY-BUDGET")
def test_b19_after_its_time_no_further_try_begins(start, endpoint):
    endpoint.serve(answering())
    with full_backlog() as port:
        silent = {"name": "silent", "url": f"http://127.0.0.1:{port}", "priority": 2}
        proxy = start(
            silent,
            {"name": "a", "url": endpoint.url, "priority": 1},
            proxy__load_balancer="priority",
            proxy__connect_timeout="300ms",
            proxy__retry={"max_time": "100ms"},
        )
        with proxy.client() as client:
            assert client.get().response().status == 504
    assert settled(proxy.stats, failed=1)["endpoints"]["a"]["requests"] == 0


@pytest.mark.promise("TIME-MAX-DURATION")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_b2_the_cap_ends_the_exchange_and_is_no_reason_to_try_elsewhere(start, endpoints, method):
    """It went to the next endpoint and forgot itself, and was held against the first."""
    a, b = endpoints(2)
    proxy = start(a, b, proxy__max_duration="300ms")
    with proxy.client() as client:
        client.post(b"x", method=method)
        assert client.response(method).status == 504
    stats = settled(proxy.stats, failed=1)
    assert sum(row["requests"] for row in stats["endpoints"].values()) == 1
    if proxy.engine == "olla":
        assert {breaker(proxy, name)["failures"] for name in "ab"} == {0}


# -- stale connections


def answer_on_idle(proxy, endpoint, count: int):
    """So many idle connections to the endpoint, each of which has served."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.client()) for _ in range(count)]
        peers = []
        for client in clients:
            client.get()
            peers.append(endpoint.accept())
            peers[-1].request()
        for client, peer in zip(clients, peers, strict=True):
            peer.respond()
            assert client.response().status == 200
    return peers


@pytest.mark.promise("RETRY-STALE")
@pytest.mark.one_worker
def test_b29_after_one_stale_connection_the_others_are_not_used_again(start, endpoint):
    """With twenty of them an endpoint that takes each POST and closes would be blamed for none."""
    proxy = start(endpoint)
    peers = answer_on_idle(proxy, endpoint, 4)
    with proxy.client() as client:
        client.post(b"x")
        (used,) = [peer for peer in peers if not peer.silent(0.1)]
        used.request()
        used.close()
        assert client.response().status == 502
        assert {peer.ended() for peer in peers if peer is not used} == {"closed"}
        client.post(b"y")
        fresh = endpoint.accept()
        fresh.request()
        fresh.respond()
        assert client.response().status == 200


@pytest.mark.promise("BREAKER-STRIKES")
@pytest.mark.one_worker
def test_b29_an_endpoint_that_closes_on_every_request_is_known_after_one_stale_connection(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    (idle, *_) = answer_on_idle(proxy, endpoint, 5)[::-1]
    with proxy.client() as client:
        client.post(b"x")
        idle.request()
        idle.close()
        assert client.response().status == 502
    assert breaker(proxy)["failures"] == 0
    fail(proxy, endpoint, 3)
    assert breaker(proxy)["state"] == "open"


@pytest.mark.promise("BREAKER-HALF-OPEN")
@pytest.mark.one_worker
def test_b29_a_probe_goes_over_a_fresh_connection(start_olla, endpoint):
    proxy = start_olla(
        endpoint,
        proxy__circuit_breaker={**BREAKER, "failure_threshold": 1, "timeout": "300ms"},
        proxy__max_conns_per_host=2,
    )
    idle, other = answer_on_idle(proxy, endpoint, 2)
    with proxy.client() as client:
        client.post(b"x")
        used = other if idle.silent(0.1) else idle
        used.request()
        used.send(b"rubbish\r\n\r\n")
        assert client.response().status == 502
        assert breaker(proxy)["state"] == "open"
        time.sleep(0.4)
        client.get()
        probe = endpoint.accept()
        probe.request()
        probe.respond()
        assert client.response().status == 200


# -- one try, one end


@pytest.mark.promise("GONE-BLAMELESS")
@pytest.mark.one_worker
def test_b1_clients_that_leave_while_connecting_hurt_nobody_who_comes_after(start, endpoint):
    """Their exchange is lent again at once, and the end of their connection was taken for the next request's."""
    proxy = start(endpoint)
    for _ in range(30):
        with proxy.client() as gone:
            gone.get("/gone")
            gone.reset()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.client()) for _ in range(10)]
        for client in clients:
            client.get("/here")
        endpoint.serve(answering())
        assert [client.response().status for client in clients] == [200] * 10
    stats = settled(proxy.stats, failed=0)
    assert stats["endpoints"]["a"]["failed"] == 0


@pytest.mark.promise("POOL-LIMIT")
@pytest.mark.parametrize("pool_wait", ["2s", "0s"])
def test_b6_b15_the_queue_and_the_connection_each_have_their_own_time(start, endpoint, pool_wait):
    """A request that waited for its place had only the rest of that time to connect; with 0 Sherpa's queue was bounded
    by `connect_timeout`, and Olla's connection by nothing."""
    proxy = start(
        endpoint,
        proxy__max_conns_per_host=1,
        proxy__pool_wait_timeout=pool_wait,
        proxy__connect_timeout="400ms",
    )
    with proxy.client() as first, proxy.client() as second:
        first.get("/first")
        peer = endpoint.accept()
        peer.request()
        second.post(b"x", "/second")
        time.sleep(0.8)  # longer than a connection may take, and that is no matter
        peer.respond(b"ok", "Connection: close")
        assert first.response().status == 200
        peer.close()
        fresh = endpoint.accept()
        assert fresh.request().target == "/second"
        fresh.respond()
        assert second.response().status == 200
    assert settled(proxy.stats, success=2, failed=0)["endpoints"]["a"]["failed"] == 0


@pytest.mark.promise("TIME-CONNECT")
@pytest.mark.one_worker
def test_b6_a_connection_that_is_opened_after_the_queue_has_connect_timeout(start_olla):
    with full_backlog() as port:
        proxy = start_olla(
            {"name": "a", "url": f"http://127.0.0.1:{port}"},
            proxy__max_conns_per_host=1,
            proxy__pool_wait_timeout="0s",
            proxy__connect_timeout="300ms",
        )
        with proxy.client() as first, proxy.client() as second:
            first.get()
            second.get()
            assert (first.response().status, second.response().status) == (504, 504)


@pytest.mark.promise("TIME-IDLE")
@pytest.mark.one_worker
def test_b8_silence_is_noticed_within_its_limit_and_two_ticks(start, endpoint):
    """It took up to twice the limit. (A machine that is this late for other reasons fails every test of a timeout.)"""
    proxy = start(endpoint, proxy__idle_timeout="2s")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"one")
        client.response_head()
        time.sleep(0.3)
        peer.chunk(b"two")
        last = time.monotonic()
        with pytest.raises(Cut):
            client._chunked()
        assert 1.95 < time.monotonic() - last < 3.5


def in_flight(proxy) -> int:
    """Requests in flight."""
    return int(proxy.stats()["proxy.active_connections"])


# -- answers that wait for their client


@pytest.mark.promise("LIFE-STOP")
@pytest.mark.one_worker
def test_b5_a_stop_waits_for_answers_that_are_still_in_our_memory(start, endpoint):
    body = bytes(range(256)) * 16384  # 4 MiB: beyond what two kernels hold
    endpoint.serve(answering(body))
    proxy = start(endpoint)
    with connect(proxy.port, receive_buffer=4096) as client:
        client.get()
        head = client.receive_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        stopping = threading.Thread(target=proxy.begin_stop(8.0))
        stopping.start()
        stopping.join(0.5)
        assert stopping.is_alive(), "the client has not taken it"
        assert client.receive(len(body)) == body
        stopping.join()
    if WORKERS == 1:
        assert proxy.stats()["proxy.requests.success"] == 1


@pytest.mark.promise("STATS-MEANING")
@pytest.mark.one_worker
def test_b5_a_client_that_leaves_before_it_took_its_answer_is_no_success(start, endpoint):
    endpoint.serve(answering(b"x" * 2**20))
    proxy = start(endpoint)
    with connect(proxy.port, receive_buffer=4096) as client:
        client.get()
        client.receive_until(b"\r\n\r\n")
        deadline = time.monotonic() + 5
        while proxy.status()["endpoints"]["a"]["pool"]["idle"] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        buffered = proxy.stats()["proxy.active_connections"]
        client.reset()
    if buffered:  # else the kernels took all of it, and nobody can know more
        settled(proxy.stats, client_disconnected=1, success=0)


@pytest.mark.promise("LINE-PIPELINE")
@pytest.mark.one_worker
def test_b5_the_next_request_waits_until_the_client_took_the_answer_before(start, endpoint):
    big = b"x" * 6_000_000

    def play(peer):
        while peer.request().target == "/big":
            peer.respond(big)
        peer.respond(b"small")

    endpoint.serve(play)
    proxy = start(endpoint)
    with connect(proxy.port, receive_buffer=4096) as client:
        client.get("/big").get("/small")
        head = client.receive_until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        time.sleep(0.3)
        assert in_flight(proxy) == 1
        assert client.receive(len(big)) == big
        assert client.response().body == b"small"


# -- reloads


@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_b7_a_breaker_that_a_reload_brings_disturbs_no_exchange_in_flight(start_olla, endpoint):
    """Every exchange in flight ended in an AttributeError, and those behind it in the tick lost their deadlines."""
    proxy = start_olla(
        endpoint, proxy__circuit_breaker={**BREAKER, "enabled": False}, proxy__response_header_timeout="1s"
    )
    with proxy.client() as leaves, proxy.client() as late:
        leaves.get("/leaves")
        abandoned = endpoint.accept()
        abandoned.request()
        late.post(b"x", "/late")
        endpoint.accept().request()
        proxy.reload([endpoint], {"proxy.circuit_breaker": BREAKER, "proxy.response_header_timeout": "1s"})
        leaves.close()
        assert abandoned.ended(2.0) in ("closed", "reset")
        assert late.response().status == 504
    stats = settled(proxy.stats, client_disconnected=1, failed=1)
    assert stats["endpoints"]["a"]["active"] == 0
    assert breaker(proxy)["failures"] == 0, "it did not admit that request"


@pytest.mark.promise("HDR-CREDENTIALS")
@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_b13_credentials_are_kept_back_on_open_connections_too(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/", "Authorization: Bearer secret")
        peer = endpoint.accept()
        assert peer.request().get("Authorization") == "Bearer secret"
        peer.respond()
        assert client.response().status == 200
        proxy.reload([endpoint], {"proxy.strip_credentials": True})
        client.get("/", "Authorization: Bearer secret")
        assert peer.request().get("Authorization") is None
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("LIMIT-HEAD")
@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_b13_a_smaller_limit_of_heads_holds_on_open_connections(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/", "X-Long: " + "x" * 5000)
        peer = endpoint.accept()
        peer.request()
        peer.respond()
        assert client.response().status == 200
        proxy.reload([endpoint], {"server.max_field_size": 2000})
        client.get("/", "X-Long: " + "x" * 5000)
        assert client.response().status == 431


@pytest.mark.promise("TIME-KEEP-ALIVE")
@pytest.mark.promise("LIFE-RELOAD")
@pytest.mark.one_worker
def test_b13_a_shorter_keep_alive_timeout_holds_on_open_connections(start_olla, endpoint):
    proxy = start_olla(endpoint)
    with proxy.client() as idle, proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        proxy.reload([endpoint], {"server.keep_alive_timeout": "300ms"})
        peer.respond()
        assert client.response().status == 200
        assert client.ended() == "closed"
        assert idle.ended() == "closed"


# -- heads


@pytest.mark.promise("HDR-FORWARDED")
@pytest.mark.promise("HDR-NEVER-NOMINATED")
def test_b10_a_client_cannot_strip_the_trail_by_naming_it_in_connection(start, endpoint):
    proxy = start(endpoint)
    trail = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded")
    with proxy.client() as client:
        client.get("/", "Connection: " + ", ".join(trail), *[f"{name}: outer" for name in trail])
        peer = endpoint.accept()
        seen = peer.request()
        peer.respond()
        assert seen.get("X-Forwarded-For") == "outer, 127.0.0.1"
        assert [seen.get(name) for name in trail[1:]] == ["outer"] * 3
        assert client.response().status == 200


@pytest.mark.promise("HDR-FORWARDED")
@pytest.mark.one_worker
@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
def test_b12_f8_an_address_is_forwarded_as_it_is(start, endpoint, address):
    """Not `"[::1]"`, which is RFC 7239's way in another field, nor `"[::ffff:127.0.0.1]"`: no parser takes them."""
    proxy = start(endpoint, server__host="::")
    with Client(socket.create_connection((address, proxy.port))) as client:
        client.get()
        peer = endpoint.accept()
        assert peer.request().get("X-Forwarded-For") == address
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("RESP-INVALID")
def test_b17_an_upgrade_behind_a_whole_chunked_answer_is_surplus(start, endpoint):
    def play(peer):
        peer.request()
        peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        )

    endpoint.serve(play)
    proxy = start(endpoint)
    with proxy.client() as client:
        assert client.get().response().body == b"ok"


@pytest.mark.promise("HEALTH-PASSIVE")
@pytest.mark.one_worker
def test_b20_an_answer_that_is_no_http_makes_the_next_check_immediate(start, endpoint):
    checks: list[float] = []

    def play(peer):
        if peer.request().target == "/health":
            checks.append(time.monotonic())
            peer.respond()
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")
        peer.close()

    endpoint.serve(play)
    proxy = start(endpoint, health={"enabled": True, "path": "/health", "interval": "60s"})
    deadline = time.monotonic() + 5
    while not checks and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    before = len(checks)
    with proxy.client() as client:
        assert client.get().response().status == 502
    while len(checks) == before:
        assert time.monotonic() < deadline + 5, "no check followed"
        time.sleep(0.01)


# -- the access log


@pytest.mark.promise("LOG-ONE-LINE")
def test_b18_a_line_says_what_the_client_was_sent_and_who_was_asked(engine, endpoint, capfd):
    """A 502 named nobody, a cut 200 had status 0, and a client that left 499, in one engine."""
    from tests.contract.running import ThreadProxy

    proxy = ThreadProxy(engine, [endpoint], {"server.access_log": True})
    try:
        with proxy.client() as client:
            client.post(b"x")
            peer = endpoint.accept()
            peer.request()
            peer.close()
            assert client.response().status == 502
        with proxy.client() as client:
            client.get()
            peer = endpoint.accept()
            peer.request()
            peer.begin_chunked().chunk(b"one")
            client.response_head()
            peer.close()
            with pytest.raises(Cut):
                client._chunked()
        with proxy.client() as client:
            client.get()
            peer = endpoint.accept()
            peer.request()
            client.close()
            peer.ended(5.0)
        settled(proxy.stats, total=3)
    finally:
        proxy.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    shown = [
        (line["status"], line["outcome"], line["endpoint"]) for line in lines if line.get("logger") == "proxy.access"
    ]
    assert shown == [(502, "failed", "a"), (200, "failed", "a"), (0, "client_disconnected", "a")]


# -- connections beyond the limit


@pytest.mark.promise("LIMIT-CONNECTIONS")
@pytest.mark.one_worker
def test_b21_connections_beyond_the_limit_keep_no_good_client_out(start, endpoint):
    """They lingered for two seconds and counted meanwhile."""
    endpoint.serve(answering())
    proxy = start(endpoint, server__max_connections=2)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(proxy.client()) for _ in range(2))
        assert [client.get().response().status for client in (first, second)] == [200, 200]
        for _ in range(20):  # which do not go by themselves
            stack.enter_context(proxy.client())
        deadline = time.monotonic() + 1.5
        while proxy.stats()["proxy.client_connections"] > 2:
            assert time.monotonic() < deadline, proxy.stats()
            time.sleep(0.01)
        second.close()
        while proxy.stats()["proxy.client_connections"] > 1:
            time.sleep(0.01)
        third = stack.enter_context(proxy.client())
        assert third.get().response().status == 200


# -- breakers


@pytest.mark.promise("BREAKER-TOGETHER")
@pytest.mark.one_worker
def test_d2_streams_that_one_restart_cuts_are_one_failure(start_olla, endpoint):
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    with contextlib.ExitStack() as stack:
        peers = []
        for _ in range(10):
            client = stack.enter_context(proxy.client())
            client.get()
            peer = endpoint.accept()
            peer.request()
            peer.begin_chunked().chunk(b"one")
            client.response_head()
            peers.append(peer)
        for peer in peers:
            peer.reset()
        settled(proxy.stats, failed=10)
    assert (breaker(proxy)["state"], breaker(proxy)["failures"]) == ("closed", 1)


@pytest.mark.promise("BREAKER-ALIVE")
@pytest.mark.one_worker
def test_d2_a_good_check_lets_a_probe_in_at_once(start_olla, endpoint):
    def play(peer):
        target = peer.request().target
        if target == "/fail":
            peer.close()
        else:
            peer.respond(b"ok", "Connection: close")
            peer.close()

    endpoint.serve(play)
    proxy = start_olla(
        endpoint,
        proxy__circuit_breaker={**BREAKER, "failure_threshold": 1},
        health={"enabled": True, "path": "/health", "interval": "60s"},
    )
    with proxy.client() as client:
        assert client.post(b"x", "/fail").response().status == 502
        deadline = time.monotonic() + 5
        while client.get().response().status != 200:  # the failure hurries a check
            assert time.monotonic() < deadline, breaker(proxy)
            time.sleep(0.02)


@pytest.mark.promise("BREAKER-5XX")
@pytest.mark.one_worker
@pytest.mark.parametrize("status, state", [(500, "open"), (502, "open"), (503, "open"), (504, "open"), (501, "closed")])
def test_d1_answers_that_a_failing_server_gives_count_by_default(start_olla, endpoint, status, state):
    endpoint.serve(answering(status=f"{status} Oops"))
    proxy = start_olla(endpoint, proxy__circuit_breaker=BREAKER)
    with proxy.client() as client:
        for _ in range(3):
            assert client.get().response().status == status
    assert breaker(proxy)["state"] == state


# -- asterisks and prefixes


@pytest.mark.promise("LINE-BYTES")
def test_b24_the_asterisk_means_the_server_whatever_its_prefix(start, endpoint):
    proxy = start({"name": "a", "url": f"{endpoint.url}/v1"})
    with proxy.client() as client:
        client.get("*", method="OPTIONS")
        peer = endpoint.accept()
        assert peer.request().target == "*"
        peer.respond()
        assert client.response("OPTIONS").status == 200


# -- limits of zero


@pytest.mark.promise("LIMIT-ZERO")
@pytest.mark.promise("POOL-MAX-IDLE")
@pytest.mark.one_worker
def test_b14_no_limit_of_idle_connections_keeps_them(start, endpoint):
    proxy = start(endpoint, proxy__max_idle_conns=0)
    peers = answer_on_idle(proxy, endpoint, 3)
    assert all(peer.silent(0.05) for peer in peers)
    assert proxy.status()["endpoints"]["a"]["pool"]["idle"] == 3
