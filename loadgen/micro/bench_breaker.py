"""The circuit breaker: what a request pays for it while all is well, and what a change of state costs."""

from __future__ import annotations

from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.olla.breaker import CLOSED, OPEN, CircuitBreaker


def _check() -> Prepared:
    breaker = CircuitBreaker(5, 30.0, 3)
    assert breaker.allows(1.0)
    return each(lambda: breaker.allows(1.0))


def _check_open() -> Prepared:
    breaker = CircuitBreaker(1, 30.0, 3)
    breaker.record_failure(breaker.admit(0.0), 0.0)
    assert breaker.state == OPEN and not breaker.allows(1.0)
    return each(lambda: breaker.allows(1.0))


def _record() -> Prepared:
    breaker = CircuitBreaker(5, 30.0, 3)

    def operation() -> None:
        breaker.record_success(breaker.admit(1.0))

    operation()
    assert breaker.state == CLOSED
    return each(operation)


def _cycle() -> Prepared:
    breaker = CircuitBreaker(5, 30.0, 3)

    def operation() -> None:
        for _ in range(5):
            breaker.record_failure(breaker.admit(0.0), 0.0)
        for _ in range(3):
            breaker.record_success(breaker.admit(31.0))

    operation()
    assert breaker.state == CLOSED and breaker.opened_count == 1
    return each(operation)


BENCHMARKS = (
    Benchmark("breaker.check", "may a request pass a closed breaker?", _check),
    Benchmark("breaker.check-open", "may a request pass an open one?", _check_open),
    Benchmark("breaker.record", "a request admitted and its success recorded", _record),
    Benchmark("breaker.cycle", "five failures open it, three probes close it", _cycle),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_breaker")
