"""How often and how long a scenario is measured: what follows from variance, and what is said where time is short."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.campaign import precision
from loadgen.campaign.plan import Asked, Planned, plan, planned
from loadgen.campaign.precision import Chosen, Precision, came, came_words, decide
from loadgen.errors import UsageRefusal
from loadgen.targets.direct import Direct
from loadgen.workload.scenario import Scenario
from reports import stats, store
from reports.schema import CampaignHeader, RunRecord, run_name
from reports.stats import Components, Costs

PRICE = {"one": Costs(5.0, 4.0)}
LENGTH = {"one": 2.0}


def chosen(row: Components, wanted: float | None, budget_s: float | None = None) -> Chosen:
    return decide({"one": {"cpu olla": row}}, PRICE, LENGTH, wanted, budget_s)["one"]


def test_where_the_start_is_the_noise_runs_are_short_and_where_the_run_is_they_are_long() -> None:
    start_is_noise = chosen(Components(between=0.06**2, within_s=0.0001), 0.05)
    run_is_noise = chosen(Components(between=0.0001, within_s=0.12**2), 0.05)
    assert start_is_noise.length_s == 1.0
    assert run_is_noise.length_s > 3
    assert max(start_is_noise.forecast["cpu olla"], run_is_noise.forecast["cpu olla"]) <= 0.0501


def test_a_row_that_cannot_be_had_in_the_time_says_what_it_would_take() -> None:
    short = chosen(Components(between=0.08**2, within_s=0.01), 0.03, budget_s=120)
    assert PRICE["one"].seconds(short.starts, short.length_s) <= 120
    assert short.forecast["cpu olla"] > 0.03
    needed = short.short["cpu olla"]
    assert needed is not None
    assert needed > 120
    hopeless = chosen(Components(between=1.0, within_s=0.01), 0.03, budget_s=120)
    assert hopeless.short["cpu olla"] is None


def test_a_hopeless_row_does_not_make_the_others_dear() -> None:
    rows = {"cpu olla": Components(0.02**2, 0.001), "wild": Components(4.0, 1.0)}
    one = decide({"one": rows}, PRICE, LENGTH, 0.05, None)["one"]
    assert one.starts < 10
    assert one.short == {"wild": None}


def test_the_time_alone_gives_the_narrowest_intervals_and_all_scenarios_alike() -> None:
    rows = {name: {"cpu olla": Components(sd**2, 0.001)} for name, sd in (("calm", 0.02), ("noisy", 0.06))}
    prices, lengths = dict.fromkeys(rows, Costs(5.0, 4.0)), dict.fromkeys(rows, 2.0)
    found = decide(rows, prices, lengths, None, 600.0)
    spent = sum(prices[name].seconds(one.starts, one.length_s) for name, one in found.items())
    assert 400 < spent <= 600
    assert found["noisy"].starts > found["calm"].starts
    assert found["noisy"].forecast["cpu olla"] == pytest.approx(found["calm"].forecast["cpu olla"], rel=0.35)


def test_a_load_that_whole_runs_tell_of_only_keeps_its_length() -> None:
    assert chosen(Components(0.03**2, 0.0), 0.05).length_s == LENGTH["one"]


@given(
    between=st.floats(0, 0.5),
    within=st.floats(0, 0.5),
    wanted=st.one_of(st.none(), st.floats(0.01, 0.5)),
    budget=st.one_of(st.none(), st.floats(60, 3600)),
)
def test_whatever_varies_a_plan_is_within_bounds_and_honest(
    between: float, within: float, wanted: float | None, budget: float | None
) -> None:
    row = Components(between**2, within**2)
    one = chosen(row, wanted, budget)
    assert 5 <= one.starts <= 40
    assert one.length_s <= 30
    assert one.forecast["cpu olla"] == pytest.approx(math.expm1(row.half_width(one.starts, one.length_s)))
    if wanted is not None and one.forecast["cpu olla"] > wanted * 1.03:
        assert "cpu olla" in one.short


def one_scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate(
        {
            "id": "one",
            "question": "what is the question?",
            "answer": "this would be an answer",
            "kind": "request",
            "requests": [{"path": "/"}],
            "arrivals": {"kind": "poisson", "rate": 100},
            "duration_s": 2,
            **changes,
        }
    )


def campaign_of(**changes: Any) -> Planned:
    targets = [Direct(name="sherpa"), Direct(name="olla")]
    return planned(targets, [one_scenario(**changes)], rounds=6, baseline="sherpa", asked=Asked())


def stored(folder: Path, made: Planned, spread: float, rounds: int = 6) -> store.Campaign:
    """A campaign whose log ratios of CPU scatter by `spread` from start to start."""
    header = CampaignHeader(id="c", started="2026-11-30T00:00:00", scenarios=made.described(), state="complete")
    store.Campaign.create(folder, header)
    draw = np.random.default_rng(1)
    for number in range(1, rounds + 1):
        for target in ("sherpa", "olla", "sherpa@aa"):
            us = 100.0 * math.exp(draw.normal(0, spread / math.sqrt(2)))
            name = run_name(number, "one", target)
            summary = {"cpu_us_per_request": us, "added_p50_us": us, "goodput_rps": 100.0}
            store.write_run(folder, RunRecord(run=name, scenario="one", target=target, round=number, summary=summary))
    return store.load_campaign(folder)


def test_what_earlier_campaigns_left_forecasts_the_widths_of_the_next(tmp_path: Path) -> None:
    made = campaign_of()
    found = stored(tmp_path / "c", made, 0.05, rounds=40)
    rows = precision.known(made, [found], within=False)
    assert set(rows["one"]) >= {"cpu_us_per_request olla", "cpu_us_per_request sherpa@aa", "added_p50_us olla"}
    (one,) = precision.forecast(made, rows).values()
    expected = math.expm1(stats.Components(0.05**2, 0.0).half_width(6, 2.0))
    assert one.forecast["cpu_us_per_request olla"] == pytest.approx(expected, rel=0.25)


def test_rates_are_planned_for_in_closed_loop_only_as_arrivals_are_the_same_for_all(tmp_path: Path) -> None:
    closed = campaign_of(arrivals={"kind": "closed", "users": 2})
    for made, planned_for in ((campaign_of(), False), (closed, True)):
        rows = precision.known(made, [stored(tmp_path / str(planned_for), made, 0.05)], within=False)["one"]
        assert ("goodput_rps olla" in rows) is planned_for


@pytest.mark.parametrize(
    "changes",
    [{"arrivals": {"kind": "poisson", "rate": 200}}, {"duration_s": 4}, {"arrivals": {"kind": "closed", "users": 2}}],
)
def test_another_load_or_length_tells_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = stored(tmp_path / "c", campaign_of(), 0.05)
    assert precision.known(campaign_of(**changes), [found], within=False) == {}


def test_variances_come_from_pieces_of_one_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 0.25 s scatter more than pieces of 2 s: together they would tell of neither."""
    made = campaign_of()
    newest, long, like = (stored(tmp_path / name, made, 0.05) for name in "abc")
    pieces = {newest.path: (0.25, 0.3), long.path: (2.0, 0.1), like.path: (0.26, 0.3)}
    draw = np.random.default_rng(3)

    def groups(_: Planned, one: Scenario, campaign: store.Campaign, *, within: bool) -> Any:
        length, spread = pieces[campaign.path]
        return {"cpu olla": [draw.normal(0, spread, 4).tolist() for _ in range(50)]}, length

    monkeypatch.setattr(precision, "_groups", groups)
    alone = precision.known(made, [newest])["one"]["cpu olla"]
    pooled = precision.known(made, [newest, long, like])["one"]["cpu olla"]
    assert pooled.within_s == pytest.approx(alone.within_s, rel=0.2)
    assert pooled.within_s == pytest.approx(0.3**2 * 0.25, rel=0.2)


