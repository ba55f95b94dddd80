"""Traces: every row is used or counted, clipping and jitter do what they say, and a wrong file gets one sentence."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import BadInput, Missing
from loadgen.workload.fits import AZURE_CODE, AZURE_CONV, Fit, generate
from loadgen.workload.trace import BYTES_PER_TOKEN, Trace, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2224670,879,55
2023-11-16 18:17:46.6805900,91,16"""


def traces() -> Path:
    """The public trace files, which the project does not ship."""
    folder = Path(os.environ.get("PROXY_ENGINES_TRACES", Path(__file__).parents[3] / ".." / "shared" / "traces"))
    if not folder.is_dir():
        pytest.skip("no traces: set PROXY_ENGINES_TRACES to a folder with azure-2023/ and mooncake/")
    return folder


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def mooncake(rows: list[tuple[int, int, int]]) -> str:
    return "\n".join(
        json.dumps({"timestamp": t, "input_length": i, "output_length": o, "hash_ids": [1]}) for t, i, o in rows
    )


def test_an_azure_row_becomes_a_request_at_its_time_with_its_tokens(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE))
    assert trace.kind == "azure"
    assert trace.offset_ns.tolist() == [0, 4_314_579_000, 4_541_877_000, 120_000_000_000]
    assert trace.prompt_tokens.tolist() == [374, 396, 879, 91]
    assert trace.output_tokens.tolist() == [44, 109, 55, 16]
    assert trace.accounting.as_json() == {"read": 4, "used": 4, "dropped": {}, "clipped": {}}


@pytest.mark.parametrize("text", [AZURE + "\n", AZURE.replace("\n", "\r\n"), "\ufeff" + AZURE, AZURE + "\n\n \n"])
def test_line_ends_a_byte_order_mark_and_blank_lines_change_nothing(tmp_path: Path, text: str) -> None:
    trace = read_trace(written(tmp_path, text))
    assert trace.prompt_tokens.tolist() == [374, 396, 879, 91]
    assert trace.accounting.read == 4


def test_times_with_and_without_a_zone_are_both_utc(tmp_path: Path) -> None:
    zoned = AZURE.replace("0,374", "0+00:00,374").replace(" 18:17", " 20:17").replace("5900,91", "5900+02:00,91")
    assert read_trace(written(tmp_path, zoned)).offset_ns.tolist()[-1] == 120_000_000_000


def test_a_time_scale_of_60_plays_a_minute_in_a_second(tmp_path: Path) -> None:
    assert read_trace(written(tmp_path, AZURE), time_scale=60).duration_s == 2.0


def test_clipped_rows_are_used_and_counted(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE), max_in=380, max_out=50)
    assert trace.prompt_tokens.tolist() == [374, 380, 380, 91]
    assert trace.output_tokens.tolist() == [44, 50, 50, 16]
    assert trace.accounting.clipped == {"prompt": 2, "output": 2}
    assert trace.accounting.used == 4


def test_the_first_rows_are_used_and_later_ones_not_read(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE), rows=2)
    assert trace.accounting.as_json() == {"read": 2, "used": 2, "dropped": {}, "clipped": {}}
    assert len(trace) == 2


