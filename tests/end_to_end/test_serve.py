"""`serve` as users meet it: real processes, signals, several workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy.process import PERSON_GAP
from tests.end_to_end.serving import Backend, Serve, assert_identity, backend, until

ENGINES = ("sherpa", "olla")
Start = Callable[..., Serve]


@pytest.fixture
def upstream() -> Iterator[Backend]:
    with backend() as made:
        yield made


@pytest.fixture
def start(tmp_path: Path, upstream: Backend) -> Iterator[Start]:
    """Starts a proxy in front of `upstream`; keyword arguments are config sections."""
    running: list[Serve] = []

    def begin(*args: str, **sections: dict[str, Any]) -> Serve:
        running.append(Serve(tmp_path, config_for(upstream, **sections), *args))
        return running[-1]

    yield begin
    for proxy in running:
        proxy.close()


def config_for(upstream: Backend, **sections: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "server": {"port": 0, "shutdown_timeout": "20s"},
        "admin": {"port": 0},
        "health": {"interval": "1h"},
        "endpoints": [{"name": "a", "url": f"http://127.0.0.1:{upstream.port}"}],
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    return config


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan whose new parent does not collect it is dead all the same.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


# -- one worker that a few tests look at together


@pytest.fixture(scope="module", params=ENGINES)
def steady(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serve, Backend]]:
    preset = {"gc": {"freeze_after_start": True, "thresholds": [5000, 20, 20], "ballast": 1000}, "recorders": True}
    with backend() as made:
        config = config_for(made, server={"access_log": True}, runtime=preset)
        proxy = Serve(tmp_path_factory.mktemp("steady"), config, "--engine", request.param)
        yield proxy, made
        proxy.close()


def test_it_says_when_it_is_ready_and_serves(steady: tuple[Serve, Backend]) -> None:
    proxy, _ = steady
    assert proxy.ready == {
        "ready": True,
        "url": proxy.ready["url"],
        "admin": proxy.ready["admin"],
        "pid": proxy.process.pid,
    }
    before = proxy.admin("/internal/stats")["proxy.requests.success"]
    assert proxy.get("/v1/x?y=1") == (200, b'{"target": "/v1/x?y=1"}')
    assert proxy.admin("/internal/stats")["proxy.requests.success"] == before + 1


def test_internal_paths_on_the_public_port_are_the_endpoints_business(steady: tuple[Serve, Backend]) -> None:
    proxy, upstream = steady
    for target in ("/internal/status", "/metrics", "/internal/../internal/health", "//internal/stats"):
        assert proxy.get(target) == (200, json.dumps({"target": target}).encode())
    assert upstream.seen.count("/internal/status") == 1


def test_the_access_log_has_one_line_a_request_and_no_secrets(steady: tuple[Serve, Backend]) -> None:
    proxy, _ = steady
    proxy.get("/v1/secret?api_key=hunter22")

    def access_lines() -> list[dict[str, Any]]:
        return [x for x in proxy.log() if x["logger"] == "proxy.access" and "secret" in x["target"]]

    (line,) = until(access_lines, "an access line")
    assert (line["method"], line["target"], line["status"]) == ("GET", "/v1/secret?api_key=***", 200)
    assert (line["outcome"], line["endpoint"]) == ("success", "a")
    assert line["engine"] == proxy.admin("/internal/stats")["engine"]


def test_the_recorders_and_heap_settings_are_the_same_for_both_engines(steady: tuple[Serve, Backend]) -> None:
    proxy, _ = steady
    view = proxy.admin("/internal/runtime")
    assert (view["recorders"], view["heap"]["ballast"], view["heap"]["thresholds"]) == (True, 1000, [5000, 20, 20])
    assert view["heap"]["frozen"] > 2000
    assert view["rss_bytes"] > 2**20
    later = proxy.admin(f"/internal/runtime?since_ns={view['now_ns']}")
    assert later["config_hash"] == view["config_hash"]
    assert later["module_hash"] == view["module_hash"]
    assert all(row[1] >= view["now_ns"] for row in later["gc"] + later["stalls"])


def test_a_port_in_use_is_one_sentence_and_no_ready_line(steady: tuple[Serve, Backend], tmp_path: Path) -> None:
    proxy, upstream = steady
    port = urlsplit(proxy.ready["url"]).port
    with pytest.raises(AssertionError, match=rf"server\.port: {port} on 127\.0\.0\.1 is in use"):
        Serve(tmp_path, config_for(upstream), "--port", str(port))


# -- stopping


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_ctrl_c_ends_it_with_130(start: Start, loop: str) -> None:
    proxy = start(server={"loop": loop})
    proxy.signal(signal.SIGINT)
    assert proxy.wait() == 130


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_sigterm_lets_streams_end_and_refuses_new_connections(
    start: Start, upstream: Backend, engine: str, workers: int
) -> None:
    proxy = start("--engine", engine, "--workers", str(workers))
    streams = [proxy.stream() for _ in range(4)]
    proxy.signal(signal.SIGTERM)
    until(lambda: proxy.admin("/internal/health")["status"] == "stopping", "the proxy says that it stops")
    address = urlsplit(proxy.ready["url"])
    until(lambda: refuses(str(address.hostname), int(address.port or 0)), "connecting is refused")
    assert proxy.process.poll() is None
    upstream.release()
    assert [stream.read() for stream in streams] == [b"last"] * 4
    assert proxy.wait() == 0


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_sigterm_to_the_whole_group_twice_is_one_order_and_streams_end(
    tmp_path: Path, upstream: Backend, engine: str, workers: int
) -> None:
    """dumb-init, timeout and systemd signal the group; timeout signals its child, too."""
    proxy = Serve(tmp_path, config_for(upstream), "--engine", engine, "--workers", str(workers), start_new_session=True)
    try:
        streams = [proxy.stream() for _ in range(4)]
        for _ in range(2):
            os.killpg(proxy.process.pid, signal.SIGTERM)
        until(lambda: proxy.admin("/internal/health")["status"] == "stopping", "the proxy says that it stops")
        time.sleep(PERSON_GAP + 0.2)
        os.killpg(proxy.process.pid, signal.SIGTERM)  # and once more when it has been stopping for a while
        time.sleep(0.2)
        assert proxy.process.poll() is None
        upstream.release()
        assert [stream.read() for stream in streams] == [b"last"] * 4
        assert proxy.wait() == 0
        assert not proxy.said("interrupted")
    finally:
        proxy.close()


@pytest.mark.skipif(shutil.which("timeout") is None, reason="needs the timeout command (coreutils)")
def test_under_timeout_streams_end_too(tmp_path: Path, upstream: Backend) -> None:
    """It passes a signal on to its child and to the whole group: the proxy gets it twice, each worker once."""
    proxy = Serve(tmp_path, config_for(upstream), "--workers", "2", under=("timeout", "600"), start_new_session=True)
    try:
        streams = [proxy.stream() for _ in range(4)]
        proxy.process.send_signal(signal.SIGTERM)  # to timeout
        until(lambda: proxy.said("stopping"), "it was passed on")
        time.sleep(0.5)
        upstream.release()
        assert [stream.read() for stream in streams] == [b"last"] * 4
        assert proxy.wait() == 0
    finally:
        proxy.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_after_the_order_to_stop_does_not_wait_for_streams(start: Start, workers: int) -> None:
    proxy = start("--workers", str(workers))
    stream = proxy.stream()
    proxy.signal(signal.SIGTERM)
    until(lambda: proxy.said("stopping"), "the stop is logged")
    time.sleep(PERSON_GAP + 0.1)
    proxy.signal(signal.SIGINT)
    assert proxy.wait() == 0  # the first signal decides
    with pytest.raises((OSError, Exception)):
        stream.read()


def test_streams_longer_than_the_grace_period_are_cut(start: Start) -> None:
    proxy = start("--workers", "2", server={"shutdown_timeout": "100ms"})
    stream = proxy.stream()
    proxy.signal(signal.SIGTERM)
    assert proxy.wait() == 0
    with pytest.raises((OSError, Exception)):
        stream.read()


# -- reload


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_reload_changes_endpoints_and_balancer_and_cuts_no_stream(
    start: Start, upstream: Backend, engine: str, workers: int
) -> None:
    sections = {"proxy": {"engine": engine, "max_conns_per_host": 0}, "server": {"workers": workers}}
    proxy = start(**sections)
    streams = [proxy.stream() for _ in range(200)]
    with backend() as other:
        changed = config_for(upstream, **sections, endpoints=[{"name": "b", "url": f"http://127.0.0.1:{other.port}"}])
        changed["proxy"]["load_balancer"] = "round-robin"
        before = proxy.admin("/internal/status")["config"]["hash"]
        proxy.configure(changed)
        proxy.signal(signal.SIGHUP)
        until(lambda: all_know(proxy, "b"), "all workers know the new endpoint")
        assert proxy.admin("/internal/status")["config"]["hash"] != before
        for _ in range(8):
            assert proxy.get("/new")[0] == 200
        assert other.seen.count("/new") == 8
        upstream.release()
        assert [stream.read() for stream in streams] == [b"last"] * 200


def all_know(proxy: Serve, endpoint: str) -> bool:
    return all(endpoint in worker["endpoints"] for worker in proxy.admin("/internal/status")["workers"])


def test_a_bad_config_is_refused_with_its_sentence_and_the_old_one_stays(start: Start, upstream: Backend) -> None:
    proxy = start("--workers", "2")
    before = proxy.admin("/internal/status")["config"]["hash"]
    proxy.configure(config_for(upstream, proxy={"load_balancer": "fair"}))
    proxy.signal(signal.SIGHUP)
    until(lambda: proxy.said("config refused, the old one stays"), "the refusal is logged")
    assert proxy.said("proxy.load_balancer: 'fair' is not a balancer")
    assert proxy.admin("/internal/status")["config"]["hash"] == before
    assert proxy.get()[0] == 200


def test_a_reload_while_a_worker_boots_kills_nobody(start: Start, upstream: Backend) -> None:
    """The reload's message came joined to the first one, and the worker died of "Extra data"."""
    proxy = start("--workers", "2")
    pids = [worker["pid"] for worker in proxy.admin("/internal/status")["workers"]]
    os.kill(pids[0], signal.SIGKILL)
    until(lambda: proxy.said("starting another"), "its end is seen")
    for seconds in range(20):
        proxy.configure(config_for(upstream, server={"workers": 2, "header_timeout": f"{seconds + 1}s"}))
        proxy.signal(signal.SIGHUP)
        time.sleep(0.03)
    until(lambda: proxy.admin("/internal/health")["workers"]["serving"] == 2, "both serve")
    assert sum(worker["restarts"] for worker in proxy.admin("/internal/status")["workers"]) == 1
    hashes = lambda: {w["config_hash"] for w in proxy.admin("/internal/runtime")["workers"]}  # noqa: E731
    until(lambda: hashes() == {proxy.admin("/internal/status")["config"]["hash"]}, "both have the last config")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_reload_while_it_stops_is_refused_and_cuts_no_stream(
    start: Start, upstream: Backend, engine: str, workers: int
) -> None:
    """Sherpa took half of it: the listening socket, whose time limit a reload sets, was closed already."""
    proxy = start("--engine", engine, "--workers", str(workers))
    stream = proxy.stream()
    proxy.signal(signal.SIGTERM)
    until(lambda: proxy.admin("/internal/health")["status"] == "stopping", "the proxy says that it stops")
    proxy.signal(signal.SIGHUP)
    until(lambda: proxy.said("stopping: the config is not read again"), "the refusal is logged")
    upstream.release()
    assert stream.read() == b"last"
    assert proxy.wait() == 0
    assert not proxy.said("config reloaded")


