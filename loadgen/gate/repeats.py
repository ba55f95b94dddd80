"""`gate --repeat N`: one revision against itself, N times: how much its counts vary, and how often it is called red.

The same code on both sides and nothing to find, so every red row is a false alarm and every difference between counts
is the gate's own noise. Fresh processes each time; the limits are those of gate.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from loadgen.bench.child import ChildError, terminable
from loadgen.campaign.voice import Terminal
from loadgen.errors import INTERRUPTED, Refusal
from loadgen.gate import checkouts, revisions
from loadgen.gate.run import GateOptions, in_force, make_folder, measure_levels, screen
from loadgen.gate.selftest import ALLOWED
from reports import gate, store
from reports.gate import BASE, HEAD, GateRow, Policy

PAGE = "repeats.md"
RECORD = "repeats.json"

Rows = Sequence[GateRow]


@dataclass(frozen=True, slots=True)
class Spread:
    """What one row did over all repeats. `low`, `high`: of every count of L1; of the change at L2; None at L0.

    `over`: the counts differ by more than the limit allows. `red`, `unmeasured`: in so many repeats.
    """

    level: gate.Level
    subject: str
    metric: str
    unit: str
    low: float | None
    high: float | None
    limit: str
    over: bool
    red: int
    unmeasured: int

    @property
    def text(self) -> str:
        """The spread for a table; a share where there is something to divide by."""
        if self.low is None or self.high is None:
            return ""
        if self.level == "L2" or self.low <= 0:
            return f"{self.high - self.low:.3g}"
        return f"{(self.high / self.low - 1) * 100:.3f} %"


def spreads(repeats: Sequence[Rows], policy: Policy) -> list[Spread]:
    """Pure: a line for each row that any repeat has."""
    found: dict[tuple[gate.Level, str, str], list[GateRow]] = {}
    for rows in repeats:
        for row in rows:
            found.setdefault((row.level, row.subject, row.metric), []).append(row)
    return [_spread(rows, policy) for rows in found.values()]


def _spread(rows: Rows, policy: Policy) -> Spread:
    first = rows[0]
    values: list[float] = []
    over = False
    if first.level == "L1":
        values = [value for row in rows for value in (*row.base_values, *row.head_values)]
        over = bool(values) and gate.exceeds([max(values)], [min(values)], policy.counts[first.metric])
    elif first.level == "L2":
        values = [row.change for row in rows if row.change is not None]
    return Spread(
        level=first.level,
        subject=first.subject,
        metric=first.metric,
        unit=first.unit,
        low=min(values, default=None),
        high=max(values, default=None),
        limit=first.limit,
        over=over,
        red=sum(row.word in ("regression", "void") for row in rows),
        unmeasured=sum(row.word == "could-not-measure" for row in rows),
    )


def verdict(repeats: Sequence[Rows], policy: Policy, wanted: int) -> tuple[int, str]:
    """Pure: exit code and sentence. A false alarm is a repeat with red rows, however many."""
    wrong, unsure = [], []
    for level, allowed in ALLOWED.items():
        alarms = sum(any(row.level == level and row.word in ("regression", "void") for row in rows) for rows in repeats)
        if alarms > allowed:
            wrong.append(f"{level} raised a false alarm in {alarms} of {len(repeats)}")
    found = spreads(repeats, policy)
    wrong += [f"{one.subject} {one.metric} varies by {one.text}, limit {one.limit}" for one in found if one.over]
    if wrong:
        return gate.REGRESSION, f"Not steady: {'; '.join(wrong)}"
    if len(repeats) < wanted:
        unsure.append(f"{len(repeats)} of {wanted} repeats")
    lost = sum(any(row.word == "could-not-measure" for row in rows) for rows in repeats)
    if lost:
        unsure.append(f"not all rows could be measured in {lost} of {len(repeats)}")
    alarms = sum(any(row.word == "regression" for row in rows) for rows in repeats)
    said = f"{alarms} false alarms in {len(repeats)} repeats, every count within its limit"
    if unsure:
        return gate.COULD_NOT_MEASURE, f"Not finished or not measured: {'; '.join(unsure)}; {said}"
    return gate.PASSED, f"Steady: {said}"


def repeat(asked: GateOptions, times: int, out: Path | None) -> int:
    """Measure `asked.head` against itself so many times, print the table. Returns the exit code."""
    console = screen()
    folder = (out or store.RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-gate-repeats").absolute()
    repeats: list[Rows] = []
    about = f"`{asked.command}` on {checkouts.machine_class()}"
    with Terminal(console) as voice, terminable():
        try:
            policy = in_force(asked, voice)
            root = revisions.repository(Path.cwd())
            side = revisions.resolve(root, asked.head, voice.say)
            make_folder(folder)
            with checkouts.checked_out(root, {BASE: side, HEAD: side}, voice.say) as trees:
                for number in range(1, times + 1):
                    rows, _ = measure_levels(asked, policy, trees, folder / f"{number:02d}", voice)
                    repeats.append(rows)
                    words = [row.word for row in rows]
                    console.print(Text(f"{number}/{times}: " + _counted(words)))
                    _write(folder, repeats, policy, times, f"{about}, commit {side.revision[:12]}")
        except KeyboardInterrupt:
            voice.say(f"interrupted after {len(repeats)} of {times} repeats; the worktrees are gone")
            return INTERRUPTED
        except (ChildError, store.ReportError, Refusal) as exc:
            console.print(Text(f"proxy-engines gate: {exc}", style="red"))
            return gate.COULD_NOT_MEASURE if isinstance(exc, ChildError) else exc.exit_code
    code, sentence = verdict(repeats, policy, times)
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for cells in _cells(spreads(repeats, policy)):
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print(Text(sentence, style="bold green" if code == gate.PASSED else "bold red"))
    console.print(Text(str(folder / PAGE)))
    return code


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))


_COLUMNS = ("level", "what", "metric", "lowest", "highest", "spread", "limit", "red", "not measured")


def _cells(found: Sequence[Spread]) -> Iterator[tuple[str, ...]]:
    for one in found:
        yield (
            one.level, one.subject, one.metric, gate.figure(one.low), gate.figure(one.high), one.text, one.limit,
            str(one.red), str(one.unmeasured),
        )  # fmt: skip


def _write(folder: Path, repeats: Sequence[Rows], policy: Policy, times: int, about: str) -> None:
    _, sentence = verdict(repeats, policy, times)
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(spreads(repeats, policy))]
    lines += ["", f"{sentence}. {about}.", "", "Lowest and highest: of every single count of both sides at L1, of "
              "the change of head against base at L2.", ""]  # fmt: skip
    store.write_atomically(folder / PAGE, "\n".join(lines).encode())
    kept = {"schema": 1, "repeats": [[row.model_dump(mode="json") for row in rows] for rows in repeats]}
    store.write_atomically(folder / RECORD, store.dump_json(kept))
