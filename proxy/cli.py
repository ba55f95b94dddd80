"""`serve`: from a config file to a listening proxy, and the exit codes and sentences when that fails.

0 done · 64 usage · 65 bad config · 69 something needed is missing or taken · 70 internal error · 130 interrupted
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from proxy import config, process, worker
from proxy.control import logs, print_config
from proxy.control.rlimit import raise_file_limit
from proxy.engines import ENGINES, unused_keys
from proxy.net.listen import CannotListen, listen, listen_again, url_of

log = logging.getLogger("proxy.serve")

USAGE, BAD_CONFIG, UNAVAILABLE, INTERNAL, INTERRUPTED = 64, 65, 69, 70, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")

    def format_help(self) -> str:
        """In the form that every verb of `proxy-engines` has."""
        text = super().format_help().replace("usage: ", "Usage: ", 1).replace("\noptions:\n", "\nOptions:\n", 1)
        return text.replace("show this help message and exit", "Show this message and exit.", 1)


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m proxy`."""
    top = _Parser(prog="proxy-engines", description="An LLM proxy with two engines.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="serve")
    # What the supervisor starts; not for people, so without help.
    verbs.add_parser("worker").add_argument("channel", type=int)
    serve = verbs.add_parser(
        "serve",
        help="run an engine",
        description="Run an engine until SIGTERM or Ctrl-C. "
        "Streams in flight then have server.shutdown_timeout to finish; Ctrl-C a second later cuts them.",
    )
    serve.add_argument("--config", required=True, metavar="FILE", help="The YAML config file.")
    serve.add_argument("--engine", choices=list(ENGINES), help="Instead of proxy.engine.")
    serve.add_argument("--port", type=_whole(0, 65535), metavar="N", help="Instead of server.port; 0 takes a free one.")
    serve.add_argument("--admin-port", type=_whole(0, 65535), metavar="N", help="Instead of admin.port.")
    serve.add_argument("--workers", type=_whole(1, 256), metavar="N", help="Instead of server.workers.")
    serve.add_argument("--debug", action="store_true", help="Debug logs, and tracebacks of internal errors.")
    only = serve.add_mutually_exclusive_group()
    only.add_argument("--check-config", action="store_true", help="Say whether the config can be used, then exit.")
    only.add_argument("--print-config", action="store_true", help="Print each value and where it came from, then exit.")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        return worker.run_supervised(args.channel) if args.verb == "worker" else _serve(args)
    except config.ConfigError as exc:
        return _fail(str(exc), BAD_CONFIG)
    except (CannotListen, process.Unavailable) as exc:
        return _fail(str(exc), UNAVAILABLE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as exc:
        if args.verb == "worker":
            log.exception("internal error")
            return INTERNAL
        if args.debug:
            traceback.print_exc()
        return _fail(f"internal error: {type(exc).__name__}: {exc} (--debug shows where)", INTERNAL)


def _serve(args: argparse.Namespace) -> int:
    loaded = config.load(args.config, _overrides(args))
    settings = loaded.config
    unused = unused_keys(settings)
    if args.check_config:
        worker.load_certificates(settings)
        print(f"{args.config}: OK", *print_config.asked(settings), sep="\n")
        return 0
    if args.print_config:
        print(print_config.printed(loaded, unused), end="")
        return 0
    logs.set_up(settings.server.log_level)
    for key in print_config.unused(loaded, unused):
        log.warning("%s is written in %s and not used by %s", key, loaded.source, " and ".join(unused))
    if sentence := raise_file_limit(settings.server.max_connections):
        log.warning("%s", sentence)
    process.require_loop(settings.server.loop)
    several = settings.server.workers > 1
    sock = listen(settings.server.host, settings.server.port, key="server", shared=several)
    admin_sock = listen(settings.admin.host, settings.admin.port, key="admin")

    def ready() -> None:
        line = {"ready": True, "url": url_of(sock), "admin": url_of(admin_sock), "pid": os.getpid()}
        with contextlib.suppress(BrokenPipeError):  # whoever started it does not listen any more; clients may
            print(json.dumps(line), flush=True)

    if not several:
        return process.run_on_loop(lambda: worker.serve_alone(loaded, sock, admin_sock, ready), settings.server.loop)

    # Here and not above: a worker starts through this module too, and has no use for a supervisor in memory.
    from proxy.supervisor import Supervisor

    sockets = [sock, *(listen_again(sock) for _ in range(1, settings.server.workers))]

    async def supervise() -> int:
        return await Supervisor(loaded, sockets).run(admin_sock, ready)

    return process.run_on_loop(supervise, "asyncio")


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    given = {
        "proxy.engine": args.engine,
        "server.port": args.port,
        "server.workers": args.workers,
        "admin.port": args.admin_port,
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
