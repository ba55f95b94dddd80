"""Which run happens when: the order of a campaign and how long it takes, decided beforehand. Pure.

A round measures every target once. Within it a *bench* is one start of the mocks; on it each arm (a target, or the
baseline's second appearance) gets a *sitting*: one process start that serves the scenarios of that bench one after the
other. The sample of all statistics is the sitting. Sittings come one after the other, or `together`: all targets of a
bench alive at once, on the same core, and loaded in turns of a tenth of a second.

The order goes back and forth (A B C D, then D C B A) and starts one place further every second round, so that a drift
of the machine and the place right after the mocks' start fall on all arms alike.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from loadgen.bench import wrk
from loadgen.targets.target import Target
from loadgen.workload.scenario import Scenario
from reports.compare import bench_fault
from reports.schema import AA_SUFFIX, FLOOR_TARGETS, RunRecord

# Seconds, measured on the 2-core machine of METHODOLOGY.md; they only serve the announced duration.
_MOCKS_START_S = 0.3
_CHECK_S = 0.05
_DRIVER_START_S = 0.45
_WRK_START_S = 0.25
_DRIVER_END_S = 0.3
_STOP_S = 0.1
_SETTLE_S = 0.2
REPORT_S = 5.0
LEAD_S = 0.5
"""From the release of drivers that begin together to their common beginning."""
_CEILING_S = 4.0


class Profile(BaseModel):
    """One entry of campaigns.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: Annotated[int, Field(ge=1, le=1000)]
    targets: tuple[str, ...]
    baseline: str
    idle_s: Annotated[float, Field(ge=0.2)]
    recorders: bool
    aa: bool = True
    """The baseline runs twice a round; false where targets are held against a limit and not against each other."""
    together: bool = False
    """The targets of a bench are alive at once and loaded in turns. For targets that we start, in open loop."""
    budget_s: Annotated[float, Field(gt=0)]


@functools.cache
def profiles() -> Mapping[str, Profile]:
    """All campaign profiles by name."""
    data = yaml.safe_load(Path(__file__).with_name("campaigns.yaml").read_text(encoding="utf-8"))
    return {name: Profile.model_validate(entry) for name, entry in data.items()}


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the comparison: a target under the name its runs carry (`sherpa`, `sherpa@aa`)."""

    name: str
    target: Target

    @property
    def is_aa(self) -> bool:
        """Whether it is the baseline's second appearance."""
        return self.name.endswith(AA_SUFFIX)


ArmT = TypeVar("ArmT")


@dataclass(frozen=True, slots=True)
class Sitting:
    """One process start of an arm and the scenarios it serves. `order`: its place in the round, from 0."""

    round: int
    order: int
    arm: Arm
    scenarios: tuple[Scenario, ...]
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Bench:
    """One start of the mocks and the sittings on it, one after the other or all at once."""

    endpoints: int
    sittings: tuple[Sitting, ...]
    together: bool = False

    def groups(self) -> tuple[tuple[Sitting, ...], ...]:
        """The sittings whose targets are alive at the same time."""
        return (self.sittings,) if self.together else tuple((sitting,) for sitting in self.sittings)


def wanted_of(arms: Sequence[Arm], scenarios: Sequence[Scenario]) -> dict[str, list[Scenario]]:
    """What a planned round measures: arm name -> its scenarios. A variant that scenarios name is for those alone."""
    special = {name for one in scenarios for name in one.variants}

    def measures(arm: Arm, one: Scenario) -> bool:
        if arm.name in special:
            return arm.name in one.variants
        return arm.target.is_engine or not one.only_engines

    return {arm.name: [one for one in scenarios if measures(arm, one)] for arm in arms}


def arms_of(targets: Sequence[Target], baseline: str | None) -> list[Arm]:
    """The arms in the order of the first round: the targets, and the baseline once more, far from itself."""
    arms = [Arm(target.name, target) for target in targets]
    again = next((target for target in targets if target.name == baseline), None)
    if again is not None:
        place = next(number for number, arm in enumerate(arms) if arm.name == baseline)
        far = 0 if place > (len(arms) - 1) / 2 else len(arms)
        arms.insert(far, Arm(again.name + AA_SUFFIX, again))
    return arms


def default_baseline(targets: Sequence[Target]) -> str | None:
    """Sherpa if present, else the first target that is no floor."""
    names = [target.name for target in targets]
    if "sherpa" in names:
        return "sherpa"
    return next((name for name in names if name not in FLOOR_TARGETS), None)


def order_of(arms: Sequence[ArmT], round_number: int) -> list[ArmT]:
    """The arms in the order of this round (from 1)."""
    if not arms:
        return []
    shift = (round_number - 1) // 2 % len(arms)
    turned = [*arms[shift:], *arms[:shift]]
    return turned if round_number % 2 else turned[::-1]


