"""``python -m loadgen.driver JOB.json [--hold] [--early]``: drives one job with Locust and writes its rows.

Prints a JSON line a second on stdout (``{"t", "sent", "done", "errors", "lag_p99_us"}``) and a last one with
``"finished": true`` and the summary. With `--hold` it first prints ``{"ready": true}`` and waits for a line on stdin,
so that the 1-2 s of starting are not spent while targets wait. A line `go NS` also says when to begin, in nanoseconds
of the monotonic clock, so that several drivers can begin together. With `--early` JOB.json need not be there yet:
Locust is imported first, and a line on stdin says that it was written.

Exit codes: 0 it ran (requests may have failed), 65 bad job, 69 the address cannot be resolved or the rows not
written, 70 the driver is broken, 130 and 143 stopped by SIGINT or SIGTERM (what was measured is
written).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

# NumPy's linear algebra would start a spinning thread a core, on cores that are being measured. Read at its import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from loadgen.errors import BAD_INPUT, INTERNAL, MISSING, USAGE
from loadgen.workload.job import Job, JobError, load_job, with_headers
from loadgen.workload.plan import Plan, load_plan


def main() -> int:
    """Runs one job; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.driver", description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, metavar="JOB.json")
    parser.add_argument("--hold", action="store_true", help="print a ready line, start after a line on stdin")
    parser.add_argument("--early", action="store_true", help="read JOB.json after a line on stdin, of its own")
    try:
        options = parser.parse_args()
    except SystemExit as exc:
        return USAGE if exc.code else 0
    if options.early:
        import loadgen.driver.conductor  # noqa: F401  # and with it Locust: most of what a start takes

        if not _line():
            return 0
    try:
        job = with_headers(load_job(options.job), os.environ.get("PROXY_ENGINES_HEADERS"))
        plan = None if job.plan is None else load_plan(job.plan, job)
    except JobError as exc:
        sys.stderr.write(f"{exc}\n")
        return BAD_INPUT
    return _Run(job, plan, hold=options.hold).run()


def _line() -> bytes:
    """The next line on stdin, and nothing beyond; empty if it ended. Unbuffered, as what follows is read by gevent."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(0, 1)):
        line += byte
    return line


def _explain(failure: BaseException, job: Job) -> int:
    """One sentence on stderr, and the exit code."""
    if isinstance(failure, socket.gaierror):
        sys.stderr.write(f"{job.base_url}: the address cannot be resolved: {failure.strerror}\n")
        return MISSING
    if isinstance(failure, OSError):
        where = failure.filename or job.out
        sys.stderr.write(f"{where}: {failure.strerror or failure}\n")
        return MISSING
    sys.stderr.write(f"the driver is broken: {type(failure).__name__}: {failure}\n")
    return INTERNAL


def _set_up_process() -> None:
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="driver: %(message)s")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a connection is a file
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _print_line(line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the rows are what matters
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class _Run:
    """The job that is driven, and who may stop it."""

    def __init__(self, job: Job, plan: Plan | None, *, hold: bool) -> None:
        self._job = job
        self._plan = plan
        self._hold = hold
        self._signal = 0

    def run(self) -> int:
        """Runs to the end; returns the exit code."""
        # Importing Locust patches the standard library: only now, and only in this process.
        from locust.env import Environment

        from loadgen.driver.conductor import Conductor, DriverUser, JobShape

        _set_up_process()
        environment = Environment(user_classes=[DriverUser], shape_class=JobShape())  # type: ignore[no-untyped-call]  # Locust's own constructor
        runner: Any = environment.create_local_runner()
        conductor = Conductor(environment, self._job, self._plan, self._job.out, _print_line)
        self._catch_signals(conductor)
        try:
            if self._hold and not self._held(conductor):
                return 128 + self._signal if self._signal else 0
            if self._signal:
                return 128 + self._signal
            runner.start_shape()
            conductor.over.wait()
        finally:
            runner.quit()
        return self._report(conductor)

    def _catch_signals(self, conductor: Any) -> None:
        import gevent

        def stop(number: int) -> None:
            self._signal = number
            conductor.interrupt("the driver was stopped")

        for number in (signal.SIGINT, signal.SIGTERM):
            gevent.signal_handler(number, stop, number)

    def _held(self, conductor: Any) -> bool:
        """Waits for a line on stdin, which may say when to begin; False if it ends or a signal comes first."""
        import gevent.select

        _print_line({"ready": True, "pid": os.getpid()})
        while not self._signal:
            if gevent.select.select([0], [], [], 0.1)[0]:
                words = os.read(0, 4096).split()
                if len(words) > 1:
                    conductor.begin_ns = int(words[1])
                return bool(words)
        return False

    def _report(self, conductor: Any) -> int:
        if conductor.failure is not None:
            return _explain(conductor.failure, self._job)
        _print_line({"finished": True, **conductor.summary})
        return 128 + self._signal if self._signal else 0


if __name__ == "__main__":
    sys.exit(main())
