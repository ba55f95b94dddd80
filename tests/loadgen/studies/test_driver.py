"""The self-test against a real mock, short: its figures fit together. How large they are is not for a test to say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.bench.mocks import Backends
from loadgen.studies import driver
from loadgen.studies.driver import LOADS, DriverLoad, Result


@pytest.mark.parametrize(
    "load",
    [replace(LOADS[1], rate_rps=100), replace(LOADS[2], rate_rps=10), replace(LOADS[4], users=2)],
    ids=["requests", "events", "closed"],
)
def test_a_load_is_measured_with_right_answers_only(tmp_path: Path, load: DriverLoad) -> None:
    core = min(os.sched_getaffinity(0))
    mock = Backends.start(1, tmp_path, (core,))
    try:
        result = driver.measure(load, mock.urls[0], mock.pids[0], tmp_path, 0.5, core)
    finally:
        mock.stop()
    assert result.wrong == 0
    assert result.done_per_s > 0
    assert result.cost_us > 0
    assert result.driver_share > 0
    assert result.mock_share > 0
    assert (result.asked_per_s is None) == (result.valid is None) == (load.users > 0)


def test_the_line_names_rate_cost_ceiling_and_verdict() -> None:
    result = Result("10,000 requests/s", "requests", 10_000.0, 9_990.0, 0, 40.0, 0.4, 0.3, 90.0, 400.0, True)
    assert driver._line(result) == (
        "10,000 requests/s            9,990 of 10,000 requests/s, 40.0 us CPU each, "
        "driver 40% of its core (ceiling 25,000/s), mock 30%, lag p50 90 us, p99 400 us  valid"
    )
    late = replace(result, lag_p99_us=2000.0, valid=False, wrong=3)
    assert "3 not ok" in driver._line(late)
    assert driver._line(late).endswith("NOT VALID")
    limited = replace(result, asked_per_s=None, lag_p99_us=None, valid=None, mock_share=0.97)
    assert driver._line(limited).endswith("(the mock was the limit)")
