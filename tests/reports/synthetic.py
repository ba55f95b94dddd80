"""Campaigns made up from known truths, in the real format: what a report says of them can be checked against the truth.

`write_campaign` writes a whole folder with raw rows; `facts_of` skips the files and gives run metrics only, fast enough
for thousands of campaigns. Noise is multiplicative and as measured on the project's machine: a part shared by all
targets of a round (drift of the host) and a part of each process start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports import store, summarise
from reports.schema import (
    AA_SUFFIX,
    METRICS,
    CampaignHeader,
    Check,
    Fault,
    RunRecord,
    ScenarioRecord,
    TargetRecord,
    run_name,
)
from reports.summarise import Facts, Value

START_NS = 1_000_000_000_000
"""Monotonic time of the first run's window."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Standard deviations of log factors."""

    shared: float = 0.05
    """Per round, the same for all targets: cancels in pairs."""
    run: float = 0.03
    """Per process start."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What one target truly costs."""

    cpu_us_request: float
    cpu_us_event: float
    added_us: float
    transit_us: float
    rss_mib: float
    kib_per_stream: float
    gc_per_s: float = 0.0
    gc_ms: float = 0.0
    capacity_rps: float = 50_000
    idle_cpu_ns_per_s: float = 2e6
    breaker: bool = False


TRUTHS: Mapping[str, Truth] = {
    "sherpa": Truth(186, 45, 420, 160, 46, 34, gc_per_s=1.4, gc_ms=1.8, capacity_rps=5_400),
    "olla": Truth(22, 20, 95, 70, 52, 3.4, gc_per_s=0.1, gc_ms=0.6, capacity_rps=45_000, breaker=True),
    "nginx": Truth(14, 18.4, 70, 60, 9, 19, capacity_rps=70_000),
    "haproxy": Truth(13, 18.3, 65, 58, 14, 24, capacity_rps=74_000),
    "litellm": Truth(10_600, 752, 11_000, 1_400, 310, 60, gc_per_s=6, gc_ms=9, capacity_rps=94),
    "relay": Truth(10, 19.8, 45, 50, 22, 3, capacity_rps=90_000),
    "direct": Truth(0, 0, 25, 30, 0, 0, capacity_rps=150_000),
}
"""Orders of magnitude of the real things."""

CHAT = ScenarioRecord(
    question="What does the proxy add to a short chat completion?",
    kind="request",
    rate_rps=200,
    duration_s=8,
    arrivals="poisson",
    profile="instant",
    tags=["instant"],
    request_bytes=1024,
    response_bytes=1536,
    endpoints=2,
)
STREAM = ScenarioRecord(
    question="How promptly do tokens arrive through the proxy?",
    kind="stream",
    rate_rps=130,
    duration_s=8,
    arrivals="poisson",
    profile="realistic",
    events_per_request=24,
    response_bytes=24 * 180,
    slo={"ttft_ms": 500},
    endpoints=2,
)


@dataclass(frozen=True, slots=True)
class World:
    """Everything a synthetic campaign is made of."""

    targets: Sequence[str] = ("sherpa", "olla", "direct")
    scenarios: Mapping[str, ScenarioRecord] = field(default_factory=lambda: {"chat": CHAT, "chat-stream": STREAM})
    rounds: int = 6
    seed: int = 1
    noise: Noise = Noise()
    truths: Mapping[str, Truth] = field(default_factory=lambda: TRUTHS)
    aa: bool = True
    raw: bool = True
    raw_rounds: int | None = None
    """Rounds that keep raw rows; None: all. The A/A arm keeps them only if all do."""
    variants: Sequence[TargetRecord] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    state: str = "complete"

    def header(self) -> CampaignHeader:
        machine = {
            "cpu_model": "Synthetic CPU",
            "cores": 2,
            "memory_bytes": 8 << 30,
            "os": "none: made up by tests/reports/synthetic.py",
        }
        return CampaignHeader(
            id=f"synthetic-{self.seed}",
            started="2026-08-01T12:00:00Z",
            command="python -m tests.reports.synthetic",
            seed=self.seed,
            profile="synthetic",
            machine=machine,
            versions={"python": "3.11.7", "proxy-engines": "0.1.0"},
            baseline="",
            targets=[*self.targets, *self.variants],
            scenarios=dict(self.scenarios),
            rounds_planned=self.rounds,
            limits={"generator-lag-p99-ms": 1.0, "steal": 0.05},
            state=self.state,
        )

    def arms(self) -> list[str]:
        names = [*self.targets, *(variant.name for variant in self.variants)]
        baseline = "sherpa" if "sherpa" in names else next((n for n in names if n not in ("direct", "relay")), None)
        return names + ([baseline + AA_SUFFIX] if self.aa and baseline else [])

    def truth(self, target: str) -> Truth:
        name = target.removesuffix(AA_SUFFIX)
        if name in self.truths:
            return self.truths[name]
        return next(
            (self.truths[v.variant_of] for v in self.variants if v.name == name and v.variant_of), TRUTHS["olla"]
        )


