"""From what was typed to a campaign decided upon: which targets and scenarios, how often, how long. Starts nothing."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from loadgen.bench import canned, machine, wrk
from loadgen.campaign import real as real_servers
from loadgen.campaign import schedule
from loadgen.campaign.ladder import LadderPlan
from loadgen.campaign.schedule import Arm, Slot, arms_of, in_turns
from loadgen.errors import Missing, UsageRefusal
from loadgen.targets import catalogue, keys
from loadgen.targets import given as given_targets
from loadgen.targets.direct import Given
from loadgen.targets.target import Passes, Target
from loadgen.workload import conversation, scenario, sweep, timetable
from loadgen.workload.job import PROMPT_MARK
from loadgen.workload.load import Loads
from loadgen.workload.scenario import Replay, Request, Scenario
from reports.schema import ScenarioRecord, Strict, default_baseline

_RUNG_S = 2.7
"""Of a rung of a ladder beside its load and the start of its target, measured."""


class Profile(Strict):
    """One entry of campaigns.yaml."""

    rounds: Annotated[int, Field(ge=1, le=1000)]
    targets: tuple[str, ...]
    baseline: str
    idle_s: Annotated[float, Field(ge=0.2)]
    recorders: bool
    aa: bool = True
    """The baseline runs twice a round; false where targets are held against a limit and not against each other."""
    budget_s: Annotated[float, Field(gt=0)]
    ladder: LadderPlan | None = None
    counted: bool = False
    """Work is counted after the timed runs, as by `--counted`."""


@functools.cache
def profiles() -> Mapping[str, Profile]:
    """All campaign profiles by name."""
    data = yaml.safe_load(Path(__file__).with_name("campaigns.yaml").read_text(encoding="utf-8"))
    return {name: Profile.model_validate(entry) for name, entry in data.items()}


class Asked(Strict):
    """What was typed: all that a campaign follows from. Kept in campaign.json, so that `--resume` needs no more."""

    profile: str = "quick"
    targets: tuple[str, ...] | None = None
    given: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    scenarios: tuple[str, ...] | None = None
    sweep: str | None = None
    """`rate=N,N,...` or `users=N,N,...`: the one scenario at each of these loads."""
    trace: Replay | None = None
    baseline: str | None = None
    rounds: int | None = None
    duration_s: float | None = None
    precision: float | None = None
    """Half width that every primary row should have, as a share."""
    time_s: float | None = None
    """How long the campaign may take, its pilot included."""
    counted: bool = False
    seed: int = 1
    real: real_servers.Real | None = None
    headers: tuple[str, ...] = ()
    """As typed: names and places of values, never values (targets/keys.py)."""
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """A campaign decided upon: nothing has been started yet. Made by `planned`."""

    asked: Asked
    rounds: int
    arms: tuple[Arm, ...]
    targets: tuple[Target, ...]
    """All of them, the missing ones too."""
    missing: Mapping[str, str]
    """Targets that cannot be started here, with what to do about it."""
    scenarios: tuple[Scenario, ...]
    baseline: str | None
    idle_s: float
    recorders: bool
    limit_s: float
    """Repeats are begun only if they end within this; 0: within half as much again as planned."""
    repeats: int
    """Extra rounds at most, for what the bench spoilt."""
    cores: machine.Cores
    """Of a target with one worker."""
    available: tuple[int, ...] = ()
    dropped: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Scenarios whose generator is not here, with what to do about it."""
    alone: schedule.Alone = field(default_factory=dict)
    loads: Loads = field(default_factory=Loads)
    """What was calibrated and chosen (`calibrate.fit`)."""
    ladder: LadderPlan | None = None
    """Its rungs become scenarios once targets are calibrated (`calibrate.fit`)."""
    counted: bool = False
    """Whether work is counted after the timed runs."""
    starts_of: Mapping[str, int] = field(default_factory=dict)
    """Scenario -> its planned rounds, where they are not `rounds`."""
    precision: Mapping[str, Any] = field(default_factory=dict)
    """What was planned and forecast (`precision.apply`)."""

    def starts(self, one: Scenario) -> int:
        """In how many rounds a scenario is measured: in the first ones."""
        return self.starts_of.get(one.id, self.rounds)

    def scenarios_in(self, round_number: int) -> list[Scenario]:
        """What the planned round of this number measures."""
        return [one for one in self.scenarios if round_number <= self.starts(one)]

    def arms_for(self, one: Scenario) -> list[Arm]:
        """The arms that this scenario of the campaign measures."""
        return schedule.arms_for(one, self.arms)

    def cores_for(self, one: Scenario) -> machine.Cores:
        """A core for each worker of a target where one is left for the bench; else all workers share one."""
        found = machine.assign_cores(self.available, one.workers)
        return found if found.pinned else self.cores

    def slots(
        self, scenarios: Sequence[Scenario], round_number: int, attempt: int = 1
    ) -> list[tuple[Scenario, list[Slot]]]:
        """One round of `scenarios`."""
        return schedule.slots(self.arms, scenarios, round_number, attempt, self.alone)

    def seconds(self) -> float:
        """The announced duration: planned rounds and the report, without repeats."""
        return (
            schedule.CEILING_S
            + schedule.REPORT_S
            + sum(self.round_s(self.scenarios_in(number)) for number in range(1, self.rounds + 1))
        )

    def climbers(self) -> list[Arm]:
        """The arms that a ladder is made for: all with a process but variants and the baseline's second."""
        return [arm for arm in self.arms if arm.target.has_process and not arm.is_aa and not arm.is_variant]

    def ladder_s(self) -> float:
        """How long the ladder takes at most, before calibration tells where the ladder of each target ends."""
        if self.ladder is None:
            return 0.0
        rungs = self.ladder.rounds * len(self.ladder.shares)
        return sum(rungs * (self.ladder.seconds + _RUNG_S + arm.target.start_s) for arm in self.climbers())

    def round_s(self, scenarios: Sequence[Scenario]) -> float:
        """How long one round of `scenarios` takes."""
        return schedule.round_seconds(self.arms, scenarios, self.idle_s, self.alone)

    def budget_s(self) -> float:
        """How long the campaign may take with its repeats."""
        return max(self.limit_s, 1.5 * self.seconds() if self.seconds() > self.limit_s else 0.0)

    def runs(self, scenarios: Sequence[Scenario]) -> int:
        """How many runs one round of `scenarios` makes."""
        return sum(len(self.arms_for(one)) for one in scenarios)

    def described(self) -> dict[str, ScenarioRecord]:
        """The scenarios as campaign.json holds them."""
        found = {}
        for one in self.scenarios:
            described = one.describe(self.cores_for(one).note).model_copy(update={"rounds": self.starts_of.get(one.id)})
            if in_turns(one, arms := self.arms_for(one)):
                how = f" in turns of {timetable.SLICE_S:g} s among {len(arms)} targets, which are alive at once"
                described = described.model_copy(update={"arrivals": described.arrivals + how})
            found[one.id] = described
        return found


