"""The supervisor, with workers that are a few lines of Python and misbehave on request."""

import asyncio
import errno
import gc
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager

import pytest

from proxy import process, supervisor, worker_process, worker_slot
from proxy.config import load
from proxy.net.listen import listen, listen_again
from proxy.supervisor import Supervisor, _one_hash

# Speaks the channel's protocol. `behave` decides what it does with an order or a question; None is silence.
WORKER = """
import json, os, signal, socket, struct, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
def hear():
    head = channel.recv(4, socket.MSG_WAITALL)
    return json.loads(channel.recv(struct.unpack("!I", head)[0], socket.MSG_WAITALL)) if head else None
task = hear()
def frame(message):
    data = json.dumps(message).encode()
    return struct.pack("!I", len(data)) + data
def say(**message):
    channel.sendall(frame(message))
counts = dict.fromkeys(["proxy.requests.total", "proxy.requests.success", "proxy.requests.failed",
                        "proxy.requests.client_disconnected", "proxy.active_connections"], 0)
counts.update({"proxy.requests.total": 5, "proxy.requests.success": 3, "proxy.active_connections": 2})
snapshot = {"engine": "olla", "counts": counts, "latency_counts": {}, "latency_sum": 0.0, "endpoints": {}}
def serve(behave):
    say(ready=True)
    while message := hear():
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
        case {"do": "stop" | "cut"}: return "exit"
"""


@pytest.fixture
def workers(monkeypatch):
    """Call it with the code that a worker runs after WORKER; returns the list of processes that were started.

    `failing(started)` returns an OSError where a process cannot be started.
    """
    started = []

    def use(code, failing=lambda started: None):
        def spawn(channel, listener):
            if error := failing(started):
                raise error
            script = WORKER + textwrap.dedent(code)
            made = subprocess.Popen([sys.executable, "-c", script, str(channel.fileno())], pass_fds=(channel.fileno(),))
            started.append(made)
            return made

        monkeypatch.setattr(supervisor, "spawn_worker", spawn)
        return started

    yield use
    for made in started:
        if made.poll() is None:
            made.kill()
        made.wait()


