"""Every row of the table of faults in mock_backends/README.md, seen through a raw socket."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

import mock_backends
from mock_backends.faults import Kind
from tests.mock_backends.conftest import Running, mock_process

README = Path(mock_backends.__file__).with_name("README.md").read_text("utf-8")
CHAT = {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
CLOCK = re.compile(rb"\d{20}")


@pytest.fixture(scope="module")
def mock() -> Iterator[Running]:
    with mock_process() as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults_left(mock: Running) -> Iterator[None]:
    yield
    mock.control("behaviour", {"faults": [], "profile": "instant"})


def request_bytes(path: str, body: dict[str, Any] | None) -> bytes:
    if body is None:
        return b"GET %b HTTP/1.1\r\nHost: mock\r\n\r\n" % path.encode()
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nHost: mock\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)


STREAM = request_bytes("/v1/chat/completions", {**CHAT, "stream": True})
WHOLE = request_bytes("/v1/chat/completions", CHAT)
HEALTH = request_bytes("/health", None)


def exchange(mock: Running, request: bytes, patience: float = 0) -> tuple[bytes, str]:
    """All bytes that come for a request, then how it ended: refused, eof, rst, or open (nothing for `patience` s).

    Without patience it ends as soon as the reply is complete.
    """
    try:
        sock = socket.create_connection(("127.0.0.1", mock.port), timeout=5)
    except ConnectionRefusedError:
        return b"", "refused"
    except ConnectionResetError:  # so fast that connecting did not even return
        return b"", "rst"
    received = b""
    with sock:
        sock.settimeout(patience or 5)
        try:
            sock.sendall(request)
            while data := sock.recv(65536):
                received += data
                if not patience and complete(received):
                    return received, "open"
        except TimeoutError:
            return received, "open"
        except (ConnectionResetError, BrokenPipeError):
            return received, "rst"
    return received, "eof"


def plain(received: bytes) -> bytes:
    """Without what differs from one time to the next."""
    return re.sub(rb"Date: [^\r]{29}", b"Date: " + b"-" * 29, CLOCK.sub(b"0" * 20, received))


def complete(reply: bytes) -> bool:
    head, found, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(found) and (len(body) == int(length[1]) if length else body.endswith(b"\r\n0\r\n\r\n"))


def head_of(reply: bytes) -> bytes:
    return reply[: reply.index(b"\r\n\r\n") + 4]


def chunks_of(reply: bytes) -> list[bytes]:
    """The chunks of a chunked reply, frames included."""
    rest, chunks = reply[len(head_of(reply)) :], []
    while rest:
        line = rest.index(b"\r\n") + 2
        end = line + int(rest[:line], 16) + 2
        chunks.append(rest[:end])
        rest = rest[end:]
    return chunks


@dataclass(frozen=True)
class Seen:
    """What a fault should have left of a proper reply."""

    proper: bytes
    received: bytes

    @property
    def head(self) -> bytes:
        return head_of(self.proper)

    @property
    def body(self) -> bytes:
        return self.proper[len(self.head) :]

    def events(self, n: int) -> bytes:
        return self.head + b"".join(chunks_of(self.proper)[:n])


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def nothing(seen: Seen) -> bool:
    return seen.received == b""


def proper(seen: Seen) -> bool:
    return seen.received == seen.proper


def head_and_half_the_body(seen: Seen) -> bool:
    return seen.received == seen.head + half(seen.body) and b"Content-Length: %d" % len(seen.body) in seen.head


def malformed(seen: Seen) -> bool:
    bad = b"zz\r\n" + chunks_of(seen.proper)[2].split(b"\r\n", 1)[1]
    return seen.received == seen.events(2) + bad


def error_event_then_end(seen: Seen) -> bool:
    chunks = chunks_of(seen.received)
    return (
        seen.received.startswith(seen.events(2))
        and b'data: {"error": {' in chunks[2]
        and chunks[3:] == [b"0\r\n\r\n"]
        and b"[DONE]" not in seen.received
    )


def one_byte_differs(seen: Seen) -> bool:
    return (
        len(seen.received) == len(seen.proper)
        and sum(a != b for a, b in zip(seen.received, seen.proper, strict=True)) == 1
    )


def status(line: bytes, *fields: bytes) -> Callable[[Seen], bool]:
    return lambda seen: (
        seen.received.startswith(b"HTTP/1.1 " + line + b"\r\n") and all(f in seen.received for f in fields)
    )


# Configuration line, request, what is received, how it ends. The first column stands in README.md, word for word.
ROWS: list[tuple[str, bytes, Callable[[Seen], bool], str]] = [
    ("{fault: refuse}", WHOLE, nothing, "refused"),
    ("{fault: refuse, count: 1}", WHOLE, nothing, "rst"),
    ("{fault: refuse, every: 10s, lasts: 5s}", WHOLE, nothing, "refused"),
    ("{fault: hang-head}", WHOLE, nothing, "open"),
    ("{fault: hang-head, hold: 50ms}", WHOLE, nothing, "eof"),
    ("{fault: hang-stream, after_events: 2}", STREAM, lambda s: s.received == s.events(2), "open"),
    ("{fault: hang-stream, after_events: 2}", WHOLE, head_and_half_the_body, "open"),
    ("{fault: reset-head}", WHOLE, lambda s: s.received == half(s.head), "rst"),
    ("{fault: reset-head, after_bytes: 9}", STREAM, lambda s: s.received == b"HTTP/1.1 ", "rst"),
    ("{fault: reset-body}", WHOLE, head_and_half_the_body, "rst"),
    ("{fault: reset-body, after_events: 2}", STREAM, lambda s: s.received == s.events(2), "rst"),
    (
        "{fault: reset-chunk, after_events: 2}",
        STREAM,
        lambda s: s.received == s.events(2) + half(chunks_of(s.proper)[2]),
        "rst",
    ),
    ("{fault: truncate}", WHOLE, head_and_half_the_body, "eof"),
    ("{fault: truncate, after_events: 2}", STREAM, lambda s: s.received == s.events(2), "eof"),
    ("{fault: garbage}", WHOLE, lambda s: s.received.startswith(b"\x16\x03\x01"), "eof"),
    (
        "{fault: rate-limit, retry_after: 7s}",
        WHOLE,
        status(b"429 Too Many Requests", b"\r\nRetry-After: 7\r\n"),
        "open",
    ),
    ("{fault: error, status: 500}", WHOLE, status(b"500 Internal Server Error", b'{"error": {'), "open"),
    ("{fault: drip, piece: 512, interval: 1ms}", STREAM, proper, "open"),
    ("{fault: malformed-chunk, after_events: 2}", STREAM, malformed, "eof"),
    ("{fault: idle-close}", WHOLE, proper, "eof"),
    ("{fault: idle-close, idle: 20ms}", STREAM, proper, "eof"),
    ("{fault: error, scope: health}", HEALTH, status(b"503 Service Unavailable"), "open"),
    ("{fault: error, scope: health}", WHOLE, proper, "open"),
    ("{fault: hang-head, scope: health}", HEALTH, nothing, "open"),
    ("{fault: error, scope: traffic}", HEALTH, proper, "open"),
    ("{fault: error, scope: traffic}", WHOLE, status(b"503 Service Unavailable"), "open"),
    ("{fault: error-event, after_events: 2}", STREAM, error_event_then_end, "open"),
    ("{fault: no-end, after_events: 2}", STREAM, lambda s: s.received == s.events(2) + b"0\r\n\r\n", "open"),
    ("{fault: corrupt, after_events: 2}", STREAM, one_byte_differs, "open"),
    ("{fault: corrupt}", WHOLE, one_byte_differs, "open"),
]


@pytest.mark.parametrize(("line", "request_", "expected", "ending"), ROWS)
def test_each_fault_leaves_the_bytes_and_the_ending_of_its_row(
    mock: Running, line: str, request_: bytes, expected: Callable[[Seen], bool], ending: str
) -> None:
    good, _ = exchange(mock, request_)
    mock.control("behaviour", {"faults": [yaml.safe_load(line)]})
    before = mock.stats()["requests"]  # the control listener answers while the fault is on
    received, end = exchange(mock, request_, patience=0.2)
    assert end == ending
    assert expected(Seen(plain(good), plain(received))), received
    assert mock.stats()["requests"] == before + (ending != "refused" and "refuse" not in line)
    mock.control("behaviour", {"faults": []})
    again, _ = exchange(mock, request_)
    assert plain(again) == plain(good)


def test_every_kind_of_fault_and_every_tested_line_stands_in_the_readme() -> None:
    lines = [line for line, *_ in ROWS]
    assert {yaml.safe_load(line)["fault"] for line in lines} == set(get_args(Kind))
    missing = [line for line in lines if f"`{line}`" not in README]
    assert not missing


def test_a_drip_comes_in_pieces(mock: Running) -> None:
    mock.control("behaviour", {"faults": [{"fault": "drip", "piece": 200, "interval": "2ms"}]})
    with socket.create_connection(("127.0.0.1", mock.port), timeout=5) as sock:
        sock.sendall(WHOLE)
        assert len(sock.recv(65536)) == 200


def test_health_scoped_faults_leave_traffic_alone_and_the_count_is_kept_by_fault(mock: Running) -> None:
    mock.control("reset")
    mock.control("behaviour", {"faults": [{"fault": "error", "scope": "health"}]})
    exchange(mock, HEALTH)
    exchange(mock, WHOLE)
    assert mock.stats()["faults"] == {"error": 1}


def test_a_client_that_leaves_during_a_hang_is_a_disconnect(mock: Running) -> None:
    mock.control("reset")
    mock.control("behaviour", {"faults": [{"fault": "hang-stream", "after_events": 2}]})
    exchange(mock, STREAM, 0.1)
    for _ in range(100):
        stats = mock.stats()
        if stats["disconnects_total"]:
            break
    assert [(d["path"], d["events_sent"]) for d in stats["disconnects"]] == [("/v1/chat/completions", 2)]
    assert stats["active"] == 0


def test_an_idle_connection_is_closed_when_its_port_is(mock: Running) -> None:
    with socket.create_connection(("127.0.0.1", mock.port), timeout=5) as sock:
        sock.sendall(WHOLE)
        assert sock.recv(65536)
        mock.control("behaviour", {"faults": [{"fault": "refuse"}]})
        assert sock.recv(65536) == b""


def test_a_faults_file_with_a_schedule_beside_it_is_read_at_start(tmp_path: Path) -> None:
    (tmp_path / "when.yaml").write_text("- {at: 0s, lasts: 1h}\n- {at: 2h}\n")
    (tmp_path / "faults.yaml").write_text("- {fault: error, endpoint: mock-1, status: 502, schedule: when.yaml}\n")
    with mock_process("--count", "2", "--faults", str(tmp_path / "faults.yaml")) as running:
        behaviour = running.control("behaviour", method="GET")["backends"]
        assert behaviour[0]["faults"] == behaviour[1]["faults"]
        second = Running(running.urls[1:], running.admin, running.process)
        assert exchange(running, WHOLE)[0].startswith(b"HTTP/1.1 200")
        assert exchange(second, WHOLE)[0].startswith(b"HTTP/1.1 502")
