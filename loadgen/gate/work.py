"""`compare --counted`: instructions, allocations and system calls of every target that can be counted.

For a request and an event, by the tools and the lockstep of L1 of the gate, so counts are the same on every machine.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from loadgen.bench.child import ChildError, terminable
from loadgen.bench.mocks import Backends
from loadgen.campaign.voice import Voice
from loadgen.gate.checkouts import Checkout
from loadgen.gate.counts import Callgrind, Memray, NoCount, Strace, Tool
from loadgen.gate.lockstep import Recording, WrongAnswer, recordings
from loadgen.gate.serving import Served, end
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target, Wiring
from reports import counted, store
from reports.gate import HEAD, Side

TARGETS: Final = ("sherpa", "olla", "relay", "aiohttp-min", "nginx", "haproxy")
"""Programs that valgrind and strace can run; of the campaign's targets these are counted."""

_TOOLS: Final[tuple[Tool, ...]] = (Callgrind(), Memray(), Strace())

# What runs by the clock is off, and the collector's work is the same at each start.
_STEADY: Final[Mapping[str, Any]] = {
    "health.enabled": False,
    "runtime.gc.freeze_after_start": False,
    "runtime.gc.thresholds": [700, 10, 10],
}


@dataclass(frozen=True, slots=True)
class TargetWork:
    """What a tool counts: a target of the catalogue, started by the tool."""

    target: ProcessTarget
    whole: Recording
    stream: Recording
    folder: Path
    config: Mapping[str, Any]

    @contextmanager
    def serve(
        self, config: Mapping[str, Any], backend: str, prefix: Sequence[str] = (), python_options: Sequence[str] = ()
    ) -> Iterator[Served]:
        """The target in front of `backend`; see `serving.Servers.serve`."""
        program, *rest = self.target.command
        started = replace(
            self.target,
            command=(*prefix, program, *python_options, *rest),
            env={**self.target.env, "PYTHONHASHSEED": "0"},
            variables={**self.target.variables, "steady": True},  # templates leave out what runs by the clock
        )
        running = started.start(Wiring(backends=(backend,), folder=self.folder, recorders=False, settings=config))
        child = running.child
        assert child is not None and running.pid is not None
        try:
            served = Served(running.url, running.admin, _pid_of(running.pid, prefix), child)
            yield served
            end(served)
        finally:
            child.stop(grace_s=1.0)


def _pid_of(pid: int, prefix: Sequence[str]) -> int:
    """The program's own process: strace runs it as its child, valgrind in its own place."""
    if prefix and Path(prefix[0]).name == "strace" and psutil.Process(pid).name() == "strace":
        return int(psutil.Process(pid).children()[0].pid)
    return pid


def count(targets: Sequence[Target], folder: Path, voice: Voice) -> None:
    """Counts what can be counted of the targets that are not yet in `counted.json` of the campaign's `folder`."""
    found: dict[str, dict[str, float]] = {}
    why: list[str] = []
    path = folder / counted.FILE
    if path.exists():
        before = store.read_json(path)
        found, why = dict(before["counts"]), list(before["missing"])
    left = [
        target
        for target in targets
        if isinstance(target, ProcessTarget)
        and target.name in TARGETS
        and target.name not in found
        and target.missing() is None
    ]
    if not left:
        return
    here = folder / "counted"
    here.mkdir(parents=True, exist_ok=True)
    with terminable():
        mocks = Backends.start(1, here, None)
        try:
            whole, stream = recordings(mocks.urls[0])
        finally:
            mocks.stop()
        for target in left:
            found[target.name] = _count(target, whole, stream, here, why, voice)
            store.write_atomically(path, store.dump_json({"counts": found, "missing": why}))


def _count(
    target: ProcessTarget, whole: Recording, stream: Recording, folder: Path, why: list[str], voice: Voice
) -> dict[str, float]:
    found: dict[str, float] = {}
    for tool in _TOOLS:
        if isinstance(tool, Memray) and target.command[0] != "{python}":
            continue  # it counts what Python's allocators are asked for
        missing = tool.missing(Checkout(HEAD, Path.cwd(), sys.executable, Side(name="as installed")))
        if missing is not None:
            why += [] if missing in why else [missing]
            continue
        voice.step(f"counting · {target.name} · {tool.name}")
        place = folder / f"{target.name}-{tool.name}"
        place.mkdir(exist_ok=True)
        try:
            counts = tool.count(TargetWork(target, whole, stream, place, _STEADY if target.is_engine else {}))
        except (NoCount, ChildError, WrongAnswer, OSError, psutil.Error) as exc:
            why.append(f"{target.name}, {tool.name}: {exc}"[:300])
        else:
            found |= {metric: statistics.median(values) for metric, values in counts.items()}
    return found
