"""The supervisor, with workers that are a few lines of Python and misbehave on request."""

import asyncio
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager

import pytest

from proxy import supervisor
from proxy.config import load
from proxy.core.stats import Snapshot, StatsCollector
from proxy.net.listen import listen, listen_again
from proxy.supervisor import Seat, Supervisor, _how, _one_hash

# Speaks the channel's protocol. `behave` decides what it does with an order or a question; None is silence.
WORKER = """
import json, os, signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
lines = channel.makefile("r")
task = json.loads(lines.readline())
def say(**message):
    channel.sendall(json.dumps(message).encode() + b"\\n")
counts = dict.fromkeys(["proxy.requests.total", "proxy.requests.success", "proxy.requests.failed",
                        "proxy.requests.client_disconnected", "proxy.active_connections"], 0)
counts.update({"proxy.requests.total": 5, "proxy.requests.success": 3, "proxy.active_connections": 2})
snapshot = {"engine": "olla", "counts": counts, "latency_counts": {}, "latency_sum": 0.0, "endpoints": {}}
def serve(behave):
    say(ready=True)
    for line in lines:
        message = json.loads(line)
        if "ask" in message:
            answer = behave(message)
            if answer is not None:
                say(id=message["id"], asked=message["ask"], answer=answer)
        elif behave(message) == "exit":
            break
def usual(message):
    match message:
        case {"ask": "snapshot"}: return snapshot
        case {"ask": "status"}: return {"worker": task["worker"], "pid": os.getpid()}
        case {"ask": "runtime"}: return {"module_hash": "h", "versions": {"python": "x"}, "worker": task["worker"]}
        case {"do": "stop"}: return "exit"
"""


@pytest.fixture
def workers(monkeypatch):
    """Call it with the code that a worker runs after WORKER; returns the list of processes that were started."""
    started = []

    def use(code):
        def spawn(channel, listener):
            script = WORKER + textwrap.dedent(code)
            process = subprocess.Popen(
                [sys.executable, "-c", script, str(channel.fileno())], pass_fds=(channel.fileno(),)
            )
            started.append(process)
            return process

        monkeypatch.setattr(supervisor, "_spawn", spawn)
        return started

    yield use
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.fixture
def loaded(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(
        "server: {workers: 2, port: 0, shutdown_timeout: 1s}\nendpoints: [{name: a, url: 'http://127.0.0.1:9'}]\n"
    )
    return load(file)


@asynccontextmanager
async def running(loaded):
    """A Supervisor that is ready; at the end it is told to stop, and its exit code must be the signal's."""
    first = listen("127.0.0.1", 0, key="server", shared=True)
    boss = Supervisor(loaded, [first, listen_again(first)])
    ready = asyncio.Event()
    task = asyncio.ensure_future(boss.run(listen("127.0.0.1", 0, key="admin"), ready.set))
    try:
        async with asyncio.timeout(30):
            await ready.wait()
            yield boss
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await task == 0


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event to offer
            await asyncio.sleep(0.005)


def test_answers_of_all_workers_are_put_together(workers, loaded):
    workers("serve(usual)")

    async def main():
        async with running(loaded) as boss:
            return boss.health(), await boss.snapshots(), await boss.status(), await boss.runtime(7)

    health, snapshots, status, runtime = asyncio.run(main())
    assert health == {"status": "ok", "workers": {"configured": 2, "serving": 2}}
    assert [s.counts["proxy.requests.total"] for s in snapshots] == [5, 5]
    assert [(w["worker"], w["answering"], w["restarts"]) for w in status["workers"]] == [(0, True, 0), (1, True, 0)]
    assert (runtime["module_hash"], runtime["gc"], len(runtime["workers"])) == ("h", [], 2)
    assert runtime["pid"] == os.getpid()


def test_a_dead_worker_is_replaced_and_what_it_had_in_flight_failed(workers, loaded, monkeypatch):
    started = workers("serve(usual)")
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.01)

    async def main():
        async with running(loaded) as boss:
            await boss.snapshots()
            started[0].kill()
            await until(lambda: len(started) == 3 and boss.health()["workers"]["serving"] == 2)
            return await boss.snapshots(), await boss.status()

    snapshots, status = asyncio.run(main())
    counts = snapshots[0].counts
    assert counts["proxy.requests.total"] == 10  # 5 of the dead, 5 of its successor
    assert counts["proxy.requests.failed"] == 2
    assert counts["proxy.active_connections"] == 2
    assert [w["restarts"] for w in status["workers"]] == [1, 0]


