"""Counted work of targets: the same work gives the same counts, and a report shows them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loadgen.campaign.voice import Silent
from loadgen.gate.counts import Strace
from loadgen.gate.work import count
from loadgen.targets.catalogue import choose
from reports import counted


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace counts system calls")
def test_a_relay_makes_four_calls_a_request_whatever_the_machine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadgen.gate.work._TOOLS", (Strace(),))
    count(choose(["relay", "direct"], []), tmp_path, Silent())
    found = counted.load(tmp_path, "relay")
    assert found is not None
    if found.missing:
        pytest.skip(found.missing[0])  # a container may forbid tracing
    assert found.targets == ("relay",)
    by_metric = {row.metric: row.values[0] for row in found.rows}
    # Two reads and two writes; what the relay does else does not grow with the requests.
    assert by_metric["syscalls_per_1000_requests"] == pytest.approx(4000, abs=20)
    assert by_metric["syscalls_per_1000_events"] == pytest.approx(2000, rel=0.1)
