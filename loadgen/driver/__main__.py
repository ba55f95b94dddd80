"""``python -m loadgen.driver JOB.json [--processes N] [--hold]``: drives one job with Locust and writes its rows.

Prints a JSON line a second on stdout (``{"t", "sent", "done", "errors", "lag_p99_us"}``) and a last one with
``"finished": true`` and the summary. With `--hold` it first prints ``{"ready": true}`` and waits for a line on stdin,
so that the 1-2 s of starting are not spent while targets wait. A line `go NS` also says when to begin, in nanoseconds
of the monotonic clock, so that several drivers can begin together.

Exit codes: 0 it ran (requests may have failed), 65 bad job, 69 the address cannot be resolved or the shards not
written, 70 a worker was lost or the driver is broken, 130 and 143 stopped by SIGINT or SIGTERM (what was measured is
written).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

# NumPy's linear algebra would start a spinning thread a core, on cores that are being measured. Read at its import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from loadgen.workload.job import Job, JobError, load_job, with_headers
from loadgen.workload.plan import Plan, load_plan

BAD_INPUT: Final = 65
MISSING: Final = 69
INTERNAL: Final = 70

_WORKERS_CONNECT_S: Final = 60.0
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Runs one job; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.driver", description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, metavar="JOB.json")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="worker processes (default: 1, this one)")
    parser.add_argument("--hold", action="store_true", help="print a ready line, start after a line on stdin")
    parser.add_argument("--worker-of", type=int, metavar="PORT", help=argparse.SUPPRESS)  # how workers are started
    try:
        options = parser.parse_args()
    except SystemExit as exc:
        return 64 if exc.code else 0
    if options.processes < 1:
        parser.print_usage(sys.stderr)
        sys.stderr.write("--processes must be 1 or more\n")
        return 64
    try:
        job = with_headers(load_job(options.job), os.environ.get("PROXY_ENGINES_HEADERS"))
        plan = None if job.plan is None else load_plan(job.plan, job)
    except JobError as exc:
        sys.stderr.write(f"{exc}\n")
        return BAD_INPUT
    if options.worker_of is not None:
        return _work(job, plan, options.worker_of)
    return _Run(job, plan, options.job, options.processes, hold=options.hold).run()


def _work(job: Job, plan: Plan | None, port: int) -> int:
    """A worker of `--processes`: does what the master on `port` tells it, and ends when the master does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the master decides
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    import gevent
    from locust.env import Environment

    from loadgen.driver.conductor import Conductor, DriverUser, JobShape

    _set_up_process()
    environment = Environment(user_classes=[DriverUser], shape_class=JobShape())  # type: ignore[no-untyped-call]  # Locust's own constructor
    runner: Any = environment.create_worker_runner("127.0.0.1", port)
    conductor = Conductor(environment, job, plan, job.out)
    told = []

    def stop() -> None:
        told.append(True)
        conductor.interrupt("the driver was stopped")

    gevent.signal_handler(signal.SIGTERM, stop)
    while not (runner.greenlet.join(timeout=0.1) or (told and conductor.over.is_set())):
        pass
    runner.client.close(linger=0)  # what a dead master did not take must not keep this process
    if conductor.failure is not None:
        return _explain(conductor.failure, job)
    return 0


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


def _merged(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """One summary of several workers: counts are added, lags and memory are the worst worker's."""
    if len(summaries) == 1:
        return summaries[0]
    if not summaries:
        return {}
    sums = ("planned", "sent", "done", "errors", "cancelled", "events", "event_rows", "bytes_in", "cpu_s", "cpu_share")
    worst = ("lag_p50_us", "lag_p99_us", "lag_max_us", "dispatch_lag_p99_us", "last_sent_ns", "t1_ns", "rss_peak_mib")
    merged: dict[str, Any] = {"workers": summaries[0]["workers"], "t0_ns": min(each["t0_ns"] for each in summaries)}
    for name in sums:
        values = [each[name] for each in summaries if each[name] is not None]
        merged[name] = round(sum(values), 6) if values else None
    for name in worst:
        merged[name] = max((each[name] for each in summaries if each[name] is not None), default=None)
    outcomes = Counter[str]()
    for each in summaries:
        outcomes.update(each["outcomes"])
    merged["outcomes"] = dict(outcomes)
    for unit, count in (("request", merged["done"]), ("event", merged["events"])):
        merged[f"cpu_us_per_{unit}"] = round(merged["cpu_s"] * 1e6 / count, 2) if count else None
    merged["files"] = [name for each in summaries for name in each["files"]]
    for name in ("gc", "timer", "interrupted"):
        merged[name] = summaries[0][name]
    return merged


def _print_line(line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the rows are what matters
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class _Run:
    """The process that was started: drives the job itself, or is the master of its workers."""

    def __init__(self, job: Job, plan: Plan | None, path: Path, processes: int, *, hold: bool) -> None:
        self._job = job
        self._plan = plan
        self._path = path
        self._processes = processes
        self._hold = hold
        self._children: list[subprocess.Popen[bytes]] = []
        self._signal = 0

    def run(self) -> int:
        """Runs to the end; returns the exit code."""
        # Importing Locust patches the standard library: only now, and only in this process.
        from locust.env import Environment

        from loadgen.driver.conductor import Conductor, DriverUser, JobShape

        _set_up_process()
        environment = Environment(user_classes=[DriverUser], shape_class=JobShape())  # type: ignore[no-untyped-call]  # Locust's own constructor
        runner: Any
        if self._processes > 1:
            runner = environment.create_master_runner("127.0.0.1", 0)
        else:
            runner = environment.create_local_runner()
        conductor = Conductor(environment, self._job, self._plan, self._job.out, _print_line)
        self._catch_signals(conductor)
        try:
            if self._processes > 1 and not self._start_workers(runner):
                return 128 + self._signal if self._signal else INTERNAL
            if self._hold and not self._held(conductor):
                return 128 + self._signal if self._signal else 0
            if self._signal:
                return 128 + self._signal
            runner.start_shape()
            self._wait(conductor)
        finally:
            runner.quit()
            self._reap()
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

    def _start_workers(self, runner: Any) -> bool:
        import gevent

        command = [sys.executable, "-m", "loadgen.driver", str(self._path), "--worker-of", str(runner.server.port)]
        self._children = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for _ in range(self._processes)
        ]
        with gevent.Timeout(_WORKERS_CONNECT_S, False):
            while runner.worker_count < self._processes:
                if self._signal or any(child.poll() is not None for child in self._children):
                    break
                gevent.sleep(0.05)
        if runner.worker_count == self._processes:
            return True
        if not self._signal:
            sys.stderr.write(f"only {runner.worker_count} of {self._processes} workers came up\n")
        return False

    def _wait(self, conductor: Any) -> None:
        while not conductor.over.wait(0.1):
            for child in self._children:
                if child.poll() is not None:
                    conductor.worker_gone(child.pid)

    def _reap(self) -> None:
        for child in self._children:
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _report(self, conductor: Any) -> int:
        if conductor.failure is not None:
            return _explain(conductor.failure, self._job)
        summaries = [conductor.results[worker] for worker in sorted(conductor.results)]
        _print_line({"finished": True, **_merged(summaries), "lost_workers": sorted(conductor.lost)})
        if self._signal:
            return 128 + self._signal
        if conductor.lost:
            sys.stderr.write(f"lost workers: {sorted(conductor.lost)}; their rows are missing\n")
            return INTERNAL
        return 0


if __name__ == "__main__":
    sys.exit(main())
