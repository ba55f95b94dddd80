"""A published campaign's measurements as one Parquet file, `runs.parquet`: the report is rebuilt from it.

One row a run: its run.json with its metrics, and what the report shows beside them. Every metric of a run is exact.
Times of single requests are rounded by at most 0.3 % and kept with how often each occurred, so that millions of them
need a megabyte. Requests stand one by one where an endpoint fails, and memory over time in 80 samples (a soak: all).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from reports.schema import METRICS, CampaignHeader, RunRecord, ScenarioRecord
from reports.stats import Tail
from reports.store import Campaign, ReportError, Run, read_record, write_atomically
from reports.summarise import Facts, Histogram, Join, Outcomes, Pauses, Usage, Value, summary_of

FILE: Final = "runs.parquet"
TIMES: Final = ("added_us", "ttft_ms", "e2e_ms")
"""The times whose distributions are kept."""
_VERSION: Final = 1
_MARK: Final = b"proxy-engines.archive"
_SAMPLES: Final = 80
_PER_DECADE: Final = 400

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_ints, _texts = pa.list_(pa.int64()), pa.list_(pa.string())
_SCHEMA: Final = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("record", pa.string(), nullable=False),  # run.json
        pa.field("reasons", pa.string(), nullable=False),  # JSON: metric -> why it is not measured
        pa.field("joins", pa.string(), nullable=False),  # JSON: gc, stall -> [with one, without, µs shared]
        pa.field("window_s", pa.float64()),
        # Distributions: codes of values (see `_codes`), each as its distance from the one before, and counts.
        *(pa.field(f"{name}{part}", _ints) for name in (*TIMES, "transit") for part in ("", "_counts")),
        # Requests in the order they were due: microseconds from the one before; only where an endpoint fails.
        pa.field("request_us", _ints),
        pa.field("outcome", _texts),
        pa.field("endpoint", _texts),
        # Collections and stalls of the target: begin and length in microseconds.
        *(pa.field(f"{kind}_{part}_us", _ints) for kind in ("gc", "stall") for part in ("at", "took")),
        pa.field("gc_generation", _ints),
        pa.field("stall_cause", _texts),
        # The target over time: milliseconds from the sample before, resident KiB, open descriptors (-1: not seen).
        pa.field("usage_ms", _ints),
        pa.field("usage_kib", _ints),
        pa.field("usage_fds", _ints),
    ],
    metadata={_MARK: str(_VERSION).encode()},
)


# ------------------------------------------------------------------------------------------------------------ writing
def write(folder: Path, campaign: Campaign, facts: Sequence[Facts], extras: Mapping[str, Mapping[str, float]]) -> Path:
    """Write `folder`/runs.parquet; `extras` are further numbers of a run, by its name. ReportError if disk refuses."""
    rows = [_row(one, campaign.scenario(one.record.scenario), extras.get(one.record.run, {})) for one in facts]
    schema = _SCHEMA.with_metadata({**_SCHEMA.metadata, b"unfinished": json.dumps(campaign.unfinished).encode()})
    whole = [field.name for field in schema if not pa.types.is_list(field.type)]
    texts = [f"{field.name}.list.element" for field in schema if field.type == _texts]
    # Small numbers side by side byte by byte: 40 % smaller than as differences in bits (DELTA_BINARY_PACKED).
    split = {f"{field.name}.list.element": "BYTE_STREAM_SPLIT" for field in schema if field.type == _ints}
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema),
        sink,
        compression="zstd",
        compression_level=19,
        use_dictionary=texts,
        column_encoding=split,
        write_statistics=whole,
    )
    write_atomically(folder / FILE, sink.getvalue().to_pybytes())
    return folder / FILE


def _row(facts: Facts, scenario: ScenarioRecord, extras: Mapping[str, float]) -> dict[str, Any]:
    record = facts.record.model_copy(update={"summary": {**summary_of(facts), **extras}})
    row: dict[str, Any] = {
        "run": record.run,
        "record": json.dumps(record.model_dump(mode="json"), separators=(",", ":"), allow_nan=False),
        "reasons": json.dumps({name: one.reason for name, one in facts.metrics.items() if one.reason}),
        "joins": json.dumps({"gc": _of_join(facts.join), "stall": _of_join(facts.stall_join)}),
        "window_s": facts.window_s,
    }
    for name in TIMES:
        tail = facts.times(name)
        if tail is not None and (name != "ttft_ms" or scenario.kind == "stream"):
            row[name], row[f"{name}_counts"] = _coded(tail)
    if facts.transit is not None:
        row["transit"], row["transit_counts"] = _sparse(facts.transit.counts)
    if facts.outcomes is not None and scenario.faults:
        order = np.argsort(facts.outcomes.at_s, kind="stable")
        row["request_us"] = _steps(np.rint(facts.outcomes.at_s[order] * 1e6))
        row["outcome"] = facts.outcomes.outcome[order].tolist()
        row["endpoint"] = facts.outcomes.endpoint[order].tolist()
    for kind, pauses in (("gc", facts.gc), ("stall", facts.stalls)):
        if pauses is not None:
            row[f"{kind}_at_us"], row[f"{kind}_took_us"] = _whole(pauses.at_s * 1e6), _whole(pauses.ms * 1e3)
    if facts.gc is not None:
        row["gc_generation"] = _whole(facts.gc.generation)
    if facts.stalls is not None:
        row["stall_cause"] = facts.stalls.cause.tolist()
    usage = facts.usage.get("target")
    if usage is not None:
        size = usage.at_s.size
        few = np.unique(np.linspace(0, size - 1, min(size, _SAMPLES)).astype(int))
        take = np.arange(size) if "soak" in scenario.tags else few
        row["usage_ms"] = _steps(np.rint(usage.at_s[take] * 1e3))
        row["usage_kib"], row["usage_fds"] = _whole(usage.rss_mib[take] * 1024), _whole(usage.fds[take])
    return row


def _of_join(join: Join | None) -> list[float | None] | None:
    return None if join is None else [join.with_pause, join.without, join.shared_us]


def _whole(values: Floats) -> list[int]:
    """Rounded; -1 for NaN."""
    return list(np.rint(np.nan_to_num(values, nan=-1.0)).astype(np.int64).tolist())


def _steps(values: Floats | Ints) -> list[int]:
    """The first value, then the distance from one to the next."""
    return list(np.diff(values.astype(np.int64), prepend=0).tolist())


def _codes(values: Floats) -> Ints:
    """Values as whole steps of 0.6 % from 1; what is not above zero, as a nanounit."""
    steps: Floats = np.rint(np.log10(np.maximum(values, 1e-9)) * _PER_DECADE)
    return steps.astype(np.int64)


def _values(codes: Ints) -> Floats:
    return np.array(10.0 ** (codes / _PER_DECADE), dtype=np.float64)


def _coded(tail: Tail) -> tuple[list[int], list[int]]:
    counts = np.ones(tail.values.size, np.int64) if tail.counts is None else tail.counts
    codes, where = np.unique(_codes(tail.values), return_inverse=True)
    return _steps(codes), np.bincount(where, counts, codes.size).astype(np.int64).tolist()


def _sparse(counts: Ints) -> tuple[list[int], list[int]]:
    occupied = np.flatnonzero(counts)
    return _steps(occupied), counts[occupied].tolist()


# ------------------------------------------------------------------------------------------------------------ reading
def load(folder: Path) -> tuple[Campaign, tuple[Facts, ...]]:
    """The campaign in a published folder, and what was measured in each run. ReportError if it cannot be used."""
    path = folder / FILE
    header = read_record(folder / "campaign.json", CampaignHeader)
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        version = int(metadata.get(_MARK, b"0"))
        if not 0 < version <= _VERSION:
            raise ReportError(f"{path}: written with version {version}, this program reads up to {_VERSION}")
        unfinished = tuple(json.loads(metadata.get(b"unfinished", b"[]")))
        facts = tuple(map(_facts, table.select(_SCHEMA.names).to_pylist()))
    except ReportError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, ValidationError) as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise ReportError(f"{path}: not an archive of a campaign ({reason}); publish the campaign again") from exc
    runs = tuple(Run(folder / "runs" / one.record.run, one.record) for one in facts)
    return Campaign(folder, header, runs, unfinished), facts


def _facts(row: Mapping[str, Any]) -> Facts:
    record = RunRecord.model_validate_json(row["record"])
    reasons, joins = json.loads(row["reasons"]), json.loads(row["joins"])
    known = record.summary
    facts = Facts(
        record=record,
        metrics={name: Value(known.get(name), reasons.get(name, "")) for name in METRICS},
        extras={name: value for name, value in known.items() if name not in METRICS},
        kept={
            name: Tail(_values(_sum(row[name])), np.array(row[f"{name}_counts"], np.int64))
            for name in TIMES
            if row[name] is not None
        },
        transit=_transit(row),
        gc=_pauses(row, "gc"),
        stalls=_pauses(row, "stall"),
        join=_join(joins["gc"]),
        stall_join=_join(joins["stall"]),
        window_s=row["window_s"],
    )
    if row["request_us"] is not None:
        outcome, endpoint = (np.array(row[name], dtype=np.object_) for name in ("outcome", "endpoint"))
        facts = replace(facts, outcomes=Outcomes(_sum(row["request_us"]) / 1e6, outcome, endpoint))
    if row["usage_ms"] is not None:
        at = _sum(row["usage_ms"]) / 1e3
        usage = Usage(at, np.full(at.size, np.nan), _or_nan(row["usage_kib"]) / 1024, _or_nan(row["usage_fds"]))
        facts = replace(facts, usage={"target": usage})
    return facts


def _join(kept: Sequence[Any] | None) -> Join | None:
    return None if kept is None else Join(*kept)


def _sum(steps: Sequence[int]) -> Ints:
    return np.cumsum(np.array(steps, dtype=np.int64))


def _or_nan(values: Sequence[int]) -> Floats:
    found = np.array(values, dtype=np.float64)
    found[found < 0] = np.nan
    return found


def _transit(row: Mapping[str, Any]) -> Histogram | None:
    if row["transit"] is None:
        return None
    counts = np.zeros(Histogram.edges().size, np.int64)
    counts[_sum(row["transit"])] = row["transit_counts"]
    return Histogram(counts)


def _pauses(row: Mapping[str, Any], kind: str) -> Pauses | None:
    if row[f"{kind}_at_us"] is None:
        return None
    at, ms = np.array(row[f"{kind}_at_us"], np.float64) / 1e6, np.array(row[f"{kind}_took_us"], np.float64) / 1e3
    generation = _or_nan(row["gc_generation"]) if kind == "gc" else np.full(at.size, np.nan)
    cause = np.array(row["stall_cause"] if kind == "stall" else [None] * at.size, dtype=np.object_)
    return Pauses(at, ms, generation, cause)
