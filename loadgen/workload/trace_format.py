"""Which columns of a trace hold what, and the unit of its times. The formats are data: trace_formats.yaml. Pure."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import yaml

from loadgen.errors import BadInput, UsageRefusal

Unit = Literal["date", "s", "ms", "us", "ns"]
UNITS: Final[Mapping[str, int]] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds of each."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A number is a time since 1970 from here on (1973 in seconds). The next unit's begin a thousand times later.
_EPOCH_FROM: Final = {"s": 1e8, "ms": 1e11, "us": 1e14, "ns": 1e17}
# A service's mean rate. Read as milliseconds, times that are seconds give a rate a thousand times as high.
_SURELY_MS: Final = 50.0
_SURELY_S: Final = 1000.0
_ENOUGH: Final = 10
"""Rows from which a mean rate says something."""


class Places(NamedTuple):
    """A format's columns as they are written in a file. None: the file does not say who holds a conversation."""

    time: str
    prompt: str
    output: str
    session: str | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """Columns by name. `unit` None: recognised from the numbers. `session`, `parent`: may be missing in a file."""

    name: str
    time: str
    prompt: str
    output: str
    also: tuple[str, ...] = ()
    session: str = ""
    parent: str = ""
    unit: Unit | None = None
    source: str = ""

    def places(self, columns: Sequence[str]) -> Places | None:
        """Its columns as they are written in the file; None if one is not there."""
        written = {_plain(column): column for column in reversed(columns)}
        wanted = [written.get(_plain(name)) for name in (self.time, self.prompt, self.output)]
        if None in wanted or any(_plain(name) not in written for name in self.also):
            return None
        time, prompt, output = wanted
        parent = written.get(_plain(self.parent)) if self.parent else None
        session = written.get(_plain(self.session)) if self.session else None
        return Places(str(time), str(prompt), str(output), session, parent)


@functools.cache
def formats() -> tuple[Format, ...]:
    """All known ones, in the order in which they are tried."""
    data = yaml.safe_load(Path(__file__).with_name("trace_formats.yaml").read_text(encoding="utf-8"))
    return tuple(Format(name=name, **{**entry, "also": tuple(entry.get("also", ()))}) for name, entry in data.items())


def own_format(text: str) -> Format:
    """`--columns time=COLUMN,in=COLUMN,out=COLUMN[,session=COLUMN[,parent=COLUMN]]`. Raises UsageRefusal."""
    named = dict(part.partition("=")[::2] for part in text.split(","))
    known = [{"time", "in", "out", *also} for also in ((), ("session",), ("session", "parent"))]
    if set(named) not in known or not all(name.strip() for name in named.values()):
        raise UsageRefusal(
            f"--columns {text}: write time=COLUMN,in=COLUMN,out=COLUMN and, for conversations, session=COLUMN or "
            "session=COLUMN,parent=COLUMN"
        )
    session, parent = named.get("session", ""), named.get("parent", "")
    return Format("own", named["time"], named["in"], named["out"], session=session, parent=parent)


def recognise(columns: Sequence[str], where: str, own: Format | None = None) -> tuple[Format, Places]:
    """The format of a file with these columns, and its columns as they are written. Raises BadInput."""
    for one in formats() if own is None else (own,):
        places = one.places(columns)
        if places is not None and (one.name != "own" or _has_all(one, places)):
            return one, places
    raise BadInput(_unknown(columns, where, own))


def _has_all(own: Format, places: Places) -> bool:
    """Whoever names a column wants it read: then it may not be missing."""
    return bool(places.session) == bool(own.session) and bool(places.parent) == bool(own.parent)


def _unknown(columns: Sequence[str], where: str, own: Format | None) -> str:
    names = ", ".join(" ".join(column.split())[:40] for column in columns[:12]) or "none"
    if own is not None:
        named = [column for column in (own.time, own.prompt, own.output, own.session, own.parent) if column]
        return f"{where}: has no columns {', '.join(named[:-1])} and {named[-1]} (--columns); it has: {names}"
    why = f"its columns or keys are: {names}"
    if {_plain(column) for column in columns} >= {"conversations"}:
        why = "it holds conversations (ShareGPT) without times and token counts, so there is nothing to replay"
    known = " · ".join(dict.fromkeys(f"{one.time},{one.prompt},{one.output}" for one in formats()))
    return (
        f"{where}: is not a trace: {why}\n"
        f"  expected: CSV with a header, or JSON lines, with the columns {known}\n"
        "  or others, named with --columns time=COLUMN,in=COLUMN,out=COLUMN (and --time-unit s, ms, us or ns)"
    )


def moment(value: Any) -> int | None:
    """Nanoseconds since 1970 of a date; None if it is none. Without a zone it is UTC."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    since = found - _EPOCH
    return ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000


def unit_of(numbers: Sequence[float], form: Format, where: str) -> tuple[Unit, str]:
    """The unit of a trace's times and why it is taken for that. Raises BadInput where it may be one or the other."""
    if form.unit is not None and form.unit != "date":
        return form.unit, f"the format {form.name} has {form.unit}"
    largest = max(numbers)
    unit: Unit
    for unit in ("ns", "us", "ms", "s"):
        if min(numbers) >= _EPOCH_FROM[unit]:
            return unit, f"{largest:.0f} is a time since 1970 in {unit}"
    if any(number != int(number) for number in numbers):
        return "s", "they have decimals"
    span = largest - min(numbers)
    if span <= 0 or len(numbers) < _ENOUGH:
        return "ms", "too few different ones to tell"
    rate = len(numbers) / (span / 1000)
    if rate <= (_SURELY_S if form.name == "mooncake" else _SURELY_MS):
        return "ms", f"that gives {rate:.3g} requests/s"
    if rate > _SURELY_S and form.name != "mooncake":
        return "s", f"milliseconds would be {rate:,.0f} requests/s, seconds are {rate / 1000:.3g}"
    raise BadInput(
        f"{where}: its times may be milliseconds ({rate:,.3g} requests/s) or seconds ({rate / 1000:.3g} requests/s)\n"
        f"  expected: numbers of which one reading is plausible, or dates; the first are {_first(numbers)}\n"
        "  say which with --time-unit s or --time-unit ms"
    )


def _first(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers[:3])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
