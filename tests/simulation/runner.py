"""`python -m tests.simulation`: many worlds, one seed each, and a table of what was found.

    python -m tests.simulation [--exchanges 1000000] [--seed 1] [--world N [--story]] [--no-shrink]

A world is one run of Olla with about 120 requests. Its number alone says all that happens in it: `--world N` repeats
it, `--story` tells it. The first world of each kind of finding is shrunk and told. Exit code 1 when anything was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.simulation.generate import make_script
from tests.simulation.script import Script
from tests.simulation.shrink import describe, shrink
from tests.simulation.world import Outcome, run

WORLDS_OF_A_SEED = 10**9
PROGRESS = 15.0  # seconds


@dataclass(slots=True)
class Kind:
    """One kind of finding."""

    name: str
    first_world: int
    first_exchange: int  # so many had been run when it was found
    text: str
    worlds: int = 0


@dataclass(slots=True)
class Tally:
    """What many worlds showed."""

    worlds: int = 0
    exchanges: int = 0
    simulated: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Kind] = field(default_factory=dict)

    def add(self, world: int, outcome: Outcome) -> list[Kind]:
        """Count one more; returns the kinds that are new."""
        self.worlds += 1
        self.exchanges += outcome.exchanges
        self.simulated += outcome.seconds
        self.outcomes.update(outcome.counts)
        new = []
        for finding in outcome.findings:
            if finding.kind not in self.kinds:
                self.kinds[finding.kind] = Kind(finding.kind, world, self.exchanges, finding.text)
                new.append(self.kinds[finding.kind])
        for name in {finding.kind for finding in outcome.findings}:
            self.kinds[name].worlds += 1
        return new


def worlds(seed: int) -> Iterator[int]:
    """The numbers of a seed's worlds."""
    yield from range(seed * WORLDS_OF_A_SEED, (seed + 1) * WORLDS_OF_A_SEED)


def sweep(
    seed: int, exchanges: int, progress: Callable[[Tally], None] = lambda _: None, until_found: bool = False
) -> Tally:
    """Run worlds until so many exchanges were run, or, if asked so, until something is found."""
    tally = Tally()
    for world in worlds(seed):
        if tally.exchanges >= exchanges or (until_found and tally.kinds):
            break
        tally.add(world, run(make_script(world)))
        progress(tally)
    return tally


def table(tally: Tally) -> str:
    """The findings for people."""
    if not tally.kinds:
        return "no finding"
    lines = [f"{'finding':28} {'worlds':>6} {'after exchanges':>15} {'first world':>12}  the first one"]
    lines += [
        f"{kind.name:28} {kind.worlds:6} {kind.first_exchange:15,} {kind.first_world:12}  {kind.text[:120]}"
        for kind in sorted(tally.kinds.values(), key=lambda kind: kind.first_exchange)
    ]
    return "\n".join(lines)


def tell(script: Script) -> str:
    """A script and what happens in it."""
    return describe(script) + "\n\n" + "\n".join(run(script, tell=True).story)


class Progress:
    """A line on stderr now and then."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._began = self._said = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._said >= PROGRESS:
            self._said = now
            print(
                f"{tally.exchanges:,} of {self._wanted:,} exchanges, {tally.worlds:,} worlds, "
                f"{now - self._began:.0f} s, {len(tally.kinds)} kinds of findings",
                file=sys.stderr,
                flush=True,
            )


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 without findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--exchanges", type=int, default=1_000_000, help="requests to run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the worlds (default: %(default)s)")
    parser.add_argument("--world", type=int, help="run only this one")
    parser.add_argument("--story", action="store_true", help="with --world: tell it as it is, instead of shrinking it")
    parser.add_argument("--no-shrink", action="store_true", help="print the table only")
    options = parser.parse_args(argv)
    if options.story and options.world is None:
        parser.error("--story needs --world")
    if options.story:
        print(tell(make_script(options.world)))
        return 0
    began = time.process_time()
    if options.world is None:
        tally = sweep(options.seed, options.exchanges, Progress(options.exchanges))
    else:
        tally = Tally()
        tally.add(options.world, run(make_script(options.world)))
    print(
        f"seed {options.seed}: {tally.exchanges:,} exchanges in {tally.worlds:,} worlds, "
        f"{tally.simulated:,.0f} simulated s in {time.process_time() - began:.0f} s of CPU; "
        f"{dict(tally.outcomes)}\n{table(tally)}",
        flush=True,
    )
    if not options.no_shrink:
        for kind in tally.kinds.values():
            print(f"\n=== {kind.name}\n{tell(shrink(make_script(kind.first_world), kind.name))}", flush=True)
    return int(bool(tally.kinds))