def planned(
    targets: Sequence[Target],
    scenarios: Sequence[Scenario],
    *,
    rounds: int,
    baseline: str | None,
    asked: Asked,
    aa: bool = True,
    idle_s: float = 0.5,
    recorders: bool = False,
    limit_s: float = 0.0,
    repeats: int | None = None,
    left_out: Mapping[str, str] | None = None,
    dropped: Mapping[str, Any] | None = None,
    ladder: LadderPlan | None = None,
    counted: bool = False,
) -> Planned:
    """A campaign of these targets. `baseline`: whom the others are compared with; None leaves it to the targets.
    `repeats`: extra rounds at most; None: half as many as `rounds`."""
    missing = {target.name: why for target in targets if (why := target.missing()) is not None}
    there = [target for target in targets if target.name not in missing]
    baseline = baseline or default_baseline([target.name for target in there])
    arms = arms_of(there, baseline if aa else None, scenarios)
    available = machine.available_cores()
    return Planned(
        asked=asked,
        rounds=rounds,
        arms=tuple(arms),
        targets=tuple(targets),
        missing=missing,
        scenarios=tuple(scenarios),
        baseline=baseline,
        idle_s=idle_s,
        recorders=recorders,
        limit_s=limit_s,
        repeats=rounds // 2 if repeats is None else repeats,
        cores=machine.assign_cores(available),
        available=available,
        dropped=dropped or {},
        left_out=left_out or {},
        ladder=ladder,
        counted=counted,
    )


