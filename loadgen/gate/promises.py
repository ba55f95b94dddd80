"""L0: what must hold before anything is counted. Real processes, real bytes; nothing here is timed but by the eye.

Each promise is tried on base and on head. `grave` ones make answers wrong; the others are behaviour whose loss is a
regression no count would show.
"""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends, ask
from loadgen.bench.reply import ask_once, what_is_wrong
from loadgen.gate.checkouts import Checkout
from loadgen.gate.lockstep import Lockstep, Recording, WrongAnswer
from loadgen.gate.serving import Served, Servers
from loadgen.workload.job import Expect, Template
from reports.gate import Tried

# A token sent alone is passed on within a pass of the loop, 0.2 ms here; the seed's flush interval is 50 ms. Half of
# that, as the median over a stream: a busy machine delays some tokens, a policy that holds them back delays all.
PROMPT_S = 0.025
_PATIENCE_S = 3.0
_SETTLE_S = 2.0
_FAILURES = 12  # more than any breaker's threshold by default (5)


class Broken(Exception):
    """A promise that is not kept; the message says how."""


class NotTried(Exception):
    """A promise that cannot be tried here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Bed:
    """What a promise is tried on: how to start the proxy, the mocks, and what they say."""

    servers: Servers
    checkout: Checkout
    config: Mapping[str, Any]
    mocks: Backends
    whole: Recording
    stream: Recording
    folder: Path

    @contextmanager
    def proxy(self, *backends: str) -> Iterator[Served]:
        """The proxy in front of `backends`."""
        with self.servers.serve(self.checkout, self.config, backends, self.folder) as served:
            yield served

    @contextmanager
    def lockstep(self) -> Iterator[tuple[Lockstep, Served]]:
        """The proxy between the two ends of a Lockstep."""
        with Lockstep(_PATIENCE_S) as ends, self.proxy(ends.backend) as served:
            ends.connect(served.url)
            yield ends, served


@dataclass(frozen=True, slots=True)
class Promise:
    """`attempt` raises Broken or WrongAnswer where it is not kept. `engines`: those that give it."""

    name: str
    attempt: Callable[[Bed], None]
    grave: bool
    engines: tuple[str, ...] = ("sherpa", "olla")


def attempt(promise: Promise, bed: Bed) -> Tried:
    """How `bed`'s revision does with a promise. Raises ChildError when it cannot be started."""
    try:
        promise.attempt(bed)
    except NotTried as exc:
        return Tried(None, str(exc))
    except (Broken, WrongAnswer) as exc:
        return Tried(False, str(exc))
    except (ConnectionError, TimeoutError, HTTPException) as exc:
        return Tried(False, f"the connection failed: {exc or type(exc).__name__}")
    return Tried(True)


# ------------------------------------------------------------------------------------------------------- right replies
_CHAT: Mapping[str, Any] = {"model": "mock-model", "messages": [{"role": "user", "content": "hello"}], "seed": 7}
_TEXT: Mapping[str, Any] = {"model": "mock-model", "prompt": "hello", "seed": 7}


def _templates() -> Iterator[Template]:
    """A request of each kind that clients of the mocks' dialects send."""

    def post(path: str, body: Mapping[str, Any], stream: bool = False, **headers: str) -> Template:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named["Content-Type"] = "application/json"
        return Template(path, "POST", named, json.dumps(body), stream, Expect(200))

    yield post("/v1/chat/completions", {**_CHAT, "max_tokens": 20})
    yield post("/v1/chat/completions", {**_CHAT, "max_tokens": 20, "stream": True}, stream=True)
    yield post("/v1/chat/completions", {**_CHAT, "max_tokens": 300, "stream": True}, True, X_Mock_Event_Bytes="4096")
    yield post("/v1/chat/completions", _CHAT, X_Mock_Body_Bytes="1048576")
    yield post("/v1/chat/completions", _CHAT, X_Mock_Body_Bytes="200000", X_Mock_Chunk_Bytes="4096")
    yield post("/v1/chat/completions", {**_CHAT, "user": "u" * 300_000})
    yield post("/v1/completions", {**_TEXT, "max_tokens": 20, "stream": True}, stream=True)
    yield post("/v1/messages", {**_CHAT, "max_tokens": 20, "stream": True}, stream=True)
    yield post("/api/chat", {**_CHAT, "stream": True}, stream=True)
    yield post("/api/generate", {**_TEXT, "stream": False})
    yield Template("/v1/models", "GET", {}, "", False, Expect(200))
    yield Template("/api/tags", "GET", {}, "", False, Expect(200))


