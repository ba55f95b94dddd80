"""Sizes, counts and descriptors are limited; what is refused says so and costs little."""

from __future__ import annotations

import contextlib
import resource
import time

import pytest

from tests.contract.peers import Cut, Silence, answering
from tests.contract.running import ProcessProxy, settled

HEAD = b"GET / HTTP/1.1\r\nHost: h\r\n"


def status_of(proxy, data: bytes, split: str = "whole") -> int:
    """The status of the answer to `data`."""
    with proxy.client() as client:
        with contextlib.suppress(OSError):
            client.send(data, split=split)
        return client.response().status


@pytest.mark.promise("LIMIT-HEAD")
@pytest.mark.parametrize("split", ["whole", "lines"])
@pytest.mark.parametrize(
    ("status", "data"),
    [
        pytest.param(414, b"GET /" + b"a" * 1500 + b" HTTP/1.1\r\nHost: h\r\n\r\n", id="target"),
        pytest.param(431, HEAD + b"X: " + b"a" * 2500 + b"\r\n\r\n", id="one field"),
        pytest.param(431, HEAD + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 900) for i in range(12)) + b"\r\n", id="all"),
        pytest.param(431, HEAD + b"X: a\r\n" * 30 + b"\r\n", id="number"),
    ],
)
def test_heads_beyond_a_limit_have_the_limit_s_status(start, endpoint, status, data, split):
    proxy = start(
        endpoint,
        server__max_target_size="1KiB",
        server__max_field_size="2KiB",
        server__max_header_size="8KiB",
        server__max_headers=20,
    )
    assert status_of(proxy, data, split) == status
    settled(proxy.stats, total=0, refused=1)


@pytest.mark.promise("LIMIT-HEAD")
def test_heads_within_the_limits_pass(start, endpoint):
    endpoint.serve(answering())
    proxy = start(
        endpoint,
        server__max_target_size="1KiB",
        server__max_field_size="2KiB",
        server__max_header_size="8KiB",
        server__max_headers=20,
    )
    assert status_of(proxy, b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nHost: h\r\n\r\n") == 200
    assert status_of(proxy, HEAD + b"X: " + b"a" * 1900 + b"\r\n\r\n") == 200
    assert status_of(proxy, HEAD + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 900) for i in range(8)) + b"\r\n") == 200
    assert status_of(proxy, HEAD + b"X: a\r\n" * 18 + b"\r\n") == 200


@pytest.mark.promise("LIMIT-ZERO")
def test_zero_is_no_limit(start, endpoint):
    endpoint.serve(answering())
    proxy = start(
        endpoint,
        server__max_target_size=0,
        server__max_field_size=0,
        server__max_header_size=0,
        server__max_headers=0,
        server__max_body_size=0,
        server__max_connections=0,
        server__keep_alive_timeout=0,
        server__header_timeout=0,
        server__body_timeout=0,
        server__write_timeout=0,
        proxy__timeout=0,
        proxy__connect_timeout=0,
        proxy__idle_conn_timeout=0,
        proxy__pool_wait_timeout=0,
        proxy__max_conns_per_host=0,
    )
    fields = b"".join(b"X-%d: %b\r\n" % (i, b"a" * 900) for i in range(150)) + b"X: " + b"a" * 50_000 + b"\r\n"
    head = b"POST /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n" + fields + b"\r\n"
    with proxy.client() as client:
        for _ in range(2):
            client.send(head)
            time.sleep(0.05)
            client.send(b"hello")
            assert client.response().status == 200


@pytest.mark.promise("LIMIT-BODY")
def test_a_body_that_announces_too_much_is_413_at_once(start, endpoint):
    proxy = start(endpoint, server__max_body_size="1KiB")
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1025\r\n\r\n")
        assert client.response().status == 413
    assert endpoint.untouched(0.05)


@pytest.mark.promise("LIMIT-BODY")
@pytest.mark.parametrize("kept", ["1MiB", "4KiB"])
def test_a_chunked_body_that_grows_too_large_is_413(start, endpoint, kept):
    proxy = start(endpoint, server__max_body_size="10KiB", proxy__max_replay_body=kept)
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(20):
                client.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert client.response().status == 413
    with contextlib.suppress(Silence, Cut):
        peer = endpoint.accept(within=0.1)
        peer.sock.settimeout(0.5)
        raise AssertionError(f"complete: {peer.request()}")
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("LIMIT-BODY")
def test_a_body_of_exactly_the_limit_passes(start, endpoint):
    endpoint.serve(answering())
    proxy = start(endpoint, server__max_body_size="1KiB")
    with proxy.client() as client:
        assert client.post(b"x" * 1024).response().status == 200


