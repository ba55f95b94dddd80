"""One sitting: a target started once; each of its scenarios checked, loaded, watched, judged and written to disk.

Nothing here decides what is run or repeated. Whatever goes wrong, a run ends as a folder with a run.json: valid, or
void with the reason.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen import aftermath, machine, validity, watch
from loadgen.backends import Backends, Ceiling, ask
from loadgen.child import Child, ChildError
from loadgen.driver.job import Job, save_job
from loadgen.driver.plan import Plan, load_plan
from loadgen.evidence import Conditions, Evidence, judge, recorded_pauses, runtime_table, usage_table
from loadgen.reply import ask_once, what_is_wrong
from loadgen.rounds import Sitting
from loadgen.scenario import Scenario
from loadgen.tally import Reading
from loadgen.targets.direct import Direct
from loadgen.targets.gctrace import pauses_of
from loadgen.targets.target import Running, Wiring
from reports import store
from reports.schema import Check, RunRecord, run_name
from reports.schema import Scenario as Described

_POLL_S = 0.05
_SETTLE_S = 0.2
_ACTIVE_SAMPLES = 10
_DRIVER_START_S = 30.0
_DRIVER_END_S = 60.0  # it writes its rows after the last reply: a million of them take seconds on a slow disk


@dataclass(frozen=True, slots=True)
class Setting:
    """What all sittings of a campaign have in common."""

    folder: Path
    cores: machine.Cores
    idle_s: float
    recorders: bool
    described: Mapping[str, Described]
    ceiling: Ceiling
    plan_of: Callable[[Scenario, int], Path | None]
    """(scenario, round) -> its plan file, None in closed loop."""
    tell: Callable[[str], None]
    """Where progress goes."""


def hold(sitting: Sitting, backends: Backends, setting: Setting) -> Iterator[RunRecord]:
    """Makes the runs of one sitting on running mocks and yields each once it is on disk."""
    first = sitting.scenarios[0]
    place = setting.folder / "starts" / run_name(sitting.round, first.id, sitting.arm.name)
    place.mkdir(parents=True, exist_ok=True)
    wiring = Wiring(
        backends=backends.urls,
        folder=place,
        cores=setting.cores.target,
        recorders=setting.recorders,
        settings=first.settings,
    )
    try:
        running = sitting.arm.target.start(wiring)
    except (ChildError, OSError) as exc:
        broken = validity.broken(f"the target did not start: {exc}", "target")
        for scenario in sitting.scenarios:
            yield _Start(sitting, Running(url=""), backends, setting).unmade(scenario, broken)
        return
    start = _Start(sitting, running, backends, setting)
    try:
        for scenario in sitting.scenarios:
            yield start.run(scenario)
    finally:
        running.stop()


@dataclass(slots=True)
class _Start:
    """One process start of the target, on running mocks."""

    sitting: Sitting
    running: Running
    backends: Backends
    setting: Setting
    idle: tuple[float, int] | None = None
    """CPU ns per second and resident bytes of the target's tree before any load; taken once."""
    fresh: aftermath.Before | None = None
    """Where what is left after a long run is looked for."""

    def run(self, scenario: Scenario) -> RunRecord:
        """One scenario, from the check of a reply to the written record."""
        if "soak" in scenario.tags and self.fresh is None:
            self.fresh = aftermath.before(self.running)
        broken = self.ended() or self.check(scenario)
        if broken is not None:
            return self.unmade(scenario, broken)
        folder = store.run_folder(self.setting.folder, run_name(self.sitting.round, scenario.id, self.sitting.arm.name))
        self.keep_config(folder)
        save_job(self.job(scenario, folder), folder / "job.json")
        generator = "loadgen.wrk" if scenario.generator == "wrk" else "loadgen.driver"
        command = [sys.executable, "-m", generator, str(folder / "job.json"), "--hold"]
        with Child("driver", command, folder, cores=self.setting.cores.driver, held=True) as driver:
            # While the driver gets ready on its own core, which takes it a second or two.
            if self.idle is None and self.running.pid is not None:
                self.idle = _idle(self.running.pid, self.setting.idle_s)
            try:
                driver.wait_ready(_DRIVER_START_S)
            except ChildError as exc:
                return self.unmade(scenario, validity.broken(str(exc), "bench"))
            return self.measure(scenario, driver, folder)

    def ended(self) -> Check | None:
        """What to say if mocks or target are gone."""
        if not self.backends.alive():
            return validity.broken(self.backends.what_happened(), "bench")
        if not self.running.alive():
            return validity.broken(self.running.what_happened(), "target")
        return None

    def check(self, scenario: Scenario) -> Check | None:
        """One reply of each kind against the expected one."""
        passes = self.sitting.arm.target.passes
        try:
            self.backends.behave(scenario.mock)
        except ChildError as exc:
            return validity.broken(f"the mocks refuse the scenario: {exc}", "bench")
        for request in scenario.requests:
            if not request.check:
                continue
            template = request.template(pinned=passes == "everything")
            try:
                reply = ask_once(self.running.url, template, scenario.prompt_bytes or 64, scenario.output_tokens or 8)
                wrong = what_is_wrong(reply, template, from_mock=passes != "nothing")
            except (OSError, http.client.HTTPException) as exc:
                wrong = f"{template.method} {template.path} was not answered: {exc or type(exc).__name__}"
            if wrong is not None:
                # Without a proxy in between it was the mock that answered wrongly.
                direct = isinstance(self.sitting.arm.target, Direct)
                return validity.broken(wrong, "bench" if direct else "target")
        return None

    def measure(self, scenario: Scenario, driver: Child, folder: Path) -> RunRecord:
        """Load, watch, judge, write."""
        record = self.record(scenario)
        with contextlib.suppress(ChildError):  # the mocks are gone; `ended` says how
            self.backends.forget()  # the checked reply
        if self.fresh is not None:
            self.fresh.counts = aftermath.counted(self.running)
        seen = self.drive(scenario, driver)
        seen.mocks = self.backends.stats()
        seen.inside = self.inside()
        seen.pauses = self.pauses(seen)
        seen.left = self.left(scenario, seen)
        conditions = Conditions(
            scenario=scenario,
            described=self.setting.described[scenario.id],
            ceiling=self.setting.ceiling,
            bench_cores=self.setting.cores.bench_size(),
            target_cores=len(self.setting.cores.target or (0,)),
            has_process=self.running.pid is not None,
            idle=self.idle,
            plan=self.plan(scenario, folder),
        )
        record = record.model_copy(
            update={
                "config_hash": seen.inside.get("config_hash") or self.running.config_hash,
                "module_hash": seen.inside.get("module_hash"),
                "versions": dict(seen.inside.get("versions") or self.running.versions),
            }
        )
        for kind in ("requests", "events"):
            store.merge_shards(folder, kind)
        on_disk = store.Run(folder, record)
        record = judge(record, seen, conditions, on_disk.table("requests"), on_disk.table("events"))
        usage, runtime = usage_table(seen.samples), runtime_table(seen.pauses)
        store.write_run(self.setting.folder, record, runtime=runtime, usage=usage)
        return record

    def plan(self, scenario: Scenario, folder: Path) -> Plan | None:
        """The schedule as the driver had it, None in closed loop."""
        path = self.setting.plan_of(scenario, self.sitting.round)
        return None if path is None else load_plan(path, self.job(scenario, folder))

    def job(self, scenario: Scenario, folder: Path) -> Job:
        """What the driver is told."""
        passes = self.sitting.arm.target.passes
        return Job(
            scenario=scenario.id,
            base_url=self.running.url,
            out=folder,
            requests=scenario.templates(pinned=passes == "everything"),
            seed=scenario.seed,
            plan=self.setting.plan_of(scenario, self.sitting.round),
            closed=scenario.closed(),
            shape=scenario.shape(),
            timeout_s=scenario.timeout_s,
            keepalive=scenario.keepalive,
            cancel=scenario.cancel,
            slow_read=scenario.slow_read,
            expected_events=passes != "nothing",
            record_events=scenario.kind == "stream",
        )

    def drive(self, scenario: Scenario, driver: Child) -> Evidence:
        """Lets the driver go and follows it to its end, or until target or mocks are gone."""
        cores = self.setting.cores
        seen = Evidence()
        roots: dict[watch.Role, list[int]] = {"mock": [self.backends.child.pid], "driver": [driver.pid]}
        if self.running.pid is not None:
            roots["target"] = [self.running.pid]
        watcher = watch.Watch(roots)
        ticks, begun = machine.cpu_times(cores.all()), time.monotonic()
        written = self.written()
        watcher.start()
        try:
            driver.raise_priority(machine.DRIVER_PRIORITY)
            driver.release()
            self.follow(driver, scenario, seen)
        finally:
            driver.stop(grace_s=2.0)
            seen.samples = watcher.stop()
            now_written = self.written()
            seen.writes = None if written is None or now_written is None else now_written - written
            seen.wall_s = time.monotonic() - begun
            now = machine.cpu_times(cores.all())
            seen.steal, seen.busy = machine.steal_share(ticks, now), machine.busy_share(ticks, now)
        return seen

    def written(self) -> int | None:
        """How often the target has written so far."""
        return None if self.running.pid is None else watch.tree_write_calls(self.running.pid)

    def follow(self, driver: Child, scenario: Scenario, seen: Evidence) -> None:
        """Waits for the driver, passes on its progress, samples the engine's count of active requests."""
        label = f"round {self.sitting.round} · {self.sitting.arm.name} · {scenario.id}"
        self.setting.tell(label)  # wrk says nothing before it ends
        longest = _DRIVER_START_S + scenario.total_s() + scenario.timeout_s + _DRIVER_END_S
        deadline = time.monotonic() + longest
        sample_at: list[float] | None = None
        while True:
            alive = driver.alive()  # asked before reading, so that its last line is not missed
            for line in driver.json_lines():
                if line.get("finished"):
                    seen.driver = line
                elif line.get("mark"):
                    seen.readings.append(self.reading())
                elif "t" in line:
                    self.setting.tell(f"{label} · {line['t']:.0f} s · {line.get('done', 0):,} done")
                    if sample_at is None:
                        sample_at = _when_to_sample(time.monotonic() - float(line["t"]), scenario)
                        with contextlib.suppress(ChildError):  # they are gone; `ended` says how
                            self.backends.fail(scenario.mock)
            seen.broken = self.ended()
            if seen.broken is not None or not alive:
                break
            if time.monotonic() > deadline:
                seen.broken = validity.broken(f"the driver did not end within {longest:g} s", "bench")
                break
            if sample_at and time.monotonic() >= sample_at[0]:
                sample_at.pop(0)
                self.sample_active(seen)
            time.sleep(_POLL_S)
        if seen.broken is None and (driver.exit_code != 0 or not seen.driver):
            seen.broken = validity.broken(f"the driver {driver.how_it_ended()}: {driver.last_words()}", "bench")

    def reading(self) -> Reading:
        """What the clocks show now, under load."""
        mocks = self.backends.stats()
        now, pid = time.monotonic_ns(), self.running.pid
        cpu = None if pid is None else watch.tree_cpu_ns(_tree_sample(pid), "target")
        return Reading.of(now, cpu, mocks)

    def sample_active(self, seen: Evidence) -> None:
        """One reading of the engine's own count, for Little's law."""
        if self.running.admin is not None:
            with contextlib.suppress(ChildError, KeyError, TypeError, ValueError):
                stats = ask(self.running.admin, "GET", "/internal/stats", wait_s=0.5)
                seen.active.append((time.monotonic_ns(), float(stats["proxy.active_connections"])))

    def inside(self) -> dict[str, Any]:
        """What the target says about itself; empty if it has no admin listener or is gone."""
        if self.running.admin is not None and self.running.alive():
            with contextlib.suppress(ChildError):
                said = ask(self.running.admin, "GET", "/internal/runtime")
                return said if isinstance(said, dict) else {}
        return {}

    def pauses(self, seen: Evidence) -> Sequence[tuple[object, ...]] | None:
        """GC pauses and stalls: from the engine's own recorders, or from what a Go program wrote to stderr."""
        child = self.running.child
        if self.sitting.arm.target.gc_trace and child is not None:
            text = child.stderr.read_text(encoding="utf-8", errors="replace")
            return list(pauses_of(text, child.pid, child.started_ns))
        return recorded_pauses(seen.inside)

    def left(self, scenario: Scenario, seen: Evidence) -> dict[str, Any]:
        """What a long run left behind. After the last scenario the target is stopped first, which may complain too."""
        child = self.running.child
        if self.fresh is None or child is None or not self.running.alive():
            return {}
        with contextlib.suppress(ChildError):
            self.backends.behave(scenario.mock)  # without faults: an endpoint that is found dead is asked more often
        found = aftermath.look(self.running, self.fresh, seen.driver.get("sent"))
        if scenario is self.sitting.scenarios[-1]:
            self.running.stop()
        said = child.stderr.read_text(encoding="utf-8", errors="replace")
        return {**found, "stderr": aftermath.complaints(said)}

    def record(self, scenario: Scenario) -> RunRecord:
        """The record as far as it is known beforehand."""
        return RunRecord(
            run=run_name(self.sitting.round, scenario.id, self.sitting.arm.name),
            scenario=scenario.id,
            target=self.sitting.arm.name,
            round=self.sitting.round,
            order=self.sitting.order,
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            command=self.running.command,
            attempt=self.sitting.attempt,
            generator=scenario.generator,
        )

    def unmade(self, scenario: Scenario, broken: Check) -> RunRecord:
        """A run that could not be made: no rows, the reason, written like any other."""
        record = self.record(scenario)
        record = record.model_copy(update={"validity": [broken], "void_reason": validity.void_reason([broken])})
        self.keep_config(store.run_folder(self.setting.folder, record.run))
        store.write_run(self.setting.folder, record)
        return record

    def keep_config(self, folder: Path) -> None:
        """The exact config the target runs with, beside the run."""
        if self.running.config is not None:
            (folder / "target.config").write_text(self.running.config, encoding="utf-8")


def _idle(pid: int, seconds: float) -> tuple[float, int] | None:
    """CPU ns per second and resident bytes of a process tree of which nothing is asked."""
    time.sleep(_SETTLE_S)
    before = _tree_sample(pid)
    time.sleep(seconds)
    after = _tree_sample(pid)
    if not before or not after:
        return None
    passed = (after[0].t_ns - before[0].t_ns) / 1e9
    used = watch.tree_cpu_ns(after, "target") - watch.tree_cpu_ns(before, "target")
    return max(used / passed, 0.0), sum(row.rss_bytes for row in after)


def _tree_sample(pid: int) -> list[watch.Sample]:
    now = time.monotonic_ns()
    return [row for one in watch.tree(pid) if (row := watch.sample(one, "target", now)) is not None]


def _when_to_sample(started: float, scenario: Scenario) -> list[float]:
    """Moments in the middle 80 % of the measured window, for Little's law."""
    first = started + scenario.warmup_s + 0.1 * scenario.duration_s
    step = 0.8 * scenario.duration_s / _ACTIVE_SAMPLES
    return [first + (number + 0.5) * step for number in range(_ACTIVE_SAMPLES)]