def test_a_worker_that_keeps_dying_is_restarted_after_longer_and_longer_pauses(workers, loaded, monkeypatch, caplog):
    caplog.set_level(logging.ERROR)
    started = workers("""
        say(ready=True)
        if task["worker"] == 0:
            lines.readline()
            sys.exit(3)
        serve(usual)
        """)
    monkeypatch.setattr(supervisor, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE", 0.04)

    async def main():
        async with running(loaded) as boss:
            while len(started) < 6:
                await boss.snapshots()  # a question, at which worker 0 dies
                await asyncio.sleep(0.005)

    asyncio.run(main())
    pauses = [m for m in caplog.messages if m.startswith("worker 0 ended with exit code 3; starting another in ")]
    assert [m.rsplit(" ", 1)[1] for m in pauses][:4] == ["0.01s", "0.02s", "0.04s", "0.04s"]


def test_a_worker_that_does_not_answer_is_shown_with_its_last_counts(workers, loaded, monkeypatch):
    workers("""
        asked = []
        def once(message):
            asked.append(message)
            return usual(message) if len(asked) == 1 or "do" in message else None
        serve(once)
        """)

    async def main():
        async with running(loaded) as boss:
            await boss.snapshots()
            monkeypatch.setattr(supervisor, "_ANSWER_TIMEOUT", 0.05)
            return await boss.snapshots(), await boss.status(), await boss.runtime(0)

    snapshots, status, runtime = asyncio.run(main())
    assert [s.counts["proxy.requests.total"] for s in snapshots] == [5, 5]
    assert [w["answering"] for w in status["workers"]] == [False, False]
    assert runtime["workers"] == []


def test_a_worker_that_does_not_stop_is_killed_after_the_grace_period(workers, loaded, monkeypatch, caplog):
    started = workers("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        serve(lambda message: usual(message) if "ask" in message else None)
        """)
    monkeypatch.setattr(supervisor, "_EXIT_TIMEOUT", 0.05)

    async def main():
        async with running(loaded):
            pass

    asyncio.run(main())
    assert [process.wait() for process in started] == [-signal.SIGKILL] * 2
    assert "worker 0 did not stop in time and is killed" in caplog.messages


def test_a_worker_that_does_not_come_up_ends_the_start_with_its_exit_code(workers, loaded, caplog):
    workers("sys.exit(69) if task['worker'] else serve(usual)")

    async def main():
        first = listen("127.0.0.1", 0, key="server", shared=True)
        boss = Supervisor(loaded, [first, listen_again(first)])
        never = []
        code = await asyncio.wait_for(boss.run(listen("127.0.0.1", 0, key="admin"), lambda: never.append(1)), 30)
        return code, never

    assert asyncio.run(main()) == (69, [])
    gc.collect()  # what asyncio has to say of futures that nobody looked at, it says when they go
    assert caplog.messages == ["worker 1 ended with exit code 69 before it served"]


def test_a_reload_is_forwarded_as_it_was_taken_and_a_bad_one_is_not(workers, loaded, tmp_path, caplog):
    workers(f"""
        def remember(message):
            if message.get("do") == "reload":
                with open({str(tmp_path)!r} + f"/got-{{task['worker']}}", "a") as file:
                    file.write(json.dumps(message["config"]) + "\\n")
            return usual(message)
        serve(remember)
        """)
    file = tmp_path / "f.yaml"
    good = file.read_text()

    async def main():
        async with running(loaded) as boss:
            before = boss._config.digest()
            file.write_text(good + "proxy: {engin: 3}\n")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: any("config refused" in m for m in caplog.messages))
            assert boss._config.digest() == before
            file.write_text(good.replace("port: 0", "port: 1") + "proxy: {timeout: 9s}\n")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: (tmp_path / "got-0").exists() and (tmp_path / "got-1").exists())
            return boss._config

    config = asyncio.run(main())
    assert (config.server.port, config.proxy.timeout) == (0, 9.0)
    (sent,) = (tmp_path / "got-0").read_text().splitlines()
    assert "timeout: 9s" in json.loads(sent)
    assert "port: 0" in json.loads(sent)


def test_a_seat_keeps_the_counts_of_all_its_dead():
    async def main():
        seat = Seat(0, "olla", listen("127.0.0.1", 0, key="server"))
        stats = StatsCollector()
        for _ in range(3):
            stats.record_request()
        for _ in range(2):
            seat.last = stats.snapshot("olla", [])
            seat.bury()
        seat.bury()  # one that never counted anything
        return seat.snapshot()

    snapshot = asyncio.run(main())
    assert snapshot.counts["proxy.requests.total"] == snapshot.counts["proxy.requests.failed"] == 6
    assert snapshot.counts["proxy.active_connections"] == 0
    assert Snapshot.from_wire(snapshot.as_wire()) == snapshot


def test_an_answer_that_came_just_before_the_end_is_counted_once():
    snapshot = StatsCollector()
    snapshot.record_request()
    wire = snapshot.snapshot("olla", []).as_wire()

    class Dying:
        """A channel whose worker answers with its last breath."""

        messages = iter([{"ready": True}, {"id": 0, "asked": "snapshot", "answer": wire}, None])

        def send(self, message):
            pass

        async def receive(self):
            return next(self.messages)

    async def main():
        seat = Seat(0, "olla", listen("127.0.0.1", 0, key="server"))
        seat.channel = Dying()
        seat.ready.set()
        asking = asyncio.ensure_future(seat.ask("snapshot"))
        await asyncio.sleep(0)
        await seat.listen_to(seat.channel)
        seat.bury()
        await asking
        return seat.snapshot()

    counts = asyncio.run(main()).counts
    assert (counts["proxy.requests.total"], counts["proxy.requests.failed"]) == (1, 1)


def test_how_a_worker_ended_is_said_in_words():
    assert [_how(code) for code in (0, 70, -9, -200)] == ["exit code 0", "exit code 70", "SIGKILL", "signal 200"]


def test_workers_of_one_engine_share_a_module_hash_and_a_canary_makes_a_third():
    assert _one_hash(["a", "a"]) == "a"
    assert _one_hash(["a", "b"]) == _one_hash(["b", "a"]) not in ("a", "b")
