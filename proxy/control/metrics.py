"""The Prometheus text of /metrics, made at scrape from what the workers report. The request path knows nothing of it.

Names are the seed's with dots as underscores: counters end in `_total`, latency is a summary in seconds. Every series
carries the engine; what belongs to one worker only (breakers, pools, memory, pauses) carries the worker, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from proxy.core.stats import Snapshot, is_counter, merge

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "proxy.requests.total": "Requests whose head parsed",
    "proxy.requests.success": "Responses of an upstream delivered whole, whatever their status",
    "proxy.requests.failed": "Requests the proxy answered by itself, and responses that were cut",
    "proxy.requests.client_disconnected": "Requests whose client left first",
    "proxy.requests.refused": "Request heads that never parsed; not part of the total",
    "proxy.upstream.5xx": "Responses of an upstream with a status of 500 or more, forwarded",
    "proxy.active_connections": "Requests in flight",
    "proxy.circuit_breaker.open": "Circuit breakers that are open now",
    "proxy.pool.buffer.active": "Pooled buffers in use",
    "proxy.pool.buffer.created": "Pooled buffers made since start",
    "proxy.pool.context.active": "Pooled request contexts in use",
    "proxy.pool.context.created": "Pooled request contexts made since start",
    "proxy.transport.connections.active": "Connections to endpoints that carry a request",
    "proxy.transport.connections.idle": "Connections to endpoints that wait for a request",
    "proxy.transport.connections.created": "Connections to endpoints made since start",
    "proxy.client_connections": "Connections of clients, also idle ones",
}
_ENDPOINT_HELP = {
    "requests": "Attempts on this endpoint",
    "success": "Responses of this endpoint delivered whole",
    "failed": "Requests that failed at this endpoint",
    "client_disconnected": "Requests to this endpoint whose client left first",
    "upstream_5xx": "Responses of this endpoint with a status of 500 or more",
    "active": "Requests in flight at this endpoint",
}
SLICE = 100  # about 1 ms

_BREAKER_STATES = ("closed", "half-open", "open")
_POOL_GAUGES = {
    "open": "Connections to an endpoint that are open",
    "idle": "Connections to an endpoint that wait for a request; in Sherpa all those to its host and port",
    "waiting": "Requests that wait for a connection to an endpoint",
    "max_conns": "Limit of connections to an endpoint; 0: none",
}


async def render(
    snapshots: Iterable[Snapshot], workers: Iterable[Mapping[str, Any]], runtimes: Iterable[Mapping[str, Any]]
) -> bytes:
    """The exposition of several workers' `Snapshot`s, statuses and runtime views (as /internal/* shows them).

    Lets the loop run after every SLICE series: 50 endpoints are 15 ms of work, and requests share this loop.
    """
    by_engine, workers, runtimes = merged_by_engine(snapshots), list(workers), list(runtimes)
    parts = []
    for family in chain(
        _requests(by_engine), _latency(by_engine), _endpoints(by_engine), _states(workers), _runtime(runtimes)
    ):
        samples = family.samples
        for start in range(0, len(samples), SLICE):
            family.samples = samples[start : start + SLICE]
            text = generate_latest(_Collected(family))
            parts.append(text if start == 0 else text.split(b"\n", 2)[2])  # HELP and TYPE stand once
            await asyncio.sleep(0)
    return b"".join(parts)


def merged_by_engine(snapshots: Iterable[Snapshot]) -> dict[str, Snapshot]:
    """Snapshots added up by engine: one entry, or two while a canary runs."""
    groups: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        groups.setdefault(snapshot.engine, []).append(snapshot)
    return {engine: merge(group) for engine, group in sorted(groups.items())}


class _Collected(Collector):
    """What prometheus_client asks for its families, here one that is there already."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def _family(name: str, text: str, labels: list[str], *, counter: bool) -> CounterMetricFamily | GaugeMetricFamily:
    return (CounterMetricFamily if counter else GaugeMetricFamily)(name, text, labels=labels)


