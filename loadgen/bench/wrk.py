"""``python -m loadgen.bench.wrk JOB.json --hold``: drives one closed-loop job with wrk, where our driver is too slow.

Speaks like the driver on stdout: a ready line, then it waits for a line on stdin; a line with ``"mark": true`` where
the measured window begins and where it ends, both under full load; a last line with ``"finished": true`` and what wrk
counted. It keeps no rows: the work done between the marks is counted by the mocks, the CPU by the kernel (`tally`).

Exit codes: 0 it ran, 65 bad job, 69 wrk is not installed or cannot run.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from loadgen.errors import BAD_INPUT, MISSING
from loadgen.workload.job import Job, JobError, load_job
from loadgen.workload.payload import Payloads

HOW_TO_GET: Final = "wrk is not installed; it is Debian's package `wrk`"
MARGIN_S: Final = 0.3  # of load before the first mark and after the second

# wrk has one function for all requests of a thread; ready texts are dealt in turn. The last line is for machines.
_SCRIPT: Final = """\
local requests = {
%s
}
local n = 0
request = function()
  n = n %% #requests + 1
  return requests[n]
end
done = function(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %%d, "bytes": %%d, "seconds": %%.6f, "errors": %%d, ' ..
    '"p50_ms": %%.3f, "p95_ms": %%.3f, "p99_ms": %%.3f}\\n',
    summary.requests, summary.bytes, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
"""


def installed() -> bool:
    """Whether there is a wrk on the PATH."""
    return shutil.which("wrk") is not None


def script(job: Job) -> str:
    """The Lua script that sends the job's requests, in turn. Raises JobError for what wrk cannot do."""
    if job.closed is None or job.closed.think_ms or job.cancel or job.slow_read or not job.keepalive:
        raise JobError(f"{job.scenario}: wrk sends in closed loop without pauses, on kept connections, and reads all")
    payloads = Payloads(job)
    sent = [
        payloads.build(number, number, prompt_bytes=job.closed.prompt_bytes)[0] for number in range(len(job.requests))
    ]
    return _SCRIPT % ",\n".join(map(_lua, sent))


def lasts_s(warmup_s: float, measured_s: float) -> int:
    """How long wrk runs; it takes whole seconds."""
    return math.ceil(max(warmup_s, MARGIN_S) + measured_s + MARGIN_S)


def _lua(data: bytes) -> str:
    """Bytes as a Lua text: printable ASCII as it is, all else as decimal escapes."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03d}" for b in data) + '"'


def main() -> int:
    """Runs one job; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadgen.bench.wrk", description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, metavar="JOB.json")
    parser.add_argument("--hold", action="store_true", help="print a ready line, start after a line on stdin")
    options = parser.parse_args()
    try:
        job = load_job(options.job)
        lua = job.out / "wrk.lua"
        lua.write_text(script(job), encoding="ascii")
    except JobError as exc:
        sys.stderr.write(f"{exc}\n")
        return BAD_INPUT
    if not installed():
        sys.stderr.write(f"{HOW_TO_GET}\n")
        return MISSING
    if options.hold:
        _say(ready=True)
        if not sys.stdin.readline():
            return 0
    return _run(job, lua)


def _run(job: Job, lua: Path) -> int:
    closed = job.closed
    assert closed is not None  # `script` saw to it
    measured_s = closed.duration_s - closed.warmup_s
    before_s = max(closed.warmup_s, MARGIN_S)
    seconds = lasts_s(closed.warmup_s, measured_s)
    command = [
        "wrk", "--threads", "1", "--connections", str(closed.users), "--duration", f"{seconds}s",
        "--timeout", f"{math.ceil(job.timeout_s)}s", "--script", str(lua), job.base_url,
    ]  # fmt: skip
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as wrk:
        for due in (before_s, before_s + measured_s):
            try:
                wrk.wait(max(begun + due - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                _say(t=time.monotonic() - begun, mark=True)
        output = wrk.communicate()[0]
    figures = next((line for line in output.splitlines() if line.startswith("{")), None)
    if wrk.returncode or figures is None:
        sys.stderr.write(f"wrk ended with exit code {wrk.returncode}: {output.strip()[-500:]}\n")
        return MISSING
    _say(finished=True, generator="wrk", **json.loads(figures))
    return 0


def _say(**line: Any) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
