"""The format of result files: what a campaign folder holds, field by field.

History (add a line and an upgrade in `store.py` at each step, keep an old file as a fixture in `tests/reports/old/`):

    1   first version
    2   a run says how it ended (`outcome`) and, where its target is to blame, why (`fault`): only what the bench spoilt
        is void. `store.upgraded` derives both for files of version 1. verdict.json: see VERDICT_SCHEMA_VERSION

A campaign folder::

    campaign.json                 CampaignHeader: written first, before any run
    runs/r03-chat-stream-olla/    one folder a run, named by `run_name(round, scenario, target)`
        run.json                  RunRecord: written last; a folder without it is an unfinished run and shown as one
        requests.parquet          REQUESTS: one row per request, failures too (or a shard requests-*.parquet per worker)
        events.parquet            EVENTS: one row per streamed event (optional; or shards events-*.parquet)
        runtime.parquet           RUNTIME: garbage collections and loop stalls inside the target (optional)
        usage.parquet             USAGE: CPU, memory, context switches of target, mocks and driver over time (optional)
    report.html report.md verdict.json figures/      made from the above by `proxy-engines report DIR`

Rules that hold for every file:

- Clocks are CLOCK_MONOTONIC nanoseconds of one host, int64, null if never. `started` is wall-clock UTC, ISO 8601.
- New columns and new JSON fields may be added at any time and are kept; none is renamed or re-defined without a step
  of SCHEMA_VERSION. A reader refuses a newer version.
- JSON never holds NaN or Infinity: what was not measured is null or absent.
- A run is written whole or not at all (`store.write_run`).

For producers: build a `CampaignHeader`, call `store.Campaign.create`; per run let the workers write their shards with
`REQUESTS`/`EVENTS` into `store.run_folder(...)`, then call `store.write_run` with a `RunRecord`. See `store.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 2
VERDICT_SCHEMA_VERSION: Final = 3
"""2: rows print their own 95 % interval and carry `p_adjusted` and `adjusted_level`; the words `unreliable`,
`overloaded`, and those of secondary rows; `recommendation.worse`; `scenarios` and `faults`; no `permutation_p` and
`median`. 3: rows that a scenario cannot have are left out; `validity` holds the checks that failed or warned."""

AA_SUFFIX: Final = "@aa"
"""The second arm of the baseline against itself is a target of its own: `sherpa@aa`."""

ENGINES: Final = ("sherpa", "olla")
"""The two engines this project studies; `Target.engine` is one of them or None."""

FLOOR_TARGETS: Final = ("direct", "relay")
"""Targets that decide nothing: shown as lines beside the engines, never chosen as baseline by default."""

# ----------------------------------------------------------------------------------------------------------- parquet
_META_KIND: Final = b"proxy_engines.kind"
_META_VERSION: Final = b"proxy_engines.schema"


def _schema(kind: str, *fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    metadata = {_META_KIND: kind.encode(), _META_VERSION: str(SCHEMA_VERSION).encode()}
    return pa.schema([pa.field(name, dtype, nullable=nullable) for name, dtype, nullable in fields], metadata=metadata)


REQUESTS: Final = _schema(
    "requests",
    ("request_id", pa.int64(), False),  # unique in the run, over all workers; open loop: the row of the plan
    ("worker", pa.int32(), False),
    ("scenario", pa.string(), False),
    ("endpoint", pa.string(), True),  # which mock answered (X-Mock-Endpoint); null if none did
    ("intended_ns", pa.int64(), True),  # when the schedule wanted it sent; null in closed loop
    ("sent_ns", pa.int64(), True),  # just before the first byte was handed to the kernel
    ("first_byte_ns", pa.int64(), True),  # first byte of the response read
    ("first_event_ns", pa.int64(), True),  # streams: first event with content read; null otherwise
    ("end_ns", pa.int64(), True),  # last byte read, or the moment the failure was noticed
    ("status", pa.int32(), True),  # HTTP status; null if no response head came
    ("outcome", pa.string(), False),  # one of OUTCOMES
    ("error", pa.string(), True),  # a short text for people; null when ok
    ("bytes_in", pa.int64(), False),  # response body bytes read by the client, de-chunked
    ("bytes_out", pa.int64(), False),  # request body bytes sent by the client
    ("events", pa.int64(), True),  # events counted in the reply
    ("digest_ok", pa.bool_(), True),  # reply as the mock stated it and as the scenario pinned it; null: no digest
    ("mock_recv_ns", pa.int64(), True),  # mock: request head complete (X-Mock-Recv-Ns)
    ("mock_sent_ns", pa.int64(), True),  # mock: response head written (X-Mock-Sent-Ns)
    ("warmup", pa.bool_(), False),  # true: kept on file, never in a metric
)

EVENTS: Final = _schema(
    "events",
    ("request_id", pa.int64(), False),
    ("seq", pa.int64(), False),  # the mock's own number of the event in its stream, from 0
    ("mock_ns", pa.int64(), True),  # just before the mock's write
    ("read_ns", pa.int64(), False),  # when the client's read returned
    ("bytes", pa.int64(), False),
    ("read_index", pa.int64(), False),  # which read of this response brought it, from 0: equal numbers were coalesced
)

RUNTIME: Final = _schema(
    "runtime",
    ("pid", pa.int64(), False),
    ("kind", pa.string(), False),  # gc | stall
    ("start_ns", pa.int64(), False),
    ("end_ns", pa.int64(), False),
    ("generation", pa.int64(), True),  # gc only
    ("collected", pa.int64(), True),  # gc only
    ("cause", pa.string(), True),  # stall only: gc | cpu | off-cpu | unknown
)

USAGE: Final = _schema(
    "usage",
    ("t_ns", pa.int64(), False),
    ("pid", pa.int64(), False),
    ("role", pa.string(), False),  # target | mock | driver
    ("cpu_ns", pa.int64(), False),  # cumulative, whole process, all threads, reaped children included
    ("rss_bytes", pa.int64(), True),
    ("ctx_voluntary", pa.int64(), True),  # cumulative
    ("ctx_involuntary", pa.int64(), True),  # cumulative
    ("fds", pa.int64(), True),
)

TABLES: Final[dict[str, pa.Schema]] = {"requests": REQUESTS, "events": EVENTS, "runtime": RUNTIME, "usage": USAGE}

OUTCOMES: Final = ("ok", "refused", "timeout", "reset", "truncated", "wrong_reply", "client_cancelled")
ROLES: Final = ("target", "mock", "driver")


def table_version(schema: pa.Schema) -> int | None:
    """The schema version a parquet file states in its metadata; None when it states none. ValueError if malformed."""
    stated = (schema.metadata or {}).get(_META_VERSION)
    return None if stated is None else int(stated)


def table_kind(schema: pa.Schema) -> str | None:
    """Which of TABLES a parquet file says it is; None when it says nothing."""
    stated = (schema.metadata or {}).get(_META_KIND)
    return None if stated is None else stated.decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------------- JSON
Json = dict[str, Any]
Name = Annotated[str, Field(min_length=1, max_length=120)]
"""Scenario and target names: any text (shown as text everywhere); folders use `safe_name` of it."""


class Strict(BaseModel):
    """A part of a file that people write, or that only we read: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class _Record(BaseModel):
    """Fields we do not know yet are kept, so that a newer producer's additions survive a round trip."""

    model_config = ConfigDict(
        frozen=True, extra="allow", populate_by_name=True, serialize_by_alias=True, allow_inf_nan=False
    )


