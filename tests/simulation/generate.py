"""A script of a seed: mostly ordinary traffic, close in time, with a share of all that goes wrong."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.simulation.script import Answer, Ask, Check, Client, Mode, Reload, Script

SHORT = (0.0, 0.0, 0.0005, 0.001, 0.002, 0.005)
LONG = (0.02, 0.1, 0.3, 0.7, 1.5, 4.0)
SMALL = (0, 1, 20, 60, 200, 900)
LARGE = (3_000, 9_000, 30_000, 90_000)
METHODS = ("GET", "GET", "GET", "POST", "POST", "POST", "HEAD", "PUT", "DELETE")
WITH_BODY = ("POST", "PUT")
BALANCERS = ("least-connections", "round-robin", "priority", "consistent-hash")


def _ms(random: Random, *choices: int) -> str:
    return f"{random.choice(choices)}ms"


def make_script(seed: int, asks: int = 120) -> Script:
    """The script of that seed, with about so many requests."""
    random = Random(seed)
    names = ["a", "b", "c", "d"][: random.choice((1, 2, 2, 3, 4))]
    rough = random.random() < 0.8  # else everybody behaves
    span = random.choice((0.3, 1.0, 3.0))
    stormy = rough and random.random() < 0.3  # and endpoints often fail at once, or take longer than a breaker waits
    clients = _clients(random, asks, span, rough)
    if stormy:
        _make_stormy(random, clients)
    config = _config(random)
    if random.random() < 0.05:
        names = ["a", "b"]
        _make_fail_over(random, config, clients)
    return Script(
        seed=seed,
        config=config,
        endpoints=names,
        clients=clients,
        modes=_modes(random, names, span) if rough else [],
        reloads=_reloads(random, names, span) if random.random() < 0.4 else [],
        checks=_checks(random, names, span) if random.random() < 0.3 else [],
        stop_at=random.uniform(0, span * 1.5) if random.random() < 0.5 else None,
        grace=random.choice((0.0, 0.1, 0.5, 3.0, 10.0)),
        polls_first=random.random() < 0.5,
        reads_on=random.random() < 0.5,
        high_water=random.choice((512, 4096, 65536)),
        kernel=random.choice((1000, 4096, 65536)),
        linger=random.choice((0, 1, 2, 5)),
    )


def _config(random: Random) -> dict[str, Any]:
    config = {
        "server.header_timeout": _ms(random, 300, 1000),
        "server.body_timeout": _ms(random, 300, 1000),
        "server.write_timeout": _ms(random, 500, 2000),
        "server.keep_alive_timeout": _ms(random, 500, 3000),
        "proxy.load_balancer": random.choice(BALANCERS),
        "proxy.max_conns_per_host": random.choice((0, 1, 2, 3, 8)),
        "proxy.max_idle_conns": random.choice((0, 1, 4, 100)),
        "proxy.idle_conn_timeout": _ms(random, 200, 2000),
        "proxy.circuit_breaker.enabled": random.random() < 0.8,
        "proxy.pools.contexts": random.random() < 0.9,
        "proxy.pools.buffers": random.random() < 0.2,
        "proxy.pools.per_endpoint": random.random() < 0.85,
        "proxy.pools.prewarm": random.choice((0, 0, 0, 2)),
        "proxy.flush.policy": random.choice(("adaptive", "adaptive", "every-read")),
        "proxy.flush.small": random.choice((16, 1024)),
        "proxy.buffer_size": random.choice((1024, 65536)),
        "proxy.max_replay_body": random.choice((0, 2000, 2**20)),
        "proxy.retry_non_idempotent": random.random() < 0.1,
        "proxy.retry.max_attempts": random.choice((0, 2, 3)),
        "proxy.retry.max_time": random.choice((0, "500ms", "10s")),
        "server.max_in_flight": random.choice((0, 0, 0, 10)),
        "server.max_body_size": random.choice(("100MiB", "50000B")),
        **_timeouts(random),
        **_breaker(random),
    }
    if random.random() < 0.25:
        config["proxy.max_duration"] = _ms(random, 300, 1000)
    return config


def _timeouts(random: Random) -> dict[str, Any]:
    return {
        "proxy.connect_timeout": _ms(random, 200, 500, 1000),
        "proxy.response_header_timeout": _ms(random, 300, 1000),
        "proxy.idle_timeout": _ms(random, 300, 1000),
        "proxy.pool_wait_timeout": random.choice((0, "200ms", "500ms", "1000ms")),
    }


def _breaker(random: Random) -> dict[str, Any]:
    return {
        "proxy.circuit_breaker.failure_threshold": random.choice((1, 2, 3, 5, 8)),
        "proxy.circuit_breaker.timeout": _ms(random, 100, 200, 500),
        "proxy.circuit_breaker.half_open_requests": random.choice((1, 2, 3)),
        "proxy.circuit_breaker.count_5xx": random.random() < 0.3,
    }


def _clients(random: Random, asks: int, span: float, rough: bool) -> list[Client]:
    clients: list[Client] = []
    burst = random.random() < 0.5
    while asks > 0:
        count = min(asks, random.choice((1, 1, 2, 3, 5, 10)))
        asks -= count
        name = f"c{len(clients)}"
        at = random.choice((0.0, 0.01, 0.3, 0.31)) if burst and random.random() < 0.5 else random.uniform(0, span)
        client = Client(name, random.getrandbits(32), at, [], pipelines=random.random() < 0.15)
        client.asks = [_ask(random, f"{name}.{i}", rough, client.pipelines) for i in range(count)]
        if rough and random.random() < 0.12:
            client.takes = random.choice((50, 500, 5000))
            client.every = random.choice((0.002, 0.05))
        elif rough and random.random() < 0.08:
            client.stops_after = random.choice((0, 100, 1000, 10000))
            client.stops_for = random.choice((*SHORT, *LONG))
        clients.append(client)
    return clients


def _ask(random: Random, tag: str, rough: bool, pipelines: bool) -> Ask:
    ask = Ask(tag, random.getrandbits(32), random.choice(METHODS))
    if ask.method in WITH_BODY:
        ask.framing = random.choice(("length", "length", "chunked"))
        ask.size = random.choice(SMALL if random.random() < 0.9 else LARGE)
    ask.think = random.choice(SHORT if random.random() < 0.95 else LONG)
    if random.random() < 0.3:
        ask.pieces = random.choice((2, 3, 8))
        ask.gap = random.choice(SHORT)
    ask.http10 = random.random() < 0.04 and ask.framing != "chunked" and not pipelines
    ask.expects = ask.framing != "none" and random.random() < 0.05
    ask.last = random.random() < 0.03 and not pipelines
    if rough:
        if random.random() < 0.02:
            ask.fault = random.choice(("bad-head", "bad-chunk", "stalls"))
            ask.pieces = max(ask.pieces, 2)
        if random.random() < 0.1:
            ask.leaves = random.choice(("fin", "rst", "half"))
            ask.leaves_after = random.choice(SHORT if random.random() < 0.7 else LONG)
    ask.answers = [_answer(random, rough) for _ in range(1 + (random.random() < 0.3))]
    return ask


def _answer(random: Random, rough: bool) -> Answer:
    answer = Answer(random.getrandbits(32))
    answer.delay = random.choice(SHORT if random.random() < 0.9 else LONG)
    answer.status = random.choices((200, 204, 404, 500, 503), (85, 4, 4, 4, 3))[0]
    answer.framing = random.choices(("length", "chunked", "close"), (50, 40, 10))[0]
    answer.size = random.choice(SMALL if random.random() < 0.93 else LARGE)
    if random.random() < 0.3:
        answer.pieces = random.choice((2, 3, 10))
        answer.gap = random.choice(SHORT if random.random() < 0.9 else (0.02, 0.1, 0.3))
    answer.interims = random.choices((0, 1, 20, 2000), (950, 30, 15, 5))[0]
    answer.keeps = random.random() < 0.95
    answer.early = random.random() < 0.05
    if random.random() < 0.15:
        answer.closes_after = random.choice((*SHORT, 0.01, 0.1))
    if not rough:
        return answer
    if random.random() < 0.12:
        answer.fault = random.choice(
            (
                "fin",
                "fin",
                "rst",
                "rst",
                "silence",
                "silence",
                "bad-head",
                "bad-chunk",
                "huge-head",
                "surplus",
                "upgrade",
            )
        )
        answer.at = random.choice((0, 0, 0, 1, 10, 60, 150, 400))
        if answer.fault == "fin" and answer.framing == "close":
            answer.fault = "rst"  # a FIN there would be the end of the answer
    if random.random() < 0.02:
        answer.reading_stops = random.choice(LONG)
    return answer


def _make_stormy(random: Random, clients: list[Client]) -> None:
    for client in clients:
        for ask in client.asks:
            for answer in ask.answers:
                if random.random() < 0.2:
                    answer.fault, answer.at = "rst", 0
                elif random.random() < 0.2:
                    answer.pieces, answer.gap = 4, random.choice((0.05, 0.1, 0.2))


def _make_fail_over(random: Random, config: dict[str, Any], clients: list[Client]) -> None:
    """Most first tries fail at once; second ones answer at another endpoint, for longer than a breaker waits."""
    config["proxy.circuit_breaker.enabled"] = True
    config["proxy.circuit_breaker.failure_threshold"] = random.choice((2, 3))
    config["proxy.circuit_breaker.timeout"] = "100ms"
    config["proxy.retry.max_attempts"] = 0
    for client in clients:
        for ask in client.asks:
            first = ask.answers[0]
            if random.random() < 0.8:
                first.fault, first.at = "rst", 0
            second = Answer(random.getrandbits(32), size=200, pieces=4, gap=random.choice((0.05, 0.1, 0.2)))
            ask.answers = [first, second]


def _modes(random: Random, names: list[str], span: float) -> list[Mode]:
    modes = []
    for name in names:
        if random.random() < 0.5:
            continue
        at = 0.0
        for _ in range(random.choice((1, 2, 4))):
            at += random.uniform(0, span / 2)
            modes.append(Mode(name, at, random.choice(("refuse", "hang", "accept")), random.choice(SHORT)))
        modes.append(Mode(name, at + random.uniform(0, span / 2), "accept", random.choice((0.0, 0.001, 0.02))))
    return modes


def _reloads(random: Random, names: list[str], span: float) -> list[Reload]:
    reloads = []
    for _ in range(random.choice((1, 2, 3))):
        changes: dict[str, Any] = {}
        if random.random() < 0.5:
            changes["proxy.circuit_breaker.enabled"] = random.random() < 0.6
        if random.random() < 0.3:
            changes |= _breaker(random)
        if random.random() < 0.3:
            changes |= _timeouts(random)
        if random.random() < 0.3:
            changes["proxy.max_conns_per_host"] = random.choice((0, 1, 2, 3, 8))
        if random.random() < 0.3:
            changes["proxy.load_balancer"] = random.choice(BALANCERS)
        if random.random() < 0.4:
            changes["endpoints"] = random.sample(names, random.randint(1, len(names)))
        reloads.append(Reload(random.uniform(0, span), changes))
    return sorted(reloads, key=lambda reload: reload.at)


def _checks(random: Random, names: list[str], span: float) -> list[Check]:
    return [Check(random.uniform(0, span), random.choice(names), random.random() < 0.5) for _ in range(6)]
