"""A slow reader behind each engine, and a slow model server: what is held in between stays small, and nothing is lost.

The four transfers run at once, each through a proxy process of its own; the tests look at how they went.
"""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.engines import ENGINES
from tests.end_to_end.serving import PATIENCE, Serve

MIB = 2**20
DOWNLOAD, UPLOAD = 1024 * MIB, 200 * MIB
SLOW_RATE, SLOW_FOR = MIB, 10.0  # bytes a second, seconds
STEP = MIB // 4


@dataclass
class Transfer:
    """How one went. All sizes in bytes."""

    sent: int = 0
    received: int = 0
    sent_digest: str = ""
    received_digest: str = ""
    # in the slow phase:
    grown: int = 0  # most resident memory above that before the request
    ahead: int = 0  # most that the fast side was ahead of the slow one, kernel buffers included
    slow_seconds: float = 0.0
    slow_bytes: int = 0


def fast(sock: socket.socket, total: int, transfer: Transfer) -> None:
    """Write a body as fast as it is taken. No two MiB of it are alike."""
    digest = hashlib.sha256()
    block = bytearray(os.urandom(MIB))
    for n in range(total // MIB):
        block[:8] = n.to_bytes(8, "big")
        digest.update(block)
        view = memoryview(block)
        while view:
            size = sock.send(view)
            transfer.sent += size
            view = view[size:]
    transfer.sent_digest = digest.hexdigest()


def slow(sock: socket.socket, first: bytes, total: int, transfer: Transfer, pid: int, before: int) -> None:
    """Read a body that begins with `first`: slowly for a while, then as fast as it comes."""
    digest = hashlib.sha256(first)
    transfer.received = len(first)
    began = time.monotonic()
    buffer = memoryview(bytearray(STEP))

    def take(limit: int) -> None:
        size = sock.recv_into(buffer[:limit])
        assert size, f"cut after {transfer.received} of {total} bytes"
        digest.update(buffer[:size])
        transfer.received += size

    while (elapsed := time.monotonic() - began) < SLOW_FOR:
        if transfer.received < elapsed * SLOW_RATE:
            take(STEP)
        else:
            time.sleep(STEP / SLOW_RATE / 4)
        transfer.ahead = max(transfer.ahead, transfer.sent - transfer.received)
        transfer.grown = max(transfer.grown, resident(pid) - before)
    transfer.slow_seconds, transfer.slow_bytes = time.monotonic() - began, transfer.received
    while transfer.received < total:
        take(STEP)
    transfer.received_digest = digest.hexdigest()


def head_of(sock: socket.socket) -> tuple[bytes, bytes]:
    """A message's head, and what came with it of its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(4096)
        assert piece, "cut in the head"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def play(engine: str, direction: str, folder: Path) -> Transfer:
    """One transfer, from start to end."""
    transfer = Transfer()
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Serve(
            folder,
            {
                "server": {"port": 0, "max_body_size": 0},
                "admin": {"port": 0},
                "proxy": {"engine": engine},
                "health": {"enabled": False},
                "endpoints": [{"name": "a", "url": f"http://127.0.0.1:{server.getsockname()[1]}"}],
            },
        )
        try:
            parts = urlsplit(proxy.ready["url"])
            with socket.create_connection((parts.hostname, parts.port or 0), timeout=PATIENCE) as client:
                run = download if direction == "download" else upload
                run(client, server, transfer, proxy.ready["pid"])
        finally:
            proxy.close()
    return transfer


def download(client: socket.socket, server: socket.socket, transfer: Transfer, pid: int) -> None:
    """A large answer to a client that reads slowly."""
    before = resident(pid)

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            peer.settimeout(PATIENCE)
            head_of(peer)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % DOWNLOAD)
            fast(peer, DOWNLOAD, transfer)

    with ThreadPoolExecutor(1) as other:
        served = other.submit(serve)
        client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        head, first = head_of(client)
        assert head.startswith(b"HTTP/1.1 200 ")
        slow(client, first, DOWNLOAD, transfer, pid, before)
        served.result()


def upload(client: socket.socket, server: socket.socket, transfer: Transfer, pid: int) -> None:
    """A large request to a model server that reads slowly."""
    before = resident(pid)

    def ask() -> None:
        client.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % UPLOAD)
        fast(client, UPLOAD, transfer)

    with ThreadPoolExecutor(1) as other:
        asked = other.submit(ask)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(PATIENCE)
            _, first = head_of(peer)
            slow(peer, first, UPLOAD, transfer, pid, before)
            asked.result()
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            head, _ = head_of(client)
            assert head.startswith(b"HTTP/1.1 200 ")


CASES = [(engine, direction) for engine in ENGINES for direction in ("download", "upload")]


@pytest.fixture(scope="module")
def transfers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[Transfer]]]:
    """All of them, begun together."""
    folder = tmp_path_factory.mktemp("transfers")
    with ThreadPoolExecutor(len(CASES)) as pool:
        yield {case: pool.submit(play, *case, folder / "-".join(case)) for case in CASES}


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "direction"), CASES)
def test_a_slow_side_holds_the_fast_one_back_and_gets_every_byte(
    transfers: dict[tuple[str, str], Future[Transfer]], engine: str, direction: str
) -> None:
    transfer = transfers[engine, direction].result()
    total = DOWNLOAD if direction == "download" else UPLOAD
    assert transfer.sent == transfer.received == total
    assert transfer.sent_digest == transfer.received_digest
    assert transfer.slow_bytes <= SLOW_RATE * transfer.slow_seconds + STEP, "the slow phase was slow"
    assert transfer.grown < 8 * MIB, f"{transfer.grown / MIB:.1f} MiB"
    # What two connections' kernel buffers hold: up to tcp_rmem's largest, which is 32 MiB on large machines.
    assert transfer.ahead <= 40 * MIB, f"{transfer.ahead / MIB:.1f} MiB"
