"""Fixtures of the contract suite. `start` runs each test on every engine; `start_olla` and `start_sherpa` on one."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.engines import ENGINES
from tests.contract import namespace
from tests.contract.peers import Endpoint
from tests.contract.running import LATE_TROUBLE, WORKERS, ProcessProxy, RunningProxy, Settings, ThreadProxy

Start = Callable[..., Any]


# PROXY_ENGINES_TEST_ENGINES=olla leaves the other out, for the matrix: what is switched there concerns one only.
CHOSEN = [
    name for name in ENGINES if name in os.environ.get("PROXY_ENGINES_TEST_ENGINES", ",".join(ENGINES)).split(",")
]


@pytest.fixture(params=CHOSEN)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of the engine this test runs on."""
    return str(request.param)


def _starter(engine: str) -> Iterator[Start]:
    running: list[RunningProxy] = []

    def start(*endpoints: Endpoint | Mapping[str, Any], **settings: Any) -> RunningProxy:
        given: Settings = {key.replace("__", "."): value for key, value in settings.items()}
        proxy: RunningProxy
        if WORKERS > 1:
            proxy = ProcessProxy(engine, endpoints, given, WORKERS)
        else:
            proxy = ThreadProxy(engine, endpoints, given)
        running.append(proxy)
        return proxy

    yield start
    with contextlib.ExitStack() as stack:
        for proxy in running:
            stack.callback(proxy.close)


@pytest.fixture
def start(engine: str) -> Iterator[Start]:
    """`start(endpoint, ..., server__header_timeout="300ms")` runs the engine in front of endpoints until the test ends.

    Double underscores are the dots of a config key.
    """
    yield from _starter(engine)


@pytest.fixture
def start_olla() -> Iterator[Start]:
    """As `start`, for what only Olla promises."""
    yield from _starter("olla")


@pytest.fixture
def start_sherpa() -> Iterator[Start]:
    """As `start`, for what only Sherpa promises."""
    yield from _starter("sherpa")


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """One endpoint."""
    with Endpoint("a") as endpoint:
        yield endpoint


@pytest.fixture
def endpoints() -> Iterator[Callable[[int], list[Endpoint]]]:
    """`endpoints(3)`: endpoints called a, b and c."""
    with contextlib.ExitStack() as stack:
        yield lambda count: [stack.enter_context(Endpoint("abcdefghijklmnopqrstuvwxyz"[i])) for i in range(count)]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked `own_network` runs in a process of its own, in namespaces of its own."""
    if pyfuncitem.get_closest_marker("own_network") is None or namespace.inside():
        return None
    namespace.run_inside(pyfuncitem.nodeid)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that pins a promise must run: skipped, it fails. (The matrix may leave tests out by deselecting them.)"""
    report = yield
    if report.skipped and item.get_closest_marker("promise") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} pins a promise and was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="module", autouse=True)
def nothing_forgotten() -> Iterator[None]:
    """Tasks that were destroyed while pending and exceptions that nobody retrieved, seen when they are collected."""
    yield
    gc.collect()  # not after each test: it takes longer than most of them
    late, LATE_TROUBLE[:] = list(LATE_TROUBLE), []
    assert not late, late


@pytest.fixture(scope="package", autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Descriptors, threads' loops and uncollectable objects: after the whole suite there are no more than before it."""
    before = _descriptors()
    yield
    gc.collect()
    assert not gc.garbage, gc.garbage[:5]
    after = _descriptors()
    assert len(after) <= len(before) + 8, sorted(set(after.values()) - set(before.values()))


def _descriptors() -> dict[str, str]:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing
            found[entry.name] = str(entry.readlink())
    return found