def benches(
    arms: Sequence[Arm],
    wanted: Mapping[str, Sequence[Scenario]],
    round_number: int,
    attempt: int = 1,
    *,
    together: bool = False,
) -> Iterator[Bench]:
    """The benches of one round. `wanted`: arm name -> the scenarios to measure with it.

    Scenarios share a process start if they need the same backends and the same settings of the target.
    """
    groups: dict[tuple[int, str], list[str]] = {}
    for scenarios in wanted.values():
        for scenario in scenarios:
            members = groups.setdefault(_needs(scenario), [])
            if scenario.id not in members:
                members.append(scenario.id)
    order = 0
    for (endpoints, _), members in groups.items():
        sittings = []
        for arm in order_of(arms, round_number):
            mine = tuple(
                sorted((s for s in wanted.get(arm.name, ()) if s.id in members), key=lambda s: members.index(s.id))
            )
            if mine:
                sittings.append(Sitting(round_number, order, arm, mine, attempt))
                order += 1
        yield Bench(endpoints, tuple(sittings), together)


def _needs(scenario: Scenario) -> tuple[int, str]:
    settings: Mapping[str, Any] = scenario.settings
    return scenario.mock.endpoints, repr(sorted(settings.items()))


def bench_seconds(bench: Bench, idle_s: float) -> float:
    """How long one bench takes."""
    return _MOCKS_START_S + _STOP_S + sum(_group_seconds(group, idle_s) for group in bench.groups())


def loaded(group: Sequence[Sitting]) -> list[Scenario]:
    """The scenarios that sittings which are alive at once serve, each once."""
    return list({one.id: one for sitting in group for one in sitting.scenarios}.values())


def _group_seconds(group: Sequence[Sitting], idle_s: float) -> float:
    """How long sittings take that are alive at once, which usually is one."""
    scenarios = loaded(group)
    seconds = sum(sitting.arm.target.start_s + _STOP_S for sitting in group)
    for number, scenario in enumerate(scenarios):
        meant = [sitting for sitting in group if scenario in sitting.scenarios]
        ready = len(meant) * (_WRK_START_S if scenario.generator == "wrk" else _DRIVER_START_S)
        if number == 0 and any(sitting.arm.target.has_process for sitting in meant):
            ready = max(ready, _SETTLE_S + idle_s)  # the first drivers get ready while the targets are watched idling
        seconds += ready + len(meant) * (_CHECK_S + scenario.typical_reply_s) + _load_seconds(scenario)
        seconds += LEAD_S if len(meant) > 1 else 0.0
    return seconds


def _load_seconds(scenario: Scenario) -> float:
    """The load, and what comes after it: the last replies and the driver's rows; wrk has neither."""
    if scenario.generator == "wrk":
        return wrk.lasts_s(scenario.warmup_s, scenario.duration_s)
    return scenario.total_s() + scenario.typical_reply_s + _DRIVER_END_S


def campaign_seconds(
    arms: Sequence[Arm],
    scenarios: Sequence[Scenario],
    rounds: int,
    idle_s: float,
    *,
    together: bool = False,
    report: bool = True,
) -> float:
    """How long the planned rounds and the report take, without repeats."""
    wanted = wanted_of(arms, scenarios)
    one = sum(bench_seconds(bench, idle_s) for bench in benches(arms, wanted, 1, together=together))
    return rounds * one + (_CEILING_S + REPORT_S if report else 0.0)


def shortfall(
    records: Sequence[RunRecord],
    arms: Sequence[Arm],
    scenarios: Sequence[Scenario],
    planned: int,
    baseline: str | None,
) -> dict[str, list[Scenario]]:
    """What has to be repeated: arm name -> its scenarios with fewer than `planned` usable rounds.

    A round is usable for an arm if its run and the baseline's are valid and no run of the scenario in that round was
    voided by the bench. The baseline joins every repeat, as an arm counts against it in the same round only. An arm
    that never had a valid run is not repeated: it would fail again.
    """
    wanted: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        mine = [record for record in records if record.scenario == scenario.id]
        spoilt = {record.round for record in mine if record.void_reason and bench_fault(record.validity) is not None}
        valid: dict[str, set[int]] = {arm.name: set() for arm in arms}
        for record in mine:
            if record.void_reason is None and record.round not in spoilt:
                valid.setdefault(record.target, set()).add(record.round)
        alone: dict[str, set[int]] = {}
        for record in mine:  # valid by themselves: their failures are the bench's and may pass
            if record.void_reason is None or bench_fault(record.validity) is not None:
                alone.setdefault(record.target, set()).add(record.round)
        compared = valid.get(baseline) if baseline is not None else None
        short = [
            arm.name
            for arm in arms
            if arm.name in alone and len(valid[arm.name] if compared is None else valid[arm.name] & compared) < planned
        ]
        if compared is not None and short and baseline not in short:
            short.insert(0, str(baseline))
        if compared is not None and baseline not in alone:
            continue
        for name in short:
            wanted.setdefault(name, []).append(scenario)
    return wanted
