"""The search for the highest rate: which rate comes next, what a run says about its rate, and where the bench ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from loadgen.errors import UsageRefusal
from loadgen.studies.limit import Search, TriedRate, _objective, at_rate, judged, limit_words
from loadgen.workload import scenario
from reports.schema import Check, RunRecord


def climb(search: Search, says: Callable[[float], str]) -> Search:
    """Plays the search against a target of which `says` tells kept, lost or bench."""
    while (rate := search.next()) is not None:
        assert rate not in [rung.rate for rung in search.rungs], "a rate was tried twice"
        search.rungs.append(TriedRate(rate, says(rate)))  # type: ignore[arg-type]  # one of the three words
        assert len(search.rungs) < 40
    return search


@pytest.mark.parametrize("limit", [3, 40, 480, 510, 990, 1234, 7777])
def test_the_limit_lies_between_what_was_kept_and_what_was_lost_and_they_are_near(limit: float) -> None:
    search = climb(Search(500, 16_000, 0.1), lambda rate: "kept" if rate <= limit else "lost")
    assert search.kept is not None
    assert search.lost is not None
    assert search.kept <= limit < search.lost.rate
    assert search.lost.rate <= max(search.kept * 1.1, search.kept + 1)
    assert len(search.rungs) <= 14


def test_a_target_that_keeps_everything_is_said_to() -> None:
    search = climb(Search(500, 3000, 0.1), lambda rate: "kept")
    assert [rung.rate for rung in search.rungs] == [500, 1000, 2000, 3000]
    assert limit_words(search) == "nothing up to 3,000/s, where the search ends"


def test_a_target_that_keeps_nothing_ends_the_search() -> None:
    search = climb(Search(500, 3000, 0.1), lambda rate: "lost")
    assert search.kept is None


def test_where_the_bench_ends_it_is_not_called_the_targets_limit() -> None:
    search = climb(Search(500, 16_000, 0.1), lambda rate: "kept" if rate < 3000 else "bench")
    assert search.lost is not None
    assert search.lost.word == "bench"
    assert "the bench ends at" in limit_words(search)


def test_a_rate_that_is_kept_above_one_that_was_lost_does_not_count() -> None:
    search = Search(500, 4000, 0.1, [TriedRate(1000, "kept"), TriedRate(1100, "lost"), TriedRate(2000, "kept")])
    assert search.kept == 1000


def record(blame: str | None = None, goodput: float = 1000.0) -> RunRecord:
    checks = [] if blame is None else [Check(check="x", ok=False, blame=blame)]  # type: ignore[arg-type]  # one of two
    return RunRecord(
        run="r01-a-b",
        scenario="a",
        target="b",
        round=1,
        offered_rps=1000.0,
        void_reason=None if blame is None else "why",
        validity=checks,
        summary={"goodput_rps": goodput},
    )


def test_a_run_keeps_its_rate_loses_it_or_says_nothing() -> None:
    assert judged(record()).word == "kept"
    assert judged(record(goodput=995.0)).word == "kept"
    lost = judged(record(goodput=900.0))
    assert (lost.word, lost.why) == ("lost", "90.0% of the requests were answered inside the objective")
    assert judged(record("target")) == TriedRate(1000.0, "lost", "why")
    assert judged(record("bench")) == TriedRate(1000.0, "bench", "why")


def test_a_rung_is_a_point_of_a_sweep_over_rates() -> None:
    known = scenario.catalogue()
    rung = at_rate(known["chat-small"], 750, 2.0)
    assert (rung.id, rung.rate_rps(), rung.duration_s, rung.group) == ("chat-small-750", 750, 2.0, "chat-small")
    assert "sweep-rate" in rung.tags
    with pytest.raises(UsageRefusal, match="has no single rate"):
        at_rate(known["steps"], 750, 2.0)


@pytest.mark.parametrize("text", ["e2e_ms", "e2e_ms=0", "speed=3", "e2e_ms=x"])
def test_a_malformed_objective_is_refused(text: str) -> None:
    with pytest.raises(UsageRefusal, match="--slo"):
        _objective(text)
    assert _objective("e2e_ms=25") == ("e2e_ms", 25.0)
