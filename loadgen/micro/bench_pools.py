"""Object pools against plain allocation: is what they save more than what they cost?"""

from __future__ import annotations

from loadgen.micro.suite import Benchmark, Prepared, each, script
from proxy.config import parse
from proxy.olla.buffers import ObjectPool
from proxy.olla.engine import Engine
from proxy.olla.exchange import Exchange
from proxy.olla.settings import Settings

_BUFFER = 64 * 1024


def _new_buffer() -> memoryview:
    return memoryview(bytearray(_BUFFER))


def _engine() -> Engine:
    engine = Engine()
    config = parse("{endpoints: [{name: a, url: 'http://127.0.0.1:9001'}]}", "benchmark", {}).config
    engine.settings = Settings(config, "olla")
    return engine


def _pooled_buffer() -> Prepared:
    pool = ObjectPool(_new_buffer, 64)
    _lend(pool)
    assert pool.created == 1
    return each(lambda: _lend(pool))


def _pooled_context() -> Prepared:
    engine = _engine()
    pool: ObjectPool[Exchange] = ObjectPool(lambda: Exchange(engine, pool), 64)
    _lend(pool)
    assert pool.created == 1
    return each(lambda: _lend(pool))


def _lend(pool: ObjectPool[memoryview] | ObjectPool[Exchange]) -> None:
    pool.put(pool.get())  # type: ignore[arg-type]  # what comes out of a pool goes back into the same one


def _plain_context() -> Prepared:
    engine = _engine()
    pool: ObjectPool[Exchange] = ObjectPool(lambda: Exchange(engine, pool), 0)
    return each(lambda: Exchange(engine, pool))


BENCHMARKS = (
    Benchmark("pools.buffer", "64 KiB lent and given back", _pooled_buffer, against="pools.buffer-plain"),
    Benchmark("pools.buffer-plain", "64 KiB allocated and freed", lambda: each(_new_buffer)),
    Benchmark("pools.context", "a request's context lent and given back", _pooled_context,
        against="pools.context-plain"),
    Benchmark("pools.context-plain", "a request's context made and freed", _plain_context),
)  # fmt: skip

if __name__ == "__main__":
    script(BENCHMARKS, "loadgen.micro.bench_pools")
