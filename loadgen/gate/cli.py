"""`gate`: the command line."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from loadgen.bench.child import terminable
from loadgen.errors import INTERRUPTED, USAGE
from loadgen.gate.repeats import repeat
from loadgen.gate.run import LEVELS, GateOptions, run
from loadgen.gate.selftest import self_test
from loadgen.gate.trend import show as show_trend
from loadgen.targets.given import shown

_ENGINES = ("olla", "sherpa")
_AUTO = "auto: the merge base with the branch it is meant for"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    gate = _Parser(
        prog="proxy-engines gate",
        description="Check performance of one revision against another. `gate trend` shows a history. Exit codes: "
        "0 pass, 1 regression, 2 could not measure, 3 void (wrong answers, or not comparable).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    gate.add_argument(
        "--base",
        default="HEAD^",
        metavar="REV",
        help="what head is compared with; auto: the merge base with the branch it is meant for",
    )
    gate.add_argument("--head", default="HEAD", metavar="REV", help="what is judged")
    gate.add_argument(
        "--target", metavar="NAME=COMMAND", help="a proxy of your own, run in the folder of each revision"
    )
    gate.add_argument("--target-base", metavar="NAME=WHAT", help="compare two proxies: URL, config or command")
    gate.add_argument("--target-head", metavar="NAME=WHAT", help="the other one")
    gate.add_argument("--levels", type=_some_of(LEVELS), default=LEVELS, metavar="L0,L1,L2", help="which levels")
    gate.add_argument("--engines", type=_some_of(_ENGINES), default=_ENGINES, metavar="olla,sherpa", help="which")
    gate.add_argument("--limits", type=Path, metavar="FILE", help="your own limits: YAML, only what differs")
    gate.add_argument("--require-measured", action="store_true", help="end in 1 where it could not measure")
    gate.add_argument("--history", type=Path, metavar="FILE", help="append the run to this file, a line of JSON")
    gate.add_argument("--out", type=Path, metavar="DIR", help="folder of the results; reports/runs/<UTC>-gate if none")
    gate.add_argument("--repeat", type=_number, metavar="N", help="head against itself N times: spread, false alarms")
    gate.add_argument("--self-test", action="store_true", help="seed slow-downs and see that they are caught")
    gate.add_argument("--resume", type=Path, metavar="DIR", help="go on with an interrupted self-test")
    return gate


def main(arguments: Sequence[str]) -> int:
    """Run the gate; returns the exit code."""
    if arguments and arguments[0] == "trend":
        return _trend(arguments[1:])
    options = parser()
    try:
        args = options.parse_args(list(arguments))
        _check(options, args)
    except SystemExit as exc:  # argparse ends the process by itself, also for --help
        return exc.code if isinstance(exc.code, int) else USAGE
    command = shlex.join(["proxy-engines", "gate", *map(shown, arguments)])
    asked = GateOptions(
        base=args.base,
        head=args.head,
        targets=None if args.target_base is None else (args.target_base, args.target_head),
        target=args.target,
        limits=args.limits,
        history=args.history,
        all_measured=args.require_measured,
        levels=args.levels,
        engines=args.engines,
        command=command,
    )
    with terminable():  # also while the result is printed: what measures has ended by then, and with it its own
        try:
            if args.repeat is not None:
                return repeat(asked, args.repeat, args.out)
            if args.self_test:
                return self_test(args.head, args.out, args.resume, command, args.levels)
            return run(asked, args.out)
        except KeyboardInterrupt:
            return INTERRUPTED


def _check(options: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Options that belong together or exclude each other; ends the process as argparse does."""
    if (args.target_base is None) != (args.target_head is None):
        options.error("--target-base and --target-head go together")
    if args.target is not None and args.target_base is not None:
        options.error("--target runs one command in two revisions, --target-base and --target-head two proxies: choose")
    if args.target is not None and "L2" not in args.levels:
        options.error("--target: a proxy that is not ours is timed (L2); L0 and L1 know our engines only")
    if args.resume is not None and not args.self_test:
        options.error("--resume belongs to --self-test")
    if args.repeat is not None and (args.self_test or args.target_base or args.target):
        options.error("--repeat measures --head against itself: it goes with --levels and --engines only")


def _trend(arguments: Sequence[str]) -> int:
    """`gate trend`: what a history shows."""
    options = _Parser(prog="proxy-engines gate trend", description="Levels and change points of a gate's history.")
    options.add_argument("--history", required=True, metavar="FILE", help="a file, or BRANCH:FILE of this repository")
    try:
        args = options.parse_args(list(arguments))
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else USAGE
    return show_trend(args.history)


def _number(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 2 to 100")
    return int(text)


def _some_of(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def chosen(text: str) -> tuple[str, ...]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"{text!r}: known are {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return chosen
