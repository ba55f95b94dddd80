"""Before a campaign: a few seconds for each target and kind of work tell what it carries, and so which loads fit here.

Each target is driven in closed loop by the same driver and mocks that the campaign uses, and so are the mocks alone.
What a target did then is the least that it carries. CPU says nothing here: on a core that is throttled, or shared with
others, a process is at its limit long before it has used a core.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from loadgen.bench import machine
from loadgen.bench.child import terminable
from loadgen.bench.mocks import Backends, Ceiling
from loadgen.campaign import ladder
from loadgen.campaign.plan import Planned
from loadgen.campaign.run import Setting, measure
from loadgen.campaign.schedule import Arm, Slot, in_turns
from loadgen.campaign.voice import Voice
from loadgen.errors import BadInput, Missing
from loadgen.targets.direct import Direct, Given
from loadgen.targets.target import Target
from loadgen.workload import load, scenario
from loadgen.workload.load import UNITS, Kind, Loads, kind_of
from loadgen.workload.scenario import Open, Scenario, Users
from reports import store
from reports.schema import ENGINES

FILE = "loads.json"
FOLDER = "calibration"
_SECONDS = 0.8
_WARMUP_S = 0.4
_IDLE_S = 0.2

# Of which scenario requests are sent, and by how many users: more than any target here needs to be at its limit.
_PROBES: dict[Kind, tuple[str, int]] = {
    "requests": ("chat-small", 24),
    "events": ("chat-stream", 256),
    "mib": ("large-response", 8),
}


def calibrate(planned: Planned, folder: Path, voice: Voice) -> Loads:
    """Measures what is needed for the scenarios that state a share, in a folder of its own; empty if none does."""
    found: dict[str, dict[Kind, float]] = {}
    bench: dict[Kind, float] = {}
    for kind, targets in _needed(planned).items():
        probe = _probe(kind)
        rates = _rates(probe, targets, planned, folder, voice)
        for target, rate in rates.items():
            work = rate * (load.work_of(probe) or 1.0)
            voice.step(f"{target} carries {work:,.0f} {UNITS[kind]}")
            if target == "direct":
                bench[kind] = work
            else:
                found.setdefault(target, {})[kind] = work
    loads = Loads(capacities=found, bench=bench)
    chosen = {one.id: mine for one in planned.scenarios if (mine := load.choose(one, loads, slowest(loads, one)))}
    return loads.model_copy(update={"scenarios": chosen})


def _needed(planned: Planned) -> dict[Kind, list[Target]]:
    """By kind of work the targets to be measured: the bench, our engines, whoever is named, and all that take turns."""
    needed: dict[Kind, dict[str, Target]] = {}
    for one in planned.scenarios:
        if not isinstance(one.arrivals, Open) or one.arrivals.share is None:
            continue
        mine = needed.setdefault(kind_of(one), {"direct": Direct()})
        arms = [arm for arm in planned.arms_for(one) if not arm.is_aa]
        turns = in_turns(one, arms)
        by_share = one.arrivals.of in {arm.name for arm in arms}
        for arm in arms:
            named = arm.name in (*ENGINES, one.arrivals.of)
            # A variant carries what its engine does; beside the target whose share is offered, nothing else tells.
            as_its_engine = arm.is_variant and not by_share
            if named or isinstance(arm.target, Given) or (turns and not as_its_engine):
                mine[arm.name] = arm.target
    if planned.ladder is not None:
        mine = needed.setdefault("requests", {"direct": Direct()})
        mine |= {arm.name: arm.target for arm in planned.arms if arm.name in _names(planned)}
    return {kind: list(targets.values()) for kind, targets in needed.items()}


def slowest(loads: Loads, one: Scenario) -> str | None:
    """The engine that carries least of the scenario's kind of work; without engines, whoever does."""
    known = {name: rates[kind_of(one)] for name, rates in loads.capacities.items() if kind_of(one) in rates}
    engines = {name: rate for name, rate in known.items() if name in ENGINES} or known
    return min(engines, key=engines.__getitem__, default=None)


