"""What a long run leaves behind in a target, seen from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from loadgen.campaign import leftovers
from loadgen.targets.target import Running

# Opens as many descriptors as it is told, a line each; a negative number closes some.
HOLDER = """
import os, sys
held = []
print("ready", flush=True)
for line in sys.stdin:
    count = int(line)
    held += [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    for _ in range(-count): os.close(held.pop())
    print("done", flush=True)
"""


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def hold(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{count}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_descriptors_that_stay_open_are_seen_and_those_that_were_closed_are_not(holder: subprocess.Popen[str]) -> None:
    running = Running(url="", pid=holder.pid)
    before = leftovers.before(running)
    hold(holder, 3)
    left = leftovers.look(running, before, sent=None, settle_s=0.0)["fds"]
    assert left["after"] == left["before"] + 3
    hold(holder, -3)
    left = leftovers.look(running, before, sent=None)["fds"]
    assert left["after"] == left["before"]


def test_a_target_without_a_process_or_an_admin_listener_has_nothing_to_tell() -> None:
    running = Running(url="")
    left = leftovers.look(running, leftovers.before(running), sent=7)
    assert left["fds"]["before"] is None
    assert left["accounting"] == {}
    assert leftovers.counted(Running(url="", admin="http://127.0.0.1:1", pid=os.getpid())) == {}


@pytest.mark.parametrize(
    "line",
    [
        "Task was destroyed but it is pending!",
        "Exception ignored in: <function f at 0x7f>",
        "sys:1: RuntimeWarning: coroutine 'f' was never awaited",
        "Traceback (most recent call last):",
        '{"time":"2026","level":"error","logger":"asyncio","message":"Task exception was never retrieved"}',
        '{"time":"2026","level":"error","logger":"proxy.sherpa","message":"request failed inside the proxy"}',
    ],
)
def test_stray_tasks_and_errors_are_complaints(line: str) -> None:
    assert leftovers.complaints(f"\n{line}\n") == {"count": 1, "first": [line]}


@pytest.mark.parametrize(
    "line",
    [
        '{"time":"2026","level":"warning","logger":"proxy.checks","message":"endpoint mock-1 is unhealthy"}',
        '{"time":"2026","level":"warning","message":"proxy.circuit_breaker.timeout is written in x and not used"}',
        "[1, 2]",
    ],
)
def test_what_an_engine_says_about_endpoints_and_configs_is_not(line: str) -> None:
    assert leftovers.complaints(line)["count"] == 0


def test_a_flood_of_complaints_is_counted_and_not_kept() -> None:
    found = leftovers.complaints("Traceback\n" * 1000)
    assert found["count"] == 1000
    assert len(found["first"]) < 100
