"""proxy/MIGRATION.md as a reader would follow it: every command is run, in order, in one shell."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.serving import PATIENCE, Serve, backend

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "proxy" / "MIGRATION.md"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("8080", "8081", "8090", "8091")
# The mock takes consecutive ports, and one more for its control listener.
MOCK_PORTS = ("9001", "9002", "9003")

pytestmark = pytest.mark.skipif(
    not shutil.which("bash") or not shutil.which("curl"), reason="the page's commands need bash and curl"
)


def with_free_ports(text: str) -> str:
    """The page with ports that nobody has now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    taken = {name: sock.getsockname()[1] for name, sock in zip(PORTS, held, strict=True)}
    first = free_run(len(MOCK_PORTS))
    taken |= {name: first + i for i, name in enumerate(MOCK_PORTS)}
    for sock in held:
        sock.close()
    return re.sub(r"\b(?:{})\b".format("|".join(taken)), lambda match: str(taken[match[0]]), text)


def free_run(count: int) -> int:
    """The first of `count` consecutive free ports."""
    places = list(range(20_000, 30_000, count))
    random.SystemRandom().shuffle(places)  # tests beside this one look for ports too
    for first in places:
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.create_server(("127.0.0.1", port)))  # noqa: PERF401  # each may fail
            return first
        except OSError:
            continue
        finally:
            for sock in held:
                sock.close()
    raise AssertionError("no free ports")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(language, the rest of the opening line, text) of each fenced block."""
    return [(match[1], match[2].strip(), match[3]) for match in BLOCK.finditer(page)]


def run(script: str, folder: Path) -> tuple[str, str]:
    """Run a bash script whose background jobs end with it. Returns its output and its errors."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    shell = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        # Ends although background jobs hold the pipes, too: the script ends them.
        out, err = shell.communicate(timeout=PATIENCE)
    except BaseException:
        os.killpg(shell.pid, signal.SIGKILL)
        raise
    assert shell.returncode == 0, f"exit code {shell.returncode}\n{out}\n{err}"
    return out, err


def test_the_page_works_from_top_to_bottom_and_prints_what_it_says(tmp_path: Path) -> None:
    script = ["trap 'kill -9 $(jobs -p) 2> /dev/null || true' EXIT"]
    expected = []
    for language, rest, text in blocks(with_free_ports(PAGE.read_text())):
        if language == "sh" and rest != "slow":
            script.append(text)
        elif language == "yaml":
            script.append(f"cat > {rest.removeprefix('file=')} <<'END'\n{text}END")
        elif language == "text":
            expected.extend(text.splitlines())
    out, _ = run("\n".join(script), tmp_path)
    remaining = iter(out.splitlines())
    for line in expected:  # each in its order; there may be more between them
        assert line in remaining, f"not printed where the page says: {line}\n{out}"


@pytest.mark.slow
def test_the_pages_load_test_writes_its_report(tmp_path: Path) -> None:
    (command,) = [text for _, rest, text in blocks(PAGE.read_text()) if rest == "slow"]
    # 3: the machine was too busy for a valid run, which one round of one second on a test machine may well be.
    run(f"status=0; {command.strip()} || status=$?; test $status -eq 0 -o $status -eq 3", tmp_path)
    assert (tmp_path / "load-test" / "report.html").stat().st_size > 1000


def test_every_metric_that_the_page_says_is_ollas_is_exported_by_olla(tmp_path: Path) -> None:
    table = PAGE.read_text().partition("exported by Olla only")[2].partition("## 3")[0]
    names = set(re.findall(r"`(proxy_[a-z_]+)", table))
    for row in table.splitlines():
        cell = row.split("|")[1] if row.startswith("|") else ""
        words = re.findall(r"`([a-z_]+)", cell)
        names |= {words[0].rpartition("_")[0] + word for word in words[1:] if word.startswith("_")} if words else set()
    assert len(names) > 10
    with backend() as upstream:
        config = {
            "server": {"port": 0},
            "admin": {"port": 0},
            "endpoints": [{"name": "a", "url": f"http://127.0.0.1:{upstream.port}"}],
        }
        for engine in ("olla", "sherpa"):
            folder = tmp_path / engine
            folder.mkdir()
            proxy = Serve(folder, config, "--engine", engine)
            try:
                exported = set(re.findall(r"^(\w+)", proxy.admin("/metrics"), re.MULTILINE))
            finally:
                proxy.close()
            assert names - exported == (set() if engine == "olla" else names)
