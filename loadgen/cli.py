"""`proxy-engines`: the one console script. Parsing and exit codes; each verb imports what it needs when it runs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from loadgen import options, verify
from loadgen import scenarios as scenario_verbs
from loadgen.errors import INTERNAL, INTERRUPTED, USAGE, Refusal, UsageRefusal
from loadgen.gate import cli as gate
from loadgen.handover import ELSEWHERE, become

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.campaign.real import Real
    from loadgen.campaign.voice import Voice
    from loadgen.targets.target import Target
    from loadgen.workload.scenario import Replay

app = typer.Typer(
    name="proxy-engines",
    help="Two LLM proxy engines, and the harness that measures which one you need.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"proxy-engines {version('proxy-engines')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")] = False,
) -> None:
    """Options of every verb."""


def _elsewhere(verb: str) -> None:
    """Lists a verb of another package in `--help`; `main` hands it over before any of this is asked."""

    @app.command(
        verb,
        help=ELSEWHERE[verb][2],
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def command(context: typer.Context) -> None:
        become(verb, context.args)


@app.command()
def compare(
    profile: Annotated[str, typer.Option(help="quick, standard, full, wide, peers, ablation, gc or soak.")] = "quick",
    targets: Annotated[
        str | None, typer.Option(help="Instead of the profile's, e.g. sherpa,olla,nginx,direct.")
    ] = None,
    scenarios: Annotated[
        str | None, typer.Option(help="Instead of the profile's: ids or .yaml files, by comma.")
    ] = None,
    sweep: Annotated[
        str | None, typer.Option(help="The one scenario at several loads: rate=50,100,200 or users=1,4,16.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Whom the others are compared with.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Your own: NAME=URL[,pid=N], NAME=FILE.yaml or NAME=COMMAND with {port} {backends}. Repeatable."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(help="An engine with config keys changed: NAME=olla,KEY=VALUE[,KEY=VALUE]. Repeatable."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help="To targets that run already: 'NAME: ... $VARIABLE' or 'NAME: ... @FILE'. Repeatable."),
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="For https: certificates to trust instead of the system's.")] = None,
    real: Annotated[
        bool, typer.Option("--real", help="The targets are real servers: no mocks, the client's side only.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="With --real: the model that requests name.")] = None,
    rate: options.Rate = None,
    prompt_tokens: options.PromptTokens = None,
    output_tokens: options.OutputTokens = None,
    trace: Annotated[
        Path | None, typer.Option(help="Replay a trace of real traffic; `proxy-engines trace FILE` describes one.")
    ] = None,
    time_scale: options.TimeScale = 1.0,
    rows: options.Rows = None,
    max_in: options.MaxIn = None,
    max_out: options.MaxOut = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    bursts: options.Bursts = None,
    rounds: options.Rounds = None,
    duration: options.Duration = None,
    precision: Annotated[
        str | None, typer.Option(help="Plan starts and seconds so that primary rows get this half width, e.g. 5%.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Plan the narrowest intervals within this time, e.g. 10m.")] = None,
    seed: options.Seed = 1,
    counted: Annotated[
        bool, typer.Option("--counted", help="Also count instructions, allocations and system calls of each target.")
    ] = False,
    loads: Annotated[
        Path | None, typer.Option(help="The loads of an earlier campaign (its folder), instead of ones that fit here.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the campaign; default reports/runs/<UTC>-<profile>.")
    ] = None,
    resume: options.Resume = None,
    dry_run: options.DryRun = False,
) -> None:
    """Measure proxies against each other and build the report: campaign and verdict in one."""
    from loadgen.campaign.plan import Asked
    from loadgen.campaign.terminal import compare as run

    of_trace = {"rows": rows, "max_in": max_in, "max_out": max_out, "columns": columns, "time_unit": time_unit}
    given = (
        {"bursts": bursts, **of_trace} if time_scale == 1 else {"time_scale": time_scale, "bursts": bursts, **of_trace}
    )
    alone = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if trace is None and alone:
        raise UsageRefusal(f"{', '.join(alone)}: only with --trace FILE")
    replay = None if trace is None else _replay(trace, time_scale, bursts, of_trace, duration)
    asked = Asked(
        profile=profile,
        targets=options.some_of(targets),
        given=tuple(target or ()),
        variants=tuple(variant or ()),
        scenarios=options.some_of(scenarios),
        sweep=sweep,
        trace=replay,
        baseline=baseline,
        rounds=rounds,
        duration_s=duration,
        precision=None if precision is None else _share(precision),
        time_s=None if time is None else _seconds(time),
        counted=counted,
        seed=seed,
        real=_real(real, model, {"rate_rps": rate, "prompt_tokens": prompt_tokens, "output_tokens": output_tokens}),
        headers=tuple(header or ()),
        ca=None if ca is None else str(ca),
    )
    command = shlex.join(["proxy-engines", *sys.argv[1:]])
    raise typer.Exit(run(asked, out=out, resume=resume, loads=loads, dry_run=dry_run, command=command, count=_count))


@app.command()
def limit(
    targets: Annotated[str, typer.Option(help="By comma.")] = "sherpa,olla",
    scenario: Annotated[str, typer.Option(help="An id or a .yaml file.")] = "chat-small",
    slo: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=MS", help="The objective instead of the scenario's, e.g. e2e_ms=20. Repeatable."),
    ] = None,
    first: Annotated[float, typer.Option(callback=options.above_zero, help="The first rate tried, a second.")] = 500.0,
    most: Annotated[float, typer.Option(callback=options.above_zero, help="No higher rate is tried.")] = 16_000.0,
    within: Annotated[
        float, typer.Option(callback=options.above_zero, help="How near the rates kept and lost must be, as a share.")
    ] = 0.1,
    duration: options.Seconds = 3.0,
    out: options.Out = None,
    resume: options.Resume = None,
) -> None:
    """Search the highest rate at which targets keep an objective."""
    from loadgen.studies.limit import Wanted, run

    wanted = Wanted(
        targets=options.some_of(targets) or (),
        scenario=scenario,
        slo=tuple(slo or ()),
        first=first,
        most=most,
        within=within,
        duration_s=duration,
        out=out,
        resume=resume,
    )
    raise typer.Exit(run(wanted, shlex.join(["proxy-engines", *sys.argv[1:]])))


@app.command("trace")
def describe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSON lines, also packed, also a pipe.")],
    time_scale: options.TimeScale = 1.0,
    rows: options.Rows = None,
    max_in: options.MaxIn = None,
    max_out: options.MaxOut = None,
    columns: options.Columns = None,
    time_unit: options.TimeUnit = None,
    bursts: options.Bursts = None,
    duration: options.Duration = None,
    as_json: options.Json = False,
) -> None:
    """Describe a trace: rows, span, rate, burstiness, lengths, and what `compare --trace` would play of it."""
    from loadgen.workload.trace_summary import describe as run

    of_trace = {"rows": rows, "max_in": max_in, "max_out": max_out, "columns": columns, "time_unit": time_unit}
    typer.echo(run(_replay(file, time_scale, bursts, of_trace, duration), as_json=as_json))


@app.command()
def micro(
    out: options.Out = None,
    against: Annotated[Path | None, typer.Option(help="Compare with an earlier run: its folder.")] = None,
    only: Annotated[str | None, typer.Option(help="Benchmarks by name, by comma: wire.*,flush.token.")] = None,
    rigorous: Annotated[bool, typer.Option("--rigorous", help="Four times the processes: half the interval.")] = False,
) -> None:
    """Run the pyperf suite: parts of the engines in memory, without sockets."""
    from loadgen.micro.run import RIGOROUS
    from loadgen.micro.run import main as run

    raise typer.Exit(run(out, only=options.some_of(only) or (), against=against, options=RIGOROUS if rigorous else ()))


app.add_typer(gate.app)
app.add_typer(verify.app)
app.add_typer(scenario_verbs.app)
for _verb in ELSEWHERE:
    _elsewhere(_verb)


def _real(real: bool, model: str | None, load: dict[str, Any]) -> Real | None:
    """What is sent to real servers. Raises UsageRefusal."""
    from loadgen.campaign.real import Real

    wanted = {name: value for name, value in load.items() if value is not None}
    if not real:
        if wanted or model is not None:
            raise UsageRefusal("--model, --rate, --prompt-tokens and --output-tokens: only with --real")
        return None
    if not model:
        raise UsageRefusal("--real: name the model that requests are to ask for: --model NAME")
    return Real.model_validate({"model": model, **wanted})


def _replay(
    file: Path, time_scale: float, bursts: str | None, of_trace: dict[str, Any], duration: float | None
) -> Replay:
    """What is played of a trace. Raises UsageRefusal."""
    from loadgen.workload.scenario import Replay
    from loadgen.workload.trace_format import UNITS, own_format

    options.one_of("--time-unit", of_trace["time_unit"], tuple(UNITS))
    options.one_of("--bursts", bursts, ("auto", "keep", "spread"))
    if of_trace["columns"] is not None:
        own_format(of_trace["columns"])
    played = {"time_scale": time_scale, "bursts": bursts or "auto", "duration_s": duration}
    return Replay.model_validate({"kind": "trace", "file": str(file), **of_trace, **played})


def _count(targets: Sequence[Target], folder: Path, voice: Voice) -> None:
    """Counts are the gate's: what it needs is loaded only where they are asked for."""
    from loadgen.gate.work import count

    count(targets, folder, voice)


