"""A test: every row of the plan sent once when due, users of a closed loop, ends of all kinds."""

from __future__ import annotations

import gc
import json
import socket
from dataclasses import replace
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
import numpy as np
import pyarrow.parquet as pq
import pytest

from loadgen.driver.session import Session
from loadgen.workload.job import Cancel, Closed, Job, SlowRead, Template
from loadgen.workload.plan import Plan, chosen, make_plan
from tests.loadgen.driver.test_client import Served, answers
from tests.loadgen.driver.wire import ScriptedServer, plain, wait_for_close

MS = 1_000_000


def job_for(folder: Path, url: str, **changes: Any) -> Job:
    template = Template("/v1", body='{"seed":{{seed}},"p":"{{prompt}}","max_tokens":{{max_tokens}}}')
    return replace(Job("test", url, folder, (template,), plan=folder / "plan", timeout_s=5.0), **changes)


def plan_of(n: int, gap_ms: float = 2, **columns: Any) -> Plan:
    columns = {"prompt_bytes": 3, "output_tokens": 4, "request_seed": 5, **columns}
    return make_plan((np.arange(n) * gap_ms * MS).astype(np.int64), **columns)


def walked(session: Session) -> list[dict[str, Any]]:
    session.start(monotonic_ns() + 10 * MS)
    gevent.spawn(session.walk).get(timeout=30)
    assert session.failure is None
    return rows_of(session.job.out)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    table = pq.read_table(folder / "requests-0.parquet")
    rows: list[dict[str, Any]] = table.sort_by("request_id").to_pylist()
    return rows


