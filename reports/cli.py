"""`python -m reports`: report, publish, choose. `proxy-engines` hands these verbs over.

Exit codes: 0 done, 3 `choose` outside the measured range, 64 usage, 65 a file that cannot be used, 69 something is
missing, 70 internal error, 130 interrupted. Words like `too-noisy` are in verdict.json, never in the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from reports.store import RUNS, ReportError

OUTSIDE: Final = 3

LATEST: Final = RUNS / "latest"
PUBLISHED: Final = Path(__file__).with_name("published")

app = typer.Typer(
    name="proxy-engines",
    help="Everything that reads result files: the report of a campaign, advice from stored campaigns.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


class _Missing(Exception):
    """Something needed is not there: one sentence for people."""


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")] = False,
) -> None:
    """Read before this by `main`, so that it may stand anywhere."""


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A campaign's folder.")] = LATEST,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--with", metavar="DIR", help="Another campaign of the profile: every row shows both. Repeatable."
        ),
    ] = None,
    splice: Annotated[
        list[Path] | None,
        typer.Option("--splice", metavar="FILE", help="Write current tables of published campaigns into a document."),
    ] = None,
) -> None:
    """Build the report of a campaign from its files: report.html, report.md, verdict.json, figures."""
    if splice:
        from reports.splice import splice as write

        for document in splice:
            typer.echo(f"{document}: {'tables written' if write(document) else 'tables are current'}")
        return
    from reports.render import build_report

    if folder == LATEST and not folder.exists():
        raise _Missing(f"there is no {LATEST}; run `proxy-engines compare` first, or name a campaign's folder")
    result = build_report(folder, beside or [])
    for line in result.headlines:
        typer.echo(line)
    typer.echo(f"report: {result.html}")


@app.command()
def publish(
    campaign: Annotated[Path, typer.Argument(metavar="DIR", help="A campaign's folder.")],
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Where to; default reports/published/<date>-<profile>."),
    ] = None,
) -> None:
    """Put a campaign where it is committed: its measurements, its report and a picture, and new tables in README."""
    from reports.publish import NoBrowser
    from reports.publish import publish as run

    try:
        made = run(campaign, into)
    except NoBrowser as exc:
        raise _Missing(str(exc)) from exc
    typer.echo(f"{made.folder}: {made.size / 1e6:.1f} MB; `proxy-engines report {made.folder}` rebuilds it")
    for document in made.documents:
        typer.echo(f"{document}: tables and picture written")


@app.command()
def choose(
    rate: Annotated[float, typer.Option(min=0.001, help="Requests per second to be served.")],
    endpoints: Annotated[int, typer.Option(min=1, help="LLM servers behind the proxy.")],
    streams: Annotated[int | None, typer.Option(min=1, help="Streams open at once.")] = None,
    tokens: Annotated[float | None, typer.Option(min=1, help="Output tokens per request.")] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=VALUE", help="A limit to keep, e.g. ttft_p99_ms=250. Repeatable."),
    ] = None,
    source: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="DIR", help="A campaign, or a published one's name. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Advise an engine for a deployment, from stored campaigns and only inside the range they measured."""
    from reports import choose as model
    from reports.decide import NEGLIGIBLE_CORE

    wanted = model.Deployment(rate, endpoints, streams, tokens, _limits(slo or []))
    folders = [_verdict_folder(folder) for folder in source] if source else _stored()
    points = [point for folder in folders for point in model.points_of(_verdict(folder))]
    advice = model.choose(points, wanted)
    if as_json:
        typer.echo(json.dumps(advice.to_json(), indent=2))
        return
    typer.echo(f"{advice.engine.capitalize()}: {advice.because[0]}")
    for reason in advice.because[1:]:
        typer.echo(f"  {reason}")
    if advice.break_even_rps is not None:
        where = "" if advice.break_even_measured else ", which lies outside the measured rates: an extrapolation"
        saved = f"Olla saves {NEGLIGIBLE_CORE * 100:g} % of a core"
        typer.echo(f"  Break-even: {saved} from {advice.break_even_rps:,.0f} req/s{where}")
    typer.echo(f"  From: {', '.join(folder.resolve().name for folder in folders)}")


def _stored() -> list[Path]:
    """The newest campaign of this machine, else the published ones."""
    if LATEST.exists():
        return [LATEST]
    found = sorted(path.parent for path in PUBLISHED.glob("*/verdict.json"))
    if not found:
        raise _Missing(
            f"no stored campaign at {LATEST} or {PUBLISHED}; run `proxy-engines compare`, or name one with --from DIR"
        )
    return found


def _verdict_folder(given: Path) -> Path:
    """A folder as given, or the published campaign of that name."""
    published = PUBLISHED / given
    return given if given.exists() or not published.is_dir() else published


def _verdict(folder: Path) -> dict[str, Any]:
    """verdict.json of a campaign. One that lacks it, or was judged by an older version, is judged again if its runs are
    there."""
    from reports.store import read_json

    path = folder / "verdict.json"
    found = read_json(path) if path.exists() else {}
    if (not isinstance(found, dict) or "scenarios" not in found) and (folder / "campaign.json").exists():
        from reports.render import judged_anew

        return judged_anew(folder)
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise ReportError(f"{folder}: holds neither a campaign nor a verdict.json; name a campaign's folder")
    return found


def _limits(given: Sequence[str]) -> dict[str, float]:
    from reports.schema import METRICS

    limits = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in METRICS:
            raise typer.BadParameter(f"--slo {text}: {name!r} is not a metric; known are {', '.join(METRICS)}")
        try:
            limits[name] = float(value)
        except ValueError as exc:
            raise typer.BadParameter(f"--slo {text}: {value!r} is not a number") from exc
    return limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return its exit code; errors are one sentence on stderr."""
    from reports.choose import OutsideRange

    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        # Without standalone mode an exit code is returned and errors are raised, which leaves the codes to us.
        code = app(words, standalone_mode=False, prog_name="proxy-engines")
    except ReportError as exc:
        return _say(str(exc), exc.exit_code)
    except _Missing as exc:
        return _say(str(exc), os.EX_UNAVAILABLE)
    except OutsideRange as exc:
        return _say(str(exc), OUTSIDE)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as exc:
        # What typer raises for bad arguments has no public type, but an exit code and a message.
        if getattr(exc, "exit_code", None) in (2, os.EX_USAGE) and hasattr(exc, "format_message"):
            text = str(exc.format_message())
            return _say(f"{text.rstrip('.')}; see --help", os.EX_USAGE)
        if debug:
            traceback.print_exc()
        return _say(
            f"internal error: {type(exc).__name__}: {exc}; run again with --debug for the traceback", os.EX_SOFTWARE
        )
    return code if isinstance(code, int) else 0


def _say(sentence: str, code: int) -> int:
    print(f"proxy-engines: {sentence}", file=sys.stderr)
    return code
