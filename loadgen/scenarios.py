"""`proxy-engines scenarios ...`: the workloads there are."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(name="scenarios", help="The workloads there are, and the replies they expect.", no_args_is_help=True)


@app.command("list")
def listed(
    profile: Annotated[str | None, typer.Option(help="Only those that this profile of `compare` measures.")] = None,
) -> None:
    """List scenarios: id, the profiles that measure it, its question."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from loadgen.campaign.plan import profiles
    from loadgen.errors import UsageRefusal
    from loadgen.workload import scenario

    if profile is not None and profile not in profiles():
        raise UsageRefusal(f"--profile: {profile!r} is not known. Known are: {', '.join(profiles())}")
    table = Table(box=None, pad_edge=False)
    for column in ("scenario", "profiles", "question"):
        table.add_column(column, overflow="fold")
    for one in scenario.catalogue().values() if profile is None else scenario.in_profile(profile):
        table.add_row(Text(one.id), Text(", ".join(one.campaigns)), Text(one.question))
    Console(highlight=False).print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="SCENARIO", help="An id or a .yaml file.")]) -> None:
    """Show one scenario in full: what it takes from others and what is pinned included."""
    import yaml

    from loadgen.workload import scenario

    for one in scenario.choose([name]):
        whole = one.model_dump(mode="json", exclude_defaults=True)
        typer.echo(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=120).rstrip("\n"))


@app.command()
def pin() -> None:
    """Ask the mocks for every reply anew and pin the digests in pins.json."""
    from loadgen.studies.pin import write

    typer.echo(write())
