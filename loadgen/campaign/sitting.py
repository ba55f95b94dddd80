"""A sitting: a target started once; each of its scenarios checked, loaded, watched, judged and written to disk.

Usually one target is alive at a time. Several can be, on the same core: then each has its own driver, all drivers begin
at one moment, and their plans give the targets load in turns (`timetable.in_turns`).

Nothing here decides what is run or repeated.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence

from loadgen.bench import watch
from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends
from loadgen.bench.reply import ask_once, what_is_wrong
from loadgen.campaign import leftovers, validity
from loadgen.campaign.run import Run, Setting, Start
from loadgen.campaign.schedule import LEAD_S, Sitting, loaded
from loadgen.targets.direct import Direct
from loadgen.targets.target import Running, Wiring
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import Turn
from reports.schema import Check, RunRecord, run_name

_POLL_S = 0.05
_SETTLE_S = 0.2


def hold(group: Sequence[Sitting], backends: Backends, setting: Setting) -> Iterator[RunRecord]:
    """Makes the runs of sittings whose targets are alive at once, on running mocks; yields each once it is on disk."""
    starts: dict[str, Start] = {}
    try:
        for sitting in group:
            setting.tell(f"round {sitting.round} · {sitting.arm.name} · starting")
            try:
                running = _started(sitting, backends, setting)
            except (ChildError, OSError) as exc:
                broken = validity.broken(f"the target did not start: {exc}", "target")
                for scenario in sitting.scenarios:
                    yield Start(sitting, Running(url=""), backends, setting).unmade(scenario, broken)
            else:
                starts[sitting.arm.name] = Start(sitting, running, backends, setting)
        for scenario in loaded(group):
            # Turns are dealt to all that were meant to take part: what becomes of one changes nothing for the others.
            meant = [sitting.arm.name for sitting in group if scenario in sitting.scenarios]
            turns = {name: Turn(place, len(meant)) for place, name in enumerate(meant)}
            yield from _load([(starts[name], turn) for name, turn in turns.items() if name in starts], scenario)
    finally:
        for start in starts.values():
            start.running.stop()


def _started(sitting: Sitting, backends: Backends, setting: Setting) -> Running:
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
    return sitting.arm.target.start(wiring)


def _load(starts: Sequence[tuple[Start, Turn]], scenario: Scenario) -> Iterator[RunRecord]:
    """One scenario: everything made ready, all drivers let go at one moment, followed to the end, judged."""
    with contextlib.ExitStack() as drivers:
        runs: list[Run] = []
        for start, turn in starts:
            broken = _checked(start, scenario)
            if broken is None:
                runs.append(Run(start, scenario, turn))
                drivers.callback(runs[-1].stop)
            else:
                yield start.unmade(scenario, broken)
        # While the drivers get ready on their own core, which takes each a second or two.
        _look_at_idle([run.start for run in runs if run.start.idle is None])
        ready = []
        for run in runs:
            try:
                run.wait_ready()
                ready.append(run)
            except ChildError as exc:
                yield run.start.unmade(scenario, validity.broken(str(exc), "bench"))
        begin_ns = time.monotonic_ns() + round(LEAD_S * 1e9) if len(ready) > 1 else None
        for run in ready:
            run.go(begin_ns)
        under_way = ready
        while under_way := [run for run in under_way if run.goes_on()]:
            time.sleep(_POLL_S)
    for run in ready:
        run.seen.beside = [other.seen.samples for other in ready if other is not run]
        yield run.judged()


def _checked(start: Start, scenario: Scenario) -> Check | None:
    """Why a scenario cannot be measured: somebody is gone, or a reply is wrong. None if all is well."""
    if "soak" in scenario.tags and start.fresh is None:
        start.fresh = leftovers.before(start.running)
    return start.ended() or _wrong_reply(start, scenario)


def _wrong_reply(start: Start, scenario: Scenario) -> Check | None:
    """One reply of each kind against the expected one; None if all are right."""
    target = start.sitting.arm.target
    try:
        start.backends.behave(scenario.mock)
    except ChildError as exc:
        return validity.broken(f"the mocks refuse the scenario: {exc}", "bench")
    for request in scenario.requests:
        if not request.check:
            continue
        template = request.template(pinned=target.passes == "everything")
        try:
            reply = ask_once(start.running.url, template, scenario.prompt_bytes or 64, scenario.output_tokens or 8)
            wrong = what_is_wrong(reply, template, from_mock=target.passes != "nothing")
        except (OSError, http.client.HTTPException) as exc:
            wrong = f"{template.method} {template.path} was not answered: {exc or type(exc).__name__}"
        if wrong is not None:
            # Without a proxy in between it was the mock that answered wrongly.
            return validity.broken(wrong, "bench" if isinstance(target, Direct) else "target")
    return None


def _look_at_idle(starts: Sequence[Start]) -> None:
    """Notes what the process trees of these targets cost while nothing is asked of any of them."""
    watched = [(start, start.running.pid) for start in starts if start.running.pid is not None]
    if not watched:
        return
    time.sleep(_SETTLE_S)
    before = [watch.tree_sample(pid, "target") for _, pid in watched]
    time.sleep(watched[0][0].setting.idle_s)
    for (start, pid), early in zip(watched, before, strict=True):
        late = watch.tree_sample(pid, "target")
        if early and late:
            passed = (late[0].t_ns - early[0].t_ns) / 1e9
            used = watch.tree_cpu_ns(late, "target") - watch.tree_cpu_ns(early, "target")
            start.idle = (max(used / passed, 0.0), sum(row.rss_bytes for row in late))
