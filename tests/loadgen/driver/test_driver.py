"""The driver as its users start it: as a process, under Locust's own command, stopped in the middle."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from loadgen.workload.job import Closed, Job, Stage, Template, save_job
from loadgen.workload.plan import make_plan, save_plan
from tests.loadgen.driver.test_client import Served, answers
from tests.loadgen.driver.wire import ScriptedServer, plain, sse, wait_for_close

MS = 1_000_000
DRIVER = (sys.executable, "-m", "loadgen.driver")
ROOT = Path(__file__).parents[3]
LOCUSTFILE = ROOT / "loadgen" / "driver" / "locustfile.py"


def write_job(folder: Path, url: str, n: int = 50, gap_ms: float = 4, **changes: Any) -> Path:
    template = Template("/v1/chat/completions", body='{"x":1}')
    job = Job("test", url, folder / "out", (template,), plan=folder / "plan.npz", timeout_s=5.0)
    job = replace(job, **changes)
    if job.plan is not None:
        save_plan(make_plan((np.arange(n) * gap_ms * MS).astype(np.int64)), job.plan)
    save_job(job, folder / "JOB.json")
    return folder / "JOB.json"


def run(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DRIVER, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False, **more
    )


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def ids(folder: Path) -> list[int]:
    tables = [pq.read_table(shard) for shard in sorted(folder.glob("requests-*.parquet"))]
    return sorted(number for table in tables for number in table.column("request_id").to_pylist())


def test_a_job_is_driven_and_its_last_line_is_the_summary(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        done = run(write_job(tmp_path, server.url, n=400))
    assert (done.returncode, done.stderr) == (0, "")
    *progress, last = lines(done.stdout)
    assert progress
    assert all(set(line) == {"t", "sent", "done", "errors", "lag_p99_us"} for line in progress)
    assert last["finished"] is True
    assert (last["planned"], last["sent"], last["done"], last["outcomes"]) == (400, 400, 400, {"ok": 400})
    assert last["timer"] == "timerfd"
    assert ids(tmp_path / "out") == list(range(400))
    index = json.loads((tmp_path / "out" / "driver.json").read_text())
    assert (index["schema"], index["done"]) == (1, 400)


def test_requests_that_fail_are_no_failure_of_the_driver(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = run(write_job(tmp_path, f"http://127.0.0.1:{port}", n=10))
    assert done.returncode == 0
    assert lines(done.stdout)[-1]["outcomes"] == {"refused": 10}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nothing.json"], 65, "nothing.json: cannot be read"),
        (["{bad}"], 65, "base_url: is missing"),
        (["{noplan}"], 65, "cannot be read as a plan"),
        ([], 64, "required: JOB.json"),
        (["x", "--frobnicate"], 64, "--frobnicate"),
    ],
)
def test_bad_input_is_answered_with_one_sentence_and_its_exit_code(
    tmp_path: Path, arguments: list[str], code: int, text: str
) -> None:
    bad, noplan = tmp_path / "bad.json", write_job(tmp_path, "http://127.0.0.1:1")
    bad.write_text('{"scenario": "x"}')
    (tmp_path / "plan.npz").unlink()
    done = run(*[argument.format(bad=bad, noplan=noplan) for argument in arguments])
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_name_that_cannot_be_resolved_is_something_missing(tmp_path: Path) -> None:
    done = run(write_job(tmp_path, "http://no-such-host.invalid:80"))
    assert done.returncode == 69
    assert "no-such-host.invalid" in done.stderr
    assert "Traceback" not in done.stderr


def test_streams_are_driven_with_their_events(tmp_path: Path) -> None:
    head, chunks = sse(range(20))
    with Served(answers(head + b"".join(chunks))) as server:
        template = Template("/v1/chat/completions", body='{"x":1}', stream=True)
        done = run(write_job(tmp_path, server.url, n=30, requests=(template,)))
    last = lines(done.stdout)[-1]
    assert (last["outcomes"], last["events"], last["event_rows"]) == ({"ok": 30}, 600, 600)
    events = pq.read_table(tmp_path / "out" / "events-0.parquet").to_pylist()
    assert sorted((event["request_id"], event["seq"]) for event in events) == [
        (n, seq) for n in range(30) for seq in range(20)
    ]


def test_a_closed_loop_ends_when_its_time_is_over(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        done = run(write_job(tmp_path, server.url, plan=None, closed=Closed(users=4, duration_s=1.0, think_ms=10)))
    last = lines(done.stdout)[-1]
    assert done.returncode == 0
    assert list(last["outcomes"]) == ["ok"]
    assert last["done"] >= 4
    assert last["planned"] is None
    assert (last["t1_ns"] - last["t0_ns"]) / 1e9 >= 0.99


def test_users_who_think_when_their_time_is_over_hold_up_nothing(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        closed = Closed(users=6, duration_s=2.5, think_ms=50)
        shape = (Stage(1.2, 6), Stage(2.5, 2))
        job = write_job(tmp_path, server.url, plan=None, closed=closed, shape=shape, timeout_s=1000.0)
        done = run(job)  # Locust would wait for the job's timeout
    assert (done.returncode, done.stderr) == (0, "")
    assert list(lines(done.stdout)[-1]["outcomes"]) == ["ok"]


def test_a_shape_of_locust_changes_the_number_of_users_while_it_runs(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        closed = Closed(users=1, duration_s=3.5, think_ms=20)
        shape = (Stage(1.5, 1), Stage(3.5, 6))
        done = run(write_job(tmp_path, server.url, plan=None, closed=closed, shape=shape))
    assert done.returncode == 0
    last = lines(done.stdout)[-1]
    rows = pq.read_table(tmp_path / "out" / "requests-0.parquet").to_pylist()
    early = {row["connection"] for row in rows if row["sent_ns"] - last["t0_ns"] < 1e9}
    late = {row["connection"] for row in rows if row["sent_ns"] - last["t0_ns"] > 3e9}
    assert len(early) == 1
    assert len(late) > 1


def held(job: Path) -> subprocess.Popen[str]:
    """A driver that is ready and waits for its line."""
    child = subprocess.Popen(
        [*DRIVER, str(job), "--hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert json.loads(child.stdout.readline())["ready"] is True
    return child


def test_hold_waits_for_a_line_before_the_first_request(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        child = held(write_job(tmp_path, server.url, n=5))
        assert server.requests == []
        output, _ = child.communicate("go\n")
    assert child.returncode == 0
    assert lines(output)[-1]["done"] == 5


def test_a_held_driver_begins_when_it_is_told_to(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        child = held(write_job(tmp_path, server.url, n=5))
        begin_ns = time.monotonic_ns() + 1_500_000_000
        output, _ = child.communicate(f"go {begin_ns}\n")
    assert child.returncode == 0
    last = lines(output)[-1]
    assert last["done"] == 5
    assert last["t0_ns"] == begin_ns


def test_a_driver_may_start_before_its_job_is_written(tmp_path: Path) -> None:
    with Served(answers(plain())) as server:
        child = subprocess.Popen(
            [*DRIVER, str(tmp_path / "JOB.json"), "--hold", "--early"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        write_job(tmp_path, server.url, n=5)
        child.stdin.write("job\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["ready"] is True
        output, _ = child.communicate("go\n")
    assert child.returncode == 0
    assert lines(output)[-1]["done"] == 5


def test_an_early_driver_that_gets_no_job_ends_quietly(tmp_path: Path) -> None:
    command = [*DRIVER, str(tmp_path / "JOB.json"), "--early"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def hanging(server: ScriptedServer) -> Any:
    def script(sock: socket.socket, _number: int) -> None:
        server.read_request(sock)
        wait_for_close(sock)

    return script


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_at_once_with_what_was_measured_and_no_process_left(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with Served(hanging) as server:
        job = write_job(tmp_path, server.url, n=1000, gap_ms=50, timeout_s=100.0)
        child = subprocess.Popen(
            [*DRIVER, str(job)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        wait_until(lambda: len(server.requests) >= 5)
        family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        child.send_signal(number)
        output, errors = child.communicate()
    assert (child.returncode, errors) == (code, "")
    assert lines(output)[-1]["finished"] is True
    assert len(ids(tmp_path / "out")) >= 5
    assert not [process for process in family if process.is_running()]


def wait_until(true: Any, seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def locust(job: Path, *arguments: str, out: Path | None = None, **more: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROXY_ENGINES_JOB": str(job), **({"PROXY_ENGINES_OUT": str(out)} if out else {})}
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, **more
    )


def test_locusts_own_command_drives_the_same_job_and_shows_exact_counts(tmp_path: Path) -> None:
    # The failure comes first: on a busy machine each request may have a connection of its own.
    with Served(answers(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", plain(), plain())) as server:
        stats = tmp_path / "stats"
        job = write_job(tmp_path, server.url, n=60)
        child = locust(job, "--headless", "--json-file", str(stats))
        output, _ = child.communicate()
    assert ids(tmp_path / "out") == list(range(60)), output
    rows = pq.read_table(tmp_path / "out" / "requests-0.parquet").to_pylist()
    failed = sum(row["outcome"] != "ok" for row in rows)
    [entry] = json.loads((tmp_path / "stats.json").read_text())
    assert (entry["name"], entry["num_requests"], entry["num_failures"]) == ("/v1/chat/completions", 60, failed)
    assert failed > 0


def test_locusts_own_workers_are_refused_with_a_sentence(tmp_path: Path) -> None:
    child = locust(write_job(tmp_path, "http://127.0.0.1:1"), "--master", "--headless", "--master-bind-port", "0")
    output, _ = child.communicate()
    assert child.returncode != 0
    assert "a job is driven by one process" in output
