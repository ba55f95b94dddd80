"""A client that takes its answer slowly, or not at all: `write_timeout` for each further 16 KiB, and little is held.

What counts is what the client's system acknowledged, in Sherpa what left the process; the kernel holds little of it.
"""

from __future__ import annotations

import time

import pytest

from tests.contract.running import connect, settled

KIB = 2**10
SMALL = 2 * KIB  # a receive buffer: all but this stays on the proxy's side
LIMIT = 0.6


def gone(proxy, within: float = 8.0) -> float:
    """Waits until the proxy holds no client connection; seconds that took."""
    began = time.monotonic()
    while proxy.stats()["proxy.client_connections"]:
        assert time.monotonic() - began < within, proxy.stats()
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.promise("SLOW-READER")
def test_an_answer_that_its_client_does_not_take_is_cut_even_if_the_kernel_has_room_for_it(start, endpoint):
    proxy = start(endpoint, server__write_timeout=f"{LIMIT}s", server__keep_alive_timeout="1h")

    def play(peer):
        peer.request()
        peer.respond(b"x" * 1024 * KIB)

    endpoint.serve(play)
    with connect(proxy.port, SMALL) as client:
        began = time.monotonic()
        client.get()
        settled(proxy.stats, total=1, failed=1)
        assert time.monotonic() - began > LIMIT, "not before its time"
        gone(proxy)


@pytest.mark.promise("SLOW-READER")
@pytest.mark.promise("TIME-DRIBBLE")
def test_a_client_that_takes_a_few_bytes_now_and_then_is_cut_all_the_same(start, endpoint):
    proxy = start(endpoint, server__write_timeout=f"{LIMIT}s", server__keep_alive_timeout="1h")

    def play(peer):
        peer.request()
        peer.respond(b"x" * 1024 * KIB)

    endpoint.serve(play)
    with connect(proxy.port, SMALL) as client:
        client.get()
        taken = 0
        with pytest.raises(OSError):  # it is reset, not kept for as long as the answer would last
            for _ in range(200):
                taken += len(client.sock.recv(256))
                time.sleep(0.05)
                assert taken < 200 * KIB
                if not proxy.stats()["proxy.client_connections"]:
                    raise ConnectionResetError
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("SLOW-READER")
def test_a_slow_client_that_keeps_the_rate_gets_its_answer_whole(start, endpoint):
    """It is slower than its window: what it takes shows in steps, and it needs several times the limit."""
    proxy = start(endpoint, server__write_timeout="1s", server__keep_alive_timeout="1h")
    size = 800 * KIB

    def play(peer):
        peer.request()
        peer.respond(b"x" * size)

    endpoint.serve(play)
    with connect(proxy.port, 16 * KIB) as client:
        client.get()
        client.response_head()
        began = time.monotonic()
        taken = 0
        while taken < size:
            data = client.receive_some(16 * KIB)
            taken += len(data)
            time.sleep(3 * len(data) / size)
        assert time.monotonic() - began > 2
    settled(proxy.stats, total=1, success=1)


@pytest.mark.promise("SLOW-READER")
@pytest.mark.parametrize("size", [20 * KIB, 100 * KIB])
def test_a_small_answer_that_nobody_takes_does_not_keep_an_idle_connection_for_long(start, endpoint, size):
    """The kernel took all of it, so the exchange is over; the connection does not get an hour of idleness."""
    proxy = start(endpoint, server__write_timeout="200ms", server__keep_alive_timeout="1h")

    def play(peer):
        peer.request()
        peer.respond(b"x" * size)

    endpoint.serve(play)
    with connect(proxy.port, SMALL) as client:
        client.get()
        settled(proxy.stats, total=1)
        gone(proxy)


@pytest.mark.promise("SLOW-READER")
def test_an_idle_client_that_took_its_answer_stays(start, endpoint):
    proxy = start(endpoint, server__write_timeout="200ms", server__keep_alive_timeout="1h")
    with connect(proxy.port, SMALL) as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"x" * 100 * KIB)
        assert len(client.response().body) == 100 * KIB
        time.sleep(1.2)
        client.get()
        peer.request()
        peer.respond()
        assert client.response().body == b"ok"


@pytest.mark.promise("SLOW-READER")
@pytest.mark.promise("BACK-BOUNDED")
@pytest.mark.one_worker
def test_a_client_that_asks_again_and_again_and_takes_nothing_is_not_served_any_further(start, endpoint):
    """Pipelined requests whose answers are each too small to stop anything: together they would be 60 MB."""
    proxy = start(endpoint, server__write_timeout="10s")
    count, size = 1000, 60 * KIB

    def play(peer):
        number = peer.request().target[1:]
        peer.respond(number.encode().ljust(size, b"."))

    endpoint.serve(play)
    with connect(proxy.port, SMALL) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(count)))
        time.sleep(0.5)
        before = proxy.stats()["proxy.requests.total"]
        assert before * size < 2**20, f"{before} answers wait for a client that takes none"
        time.sleep(0.3)
        assert proxy.stats()["proxy.requests.total"] == before
        for i in range(count):
            assert client.response().body.rstrip(b".") == b"%d" % i
    settled(proxy.stats, total=count, success=count)


@pytest.mark.promise("LIFE-RELOAD")
def test_a_reload_changes_how_long_an_answer_waits_to_be_taken(start, endpoint):
    proxy = start(endpoint, server__write_timeout="1h", server__keep_alive_timeout="1h")
    proxy.reload([endpoint], {"server.write_timeout": "200ms", "server.keep_alive_timeout": "1h"})

    def play(peer):
        peer.request()
        peer.respond(b"x" * 50 * KIB)

    endpoint.serve(play)
    with connect(proxy.port, SMALL) as client:
        client.get()
        settled(proxy.stats, total=1)
        gone(proxy)
