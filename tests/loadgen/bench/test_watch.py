"""CPU, memory and switches of process trees, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loadgen.bench import watch

THREADS = """
import threading, time
def burn():
    end = time.thread_time() + 0.15
    while time.thread_time() < end: pass
threads = [threading.Thread(target=burn) for _ in range(3)]
[t.start() for t in threads]; [t.join() for t in threads]
print("done", flush=True)
import sys; sys.stdin.read()
"""

CHILDREN = """
import subprocess, sys
burn = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", burn], check=True)
print("done", flush=True)
sys.stdin.read()
"""


def started(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def ended(process: subprocess.Popen[str]) -> None:
    process.communicate("")


def test_the_cpu_of_threads_that_have_ended_is_counted() -> None:
    process = started(THREADS)
    try:
        row = watch.sample(process.pid, "target", 1)
    finally:
        ended(process)
    assert row is not None
    assert row.cpu_ns >= 3 * 150_000_000


def test_a_thread_that_ends_while_its_process_is_read_takes_no_row_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir
    gone = lambda folder: [*listed(folder), *([folder / "4194305"] if folder.name == "task" else [])]  # noqa: E731
    monkeypatch.setattr(Path, "iterdir", gone)
    assert watch.sample(os.getpid(), "target", 1) is not None


def test_the_cpu_of_a_child_that_has_ended_is_in_its_parents_row() -> None:
    process = started(CHILDREN)
    try:
        row = watch.sample(process.pid, "target", 1)
        own = watch.process_cpu_ns(process.pid)
    finally:
        ended(process)
    assert row is not None
    assert row.cpu_ns - own >= 270_000_000  # 0.3 s in ticks of 10 ms


def test_a_row_tells_memory_switches_and_files_of_a_live_process() -> None:
    process = started("files = [open('/dev/null') for _ in range(20)]; print('done', flush=True); input()")
    try:
        row = watch.sample(process.pid, "driver", 42)
        listed = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    finally:
        ended(process)
    assert row is not None
    assert (row.t_ns, row.pid, row.role) == (42, process.pid, "driver")
    assert row.rss_bytes > 1_000_000
    assert row.ctx_voluntary + row.ctx_involuntary > 0
    assert row.fds == listed >= 20


def test_nothing_is_said_about_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert watch.sample(process.pid, "target", 1) is None
    assert watch.tree(process.pid) == []


def test_reaped_time_is_read_behind_a_command_name_with_spaces_and_parentheses() -> None:
    stat = "7 (a (bad) name) S 1 7 7 0 -1 4194560 100 0 0 0 50 60 3 4 20 0 1 0 100 1000 10"
    assert watch.reaped_children_ns(stat) == (3 + 4) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_switches_are_read_from_a_status_file() -> None:
    status = "Name:\tx\nThreads:\t1\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n"
    assert watch.context_switches(status) == (12, 3)


def test_the_watch_samples_every_role_and_once_more_when_stopped() -> None:
    process = started(THREADS)
    try:
        watcher = watch.Watch({"mock": [os.getpid()], "target": [process.pid]}, interval_s=0.01)
        watcher.start()
        deadline = time.monotonic() + 10
        while not any(row.role == "target" for row in watcher.samples) and time.monotonic() < deadline:
            time.sleep(0.005)
        rows = watcher.stop()
    finally:
        ended(process)
    assert {row.role for row in rows} >= {"mock", "target"}
    assert rows == sorted(rows, key=lambda row: row.t_ns)
    assert watch.tree_cpu_ns([row for row in rows if row.t_ns == rows[-1].t_ns], "target") >= 450_000_000


def test_the_tree_of_a_process_holds_its_children() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    try:
        assert process.pid in watch.tree(os.getpid())
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("role", ["target", "mock"])
def test_only_the_rows_of_a_role_are_added_up(role: watch.Role) -> None:
    rows = [watch.Sample(1, 1, "target", 5, 0, 0, 0, 0), watch.Sample(1, 2, "mock", 5, 0, 0, 0, 0)]
    assert watch.tree_cpu_ns(rows, role) == 5


def test_calls_of_write_are_counted_and_of_writev_too() -> None:
    with Path(os.devnull).open("wb", buffering=0) as sink:
        before = watch.tree_write_calls(os.getpid())
        for _ in range(50):
            os.write(sink.fileno(), b"x")
            os.writev(sink.fileno(), [b"x", b"y"])
        after = watch.tree_write_calls(os.getpid())
    assert before is not None
    assert after is not None
    assert 100 <= after - before < 200


def test_of_a_process_that_is_gone_no_writes_are_told() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert not watch.tree_write_calls(child.pid)