def test_what_needs_a_restart_is_said_and_keeps_its_value(start: Start, upstream: Backend) -> None:
    proxy = start()
    config = config_for(upstream, server={"loop": "asyncio"}, proxy={"engine": "sherpa"})
    proxy.configure(config)
    proxy.signal(signal.SIGHUP)
    until(lambda: proxy.said("config reloaded"), "the reload is logged")
    assert proxy.said("server.loop: 'asyncio' needs a restart; until then it stays 'uvloop'")
    assert proxy.said("proxy.engine: 'sherpa' needs a restart; until then it stays 'olla'")
    assert proxy.admin("/internal/stats")["engine"] == "olla"


# -- several workers


def test_counts_are_added_up_over_workers(start: Start) -> None:
    proxy = start("--workers", "2")
    for _ in range(40):
        assert proxy.get()[0] == 200
    stats = until(lambda: complete(proxy, 40), "all requests are counted")
    assert stats["proxy.requests.success"] == 40
    assert_identity(stats)
    workers = proxy.admin("/internal/runtime")["workers"]
    assert [worker["worker"] for worker in workers] == [0, 1]
    assert len({worker["pid"] for worker in workers} | {proxy.ready["pid"]}) == 3


def complete(proxy: Serve, total: int) -> dict[str, Any] | None:
    stats: dict[str, Any] = proxy.admin("/internal/stats")
    done = stats["proxy.requests.total"] == total and not stats["proxy.active_connections"]
    return stats if done else None