def test_rows_after_the_end_of_the_run_are_dropped_with_that_reason(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE), time_scale=2, duration_s=10)
    assert len(trace) == 3
    assert trace.accounting.as_json() == {
        "read": 4,
        "used": 3,
        "dropped": {"after the end of the run": 1},
        "clipped": {},
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2023-11-16 18:15:46,1", "malformed line"),
        ("2023-11-16 18:15:46,1,2,3", "malformed line"),
        ("noon,1,2", "bad time"),
        ("2023-11-16 18:15:46,many,2", "bad token count"),
        ("2023-11-16 18:15:46,-1,2", "bad token count"),
        ("2023-11-16 18:15:46,1,99999999999", "bad token count"),
        ("2023-11-16 18:15:46,1,0", "no output tokens"),
        ("\x00\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "malformed line"),
    ],
)
def test_a_damaged_azure_row_is_dropped_and_its_reason_counted(tmp_path: Path, line: str, reason: str) -> None:
    trace = read_trace(written(tmp_path, AZURE + "\n" + line))
    assert trace.accounting.as_json() == {"read": 5, "used": 4, "dropped": {reason: 1}, "clipped": {}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"timestamp": 1, "input_length": 2, "out', "malformed line"),
        ("[1, 2]", "malformed line"),
        ('{"timestamp": "noon", "input_length": 2, "output_length": 3}', "bad time"),
        ('{"timestamp": -1, "input_length": 2, "output_length": 3}', "bad time"),
        ('{"timestamp": NaN, "input_length": 2, "output_length": 3}', "bad time"),
        ('{"timestamp": 1, "input_length": 2.5, "output_length": 3}', "bad token count"),
        ('{"timestamp": 1, "input_length": true, "output_length": 3}', "bad token count"),
        ('{"timestamp": 1, "output_length": 3}', "bad token count"),
        ('{"timestamp": 1, "input_length": 2, "output_length": 0}', "no output tokens"),
    ],
)
def test_a_damaged_mooncake_row_is_dropped_and_its_reason_counted(tmp_path: Path, line: str, reason: str) -> None:
    path = written(tmp_path, mooncake([(0, 10, 5)]) + "\n" + line, "trace.jsonl")
    assert read_trace(path).accounting.as_json() == {"read": 2, "used": 1, "dropped": {reason: 1}, "clipped": {}}


def test_mooncake_rows_are_spread_inside_their_bucket_by_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(3000 * (n // 50), 10, 5) for n in range(500)]), "trace.jsonl")
    one, same, other = (read_trace(path, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.offset_ns, same.offset_ns)
    assert not np.array_equal(one.offset_ns, other.offset_ns)
    assert len(np.unique(one.offset_ns)) > 490
    # At most one bucket's width from where its bucket begins, counted from the first request.
    begin = np.repeat(np.arange(10), 50) * 3_000_000_000
    assert np.all(np.abs(one.offset_ns - begin) < 3_000_000_000)


def test_exact_mooncake_times_are_not_jittered(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(10 * n, 10, 5) for n in range(20)]), "trace.jsonl")
    assert read_trace(path, seed=3).offset_ns.tolist() == [n * 10_000_000 for n in range(20)]


def test_rows_out_of_order_are_played_in_order_with_their_own_tokens(tmp_path: Path) -> None:
    rows = [(n * 10, n + 1, 2 * n + 1) for n in range(50)]
    random.Random(0).shuffle(rows)
    trace = read_trace(written(tmp_path, mooncake(rows), "trace.jsonl"))
    assert trace.prompt_tokens.tolist() == list(range(1, 51))
    assert trace.output_tokens.tolist() == list(range(1, 101, 2))
    assert np.all(np.diff(trace.offset_ns) > 0)


def test_a_missing_file_is_something_missing_and_a_wrong_one_bad_input(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="no such trace file") as missing:
        read_trace(tmp_path / "none.csv")
    assert missing.value.exit_code == 69
    with pytest.raises(Missing):
        read_trace(tmp_path)
    for text in ("", "a,b,c\n1,2,3", '{"some": "json"}', "\x00\x01\x02" * 100):
        with pytest.raises(BadInput, match="is not a trace") as wrong:
            read_trace(written(tmp_path, text))
        assert wrong.value.exit_code == 65


def test_a_trace_without_a_usable_row_is_bad_input_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="it holds no rows"):
        read_trace(written(tmp_path, AZURE.splitlines()[0]))
    with pytest.raises(BadInput, match="1 bad time"):
        read_trace(written(tmp_path, AZURE.splitlines()[0] + "\nnoon,1,2"))


