"""`proxy-engines limit`: the highest rate at which a target keeps the scenario's objective, by bisection.

The rate doubles until the target loses its objective, then the span between the last rate kept and the first one lost
is halved (on the log scale) until it is narrow enough. Every rung is a run of its own with a fresh process, in an
ordinary campaign folder: void rungs stay on disk and are drawn hollow, and the report's figure of latency against load
shows them all.

A run that its target cannot carry is a rate that was lost. A void run is made once more and the second one counts: if
it is void too the bench ends here, which is said and never taken for the target's limit. One process start a
rung has no interval: for one, compare at the rates found here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.bench import machine
from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.plan import Asked, Planned, planned
from loadgen.campaign.voice import Silent, Terminal, Voice
from loadgen.errors import INTERRUPTED, Missing, UsageRefusal
from loadgen.targets.catalogue import choose
from loadgen.targets.target import Target
from loadgen.workload import scenario
from loadgen.workload.scenario import Open, Scenario
from reports import store
from reports.schema import RunRecord, default_baseline

Word = Literal["kept", "lost", "bench"]

KEPT: Final = 0.99
"""Share of the offered rate that must come back right and inside the objective."""
_IDLE_S: Final = 0.3


@dataclass(frozen=True, slots=True)
class TriedRate:
    """One rate and what became of it. `bench`: the bench could not carry it, which says nothing about the target."""

    rate: float
    word: Word
    why: str = ""


@dataclass(slots=True)
class Search:
    """Which rate is tried next; pure. `within`: how far apart, as a share, kept and lost may be in the end."""

    first: float
    most: float
    within: float
    rungs: list[TriedRate] = field(default_factory=list)

    @property
    def lost(self) -> TriedRate | None:
        """The lowest rate that was not kept, for whatever reason."""
        return min((rung for rung in self.rungs if rung.word != "kept"), key=lambda rung: rung.rate, default=None)

    @property
    def kept(self) -> float | None:
        """The highest rate kept below that."""
        top = math.inf if self.lost is None else self.lost.rate
        return max((rung.rate for rung in self.rungs if rung.word == "kept" and rung.rate < top), default=None)

    def next(self) -> float | None:
        """The next rate; None when the search is over."""
        kept, lost = self.kept, self.lost
        if lost is None:
            if kept is None:
                return self.first
            return None if kept >= self.most else min(_round(2 * kept), self.most)
        if kept is None:
            return _round(lost.rate / 2) if lost.rate >= 2 else None
        if lost.rate <= kept * (1 + self.within):
            return None
        middle = _round(math.sqrt(kept * lost.rate))
        return middle if kept < middle < lost.rate else None


def _round(rate: float) -> float:
    """Whole requests a second, two and a half digits: rates are for people, too."""
    step = max(math.pow(10, math.floor(math.log10(max(rate, 1))) - 1) / 2, 1)
    return round(rate / step) * step


def at_rate(one: Scenario, rate: float, seconds: float | None) -> Scenario:
    """The scenario with its arrivals at `rate`. Raises UsageRefusal if its arrivals have no single rate."""
    if not isinstance(one.arrivals, Open) or one.arrivals.rate is None:
        raise UsageRefusal(f"--scenario: {one.id} has no single rate that could be searched for")
    changes = {
        "id": f"{one.id}-{rate:.0f}",
        "arrivals": one.arrivals.model_copy(update={"rate": rate}),
        "tags": tuple(sorted({*one.tags, "sweep-rate"})),
        "group": one.id,
        "campaigns": {},
        "only_engines": False,
    }
    if seconds is not None:
        changes["duration_s"] = seconds
    return one.model_copy(update=changes)


def judged(record: RunRecord) -> TriedRate:
    """What one run says about its rate."""
    offered = record.offered_rps or 0.0
    if record.ended != "ok":
        return TriedRate(offered, "bench" if record.ended == "void" else "lost", record.why or "")
    share = (record.summary.get("goodput_rps") or 0.0) / offered if offered else 0.0
    if share >= KEPT:
        return TriedRate(offered, "kept")
    return TriedRate(offered, "lost", f"{share:.1%} of the requests were answered inside the objective")


@dataclass(frozen=True, slots=True)
class Searches:
    """All searches of one command, in one campaign folder."""

    base: Scenario
    targets: tuple[Target, ...]
    folder: Path
    seconds: float | None

    def planned(self, target: Target, rung: Scenario) -> Planned:
        """The campaign of one rung: one run, and one more if the bench spoils it."""
        names = tuple(one.name for one in self.targets)
        return planned(
            [target],
            [rung],
            rounds=1,
            repeats=1,
            limit_s=math.inf,
            baseline=target.name,
            asked=Asked(profile="saturation", targets=names, scenarios=(self.base.id,)),
            aa=False,
            idle_s=_IDLE_S,
        )

    def begin(self, command: str, first: float) -> None:
        """Makes the campaign folder. Raises ReportError if there is one."""
        rung = self.planned(self.targets[0], at_rate(self.base, first, self.seconds))
        everyone = replace(rung, targets=self.targets, baseline=default_baseline([one.name for one in self.targets]))
        LiveCampaign(everyone, self.folder, Silent()).create(command)

    def climb(self, target: Target, rate: float, voice: Voice) -> TriedRate:
        """One rung, made once more if the bench spoilt it."""
        one = at_rate(self.base, rate, self.seconds)
        header = store.load_campaign(self.folder).header
        described = {name: known.model_dump(mode="json") for name, known in header.scenarios.items()}
        note = machine.assign_cores(machine.available_cores()).note
        described[one.id] = one.describe(note).model_dump(mode="json")
        store.update_header(self.folder, scenarios=described)
        campaign = LiveCampaign(self.planned(target, one), self.folder, voice)
        campaign.adopt()
        campaign.run()
        mine = [r for r in campaign.records if (r.scenario, r.target) == (one.id, target.name)]
        return replace(judged(max(mine, key=lambda r: r.round)), rate=rate)


class _Steps(Silent):
    """Shows what is being done, and keeps the lines of single runs away: a rung has one of its own."""

    def __init__(self, voice: Terminal) -> None:
        self._voice = voice

    def step(self, text: str) -> None:
        """Beside the bar."""
        self._voice.step(text)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was typed."""

    targets: tuple[str, ...]
    scenario: str
    slo: tuple[str, ...]
    first: float
    most: float
    within: float
    duration_s: float
    out: Path | None
    resume: Path | None