VARIANTS = (
    TargetRecord(name="olla-no-buffers", kind="variant", variant_of="olla", switches={"pools.buffers": False}),
    TargetRecord(
        name="olla-every-read", kind="variant", variant_of="olla", switches={"proxy.flush.policy": "every-read"}
    ),
    TargetRecord(name="olla-8k", kind="variant", variant_of="olla", switches={"proxy.buffer_size": 8192}),
)


def full_world(**changes: Any) -> World:
    """Four targets, three variants and ten scenarios: something for each part of the report."""
    short = {"duration_s": 4.0}
    sweep = {"group": "load", "tags": ["sweep-rate", "instant"]}
    scenarios = {
        "chat": CHAT.model_copy(update={**short, "rate_rps": 300}),
        "chat-stream": STREAM.model_copy(update={**short, "rate_rps": 60}),
        **{f"load-{rate}": CHAT.model_copy(update={**short, **sweep, "rate_rps": rate}) for rate in (100, 400, 800)},
        **{
            f"streams-{n}": STREAM.model_copy(
                update={"duration_s": 2.0, "rate_rps": n / 0.35, "connections": n, "tags": ["sweep-connections"]}
            )
            for n in (20, 40, 80)
        },
        "slow-endpoint": CHAT.model_copy(
            update={
                **short,
                "rate_rps": 600,
                "tags": ["slow-endpoint"],
                "healthy": "load-800",
                "faults": [Fault(endpoint="mock-1", kind="reset", from_s=1.0, to_s=3.0)],
                "expected_outcomes": ["reset"],
            }
        ),
        "saturation": CHAT.model_copy(
            update={"loop": "closed", "rate_rps": None, "duration_s": 0.3, "tags": ["saturation"], "connections": 32}
        ),
    }
    settings = {"targets": ("sherpa", "olla", "direct", "nginx"), "variants": VARIANTS, "scenarios": scenarios}
    return World(**{**settings, **changes})


def noisy(rng: np.random.Generator, shared: float, noise: Noise) -> float:
    return shared * math.exp(rng.normal(0, noise.run))


