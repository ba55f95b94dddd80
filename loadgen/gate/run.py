"""One gate run, from what was typed to the folder, the table and the exit code."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.bench import machine
from loadgen.bench.child import ChildError, terminable
from loadgen.campaign.voice import Terminal, Voice
from loadgen.errors import INTERRUPTED, BadInput, Refusal
from loadgen.gate import checkouts, interleaved, levels, revisions
from loadgen.gate.checkouts import Checkout
from loadgen.gate.given import command_of, pair_of, revisions_of
from reports import gate, store, trend
from reports.gate import BASE, HEAD, GateRow, GateRun, Side

LEVELS = ("L0", "L1", "L2")
ENGINES = ("olla", "sherpa")


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What was typed."""

    base: str = "HEAD^"
    head: str = "HEAD"
    targets: tuple[str, str] | None = None
    """NAME=... of base and head, in place of revisions."""
    target: str | None = None
    """NAME=COMMAND: a proxy that is not ours, run in the folder of each revision."""
    limits: Path | None = None
    history: Path | None = None
    all_measured: bool = False
    """What could not be measured ends in 1, so that no CI goes on."""
    levels: tuple[str, ...] = LEVELS
    engines: tuple[str, ...] = ENGINES
    command: str = "proxy-engines gate"


def screen() -> Console:
    """Where tables go; in a log, which has no width, wide enough for each row to be a line."""
    return Console(highlight=False, width=None if os.isatty(1) else 160)


def run(asked: GateOptions, out: Path | None) -> int:
    """Measure, judge, write, print. Returns the exit code."""
    console = screen()
    started = datetime.now(UTC)
    folder = (out or store.RUNS / f"{started:%Y%m%dT%H%M%SZ}-gate").absolute()
    begun = time.monotonic()
    found = GateRun(
        id=folder.name,
        started=started.isoformat(timespec="seconds"),
        command=asked.command,
        machine=machine.describe(machine.assign_cores(machine.available_cores())),
        machine_class=checkouts.machine_class(),
        versions=machine.versions(),
    )
    with Terminal(console) as voice, terminable():
        try:
            make_folder(folder)
            found = _measure(asked, folder, found, voice)
        except KeyboardInterrupt:
            voice.say("interrupted: nothing was judged; the worktrees are gone")
            return INTERRUPTED
        except (ChildError, store.ReportError, Refusal) as exc:
            code = gate.COULD_NOT_MEASURE if isinstance(exc, ChildError) else exc.exit_code
            console.print(Text(f"proxy-engines gate: {exc}", style="red"))
            if code in (gate.COULD_NOT_MEASURE, gate.VOID):  # CI shows the summary of these, too
                found = found.model_copy(update={"exit_code": code, "notes": [*voice.notes, str(exc)]})
                gate.write_run(folder, found)
                tell_ci(found, os.environ)
            else:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # nothing is in it
            return _final(code, asked)
    found = found.model_copy(update={"notes": list(voice.notes), "seconds": time.monotonic() - begun})
    gate.write_run(folder, found)
    if asked.history is not None:
        trend.append(asked.history, found)
    _conclude(console, found, folder)
    tell_ci(found, os.environ)
    return _final(found.exit_code, asked)


def tell_ci(found: GateRun, variables: Mapping[str, str]) -> None:
    """On GitHub: the summary on the job's page, and a warning where it could not measure."""
    page = variables.get("GITHUB_STEP_SUMMARY")
    if page is None:
        return
    with contextlib.suppress(OSError), Path(page).open("a", encoding="utf-8") as summary:
        summary.write(gate.summary(found))
    if found.exit_code == gate.COULD_NOT_MEASURE:
        said = " ".join(gate.headline(found).split()).replace("%", "%25")
        print(f"::warning title=Performance gate::{said}", flush=True)


def _final(code: int, asked: GateOptions) -> int:
    """What the command ends in: with --require-measured a gate that could not measure has failed."""
    return gate.REGRESSION if code == gate.COULD_NOT_MEASURE and asked.all_measured else code


