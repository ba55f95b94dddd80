"""Header sanitising on lists of pairs, as Sherpa does it; Olla's on bytes is in bench_wire."""

from __future__ import annotations

from loadgen.micro import samples
from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.core.headers import response_headers


def _response() -> Prepared:
    fields = list(samples.RESPONSE_FIELDS)
    made = dict(response_headers(fields, request_id="0123456789abcdef", endpoint="a"))
    assert made["X-Served-By"] == "a" and "Keep-Alive" not in made
    return each(lambda: response_headers(fields, request_id="0123456789abcdef", endpoint="a"))


BENCHMARKS = (
    Benchmark("floor.call", "an empty call: part of every figure in ns", lambda: each(lambda: None)),
    Benchmark("headers.response", "8 response fields made ready for the client", _response),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_headers")
