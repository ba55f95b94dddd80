"""Choosing an endpoint: every balancer over 2, 10 and 100 of them, with exchanges in flight."""

from __future__ import annotations

from functools import partial

from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.core.balancing import BALANCERS, make_balancer
from proxy.core.endpoint import Endpoint, EndpointSpec


def _pick(balancer: str, count: int) -> Prepared:
    endpoints = tuple(Endpoint(EndpointSpec(f"e{i}", "http", "127.0.0.1", 9000 + i)) for i in range(count))
    for number, endpoint in enumerate(endpoints):
        endpoint.active = 1 + number % 3  # idle ones would end the search early
    pick = make_balancer(balancer).pick
    assert pick(endpoints, 0.0, b"a session") in endpoints
    return each(lambda: pick(endpoints, 0.0, b"a session"))


BENCHMARKS = tuple(
    Benchmark(f"balancing.{name}.{count}", f"{name} of {count} endpoints", partial(_pick, name, count))
    for name in BALANCERS
    for count in (2, 10, 100)
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_balancing")