def make_folder(folder: Path) -> None:
    """The folder of a run. Raises BadInput if there is a run in it."""
    if (folder / gate.RECORD).exists():
        raise BadInput(f"--out {folder}: there is a gate run already; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"--out {folder}: cannot be made: {exc.strerror}") from exc


def _measure(asked: GateOptions, folder: Path, found: GateRun, voice: Terminal) -> GateRun:
    policy = in_force(asked, voice)
    if asked.targets is not None:
        pair = pair_of(*asked.targets)
        sides = {BASE: Side(name=asked.targets[0]), HEAD: Side(name=asked.targets[1])}
        rows = interleaved.time_pair(pair, policy.times, folder / "times", asked.command, voice)
        return found.model_copy(update={"sides": sides}).judged(rows, all_measured=asked.all_measured)
    root = revisions.repository(Path.cwd())
    if revisions.is_dirty(root):
        voice.say("the working tree has changes that are in no commit: they are not measured")
    head = revisions.resolve(root, asked.head, voice.say)
    sides = {BASE: revisions.base_of(root, asked.base, head, voice.say), HEAD: head}
    found = found.model_copy(update={"sides": sides, "base": sides[BASE].revision, "head": head.revision})
    if asked.target is not None:
        command = command_of(asked.target)
        with checkouts.checked_out(root, sides, voice.say, ours=False) as trees:
            pair = revisions_of(command, trees)
            rows = interleaved.time_pair(pair, policy.times, folder / "times", asked.command, voice)
        return found.judged(rows, all_measured=asked.all_measured)
    with checkouts.checked_out(root, sides, voice.say) as trees:
        rows, counts = measure_levels(asked, policy, trees, folder, voice)
    return found.model_copy(update={"counts": counts}).judged(rows, all_measured=asked.all_measured)


def in_force(asked: GateOptions, voice: Terminal) -> gate.Policy:
    """The limits, with the user's own; what differs is said."""
    if asked.limits is None:
        return gate.policy()
    policy, differing = gate.own_policy(asked.limits)
    for sentence in differing or [f"{asked.limits} changes no limit"]:
        voice.say(sentence)
    return policy


def measure_levels(
    asked: GateOptions,
    policy: gate.Policy,
    trees: dict[str, Checkout],
    folder: Path,
    voice: Voice,
) -> tuple[list[GateRow], dict[str, dict[str, float]]]:
    """The levels asked for, cheapest first: rows, and head's counts. Wrong answers end it: no count means anything."""
    rows: list[GateRow] = []
    counts: dict[str, dict[str, float]] = {}
    wanted = asked.levels
    if "L0" in wanted or "L1" in wanted:
        with levels.bench(trees, asked.engines, folder / "work", voice) as on:
            if "L0" in wanted:
                rows += levels.check_promises(on, voice)
            if not wrong(rows) and "L1" in wanted:
                counted = levels.count_work(on, policy, voice)
                rows += counted.rows
                counts = counted.counts
    if wrong(rows):
        voice.say("wrong answers: counts and times would mean nothing and were not taken")
        return rows, counts
    if "L2" in wanted:
        assert isinstance(voice, Terminal)
        for engine in asked.engines:
            pair = interleaved.engine_pair(engine, trees)
            place = folder / f"times-{engine}"
            try:
                rows += interleaved.time_pair(pair, policy.times, place, asked.command, voice)
            except (revisions.CannotMeasure, ChildError) as exc:  # what the other levels saw stays seen
                row = GateRow(level="L2", subject=engine, metric="times", word="could-not-measure", reason=str(exc))
                rows.append(row)
    return rows, counts


def wrong(rows: list[GateRow]) -> bool:
    """Whether one side answers wrongly."""
    return any(row.level == "L0" and row.word in ("void", "could-not-measure") for row in rows)


def _conclude(console: Console, found: GateRun, folder: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "what", "metric"):
        table.add_column(column, no_wrap=True)
    for column in ("base", "head", "change", "limit"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in found.rows:
        style = {"pass": None, "improvement": "green", "not-measured": "dim"}.get(row.word, "red")
        cells = (row.level, row.subject, row.metric, gate.figure(row.base), gate.figure(row.head))
        change = gate.change_text(row)
        word = row.word + (f": {row.reason}" if row.reason else "")
        table.add_row(*(Text(cell) for cell in (*cells, change, row.limit)), Text(word, style=style or ""))
    console.print(table)
    style = "green" if found.exit_code == gate.PASSED else "red"
    console.print(Text(gate.headline(found), style=f"bold {style}"))
    console.print(Text(f"{found.seconds:.0f} s · {folder / gate.SUMMARY}, {gate.JUNIT}, {gate.RECORD}"))
