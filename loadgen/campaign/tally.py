"""The record of a run whose generator keeps no rows (wrk). Pure: readings in, checks and metrics out.

Work is what the mocks counted between two readings, both taken under full load; CPU is the target's whole process tree
between the same two. Over the whole run wrk must have counted the replies that the mocks did: what was sent is what
arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.bench.watch import Sample
from loadgen.campaign import validity
from reports import summarise
from reports.schema import Check, ScenarioRecord


@dataclass(frozen=True, slots=True)
class Reading:
    """What stood on the clocks under load. Each clock carries the time at which it was read: on a bench that is busy
    asking takes a while, and a rate needs its own times only."""

    t_ns: int
    """When the mocks counted."""
    cpu_at_ns: int
    cpu_ns: int | None
    """Of the target's process tree; None if it has no process of its own."""
    requests: int
    events: int
    body_bytes: int

    @classmethod
    def of(cls, cpu_at_ns: int, cpu_ns: int | None, mocks: Mapping[str, Any]) -> Reading:
        """`mocks`: their answer to `/_mock/stats`, which tells when they counted."""
        backends = mocks.get("backends", ())
        requests, events, body_bytes = (
            sum(int(one[key]) for one in backends) for key in ("requests", "events", "body_bytes")
        )
        return cls(int(mocks.get("t_ns", cpu_at_ns)), cpu_at_ns, cpu_ns, requests, events, body_bytes)


@dataclass(frozen=True, slots=True)
class Tally:
    """The work of one window, and what the generator said of it."""

    window_ns: tuple[int, int]
    utilisation: float | None
    """CPU seconds of the target a second; None if it has no process of its own."""
    requests: int
    events: int
    body_bytes: int
    said: Mapping[str, Any]
    """wrk's own figures: requests, bytes, seconds, errors, p50_ms, p95_ms, p99_ms."""

    @property
    def seconds(self) -> float:
        """Length of the window."""
        return (self.window_ns[1] - self.window_ns[0]) / 1e9


def count(first: Reading, last: Reading, said: Mapping[str, Any]) -> Tally:
    """What was done between two readings."""
    busy = None
    if first.cpu_ns is not None and last.cpu_ns is not None:
        busy = (last.cpu_ns - first.cpu_ns) / (last.cpu_at_ns - first.cpu_at_ns)
    return Tally(
        (first.t_ns, last.t_ns),
        busy,
        last.requests - first.requests,
        last.events - first.events,
        last.body_bytes - first.body_bytes,
        said,
    )


def resident(samples: Iterable[Sample]) -> list[int]:
    """Resident bytes of the target's process tree at each moment it was sampled."""
    sums: dict[int, int] = {}
    for one in samples:
        if one.role == "target":
            sums[one.t_ns] = sums.get(one.t_ns, 0) + one.rss_bytes
    return list(sums.values())


def metrics(
    done: Tally, described: ScenarioRecord, idle: tuple[float, int] | None, rss_bytes: Sequence[int], target_cores: int
) -> tuple[dict[str, float | None], dict[str, Any]]:
    """The metrics of the window by id, and the extras. `rss_bytes`: the target's resident memory through the run."""
    said, seconds = done.said, done.seconds
    wrong = said["errors"] / max(said["requests"], 1)
    rate = done.requests / seconds
    found: dict[str, float | None] = {
        "throughput_rps": rate,
        "goodput_rps": rate * (1 - wrong),
        "error_ratio": wrong,
        "e2e_p50_ms": said["p50_ms"],
        "e2e_p95_ms": said["p95_ms"],
        "e2e_p99_ms": said["p99_ms"] if said["requests"] >= 1000 else None,
    }
    extras: dict[str, Any] = {"requests": done.requests, "wrk": dict(said)}
    if idle is not None:
        found["rss_idle_mib"] = idle[1] / 2**20
    if rss_bytes:
        found["rss_peak_mib"] = max(rss_bytes) / 2**20
        if idle is not None and described.kind == "stream" and described.connections:
            found["rss_kib_per_stream"] = max(max(rss_bytes) - idle[1], 0) / 1024 / described.connections
    if done.utilisation is not None:
        extras["utilisation"] = done.utilisation
        net_us = (done.utilisation - (0.0 if idle is None else idle[0] / 1e9)) * seconds * 1e6
        mib = done.body_bytes / 2**20
        for name, work in (
            ("cpu_us_per_request", done.requests),
            ("cpu_us_per_event", done.events if described.kind == "stream" else 0),
            ("cpu_us_per_mib", mib if mib >= 1 else 0),
        ):
            if work and net_us > 0:
                found[name] = net_us / work
        if done.utilisation >= summarise.SATURATED * target_cores:
            found["capacity_rps_per_core"] = rate * (1 - wrong) / done.utilisation
    return found, extras


def checks(
    done: Tally,
    connections: int,
    in_all: int,
    *,
    stream: bool,
    saturates: bool,
    has_process: bool,
    target_cores: int,
    steal: float,
) -> list[Check]:
    """The validity rules that apply without rows. `in_all`: requests the mocks served from wrk's start to its end."""
    said = done.said
    replies, served = max(said["requests"], 1), max(done.requests, 1)
    busy = None if done.utilisation is None else done.utilisation / target_cores
    return [
        validity.saturation(busy, not saturates, has_process),
        validity.steal(steal),
        validity.errors(said["errors"] / said["requests"] if said["requests"] else None),
        validity.agreement(said["requests"], in_all, connections),
        validity.reply_size(said["bytes"] / replies, done.body_bytes / served, done.events / served, stream),
    ]