def run(wanted: Wanted, command: str) -> int:
    """Searches every target, builds the report, prints the table; returns the exit code. Raises Refusal."""
    console = Console(highlight=False, soft_wrap=True)
    ladder = _ladder(wanted)
    try:
        if wanted.resume is None:
            ladder.begin(command, wanted.first)
        elif not wanted.resume.is_dir():
            raise Missing(f"--resume {wanted.resume}: no such folder")
        searches = _search_all(console, ladder, wanted)
    except KeyboardInterrupt:
        console.print(Text(f"Interrupted. The same command with --resume {ladder.folder} goes on"))
        return INTERRUPTED
    from reports.render import build_report

    report = build_report(ladder.folder)
    console.print(_table(searches, ladder.base))
    console.print(Text(f"Report: {report.html}"))
    return 0


def _ladder(wanted: Wanted) -> Searches:
    base, *more = scenario.choose([wanted.scenario])
    if more:
        raise UsageRefusal(f"--scenario {wanted.scenario}: a sweep; name a file of one scenario")
    if wanted.slo:
        base = base.model_copy(update={"slo": dict(_objective(text) for text in wanted.slo)})
    if not base.slo:
        raise UsageRefusal(f"--scenario: {base.id} has no objective; give one with --slo e2e_ms=100")
    at_rate(base, wanted.first, None)
    targets = tuple(choose(list(wanted.targets), []))
    missing = [why for target in targets if (why := target.missing()) is not None]
    if missing:
        raise Missing("; ".join(missing))
    folder = wanted.resume or wanted.out or store.RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-saturation"
    return Searches(base, targets, folder, wanted.duration_s)


def _objective(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        if name not in ("ttft_ms", "tpot_ms", "e2e_ms") or not float(value) > 0:
            raise ValueError
    except ValueError:
        raise UsageRefusal(f"--slo {text}: write ttft_ms=, tpot_ms= or e2e_ms= and milliseconds") from None
    return name, float(value)


def _search_all(console: Console, ladder: Searches, wanted: Wanted) -> dict[str, Search]:
    searches: dict[str, Search] = {}
    with Terminal(console) as voice:
        for target in ladder.targets:
            search = searches[target.name] = Search(wanted.first, wanted.most, wanted.within)
            while (rate := search.next()) is not None:
                rung = ladder.climb(target, rate, _Steps(voice))
                search.rungs.append(rung)
                voice.say(f"{target.name} at {rate:,.0f}/s: {rung.word}" + (f": {rung.why}" if rung.why else ""))
    return searches


def limit_words(search: Search) -> str:
    """What ended the search."""
    lost = search.lost
    if lost is None:
        return f"nothing up to {search.most:,.0f}/s, where the search ends"
    who = "the bench ends" if lost.word == "bench" else "lost"
    return f"{who} at {lost.rate:,.0f}/s: {lost.why}"


def _table(searches: dict[str, Search], base: Scenario) -> Table:
    objective = ", ".join(f"{name} {limit:g}" for name, limit in base.slo.items())
    table = Table(box=None, pad_edge=False)
    for column in ("target", f"kept ({objective})", "rungs", "limit"):
        table.add_column(column, overflow="fold")
    for name, search in searches.items():
        kept = "nothing" if search.kept is None else f"{search.kept:,.0f}/s"
        table.add_row(Text(name), Text(kept), Text(str(len(search.rungs))), Text(limit_words(search)))
    return table
