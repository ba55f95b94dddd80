"""The levels of the gate as rows: promises and counts, on base and head, two processes at a time.

Counts do not mind company: instructions, allocations and calls are the same on a busy machine. So L0 and L1 use every
core; only the interleaved level has the machine for itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends
from loadgen.campaign.voice import Voice
from loadgen.gate import counts as counting
from loadgen.gate import promises as promising
from loadgen.gate.checkouts import Checkout
from loadgen.gate.lockstep import Changed, Recording, WrongAnswer, recordings
from loadgen.gate.revisions import CannotMeasure
from loadgen.gate.serving import Servers, common_config
from reports import gate
from reports.gate import BASE, HEAD, GateRow, Policy, Tried

T = TypeVar("T")

_AT_ONCE = max(1, min(os.cpu_count() or 1, 4))


@dataclass(frozen=True, slots=True)
class Bench:
    """What both levels need: the revisions, the engines with the config both accept, mocks and what they said."""

    servers: Servers
    checkouts: Mapping[str, Checkout]
    configs: Mapping[str, Mapping[str, Any]]
    mocks: Backends
    whole: Recording
    stream: Recording
    folder: Path


@contextmanager
def bench(checkouts: Mapping[str, Checkout], engines: Sequence[str], folder: Path, voice: Voice) -> Iterator[Bench]:
    """Mocks up, replies recorded, configs agreed on. Raises CannotMeasure, ChildError."""
    folder.mkdir(parents=True, exist_ok=True)
    configs: dict[str, Mapping[str, Any]] = {}
    for engine in engines:
        config, without = common_config(list(checkouts.values()), engine, folder)
        if without:
            left_out = ", ".join(without)
            voice.say(f"{engine}: one side does not know {left_out}; both run without, and counts may be less steady")
        configs[engine] = config
    mocks = Backends.start(2, folder, None)
    try:
        whole, stream = recordings(mocks.urls[0])
        yield Bench(Servers(), checkouts, configs, mocks, whole, stream, folder)
    except WrongAnswer as exc:
        raise CannotMeasure(f"the mocks do not answer as they should: {exc}") from exc
    finally:
        mocks.stop()


# ------------------------------------------------------------------------------------------------------------------ L0
def check_promises(on: Bench, voice: Voice) -> list[GateRow]:
    """A row for each promise of each engine."""
    work: dict[tuple[str, str, str], Callable[[], Tried]] = {}
    for engine in on.configs:
        for promise in promising.PROMISES:
            if engine in promise.engines:
                for name, checkout in on.checkouts.items():
                    work[engine, promise.name, name] = _attempt(on, engine, promise, name, checkout)
    tried = dict(_all(on, work, voice, "L0"))
    return [
        gate.judge_promise(
            engine,
            promise.name,
            tried.get((engine, promise.name, BASE), Tried(None, "only head was tried")),
            tried[engine, promise.name, HEAD],
            grave=promise.grave,
        )
        for engine in on.configs
        for promise in promising.PROMISES
        if engine in promise.engines
    ]


def _attempt(on: Bench, engine: str, promise: promising.Promise, name: str, checkout: Checkout) -> Callable[[], Tried]:
    def work() -> Tried:
        folder = _folder(on, f"l0-{engine}-{promise.name}-{name}")
        bed = promising.Bed(on.servers, checkout, on.configs[engine], on.mocks, on.whole, on.stream, folder)
        try:
            return promising.attempt(promise, bed)
        except ChildError as exc:
            raise CannotMeasure(f"{name}: {exc}") from exc

    return work


# ------------------------------------------------------------------------------------------------------------------ L1
@dataclass(slots=True)
class CountedWork:
    """What L1 found: rows, and head's medians for the history."""

    rows: list[GateRow] = field(default_factory=list)
    counts: dict[str, dict[str, float]] = field(default_factory=dict)


_Key = tuple[str, str, str]
"""(engine, tool, side)."""


