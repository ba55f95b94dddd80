"""`proxy-engines verify sensitivity`: does the harness see what is there, and nothing where there is nothing?

Theory of operation. Twenty campaigns of one scenario, each with a relay that is busy like a proxy, the same once more
(A/A), the same with 10 % more CPU and the same 200 us later. In the A/A rows every `faster` or `slower` is a false
alarm; in the others every other word is a miss. Before them one campaign at low load measures how much of the 200 us is
found. All is read from the campaigns' own folders: `--resume` needs nothing else, and nobody has to believe the table.

Exit codes: 0 shown, 1 not shown, 65 and 69 as everywhere, 130 interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.compared import compared
from loadgen.campaign.plan import Asked, Planned, planned
from loadgen.campaign.voice import Silent
from loadgen.errors import INTERRUPTED, BadInput, Missing
from loadgen.targets.catalogue import choose
from loadgen.workload import scenario
from reports import store
from reports.compare import Comparison
from reports.schema import AA_SUFFIX
from reports.stats import Estimate, estimate

CAMPAIGNS: Final = 20
ROUNDS: Final = 12
"""Ratios of CPU scattered by 6 % from round to round on a shared machine: with 6 rounds 10 % were too noisy to tell."""
FALSE_ALARMS: Final = 3 / 20
VOID: Final = 4 / 20
POWER: Final = 0.8
PUT_IN_US: Final = 200.0
FOUND_WITHIN: Final = 0.15
STATE: Final = "sensitivity.json"
PAGE: Final = "sensitivity.md"

_IDLE_S: Final = 0.5
_BASE: Final = "relay-busy"
_SCENARIO: Final = "probe-busy"
_DELAY_BASE: Final = "relay"
_DELAYED: Final = "relay-200us"
_DELAY_SCENARIO: Final = "probe-delay"


@dataclass(frozen=True, slots=True)
class Effect:
    """What was put into a target, and the metric in which it must be called `slower`."""

    target: str
    what: str
    metric: str


EFFECTS: Final = (
    Effect("relay-busy-10-percent", "10 % more CPU", "cpu_us_per_request"),
    Effect("relay-busy-200us", "200 us more delay", "added_p50_us"),
)


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
    """What one campaign found. `void`: why it says nothing, or empty; `false`: A/A metrics that were called different;
    `words` and `sizes`: of each effect, in the order of `EFFECTS` (sizes as shares of the base)."""

    number: int
    void: str = ""
    false: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    sizes: tuple[float | None, ...] = ()


def campaign_of(targets: Sequence[str], one: str, *, rounds: int, seed: int) -> Planned:
    """The campaign of one scenario against the first of `targets`. Raises UsageRefusal."""
    asked = Asked(
        profile="sensitivity",
        targets=tuple(targets),
        scenarios=(one,),
        baseline=targets[0],
        rounds=rounds,
        seed=seed,
    )
    chosen = choose(list(targets), [])
    return planned(chosen, scenario.choose([one]), rounds=rounds, baseline=targets[0], asked=asked, idle_s=_IDLE_S)


def busy(number: int, rounds: int) -> Planned:
    """The `number`th of the campaigns with seeded effects."""
    return campaign_of([_BASE, *(effect.target for effect in EFFECTS)], _SCENARIO, rounds=rounds, seed=number)


def delay(rounds: int) -> Planned:
    """The campaign at low load."""
    return campaign_of([_DELAY_BASE, _DELAYED], _DELAY_SCENARIO, rounds=rounds, seed=1)


def seconds(one: Planned) -> float:
    """How long a campaign takes; no report is built here."""
    return one.rounds * one.round_s(one.scenarios)


def judged(number: int, seen: Comparison) -> CampaignOutcome:
    """What the campaign `number` found: reads primary rows only."""
    again = _BASE + AA_SUFFIX
    mine = [row for row in seen.rows if row.primary and row.candidate.target in (again, *(e.target for e in EFFECTS))]
    void = next(
        (
            row.reason
            for row in mine
            if row.verdict == "void" or (row.verdict == "not-measured" and row.spec.tail is None)
        ),
        "" if mine else "no rows",
    )
    rows = [seen.row(_SCENARIO, effect.metric, effect.target) for effect in EFFECTS]
    return CampaignOutcome(
        number,
        void=void,
        false=tuple(r.metric for r in mine if r.candidate.target == again and r.verdict in ("faster", "slower")),
        words=tuple("void" if row is None else row.verdict for row in rows),
        sizes=tuple(_size(seen, effect) for effect in EFFECTS),
    )


def _size(seen: Comparison, effect: Effect) -> float | None:
    ours, theirs = (seen.values(_SCENARIO, effect.metric, name) for name in (_BASE, effect.target))
    return float(theirs.mean() / ours.mean() - 1) if ours.size and theirs.size else None


def found_delay(seen: Comparison) -> Estimate | None:
    """How much later the delayed relay is, in microseconds; None if no round says."""
    ours, theirs = (
        {f.record.round: f.value("added_p50_us") for f in seen.valid.get((_DELAY_SCENARIO, name), ())}
        for name in (_DELAY_BASE, _DELAYED)
    )
    both = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
    pairs = [c - b for b, c in both if b is not None and c is not None]
    return estimate(pairs) if pairs else None


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of the table: what was asked, what came out, what is needed."""

    what: str
    seen: str
    needed: str
    holds: bool


