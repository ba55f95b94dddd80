"""wrk as a generator: the script it is given, and a real run of it against a mock."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.bench import wrk
from loadgen.workload.job import Cancel, Closed, Job, JobError, Template, save_job

CLOSED = Closed(users=2, duration_s=1.5, warmup_s=0.2, prompt_bytes=10)


def job(folder: Path, url: str = "http://127.0.0.1:1", **changes: Any) -> Job:
    said: dict[str, Any] = {
        "scenario": "small",
        "base_url": url,
        "out": folder,
        "requests": (Template("/v1/chat/completions", body='{"messages": [{"content": "{{prompt}}"}]}'),),
        "closed": CLOSED,
        **changes,
    }
    return Job(**said)


def test_requests_are_whole_and_safe_inside_a_lua_text(tmp_path: Path) -> None:
    text = wrk.script(job(tmp_path))
    request = next(line for line in text.splitlines() if line.startswith('"POST'))
    assert request.startswith('"POST /v1/chat/completions HTTP/1.1\\013\\010Host: 127.0.0.1:1\\013\\010')
    assert request.endswith('{\\034messages\\034: [{\\034content\\034: \\034the quick \\034}]}"')
    assert "Content-Length: 41\\013\\010\\013\\010" in request


@pytest.mark.parametrize(
    "changes",
    [{"closed": None}, {"closed": Closed(users=2, duration_s=1, think_ms=5)}, {"cancel": Cancel(0.5)},
     {"keepalive": False}],
)  # fmt: skip
def test_what_wrk_cannot_do_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(JobError, match="closed loop"):
        wrk.script(job(tmp_path, **changes))


@pytest.mark.skipif(not wrk.installed(), reason="wrk is not installed")
def test_a_real_run_marks_its_window_and_says_what_it_counted(tmp_path: Path) -> None:
    mock = subprocess.Popen([sys.executable, "-m", "mock_backends", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert mock.stdout is not None
        url = json.loads(mock.stdout.readline())["url"]
        save_job(job(tmp_path, url), tmp_path / "job.json")
        command = [sys.executable, "-m", "loadgen.bench.wrk", str(tmp_path / "job.json"), "--hold"]
        done = subprocess.run(command, input="go\n", capture_output=True, text=True, timeout=60, check=False)
    finally:
        mock.terminate()
        mock.wait()
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == {"ready": True}
    marks = [line["t"] for line in lines if line.get("mark")]
    assert len(marks) == 2 and marks[1] - marks[0] == pytest.approx(1.3, abs=0.5)
    assert lines[-1]["finished"] and lines[-1]["errors"] == 0 and lines[-1]["requests"] > 0


def test_without_wrk_one_sentence_says_what_is_missing(tmp_path: Path) -> None:
    save_job(job(tmp_path), tmp_path / "job.json")
    command = [sys.executable, "-m", "loadgen.bench.wrk", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert done.returncode == 69 and done.stderr == f"{wrk.HOW_TO_GET}\n"
