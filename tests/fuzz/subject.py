"""An engine in front of an endpoint that echoes bodies, for test suites that talk to a server.

    python -m tests.fuzz.subject olla -- COMMAND ... {host} {port}

runs the command with the engine's address put in, ends with its exit code, and says what reached the endpoint that was
no HTTP. Without a command it prints the address and serves until interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence

import uvloop

from proxy.engines import ENGINES
from tests.fuzz.rig import Answer, parties
from tests.fuzz.strict import Broken, Message


def echo(request: Message) -> Answer:
    """The body of the request, as plain text."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(request.body)
    return (head if request.start[0] == b"HEAD" else head + request.body), False


async def run(engine: str, command: Sequence[str]) -> int:
    """Run a command against an engine; its exit code, 1 when the endpoint saw what was no HTTP."""
    async with parties([engine], echo) as (party,):
        if not command:
            print(f"{engine} on http://127.0.0.1:{party.port}; Ctrl-C ends it", flush=True)
            await asyncio.Event().wait()
        words = [word.format(host="127.0.0.1", port=party.port) for word in command]
        process = await asyncio.create_subprocess_exec(*words)
        code = await process.wait()
    broken = [request for request in party.reached if isinstance(request, Broken)]
    for one in broken:
        print(f"reached the endpoint and is no HTTP: {one}")
    return code or int(bool(broken))


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.subject", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("engine", choices=list(ENGINES))
    parser.add_argument("command", nargs="*", help="after --; {host} and {port} are put in")
    options = parser.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(run(options.engine, options.command))
    return 130


if __name__ == "__main__":
    sys.exit(main())
