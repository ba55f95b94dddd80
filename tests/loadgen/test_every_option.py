"""Every option of every verb with values that make no sense: a sentence and a documented exit code, never 70 (U13).

What would start processes or run for minutes is replaced; all before it (parsing, checks, files) is the real one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import mock_backends.cli
import proxy.cli
import reports.cli
from loadgen import cli
from loadgen.errors import Missing
from loadgen.gate import run as gate_run
from loadgen.micro import run as micro_run
from loadgen.micro.result import BenchmarkResult
from loadgen.studies import crosscheck as studies_crosscheck
from loadgen.studies import driver as studies_driver
from loadgen.studies import limit as studies_limit
from loadgen.studies import sensitivity as studies_sensitivity
from loadgen.workload import timetable
from tests.loadgen.console import console

BAD = ["", " ", "nan", "inf", "-1", "0", "0.5", "1e400", "9" * 20, "tráfego.csv", '{"a": {"b": 1}}', "a b/c d",
       "x=y", "=", ",", "x=http://u:p@h:1", "x={port} '"]  # fmt: skip
DOCUMENTED = {0, 1, 2, 3, 64, 65, 69}

TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n"
CONFIG = "endpoints: [{name: a, url: 'http://127.0.0.1:1'}]\n"


def options_of_typer(*verb: str) -> list[tuple[str, bool]]:
    """(option, whether it takes a value)."""
    command: Any = typer.main.get_command(cli.app)
    for word in verb:
        command = command.commands[word]
    return [(one.opts[0], not one.is_flag) for one in command.params if one.opts[0].startswith("--")]


def options_of_reports(verb: str) -> list[tuple[str, bool]]:
    command: Any = typer.main.get_command(reports.cli.app)
    return [(one.opts[0], not one.is_flag) for one in command.commands[verb].params if one.opts[0].startswith("--")]


def options_of_argparse(parser: argparse.ArgumentParser) -> list[tuple[str, bool]]:
    found = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += options_of_argparse(action.choices["serve"])
        elif action.option_strings and action.option_strings[-1].startswith("--"):
            found.append((action.option_strings[-1], action.nargs != 0))
    return found


VERBS: dict[str, tuple[list[tuple[str, bool]], list[str], Callable[[list[str]], int]]] = {}


def ends(main: Callable[[list[str]], int | None]) -> Callable[[list[str]], int]:
    def run(words: list[str]) -> int:
        try:
            return main(words) or 0
        except SystemExit as exc:
            return exc.code if isinstance(exc.code, int) else 1

    return run


VERBS = {
    "compare": (options_of_typer("compare"), ["compare", "--dry-run", "--scenarios", "chat-small"], console),
    "compare of a trace": (options_of_typer("compare"), ["compare", "--dry-run", "--trace", "t.csv"], console),
    "limit": (options_of_typer("limit"), ["limit"], console),
    **{
        f"verify {name}": (options_of_typer("verify", name), ["verify", name], console)
        for name in ("driver", "overload", "sensitivity", "crosscheck")
    },
    "scenarios list": (options_of_typer("scenarios", "list"), ["scenarios", "list"], console),
    "trace": (options_of_typer("trace"), ["trace", "t.csv"], console),
    "micro": (options_of_typer("micro"), ["micro"], console),
    "gate": (options_of_typer("gate"), ["gate"], console),
    "gate of two": (options_of_typer("gate"), ["gate", "--target-base", "a=relay"], console),
    "gate trend": (options_of_typer("gate", "trend"), ["gate", "trend"], console),
    "report": (options_of_reports("report"), ["report"], ends(reports.cli.main)),
    "publish": (options_of_reports("publish"), ["publish", "missing"], ends(reports.cli.main)),
    "choose": (options_of_reports("choose"), ["choose", "--rate", "1", "--endpoints", "1"], ends(reports.cli.main)),
    "serve": (
        options_of_argparse(proxy.cli.parser()),
        ["serve", "--config", "c.yaml", "--check-config"],
        ends(proxy.cli.main),
    ),
    "mock": (options_of_argparse(mock_backends.cli.parser()), [], ends(mock_backends.cli.main)),
}


@contextlib.contextmanager
def no_server(*_: object) -> Iterator[str]:
    raise Missing("nothing is started here")
    yield ""


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder outside any repository, and nothing that takes long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    Path("t.csv").write_text(TRACE)
    Path("c.yaml").write_text(CONFIG)

    async def serve(*_: object) -> int:
        return 0

    monkeypatch.setattr(mock_backends.cli, "_serve", serve)
    monkeypatch.setattr(mock_backends.cli, "_self_test", lambda *_: 0)
    monkeypatch.setattr(gate_run.interleaved, "time_pair", lambda *_: [])
    monkeypatch.setattr(micro_run, "_time", lambda *_, **__: None)
    monkeypatch.setattr(micro_run, "_count", lambda *_: {"x": 1})
    monkeypatch.setattr(micro_run, "_gather", lambda *_: None)
    monkeypatch.setattr(
        micro_run,
        "_result",
        lambda entry, *_: BenchmarkResult(entry.benchmark.name, "", "x", (1.0, 2.0), (0.0, 0.0, 0.0), 1),
    )
    monkeypatch.setattr(studies_limit, "_search_all", lambda *_: {})
    monkeypatch.setattr(studies_limit.Searches, "begin", lambda *_: None)
    monkeypatch.setattr("reports.render.build_report", lambda folder: SimpleNamespace(html=folder))
    monkeypatch.setattr(studies_driver, "run", lambda *_, **__: 0)
    monkeypatch.setattr("loadgen.campaign.terminal.compare", lambda *_, **__: 0)
    monkeypatch.setattr(studies_sensitivity, "_run", lambda *_: 0)
    monkeypatch.setattr(studies_crosscheck, "client", lambda *_: "wrk")
    monkeypatch.setattr(studies_crosscheck, "_serving", no_server)
    yield
    timetable.replayed.cache_clear()
    asyncio.set_event_loop(None)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.usefixtures("nothing_runs")
def test_u13_no_value_of_any_option_is_an_internal_error(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, always, main = VERBS[verb]
    wrong = []
    for option, takes_value in options:
        for value in BAD if takes_value else [None]:
            words = [*always, option] if value is None else [*always, f"{option}={value}"]
            if option == "--help":
                continue
            code = main(words)
            told = capsys.readouterr()
            said = (told.err + told.out).strip()
            if code not in DOCUMENTED or (code != 0 and not said) or "Traceback" in said:
                wrong.append(f"{words}: {code}: {said[-300:]}")
    assert not wrong, "\n".join(wrong)


def test_the_walk_knows_every_verb() -> None:
    command: Any = typer.main.get_command(cli.app)
    assert set(command.commands) <= {name.split()[0] for name in VERBS}
