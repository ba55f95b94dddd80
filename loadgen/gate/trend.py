"""`gate trend`: the history of a gate as a table, from a file or from a branch of the repository."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from loadgen.bench import git
from loadgen.errors import Missing, Refusal
from loadgen.gate.run import screen
from reports import gate, trend
from reports.store import ReportError


def show(history: str) -> int:
    """Prints the series and their change points. Returns the exit code."""
    try:
        lines = trend.read(_text(history), history)
        found = [(one, trend.changes(one)) for one in trend.series(lines)]
    except (Refusal, ReportError) as exc:
        print(f"proxy-engines gate trend: {exc}", file=sys.stderr)
        return exc.exit_code
    console = screen()
    console.print(_table(found))
    console.print(Text(_headline(found, len(lines))))
    return 0


def _text(history: str) -> str:
    """The file, or `git show BRANCH:FILE`. Raises Missing, ReportError."""
    path = Path(history)
    if not path.exists() and ":" in history:
        text = git.ask(Path.cwd(), "show", history)
        if text is None:
            raise Missing(f"--history {history}: neither a file nor a file of a branch here (git fetch it first?)")
        return text
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise Missing(f"--history {history}: there is no such file; `gate --history FILE` writes one") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ReportError(f"--history {history}: cannot be read: {exc}") from exc


def _table(found: Sequence[tuple[trend.Series, Sequence[trend.Change]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "metric"):
        table.add_column(column, no_wrap=True)
    for column in ("runs", "first", "last", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("new level since", overflow="fold")
    for one, changes in found:
        cells = (one.level, one.subject, one.metric, str(len(one.values)))
        figures = (gate.figure(one.values[0]), gate.figure(one.values[-1]), f"{one.share * 100:+.2f} %")
        since = "; ".join(f"{change.head[:12] or change.run} ({change.share * 100:+.2f} %)" for change in changes)
        table.add_row(*map(Text, (*cells, *figures, since or _why_none(one))))
    return table


def _why_none(one: trend.Series) -> str:
    return "" if len(one.values) >= trend.LEAST_RUNS else f"too few runs to say ({trend.LEAST_RUNS} are needed)"


def _headline(found: Sequence[tuple[trend.Series, Sequence[trend.Change]]], runs: int) -> str:
    if not found:
        return f"{runs} run(s), none of them with values"
    changed = sum(bool(changes) for _, changes in found)
    machines = len({one.machine for one, _ in found})
    return f"{runs} run(s), {len(found)} series on {machines} machine(s), {changed} of them changed their level"
