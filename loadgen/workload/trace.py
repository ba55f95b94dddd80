"""Real traffic: a trace file of an LLM service as requests with due times, prompts and outputs.

A row becomes a request with a due time, a prompt of 4 bytes a token and one event per token of output. Where the file
says which rows are turns of one conversation, they share a seed and are due in their order. Every row read is used or
counted under the reason why not; clipped rows are used and counted too. What is decided about a file (its
format, the unit of its times, what becomes of requests that share a time) is said in `notes`.

Nothing here knows sockets or gevent: the campaign makes its plans with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from loadgen.errors import BadInput
from loadgen.workload import conversation, trace_format
from loadgen.workload.arrivals import scaled
from loadgen.workload.plan import Plan, make_plan
from loadgen.workload.trace_file import Record, records
from loadgen.workload.trace_format import UNITS, Format, Places

Ints64 = npt.NDArray[np.int64]
Ints32 = npt.NDArray[np.int32]
Bursts = Literal["auto", "keep", "spread"]
"""What becomes of requests that share a time. keep: they are due together. spread: evenly over the distance of times.
auto: spread where times are coarse (on a beat of a second or more, shared by most rows), else keep."""

BYTES_PER_TOKEN = 4
MAX_TOKENS = 10_000_000  # more than any model's context: such a row is damaged, and would become a body of 40 MB
_COARSE_NS = 10**9
_EVEN = 0.8
"""Share of distances between times that are alike (within a tenth) where a recorder wrote on a beat. Mooncake: 3 s."""


@dataclass(frozen=True, slots=True)
class Accounting:
    """What became of the rows: ``read == used + sum(dropped.values())``. ``clipped`` rows are among the used ones."""

    read: int
    used: int
    dropped: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON, for a campaign's header."""
        return {"read": self.read, "used": self.used, "dropped": dict(self.dropped), "clipped": dict(self.clipped)}


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in the order they are due. Shapes: arrays of length n; offsets are ns after the first request.

    `conversation`: which one each is a turn of, numbered from 0; None if the file does not say.
    `kind`: the name of its format. `notes`: what was decided about the file, a sentence each.
    """

    source: str
    kind: str
    offset_ns: Ints64
    prompt_tokens: Ints32
    output_tokens: Ints32
    accounting: Accounting
    notes: tuple[str, ...] = ()
    conversation: Ints64 | None = None

    def __len__(self) -> int:
        return len(self.offset_ns)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last request."""
        return float(self.offset_ns[-1]) / 1e9 if len(self) else 0.0

    def plan(self, *, seed: int, template: int = 0, warmup_s: float = 0.0) -> Plan:
        """The driver's plan: prompts of 4 bytes a token. Seeds of requests, or conversations, follow from `seed`."""
        rng = np.random.default_rng([seed, 0x74726163])
        seeds = rng.integers(0, 2**31, len(self))
        return make_plan(
            self.offset_ns,
            template=template,
            prompt_bytes=(self.prompt_tokens * BYTES_PER_TOKEN).astype(np.int32),
            output_tokens=self.output_tokens,
            request_seed=seeds if self.conversation is None else seeds[self.conversation],
            warmup_s=warmup_s,
        )


@dataclass(slots=True)
class _Rows:
    """What was read so far. Times as they are in the file: nanoseconds for dates, else numbers in `unit`."""

    times: list[float] = field(default_factory=list)
    tokens_in: list[int] = field(default_factory=list)
    tokens_out: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    dates: bool | None = None
    sessions: list[str | None] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    """Session -> the one of the turn before, of dropped rows too: they still hold a conversation together."""


def read_trace(
    path: Path,
    *,
    time_scale: float = 1.0,
    rows: int | None = None,
    max_in: int | None = None,
    max_out: int | None = None,
    duration_s: float | None = None,
    columns: str | None = None,
    time_unit: str | None = None,
    bursts: Bursts = "auto",
    seed: int = 0,
) -> Trace:
    """Reads a trace file, played `time_scale` times as fast.

    - `rows`: the first so many usable rows, in the order of the file; what follows is not read.
    - `max_in`, `max_out`: longer prompts and outputs are cut to so many tokens.
    - `duration_s`: requests due later than that (after scaling) are dropped.
    - `columns`: as in `trace_format.own_format`; `time_unit`: of numbers; both recognised if None.
    - `seed`: where between two times a request falls that is spread.

    Raises Missing if there is no such file, BadInput if it is not a trace or holds no usable row.
    """
    own = None if columns is None else trace_format.own_format(columns)
    with records(path) as found:
        form, places = trace_format.recognise(() if found is None else found.columns, str(path), own)
        assert found is not None
        read = _read(found.rows, found.columns, places, rows)
    count = len(read.times) + read.dropped.total()
    if not read.times:
        why = ", ".join(f"{number} {reason}" for reason, number in read.dropped.items()) or "it holds no rows"
        raise BadInput(f"{path}: no usable row in this {form.name} trace ({why})")
    time_ns, said = _nanoseconds(read, form, time_unit, str(path))
    turns_of = conversation.grouped(read.sessions, read.before) if places.session is not None else None
    time_ns, spread = _spread(time_ns, turns_of, bursts, seed)
    order = np.argsort(time_ns, kind="stable")
    offset_ns = scaled(time_ns[order], time_scale)
    keep = np.ones(len(order), dtype=bool) if duration_s is None else offset_ns < duration_s * 1e9
    if dropped_late := int(len(keep) - keep.sum()):
        read.dropped["after the end of the run"] = dropped_late
    clipped: dict[str, int] = {}
    turns_of = None if turns_of is None else np.unique(turns_of[order][keep], return_inverse=True)[1]
    return Trace(
        source=path.name,
        kind=form.name,
        offset_ns=offset_ns[keep],
        prompt_tokens=clipped_to(np.array(read.tokens_in, dtype=np.int32)[order][keep], max_in, "prompt", clipped),
        output_tokens=clipped_to(np.array(read.tokens_out, dtype=np.int32)[order][keep], max_out, "output", clipped),
        accounting=Accounting(count, int(keep.sum()), dict(read.dropped), clipped),
        notes=(f"format {form.name} ({form.source})" if form.source else "columns as named", said, *spread),
        conversation=turns_of,
    )


