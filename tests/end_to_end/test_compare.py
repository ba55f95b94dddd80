"""Whole campaigns with real processes: they end in a report, survive what is killed, and leave nothing behind.

No test here looks at a speed: on a busy machine runs may be void (exit code 3), and that is a right answer too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from loadgen.bench import mocks
from loadgen.errors import INTERRUPTED, NO_VALID_RUN
from loadgen.workload.scenario import FOLDER
from reports.schema import VERDICT_SCHEMA_VERSION
from reports.store import load_campaign
from tests.end_to_end.serving import PATIENCE

SCENARIO = """
id: tiny
question: Does a whole campaign work from end to end?
answer: A report whose rows were all checked against the expected reply.
kind: stream
mock:
  profile: {name: brisk, time_to_first_token: {constant: 2ms}, token_gap: {constant: 2ms}}
requests:
  - path: /v1/chat/completions
    body: {model: mock-model, messages: [{role: user, content: hello}], max_tokens: 5, stream: true, seed: 7}
    stream: true
arrivals: {kind: constant, rate: 40}
warmup_s: 0.25
duration_s: SECONDS
"""
ALONE = "in_turns: false\n"


def scenario(folder: Path, seconds: float, more: str = ALONE) -> str:
    path = folder / "tiny.yaml"
    path.write_text(SCENARIO.replace("SECONDS", str(seconds)) + more)
    return str(path)


@pytest.fixture(scope="session")
def ceiling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mocks' self-test, measured once for all campaigns of these tests."""
    path = tmp_path_factory.mktemp("ceiling") / "mock-ceiling.json"
    mocks.ceiling(path)
    return path