@pytest.fixture
def loaded(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text(
        "server: {workers: 2, port: 0, shutdown_timeout: 1s}\nendpoints: [{name: a, url: 'http://127.0.0.1:9'}]\n"
    )
    return load(file)


@asynccontextmanager
async def running(loaded):
    """A Supervisor that is ready; at the end it is told to stop, and its exit code must be the order's."""
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
    monkeypatch.setattr(worker_slot, "FIRST_PAUSE", 0.01)

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
            hear()
            sys.exit(3)
        serve(usual)
        """)
    monkeypatch.setattr(worker_slot, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(worker_slot, "LONGEST_PAUSE", 0.04)

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
            monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 0.05)
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
    monkeypatch.setattr(supervisor, "EXIT_TIMEOUT", 0.05)

    async def main():
        async with running(loaded):
            pass

    asyncio.run(main())
    assert [made.wait() for made in started] == [-signal.SIGKILL] * 2
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


def test_a_worker_that_hangs_is_replaced(workers, loaded, monkeypatch, caplog):
    started = workers("serve(usual)")
    monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(worker_process, "HUNG_AFTER", 3)
    monkeypatch.setattr(worker_process, "ABORT_TIMEOUT", 0.01)
    monkeypatch.setattr(supervisor, "_ASK_EVERY", 0.01)

    async def main():
        async with running(loaded) as boss:
            started[1].send_signal(signal.SIGSTOP)
            await until(lambda: len(started) == 3 and boss.health()["workers"]["serving"] == 2)

    asyncio.run(main())
    said = rf"worker 1 \(pid {started[1].pid}\) answered nothing for \d+s \(3 questions in a row\) and is killed"
    assert any(re.fullmatch(said, message) for message in caplog.messages)
    assert started[0].wait() == 0


def test_a_worker_that_does_not_answer_does_not_keep_the_others_from_being_asked(workers, loaded, monkeypatch):
    """What a killed worker counted since it was last asked is lost."""
    workers("serve(usual) if task['worker'] else serve(lambda message: usual(message) if 'do' in message else None)")
    monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 60)
    monkeypatch.setattr(supervisor, "_ASK_EVERY", 0.01)
    answers = []
    watch = worker_slot.WorkerSlot.watch

    async def counted(slot):
        await watch(slot)
        answers.append(slot.index)

    monkeypatch.setattr(worker_slot.WorkerSlot, "watch", counted)

    async def main():
        async with running(loaded):
            answers.clear()
            await until(lambda: len(answers) > 3)

    asyncio.run(main())
    assert set(answers) == {1}


# -- what cannot be started


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_start_that_fails_is_tried_again_and_again_while_the_others_serve(
    workers, loaded, monkeypatch, caplog, number
):
    monkeypatch.setattr(worker_slot, "FIRST_PAUSE", 0.01)
    failures = [OSError(number, os.strerror(number)) for _ in range(3)]
    started = workers("serve(usual)", lambda started: failures.pop(0) if len(started) == 2 and failures else None)

    async def main():
        async with running(loaded) as boss:
            await boss.snapshots()
            started[0].kill()
            await until(lambda: len(started) == 3 and boss.health()["workers"]["serving"] == 2)
            return await boss.status()

    status = asyncio.run(main())
    assert [w["restarts"] for w in status["workers"]] == [4, 0]
    said = [m for m in caplog.messages if "could not be started" in m]
    assert said[0] == f"worker 0 could not be started ({os.strerror(number)}); starting another in 0.02s"
    assert len(said) == 3


def test_a_worker_that_cannot_be_started_does_not_shorten_the_grace_of_the_others(workers, loaded, monkeypatch, caplog):
    """Its task ended with an exception, and at SIGTERM every healthy worker was killed at once."""
    monkeypatch.setattr(worker_slot, "FIRST_PAUSE", 0.01)
    started = workers(
        """
        def slow(message):
            if message.get("do") == "stop":
                time.sleep(0.5)
            return usual(message)
        serve(slow)
        """,
        lambda started: OSError(errno.EAGAIN, "no") if len(started) == 2 else None,
    )

    async def main():
        async with running(loaded):
            started[0].kill()
            await until(lambda: any("could not be started" in m for m in caplog.messages))

    asyncio.run(main())
    assert started[1].wait() == 0
    assert not any("killed" in m for m in caplog.messages)


def test_a_first_start_that_fails_ends_the_proxy_with_69_and_leaves_no_worker(workers, loaded, caplog):
    started = workers("serve(usual)", lambda started: OSError(errno.EAGAIN, "none left") if started else None)

    async def main():
        first = listen("127.0.0.1", 0, key="server", shared=True)
        boss = Supervisor(loaded, [first, listen_again(first)])
        never = []
        code = await asyncio.wait_for(boss.run(listen("127.0.0.1", 0, key="admin"), lambda: never.append(1)), 30)
        return code, never

    assert asyncio.run(main()) == (69, [])
    assert caplog.messages[-1] == "worker 1 could not be started (none left) before it served"
    assert [made.wait() for made in started] == [0]


def test_a_worker_that_dies_of_the_group_s_signal_while_it_boots_is_not_a_failed_start(workers, loaded, caplog):
    workers("os.kill(os.getppid(), signal.SIGTERM) if task['worker'] else None; os.kill(os.getpid(), signal.SIGTERM)")

    async def main():
        first = listen("127.0.0.1", 0, key="server", shared=True)
        boss = Supervisor(loaded, [first, listen_again(first)])
        return await asyncio.wait_for(boss.run(listen("127.0.0.1", 0, key="admin"), lambda: None), 30)

    assert asyncio.run(main()) == 0


# -- orders


def test_a_reload_and_a_stop_while_a_worker_boots_reach_it_joined_and_kill_nobody(
    workers, loaded, tmp_path, monkeypatch
):
    """Two messages in one read were 'Extra data', and the worker died of it."""
    started = workers(f"""
        if task["worker"] == 0 and os.path.exists({str(tmp_path)!r} + "/slow"):
            time.sleep(0.3)  # the orders wait in the socket meanwhile
        got = []
        def remember(message):
            got.append(message.get("do"))
            if got[-1] == "stop":
                with open({str(tmp_path)!r} + "/got", "a") as file:
                    print(task["worker"], got.count("reload"), file=file)
            return usual(message)
        serve(remember)
        """)
    monkeypatch.setattr(worker_slot, "FIRST_PAUSE", 0.01)

    async def main():
        async with running(loaded) as boss:
            (tmp_path / "slow").touch()
            started[0].kill()
            await until(lambda: len(started) == 3 and boss._slots[0]._worker is not None)
            for _ in range(3):
                boss._reload()

    asyncio.run(main())
    assert sorted((tmp_path / "got").read_text().splitlines()) == ["0 3", "1 3"]
    assert started[2].wait() == 0


def test_an_order_that_comes_many_times_cuts_nobody_and_an_interrupt_later_does(workers, loaded, monkeypatch):
    started = workers("""
        def heard(message):
            if message.get("do") == "cut":
                os._exit(44)
            return usual(message) if "ask" in message else None
        serve(heard)
        """)
    monkeypatch.setattr(process, "PERSON_GAP", 0.2)

    async def main():
        first = listen("127.0.0.1", 0, key="server", shared=True)
        boss = Supervisor(loaded, [first, listen_again(first)])
        ready = asyncio.Event()
        task = asyncio.ensure_future(boss.run(listen("127.0.0.1", 0, key="admin"), ready.set))
        await asyncio.wait_for(ready.wait(), 30)
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.08)
        assert [p.poll() for p in started] == [None, None]
        os.kill(os.getpid(), signal.SIGINT)
        return await asyncio.wait_for(task, 30)

    assert asyncio.run(main()) == 0
    assert [p.wait() for p in started] == [44, 44]


def test_workers_of_one_engine_share_a_module_hash_and_a_canary_makes_a_third():
    assert _one_hash(["a", "a"]) == "a"
    assert _one_hash(["a", "b"]) == _one_hash(["b", "a"]) not in ("a", "b")