def _requests(by_engine: Mapping[str, Snapshot]) -> Iterator[Metric]:
    names = {name: None for snapshot in by_engine.values() for name in snapshot.counts}
    for name in names:
        text = _HELP.get(name, name)
        family = _family(name.replace(".", "_"), text, ["engine"], counter=is_counter(name))
        for engine, snapshot in by_engine.items():
            if name in snapshot.counts:
                family.add_metric([engine], snapshot.counts[name])
        yield family


def _latency(by_engine: Mapping[str, Snapshot]) -> Iterator[Metric]:
    text = "Seconds from the parsed head to the last byte written"
    family = SummaryMetricFamily("proxy_latency_seconds", text, labels=["engine"])
    for engine, snapshot in by_engine.items():
        for quantile in (0.5, 0.95, 0.99):
            seconds = snapshot.percentile(quantile)
            if seconds is not None:
                family.add_sample(family.name, {"engine": engine, "quantile": str(quantile)}, seconds)
        family.add_metric([engine], sum(snapshot.latency_counts.values()), snapshot.latency_sum)
    yield family


def _endpoints(by_engine: Mapping[str, Snapshot]) -> Iterator[Metric]:
    for key, text in _ENDPOINT_HELP.items():
        family = _family(f"proxy_endpoint_{key}", text, ["engine", "endpoint"], counter=key != "active")
        for engine, snapshot in by_engine.items():
            for endpoint, row in snapshot.endpoints.items():
                family.add_metric([engine, endpoint], row[key])
        yield family


def _states(workers: list[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ["engine", "worker", "endpoint"]
    text = "1 while active checks say that it lives"
    healthy = GaugeMetricFamily("proxy_endpoint_healthy", text, labels=labels)
    for series, state in _endpoint_states(workers, "healthy"):
        healthy.add_metric(series, int(state))
    yield healthy
    text = "1 for the state that the breaker is in"
    breaker = GaugeMetricFamily("proxy_circuit_breaker_state", text, labels=[*labels, "state"])
    for series, state in _endpoint_states(workers, "circuit_breaker"):
        for name in _BREAKER_STATES:
            breaker.add_metric([*series, name], int(state["state"] == name))
    yield breaker
    for name, text in _POOL_GAUGES.items():
        family = GaugeMetricFamily(f"proxy_pool_connections_{name}", text, labels=labels)
        for series, pool in _endpoint_states(workers, "pool"):
            if name in pool:
                family.add_metric(series, pool[name])
        yield family


def _endpoint_states(workers: list[Mapping[str, Any]], key: str) -> Iterator[tuple[list[str], Any]]:
    """(engine, worker, endpoint) and what each worker says of each endpoint under `key`, if it says anything."""
    for worker in workers:
        for endpoint, state in worker.get("endpoints", {}).items():
            if key in state:
                yield [worker["engine"], str(worker["worker"]), endpoint], state[key]


def _runtime(runtimes: list[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ["engine", "worker"]
    rss = GaugeMetricFamily("proxy_resident_memory_bytes", "Resident memory of a worker", labels=labels)
    families = {
        (kind, field): _family(f"proxy_{name}", text, [*labels, key], counter=counter)
        for kind, key, field, name, text, counter in (
            ("gc", "generation", "count", "gc_collections", "Garbage collections", True),
            ("gc", "generation", "total_ns", "gc_pause_seconds", "Seconds spent in garbage collections", True),
            ("gc", "generation", "longest_ns", "gc_longest_pause_seconds", "Longest garbage collection", False),
            ("stalls", "cause", "count", "loop_stalls", "Stalls of the event loop", True),
            ("stalls", "cause", "total_ns", "loop_stall_seconds", "Seconds the event loop stalled", True),
            ("stalls", "cause", "longest_ns", "loop_longest_stall_seconds", "Longest stall of the event loop", False),
        )
    }
    for runtime in runtimes:
        series = [runtime["engine"], str(runtime["worker"])]
        rss.add_metric(series, runtime["rss_bytes"])
        if runtime["recorders"]:
            for (kind, field), family in families.items():
                for value, totals in runtime["totals"][kind].items():
                    family.add_metric([*series, value], totals[field] if field == "count" else totals[field] / 1e9)
    yield from (rss, *families.values())
