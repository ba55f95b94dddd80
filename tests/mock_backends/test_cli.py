"""The command: ready line, ports, ends, and sentences for what cannot be."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mock_backends.cli import main
from mock_backends.selftest import format_report, self_test
from tests.mock_backends.conftest import mock_process


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mock_backends", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def free_ports(count: int) -> int:
    """The first of so many free consecutive ports."""
    for first in range(21_000, 32_000, count):
        sockets = []
        try:
            sockets.extend(socket.create_server(("127.0.0.1", first + i)) for i in range(count))
        except OSError:
            continue
        else:
            return first
        finally:
            for sock in sockets:
                sock.close()
    raise AssertionError("no free ports")


def test_backends_listen_on_consecutive_ports_and_control_on_the_next() -> None:
    port = free_ports(4)
    with mock_process("--port", str(port), "--count", "3") as running:
        assert running.urls == [f"http://127.0.0.1:{port + i}" for i in range(3)]
        assert running.admin == f"http://127.0.0.1:{port + 3}"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly_even_with_streams_open(number: signal.Signals, code: int) -> None:
    with mock_process("--profile", "chat-70b") as running:
        with socket.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(b'POST /api/chat HTTP/1.1\r\nHost: m\r\nContent-Length: 13\r\n\r\n{"model":"m"}')
            while not running.stats()["active"]:
                pass
            running.process.send_signal(number)
            assert running.process.wait(10) == code
        assert running.process.stderr
        assert running.process.stderr.read() == ""


def test_a_port_in_use_is_one_sentence_and_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 69
    assert done.stderr == f"port {port} of 127.0.0.1 is in use; choose another --port, or 0 for any free one\n"
    assert done.stdout == ""


def test_two_mocks_cannot_share_a_port_even_while_one_refuses(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("- {fault: refuse, endpoint: mock-0, at: 1h}\n")
    with mock_process("--faults", str(tmp_path / "f.yaml")) as running:
        assert run("--port", str(running.port)).returncode == 69


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--profile", "instnt"], 65, "did you mean 'instant'"),
        (["--faults", "nowhere.yaml"], 65, "nowhere.yaml: No such file"),
        (["--count", "0"], 64, "from 1 to 256"),
        (["--count", "many"], 64, "--count"),
        (["--port", "70000"], 64, "from 0 to 65535"),
        (["--nonsense"], 64, "unrecognized"),
        (["--cpu", "4096"], 69, "cannot run on that processor"),
        (["--host", "192.0.2.1"], 69, "cannot be opened"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(arguments: list[str], code: int, why: str) -> None:
    done = run("--port", "0", *arguments)
    assert done.returncode == code
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_the_self_test_prints_figures_that_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mock_backends.selftest.ROUNDS", 1)
    result = self_test(0.1, paced_streams=(50,))
    assert json.loads(json.dumps(result)) == result
    assert result["requests_per_cpu_s"] == pytest.approx(1e6 / result["cpu_us_per_request"])
    assert result["loads"]["paced_50"]["events_per_s"] > 0
    assert result["machine"]["cpus"] >= 1
    text = format_report(result)
    assert "us CPU each" in text
    assert "streams at 100 ms gaps" in text


def test_help_names_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "chat-8b-batched" in capsys.readouterr().out
