"""A campaign: the interleaved runs of one command, from the plan to the report, stoppable and resumable at any time."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loadgen.bench import machine, mocks
from loadgen.bench.canned import Canned
from loadgen.bench.child import terminable
from loadgen.bench.mocks import Backends, Ceiling, NoBackends
from loadgen.campaign import calibrate, judge, validity
from loadgen.campaign import real as real_servers
from loadgen.campaign.plan import Asked, Planned
from loadgen.campaign.precision import Precision
from loadgen.campaign.run import Setting, measure
from loadgen.campaign.schedule import REPORT_S, Slot, spoilt
from loadgen.campaign.voice import Voice
from loadgen.errors import BadInput, Missing
from loadgen.targets.target import Target
from loadgen.workload import timetable
from loadgen.workload.plan import save_plan
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import ALONE, Turn
from reports import store
from reports.schema import AA_SUFFIX, CampaignHeader, RunRecord, run_name


class LiveCampaign:
    """One campaign on disk, being run. Owns its folder; the only writer of it while it runs."""

    def __init__(self, planned: Planned, folder: Path, voice: Voice) -> None:
        self._planned = planned
        self._folder = folder
        self._voice = voice
        self._records: list[RunRecord] = []
        self._total = 0
        self._begun = time.monotonic()
        self.measured_s = 0.0
        """How long its rounds took, without what comes before the first."""

    @property
    def records(self) -> Sequence[RunRecord]:
        """The runs on disk, earlier sessions' included."""
        return self._records

    @property
    def baseline(self) -> str | None:
        """Whom the others are compared with."""
        return self._planned.baseline

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
                "precision": dict(planned.precision),
                "loads": planned.loads.model_dump(mode="json", exclude_defaults=True),
                "not_installed": {**planned.missing, **planned.left_out},
            }
        )  # records keep fields they do not know
        store.Campaign.create(self._folder, header)
        loads = planned.loads.model_dump(mode="json", exclude_defaults=True)
        store.write_atomically(self._folder / calibrate.FILE, store.dump_json(loads))

    def _describe(self, target: Target) -> Any:
        described = target.describe()
        recorders = self._planned.recorders and described.engine is not None
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
        torn = self._torn([run.record for run in found.runs])
        for name in torn:
            store.discard_run(self._folder, name)
        self._records = [run.record for run in found.runs if run.record.run not in torn]

    def _torn(self, records: Sequence[RunRecord]) -> set[str]:
        """Runs whose targets were loaded in turns with others that did not come to their end: made again together."""
        there = {record.run for record in records}
        found: set[str] = set()
        for number, attempt in {(record.round, record.attempt) for record in records}:
            for _, planned in self._planned.slots(self._planned.scenarios, number, attempt):
                found |= {run for slot in planned if not there.issuperset(slot.runs()) for run in slot.runs()}
        return found & there

    def run(self) -> None:
        """All planned rounds that are not on disk yet, then the repeats. Raises KeyboardInterrupt when interrupted."""
        planned = self._planned
        self._total = sum(planned.starts(one) * len(planned.arms_for(one)) for one in planned.scenarios)
        self._total += sum(planned.runs(mine) for mine in self._extra().values())
        store.update_header(self._folder, state="running")
        try:
            with terminable(), machine.pinned(planned.cores.driver):
                setting = self._setting()
                begun = time.monotonic()
                for number in range(1, planned.rounds + 1):
                    self._round(number, planned.scenarios_in(number), setting, attempt=1)
                self._repeat(setting)
                self.measured_s = time.monotonic() - begun
        except BaseException:
            store.update_header(self._folder, state="interrupted")
            raise
        store.update_header(self._folder, state="complete")

    def _setting(self) -> Setting:
        planned = self._planned
        real = planned.asked.real is not None
        self._voice.step("" if real else "measuring what the mocks reach alone (once for this machine)")
        ceiling = Ceiling(None, None) if real else mocks.ceiling(self._folder.parent / "mock-ceiling.json")
        for one in planned.scenarios:
            made = timetable.make(one, timetable.seed_for(planned.asked.seed, one.id, 1))
            check = validity.mock_ceiling(*judge.asked_of_mocks(one, made, ceiling))
            if not check.ok and not real:
                self._voice.say(f"{one.id} asks for more than this bench can carry and will be void: {check.text}")
        return Setting(
            folder=self._folder,
            cores=planned.cores,
            idle_s=planned.idle_s,
            recorders=planned.recorders,
            described=planned.described(),
            ceiling=ceiling,
            plan_of=self._plan_of,
            tell=self._voice.step,
            real=real,
        )

    def _plan_of(self, one: Scenario, number: int, turn: Turn, arm: str) -> Path | None:
        """The plan file of a scenario in a round; written once, the same requests for every target.

        Real servers keep the prefixes of prompts they have seen, so there each arm sends prompts of its own, as long
        as the others' and at the same times.
        """
        real = self._planned.asked.real is not None
        which = f"-{arm}" if real else "" if turn == ALONE else f"-{turn.place + 1}of{turn.of}"
        path = self._folder / "plans" / f"r{number:02d}-{one.id}{which}.npz"
        if not path.exists():
            made = timetable.make(one, timetable.seed_for(self._planned.asked.seed, one.id, number), turn)
            if made is None:
                return None
            if real:
                made = real_servers.unseen(made, arm)
            path.parent.mkdir(exist_ok=True)
            save_plan(made, path)
        return path

    def _round(self, number: int, scenarios: Sequence[Scenario], setting: Setting, attempt: int) -> None:
        done = {record.run for record in self._records}
        for one, planned in self._planned.slots(scenarios, number, attempt):
            left = [slot for slot in planned if not done.issuperset(slot.runs())]
            if left:
                cores = self._planned.cores_for(one)
                with machine.pinned(cores.driver):
                    self._scenario(one, left, replace(setting, cores=cores))

    def _scenario(self, one: Scenario, slots: Sequence[Slot], setting: Setting) -> None:
        """A scenario of a round: the mocks, then slot by slot; mocks that end in the middle are started again."""
        running: Backends | None = None
        folder = self._folder / "mocks" / run_name(slots[0].round, one.id, "mocks")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for slot in slots:
                if running is None or not running.alive():
                    if running is not None:
                        running.stop()
                    self._voice.step(f"round {slot.round} · {one.id} · starting {one.mock.endpoints} mock backend(s)")
                    running = _started(one, folder, setting)
                for record in measure(slot, running, setting):
                    self.keep(record)
        finally:
            if running is not None:
                running.stop()

    def keep(self, record: RunRecord) -> None:
        """Counts a run that is on disk. Raises BadInput if it measured another program than the runs before it."""
        self._same_program(record)
        self._records.append(record)
        what = f"round {record.round} · {record.target} · {record.scenario}"
        self._voice.advance(len(self._records), self._total, what)
        if record.ended != "ok":
            where = f"round {record.round}, {record.target}, {record.scenario}"
            self._voice.say(f"{record.ended.capitalize()}: {record.why} ({where})")

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
        """Repeats the rounds that the bench spoilt, as often as planned and as long as there is time."""
        planned = self._planned
        extra = self._extra()
        for number, begun in extra.items():
            self._round(number, begun, setting, attempt=2)
        for number in range(max([planned.rounds, *extra]) + 1, planned.rounds + planned.repeats + 1):
            again = spoilt(self._records, planned.scenarios, planned.starts)
            if not again:
                return
            ahead = planned.round_s(again)
            if self.passed_s() + ahead + REPORT_S > planned.budget_s():
                self._voice.say(f"No time is left to repeat what the bench spoilt ({ahead:.0f} s more would be needed)")
                return
            runs = planned.runs(again)
            self._voice.say(f"Repeating {runs} run(s) in an extra round")
            self._total += runs
            self._round(number, again, setting, attempt=2)

    def _extra(self) -> dict[int, list[Scenario]]:
        """The extra rounds on disk, and what each measures. One that was interrupted lacks some of its runs."""
        begun: dict[int, set[str]] = {}
        for record in self._records:
            if record.round > self._planned.rounds:
                begun.setdefault(record.round, set()).add(record.scenario)
        mine = {number: [one for one in self._planned.scenarios if one.id in ids] for number, ids in begun.items()}
        return {number: mine[number] for number in sorted(mine) if mine[number]}


