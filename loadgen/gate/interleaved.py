"""L2: base and head timed side by side, with base once more as the noise floor; a small campaign of its own.

The three processes of a round are alive at once on one core and get load in turns of a tenth of a second. One after the
other they would meet a machine whose speed has changed meanwhile: on a shared host by up to a factor of two within
seconds (METHODOLOGY.md, "The regression gate"). Proxies that run already are one process however often they are
listed, so for them it is one after the other.

It is an ordinary campaign folder: `proxy-engines report DIR/times-olla` makes its report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.campaign.campaign import Campaign
from loadgen.campaign.compared import compared
from loadgen.campaign.plan import Asked, Planned, planned
from loadgen.campaign.voice import Voice
from loadgen.gate.checkouts import Checkout
from loadgen.gate.revisions import CannotMeasure
from loadgen.targets.catalogue import catalogue
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target
from loadgen.workload import scenario
from reports import gate
from reports.gate import BASE, HEAD, GateRow, Times


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
    made = plan(pair, times)
    if made.missing:
        raise CannotMeasure("; ".join(made.missing.values()))
    campaign = Campaign(made, folder, voice)
    campaign.create(command)
    campaign.run()
    return gate.judge_times(pair.subject, compared(folder), times)


def plan(pair: Pair, times: Times) -> Planned:
    """The campaign of one pair."""
    chosen = [
        one.model_copy(update={"duration_s": span.duration_s, "warmup_s": span.warmup_s})
        for one in scenario.choose(list(times.scenarios))
        for span in [times.scenarios[one.id]]
    ]
    return planned(
        (pair.base, pair.head),
        chosen,
        rounds=times.rounds,
        baseline=BASE,
        asked=Asked(profile="gate", rounds=times.rounds, baseline=BASE),
        idle_s=times.idle_s,
        limit_s=times.budget_s,  # recorders are off: they cost the same in both and are not the subject
    )