def findings(tries: Sequence[CampaignOutcome], found: Estimate | None) -> list[Requirement]:
    """The table. With fewer than twenty campaigns what is allowed shrinks in proportion."""
    n = len(tries)
    said = [one for one in tries if not one.void]
    void, false = n - len(said), sum(bool(one.false) for one in said)
    lines = [
        Requirement(
            "campaigns that are void", f"{void} of {n}", f"at most {int(VOID * n)}", n > 0 and void <= int(VOID * n)
        ),
        Requirement(
            "campaigns with a false alarm (A/A, primary rows)",
            f"{false} of {len(said)}",
            f"at most {int(FALSE_ALARMS * n)}",
            n > 0 and false <= int(FALSE_ALARMS * n),
        ),
    ]
    for place, effect in enumerate(EFFECTS):
        caught = sum(one.words[place] == "slower" for one in said)
        sizes = [size for one in said if (size := one.sizes[place]) is not None]
        spread = f", found {min(sizes):+.1%} to {max(sizes):+.1%} of {effect.metric}" if sizes else ""
        lines.append(
            Requirement(
                f"{effect.what} called slower",
                f"{caught} of {len(said)}{spread}",
                f"at least {POWER:.0%}",
                bool(said) and caught >= POWER * len(said),
            )
        )
    if found is None:
        lines.append(Requirement("200 us at low load", "not measured", f"within {FOUND_WITHIN:.0%}", False))
    else:
        off = found.mean / PUT_IN_US - 1
        interval = found.interval()
        shown = (
            "" if interval is None else f" (95 % CI {interval.low:.0f}..{interval.high:.0f}), {found.samples} rounds"
        )
        lines.append(
            Requirement(
                "200 us at low load",
                f"{found.mean:.0f} us{shown}: off by {off:+.1%}",
                f"within {FOUND_WITHIN:.0%}",
                abs(off) <= FOUND_WITHIN,
            )
        )
    return lines


def page(lines: Sequence[Requirement], tries: Sequence[CampaignOutcome], note: str) -> str:
    """The table in Markdown, for RESULTS.md, and a line for each campaign."""
    text = ["| | seen | needed | holds |", "|---|---|---|---|"]
    text += [f"| {one.what} | {one.seen} | {one.needed} | {'yes' if one.holds else 'no'} |" for one in lines]
    text += ["", note, ""]
    text += [f"- {describe(one)}" for one in tries]
    return "\n".join([*text, ""])


def describe(one: CampaignOutcome) -> str:
    """One line about a campaign."""
    if one.void:
        return f"campaign {one.number}: void: {one.void}"
    parts = [
        f"{effect.what}: {word}" + ("" if size is None else f" ({size:+.1%})")
        for effect, word, size in zip(EFFECTS, one.words, one.sizes, strict=True)
    ]
    again = "false alarm in " + ", ".join(one.false) if one.false else "no false alarm"
    return f"campaign {one.number}: {again}; {'; '.join(parts)}"


