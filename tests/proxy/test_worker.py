"""How a worker is put together, with an engine that only remembers what it was told."""

import asyncio
import os
import socket

import pytest

from proxy import worker
from proxy.config import parse
from proxy.control.channel import open_channel
from proxy.core.service import Instance
from proxy.net.listen import listen
from proxy.process import Unavailable
from proxy.worker import SingleWorker, Worker, engine_of, new_instance

ENDPOINTS = 'endpoints: [{name: a, url: "http://127.0.0.1:9001", health: {enabled: false}}]\n'


class FakeEngine:
    """A ProxyService without a network."""

    engine = "fake"

    def __init__(self, config, discovery, stats, instance, dialer):
        self.config, self.discovery, self.collector, self.instance = config, discovery, stats, instance
        self.told = []

    async def start(self, sock):
        self.told.append("start")

    async def stop(self, grace):
        self.told.append(("stop", grace))

    def stats(self):
        return self.collector.snapshot(self.config.proxy.engine, self.discovery.endpoints)

    def status(self):
        return {"worker": "not the engine's to say", "endpoints": {"a": {"pool": {"idle": 2}}}, "extra": 1}

    def update_config(self, config):
        self.config = config
        self.told.append(("update", [e.name for e in self.discovery.endpoints]))


@pytest.fixture(autouse=True)
def fake_engines(monkeypatch):
    monkeypatch.setattr(worker, "engine_class", lambda name: FakeEngine)


def make(text="", index=0):
    config = parse("runtime: {gc: {freeze_after_start: false}, recorders: false}\n" + text + ENDPOINTS).config
    return Worker(config, Instance(via="me"), index)


def in_loop(scenario):
    async def main():
        with listen("127.0.0.1", 0, key="server") as sock:
            return await scenario(sock)

    return asyncio.run(main())


def test_the_last_workers_run_the_canarys_engine():
    config = parse("server: {workers: 4}\ncanary: {engine: sherpa, workers: 1}\n" + ENDPOINTS).config
    assert [engine_of(config, i) for i in range(4)] == ["olla", "olla", "olla", "sherpa"]
    assert engine_of(parse(ENDPOINTS).config, 0) == "olla"


def test_a_canary_worker_is_configured_as_its_own_engine_before_and_after_a_reload():
    text = "server: {workers: 2}\ncanary: {engine: sherpa, workers: 1}\n"

    async def scenario(sock):
        made = make(text, index=1)
        made.reload(parse(text + "proxy: {timeout: 9s}\n" + ENDPOINTS).config)
        return made

    made = in_loop(scenario)
    assert made.engine == made.service.config.proxy.engine == "sherpa"
    assert made.service.config.proxy.timeout == 9.0


def test_no_two_proxies_have_the_same_name_in_via():
    assert new_instance() != new_instance()


def test_status_joins_what_the_engine_and_the_health_checks_know():
    async def scenario(sock):
        made = make()
        await made.start(sock)
        status = made.status()
        await made.stop()
        return made, status

    made, status = in_loop(scenario)
    assert (status["worker"], status["engine"], status["pid"], status["extra"]) == (0, "olla", os.getpid(), 1)
    endpoint = status["endpoints"]["a"]
    assert endpoint["pool"] == {"idle": 2}
    assert (endpoint["healthy"], endpoint["active"], endpoint["url"]) == (True, 0, "http://127.0.0.1:9001")
    assert endpoint["checks"] == {
        "enabled": False,
        "path": None,
        "failures_in_a_row": 0,
        "successes_in_a_row": 0,
        "next_in_seconds": None,
    }
    assert made.service.told == ["start", ("stop", 30.0)]


def test_the_runtime_view_names_code_config_and_heap():
    async def scenario(sock):
        made = make()
        await made.start(sock)
        view = made.runtime(0)
        await made.stop()
        return view

    view = in_loop(scenario)
    assert {"pid", "engine", "config_hash", "module_hash", "versions", "heap", "rss_bytes", "now_ns"} <= view.keys()
    assert (view["gc"], view["stalls"], view["recorders"]) == ([], [], False)