def test_a_killed_worker_is_replaced_its_streams_failed_and_nothing_is_lost_from_the_counts(
    start: Start, upstream: Backend
) -> None:
    proxy = start("--workers", "2")
    streams = [proxy.stream() for _ in range(8)]
    stats = proxy.admin("/internal/stats")  # what the supervisor knows of each worker from now on
    assert stats["proxy.active_connections"] == 8
    victim = next(w for w in proxy.admin("/internal/status")["workers"] if w["endpoints"]["a"]["active"])
    lost = victim["endpoints"]["a"]["active"]
    os.kill(victim["pid"], signal.SIGKILL)

    def replaced() -> bool:
        workers = proxy.admin("/internal/status")["workers"]
        return all(w["answering"] for w in workers) and sum(w["restarts"] for w in workers) == 1

    until(replaced, "a successor answers")
    assert proxy.said("ended with SIGKILL")
    stats = proxy.admin("/internal/stats")
    assert (stats["proxy.requests.failed"], stats["proxy.active_connections"]) == (lost, 8 - lost)
    assert_identity(stats)
    for _ in range(16):  # both sockets of the port are served
        assert proxy.get()[0] == 200
    upstream.release()
    assert sum(ended_well(stream) for stream in streams) == 8 - lost


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signalled_worker_finishes_its_streams_while_its_successor_serves(
    start: Start, upstream: Backend, engine: str
) -> None:
    """Its socket stays in the port's group, so half of all new connections waited until its last stream had ended."""
    proxy = start("--engine", engine, "--workers", "2")
    streams = [proxy.stream() for _ in range(8)]
    proxy.admin("/internal/stats")
    leaving = next(w["pid"] for w in proxy.admin("/internal/status")["workers"] if w["endpoints"]["a"]["active"])
    os.kill(leaving, signal.SIGTERM)
    for _ in range(40):
        assert proxy.get()[0] == 200
    assert alive(leaving)
    upstream.release()
    assert all(ended_well(stream) for stream in streams)
    until(lambda: proxy.said("which was signalled to stop, ended with exit code 0"), "it is gone")
    assert proxy.said("was signalled to stop and finishes what it has; starting another in 0.1s")
    stats = until(lambda: complete(proxy, 48), "all requests are counted")
    assert stats["proxy.requests.success"] == 48
    assert_identity(stats)


