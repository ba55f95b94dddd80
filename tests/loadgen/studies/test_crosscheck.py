"""The cross-check with tools of others: their words are read right, and what disagrees is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.bench.child import ChildError
from loadgen.errors import Missing
from loadgen.studies import crosscheck
from loadgen.studies.crosscheck import LOADS, Figures, client, lines_of, page, parse_aiperf, parse_wrk

WRK = """Running 2s test @ http://127.0.0.1:8080/v1/chat/completions
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    20.41ms  268.71us  24.62ms   83.05%
    Req/Sec     1.57k    27.60     1.60k    85.00%
  Latency Distribution
     50%   20.38ms
     75%   20.51ms
     90%   20.66ms
     99%   21.48ms
  3135 requests in 2.01s, 5.81MB read
Requests/sec:   1563.25
Transfer/sec:      2.90MB
"""


def test_wrks_words_are_read_with_their_units() -> None:
    assert parse_wrk(WRK) == Figures(1563.25, 20.38)
    assert parse_wrk(WRK.replace("50%   20.38ms", "50%  870.00us")).e2e_p50_ms == pytest.approx(0.87)
    assert parse_wrk(WRK.replace("50%   20.38ms", "50%    1.20s")).e2e_p50_ms == pytest.approx(1200)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WRK + "  Non-2xx or 3xx responses: 12\n", "Non-2xx or 3xx responses: 12"),
        (WRK + "  Socket errors: connect 0, read 3, write 0, timeout 0\n", "read 3"),
        ("unable to connect", "something else than expected"),
    ],
)
def test_wrong_replies_and_unknown_words_are_no_figures(text: str, said: str) -> None:
    with pytest.raises(ChildError, match=said):
        parse_wrk(text)


def test_aiperfs_export_is_read_and_a_missing_figure_named() -> None:
    export = {"request_throughput": {"avg": 36.5}, "request_latency": {"p50": 420.0}}
    with pytest.raises(ChildError, match="time_to_first_token"):
        parse_aiperf(export)
    assert parse_aiperf({**export, "time_to_first_token": {"p50": 101.0}}) == Figures(36.5, 420.0, 101.0)


def test_medians_over_the_turns_are_held_to_the_tolerance() -> None:
    load = LOADS[0]
    mine = [Figures(1000, 20.0), Figures(1500, 20.2), Figures(1010, 20.1)]
    theirs = [Figures(1000, 25.0), Figures(1005, 25.0), Figures(1001, 25.0)]
    rate, latency = lines_of(load, mine, theirs)
    assert (rate.ours, rate.theirs, rate.agrees) == (1010, 1001, True)
    assert not latency.agrees
    assert "| 20.10 ms | 25.00 ms (wrk) | -19.6% | 3% | NO |" in page([rate, latency])


def test_a_client_that_is_not_there_is_told_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match="apt-get install wrk"):
        client("wrk")
    with pytest.raises(Missing, match="make clients"):
        client("aiperf")
    assert set(crosscheck.THEIRS) == {load.tool for load in LOADS}
