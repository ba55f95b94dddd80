"""`serve`: from a config file to a listening proxy, and the exit codes and sentences when that fails.

0 done · 64 usage · 65 bad config · 69 something needed is missing or taken · 70 internal error · 130 interrupted
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from proxy import config, worker
from proxy.control import logs
from proxy.control.listen import CannotListen, listen, url_of
from proxy.engines import ENGINES

USAGE, BAD_CONFIG, UNAVAILABLE, INTERNAL, INTERRUPTED = 64, 65, 69, 70, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m proxy`."""
    top = _Parser(prog="proxy", description="An LLM proxy with two engines.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="serve")
    serve = verbs.add_parser("serve", help="run an engine", description="Run an engine until SIGTERM or Ctrl-C.")
    serve.add_argument("--config", required=True, metavar="FILE", help="the YAML config file")
    serve.add_argument("--engine", choices=list(ENGINES), help="instead of proxy.engine")
    serve.add_argument("--port", type=_whole(0, 65535), metavar="N", help="instead of server.port; 0 takes a free one")
    serve.add_argument("--workers", type=_whole(1, 256), metavar="N", help="instead of server.workers")
    serve.add_argument("--debug", action="store_true", help="debug logs, and tracebacks of internal errors")
    only = serve.add_mutually_exclusive_group()
    only.add_argument("--check-config", action="store_true", help="say whether the config can be used, then exit")
    only.add_argument("--print-config", action="store_true", help="print every value and where it came from, then exit")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return _serve(args)
    except config.ConfigError as exc:
        return _fail(str(exc), BAD_CONFIG)
    except (CannotListen, worker.MissingPart) as exc:
        return _fail(str(exc), UNAVAILABLE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:
        if args.debug:
            raise
        return _fail(f"internal error: {type(exc).__name__}: {exc} (--debug shows where)", INTERNAL)


def _serve(args: argparse.Namespace) -> int:
    loaded = config.load(args.config, _overrides(args))
    if args.check_config:
        print(f"{args.config}: OK")
        return 0
    settings = loaded.config
    logs.set_up(settings.server.log_level)
    sock = listen(settings.server.host, settings.server.port, key="server")

    def ready() -> None:
        print(json.dumps({"ready": True, "url": url_of(sock), "admin": None, "pid": os.getpid()}), flush=True)

    return worker.run_on_loop(lambda: worker.serve(loaded, sock, ready), settings.server.loop)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "proxy.engine": args.engine,
        "server.port": args.port,
        "server.workers": args.workers,
        "server.log_level": "debug" if args.debug else None,
    }
    return {key: value for key, value in given.items() if value is not None}


def _whole(low: int, high: int) -> Any:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return number


def _fail(message: str, code: int) -> int:
    print(message, file=sys.stderr)
    return code
