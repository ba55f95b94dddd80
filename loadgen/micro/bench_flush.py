"""The decision when to flush: for a token, and for a burst of large reads that is gathered."""

from __future__ import annotations

from loadgen.micro import samples
from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.olla.flush import Gatherer

_READ = bytes(16 * 1024)


def _token() -> Prepared:
    gatherer = Gatherer(1024, 64 * 1024)
    event = samples.chunk(samples.EVENT)
    assert gatherer.add(event) == event
    return each(lambda: gatherer.add(event))


def _burst() -> Prepared:
    gatherer = Gatherer(1024, 64 * 1024)

    def operation() -> bytes | None:
        gatherer.add(_READ)
        gatherer.add(_READ)
        gatherer.add(_READ)
        return gatherer.add(_READ)

    whole = operation()
    assert whole is not None and len(whole) == 4 * len(_READ)
    return each(operation)


BENCHMARKS = (
    Benchmark("flush.token", "a token: passed on at once", _token),
    Benchmark("flush.burst", "four reads of 16 KiB gathered into one write", _burst),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_flush")
