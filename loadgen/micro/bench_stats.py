"""Counting a request, and taking a snapshot while nobody waits."""

from __future__ import annotations

from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.stats import StatsCollector


def _record() -> Prepared:
    stats = StatsCollector()
    endpoint = Endpoint(EndpointSpec("a", "http", "127.0.0.1", 9001))

    def operation() -> None:
        stats.record_request()
        endpoint.begin()
        endpoint.active -= 1
        stats.record_success(0.0123, 200)
        endpoint.record_success(200)

    operation()
    assert (stats.total, stats.success, stats.active, endpoint.active) == (1, 1, 0, 0)
    return each(operation)


def _snapshot() -> Prepared:
    stats = StatsCollector()
    endpoints = [Endpoint(EndpointSpec(f"e{i}", "http", "127.0.0.1", 9000 + i)) for i in range(10)]
    for number in range(10_000):
        stats.record_request()
        stats.record_success(0.0001 * (1 + number % 500), 200)
        endpoints[number % 10].record_success(200)
    assert stats.snapshot("olla", endpoints).as_json()["proxy.requests.total"] == 10_000
    return each(lambda: stats.snapshot("olla", endpoints).as_json())


BENCHMARKS = (
    Benchmark("stats.record", "a request counted from begin to end", _record),
    Benchmark("stats.snapshot", "everything copied and its percentiles read, 10 endpoints", _snapshot),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_stats")
