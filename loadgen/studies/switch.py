"""`python -m loadgen.studies.switch KEY=VALUE ...`: what config keys cost an engine that is at the limit of its core.

    python -m loadgen.studies.switch runtime.recorders=false
    python -m loadgen.studies.switch proxy.pools.buffers=true --scenario w3

Each argument is one arm: the engine with that key changed (several keys at once are joined by commas), against the
engine as it is, which runs twice a round so that its difference from itself is printed beside. It is a small campaign
in a temporary folder (`--out` keeps it, for `proxy-engines report`): fresh processes, arms take turns within a round,
the order flips, runs are checked and void ones repeated. CPU per request is whole here, nothing subtracted, because
what idles under no load may cost less under load. What a start uses while it idles is a figure of its own: a constant
of the clock (ticks, recorders), not of the request.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from loadgen.bench import wrk
from loadgen.campaign.campaign import Campaign
from loadgen.campaign.compared import compared
from loadgen.campaign.plan import Asked, Planned, planned
from loadgen.campaign.voice import Lines
from loadgen.errors import INTERRUPTED, NO_VALID_RUN, Missing, Refusal, UsageRefusal
from loadgen.targets.catalogue import catalogue
from loadgen.targets.process import ProcessTarget
from loadgen.workload.scenario import Scenario, choose
from reports import store
from reports.compare import Comparison
from reports.schema import AA_SUFFIX
from reports.stats import Interval, estimate
from reports.summarise import Facts

_BUDGET_S = 3600.0


def settings_of(argument: str) -> dict[str, Any]:
    """Pure: `proxy.pools.buffers=false,server.loop=asyncio` as keys and values. Raises UsageRefusal."""
    found = {}
    for part in argument.split(","):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise UsageRefusal(f"{argument!r}: an arm is written KEY=VALUE[,KEY=VALUE], e.g. runtime.recorders=false")
        found[key.strip()] = yaml.safe_load(value)
    return found


def targets_of(engine: str, arms: Sequence[str]) -> list[ProcessTarget]:
    """The engine as it is, then one variant an arm, named as it was typed."""
    ours = catalogue()[engine]
    assert isinstance(ours, ProcessTarget)
    variants = [
        replace(ours, name=arm, kind="variant", settings={**ours.settings, **settings}).as_variant_of(engine, settings)
        for arm in arms
        if (settings := settings_of(arm))
    ]
    return [ours, *variants]


def plan(engine: str, arms: Sequence[str], scenario: Scenario, rounds: int, idle_s: float) -> Planned:
    """The campaign of these arms. Raises UsageRefusal, or Missing without wrk where the scenario needs it."""
    if scenario.generator == "wrk" and not wrk.installed():
        raise Missing(wrk.HOW_TO_GET)
    return planned(
        targets_of(engine, arms),
        [scenario],
        rounds=rounds,
        baseline=engine,
        asked=Asked(profile="switch", rounds=rounds, baseline=engine),
        idle_s=idle_s,
        recorders=True,
        limit_s=_BUDGET_S,
    )


def us_per_request(facts: Facts) -> float | None:
    """Pure: the target's whole CPU by its requests, idle CPU not subtracted."""
    busy, rate = facts.extras.get("utilisation"), facts.value("throughput_rps")
    return busy * 1e6 / rate if isinstance(busy, float) and rate else None


def lines_of(seen: Comparison, scenario: str, engine: str, arms: Sequence[str]) -> list[str]:
    """Pure: the result for people; arms without two valid rounds say so."""
    ours = {facts.record.round: facts for facts in seen.valid.get((scenario, engine), ())}
    lines = [_level(engine, list(ours.values()))]
    for arm in (*arms, engine + AA_SUFFIX):
        theirs = {facts.record.round: facts for facts in seen.valid.get((scenario, arm), ())}
        pairs = [(ours[n], theirs[n]) for n in sorted(ours.keys() & theirs.keys())]
        lines.append(_level(arm, list(theirs.values())) + _changes(pairs))
    return lines


def _level(name: str, runs: Sequence[Facts]) -> str:
    logs = [math.log(us) for facts in runs if (us := us_per_request(facts))]
    if not logs:
        return f"{name}: no valid run"
    busy = [float(facts.extras["utilisation"]) for facts in runs if "utilisation" in facts.extras]
    idle = [facts.record.idle_cpu_ns_per_s / 1e9 for facts in runs if facts.record.idle_cpu_ns_per_s is not None]
    text = f"{name}: {math.exp(_mean(logs)):.2f} us of CPU per request at {_mean(busy):.0%} of its core"
    return text + (f", {_mean(idle):.2%} of a core when idle" if idle else "")


def _changes(pairs: Sequence[tuple[Facts, Facts]]) -> str:
    us = [(a, b) for ours, theirs in pairs if (a := us_per_request(ours)) and (b := us_per_request(theirs))]
    idle = [
        (b.record.idle_cpu_ns_per_s - a.record.idle_cpu_ns_per_s) / 1e9
        for a, b in pairs
        if a.record.idle_cpu_ns_per_s is not None and b.record.idle_cpu_ns_per_s is not None
    ]
    text = ""
    if len(us) >= 2:
        found = estimate([math.log(b / a) for a, b in us])
        both = found.interval() or Interval(math.nan, math.nan, math.nan)
        ends = f"{math.expm1(both.low):+.2%} .. {math.expm1(both.high):+.2%}"
        text += f"\n    per request {math.expm1(found.mean):+.2%} (95 % CI {ends}), {len(us)} rounds"
    if len(idle) >= 2:
        found = estimate(idle)
        both = found.interval() or Interval(math.nan, math.nan, math.nan)
        text += f"\n    when idle {found.mean:+.2%} of a core (95 % CI {both.low:+.2%} .. {both.high:+.2%})"
    return text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadgen.studies.switch", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("arms", nargs="+", metavar="KEY=VALUE", help="one arm each; several keys joined by commas")
    parser.add_argument("--engine", choices=("olla", "sherpa"), default="olla")
    parser.add_argument("--scenario", default="w1", help="whose requests are sent (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load that is measured for each figure")
    parser.add_argument("--idle", type=float, default=1.0, help="seconds of idling before load, at least 0.2")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the campaign in a folder")
    return parser


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="proxy-engines-") as place:
        yield Path(place) / "switch"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = _parser().parse_args(arguments)
    try:
        chosen = choose([args.scenario])[0].for_campaign("switch", args.seconds)
        made = plan(args.engine, args.arms, chosen, args.rounds, args.idle)
        with _folder(args.out) as folder:
            campaign = Campaign(made, folder, Lines())
            command = ["python -m loadgen.studies.switch", *(arguments if arguments is not None else sys.argv[1:])]
            campaign.create(" ".join(command))
            print(f"{chosen.id}, {made.cores.note}; about {made.seconds():.0f} s", flush=True)
            campaign.run()
            seen = compared(folder)
    except (Refusal, store.ReportError) as exc:
        print(f"loadgen.studies.switch: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    for line in lines_of(seen, chosen.id, args.engine, args.arms):
        print(line, flush=True)
    return 0 if any(seen.valid.values()) else NO_VALID_RUN


if __name__ == "__main__":
    sys.exit(main())
