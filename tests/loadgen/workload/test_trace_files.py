"""Traces as users have them: other formats, packed, piped, in other encodings; read whole or refused with a reason.

U3, U4, U5, U6, U13 and U14 of the review are pinned here, each by its id.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from loadgen.campaign.plan import Asked, plan, replay_scenario
from loadgen.campaign.real import Real, replayed
from loadgen.errors import BadInput, UsageRefusal
from loadgen.workload import conversation
from loadgen.workload.job import Job
from loadgen.workload.payload import Payloads
from loadgen.workload.scenario import Replay
from loadgen.workload.trace import read_trace
from loadgen.workload.trace_summary import describe, figures
from tests.loadgen.workload.test_trace import AZURE, mooncake, traces, written

ROWS = [(374, 44), (396, 109), (879, 55), (91, 16)]


def lines(*objects: object) -> str:
    return "\n".join(map(json.dumps, objects))


AZURE_2024 = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(
    f"2024-05-10 00:00:0{number}.009930+00:00,{p},{o}" for number, (p, o) in enumerate(ROWS)
)
AZURE_LMM = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n" + "\n".join(
    f"2024-10-15 00:00:0{number}.000000,{number},{p},{o}" for number, (p, o) in enumerate(ROWS)
)
BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n" + "\n".join(
    f"{number},ChatGPT,{p},{o},{p + o},Conversation log" for number, (p, o) in enumerate(ROWS)
)
BAILIAN = lines(
    *(
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": number, "input_length": p, "output_length": o, "turn": 1,
         "type": "text", "hash_ids": [1, 2]}
        for number, (p, o) in enumerate(ROWS)
    )
)  # fmt: skip
GUIDELLM = lines(
    *({"timestamp": number + 0.0, "input_length": p, "output_length": o} for number, (p, o) in enumerate(ROWS))
).replace('"timestamp": 3.0', '"timestamp": 3.5')
AIPERF = lines(
    *({"timestamp": 1000 * number, "input_length": p, "output_length": o} for number, (p, o) in enumerate(ROWS))
)
USAGE = "[" + ",\n".join(
    json.dumps({"timestamp": f"2026-01-01T00:00:0{number}Z", "prompt_tokens": p, "completion_tokens": o})
    for number, (p, o) in enumerate(ROWS)
) + "]"  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind", "span"),
    [
        (AZURE_2024, "azure", 3.0),
        (AZURE_LMM, "azure", 3.0),
        (BURSTGPT, "burstgpt", 3.0),
        (BAILIAN, "bailian", 3.0),
        (GUIDELLM, "lengths", 3.5),
        (AIPERF, "lengths", 3.0),
        (USAGE, "openai-usage", 3.0),
    ],
)
def test_u14_each_public_format_is_read_and_named(tmp_path: Path, text: str, kind: str, span: float) -> None:
    trace = read_trace(written(tmp_path, text))
    assert (trace.kind, trace.duration_s) == (kind, span)
    assert list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) == ROWS
    assert trace.accounting.as_json() == {"read": 4, "used": 4, "dropped": {}, "clipped": {}}


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


WRITTEN = {
    "gzip": lambda text: gzip.compress(text.encode()),
    "two members of gzip": lambda text: gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()),
    "zstd": lambda text: zstd(text.encode()),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "utf-16-be, packed": lambda text: gzip.compress(b"\xfe\xff" + text.encode("utf-16-be")),
    "a mark of utf-8": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "quotes": lambda text: "\n".join(",".join(f'"{f}"' for f in line.split(",")) for line in text.split("\n")).encode(),
    "other letter cases": lambda text: text.replace("ContextTokens", "context_tokens").replace("TIMESTAMP", "Timestamp")
    .replace("GeneratedTokens", "generated tokens").encode(),
    "an index column": lambda text: "\n".join(
        f"{'' if number == 0 else number},{line}" for number, line in enumerate(text.split("\n"))
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("how", WRITTEN)
def test_u14_however_it_is_written_it_is_the_same_trace(tmp_path: Path, how: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(WRITTEN[how](AZURE))
    trace = read_trace(path)
    assert trace.prompt_tokens.tolist() == [374, 396, 879, 91]
    assert trace.offset_ns.tolist()[-1] == 120_000_000_000
    assert trace.accounting.read == 4


def test_u4_a_pipe_is_read_once_and_whole(tmp_path: Path) -> None:
    """Longer than what one read brings, so that a second opening would find its beginning gone."""
    text = mooncake([(10 * number, 10, 5) for number in range(8819)])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(text.encode()),))
    writer.start()
    try:
        accounting = read_trace(pipe).accounting
    finally:
        writer.join(30)
    assert accounting.as_json() == {"read": 8819, "used": 8819, "dropped": {}, "clipped": {}}


@pytest.mark.parametrize(
    ("rows", "span", "says"),
    [
        # 100 rows in 100 s; read as milliseconds they would be over in a tenth of a second.
        ([(n, 10, 5) for n in range(1000)], 999.0, "times are in s: milliseconds would be 1,001 requests/s"),
        ([(n * 0.5, 10, 5) for n in range(100)], 49.5, "times are in s: they have decimals"),
        ([(n * 200, 10, 5) for n in range(100)], 19.8, "times are in ms: that gives 5.05 requests/s"),
        ([(1_700_000_000 + n, 10, 5) for n in range(100)], 99.0, "is a time since 1970 in s"),
        ([(1_700_000_000_000 + n, 10, 5) for n in range(100)], 0.099, "is a time since 1970 in ms"),
        ([(1_700_000_000_000_000_000 + n * 10**6, 10, 5) for n in range(100)], 0.099, "is a time since 1970 in ns"),
    ],
)
def test_u3_the_unit_of_time_is_recognised_and_said(
    tmp_path: Path, rows: list[tuple[float, int, int]], span: float, says: str
) -> None:
    text = lines(*({"timestamp": t, "input_length": i, "output_length": o} for t, i, o in rows))
    trace = read_trace(written(tmp_path, text))
    assert trace.duration_s == pytest.approx(span, rel=1e-3)
    assert says in "; ".join(trace.notes)


def test_u3_a_file_that_may_be_either_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    text = lines(*({"timestamp": 5 * n, "input_length": 10, "output_length": 5} for n in range(100)))
    path = written(tmp_path, text)
    with pytest.raises(BadInput, match=r"may be milliseconds \(202 requests/s\) or seconds") as refused:
        read_trace(path)
    assert len(str(refused.value).splitlines()) == 3
    assert "--time-unit s" in str(refused.value)
    assert read_trace(path, time_unit="s").duration_s == 495
    assert read_trace(path, time_unit="ms").duration_s == 0.495


def test_u5_a_burst_stays_a_burst_and_what_is_done_is_said(tmp_path: Path) -> None:
    rows = [(t, 10, 5) for t in [137, 4211, 4733, 9001, 9950, 12_345] for _ in range(20)]
    path = written(tmp_path, mooncake(rows))
    kept = read_trace(path)
    assert len(np.unique(kept.offset_ns)) == 6
    assert "120 rows have 6 different times; those that share one are due together" in kept.notes[-1]
    spread = read_trace(path, bursts="spread")
    assert len(np.unique(spread.offset_ns)) == 120
    assert "--bursts keep" in spread.notes[-1]


def test_u5_a_coarse_clock_is_spread_unless_it_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(3000 * (n // 50), 10, 5) for n in range(500)]))
    assert len(np.unique(read_trace(path).offset_ns)) > 490
    assert len(np.unique(read_trace(path, bursts="keep").offset_ns)) == 10


def test_u6_a_duration_bounds_a_replay(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(100 * n, 10, 5) for n in range(10_000)]))
    whole = replay_scenario(Replay(kind="trace", file=str(path)), 1)
    short = replay_scenario(Replay(kind="trace", file=str(path), duration_s=10), 1)
    assert whole.total_s() == pytest.approx(999.9)
    assert short.total_s() <= 10
    planned = plan(Asked(trace=Replay(kind="trace", file=str(path), duration_s=10)))
    (rows,) = planned.dropped.values()
    assert rows["read"] == rows["used"] + sum(rows["dropped"].values()) == 10_000
    assert rows["dropped"] == {"after the end of the run": 9900}


def bailian(*rows: tuple[int, int, float, int]) -> str:
    """(chat_id, parent_chat_id, timestamp, input_length): as Bailian writes it, each turn has a chat_id of its own."""
    return lines(
        *(
            {"chat_id": own, "parent_chat_id": parent, "timestamp": time, "input_length": tokens, "output_length": 5,
             "type": "text", "turn": 1 if parent == -1 else 2, "hash_ids": [own]}
            for own, parent, time, tokens in rows
        )
    )  # fmt: skip


def test_turns_of_a_conversation_share_a_seed_and_begin_with_the_prompt_before(tmp_path: Path) -> None:
    """7 -> 8 -> 10 is one, 9 another, and 12 follows a turn that the trace does not hold."""
    path = written(tmp_path, bailian((7, -1, 0, 10), (8, 7, 1, 25), (9, -1, 2, 8), (10, 8, 3, 40), (12, 11, 4, 9)))
    trace = read_trace(path)
    assert trace.conversation is not None and trace.conversation.tolist() == [0, 0, 1, 0, 2]
    made = replay_scenario(Replay(kind="trace", file=str(path)), 1)
    plan = trace.plan(seed=1)
    payloads = Payloads(Job("run", "http://127.0.0.1:1", tmp_path, made.templates()))
    sent = [
        payloads.build(n, 0, int(plan.prompt_bytes[n]), int(plan.output_tokens[n]), int(plan.request_seed[n]))[0]
        for n in range(len(plan))
    ]
    prompts = [json.loads(data.partition(b"\r\n\r\n")[2])["messages"][0]["content"] for data in sent]
    sessions = [re.search(rb"X-Session-ID: (\S+)", data)[1] for data in sent]  # type: ignore[index]
    assert sessions[0] == sessions[1] == sessions[3]
    assert len(set(sessions)) == 3
    assert prompts[1].startswith(prompts[0]) and prompts[3].startswith(prompts[1])
    assert not prompts[0].startswith(prompts[2])
    words = describe(Replay(kind="trace", file=str(path)))
    assert "conversations: 3, 1 of several turns (mean 1.67, most 3)" in words


def test_a_dropped_turn_still_holds_its_conversation_together(tmp_path: Path) -> None:
    text = bailian((1, -1, 0, 10), (2, 1, 1, 20), (3, 2, 2, 30)).splitlines()
    text[1] = text[1].replace('"output_length": 5', '"output_length": 0')
    trace = read_trace(written(tmp_path, "\n".join(text)))
    assert trace.conversation is not None and trace.conversation.tolist() == [0, 0]
    assert trace.accounting.dropped == {"no output tokens": 1}


def test_turns_of_a_conversation_stay_in_order_where_a_coarse_clock_is_spread(tmp_path: Path) -> None:
    """40 rows at a time, every four of them turns of one conversation whose prompts grow."""
    rows = [
        {"timestamp": 3000 * tick, "input_length": 1 + 4 * tick + turn, "output_length": 5, "session_id": f"s{who}"}
        for tick in range(10)
        for turn in range(4)
        for who in range(10)
    ]
    trace = read_trace(written(tmp_path, lines(*rows)), bursts="spread")
    assert trace.conversation is not None and len(np.unique(trace.offset_ns)) > 390
    for number in range(10):
        assert np.all(np.diff(trace.prompt_tokens[trace.conversation == number]) == 1)


def test_sessions_of_a_csv_are_named_by_option(tmp_path: Path) -> None:
    path = written(tmp_path, "t,q,a,who,after\n0.5,10,3,x,\n1.5,20,4,y,x\n2.5,20,4,,\n")
    columns = "time=t,in=q,out=a,session=who"
    for text, wanted in ((columns, [0, 1, 2]), (f"{columns},parent=after", [0, 0, 1])):
        found = read_trace(path, columns=text).conversation
        assert found is not None and found.tolist() == wanted
    with pytest.raises(BadInput, match="has no columns t, q, a and nobody"):
        read_trace(path, columns="time=t,in=q,out=a,session=nobody")
    with pytest.raises(UsageRefusal, match="session=COLUMN,parent=COLUMN"):
        read_trace(path, columns="time=t,in=q,out=a,parent=after")


def test_a_real_server_is_sent_the_conversations_of_a_trace_too(tmp_path: Path) -> None:
    path = written(tmp_path, bailian((7, -1, 0, 10), (8, 7, 1, 25)))
    made = replayed(replay_scenario(Replay(kind="trace", file=str(path)), 1), Real(model="m"))
    (request,) = made.requests
    assert request.headers == conversation.HEADERS and conversation.GROWING in request.text()


def test_u13_a_file_name_with_an_accent_is_a_scenario(tmp_path: Path) -> None:
    for name, wanted in (("tráfego.csv", "trace-trafego"), ("流量.csv", "trace"), ("a b.csv", "trace-a-b")):
        assert replay_scenario(Replay(kind="trace", file=str(written(tmp_path, AZURE, name))), 1).id == wanted


def test_u14_own_columns_are_named_by_option(tmp_path: Path) -> None:
    path = written(tmp_path, "when;model;q;a\n0.5;m;10;3\n1.5;m;20;4\n")
    trace = read_trace(path, columns="time=when,in=q,out=a")
    assert (trace.kind, trace.duration_s, trace.output_tokens.tolist()) == ("own", 1.0, [3, 4])
    with pytest.raises(BadInput, match="has no columns when, tokens and a"):
        read_trace(path, columns="time=when,in=tokens,out=a")
    for text in ("when,q,a", "time=when", "time=,in=q,out=a", "time=a,in=b,out=c,x=d"):
        with pytest.raises(UsageRefusal, match="--columns"):
            read_trace(path, columns=text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "its columns or keys are: none"),
        ("a,b\n1,2", "its columns or keys are: a, b"),
        ('{"id": 1}', "its columns or keys are: id"),
        ('[{"id": "x", "conversations": [{"from": "human", "value": "hi"}]}]', r"conversations \(ShareGPT\)"),
        ("[1, 2", "none"),
        ("[1, 2]", "none"),
    ],
)
def test_u14_what_is_no_trace_is_refused_with_two_lines_of_what_is_expected(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(BadInput, match=says) as refused:
        read_trace(written(tmp_path, text))
    first, *expected = str(refused.value).splitlines()
    assert "is not a trace" in first
    assert (
        len(expected) == 2 and "TIMESTAMP,ContextTokens,GeneratedTokens" in expected[0] and "--columns" in expected[1]
    )


@pytest.mark.parametrize("data", [gzip.compress(AZURE.encode())[:-12], b"\x1f\x8bnonsense" * 9, zstd(b"x" * 999)[:-9]])
def test_a_damaged_packed_file_is_bad_input(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trace.gz"
    path.write_bytes(data)
    with pytest.raises(BadInput):
        read_trace(path)


def test_a_quote_that_is_not_closed_costs_one_row(tmp_path: Path) -> None:
    text = AZURE.replace("2023-11-16 18:15:50.9951690,396", '"2023-11-16 18:15:50.9951690,396')
    assert read_trace(written(tmp_path, text)).accounting.as_json()["dropped"] == {"malformed line": 1}


def test_a_trace_is_described_in_words_and_in_json(tmp_path: Path) -> None:
    replay = Replay(kind="trace", file=str(written(tmp_path, AZURE)), time_scale=2, max_in=380)
    words = describe(replay)
    assert "rows: 4 read, 4 used, dropped: none" in words
    assert "played: 4 requests in 60 s" in words
    assert json.loads(describe(replay, as_json=True))["rows"]["clipped"] == {"prompt": 2}
    alone = read_trace(written(tmp_path, "\n".join(AZURE.splitlines()[:2])))
    assert figures(alone)["rate_rps"] is None and figures(alone)["gap_cv"] is None


@pytest.mark.parametrize(
    ("name", "rate", "cv", "prompt_p50", "output_p99"),
    [
        ("azure-2023/AzureLLMInferenceTrace_conv.csv", 5.5, 1.09, 1020, 601),
        ("azure-2023/AzureLLMInferenceTrace_code.csv", 2.6, 13.2, 1469, 251),
        ("mooncake/conversation_trace.jsonl", 3.4, 1.0, 6909, 1119),
    ],
)
def test_public_traces_are_described_by_the_figures_published_of_them(
    name: str, rate: float, cv: float, prompt_p50: float, output_p99: float
) -> None:
    path = traces() / name
    if not path.exists():
        pytest.skip(f"{name} is not among the traces")
    found = figures(read_trace(path))
    assert found["rate_rps"] == pytest.approx(rate, rel=0.02)
    assert found["gap_cv"] == pytest.approx(cv, rel=0.05)
    assert found["prompt_tokens"]["p50"] == pytest.approx(prompt_p50, rel=0.01)
    assert found["output_tokens"]["p99"] == pytest.approx(output_p99, rel=0.01)
