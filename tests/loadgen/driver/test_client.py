"""The client over real sockets: what it says of each way a request can go, and that it never repeats one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import pytest

from loadgen.driver.client import Client, ToSend
from loadgen.driver.timer import Timer
from loadgen.wire.rows import CLIENT_CANCELLED, EVENT_COLUMNS, REQUEST_COLUMNS, EventRows, RequestRows
from loadgen.wire.stream import NEVER
from loadgen.workload.job import Cancel, Expect, Job, SlowRead, Template
from loadgen.workload.payload import Payloads
from reports.schema import OUTCOMES
from tests.loadgen.driver.wire import (
    ScriptedServer,
    chunk,
    digest_of,
    mock_headers,
    plain,
    reset,
    sse,
    sse_event,
    wait_for_close,
)

Row = dict[str, Any]


class Bench:
    """A client with its rows, driven by greenlets of the test."""

    def __init__(self, folder: Path, url: str, template: Template, **changes: Any) -> None:
        self.job = replace(Job("test", url, folder, (template,), plan=folder / "none", timeout_s=5.0), **changes)
        self.wrong: dict[int, bytes] = {}
        self._rows = RequestRows(folder / "requests.spill")
        self._events = EventRows(folder / "events.spill")
        self._timer = Timer()
        self._payloads = Payloads(self.job)
        self.client = Client(self.job, self._rows, self._events, self._timer, self.wrong.__setitem__)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._timer.close()
        self._rows.close()
        self._events.close()

    def spawn(self, number: int = 0, **fields: Any) -> gevent.Greenlet:
        data, size = self._payloads.build(number, 0)
        return gevent.spawn(self.client.exchange, ToSend(number, 0, data, size, **fields))

    def send(self, *numbers: int, **fields: Any) -> list[Row]:
        """Sends requests one after the other; their rows."""
        for number in numbers or (0,):
            self.spawn(number, **fields).get(timeout=20)
        return self.rows()

    def rows(self) -> list[Row]:
        rows = []
        for group in self._rows.groups():
            for values in group.tolist():
                row: Row = dict(zip(REQUEST_COLUMNS, values, strict=True))
                row["outcome"] = OUTCOMES[row["outcome"]]
                row["error"] = None if row["error"] == NEVER else self._rows.errors.texts[row["error"]]
                row["endpoint"] = None if row["endpoint"] == NEVER else self._rows.endpoints.texts[row["endpoint"]]
                rows.append(row)
        return sorted(rows, key=lambda row: row["request_id"])

    def events(self) -> list[Row]:
        return [
            dict(zip(EVENT_COLUMNS, values, strict=True))
            for group in self._events.groups()
            for values in group.tolist()
        ]


PLAIN = Template("/v1/chat/completions", body='{"x":1}')
STREAM = Template("/v1/chat/completions", body='{"x":1}', stream=True)


def answers(*replies: bytes) -> Callable[[ScriptedServer], Callable[[socket.socket, int], None]]:
    """A script that answers the requests of a connection with `replies` in turn, the last one again and again."""

    def make(server: ScriptedServer) -> Callable[[socket.socket, int], None]:
        def script(sock: socket.socket, _number: int) -> None:
            turn = 0
            while True:
                server.read_request(sock)
                sock.sendall(replies[min(turn, len(replies) - 1)])
                turn += 1

        return script

    return make


class Served(ScriptedServer):
    """A scripted server whose script is made once the server is there to be spoken of."""

    def __init__(self, make: Callable[[ScriptedServer], Callable[[socket.socket, int], None]]) -> None:
        super().__init__(lambda sock, number: make(self)(sock, number))


def test_a_good_reply_gives_a_row_with_its_stamps_in_order(tmp_path: Path) -> None:
    with Served(answers(plain())) as server, Bench(tmp_path, server.url, PLAIN) as bench:
        [row] = bench.send(7, intended_ns=5, warmup=True)
    assert row["outcome"] == "ok"
    assert (row["request_id"], row["status"], row["endpoint"], row["error"]) == (7, 200, "mock-1", None)
    assert row["intended_ns"] == 5
    assert 5 < row["dispatched_ns"] <= row["sent_ns"] < row["first_byte_ns"] == row["end_ns"]
    assert row["mock_recv_ns"] > 0
    assert row["mock_sent_ns"] > 0
    assert (row["first_event_ns"], row["events"], row["digest_ok"]) == (NEVER, 1, 1)
    assert (row["bytes_in"], row["bytes_out"]) == (len(plain().partition(b"\r\n\r\n")[2]), 7)
    assert (row["warmup"], row["reads"], row["connection"]) == (1, 1, 1)


def test_a_request_is_sent_as_the_template_says_with_an_id_of_its_own(tmp_path: Path) -> None:
    template = Template("/x?y=1", "PUT", {"X-A": "b"}, '{"é":1}')
    with Served(answers(plain())) as server, Bench(tmp_path, server.url + "/pre", template, seed=255) as bench:
        bench.send(3, 4)
    first, second = (request.decode().split("\r\n") for request in server.requests)
    assert first == [
        "PUT /pre/x?y=1 HTTP/1.1",
        f"Host: {server.url.removeprefix('http://')}",
        "X-A: b",
        "Content-Type: application/json",
        "X-Request-ID: ff-3",
        "Content-Length: 8",
    ]
    assert "X-Request-ID: ff-4" in second


def test_connections_are_used_again(tmp_path: Path) -> None:
    with Served(answers(plain())) as server, Bench(tmp_path, server.url, PLAIN) as bench:
        rows = bench.send(*range(5))
    assert [row["connection"] for row in rows] == [1] * 5
    assert server.connections == 1


def test_without_keep_alive_each_request_has_a_connection_and_asks_to_close_it(tmp_path: Path) -> None:
    with Served(answers(plain())) as server, Bench(tmp_path, server.url, PLAIN, keepalive=False) as bench:
        rows = bench.send(*range(3))
    assert [row["connection"] for row in rows] == [1, 2, 3]
    assert all(b"Connection: close" in request for request in server.requests)


def test_a_connection_the_server_has_closed_is_not_used(tmp_path: Path) -> None:
    closed = threading.Event()
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, number: int) -> None:
            server.read_request(sock)
            sock.sendall(plain())
            if number == 1:
                sock.close()
                closed.set()
            else:
                wait_for_close(sock)

        with Bench(tmp_path, server.url, PLAIN) as bench:
            bench.send(0)
            assert closed.wait(5)
            rows = bench.send(1)
    assert [row["outcome"] for row in rows] == ["ok", "ok"]
    assert [row["connection"] for row in rows] == [1, 2]
    assert len(server.requests) == 2


def test_a_stream_gives_a_row_for_each_event_and_the_time_of_its_first_content(tmp_path: Path) -> None:
    head, chunks = sse(range(6))
    go_on = threading.Semaphore(0)
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            sock.sendall(head + chunks[0])
            for begin in range(1, len(chunks), 2):
                assert go_on.acquire(timeout=5)
                sock.sendall(b"".join(chunks[begin : begin + 2]))
            wait_for_close(sock)

        with Bench(tmp_path, server.url, STREAM) as bench:
            greenlet = bench.spawn(9)
            for _ in range(len(chunks)):
                gevent.sleep(0.05)
                go_on.release()
            greenlet.get(timeout=10)
            [row], events = bench.rows(), bench.events()
    assert (row["outcome"], row["error"], row["events"], row["digest_ok"]) == ("ok", None, 6, 1)
    assert [(event["request_id"], event["seq"]) for event in events] == [(9, seq) for seq in range(6)]
    assert [event["read_index"] for event in events] == [0, 1, 1, 2, 2, 3]
    assert row["first_byte_ns"] == events[0]["read_ns"] < row["first_event_ns"] == events[1]["read_ns"]
    assert row["end_ns"] >= events[-1]["read_ns"]
    assert all(event["mock_ns"] <= event["read_ns"] for event in events)
    assert [event["bytes"] for event in events] == [len(sse_event(n, b"" if n == 0 else b"word")) for n in range(6)]


def test_a_port_nobody_listens_on_refuses(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Bench(tmp_path, f"http://127.0.0.1:{port}", PLAIN) as bench:
        [row] = bench.send()
    assert (row["outcome"], row["status"], row["sent_ns"], row["connection"]) == ("refused", NEVER, NEVER, NEVER)
    assert row["error"] == "no connection: Connection refused"
    assert row["end_ns"] >= row["dispatched_ns"]


def test_an_error_status_is_refused_and_its_digest_not_judged(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno"
    with Served(answers(reply)) as server, Bench(tmp_path, server.url, PLAIN) as bench:
        rows = bench.send(0, 1)
    assert [(row["outcome"], row["status"], row["digest_ok"]) for row in rows] == [("refused", 503, NEVER)] * 2
    assert rows[0]["error"] == "status 503, not 200"
    assert [row["connection"] for row in rows] == [1, 1]


def test_an_expected_error_status_is_ok(tmp_path: Path) -> None:
    reply = plain(status=b"429 Slow down")
    template = replace(PLAIN, expect=Expect(status=429))
    with Served(answers(reply)) as server, Bench(tmp_path, server.url, template) as bench:
        assert bench.send()[0]["outcome"] == "ok"


def test_a_reply_that_does_not_come_is_a_timeout_and_ends_only_that_request(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            while True:
                body = server.read_request(sock)
                assert body == b'{"x":1}'
                if b"X-Request-ID: 0-0" in server.requests[-1]:
                    wait_for_close(sock)
                    return
                sock.sendall(plain())

        with Bench(tmp_path, server.url, PLAIN, timeout_s=0.3) as bench:
            slow = bench.spawn(0)
            gevent.sleep(0.15)
            bench.spawn(1).get(timeout=10)
            slow.get(timeout=10)
            rows = bench.send(2)
    assert [row["outcome"] for row in rows] == ["timeout", "ok", "ok"]
    assert rows[0]["error"] == "not complete after 0.3 s"
    assert rows[0]["end_ns"] - rows[0]["dispatched_ns"] >= 300_000_000


def test_a_stream_that_stops_is_a_timeout_that_keeps_what_came(tmp_path: Path) -> None:
    head, chunks = sse(range(6))
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            sock.sendall(head + b"".join(chunks[:3]))
            wait_for_close(sock)

        with Bench(tmp_path, server.url, STREAM, timeout_s=0.3) as bench:
            [row] = bench.send()
            events = bench.events()
    assert (row["outcome"], row["status"], row["events"], row["digest_ok"]) == ("timeout", 200, 3, NEVER)
    assert len(events) == 3
    assert row["mock_recv_ns"] > 0


@pytest.mark.parametrize(
    ("ending", "outcome", "error"),
    [
        (reset, "reset", "the connection was reset before any reply"),
        (socket.socket.close, "reset", "the connection was closed before any reply"),
    ],
)
def test_a_connection_lost_before_any_reply_is_a_reset_and_not_repeated(
    tmp_path: Path, ending: Callable[[socket.socket], None], outcome: str, error: str
) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            ending(sock)

        with Bench(tmp_path, server.url, PLAIN) as bench:
            [row] = bench.send()
    assert (row["outcome"], row["error"], row["first_byte_ns"]) == (outcome, error, NEVER)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [(reset, "reset"), (socket.socket.close, "truncated")],
)
@pytest.mark.parametrize("part", [20, -20])
def test_a_reply_cut_off_is_reset_or_truncated(
    tmp_path: Path, ending: Callable[[socket.socket], None], outcome: str, part: int
) -> None:
    got_part = threading.Event()
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            sock.sendall(plain()[:part])
            assert got_part.wait(5)  # a reset would throw away what was not read yet
            ending(sock)

        with Bench(tmp_path, server.url, PLAIN) as bench:
            greenlet = bench.spawn()
            gevent.sleep(0.1)
            got_part.set()
            greenlet.get(timeout=10)
            [row] = bench.rows()
    assert row["outcome"] == outcome
    assert row["status"] == (NEVER if part > 0 else 200)
    assert row["digest_ok"] == NEVER


BODY = b'{"text":"hello","mock":{"seq":0,"ns":"00000000000000000001"}}'
OTHER = BODY.replace(b"hello", b"hullo")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (plain(b"a", headers=mock_headers(b"b", 1)), "the digest is not the one in X-Mock-Digest"),
        (plain(headers=b""), "no X-Mock-Digest or X-Mock-Events header"),
        (plain(headers=mock_headers(BODY, 2)), "events: 1 came of 2, 1 lost, 0 doubled, 0 reordered"),
        (b"220 smtp ready\r\n", "not HTTP/1.1"),
        (plain() + b"x", "bytes after the end of the reply"),
        (plain(status=b"204 No Content").replace(b"204 No", b"201 No"), "status 201, not 200"),
    ],
    ids=["digest", "no headers", "events", "not HTTP", "too long", "status"],  # a reply holds the time: no name
)
def test_a_wrong_reply_is_told_and_its_beginning_kept(tmp_path: Path, reply: bytes, error: str) -> None:
    with Served(answers(reply)) as server, Bench(tmp_path, server.url, PLAIN) as bench:
        [row] = bench.send(5)
    assert row["outcome"] == "wrong_reply"
    assert error in row["error"]
    assert bench.wrong == {5: reply}
    assert row["digest_ok"] in (0, NEVER)


def test_a_pinned_digest_catches_a_mock_that_is_wrong_with_its_own_digest(tmp_path: Path) -> None:
    for pinned, outcome in ((digest_of(BODY), "ok"), (digest_of(OTHER), "wrong_reply")):
        template = replace(PLAIN, expect=Expect(digest=pinned))
        with Served(answers(plain())) as server, Bench(tmp_path, server.url, template) as bench:
            [row] = bench.send()
        assert (row["outcome"], row["digest_ok"]) == (outcome, int(outcome == "ok"))


@pytest.mark.parametrize(
    ("sent", "stated", "error"),
    [
        ([0, 1, 3], [0, 1, 2, 3], "3 came of 4, 1 lost, 0 doubled, 0 reordered"),
        ([0, 1, 1, 2], [0, 1, 2], "4 came of 3, 0 lost, 1 doubled, 0 reordered"),
        ([0, 2, 1, 3], [0, 1, 2, 3], "4 came of 4, 0 lost, 0 doubled, 1 reordered"),
    ],
)
def test_lost_doubled_and_reordered_events_are_a_wrong_reply(
    tmp_path: Path, sent: list[int], stated: list[int], error: str
) -> None:
    head, chunks = sse(sent, stated=stated)
    with Served(answers(head + b"".join(chunks))) as server, Bench(tmp_path, server.url, STREAM) as bench:
        [row] = bench.send()
    assert (row["outcome"], row["digest_ok"]) == ("wrong_reply", 0)
    assert error in row["error"]


def test_a_server_without_clock_fields_is_judged_by_what_it_can_be(tmp_path: Path) -> None:
    body = b'data: {"content": "a"}\n\ndata: {"content": "b"}\n\ndata: [DONE]\n\n'
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply += chunk(body) + b"0\r\n\r\n"
    with Served(answers(reply)) as server, Bench(tmp_path, server.url, STREAM, expected_events=False) as bench:
        [row] = bench.send()
        events = bench.events()
    assert (row["outcome"], row["events"], row["digest_ok"]) == ("ok", 2, NEVER)
    assert [event["mock_ns"] for event in events] == [NEVER, NEVER]
    assert row["first_event_ns"] == events[0]["read_ns"]


def test_a_client_that_leaves_after_some_events_closes_its_connection(tmp_path: Path) -> None:
    head, chunks = sse(range(6))
    left = threading.Event()
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            sock.sendall(head + b"".join(chunks[:3]))
            if wait_for_close(sock):
                left.set()

        with Bench(tmp_path, server.url, STREAM, cancel=Cancel(1.0, 3)) as bench:
            [row] = bench.send(cancel_after=3)
            assert left.wait(5)
    assert (row["outcome"], row["events"]) == ("client_cancelled", 3)
    assert bench.client.failed == 0


def test_a_client_may_leave_before_any_answer(tmp_path: Path) -> None:
    left = threading.Event()
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            if wait_for_close(sock):
                left.set()

        with Bench(tmp_path, server.url, PLAIN, cancel=Cancel(1.0, 0)) as bench:
            [row] = bench.send(cancel_after=0)
            assert left.wait(5)
    assert (row["outcome"], row["first_byte_ns"]) == ("client_cancelled", NEVER)


def test_a_slow_reader_takes_its_time_on_a_connection_of_its_own(tmp_path: Path) -> None:
    slow = SlowRead(1.0, bytes_per_s=100_000, read_bytes=1000)
    with Served(answers(plain(b"x" * 20_000))) as server, Bench(tmp_path, server.url, PLAIN, slow_read=slow) as bench:
        rows = bench.send(0, 1, slow=True)
    for row in rows:
        assert row["outcome"] == "ok"
        assert row["end_ns"] - row["first_byte_ns"] >= 180_000_000
        assert row["reads"] >= 20
    assert [row["connection"] for row in rows] == [1, 2]


def test_a_limit_of_connections_makes_requests_wait_and_their_lag_shows_it(tmp_path: Path) -> None:
    with Served(answers(plain())) as server, Bench(tmp_path, server.url, PLAIN, connections=1) as bench:
        gevent.joinall([bench.spawn(number) for number in range(4)], timeout=10, raise_error=True)
        rows = sorted(bench.rows(), key=lambda row: row["sent_ns"])
    assert server.connections == 1
    for before, after in pairwise(rows):
        assert after["sent_ns"] >= before["end_ns"]
        assert after["dispatched_ns"] < before["end_ns"]


def test_a_request_that_waits_for_a_connection_can_time_out_without_harm(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, number: int) -> None:
            while True:
                server.read_request(sock)
                if number == 1:
                    wait_for_close(sock)
                    return
                sock.sendall(plain())

        with Bench(tmp_path, server.url, PLAIN, connections=1, timeout_s=0.3) as bench:
            gevent.joinall([bench.spawn(number) for number in range(3)], timeout=10, raise_error=True)
            rows = bench.send(3)
    assert [row["outcome"] for row in rows] == ["timeout", "timeout", "timeout", "ok"]
    assert server.connections <= 4


def test_a_large_body_is_sent_whole(tmp_path: Path) -> None:
    seen: list[int] = []
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            seen.append(len(server.read_request(sock)))
            sock.sendall(plain())
            wait_for_close(sock)

        template = Template("/", body="y" * 8_000_000)
        with Bench(tmp_path, server.url, template) as bench:
            [row] = bench.send()
    assert row["outcome"] == "ok"
    assert seen == [row["bytes_out"]] == [8_000_000]


def test_an_early_answer_to_a_large_body_is_read_and_the_connection_not_used_again(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            sock.recv(1000)
            sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            wait_for_close(sock)

        with Bench(tmp_path, server.url, Template("/", body="y" * 20_000_000)) as bench:
            rows = bench.send(0, 1)
    assert [(row["outcome"], row["status"]) for row in rows] == [("refused", 413)] * 2
    assert [row["connection"] for row in rows] == [1, 2]
    assert all(0 < row["bytes_out"] < 20_000_000 for row in rows)


def test_a_killed_user_leaves_a_row_and_closes_its_connection(tmp_path: Path) -> None:
    left = threading.Event()
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            if wait_for_close(sock):
                left.set()

        with Bench(tmp_path, server.url, PLAIN) as bench:
            greenlet = bench.spawn()
            gevent.sleep(0.1)
            greenlet.kill()
            assert left.wait(5)
            [row] = bench.rows()
    assert (row["outcome"], row["error"]) == ("client_cancelled", "the user was stopped")
    assert bench.client.in_flight == 0


def test_all_that_is_in_flight_can_be_stopped_at_once(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            wait_for_close(sock)

        with Bench(tmp_path, server.url, PLAIN, connections=3) as bench:
            greenlets = [bench.spawn(number) for number in range(5)]
            gevent.sleep(0.1)
            assert bench.client.in_flight == 5
            bench.client.stop_all(CLIENT_CANCELLED, "enough")
            gevent.joinall(greenlets, timeout=5, raise_error=True)
            rows = bench.rows()
    assert [(row["outcome"], row["error"]) for row in rows] == [("client_cancelled", "enough")] * 5
    assert (bench.client.cancelled, bench.client.failed) == (5, 0)


def test_interim_responses_are_no_answer(tmp_path: Path) -> None:
    reply = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + plain()
    with Served(answers(reply)) as server, Bench(tmp_path, server.url, PLAIN) as bench:
        [row] = bench.send()
    assert (row["outcome"], row["status"], row["endpoint"]) == ("ok", 200, "mock-1")
