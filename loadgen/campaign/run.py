"""One run: a scenario on a target that is up, from a driver that waits to be let go to the record on disk.

Whatever goes wrong, it ends as a folder with a run.json: valid, or void with the reason.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.bench import machine, watch
from loadgen.bench.child import Child, ChildError
from loadgen.bench.mocks import Backends, Ceiling, ask
from loadgen.campaign import leftovers, validity
from loadgen.campaign.judge import Conditions, Evidence, judge, recorded_pauses, runtime_table, usage_table
from loadgen.campaign.schedule import Sitting
from loadgen.campaign.tally import Reading
from loadgen.targets.gctrace import pauses_of
from loadgen.targets.target import Running
from loadgen.workload.job import Job, save_job
from loadgen.workload.plan import Plan, load_plan
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import ALONE, Turn
from reports import store
from reports.schema import Check, RunRecord, run_name
from reports.schema import Scenario as Described

_DRIVER_START_S = 30.0
_QUIET_S = 0.1  # after the last of the drivers that take turns should have its last reply
_ACTIVE_SAMPLES = 10
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
    plan_of: Callable[[Scenario, int, Turn], Path | None]
    """(scenario, round, turn) -> its plan file, None in closed loop."""
    tell: Callable[[str], None]
    """Where progress goes."""


@dataclass(slots=True)
class Start:
    """One process start of a target, on running mocks."""

    sitting: Sitting
    running: Running
    backends: Backends
    setting: Setting
    idle: tuple[float, int] | None = None
    """CPU ns per second and resident bytes of the target's tree before any load; taken once."""
    fresh: leftovers.Before | None = None
    """Where what is left after a long run is looked for."""

    def ended(self) -> Check | None:
        """What to say if mocks or target are gone."""
        if not self.backends.alive():
            return validity.broken(self.backends.what_happened(), "bench")
        if not self.running.alive():
            return validity.broken(self.running.what_happened(), "target")
        return None

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

    def inside(self) -> dict[str, Any]:
        """What the target says about itself; empty if it has no admin listener or is gone."""
        if self.running.admin is not None and self.running.alive():
            with contextlib.suppress(ChildError):
                said = ask(self.running.admin, "GET", "/internal/runtime")
                return said if isinstance(said, dict) else {}
        return {}


