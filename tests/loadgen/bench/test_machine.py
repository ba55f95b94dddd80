"""The machine, and who runs on which of its cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadgen.bench import machine

STAT = """cpu  100 0 50 800 10 0 5 35 0 0
cpu0 60 0 30 390 5 0 5 10 0 0
cpu1 40 0 20 410 5 0 0 25 0 0
intr 1 2 3
"""


def test_on_two_cores_the_target_is_alone_on_the_first() -> None:
    cores = machine.assign_cores([0, 1])
    assert (cores.target, cores.driver, cores.mocks) == ((0,), (1,), (1,))
    assert cores.bench_size() == 1
    assert cores.pinned
    assert "target alone on core 0; driver and mocks on core 1" in cores.note


def test_from_three_cores_on_the_driver_has_one_for_itself() -> None:
    cores = machine.assign_cores([3, 1, 2, 0])
    assert (cores.target, cores.driver, cores.mocks) == ((0,), (1,), (2, 3))
    assert cores.bench_size() == 3
    assert cores.all() == (0, 1, 2, 3)


def test_a_target_of_two_workers_gets_two_cores() -> None:
    assert machine.assign_cores([0, 1, 2], target_workers=2).target == (0, 1)


def test_a_single_core_is_not_pinned_and_the_note_says_what_that_costs() -> None:
    cores = machine.assign_cores([0])
    assert not cores.pinned
    assert "not pinned" in cores.note
    assert (cores.all(), cores.bench_size(), cores.target_size()) == ((0,), 1, 1)


def test_where_nothing_is_pinned_the_cores_are_those_that_this_process_may_use() -> None:
    cores = machine.assign_cores([2, 5], target_workers=2)
    assert (cores.pinned, cores.all(), cores.bench_size()) == (False, (2, 5), 2)


def test_stolen_and_busy_time_are_shares_of_what_passed() -> None:
    before = machine.parse_cpu_times(STAT)
    assert (before.total, before.steal, before.idle) == (1000, 35, 810)
    after = machine.CpuTimes(total=1100, steal=45, idle=870)
    assert machine.steal_share(before, after) == 0.1
    assert machine.busy_share(before, after) == 0.3
    assert machine.steal_share(before, before) == 0


def test_single_cores_can_be_looked_at() -> None:
    assert machine.parse_cpu_times(STAT, [1]).steal == 25
    assert machine.parse_cpu_times(STAT, [0, 1]).total == 1000


def test_what_is_written_about_this_machine_can_be_written_as_json() -> None:
    import json

    facts = machine.describe(machine.assign_cores([0, 1]))
    assert facts["cores"] >= 1
    assert facts["python"].startswith("CPython 3.")
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        ("'--enable-optimizations' '--with-lto=full'", "PGO and LTO"),
        ("'--enable-optimizations' '--prefix=/usr'", "PGO"),
        ("'--with-lto'", "LTO"),
        ("'--prefix=/opt/python-3.11' '--enable-shared'", "none"),
        ("", "none"),
        ("'--enable-shared' '--prefix=/usr' '--with-computed-gotos'", None),
        (None, None),
    ],
)
def test_how_python_was_built_is_said_where_it_is_known(configured: str | None, said: str | None) -> None:
    assert machine.optimisations(configured) == said


def test_trying_out_the_priority_changes_nothing() -> None:
    before = os.sched_getscheduler(0)
    told = machine.describe(machine.assign_cores([0, 1]))["bench_priority"]
    assert told.startswith("real-time") == machine.may_use_real_time()
    assert os.sched_getscheduler(0) == before


def test_versions_name_ourselves_and_the_revision_where_there_is_one(tmp_path: Path) -> None:
    found = machine.versions(tmp_path)
    assert found["proxy-engines"]
    assert "revision" not in found
