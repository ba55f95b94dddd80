"""The admin listener, spoken to byte by byte."""

import asyncio
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import admin
from proxy.control.admin import PATHS, AdminListener, Refused, judge_head
from proxy.core.stats import StatsCollector
from proxy.net.listen import listen


class Source:
    """Answers a test can read back."""

    def __init__(self):
        self.state = "ok"
        self.since = []

    def health(self):
        return {"status": self.state}

    async def snapshots(self):
        stats = StatsCollector()
        stats.record_request()
        return [stats.snapshot("olla", []), stats.snapshot("sherpa", [])]

    async def status(self):
        return {"workers": [{"worker": 0, "engine": "olla", "endpoints": {}}]}

    async def runtime(self, since_ns):
        self.since.append(since_ns)
        return {"worker": 0, "engine": "olla", "rss_bytes": 5, "recorders": False, "totals": {}}


def ask(*requests, source=None, host="127.0.0.1", parts=False):
    """Send each request on its own connection; returns the raw answers."""

    async def main():
        listener = AdminListener(source or Source())
        sock = listen(host, 0, key="admin")
        await listener.start(sock)
        port = sock.getsockname()[1]
        answers = []
        for request in requests:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for part in [request[i : i + 1] for i in range(len(request))] if parts else [request]:
                writer.write(part)
                await writer.drain()
            answers.append(await asyncio.wait_for(reader.read(), 20))
            writer.close()
        listener.close()
        return answers

    return asyncio.run(main())


def get(target, method="GET", host="localhost", extra=""):
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n".encode("latin-1")


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def body_of(answer):
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("path", PATHS)
def test_each_known_path_answers_get_and_head_alike(path):
    whole, head = ask(get(path), get(path, "HEAD"))
    assert status_of(whole) == 200
    assert head == whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    assert f"Content-Length: {len(body_of(whole))}\r\n".encode() in head
    assert b"Cache-Control: no-store" in head
    assert b"Connection: close" in head


def test_a_request_may_arrive_byte_by_byte():
    (answer,) = ask(get("/internal/health"), parts=True)
    assert json.loads(body_of(answer)) == {"status": "ok"}


def test_health_is_503_once_the_proxy_stops():
    source = Source()
    source.state = "stopping"
    (answer,) = ask(get("/internal/health"), source=source)
    assert status_of(answer) == 503


def test_stats_have_the_seeds_names_added_up_and_each_engine_apart():
    (answer,) = ask(get("/internal/stats"))
    stats = json.loads(body_of(answer))
    assert (stats["engine"], stats["proxy.requests.total"]) == ("olla+sherpa", 2)
    assert stats["engines"]["sherpa"]["proxy.requests.total"] == 1