def test_a_reload_brings_the_endpoints_first_and_then_the_engine():
    async def scenario(sock):
        made = make()
        kept = made.reload(parse("server: {port: 1}\n" + ENDPOINTS.replace("name: a", "name: b")).config)
        return made, kept

    made, kept = in_loop(scenario)
    assert made.service.told == [("update", ["b"])]
    assert "server.port: 1 needs a restart; until then it stays 8080" in kept


def test_a_reload_whose_certificates_cannot_be_loaded_changes_nothing(tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text("not a certificate")
    text = f'endpoints: [{{name: b, url: "https://h", tls: {{ca_file: "{ca}"}}}}]\n'

    async def scenario(sock):
        made = make()
        with pytest.raises(Unavailable, match=r"endpoint b: tls\.ca_file"):
            made.reload(parse(text).config)
        return made

    made = in_loop(scenario)
    assert made.service.told == []
    assert [e.name for e in made.discovery.endpoints] == ["a"]


def test_a_lone_worker_is_ok_until_it_stops_even_when_no_endpoint_is_healthy():
    async def scenario(sock):
        made = make()
        source = SingleWorker(made, "f.yaml")
        for _ in range(3):
            made.discovery.record_check(made.discovery.endpoints[0], False)
        before = source.health()
        source.stopping = True
        return before, source.health(), await source.status(), await source.snapshots(), await source.runtime(None)

    before, after, status, snapshots, view = in_loop(scenario)
    assert before == {"status": "ok", "endpoints": {"configured": 1, "healthy": 0}}
    assert after["status"] == "stopping"
    assert (status["instance"], status["config"]["source"], len(status["workers"])) == ("me", "f.yaml", 1)
    assert (len(snapshots), view["worker"]) == (1, 0)


# -- under a supervisor


def supervised(conversation):
    """Run a worker at one end of a channel; `conversation` is had at the other. Returns its result and the worker."""

    async def main():
        ours, theirs = socket.socketpair()
        made = make()
        with listen("127.0.0.1", 0, key="server") as sock:
            serving = asyncio.ensure_future(worker._serve_supervised(made, sock, theirs))
            channel = await open_channel(ours)
            try:
                async with asyncio.timeout(30):
                    assert await channel.receive() == {"ready": True}
                    return await conversation(channel), await serving, made
            finally:
                channel.close()

    return asyncio.run(main())


def test_a_worker_answers_its_supervisor_and_leaves_its_last_counts():
    async def conversation(channel):
        channel.send({"ask": "snapshot", "id": 1})
        channel.send({"ask": "status", "id": 2})
        channel.send({"ask": "runtime", "since_ns": None, "id": 3})
        answers = [await channel.receive() for _ in range(3)]
        channel.send({"do": "stop"})
        return answers, await channel.receive(), await channel.receive()

    (answers, leaving, last), code, _ = supervised(conversation)
    assert leaving == {"leaving": True}
    assert [(a["id"], a["asked"]) for a in answers] == [(1, "snapshot"), (2, "status"), (3, "runtime")]
    assert answers[1]["answer"]["pid"] == os.getpid()
    assert last["last"] == answers[0]["answer"]
    assert code == 0


def test_a_worker_takes_a_config_from_its_supervisor():
    async def conversation(channel):
        channel.send({"do": "reload", "config": "proxy: {timeout: 9s}\n" + ENDPOINTS, "source": "f.yaml"})
        channel.send({"do": "stop"})

    _, _, made = supervised(conversation)
    assert made.service.config.proxy.timeout == 9.0


def test_a_question_that_fails_does_not_make_a_worker_deaf(caplog):
    async def conversation(channel):
        channel.send({"ask": "the time", "id": 1})
        channel.send({"do": "reload", "config": "nonsense", "source": "f.yaml"})
        channel.send({"ask": "status", "id": 2})
        answer = await channel.receive()
        channel.send({"do": "stop"})
        return answer

    answer, code, _ = supervised(conversation)
    assert (answer["id"], code) == (2, 0)
    assert len(caplog.records) == 2


def test_a_worker_whose_supervisor_is_gone_stops(caplog):
    async def conversation(channel):
        channel.close()

    _, code, made = supervised(conversation)
    assert code == 0
    assert made.service.told[-1] == ("stop", 30.0)
    assert "the supervisor is gone: stopping" in caplog.messages
