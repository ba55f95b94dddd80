"""From a scenario to the driver's plan."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.workload import timetable
from loadgen.workload.plan import Plan
from loadgen.workload.scenario import Scenario
from loadgen.workload.timetable import Turn

BASE: dict[str, Any] = {
    "id": "small",
    "question": "what is the question?",
    "answer": "this would be an answer",
    "kind": "request",
    "requests": [{"path": "/"}],
    "arrivals": {"kind": "constant", "rate": 10},
    "duration_s": 4,
    "warmup_s": 1,
}


def plan(seed: int = 1, **changes: Any) -> Plan:
    made = timetable.make(Scenario.model_validate({**BASE, **changes}), seed)
    assert made is not None
    return made


def test_a_constant_rate_is_even_and_its_first_second_is_warm_up() -> None:
    made = plan()
    assert np.diff(made.offset_ns).tolist() == [100_000_000] * 49
    assert made.warmup.sum() == 10


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    poisson = {"kind": "poisson", "rate": 50}
    one, same, other = plan(3, arrivals=poisson), plan(3, arrivals=poisson), plan(4, arrivals=poisson)
    assert one.offset_ns.tolist() == same.offset_ns.tolist()
    assert one.offset_ns.tolist() != other.offset_ns.tolist()


def test_seeds_differ_between_rounds_and_scenarios_but_not_between_targets() -> None:
    seeds = {timetable.seed_for(1, name, number) for name in ("a", "b") for number in (1, 2, 3)}
    assert len(seeds) == 6
    assert timetable.seed_for(1, "a", 1) == timetable.seed_for(1, "a", 1)


def test_templates_are_drawn_by_weight() -> None:
    made = plan(requests=[{"path": "/a", "weight": 3}, {"path": "/b"}], arrivals={"kind": "constant", "rate": 1000})
    assert set(made.template.tolist()) == {0, 1}
    assert made.template.mean() == pytest.approx(0.25, abs=0.05)


def test_steps_begin_after_a_warm_up_at_the_first_rate() -> None:
    made = plan(arrivals={"kind": "steps", "rates": [10, 100]}, duration_s=20, warmup_s=10)
    seconds = made.offset_ns / 1e9
    assert (seconds < 20).sum() == pytest.approx(200, rel=0.3)
    assert (seconds >= 20).sum() == pytest.approx(1000, rel=0.15)
    assert seconds[-1] < 30


def test_sizes_and_seeds_fill_the_marks() -> None:
    body = '{"p":"{{prompt}}","n":{{max_tokens}},"s":{{seed}}}'
    made = plan(requests=[{"path": "/", "body": body}], prompt_bytes=77, output_tokens=5, request_seeds=3)
    assert set(made.prompt_bytes.tolist()) == {77}
    assert set(made.output_tokens.tolist()) == {5}
    assert set(made.request_seed.tolist()) == {0, 1, 2}


def test_fitted_traffic_has_sizes_of_its_own() -> None:
    made = plan(arrivals={"kind": "fitted", "fit": "conv", "rate": 100, "max_out": 50})
    assert len(set(made.prompt_bytes.tolist())) > 50
    assert made.output_tokens.max() == 50


def test_a_closed_loop_has_no_plan() -> None:
    assert timetable.make(Scenario.model_validate({**BASE, "arrivals": {"kind": "closed", "users": 2}}), 1) is None


@given(
    of=st.integers(2, 5),
    duration_s=st.floats(0.3, 20),
    warmup_s=st.floats(0, 3),
    seed=st.integers(0, 1000),
)
def test_in_turns_all_get_the_same_requests_and_never_at_the_same_time(
    of: int, duration_s: float, warmup_s: float, seed: int
) -> None:
    one = Scenario.model_validate(
        {**BASE, "arrivals": {"kind": "poisson", "rate": 300}, "duration_s": duration_s, "warmup_s": warmup_s}
    )
    plans = [timetable.make(one, seed, Turn(place, of)) for place in range(of)]
    total_ns = round((warmup_s + duration_s) * 1e9)
    owners: list[tuple[int, int]] = []
    for place, made in enumerate(plans):
        assert made is not None
        assert len(made) == len(plans[0] or ())
        assert (np.diff(made.offset_ns) >= 0).all()
        assert ((made.offset_ns >= 0) & (made.offset_ns < total_ns)).all()
        assert made.warmup.tolist() == (made.offset_ns < round(warmup_s * 1e9)).tolist()
        owners += [(int(at), place) for at in made.offset_ns]
    # Sorted by time, the owners change about twice a slice and not with every request.
    by_time = [place for _, place in sorted(owners)]
    changes = sum(one != next_one for one, next_one in itertools.pairwise(by_time))
    assert changes <= of * max(round((warmup_s + duration_s) / of / timetable.SLICE_S), 1)


def test_turns_go_forth_and_back_and_keep_the_distances_within_a_slice() -> None:
    one = Scenario.model_validate(
        {**BASE, "arrivals": {"kind": "constant", "rate": 100}, "duration_s": 0.8, "warmup_s": 0.4}
    )
    first, second = (timetable.make(one, 1, Turn(place, 2)) for place in range(2))
    assert first is not None
    assert second is not None
    tenths = [sorted(set((made.offset_ns // 100_000_000).tolist())) for made in (first, second)]
    assert tenths == [[0, 3, 5, 6, 8, 11], [1, 2, 4, 7, 9, 10]]
    assert set(np.diff(first.offset_ns[first.offset_ns < 100_000_000]).tolist()) == {10_000_000}
    assert first.warmup.sum() == second.warmup.sum() == 20
