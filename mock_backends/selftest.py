"""What the mock can do on this machine: its ceiling, which a campaign holds against the rate it offers.

One core for the mock, one for its driver (`raw_client`); this process only starts them and reads the counts.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from mock_backends.strict import Refused

ROUNDS = 3
PACED_STREAMS = (500, 2000, 4000, 8000)
LATENESS_LIMIT_MS = 5.0
_BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello wo" * 115}]})


@dataclass(frozen=True, slots=True)
class Load:
    """One measured load. CPU is that of the whole mock process, per unit; `busy` the shares of both cores."""

    replies_per_s: float
    events_per_s: float
    cpu_us_per_reply: float
    cpu_us_per_event: float
    lateness_p50_ms: float
    lateness_p99_ms: float
    mock_busy: float
    driver_busy: float


def self_test(seconds: float, paced_streams: Sequence[int] = PACED_STREAMS) -> dict[str, Any]:
    """Measures everything: 9 loads of `seconds`, then one for each number of paced streams while they are held.

    Raises `Refused` if a process of it fails.
    """
    open_files = _raise_open_files()
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    with _mock(cpus[0]) as (url, admin):
        bench = _Bench(url, admin, cpus[1] if len(cpus) > 1 else cpus[0], seconds)
        requests = bench.median(connections=32, whole=True)
        stream = bench.median(connections=64, gap="5ms", events=200)
        burst = bench.median(connections=16, events=200)
        paced = {}
        for streams in paced_streams:
            if streams + 100 > open_files:
                break
            paced[streams] = bench.measure(connections=streams, gap="100ms", events=20, ramp=1.0)
            if paced[streams].lateness_p99_ms > LATENESS_LIMIT_MS:
                break
    held = [n for n, load in paced.items() if load.lateness_p99_ms <= LATENESS_LIMIT_MS]
    return {
        "schema": 1,
        "requests_per_s": requests.replies_per_s,
        "requests_per_cpu_s": 1e6 / requests.cpu_us_per_reply,
        "cpu_us_per_request": requests.cpu_us_per_reply,
        "cpu_us_per_event": stream.cpu_us_per_event,
        "events_per_cpu_s": 1e6 / stream.cpu_us_per_event,
        "paced_streams": max(held, default=0),
        "loads": {
            "requests": asdict(requests),
            "stream_5ms": asdict(stream),
            "stream_at_once": asdict(burst),
            **{f"paced_{n}": asdict(load) for n, load in paced.items()},
        },
        "open_files": open_files,
        "machine": _machine(cpus),
    }


def format_report(result: dict[str, Any]) -> str:
    """The result for people."""
    loads, machine = result["loads"], result["machine"]
    shared = "" if machine["cpus"] > 1 else "  (one processor only: mock and driver share it)"
    rows = [
        f"{machine['model']}, {machine['cpus']} processors, {machine['system']}, Python {machine['python']}, "
        f"uvloop {machine['uvloop']}{shared}",
        "",
        f"requests         {result['requests_per_s']:>9,.0f} /s    {result['cpu_us_per_request']:6.1f} us CPU each    "
        f"(1 KiB in, 1.5 KiB out, 32 connections)",
        f"events, 5 ms gap {loads['stream_5ms']['events_per_s']:>9,.0f} /s    "
        f"{result['cpu_us_per_event']:6.1f} us CPU each    (64 streams of 200)",
        f"events, no gap   {loads['stream_at_once']['events_per_s']:>9,.0f} /s    "
        f"{loads['stream_at_once']['cpu_us_per_event']:6.1f} us CPU each    (16 streams of 200, one write an event)",
        "",
        "streams at 100 ms gaps   events/s   late p50   late p99   mock's core   driver's core",
    ]
    for name, load in loads.items():
        if name.startswith("paced_"):
            rows.append(
                f"{int(name[6:]):>22,} {load['events_per_s']:>10,.0f} {load['lateness_p50_ms']:>7.2f} ms "
                f"{load['lateness_p99_ms']:>7.2f} ms {load['mock_busy']:>12.0%} {load['driver_busy']:>14.0%}"
            )
    rows.append(f"held with p99 lateness under {LATENESS_LIMIT_MS:g} ms: {result['paced_streams']:,} streams")
    if loads["requests"]["driver_busy"] > 0.95 > loads["requests"]["mock_busy"]:
        rows.append("the driver was the bottleneck for requests: take requests per CPU second, not per second")
    return "\n".join(rows)


class _Bench:
    """A running mock and how it is loaded."""

    def __init__(self, url: str, admin: str, driver_cpu: int, seconds: float) -> None:
        self._host, _, port = url.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._admin = admin
        self._cpu = driver_cpu
        self._seconds = seconds

    def median(self, **load: Any) -> Load:
        """The round in the middle by CPU per reply."""
        rounds = [self.measure(**load) for _ in range(ROUNDS)]
        middle = statistics.median_low([r.cpu_us_per_reply for r in rounds])
        return next(r for r in rounds if r.cpu_us_per_reply == middle)

    def measure(
        self, *, connections: int, gap: str | int = 0, events: int = 16, whole: bool = False, ramp: float = 0.0
    ) -> Load:
        """One load for the set time; what the ramp did counts too."""
        self._control("behaviour", {"profile": {"name": "self-test", "token_gap": gap, "time_to_first_token": gap}})
        self._control("reset", {})
        size = "X-Mock-Body-Bytes: 1536" if whole else f"X-Mock-Events: {events}\r\nX-Mock-Event-Bytes: 250"
        body = _BODY if whole else _BODY.replace("{", '{"stream": true, ', 1)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nX-Request-ID: self-test-1\r\n{size}\r\n"
        job = {
            "host": self._host,
            "port": self._port,
            "request": f"{head}Content-Length: {len(body)}\r\n\r\n{body}",
            "connections": connections,
            "seconds": self._seconds,
            "ramp": ramp,
            "cpu": self._cpu,
        }
        before = self._control("stats")
        command = [sys.executable, "-m", "mock_backends.raw_client", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        after = self._control("stats")
        if done.returncode:
            raise Refused(f"the self-test's driver failed: {done.stderr.strip()[-500:]}")
        driver = json.loads(done.stdout)
        counts = after["backends"][0]
        cpu = after["cpu_ns"] - before["cpu_ns"]
        return Load(
            replies_per_s=driver["replies"] / driver["seconds"],
            events_per_s=counts["events"] / driver["seconds"],
            cpu_us_per_reply=cpu / 1e3 / counts["requests"],
            cpu_us_per_event=cpu / 1e3 / counts["events"],
            lateness_p50_ms=(counts["lateness_p50_ns"] or 0) / 1e6,
            lateness_p99_ms=(counts["lateness_p99_ns"] or 0) / 1e6,
            mock_busy=cpu / 1e9 / driver["seconds"],
            driver_busy=driver["cpu_ns"] / 1e9 / driver["seconds"],
        )

    def _control(self, action: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self._admin}/_mock/{action}", data=data), timeout=30) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer


@contextmanager
def _mock(cpu: int) -> Iterator[tuple[str, str]]:
    command = [sys.executable, "-m", "mock_backends", "--port", "0", "--cpu", str(cpu)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # asked for above
        try:
            line = process.stdout.readline()
            if not line:
                raise Refused("the self-test's mock did not start; what it said stands above")
            ready = json.loads(line)
            yield ready["url"], ready["admin"]
        finally:
            process.terminate()


def _raise_open_files() -> int:
    """As many open files as this user may have; both child processes inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _machine(cpus: list[int]) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return {
        "model": names[0] if names else platform.processor() or platform.machine(),
        "cpus": len(cpus),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
    }
