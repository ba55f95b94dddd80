"""Endpoints by name: name servers that say nothing, addresses that do not answer, endpoints that move."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import namespace
from tests.contract.peers import PATIENCE, Endpoint, answering, full_backlog
from tests.contract.running import settled

CHECKED = {"enabled": True, "path": "/health", "interval": "100ms", "timeout": "100ms"}


class Resolver:
    """What the system would say, by name: addresses, an error, or (an Event) nothing before it is set."""

    def __init__(self) -> None:
        self.names: dict[str, list[str] | threading.Event] = {}
        self.asked: list[str] = []
        self.at_once: dict[str, int] = {}
        self.most: dict[str, int] = {}

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        """As socket.getaddrinfo."""
        self.asked.append(host)
        self.at_once[host] = self.at_once.get(host, 0) + 1
        self.most[host] = max(self.most.get(host, 0), self.at_once[host])
        try:
            known = self.names[host]
            if isinstance(known, threading.Event):
                known.wait(30)
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known]
        finally:
            self.at_once[host] -= 1


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Answers instead of the system, for engines that run in this process."""
    resolver = Resolver()
    system = socket.getaddrinfo

    def ask(host: Any, *args: Any, **kwargs: Any) -> Any:
        return resolver(host, *args, **kwargs) if host in resolver.names else system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield resolver
    for known in resolver.names.values():
        if isinstance(known, threading.Event):
            known.set()
    deadline = time.monotonic() + PATIENCE
    while any(resolver.at_once.values()) and time.monotonic() < deadline:
        time.sleep(0.005)


def named(endpoint: Endpoint, host: str, **more: Any) -> dict[str, Any]:
    """An endpoint as the config has it, by a name."""
    return {"name": endpoint.name, "url": f"http://{host}:{endpoint.port}", **more}


def port_on(*addresses: str) -> int:
    """A port that is free on all of these addresses."""
    while True:
        with socket.create_server((addresses[0], 0)) as first:
            port = int(first.getsockname()[1])
            try:
                for address in addresses[1:]:
                    socket.create_server((address, port)).close()
            except OSError:
                continue
            return port


@pytest.mark.promise("NAMES")
@pytest.mark.one_worker
def test_a_name_that_is_never_answered_costs_another_endpoint_nothing(start, endpoints, resolver):
    good, other = endpoints(2)
    resolver.names = {"good.test": ["127.0.0.1"], **{f"silent{i}.test": threading.Event() for i in range(8)}}
    good.serve(answering(b"ok"))
    silent = [named(other, f"silent{i}.test") | {"name": f"s{i}"} for i in range(8)]
    proxy = start(named(good, "good.test"), *silent, health=CHECKED, proxy__connect_timeout="300ms")
    deadline = time.monotonic() + PATIENCE
    while any(healthy for name, healthy in proxy.healthy().items() if name != good.name):
        assert time.monotonic() < deadline, proxy.healthy()
        time.sleep(0.02)
    for _ in range(20):
        time.sleep(0.05)
        assert proxy.healthy()[good.name]
        with proxy.client() as client:
            assert client.get().response().body == b"ok"
    assert max(resolver.most.values()) == 1, "one look-up in flight for a name"


@pytest.mark.promise("NAMES")
@pytest.mark.one_worker
def test_requests_for_a_silent_name_end_at_the_connect_timeout_with_one_look_up(start, endpoint, resolver):
    resolver.names = {"silent.test": threading.Event()}
    proxy = start(named(endpoint, "silent.test"), proxy__connect_timeout="300ms")
    began = time.monotonic()
    clients = [proxy.client() for _ in range(10)]
    for client in clients:
        client.post(b"x")
    assert {client.response().status for client in clients} == {504}
    assert time.monotonic() - began < 3
    for client in clients:
        client.close()
    assert resolver.asked == ["silent.test"]
    settled(proxy.stats, failed=10)


@pytest.mark.promise("NAMES")
@pytest.mark.one_worker
def test_a_name_that_nobody_knows_is_502_and_asked_for_again(start, endpoint, resolver):
    resolver.names = {"late.test": []}
    endpoint.serve(answering(b"there"))

    def unknown(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Resolver, "__call__", lambda self, *args, **kwargs: unknown(*args, **kwargs))
        proxy = start(named(endpoint, "late.test"))
        with proxy.client() as client:
            assert client.post(b"x").response().status == 502
    resolver.names = {"late.test": ["127.0.0.1"]}
    with proxy.client() as client:
        assert client.post(b"x").response().body == b"there"


@pytest.mark.promise("NAMES")
@pytest.mark.one_worker
def test_an_endpoint_that_moves_is_found_without_a_failure(start, resolver):
    """aiohttp keeps the addresses for ten seconds whatever happens to them."""
    port = port_on("127.0.0.2", "127.0.0.3")
    resolver.names = {"moves.test": ["127.0.0.2"]}
    with Endpoint("old", address=("127.0.0.2", port)) as old:
        old.serve(answering(b"old", "Connection: close"))
        proxy = start(named(old, "moves.test"))
        with proxy.client() as client:
            assert client.post(b"x").response().body == b"old"
    with Endpoint("new", address=("127.0.0.3", port)) as new:
        new.serve(answering(b"new"))
        resolver.names = {"moves.test": ["127.0.0.3"]}
        with proxy.client() as client:
            assert client.post(b"x").response().body == b"new"
    settled(proxy.stats, success=2, failed=0)


