"""A slot whose process is a fake: what cannot be started, and messages that come late, twice, joined or broken."""

import asyncio
import errno
import json
import logging
import os
import re
import signal
import struct
from pathlib import Path

import pytest

from proxy import worker_process, worker_slot
from proxy.core.stats import Snapshot, StatsCollector
from proxy.net.listen import listen
from proxy.worker_process import describe_exit
from proxy.worker_slot import FIRST_PAUSE, LIVED_WELL, LONGEST_PAUSE, RestartPause, WorkerSlot


def frame(message):
    data = json.dumps(message).encode()
    return struct.pack("!I", len(data)) + data


class FakeProcess:
    """What Popen is for a slot; its end of the channel is in the hands of the test."""

    def __init__(self, channel):
        self.sock = channel.dup()
        self.pid = 77
        self.code = None
        self.killed = False
        self.signals = []

    def poll(self):
        return self.code

    def kill(self):
        self.killed = True
        self.exit(-9)

    def send_signal(self, number):
        self.signals.append(number)

    def exit(self, code=0):
        self.code = code
        self.sock.close()

    def say(self, *messages):
        """Send messages in one write."""
        self.sock.sendall(b"".join(map(frame, messages)))

    def heard(self):
        """All messages so far."""
        self.sock.setblocking(False)
        data, messages = b"", []
        try:
            while chunk := self.sock.recv(2**20):
                data += chunk
        except BlockingIOError:
            pass
        while data:
            (size,) = struct.unpack("!I", data[:4])
            messages.append(json.loads(data[4 : 4 + size]))
            data = data[4 + size :]
        return messages


class Rig:
    """A slot and the processes that were started in it."""

    def __init__(self):
        self.processes = []
        self.failures = []
        self.sock = listen("127.0.0.1", 0, key="server")
        self.slot = WorkerSlot(3, "olla", self.sock, self._spawn)
        self.config = "old"
        self.while_starting = lambda: None

    def _spawn(self, channel, listener):
        if self.failures:
            raise self.failures.pop(0)
        self.while_starting()
        self.processes.append(FakeProcess(channel))
        return self.processes[-1]

    def run(self):
        return asyncio.ensure_future(self.slot.run(lambda: {"config": self.config}))

    async def started(self):
        """A process that was started now, and the task that waits for its end."""
        count = len(self.processes)
        running = self.run()
        await until(
            lambda: (
                len(self.processes) > count and self.slot._worker is not None and self.slot._worker._channel is not None
            )
        )
        return self.processes[-1], running


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event to offer
            await asyncio.sleep(0.001)


def on(scenario):
    async def main():
        rig = Rig()
        try:
            return await asyncio.wait_for(scenario(rig), 30)
        finally:
            rig.sock.close()

    return asyncio.run(main())


def snapshot_of(requests):
    stats = StatsCollector()
    for _ in range(requests):
        stats.record_request()
    return stats.snapshot("olla", []).as_wire()


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE])
def test_a_process_that_cannot_be_started_leaves_nothing_behind_and_the_next_one_can(number):
    async def scenario(rig):
        before = descriptors()
        for _ in range(3):
            rig.failures.append(OSError(number, os.strerror(number)))
            with pytest.raises(OSError):
                await rig.run()
        assert descriptors() == before
        assert not rig.slot.serving
        assert await rig.slot.ask("snapshot") is None
        process, running = await rig.started()
        process.say({"ready": True})
        await until(lambda: rig.slot.serving)
        process.exit(7)
        return await running

    assert on(scenario) == 7


def test_no_descriptors_for_a_channel_are_a_failed_start_too(monkeypatch):
    def none_left():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario(rig):
        with monkeypatch.context() as patch:
            patch.setattr(worker_slot.socket, "socketpair", none_left)
            with pytest.raises(OSError):
                await rig.run()
        return rig.processes

    assert on(scenario) == []


def test_a_channel_that_cannot_be_opened_ends_the_process_that_was_started(monkeypatch):
    async def cannot(sock):
        raise OSError(errno.ENOMEM, "no memory")

    async def scenario(rig):
        before = descriptors()
        monkeypatch.setattr(worker_process, "open_channel", cannot)
        with pytest.raises(OSError):
            await rig.run()
        assert rig.processes[0].killed
        return descriptors() - before

    assert on(scenario) == 0


