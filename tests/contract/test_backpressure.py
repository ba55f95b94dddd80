"""A slow reader stops the other side's writer; what is held in between is bounded, whatever the size of the body."""

from __future__ import annotations

import hashlib
import resource
import threading
from pathlib import Path

import pytest

from tests.contract.running import settled

MIB = 2**20


def fill(send, total: int, digest) -> None:
    block = bytes(range(256)) * 256
    sent = 0
    while sent < total:
        piece = block[: min(len(block), total - sent)]
        send(piece)
        digest.update(piece)
        sent += len(piece)


@pytest.mark.promise("BACK-DOWN")
def test_a_client_that_does_not_read_stops_its_upstream(start, endpoint):
    proxy = start(endpoint)
    total = 64 * MIB
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        taken = peer.send_what_fits(b"x" * total, within=0.2)
        assert taken <= 16 * MIB, "kernel socket buffers included"


@pytest.mark.promise("BACK-UP")
def test_an_upstream_that_does_not_read_stops_its_client(start, endpoint):
    proxy = start(endpoint, server__max_body_size=0)
    total = 64 * MIB
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
        taken = client.send_what_fits(b"x" * total, within=0.2)
        assert taken <= 16 * MIB, "kernel socket buffers included"


@pytest.mark.promise("BACK-UP")
def test_a_chunked_upload_is_held_back_too(start, endpoint):
    proxy = start(endpoint, server__max_body_size=0)
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        taken = client.send_what_fits(chunk * 1024, within=0.2)
        assert taken <= 16 * MIB


@pytest.mark.promise("BACK-DOWN")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_response_arrives_whole(start, endpoint, framing):
    proxy = start(endpoint)
    total = 24 * MIB
    sent, received = hashlib.sha256(), hashlib.sha256()

    def play(peer):
        peer.request()
        if framing == "length":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            fill(peer.send, total, sent)
        else:
            peer.begin_chunked()
            fill(peer.chunk, total, sent)
            peer.chunk(b"")

    endpoint.serve(play)
    with proxy.client() as client:
        received.update(client.get().response().body)
    assert received.digest() == sent.digest()
    settled(proxy.stats, success=1)


@pytest.mark.promise("BACK-UP")
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_large_upload_arrives_whole(start, endpoint, framing):
    proxy = start(endpoint, server__max_body_size=0)
    total = 24 * MIB
    sent, received = hashlib.sha256(), hashlib.sha256()

    def play(peer):
        received.update(peer.request().body)
        peer.respond()

    endpoint.serve(play)
    with proxy.client() as client:
        if framing == "length":
            client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % total)
            fill(client.send, total, sent)
        else:
            client.send(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
            fill(lambda piece: client.send(b"%x\r\n%b\r\n" % (len(piece), piece)), total, sent)
            client.send(b"0\r\n\r\n")
        assert client.response().status == 200
    assert received.digest() == sent.digest()
    settled(proxy.stats, success=1)


@pytest.mark.promise("BACK-BOUNDED")
@pytest.mark.one_worker
def test_stalled_streams_hold_little_memory_each(start, endpoint):
    """40 stalled downloads of 64 MiB: less than 1 MiB is held for each (BEHAVIOUR.md has the figure)."""
    proxy = start(endpoint)
    count = 40
    body = b"x" * (16 * MIB)
    blocked = threading.Barrier(count + 1, timeout=30)

    def play(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB))
        peer.send_what_fits(body, within=0.3)
        blocked.wait()
        peer.receive(1)

    endpoint.serve(play)
    before = resident()
    clients = [proxy.client().get() for _ in range(count)]
    blocked.wait()
    grown = resident() - before
    for client in clients:
        client.reset()
    assert grown < count * MIB, f"{grown / MIB:.0f} MiB, the threads of this test included"
    settled(proxy.stats, client_disconnected=count)


def resident() -> int:
    """Bytes of resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
