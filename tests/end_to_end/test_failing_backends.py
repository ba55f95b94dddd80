"""Four model servers under steady load, three of them spoilt and mended: one by one, then all three at once.

What a client may see of it is counted exactly: requests that had been written to a server that died or hung and whose
method must not be repeated, and the 5xx answers that a server gave. Nothing else fails.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.engines import ENGINES
from tests.end_to_end.serving import Serve, assert_identity, until
from tests.mock_backends.conftest import Running, mock_process

KILLED, HUNG, ERRING, SOUND = "killed", "hung", "erring", "sound"
BAD = (KILLED, HUNG, ERRING)
NAMES = (*BAD, SOUND)
GENERATE = "/v1/chat/completions"
CLIENTS = 6  # of each kind
HEALTH_INTERVAL = 0.5
HEAD_TIMEOUT = 1.0
BREAKER_TIMEOUT = 1.5  # a probe that is silent for so long says nothing; above the head timeout it is a failure
# What a slow machine may add to a time that the config bounds. The defaults (5 s, 30 s) would still be told from ours.
SLACK = 3.0

HANG = {"fault": "hang-head"}
ERROR = {"fault": "error", "status": 500}
SICK = {"fault": "garbage", "scope": "health"}


@dataclass(frozen=True)
class Reply:
    """What a client got for one request. `code` is that of an error that the proxy made, or `cut`."""

    method: str
    status: int
    endpoint: str | None
    code: str | None
    right: bool


class Load:
    """Clients that ask again as soon as they are answered, half of them with GET and half with POST."""

    def __init__(self, proxy: Serve) -> None:
        self._proxy = proxy
        self._stop = threading.Event()
        self.replies: list[Reply] = []
        self.trouble: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(method, seed))
            for method in ("GET", "POST")
            for seed in range(CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, method: str, seed: int) -> None:
        try:
            connection = self._proxy.connect()
            for n in itertools.count():
                if self._stop.is_set():
                    break
                self.replies.append(ask(connection, method, streamed=n % 2 == 0, seed=seed))
                time.sleep(0.005)
            connection.close()
        except BaseException as exc:
            self.trouble.append(exc)
            raise

    def stop(self) -> None:
        """Let the clients end; returns when they have."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def ask(connection: http.client.HTTPConnection, method: str, *, streamed: bool, seed: int) -> Reply:
    if method == "GET":
        connection.request("GET", "/v1/models")
    else:
        asked = {"model": "m", "messages": [], "stream": streamed, "seed": seed, "max_tokens": 8}
        connection.request("POST", GENERATE, json.dumps(asked))
    response = connection.getresponse()
    endpoint = response.headers["X-Olla-Endpoint"]
    try:
        body = response.read()
    except http.client.IncompleteRead:
        connection.close()
        return Reply(method, response.status, endpoint, "cut", right=False)
    code = json.loads(body)["error"]["code"] if endpoint is None else None
    digest = hashlib.sha256(re.sub(rb'(?<="ns":")\d{20}', b"0" * 20, body)).hexdigest()
    return Reply(method, response.status, endpoint, code, response.headers["X-Mock-Digest"] == f"sha256={digest}")


class Watch:
    """Notes each state in which the proxy says that an endpoint is, in its status and in its metrics."""

    def __init__(self, proxy: Serve) -> None:
        self._proxy = proxy
        self._stop = threading.Event()
        self.status: dict[str, list[str]] = {name: [] for name in NAMES}
        self.metrics: dict[str, list[str]] = {name: [] for name in NAMES}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            for name, row in self._proxy.admin("/internal/status")["workers"][0]["endpoints"].items():
                if "circuit_breaker" in row:
                    note(self.status[name], row["circuit_breaker"]["state"])
            for family in text_string_to_metric_families(self._proxy.admin("/metrics")):
                for sample in family.samples if family.name == "proxy_circuit_breaker_state" else ():
                    if sample.value:
                        note(self.metrics[sample.labels["endpoint"]], sample.labels["state"])

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()


