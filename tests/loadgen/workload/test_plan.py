"""The plan: one row a request, checked before anything is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from loadgen.workload.job import Job, JobError, Template
from loadgen.workload.plan import Plan, load_plan, make_plan, save_plan

JOB = Job("s", "http://127.0.0.1:1", Path("out"), (Template("/"), Template("/", body="{{prompt}}")), plan=Path("p"))


def some_plan(n: int = 4) -> Plan:
    return make_plan(np.arange(n, dtype=np.int64) * 1_000_000_000, warmup_s=1.5)


def test_a_saved_plan_is_read_back_equal(tmp_path: Path) -> None:
    plan = make_plan(
        np.array([0, 5, 5, 9], dtype=np.int64),
        template=np.array([0, 1, 0, 1], dtype=np.int32),
        prompt_bytes=7,
        output_tokens=np.arange(4, dtype=np.int32),
        request_seed=3,
    )
    save_plan(plan, tmp_path / "plan.npz")
    read = load_plan(tmp_path / "plan.npz", JOB)
    for name in Plan.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(read, name), getattr(plan, name))
        assert getattr(read, name).dtype == getattr(plan, name).dtype


def test_a_plan_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(file: BinaryIO, **_: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(KeyboardInterrupt):
        save_plan(some_plan(), tmp_path / "plan.npz")
    assert not (tmp_path / "plan.npz").exists()


def test_rows_due_before_the_end_of_the_warm_up_are_marked() -> None:
    assert some_plan().warmup.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset_ns": np.array([0, 2, 1, 3])}, "sorted"),
        ({"offset_ns": np.array([-1, 2, 3, 4])}, "start at 0"),
        ({"offset_ns": np.arange(3)}, "differ in length"),
        ({"template": np.array([0, 0, 2, 0], dtype=np.int32)}, "template must be between 0 and 1"),
        ({"template": np.array([0, 0, 1, 0], dtype=np.int32)}, r"requests\[1\] has the mark \{\{prompt\}\}"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_is_sent(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    save_plan(replace(some_plan(), **changes), tmp_path / "plan.npz")  # type: ignore[arg-type]  # parametrised
    with pytest.raises(JobError, match=message):
        load_plan(tmp_path / "plan.npz", JOB)


def test_a_file_that_is_no_plan_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.npz"
    with pytest.raises(JobError, match="cannot be read as a plan"):
        load_plan(path, JOB)
    path.write_text("hello")
    with pytest.raises(JobError, match="cannot be read as a plan"):
        load_plan(path, JOB)
    np.savez(path, offset_ns=np.arange(3))
    with pytest.raises(JobError, match="the column template is missing"):
        load_plan(path, JOB)
    empty = make_plan(np.zeros(0, dtype=np.int64))
    save_plan(empty, path)
    with pytest.raises(JobError, match="holds no request"):
        load_plan(path, JOB)
