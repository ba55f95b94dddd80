"""Which of the candidates is picked."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.balancing import (
    BALANCERS,
    BUSY,
    FAILURE_MEMORY,
    NEVER_BUSY,
    SAMPLE_ABOVE,
    ConsistentHash,
    LeastConnections,
    Priority,
    RoundRobin,
    load,
    make_balancer,
)
from proxy.core.endpoint import Endpoint, EndpointSpec

NOW = 1000.0


def endpoints(*active, priorities=None):
    made = []
    for i, n in enumerate(active):
        endpoint = Endpoint(EndpointSpec(f"e{i}", "http", "h", 80 + i, priority=priorities[i] if priorities else 100))
        endpoint.active = n
        made.append(endpoint)
    return made


def test_the_seeds_names_and_consistent_hash_are_the_known_balancers():
    assert {name: type(make_balancer(name)) for name in BALANCERS} == {
        "consistent-hash": ConsistentHash,
        "least-connections": LeastConnections,
        "priority": Priority,
        "round-robin": RoundRobin,
    }


@given(st.integers(1, 40), st.integers(1, 200))
def test_round_robin_gives_everyone_the_same_share_to_within_one(count, picks):
    candidates = endpoints(*[0] * count)
    balancer = RoundRobin()
    shares = Counter(balancer.pick(candidates, NOW).name for _ in range(picks))
    assert max(shares.values()) - min(shares.get(e.name, 0) for e in candidates) <= 1


def test_round_robin_goes_in_configured_order_from_the_first():
    candidates = endpoints(0, 0, 0)
    balancer = RoundRobin()
    assert [balancer.pick(candidates, NOW).name for _ in range(5)] == ["e0", "e1", "e2", "e0", "e1"]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_priority_picks_only_the_highest_and_rotates_among_equals(priorities):
    candidates = endpoints(*[0] * len(priorities), priorities=priorities)
    best = {e.name for e in candidates if e.spec.priority == max(priorities)}
    balancer = Priority()
    picked = [balancer.pick(candidates, NOW).name for _ in range(len(best) * 3)]
    assert Counter(picked) == Counter(dict.fromkeys(best, 3))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=SAMPLE_ABOVE), st.integers(0, 40))
def test_least_connections_picks_one_with_the_fewest_wherever_its_turn_is(active, before):
    candidates = endpoints(*active)
    balancer = LeastConnections()
    for _ in range(before):
        balancer.pick(candidates, NOW)
    assert balancer.pick(candidates, NOW).active == min(active)


@pytest.mark.parametrize("active", [0, 3])
@pytest.mark.parametrize("count", [2, 3, 7, SAMPLE_ABOVE])
def test_least_connections_rotates_ties(active, count):
    candidates = endpoints(*[active] * count)
    balancer = LeastConnections()
    assert Counter(balancer.pick(candidates, NOW).name for _ in range(count * 4)) == Counter(
        {e.name: 4 for e in candidates}
    )


def test_least_connections_goes_through_ties_in_configured_order():
    candidates = endpoints(3, 3, 3)
    balancer = LeastConnections()
    first, *following = (candidates.index(balancer.pick(candidates, NOW)) for _ in range(7))
    assert following == [(first + turns) % 3 for turns in range(1, 7)]


def test_of_the_least_busy_the_one_whose_turn_it_is_is_picked_or_the_next_behind_it():
    candidates = endpoints(2, 1, 1, 2)
    balancer = LeastConnections()  # e1 has the first turn
    assert [balancer.pick(candidates, NOW).name for _ in range(4)] == ["e1", "e2", "e1", "e1"]


def test_least_connections_fills_all_endpoints_evenly():
    candidates = endpoints(*[0] * 5)
    balancer = LeastConnections()
    for _ in range(53):
        balancer.pick(candidates, NOW).active += 1
    assert sorted(e.active for e in candidates) == [10, 10, 11, 11, 11]


@given(st.integers(0, 2**32))
def test_above_the_sampling_limit_the_better_of_two_is_picked_and_never_the_single_worst(seed):
    candidates = endpoints(*range(SAMPLE_ABOVE + 1))
    balancer = LeastConnections(Random(seed))
    assert all(balancer.pick(candidates, NOW) is not candidates[-1] for _ in range(20))


def test_above_the_sampling_limit_a_pick_looks_at_two_and_not_at_all():
    candidates = endpoints(*range(SAMPLE_ABOVE + 1))
    balancer = LeastConnections(Random(1))
    assert (
        len({balancer.pick(candidates, NOW).name for _ in range(50)}) > 5
    )  # a scan would find the idle one every time


def test_above_the_sampling_limit_load_stays_close_to_even():
    candidates = endpoints(*[0] * 40)
    balancer = LeastConnections(Random(7))
    for _ in range(4000):
        balancer.pick(candidates, NOW).active += 1
    loads = [e.active for e in candidates]
    assert max(loads) - min(loads) <= 8  # one random choice would spread by about 60


@pytest.mark.parametrize("name", BALANCERS)
def test_every_balancer_follows_a_list_that_changes_between_picks(name):
    balancer = make_balancer(name)
    everyone = endpoints(*[1] * 20)
    for count in (20, 3, 1, 17, 2, 16):
        assert balancer.pick(everyone[:count], NOW) in everyone[:count]


# -- consistent hashing

KEYS = [b"session %d" % i for i in range(600)]


def homes(candidates):
    """Which candidate each of KEYS goes to, while nothing is in flight."""
    return {key: ConsistentHash().pick(candidates, NOW, key).name for key in KEYS}


@given(st.binary(min_size=1, max_size=64), st.integers(1, 12), st.randoms(use_true_random=False))
def test_a_key_has_one_home_whatever_the_order_of_the_candidates_and_whoever_picks(key, count, random):
    candidates = endpoints(*[0] * count)
    home = ConsistentHash().pick(candidates, NOW, key)
    random.shuffle(candidates)
    assert ConsistentHash().pick(candidates, NOW, key) is home


def test_a_key_keeps_its_home_from_one_release_to_the_next():
    """These were seen in an earlier one: beside each other, or one after the other, all must send a session alike."""
    homes_seen = ["e0", "e0", "e0", "e2", "e1", "e2", "e0", "e0", "e1", "e0", "e2", "e1"]
    assert [homes(endpoints(0, 0, 0))[key] for key in KEYS[: len(homes_seen)]] == homes_seen


def test_keys_spread_evenly():
    shares = Counter(homes(endpoints(0, 0, 0)).values())
    assert all(150 < shares[name] < 250 for name in ("e0", "e1", "e2")), shares


def test_an_endpoint_that_is_out_moves_its_own_keys_only_and_spreads_them_over_the_others():
    everyone = endpoints(0, 0, 0, 0)
    before, after = homes(everyone), homes(everyone[:1] + everyone[2:])
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {"e1"}
    assert {after[key] for key in moved} == {"e0", "e2", "e3"}


def test_an_endpoint_that_is_renamed_keeps_its_keys():
    (old, other), (new, _) = endpoints(0, 0), endpoints(0, 0)
    new.configure(EndpointSpec("renamed", "http", "h", 80))
    mine = [key for key, home in homes([old, other]).items() if home == "e0"]
    assert mine
    assert all(ConsistentHash().pick([new, other], NOW, key) is new for key in mine)


def test_without_a_key_the_least_busy_endpoint_is_picked():
    candidates = endpoints(3, 1, 2)
    assert ConsistentHash().pick(candidates, NOW).name == "e1"


def test_without_a_key_an_endpoint_that_failed_lately_counts_as_busier():
    failed, other = endpoints(0, 0)
    failed.record_failure(NOW)
    balancer = ConsistentHash()
    assert {balancer.pick([failed, other], NOW).name for _ in range(4)} == {"e1"}
    other.active = 1
    assert {balancer.pick([failed, other], NOW + FAILURE_MEMORY).name for _ in range(4)} == {"e0"}


def test_a_home_at_its_bound_gets_no_more_and_just_below_it_does():
    home, other = endpoints(0, 0)
    key = next(key for key in KEYS if ConsistentHash().pick([home, other], NOW, key) is home)
    other.active = 3
    for active, stays in ((11, True), (12, False)):  # 1.5 * (12 + 3 + the new one) / 2 = 12
        home.active = active
        assert (ConsistentHash().pick([home, other], NOW, key) is home) == stays


@given(st.lists(st.integers(0, 60), min_size=1, max_size=10), st.binary(min_size=1, max_size=8))
def test_a_key_stays_at_home_until_its_home_is_too_busy(active, key):
    candidates = endpoints(*active)
    idle = endpoints(*[0] * len(active))
    home = candidates[idle.index(ConsistentHash().pick(idle, NOW, key))]
    picked = ConsistentHash().pick(candidates, NOW, key)
    bound = max(NEVER_BUSY, BUSY * (sum(active) + 1) / len(active))
    assert picked.active < bound
    assert (picked is home) == (home.active < bound)


def test_an_endpoint_that_fails_at_once_loses_its_keys_for_a_while():
    candidates = endpoints(0, 0, 0)
    home = ConsistentHash().pick(candidates, NOW, b"a session")
    for _ in range(NEVER_BUSY):
        home.record_failure(NOW)
    assert ConsistentHash().pick(candidates, NOW, b"a session") is not home
    assert ConsistentHash().pick(candidates, NOW + FAILURE_MEMORY, b"a session") is home


# -- failures count as load


def test_an_endpoint_that_failed_is_left_alone_until_the_others_are_as_busy():
    failed, other = endpoints(0, 0)
    failed.record_failure(NOW)
    balancer = LeastConnections()
    assert [balancer.pick([failed, other], NOW).name for _ in range(4)] == ["e1"] * 4
    other.active = 2
    assert balancer.pick([failed, other], NOW) is failed


def test_a_failure_is_forgotten_when_its_time_is_over_and_not_before():
    (endpoint,) = endpoints(3)
    endpoint.record_failure(NOW)
    endpoint.record_failure(NOW + 1)
    assert load(endpoint, NOW + FAILURE_MEMORY - 0.01) == 5
    assert load(endpoint, NOW + FAILURE_MEMORY) == 4
    assert load(endpoint, NOW + FAILURE_MEMORY + 1) == 3


@given(st.lists(st.floats(0, 30), max_size=30), st.floats(0, 60))
def test_load_is_what_is_in_flight_and_what_failed_lately(failures, now):
    (endpoint,) = endpoints(2)
    for at in sorted(failures):
        endpoint.record_failure(at)
    assert load(endpoint, now) == 2 + sum(at > now - FAILURE_MEMORY for at in failures)


@pytest.mark.parametrize("others", [1, SAMPLE_ABOVE])
def test_the_endpoint_that_fails_at_once_gets_few_of_many_requests(others):
    """An endpoint that fails is never in flight for long: by connections alone it would look idle for ever."""
    failing, *good = candidates = endpoints(*[0] * (1 + others))
    balancer = LeastConnections(Random(3))
    running = []
    failed = 0
    for request in range(400):
        now = NOW + request * 0.05
        while running and running[0][0] <= now:
            running.pop(0)[1].active -= 1
        picked = balancer.pick(candidates, now)
        if picked is failing:
            failed += 1
            failing.record_failure(now)
        else:
            picked.active += 1
            running.append((now + 0.5, picked))  # ten in flight at any time
    assert failed <= 400 / (1 + others) / 2, "less than half of its share"
    assert all(e.active for e in good[:1])
