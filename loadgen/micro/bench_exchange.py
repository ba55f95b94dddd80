"""Whole exchanges in memory: each engine's own work for a request and for a stream, without sockets and kernel."""

from __future__ import annotations

from functools import partial

from loadgen.micro import samples
from loadgen.micro.exchange import exchanges
from loadgen.micro.suite import Benchmark, script

_STREAM_END = samples.chunk(samples.EVENT) + b"0\r\n\r\n"
_REQUEST = (samples.REQUEST, (samples.RESPONSE,), samples.REPLY)
_STREAM = (samples.REQUEST, samples.STREAM, _STREAM_END)


def _pair(case: str, message: tuple[bytes, tuple[bytes, ...], bytes], does: str, per: int = 1) -> list[Benchmark]:
    olla, sherpa = f"exchange.{case}.olla", f"exchange.{case}.sherpa"
    return [
        Benchmark(sherpa, f"Sherpa, {does}", partial(exchanges, "sherpa", *message), per),
        Benchmark(olla, f"Olla, {does}", partial(exchanges, "olla", *message), per, against=sherpa),
    ]


def _without(case: str, setting: str, value: object, does: str) -> Benchmark:
    make = partial(exchanges, "olla", *_REQUEST, {setting: value})
    return Benchmark(f"exchange.request.olla-{case}", f"Olla {does}", make, against="exchange.request.olla")


BENCHMARKS = (
    *_pair("request", _REQUEST, "one exchange: 1 KiB request, 1.5 KiB reply"),
    *_pair("stream", _STREAM, f"one event of a stream of {samples.EVENTS}", per=samples.EVENTS),
    _without("no-contexts", "proxy.pools.contexts", False, "with a new context for each request"),
    _without("buffers", "proxy.pools.buffers", True, "reading into pooled buffers"),
    _without("no-breaker", "proxy.circuit_breaker.enabled", False, "without breaker"),
    _without("every-read", "proxy.flush.policy", "every-read", "without adaptive flushing"),
)

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_exchange")