def _replies(bed: Bed) -> None:
    with bed.proxy(*bed.mocks.urls) as served:
        for template in _templates():
            wrong = what_is_wrong(ask_once(served.url, template), template, from_mock=True)
            if wrong is not None:
                raise Broken(wrong)


def _failover(bed: Bed) -> None:
    with bed.proxy(_dead(), bed.mocks.urls[0]) as served:
        for template in list(_templates())[:2] * 3:
            wrong = what_is_wrong(ask_once(served.url, template), template, from_mock=True)
            if wrong is not None:
                raise Broken(f"with one of two endpoints dead: {wrong}")


# ------------------------------------------------------------------------------------------------------------- streams
def _connections(bed: Bed) -> None:
    with bed.lockstep() as (ends, _):
        ends.exchange(bed.whole, 20)
        ends.exchange(bed.stream, 2)
        if ends.accepted != 1:
            raise Broken(f"{ends.accepted} upstream connections for 22 exchanges, one after the other")


def _prompt(bed: Bed) -> None:
    with bed.lockstep() as (ends, _):
        ends.exchange(bed.stream)
        waits = ends.transits(bed.stream)
        middle = statistics.median(waits)
        if middle > PROMPT_S:
            raise Broken(f"a token sent alone comes {middle * 1e3:.0f} ms later (median of {len(waits)})")


def _cut(bed: Bed) -> None:
    with bed.lockstep() as (ends, served):
        ends.exchange(bed.stream)
        ends.cut(bed.stream, after=5)
        _accounted(served, requests=2, failed=1)


def _leave(bed: Bed) -> None:
    with bed.lockstep() as (ends, served):
        ends.exchange(bed.whole)
        waited = ends.leave(bed.stream, after=5)
        if waited is None:
            raise Broken(f"its upstream is still open {_PATIENCE_S:g} s after the client left")
        _accounted(served, requests=2, client_disconnected=1)


def _accounting(bed: Bed) -> None:
    with bed.lockstep() as (ends, served):
        ends.exchange(bed.whole, 50)
        ends.exchange(bed.stream, 5)
        _accounted(served, requests=55)


def _accounted(served: Served, requests: int, failed: int = 0, client_disconnected: int = 0) -> None:
    """total = success + failed + client_disconnected + active, and each as it was."""
    expected = {
        "total": requests,
        "success": requests - failed - client_disconnected,
        "failed": failed,
        "client_disconnected": client_disconnected,
    }
    until = time.monotonic() + _SETTLE_S
    while True:
        found = _stats(served)
        counts = {name: found.get(f"proxy.requests.{name}") for name in expected}
        active = found.get("proxy.active_connections")
        if counts == expected and active == 0:
            return
        if time.monotonic() > until:
            raise Broken(f"it counts {counts} and {active} active, where {expected} and none are right")
        time.sleep(0.02)


def _stats(served: Served) -> dict[str, Any]:
    if served.admin is None:
        raise NotTried("it has no admin listener")
    try:
        found = ask(served.admin, "GET", "/internal/stats")
    except ChildError as exc:
        raise NotTried(f"it has no /internal/stats: {exc}") from exc
    if not isinstance(found, dict) or "proxy.requests.total" not in found:
        raise NotTried("its /internal/stats has no proxy.requests.total")
    return found


# ------------------------------------------------------------------------------------------------------------- breaker
def _breaker(bed: Bed) -> None:
    with bed.proxy(_dead()) as served:
        if "proxy.circuit_breaker.open" not in _stats(served):
            raise NotTried("it counts no open breakers")
        template = next(_templates())
        statuses = [ask_once(served.url, template).status for _ in range(_FAILURES)]
        opened = _stats(served)["proxy.circuit_breaker.open"]
        if opened != 1 or statuses[-1] != 503 or statuses[0] != 502:
            raise Broken(
                f"{_FAILURES} failures in a row leave {opened} breakers open; the last answer was {statuses[-1]}"
            )


def _dead() -> str:
    """A URL where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


PROMISES = (
    Promise("right-replies", _replies, grave=True),
    Promise("accounting", _accounting, grave=True),
    Promise("cut-streams-stay-cut", _cut, grave=True),
    Promise("failover", _failover, grave=False),
    Promise("prompt-tokens", _prompt, grave=False),
    Promise("connections-reused", _connections, grave=False),
    Promise("client-leaving-noticed", _leave, grave=False),
    Promise("breaker-opens", _breaker, grave=False, engines=("olla",)),
)
