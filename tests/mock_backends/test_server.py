"""A running mock: rhythm, load, disconnects, odd clients."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from mock_backends.dialects import Ask
from mock_backends.profile import read_profile
from mock_backends.script import ScriptWriter
from mock_backends.server import Behaviour, Mocks
from tests.mock_backends.conftest import Running

CLOCK = re.compile(rb'"mock":\{"seq":(\d+),"ns":"(\d{20})"\}')
CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "hello"}]


def request_bytes(body: dict[str, Any] | None, path: str = CHAT, *fields: str, version: str = "1.1") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/{version}", "Host: mock", *fields]
    if body is not None and not any("chunked" in field for field in fields):
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


@contextmanager
def connection(mock: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", mock.port), timeout=10) as sock:
        yield sock


def receive(sock: socket.socket, ending: bytes, times: int = 1) -> bytes:
    received = b""
    while received.count(ending) < times:
        data = sock.recv(65536)
        assert data, received
        received += data
    return received


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "never came true"


@contextmanager
def behaving(mock: Running, **profile: Any) -> Iterator[None]:
    mock.control("behaviour", {"profile": {"name": "test", **profile}})
    mock.control("reset")
    try:
        yield
    finally:
        mock.control("behaviour", {"profile": "instant"})


def test_a_paced_stream_keeps_the_rhythm_of_its_script(mock: Running) -> None:
    profile = {"token_gap": {"gamma": {"mean": "8ms", "cv": 0.4}}, "time_to_first_token": "30ms"}
    with behaving(mock, **profile), connection(mock) as sock:
        sock.sendall(request_bytes({"model": "m", "stream": True, "max_tokens": 60, "messages": SAY}))
        received = receive(sock, b"\r\n0\r\n\r\n")
        stats = mock.stats()
    clocks = [int(ns) for _, ns in CLOCK.findall(received)]
    recv = int(re.search(rb"X-Mock-Recv-Ns: (\d+)", received)[1])  # type: ignore[index]  # it is there
    script = ScriptWriter(read_profile({"name": "test", **profile}, "test"), 0).write(
        Ask(CHAT.encode(), "m", True, tokens=60, prompt_tokens=2)
    )
    late = [clock - recv - offset for clock, offset in zip(clocks, script.offsets, strict=True)]
    assert min(late) >= 0  # never early
    # Tolerance: lateness adds to no gap but its own, so that the rhythm as a whole cannot drift.
    assert late[-1] < 1e9
    assert stats["lateness_p50_ns"] >= sorted(late)[len(late) // 2] - 2**14
    assert all(b >= a for a, b in pairwise(clocks))


def test_the_head_waits_for_the_first_event_or_comes_at_once_as_the_profile_says(mock: Running) -> None:
    stream = request_bytes({"model": "m", "stream": True, "max_tokens": 1, "messages": SAY})
    for head_at, apart in (("first-event", False), ("accept", True)):
        with behaving(mock, time_to_first_token="40ms", head_at=head_at), connection(mock) as sock:
            sock.sendall(stream)
            received = receive(sock, b"\r\n0\r\n\r\n")
        sent = int(re.search(rb"X-Mock-Sent-Ns: (\d+)", received)[1])  # type: ignore[index]
        first = int(CLOCK.search(received)[2])  # type: ignore[index]
        assert (first - sent > 20e6) is apart


def test_sequences_beyond_the_slots_queue_and_beyond_the_queue_are_turned_away(mock: Running) -> None:
    body = {"model": "m", "messages": SAY, "max_tokens": 4}
    with behaving(mock, time_to_first_token="1h", batch={"slots": 1, "queue": 1}):
        with connection(mock) as first, connection(mock) as second:
            first.sendall(request_bytes(body))
            eventually(lambda: mock.stats()["active"] == 1)
            second.sendall(request_bytes(body))
            eventually(lambda: mock.stats()["queued"] == 1)
            metrics = httpx.get(mock.url + "/metrics").text
            assert re.search(r"^vllm:num_requests_running\{[^}]*\} 1$", metrics, re.MULTILINE)
            assert re.search(r"^vllm:num_requests_waiting\{[^}]*\} 1$", metrics, re.MULTILINE)
            full = httpx.post(mock.url + CHAT, json=body)
            assert full.status_code == 503
            assert full.headers["Retry-After"] == "1"
            assert httpx.post(mock.url + "/v1/messages", json=body).status_code == 529
            stats = mock.stats()
            assert (stats["active"], stats["queued"], stats["peak"], stats["refused"]) == (2, 1, 2, 2)
        eventually(lambda: mock.stats()["active"] == 0)


def test_a_place_is_given_back_by_who_is_done_and_by_who_gives_up(mock: Running) -> None:
    body = {"model": "m", "messages": SAY, "max_tokens": 4}
    with behaving(mock, time_to_first_token="1h", batch={"slots": 1, "queue": 2}), connection(mock) as third:
        with connection(mock) as first:
            first.sendall(request_bytes(body))
            eventually(lambda: mock.stats()["active"] == 1)
            with connection(mock) as second:
                second.sendall(request_bytes(body))
                eventually(lambda: mock.stats()["queued"] == 1)
                third.sendall(request_bytes(body))
                eventually(lambda: mock.stats()["queued"] == 2)
            eventually(lambda: mock.stats()["queued"] == 1)
        eventually(lambda: mock.stats()["queued"] == 0)
        assert mock.stats()["active"] == 1
    with behaving(mock, time_to_first_token="30ms", batch={"slots": 1, "queue": 1}):
        with connection(mock) as first, connection(mock) as second:
            first.sendall(request_bytes(body))
            second.sendall(request_bytes(body))
            clocks = sorted(int(CLOCK.search(receive(sock, b'"}}'))[2]) for sock in (first, second))  # type: ignore[index]
        assert clocks[1] - clocks[0] >= 30e6  # the second began when the first was over


def test_everybody_waits_while_a_cold_model_loads(mock: Running) -> None:
    with behaving(mock, cold_start={"load": "150ms"}):
        waits = []
        for _ in range(2):
            reply = httpx.post(mock.url + CHAT, json={"model": "m", "messages": SAY})
            waits.append(reply.json()["mock"])
            waits[-1] = int(waits[-1]["ns"]) - int(reply.headers["X-Mock-Recv-Ns"])
    assert waits[0] >= 150e6 > waits[1]


def test_gaps_stretch_while_a_change_lasts(mock: Running) -> None:
    with behaving(mock, token_gap="5ms", over_time=[{"shape": "step", "factor": 4}]), connection(mock) as sock:
        sock.sendall(request_bytes({"model": "m", "stream": True, "max_tokens": 5, "messages": SAY}))
        clocks = [int(ns) for _, ns in CLOCK.findall(receive(sock, b"\r\n0\r\n\r\n"))]
    # 4 gaps of 20 ms; a gap counts from when the event before was written.
    assert clocks[5] - clocks[1] >= 80e6 - 4e6


def test_a_client_that_leaves_midway_is_counted_with_what_it_got(mock: Running) -> None:
    with behaving(mock, token_gap="20ms"):
        with connection(mock) as sock:
            sock.sendall(request_bytes({"model": "m", "stream": True, "max_tokens": 1000, "messages": SAY}))
            received = receive(sock, b'"seq":3')
            before = time.monotonic_ns()
        eventually(lambda: mock.stats()["disconnects_total"] == 1)
        stats = mock.stats()
    (left,) = stats["disconnects"]
    assert before < left["t_ns"] < time.monotonic_ns()
    assert left["request"] == 1
    assert left["path"] == CHAT
    assert stats["events"] == left["events_sent"] >= len(CLOCK.findall(received))
    assert stats["active"] == 0


def test_the_mocks_counts_are_what_arrived(mock: Running) -> None:
    mock.control("reset")
    with httpx.Client(base_url=mock.url) as client:
        replies = [
            client.post(CHAT, json={"model": "m", "messages": SAY, "stream": stream, "max_tokens": 20})
            for stream in (True, False, True, False, False)
        ]
    stats = mock.stats()
    assert stats["requests"] == 5
    assert stats["events"] == sum(int(reply.headers["X-Mock-Events"]) for reply in replies)
    assert stats["body_bytes"] == sum(len(reply.content) for reply in replies)


def test_a_reader_slower_than_the_buffers_gets_every_byte_and_is_in_flight_until_then(mock: Running) -> None:
    mock.control("reset")
    size = 32 * 2**20
    with connection(mock) as sock:
        request = request_bytes({"model": "m", "messages": SAY}, CHAT, f"X-Mock-Body-Bytes: {size}", "X-Request-ID: 1")
        for round_ in (1, 2):  # the second one takes the short cut of a request known before
            sock.sendall(request)
            eventually(lambda: mock.stats()["active"] == 1)
            received = 0
            while received < size:
                received += len(sock.recv(1 << 20))
            eventually(lambda: mock.stats()["active"] == 0)
            stats = mock.stats()
            assert (stats["requests"], stats["body_bytes"]) == (round_, round_ * size)


def test_a_slow_reader_of_a_stream_gets_every_event_in_order_and_that_is_not_called_lateness(mock: Running) -> None:
    mock.control("reset")
    body = {"model": "m", "stream": True, "messages": SAY}
    with connection(mock) as sock:
        sock.sendall(request_bytes(body, CHAT, "X-Mock-Events: 600", "X-Mock-Event-Bytes: 50000"))
        written = 0
        while written < (written := mock.stats()["events"]) or not written:
            time.sleep(0.02)  # until the buffers are full
        assert written < 600
        parts = [sock.recv(1 << 20)]
        while not parts[-1].endswith(b"\r\n0\r\n\r\n"):
            parts.append(sock.recv(1 << 20))
    assert [int(seq) for seq, _ in CLOCK.findall(b"".join(parts))] == list(range(603))
    assert mock.stats()["held_back_events"] > 0


def test_pipelined_requests_are_answered_in_order(mock: Running) -> None:
    requests = [
        request_bytes({"model": f"m{i}", "messages": SAY, "stream": i % 2 == 1, "max_tokens": 3}) for i in range(300)
    ]
    with connection(mock) as sock:
        threading.Thread(target=sock.sendall, args=(b"".join(requests),)).start()
        received = receive(sock, b"X-Mock-Digest", 300)
        while b'"m299"' not in received or not received.endswith(b"\r\n0\r\n\r\n"):
            received += sock.recv(65536)
    models = re.findall(rb'"model":"m(\d+)"', received)
    assert sorted(set(models), key=models.index) == [b"%d" % i for i in range(300)]


def test_a_request_in_any_pieces_is_the_same_request(mock: Running) -> None:
    request = request_bytes({"model": "m", "messages": SAY, "max_tokens": 3}, CHAT, "X-Request-ID: 7")
    digests = set()
    with connection(mock) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in [0, 1, 40, request.index(b"\r\n\r\n") + 2, request.index(b"\r\n\r\n") + 4, len(request) - 1]:
            sock.sendall(request[:cut])
            mock.stats()  # a round trip: the first piece has been read
            sock.sendall(request[cut:])
            digests.add(re.search(rb"sha256=(\w+)", receive(sock, b'"}}'))[1])  # type: ignore[index]
    assert len(digests) == 1


def test_a_chunked_request_is_understood(mock: Running) -> None:
    body = json.dumps({"model": "chunky", "messages": SAY}).encode()
    with connection(mock) as sock:
        sock.sendall(request_bytes(None, CHAT, "Transfer-Encoding: chunked").replace(b"GET", b"POST"))
        for i in range(0, len(body), 7):
            sock.sendall(b"%x\r\n%b\r\n" % (len(body[i : i + 7]), body[i : i + 7]))
        sock.sendall(b"0\r\n\r\n")
        assert b'"chunky"' in receive(sock, b'"}}')


def test_a_client_that_expects_100_continue_is_told_to(mock: Running) -> None:
    request = request_bytes({"model": "m", "messages": SAY}, CHAT, "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    with connection(mock) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert receive(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert receive(sock, b'"}}').startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (request_bytes(None, "/nope"), 404),
        (request_bytes(None, CHAT), 405),
        (request_bytes({}, "/health"), 405),
        (request_bytes({}, "/v1/models"), 405),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b'POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\n{"n":NaN}', 400),
        (request_bytes({"max_tokens": -1}), 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: m\r\nX: " + b"x" * 70_000, 431),
    ],
)
def test_what_cannot_be_answered_is_refused_as_json(mock: Running, request_: bytes, status: int) -> None:
    with connection(mock) as sock:
        sock.sendall(request_)
        received = receive(sock, b"}")
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"error" in received.partition(b"\r\n\r\n")[2]


def test_a_good_request_after_a_refused_one_is_answered(mock: Running) -> None:
    with httpx.Client(base_url=mock.url) as client:
        assert client.post(CHAT, json={"max_tokens": -1}).status_code == 400
        assert client.post(CHAT, json={"model": "m"}).status_code == 200
        assert client.get("/nope").status_code == 404
        assert client.head("/v1/models").headers["X-Mock-Events"] == "1"
        assert client.head("/health").content == b""
        assert client.get("/health").json() == {"status": "ok"}


def test_names_of_models_are_escaped_wherever_they_stand(mock: Running) -> None:
    name = '</script>"\\%b%d\n\x00é'
    for stream in (True, False):
        reply = httpx.post(mock.url + "/api/chat", json={"model": name, "messages": SAY, "stream": stream})
        assert {json.loads(line)["model"] for line in reply.text.splitlines()} == {name}


def test_five_hundred_connections_at_once_are_all_answered(mock: Running) -> None:
    request = request_bytes({"model": "m", "messages": SAY})
    sockets = [socket.create_connection(("127.0.0.1", mock.port), timeout=10) for _ in range(500)]
    try:
        for sock in sockets:
            sock.sendall(request)
        for sock in sockets:
            assert receive(sock, b'"}}').startswith(b"HTTP/1.1 200")
    finally:
        for sock in sockets:
            sock.close()
    eventually(lambda: mock.stats()["connections"] == 0)


def test_a_mock_sends_by_a_congestion_control_that_does_not_pace() -> None:
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    if not allowed.exists() or "cubic" not in allowed.read_text().split():
        pytest.skip("this kernel has no CUBIC or permits it to root only")

    async def control() -> bytes:
        behaviour = Behaviour.of(read_profile({"name": "p", "like": "instant"}, "test"), 0)
        mocks = Mocks(behaviour, 1, asyncio.get_running_loop())
        await mocks.listen("127.0.0.1", 0)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", mocks.backends[0].port)
            writer.write(request_bytes({"model": "m", "messages": SAY}))
            await reader.readuntil(b"\r\n\r\n")
            (served,) = mocks.backends[0].connections
            sock: socket.socket = served._transport.get_extra_info("socket")
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        finally:
            writer.close()
            mocks.close()

    assert asyncio.run(control()).rstrip(b"\0") == b"cubic"
