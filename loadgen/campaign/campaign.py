"""A campaign: the interleaved runs of one command, from the plan to the report, stoppable and resumable at any time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from loadgen.bench import machine, mocks, wrk
from loadgen.bench.mocks import Backends
from loadgen.campaign import judge, validity
from loadgen.campaign.run import Setting
from loadgen.campaign.schedule import (
    REPORT_S,
    Arm,
    Bench,
    Profile,
    Sitting,
    arms_of,
    bench_seconds,
    benches,
    campaign_seconds,
    default_baseline,
    profiles,
    shortfall,
    wanted_of,
)
from loadgen.campaign.sitting import hold
from loadgen.errors import BadInput, Missing, UsageRefusal
from loadgen.targets import catalogue
from loadgen.targets.direct import parse_given
from loadgen.targets.target import Target
from loadgen.workload import scenario, timetable
from loadgen.workload.plan import save_plan
from loadgen.workload.scenario import Replay, Request, Scenario
from loadgen.workload.timetable import ALONE, Turn
from reports import store
from reports.schema import AA_SUFFIX, CampaignHeader, RunRecord, run_name
from reports.schema import Scenario as Described


class Asked(BaseModel):
    """What was typed: all that a campaign follows from. Kept in campaign.json, so that `--resume` needs no more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: str = "quick"
    targets: tuple[str, ...] | None = None
    given: tuple[str, ...] = ()
    scenarios: tuple[str, ...] | None = None
    trace: Replay | None = None
    baseline: str | None = None
    rounds: int | None = None
    duration_s: float | None = None
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Planned:
    """A campaign decided upon: nothing has been started yet."""

    asked: Asked
    profile: Profile
    rounds: int
    arms: tuple[Arm, ...]
    missing: Mapping[str, str]
    """Targets that cannot be started here, with what to do about it."""
    targets: tuple[Target, ...]
    """All of them, the missing ones too."""
    scenarios: tuple[Scenario, ...]
    baseline: str | None
    cores: machine.Cores
    dropped: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Scenarios whose generator is not here, with what to do about it."""

    def seconds(self) -> float:
        """The announced duration, without repeats."""
        together = self.profile.together
        return campaign_seconds(self.arms, self.scenarios, self.rounds, self.profile.idle_s, together=together)

    def budget_s(self) -> float:
        """Repeats are begun only if they end within this: what the profile allows, or half as much again as planned
        where what was asked for is longer than the profile is meant to be."""
        budget = self.profile.budget_s
        return budget if self.seconds() <= budget else 1.5 * self.seconds()

    def wanted(self) -> dict[str, list[Scenario]]:
        """What every planned round measures."""
        return wanted_of(self.arms, self.scenarios)

    def described(self) -> dict[str, Described]:
        """The scenarios as campaign.json holds them."""
        all_of_them = {one.id: one.describe(self.cores.note) for one in self.scenarios}
        if not self.profile.together:
            return all_of_them
        how = f" in turns of {timetable.SLICE_S:g} s among all targets, which are alive at once"
        return {name: one.model_copy(update={"arrivals": one.arrivals + how}) for name, one in all_of_them.items()}


class Voice(Protocol):
    """Where a running campaign says what it does."""

    def step(self, text: str) -> None:
        """What is going on right now; may be shown for a moment only."""

    def say(self, text: str) -> None:
        """Something that stays on the screen."""

    def advance(self, runs: int, of: int) -> None:
        """So many of the planned runs are on disk."""


def plan(asked: Asked) -> Planned:
    """Decides what to run. Raises UsageRefusal, BadInput or Missing with one sentence."""
    if asked.profile not in profiles():
        raise UsageRefusal(f"--profile: {asked.profile!r} is not known. Known are: {', '.join(profiles())}")
    profile = profiles()[asked.profile]
    scenarios, dropped = _scenarios(asked)
    left_out = {one.id: wrk.HOW_TO_GET for one in scenarios if one.generator == "wrk" and not wrk.installed()}
    scenarios = [one for one in scenarios if one.id not in left_out]
    if not scenarios:
        raise Missing(f"no scenario can be measured here: {wrk.HOW_TO_GET}")
    given = [parse_given(text) for text in asked.given]
    variants = (name for one in scenarios for name in one.variants)
    chosen = catalogue.choose(list(dict.fromkeys([*(asked.targets or profile.targets), *variants])), given)
    missing = {target.name: why for target in chosen if (why := target.missing()) is not None}
    there = [target for target in chosen if target.name not in missing]
    if not there:
        raise Missing("none of the targets can be started here: " + "; ".join(missing.values()))
    baseline = asked.baseline or (profile.baseline if any(t.name == profile.baseline for t in there) else None)
    baseline = baseline or default_baseline(there)
    if asked.baseline is not None and asked.baseline not in [target.name for target in chosen]:
        raise UsageRefusal(f"--baseline: {asked.baseline!r} is none of the targets of this campaign")
    if asked.baseline in missing:
        raise Missing(f"--baseline: {missing[asked.baseline]}")
    if asked.rounds is not None and asked.rounds < 1:
        raise UsageRefusal("--rounds: at least one round is needed")
    return Planned(
        asked=asked,
        profile=profile,
        rounds=asked.rounds or profile.rounds,
        arms=tuple(arms_of(there, baseline if profile.aa else None)),
        missing=missing,
        left_out=left_out,
        targets=tuple(chosen),
        scenarios=tuple(scenarios),
        baseline=baseline,
        cores=machine.assign_cores(machine.available_cores()),
        dropped=dropped,
    )


def _scenarios(asked: Asked) -> tuple[list[Scenario], dict[str, Any]]:
    chosen: list[Scenario] = []
    dropped: dict[str, Any] = {}
    if asked.trace is not None:
        replay = replay_scenario(asked.trace, asked.seed)
        chosen.append(replay)
        dropped = {replay.id: timetable.replayed(asked.trace).accounting.as_json()}
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
    if not chosen:
        raise UsageRefusal(f"--profile {asked.profile}: no scenario belongs to it; name some with --scenarios")
    return chosen, dropped


def replay_scenario(replay: Replay, seed: int) -> Scenario:
    """The scenario of a trace file: its arrivals and sizes, streamed chats at an even pace."""
    read = timetable.replayed(replay)
    warmup = min(1.0, 0.05 * read.duration_s)
    stem = "".join(letter if letter.isalnum() else "-" for letter in Path(replay.file).stem.lower()).strip("-")
    body = '{"model":"mock-model","messages":[{"role":"user","content":"{{prompt}}"}],'
    body += '"max_tokens":{{max_tokens}},"seed":{{seed}},"stream":true}'
    return Scenario(
        id=f"trace-{stem}"[:60],
        question=f"How do the targets carry the real traffic of {Path(replay.file).name}?",
        answer="Every reply right, and added time, transit and CPU per event of each target on the same arrivals.",
        kind="stream",
        seed=seed,
        mock=scenario.Mock(profile={"name": "trace", "time_to_first_token": _span(20), "token_gap": _span(10)}),
        requests=(Request(body=body, stream=True),),
        arrivals=replay,
        duration_s=max(read.duration_s - warmup, 0.001),
        warmup_s=warmup,
        timeout_s=120.0,
        steady=False,
        slo={"ttft_ms": 500.0, "tpot_ms": 100.0},
        tags=("trace",),
    )


def _span(milliseconds: int) -> dict[str, str]:
    return {"constant": f"{milliseconds}ms"}


class Campaign:
    """One campaign on disk, being run. Owns its folder; the only writer of it while it runs."""

    def __init__(self, planned: Planned, folder: Path, voice: Voice) -> None:
        self._planned = planned
        self._folder = folder
        self._voice = voice
        self._records: list[RunRecord] = []
        self._total = 0
        self._begun = time.monotonic()

    @property
    def records(self) -> Sequence[RunRecord]:
        """The runs on disk, earlier sessions' included."""
        return self._records

    def passed_s(self) -> float:
        """Seconds since this session of it began."""
        return time.monotonic() - self._begun

    def create(self, command: str) -> None:
        """Makes the folder and campaign.json. Raises store.ReportError if a campaign is there already."""
        planned = self._planned
        header = CampaignHeader(
            id=self._folder.name,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
            attempt=attempts_before(self._folder.parent, command) + 1,
            seed=planned.asked.seed,
            profile=planned.asked.profile,
            machine=machine.describe(planned.cores),
            versions=machine.versions(),
            baseline=planned.baseline or "",
            targets=[self._describe(target) for target in planned.targets],
            scenarios=planned.described(),
            rounds_planned=planned.rounds,
            limits=dict(validity.LIMITS),
            dropped=dict(planned.dropped),
        ).model_copy(
            update={
                "asked": planned.asked.model_dump(mode="json"),
                "not_installed": {**planned.missing, **planned.left_out},
            }
        )  # records keep fields they do not know
        store.Campaign.create(self._folder, header)

    def _describe(self, target: Target) -> Any:
        described = target.describe()
        recorders = self._planned.profile.recorders and described.engine is not None
        return described.model_copy(update={"recorders": recorders})

    def adopt(self) -> None:
        """Takes over the runs an interrupted campaign finished; forgets the ones it did not."""
        found = store.load_campaign(self._folder)
        for one in self._planned.scenarios:
            stored = found.header.scenarios.get(one.id)
            if stored is not None and stored.hash != one.hash():
                raise BadInput(
                    f"{self._folder}: the scenario {one.id} has changed since this campaign began; "
                    "its runs cannot be mixed with new ones. Start a new campaign"
                )
        for name in found.unfinished:
            store.discard_run(self._folder, name)
        self._records = [run.record for run in found.runs]

    def run(self) -> None:
        """All planned rounds that are not on disk yet, then the repeats. Raises KeyboardInterrupt when interrupted."""
        planned = self._planned
        self._total = planned.rounds * sum(len(scenarios) for scenarios in planned.wanted().values())
        store.update_header(self._folder, state="running")
        try:
            with _terminable(), _pinned(planned.cores.driver):
                setting = self._setting()
                for number in range(1, planned.rounds + 1):
                    self._round(number, planned.wanted(), setting, attempt=1)
                self._repeat(setting)
        except BaseException:
            store.update_header(self._folder, state="interrupted")
            raise
        store.update_header(self._folder, state="complete")

    def _setting(self) -> Setting:
        planned = self._planned
        self._voice.step("measuring what the mocks reach alone (once for this machine)")
        ceiling = mocks.ceiling(self._folder.parent / "mock-ceiling.json")
        for one in planned.scenarios:
            made = timetable.make(one, timetable.seed_for(planned.asked.seed, one.id, 1))
            check = validity.mock_ceiling(*judge.asked_of_mocks(one, made, ceiling))
            if not check.ok:
                self._voice.say(f"{one.id} asks for more than this bench can carry and will be void: {check.text}")
        return Setting(
            folder=self._folder,
            cores=planned.cores,
            idle_s=planned.profile.idle_s,
            recorders=planned.profile.recorders,
            described=planned.described(),
            ceiling=ceiling,
            plan_of=self._plan_of,
            tell=self._voice.step,
        )

    def _plan_of(self, one: Scenario, number: int, turn: Turn) -> Path | None:
        """The plan file of a scenario in a round; written once, the same requests for every target."""
        which = "" if turn == ALONE else f"-{turn.place + 1}of{turn.of}"
        path = self._folder / "plans" / f"r{number:02d}-{one.id}{which}.npz"
        if not path.exists():
            made = timetable.make(one, timetable.seed_for(self._planned.asked.seed, one.id, number), turn)
            if made is None:
                return None
            path.parent.mkdir(exist_ok=True)
            save_plan(made, path)
        return path

    def _round(self, number: int, wanted: Mapping[str, Sequence[Scenario]], setting: Setting, attempt: int) -> None:
        done = {record.run for record in self._records}
        together = self._planned.profile.together
        for bench in benches(self._planned.arms, wanted, number, attempt, together=together):
            left = [rest for sitting in bench.sittings if (rest := _without(sitting, done)) is not None]
            if left:
                self._bench(Bench(bench.endpoints, tuple(left), together), setting)

    def _bench(self, bench: Bench, setting: Setting) -> None:
        """The sittings of one bench; mocks that end in the middle are started again for the next sitting."""
        running: Backends | None = None
        folder = self._folder / "starts" / run_name(bench.sittings[0].round, f"{bench.endpoints}-endpoints", "mocks")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for group in bench.groups():
                if running is None or not running.alive():
                    if running is not None:
                        running.stop()
                    self._voice.step(f"round {group[0].round} · starting {bench.endpoints} mock backend(s)")
                    running = Backends.start(bench.endpoints, 0, folder, setting.cores.mocks)
                for record in hold(group, running, setting):
                    self.keep(record)
        finally:
            if running is not None:
                running.stop()

    def keep(self, record: RunRecord) -> None:
        """Counts a run that is on disk. Raises BadInput if it measured another program than the runs before it."""
        self._same_program(record)
        self._records.append(record)
        self._voice.advance(len(self._records), self._total)
        if record.void_reason is not None:
            where = f"round {record.round}, {record.target}, {record.scenario}"
            self._voice.say(f"Void: {record.void_reason} ({where})")

    def _same_program(self, record: RunRecord) -> None:
        """Stops a campaign whose engine was edited under it: BadInput, and the run is forgotten. A report refuses to
        mix two programs, so what is measured after such a change would be lost, or all that was measured before."""
        name = record.target.removesuffix(AA_SUFFIX)
        before = next((old for old in self._records if old.target.removesuffix(AA_SUFFIX) == name), None)
        if before is None or None in (before.module_hash, record.module_hash):
            return
        if before.module_hash != record.module_hash:
            (store.run_folder(self._folder, record.run) / "run.json").unlink(missing_ok=True)  # as if it never ended
            raise BadInput(
                f"{name}: its program changed while the campaign ran (module_hash of {record.run} is not that of "
                f"{before.run}). Undo the change and continue with --resume {self._folder}, or start a new campaign"
            )

    def _repeat(self, setting: Setting) -> None:
        """Repeats what was voided, at most half the rounds extra, as long as there is time."""
        planned = self._planned
        done = max([planned.rounds, *(record.round for record in self._records)])
        for number in range(done + 1, planned.rounds + planned.rounds // 2 + 1):
            wanted = shortfall(self._records, planned.arms, planned.scenarios, planned.rounds, planned.baseline)
            if not wanted:
                return
            extra = benches(planned.arms, wanted, number, together=planned.profile.together)
            ahead = sum(bench_seconds(bench, setting.idle_s) for bench in extra)
            if self.passed_s() + ahead + REPORT_S > planned.budget_s():
                self._voice.say(f"No time is left to repeat what was voided ({ahead:.0f} s more would be needed)")
                return
            runs = sum(len(scenarios) for scenarios in wanted.values())
            self._voice.say(f"Repeating {runs} run(s) in an extra round")
            self._total += runs
            self._round(number, wanted, setting, attempt=2)


def _without(sitting: Sitting, done: set[str]) -> Sitting | None:
    """The sitting without the runs that are on disk; None if nothing is left."""
    left = tuple(one for one in sitting.scenarios if run_name(sitting.round, one.id, sitting.arm.name) not in done)
    return Sitting(sitting.round, sitting.order, sitting.arm, left, sitting.attempt) if left else None


def asked_before(folder: Path) -> Asked:
    """What an interrupted campaign was asked for. Raises Missing or BadInput."""
    if not folder.is_dir():
        raise Missing(f"--resume {folder}: no such folder")
    header = store.load_campaign(folder).header
    try:
        return Asked.model_validate((header.model_extra or {}).get("asked"))
    except ValidationError as exc:
        raise BadInput(f"{folder / 'campaign.json'}: it does not say what was asked; it cannot be resumed") from exc


def attempts_before(folder: Path, command: str) -> int:
    """How many campaigns of the same command lie in `folder`: repeating until the answer pleases is to be visible."""
    count = 0
    for path in folder.glob("*/campaign.json"):
        if not path.parent.is_symlink():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                count += json.loads(path.read_text(encoding="utf-8")).get("command") == command
    return count


@contextlib.contextmanager
def _pinned(cores: tuple[int, ...] | None) -> Iterator[None]:
    """The conductor itself stays off the target's core."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end a campaign like Ctrl-C: in order, with nothing left running."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
