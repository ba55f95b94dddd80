"""Which run happens when: the order of a campaign, what is repeated, and how long it takes. Pure.

A round measures each scenario once with every target. For each scenario the mocks are started, then its slots follow
one another. A slot is what is alive at one time: one target, or all of them, loaded in turns of a tenth of a second.
Each run has a process start of its own, which is the sample of all statistics.

The order of targets and the order of scenarios go back and forth (A B C D, then D C B A) and start one place further
every second round, so that a drift of the machine falls on all alike. The scenarios of a sweep stay together and run
from the smallest to the largest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from loadgen.bench import wrk
from loadgen.targets.direct import Given
from loadgen.targets.target import Target
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import Turn
from reports.schema import AA_SUFFIX, ENGINES, RunRecord, run_name

# Seconds, measured on the 2-core machine of METHODOLOGY.md; they only serve the announced duration.
_MOCKS_START_S = 0.3
_CHECK_S = 0.05
_DRIVER_START_S = 0.7
_WRK_START_S = 0.25
_DRIVER_END_S = 0.3
_STOP_S = 0.1
_JUDGE_S = 0.15
SETTLE_S = 0.2
"""Between the start of a target and the look at what it costs while idle."""
REPORT_S = 5.0
CEILING_S = 4.0

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Arm:
    """One column of the comparison: a target under the name its runs carry (`sherpa`, `sherpa@aa`)."""

    name: str
    target: Target
    on_call: bool = False
    """Measured in the scenarios alone that name it among their `variants`."""

    @property
    def is_aa(self) -> bool:
        """Whether it is the baseline's second appearance."""
        return self.name.endswith(AA_SUFFIX)

    @property
    def is_variant(self) -> bool:
        """Whether it is one of our engines with a switch changed."""
        return self.target.is_engine and self.name not in ENGINES


@dataclass(frozen=True, slots=True)
class Slot:
    """A scenario and the arms alive for it at the same time. `order`: of the first of them in its round, from 0."""

    round: int
    order: int
    scenario: Scenario
    arms: tuple[Arm, ...]
    attempt: int = 1

    def turn(self, place: int) -> Turn:
        """The turn of the arm in `place`."""
        return Turn(place, len(self.arms))

    def runs(self) -> list[str]:
        """The names of its runs."""
        return [run_name(self.round, self.scenario.id, arm.name) for arm in self.arms]


def arms_of(targets: Sequence[Target], baseline: str | None, scenarios: Sequence[Scenario] = ()) -> list[Arm]:
    """The arms in the order of the first round: the targets, and the baseline once more, far from itself.

    `scenarios`: all of the campaign. A variant that one of them names is for those that name it alone.
    """
    named = {name for one in scenarios for name in one.variants}
    arms = [Arm(target.name, target, target.name in named) for target in targets]
    again = next((target for target in targets if target.name == baseline), None)
    if again is not None:
        place = next(number for number, arm in enumerate(arms) if arm.name == baseline)
        far = 0 if place > (len(arms) - 1) / 2 else len(arms)
        arms.insert(far, replace(arms[place], name=again.name + AA_SUFFIX))
    return arms


def arms_for(one: Scenario, arms: Sequence[Arm]) -> list[Arm]:
    """The arms that this scenario measures."""

    def measures(arm: Arm) -> bool:
        if one.only:
            return arm.name in one.only
        if arm.on_call:
            return arm.target.name in one.variants
        return arm.target.is_engine or not one.only_engines

    return [arm for arm in arms if measures(arm)]


def in_turns(one: Scenario, arms: Sequence[Arm]) -> bool:
    """Whether these arms are alive at once for `one`: each must be a process of its own, and the load must allow it."""
    return len(arms) > 1 and one.takes_turns and not any(isinstance(arm.target, Given) for arm in arms)


def order_of(items: Sequence[Item], round_number: int) -> list[Item]:
    """The items in the order of this round (from 1)."""
    if not items:
        return []
    shift = (round_number - 1) // 2 % len(items)
    turned = [*items[shift:], *items[:shift]]
    return turned if round_number % 2 else turned[::-1]


def scenarios_of(scenarios: Sequence[Scenario], round_number: int) -> list[Scenario]:
    """The scenarios in the order of this round (from 1)."""
    units: dict[str, list[Scenario]] = {}
    for one in scenarios:
        swept = one.swept()
        units.setdefault(one.id if swept is None else swept[0], []).append(one)
    for unit in units.values():
        unit.sort(key=lambda one: (one.swept() or ("", 0.0))[1])
    return [one for unit in order_of(list(units.values()), round_number) for one in unit]