def _read(lines: Iterator[Record], columns: tuple[str, ...], places: Places, most: int | None) -> _Rows:
    """Up to `most` usable rows, with the reasons of the others. Dates or numbers: what the first usable row has."""
    read = _Rows()
    index = [None if place is None else columns.index(place) for place in places]
    for record in lines:
        if record is None:
            read.dropped["malformed line"] += 1
        else:
            if isinstance(record, dict):
                values = [None if place is None else record.get(place) for place in places]
            else:
                values = [None if n is None else record[n] for n in index]
            reason = _take(read, *values[:3])
            session = _session(read, *values[3:])
            if reason is not None:
                read.dropped[reason] += 1
            else:
                read.sessions.append(session)
        if most is not None and len(read.times) >= most:
            break
    return read


def _take(read: _Rows, time: Any, tokens_in: Any, tokens_out: Any) -> str | None:
    """Adds one row; the reason why not, if it is not usable."""
    date = trace_format.moment(time)
    number = date if date is not None else _number(time)
    # Up to 2**62 ns, the year 2116: also what 64 bits of nanoseconds can hold a difference of.
    if number is None or not 0 <= number < 2**62 or read.dates is (date is None):
        return "bad time"
    prompt, output = _tokens(tokens_in), _tokens(tokens_out)
    if prompt is None or output is None:
        return "bad token count"
    if output == 0:
        return "no output tokens"  # nothing would be streamed: such a request measures nothing
    read.dates = date is not None
    read.times.append(number)
    read.tokens_in.append(prompt)
    read.tokens_out.append(output)
    return None


def _session(read: _Rows, own: Any, parent: Any) -> str | None:
    """The row's session, and a note of the one before it; None if the row names none. -1 is nobody (Bailian)."""
    named = [
        None if value is None or str(value).strip() in ("", "-1") else str(value).strip() for value in (own, parent)
    ]
    session, before = named
    if session is not None and before is not None and before != session:
        read.before[session] = before
    return session


def _number(value: Any) -> float | None:
    """A finite number, from JSON as it is and from CSV as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = int(value) if isinstance(value, str) and value.isdecimal() else float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _tokens(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) and 0 <= number <= MAX_TOKENS else None


def _nanoseconds(read: _Rows, form: Format, unit: str | None, where: str) -> tuple[Ints64, str]:
    """The times, and a sentence about their unit. Raises BadInput."""
    if read.dates:
        return np.array(read.times, dtype=np.int64), "times are dates"
    why = "--time-unit"
    if unit is None:
        unit, why = trace_format.unit_of(read.times, form, where)
    size = UNITS[unit]
    latest = max(read.times)
    if latest * size >= 2**62:
        raise BadInput(f"{where}: {latest:g} {unit} is no time of this century; another unit? (--time-unit)")
    return np.array([round(time * size) for time in read.times], dtype=np.int64), f"times are in {unit}: {why}"


def _spread(time_ns: Ints64, turns_of: Ints64 | None, bursts: Bursts, seed: int) -> tuple[Ints64, tuple[str, ...]]:
    """Times of rows that share one, and what is said about them. Turns of a conversation stay in their order."""
    distinct = np.unique(time_ns)
    shared = len(time_ns) - len(distinct)
    if not shared:
        return time_ns, ()
    gaps = np.diff(distinct)
    bucket = int(np.median(gaps)) if len(gaps) else _COARSE_NS
    even = len(gaps) > 0 and float((np.abs(gaps - bucket) <= 0.1 * bucket).mean()) >= _EVEN
    coarse = even and bucket >= _COARSE_NS and 2 * len(distinct) <= len(time_ns)
    about = f"{len(time_ns):,} rows have {len(distinct):,} different times"
    if bursts == "keep" or (bursts == "auto" and not coarse):
        return time_ns, (f"{about}; those that share one are due together (--bursts spread spreads them)",)
    spread = time_ns + np.random.default_rng([seed, 0x6A697474]).integers(0, bucket, len(time_ns))
    if turns_of is not None:
        in_order, by_chance = np.lexsort((time_ns, turns_of)), np.lexsort((spread, turns_of))
        spread[in_order] = spread[by_chance]
    return spread, (f"{about}; each is spread over {bucket / 1e9:g} s (--bursts keep leaves them together)",)


def clipped_to(tokens: Ints32, most: int | None, name: str, clipped: dict[str, int]) -> Ints32:
    """`tokens`, none above `most`; how many were is noted in `clipped` under `name`."""
    if most is None:
        return tokens
    if most < 1:
        raise ValueError(f"the most {name} tokens must be 1 or more, not {most}")
    if count := int((tokens > most).sum()):
        clipped[name] = count
    return np.minimum(tokens, np.int32(most))
