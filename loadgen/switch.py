"""`python -m loadgen.switch KEY=VALUE ...`: what config keys cost an engine that is at the limit of its core.

    python -m loadgen.switch runtime.recorders=false
    python -m loadgen.switch proxy.pools.buffers=false --scenario w3 --connections 16

Each argument is one arm: the engine with that key changed (several keys at once are joined by commas), against the
engine as it is, which runs twice a round so that its difference from itself is printed beside. wrk drives the
scenario's request in closed loop, so the target is busy and its wake-ups shared: CPU per request is that of a loaded
proxy, whole, nothing subtracted. Processes start anew for every figure, arms take turns within a round, the order flips
from round to round; change and interval are those of `compare`. Before load each start idles, and what it then uses is
a figure of its own: a constant of the clock (ticks, recorders), not of the request.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from loadgen import machine, watch
from loadgen.backends import Backends
from loadgen.child import Child, ChildError
from loadgen.driver.job import PROMPT_MARK, Template
from loadgen.errors import INTERRUPTED, Missing, Refusal, UsageRefusal
from loadgen.reply import ask_once, what_is_wrong
from loadgen.rounds import order_of
from loadgen.scenario import Scenario, choose
from loadgen.targets.catalogue import catalogue
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Wiring
from reports.compare import Estimate, estimate

AS_IT_IS = "as it is"
AGAIN = "as it is, again"
_SETTLE_S = 0.2
_WARMUP_S = 1
_GRACE_S = 10.0

# wrk's own way to send something else than a GET, and to say what it saw as one JSON line.
_SCRIPT = """\
wrk.method = %s
wrk.path = %s
wrk.body = %s
%s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"requests": %%d, "bytes": %%d, "us": %%d, "errors": %%d}\\n', summary.requests,
    summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One start of one arm. CPU ns of the whole process tree; `idle_share`: of a core, before load."""

    requests: int
    reply_bytes: float
    cpu_ns: int
    wall_s: float
    idle_share: float

    @property
    def us_per_request(self) -> float:
        """CPU per request."""
        return self.cpu_ns / 1e3 / self.requests

    @property
    def busy(self) -> float:
        """Share of a core that the target used."""
        return self.cpu_ns / 1e9 / self.wall_s


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed. `arms`: name -> the keys it changes; the first is the engine as it is."""

    engine: str
    arms: Mapping[str, Mapping[str, Any]]
    scenario: Scenario
    connections: int
    rounds: int
    seconds: int
    idle_s: float


def settings_of(argument: str) -> dict[str, Any]:
    """Pure: `proxy.pools.buffers=false,server.loop=asyncio` as keys and values. Raises UsageRefusal."""
    found = {}
    for part in argument.split(","):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise UsageRefusal(f"{argument!r}: an arm is written KEY=VALUE[,KEY=VALUE], e.g. runtime.recorders=false")
        found[key.strip()] = yaml.safe_load(value)
    return found


def script_of(template: Template, prompt_bytes: int) -> str:
    """Pure: the wrk script that sends this request."""
    body = template.body.replace(PROMPT_MARK, "x" * prompt_bytes)
    headers = "\n".join(f"wrk.headers[{_lua(k)}] = {_lua(v)}" for k, v in template.headers.items())
    return _SCRIPT % (_lua(template.method), _lua(template.path), _lua(body), headers)


def _lua(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c in " _-./:" else f"\\{ord(c):03d}" for c in text) + '"'


def change(runs: Mapping[str, Sequence[Run]], arm: str) -> Estimate:
    """Pure: the log ratio of CPU per request, this arm over the engine as it is, paired by round."""
    ours, theirs = runs[AS_IT_IS], runs[arm]
    return estimate([math.log(b.us_per_request / a.us_per_request) for a, b in zip(ours, theirs, strict=True)])