def count_work(on: Bench, policy: Policy, voice: Voice) -> CountedWork:
    """A row for each metric of each engine.

    A count that looks like a regression, or does not hold still, or that only one side could not have, is taken once
    more on both sides before it is judged. A reply that a side changed meanwhile is a row, too.
    """
    tools = {tool.name: tool for tool in counting.TOOLS}
    for name, tool in list(tools.items()):
        missing = next((why for c in on.checkouts.values() if (why := tool.missing(c)) is not None), None)
        if missing is not None:
            voice.say(f"not counted: {missing}")
            del tools[name]
    found: dict[tuple[str, str, str], list[float]] = {}
    why_not: dict[_Key, Exception] = {}
    _count(on, [(engine, tool) for engine in on.configs for tool in tools.values()], found, why_not, voice)
    rows = _rows(on, policy, found, why_not)
    doubtful = {(row.subject, row.metric) for row in rows if row.word in ("regression", "could-not-measure")}
    again = [
        (engine, tool)
        for engine in on.configs
        for tool in tools.values()
        if any((engine, metric) in doubtful for metric in tool.metrics)
    ]
    if again:
        voice.step("L1 · counting once more what looks like a regression")
        _count(on, again, found, why_not, voice)
        rows = _rows(on, policy, found, why_not)
    rows += _changed(why_not)
    medians: dict[str, dict[str, float]] = {engine: {} for engine in on.configs}
    for row in rows:
        if row.head is not None:
            medians[row.subject][row.metric] = row.head
    return CountedWork(rows, {engine: metrics for engine, metrics in medians.items() if metrics})


def _count(
    on: Bench,
    wanted: Sequence[tuple[str, counting.Tool]],
    found: dict[_Key, list[float]],
    why_not: dict[_Key, Exception],
    voice: Voice,
) -> None:
    """Let tools count on every checkout, and add what they found. Raises CannotMeasure."""
    work = {(engine, tool.name, name): _job(on, engine, tool, name) for engine, tool in wanted for name in on.checkouts}
    by_name = {tool.name: tool for _, tool in wanted}
    for (engine, tool_name, name), result in _all(on, work, voice, "L1"):
        for metric in by_name[tool_name].metrics:
            if not isinstance(result, Exception):
                found.setdefault((engine, metric, name), []).extend(result[metric])
            elif not isinstance(why_not.get((engine, metric, name)), Changed):
                why_not[engine, metric, name] = result


def _job(on: Bench, engine: str, tool: counting.Tool, name: str) -> Callable[[], counting.Counts | Exception]:
    def work() -> counting.Counts | Exception:
        folder = _folder(on, f"l1-{engine}-{tool.name}-{name}")
        job = counting.CountingJob(on.servers, on.checkouts[name], on.configs[engine], on.whole, on.stream, folder)
        try:
            return tool.count(job)
        except (counting.NoCount, WrongAnswer) as exc:
            return exc
        except (ChildError, OSError) as exc:
            return counting.NoCount(f"{tool.name}: {exc}")

    return work


def _rows(
    on: Bench, policy: Policy, found: Mapping[_Key, list[float]], why_not: Mapping[_Key, Exception]
) -> list[GateRow]:
    rows = []
    for engine in on.configs:
        for metric, limit in policy.counts.items():
            base = found.get((engine, metric, BASE), [])
            head = found.get((engine, metric, HEAD), [])
            broken = [name for name in (BASE, HEAD) if (engine, metric, name) in why_not]
            missing = "" if base or head else "no tool here counts it"
            if broken:
                missing = f"{broken[0]}: {why_not[engine, metric, broken[0]]}"
            rows.append(gate.judge_count(engine, metric, base, head, limit, missing, broken=broken == [HEAD]))
    return rows


def _changed(why_not: Mapping[_Key, Exception]) -> Iterator[GateRow]:
    """A row for each side of an engine that changed a reply while its work was counted."""
    told: set[tuple[str, str]] = set()
    for (engine, _, name), why in why_not.items():
        if isinstance(why, Changed) and (engine, name) not in told:
            told.add((engine, name))
            word: gate.Word = "void" if name == HEAD else "could-not-measure"
            yield GateRow(level="L1", subject=engine, metric="replies", word=word, reason=f"{name}: {why}")


def _folder(on: Bench, name: str) -> Path:
    folder = on.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _all(on: Bench, work: Mapping[_Key, Callable[[], T]], voice: Voice, level: str) -> Iterator[tuple[_Key, T]]:
    """Do all of it, a few at a time, in the order given; yields what is done. After Ctrl-C it ends what runs."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix=level) as pool:
        running: dict[Future[T], _Key] = {}
        try:
            waiting = iter(work.items())
            done = 0
            while True:
                while len(running) < _AT_ONCE and (following := next(waiting, None)) is not None:
                    key, task = following
                    running[pool.submit(task)] = key
                if not running:
                    return
                voice.step(f"{level} · {done}/{len(work)} · " + ", ".join(" ".join(key) for key in running.values()))
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    done += 1
                    yield running.pop(future), future.result()
        except BaseException:
            on.servers.end()
            raise