@given(
    rows=st.lists(st.tuples(st.integers(-5, 10**7), st.integers(-5, 10**6), st.integers(-2, 5000)), min_size=1),
    limit=st.one_of(st.none(), st.integers(1, 20)),
    seconds=st.one_of(st.none(), st.floats(0.1, 10**5)),
)
def test_rows_read_are_rows_used_plus_rows_dropped_by_reason(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[int, int, int]],
    limit: int | None,
    seconds: float | None,
) -> None:
    path = written(tmp_path_factory.getbasetemp(), mooncake(rows), "property.jsonl")
    try:
        trace = read_trace(path, rows=limit, duration_s=seconds, max_in=100, max_out=10)
    except BadInput:
        assert all(t < 0 or i < 0 or o <= 0 for t, i, o in rows)
        return
    count = trace.accounting
    assert count.read == count.used + sum(count.dropped.values())
    assert count.used == len(trace) == len(trace.prompt_tokens) == len(trace.output_tokens)
    assert limit is None or count.used <= limit
    assert limit is not None or count.read == len(rows)
    assert max(trace.prompt_tokens, default=0) <= 100
    assert max(trace.output_tokens, default=0) <= 10


def test_a_plan_has_four_bytes_a_prompt_token_and_one_event_a_token_of_output(tmp_path: Path) -> None:
    plan = read_trace(written(tmp_path, AZURE)).plan(seed=4, warmup_s=4.4)
    assert plan.prompt_bytes.tolist() == [n * BYTES_PER_TOKEN for n in (374, 396, 879, 91)]
    assert plan.output_tokens.tolist() == [44, 109, 55, 16]
    assert plan.warmup.tolist() == [True, True, False, False]
    assert len(set(plan.request_seed.tolist())) == 4
    again = read_trace(written(tmp_path, AZURE)).plan(seed=4)
    np.testing.assert_array_equal(plan.request_seed, again.request_seed)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("azure-2023/AzureLLMInferenceTrace_conv.csv", 19_366),
        ("azure-2023/AzureLLMInferenceTrace_code.csv", 8_819),
        ("mooncake/conversation_trace.jsonl", 12_031),
    ],
)
def test_the_public_traces_are_read_whole(name: str, rows: int) -> None:
    path = traces() / name
    if not path.exists():
        pytest.skip(f"{name} is not among the traces")
    trace = read_trace(path)
    assert trace.accounting.as_json() == {"read": rows, "used": rows, "dropped": {}, "clipped": {}}
    assert 55 * 60 < trace.duration_s < 60 * 60


def gap_cv(trace: Trace) -> float:
    gaps = np.diff(trace.offset_ns)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize(
    ("fit", "rate", "cv", "prompt", "output"),
    [(AZURE_CONV, 5.5, (1.0, 1.2), (1020, 4142), (129, 601)), (AZURE_CODE, 2.6, (8, 18), (1469, 7436), (13, 252))],
)
def test_generated_traffic_has_the_figures_of_the_trace_it_was_fitted_to(
    fit: Fit, rate: float, cv: tuple[float, float], prompt: tuple[int, int], output: tuple[int, int]
) -> None:
    trace = generate(fit, duration_s=20_000, seed=5)
    assert len(trace) / 20_000 == pytest.approx(rate, rel=0.1)
    assert cv[0] < gap_cv(trace) < cv[1]
    assert np.quantile(trace.prompt_tokens, [0.5, 0.99]) == pytest.approx(prompt, rel=0.1)
    assert np.quantile(trace.output_tokens, [0.5, 0.99]) == pytest.approx(output, rel=0.1)


def test_generated_traffic_follows_its_seed_its_rate_and_its_limits() -> None:
    one = generate(AZURE_CONV, duration_s=500, seed=1, rate_rps=40, max_in=1000, max_out=100)
    np.testing.assert_array_equal(
        one.offset_ns, generate(AZURE_CONV, duration_s=500, seed=1, rate_rps=40, max_in=1, max_out=1).offset_ns
    )
    assert len(one) / 500 == pytest.approx(40, rel=0.05)
    assert one.offset_ns[-1] < 500e9
    assert one.prompt_tokens.max() == 1000
    assert one.output_tokens.max() == 100
    assert set(one.accounting.clipped) == {"prompt", "output"}
    assert not np.array_equal(one.offset_ns, generate(AZURE_CONV, duration_s=500, seed=2, rate_rps=40).offset_ns)
    with pytest.raises(ValueError, match="more than 0"):
        generate(AZURE_CONV, duration_s=0, seed=1)
