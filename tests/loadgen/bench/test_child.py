"""Processes of ours: leashed, pinned, ended with everything they started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from loadgen.bench import machine
from loadgen.bench.child import Child, ChildError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


READY = """
    import json, os, sys, time
    print("a line that is not JSON")
    print(json.dumps({"ready": True, "url": "http://x", "cores": sorted(os.sched_getaffinity(0))}), flush=True)
    time.sleep(60)
"""


def test_the_ready_line_is_returned_and_the_cores_are_kept(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with Child("thing", python(READY), tmp_path, cores=[core]) as child:
        assert child.wait_ready(10) == {"ready": True, "url": "http://x", "cores": [core]}
        assert os.getpgid(child.pid) == child.pid
    assert child.how_it_ended() == "was ended by SIGTERM"


def test_a_process_that_ends_before_it_is_ready_is_told_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('no such model\\n'); sys.exit(3)"
    with (
        Child("thing", python(code), tmp_path) as child,
        pytest.raises(ChildError, match="exit code 3 before it was ready: no such model"),
    ):
        child.wait_ready(10)


def test_a_process_that_stays_silent_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        Child("thing", python("import time; time.sleep(60)"), tmp_path) as child,
        pytest.raises(ChildError, match=r"not ready after 0\.05 s"),
    ):
        child.wait_ready(0.05)


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        Child("thing", ["no-such-program-here"], tmp_path) as child,
        pytest.raises(ChildError, match="cannot be started"),
    ):
        child.wait_ready(10)


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = """
        import json, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import signal, time; time.sleep(60)"])
        print(json.dumps({"ready": True, "child": child.pid}), flush=True)
        time.sleep(60)
    """
    child = Child("thing", python(code), tmp_path)
    grandchild = child.wait_ready(10)["child"]
    child.stop(grace_s=0.1)
    assert child.how_it_ended() == "was ended by SIGKILL"
    assert gone(grandchild)


def test_an_id_that_was_given_back_is_not_signalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child("thing", python("pass"), tmp_path)
    child.stop()
    signalled: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, _: signalled.append(pid))
    child.stop()
    assert signalled == []


def test_lines_are_read_once_and_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    with Child("thing", python("import time; time.sleep(60)"), tmp_path) as child:
        with child.stdout.open("a") as file:
            file.write('{"t": 1}\nnoise\n{"t": ')
            file.flush()
            assert list(child.json_lines()) == [{"t": 1}]
            file.write("2}\n")
            file.flush()
            assert list(child.json_lines()) == [{"t": 2}]
        assert list(child.json_lines()) == []


def test_a_child_does_not_outlive_a_conductor_that_was_killed(tmp_path: Path) -> None:
    code = f"""
        import sys, time
        from pathlib import Path
        from loadgen.bench.child import Child
        child = Child("thing", [sys.executable, "-c", "import time; time.sleep(60)"], Path({str(tmp_path)!r}))
        print(child.pid, flush=True)
        time.sleep(60)
    """
    conductor = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    assert conductor.stdout is not None
    pid = int(conductor.stdout.readline())
    deadline = time.monotonic() + 10
    while "leash.py" in " ".join(psutil.Process(pid).cmdline()) and time.monotonic() < deadline:
        time.sleep(0.01)  # the leash is put on before the command takes its place
    conductor.send_signal(signal.SIGKILL)
    conductor.wait()
    conductor.stdout.close()
    assert gone(pid)


def test_the_limit_of_open_files_is_raised_to_what_is_allowed(tmp_path: Path) -> None:
    code = """
        import json, resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        print(json.dumps({"ready": True, "equal": soft == hard}), flush=True)
    """
    with Child("thing", python(code), tmp_path) as child:
        assert child.wait_ready(10)["equal"] is True


def test_a_raised_priority_is_taken_where_it_is_allowed_and_done_without_otherwise(tmp_path: Path) -> None:
    with Child("thing", python(READY), tmp_path) as child:
        child.wait_ready(10)
        assert os.sched_getscheduler(child.pid) == os.sched_getscheduler(0)
        child.raise_priority(1)
        allowed = os.SCHED_RR if machine.may_use_real_time() else os.sched_getscheduler(0)
        assert os.sched_getscheduler(child.pid) == allowed


def test_the_environment_is_added_to_ours(tmp_path: Path) -> None:
    code = """
        import json, os
        print(json.dumps({"ready": True, "mine": os.environ.get("MINE"), "path": "PATH" in os.environ}), flush=True)
    """
    with Child("thing", python(code), tmp_path, env={"MINE": "1"}) as child:
        assert json.dumps(child.wait_ready(10)) == '{"ready": true, "mine": "1", "path": true}'