def note(states: list[str], state: str) -> None:
    if states[-1:] != [state]:
        states.append(state)


class Scene:
    """A proxy before four mocks, and what is done to them."""

    def __init__(self, engine: str, folder: Path, stack: ExitStack) -> None:
        self.engine = engine
        self._stack = stack
        self._profile = folder / "profile.yaml"
        self._profile.write_text("{name: steady, time_to_first_token: 20ms, token_gap: 2ms}")
        self.mocks = {name: self._mock() for name in NAMES}
        config = {
            "server": {"port": 0},
            "admin": {"port": 0},
            "proxy": {
                "engine": engine,
                "load_balancer": "round-robin",
                "response_header_timeout": f"{HEAD_TIMEOUT}s",
                "circuit_breaker": {"timeout": f"{BREAKER_TIMEOUT}s", "count_5xx": True},
            },
            # A dead endpoint under load is checked ten times a second: for two seconds it is left to the breaker.
            "health": {"interval": f"{HEALTH_INTERVAL}s", "unhealthy_after": 20},
            "endpoints": [{"name": name, "url": mock.url} for name, mock in self.mocks.items()],
        }
        self.proxy = Serve(folder, config)
        stack.callback(self.proxy.close)

    def _mock(self, port: int = 0) -> Running:
        arguments = ("--port", str(port), "--control-port", "0", "--profile", str(self._profile))
        return self._stack.enter_context(mock_process(*arguments))

    def spoil(self, name: str, *, sick: bool = False) -> None:
        """Kill it, let it hang or let it fail; with `sick` it fails its health checks too."""
        if name == KILLED:
            self.mocks[name].process.kill()
            self.mocks[name].process.wait()
        else:
            faults = [HANG if name == HUNG else ERROR, *([SICK] if sick else [])]
            self.mocks[name].control("behaviour", {"faults": faults})

    def mend(self, name: str) -> None:
        """Start it anew on its port, or let it behave."""
        if name == KILLED:
            self.mocks[name] = self._mock(self.mocks[name].port)
        else:
            self.mocks[name].control("behaviour", {"faults": []})

    def state(self, name: str) -> dict[str, Any]:
        """What the status says of an endpoint."""
        state: dict[str, Any] = self.proxy.admin("/internal/status")["workers"][0]["endpoints"][name]
        return state

    def opened(self, name: str) -> int:
        """How often its breaker has opened. Sherpa has none."""
        return int(self.state(name).get("circuit_breaker", {"opened": 0})["opened"])

    def unhealthy(self, name: str) -> bool:
        """Whether health checks found it dead."""
        return not self.state(name)["healthy"]

    def counts(self, name: str) -> dict[str, int]:
        """What the stats say of an endpoint."""
        counts: dict[str, int] = self.proxy.admin("/internal/stats")["endpoints"][name]
        return counts

    def noticed(self, name: str) -> Callable[[], bool]:
        """Asks whether the spoilt endpoint was found out: by the breaker, and once more when it was half-open."""
        if self.engine == "olla":
            before = self.opened(name)
            return lambda: self.opened(name) >= before + 2
        if name == KILLED:
            return partial(self.unhealthy, name)
        asked = self.counts(name)["requests"]  # by Sherpa it is asked on, as long as only requests fail
        return lambda: self.counts(name)["requests"] > asked + 20

    def serves(self, name: str) -> Callable[[], bool]:
        """Asks whether the endpoint is a candidate like any other, and has answered well since now."""

        def well() -> int:
            counts = self.counts(name)
            return counts["success"] - counts["upstream_5xx"]

        def again() -> bool:
            state = self.state(name)
            closed = state.get("circuit_breaker", {"state": "closed"})["state"] == "closed"
            return state["healthy"] and closed and well() > before + 10

        before = well()
        return again

    def mended(self, *names: str) -> None:
        """Mend them and see that it is found out within the time that the config says."""
        by_checks, by_breaker = HEALTH_INTERVAL, BREAKER_TIMEOUT + HEAD_TIMEOUT
        bound = by_checks if self.engine == "sherpa" else max(by_checks, by_breaker)
        for name in names:
            self.mend(name)
        began = time.monotonic()
        for name in names:
            until(self.serves(name), f"{name} serves again")
        assert time.monotonic() - began < bound + SLACK


