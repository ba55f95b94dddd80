"""The replies that scenarios pin are the ones the mocks send today."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends, ask
from loadgen.errors import BadInput
from loadgen.studies import pin
from loadgen.workload import scenario
from loadgen.workload.scenario import Mock

QUICK = [one for one in scenario.catalogue().values() if one.typical_reply_s < 1]


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    running = Backends.start(64, tmp_path_factory.mktemp("mocks"), None)
    yield running
    running.stop()


@pytest.mark.parametrize("one", QUICK, ids=lambda one: one.id)
def test_the_mocks_send_what_the_scenario_pins(one: scenario.Scenario, backends: Backends) -> None:
    found = pin.ask(one, backends)
    pinned = [
        {"digest": request.expect.digest, "events": request.expect.events} if request.always_the_same else None
        for request in one.requests
    ]
    assert found == pinned, "replies have changed: if that is meant, run proxy-engines scenarios pin"


def test_mocks_that_refuse_a_scenario_are_named_with_it(backends: Backends) -> None:
    one = scenario.catalogue()["chat-small"].model_copy(update={"mock": scenario.Mock(profile="no-such-profile")})
    with pytest.raises(BadInput, match=r"chat-small: mock: the mocks refuse it: .*no-such-profile"):
        pin.ask(one, backends)


def test_every_reply_that_can_be_pinned_is_pinned() -> None:
    pins = json.loads((Path(scenario.__file__).with_name("scenarios") / scenario.PINS).read_text())
    assert set(pins) == set(scenario.catalogue())
    for one in scenario.catalogue().values():
        for request in one.requests:
            assert (request.expect.digest is not None) == request.always_the_same, one.id


def test_faults_are_set_when_asked_for_and_gone_with_the_next_scenario(backends: Backends) -> None:
    faulty = scenario.catalogue()["failing-endpoint"].mock
    backends.behave(faulty)
    assert not [one for one in ask(backends.control, "GET", "/_mock/behaviour")["backends"] if one.get("faults")]
    backends.fail(faulty, time.monotonic_ns())
    told = {one["endpoint"]: one for one in ask(backends.control, "GET", "/_mock/behaviour")["backends"]}
    assert any(one.get("faults") for one in told.values())
    backends.behave(Mock())
    assert not [one for one in ask(backends.control, "GET", "/_mock/behaviour")["backends"] if one.get("faults")]


@pytest.mark.parametrize("one", scenario.catalogue().values(), ids=lambda one: one.id)
def test_the_mocks_accept_every_scenarios_profiles_and_faults(one: scenario.Scenario, backends: Backends) -> None:
    backends.behave(one.mock)
    backends.fail(one.mock, time.monotonic_ns())
    assert backends.stats()["backends"]


def test_what_the_mocks_refuse_is_told_with_their_words(backends: Backends) -> None:
    with pytest.raises(ChildError, match="no profile 'nonsense'"):
        backends.behave(Mock(profile="nonsense"))
