"""Options of the command line that several verbs have, each with what it accepts: a wrong value is a usage error."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from loadgen.errors import UsageRefusal

MOST_SECONDS = 1_000_000
"""12 days, or so many times as fast: what is more is mistyped, and its plan would not fit into memory."""


def above_zero(value: float | None) -> float | None:
    """A finite number above 0, which a range of click does not promise: NaN is in every one of them."""
    if value is not None and not (math.isfinite(value) and 0 < value <= MOST_SECONDS):
        raise typer.BadParameter(f"{value!r} is no number above 0, at most {MOST_SECONDS:,}")
    return value


def at_least(least: int, most: int = 2**31 - 1) -> Callable[[int | None], int | None]:
    """A whole number in a range."""

    def check(value: int | None) -> int | None:
        if value is not None and not least <= value <= most:
            raise typer.BadParameter(f"{value} is not from {least} to {most}")
        return value

    return check


TimeScale = Annotated[float, typer.Option(callback=above_zero, help="Play the trace so many times as fast.")]
Rows = Annotated[int | None, typer.Option(callback=at_least(1), help="Only the first so many rows of the trace.")]
MaxIn = Annotated[int | None, typer.Option(callback=at_least(1), help="Cut the trace's prompts to so many tokens.")]
MaxOut = Annotated[int | None, typer.Option(callback=at_least(1), help="Cut the trace's outputs to so many tokens.")]
Columns = Annotated[str | None, typer.Option(help="Of the trace: time=A,in=B,out=C[,session=D].")]
TimeUnit = Annotated[str | None, typer.Option(help="Of the trace's times: s, ms, us or ns; recognised without.")]
Bursts = Annotated[str | None, typer.Option(help="Requests that share a time: keep them together or spread them.")]
Duration = Annotated[
    float | None, typer.Option(callback=above_zero, help="Measured seconds of every scenario; bounds a replay.")
]
Seconds = Annotated[float, typer.Option("--duration", callback=above_zero, help="Measured seconds of each load.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the results; default in reports/runs.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with what was interrupted: its folder.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and how long it takes.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable.")]
Rounds = Annotated[int | None, typer.Option(callback=at_least(1, 1000), help="Instead of the profile's.")]
Rate = Annotated[float | None, typer.Option(callback=above_zero, help="With --real: requests a second; 1 if none.")]
PromptTokens = Annotated[int | None, typer.Option(callback=at_least(1, 10**6), help="With --real: 256 if none.")]
OutputTokens = Annotated[int | None, typer.Option(callback=at_least(1, 10**6), help="With --real: 64 if none.")]
Seed = Annotated[int, typer.Option(callback=at_least(0), help="Of arrivals and sizes.")]


def some_of(text: str | None) -> tuple[str, ...] | None:
    """A list by comma. Raises UsageRefusal for one that names nothing."""
    if text is None:
        return None
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise UsageRefusal(f"{text!r} names nothing: a list by comma is expected")
    return found


def all_of(option: str, text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """What a list by comma names of `known`, in the order of `known`; all if none. Raises UsageRefusal."""
    names = some_of(text)
    if names is None:
        return known
    if set(names) - set(known):
        raise UsageRefusal(f"{option} {text}: known are {', '.join(known)}")
    return tuple(name for name in known if name in names)


def one_of(option: str, value: str | None, known: tuple[str, ...]) -> str | None:
    """`value`, if it is known. Raises UsageRefusal."""
    if value is not None and value not in known:
        raise UsageRefusal(f"{option} {value}: known are {', '.join(known)}")
    return value
