"""`proxy-engines verify driver`: what the driver can do on this machine, measured against a mock.

Five short loads, each a process of its own as in a campaign, on one core and with a campaign's priority, with rows,
digests and all (and the mock on another core where there is one). Prints for each what was asked, what was done, what
it cost, and whether the rule of valid measurements was kept: everything answered and right, the rate reached within
1 %, lag p99 under 1 ms.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadgen.bench import machine, watch
from loadgen.bench.child import Child, ChildError
from loadgen.bench.mocks import Backends
from loadgen.workload import arrivals
from loadgen.workload.job import Closed, Job, Template, save_job
from loadgen.workload.plan import make_plan, save_plan
from loadgen.workload.scenario import Mock

LAG_LIMIT_US: Final = 1000.0
_SETTLE_S: Final = 1.0  # after starting, which is a second of full load: real-time schedulers take that back
_READY_S: Final = 30.0
_POLL_S: Final = 0.05
_EVENTS: Final = 100  # content events of a stream
_GAP_MS: Final = 5
_PACED: Final = {"name": "paced", "output_tokens": 16, "token_gap": f"{_GAP_MS}ms"}

_PLAIN: Final = Template(
    "/v1/chat/completions",
    headers={"X-Mock-Body-Bytes": "1500"},
    body='{"model":"mock","seed":1,"messages":[{"role":"user","content":"%s"}]}' % ("tell me more " * 75),
)
_STREAM: Final = Template(
    "/v1/chat/completions",
    headers={"X-Mock-Events": str(_EVENTS)},
    body='{"model":"mock","seed":1,"stream":true,"messages":[{"role":"user","content":"hello"}]}',
    stream=True,
)


@dataclass(frozen=True, slots=True)
class DriverLoad:
    """One load of the self-test: `rate_rps` requests a second, or `users` as fast as they can; `unit` is counted."""

    name: str
    template: Template
    unit: str
    rate_rps: float = 0.0
    users: int = 0


LOADS: Final = (
    DriverLoad("lag at a low rate", _PLAIN, "requests", rate_rps=200),
    DriverLoad("10,000 requests/s", _PLAIN, "requests", rate_rps=10_000),
    DriverLoad("20,000 events/s", _STREAM, "events", rate_rps=20_000 / _EVENTS),
    DriverLoad("requests, as many as go", _PLAIN, "requests", users=32),
    DriverLoad("events, as many as go", _STREAM, "events", users=512),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a load came to. Rates are per second, costs in microseconds of the driver's CPU, shares of one core."""

    name: str
    unit: str
    asked_per_s: float | None
    done_per_s: float
    wrong: int
    cost_us: float
    driver_share: float
    mock_share: float
    lag_p50_us: float | None
    lag_p99_us: float | None
    valid: bool | None

    @property
    def ceiling_per_s(self) -> float:
        """What one core would come to at this cost, if the driver had it to itself."""
        return 1e6 / self.cost_us


def run(seconds: float, *, as_json: bool = False) -> int:
    """Runs the loads, each for so many seconds, and prints the table; returns the exit code."""
    cores = sorted(os.sched_getaffinity(0))
    results = []
    with tempfile.TemporaryDirectory(prefix="driver-selftest-") as name:
        folder = Path(name)
        for load in LOADS:
            mock = Backends.start(1, folder, (cores[-1],))
            try:
                mock.behave(Mock(profile=_PACED if load.template.stream else "instant"))
                results.append(measure(load, mock.urls[0], mock.pids[0], folder, seconds, cores[0]))
            finally:
                mock.stop()
            if not as_json:
                print(_line(results[-1]), flush=True)
    if as_json:
        print(json.dumps({"cores": len(cores), "results": [_as_json(result) for result in results]}, indent=1))
    elif len(cores) == 1:
        print("driver and mock shared one core: the figures are too low")
    return 0


