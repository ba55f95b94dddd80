"""`mock`: starts the backends, or measures what they can do."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from mock_backends.control import Control, ControlConnection
from mock_backends.faults import load_faults
from mock_backends.profile import known_profiles, load_profile
from mock_backends.server import Behaviour, Mocks, opened
from mock_backends.strict import Refused

_USAGE, _BAD_INPUT, _MISSING = 64, 65, 69


class _Parser(argparse.ArgumentParser):
    """argparse with this project's exit code for usage errors."""

    def error(self, message: str) -> None:  # type: ignore[override]  # argparse says NoReturn; exit() never returns
        self.print_usage(sys.stderr)
        self.exit(_USAGE, f"{self.prog}: {message}\n")

    def format_help(self) -> str:
        """In the form that every verb of `proxy-engines` has."""
        text = super().format_help().replace("usage: ", "Usage: ", 1).replace("\noptions:\n", "\nOptions:\n", 1)
        return text.replace("show this help message and exit", "Show this message and exit.", 1)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to 65535, not {text}")
    return port


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 256:
        raise argparse.ArgumentTypeError(f"from 1 to 256 backends can be run, not {text}")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 600:
        raise argparse.ArgumentTypeError(f"from 0.1 to 600 seconds, not {text}")
    return seconds


def parser() -> argparse.ArgumentParser:
    """The options of `mock`."""
    p = _Parser(prog="proxy-engines mock", description="Mock LLM servers: known bytes, known times, known faults.")
    p.add_argument("--host", default="127.0.0.1", help="Address to listen on. [default: %(default)s]")
    p.add_argument(
        "--port", type=_port, default=9001, help="First data port, 0: any free ports. [default: %(default)s]"
    )
    p.add_argument("--count", type=_count, default=1, help="How many backends, on consecutive ports. [default: 1]")
    p.add_argument(
        "--profile",
        default="instant",
        metavar="NAME",
        help=f"{', '.join(known_profiles())}, or a YAML file. [default: instant]",
    )
    p.add_argument("--seed", type=int, default=0, help="Of texts and times. [default: 0]")
    p.add_argument(
        "--control-port", type=_port, default=None, help="Port of the control listener. [default: port + count]"
    )
    p.add_argument("--faults", metavar="FILE", help="A YAML list of faults; see mock_backends/README.md.")
    p.add_argument("--cpu", type=int, default=None, metavar="N", help="Run on this processor only.")
    p.add_argument("--self-test", action="store_true", help="Measure what the mock can do on this machine, and end.")
    p.add_argument(
        "--seconds", type=_seconds, default=2.0, help="Self-test: length of each load. [default: %(default)s]"
    )
    p.add_argument("--json", action="store_true", help="Machine-readable.")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parser().parse_args(argv)
    try:
        profile = load_profile(options.profile)
        names = [f"mock-{i}" for i in range(options.count)]
        faults = load_faults(options.faults, names) if options.faults else None
    except Refused as exc:
        print(exc, file=sys.stderr)
        return _BAD_INPUT
    if options.self_test:
        return _self_test(options)
    if options.cpu is not None:
        try:
            os.sched_setaffinity(0, {options.cpu})
        except (OSError, ValueError, OverflowError, AttributeError):
            print(f"--cpu {options.cpu}: this process cannot run on that processor", file=sys.stderr)
            return _MISSING
    try:
        return uvloop.run(_serve(options, Behaviour.of(profile, options.seed, faults)))
    except Refused as exc:
        print(exc, file=sys.stderr)
        return _MISSING


def _self_test(options: argparse.Namespace) -> int:
    from mock_backends.selftest import format_report, self_test  # only this command needs it

    try:
        result = self_test(options.seconds)
    except Refused as exc:
        print(exc, file=sys.stderr)
        return _MISSING
    print(json.dumps(result) if options.json else format_report(result))
    return 0


async def _serve(options: argparse.Namespace, behaviour: Behaviour) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, number)
    mocks = Mocks(behaviour, options.count, loop)
    listener: asyncio.Server | None = None

    async def listen(host: str, port: int) -> None:
        nonlocal listener
        listener = await loop.create_server(lambda: ControlConnection(Control(mocks)), host, port)

    try:
        await mocks.listen(options.host, options.port)
        control_port = options.control_port
        if control_port is None:
            control_port = options.port + options.count if options.port else 0
        await opened(listen(options.host, control_port), options.host, control_port)
        assert listener is not None  # `listen` assigned it
        host, port = listener.sockets[0].getsockname()[:2]
        urls = [backend.url for backend in mocks.backends]
        admin = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        ready = {"ready": True, "url": urls[0], "urls": urls, "admin": admin, "pid": os.getpid()}
        print(json.dumps(ready), flush=True)
        # What lives now lives until the end; the hot path makes no cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        return await ended
    finally:
        mocks.close()
        if listener:
            listener.close()


def _end(ended: asyncio.Future[int], number: int) -> None:
    if not ended.done():
        ended.set_result(130 if number == signal.SIGINT else 0)
