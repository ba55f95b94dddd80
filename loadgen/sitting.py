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

from loadgen import aftermath, validity, watch
from loadgen.backends import Backends
from loadgen.child import ChildError
from loadgen.reply import ask_once, what_is_wrong
from loadgen.rounds import LEAD_S, Sitting, loaded
from loadgen.run import Run, Setting, Start
from loadgen.scenario import Scenario
from loadgen.targets.direct import Direct
from loadgen.targets.target import Running, Wiring
from loadgen.timetable import Turn
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
    runs: list[Run] = []
    with contextlib.ExitStack() as drivers:
        for start, turn in starts:
            made = _ready(start, scenario, turn, drivers)
            if isinstance(made, Run):
                runs.append(made)
            else:
                yield start.unmade(scenario, made)
        begin_ns = time.monotonic_ns() + round(LEAD_S * 1e9) if len(runs) > 1 else None
        for run in runs:
            run.go(begin_ns)
        under_way = runs
        while under_way := [run for run in under_way if run.goes_on()]:
            time.sleep(_POLL_S)
    for run in runs:
        run.seen.beside = [other.seen.samples for other in runs if other is not run]
        yield run.judged()


def _ready(start: Start, scenario: Scenario, turn: Turn, drivers: contextlib.ExitStack) -> Run | Check:
    """A run whose driver waits to be let go, stopped at the end of `drivers`; or why it cannot be made."""
    if "soak" in scenario.tags and start.fresh is None:
        start.fresh = aftermath.before(start.running)
    broken = start.ended() or _wrong_reply(start, scenario)
    if broken is not None:
        return broken
    run = Run(start, scenario, turn)
    drivers.callback(run.stop)
    # While the driver gets ready on its own core, which takes it a second or two.
    if start.idle is None and start.running.pid is not None:
        start.idle = _idle(start.running.pid, start.setting.idle_s)
    try:
        run.wait_ready()
    except ChildError as exc:
        return validity.broken(str(exc), "bench")
    return run


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


def _idle(pid: int, seconds: float) -> tuple[float, int] | None:
    """CPU ns per second and resident bytes of a process tree of which nothing is asked."""
    time.sleep(_SETTLE_S)
    before = watch.tree_sample(pid, "target")
    time.sleep(seconds)
    after = watch.tree_sample(pid, "target")
    if not before or not after:
        return None
    passed = (after[0].t_ns - before[0].t_ns) / 1e9
    used = watch.tree_cpu_ns(after, "target") - watch.tree_cpu_ns(before, "target")
    return max(used / passed, 0.0), sum(row.rss_bytes for row in after)