def plan(asked: Asked) -> Planned:
    """Decides what `compare` runs. Raises UsageRefusal, BadInput or Missing with one sentence."""
    if asked.profile not in profiles():
        raise UsageRefusal(f"--profile: {asked.profile!r} is not known. Known are: {', '.join(profiles())}")
    if asked.rounds is not None and asked.rounds < 1:
        raise UsageRefusal("--rounds: at least one round is needed")
    if asked.rounds is not None and (asked.precision is not None or asked.time_s is not None):
        raise UsageRefusal("--rounds: with --precision or --time the number of rounds is what is planned")
    profile = profiles()[asked.profile]
    scenarios, dropped = _scenarios(asked)
    left_out = {one.id: wrk.HOW_TO_GET for one in scenarios if one.generator == "wrk" and not wrk.installed()}
    scenarios = [_answered(one) for one in scenarios if one.id not in left_out]
    if not scenarios:
        raise Missing(f"no scenario can be measured here: {wrk.HOW_TO_GET}")
    given = _given(asked)
    if absent := [why for target in given if (why := target.missing()) is not None]:
        raise Missing("; ".join(absent))  # whoever names it wants it measured
    variants = (name for one in scenarios for name in one.variants)
    names = () if asked.real is not None else asked.targets or profile.targets
    chosen = catalogue.choose(list(dict.fromkeys([*names, *variants])), given)
    made = planned(
        chosen,
        scenarios,
        rounds=asked.rounds or profile.rounds,
        baseline=_baseline(asked, profile, chosen),
        asked=asked,
        aa=profile.aa,
        idle_s=profile.idle_s,
        recorders=profile.recorders,
        limit_s=profile.budget_s,
        left_out=left_out,
        dropped=dropped,
        # What somebody names is measured, and nothing else.
        counted=asked.counted or (profile.counted and asked.scenarios is None and asked.trace is None),
        ladder=profile.ladder if asked.scenarios is None and asked.trace is None else None,
    )
    if not made.arms:
        raise Missing("none of the targets can be started here: " + "; ".join(made.missing.values()))
    if asked.baseline is not None and asked.baseline in made.missing:
        raise Missing(f"--baseline: {made.missing[asked.baseline]}")
    return made


def _given(asked: Asked) -> list[Target]:
    """What `--target` and `--variant` name, with keys and certificates. Raises UsageRefusal, BadInput, Missing."""
    found = given_targets.all_of(asked.given, variants=asked.variants)
    headers = keys.headers(asked.headers, os.environ)
    if asked.ca is not None and not Path(asked.ca).is_file():
        raise Missing(f"--ca {asked.ca}: there is no such file")
    running = [target for target in found if isinstance(target, Given)]
    if (asked.headers or asked.ca) and not running:
        raise UsageRefusal("--header and --ca are for targets that run already: --target NAME=URL")
    if asked.real is not None:
        if asked.targets is not None or asked.scenarios is not None:
            raise UsageRefusal("--real measures the targets of --target, with requests of its own or of --trace")
        if len(running) < 2 or len(running) != len(found):
            raise UsageRefusal("--real compares servers: give two or more, --target a=URL --target b=URL")
    passes: Passes = "everything" if asked.real is None else "nothing"
    return [
        replace(one, headers=headers, ca=asked.ca, passes=passes) if isinstance(one, Given) else one for one in found
    ]