def test_runtime_is_asked_since_a_moment_and_metrics_for_totals_only():
    source = Source()
    ask(get("/internal/runtime?since_ns=123"), get("/internal/runtime"), get("/metrics"), source=source)
    assert source.since == [123, 0, None]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/chat/completions",
        "/internal",
        "/internal/",
        "/internal/health/",
        "//internal/health",
        "/internal//health",
        "/./internal/health",
        "/x/../internal/health",
        "/internal/health%00",
        "/internal%2fhealth",
        "/INTERNAL/HEALTH",
        "/metrics;x",
        "/metrics/",
    ],
)
def test_nothing_else_is_reachable_by_any_path_trick(target):
    (answer,) = ask(get(target))
    assert status_of(answer) == 404


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/internal/health", "POST"), 405),
        (get("/internal/health", "get"), 501),
        (get("http://evil.example/internal/health"), 421),
        (get("*", "OPTIONS"), 405),
        (get("/internal/health", extra="Content-Length: 3\r\n") + b"abc", 400),
        (get("/internal/health", extra="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", 400),
        (b"GET /internal/health HTTP/1.1\r\n\r\n", 400),
        (get("/internal/health", extra="Host: localhost\r\n"), 400),
        (b"GET /internal/health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET /internal/health\r\nHost: localhost\r\n\r\n", 400),
        (b"GET  /internal/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /internal/health HTTP/1.1\nHost: localhost\r\n\r\n", 400),
        (get("/internal/health", extra="X: a\r\n folded\r\n"), 400),
        (get("/internal/health", extra="X : a\r\n"), 400),
        (get("/internal/health", extra="X: a\0b\r\n"), 400),
        (get("/internal/runtime?since_ns=-1"), 400),
        (get("/internal/runtime?since_ns=1e3"), 400),
        (get("/internal/runtime?since_ns=" + "9" * 20), 400),
        (get("/internal/health", extra="X: " + "a" * 9000 + "\r\n"), 431),
        (get("/" + "a" * 9000), 431),
    ],
)
def test_whatever_is_not_a_plain_get_is_refused_with_a_status(request_, status):
    (answer,) = ask(request_)
    assert status_of(answer) == status
    assert json.loads(body_of(answer))["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8081", 200),
        ("127.0.0.1", 200),
        ("[::1]:8081", 200),
        ("LOCALHOST", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("[::2]x", 400),
        ("", 400),
    ],
)
def test_on_loopback_a_name_that_is_not_this_machines_is_refused(host, status):
    (answer,) = ask(get("/internal/health", host=host))
    assert status_of(answer) == status


def test_on_another_address_the_operator_chose_every_name_goes():
    (answer,) = ask(get("/internal/health", host="proxy-admin.monitoring:8081"), host="0.0.0.0")
    assert status_of(answer) == 200


def test_a_bug_behind_it_is_a_500_without_a_word_of_what_happened(caplog):
    class Broken(Source):
        async def status(self):
            raise RuntimeError("secret detail")

    (answer,) = ask(get("/internal/status"), source=Broken())
    assert status_of(answer) == 500
    assert b"secret" not in answer
    assert "secret detail" in caplog.text


def test_a_client_that_sends_nothing_is_dropped_at_the_deadline(monkeypatch):
    monkeypatch.setattr(admin, "DEADLINE", 0.05)
    assert ask(b"GET /internal/health HTTP/1.1\r\n") == [b""]


def test_a_client_that_leaves_in_the_middle_disturbs_nobody():
    async def main():
        listener = AdminListener(Source())
        sock = listen("127.0.0.1", 0, key="admin")
        await listener.start(sock)
        address = sock.getsockname()
        for sent in (b"", b"GET ", get("/internal/status")):
            leaving = socket.create_connection(address)
            leaving.sendall(sent)
            leaving.close()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(get("/internal/health"))
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        listener.close()
        return answer

    assert status_of(asyncio.run(main())) == 200


def test_more_connections_than_the_limit_are_closed_unanswered_and_the_places_come_back():
    async def main():
        listener = AdminListener(Source())
        sock = listen("127.0.0.1", 0, key="admin")
        await listener.start(sock)
        address = sock.getsockname()
        holding = [await asyncio.open_connection(*address) for _ in range(admin.CONNECTIONS)]
        reader, writer = await asyncio.open_connection(*address)
        over = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        for _, held in holding:
            held.close()
            await held.wait_closed()
        answer = b""
        while not answer:  # until the listener has seen the others leave
            reader, writer = await asyncio.open_connection(*address)
            writer.write(get("/internal/health"))
            answer = await asyncio.wait_for(reader.read(), 20)
            writer.close()
        listener.close()
        return over, answer

    over, answer = asyncio.run(main())
    assert over == b""
    assert status_of(answer) == 200


def test_a_target_may_be_absolute():
    (answer,) = ask(get("http://localhost/internal/health", host="evil.example"))
    assert status_of(answer) == 200


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(data):
    try:
        judged = judge_head(data + b"\r\n\r\n")
    except Refused as exc:
        assert exc.answer.status in (400, 405, 501, 505)
    else:
        assert judged.method in (b"GET", b"HEAD")
        assert judged.target.startswith(b"/")
        assert judged.authority