class Check(_Record):
    """One validity check of one run: what was looked at, what it was, what it may be, and whose fault a failure is."""

    check: str
    """generator-lag, generator-cpu, bench-cpu, mock-ceiling, steal, achieved-rate, errors, little, trend, digest ..."""
    value: float | str | None = None
    limit: float | str | None = None
    ok: bool = True
    blame: Literal["bench", "target"] = "bench"
    """bench: a failure voids the round of this scenario for every target. target: a failure is a result of this target
    (see `outcome_of`)."""
    warn: bool = False
    """True: outside the comfortable range but not void (steal between 1 and 5 %)."""
    unit: str = ""
    text: str | None = None
    """One sentence for people, e.g. `generator lag p99 9.0 ms over its 2.0 ms budget`."""


RunOutcome = Literal["ok", "void", "overloaded", "failed"]
"""How a run ended:

- `ok`: measured, and every check passed.
- `void`: the bench spoilt it (generator, mocks, machine). Void for every target of that scenario and round, repeated.
- `overloaded`: the target could not carry the offered load. A result: its figures are kept, it is never repeated.
- `failed`: another fault of the target (errors, a wrong reply, a crash). A result as well, never repeated.
"""

_CANNOT_BE_EXCUSED: Final = ("completed", "digest")
"""Checks of the target whose failure stands above an overload: it crashed, or it changed what it passed on."""
_OVERLOAD: Final = "achieved-rate"
_NO_FAULT: Final = "saturation"
"""Says that the generator could not load the target: its capacity stays unmeasured, and nobody did wrong."""