class Run:
    """One scenario on `start`: `go`, then ask `goes_on` again and again until it is over, `stop`, `judged`.

    Owns its driver, which gets ready from the beginning, and the watch over the processes. `stop` may be called at any
    time, also twice. `seen` is complete after it.
    """

    def __init__(self, start: Start, scenario: Scenario, turn: Turn) -> None:
        self.seen = Evidence()
        self.start = start
        self._scenario = scenario
        self._turn = turn
        self._record = start.record(scenario)
        self._folder = store.run_folder(start.setting.folder, self._record.run)
        self._label = f"round {start.sitting.round} · {start.sitting.arm.name} · {scenario.id}"
        self._sample_at: list[float] | None = None
        self._watcher: watch.Watch | None = None
        start.keep_config(self._folder)
        save_job(self._job(), self._folder / "job.json")
        generator = "loadgen.bench.wrk" if scenario.generator == "wrk" else "loadgen.driver"
        command = [sys.executable, "-m", generator, str(self._folder / "job.json"), "--hold"]
        self._driver = Child("driver", command, self._folder, cores=start.setting.cores.driver, held=True)

    def wait_ready(self) -> None:
        """Until the driver can be let go. Raises ChildError."""
        self._driver.wait_ready(_DRIVER_START_S)

    def go(self, begin_ns: int | None) -> None:
        """Lets the driver go; `begin_ns` of the monotonic clock, where several have to begin together."""
        start = self.start
        with contextlib.suppress(ChildError):  # the mocks are gone; `ended` says how
            start.backends.forget()  # the checked reply
        if start.fresh is not None:
            start.fresh.counts = leftovers.counted(start.running)
        roots: dict[watch.Role, list[int]] = {"mock": [start.backends.child.pid], "driver": [self._driver.pid]}
        if start.running.pid is not None:
            roots["target"] = [start.running.pid]
        self._ticks, self._begun = machine.cpu_times(start.setting.cores.all()), time.monotonic()
        self._deadline = self._begun + _DRIVER_START_S + self._scenario.total_s() + self._scenario.timeout_s
        self._deadline += _DRIVER_END_S
        self._written = self._writes()
        self._watcher = watch.Watch(roots)
        self._watcher.start()
        start.setting.tell(self._label)  # wrk says nothing before it ends
        self._driver.raise_priority(machine.DRIVER_PRIORITY)
        self._driver.release(begin_ns)

    def goes_on(self) -> bool:
        """Reads what the driver said, samples what is due. False once driver, target or mocks have ended."""
        if self._watcher is None:
            return False
        seen = self.seen
        alive = self._driver.alive()  # asked before reading, so that its last line is not missed
        for line in self._driver.json_lines():
            if line.get("finished"):
                seen.driver = line
            elif line.get("mark"):
                seen.readings.append(self._reading())
            elif "t" in line:
                self.start.setting.tell(f"{self._label} · {line['t']:.0f} s · {line.get('done', 0):,} done")
                if self._sample_at is None:
                    self._sample_at = _when_to_sample(time.monotonic() - float(line["t"]), self._scenario)
                    with contextlib.suppress(ChildError):  # they are gone; `ended` says how
                        self.start.backends.fail(self._scenario.mock)
        seen.broken = self.start.ended()
        if seen.broken is None and alive and time.monotonic() > self._deadline:
            longest = self._deadline - self._begun
            seen.broken = validity.broken(f"the driver did not end within {longest:g} s", "bench")
        if seen.broken is None and alive:
            if self._sample_at and time.monotonic() >= self._sample_at[0]:
                self._sample_at.pop(0)
                self._sample_active()
            return True
        if seen.broken is None and (self._driver.exit_code != 0 or not seen.driver):
            how = f"the driver {self._driver.how_it_ended()}: {self._driver.last_words()}"
            seen.broken = validity.broken(how, "bench")
        self.stop()
        return False

    def stop(self) -> None:
        """Ends driver and watch, and takes the last readings."""
        self._driver.stop(grace_s=2.0)
        if self._watcher is None:
            return
        seen, watcher, self._watcher = self.seen, self._watcher, None
        seen.samples = watcher.stop()
        written = self._writes()
        seen.writes = None if self._written is None or written is None else written - self._written
        seen.wall_s = time.monotonic() - self._begun
        now = machine.cpu_times(self.start.setting.cores.all())
        seen.steal, seen.busy = machine.steal_share(self._ticks, now), machine.busy_share(self._ticks, now)

    def judged(self) -> RunRecord:
        """The record, on disk with all its tables."""
        start, seen, setting, scenario = self.start, self.seen, self.start.setting, self._scenario
        seen.mocks = start.backends.stats()
        seen.inside = start.inside()
        seen.pauses = self._pauses()
        seen.left = self._left()
        conditions = Conditions(
            scenario=scenario,
            described=setting.described[scenario.id],
            ceiling=setting.ceiling,
            bench_cores=setting.cores.bench_size(),
            target_cores=len(setting.cores.target or (0,)),
            has_process=start.running.pid is not None,
            idle=start.idle,
            plan=self._plan(),
            turns=self._turn.of,
        )
        record = self._record.model_copy(
            update={
                "config_hash": seen.inside.get("config_hash") or start.running.config_hash,
                "module_hash": seen.inside.get("module_hash"),
                "versions": dict(seen.inside.get("versions") or start.running.versions),
            }
        )
        for kind in ("requests", "events"):
            store.merge_shards(self._folder, kind)
        on_disk = store.Run(self._folder, record)
        record = judge(record, seen, conditions, on_disk.table("requests"), on_disk.table("events"))
        store.write_run(setting.folder, record, runtime=runtime_table(seen.pauses), usage=usage_table(seen.samples))
        return record

    def _plan_path(self) -> Path | None:
        return self.start.setting.plan_of(self._scenario, self.start.sitting.round, self._turn)

    def _plan(self) -> Plan | None:
        """The schedule as the driver had it, None in closed loop."""
        path = self._plan_path()
        return None if path is None else load_plan(path, self._job())

    def _job(self) -> Job:
        """What the driver is told."""
        scenario, passes = self._scenario, self.start.sitting.arm.target.passes
        return Job(
            scenario=scenario.id,
            base_url=self.start.running.url,
            out=self._folder,
            requests=scenario.templates(pinned=passes == "everything"),
            seed=scenario.seed,
            plan=self._plan_path(),
            closed=scenario.closed(),
            shape=scenario.shape(),
            timeout_s=scenario.timeout_s,
            quiet_s=0.0 if self._turn == ALONE else scenario.total_s() + scenario.typical_reply_s + _QUIET_S,
            keepalive=scenario.keepalive,
            cancel=scenario.cancel,
            slow_read=scenario.slow_read,
            expected_events=passes != "nothing",
            record_events=scenario.kind == "stream",
        )

    def _writes(self) -> int | None:
        """How often the target has written so far."""
        pid = self.start.running.pid
        return None if pid is None else watch.tree_write_calls(pid)

    def _reading(self) -> Reading:
        """What the clocks show now, under load."""
        mocks = self.start.backends.stats()
        now, pid = time.monotonic_ns(), self.start.running.pid
        cpu = None if pid is None else watch.tree_cpu_ns(watch.tree_sample(pid, "target"), "target")
        return Reading.of(now, cpu, mocks)

    def _sample_active(self) -> None:
        """One reading of the engine's own count, for Little's law."""
        admin = self.start.running.admin
        if admin is not None and self._turn == ALONE:
            with contextlib.suppress(ChildError, KeyError, TypeError, ValueError):
                stats = ask(admin, "GET", "/internal/stats", wait_s=0.5)
                self.seen.active.append((time.monotonic_ns(), float(stats["proxy.active_connections"])))

    def _pauses(self) -> Sequence[tuple[object, ...]] | None:
        """GC pauses and stalls: from the engine's own recorders, or from what a Go program wrote to stderr."""
        child = self.start.running.child
        if self.start.sitting.arm.target.gc_trace and child is not None:
            text = child.stderr.read_text(encoding="utf-8", errors="replace")
            return list(pauses_of(text, child.pid, child.started_ns))
        return recorded_pauses(self.seen.inside)

    def _left(self) -> dict[str, Any]:
        """What a long run left behind. After the last scenario the target is stopped first, which may complain too."""
        start = self.start
        child = start.running.child
        if start.fresh is None or child is None or not start.running.alive():
            return {}
        with contextlib.suppress(ChildError):
            start.backends.behave(self._scenario.mock)  # without faults: a dead endpoint is asked more often
        found = leftovers.look(start.running, start.fresh, self.seen.driver.get("sent"))
        if self._scenario is start.sitting.scenarios[-1]:
            start.running.stop()
        said = child.stderr.read_text(encoding="utf-8", errors="replace")
        return {**found, "stderr": leftovers.complaints(said)}


def _when_to_sample(started: float, scenario: Scenario) -> list[float]:
    """Moments in the middle 80 % of the measured window, for Little's law."""
    first = started + scenario.warmup_s + 0.1 * scenario.duration_s
    step = 0.8 * scenario.duration_s / _ACTIVE_SAMPLES
    return [first + (number + 0.5) * step for number in range(_ACTIVE_SAMPLES)]
