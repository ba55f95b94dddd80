"""Tokens reach the client when they reach the proxy, whatever their size and rhythm."""

from __future__ import annotations

import time

import pytest

from tests.contract.running import settled


@pytest.mark.promise("STREAM-PROMPT")
@pytest.mark.parametrize("size", [1, 10, 200, 1023, 1024, 1025, 5000, 20_000])
def test_each_event_arrives_before_the_next_is_sent(start, endpoint, size):
    """Deadlocks if a byte is held until more comes."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked("Content-Type: text/event-stream")
        head = client.response_head()
        assert b"text/event-stream" in head[2]
        for i in range(10):
            event = b"%d" % i * size
            peer.chunk(event)
            got = b""
            while len(got) < len(event):
                got += chunk_data(client)
            assert got == event
        peer.chunk(b"")
        assert client.receive_until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    settled(proxy.stats, success=1)


def chunk_data(client) -> bytes:
    size = int(client.receive_until(b"\r\n")[:-2], 16)
    data = client.receive(size)
    assert client.receive(2) == b"\r\n"
    return data


@pytest.mark.promise("STREAM-PROMPT")
def test_the_head_arrives_before_the_first_byte_of_the_body(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        assert client.response_head()[0].startswith("HTTP/1.1 200")
        peer.chunk(b"")
        client.receive_until(b"0\r\n\r\n")
        client.get()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        assert client.response_head()[0].startswith("HTTP/1.1 200")
        peer.send(b"hello")
        assert client.receive(5) == b"hello"


@pytest.mark.promise("STREAM-PROMPT")
def test_the_tail_of_a_burst_is_not_held_until_the_next_token(start, endpoint):
    """The seed's own loop holds it: a large read is gathered, and nothing flushes it until more is read."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked()
        client.response_head()
        burst = b"x" * 3000
        began = time.monotonic()
        peer.chunk(burst)
        got = b""
        while len(got) < len(burst):
            got += chunk_data(client)
        assert time.monotonic() - began < 1
        peer.chunk(b"")
        client.receive_until(b"0\r\n\r\n")


@pytest.mark.promise("STREAM-MANY")
@pytest.mark.one_worker
def test_many_streams_at_once_keep_their_events_apart_and_in_order(start, endpoint):
    proxy = start(endpoint, proxy__max_conns_per_host=0)
    count, events = 100, 20

    def play(peer):
        name = peer.request().target[1:].encode()
        peer.begin_chunked()
        for i in range(events):
            peer.chunk(b"%b:%d;" % (name, i))
        peer.chunk(b"")

    endpoint.serve(play)
    clients = [proxy.client().get(f"/{i}") for i in range(count)]
    for i, client in enumerate(clients):
        assert client.response().body == b"".join(b"%d:%d;" % (i, n) for n in range(events))
        client.close()
    settled(proxy.stats, success=count)


@pytest.mark.promise("STREAM-SHERPA-READS")
def test_sherpa_reads_8_kib_at_a_time(start_sherpa, endpoint):
    """The seed: 8 KB reads, a flush after each. Seen as the sizes of the chunks that it makes."""
    proxy = start_sherpa(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"x" * 100_000).chunk(b"")
        answer = client.response()
        assert len(answer.body) == 100_000
        assert max(map(len, answer.chunks)) == 8192


@pytest.mark.promise("STREAM-SHERPA-READS")
def test_buffer_size_changes_sherpa_s_reads(start_sherpa, endpoint):
    """The seed's tuning section: 16 KB for larger models."""
    proxy = start_sherpa(endpoint, proxy__buffer_size="16KiB")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"x" * 100_000).chunk(b"")
        assert max(map(len, client.response().chunks)) == 16384