@pytest.fixture
def compare(tmp_path: Path, ceiling: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `proxy-engines compare` in a folder of its own; afterwards nothing that it started may be left."""
    started: list[subprocess.Popen[str]] = []
    for folder in (tmp_path, tmp_path / "reports" / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ceiling, folder)

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "loadgen", "compare", *arguments]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def heed_interrupts() -> None:
    """A shell starts what it puts in the background with SIGINT ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def child_called(pid: int, words: str) -> psutil.Process:
    """The descendant whose command line holds `words`, once it is there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for one in descendants(pid):
            try:
                line = " ".join(one.cmdline())
            except psutil.Error:
                continue
            if words in line and "leash.py" not in line:
                return one
        time.sleep(0.02)
    raise AssertionError(f"no child called {words!r} came up")


def load_has_begun(folder: Path, run: str) -> None:
    """Waits until the driver of `run` has reported its first second."""
    progress = folder / "runs" / run / "driver.stdout"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if progress.exists() and '"t"' in progress.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} did not begin")


def records(folder: Path) -> dict[str, Any]:
    return {run.name: run.record for run in load_campaign(folder).runs}


def test_a_campaign_ends_in_a_report_with_every_reply_checked(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    arguments = ("--scenarios", scenario(tmp_path, 0.75), "--targets", "relay,direct", "--rounds", "1")
    process = compare(*arguments)
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    folder = tmp_path / "reports" / "runs" / "latest"
    assert folder.is_symlink()
    assert "Report: reports/runs/" in told
    campaign = load_campaign(folder)
    assert campaign.header.state == "complete"
    assert campaign.header.command.endswith(" ".join(arguments))
    assert {"r01-tiny-relay", "r01-tiny-direct"} <= {run.name for run in campaign.runs}
    assert not campaign.unfinished
    for run in campaign.runs:
        rows = run.table("requests")
        events = run.table("events")
        usage = run.table("usage")
        assert rows is not None and events is not None and usage is not None
        assert len(rows) == 40
        assert rows["digest_ok"].all()
        assert set(rows["outcome"]) == {"ok"}
        assert len(events) == rows["events"].sum()
        assert rows["warmup"].sum() == 10
        roles = {"mock", "driver", "target"} if run.record.target == "relay" else {"mock", "driver"}
        assert set(usage["role"]) == roles
        assert {check.check for check in run.record.validity} >= {"generator-lag", "steal", "digest", "errors"}
    for name in ("report.html", "report.md", "verdict.json", "campaign.json"):
        assert (folder / name).stat().st_size > 0
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["schema"] == VERDICT_SCHEMA_VERSION


def test_each_run_is_a_process_start_and_targets_in_turns_are_alive_at_once(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    process = compare(
        *("--scenarios", f"{scenario(tmp_path, 0.5, more='')},probe-delay", "--duration", "0.5"),
        *("--targets", "relay,direct", "--baseline", "relay", "--rounds", "1", "--out", str(folder)),
    )
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    runs = [run for run in load_campaign(folder).runs if run.record.round == 1]
    assert len(runs) == 6
    pids: dict[str, int] = {}
    spans: dict[str, list[tuple[int, int]]] = {}
    for run in runs:
        assert run.record.turns == 3
        rows, usage = run.table("requests"), run.table("usage")
        assert rows is not None and usage is not None
        spans.setdefault(run.record.scenario, []).append((rows["sent_ns"].min(), rows["sent_ns"].max()))
        for pid in usage["pid"][usage["role"] == "target"].unique():
            assert pid not in pids, f"{run.name} was measured in the process of {pids.get(pid)}"
            pids[pid] = run.name
    assert len(pids) == 4  # direct has none
    for alive in spans.values():
        assert max(first for first, _ in alive) < min(last for _, last in alive)


def test_faults_count_from_the_moment_at_which_load_begins(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    fault = {"fault": "error", "endpoint": "mock-0", "at": "400ms", "lasts": "400ms"}
    path = tmp_path / "tiny.yaml"
    text = yaml.safe_load(SCENARIO.replace("SECONDS", "1.5"))
    text |= {"warmup_s": 0, "expected_outcomes": ["refused"], "steady": False}
    text["mock"]["faults"] = [fault]
    path.write_text(yaml.safe_dump(text))
    folder = tmp_path / "campaign"
    process = compare("--scenarios", str(path), "--targets", "direct", "--rounds", "1", "--out", str(folder))
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    (run, *_) = load_campaign(folder).runs
    rows = run.table("requests")
    assert rows is not None
    begun = run.record.summary["driver"]["t0_ns"]
    sent, ended = rows["sent_ns"] - begun, rows["end_ns"] - begun
    inside = rows["outcome"][(sent > 400_000_000) & (ended < 800_000_000)]
    outside = rows["outcome"][(ended < 400_000_000) | (sent > 800_000_000)]
    assert len(inside) > 5
    assert set(inside) == {"refused"}
    assert set(outside) == {"ok"}


def test_an_interrupted_campaign_leaves_no_process_keeps_its_runs_and_can_be_resumed(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    process = compare(
        "--scenarios", scenario(tmp_path, 1.5), "--targets", "relay,direct", "--rounds", "1", "--out", str(folder)
    )
    load_has_begun(folder, "r01-tiny-direct")  # the second of two runs
    started = descendants(process.pid)
    assert len(started) >= 2
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate()
    assert process.returncode == INTERRUPTED, told
    assert "1 finished run(s) are kept" in told
    assert "Traceback" not in told
    assert all_gone(started)
    kept = records(folder)
    assert list(kept) == ["r01-tiny-relay"]
    assert load_campaign(folder).header.state == "interrupted"

    report = subprocess.run(
        [sys.executable, "-P", "-m", "loadgen", "report", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 0, report.stderr
    assert (folder / "report.html").exists()

    resumed = compare("--resume", str(folder))
    told, _ = resumed.communicate()
    assert resumed.returncode in (0, NO_VALID_RUN), told
    assert {"r01-tiny-relay", "r01-tiny-direct"} <= set(records(folder))
    assert records(folder)["r01-tiny-relay"] == kept["r01-tiny-relay"]
    assert load_campaign(folder).header.state == "complete"


def test_a_conductor_that_is_killed_takes_its_processes_with_it(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    process = compare(
        "--scenarios", scenario(tmp_path, 20), "--targets", "relay", "--rounds", "1", "--out", str(folder)
    )
    load_has_begun(folder, "r01-tiny-relay")
    started = descendants(process.pid)
    process.kill()
    process.wait()
    assert all_gone(started)


def test_the_soak_in_seconds_accounts_for_every_request_and_leaves_nothing_behind(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Its mix and its faults, closer together; on both engines, with two workers each."""
    soak = yaml.safe_load((FOLDER / "soak.yaml").read_text())
    soak |= {"id": "brief-soak", "warmup_s": 0.5, "duration_s": 5}
    for fault in soak["mock"]["faults"]:
        if "probability" in fault:
            fault["probability"] = 0.05
        else:
            fault |= {"at": "1s", "lasts": "500ms", "every": "2s"}
    path = tmp_path / "brief-soak.yaml"
    path.write_text(yaml.safe_dump(soak))
    folder = tmp_path / "campaign"
    process = compare("--profile", "soak", "--scenarios", str(path), "--out", str(folder))
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    found = records(folder)
    assert set(found) == {"r01-brief-soak-olla", "r01-brief-soak-sherpa"}
    for run in found.values():
        left = run.summary["endurance"]
        counts = left["accounting"]
        ended = counts["success"] + counts["failed"] + counts["client_disconnected"]
        assert counts["active"] == 0
        assert ended == counts["total"] == counts["sent"]
        assert counts["failed"] > 0
        assert counts["client_disconnected"] > 0
        assert left["fds"]["after"] <= left["fds"]["before"]
        assert left["stderr"] == {"count": 0, "first": []}
    clean = "memory too short; descriptors back: yes; every request accounted for: yes; stderr: clean"
    said = " ".join(told.split())  # a narrow terminal wraps it
    assert all(f"brief-soak, {engine}: {clean}" in said for engine in ("olla", "sherpa"))
    assert 'id="endurance"' in (folder / "report.html").read_text()


def test_what_is_killed_in_mid_run_voids_that_run_and_the_campaign_goes_on(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    victims = [
        ("loadgen.targets.relay", "target", "the target was ended by SIGKILL"),
        ("mock_backends", "bench", "the mocks' process was ended by SIGKILL"),
        ("loadgen.driver", "bench", "the driver was ended by SIGKILL"),
    ]
    folder = tmp_path / "campaign"
    process = compare(
        "--scenarios", scenario(tmp_path, 1.5), "--targets", "relay", "--rounds", "3", "--out", str(folder)
    )
    for number, (victim, _, _) in enumerate(victims, 1):
        load_has_begun(folder, f"r0{number}-tiny-relay")
        child_called(process.pid, victim).kill()
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    found = records(folder)
    for number, (_, blame, said) in enumerate(victims, 1):
        broken = found[f"r0{number}-tiny-relay"]
        assert broken.why is not None
        assert broken.why.startswith(said)
        assert broken.ended == ("void" if blame == "bench" else "failed")
        assert f"{broken.ended.capitalize()}: {said}" in told
    repeat = found["r04-tiny-relay"]  # for the two rounds that the bench spoilt: half the rounds at most are added
    assert repeat.attempt == 2
    assert repeat.summary["outcomes"] == {"ok": 60}
    assert (folder / "report.html").exists()


def test_a_generator_and_mocks_that_are_asked_for_too_much_void_their_runs_and_say_so(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    process = compare(
        *("--scenarios", "overload-generator,overload-mocks", "--targets", "direct"),
        *("--rounds", "1", "--out", str(folder)),
    )
    told, _ = process.communicate()
    assert process.returncode == NO_VALID_RUN, told
    assert "overload-mocks asks for more than this bench can carry and will be void" in told
    found = records(folder)
    for name, said in (("generator", "generator lag p99"), ("mocks", "the mocks alone reach")):
        run = found[f"r01-overload-{name}-direct"]
        faults = [check.text or "" for check in run.validity if check.blame == "bench" and not check.ok]
        assert any(said in fault for fault in faults)
        assert any(fault in run.void_reason for fault in faults)  # which of them comes first is the machine's
    for run in found.values():
        assert f"Void: {run.void_reason}" in told


def test_a_target_that_cannot_carry_the_load_is_overloaded_and_spoils_nobody_elses_round(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "campaign"
    path = scenario(tmp_path, 1.0, ALONE + "mock: {profile: instant}\narrivals: {kind: constant, rate: 100}\n")
    process = compare(
        *("--scenarios", path, "--targets", "relay,relay-slow", "--baseline", "relay", "--rounds", "2"),
        *("--out", str(folder)),
    )
    told, _ = process.communicate()
    assert process.returncode == 0, told
    found = records(folder)
    slow = [run for name, run in found.items() if name.endswith("relay-slow")]
    spoilt = {
        run.round for run in found.values() if run.ended == "void"
    }  # by the bench: such rounds are repeated, for all
    slow = [run for run in slow if run.round not in spoilt]
    assert [run.ended for run in slow] == ["overloaded"] * 2  # a result: not repeated
    assert all(run.summary["e2e_p50_ms"] > 200 for run in slow)
    assert "Overloaded:" in told
    assert all(run.attempt == 1 for run in found.values() if run.ended != "void") or "Void:" in told


def test_a_target_that_answers_wrongly_is_not_measured(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    code = (
        "from http.server import *\n"
        "class H(BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers()\n"
        "        self.wfile.write(b'hi')\n"
        "server = HTTPServer(('127.0.0.1', 0), H); print(server.server_port, flush=True); server.serve_forever()\n"
    )
    liar = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert liar.stdout is not None
        url = f"http://127.0.0.1:{int(liar.stdout.readline())}"
        folder = tmp_path / "campaign"
        process = compare(
            *("--scenarios", scenario(tmp_path, 0.5), "--targets", "liar", "--target", f"liar={url},pid={liar.pid}"),
            *("--rounds", "1", "--out", str(folder)),
        )
        told, _ = process.communicate()
    finally:
        liar.kill()
        liar.communicate()
    assert process.returncode == NO_VALID_RUN, told
    liar_run = records(folder)["r01-tiny-liar"]
    assert liar_run.ended == "failed"
    assert "does not carry X-Mock-Digest" in liar_run.fault


def test_a_trace_is_replayed_with_every_reply_checked(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    rows = [f"2023-11-16 18:15:{second:02d}.5000000,{100 + second},{3 + second}" for second in range(20)]
    text = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, "a broken row,1", ""])
    (tmp_path / "traffic.csv").write_text(text)
    process = compare(
        *("--trace", str(tmp_path / "traffic.csv"), "--time-scale", "10", "--rows", "15", "--max-out", "9"),
        *("--targets", "relay", "--rounds", "1", "--out", str(tmp_path / "campaign")),
    )
    told, _ = process.communicate()
    assert process.returncode in (0, NO_VALID_RUN), told
    campaign = load_campaign(tmp_path / "campaign")
    dropped = campaign.header.dropped["trace-traffic"]
    assert (dropped["read"], dropped["used"], dropped["clipped"]) == (15, 15, {"output": 8})
    (run, *_) = campaign.runs
    table = run.table("requests")
    assert table is not None
    assert len(table) == 15
    assert table["digest_ok"].all()
    assert campaign.scenario("trace-traffic").tags == ["trace"]


def test_a_folder_that_holds_a_campaign_is_not_written_over(
    compare: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "campaign.json").write_text("{}")
    process = compare("--scenarios", scenario(tmp_path, 0.5), "--targets", "direct", "--out", "used")
    told, _ = process.communicate()
    assert process.returncode == 65
    assert "a campaign is already there" in told
    assert os.listdir(tmp_path / "used") == ["campaign.json"]  # noqa: PTH208  # names are enough
