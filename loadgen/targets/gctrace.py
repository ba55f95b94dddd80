"""GC pauses of a Go program, from the lines that GODEBUG=gctrace=1 makes it write. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

# gc 7 @1.204s 2%: 0.026+0.39+0.010 ms clock, ...: number, seconds since the program's start, and the wall time of the
# two stop-the-world phases (first and last) around the concurrent one.
_LINE = re.compile(r"^gc \d+ @([\d.]+)s \d+%: ([\d.]+)\+[\d.]+\+([\d.]+) ms clock", re.MULTILINE)


def pauses_of(stderr: str, pid: int, started_ns: int) -> Iterator[tuple[object, ...]]:
    """Rows of runtime.parquet: pid, kind, start_ns, end_ns, generation, collected, cause.

    `started_ns`: CLOCK_MONOTONIC at the program's start. The two pauses of a cycle are written as one interval of their
    summed length, beginning at the cycle's start; Go has no generations.
    """
    for match in _LINE.finditer(stderr):
        seconds, sweep_ms, mark_ms = (float(group) for group in match.groups())
        start = started_ns + round(seconds * 1e9)
        yield pid, "gc", start, start + round((sweep_ms + mark_ms) * 1e6), None, None, None
