"""The job file: what the campaign writes is what the driver reads; a bad one is answered with one clear sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.workload.job import (
    Cancel,
    Closed,
    Expect,
    Job,
    JobError,
    SlowRead,
    Stage,
    Template,
    load_job,
    parse_job,
    save_job,
)

MINIMAL: dict[str, Any] = {
    "scenario": "chat",
    "base_url": "http://127.0.0.1:8080",
    "out": "run",
    "requests": [{"path": "/v1/chat/completions"}],
    "plan": "plan.npz",
}


def job_with(**changes: Any) -> dict[str, Any]:
    data = {**MINIMAL, **changes}
    return {key: value for key, value in data.items() if value is not ...}


def test_a_saved_job_is_read_back_equal(tmp_path: Path) -> None:
    template = Template(
        "/api/chat",
        headers={"X-A": "b"},
        body='{"p":"{{prompt}}"}',
        stream=True,
        expect=Expect(200, "sha256=" + "0" * 64, 7),
    )
    job = Job(
        scenario="storm",
        base_url="http://127.0.0.1:9/prefix",
        out=tmp_path / "out",
        seed=5,
        requests=(template,),
        closed=Closed(4, 2.5, think_ms=1.5, warmup_s=0.5, prompt_bytes=10),
        shape=(Stage(1.0, 2), Stage(2.0, 4, 1.0)),
        timeout_s=3.0,
        drain_s=1.0,
        quiet_s=2.5,
        connections=2,
        keepalive=False,
        cancel=Cancel(0.5, 3),
        slow_read=SlowRead(0.1, 100),
        expected_events=False,
        record_events=False,
    )
    save_job(job, tmp_path / "JOB.json")
    assert load_job(tmp_path / "JOB.json") == job


def test_paths_are_relative_to_the_file_so_that_a_run_can_be_moved(tmp_path: Path) -> None:
    job = Job("s", "http://127.0.0.1:1", tmp_path / "a" / "out", (Template("/"),), plan=tmp_path / "a" / "plan.npz")
    (tmp_path / "a").mkdir()
    save_job(job, tmp_path / "a" / "JOB.json")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load_job(tmp_path / "b" / "JOB.json")
    assert (moved.out, moved.plan) == (tmp_path / "b" / "out", tmp_path / "b" / "plan.npz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": ...}, "scenario: is missing"),
        ({"scenario": ""}, "scenario: must be a text"),
        ({"tiemout_s": 3}, "tiemout_s: is not a known key"),
        ({"schema": 9}, "schema 9 is not known"),
        ({"base_url": "ftp://h:1"}, "must look like http://"),
        ({"base_url": "http://h:99999"}, "is not a URL"),
        ({"requests": []}, "at least one template"),
        ({"requests": {}}, "requests: must be a list"),
        ({"requests": [{"path": "v1"}]}, "requests[0].path: 'v1' must start with /"),
        ({"requests": [{"path": "/a b"}]}, "requests[0].path"),
        ({"requests": [{"path": "/", "method": "po st"}]}, "requests[0].method"),
        ({"requests": [{"path": "/", "headers": {"Content-length": "1"}}]}, "set by the driver itself"),
        ({"requests": [{"path": "/", "headers": {"X-A": "1\r\nX-B: 2"}}]}, "is not a header"),
        ({"requests": [{"path": "/", "headers": {"X-A": 1}}]}, "must be an object of texts"),
        ({"requests": [{"path": "/", "expect": {"digest": "md5=0"}}]}, "requests[0].expect.digest"),
        ({"requests": [{"path": "/", "expect": {"status": 99}}]}, "between 200 and 599"),
        ({"plan": ...}, "give either `plan`"),
        ({"closed": {"users": 1, "duration_s": 1}}, "give either `plan`"),
        ({"plan": ..., "closed": {"users": 0, "duration_s": 1}}, "closed.users: 0 must be 1 or more"),
        ({"plan": ..., "closed": {"users": 1.5, "duration_s": 1}}, "closed.users: must be a whole number"),
        ({"plan": ..., "closed": {"users": True, "duration_s": 1}}, "closed.users: must be a whole number"),
        ({"shape": [{"until_s": 1, "users": 1}]}, "goes with `closed`"),
        (
            {"plan": ..., "closed": {"users": 1, "duration_s": 1}, "shape": [{"until_s": 1, "users": 1}] * 2},
            "must grow",
        ),
        ({"cancel": {"share": 1.1}}, "cancel.share: 1.1 must be between 0 and 1"),
        ({"slow_read": {"bytes_per_s": 0}}, "slow_read.bytes_per_s"),
        ({"timeout_s": "60"}, "timeout_s: must be a number"),
        ({"keepalive": 1}, "keepalive: must be true or false"),
        (
            {
                "plan": ...,
                "closed": {"users": 1, "duration_s": 1},
                "requests": [{"path": "/"}, {"path": "/", "body": "{{max_tokens}}"}],
            },
            "requests[1] has the mark {{max_tokens}}, but output_tokens is not given",
        ),
    ],
)
def test_a_bad_job_is_answered_with_the_file_the_key_and_the_value(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError) as caught:
        parse_job(job_with(**changes), Path(), "JOB.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("JOB.json: ")


def test_a_file_that_is_missing_or_no_json_is_a_job_error(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        load_job(tmp_path / "none.json")
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    with pytest.raises(JobError, match="is not JSON"):
        load_job(bad)
    bad.write_text("[]")
    with pytest.raises(JobError, match="must be a JSON object"):
        load_job(bad)


def test_a_job_that_could_not_be_read_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(JobError):
        save_job(Job("s", "http://127.0.0.1:1", tmp_path, (Template("/"),)), tmp_path / "JOB.json")
    assert not (tmp_path / "JOB.json").exists()


def test_host_port_and_prefix_come_from_the_base_url() -> None:
    job = parse_job(job_with(base_url="http://localhost:81/a/b/"), Path(), "JOB.json")
    assert job.host_port == ("localhost", 81)
    assert job.path_prefix == "/a/b"
    assert parse_job(job_with(base_url="http://[::1]"), Path(), "JOB.json").host_port == ("::1", 80)


def test_the_job_model_needs_neither_gevent_nor_numpy() -> None:
    code = "import sys, loadgen.workload.job; print({'gevent', 'numpy', 'locust'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
