"""From a slot to records on disk: start, check, idle, load, stop, judge, write.

A run is one scenario on one start of a target. Several runs can be made at once: their targets share a core, each has
its own driver, all drivers begin at one moment, and their plans give the targets load in turns (`timetable.in_turns`).
Whatever goes wrong, a run ends as a folder with a run.json, which says what. Nothing here decides what is run or
repeated.
"""

from __future__ import annotations

import contextlib
import http.client
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadgen.bench import machine, watch
from loadgen.bench.child import Child, ChildError
from loadgen.bench.mocks import Backends, Ceiling, ask
from loadgen.bench.reply import ask_once, what_is_wrong
from loadgen.campaign import leftovers, validity
from loadgen.campaign.judge import Conditions, Observation, judge, recorded_pauses, runtime_table, usage_table
from loadgen.campaign.schedule import SETTLE_S, Slot, idle_key, lead_s
from loadgen.campaign.tally import Reading
from loadgen.targets.direct import Direct, Given
from loadgen.targets.gctrace import pauses_of
from loadgen.targets.keys import handed_over
from loadgen.targets.target import Running, Wiring
from loadgen.workload.job import Job, save_job
from loadgen.workload.plan import Plan, load_plan
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import ALONE, Turn
from reports import store
from reports.schema import Check, RunRecord, ScenarioRecord, run_name

_JOB = "job.json"
_POLL_S = 0.05
_DRIVER_START_S = 30.0
_QUIET_S = 0.1  # after the last of the drivers that take turns should have its last reply
_ACTIVE_SAMPLES = 10
_DRIVER_END_S = 60.0  # it writes its rows after the last reply: a million of them take seconds on a slow disk


@dataclass(frozen=True, slots=True)
class Setting:
    """What all runs of a campaign have in common."""

    folder: Path
    cores: machine.Cores
    idle_s: float
    recorders: bool
    described: Mapping[str, ScenarioRecord]
    ceiling: Ceiling
    plan_of: Callable[[Scenario, int, Turn, str], Path | None]
    """(scenario, round, turn) -> its plan file, None in closed loop."""
    tell: Callable[[str], None]
    """Where progress goes."""
    real: bool = False
    """Real servers answer, in OpenAI's form: there are no mocks, and what is known is known from the client's side."""
    idle_ns_per_s: MutableMapping[tuple[int, str, int, str], float] = field(default_factory=dict)
    """CPU of targets before load, by `schedule.idle_key`: measured once a round and the same for each start."""


def measure(slot: Slot, backends: Backends, setting: Setting) -> Iterator[RunRecord]:
    """Makes the runs of a slot on running mocks; yields each once it is on disk."""
    runs = [LiveRun(slot, place, backends, setting) for place in range(len(slot.arms))]
    with contextlib.ExitStack() as processes:
        refused = _behave(slot, backends)
        for run in runs:
            processes.callback(run.stop)
            run.start_early(refused)
        for run in _up(runs):
            run.start()
        for run in _up(runs):
            run.check()
        for run in _up(runs):
            run.prepare()
        _watch_idle(_up(runs))  # while the drivers get ready on their own core
        for run in _up(runs):
            run.wait_ready()
        loaded = under_way = _up(runs)
        begin_ns = _begin(slot, backends)
        for run in loaded:
            run.go(begin_ns)
        while under_way := [run for run in under_way if run.goes_on()]:
            time.sleep(_POLL_S)
        for run in loaded:
            run.look()
    for run in runs:
        run.seen.beside = [other.seen.samples for other in loaded if other is not run]
        yield run.judged()


def _up(runs: Sequence[LiveRun]) -> list[LiveRun]:
    """Those that nothing has gone wrong with. The others keep their turns, so nothing changes for these."""
    return [run for run in runs if run.seen.broken is None]


def _behave(slot: Slot, backends: Backends) -> Check | None:
    """Makes the mocks behave as the scenario wants, without its faults; what to say if they refuse."""
    try:
        backends.behave(slot.scenario.mock)
    except ChildError as exc:
        return validity.broken(f"the mocks refuse the scenario: {exc}", "bench")
    return None


def _begin(slot: Slot, backends: Backends) -> int:
    """When the load begins, in ns of the monotonic clock; faults of the mocks count from then."""
    begin_ns = time.monotonic_ns() + round(lead_s(slot) * 1e9)
    with contextlib.suppress(ChildError):  # the mocks are gone; `Run.goes_on` says how
        backends.forget()  # the checked replies
        backends.fail(slot.scenario.mock, begin_ns)
    return begin_ns