def test_the_task_is_what_the_config_is_when_it_is_sent_and_orders_follow_it():
    async def scenario(rig):
        def reload():
            rig.config = "new"

        rig.while_starting = reload
        process, running = await rig.started()
        rig.slot.order({"do": "reload"})
        rig.slot.stop()
        await asyncio.sleep(0.01)
        heard = process.heard()
        process.exit()
        await running
        return heard

    first, *orders = on(scenario)
    assert (first["config"], first["worker"]) == ("new", 3)
    assert orders == [{"do": "reload"}, {"do": "stop"}]


def test_a_stop_before_the_process_is_started_reaches_it():
    async def scenario(rig):
        rig.slot.stop()
        process, running = await rig.started()
        await asyncio.sleep(0.01)
        heard = process.heard()
        process.exit()
        await running
        return heard

    assert on(scenario)[1:] == [{"do": "stop"}]


def test_messages_that_come_joined_are_all_taken():
    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True}, {"ready": True}, {"last": snapshot_of(2)})
        await until(lambda: rig.slot.snapshot().counts)
        counts = rig.slot.snapshot().counts["proxy.requests.total"]
        serving = rig.slot.serving
        process.exit()
        await running
        return serving, counts

    assert on(scenario) == (True, 2)


def test_an_answer_that_comes_twice_or_too_late_is_no_answer_to_the_next_question(monkeypatch):
    monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 0.05)

    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True})
        await until(lambda: rig.slot.serving)
        assert await rig.slot.ask("status") is None
        asking = asyncio.ensure_future(rig.slot.ask("status"))
        await asyncio.sleep(0)
        late = {"id": 0, "asked": "status", "answer": {"late": True}}
        right = {"id": 1, "asked": "status", "answer": {"right": True}}
        process.say(late, late, right, right)
        answer = await asking
        process.exit()
        await running
        return answer

    assert on(scenario) == {"right": True}


def test_ready_from_a_worker_that_is_gone_makes_nothing_serve():
    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True})
        process.exit(1)
        code = await running
        return code, rig.slot.serving, rig.slot.served.is_set()

    assert on(scenario) == (1, False, True)


@pytest.mark.parametrize("message", [{}, {"what": "is this"}, {"last": 3}, {"last": {"engine": 1}}, {"ready": 0}])
def test_a_message_that_cannot_be_used_is_logged_and_the_next_one_counts(message, caplog):
    async def scenario(rig):
        process, running = await rig.started()
        process.say(*([message] if message else [{"empty": 1}]), {"ready": True})
        await until(lambda: rig.slot.serving)
        process.exit()
        return await running

    assert on(scenario) == 0
    assert [m for m in caplog.messages if m.startswith("worker 3 sent an un")]


def test_a_worker_that_sends_what_is_no_message_is_killed(caplog):
    async def scenario(rig):
        process, running = await rig.started()
        process.sock.sendall(b"\xff\xff\xff\xff")
        return await running, process.killed

    assert on(scenario) == (-9, True)
    assert any("is killed" in m for m in caplog.messages)


def test_a_process_that_hung_up_and_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(worker_process, "EXIT_TIMEOUT", 0.02)

    async def scenario(rig):
        process, running = await rig.started()
        process.sock.close()
        return await running

    assert on(scenario) == -9


def test_a_process_that_never_says_that_it_serves_is_killed(monkeypatch, caplog):
    monkeypatch.setattr(worker_process, "START_TIMEOUT", 0.02)

    async def scenario(rig):
        _, running = await rig.started()
        code = await running
        process, running = await rig.started()
        process.say({"ready": True})
        await asyncio.sleep(0.1)
        assert not process.killed
        process.exit()
        await running
        return code

    assert on(scenario) == -9
    assert caplog.messages == ["worker 3 does not serve after 0.02s and is killed"]


def test_a_question_to_a_worker_that_dies_is_answered_with_nothing():
    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True})
        await until(lambda: rig.slot.serving)
        asking = asyncio.ensure_future(rig.slot.ask("status"))
        await asyncio.sleep(0)
        process.exit()
        await running
        return await asking

    assert on(scenario) is None


def test_an_answer_that_came_just_before_the_end_is_counted_once():
    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True})
        await until(lambda: rig.slot.serving)
        asking = asyncio.ensure_future(rig.slot.ask("snapshot"))
        await asyncio.sleep(0)
        process.say({"id": 0, "asked": "snapshot", "answer": snapshot_of(1)})
        process.exit()
        await running
        await asking
        return rig.slot.snapshot().counts

    counts = on(scenario)
    assert (counts["proxy.requests.total"], counts["proxy.requests.failed"]) == (1, 1)