def test_the_campaign_follows_the_plan_and_says_so_in_its_header() -> None:
    made = plan(Asked())
    decided = Precision(wanted=0.05, source="pilot", scenarios={"chat-small": Chosen(starts=9, length_s=3.5)})
    after = precision.apply(made, decided)
    by_id = {one.id: one for one in after.scenarios}
    assert (after.starts(by_id["chat-small"]), after.starts(by_id["chat-stream"])) == (9, 7)
    assert by_id["chat-small"].duration_s == 3.5
    assert [len(after.scenarios_in(number)) for number in (7, 8, 9, 10)] == [2, 1, 1, 0]
    assert after.described()["chat-small"].rounds == 9
    assert Precision.model_validate(after.precision) == decided


def test_a_forecast_is_held_against_what_came() -> None:
    decided = Precision(scenarios={"one": Chosen(starts=6, length_s=2, forecast={"cpu_us_per_request olla": 0.05})})
    row = {"scenario": "one", "metric": "cpu_us_per_request", "candidate": {"target": "olla"}, "basis": "ratio"}
    found = came(decided, [{**row, "ci_low": 0.9, "ci_high": 1.0}, {**row, "ci_low": None, "ci_high": None}])
    assert found["one"]["cpu_us_per_request olla"] == (0.05, pytest.approx(0.0541, abs=0.0001))
    assert (
        came_words(found) == "Half widths: forecast 5.0%, measured 5.4% (medians of 1 rows), 1 within a factor of 1.5"
    )
    assert came_words({}) is None


def test_rounds_and_a_plan_for_them_contradict_each_other() -> None:
    with pytest.raises(UsageRefusal, match="--rounds"):
        plan(Asked(rounds=3, precision=0.05))