class _Beside(Silent):
    """What a campaign does now becomes the text beside the spinner; void runs show in the result."""

    def __init__(self, status: Status, where: str) -> None:
        self._status = status
        self.where = where

    def step(self, text: str) -> None:
        """What it does now."""
        self._status.update(Text(f"{self.where} · {text}"))

    def advance(self, runs: int, of: int, run: str) -> None:
        """So many of its runs are on disk."""
        self.where = f"{self.where.split(' (')[0]} ({runs}/{of} runs)"


@dataclass(frozen=True, slots=True)
class StudySize:
    """What was typed the first time; kept in sensitivity.json, so that `--resume` goes on with the same."""

    campaigns: int
    rounds: int

    def total_s(self) -> float:
        """How long all of it takes."""
        return seconds(delay(self.rounds)) + self.campaigns * seconds(busy(1, self.rounds))


def run(given: StudySize, out: Path | None, resume: Path | None, *, dry_run: bool, command: str) -> int:
    """Runs or resumes all campaigns, prints the table; returns the exit code. Raises Refusal, ReportError."""
    console = Console(highlight=False, soft_wrap=True)
    if resume is not None:
        given = _given_before(resume)
    console.print(Text(f"{given.campaigns} campaigns of {given.rounds} rounds: {given.total_s() / 60:.0f} min"))
    if dry_run:
        return 0
    folder = resume or out or store.RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-sensitivity"
    if resume is None:
        _begin(folder, given)
    return _run(console, folder, given, command)


def _run(console: Console, folder: Path, given: StudySize, command: str) -> int:
    tries: list[CampaignOutcome] = []
    begun = time.monotonic()
    try:
        with console.status("") as status:
            voice = _Beside(status, "low load")
            found = found_delay(_campaign(delay(given.rounds), folder / "delay", command, voice))
            for number in range(1, given.campaigns + 1):
                voice.where = f"campaign {number} of {given.campaigns}"
                one = busy(number, given.rounds)
                tries.append(judged(number, _campaign(one, folder / f"campaign-{number:02d}", command, voice)))
                left = (given.campaigns - number) * seconds(one) / 60
                console.print(Text(f"{describe(tries[-1])} ({left:.0f} min left)"))
    except KeyboardInterrupt:
        console.print(Text(f"Interrupted. proxy-engines verify sensitivity --resume {folder} goes on"))
        return INTERRUPTED
    lines = findings(tries, found)
    minutes = (time.monotonic() - begun) / 60
    note = f"`{command}`: {given.campaigns} campaigns of {given.rounds} rounds."
    store.write_atomically(folder / PAGE, page(lines, tries, note).encode())
    _print(console, lines)
    shown = all(line.holds for line in lines)
    console.print(Text("Shown" if shown else "Not shown", style="bold"), Text(f"({folder / PAGE}, {minutes:.0f} min)"))
    return 0 if shown else 1


def _campaign(one: Planned, folder: Path, command: str, voice: _Beside) -> Comparison:
    """Runs it as far as it is not on disk yet."""
    campaign = LiveCampaign(one, folder, voice)
    if (folder / "campaign.json").exists():
        campaign.adopt()
    else:
        campaign.create(command)
    if store.load_campaign(folder).header.state != "complete":
        campaign.run()
    return compared(folder)


def _begin(folder: Path, given: StudySize) -> None:
    if (folder / STATE).exists():
        raise BadInput(f"{folder}: there is one already; go on with --resume or choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise BadInput(f"{folder}: cannot be made: {exc.strerror}") from exc
    store.write_atomically(
        folder / STATE, store.dump_json({"schema": 1, "campaigns": given.campaigns, "rounds": given.rounds})
    )


def _given_before(folder: Path) -> StudySize:
    if not folder.is_dir():
        raise Missing(f"--resume {folder}: no such folder")
    try:
        data = store.read_json(folder / STATE)
        return StudySize(int(data["campaigns"]), int(data["rounds"]))
    except (KeyError, TypeError, ValueError) as exc:
        raise BadInput(f"{folder / STATE}: does not say what was asked") from exc


def _print(console: Console, lines: Sequence[Requirement]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("", "seen", "needed", "holds"):
        table.add_column(column, overflow="fold")
    for cells in _cells(lines):
        table.add_row(*cells)
    console.print(table)


def _cells(lines: Sequence[Requirement]) -> Iterator[tuple[Text, ...]]:
    for one in lines:
        yield Text(one.what), Text(one.seen), Text(one.needed), Text("yes" if one.holds else "NO")