def measure(load: DriverLoad, url: str, mock_pid: int, folder: Path, seconds: float, core: int) -> Result:
    """Runs one load as a driver process on `core`."""
    out = folder / "out"
    job = Job("selftest", url, out, (load.template,), plan=folder / "plan.npz", timeout_s=10.0)
    if load.users:
        job = Job("selftest", url, out, (load.template,), closed=Closed(load.users, seconds), timeout_s=10.0)
    else:
        offsets = arrivals.poisson(load.rate_rps, seconds, seed=1)
        save_plan(make_plan(offsets, warmup_s=seconds / 5), folder / "plan.npz")
    save_job(job, folder / "JOB.json")
    command = [sys.executable, "-m", "loadgen.driver", str(folder / "JOB.json"), "--hold"]
    with Child("driver", command, folder, cores=(core,), held=True) as driver:
        driver.wait_ready(_READY_S)
        driver.raise_priority(machine.DRIVER_PRIORITY)  # as in a campaign, where it is permitted
        time.sleep(_SETTLE_S)
        before = watch.process_cpu_ns(mock_pid)
        driver.release()
        while driver.alive():
            time.sleep(_POLL_S)
        mock_ns = watch.process_cpu_ns(mock_pid) - before
        last = next((line for line in driver.json_lines() if line.get("finished")), None)
        if last is None:
            raise ChildError(f"the driver {driver.how_it_ended()}: {driver.last_words()}")
    return _result(load, last, mock_ns, seconds)


def _result(load: DriverLoad, summary: dict[str, Any], mock_ns: int, seconds: float) -> Result:
    taken_s = (summary["t1_ns"] - summary["t0_ns"]) / 1e9
    done = summary["done"] if load.unit == "requests" else summary["events"]
    wrong = summary["done"] - summary["outcomes"].get("ok", 0)
    # Of an open loop, the time in which requests were sent; the ends of the last streams come after it.
    sent_s = max(seconds, (summary["last_sent_ns"] - summary["t0_ns"]) / 1e9)
    per_s = done / (taken_s if load.users else sent_s)
    valid = None
    if not load.users:
        in_time = sent_s <= seconds * 1.01 and summary["lag_p99_us"] <= LAG_LIMIT_US
        valid = in_time and wrong == 0 and summary["sent"] == summary["planned"]
    return Result(
        name=load.name,
        unit=load.unit,
        asked_per_s=None if load.users else summary["planned"] * done / summary["done"] / seconds,
        done_per_s=per_s,
        wrong=wrong,
        cost_us=summary["cpu_s"] * 1e6 / done,
        driver_share=summary["cpu_share"],
        mock_share=mock_ns / 1e9 / taken_s,
        lag_p50_us=summary["lag_p50_us"],
        lag_p99_us=summary["lag_p99_us"],
        valid=valid,
    )


def _line(result: Result) -> str:
    asked = "" if result.asked_per_s is None else f" of {result.asked_per_s:,.0f}"
    lag = "" if result.lag_p99_us is None else f", lag p50 {result.lag_p50_us:.0f} us, p99 {result.lag_p99_us:.0f} us"
    verdict = {None: "", True: "  valid", False: "  NOT VALID"}[result.valid]
    limit = "  (the mock was the limit)" if result.valid is None and result.mock_share > 0.9 else ""
    wrong = f", {result.wrong} not ok" if result.wrong else ""
    return (
        f"{result.name:<24} {result.done_per_s:>9,.0f}{asked} {result.unit}/s{wrong}, "
        f"{result.cost_us:.1f} us CPU each, driver {result.driver_share:.0%} of its core "
        f"(ceiling {result.ceiling_per_s:,.0f}/s), mock {result.mock_share:.0%}{lag}{verdict}{limit}"
    )


def _as_json(result: Result) -> dict[str, Any]:
    return {**{name: getattr(result, name) for name in Result.__slots__}, "ceiling_per_s": result.ceiling_per_s}
