"""`python -m loadgen.gate.budget`: what each engine allocates and what the collector does for it, counted.

    python -m loadgen.gate.budget                       the working tree's engines, 100,000 requests each
    python -m loadgen.gate.budget --set proxy.pools.contexts=false --tools memray

Gross allocations are those of the gate (memray, slope between runs). Collections are read from the engine's own
recorder while exactly `--requests` requests pass, 32 at a time, with CPython's own settings in both engines (thresholds
700, 10, 10, nothing frozen) and `--ballast` live objects, as a real service's caches would be. Both engines do the same
work, so counts compare as they are; pauses are times, and this machine's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import ask
from loadgen.campaign.voice import Lines
from loadgen.errors import INTERRUPTED, Refusal
from loadgen.gate import levels
from loadgen.gate.checkouts import Checkout
from loadgen.gate.counts import TOOLS, Job, NoCount
from loadgen.gate.lockstep import Lockstep, WrongAnswer
from loadgen.studies.switch import settings_of
from reports.gate import HEAD, Side

ENGINES = ("olla", "sherpa")
_AT_ONCE = 32
_WARM = 100
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What the collector did while the requests passed: by generation, and in all."""

    requests: int
    counts: tuple[int, int, int]
    total_ms: float
    longest_ms: float


def between(before: Mapping[str, Any], after: Mapping[str, Any], requests: int, longest_ms: float) -> Collected:
    """Pure: from two readings of `/internal/runtime`."""
    totals = [(before["totals"]["gc"][g], after["totals"]["gc"][g]) for g in ("0", "1", "2")]
    first, second, third = (int(b["count"] - a["count"]) for a, b in totals)
    nanoseconds = sum(b["total_ns"] - a["total_ns"] for a, b in totals)
    return Collected(requests, (first, second, third), nanoseconds / 1e6, longest_ms)


def collect(job: Job, requests: int, ballast: int) -> Collected:
    """Serve so many requests with `ballast` live objects. Raises NoCount, WrongAnswer, ChildError."""
    runtime = job.config.get("runtime", {})
    gc = {**runtime.get("gc", {}), "ballast": ballast}
    config = {**job.config, "runtime": {**runtime, "gc": gc, "recorders": True}}
    with Lockstep(_PATIENCE_S) as ends, job.serve(config, ends.backend) as on:
        if on.admin is None:
            raise NoCount("it has no admin listener")
        ends.connect(on.url, _AT_ONCE)
        ends.waves(job.whole, _WARM)
        before = ask(on.admin, "GET", "/internal/runtime")
        waves = -(-requests // _AT_ONCE)
        ends.waves(job.whole, waves)
        after = ask(on.admin, "GET", f"/internal/runtime?since_ns={before['now_ns']}")
    longest = max((row[1] - row[0] for row in after["gc"]), default=0) / 1e6
    return between(before, after, waves * _AT_ONCE, longest)


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: a copy of `config` with dotted keys set."""
    changed = dict(config)
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = changed
        for section in sections:
            place[section] = dict(place.get(section, {}))
            place = place[section]
        place[last] = value
    return changed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadgen.gate.budget", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="config keys for both engines")
    tools = ",".join(tool.name for tool in TOOLS)
    parser.add_argument("--tools", default="memray", help=f"of {tools}; empty for none (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=100_000, help="for the collector; 0 leaves it out")
    parser.add_argument("--ballast", type=int, default=100_000, help="live objects beside the engine's own")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    args = _parser().parse_args(arguments)
    engines = [name for name in args.engines.split(",") if name]
    try:
        settings: dict[str, Any] = {}
        for text in args.set:
            settings |= settings_of(text)
        with tempfile.TemporaryDirectory(prefix="proxy-engines-") as folder:
            table = _measured(args, engines, settings, Path(folder))
    except (Refusal, ChildError, NoCount, WrongAnswer) as exc:
        print(f"loadgen.gate.budget: {exc}", file=sys.stderr)
        return exc.exit_code if isinstance(exc, Refusal) else 2
    except KeyboardInterrupt:
        return INTERRUPTED
    Console(highlight=False, width=None if sys.stdout.isatty() else 140).print(table)
    return 0


def _measured(args: argparse.Namespace, engines: list[str], settings: dict[str, Any], folder: Path) -> Table:
    voice = Lines()
    here = Checkout(HEAD, Path.cwd(), sys.executable, Side(name="working tree"))
    rows: dict[str, dict[str, float]] = {}
    said: dict[str, dict[str, str]] = {}
    with levels.bench({HEAD: here}, engines, folder / "work", voice) as on:
        for engine in engines:
            place = folder / engine
            place.mkdir()
            job = Job(on.servers, here, with_settings(on.configs[engine], settings), on.whole, on.stream, place)
            for tool in TOOLS:
                if tool.name in args.tools.split(","):
                    missing = tool.missing(here)
                    if missing is not None:
                        raise NoCount(missing)
                    voice.step(f"{engine} · {tool.name}")
                    for metric, values in tool.count(job).items():
                        rows.setdefault(metric, {})[engine] = sum(values) / len(values)
            if args.requests:
                voice.step(f"{engine} · collector, {args.requests:,} requests, ballast {args.ballast:,}")
                found = collect(job, args.requests, args.ballast)
                per_1000 = found.counts[0] * 1000 / found.requests
                rows.setdefault("gen-0 collections per 1,000 requests", {})[engine] = per_1000
                rows.setdefault("GC pauses in all, ms", {})[engine] = found.total_ms
                rows.setdefault("GC pause, longest, ms", {})[engine] = found.longest_ms
                counts = " / ".join(map(str, found.counts))
                said.setdefault(f"collections, gen 0 / 1 / 2, of {found.requests:,} requests", {})[engine] = counts
    return _table(engines, rows, said)


def _table(engines: list[str], rows: dict[str, dict[str, float]], said: dict[str, dict[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for engine in engines:
        table.add_column(engine, justify="right")
    table.add_column(" / ".join(engines), justify="right")
    for name, by_engine in rows.items():
        values = [by_engine[engine] for engine in engines]
        ratio = f"{values[0] / values[1]:.3f}" if len(values) == 2 and values[1] else ""
        table.add_row(name, *(f"{value:,.2f}" for value in values), ratio)
    for name, texts in said.items():
        table.add_row(name, *(texts[engine] for engine in engines), "")
    return table


if __name__ == "__main__":
    sys.exit(main())
