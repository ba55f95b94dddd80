"""`micro`: benchmarks check what they time, results are what pyperf wrote, comparisons say no more than they know."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyperf
import pytest
import typer

from loadgen import cli
from loadgen.errors import BadInput, UsageRefusal
from loadgen.micro import run, samples
from loadgen.micro.exchange import Rig, WorkNotDone, exchanges
from loadgen.micro.memory_loop import MemoryTransport
from loadgen.micro.result import (
    BenchmarkRatio,
    BenchmarkResult,
    compare,
    compare_paired,
    compare_suites,
    compare_within,
    load,
    process_medians,
)
from loadgen.micro.suite import Benchmark, counts_of, each

ALL = run.suite()


def result(name: str, medians: tuple[float, ...] = (10.0, 11.0, 10.5)) -> BenchmarkResult:
    return BenchmarkResult(name, "something", f"{name}.json", medians, (0.0, 0.0, 0.0), 64)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.benchmark.name)
def test_every_benchmark_does_what_it_says_it_times(entry: run.ScriptedBenchmark) -> None:
    with entry.benchmark.make() as work:
        work(3)


def test_names_are_unique_and_every_comparison_has_its_other_side() -> None:
    names = [entry.benchmark.name for entry in ALL]
    assert len(set(names)) == len(names)
    assert {entry.benchmark.against for entry in ALL} - {None} <= set(names)


def test_the_suite_covers_what_a_request_meets() -> None:
    groups = {entry.benchmark.name.split(".")[0] for entry in ALL}
    assert groups >= {"headers", "wire", "balancing", "breaker", "pools", "flush", "stats", "exchange"}


@pytest.mark.parametrize("engine", ["olla", "sherpa"])
def test_an_exchange_in_memory_is_a_whole_one(engine: str) -> None:
    rig = Rig(engine, samples.REQUEST, (samples.RESPONSE,), samples.REPLY)
    rig.run(5)
    rig.close()
    counts = rig.stats.snapshot(engine, []).counts
    assert counts["proxy.requests.total"] == counts["proxy.requests.success"] == 6  # one of them checked beforehand


@pytest.mark.parametrize("engine", ["olla", "sherpa"])
def test_an_engine_that_answers_with_an_error_is_not_timed(engine: str) -> None:
    with (
        pytest.raises(WorkNotDone, match="502"),
        exchanges(engine, samples.REQUEST, (b"no HTTP\r\n\r\n",), samples.REPLY),
    ):
        pass


def test_an_engine_that_changes_the_body_is_not_timed() -> None:
    altered = samples.REPLY[:-1] + b"?"
    with pytest.raises(WorkNotDone, match="200"), exchanges("olla", samples.REQUEST, (samples.RESPONSE,), altered):
        pass


def test_a_buffered_protocol_reads_through_its_own_buffers() -> None:
    import asyncio

    class Reader(asyncio.BufferedProtocol):
        def __init__(self) -> None:
            self.buffer = bytearray(4)
            self.read = b""

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            self.read += self.buffer[:nbytes]

    loop = asyncio.new_event_loop()
    reader = Reader()
    MemoryTransport(loop, reader).deliver(b"more than four")
    loop.close()
    assert reader.read == b"more than four"


def test_counts_tell_garbage_from_none() -> None:
    kept: list[list[object]] = []

    def litter() -> None:
        cycle: list[object] = []
        cycle.append(cycle)
        kept.append(cycle)

    dirty = counts_of(Benchmark("x.dirty", "", lambda: each(litter)))
    clean = counts_of(Benchmark("x.clean", "", lambda: each(lambda: None)))
    assert clean["gc_per_1000"] == [0, 0, 0]
    assert dirty["gc_per_1000"][0] >= 1  # 2,000 lists kept at a threshold of 700
    assert dirty["peak_bytes"] > clean["peak_bytes"]


def test_a_benchmark_by_pyperf_leaves_files_that_pyperf_reads(tmp_path: Path) -> None:
    out = tmp_path / "micro"
    assert run.main(out, only=["flush.token"], options=("-p", "2", "-n", "2", "-l", "1000", "-w", "1")) == 0
    bench = pyperf.Benchmark.load(str(out / "pyperf.json"))
    assert bench.get_name() == "flush.token"
    data = json.loads((out / "micro.json").read_text())
    (row,) = data["benchmarks"]
    assert row["process_medians_ns"] == pytest.approx([pyperf_median * 1e9 for pyperf_median in _medians(bench)])
    assert len(row["process_medians_ns"]) == 2 * run.PASSES
    assert row["median_ns"] > 10
    assert load(out)[0].name == "flush.token"


def test_u16_two_runs_are_compared_by_micro_and_by_pyperf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "RIGOROUS", ("-p", "2", "-n", "2", "-l", "500", "-w", "1"))  # as --rigorous, but quick
    monkeypatch.setattr(run, "PASSES", 1)
    before, after = str(tmp_path / "a"), str(tmp_path / "b")
    command = typer.main.get_command(cli.app)
    for words in (["--out", before], ["--out", after, "--against", before]):
        with pytest.raises(SystemExit) as ended:
            command(["micro", "--only", "flush.token", "--rigorous", *words])
        assert ended.value.code == 0
    assert "flush.token before" in capsys.readouterr().out
    pyperf_itself = [sys.executable, "-m", "pyperf", "compare_to", f"{before}/pyperf.json", f"{after}/pyperf.json"]
    done = subprocess.run(pyperf_itself, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # It names the files where the two differ, and the benchmark where they do not.
    assert "flush.token" in done.stdout or ("a/pyperf.json" in done.stdout and "b/pyperf.json" in done.stdout)
    for folder in (before, after):
        assert pyperf.Benchmark.load(f"{folder}/pyperf.json").get_name() == "flush.token"


def _medians(bench: pyperf.Benchmark) -> list[float]:
    return [sum(sorted(r.values)) / len(r.values) for r in bench.get_runs() if r.values]


def test_a_folder_that_holds_a_suite_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "micro.json").write_text("{}")
    assert run.main(tmp_path, only=["flush.token"]) == 65
    assert "choose another folder" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_benchmark_is_a_usage_error_that_names_those_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageRefusal, match=r"wire\.request\.same"):
        run.suite(["nothing.*"])
    assert run.main(only=["nothing.*"]) == 64


def test_a_benchmark_that_breaks_ends_the_command_with_its_last_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(tmp_path / "x", only=["flush.token"], options=("--no-such-option",)) == 70
    assert "no-such-option" in capsys.readouterr().out


def test_ctrl_c_keeps_what_had_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time(entry: run.ScriptedBenchmark, folder: Path, options: object, *, first: bool) -> None:
        if entry.benchmark.name == "flush.burst":
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "_time", time)
    monkeypatch.setattr(run, "_count", lambda entry: {"gc_per_1000": [0, 0, 0]})
    monkeypatch.setattr(run, "_result", lambda entry, folder, counted: result(entry.benchmark.name))
    monkeypatch.setattr(run, "_gather", lambda folder, results: None)
    assert run.main(tmp_path / "x", only=["flush.*"]) == 130
    assert [r.name for r in load(tmp_path / "x")] == ["flush.token"]


def test_the_sample_is_the_process_and_calibration_is_none() -> None:
    runs = [
        pyperf.Run([], warmups=[(1, 5.0)], metadata={"name": "x"}, collect_metadata=False),
        pyperf.Run([1e-6, 9e-6, 2e-6], metadata={"name": "x"}, collect_metadata=False),
        pyperf.Run([3e-6, 3e-6, 4e-6], metadata={"name": "x"}, collect_metadata=False),
    ]
    assert process_medians(pyperf.Benchmark(runs)) == pytest.approx((2000.0, 3000.0))


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        ([10.0, 10.1, 9.9, 10.0], [20.0, 20.1, 19.9, 20.0], "faster"),
        ([20.0, 20.1, 19.9, 20.0], [10.0, 10.1, 9.9, 10.0], "slower"),
        ([10.0, 10.1, 9.9, 10.0], [10.0, 10.1, 9.95, 10.0], "equivalent"),
        ([10.0, 15.0, 8.0, 20.0], [10.0, 16.0, 9.0, 12.0], "too-noisy"),
        ([10.0], [20.0], "too-noisy"),
        ([10.0, 10.0], [10.0, 10.0], "equivalent"),
    ],
)
def test_a_comparison_says_no_more_than_its_processes_show(ours: list[float], theirs: list[float], word: str) -> None:
    assert compare("a", ours, "b", theirs).word == word


def test_benchmarks_that_took_turns_are_compared_pass_by_pass() -> None:
    ours, theirs = [10.0, 15.0, 8.0, 20.0], [20.0, 30.0, 16.0, 40.0]  # a machine that drifts twofold
    assert compare("a", ours, "b", theirs).word == "too-noisy"
    assert compare_paired("a", ours, "b", theirs).word == "faster"
    assert compare_paired("a", ours, "b", theirs).ratio == pytest.approx(0.5)
    assert compare_paired("a", ours[:3], "b", theirs) == compare("a", ours[:3], "b", theirs)


def test_welch_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng = random.Random(5)
    inside = 0
    for _ in range(1000):
        ours = [math.exp(rng.gauss(0.1, 0.05)) for _ in range(6)]
        theirs = [math.exp(rng.gauss(0.0, 0.02)) for _ in range(6)]
        found = compare("a", ours, "b", theirs)
        assert found.ci_low is not None and found.ci_high is not None
        inside += found.ci_low <= math.exp(0.1) <= found.ci_high
    assert 930 <= inside <= 970


def test_only_what_both_suites_have_is_compared() -> None:
    now, before = [result("a"), result("b")], [result("b"), result("c")]
    assert [c.name for c in compare_suites(now, before)] == ["b"]
    assert [c.name for c in compare_within(now, {"a": "b", "b": "gone"})] == ["a"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "micro run"),
        ("{", "not JSON"),
        ('{"schema": 99}', "another schema"),
        ('{"schema": 1, "benchmarks": [{"name": "x"}]}', "does"),
    ],
)
def test_a_folder_that_cannot_be_compared_with_says_why(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "micro.json").write_text(text)
    with pytest.raises(BadInput, match=says):
        load(tmp_path)


def test_json_never_holds_nan() -> None:
    single = BenchmarkRatio("a", "b", 1.0, None, None).as_json()
    assert json.loads(json.dumps({**single, **result("x", (1.0,)).as_json()}, allow_nan=False))["ci_ns"] is None


@pytest.mark.parametrize(("ns", "shown"), [(0.5, "0.5 ns"), (87.21, "87.2 ns"), (12345.0, "12.3 us"), (2e9, "2 s")])
def test_times_are_shown_with_three_digits(ns: float, shown: str) -> None:
    assert run.show_ns(ns) == shown


def test_each_calls_as_often_as_asked() -> None:
    calls: list[int] = []
    operation: Callable[[], None] = lambda: calls.append(1)  # noqa: E731
    with each(operation) as work:
        work(7)
    assert len(calls) == 7
