"""Which endpoints there are and which may be asked."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import EndpointSpec

A, B, C = (EndpointSpec(name, "http", name, 80, health_interval=5, unhealthy_after=2) for name in "abc")


def names(endpoints):
    return [e.name for e in endpoints]


def test_every_endpoint_starts_healthy_in_configured_order():
    discovery = DiscoveryService([B, A, C], now=0)
    assert names(discovery.endpoints) == names(discovery.routable) == ["b", "a", "c"]


def test_failed_checks_take_an_endpoint_out_and_a_good_one_puts_it_back_in_its_place():
    discovery = DiscoveryService([A, B, C], now=0)
    b = discovery.endpoints[1]
    assert [discovery.record_check(b, False) for _ in range(2)] == [False, True]
    assert names(discovery.routable) == ["a", "c"]
    assert discovery.record_check(b, True)
    assert names(discovery.routable) == ["a", "b", "c"]


def test_a_passive_failure_decides_nothing_but_brings_the_check_forward():
    discovery = DiscoveryService([A, B], now=0)
    heard = []
    discovery.on_hurry(lambda: heard.append(True))
    assert names(discovery.due(0)) == ["a", "b"]
    assert discovery.next_due() == 2.5
    discovery.report_failure(discovery.endpoints[0], now=1)
    assert discovery.endpoints[0] in discovery.routable
    assert discovery.next_due() == 1
    assert heard == [True]
    discovery.report_failure(discovery.endpoints[0], now=1)
    assert heard == [True]  # nothing new to hear
    assert names(discovery.due(1)) == ["a"]


def test_endpoints_without_checks_are_never_due_and_stay_in():
    discovery = DiscoveryService([replace(A, health_enabled=False)], now=0)
    assert discovery.next_due() is None
    discovery.report_failure(discovery.endpoints[0], now=1)
    assert not discovery.due(100)
    assert names(discovery.routable) == ["a"]


def test_a_reload_keeps_the_object_health_and_counts_of_what_did_not_change():
    discovery = DiscoveryService([A, B], now=0)
    a, b = discovery.endpoints
    a.requests = 7
    for _ in range(2):
        discovery.record_check(b, False)
    discovery.update([B, replace(A, priority=5), C], now=1)
    assert names(discovery.endpoints) == ["b", "a", "c"]
    assert discovery.endpoints[0] is b
    assert not b.healthy
    assert discovery.endpoints[1] is not a
    assert names(discovery.routable) == ["a", "c"]


def test_a_check_that_ends_after_its_endpoint_was_removed_changes_nothing():
    discovery = DiscoveryService([A, B], now=0)
    gone = discovery.endpoints[0]
    discovery.update([B], now=1)
    assert not discovery.record_check(gone, False)
    discovery.report_failure(gone, now=2)
    assert names(discovery.routable) == ["b"]


def test_listeners_hear_of_each_change_of_who_may_be_asked():
    discovery = DiscoveryService([A], now=0)
    changes = []
    discovery.on_change(lambda: changes.append(names(discovery.routable)))
    discovery.record_check(discovery.endpoints[0], False)
    discovery.record_check(discovery.endpoints[0], False)
    discovery.update([A, B], now=1)
    assert changes == [[], ["b"]]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("check"), st.sampled_from("abc"), st.booleans()),
            st.tuples(st.just("update"), st.sets(st.sampled_from("abc"), min_size=1), st.none()),
        ),
        max_size=40,
    )
)
def test_routable_is_always_the_healthy_endpoints_in_configured_order(steps):
    specs = {"a": A, "b": B, "c": C}
    discovery = DiscoveryService([A, B, C], now=0)
    for now, (step, what, ok) in enumerate(steps):
        if step == "update":
            discovery.update([specs[name] for name in sorted(what)], now)
        else:
            for endpoint in discovery.endpoints:
                if endpoint.name == what:
                    discovery.record_check(endpoint, ok)
        assert discovery.routable == tuple(e for e in discovery.endpoints if e.healthy)
        assert all(discovery.health_of(e).healthy == e.healthy for e in discovery.endpoints)