def _share(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0.001 <= share <= 1:
        raise UsageRefusal(f"--precision {text}: write a share from 0.1% to 100%, e.g. 5%")
    return share


def _seconds(text: str) -> float:
    """`10m`, `90s`, `2h`; a number alone is seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|)", text)
    seconds = float(found[1]) * {"s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}[found[2]] if found else 0.0
    if not 0 < seconds <= options.MOST_SECONDS:
        raise UsageRefusal(f"--time {text}: write a time such as 90s, 10m or 2h")
    return seconds


def main() -> NoReturn:
    """The console script: one sentence and the documented exit code for whatever goes wrong."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in ELSEWHERE:  # before any parsing, so that nothing of what was typed is interpreted
        become(arguments[0], arguments[1:])
    usage_error = typer.BadParameter.__base__
    usage_error.exit_code = USAGE  # type: ignore[union-attr]  # click's own, or typer's copy of it
    debug = "--debug" in arguments  # wherever it was typed
    try:
        app(args=[argument for argument in arguments if argument != "--debug"], prog_name="proxy-engines")
    except Refusal as exc:
        print(f"proxy-engines: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as exc:
        code = getattr(exc, "exit_code", None)  # the packages below have refusals of their own
        if isinstance(code, int):
            print(f"proxy-engines: {exc}", file=sys.stderr)
            sys.exit(code)
        if debug:
            raise
        print(f"proxy-engines: internal error: {type(exc).__name__}: {exc} (--debug shows where)", file=sys.stderr)
        sys.exit(INTERNAL)
    sys.exit(0)
