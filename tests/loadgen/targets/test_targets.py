"""Every target is an entry in the catalogue; the ones that are installed here start, answer and end."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from loadgen.bench.child import ChildError
from loadgen.errors import UsageRefusal
from loadgen.targets.catalogue import catalogue, choose
from loadgen.targets.direct import Direct
from loadgen.targets.gctrace import pauses_of
from loadgen.targets.process import ProcessTarget, Program, with_settings
from loadgen.targets.target import Wiring


class Backend(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"you said " + body)

    def do_GET(self) -> None:
        self._answer(b"ok")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Mock-Endpoint", "mock-0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def backend() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def post(url: str, body: bytes) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("POST", "/v1/x", body, {"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers.get("X-Mock-Endpoint")
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["relay", "aiohttp-min", "nginx", "haproxy", "relay-200us", "relay-busy-10-percent"])
def test_a_target_starts_on_its_core_answers_and_ends(
    name: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = catalogue()[name]
    why = target.missing()
    if why is not None:
        pytest.skip(why)
    core = min(os.sched_getaffinity(0))
    monkeypatch.chdir(tmp_path)
    Path("relative").mkdir()  # as the default folder of a campaign is
    running = target.start(Wiring(backends=(backend,), folder=Path("relative"), cores=(core,)))
    try:
        assert running.pid is not None
        assert os.sched_getaffinity(running.pid) == {core}
        assert running.alive()
        body = b"x" * 300_000  # more than any buffer on the way
        assert post(running.url, body) == (200, b"you said " + body, "mock-0")
    finally:
        running.stop()
    assert not running.alive()
    assert "the target ended" in running.what_happened() or "was ended by" in running.what_happened()


@pytest.mark.parametrize("name", [n for n, t in catalogue().items() if isinstance(t, ProcessTarget) and t.template])
def test_every_config_is_rendered_with_every_backend_and_its_hash_forgets_ports(name: str, tmp_path: Path) -> None:
    target = catalogue()[name]
    assert isinstance(target, ProcessTarget)
    wirings = [
        Wiring(backends=(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"), folder=tmp_path)
        for port in (9101, 9201)
    ]
    texts = [target.render(wiring, 8000, str(tmp_path)) for wiring in wirings]
    assert "9101" in texts[0]
    assert "9102" in texts[0]
    assert texts[0] != texts[1]
    hashes = {target._hash(wiring) for wiring in wirings}
    assert len(hashes) == 1
    if ".yaml" in (target.template or ""):
        assert yaml.safe_load(texts[0])


@pytest.mark.parametrize("name", [n for n, t in catalogue().items() if isinstance(t, ProcessTarget) and t.engine])
def test_our_own_configs_are_accepted_by_serve(name: str, tmp_path: Path) -> None:
    from proxy import config

    target = catalogue()[name]
    assert isinstance(target, ProcessTarget)
    settings = {"runtime.gc.ballast": 100_000, "proxy.load_balancer": "round-robin"}
    text = target.render(Wiring(backends=("http://127.0.0.1:9001",), folder=tmp_path, settings=settings), 0, ".")
    loaded = config.parse(text, name).config
    assert loaded.proxy.engine == target.engine
    assert loaded.runtime.gc.ballast == 100_000
    assert loaded.server.port == 0
    assert loaded.proxy.max_conns_per_host == 0
    if target.variant_of:
        assert target.describe().switches
        assert target.describe().kind == "variant"


def test_a_program_that_is_not_there_is_told_with_how_to_get_it(tmp_path: Path) -> None:
    target = ProcessTarget(
        name="ghost",
        kind="peer",
        label="",
        command=("{program}",),
        program=Program(name="no-such-proxy", get="apt-get install ghost", env="GHOST_BINARY"),
    )
    assert target.missing() == ("no-such-proxy is not installed: apt-get install ghost or set GHOST_BINARY to its path")
    with pytest.raises(ChildError, match="apt-get install ghost"):
        target.start(Wiring(backends=("http://127.0.0.1:1",), folder=tmp_path))


def test_a_target_that_fails_to_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    target = ProcessTarget(
        name="broken",
        kind="peer",
        label="",
        command=("{python}", "-c", "import sys; sys.exit('bad config line 3')"),
    )
    with pytest.raises(ChildError, match="bad config line 3"):
        target.start(Wiring(backends=("http://127.0.0.1:1",), folder=tmp_path))


def test_an_environment_variable_names_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("MINE", str(program))
    assert Program(name="no-such-proxy", get="", env="MINE").find() == str(program)


def test_names_are_checked_and_the_nearest_one_is_offered() -> None:
    assert [target.name for target in choose(["olla", "direct", "olla"], [])] == ["olla", "direct"]
    with pytest.raises(UsageRefusal, match="did you mean sherpa"):
        choose(["sherpas"], [])


def test_direct_is_the_first_backend_and_has_no_process(tmp_path: Path) -> None:
    running = Direct().start(Wiring(backends=("http://127.0.0.1:9001", "http://127.0.0.1:9002"), folder=tmp_path))
    assert (running.url, running.pid, running.child) == ("http://127.0.0.1:9001", None, None)
    assert running.alive()


def test_settings_are_set_at_any_depth() -> None:
    assert yaml.safe_load(with_settings("a: {b: 1}\n", {"a.c.d": [1, 2], "e": False})) == {
        "a": {"b": 1, "c": {"d": [1, 2]}},
        "e": False,
    }


def test_go_pauses_are_read_from_gctrace_lines() -> None:
    stderr = (
        "noise\n"
        "gc 1 @0.012s 2%: 0.026+0.39+0.10 ms clock, 0.10+0.36/0.34/0.10+0.41 ms cpu, 4->4->0 MB, 5 MB goal, 4 P\n"
        "gc 2 @1.500s 0%: 0.100+2.0+0.20 ms clock, 0.10+0.36/0.34/0.10+0.41 ms cpu, 4->4->0 MB, 5 MB goal, 4 P\n"
    )
    rows = list(pauses_of(stderr, 5, 1_000_000_000))
    assert rows[0] == (5, "gc", 1_012_000_000, 1_012_126_000, None, None, None)
    assert rows[1][2:4] == (2_500_000_000, 2_500_300_000)


def test_the_rivals_of_ours_print_one_ready_line_and_carry_no_harness(backend: str, tmp_path: Path) -> None:
    running = catalogue()["relay"].start(Wiring(backends=(backend,), folder=tmp_path))
    try:
        assert running.child is not None
        (line,) = running.child.stdout.read_text().splitlines()
        assert json.loads(line)["ready"] is True
        maps = Path(f"/proc/{running.pid}/maps").read_text()
        assert "pandas" not in maps
        assert "pydantic_core" not in maps
    finally:
        running.stop()


def test_the_relay_passes_on_a_reset_as_a_reset(tmp_path: Path) -> None:
    import socket
    import struct

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = catalogue()["relay"].start(Wiring(backends=(url,), folder=tmp_path))
        try:
            with socket.create_connection(("127.0.0.1", urlsplit(running.url).port or 0), 10) as client:
                client.sendall(b"hello")
                upstream, _ = listener.accept()
                assert upstream.recv(5) == b"hello"
                upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                upstream.close()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
        finally:
            running.stop()