def flowed(upstream: Backend, count: int) -> bool:
    return len(upstream.seen) > count + 50


def ended_well(stream: Any) -> bool:
    try:
        return bool(stream.read() == b"last")
    except Exception:  # the ways in which http.client says "cut" are many
        return False


def test_a_removed_endpoint_is_not_counted_on_by_what_a_dead_worker_had_of_it(start: Start, upstream: Backend) -> None:
    """Its series fell to the part of the dead. Prometheus takes that for a reset, and all of it for new requests."""
    proxy = start("--workers", "2")
    for _ in range(8):
        assert proxy.get()[0] == 200
    assert proxy.admin("/internal/stats")["endpoints"]["a"]["requests"] == 8
    for worker in proxy.admin("/internal/status")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: sum(w["restarts"] for w in proxy.admin("/internal/status")["workers"]) == 2, "both ends are seen")
    until(lambda: proxy.admin("/internal/health")["workers"]["serving"] == 2, "both serve again")
    assert proxy.admin("/internal/stats")["endpoints"]["a"]["requests"] == 8
    moved = [{"name": "b", "url": f"http://localhost:{upstream.port}"}]
    proxy.configure(config_for(upstream, endpoints=moved))
    proxy.signal(signal.SIGHUP)
    until(lambda: all_know(proxy, "b"), "all workers know the new endpoint")
    stats = proxy.admin("/internal/stats")
    assert list(stats["endpoints"]) == ["b"]
    assert stats["proxy.requests.total"] == 8
    assert 'endpoint="a"' not in proxy.admin("/metrics")


def test_connections_that_wait_for_a_dead_worker_are_served_by_its_successor(start: Start) -> None:
    proxy = start("--workers", "2")
    victims = [w["pid"] for w in proxy.admin("/internal/status")["workers"]]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert proxy.get()[0] == 200  # nobody was listening when it connected, and it was not refused


