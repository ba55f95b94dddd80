"""Header sanitising on lists of pairs, as Sherpa does it; Olla's on bytes is in bench_wire."""

from __future__ import annotations

from loadgen.micro import samples
from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.core.headers import request_headers, response_headers


def _request() -> Prepared:
    fields = list(samples.REQUEST_FIELDS)

    def operation() -> object:
        return request_headers(
            fields, asked="127.0.0.1:9000", authority="127.0.0.1:9001", peer="127.0.0.1", via="proxy-engines-0",
            request_id="0123456789abcdef",
        )  # fmt: skip

    made = dict(request_headers(
        fields, asked="127.0.0.1:9000", authority="127.0.0.1:9001", peer="127.0.0.1", via="proxy-engines-0",
        request_id="0123456789abcdef",
    ))  # fmt: skip
    assert made["Host"] == "127.0.0.1:9001" and "Connection" not in made and made["Via"] == "1.1 proxy-engines-0"
    return each(operation)


def _response() -> Prepared:
    fields = list(samples.RESPONSE_FIELDS)
    made = dict(response_headers(fields, request_id="0123456789abcdef", endpoint="a"))
    assert made["X-Served-By"] == "a" and "Keep-Alive" not in made
    return each(lambda: response_headers(fields, request_id="0123456789abcdef", endpoint="a"))


BENCHMARKS = (
    Benchmark("floor.call", "an empty call: part of every figure in ns", lambda: each(lambda: None)),
    Benchmark("headers.request", "16 request fields made ready for an endpoint", _request),
    Benchmark("headers.response", "8 response fields made ready for the client", _response),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_headers")
