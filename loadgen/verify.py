"""`proxy-engines verify ...`: how the harness itself is checked, a command for each question; 0 if it holds."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from loadgen import options
from loadgen.errors import NO_VALID_RUN
from loadgen.handover import become, become_tool

app = typer.Typer(
    name="verify", help="Check the harness itself: is a figure of it to be believed?", no_args_is_help=True
)


@app.command()
def driver(duration: options.Seconds = 5.0, as_json: options.Json = False) -> None:
    """Measure what the load generator can do on this machine, against a mock."""
    from loadgen.studies.driver import run

    raise typer.Exit(run(duration, as_json=as_json))


@app.command()
def mocks(duration: options.Seconds = 2.0, as_json: options.Json = False) -> None:
    """Measure what the mock servers can do on this machine."""
    become("mock", ["--self-test", f"--seconds={duration}", *(["--json"] if as_json else [])])


@app.command()
def overload(out: options.Out = None) -> None:
    """Ask too much of the generator and of the mocks: both runs must be void."""
    from loadgen.campaign.plan import Asked
    from loadgen.campaign.terminal import compare, default_folder
    from reports import store

    asked = Asked(targets=("direct",), scenarios=("overload-generator", "overload-mocks"), rounds=1)
    folder = out or default_folder(asked)
    code = compare(asked, out=folder, resume=None, loads=None, dry_run=False, command=_command(), count=lambda *_: None)
    if code not in (0, NO_VALID_RUN):
        raise typer.Exit(code)
    others = [run.record for run in store.load_campaign(folder).runs if run.record.ended != "void"]
    for one in others:
        typer.echo(f"{one.run} is {one.ended} and not void{f': {one.why}' if one.why else ''}")
    typer.echo("NOT shown" if others else "Shown: all runs are void")
    raise typer.Exit(1 if others else 0)


@app.command()
def sensitivity(
    campaigns: Annotated[int, typer.Option(callback=options.at_least(1, 1000), help="How many.")] = 20,
    rounds: Annotated[int, typer.Option(callback=options.at_least(2, 1000), help="Rounds of each campaign.")] = 12,
    out: options.Out = None,
    resume: options.Resume = None,
    dry_run: options.DryRun = False,
) -> None:
    """Put known effects in (10 % more CPU, 200 us more delay) and none, and see what is found; an hour."""
    from loadgen.studies.sensitivity import StudySize, run

    raise typer.Exit(run(StudySize(campaigns, rounds), out, resume, dry_run=dry_run, command=_command()))


@app.command()
def crosscheck(
    target: Annotated[str, typer.Option(help="What stands between: a target's name.")] = "olla",
    tools: Annotated[
        str | None, typer.Option(help="Of wrk and aiperf (`make clients`), by comma; both if none.")
    ] = None,
    rounds: Annotated[int, typer.Option(callback=options.at_least(1, 100), help="Turns of each tool.")] = 3,
    duration: options.Seconds = 6.0,
) -> None:
    """Compare our figures with those of wrk and aiperf: the same load on the same process."""
    from loadgen.studies.crosscheck import run

    raise typer.Exit(run(target, options.some_of(tools), duration, rounds))


@app.command()
def calibration(
    campaigns: Annotated[
        int, typer.Option(callback=options.at_least(1, 10**6), help="How many, for each line.")
    ] = 2000,
    seed: options.Seed = 0,
) -> None:
    """Judge made-up campaigns whose truth is known: do intervals cover, and how often is a word wrong?"""
    become_tool("tests.reports.calibrate", [f"--campaigns={campaigns}", f"--seed={seed}"])


def _command() -> str:
    return shlex.join(["proxy-engines", *sys.argv[1:]])