@pytest.mark.promise("NAMES")
@pytest.mark.one_worker
def test_a_known_name_is_not_asked_for_at_every_connection(start, endpoint, resolver):
    resolver.names = {"known.test": ["127.0.0.1"]}
    endpoint.serve(answering(b"ok", "Connection: close"))
    proxy = start(named(endpoint, "known.test"))
    for _ in range(5):
        with proxy.client() as client:
            assert client.get().response().body == b"ok"
    assert resolver.asked == ["known.test"]


@pytest.mark.promise("ADDRESSES")
@pytest.mark.one_worker
def test_of_two_addresses_the_one_that_answers_is_taken(start, resolver):
    """For traffic and for checks. A silent address first, as a broken IPv6 is."""
    with full_backlog() as port, Endpoint("a", address=("127.0.0.2", port)) as endpoint:
        endpoint.serve(answering(b"ok", "Connection: close"))
        resolver.names = {"both.test": ["127.0.0.1", "127.0.0.2"]}
        health = {**CHECKED, "timeout": "2s", "unhealthy_after": 1}
        proxy = start(named(endpoint, "both.test"), health=health, proxy__connect_timeout="2s")
        for _ in range(5):
            with proxy.client() as client:
                assert client.post(b"x").response().body == b"ok"
        assert proxy.healthy() == {"a": True}
        settled(proxy.stats, success=5)


@pytest.mark.promise("ADDRESSES")
@pytest.mark.promise("TIME-CONNECT")
@pytest.mark.one_worker
def test_the_connect_timeout_covers_all_addresses_together(start, endpoint, resolver):
    with full_backlog() as port:
        resolver.names = {"none.test": ["127.0.0.1"] * 5}
        proxy = start({"name": "a", "url": f"http://none.test:{port}"}, proxy__connect_timeout="500ms")
        began = time.monotonic()
        with proxy.client() as client:
            assert client.post(b"x").response().status == 504
        assert 0.4 < time.monotonic() - began < 3


# -- the same with the system's own resolver and network


@pytest.fixture
def network(tmp_path) -> Iterator[namespace.Network | None]:
    """The test's own network, None while it still runs outside."""
    if not namespace.inside():
        yield None
        return
    network = namespace.Network(tmp_path)
    yield network
    network.close()


def until(condition: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.own_network
def test_in_a_network_a_silent_name_server_leaves_the_other_endpoint_healthy(start, endpoints, network):
    """uvloop's own look-ups hold its four threads for ten seconds each; every check adds one."""
    good, other = endpoints(2)
    network.hosts(good_test=["127.0.0.1"])
    good.serve(answering(b"ok"))
    health = {"enabled": True, "path": "/health", "interval": "200ms", "timeout": "200ms"}
    proxy = start(named(good, "good.test"), named(other, "silent.test"), health=health, proxy__connect_timeout="500ms")
    until(lambda: not proxy.healthy()[other.name], PATIENCE)
    for _ in range(30):
        time.sleep(0.1)
        assert proxy.healthy()[good.name]
        with proxy.client() as client:
            assert client.get().response().body == b"ok"


@pytest.mark.own_network
def test_in_a_network_a_broken_ipv6_costs_a_fraction_of_a_second(start, endpoint, network):
    network.vanish()
    network.hosts(both_test=[network.VANISHING, "127.0.0.1"])
    endpoint.serve(answering(b"ok", "Connection: close"))
    health = {"enabled": True, "path": "/health", "interval": "100ms", "timeout": "2s", "unhealthy_after": 1}
    proxy = start(named(endpoint, "both.test"), health=health, proxy__connect_timeout="3s")
    for _ in range(5):
        with proxy.client() as client:
            assert client.post(b"x").response().body == b"ok"
        assert proxy.healthy() == {"a": True}
    settled(proxy.stats, success=5)


@pytest.mark.own_network
def test_in_a_network_an_endpoint_that_moves_is_found(start, network):
    port = port_on("127.0.0.2", "127.0.0.3")
    network.hosts(moves_test=["127.0.0.2"])
    with Endpoint("old", address=("127.0.0.2", port)) as old:
        old.serve(answering(b"old", "Connection: close"))
        proxy = start(named(old, "moves.test"))
        with proxy.client() as client:
            assert client.post(b"x").response().body == b"old"
    with Endpoint("new", address=("127.0.0.3", port)) as new:
        new.serve(answering(b"new"))
        network.hosts(moves_test=["127.0.0.3"])
        with proxy.client() as client:
            assert client.post(b"x").response().body == b"new"
