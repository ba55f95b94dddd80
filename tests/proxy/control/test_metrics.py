"""The Prometheus text, read back by Prometheus' own parser."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from proxy.control.metrics import SLICE, merged_by_engine, render
from proxy.control.recorders import Recorders
from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.stats import StatsCollector


def snapshot(engine, *, requests=0, gauges=None):
    stats, endpoint = StatsCollector(), Endpoint(EndpointSpec("gpu-1", "http", "h", 80))
    for i in range(requests):
        stats.record_request()
        endpoint.begin()
        endpoint.active -= 1
        stats.record_success(0.1 * (i + 1), 200)
        endpoint.record_success(200)
    return stats.snapshot(engine, [endpoint], gauges)


def runtime(worker, engine="olla", *, recorders=True):
    recorder = Recorders(recorders)
    recorder.collections.ring.push(0, 2_000_000_000, 2, 0)
    recorder.collections.count[2] = 3
    recorder.collections.total_ns[2] = recorder.collections.longest_ns[2] = 2_000_000_000
    return {"worker": worker, "engine": engine, "rss_bytes": 1000, **recorder.as_json(None)}


def samples(*args):
    """{(name, sorted labels): value} and {family: type} of a rendered exposition."""
    families = list(text_string_to_metric_families(asyncio.run(render(*args)).decode()))
    return (
        {(s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples},
        {family.name: family.type for family in families},
    )


def test_the_seeds_names_have_underscores_and_counters_end_in_total():
    gauges = {"proxy.circuit_breaker.open": 1, "proxy.pool.buffer.active": 2, "proxy.pool.buffer.created": 5}
    found, types = samples([snapshot("olla", requests=2, gauges=gauges)], [], [])
    assert found["proxy_requests_total", "engine=olla"] == 2
    assert found["proxy_requests_success_total", "engine=olla"] == 2
    assert found["proxy_requests_failed_total", "engine=olla"] == 0
    assert found["proxy_active_connections", "engine=olla"] == 0
    assert found["proxy_circuit_breaker_open", "engine=olla"] == 1
    assert found["proxy_pool_buffer_active", "engine=olla"] == 2
    assert found["proxy_pool_buffer_created_total", "engine=olla"] == 5
    assert types["proxy_requests"] == types["proxy_pool_buffer_created"] == "counter"
    assert types["proxy_active_connections"] == types["proxy_circuit_breaker_open"] == "gauge"


def test_latency_is_a_summary_in_seconds():
    found, types = samples([snapshot("olla", requests=2)], [], [])
    assert types["proxy_latency_seconds"] == "summary"
    assert found["proxy_latency_seconds_count", "engine=olla"] == 2
    assert abs(found["proxy_latency_seconds_sum", "engine=olla"] - 0.3) < 1e-9
    assert 0.09 < found["proxy_latency_seconds", "engine=olla", "quantile=0.5"] < 0.11
    assert 0.19 < found["proxy_latency_seconds", "engine=olla", "quantile=0.99"] < 0.21


def test_without_requests_a_quantile_is_left_out_instead_of_being_not_a_number():
    found, _ = samples([snapshot("olla")], [], [])
    assert not [key for key in found if "quantile=0.5" in key]
    assert found["proxy_latency_seconds_count", "engine=olla"] == 0


def test_each_endpoint_has_its_own_series():
    found, types = samples([snapshot("olla", requests=3)], [], [])
    assert found["proxy_endpoint_requests_total", "endpoint=gpu-1", "engine=olla"] == 3
    assert found["proxy_endpoint_active", "endpoint=gpu-1", "engine=olla"] == 0
    assert types["proxy_endpoint_active"] == "gauge"


def test_workers_of_one_engine_are_added_up_and_a_canarys_stand_apart():
    snapshots = [snapshot("olla", requests=1), snapshot("olla", requests=2), snapshot("sherpa", requests=4)]
    assert list(merged_by_engine(snapshots)) == ["olla", "sherpa"]
    found, _ = samples(snapshots, [], [])
    assert found["proxy_requests_total", "engine=olla"] == 3
    assert found["proxy_requests_total", "engine=sherpa"] == 4


def test_health_breakers_and_pools_are_shown_for_each_worker():
    state = {"healthy": True, "circuit_breaker": {"state": "half-open"}, "pool": {"open": 3, "idle": 1, "waiting": 2}}
    workers = [
        {"worker": 0, "engine": "olla", "endpoints": {"a": state}},
        {"worker": 1, "engine": "sherpa", "endpoints": {"a": {"healthy": False}}},
        {"worker": 2, "engine": "olla", "answering": False},
    ]
    found, _ = samples([], workers, [])
    assert found["proxy_endpoint_healthy", "endpoint=a", "engine=olla", "worker=0"] == 1
    assert found["proxy_endpoint_healthy", "endpoint=a", "engine=sherpa", "worker=1"] == 0
    states = {key[3]: value for key, value in found.items() if key[0] == "proxy_circuit_breaker_state"}
    assert states == {"state=closed": 0, "state=half-open": 1, "state=open": 0}
    assert found["proxy_pool_connections_waiting", "endpoint=a", "engine=olla", "worker=0"] == 2


def test_memory_pauses_and_stalls_are_shown_for_each_worker_in_base_units():
    found, types = samples([], [], [runtime(0), runtime(1, "sherpa", recorders=False)])
    assert found["proxy_resident_memory_bytes", "engine=olla", "worker=0"] == 1000
    assert found["proxy_gc_collections_total", "engine=olla", "generation=2", "worker=0"] == 3
    assert found["proxy_gc_pause_seconds_total", "engine=olla", "generation=2", "worker=0"] == 2.0
    assert found["proxy_loop_stalls_total", "cause=off-cpu", "engine=olla", "worker=0"] == 0
    assert types["proxy_gc_longest_pause_seconds"] == "gauge"
    # With the recorders off there is nothing to say, and a 0 would be a lie.
    assert not [key for key in found if "engine=sherpa" in key and key[0].startswith("proxy_gc")]


def test_no_family_is_announced_without_a_series():
    families = list(text_string_to_metric_families(asyncio.run(render([], [], [])).decode()))
    assert families == []


def test_many_endpoints_are_rendered_in_slices_between_which_the_loop_runs():
    endpoints = {f"e{i}": {"healthy": True} for i in range(3 * SLICE + 1)}
    turns = []

    async def main():
        async def other_work():
            while True:
                turns.append(True)
                await asyncio.sleep(0)

        other = asyncio.ensure_future(other_work())
        text = await render([], [{"worker": 0, "engine": "olla", "endpoints": endpoints}], [])
        other.cancel()
        return text.decode()

    text = asyncio.run(main())
    (family,) = text_string_to_metric_families(text)
    assert {s.labels["endpoint"] for s in family.samples} == endpoints.keys()
    assert text.count("# TYPE") == text.count("# HELP") == 1
    assert len(turns) >= 4