def outcome_of(checks: Sequence[Check]) -> RunOutcome:
    """How a run with these checks ended. The bench's fault comes first: under it nothing else was measured rightly."""
    failed = [check for check in checks if not check.ok and check.check != _NO_FAULT]
    if any(check.blame == "bench" for check in failed):
        return "void"
    names = {check.check for check in failed}
    if not names:
        return "ok"
    return "overloaded" if _OVERLOAD in names and not names.intersection(_CANNOT_BE_EXCUSED) else "failed"


class Fault(_Record):
    """A fault that the scenario's backends play, for the resilience part of the report."""

    endpoint: str
    kind: str
    """slow, error, hang, refuse, flap, ..."""
    from_s: float = 0.0
    """Seconds after the start of the measured window."""
    to_s: float | None = None
    """None: until the end."""


SCENARIO_TAGS: Final[dict[str, str]] = {
    "sweep-rate": "one of several scenarios that differ only in rate_rps (latency against offered load)",
    "sweep-connections": "one of several scenarios that differ only in `connections` (memory against connections)",
    "sweep-body": "one of several scenarios that differ only in response_bytes (the per-KiB term of the cost model)",
    "sweep-events": "one of several scenarios that differ only in events_per_request (the per-event term)",
    "sweep-endpoints": "one of several scenarios that differ only in `endpoints` (claim C14)",
    "saturation": "closed loop, target at 100 % of its core: throughput_rps is its measured capacity",
    "slow-endpoint": "one endpoint is slow (see faults); `healthy` names the scenario without the fault (claim C9)",
    "failing-endpoint": "one endpoint fails (see faults); shows breaker and retries (claim C10)",
    "large-response": "large bodies: MiB per CPU second by buffer size (claim C11)",
    "gc-load": "high load with a declared ballast, for garbage collection (claim C8)",
    "cold-start": "no warm-up: the first second is the subject (claim C13)",
    "instant": "the backend answers at once, so that times are the proxy's own",
    "trace": "replays a real trace",
    "soak": "long, for memory stability (claims C3 and C7)",
}


