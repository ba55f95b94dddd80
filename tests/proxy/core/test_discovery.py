"""Which endpoints there are and which may be asked."""

from dataclasses import replace

import pytest
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
    for endpoint in discovery.endpoints:
        discovery.check_ended(endpoint)
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


def test_an_endpoint_is_its_address_a_reload_that_leaves_it_keeps_object_health_and_counts():
    discovery = DiscoveryService([A, B], now=0)
    a, b = discovery.endpoints
    a.requests = 7
    for _ in range(2):
        discovery.record_check(a, False)
    changed = replace(A, priority=5, health_interval=60, max_conns=3, tls_verify=False)
    discovery.update([B, changed, C], now=1)
    assert names(discovery.endpoints) == ["b", "a", "c"]
    assert discovery.endpoints[:2] == (b, a)
    assert (a.requests, a.healthy, a.spec) == (7, False, changed)
    assert names(discovery.routable) == ["b", "c"]


@pytest.mark.parametrize("other", [{"scheme": "https"}, {"host": "z"}, {"port": 81}, {"prefix": "/v1"}])
def test_another_address_is_another_endpoint(other):
    discovery = DiscoveryService([A], now=0)
    (a,) = discovery.endpoints
    discovery.update([replace(A, **other)], now=1)
    assert discovery.endpoints[0] is not a


def test_a_renamed_endpoint_goes_on_and_two_at_one_address_stay_apart():
    twin = replace(A, name="twin")
    discovery = DiscoveryService([A, twin], now=0)
    first, second = discovery.endpoints
    discovery.update([replace(A, name="new"), twin], now=1)
    assert discovery.endpoints == (first, second)
    assert names(discovery.endpoints) == ["new", "twin"]
    discovery.update([twin, replace(A, name="new"), replace(A, name="third")], now=2)
    assert discovery.endpoints[:2] == (second, first)
    assert discovery.endpoints[2] not in (first, second)


def test_an_unhealthy_endpoint_whose_checks_are_switched_off_may_be_asked_again():
    discovery = DiscoveryService([A], now=0)
    for _ in range(2):
        discovery.record_check(discovery.endpoints[0], False)
    discovery.update([replace(A, health_enabled=False)], now=1)
    assert names(discovery.routable) == ["a"]


def test_new_settings_of_checks_are_tried_at_once_and_other_changes_leave_the_schedule():
    discovery = DiscoveryService([A, B], now=0)
    for endpoint in discovery.due(0):
        discovery.check_ended(endpoint)
    discovery.update([replace(A, priority=1), replace(B, health_interval=7)], now=1)
    assert names(discovery.due(1)) == ["b"]


def test_a_failure_during_a_check_has_its_own_check_when_that_one_ends():
    discovery = DiscoveryService([A], now=0)
    (a,) = discovery.due(0)
    discovery.report_failure(a, now=1)
    assert not discovery.due(1)
    assert discovery.next_due() is None
    discovery.check_ended(a)
    assert discovery.due(1) == [a]


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
