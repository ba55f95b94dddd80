"""The open-loop plan: one row a request, computed beforehand and the same for every target. NumPy only, no sockets.

A plan is a ``.npz`` file with the arrays of `Plan`, all of one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from loadgen.workload.job import Job, JobError, check_marks

Ints64 = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

_WORD = 2**64 - 1

_COLUMNS: tuple[tuple[str, type[np.generic]], ...] = (
    ("offset_ns", np.int64),
    ("template", np.int32),
    ("prompt_bytes", np.int32),
    ("output_tokens", np.int32),
    ("request_seed", np.int64),
    ("warmup", np.bool_),
)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """When each request is due (``offset_ns`` after the start, sorted) and what it sends; -1 is "as the template says".

    Shapes: six arrays of length n. Units: nanoseconds, bytes, tokens.
    """

    offset_ns: Ints64
    template: Ints32
    prompt_bytes: Ints32
    output_tokens: Ints32
    request_seed: Ints64
    warmup: Bools

    def __len__(self) -> int:
        return len(self.offset_ns)

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the last request's due time."""
        return float(self.offset_ns[-1]) / 1e9 if len(self) else 0.0


def make_plan(
    offset_ns: Ints64,
    *,
    template: Ints32 | int = 0,
    prompt_bytes: Ints32 | int = -1,
    output_tokens: Ints32 | int = -1,
    request_seed: Ints64 | int = -1,
    warmup_s: float = 0.0,
) -> Plan:
    """A plan from due times; each column is an array of the same length or one value for all rows.

    Rows due before `warmup_s` are marked as warm-up.
    """
    n = len(offset_ns)
    return Plan(
        offset_ns=np.ascontiguousarray(offset_ns, dtype=np.int64),
        template=np.array(np.broadcast_to(np.asarray(template, dtype=np.int32), n)),
        prompt_bytes=np.array(np.broadcast_to(np.asarray(prompt_bytes, dtype=np.int32), n)),
        output_tokens=np.array(np.broadcast_to(np.asarray(output_tokens, dtype=np.int32), n)),
        request_seed=np.array(np.broadcast_to(np.asarray(request_seed, dtype=np.int64), n)),
        warmup=np.asarray(offset_ns < round(warmup_s * 1e9), dtype=np.bool_),
    )


def save_plan(plan: Plan, path: Path) -> None:
    """Writes `plan` as ``.npz`` (uncompressed: 41 bytes a row), whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:  # a file object, so that numpy does not add a suffix of its own
        np.savez(file, **{name: getattr(plan, name) for name, _ in _COLUMNS})
    unfinished.replace(path)


def load_plan(path: Path, job: Job) -> Plan:
    """Reads a plan and checks it against the job's templates. Raises JobError with what is wrong in which column."""
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
    except (OSError, ValueError, BadZipFile, EOFError) as exc:
        raise JobError(f"{path}: cannot be read as a plan (.npz): {exc}") from exc
    columns = {}
    for name, kind in _COLUMNS:
        if name not in arrays:
            raise JobError(f"{path}: the column {name} is missing")
        array = arrays[name]
        if array.ndim != 1 or not np.can_cast(array.dtype, kind, casting="same_kind"):
            raise JobError(f"{path}: the column {name} must be one-dimensional {kind.__name__}, not {array.dtype}")
        columns[name] = np.ascontiguousarray(array, dtype=kind)
    plan = Plan(**columns)
    _check(plan, job, str(path))
    return plan


def _check(plan: Plan, job: Job, source: str) -> None:
    if len({len(getattr(plan, name)) for name, _ in _COLUMNS}) != 1:
        raise JobError(f"{source}: the columns differ in length")
    if not len(plan):
        raise JobError(f"{source}: the plan holds no request")
    if plan.offset_ns[0] < 0 or np.any(np.diff(plan.offset_ns) < 0):
        raise JobError(f"{source}: offset_ns must be sorted and start at 0 or later")
    used = np.unique(plan.template)
    if used[0] < 0 or used[-1] >= len(job.requests):
        raise JobError(f"{source}: template must be between 0 and {len(job.requests) - 1}, as the job has templates")
    # One representative per template is enough: the least value of each column tells if any row leaves a mark open.
    for number in used.tolist():
        rows = plan.template == number
        least = [int(column[rows].min()) for column in (plan.prompt_bytes, plan.output_tokens, plan.request_seed)]
        check_marks(job, least[0], least[1], least[2], source, only=number)


def chosen(seed: int, number: int, share: float) -> bool:
    """Whether request `number` is among the `share` (0..1) of requests something special is done with.

    A hash, not a generator: every repetition chooses the same ones, in any order.
    """
    if share <= 0.0:
        return False
    mixed = ((seed & _WORD) * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD  # the finaliser of splitmix64
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return (mixed ^ (mixed >> 31)) < share * 2**64