def _watch_idle(runs: Sequence[LiveRun]) -> None:
    """Notes what the process trees of these targets cost while nothing is asked of any of them."""
    watched = [(run, run.running.pid) for run in runs if run.running.pid is not None]
    if any(run.idle_key not in run.setting.idle_ns_per_s for run, _ in watched):
        time.sleep(SETTLE_S)
        before = [watch.tree_sample(pid, "target") for _, pid in watched]
        time.sleep(runs[0].setting.idle_s)
        for (run, pid), early in zip(watched, before, strict=True):
            late = watch.tree_sample(pid, "target")
            if early and late:
                passed = (late[0].t_ns - early[0].t_ns) / 1e9
                used = watch.tree_cpu_ns(late, "target") - watch.tree_cpu_ns(early, "target")
                run.setting.idle_ns_per_s[run.idle_key] = max(used / passed, 0.0)


class LiveRun:
    """One scenario on one start of a target. `seen` is what was seen of it; `seen.broken` says why it goes no further.

    Owns the target's process, the driver and the watch over the processes. `stop` may be called at any time, also
    twice.
    """

    def __init__(self, slot: Slot, place: int, backends: Backends, setting: Setting) -> None:
        self.seen = Observation()
        self.setting = setting
        self.running = Running(url="")
        self.idle_key = idle_key(slot, slot.arms[place])
        self._backends = backends
        self._scenario = slot.scenario
        self._arm = slot.arms[place]
        self._turn = slot.turn(place)
        self._round = slot.round
        self._record = RunRecord(
            run=run_name(slot.round, slot.scenario.id, self._arm.name),
            scenario=slot.scenario.id,
            target=self._arm.name,
            round=slot.round,
            order=slot.order + place,
            attempt=slot.attempt,
            generator=slot.scenario.generator,
            turns=self._turn.of,
            cores=len(setting.cores.target or (0,)),
        )
        self._folder = store.run_folder(setting.folder, self._record.run)
        self._label = f"round {slot.round} · {self._arm.name} · {slot.scenario.id}"
        self._sample_at: list[float] = []
        self._idle_rss: int | None = None
        self._fresh: leftovers.Before | None = None
        self._driver: Child | None = None
        self._watcher: watch.Watch | None = None

    def start_early(self, refused: Check | None = None) -> None:
        """Makes the run's folder, and starts our driver, which imports Locust on its own core while targets start on
        theirs. `refused`: why there is no point."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.seen.broken = refused
        target = self._arm.target
        if refused is None and self._scenario.generator == "locust" and not isinstance(target, Given):
            self._driver = self._start_driver("loadgen.driver", "--hold", "--early")

    def start(self) -> None:
        """Starts the target, with its config and its output in the run's folder."""
        self.setting.tell(f"{self._label} · starting")
        wiring = Wiring(
            backends=self._backends.urls,
            folder=self._folder,
            cores=self.setting.cores.target,
            recorders=self.setting.recorders,
            settings=self._scenario.settings,
        )
        self._record = self._record.model_copy(update={"started": datetime.now(UTC).isoformat(timespec="milliseconds")})
        try:
            self.running = self._arm.target.start(wiring)
        except (ChildError, OSError) as exc:
            self.seen.broken = validity.broken(f"the target did not start: {exc}", "target")
            return
        self._record = self._record.model_copy(update={"command": self.running.command})
        if self.running.config is not None:
            (self._folder / "target.config").write_text(self.running.config, encoding="utf-8")
        if "soak" in self._scenario.tags:
            self._fresh = leftovers.before(self.running)

    def check(self) -> None:
        """One reply of each kind against the expected one."""
        self.seen.broken = self._ended() or self._wrong_reply()

    def prepare(self) -> None:
        """Gives the driver its job; it gets ready and waits."""
        save_job(self._job(), self._folder / _JOB)
        if self._driver is not None:
            self._driver.tell("job")
            return
        generator = "loadgen.bench.wrk" if self._scenario.generator == "wrk" else "loadgen.driver"
        self._driver = self._start_driver(generator, "--hold")

    def _start_driver(self, module: str, *options: str) -> Child:
        command = [sys.executable, "-m", module, str(self._folder / _JOB), *options]
        keys = handed_over(self.running.headers)  # by its environment: no file of the campaign holds them
        return Child("driver", command, self._folder, cores=self.setting.cores.driver, env=keys, held=True)

    def wait_ready(self) -> None:
        """Until the driver can be let go; then looks at what the target holds before load."""
        assert self._driver is not None
        try:
            self._driver.wait_ready(_DRIVER_START_S)
        except ChildError as exc:
            self.seen.broken = validity.broken(str(exc), "bench")
            return
        if self.running.pid is not None:
            rows = watch.tree_sample(self.running.pid, "target")
            self._idle_rss = sum(row.rss_bytes for row in rows) if rows else None

    def go(self, begin_ns: int) -> None:
        """Lets the driver go, which begins at `begin_ns` of the monotonic clock (wrk begins at once)."""
        assert self._driver is not None
        if self._fresh is not None:
            self._fresh.counts = leftovers.counted(self.running)
        roots: dict[watch.Role, list[int]] = {"mock": self._backends.pids, "driver": [self._driver.pid]}
        if self.running.pid is not None:
            roots["target"] = [self.running.pid]
        self._ticks, self._begun = machine.cpu_times(self.setting.cores.all()), time.monotonic()
        self._deadline = self._begun + _DRIVER_START_S + self._scenario.total_s() + self._scenario.timeout_s
        self._deadline += _DRIVER_END_S
        self._written = self._writes()
        self._sample_at = _when_to_sample(begin_ns / 1e9, self._scenario)
        self._watcher = watch.Watch(roots)
        self._watcher.start()
        self.setting.tell(self._label)  # wrk says nothing before it ends
        self._driver.raise_priority(machine.DRIVER_PRIORITY)
        self._driver.release(begin_ns)

    def goes_on(self) -> bool:
        """Reads what the driver said, samples what is due. False once driver, target or mocks have ended."""
        if self._watcher is None or self._driver is None:
            return False
        seen = self.seen
        alive = self._driver.alive()  # asked before reading, so that its last line is not missed
        for line in self._driver.json_lines():
            if line.get("finished"):
                seen.driver = line
            elif line.get("mark"):
                seen.readings.append(self._reading())
            elif "t" in line:
                self.setting.tell(f"{self._label} · {line['t']:.0f} s · {line.get('done', 0):,} done")
        seen.broken = self._ended()
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
        self._end_load()
        return False

    def look(self) -> None:
        """What target and mocks say about themselves after the load; after a soak the target is stopped meanwhile."""
        self.seen.mocks = self._backends.stats()
        self.seen.inside = self._inside()
        self.seen.pauses = self._pauses()
        self.seen.left = self._left()

    def stop(self) -> None:
        """Ends driver, watch and target."""
        if self._driver is not None:
            self._driver.stop(grace_s=2.0)
        self._end_load()
        self.running.stop()

    def _end_load(self) -> None:
        """Takes the last readings, once; a driver that is not through does not go on."""
        if self._watcher is None or self._driver is None:
            return
        self._driver.stop(grace_s=2.0)
        seen, watcher, self._watcher = self.seen, self._watcher, None
        seen.samples = watcher.stop()
        written = self._writes()
        seen.writes = None if self._written is None or written is None else written - self._written
        seen.wall_s = time.monotonic() - self._begun
        now = machine.cpu_times(self.setting.cores.all())
        seen.steal, seen.busy = machine.steal_share(self._ticks, now), machine.busy_share(self._ticks, now)

    def judged(self) -> RunRecord:
        """The record, on disk with all its tables."""
        seen, setting, scenario = self.seen, self.setting, self._scenario
        cpu = setting.idle_ns_per_s.get(self.idle_key)
        conditions = Conditions(
            scenario=scenario,
            described=setting.described[scenario.id],
            ceiling=setting.ceiling,
            cores=setting.cores,
            has_process=self.running.pid is not None,
            idle=None if cpu is None or self._idle_rss is None else (cpu, self._idle_rss),
            plan=self._plan() if self.running.url else None,
            turns=self._turn.of,
        )
        record = self._record.model_copy(
            update={
                "config_hash": seen.inside.get("config_hash") or self.running.config_hash,
                "module_hash": seen.inside.get("module_hash"),
                "versions": dict(seen.inside.get("versions") or self.running.versions),
            }
        )
        for kind in ("requests", "events"):
            store.merge_shards(self._folder, kind)
        on_disk = store.Run(self._folder, record)
        record = judge(record, seen, conditions, on_disk.table("requests"), on_disk.table("events"))
        store.write_run(setting.folder, record, runtime=runtime_table(seen.pauses), usage=usage_table(seen.samples))
        return record

    def _ended(self) -> Check | None:
        """What to say if mocks or target are gone."""
        if not self._backends.alive():
            return validity.broken(self._backends.what_happened(), "bench")
        if not self.running.alive():
            return validity.broken(self.running.what_happened(), "target")
        return None

    def _wrong_reply(self) -> Check | None:
        """One reply of each kind against the expected one; None if all are right."""
        target, scenario = self._arm.target, self._scenario
        sizes = scenario.prompt_bytes or 64, scenario.output_tokens or 8
        for request in scenario.requests:
            if not request.check:
                continue
            template = scenario.template(request, pinned=target.passes == "everything")
            template = replace(template, headers={**template.headers, **self.running.headers})
            try:
                reply = ask_once(self.running.url, template, *sizes, ca=self.running.ca)
                wrong = what_is_wrong(reply, template, from_mock=target.passes != "nothing")
            except (OSError, http.client.HTTPException) as exc:
                wrong = f"{template.method} {template.path} was not answered: {exc or type(exc).__name__}"
            if wrong is not None:
                # Without a proxy in between it was the mock that answered wrongly.
                return validity.broken(wrong, "bench" if isinstance(target, Direct) else "target")
        return None

    def _inside(self) -> dict[str, Any]:
        """What the target says about itself; empty if it has no admin listener or is gone."""
        if self.running.admin is not None and self.running.alive():
            with contextlib.suppress(ChildError):
                said = ask(self.running.admin, "GET", "/internal/runtime")
                return said if isinstance(said, dict) else {}
        return {}

    def _plan_path(self) -> Path | None:
        return self.setting.plan_of(self._scenario, self._round, self._turn, self._arm.name)

    def _plan(self) -> Plan | None:
        """The schedule as the driver had it, None in closed loop."""
        path = self._plan_path()
        return None if path is None else load_plan(path, self._job())

    def _job(self) -> Job:
        """What the driver is told."""
        scenario, passes, setting = self._scenario, self._arm.target.passes, self.setting
        return Job(
            scenario=scenario.id,
            base_url=self.running.url,
            out=self._folder,
            requests=scenario.templates(pinned=passes == "everything"),
            seed=scenario.seed,
            plan=self._plan_path(),
            closed=scenario.closed(),
            shape=scenario.shape(),
            timeout_s=scenario.timeout_s,
            drain_s=scenario.drain_s(),
            quiet_s=0.0 if self._turn == ALONE else scenario.total_s() + scenario.typical_reply_s + _QUIET_S,
            keepalive=scenario.keepalive,
            cancel=scenario.cancel,
            slow_read=scenario.slow_read,
            expected_events=passes != "nothing",
            record_events=scenario.kind == "stream",
            tokens=setting.real,
            ca=self.running.ca,
        )

    def _writes(self) -> int | None:
        """How often the target has written so far."""
        pid = self.running.pid
        return None if pid is None else watch.tree_write_calls(pid)

    def _reading(self) -> Reading:
        """What the clocks show now, under load."""
        mocks = self._backends.stats()
        now, pid = time.monotonic_ns(), self.running.pid
        cpu = None if pid is None else watch.tree_cpu_ns(watch.tree_sample(pid, "target"), "target")
        return Reading.of(now, cpu, mocks)

    def _sample_active(self) -> None:
        """One reading of the engine's own count, for Little's law."""
        admin = self.running.admin
        if admin is not None and self._turn == ALONE:
            with contextlib.suppress(ChildError, KeyError, TypeError, ValueError):
                stats = ask(admin, "GET", "/internal/stats", wait_s=0.5)
                self.seen.active.append((time.monotonic_ns(), float(stats["proxy.active_connections"])))

    def _pauses(self) -> Sequence[tuple[object, ...]] | None:
        """GC pauses and stalls: from the engine's own recorders, or from what a Go program wrote to stderr."""
        child = self.running.child
        if self._arm.target.gc_trace and child is not None:
            text = child.stderr.read_text(encoding="utf-8", errors="replace")
            return list(pauses_of(text, child.pid, child.started_ns))
        return recorded_pauses(self.seen.inside)

    def _left(self) -> dict[str, Any]:
        """What a long run left behind. The target is stopped for that, as it may complain while it stops, too."""
        child = self.running.child
        if self._fresh is None or child is None or not self.running.alive():
            return {}
        with contextlib.suppress(ChildError):
            self._backends.behave(self._scenario.mock)  # without faults: a dead endpoint is asked more often
        found = leftovers.look(self.running, self._fresh, self.seen.driver.get("sent"))
        self.running.stop()
        said = child.stderr.read_text(encoding="utf-8", errors="replace")
        return {**found, "stderr": leftovers.complaints(said)}


def _when_to_sample(started_s: float, scenario: Scenario) -> list[float]:
    """Moments in the middle 80 % of the measured window, for Little's law."""
    first = started_s + scenario.warmup_s + 0.1 * scenario.duration_s
    step = 0.8 * scenario.duration_s / _ACTIVE_SAMPLES
    return [first + (number + 0.5) * step for number in range(_ACTIVE_SAMPLES)]