class Bench:
    """Starts what is measured, in a folder of its own; everything is gone when it is left."""

    def __init__(self, asked: Asked, folder: Path) -> None:
        self._asked = asked
        self._folder = folder
        self._cores = machine.assign_cores(machine.available_cores())
        self._template = asked.scenario.templates(pinned=True)[0]
        self._prompt_bytes = asked.scenario.prompt_bytes or 64
        self._script = folder / "request.lua"
        self._script.write_text(script_of(self._template, self._prompt_bytes), encoding="utf-8")

    @property
    def where(self) -> str:
        """Who runs on which core."""
        return self._cores.note

    def round(self, number: int) -> dict[str, Run]:
        """Every arm once, on fresh mocks that have been driven by themselves before."""
        mocks = Backends.start(1, 0, self._folder, self._cores.mocks)
        try:
            mocks.behave(self._asked.scenario.mock)
            self._wrk(mocks.urls[0], _WARMUP_S)
            return {arm: self._run(arm, mocks) for arm in order_of(list(self._asked.arms), number)}
        finally:
            mocks.stop()

    def _run(self, arm: str, mocks: Backends) -> Run:
        engine = catalogue()[self._asked.engine]
        assert isinstance(engine, ProcessTarget)
        changed = replace(engine, settings={**engine.settings, **self._asked.arms[arm]})
        running = changed.start(Wiring(mocks.urls, self._folder, self._cores.target))
        try:
            reply = ask_once(running.url, self._template, self._prompt_bytes)
            wrong = what_is_wrong(reply, self._template, from_mock=True)
            if wrong is not None:
                raise ChildError(f"{arm}: {wrong}")
            assert running.pid is not None
            time.sleep(_SETTLE_S)
            idle_ns, idle_s = self._cpu(running.pid, lambda: time.sleep(self._asked.idle_s))
            self._wrk(running.url, _WARMUP_S)
            seen: dict[str, Any] = {}
            cpu_ns, _ = self._cpu(running.pid, lambda: seen.update(self._wrk(running.url, self._asked.seconds)))
        finally:
            running.stop()
        if seen["errors"] or not seen["requests"]:
            raise ChildError(f"{arm}: wrk counted {seen['errors']} errors in {seen['requests']} requests")
        share = idle_ns / 1e9 / idle_s if self._asked.idle_s else math.nan
        return Run(seen["requests"], seen["bytes"] / seen["requests"], cpu_ns, seen["us"] / 1e6, share)

    def _cpu(self, pid: int, work: Any) -> tuple[int, float]:
        before, begun = _tree_cpu_ns(pid), time.monotonic()
        work()
        return _tree_cpu_ns(pid) - before, time.monotonic() - begun

    def _wrk(self, url: str, seconds: int) -> dict[str, Any]:
        command = ["wrk", "-t1", f"-c{self._asked.connections}", f"-d{seconds}s", "-s", str(self._script), url]
        with Child("wrk", command, self._folder, cores=self._cores.driver) as child:
            until = time.monotonic() + seconds + _GRACE_S
            while child.alive() and time.monotonic() < until:
                time.sleep(0.02)
            if child.exit_code != 0:
                raise ChildError(f"wrk {child.how_it_ended()}: {child.last_words()}")
        found: dict[str, Any] = json.loads(child.stdout.read_text(encoding="utf-8").strip().splitlines()[-1])
        return found


def _tree_cpu_ns(pid: int) -> int:
    now = time.monotonic_ns()
    rows = [row for one in watch.tree(pid) if (row := watch.sample(one, "target", now)) is not None]
    return watch.tree_cpu_ns(rows, "target")


def measure(asked: Asked, say: Any) -> dict[str, list[Run]]:
    """All rounds: arm -> its runs by round. Raises ChildError."""
    runs: dict[str, list[Run]] = {arm: [] for arm in asked.arms}
    with tempfile.TemporaryDirectory(prefix="proxy-engines-") as folder:
        bench = Bench(asked, Path(folder))
        say(f"{asked.engine}, {asked.scenario.id}, {asked.connections} connections by wrk; {bench.where}")
        for number in range(1, asked.rounds + 1):
            for arm, run in bench.round(number).items():
                runs[arm].append(run)
            shown = " · ".join(f"{arm} {runs[arm][-1].us_per_request:.2f}" for arm in asked.arms)
            say(f"round {number}/{asked.rounds}: us per request: {shown}")
    return runs


def lines_of(runs: Mapping[str, Sequence[Run]], idle: bool) -> list[str]:
    """Pure: the result for people."""
    lines = []
    for arm, found in runs.items():
        us = math.exp(sum(math.log(run.us_per_request) for run in found) / len(found))
        busy = sum(run.busy for run in found) / len(found)
        line = f"{arm}: {us:.2f} us of CPU per request, {busy:.0%} of its core busy"
        if arm != AS_IT_IS:
            line += f"; {_effect(change(runs, arm))}"
        lines.append(line)
    if idle:
        ours = runs[AS_IT_IS]
        lines.append(f"idle, {AS_IT_IS}: {_mean([run.idle_share for run in ours]):.3%} of a core")
        for arm, found in runs.items():
            if arm != AS_IT_IS:
                differences = [b.idle_share - a.idle_share for a, b in zip(ours, found, strict=True)]
                lines.append(f"idle, {arm}: {_mean([run.idle_share for run in found]):.3%}, {_points(differences)}")
    return lines


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _effect(found: Estimate) -> str:
    ends = found.interval()
    text = f"change {math.expm1(found.mean):+.2%}"
    return text if ends is None else f"{text} (95 % CI {math.expm1(ends[0]):+.2%} .. {math.expm1(ends[1]):+.2%})"


def _points(differences: Sequence[float]) -> str:
    found = estimate(differences)
    ends = found.interval()
    text = f"difference {found.mean:+.3%} of a core"
    return text if ends is None else f"{text} (95 % CI {ends[0]:+.3%} .. {ends[1]:+.3%})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadgen.switch", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("arms", nargs="+", metavar="KEY=VALUE", help="one arm each; several keys joined by commas")
    parser.add_argument("--engine", choices=("olla", "sherpa"), default="olla")
    parser.add_argument("--scenario", default="w1", help="whose request is sent (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure")
    parser.add_argument("--idle", type=float, default=1.0, help="seconds of idling before load; 0 leaves it out")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = _parser().parse_args(arguments)

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        if shutil.which("wrk") is None:
            raise Missing("wrk is not installed (apt install wrk): our own driver cannot bring Olla to its limit")
        arms = {AS_IT_IS: {}, **{text: settings_of(text) for text in args.arms}, AGAIN: {}}
        scenario = choose([args.scenario])[0]
        asked = Asked(args.engine, arms, scenario, args.connections, args.rounds, args.seconds, args.idle)
        runs = measure(asked, say)
    except Refusal as exc:
        print(f"loadgen.switch: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    for line in lines_of(runs, asked.idle_s > 0):
        say(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