# --------------------------------------------------------------------------------------------------------- raw rows
def tables_of(
    truth: Truth,
    scenario_id: str,
    scenario: ScenarioRecord,
    start: int,
    rng: np.random.Generator,
    factor: float,
    plan_seed: int,
) -> tuple[dict[str, pd.DataFrame], RunRecord]:
    """Tables of one run and a record that holds its window; the schedule follows `plan_seed` alone."""
    plan = np.random.default_rng(plan_seed)
    seconds = scenario.duration_s
    rate = scenario.rate_rps or min(0.99e6 / max(truth.cpu_us_request, 7) / factor, 40_000)
    gaps = plan.exponential(1 / rate, int(rate * (seconds + 2) * 1.2) + 50)
    at = np.cumsum(gaps) - 1.0  # one second of warm-up
    at = at[at < seconds]
    n = at.size
    intended = start + (at * 1e9).astype(np.int64)
    lag = rng.gamma(2.0, 30_000, n).astype(np.int64)
    sent = intended + lag
    spread = rng.lognormal(0, 0.25, n)
    slow = rng.random(n) < 0.01
    added = truth.added_us * factor * spread * np.where(slow, 5, 1) * 1e3
    mock_recv = sent + (added * 0.55).astype(np.int64)
    think = ((80 if scenario.profile == "realistic" else 0.05) * 1e6 * plan.lognormal(0, 0.05, n)).astype(np.int64)
    mock_sent = mock_recv + think
    first_byte = mock_sent + (added * 0.45).astype(np.int64)
    endpoints = np.array([f"mock-{i % (scenario.endpoints or 1)}" for i in range(n)], dtype=object)
    events_each = int(scenario.events_per_request or 1)
    stream = scenario.kind == "stream"
    tables: dict[str, pd.DataFrame] = {}
    end = first_byte + 20_000
    first_event = first_byte if stream else None
    if stream:
        seq = np.tile(np.arange(events_each), n)
        gap = plan.lognormal(math.log(12e6), 0.2, n * events_each).astype(np.int64)
        gap[::events_each] = 0
        mock_ns = np.repeat(mock_sent, events_each) + np.cumsum(gap.reshape(n, events_each), axis=1).ravel()
        transit = truth.transit_us * factor * 1e3 * rng.lognormal(0, 0.3, n * events_each)
        read_ns = np.maximum.accumulate((mock_ns + transit.astype(np.int64)).reshape(n, events_each), axis=1).ravel()
        tables["events"] = pd.DataFrame(
            {
                "request_id": np.repeat(np.arange(n), events_each),
                "seq": seq,
                "mock_ns": mock_ns,
                "read_ns": read_ns,
                "bytes": 180,
                "read_index": seq,
            }
        )
        first_event = read_ns.reshape(n, events_each)[:, 0]
        end = read_ns.reshape(n, events_each)[:, -1]
    outcome = np.full(n, "ok", dtype=object)
    for fault in scenario.faults:
        hit = (endpoints == fault.endpoint) & (at >= fault.from_s) & (at < (fault.to_s or seconds))
        # An engine with a breaker loses the first few; one without loses them all.
        lost = np.flatnonzero(hit)[: 5 if truth.breaker else n]
        outcome[lost] = fault.kind
    tables["requests"] = pd.DataFrame(
        {
            "request_id": np.arange(n),
            "worker": 0,
            "scenario": scenario_id,
            "endpoint": endpoints,
            "intended_ns": intended if scenario.loop == "open" else pd.array([None] * n, dtype="Int64"),
            "sent_ns": sent,
            "first_byte_ns": first_byte,
            "first_event_ns": first_event if stream else pd.array([None] * n, dtype="Int64"),
            "end_ns": end,
            "status": 200,
            "outcome": outcome,
            "error": None,
            "bytes_in": scenario.response_bytes or 1000,
            "bytes_out": scenario.request_bytes or 500,
            "events": events_each,
            "digest_ok": True,
            "mock_recv_ns": mock_recv,
            "mock_sent_ns": mock_sent,
            "warmup": at < 0,
        }
    )
    window = (start, start + int(seconds * 1e9))
    per_s = rate * (truth.cpu_us_request + (truth.cpu_us_event * events_each if stream else 0)) * 1e3 * factor
    active = rate * float(np.mean(end - sent)) / 1e9
    tables["usage"] = _usage(truth, window, per_s, active if stream else 0.0, rng)
    if truth.rss_mib:
        tables["runtime"] = _runtime(truth, window, factor, rng)
    record = RunRecord(
        run="x",
        scenario=scenario_id,
        target="x",
        round=1,
        window_ns=window,
        duration_s=seconds,
        idle_cpu_ns_per_s=truth.idle_cpu_ns_per_s,
        idle_rss_bytes=int(truth.rss_mib * 2**20) or None,
    )
    return tables, record


