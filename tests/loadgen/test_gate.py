"""The gate's own parts: the lockstep client, what counts are read from, checkouts, the command line's refusals."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from loadgen.bench.git import environment
from loadgen.campaign.voice import Terminal
from loadgen.errors import BadInput, Missing, UsageRefusal
from loadgen.gate import checkouts, counts, given, levels, lockstep, revisions, run
from loadgen.gate.checkouts import Checkout
from loadgen.gate.lockstep import HeldBack, Lockstep, Recording, WrongAnswer, record
from loadgen.gate.revisions import CannotMeasure
from loadgen.gate.serving import common_config
from loadgen.targets.direct import Given
from loadgen.targets.process import ProcessTarget
from reports import gate
from reports.gate import Side
from tests.loadgen import console

BODY = b'{"mock":{"seq":0,"ns":"00000000000000000000"}}'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@contextmanager
def mock(reply: bytes) -> Iterator[str]:
    """A server that answers every request with `reply`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            sock.recv(65536)
            sock.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


HEAD = (
    b"HTTP/1.1 200 OK\r\nX-Mock-Digest: %b\r\nDate: Tue, 04 Aug 2026 00:00:00 GMT\r\n"
    b"X-Mock-Recv-Ns: 12345678901234567890\r\n"
)
EVENTS = [b'{"mock":{"seq":%d,"ns":"00000000000000000000"}}\n' % number for number in range(6)]


def digest_of(body: bytes) -> bytes:
    return b"sha256=" + hashlib.sha256(body).hexdigest().encode()


def whole() -> Recording:
    reply = HEAD % digest_of(BODY) + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY.replace(b"0" * 20, b"7" * 20)
    with mock(reply) as url:
        return record(url, "/v1/chat/completions", {"a": 1})