def _answered(one: Scenario) -> Scenario:
    """The scenario as it can be answered here: by mocks where nginx is not installed. Its description says which."""
    return one if one.backend == "mocks" or canned.installed() else one.model_copy(update={"backend": "mocks"})


def _baseline(asked: Asked, profile: Profile, chosen: Sequence[Target]) -> str | None:
    names = [target.name for target in chosen if target.missing() is None]
    if asked.baseline is None:
        return profile.baseline if profile.baseline in names else None
    if asked.baseline not in [target.name for target in chosen]:
        raise UsageRefusal(f"--baseline: {asked.baseline!r} is none of the targets of this campaign")
    return asked.baseline


def _scenarios(asked: Asked) -> tuple[list[Scenario], dict[str, Any]]:
    chosen: list[Scenario] = []
    dropped: dict[str, Any] = {}
    if asked.trace is not None:
        replay = replay_scenario(asked.trace, asked.seed)
        if asked.real is not None:
            replay = real_servers.replayed(replay, asked.real)
        chosen.append(replay)
        read = timetable.replayed(asked.trace)
        dropped = {replay.id: {**read.accounting.as_json(), "notes": list(read.notes)}}
    if asked.real is not None:
        return chosen or [real_servers.chats(asked.real, asked.seed, asked.duration_s)], dropped
    named = scenario.choose(asked.scenarios) if asked.scenarios is not None else []
    if asked.scenarios is None and asked.trace is None:
        named = scenario.in_profile(asked.profile)
    # What somebody names is measured with every target, and with no other; a profile spares rivals what says nothing
    # about them.
    chosen += [
        one.for_campaign(asked.profile, asked.duration_s).model_copy(
            update={"only_engines": one.only_engines and asked.scenarios is None}
            | ({} if asked.targets is None else {"variants": ()})
        )
        for one in named
    ]
    if asked.sweep is not None:
        if asked.scenarios is None or len(chosen) != 1:
            raise UsageRefusal("--sweep: name the one scenario to sweep, e.g. --scenarios chat-small")
        chosen = sweep.points(chosen[0], asked.sweep)
    if not chosen:
        raise UsageRefusal(f"--profile {asked.profile}: no scenario belongs to it; name some with --scenarios")
    return chosen, dropped


def replay_scenario(replay: Replay, seed: int) -> Scenario:
    """The scenario of a trace file: its arrivals and sizes, streamed chats at an even pace."""
    read = timetable.replayed(replay)
    warmup = min(1.0, 0.05 * read.duration_s)
    several = read.conversation is not None
    prompt = conversation.GROWING if several else PROMPT_MARK
    body = '{"model":"mock-model","messages":[{"role":"user","content":"' + prompt + '"}],'
    body += '"max_tokens":{{max_tokens}},"seed":{{seed}},"stream":true}'
    return Scenario(
        id=_trace_id(replay.file),
        question=f"How do the targets carry the real traffic of {Path(replay.file).name}?",
        answer="Every reply right, and added time, transit and CPU per event of each target on the same arrivals.",
        kind="stream",
        seed=seed,
        mock=scenario.Mock(profile={"name": "trace", "time_to_first_token": _span(20), "token_gap": _span(10)}),
        requests=(Request(body=body, headers=conversation.HEADERS if several else {}, stream=True),),
        arrivals=replay,
        duration_s=max(read.duration_s - warmup, 0.001),
        warmup_s=warmup,
        timeout_s=120.0,
        steady=False,
        slo={"ttft_ms": 500.0, "tpot_ms": 100.0},
        tags=("trace",),
    )


def _trace_id(file: str) -> str:
    """`trace-` and the file's name in the letters that an id may have; `tr\u00e1fego.csv` is `trace-trafego`."""
    ascii_only = unicodedata.normalize("NFKD", Path(file).stem).encode("ascii", "ignore").decode().lower()
    stem = "".join(letter if letter.isalnum() else "-" for letter in ascii_only).strip("-")
    return f"trace-{stem}"[:60].strip("-")


def _span(milliseconds: int) -> dict[str, str]:
    return {"constant": f"{milliseconds}ms"}