@pytest.fixture(params=ENGINES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(request.param, tmp_path, stack)


@pytest.mark.slow
def test_only_what_was_written_to_a_bad_endpoint_fails_and_all_of_it_is_counted(scene: Scene) -> None:
    load, watch = Load(scene.proxy), Watch(scene.proxy)
    try:
        until(lambda: len(load.replies) > 50, "load")
        for name in BAD:
            noticed = scene.noticed(name)
            scene.spoil(name)
            until(noticed, f"{name} is noticed")
            scene.mended(name)
        for name in BAD:
            scene.spoil(name, sick=True)
        for name in BAD:
            until(partial(scene.unhealthy, name), f"{name} is unhealthy")
        until(lambda: not any(scene.counts(name)["active"] for name in BAD), "nobody waits for a bad one")
        before = len(load.replies) + 2 * CLIENTS  # answers may be on their way
        until(lambda: len(load.replies) > before + 100, "one serves all")
        assert {reply.endpoint for reply in load.replies[before:]} == {SOUND}
        scene.mended(*BAD)
    finally:
        load.stop()
        watch.stop()
    assert not load.trouble
    check_replies(scene, load.replies)
    if scene.engine == "olla":
        check_breakers(watch)


def check_replies(scene: Scene, replies: list[Reply]) -> None:
    stats = until(lambda: settled(scene.proxy), "nothing is in flight")
    hung, erring = scene.mocks[HUNG].stats(), scene.mocks[ERRING].stats()
    given_up = Counter(leaver["path"] for leaver in hung["disconnects"])

    failed = [reply for reply in replies if reply.code]
    forwarded = [reply for reply in replies if reply.status == 500]
    served = [reply for reply in replies if reply.status == 200 and not reply.code]
    assert len(failed) + len(forwarded) + len(served) == len(replies)

    assert all(reply.right for reply in served)
    assert {reply.method for reply in failed} == {"POST"}
    by_code = Counter(reply.code for reply in failed)
    assert by_code.keys() <= {"upstream_timeout", "upstream_closed", "cut"}
    assert by_code["upstream_timeout"] == given_up[GENERATE] > 0
    assert {reply.endpoint for reply in failed if reply.code == "cut"} <= {KILLED}
    assert {reply.endpoint for reply in forwarded} == {ERRING}
    assert len(forwarded) == erring["faults"]["error"]

    assert stats["proxy.requests.total"] == len(replies)
    assert stats["proxy.requests.failed"] == len(failed)
    assert stats["proxy.requests.success"] == len(served) + len(forwarded)
    assert stats["proxy.upstream.5xx"] == len(forwarded)
    rows = stats["endpoints"]
    assert rows[HUNG]["failed"] == given_up.total(), "those of GETs too, which another endpoint then served"
    assert rows[KILLED]["failed"] >= by_code["upstream_closed"] + by_code["cut"]
    assert rows[ERRING]["failed"] == rows[SOUND]["failed"] == 0
    assert rows[ERRING]["upstream_5xx"] == len(forwarded)
    assert_identity(stats)


def settled(proxy: Serve) -> dict[str, Any] | None:
    stats: dict[str, Any] = proxy.admin("/internal/stats")
    return None if stats["proxy.active_connections"] else stats


def check_breakers(watch: Watch) -> None:
    for seen in (watch.status, watch.metrics):
        assert seen[SOUND] == ["closed"]
        for name in BAD:
            assert seen[name][0] == seen[name][-1] == "closed"
            assert "open" in seen[name]
        assert "half-open" in seen[HUNG], "for as long as its probe waits"