def stream() -> Recording:
    head = HEAD % digest_of(b"".join(EVENTS)) + b"Transfer-Encoding: chunked\r\n\r\n"
    with mock(head + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n") as url:
        return record(url, "/v1/chat/completions", {"stream": True})


class Relay:
    """A proxy of 40 lines: copies bytes both ways, with a fault on the way to the client."""

    def __init__(self, upstream: str, fault: str = "") -> None:
        self._upstream = ("127.0.0.1", int(upstream.rsplit(":", 1)[1]))
        self._fault = fault
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                upstream = socket.create_connection(self._upstream)
            except OSError:
                return
            self._open += [client, upstream]
            threading.Thread(target=self._copy, args=(client, upstream, ""), daemon=True).start()
            threading.Thread(target=self._copy, args=(upstream, client, self._fault), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, fault: str) -> None:
        held = b""
        try:
            while data := source.recv(65536):
                if fault == "hold" and not data.endswith(b"0\r\n\r\n") and not data.startswith(b"HTTP"):
                    held += data
                    continue
                sink.sendall((held + data).replace(b"seq", b"sqe") if fault == "alter" else held + data)
                held = b""
            if fault == "end":
                sink.sendall(b"0\r\n\r\n")
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        for sock in self._open:
            sock.close()


@contextmanager
def between(fault: str = "", patience: float = 5.0, clients: int = 1) -> Iterator[Lockstep]:
    with Lockstep(patience) as ends:
        relay = Relay(ends.backend, fault)
        try:
            ends.connect(relay.url, clients)
            yield ends
        finally:
            relay.close()


# ----------------------------------------------------------------------------------------------------------- lockstep
def test_a_recording_is_the_same_whenever_it_is_made() -> None:
    found = whole()
    assert len(found.pieces) == 1
    assert b"12345678901234567890" not in found.pieces[0] and b"7" * 20 not in found.pieces[0]
    assert b"Mon, 03 Aug 2026" in found.pieces[0]
    assert found == whole()


def test_a_stream_is_cut_into_what_is_sent_alone() -> None:
    found = stream()
    assert found.events == len(EVENTS)
    assert found.pieces[0].startswith(b"HTTP/1.1 200") and found.pieces[0].endswith(chunk(EVENTS[0]))
    assert found.pieces[1] == chunk(EVENTS[1])
    assert found.pieces[-1].endswith(b"0\r\n\r\n")
    assert found.sizes[-1] == len(b"".join(EVENTS))


def test_a_mock_that_answers_otherwise_is_not_recorded() -> None:
    with mock(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as url, pytest.raises(WrongAnswer, match="500"):
        record(url, "/", {})


def test_exchanges_pass_a_plain_relay_and_use_one_connection() -> None:
    with between() as ends:
        ends.exchange(whole(), 3)
        ends.exchange(stream(), 2)
        assert ends.accepted == 1
        assert len(ends.transits(stream())) == len(EVENTS) - 1


def test_waves_hold_every_request_at_the_backend_before_one_is_answered() -> None:
    with between(clients=5) as ends:
        ends.waves(stream(), 3)
        assert ends.accepted == 5


def test_nothing_is_sent_before_a_known_proxy_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is a process that works for 0.3 s of CPU and then sleeps; the exchange ends after that, not before."""
    monkeypatch.setattr(lockstep, "_SETTLE_S", 30.0)
    code = "from time import *; print(flush=True)\nwhile process_time() < 0.3: pass\nsleep(60)"
    busy = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        with Lockstep(5.0) as ends:
            relay = Relay(ends.backend)
            assert busy.stdout is not None
            busy.stdout.readline()
            ends.connect(relay.url, pid=busy.pid)
            ends.exchange(whole())
            relay.close()
        state, *_, user, system = Path(f"/proc/{busy.pid}/stat").read_text().rpartition(")")[2].split()[:13]
        assert state == "S"
        assert int(user) + int(system) >= 0.2 * os.sysconf("SC_CLK_TCK")  # it had done what it had to do
    finally:
        busy.kill()
        busy.wait()
        if busy.stdout is not None:
            busy.stdout.close()


def test_a_relay_that_holds_tokens_back_is_caught() -> None:
    with between("hold", patience=0.3) as ends, pytest.raises(HeldBack, match="1 events"):
        ends.exchange(stream())


def test_a_relay_that_changes_bytes_is_caught() -> None:
    with between("alter") as ends, pytest.raises(WrongAnswer, match="digest"):
        ends.exchange(whole())


def test_a_cut_stream_must_not_look_whole() -> None:
    with between() as ends:
        ends.cut(stream(), after=3)
    with between("end") as ends, pytest.raises(WrongAnswer, match="as if it were whole"):
        ends.cut(stream(), after=3)


def test_a_client_that_leaves_is_noticed_at_the_backend() -> None:
    with between() as ends:
        waited = ends.leave(stream(), after=3)
        assert waited is not None


# -------------------------------------------------------------------------------------------------------------- counts
STRACE = """% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 37.30    0.061440          15      4025           write
 34.72    0.057193          14      4053         1 epoll_pwait
 16.27    0.026800           5      4928           read
  0.18    0.000300           3       100         9 openat
------ ----------- ----------- --------- --------- ------------------
100.00    0.164712           8     13106        10 total
"""


def test_calls_that_only_wait_are_left_out() -> None:
    assert counts.calls(STRACE) == 4025 + 4928 + 100


def test_no_table_is_no_count() -> None:
    with pytest.raises(counts.NoCount):
        counts.calls("")


def test_every_limit_has_a_tool_that_counts_it() -> None:
    counted = {metric for tool in counts.TOOLS for metric in tool.metrics}
    assert counted == set(gate.policy().counts)


def test_a_tool_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts.shutil, "which", lambda name: None)
    here = Checkout("head", Path(), sys.executable, Side(name="HEAD"))
    for tool in (counts.Callgrind(), counts.Strace()):
        assert "not installed" in (tool.missing(here) or "")


# -------------------------------------------------------------------------------------------------------------- levels
class Silent:
    def __init__(self) -> None:
        self.said: list[str] = []

    def step(self, text: str) -> None:
        pass

    def say(self, text: str) -> None:
        self.said.append(text)


class FakeTool:
    """Counts what it is told, one list after the other."""

    name = "fake"
    metrics = ("instructions_per_request",)

    def __init__(self, told: Mapping[str, list[list[float]]], missing: str | None = None) -> None:
        self._told = {side: iter(values) for side, values in told.items()}
        self._missing = missing

    def missing(self, checkout: Checkout) -> str | None:
        return self._missing

    def count(self, job: counts.CountingJob) -> counts.Counts:
        found = next(self._told[job.checkout.name])
        if not found:
            raise counts.NoCount("it broke")
        return {"instructions_per_request": found}


def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tool: FakeTool) -> tuple[levels.CountedWork, Silent]:
    monkeypatch.setattr(counts, "TOOLS", (tool,))
    trees = {name: Checkout(name, tmp_path, sys.executable, Side(name=name)) for name in ("base", "head")}
    empty = Recording(b"", (), (), b"")
    on = levels.Bench(levels.Servers(), trees, {"olla": {}}, None, empty, empty, tmp_path)  # type: ignore[arg-type]
    voice = Silent()
    return levels.count_work(on, gate.policy(), voice), voice


def first(found: levels.CountedWork) -> gate.GateRow:
    return next(row for row in found.rows if row.metric == "instructions_per_request")


def test_a_count_that_looks_red_is_taken_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    flake = FakeTool({"base": [[100.0], [100.0]], "head": [[110.0], [100.0]]})
    assert first(counted(monkeypatch, tmp_path, flake)[0]).word == "could-not-measure"
    real = FakeTool({"base": [[100.0], [100.0]], "head": [[110.0], [110.0]]})
    assert first(counted(monkeypatch, tmp_path, real)[0]).word == "regression"


def test_heads_counts_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _ = counted(monkeypatch, tmp_path, FakeTool({"base": [[100.0]], "head": [[100.5, 100.7, 101.0]]}))
    assert found.counts == {"olla": {"instructions_per_request": 100.7}}


def test_without_a_tool_the_rest_goes_on_and_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, voice = counted(monkeypatch, tmp_path, FakeTool({}, missing="valgrind is not installed"))
    assert {row.word for row in found.rows} == {"not-measured"}
    assert voice.said == ["not counted: valgrind is not installed"]


class Failing(FakeTool):
    """Cannot count the sides it is given an exception for."""

    def __init__(self, failures: Mapping[str, Exception]) -> None:
        super().__init__({side: [[100.0], [100.0]] for side in ("base", "head")})
        self._failures = failures

    def count(self, job: counts.Work) -> counts.Counts:
        assert isinstance(job, counts.CountingJob)
        if job.checkout.name in self._failures:
            raise self._failures[job.checkout.name]
        return super().count(job)


@pytest.mark.parametrize(("side", "code"), [("head", 3), ("base", 2)])
def test_a_reply_changed_while_work_is_counted_is_void_for_head_and_a_doubt_about_base(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, side: str, code: int
) -> None:
    tool = Failing({side: lockstep.Changed("the reply is not the one the backend sent")})
    found, _ = counted(monkeypatch, tmp_path, tool)
    (row,) = (row for row in found.rows if row.metric == "replies")
    assert row.reason == f"{side}: the reply is not the one the backend sent"
    assert gate.exit_code(found.rows) == code


@pytest.mark.parametrize(("failing", "word"), [(("head",), "could-not-measure"), (("base", "head"), "not-measured")])
def test_a_tool_that_counts_base_and_fails_with_head_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: tuple[str, ...], word: str
) -> None:
    found, _ = counted(monkeypatch, tmp_path, Failing({side: counts.NoCount("it broke") for side in failing}))
    assert first(found).word == word


def test_a_count_that_cannot_be_had_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found, _ = counted(monkeypatch, tmp_path, FakeTool({"base": [[]], "head": [[1.0]]}))
    assert first(found).reason == "base: it broke"


# ----------------------------------------------------------------------------------------------------------- checkouts
def git(root: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *words]
    subprocess.run(command, check=True, capture_output=True, env=environment())  # also where a hook runs the tests


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, each with a proxy package."""
    root = tmp_path / "repo"
    (root / "proxy").mkdir(parents=True)
    git(tmp_path, "init", "--quiet", str(root))
    for number in (1, 2):
        (root / "proxy" / "__init__.py").write_text(f"NUMBER = {number}\n")
        git(root, "add", ".")
        git(root, "commit", "--quiet", "-m", f"commit {number}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(root)
    return root


def sides(root: Path) -> dict[str, Side]:
    return {"base": revisions.resolve(root, "HEAD^", print), "head": revisions.resolve(root, "HEAD", print)}


def left(root: Path) -> list[str]:
    command = ["git", "-C", str(root), "worktree", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return [*listed.stdout.splitlines()[1:], *(path.name for path in root.parent.glob("proxy-engines-gate-*"))]


def test_both_revisions_are_checked_out_and_gone_afterwards(repo: Path) -> None:
    with checkouts.checked_out(repo, sides(repo), print) as found:
        texts = {name: (tree.path / "proxy" / "__init__.py").read_text() for name, tree in found.items()}
        assert texts == {"base": "NUMBER = 1\n", "head": "NUMBER = 2\n"}
        assert found["base"].side.subject == "commit 1"
        assert all(tree.python == sys.executable for tree in found.values())
        said = subprocess.run(
            [found["base"].python, "-c", "import proxy; print(proxy.NUMBER)"],
            env={**os.environ, **found["base"].env},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout == "1\n"
    assert left(repo) == []


def test_an_interruption_leaves_no_worktree(repo: Path) -> None:
    with pytest.raises(KeyboardInterrupt), checkouts.checked_out(repo, sides(repo), print):
        raise KeyboardInterrupt
    assert left(repo) == []


def test_what_a_killed_gate_left_is_removed_by_the_next(repo: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    orphan = repo.parent / f"proxy-engines-gate-{dead.pid}-x" / "base"
    git(repo, "worktree", "add", "--quiet", "--detach", str(orphan), "HEAD")
    with checkouts.checked_out(repo, sides(repo), print):
        assert not orphan.exists()
    assert left(repo) == []


def test_a_side_that_does_not_compile_cannot_be_built(repo: Path) -> None:
    (repo / "proxy" / "broken.py").write_text("def (:\n")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "broken")
    with pytest.raises(CannotMeasure, match="head cannot be built"), checkouts.checked_out(repo, sides(repo), print):
        pass
    assert left(repo) == []


def test_what_a_revision_lacks_is_not_found_in_the_working_tree(repo: Path) -> None:
    with checkouts.checked_out(repo, sides(repo), print) as found:
        code = "import proxy, importlib.util; print(importlib.util.find_spec('proxy.config'))"
        env = {**os.environ, **found["head"].env}
        said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "None\n"


def test_a_side_that_cannot_serve_is_named(repo: Path, tmp_path: Path) -> None:
    with checkouts.checked_out(repo, sides(repo), print) as found, pytest.raises(CannotMeasure, match="base cannot be"):
        common_config(list(found.values()), "olla", tmp_path)


def test_an_unknown_section_is_left_out_for_both(repo: Path, tmp_path: Path) -> None:
    code = (
        "import sys, yaml\n"
        "config = yaml.safe_load(open(sys.argv[sys.argv.index('--config') + 1]))\n"
        "if 'runtime' in config: print('runtime: unknown key', file=sys.stderr); sys.exit(65)\n"
    )
    (repo / "proxy" / "__main__.py").write_text(code)
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "old")
    git(repo, "commit", "--quiet", "--allow-empty", "-m", "new")
    with checkouts.checked_out(repo, sides(repo), print) as found:
        config, without = common_config(list(found.values()), "olla", tmp_path)
    assert without == ["runtime.gc", "runtime"]
    assert "runtime" not in config and config["health"] == {"enabled": False}


def test_uncommitted_changes_are_noticed(repo: Path) -> None:
    assert not revisions.is_dirty(repo)
    (repo / "proxy" / "__init__.py").write_text("NUMBER = 3\n")
    assert revisions.is_dirty(repo)


# -------------------------------------------------------------------------------------------------- what cannot be done
def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_a_missing_revision_is_69(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(["--base", "nonsense", "--out", str(repo / "out")]) == 69
    assert "nonsense: no such revision" in said(capsys)
    assert not (repo / "out").exists()
    with pytest.raises(Missing):
        revisions.resolve(repo, "--upload-pack=x", print)


def test_a_first_commit_has_nothing_to_compare_with(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(["--base", "HEAD~2", "--out", str(repo / "out")]) == 2
    assert "no such parent" in said(capsys)
    assert "no such parent" in (repo / "out" / "summary.md").read_text()


def test_a_folder_without_history_is_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert console.gate(["--out", str(tmp_path / "out")]) == 2


def test_a_base_that_cannot_be_built_is_2(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(["--out", str(repo / "out")]) == 2
    assert "base cannot be started" in said(capsys)
    assert left(repo) == []


@pytest.mark.parametrize(
    "words",
    [["--levels", "L7"], ["--target-base", "a=nginx"], ["--resume", "x"], ["--nonsense"], ["--engines", "go"]],
)
def test_what_makes_no_sense_is_64(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(words) == 64
    assert said(capsys)


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.gate(["--help"]) == 0
    assert "--target-base" in said(capsys)


def test_a_folder_with_a_run_is_not_written_over(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repo / "gate.json").write_text("{}")
    assert console.gate(["--out", str(repo)]) == 65
    assert "choose another folder" in said(capsys)


def test_an_interrupted_gate_ends_with_130_and_leaves_nothing(repo: Path) -> None:
    (repo / "proxy" / "__main__.py").write_text("import time\ntime.sleep(60)\n")
    git(repo, "add", ".")
    git(repo, "commit", "--quiet", "-m", "sleeps")
    words = [sys.executable, "-P", "-m", "loadgen", "gate", "--base", "HEAD", "--out", "out"]
    gate = subprocess.Popen(words, cwd=repo)
    while not any("head" in line for line in left(repo)):
        assert gate.poll() is None, "the gate ended before it could be interrupted"
        time.sleep(0.05)
    gate.send_signal(signal.SIGTERM)
    assert gate.wait() == 130
    assert left(repo) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_gate_that_is_interrupted_while_it_prints_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def printing(*_: object) -> int:
        signal.raise_signal(number)
        return 0

    monkeypatch.setattr(run, "run", printing)
    assert console.gate(["--levels", "L0"]) == 130
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_machine_where_nothing_can_be_timed_ends_in_2_and_keeps_what_the_other_levels_saw(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> list[gate.GateRow]:
        raise CannotMeasure("the mocks do not start")

    seen = [gate.GateRow(level="L1", subject="olla", metric="x", word="regression")]
    found = levels.CountedWork(rows=seen)
    monkeypatch.setattr(run, "levels", SimpleNamespace(bench=lambda *_: nullcontext(), count_work=lambda *_: found))
    monkeypatch.setattr(run, "interleaved", SimpleNamespace(engine_pair=lambda *_: None, time_pair=refuse))
    for wanted, code in ((("L2",), 2), (("L1", "L2"), 1)):
        asked = run.GateOptions(levels=wanted, engines=("olla",))
        rows, _ = run.measure_levels(asked, gate.policy(), {}, tmp_path, Terminal(Console(quiet=True)))
        assert gate.exit_code(rows) == code
        assert (rows[-1].word, rows[-1].reason) == ("could-not-measure", "the mocks do not start")


# --------------------------------------------------------------------------------------------------------- given pairs
def test_a_pair_can_be_urls_configs_commands_or_known_targets(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(
        "server: {port: 8080, workers: 2}\nadmin: {port: 9}\nproxy: {engine: sherpa, pools: {buffers: false}}\n"
        "endpoints: [{name: a, url: 'http://x:1'}]\n"
    )
    pair = given.pair_of(f"mine={config}", "theirs=./proxy --port {port} {backends}")
    assert isinstance(pair.base, ProcessTarget) and isinstance(pair.head, ProcessTarget)
    assert (pair.subject, pair.base.name, pair.head.name) == ("mine and theirs", "base", "head")
    assert pair.base.settings == {"proxy.engine": "sherpa", "server.workers": 2, "proxy.pools.buffers": False}
    assert pair.head.command == ("./proxy", "--port", "{port}", "{backends}")
    running = given.pair_of(f"a=http://127.0.0.1:8080,pid={os.getpid()}", "a=relay")
    assert isinstance(running.base, Given) and running.base.pid == os.getpid()
    assert running.subject == "a"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x", UsageRefusal),
        ("=nginx", UsageRefusal),
        ("x=nothing known", UsageRefusal),
        ("x=absent.yaml", BadInput),
    ],
)
def test_a_target_that_means_nothing_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="--target"):
        given.pair_of(text, "y=relay")


# ---------------------------------------------------------------------------------------------------------- for real
def test_the_promises_hold_for_this_checkout(tmp_path: Path) -> None:
    """All of L0 on the working tree, both engines: what the gate calls void here would be void for everybody."""
    here = Checkout("head", Path(__file__).resolve().parents[2], sys.executable, Side(name="here"))
    with levels.bench({"head": here}, ("olla", "sherpa"), tmp_path, Silent()) as on:
        rows = levels.check_promises(on, Silent())
    assert len(rows) == 15
    assert [(row.subject, row.metric, row.reason) for row in rows if row.word != "pass"] == []


def test_the_machine_class_names_what_counts_depend_on() -> None:
    assert f"py{sys.version_info.major}.{sys.version_info.minor}" in checkouts.machine_class()


@pytest.mark.parametrize(("code", "ends", "says"), [(0, 0, ""), (1, 1, ""), (2, 0, "could not measure"), (3, 3, "")])
def test_ci_goes_on_only_where_the_gate_could_not_measure(tmp_path: Path, code: int, ends: int, says: str) -> None:
    """A shallow clone has no parent: said, not red. `make` and the gate are stand-ins here."""
    for place, text in (("bin/make", "exit 0"), (".venv/bin/proxy-engines", f"exit {code}")):
        program = tmp_path / place
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    script = tmp_path / ".ci" / "run"
    script.parent.mkdir()
    script.write_text((Path(__file__).resolve().parents[2] / ".ci" / "run").read_text())
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(["bash", str(script)], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == ends
    assert says in done.stdout
