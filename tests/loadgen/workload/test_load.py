"""How much load a scenario gives: a share of what was measured, never more than driver and mocks carry."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loadgen.workload import load
from loadgen.workload.load import BENCH_SHARE, Load, Loads, choose, fitted, kind_of, work_of
from loadgen.workload.scenario import Open, Scenario, catalogue

LOADS = Loads(
    capacities={
        "sherpa": {"requests": 1500, "events": 8000, "mib": 90},
        "olla": {"requests": 9000, "events": 30_000, "mib": 200},
    },
    bench={"requests": 5000, "events": 25_000, "mib": 400},
)


def known(name: str, **changes: Any) -> Scenario:
    return catalogue()[name].model_copy(update=changes)


def arrivals(**fields: Any) -> Open:
    return Open.model_validate({"kind": "poisson", "rate": 1000, **fields})


def rate(one: Scenario) -> float:
    found = one.rate_rps()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "kind", "work"),
    [("chat-small", "requests", 1.0), ("large-response", "mib", 1.0), ("body-4096", "requests", 1.0)],
)
def test_work_is_counted_in_three_kinds(name: str, kind: str, work: float) -> None:
    assert (kind_of(known(name)), work_of(known(name))) == (kind, work)
    assert kind_of(known("chat-stream")) == "events"
    assert work_of(known("chat-stream")) == known("chat-stream").requests[0].expect.events


def test_a_scenario_without_a_share_keeps_its_rate_whatever_was_measured() -> None:
    assert choose(known("chat-small", arrivals=arrivals()), LOADS, "sherpa") is None


def test_a_share_is_of_the_slower_engine_unless_somebody_is_named() -> None:
    mine = choose(known("chat-small"), LOADS, "sherpa")
    assert mine is not None
    assert mine.rate == 600
    assert mine.why == "40% of the 1,500 requests/s that sherpa carries"
    named = choose(known("chat-small", arrivals=arrivals(share=0.2, of="olla")), LOADS, "sherpa")
    assert named is not None
    assert named.rate == 1800


def test_driver_and_mocks_are_never_asked_for_more_than_they_carry() -> None:
    mine = choose(known("chat-small", arrivals=arrivals(share=1.0, of="olla")), LOADS, "sherpa")
    assert mine is not None
    assert mine.rate == 2500
    assert mine.why == "50% of the 5,000 requests/s that driver and mocks carry"


@given(bench=st.floats(1, 1e5), engine=st.floats(1, 1e5))
def test_whatever_was_measured_the_load_stays_inside_both_limits(bench: float, engine: float) -> None:
    kinds = ("requests", "events", "mib")
    loads = Loads(capacities={"sherpa": dict.fromkeys(kinds, engine)}, bench=dict.fromkeys(kinds, bench))
    for name in ("chat-small", "chat-stream", "large-response", "streams-1000", "endpoints-10"):
        one = known(name)
        mine = choose(one, loads, "sherpa")
        assert isinstance(one.arrivals, Open) and one.arrivals.share is not None
        assert mine is not None
        after = fitted(one, mine)
        offered = rate(after) * (work_of(after) or 0.0)
        least = 20 * load._LARGE / 2**20 if name == "large-response" else 0.0  # bodies stop shrinking somewhere
        assert 0 < offered <= max(min(BENCH_SHARE * bench, one.arrivals.share * engine), least) * 1.001


def test_large_bodies_shrink_where_few_would_pass_and_their_digest_is_the_mocks_own() -> None:
    slow = Loads(capacities={"sherpa": {"mib": 10}}, bench={"mib": 40})
    one = known("large-response")
    mine = choose(one, slow, "sherpa")
    assert mine is not None
    assert mine.body_bytes is not None
    after = fitted(one, mine)
    assert rate(after) >= 20
    assert after.requests[0].headers["X-Mock-Body-Bytes"] == str(mine.body_bytes)
    assert one.requests[0].expect.digest is not None
    assert after.requests[0].expect.digest is None


def test_so_many_streams_are_paced_slower_and_stay_as_many() -> None:
    slow = Loads(capacities={"sherpa": {"events": 2000}}, bench={"events": 20_000})
    one = known("streams-1000")
    mine = choose(one, slow, "sherpa")
    assert mine is not None
    after = fitted(one, mine)
    assert rate(after) * after.typical_reply_s == pytest.approx(1000, rel=0.01)
    assert rate(after) * (work_of(after) or 0) <= 0.4 * 2000 * 1.001
    assert after.warmup_s > after.typical_reply_s
    fast = choose(one, Loads(capacities={"sherpa": {"events": 1e6}}, bench={"events": 1e6}), "sherpa")
    assert fast is not None
    assert fitted(one, fast).mock == one.mock  # never more streams, never faster


def test_who_has_no_room_for_a_load_is_known() -> None:
    one = fitted(known("chat-small"), Load(rate=600))
    assert LOADS.carries("sherpa", one)
    assert not LOADS.model_copy(update={"capacities": {"slow": {"requests": 700}}}).carries("slow", one)
    assert LOADS.carries("nobody-measured", one)


def test_loads_survive_being_written_and_read() -> None:
    mine = LOADS.model_copy(update={"scenarios": {"chat-small": Load(rate=600, why="so")}})
    assert Loads.model_validate_json(mine.model_dump_json(exclude_defaults=True)) == mine


@pytest.mark.parametrize(
    "fields", [{"share": 1.3}, {"of": "olla"}, {"kind": "steps", "rate": None, "rates": [1, 2], "share": 0.5}]
)
def test_a_share_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        arrivals(**fields)