def test_a_limit_that_a_reload_cannot_change_is_not_changed_in_a_restarted_worker_either(start: Start) -> None:
    """The refused reload kept Olla's default as if it were written: 50 streams a worker, where there was no limit."""
    sections: dict[str, Any] = {"proxy": {"engine": "sherpa"}, "server": {"workers": 2}}
    proxy = start(**sections)
    config = yaml.safe_load(proxy.file.read_text())
    config["proxy"]["max_conns_per_host"] = 7
    proxy.configure(config)
    proxy.signal(signal.SIGHUP)
    until(lambda: proxy.said("proxy.max_conns_per_host: 7 needs a restart; until then it stays unset"), "it is refused")
    for worker in proxy.admin("/internal/status")["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    until(lambda: sum(w["restarts"] for w in proxy.admin("/internal/status")["workers"]) == 2, "both are restarted")
    until(lambda: proxy.admin("/internal/health")["workers"]["serving"] == 2, "both serve")
    streams = [proxy.stream() for _ in range(110)]  # more than 50 for at least one of them
    assert len(streams) == 110


def test_workers_do_not_outlive_a_killed_supervisor(start: Start) -> None:
    proxy = start("--workers", "2")
    pids = [w["pid"] for w in proxy.admin("/internal/status")["workers"]]
    assert all(alive(pid) for pid in pids)
    proxy.signal(signal.SIGKILL)
    proxy.wait()
    until(lambda: not any(alive(pid) for pid in pids), "the workers are gone")


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_is_still_graceful(start: Start, upstream: Backend) -> None:
    proxy = start("--workers", "2")
    stream = proxy.stream()
    for pid in [*(w["pid"] for w in proxy.admin("/internal/status")["workers"]), proxy.ready["pid"]]:
        os.kill(pid, signal.SIGINT)
    until(lambda: proxy.said("stopping"), "the stop is logged")
    upstream.release()
    assert stream.read() == b"last"
    assert proxy.wait() == 130


def test_a_canary_runs_the_other_engine_in_some_workers_and_every_count_says_which(start: Start) -> None:
    proxy = start(server={"workers": 3}, proxy={"engine": "sherpa"}, canary={"engine": "olla", "workers": 1})
    engines = [w["engine"] for w in proxy.admin("/internal/status")["workers"]]
    assert engines == ["sherpa", "sherpa", "olla"]

    def both_served() -> bool:
        proxy.get()
        counted = proxy.admin("/internal/stats")["engines"]
        return all(counted[engine]["proxy.requests.success"] for engine in ENGINES)

    until(both_served, "both engines have served")
    stats = proxy.admin("/internal/stats")
    assert stats["engine"] == "olla+sherpa"
    families = {f.name: f for f in text_string_to_metric_families(proxy.admin("/metrics"))}
    requests = {s.labels["engine"]: s.value for s in families["proxy_requests"].samples}
    assert requests.keys() == set(ENGINES)
    breakers = {s.labels["engine"] for s in families["proxy_circuit_breaker_state"].samples}
    assert breakers == {"olla"}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_identity_holds_while_workers_die_and_clients_leave(start: Start, upstream: Backend, engine: str) -> None:
    proxy = start("--workers", "2", "--engine", engine)
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            try:
                connection = proxy.connect()
                connection.request("GET", "/stream" if len(upstream.seen) % 3 else "/x")
                connection.getresponse().read(5)
                connection.close()  # a stream is left in the middle
            except OSError:
                pass
            except Exception:  # a cut connection, in one of http.client's words
                pass

    clients = [threading.Thread(target=storm) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        for _ in range(2):
            until(partial(flowed, upstream, len(upstream.seen)), "requests flow")
            victim = next(w["pid"] for w in proxy.admin("/internal/status")["workers"] if "pid" in w)
            os.kill(victim, signal.SIGKILL)
            for _ in range(5):
                assert_identity(proxy.admin("/internal/stats"))
    finally:
        stop.set()
        for client in clients:
            client.join()

    def quiet() -> dict[str, Any] | None:
        stats: dict[str, Any] = proxy.admin("/internal/stats")
        return None if stats["proxy.active_connections"] else stats

    assert_identity(until(quiet, "nothing is in flight"))