@pytest.mark.promise("LIMIT-CONNECTIONS")
@pytest.mark.one_worker
def test_one_client_connection_too_many_is_turned_away_and_room_is_made_again(start, endpoint):
    endpoint.serve(answering())
    proxy = start(endpoint, server__max_connections=3)
    clients = [proxy.client() for _ in range(3)]
    for client in clients:
        assert client.get().response().status == 200
    with proxy.client() as extra:
        try:
            extra.get()
            assert extra.response().status == 503
        except (Cut, OSError):
            pass  # turned away without a word
    clients.pop().close()
    deadline = time.monotonic() + 3
    while proxy.stats()["proxy.client_connections"] > 2:
        assert time.monotonic() < deadline
    with proxy.client() as again:
        assert again.get().response().status == 200
    for client in clients:
        client.close()


@pytest.mark.promise("LIMIT-IN-FLIGHT")
@pytest.mark.one_worker
def test_one_request_in_flight_too_many_is_503_at_once(start, endpoint):
    proxy = start(endpoint, server__max_in_flight=2, proxy__max_conns_per_host=0)
    clients = [proxy.client().get() for _ in range(2)]
    peers = [endpoint.accept() for _ in clients]
    with proxy.client() as third:
        answer = third.get().response()
        assert answer.status == 503
        assert int(str(answer.get("Retry-After"))) > 0
        for peer in peers:
            peer.request()
            peer.respond()
        for client in clients:
            client.response()
        third.get()
        peers[0].request() if not peers[0].silent(0.1) else peers[1].request()
        [peer.respond() for peer in peers]
        assert third.response().status == 200
    for client in clients:
        client.close()


@pytest.mark.promise("SLOW-IDLE")
@pytest.mark.one_worker
def test_300_idle_connections_do_not_delay_a_request(start, endpoint):
    endpoint.serve(answering())
    proxy = start(endpoint)
    idle = [proxy.client() for _ in range(300)]
    with proxy.client() as client:
        client.get().response()
        began = time.monotonic()
        for _ in range(20):
            assert client.get().response().status == 200
        assert (time.monotonic() - began) / 20 < 0.1
    for one in idle:
        one.close()


@pytest.mark.promise("SLOW-HALF-OPEN")
def test_a_client_that_will_send_no_more_is_taken_to_have_left(start, endpoint):
    """As nginx takes it: a half-closed connection cannot tell a waiting client from one that is gone."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        client.finish_sending()
        assert peer.ended() in ("closed", "reset")
    settled(proxy.stats, client_disconnected=1)


@pytest.mark.promise("LIMIT-DESCRIPTORS")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])  # they do not accept alike
def test_without_free_descriptors_it_neither_dies_nor_spins_and_serves_again(engine, endpoint, loop):
    endpoint.serve(answering())

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    proxy = ProcessProxy(engine, [endpoint], {"runtime.recorders": False, "server.loop": loop}, preexec=few)
    try:
        with proxy.client() as client:
            assert client.get().response().status == 200
        storm = []
        for _ in range(150):
            with contextlib.suppress(OSError):
                storm.append(proxy.client())
        time.sleep(0.3)
        busy = cpu_seconds(proxy.process.pid)
        time.sleep(0.7)
        assert cpu_seconds(proxy.process.pid) - busy < 0.5, "it spins"
        for client in storm:
            client.close()
        deadline = time.monotonic() + 8
        while True:
            with contextlib.suppress(OSError, Cut, Silence), proxy.client() as client:
                client.sock.settimeout(1)
                if client.get().response().status == 200:
                    break
            assert time.monotonic() < deadline, proxy.stderr()[-2000:]
            time.sleep(0.1)
        time.sleep(1.2)  # asyncio's own loop tries again a second later, and complains if it is closed by then
    finally:
        proxy.close(expected="socket.accept() out of system resource")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of those that it started."""
    import psutil

    main = psutil.Process(pid)
    return sum(p.cpu_times().user + p.cpu_times().system for p in [main, *main.children(recursive=True)])
