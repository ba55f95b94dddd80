"""Fields as text, which Sherpa hands to aiohttp; the rules for them work on bytes and are in bench_wire."""

from __future__ import annotations

from loadgen.micro import samples
from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.http1.heads import Limits
from proxy.http1.recall import RequestReader


def _request() -> Prepared:
    head = samples.head("POST /v1/chat/completions HTTP/1.1", samples.REQUEST_FIELDS, ("Content-Length", "1024"))
    reader = RequestReader(Limits(64 * 1024, 100, 8 * 1024, 16 * 1024), b"127.0.0.1", b"proxy-engines-0", False)
    request = reader.read(head)
    made = dict(request.text_fields("0123456789abcdef"))
    assert "Connection" not in made and made["Via"] == "1.1 proxy-engines-0"
    return each(lambda: request.text_fields("0123456789abcdef"))


BENCHMARKS = (
    Benchmark("floor.call", "an empty call: part of every figure in ns", lambda: each(lambda: None)),
    Benchmark("headers.text", "16 request fields made ready for aiohttp's client", _request),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_headers")