def test_a_slot_keeps_the_counts_of_all_its_dead():
    async def scenario(rig):
        for requests in (3, 3, 0):
            process, running = await rig.started()
            if requests:
                process.say({"last": snapshot_of(requests)})
            process.exit()
            await running
        return rig.slot.snapshot(), rig.slot.serving

    snapshot, serving = on(scenario)
    assert snapshot.counts["proxy.requests.total"] == snapshot.counts["proxy.requests.failed"] == 6
    assert snapshot.counts["proxy.active_connections"] == 0
    assert Snapshot.from_wire(snapshot.as_wire()) == snapshot
    assert not serving


def test_a_worker_that_leaves_makes_room_for_another_and_keeps_its_counts_until_it_is_gone():
    async def scenario(rig):
        old, running = await rig.started()
        old.say({"ready": True}, {"last": snapshot_of(2)}, {"leaving": True})
        assert await running is None
        assert not rig.slot.serving
        new, running = await rig.started()
        new.say({"ready": True}, {"last": snapshot_of(3)})
        await until(lambda: rig.slot.serving and rig.slot.snapshot().counts.get("proxy.requests.total") == 5)
        rig.slot.order({"do": "reload"})
        rig.slot.stop()
        await asyncio.sleep(0.01)
        orders = [[message["do"] for message in process.heard()[1:]] for process in (old, new)]
        leaving = asyncio.ensure_future(rig.slot.left())
        old.say({"last": snapshot_of(7)})
        old.exit()
        await leaving
        counts = rig.slot.snapshot().counts
        new.exit(4)
        return orders, counts["proxy.requests.total"], await running

    assert on(scenario) == ([["stop"], ["reload", "stop"]], 10, 4)


def test_all_workers_of_a_slot_are_killed():
    async def scenario(rig):
        old, running = await rig.started()
        old.say({"ready": True}, {"leaving": True})
        await running
        new, running = await rig.started()
        rig.slot.kill()
        await rig.slot.left()
        return await running, old.killed, new.killed

    assert on(scenario) == (-9, True, True)


def test_a_worker_that_hangs_is_ended_and_one_that_answers_now_and_then_is_not(monkeypatch, caplog):
    monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 0.001)
    monkeypatch.setattr(worker_process, "ABORT_TIMEOUT", 0.001)

    async def scenario(rig):
        process, running = await rig.started()
        process.say({"ready": True})
        await until(lambda: rig.slot.serving)
        worker = rig.slot._worker
        for _ in range(worker_process.HUNG_AFTER - 1):
            await rig.slot.watch()
        worker._handle({"answer": snapshot_of(1), "id": 99, "asked": "snapshot"})  # late: not what was asked last
        monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 20)
        watching = asyncio.ensure_future(rig.slot.watch())
        await asyncio.sleep(0)
        process.say({"answer": snapshot_of(1), "id": worker_process.HUNG_AFTER - 1, "asked": "snapshot"})
        await watching
        monkeypatch.setattr(worker_process, "ANSWER_TIMEOUT", 0.001)
        for _ in range(worker_process.HUNG_AFTER - 1):
            await rig.slot.watch()
        signals = list(process.signals)
        await rig.slot.watch()
        return signals, await running, process.signals

    assert on(scenario) == ([], -9, [signal.SIGABRT])
    (said,) = caplog.messages
    assert re.fullmatch(r"worker 3 \(pid 77\) answered nothing for \d+s \(10 questions in a row\) and is killed", said)


def test_pauses_grow_to_a_limit_and_begin_again_after_a_worker_that_lived():
    pauses = RestartPause()
    grown = [pauses.after(0.0) for _ in range(9)]
    assert grown[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert grown[-1] == LONGEST_PAUSE
    assert [pauses.after(LIVED_WELL + 1), pauses.after(1.0)] == [FIRST_PAUSE, 2 * FIRST_PAUSE]


def test_how_a_worker_ended_is_said_in_words():
    words = [describe_exit(code) for code in (0, 70, -9, -200)]
    assert words == ["exit code 0", "exit code 70", "SIGKILL", "signal 200"]


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.WARNING)
