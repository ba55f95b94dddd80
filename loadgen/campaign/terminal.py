"""`compare`: what a campaign looks like in a terminal, from the plan to the verdict and the report's path."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadgen.bench import machine
from loadgen.campaign import calibrate, pilot, precision
from loadgen.campaign.campaign import LiveCampaign, asked_before, planned_before
from loadgen.campaign.plan import Asked, Planned, plan
from loadgen.campaign.trial import try_out
from loadgen.campaign.voice import Terminal, Voice
from loadgen.errors import INTERRUPTED, NO_VALID_RUN, Missing, UsageRefusal
from loadgen.targets.target import Target
from reports import counted, first_screen, store
from reports.first_screen import FirstScreen
from reports.ladder import ladders
from reports.words import PACED, title


def compare(
    asked: Asked,
    *,
    out: Path | None,
    resume: Path | None,
    loads: Path | None,
    dry_run: bool,
    command: str,
    count: Callable[[Sequence[Target], Path, Voice], None],
) -> int:
    """Runs or resumes a campaign, builds its report, prints the verdict. Returns the exit code.

    `loads`: those of an earlier campaign instead of loads that fit this machine. `count`: counts the targets' work.
    """
    console = Console(highlight=False)
    if resume is not None:
        if loads is not None:
            raise UsageRefusal("--loads: a campaign that is resumed keeps the loads it began with")
        asked = asked_before(resume)
    pinned = resume or loads
    known = None if pinned is None else calibrate.load_file(pinned)
    planned = plan(asked) if known is None else calibrate.fit(plan(asked), known)
    if resume is not None:
        planned = precision.apply(planned, planned_before(resume))
    _announce(console, planned)
    if dry_run:
        return 0
    folder = resume or out or default_folder(asked)
    begun = time.monotonic()
    with Terminal(console) as voice:
        try:
            try_out(planned.targets, voice)
            if known is None and asked.real is None:
                planned = calibrate.calibrated(planned, folder, voice)
            if resume is None and not folder.joinpath("campaign.json").exists():
                planned = prepare(planned, folder, voice, begun)
        except KeyboardInterrupt:
            voice.say("Interrupted before the first counted run: nothing is kept. The same command begins again")
            return INTERRUPTED
        campaign = LiveCampaign(planned, folder, voice)
        if resume is not None:
            campaign.adopt()
        else:
            campaign.create(command)
        if out is None and resume is None:
            point_latest(folder)
        try:
            campaign.run()
            if planned.counted:
                count(planned.targets, folder, voice)
        except KeyboardInterrupt:
            voice.say(
                f"Interrupted: {len(campaign.records)} finished run(s) are kept.\n"
                f"  proxy-engines report {folder}             builds a report from them\n"
                f"  proxy-engines compare --resume {folder}   goes on"
            )
            return INTERRUPTED
    return _conclude(console, folder, campaign)


def prepare(planned: Planned, folder: Path, voice: Voice, begun: float) -> Planned:
    """Starts and lengths as asked for by `--precision` and `--time`; without these the campaign as it is, with a
    forecast where earlier ones tell. `begun`: monotonic seconds."""
    asked = planned.asked
    before = list(precision.earlier(planned, folder))
    if asked.precision is None and asked.time_s is None:
        chosen = precision.forecast(planned, precision.known(planned, before, within=False))
        return replace(planned, precision=precision.Precision(scenarios=chosen).model_dump())
    return pilot.decide(planned, before, folder, voice, begun)


def _announce(console: Console, planned: Planned) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("scenario")
    table.add_column("question", overflow="fold")
    table.add_column("load", justify="right")
    table.add_column("time", justify="right")
    for one in planned.scenarios:
        rate = one.rate_rps()
        load = f"{rate:g}/s" if rate is not None else one.arrivals.kind
        table.add_row(one.id, Text(one.question), load, f"{one.total_s():.1f} s")
    names = ", ".join(arm.name for arm in planned.arms)
    asked = planned.asked
    to_plan = not planned.precision and (asked.precision is not None or asked.time_s is not None)
    rounds = "starts and seconds are planned first, for" if to_plan else f"{planned.rounds} rounds of"
    console.print(Text(f"Campaign {asked.profile}: {rounds} {names}"))
    console.print(table)
    for name, why in {**planned.missing, **planned.left_out}.items():
        console.print(Text(f"Not measured: {name}: {why}"))
    for name, rows in planned.dropped.items():
        console.print(Text(f"{name}: {_accounting(rows)}"))
    console.print(Text(f"Cores: {planned.cores.note}"))
    if not planned.cores.pinned:
        console.print(
            Text("Target and bench share one core: times and capacities include the bench's work, CPU does not")
        )
    if machine.congestion_control() == "bbr":
        console.print(Text(PACED))
    more = [] if planned.ladder is None else [f"{_minutes(planned.ladder_s())} of its ladder"]
    more += ["the counting of work"] if planned.counted else []
    extra = ", ".join([*more, "repeats of rounds that the bench spoils"])
    takes = f"about {_minutes(planned.seconds())}"
    if to_plan:
        takes = "what the precision needs" if asked.time_s is None else f"at most {_minutes(asked.time_s)}"
    console.print(Text(f"Takes {takes}, plus {extra}"))


def _counts(found: counted.Counted) -> Table:
    table = Table(box=None, pad_edge=False, title="Counted work", title_justify="left")
    table.add_column("")
    for target in found.targets:
        table.add_column(Text(target), justify="right")
    for cells in found.cells():
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _accounting(rows: dict[str, Any]) -> str:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in rows["dropped"].items()) or "none"
    clipped = ", ".join(f"{count:,} {what}" for what, count in rows["clipped"].items())
    said = f"{rows['read']:,} rows read, {rows['used']:,} used, dropped: {dropped}"
    return "; ".join([said, *([f"cut: {clipped}"] if clipped else []), *rows.get("notes", ())])


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def default_folder(asked: Asked) -> Path:
    """`reports/runs/<UTC>-<profile or trace>`."""
    what = asked.profile if asked.trace is None else "trace"
    return store.RUNS / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{what}"


def point_latest(folder: Path) -> None:
    """Makes `reports/runs/latest` point to `folder`."""
    link = folder.parent / "latest"
    fresh = folder.parent / f".latest.{folder.name}"
    try:
        fresh.symlink_to(folder.name, target_is_directory=True)
        fresh.replace(link)
    except OSError as exc:
        fresh.unlink(missing_ok=True)
        raise Missing(f"{link}: cannot be made to point to {folder.name}: {exc.strerror}") from exc


def show(console: Console, screen: FirstScreen) -> None:
    """The first screen of the report: its table, when to choose which engine, what got worse, what is unknown."""
    console.print(Text(screen.headline, style="bold"))
    if screen.entries:
        table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 1))
        table.add_column("")
        for target in screen.targets:
            table.add_column(Text(title(target)), justify="right", no_wrap=True)
        for entry in screen.entries:
            table.add_row(Text(entry.label), *map(_cell, first_screen.cells(screen, entry)))
        console.print(table)
        console.print(Text(screen.note, style="dim"))
    for when, then in screen.choose:
        console.print()
        console.print(Text.assemble((f"{when} ", "bold"), then))
    lists = (
        ("Replies were changed", screen.wrong),
        ("What gets worse", screen.worse),
        ("What we could not tell", screen.unknown),
    )
    for heading, lines in lists:
        if lines:
            console.print()
            console.print(Text(heading, style="bold"))
            for line in lines:
                console.print(Padding(Text(f"- {line}"), (0, 0, 0, 2)))


def _cell(parts: tuple[str, str, str]) -> Text:
    """Value and factor, the interval below."""
    value, factor, interval = parts
    return Text.assemble((value, "bold"), f" {factor}" if factor else "", (f"\n{interval}", "dim") if interval else "")


def _conclude(console: Console, folder: Path, campaign: LiveCampaign) -> int:
    from reports.render import build_report  # matplotlib and all: half a second that --dry-run does not need

    report = build_report(folder)
    console.print()
    show(console, report.screen)
    console.print()
    console.print(Text("Each use case", style="bold"))
    for headline in report.headlines:
        console.print(Padding(Text(headline), (0, 0, 0, 2)))
    ended = Counter(record.ended for record in campaign.records)
    console.print(Text(f"{report.runs}, in {_minutes(campaign.passed_s())}"))
    found_counts = counted.load(folder, campaign.baseline)
    if found_counts is not None:
        console.print(_counts(found_counts))
    for one in ladders(campaign.records):
        console.print(Text(f"Ladder of {one.words()}"))
    found = precision.came(planned_before(folder), report.verdict["rows"])
    if (said := precision.came_words(found)) is not None:
        console.print(Text(said))
        store.update_header(folder, precision_came=found)
    console.print(Text(f"Report: {report.html}"))
    return 0 if ended["ok"] or ended["overloaded"] else NO_VALID_RUN