class ScenarioRecord(_Record):
    """One workload of the campaign and the question it answers. Scenarios of the same `group` form one figure."""

    question: str = ""
    answer: str = ""
    """What would count as an answer, written before measuring."""
    hash: str = ""
    """Of the whole scenario as its maker knows it."""
    kind: Literal["request", "stream"] = "request"
    loop: Literal["open", "closed"] = "open"
    rate_rps: float | None = Field(default=None, gt=0)
    """Offered rate; None in closed loop."""
    duration_s: float = Field(default=0.0, ge=0)
    warmup_s: float = Field(default=0.0, ge=0)
    rounds: int | None = None
    """Rounds planned for it, where the campaign's `rounds_planned` is not its number."""
    arrivals: str = ""
    """constant, poisson, gamma(cv), trace."""
    profile: str = ""
    """Backend profile. `instant` answers at once."""
    slo: dict[str, float] = Field(default_factory=dict)
    """Limits a request must meet to count in goodput: any of ttft_ms, tpot_ms, e2e_ms (from intended in open loop)."""
    request_bytes: int | None = None
    response_bytes: int | None = None
    events_per_request: float | None = None
    connections: int | None = None
    """Concurrent streams or users the scenario holds open, where it fixes them."""
    endpoints: int | None = None
    ballast: int | None = None
    """Live objects the target carries beside its work (gc-load)."""
    pinning: str = ""
    faults: list[Fault] = Field(default_factory=list)
    group: str = ""
    """Sweeps: scenarios of one group and tag are points of one curve. A member whose id ends in a number
    (`chat-small-10`) is a point only; one that does not (`chat-small`) is a use case of its own as well."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Config keys that the scenario sets in our own engines, dotted, e.g. {"proxy.circuit_breaker.timeout": "2s"}."""
    healthy: str = ""
    """Id of the same scenario without its fault."""
    tags: list[str] = Field(default_factory=list)
    """Any of SCENARIO_TAGS; the claims and figures find their scenarios by these, never by id."""
    primary: list[str] = Field(default_factory=list)
    """Primary metrics without the tail; empty: added_p50_us, CPU per unit, goodput_rps. See `primaries`."""
    expected_outcomes: list[str] = Field(default_factory=list)
    """Outcomes besides ok that are part of the plan (faults, cancels) and no errors of the run."""

    def cpu_metric(self) -> str:
        """CPU per unit of this scenario's work."""
        return "cpu_us_per_event" if self.kind == "stream" else "cpu_us_per_request"

    def primaries(self) -> tuple[str, ...]:
        """The metrics the scenario declared beforehand, three or four; everything else is secondary.

        A scenario about latency (one primary is a latency) has its tail among them: the end to end p99 of plain
        replies, whose whole body counts, and the transit p99 of events in streams, whose pace is the backend's.
        """
        declared = tuple(self.primary) or ("added_p50_us", self.cpu_metric(), "goodput_rps")
        latencies = [name for name in declared if METRICS[name].family == "latency"]
        if not latencies or any(METRICS[name].tail is not None for name in latencies):
            return declared
        return (*declared, "transit_event_p99_us" if self.kind == "stream" else "e2e_p99_ms")


class TargetRecord(_Record):
    """Something load was pointed at."""

    name: Name
    kind: Literal["engine", "floor", "peer", "variant"] = "peer"
    """floor: direct and relay. peer: somebody else's proxy. variant: an engine with switches changed (ablation)."""
    engine: Literal["sherpa", "olla"] | None = None
    variant_of: str | None = None
    switches: dict[str, Any] = Field(default_factory=dict)
    """What differs from `variant_of`, by config key with or without `proxy.`, e.g. {"pools.buffers": false}.
    `buffer_size` in bytes."""
    workers: int = 1
    recorders: bool = False
    """GC and stall recorders ran inside (never in peer comparisons)."""
    label: str = ""
    config: str | None = None
    """The exact config text it ran with (secrets never belong here), shown in the method part."""


def _as_target(value: object) -> object:
    if isinstance(value, str):
        if value in ("sherpa", "olla"):
            return {"name": value, "kind": "engine", "engine": value}
        return {"name": value, "kind": "floor" if value in FLOOR_TARGETS else "peer"}
    return value


def default_baseline(names: Sequence[str]) -> str | None:
    """Sherpa if present, else the first target that is no floor."""
    return "sherpa" if "sherpa" in names else next((name for name in names if name not in FLOOR_TARGETS), None)