def _usage(
    truth: Truth, window: tuple[int, int], per_s: float, streams: float, rng: np.random.Generator
) -> pd.DataFrame:
    times = np.arange(window[0] - 10**9, window[1] + 10**9, 250_000_000)
    seconds = np.maximum((times - window[0] + 10**9) / 1e9, 0)
    fill = np.clip(seconds / 3, 0, 1)
    parts = []
    for role, pid, cpu_per_s, rss in (
        ("target", 100, per_s + truth.idle_cpu_ns_per_s, truth.rss_mib + fill * streams * truth.kib_per_stream / 1024),
        ("mock", 200, 2.2e8, 40 + fill),
        ("driver", 300, 3.0e8, 90 + 4 * fill),
    ):
        if role == "target" and truth.rss_mib == 0:
            continue
        parts.append(
            pd.DataFrame(
                {
                    "t_ns": times,
                    "pid": pid,
                    "role": role,
                    "cpu_ns": (5e8 + seconds * cpu_per_s).astype(np.int64),
                    "rss_bytes": ((rss + rng.normal(0, 0.02, times.size)) * 2**20).astype(np.int64),
                    "ctx_voluntary": (seconds * 2000).astype(np.int64),
                    "ctx_involuntary": (seconds * 10).astype(np.int64),
                    "fds": 64,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _runtime(truth: Truth, window: tuple[int, int], factor: float, rng: np.random.Generator) -> pd.DataFrame:
    seconds = (window[1] - window[0]) / 1e9
    count = rng.poisson(truth.gc_per_s * seconds * factor)
    starts = np.sort(rng.integers(window[0], window[1], count))
    generation = rng.choice([0, 0, 0, 0, 1, 1, 2], count)
    lasts = truth.gc_ms * 1e6 * rng.lognormal(0, 0.4, count) * np.array([0.2, 0.5, 3.0])[generation]
    gc = pd.DataFrame(
        {
            "pid": 100,
            "kind": "gc",
            "start_ns": starts,
            "end_ns": starts + lasts.astype(np.int64),
            "generation": generation,
            "collected": rng.integers(0, 500, count),
            "cause": None,
        }
    )
    late = gc[gc["end_ns"] - gc["start_ns"] > 4_000_000]
    stalls = late.assign(kind="stall", cause="gc", generation=None, collected=None)
    both = [part for part in (gc, stalls) if len(part)]
    if not both:
        return gc
    merged = pd.concat([part.astype(object) for part in both], ignore_index=True)
    return merged.astype({"pid": "int64", "start_ns": "int64", "end_ns": "int64"}).astype(
        {"generation": "Int64", "collected": "Int64"}
    )


def write_campaign(path: Path, world: World) -> Path:
    """Write the campaign of `world` into `path`; returns `path`."""
    store.Campaign.create(path, world.header())
    rng = np.random.default_rng(world.seed)
    clock = START_NS
    for number in range(1, world.rounds + 1):
        shared = math.exp(rng.normal(0, world.noise.shared))
        arms = world.arms() if number % 2 else world.arms()[::-1]
        for position, target in enumerate(arms):
            for scenario_id, scenario in world.scenarios.items():
                factor = noisy(rng, shared, world.noise)
                truth = world.truth(target)
                tables, record = tables_of(truth, scenario_id, scenario, clock, rng, factor, world.seed * 1000 + number)
                clock += int((scenario.duration_s + 3) * 1e9)
                record = record.model_copy(
                    update={
                        "run": run_name(number, scenario_id, target),
                        "target": target,
                        "round": number,
                        "order": position,
                        "started": f"2026-08-01T12:{number:02d}:{position:02d}Z",
                        "config_hash": f"cfg-{target.removesuffix(AA_SUFFIX)}",
                        "validity": _checks(rng),
                        "offered_rps": scenario.rate_rps,
                    }
                )
                first = world.raw_rounds is not None and number <= world.raw_rounds and not target.endswith(AA_SUFFIX)
                raw = world.raw and (world.raw_rounds is None or first)
                record = record.model_copy(update={"summary": summarise.run_metrics(record, scenario, tables)})
                given: dict[str, Any] = tables if raw else {}
                store.write_run(path, record, **given)
    return path


def _checks(rng: np.random.Generator) -> list[Check]:
    return [
        Check(check="generator-lag", value=round(float(rng.uniform(0.15, 0.3)), 3), limit=1.0, unit="ms"),
        Check(check="bench-cpu", value=round(float(rng.uniform(0.4, 0.6)), 3), limit=0.85),
        Check(check="steal", value=round(float(rng.uniform(0, 0.008)), 4), limit=0.05),
        Check(check="achieved-rate", value=round(float(rng.uniform(0.999, 1.001)), 4), limit=0.01, blame="target"),
        Check(check="errors", value=0.0, limit=0.001, blame="target"),
    ]


# ---------------------------------------------------------------------------------------------------- metrics only
RUN_NOISE: Mapping[str, float] = {
    "cpu_us_per_request": 0.044,
    "added_p50_us": 0.096,
    "goodput_rps": 0.001,
    "e2e_p50_ms": 0.096,
    "gc_total_ms": 0.15,
}
"""Log standard deviation per process start, as measured: blocks of CPU per request 4.4 %, pairs at p50 13.6 %."""

BASE: Mapping[str, float] = {
    "cpu_us_per_request": 100.0,
    "added_p50_us": 4000.0,  # far above the noise floor: judged as a ratio
    "goodput_rps": 200.0,
    "e2e_p50_ms": 12.0,
    "gc_total_ms": 40.0,
}


def facts_of(
    effects: Mapping[str, float],
    *,
    rounds: int,
    rng: np.random.Generator,
    scenarios: Sequence[str] = ("chat",),
    metrics: Sequence[str] = tuple(BASE),
    noise: float = 1.0,
    utilisation: float = 0.5,
) -> list[Facts]:
    """Run metrics without raw rows: `effects[target]` is the true ratio to the baseline in every metric but goodput."""
    found = []
    for scenario in scenarios:
        for number in range(1, rounds + 1):
            shared = {metric: rng.normal(0, 0.05) for metric in metrics}
            for target, ratio in effects.items():
                values = {name: Value(None, "not simulated") for name in METRICS}
                for metric in metrics:
                    effect = 1.0 if metric == "goodput_rps" else ratio
                    drift = 0.0 if metric == "goodput_rps" else shared[metric]
                    own = rng.normal(0, RUN_NOISE[metric] * noise)
                    values[metric] = Value(BASE[metric] * effect * math.exp(drift + own))
                found.append(fact(scenario, number, target, values, utilisation=utilisation))
    return found


def fact(
    scenario: str,
    number: int,
    target: str,
    values: Mapping[str, Value | float],
    *,
    void: str | None = None,
    blame: str = "bench",
    utilisation: float = 0.5,
    **extras: Any,
) -> Facts:
    """One run of which only the metrics are known; those not given are not measured."""
    metrics = {name: Value(None, "not simulated") for name in METRICS}
    metrics |= {name: value if isinstance(value, Value) else Value(value) for name, value in values.items()}
    checks = [] if void is None else [Check(check="made-up", ok=False, blame="bench" if blame == "bench" else "target")]
    record = RunRecord(
        run=run_name(number, scenario, target),
        scenario=scenario,
        target=target,
        round=number,
        void_reason=void,
        validity=checks,
    )
    return Facts(record, metrics, {"utilisation": utilisation, **extras})


def campaign_of(
    targets: Sequence[str | TargetRecord],
    scenarios: Sequence[str] | Mapping[str, ScenarioRecord],
    rounds: int,
    state: str = "complete",
    baseline: str = "",
) -> store.Campaign:
    """A campaign in memory that matches such facts."""
    described = scenarios if isinstance(scenarios, Mapping) else dict.fromkeys(scenarios, CHAT)
    header = CampaignHeader.model_validate(
        {
            "schema": 1,
            "id": "made-up",
            "started": "2026-08-01T12:00:00Z",
            "targets": list(targets),
            "scenarios": described,
            "rounds_planned": rounds,
            "state": state,
            "baseline": baseline,
        }
    )
    return store.Campaign(Path("nowhere"), header)


def with_truth(world: World, target: str, **changes: float) -> World:
    """`world` with some truths of one target changed."""
    return replace(world, truths={**world.truths, target: replace(world.truth(target), **changes)})
