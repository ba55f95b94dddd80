"""Which endpoint a request goes to."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract.peers import Endpoint, Peer, answering
from tests.contract.running import ThreadProxy


def visits(proxy: ThreadProxy, count: int) -> str:
    """The names of the endpoints that served `count` requests, in order."""
    with proxy.client() as client:
        return "".join(str(client.get().response().get("X-Olla-Endpoint")) for _ in range(count))


@pytest.mark.promise("SEL-PRIORITY")
@pytest.mark.one_worker
def test_priority_takes_the_highest_number_and_rotates_among_equals(start, endpoints):
    a, b, c = endpoints(3)
    for endpoint in (a, b, c):
        endpoint.serve(answering())
    ranked = [{"name": e.name, "url": e.url, "priority": p} for e, p in ((a, 10), (b, 200), (c, 200))]
    proxy = start(*ranked, proxy__load_balancer="priority")
    assert visits(proxy, 6) in ("bcbcbc", "cbcbcb")


@pytest.mark.promise("SEL-PRIORITY")
def test_priority_falls_back_to_the_next_rank_when_the_first_cannot_be_reached(start, endpoints):
    a, b = endpoints(2)
    a.serve(answering())
    b.close()
    proxy = start(
        {"name": "a", "url": a.url, "priority": 1},
        {"name": "b", "url": b.url, "priority": 2},
        proxy__load_balancer="priority",
    )
    assert visits(proxy, 2) == "aa"


@pytest.mark.promise("SEL-ROUND-ROBIN")
@pytest.mark.one_worker
def test_round_robin_follows_the_configured_order(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="round-robin")
    assert visits(proxy, 7) in ("abcabca", "bcabcab", "cabcabc")


@pytest.mark.promise("SEL-LEAST-CONNECTIONS")
@pytest.mark.one_worker
def test_least_connections_avoids_the_busy_endpoint(start, endpoints):
    a, b = endpoints(2)
    proxy = start(a, b, proxy__load_balancer="least-connections")
    with proxy.client() as first, proxy.client() as second, proxy.client() as third:
        held: list[Endpoint] = []
        for client in (first, second):
            client.get()
            free = [e for e in (a, b) if e not in held]
            for endpoint in free:
                try:
                    peer = endpoint.accept(within=0.5)
                except Exception:
                    continue
                peer.request()
                held.append(endpoint)
                break
        assert {e.name for e in held} == {"a", "b"}, "two requests in flight are on two endpoints"
        peer.respond()
        second.response()
        third.get()
        peer.request()  # the endpoint that is free again, over the connection that it kept
        peer.respond()
        assert third.response().get("X-Olla-Endpoint") == held[1].name


@pytest.mark.promise("SEL-LEAST-CONNECTIONS")
@pytest.mark.one_worker
def test_least_connections_rotates_ties(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="least-connections")
    assert Counter(visits(proxy, 9)) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.promise("SEL-NONE-LEFT")
@pytest.mark.one_worker
def test_without_a_healthy_endpoint_the_answer_is_503_with_retry_after(start, endpoint):
    proxy = start(endpoint)
    proxy.do(lambda: [proxy.discovery.record_check(proxy.discovery.endpoints[0], ok=False) for _ in range(3)])
    with proxy.client() as client:
        answer = client.get().response()
    assert answer.status == 503
    assert int(answer.get("Retry-After")) > 0
    assert b'"no_endpoint"' in answer.body
    assert endpoint.untouched()


@pytest.mark.promise("SEL-HEALTHY-ONLY")
@pytest.mark.one_worker
def test_an_unhealthy_endpoint_is_left_out_until_it_is_healthy_again(start, endpoints):
    a, b = endpoints(2)
    for endpoint in (a, b):
        endpoint.serve(answering())
    proxy = start(a, b, proxy__load_balancer="round-robin")
    sick = proxy.discovery.endpoints[0]
    proxy.do(lambda: [proxy.discovery.record_check(sick, ok=False) for _ in range(3)])
    assert visits(proxy, 4) == "bbbb"
    proxy.do(lambda: proxy.discovery.record_check(sick, ok=True))
    assert Counter(visits(proxy, 4)) == {"a": 2, "b": 2}


@pytest.mark.promise("SEL-FAILED-LATELY")
@pytest.mark.one_worker
@pytest.mark.parametrize("failure", ["status", "close"])
def test_least_connections_does_not_prefer_the_endpoint_that_fails_at_once(start, endpoints, failure):
    """By connections alone it is never busy, and would get nearly everything."""
    bad, good = endpoints(2)
    served = Counter()

    def fail(peer: Peer) -> None:
        peer.request()
        served["bad"] += 1
        if failure == "status":
            peer.respond(b"", status="500 Internal Server Error")
        else:
            peer.close()

    def work(peer: Peer) -> None:
        peer.request()
        served["good"] += 1
        time.sleep(0.1)
        peer.respond()

    bad.serve(fail)
    good.serve(work)
    proxy = start(bad, good, proxy__circuit_breaker={"enabled": False})

    def ask(_: int) -> None:
        with proxy.client() as client:
            for _ in range(10):
                client.post(b"x").response()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert sum(served.values()) == 80
    assert served["bad"] < 40


# -- sessions


def homes(proxy: ThreadProxy, sessions: range, name: str = "X-Session-ID") -> dict[int, str]:
    """Which endpoint serves each session, all asked over one connection: their heads differ in digits only."""
    with proxy.client() as client:
        return {s: str(client.get("/", f"{name}: {s:04}").response().get("X-Olla-Endpoint")) for s in sessions}


@pytest.mark.promise("SEL-CONSISTENT-HASH")
def test_the_requests_of_a_session_go_to_one_endpoint_over_whatever_connection(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="consistent-hash")
    first = homes(proxy, range(60))
    assert set(first.values()) == {"a", "b", "c"}, "a remembered head would send all of them to one"
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: homes(proxy, range(60)), range(4)))
    assert again == [first] * 4


@pytest.mark.promise("SEL-CONSISTENT-HASH")
@pytest.mark.one_worker
def test_without_a_session_requests_go_where_least_is_in_flight(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="consistent-hash")
    assert Counter(visits(proxy, 9)) == {"a": 3, "b": 3, "c": 3}
    assert Counter(homes(proxy, range(9), name="X-Other").values()) == {"a": 3, "b": 3, "c": 3}


@pytest.mark.promise("SEL-CONSISTENT-HASH")
@pytest.mark.one_worker
def test_a_reload_changes_the_field_that_names_the_session(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="consistent-hash")
    by_default = homes(proxy, range(20))
    proxy.reload(named, {"proxy.load_balancer": "consistent-hash", "proxy.hash_header": "X-Conversation"})
    assert homes(proxy, range(20), name="x-conversation") == by_default
    assert homes(proxy, range(20)) != by_default, "now they have no session"


@pytest.mark.promise("SEL-HASH-MOVES")
@pytest.mark.one_worker
def test_sessions_of_an_unhealthy_endpoint_move_and_come_back_and_no_other_does(start, endpoints):
    named = endpoints(3)
    for endpoint in named:
        endpoint.serve(answering())
    proxy = start(*named, proxy__load_balancer="consistent-hash")
    before = homes(proxy, range(40))
    sick = proxy.discovery.endpoints[0]
    proxy.do(lambda: [proxy.discovery.record_check(sick, ok=False) for _ in range(3)])
    meanwhile = homes(proxy, range(40))
    assert {before[s] for s in before if before[s] != meanwhile[s]} == {"a"}
    assert set(meanwhile.values()) == {"b", "c"}
    proxy.do(lambda: proxy.discovery.record_check(sick, ok=True))
    assert homes(proxy, range(40)) == before


@pytest.mark.promise("SEL-HASH-MOVES")
def test_a_session_whose_endpoint_cannot_be_reached_is_served_by_its_second_choice(start, endpoints):
    named = endpoints(3)
    for endpoint in named[1:]:
        endpoint.serve(answering())
    named[0].close()
    proxy = start(*named, proxy__load_balancer="consistent-hash")
    first = homes(proxy, range(20))
    assert set(first.values()) == {"b", "c"}
    assert homes(proxy, range(20)) == first