class CampaignHeader(_Record):
    """campaign.json."""

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema")
    id: Name
    started: str
    """UTC, ISO 8601."""
    command: str = ""
    """Exactly what was typed."""
    attempt: int = Field(default=1, ge=1)
    """Which campaign of this command on this machine: repeating until the answer pleases is visible."""
    seed: int = 0
    profile: str = ""
    machine: Json = Field(default_factory=dict)
    """Known keys: cpu_model, cores, memory_bytes, os, kernel, virtualisation, governor, python; others show too."""
    versions: Json = Field(default_factory=dict)
    """Package or program -> version; `proxy-engines` and its git revision belong here."""
    baseline: str = ""
    """Empty: `default_baseline` chooses."""
    targets: list[Annotated[TargetRecord, BeforeValidator(_as_target)]] = Field(default_factory=list)
    """Without the A/A arm. Bare names are accepted."""
    scenarios: dict[Name, ScenarioRecord] = Field(default_factory=dict)
    rounds_planned: int = Field(default=1, ge=1)
    config_hashes: dict[str, str] = Field(default_factory=dict)
    """`target` or `scenario/target` -> config hash that every run of it must carry. Ports and paths that change from
    start to start are left out of a hash by its maker."""
    limits: Json = Field(default_factory=dict)
    """Validity limits in force, by check name."""
    dropped: Json = Field(default_factory=dict)
    """Trace rows read, used and dropped by reason."""
    state: Literal["running", "complete", "interrupted"] = "running"
    """As last written by the producer; `running` in a dead campaign reads as interrupted."""

    @model_validator(mode="after")
    def _distinct(self) -> CampaignHeader:
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise ValueError("targets: a name appears twice")
        return self

    def target(self, name: str) -> TargetRecord | None:
        """The target called `name`; the A/A arm is its baseline's."""
        plain = name.removesuffix(AA_SUFFIX)
        return next((target for target in self.targets if target.name == plain), None)

    def default_baseline(self) -> str | None:
        """`baseline` if stated, else what `default_baseline` says of the targets."""
        return self.baseline or default_baseline([target.name for target in self.targets])


class RunRecord(_Record):
    """run.json: everything about one process start that is not a table."""

    schema_version: int = Field(default=SCHEMA_VERSION, alias="schema")
    run: Name
    """The folder's name, `run_name(round, scenario, target)`."""
    scenario: Name
    target: Name
    """The A/A arm carries the baseline's name + `@aa`."""
    round: int = Field(ge=1)
    """From 1. A repeat of voided work is a new round above `rounds_planned`, never the same number again."""
    order: int = 0
    """Position within its round."""
    started: str = ""
    duration_s: float = 0.0
    config_hash: str | None = None
    module_hash: str | None = None
    """Hash of the code that ran, taken inside the running engine; None for targets that are not ours."""
    versions: Json = Field(default_factory=dict)
    """Taken inside the running target."""
    command: str = ""
    generator: str = "locust"
    """`wrk` runs carry throughput and CPU in `summary` and no request rows."""
    attempt: int = Field(default=1, ge=1)
    """1 planned, 2 and above: repeats."""
    turns: int = Field(default=1, ge=1)
    """Between how many targets, all alive at once, the load went round: each had it for that part of the window."""
    window_ns: tuple[int, int] | None = None
    """Measured window [start, end), after warm-up. None: from the first sent to the last end of non-warm-up rows."""
    idle_cpu_ns_per_s: float | None = Field(default=None, ge=0)
    """CPU of the idle target before load, ns per second; subtracted from its CPU, both are kept."""
    idle_rss_bytes: int | None = Field(default=None, ge=0)
    """RSS of the idle target before load."""
    offered_rps: float | None = Field(default=None, ge=0)
    """Rate of the schedule within the window, where it differs from the scenario's nominal one."""
    cores: int = Field(default=1, ge=1)
    """How many cores the target may use. Its busy share is `utilisation` (CPU seconds a second) over this."""
    validity: list[Check] = Field(default_factory=list)
    outcome: RunOutcome | None = None
    """`outcome_of(validity)`. Null in files of schema 1 and from producers that do not state it: see `ended`."""
    void_reason: str | None = None
    """What the bench did wrong, in one sentence; null unless the outcome is `void`."""
    fault: str | None = None
    """What the target did wrong, in one sentence; null unless the outcome is `overloaded` or `failed`."""
    summary: dict[str, Any] = Field(default_factory=dict)
    """Metrics by id as `summarise.run_metrics` gives them, plus free extras. Raw rows win over what stands here; it
    serves where there are none (wrk, published campaigns without raw rows). An extra the report knows beside those of
    `summarise`: `writes_per_mib` (writes of the target to its clients)."""

    @model_validator(mode="after")
    def _window(self) -> RunRecord:
        if self.window_ns is not None and self.window_ns[1] <= self.window_ns[0]:
            raise ValueError("window_ns: the end is not after the start")
        return self

    @property
    def ended(self) -> RunOutcome:
        """The outcome, derived where the record does not state it: schema 1 had a `void_reason` for every fault."""
        if self.outcome is not None:
            return self.outcome
        if self.why is None:
            return "ok"
        if any(not check.ok for check in self.validity):
            return outcome_of(self.validity)
        return "failed" if self.void_reason is None else "void"

    @property
    def why(self) -> str | None:
        """The sentence for what went wrong, whoever is to blame; None where nothing did."""
        return self.void_reason or self.fault

    @property
    def wrong_replies(self) -> int:
        """Replies that were not, byte for byte, what the mock sent."""
        found = next((check for check in self.validity if check.check == "digest" and not check.ok), None)
        return 0 if found is None else max(int(found.value) if isinstance(found.value, int | float) else 1, 1)