def _probe(kind: Kind) -> Scenario:
    name, users = _PROBES[kind]
    return scenario.catalogue()[name].model_copy(
        update={
            "id": f"calibrate-{kind}",
            "arrivals": Users(kind="closed", users=users),
            "duration_s": _SECONDS,
            "warmup_s": _WARMUP_S,
            "slo": {},
            "tags": (),
        }
    )


def _rates(
    probe: Scenario, targets: Sequence[Target], planned: Planned, folder: Path, voice: Voice
) -> dict[str, float]:
    """Right replies a second of each target. One that fails is left out; the campaign says why it does."""
    setting = Setting(
        folder=folder,
        cores=planned.cores,
        idle_s=_IDLE_S,
        recorders=planned.recorders,
        described={probe.id: probe.describe(planned.cores.note)},
        ceiling=Ceiling(None, None),
        plan_of=lambda *_: None,
        tell=lambda text: voice.step(f"calibrating · {text}"),
    )
    logs = folder / "mocks" / probe.id
    logs.mkdir(parents=True, exist_ok=True)
    found: dict[str, float] = {}
    mocks = Backends.start(probe.mock.endpoints, logs, planned.cores.mocks)
    try:
        for number, target in enumerate(targets):
            for record in measure(Slot(1, number, probe, (Arm(target.name, target),)), mocks, setting):
                rate = record.summary.get("throughput_rps")
                if rate and (record.ended == "ok" or record.summary.get("error_ratio") == 0):
                    found[target.name] = float(rate)
    finally:
        mocks.stop()
    return found


def calibrated(planned: Planned, folder: Path, voice: Voice) -> Planned:
    """The campaign with loads that fit this machine, which are said; its folder keeps the measurements."""
    if folder.joinpath("campaign.json").exists() or not _needed(planned):
        return planned  # `store.Campaign.create` refuses a folder that holds one
    try:
        with terminable(), machine.pinned(planned.cores.driver):
            loads = calibrate(planned, folder / FOLDER, voice)
    except BaseException:
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        raise
    for line in words(loads):
        voice.say(f"Load of {line}")
    if planned.ladder is not None:
        for line in ladder.rungs(planned.ladder, _names(planned), loads)[1]:
            voice.say(line)
    return fit(planned, loads)


def fit(planned: Planned, loads: Loads) -> Planned:
    """The campaign with these loads, the targets that have no room for one taking no turns in it."""
    scenarios = tuple(
        load.fitted(one, mine) if (mine := loads.scenarios.get(one.id)) else one for one in planned.scenarios
    )
    alone = {
        one.id: names
        for one in scenarios
        if (names := frozenset(arm.name for arm in planned.arms if not loads.carries(arm.target.name, one)))
    }
    more, _ = ladder.rungs(planned.ladder, _names(planned), loads) if planned.ladder else ([], [])
    starts = {one.id: planned.ladder.rounds for one in more if planned.ladder}
    return replace(
        planned, scenarios=(*scenarios, *more), alone=alone, loads=loads, starts_of={**planned.starts_of, **starts}
    )


def _names(planned: Planned) -> list[str]:
    return [arm.name for arm in planned.climbers()]


def words(loads: Loads) -> list[str]:
    """What was chosen, a line for each scenario."""
    return [
        f"{name}: {one.rate:,.4g}/s"
        + (f", replies of {one.body_bytes / 1024:,.0f} KiB" if one.body_bytes else "")
        + (f", pauses {one.stretch:.2g} times as long" if one.stretch > 1 else "")
        + f" ({one.why})"
        for name, one in loads.scenarios.items()
    ]


def load_file(path: Path) -> Loads:
    """The loads of an earlier campaign: its `loads.json`, or its folder. Raises Missing or BadInput."""
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise Missing(f"--loads {path}: no such file; a campaign's folder holds one ({FILE})")
    try:
        return Loads.model_validate(store.read_json(path))
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"{path}: {key}: {first['msg']} (it is {first['input']!r})"[:400]) from exc
