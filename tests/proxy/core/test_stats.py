"""The accounting identity, the histogram's error, and adding up over workers."""

import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.endpoint import Endpoint, EndpointSpec
from proxy.core.stats import Snapshot, StatsCollector, is_counter, merge

ENDINGS = ("success", "failed", "client_disconnected")


def identity(snapshot):
    counts = snapshot.counts
    ended = sum(counts[f"proxy.requests.{ending}"] for ending in ENDINGS)
    return counts["proxy.requests.total"] == ended + counts["proxy.active_connections"]


def collected(events):
    """A collector and its endpoint after `events`: None starts a request, a word ends one."""
    stats, endpoint = StatsCollector(), Endpoint(EndpointSpec("a", "http", "h", 80))
    for event in events:
        if event is None:
            stats.record_request()
            endpoint.begin()
        elif stats.active:
            endpoint.active -= 1
            if event == "success":
                stats.record_success(0.01, 200)
                endpoint.record_success(200)
            elif event == "failed":
                stats.record_failure(0.01)
                endpoint.failed += 1
            else:
                stats.record_client_disconnected()
                endpoint.client_disconnected += 1
        yield stats, endpoint


events = st.lists(st.sampled_from([None, None, None, *ENDINGS]), max_size=60)


@given(events)
def test_total_is_success_failed_disconnected_and_active_at_every_moment(steps):
    for stats, endpoint in collected(steps):
        assert identity(stats.snapshot("olla", [endpoint]))
        assert endpoint.requests == endpoint.success + endpoint.failed + endpoint.client_disconnected + endpoint.active


@given(st.lists(events, min_size=1, max_size=4), st.booleans())
def test_the_identity_survives_adding_up_workers_and_retiring_one(workers, retire):
    snapshots = []
    for steps in workers:
        stats, endpoint = StatsCollector(), Endpoint(EndpointSpec("a", "http", "h", 80))
        for stats, endpoint in collected(steps):  # noqa: B007  # the last state is what is wanted
            pass
        snapshots.append(stats.snapshot("olla", [endpoint], {"proxy.pool.buffer.active": 2}))
    if retire:
        dead = snapshots[0] = snapshots[0].final()
        assert dead.counts["proxy.active_connections"] == 0
        assert dead.counts["proxy.pool.buffer.active"] == 0
    whole = merge(snapshots)
    assert identity(whole)
    for name in ("total", *ENDINGS):
        key = f"proxy.requests.{name}"
        assert whole.counts[key] == sum(s.counts[key] for s in snapshots)
    row = whole.endpoints["a"]
    assert row["requests"] == sum(row[ending] for ending in ENDINGS) + row["active"]


@given(st.lists(st.floats(1e-6, 5000), min_size=1, max_size=80), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_percentile_is_within_five_percent_of_the_exact_one(seconds, q):
    stats = StatsCollector()
    for value in seconds:
        stats.record_latency(value)
    exact = sorted(seconds)[max(ceil(q * len(seconds)), 1) - 1]
    assert stats.snapshot("olla", []).percentile(q) == pytest.approx(exact, rel=0.025)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 10_000.0, 1e9])
def test_what_is_shorter_or_longer_than_the_histogram_is_counted_at_its_end(seconds):
    stats = StatsCollector()
    stats.record_latency(seconds)
    assert sum(stats.latency_counts) == 1


def test_without_requests_there_is_no_percentile():
    assert StatsCollector().snapshot("olla", []).percentile(0.5) is None


def test_the_seeds_names_are_the_json_names():
    shown = StatsCollector().snapshot("olla", [], {"proxy.circuit_breaker.open": 0}).as_json()
    assert {
        "proxy.requests.total",
        "proxy.requests.success",
        "proxy.requests.failed",
        "proxy.latency.p50",
        "proxy.latency.p95",
        "proxy.latency.p99",
        "proxy.active_connections",
        "proxy.circuit_breaker.open",
    } <= shown.keys()


def test_a_forwarded_5xx_is_a_success_that_is_counted_beside():
    stats, endpoint = StatsCollector(), Endpoint(EndpointSpec("a", "http", "h", 80))
    stats.record_request()
    stats.record_success(0.1, 503)
    endpoint.record_success(503)
    counts = stats.snapshot("olla", [endpoint]).counts
    assert (counts["proxy.requests.success"], counts["proxy.upstream.5xx"], endpoint.upstream_5xx) == (1, 1, 1)


def test_a_refused_head_is_outside_the_identity():
    stats = StatsCollector()
    stats.record_refused()
    snapshot = stats.snapshot("olla", [])
    assert snapshot.counts["proxy.requests.refused"] == 1
    assert snapshot.counts["proxy.requests.total"] == 0


def test_a_snapshot_survives_the_wire():
    stats, endpoint = StatsCollector(), Endpoint(EndpointSpec("a", "http", "h", 80))
    stats.record_request()
    endpoint.begin()
    stats.record_success(0.25, 200)
    endpoint.record_success(200)
    snapshot = stats.snapshot("sherpa", [endpoint], {"proxy.pool.buffer.created": 3})
    assert Snapshot.from_wire(json.loads(json.dumps(snapshot.as_wire()))) == snapshot


def test_a_snapshot_is_a_copy():
    stats = StatsCollector()
    before = stats.snapshot("olla", [])
    stats.record_request()
    assert before.counts["proxy.requests.total"] == 0


def test_engines_that_differ_are_named_together():
    assert merge([Snapshot("sherpa", {}), Snapshot("olla", {}), Snapshot("olla", {})]).engine == "olla+sherpa"


def test_what_only_grows_is_a_counter_and_the_rest_are_gauges():
    assert is_counter("proxy.requests.failed")
    assert is_counter("proxy.pool.buffer.created")
    assert not is_counter("proxy.pool.buffer.active")
    assert not is_counter("proxy.active_connections")
