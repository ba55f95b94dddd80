"""`proxy-engines gate`: performance of one revision against another, and `gate trend`: what a history shows.

What a run needs is imported when it runs: `proxy-engines --help` reads this module too.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loadgen import options
from loadgen.errors import INTERRUPTED, UsageRefusal

if TYPE_CHECKING:
    from loadgen.gate.run import GateOptions

app = typer.Typer(name="gate", help="Check performance of one revision against another; for CI.")


@app.callback(
    invoke_without_command=True,
    epilog="Exit codes: 0 pass, 1 regression, 2 could not measure, 3 void (wrong answers, or not comparable).",
)
def gate(
    context: typer.Context,
    base: Annotated[
        str, typer.Option(metavar="REV", help="What head is compared with; auto: the merge base with its branch.")
    ] = "HEAD^",
    head: Annotated[str, typer.Option(metavar="REV", help="What is judged.")] = "HEAD",
    target: Annotated[
        str | None,
        typer.Option(metavar="NAME=COMMAND", help="A proxy of your own, run in the folder of each revision."),
    ] = None,
    target_base: Annotated[
        str | None, typer.Option(metavar="NAME=WHAT", help="Compare two proxies: URL, config or command.")
    ] = None,
    target_head: Annotated[str | None, typer.Option(metavar="NAME=WHAT", help="The other one.")] = None,
    levels: Annotated[str | None, typer.Option(help="Of L0, L1 and L2, by comma; all if none.")] = None,
    engines: Annotated[str | None, typer.Option(help="Of olla and sherpa, by comma; both if none.")] = None,
    limits: Annotated[Path | None, typer.Option(help="Your own limits: a YAML file, only what differs.")] = None,
    require_measured: Annotated[
        bool, typer.Option("--require-measured", help="End in 1, not in 2, where it could not measure.")
    ] = False,
    history: Annotated[Path | None, typer.Option(help="Append the run to this file, a line of JSON.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the results; default reports/runs/<UTC>-gate.")] = None,
    repeat: Annotated[
        int | None,
        typer.Option(callback=options.at_least(2, 100), help="Head against itself so often: spread, false alarms."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Seed slow-downs and see that they are caught.")
    ] = False,
    resume: options.Resume = None,
) -> None:
    """Check performance of one revision against another; for CI."""
    if context.invoked_subcommand is not None:
        return
    from loadgen.bench.child import terminable
    from loadgen.gate import repeats, run, selftest

    asked = run.GateOptions(
        base=base,
        head=head,
        targets=_pair(target_base, target_head),
        target=target,
        limits=limits,
        history=history,
        all_measured=require_measured,
        levels=options.all_of("--levels", levels, run.LEVELS),
        engines=options.all_of("--engines", engines, run.ENGINES),
        command=_command(),
    )
    _check(asked, repeat, resume, self_test=self_test)
    with terminable():  # also while the result is printed: what measures has ended by then, and with it its own
        try:
            if repeat is not None:
                raise typer.Exit(repeats.repeat(asked, repeat, out))
            if self_test:
                raise typer.Exit(selftest.self_test(head, out, resume, asked.command, asked.levels))
            raise typer.Exit(run.run(asked, out))
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@app.command()
def trend(
    history: Annotated[str, typer.Option(metavar="FILE", help="A file, or BRANCH:FILE of this repository.")],
) -> None:
    """Show the levels and change points of a gate's history."""
    from loadgen.gate.trend import show

    raise typer.Exit(show(history))


def _pair(base: str | None, head: str | None) -> tuple[str, str] | None:
    if base is None and head is None:
        return None
    if base is None or head is None:
        raise UsageRefusal("--target-base and --target-head go together")
    return base, head


def _check(asked: GateOptions, repeat: int | None, resume: Path | None, *, self_test: bool) -> None:
    """Options that belong together or exclude each other. Raises UsageRefusal."""
    if asked.target is not None and asked.targets is not None:
        raise UsageRefusal("--target runs one command in two revisions, --target-base and --target-head two: choose")
    if asked.target is not None and "L2" not in asked.levels:
        raise UsageRefusal("--target: a proxy that is not ours is timed (L2); L0 and L1 know our engines only")
    if resume is not None and not self_test:
        raise UsageRefusal("--resume belongs to --self-test")
    if repeat is not None and (self_test or asked.targets or asked.target):
        raise UsageRefusal("--repeat measures --head against itself: it goes with --levels and --engines only")


def _command() -> str:
    """What was typed, without what is secret in it."""
    from loadgen.targets.given import shown

    return shlex.join(["proxy-engines", *map(shown, sys.argv[1:])])
