"""L2: base and head timed side by side, with base once more as the noise floor; a small campaign of its own.

The three processes of a round are alive at once on one core and get load in turns of a tenth of a second. One after the
other they would meet a machine whose speed has changed meanwhile: on a shared host by up to a factor of two within
seconds (METHODOLOGY.md, "The regression gate"). Proxies that run already are one process however often they are
listed, so for them it is one after the other.

As for `compare`, loads and lengths fit the machine: the load is a share of what base carries here, and a short pilot
says how many starts of how many seconds the wanted precision takes within the time there is. A head that has no room
for this load gets it apart from base, whose turns it would use, and then its failure is seen without any planning.

It is an ordinary campaign folder: `proxy-engines report DIR/times-olla` makes its report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadgen.campaign import calibrate, pilot
from loadgen.campaign.campaign import LiveCampaign
from loadgen.campaign.compared import compared
from loadgen.campaign.plan import Asked, Planned, planned
from loadgen.campaign.precision import Precision, duration
from loadgen.campaign.voice import Voice
from loadgen.gate.checkouts import Checkout
from loadgen.gate.revisions import CannotMeasure
from loadgen.targets.catalogue import catalogue
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target
from loadgen.workload import load, scenario
from loadgen.workload.scenario import Open
from reports import gate, store
from reports.gate import BASE, HEAD, GateRow, Times
from reports.schema import RunRecord

_PLANNED = 0.85
"""Of the budget: the rest is for rounds that the bench spoils."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What is timed: `subject` names it in the table, the targets are called base and head."""

    subject: str
    base: Target
    head: Target


def engine_pair(engine: str, checkouts: Mapping[str, Checkout]) -> Pair:
    """An engine of both revisions, with the config every campaign gives it."""
    base, head = (_of_revision(engine, checkouts[name]) for name in (BASE, HEAD))
    return Pair(engine, base, head)


def _of_revision(engine: str, checkout: Checkout) -> ProcessTarget:
    ours = catalogue()[engine]
    assert isinstance(ours, ProcessTarget)
    return replace(
        ours,
        name=checkout.name,
        label=f"{engine} of {checkout.side.name}",
        command=tuple(checkout.python if word == "{python}" else word for word in ours.command),
        env={**ours.env, **checkout.env},
    )


def time_pair(pair: Pair, times: Times, folder: Path, command: str, voice: Voice) -> list[GateRow]:
    """Runs the campaign of one pair and judges it. Raises CannotMeasure, KeyboardInterrupt."""
    begun = time.monotonic()
    made = plan(pair, times)
    if made.missing:
        raise CannotMeasure("; ".join(made.missing.values()))
    made = with_loads(calibrate.calibrated(made, folder, voice), folder, voice)
    if wrong := gate.judge_before(pair.subject, _records(folder / calibrate.FOLDER)):
        return wrong
    if times.pilot_rounds and not any(made.alone.values()):
        made = pilot.decide(made, (), folder, voice, begun, times.pilot_rounds)
        if wrong := gate.judge_before(pair.subject, _records(folder / pilot.FOLDER)):
            return wrong
    made = replace(made, limit_s=max(times.budget_s - (time.monotonic() - begun), 1.0))
    campaign = LiveCampaign(made, folder, voice)
    campaign.create(command)
    campaign.run()
    return gate.judge_times(pair.subject, compared(folder), times, would_take(made))


def plan(pair: Pair, times: Times) -> Planned:
    """The campaign of one pair, before anything is known of this machine."""
    chosen = []
    for one in scenario.choose(list(times.scenarios)):
        span = times.scenarios[one.id]
        changes: dict[str, Any] = {"duration_s": span.duration_s, "warmup_s": span.warmup_s}
        if isinstance(one.arrivals, Open):  # else the slower side would set the load of both
            changes["arrivals"] = one.arrivals.model_copy(update={"of": BASE})
        chosen.append(one.model_copy(update=changes))
    return planned(
        (pair.base, pair.head),
        chosen,
        rounds=times.rounds,
        baseline=BASE,
        asked=Asked(
            profile="gate",
            rounds=times.rounds,
            baseline=BASE,
            precision=times.half_width,
            time_s=_PLANNED * times.budget_s,
        ),
        idle_s=times.idle_s,
        limit_s=times.budget_s,  # recorders are off: they cost the same in both and are not the subject
    )


def with_loads(made: Planned, folder: Path, voice: Voice) -> Planned:
    """The campaign with a head that gave no right answer while it was calibrated, or has no room for the load that
    base carries, loaded apart from base. Raises CannotMeasure where base itself gave no right answer."""
    alone = dict(made.alone)
    for one in made.scenarios:
        kind = load.kind_of(one)
        if kind not in made.loads.bench:
            continue  # it states no share of anybody
        carried = {name: rates.get(kind, 0.0) for name, rates in made.loads.capacities.items()}
        if not carried.get(BASE):
            where = folder / calibrate.FOLDER
            raise CannotMeasure(f"{one.id}: base gave no right answer while its capacity was measured, see {where}")
        if not carried.get(HEAD) or HEAD in alone.get(one.id, ()):
            alone[one.id] = frozenset({HEAD})
            unit = load.UNITS[kind]
            figures = f"head carries {carried.get(HEAD, 0.0):,.0f} {unit} where base carries {carried[BASE]:,.0f}"
            voice.say(f"{one.id}: {figures}; it gets the load of base apart from it")
    return replace(made, alone=alone)


def would_take(made: Planned) -> dict[tuple[str, str], str]:
    """What each row takes that is not expected to reach the wanted half width, by scenario and metric."""
    plan = Precision.model_validate(made.precision)
    return {
        (name, row.removesuffix(f" {HEAD}")): f"+-{plan.wanted or 0.0:.1%} "
        + ("cannot be had with 40 starts" if needed is None else f"would take {duration(needed)} here")
        for name, chosen in plan.scenarios.items()
        for row, needed in chosen.short.items()
        if row.endswith(f" {HEAD}")
    }


def _records(folder: Path) -> Iterator[RunRecord]:
    """Of the runs in `folder`, which were made to calibrate or to plan."""
    for path in sorted(folder.glob("runs/*/run.json")):
        yield RunRecord.model_validate(store.read_json(path))