def _started(one: Scenario, folder: Path, setting: Setting) -> Backends:
    """What answers the targets in this scenario. Raises ChildError."""
    if setting.real:
        return NoBackends()
    if one.backend == "nginx":
        return Canned.begin(one, folder, setting.cores.mocks)
    return Backends.start(one.mock.endpoints, folder, setting.cores.mocks)


def asked_before(folder: Path) -> Asked:
    """What an interrupted campaign was asked for. Raises Missing or BadInput."""
    if not folder.is_dir():
        raise Missing(f"--resume {folder}: no such folder")
    header = store.load_campaign(folder).header
    try:
        return Asked.model_validate((header.model_extra or {}).get("asked"))
    except ValidationError as exc:
        raise BadInput(f"{folder / 'campaign.json'}: it does not say what was asked; it cannot be resumed") from exc


def planned_before(folder: Path) -> Precision:
    """What was planned and forecast for a campaign; nothing where it does not say."""
    stored = (store.load_campaign(folder).header.model_extra or {}).get("precision") or {}
    try:
        return Precision.model_validate(stored)
    except ValidationError as exc:
        raise BadInput(f"{folder / 'campaign.json'}: precision: {exc.errors()[0]['msg']}") from exc


def attempts_before(folder: Path, command: str) -> int:
    """How many campaigns of the same command lie in `folder`: repeating until the answer pleases is to be visible."""
    count = 0
    for path in folder.glob("*/campaign.json"):
        if not path.parent.is_symlink():
            with contextlib.suppress(OSError, ValueError, AttributeError):
                count += json.loads(path.read_text(encoding="utf-8")).get("command") == command
    return count
