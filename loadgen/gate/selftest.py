"""The gate's proof of itself: slow-downs put into a worktree on purpose must turn it red, a no-op must not.

Every try is a whole measurement with fresh processes, so the share of tries that were caught is the gate's measured
power, and the share of red no-ops its false-alarm rate. What is done is written after each try; `--resume` goes on.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field
from rich.table import Table
from rich.text import Text

from loadgen.bench.child import ChildError, terminable
from loadgen.campaign.voice import Silent, Terminal
from loadgen.errors import INTERRUPTED, BadInput, Refusal
from loadgen.gate import checkouts, interleaved, levels, revisions
from loadgen.gate.checkouts import Checkout
from loadgen.gate.revisions import CannotMeasure
from loadgen.gate.run import make_folder, screen
from reports import gate, store
from reports.gate import BASE, HEAD, GateRow
from reports.schema import Strict

ENGINE = "olla"
STATE = "selftest.json"
PAGE = "selftest.md"
SCHEMA = 1
Level = Literal["L0", "L1", "L2"]

# Power is only worth its name with a number behind it: 10 tries where they are exact, 5 where each takes minutes.
TRIES: Mapping[Level, int] = {"L0": 10, "L1": 10, "L2": 5}
NEEDED: Mapping[Level, int] = {"L0": 8, "L1": 8, "L2": 4}
ALLOWED: Mapping[Level, int] = {"L0": 0, "L1": 0, "L2": 1}
"""False alarms of the no-op."""
_SCENARIO = "chat-small"


class Edit(Strict):
    """One replacement in one file of the checkout."""

    file: str
    find: str
    replace: str


class Seed(Strict):
    """A slow-down or a fault. `level`: the cheapest that must catch it, None for the no-op; `ends`: by rows of which
    word, where that matters."""

    what: str
    edits: Annotated[tuple[Edit, ...], Field(min_length=1)]
    level: Level | None = None
    also: tuple[Level, ...] = ()
    ends: Literal["regression", "void"] | None = None

    def tried_at(self) -> tuple[Level, ...]:
        """The levels it is tried at, the cheapest first; L0 always, because it takes seconds."""
        return tuple(level for level in TRIES if level in {"L0", self.level, *self.also})


class Try(Strict):
    """What one try found. `words`: how many rows ended in each word; `caught`: the red rows."""

    seed: str
    level: Level
    number: int
    caught: tuple[str, ...] = ()
    words: dict[str, int] = Field(default_factory=dict)
    why: str = ""
    """Why it could not be measured."""
    seconds: float = 0.0

    @property
    def measured(self) -> bool:
        """Whether the gate would have ended in 0, 1 or 3."""
        return bool(self.caught) or not (self.why or self.words.get("could-not-measure"))


class State(Strict):
    """selftest.json."""

    schema_version: int = Field(default=SCHEMA, alias="schema")
    revision: str
    seeds: str
    """Digest of seeds.yaml: tries of other seeds are not added up with these."""
    started: str
    machine_class: str
    tries: tuple[Try, ...] = ()

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


_SEEDS = Path(__file__).with_name("seeds.yaml")


@functools.cache
def seeds() -> Mapping[str, Seed]:
    """All seeds by name, the no-op first."""
    data: dict[str, Any] = yaml.safe_load(_SEEDS.read_text(encoding="utf-8"))
    return {name: Seed.model_validate(entry) for name, entry in data.items()}


def apply(seed: Seed, root: Path) -> None:
    """Edit the files below `root`. Raises BadInput when one no longer holds what is to be replaced exactly once."""
    for edit in seed.edits:
        path = root / edit.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text.count(edit.find) != 1:
            raise BadInput(
                f"seeds.yaml: {edit.file} holds {edit.find.strip()!r} {text.count(edit.find)} times, not once"
            )
        path.write_text(text.replace(edit.find, edit.replace), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class PendingTry:
    """One try that is still to be made."""

    seed: str
    level: Level
    number: int


def steps(done: Sequence[Try]) -> Iterator[PendingTry]:
    """What is left, the cheap levels first and each seed in turn, so that an early end leaves something of each."""
    made = {(one.seed, one.level, one.number) for one in done}
    for level, tries in TRIES.items():
        for number in range(1, tries + 1):
            for name, seed in seeds().items():
                if level in seed.tried_at() and (name, level, number) not in made:
                    yield PendingTry(name, level, number)


def self_test(
    revision: str, out: Path | None, resume: Path | None, command: str, wanted: Sequence[str] = tuple(TRIES)
) -> int:
    """Run or resume it, print the table; returns the exit code: 0 proved, 1 not, 2 not measured, 130 interrupted.

    `wanted`: the levels whose tries are made now; what is left of the others is "not finished", and `resume` does it.
    """
    console = screen()
    started = datetime.now(UTC)
    folder = (resume or out or store.RUNS / f"{started:%Y%m%dT%H%M%SZ}-gate-selftest").absolute()
    with Terminal(console) as voice, terminable():
        try:
            root = revisions.repository(Path.cwd())
            side = revisions.resolve(root, revision, voice.say)
            if resume is None:
                make_folder(folder)
                state = State(
                    revision=side.revision,
                    seeds=_digest(),
                    started=started.isoformat(timespec="seconds"),
                    machine_class=checkouts.machine_class(),
                )
            else:
                state = _resumed(folder, side.revision)
            left = [step for step in steps(state.tries) if step.level in wanted]
            state = _tries(root, side, state, left, folder, command, voice)
        except KeyboardInterrupt:
            voice.say(f"interrupted: go on with `proxy-engines gate --self-test --resume {folder}`")
            return INTERRUPTED
        except (ChildError, store.ReportError, Refusal) as exc:
            console.print(Text(f"proxy-engines gate: {exc}", style="red"))
            return exc.exit_code
    console.print(_table(state))
    code, sentence = verdict(state)
    console.print(Text(sentence, style="bold green" if code == 0 else "bold red"))
    console.print(Text(str(folder / PAGE)))
    return code


def _tries(
    root: Path, side: gate.Side, state: State, left: Sequence[PendingTry], folder: Path, command: str, voice: Terminal
) -> State:
    for position, step in enumerate(left, 1):
        voice.step(f"{position}/{len(left)} · {step.seed} · {step.level} · try {step.number}")
        begun = time.monotonic()
        found = _try(root, side, step, folder, command, voice)
        found = found.model_copy(update={"seconds": round(time.monotonic() - begun, 1)})
        state = state.model_copy(update={"tries": (*state.tries, found)})
        store.write_atomically(folder / STATE, store.dump_json(state.model_dump(mode="json")))
        store.write_atomically(folder / PAGE, page(state).encode())
        outcome = ", ".join(found.caught) or found.why or "not caught"
        voice.console.print(Text(f"{step.seed} · {step.level} · try {step.number}: {outcome} ({found.seconds:.0f} s)"))
    return state


def _try(root: Path, side: gate.Side, step: PendingTry, folder: Path, command: str, voice: Terminal) -> Try:
    """One measurement of HEAD against HEAD with the seed in it."""
    found = Try(seed=step.seed, level=step.level, number=step.number)
    place = folder / "tries" / f"{step.seed}-{step.level}-{step.number}"
    quiet = _Quiet(voice)
    try:
        with checkouts.checked_out(root, {BASE: side, HEAD: side}, voice.say) as trees:
            apply(seeds()[step.seed], trees[HEAD].path)
            _compile(trees[HEAD])
            rows = _measure(step.level, trees, place, command, quiet)
    except (CannotMeasure, ChildError) as exc:
        return found.model_copy(update={"why": str(exc)})
    words: dict[str, int] = {}
    for row in rows:
        words[row.word] = words.get(row.word, 0) + 1
    wanted = seeds()[step.seed].ends
    caught = tuple(row.metric for row in rows if row.word in ((wanted,) if wanted else ("regression", "void")))
    doubt = next((row for row in rows if row.word == "could-not-measure"), None)
    why = "" if doubt is None or caught else f"{doubt.metric}: {doubt.reason}"
    return found.model_copy(update={"caught": caught, "words": words, "why": why})


def _measure(level: Level, trees: dict[str, Checkout], place: Path, command: str, voice: _Quiet) -> list[GateRow]:
    if level == "L2":
        times = gate.policy().times
        one = times.model_copy(update={"scenarios": {_SCENARIO: times.scenarios[_SCENARIO]}})
        return interleaved.time_pair(interleaved.engine_pair(ENGINE, trees), one, place, command, voice)
    with levels.bench(trees, (ENGINE,), place, voice) as on:
        if level == "L0":
            return levels.check_promises(on, voice)
        return levels.count_work(on, gate.policy(), voice).rows


def _compile(tree: Checkout) -> None:
    """Bytecode of what was edited: else the second start of a slope would do less than the first."""
    subprocess.run([tree.python, "-m", "compileall", "-q", "proxy"], cwd=tree.path, capture_output=True, check=True)


class _Quiet(Silent):
    """A voice whose sentences are not repeated for each of a hundred tries."""

    def __init__(self, voice: Terminal) -> None:
        self._voice = voice

    def say(self, text: str) -> None:
        """Once; what is void shows in the try."""
        if text not in self._voice.notes and not text.startswith("Void:"):
            self._voice.say(text)


def _resumed(folder: Path, revision: str) -> State:
    path = folder / STATE
    try:
        state = State.model_validate(store.read_json(path))
    except ValueError as exc:
        raise BadInput(f"{path}: not a self-test to go on with ({str(exc).splitlines()[0]})") from exc
    if (state.revision, state.seeds) != (revision, _digest()):
        raise BadInput(f"{path}: was begun at {state.revision[:12]}; the commit or the seeds have changed since")
    return state


def _digest() -> str:
    return hashlib.sha256(_SEEDS.read_bytes()).hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------------- the result
@dataclass(frozen=True, slots=True)
class Score:
    """A seed at a level: how often it was caught, of how many tries that could be measured, of how many in all."""

    caught: int
    measured: int
    tries: int
    rows: tuple[str, ...]


def score(state: State, seed: str, level: Level) -> Score:
    """Adds up the tries."""
    tries = [one for one in state.tries if (one.seed, one.level) == (seed, level)]
    red = [row for one in tries for row in one.caught]
    often = sorted(set(red), key=lambda row: (-red.count(row), row))
    return Score(sum(bool(one.caught) for one in tries), sum(one.measured for one in tries), len(tries), tuple(often))


def verdict(state: State) -> tuple[int, str]:
    """Exit code and sentence: every seed caught at its level often enough, the no-op (almost) never."""
    missed, unmeasured = [], []
    for name, seed in seeds().items():
        for level in seed.tried_at():
            found = score(state, name, level)
            if found.tries < TRIES[level]:
                unmeasured.append(f"{name} at {level}: {found.tries} of {TRIES[level]} tries")
            elif seed.level is None and found.caught > ALLOWED[level]:
                missed.append(f"{name} was red at {level} in {found.caught} of {found.tries}")
            elif seed.level == level and found.caught < NEEDED[level]:
                unsure = found.caught + found.tries - found.measured >= NEEDED[level]
                (unmeasured if unsure else missed).append(f"{name}: {found.caught} of {found.tries} at {level}")
    if missed:
        return gate.REGRESSION, f"Not proved: {'; '.join(missed)}"
    if unmeasured:
        return gate.COULD_NOT_MEASURE, f"Not finished or not measured: {'; '.join(unmeasured)}"
    return gate.PASSED, "Proved: every seed is caught at its level, and the no-op is not"


def _cells(state: State) -> Iterator[tuple[str, ...]]:
    for name, seed in seeds().items():
        shown = []
        rows: list[str] = []
        for level in TRIES:
            found = score(state, name, level)
            unsure = found.tries - found.measured
            text = "" if not found.tries else f"{found.caught}/{found.tries}"
            shown.append(text + (f" ({unsure} not measured)" if unsure else ""))
            rows += [f"{level} {row}" for row in found.rows]
        yield name, seed.what, seed.level or "none", *shown, ", ".join(rows)


_COLUMNS = ("seed", "what", "must be caught at", *TRIES, "by")


def page(state: State) -> str:
    """The table in Markdown, for RESULTS.md."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in _cells(state)]
    _, sentence = verdict(state)
    minutes = sum(one.seconds for one in state.tries) / 60
    about = f"{len(state.tries)} tries in {minutes:.0f} min at {state.revision[:12]} on {state.machine_class}"
    return "\n".join([*lines, "", f"{sentence}. `proxy-engines gate --self-test`: {about}.", ""])


def _table(state: State) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column)
    for row in _cells(state):
        table.add_row(*(Text(cell) for cell in row))
    return table