Alone = Mapping[str, Collection[str]]
"""Scenario -> the arms that have no room for its load, and would use the turns of the others."""


def slots(
    arms: Sequence[Arm],
    scenarios: Sequence[Scenario],
    round_number: int,
    attempt: int = 1,
    alone: Alone | None = None,
) -> list[tuple[Scenario, list[Slot]]]:
    """One round: each scenario with its slots, in the order in which they happen."""
    order = 0
    found = []
    for one in scenarios_of(scenarios, round_number):
        mine = order_of(arms_for(one, arms), round_number)
        made = []
        for group in _groups(one, mine, (alone or {}).get(one.id, ())):
            made.append(Slot(round_number, order, spread(one, len(group)), group, attempt))
            order += len(group)
        found.append((one, made))
    return found


def _groups(one: Scenario, arms: Sequence[Arm], alone: Collection[str]) -> list[tuple[Arm, ...]]:
    able = tuple(arm for arm in arms if arm.name.removesuffix(AA_SUFFIX) not in alone)
    if not in_turns(one, arms) or len(able) < 2:
        return [(arm,) for arm in arms]
    return [able, *((arm,) for arm in arms if arm not in able)]


def spread(one: Scenario, arms: int) -> Scenario:
    """The scenario as long as it takes for each of so many arms in turns to get its seconds."""
    if arms == 1:
        return one
    return one.model_copy(update={"duration_s": arms * one.duration_s, "warmup_s": arms * one.warmup_s})


def idle_key(slot: Slot, arm: Arm) -> tuple[int, str, int, str]:
    """What the CPU of an idle target depends on; it is measured once for each."""
    settings = repr(sorted(slot.scenario.settings.items()))
    return slot.round, arm.name, slot.scenario.mock.endpoints, settings


def lead_s(slot: Slot) -> float:
    """From the release of a slot's drivers to the beginning of the load: each needs its core for a moment."""
    closed = slot.scenario.closed()
    return 0.25 + 0.15 * len(slot.arms) + (0.0 if closed is None else 0.0005 * closed.users)


def round_seconds(
    arms: Sequence[Arm], scenarios: Sequence[Scenario], idle_s: float, alone: Alone | None = None
) -> float:
    """How long one round takes."""
    known: set[tuple[int, str, int, str]] = set()
    seconds = 0.0
    for _, planned in slots(arms, scenarios, 1, alone=alone):
        seconds += _MOCKS_START_S + _STOP_S
        for slot in planned:
            keys = {idle_key(slot, arm) for arm in slot.arms if arm.target.has_process}
            seconds += _slot_seconds(slot, 0.0 if keys <= known else SETTLE_S + idle_s)
            known |= keys
    return seconds


def _slot_seconds(slot: Slot, idle_s: float) -> float:
    one, many = slot.scenario, len(slot.arms)
    starts = sum(arm.target.start_s + _STOP_S for arm in slot.arms)
    checked = starts + many * (_CHECK_S + one.typical_reply_s)
    if one.generator == "wrk":
        return checked + max(_WRK_START_S, idle_s) + wrk.lasts_s(one.warmup_s, one.duration_s) + _JUDGE_S
    # The drivers get ready on their own core while the targets start, are checked, and are watched idling.
    before = max(checked + idle_s, many * _DRIVER_START_S)
    return before + lead_s(slot) + one.total_s() + one.typical_reply_s + many * (_DRIVER_END_S + _JUDGE_S)


def spoilt(
    records: Sequence[RunRecord], scenarios: Sequence[Scenario], planned: Callable[[Scenario], int]
) -> list[Scenario]:
    """The scenarios with fewer than the `planned` rounds that count, which are repeated for all targets alike.

    A round counts for a scenario unless the bench spoilt one of its runs. What a target did wrong is a result.
    """
    rounds: Mapping[str, set[int]] = {one.id: set() for one in scenarios}
    void: Mapping[str, set[int]] = {one.id: set() for one in scenarios}
    for record in records:
        if record.scenario in rounds:
            rounds[record.scenario].add(record.round)
            if record.ended == "void":
                void[record.scenario].add(record.round)
    return [one for one in scenarios if len(rounds[one.id] - void[one.id]) < planned(one)]
