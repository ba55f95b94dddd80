"""What a mock sends is what it says it sends: clocks, sequence numbers, digests, counts (mockwire)."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time

import httpx
import pytest

from tests.mock_backends.conftest import Running

CLOCK = re.compile(rb'"mock":\{"seq":(\d+),"ns":"(\d{20})"\}')
CHAT = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hello there"}]}
GENERATING = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": "m", "max_tokens": 5, "prompt": "hello"}),
    ("/v1/messages", CHAT),
    ("/api/chat", {"model": "m", "options": {"num_predict": 5}, "messages": CHAT["messages"]}),
    ("/api/generate", {"model": "m", "options": {"num_predict": 5}, "prompt": "hello"}),
]


def zeroed(body: bytes) -> bytes:
    return CLOCK.sub(lambda m: m[0][: -len(m[2]) - 2] + b"0" * 20 + b'"}', body)


def true(reply: httpx.Response) -> list[tuple[int, int]]:
    """Checks a reply against its own headers. [(seq, ns)] of its events."""
    body = reply.content
    digest = hashlib.sha256(zeroed(body)).hexdigest()
    assert reply.headers["X-Mock-Digest"] == f"sha256={digest}"
    clocks = [(int(seq), int(ns)) for seq, ns in CLOCK.findall(body)]
    assert len(clocks) == int(reply.headers["X-Mock-Events"])
    assert [seq for seq, _ in clocks] == list(range(len(clocks)))
    stamps = [int(reply.headers["X-Mock-Recv-Ns"]), int(reply.headers["X-Mock-Sent-Ns"]), *(ns for _, ns in clocks)]
    assert stamps == sorted(stamps)
    assert all(len(reply.headers[name]) == 20 for name in ("X-Mock-Recv-Ns", "X-Mock-Sent-Ns"))
    assert reply.headers["X-Mock-Endpoint"] in ("mock-0", "mock-1")
    return clocks


@pytest.mark.parametrize(("path", "body"), GENERATING)
@pytest.mark.parametrize("stream", [True, False])
def test_every_reply_matches_its_digest_its_event_count_and_the_clock(
    mock: Running, path: str, body: dict[str, object], stream: bool
) -> None:
    before = time.monotonic_ns()
    reply = httpx.post(mock.url + path, json={**body, "stream": stream})
    after = time.monotonic_ns()
    clocks = true(reply)
    assert before < int(reply.headers["X-Mock-Recv-Ns"]) <= clocks[0][1] <= clocks[-1][1] < after
    assert (len(clocks) > 5) is stream


@pytest.mark.parametrize("path", ["/v1/models", "/api/tags"])
def test_lists_of_models_carry_a_clock_too(mock: Running, path: str) -> None:
    assert len(true(httpx.get(mock.url + path))) == 1


def test_the_same_request_gets_the_same_bytes_from_every_backend_and_again(mock: Running) -> None:
    replies = [
        httpx.post(url + "/v1/chat/completions", json={**CHAT, "stream": True, "seed": 7})
        for url in (mock.urls[0], mock.urls[1], mock.urls[0])
    ]
    assert len({zeroed(reply.content) for reply in replies}) == 1
    assert [reply.headers["X-Mock-Endpoint"] for reply in replies] == ["mock-0", "mock-1", "mock-0"]


def test_another_seed_gets_other_text(mock: Running) -> None:
    digests = {
        httpx.post(mock.url + "/v1/chat/completions", json={**CHAT, "seed": seed}).headers["X-Mock-Digest"]
        for seed in range(5)
    }
    assert len(digests) == 5


def test_keep_alive_repeats_of_one_request_are_each_true(mock: Running) -> None:
    with httpx.Client(base_url=mock.url) as client:
        for stream in (False, True):
            replies = [client.post("/v1/chat/completions", json={**CHAT, "stream": stream}) for _ in range(4)]
            clocks = [ns for reply in replies for _, ns in true(reply)]
            assert clocks == sorted(clocks)
            assert len({reply.headers["X-Mock-Digest"] for reply in replies}) == 1


@pytest.mark.parametrize("size", [700, 1536, 100_001, 1 << 20])
def test_a_body_is_exactly_as_long_as_asked(mock: Running, size: int) -> None:
    reply = httpx.post(mock.url + "/v1/chat/completions", json=CHAT, headers={"X-Mock-Body-Bytes": str(size)})
    assert len(reply.content) == size == int(reply.headers["Content-Length"])
    true(reply)
    reply.json()


@pytest.mark.parametrize("size", [20, 21, 37, 4096])
def test_a_body_is_chunked_as_asked_wherever_the_clock_falls(mock: Running, size: int) -> None:
    with httpx.Client(base_url=mock.url) as client:
        for total in range(1536, 1536 + 45):
            headers = {"X-Mock-Body-Bytes": str(total), "X-Mock-Chunk-Bytes": str(size)}
            reply = client.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert reply.headers["Transfer-Encoding"] == "chunked"
            assert len(reply.content) == total
            true(reply)


@pytest.mark.parametrize(
    ("path", "separator"), [("/v1/chat/completions", b"\n\n"), ("/v1/messages", b"\n\n"), ("/api/chat", b"\n")]
)
def test_content_events_are_as_long_and_as_many_as_asked(mock: Running, path: str, separator: bytes) -> None:
    reply = httpx.post(
        mock.url + path, json={**CHAT, "stream": True}, headers={"X-Mock-Event-Bytes": "400", "X-Mock-Events": "120"}
    )
    true(reply)
    events = [part + separator for part in reply.content.split(separator)]
    assert sum(len(event) == 400 for event in events) == 120


def test_a_size_that_cannot_be_is_refused_with_the_sizes_that_can(mock: Running) -> None:
    reply = httpx.post(mock.url + "/v1/chat/completions", json=CHAT, headers={"X-Mock-Body-Bytes": "10"})
    assert reply.status_code == 400
    assert "the body of this reply can have" in reply.json()["error"]["message"]


def test_a_stream_comes_as_one_chunk_an_event_and_done_with_the_last(mock: Running) -> None:
    with socket.create_connection(("127.0.0.1", mock.port), timeout=5) as sock:
        body = json.dumps({**CHAT, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        sock.sendall(head + body)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += sock.recv(65536)
    chunks, rest = [], received.split(b"\r\n\r\n", 1)[1]
    while rest:
        size, rest = rest.split(b"\r\n", 1)
        chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        chunks.append(chunk)
    assert chunks[-1] == b""
    assert chunks[-2] == b"data: [DONE]\n\n"
    assert [len(CLOCK.findall(chunk)) for chunk in chunks] == [1] * (len(chunks) - 2) + [0, 0]


def test_an_http_1_0_client_gets_the_same_stream_unframed(mock: Running) -> None:
    body = json.dumps({**CHAT, "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", mock.port), timeout=5) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, rest = received.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    full = httpx.post(mock.url + "/v1/chat/completions", json={**CHAT, "stream": True})
    assert zeroed(rest) == zeroed(full.content)