# ---------------------------------------------------------------------------------------------------------- metrics
Basis = Literal["ratio", "difference"]
POOLED: Final = ("added_p99_us", "ttft_p99_ms", "transit_event_p99_us", "e2e_p99_ms", "e2e_p999_ms")
"""Metrics of which all rounds' requests (or events) form one sample: no single run holds enough of its tail."""
Family = Literal["latency", "cpu", "throughput", "memory", "gc", "stall", "errors", "stream"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric id: what people call it, its unit, and which way is better."""

    id: str
    label: str
    unit: str
    family: Family
    about: str
    higher_is_better: bool = False

    @property
    def basis(self) -> Basis:
        """How two values are compared, for every scenario and whatever the data: as a ratio, or as a difference where a
        target may rightly have none of it."""
        return "difference" if self.family in ("gc", "stall", "errors") else "ratio"

    @property
    def tail(self) -> float | None:
        """The percentile, where it is pooled over all rounds: p99 and p99.9."""
        return {"p99": 99.0, "p999": 99.9}.get(self.id.split("_")[-2]) if self.id in POOLED else None

    def applies(self, scenario: ScenarioRecord) -> bool:
        """Whether a scenario can have this metric at all."""
        if self.id in _OF_STREAMS:
            return scenario.kind == "stream"
        if self.id == "capacity_rps_per_core":
            return "saturation" in scenario.tags
        if self.id == "rss_kib_per_stream":
            return scenario.kind == "stream" and bool(scenario.connections)
        return True

    @property
    def shown_unit(self) -> str:
        """The unit as people write it; empty for counts and ratios."""
        return {"us": "µs", "ratio": "", "count": ""}.get(self.unit, self.unit)

    @property
    def words(self) -> tuple[str, str]:
        """What an improvement and its opposite are called in prose; in verdict.json they are always faster, slower."""
        return ("faster", "slower") if self.family in ("latency", "cpu", "throughput") else ("better", "worse")


_OF_STREAMS: Final = (
    "ttft_p50_ms", "ttft_p99_ms", "transit_event_p50_us", "transit_event_p99_us", "itl_p50_ms", "itl_p99_ms",
    "tpot_p50_ms", "cpu_us_per_event", "coalescing",
)  # fmt: skip
"""Metrics of streams only."""
_INTENDED = "from the intended send time"
_PROXY_TIME = "time inside the proxy per request, both directions added"
_WINDOW = "in the measured window"
_TREE = "whole process tree, idle CPU subtracted"

METRICS: Final[dict[str, Metric]] = {
    metric.id: metric
    for metric in (
        Metric("added_p50_us", "Added time p50", "us", "latency", _PROXY_TIME),
        Metric("added_p99_us", "Added time p99", "us", "latency", _PROXY_TIME),
        Metric("ttft_p50_ms", "Time to first token p50", "ms", "latency", _INTENDED),
        Metric("ttft_p99_ms", "Time to first token p99", "ms", "latency", _INTENDED),
        Metric(
            "transit_event_p50_us", "Event transit p50", "us", "latency", "from the mock's write to the client's read"
        ),
        Metric(
            "transit_event_p99_us", "Event transit p99", "us", "latency", "from the mock's write to the client's read"
        ),
        Metric("itl_p50_ms", "Gap between events p50", "ms", "latency", "inter-token latency, per event"),
        Metric("itl_p99_ms", "Gap between events p99", "ms", "latency", "inter-token latency, per event"),
        Metric("tpot_p50_ms", "Time per output token p50", "ms", "latency", "per request, after its first token"),
        Metric("e2e_p50_ms", "End to end p50", "ms", "latency", _INTENDED),
        Metric("e2e_p95_ms", "End to end p95", "ms", "latency", _INTENDED),
        Metric("e2e_p99_ms", "End to end p99", "ms", "latency", _INTENDED),
        Metric("e2e_p999_ms", "End to end p99.9", "ms", "latency", _INTENDED),
        Metric("throughput_rps", "Throughput", "req/s", "throughput", "whole replies per second, right or wrong", True),
        Metric(
            "goodput_rps", "Goodput", "req/s", "throughput", "right replies per second, within the SLO if any", True
        ),
        Metric("cpu_us_per_request", "CPU per request", "us", "cpu", _TREE),
        Metric("cpu_us_per_event", "CPU per event", "us", "cpu", _TREE),
        Metric("cpu_us_per_mib", "CPU per MiB", "us", "cpu", _TREE + ", per MiB of response body"),
        Metric("capacity_rps_per_core", "Capacity per core", "req/s", "throughput", "measured at saturation", True),
        Metric("rss_idle_mib", "Memory idle", "MiB", "memory", "resident, before load"),
        Metric("rss_peak_mib", "Memory peak", "MiB", "memory", "resident, " + _WINDOW),
        Metric("rss_kib_per_stream", "Memory per stream", "KiB", "memory", "growth over idle by open stream"),
        Metric("gc_count", "GC collections", "count", "gc", _WINDOW),
        Metric("gc_total_ms", "GC pauses, total", "ms", "gc", _WINDOW),
        Metric("gc_max_ms", "GC pause, longest", "ms", "gc", _WINDOW),
        Metric(
            "stall_max_ms", "Loop stall, longest", "ms", "stall", _WINDOW + "; 10 ms heartbeat, so it reads +0/-10 ms"
        ),
        Metric("error_ratio", "Errors", "ratio", "errors", "unexpected outcomes by requests"),
        Metric("coalescing", "Events per read", "ratio", "stream", "1: every event came alone"),
    )
}

# ------------------------------------------------------------------------------------------------------------ names
_UNSAFE = re.compile(r"[^A-Za-z0-9._@+~-]+")
_LONGEST_NAME: Final = 110


def safe_name(name: str) -> str:
    """`name` as one harmless path component; distinct names stay distinct. Plain names are returned unchanged."""
    cleaned = _UNSAFE.sub("_", name).lstrip(".")
    if cleaned == name and 0 < len(name) <= _LONGEST_NAME:
        return name
    return f"{cleaned[:100] or 'x'}~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def run_name(round_number: int, scenario: str, target: str) -> str:
    """The folder of a run: `r03-chat-stream-olla`."""
    return safe_name(f"r{round_number:02d}-{scenario}-{target}")