def test_every_row_of_the_plan_is_sent_once_and_not_before_it_is_due(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        session = Session(job_for(tmp_path, server.url), plan_of(40, warmup_s=0.02), out=tmp_path)
        rows = walked(session)
    t0 = session.summary["t0_ns"]
    assert [row["request_id"] for row in rows] == list(range(40))
    assert [row["intended_ns"] - t0 for row in rows] == [n * 2 * MS for n in range(40)]
    assert all(row["sent_ns"] >= row["intended_ns"] for row in rows)
    assert [row["warmup"] for row in rows] == [True] * 10 + [False] * 30
    assert {row["outcome"] for row in rows} == {"ok"}
    assert len(server.requests) == 40


def test_open_loop_sends_on_while_replies_are_outstanding(tmp_path: Path) -> None:
    waiting: list[socket.socket] = []
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            waiting.append(sock)
            if len(waiting) == 10:  # nobody is answered before all have asked
                for each in waiting:
                    each.sendall(plain())
            wait_for_close(sock)

        rows = walked(Session(job_for(tmp_path, server.url), plan_of(10), out=tmp_path))
    assert [row["outcome"] for row in rows] == ["ok"] * 10
    assert max(row["sent_ns"] for row in rows) < min(row["first_byte_ns"] for row in rows)


def test_the_columns_of_the_plan_reach_the_server(tmp_path: Path) -> None:
    bodies: list[Any] = []
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            while True:
                bodies.append(json.loads(server.read_request(sock)))
                sock.sendall(plain())

        plan = plan_of(
            3,
            30,
            prompt_bytes=np.array([0, 7, 100_000]),
            output_tokens=np.array([1, 2, 3]),
            request_seed=np.array([9, 8, 7]),
        )
        walked(Session(job_for(tmp_path, server.url), plan, out=tmp_path))
    assert [(len(body["p"]), body["max_tokens"], body["seed"]) for body in bodies] == [
        (0, 1, 9),
        (7, 2, 8),
        (100_000, 3, 7),
    ]


def test_cancelled_and_slow_requests_are_chosen_by_the_seed(tmp_path: Path) -> None:
    with Served(answers(plain(b"x" * 3000))) as server:
        job = job_for(
            tmp_path, server.url, seed=3, cancel=Cancel(0.5, 0), slow_read=SlowRead(0.3, 10**6, read_bytes=500)
        )
        rows = walked(Session(job, plan_of(40, 3), out=tmp_path))
    assert [row["outcome"] == "client_cancelled" for row in rows] == [chosen(3, n, 0.5) for n in range(40)]
    slow = [row["reads"] > 5 for row in rows if row["outcome"] == "ok"]
    assert slow == [chosen(4, row["request_id"], 0.3) for row in rows if row["outcome"] == "ok"]


def test_closed_loop_users_send_their_next_request_after_the_last_reply(tmp_path: Path) -> None:
    closed = Closed(users=3, duration_s=0.4, think_ms=5, warmup_s=0.2, prompt_bytes=1, output_tokens=1, request_seeds=4)
    seeds: list[int] = []
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            while True:
                seeds.append(json.loads(server.read_request(sock))["seed"])
                sock.sendall(plain())

        session = Session(job_for(tmp_path, server.url, plan=None, closed=closed), None, out=tmp_path)
        users = [session.new_user() for _ in range(3)]

        def run(number: int) -> None:
            while users[number].run_slice():
                pass

        for number in range(3):
            gevent.spawn(run, number)
        session.start(monotonic_ns() + 20 * MS)
        assert session.done.wait(20)
    rows = rows_of(tmp_path)
    t0 = session.summary["t0_ns"]
    assert session.failure is None
    assert [row["request_id"] for row in rows] == list(range(len(rows)))
    assert len(rows) >= 6
    assert {row["intended_ns"] for row in rows} == {None}
    assert set(seeds) == {0, 1, 2, 3}
    for row in rows:
        assert t0 <= row["dispatched_ns"]
        assert row["warmup"] == (row["dispatched_ns"] < t0 + 200 * MS)
    # Never more in flight than users, and at least the think time between a reply and the user's next request.
    edges = sorted([(row["sent_ns"], 1) for row in rows] + [(row["end_ns"], -1) for row in rows])
    assert max(np.cumsum([step for _, step in edges])) <= 3


def test_an_interrupted_session_writes_what_was_measured(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            sock.sendall(plain())
            server.read_request(sock)
            wait_for_close(sock)

        now_soon_and_long_after = np.array([0, 100 * MS, 3600 * 1000 * MS])
        session = Session(
            job_for(tmp_path, server.url), replace(plan_of(3), offset_ns=now_soon_and_long_after), out=tmp_path
        )
        session.start(monotonic_ns())
        gevent.spawn(session.walk)
        while len(server.requests) < 2:
            gevent.sleep(0.01)
        session.interrupt("enough")
        assert session.done.wait(10)
    rows = rows_of(tmp_path)
    assert [(row["outcome"], row["error"]) for row in rows] == [("ok", None), ("client_cancelled", "enough")]
    assert session.summary["planned"] == 3
    assert session.summary["interrupted"] == "enough"


def test_an_interrupt_is_heard_while_the_last_replies_are_waited_for(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            wait_for_close(sock)

        session = Session(job_for(tmp_path, server.url, timeout_s=100.0), plan_of(2), out=tmp_path)
        session.start(monotonic_ns())
        gevent.spawn(session.walk)
        while len(server.requests) < 2:
            gevent.sleep(0.01)
        gevent.sleep(0.05)
        session.interrupt("enough")
        assert session.done.wait(10)
    assert [row["error"] for row in rows_of(tmp_path)] == ["enough", "enough"]


def test_replies_that_come_too_late_after_the_last_request_are_timeouts(tmp_path: Path) -> None:
    with ScriptedServer(lambda sock, number: script(sock, number)) as server:

        def script(sock: socket.socket, _number: int) -> None:
            server.read_request(sock)
            wait_for_close(sock)

        session = Session(job_for(tmp_path, server.url, drain_s=0.2), plan_of(2), out=tmp_path)
        rows = walked(session)
    assert [row["outcome"] for row in rows] == ["timeout", "timeout"]
    assert rows[0]["error"] == "no whole reply 0.2 s after the last request"


def test_rows_are_not_written_while_others_may_be_sending(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        session = Session(job_for(tmp_path, server.url, quiet_s=0.5), plan_of(5), out=tmp_path)
        assert len(walked(session)) == 5
    assert monotonic_ns() - session.summary["t0_ns"] >= 500 * MS


def test_the_collector_is_frozen_and_off_only_while_measuring(tmp_path: Path) -> None:
    seen: list[bool] = []
    with Served(answers(plain())) as server:
        session = Session(
            job_for(tmp_path, server.url),
            plan_of(300, 1),
            out=tmp_path,
            on_rows=lambda _: seen.append(gc.isenabled()),
        )
        walked(session)
    assert seen
    assert not any(seen)
    assert gc.isenabled()
    gc.unfreeze()
    assert "off" in session.summary["gc"]


def test_the_summary_tells_counts_lags_and_the_drivers_own_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress: list[dict[str, Any]] = []
    with Served(answers(plain())) as server:
        job = job_for(tmp_path, server.url)
        session = Session(job, plan_of(160, 10), out=tmp_path, on_progress=progress.append)
        monkeypatch.setattr("loadgen.driver.session._TICK_S", 0.005)  # a busy machine has few ticks
        monkeypatch.setattr("loadgen.driver.session._TICKS_A_PROGRESS_LINE", 1)
        walked(session)
    summary = session.summary
    assert (summary["sent"], summary["done"], summary["errors"], summary["outcomes"]) == (160, 160, 0, {"ok": 160})
    assert summary["events"] == 160
    assert 0 < summary["lag_p50_us"] <= summary["lag_p99_us"] <= summary["lag_max_us"]
    assert summary["dispatch_lag_p99_us"] > 0
    assert summary["cpu_us_per_request"] == pytest.approx(summary["cpu_s"] / 160 * 1e6, rel=0.01)
    assert json.loads((tmp_path / "driver.json").read_text())["files"] == ["requests-0.parquet"]
    assert progress
    assert set(progress[0]) == {"t", "sent", "done", "errors", "lag_p99_us"}
    assert not list(tmp_path.glob(".*"))


def test_only_the_first_wrong_replies_are_kept(tmp_path: Path) -> None:
    with Served(answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")) as server:
        rows = walked(Session(job_for(tmp_path, server.url), plan_of(15), out=tmp_path))
    assert {row["outcome"] for row in rows} == {"wrong_reply"}
    kept = sorted(tmp_path.glob("wrong-*.http"))
    assert len(kept) == 10
    assert kept[0].read_bytes().endswith(b"\r\n\r\nwrong")


def test_a_disk_that_refuses_is_a_failure_of_the_session_and_not_a_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loadgen.wire.rows.RequestRows.write", refuse)
    with Served(answers(plain())) as server:
        session = Session(job_for(tmp_path, server.url), plan_of(3), out=tmp_path)
        session.start(monotonic_ns())
        gevent.spawn(session.walk).get(timeout=10)
    assert isinstance(session.failure, OSError)
    assert session.summary == {}


def test_a_disk_that_is_full_ends_the_test_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loadgen.wire.rows.RequestRows.spill", refuse)
    with Served(answers(plain())) as server:
        session = Session(job_for(tmp_path, server.url), plan_of(10_000, 10), out=tmp_path)
        session.start(monotonic_ns())
        gevent.spawn(session.walk)
        assert session.done.wait(20)
    assert isinstance(session.failure, OSError)
    assert len(server.requests) < 5000
