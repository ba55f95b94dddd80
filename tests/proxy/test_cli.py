"""The command line: exit codes, sentences and what is printed. Nothing here starts a proxy."""

import importlib.util
import json
import subprocess
import sys

import pytest

from proxy import cli, process
from proxy.config import parse
from proxy.net.listen import listen

ENDPOINTS = 'endpoints: [{name: a, url: "http://127.0.0.1:9001"}]\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "proxy.yaml"
    path.write_text(ENDPOINTS)
    return path


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([], "required"),
        (["run"], "invalid choice"),
        (["serve"], "--config"),
        (["serve", "--config", "x", "--engine", "nginx"], "invalid choice"),
        (["serve", "--config", "x", "--port", "-1"], "from 0 to 65535"),
        (["serve", "--config", "x", "--port", "65536"], "from 0 to 65535"),
        (["serve", "--config", "x", "--port", "٣"], "from 0 to 65535"),
        (["serve", "--config", "x", "--workers", "0"], "from 1 to 256"),
        (["serve", "--config", "x", "--check-config", "--print-config"], "not allowed with"),
        (["serve", "--config", "x", "--bogus"], "unrecognized"),
    ],
)
def test_a_usage_error_is_64_with_the_usage_and_a_sentence(argv, word, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 64
    err = capsys.readouterr().err
    assert err.startswith("usage: ")
    assert word in err.splitlines()[-1]


def test_a_bad_config_is_65_with_one_sentence_for_each_mistake(file, capsys):
    file.write_text(ENDPOINTS + "proxy: {engin: olla, timeout: 3}\n")
    assert cli.main(["serve", "--config", str(file)]) == 65
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{file}: proxy.timeout: 3 is refused: a duration needs a unit: write 3s or 3ms",
        f"{file}: proxy.engin: unknown key; did you mean engine?",
    ]


def test_a_missing_config_is_65(capsys):
    assert cli.main(["serve", "--config", "/no/such.yaml"]) == 65
    assert capsys.readouterr().err == "/no/such.yaml: cannot be read: No such file or directory\n"


def test_check_config_says_ok_and_what_each_endpoint_will_be_asked(file, capsys):
    file.write_text(
        "endpoints:\n"
        "  - {name: a, url: 'http://127.0.0.1:9001'}\n"
        "  - {name: b, url: 'http://h:8000/v1/'}\n"
        "  - {name: c, url: 'https://h/ollama', health: {path: /up}}\n"
        "  - {name: d, url: 'http://h', health: {enabled: false}}\n"
    )
    assert cli.main(["serve", "--config", str(file), "--check-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{file}: OK",
        "a: /v1/models is asked at http://127.0.0.1:9001/v1/models; "
        "its health at /health, else /v1/models, else /api/version",
        "b: /v1/models is asked at http://h:8000/v1/models; "
        "its health at /v1/health, else /v1/models, else /v1/api/version",
        "c: /v1/models is asked at https://h/ollama/v1/models; its health at /ollama/up",
        "d: /v1/models is asked at http://h/v1/models; its health is not checked",
    ]


def test_check_config_refuses_a_ca_file_that_serve_could_not_use(file, tmp_path, capsys):
    authority = tmp_path / "ca.pem"
    authority.write_text("this is no certificate")
    file.write_text(f"endpoints: [{{name: a, url: 'https://h', tls: {{ca_file: {authority}}}}}]\n")
    assert cli.main(["serve", "--config", str(file), "--check-config"]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"endpoint a: tls.ca_file: {authority} cannot be used: ")


def test_print_config_is_a_config_with_origins(file, capsys):
    assert cli.main(["serve", "--config", str(file), "--engine", "sherpa", "--workers", "3", "--print-config"]) == 0
    out, err = capsys.readouterr()
    assert "  engine: sherpa  # command line\n" in out
    assert "  workers: 3  # command line\n" in out
    assert f"  - name: a  # {file}\n" in out
    assert parse(out).config.server.workers == 3
    assert err == ""


def test_a_taken_port_is_69_with_one_sentence(file, capsys):
    with listen("127.0.0.1", 0, key="server") as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--config", str(file), "--port", str(port)]) == 69
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err == f"server.port: {port} on 127.0.0.1 is in use; stop that program or take another port (0: a free one)\n"
    )


def test_a_taken_admin_port_is_69_and_names_its_own_key(file, capsys):
    with listen("127.0.0.1", 0, key="server") as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--config", str(file), "--port", "0", "--admin-port", port]) == 69
    assert capsys.readouterr().err.startswith(f"admin.port: {port} on 127.0.0.1 is in use")


def test_a_missing_uvloop_is_69_with_what_to_do(file, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["serve", "--config", str(file)]) == 69
    assert (
        capsys.readouterr().err
        == "server.loop: uvloop is not installed; pip install uvloop, or write `loop: asyncio`\n"
    )


def broken(*args):
    raise RuntimeError("what happened")


def test_a_bug_is_70_in_one_line_without_debug(file, capsys, monkeypatch):
    monkeypatch.setattr(process, "run_on_loop", broken)
    assert cli.main(["serve", "--config", str(file), "--port", "0", "--admin-port", "0"]) == 70
    assert capsys.readouterr().err == "internal error: RuntimeError: what happened (--debug shows where)\n"


def test_a_bug_shows_its_traceback_with_debug(file, capsys, monkeypatch):
    monkeypatch.setattr(process, "run_on_loop", broken)
    assert cli.main(["serve", "--config", str(file), "--port", "0", "--admin-port", "0", "--debug"]) == 70
    assert 'raise RuntimeError("what happened")' in capsys.readouterr().err


def test_an_interrupt_while_starting_is_130(file, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "run_on_loop", interrupted)
    assert cli.main(["serve", "--config", str(file), "--port", "0", "--admin-port", "0"]) == 130


def test_written_keys_that_the_engine_does_not_use_are_announced_one_line_each(file, capsys, monkeypatch):
    file.write_text("proxy: {engine: sherpa, circuit_breaker: {timeout: 9s}, pools: {prewarm: 1}}\n" + ENDPOINTS)
    monkeypatch.setattr(process, "run_on_loop", lambda main, loop: 0)
    assert cli.main(["serve", "--config", str(file), "--port", "0", "--admin-port", "0"]) == 0
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == [
        f"proxy.circuit_breaker.timeout is written in {file} and not used by sherpa",
        f"proxy.pools.prewarm is written in {file} and not used by sherpa",
    ]


IMPORTED_WITH_A_HANGUP = """
import os, runpy, signal, sys, types

def attribute(name):
    os.kill(os.getpid(), signal.SIGHUP)
    return lambda: 0

cli = sys.modules["proxy.cli"] = types.ModuleType("proxy.cli")
cli.__getattr__ = attribute
runpy.run_module("proxy", run_name="__main__")
"""


def test_a_reload_while_the_command_line_is_still_being_imported_does_not_end_the_process():
    """systemd takes an end by SIGHUP for a clean one, and does not start it again."""
    assert subprocess.run([sys.executable, "-c", IMPORTED_WITH_A_HANGUP], check=False).returncode == 0
