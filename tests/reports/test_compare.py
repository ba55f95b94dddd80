from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import stats
from reports.compare import Comparison, Row, compare, drift, visible_text
from reports.schema import METRICS, Check, ScenarioRecord
from reports.store import ReportError
from reports.summarise import Facts, Requests
from tests.reports.calibrate import score
from tests.reports.synthetic import campaign_of, fact

QUIET = [0.99, 1.01, 1.0, 0.995, 1.005, 1.0]
ONE = {"chat": ScenarioRecord(primary=["cpu_us_per_request", "added_p50_us", "goodput_rps"])}


def alone(metric: str) -> dict[str, ScenarioRecord]:
    """A scenario whose only primary is this metric (and, of a latency, its tail, which these facts do not have)."""
    return {"chat": ScenarioRecord(primary=[metric])}


def compared(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    state: str = "complete",
    planned: int | None = None,
    scenarios: Mapping[str, ScenarioRecord] = ONE,
    **extra: Any,
) -> Comparison:
    """`values[target][metric]` by round, in one scenario."""
    rounds = planned or max(len(series) for metrics in values.values() for series in metrics.values())
    targets = [name for name in values if not name.endswith("@aa")]
    facts = [
        fact("chat", n + 1, target, {m: series[n] for m, series in metrics.items() if n < len(series)}, **extra)
        for target, metrics in values.items()
        for n in range(max(len(series) for series in metrics.values()))
    ]
    return compare(campaign_of(targets, scenarios, rounds, state), facts)


def row(metric: str, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> Row:
    values = {"sherpa": {metric: ours}, "olla": {metric: theirs}}
    found = compared(values, scenarios=alone(metric), **more).row("chat", metric, "olla")
    assert found is not None
    return found


def times(series: Sequence[float], factor: float) -> list[float]:
    return [value * factor for value in series]


# ------------------------------------------------------------------------------------------------------------- words
def test_the_ratio_is_the_geometric_mean_of_the_rounds_ratios() -> None:
    found = row("e2e_p50_ms", [1, 2, 4, 8], [2, 4, 2, 4])
    assert found.ratio == pytest.approx(1.0)
    assert found.baseline.value == pytest.approx(math.sqrt(8))
    assert found.basis == "ratio"


@pytest.mark.parametrize(
    ("metric", "factor", "word"),
    [
        ("e2e_p50_ms", 0.5, "faster"),
        ("e2e_p50_ms", 2.0, "slower"),
        ("e2e_p50_ms", 1.0, "equivalent"),
        ("rss_peak_mib", 1.5, "slower"),
        ("throughput_rps", 1.5, "faster"),
        ("goodput_rps", 0.9, "slower"),
        ("capacity_rps_per_core", 3.0, "faster"),
    ],
)
def test_lower_is_better_except_where_it_is_not(metric: str, factor: float, word: str) -> None:
    theirs = [value * factor for value in [1.0, 1.002, 0.998, 1.001, 0.999, 1.0]]
    assert row(metric, [1.0, 1.001, 1.0, 0.999, 1.0, 1.0], theirs).verdict == word


def test_an_interval_inside_the_margin_is_equivalent_even_if_it_excludes_one() -> None:
    found = row("e2e_p50_ms", [1.0] * 6, [0.970, 0.971, 0.972, 0.970, 0.971, 0.969])
    assert found.ci_high is not None
    assert found.ci_high < 1
    assert found.verdict == "equivalent"


def test_an_interval_that_crosses_one_and_leaves_the_margin_is_too_noisy_and_says_what_it_could_see() -> None:
    found = row("e2e_p50_ms", [1.0] * 6, [0.8, 1.3, 0.9, 1.2, 0.85, 1.1])
    assert found.verdict == "too-noisy"
    assert f"effects under {visible_text(found)} are not visible here" in found.reason


def test_one_round_concludes_nothing() -> None:
    found = row("e2e_p50_ms", [1.0], [0.1])
    assert (found.verdict, found.rounds, found.ci_low) == ("too-noisy", 1, None)
    assert found.ratio == pytest.approx(0.1)
    assert "one round" in found.reason


def test_no_row_is_called_different_with_an_interval_that_crosses_one() -> None:
    rng = np.random.default_rng(11)
    for _ in range(150):
        noise = rng.normal(0, 0.03, (3, 6))
        shift = rng.uniform(-0.08, 0.08, 3)
        metrics = ("cpu_us_per_request", "e2e_p50_ms", "goodput_rps")
        ours = {m: [100.0] * 6 for m in metrics}
        theirs = {m: list(100 * np.exp(noise[i] + shift[i])) for i, m in enumerate(metrics)}
        for found in compared({"sherpa": ours, "olla": theirs}).rows:
            if found.verdict in ("faster", "slower", "lower", "higher"):
                assert found.ci_low is not None
                assert found.ci_high is not None
                assert found.ci_high < 1 or found.ci_low > 1
                assert found.p_adjusted is not None
                assert found.p_adjusted <= 0.05


NOISY = [0.90, 0.95, 0.97, 0.91, 0.99, 0.93]


def family() -> Comparison:
    """Sherpa and olla in three metrics of the same samples, two of them primary."""
    ours, other = [1.0] * 6, [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]
    return compared(
        {
            "sherpa": {"cpu_us_per_request": ours, "added_p50_us": ours, "e2e_p50_ms": ours},
            "olla": {"cpu_us_per_request": NOISY, "added_p50_us": other, "e2e_p50_ms": NOISY},
        }
    )


def test_every_row_prints_its_own_95_percent_interval_whatever_its_family() -> None:
    found = family()
    primary, secondary = (found.row("chat", metric, "olla") for metric in ("cpu_us_per_request", "e2e_p50_ms"))
    assert primary is not None
    assert secondary is not None
    assert (primary.primary, secondary.primary) == (True, False)
    assert primary.level == secondary.level == 0.05
    assert (primary.ci_low, primary.ci_high) == (secondary.ci_low, secondary.ci_high)
    ends = stats.estimate(np.log(NOISY)).interval()
    assert ends is not None
    assert (primary.ci_low, primary.ci_high) == pytest.approx((math.exp(ends.low), math.exp(ends.high)))


def test_the_word_of_a_primary_follows_the_p_that_its_scenarios_primaries_share() -> None:
    found = family().row("chat", "cpu_us_per_request", "olla")
    assert found is not None
    assert found.p is not None
    assert found.p_adjusted == pytest.approx(2 * found.p)
    assert found.adjusted_level == pytest.approx(0.025)
    assert found.verdict == "faster"
    # Where the adjusted p is too large the interval still excludes 1, and the reason says so.
    close = row("cpu_us_per_request", [1.0] * 6, [0.93, 1.01, 0.95, 0.99, 0.94, 0.98])
    other = {"added_p50_us": [1.0, 1.1, 0.9, 1.05, 0.95, 1.0], "goodput_rps": [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]}
    ours = {"cpu_us_per_request": [1.0] * 6, **{name: [1.0] * 6 for name in other}}
    theirs = {"cpu_us_per_request": [0.93, 1.01, 0.95, 0.99, 0.94, 0.98], **other}
    shared = compared({"sherpa": ours, "olla": theirs}).row("chat", "cpu_us_per_request", "olla")
    assert shared is not None
    assert (close.verdict, shared.verdict) == ("faster", "too-noisy")
    assert (close.ci_low, close.ci_high) == (shared.ci_low, shared.ci_high)
    assert "when the primary metrics of its scenario share one error rate" in shared.reason


def test_a_further_scenario_weakens_no_verdict() -> None:
    def p_adjusted(scenarios: Sequence[str]) -> float | None:
        facts = [
            fact(name, n + 1, target, {"cpu_us_per_request": value, "added_p50_us": 1.0 + n / 50})
            for name in scenarios
            for target in ("sherpa", "olla")
            for n, value in enumerate(NOISY if target == "olla" else [1.0] * 6)
        ]
        described = dict.fromkeys(scenarios, ONE["chat"])
        found = compare(campaign_of(("sherpa", "olla"), described, 6), facts).row("one", "cpu_us_per_request", "olla")
        assert found is not None
        return found.p_adjusted

    assert p_adjusted(["one"]) == p_adjusted(["one", "two", "three", "four"])


def test_a_secondary_row_never_wears_the_words_of_a_primary_one() -> None:
    found = family()
    secondary = [one for one in found.rows if not one.primary and one.verdict != "not-measured"]
    assert secondary
    assert {one.verdict for one in secondary} <= {"lower", "higher", "similar", "unclear"}
    latency = found.row("chat", "e2e_p50_ms", "olla")
    assert latency is not None
    assert (latency.verdict, latency.winner) == ("lower", "olla")
    assert latency.adjusted_level is None


@pytest.mark.parametrize(
    ("again", "word"),
    [
        ([1.12, 1.15, 1.13, 1.16, 1.12, 1.14], "too-noisy"),  # the second arm is dearer, in every round
        ([1.2, 0.8, 1.25, 0.85, 1.15, 0.82], "faster"),  # noise of the arm itself, which the pairs do not have
        ([1.01, 1.012, 1.011, 1.01, 1.011, 1.012], "faster"),  # a difference inside the margin
        ([1.05, 1.06, 1.05, 1.06, 1.05, 1.06], "faster"),  # a difference smaller than the effect
    ],
)
def test_an_effect_by_which_the_baseline_differs_from_itself_has_no_word(again: list[float], word: str) -> None:
    values = {
        "sherpa": {"cpu_us_per_request": [1.0] * 6},
        "olla": {"cpu_us_per_request": times(QUIET, 0.9)},
        "sherpa@aa": {"cpu_us_per_request": again},
    }
    found = compared(values).row("chat", "cpu_us_per_request", "olla")
    assert found is not None
    assert found.verdict == word
    assert ("sherpa differs from itself here (+12..+15 %), by as much as this" in found.reason) == (word == "too-noisy")


# ------------------------------------------------------------------------------------------------------- differences
def test_collections_and_errors_are_differences_whatever_the_data() -> None:
    found = row("gc_total_ms", [10, 12, 11, 10, 9, 11], [0, 1, 0, 0, 1, 0])
    assert found.basis == "difference"
    assert found.ratio is None
    assert found.verdict == "faster"
    assert found.ci_high is not None
    assert found.ci_high < 0
    assert found.difference == pytest.approx(np.mean([0, 1, 0, 0, 1, 0]) - np.mean([10, 12, 11, 10, 9, 11]))
    assert row("gc_total_ms", [10, 12, 11, 10, 9, 11], [4, 5, 4, 4, 5, 4]).basis == "difference"


def test_zero_everywhere_on_both_sides_is_equivalent() -> None:
    assert row("error_ratio", [0.0] * 6, [0.0] * 6).verdict == "equivalent"
    assert row("error_ratio", [0.0] * 6, [0.1, 0.12, 0.1, 0.11, 0.09, 0.1]).verdict == "slower"


@pytest.mark.parametrize("level", [20.0, 400.0, 4000.0])
def test_added_time_is_a_ratio_at_every_size(level: float) -> None:
    found = row("added_p50_us", times(QUIET, level), times(QUIET, level / 4))
    assert (found.basis, found.verdict) == ("ratio", "faster")


def test_a_ratio_with_a_zero_is_not_measured_and_says_so() -> None:
    found = row("rss_kib_per_stream", [34.0] * 6, [0.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    assert (found.basis, found.verdict) == ("ratio", "not-measured")
    assert "a ratio needs values above 0" in found.reason


def test_the_smallest_visible_effect_is_right_for_reductions_too() -> None:
    wild = row("e2e_p50_ms", [1.0] * 6, [0.3, 3.0, 0.4, 2.5, 0.35, 2.9])
    assert wild.visible is not None
    less, more = visible_text(wild).split("/")
    factor = 1 + wild.visible
    assert factor > 5
    assert float(less.removeprefix("-").removesuffix(" %")) == pytest.approx(100 * (1 - 1 / factor), abs=1)
    assert more.startswith(("+", "×"))
    assert visible_text(row("e2e_p50_ms", [1.0] * 6, QUIET)) == "1 %"


# ----------------------------------------------------------------------------------------------------------- tails
def with_latencies(target: str, number: int, values: np.ndarray) -> Facts:
    nothing = np.full(values.size, np.nan)
    requests = Requests(
        np.linspace(0, 1, values.size),
        nothing,
        values,
        values,
        values,
        nothing,
        np.full(values.size, "m", dtype=object),
    )
    return replace(fact("chat", number, target, {}), requests=requests)


def tails(per_round: int, slow: float, metric: str = "e2e_p99_ms", rounds: int = 6) -> Row:
    rng = np.random.default_rng(1)
    facts = [
        with_latencies(target, n, factor * rng.lognormal(0, 0.5, per_round))
        for n in range(1, rounds + 1)
        for target, factor in (("sherpa", 1.0), ("olla", slow))
    ]
    found = compare(campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord()}, rounds), facts).row(
        "chat", metric, "olla"
    )
    assert found is not None
    return found


def test_the_tail_is_that_of_all_rounds_requests_and_no_run_needs_a_thousand_of_its_own() -> None:
    found = tails(200, 3.0)
    assert found.primary
    assert found.verdict == "slower"
    assert found.ratio == pytest.approx(3.0, rel=0.2)
    assert found.baseline.value == pytest.approx(math.exp(0.5 * 2.326), rel=0.15)
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < 3.0 < found.ci_high
    assert found == tails(200, 3.0)  # the resampling is seeded


def test_too_few_requests_in_all_carry_no_tail() -> None:
    few = tails(160, 3.0)
    assert few.verdict == "not-measured"
    assert few.reason == "p99 needs 1,000 samples over all rounds, these have 960"
    assert tails(200, 3.0, "e2e_p999_ms").reason == "p99.9 needs 10,000 samples over all rounds, these have 1,200"
    assert tails(1700, 3.0, "e2e_p999_ms").verdict == "higher"


@pytest.mark.parametrize(
    ("scenario", "primaries"),
    [
        (ScenarioRecord(), ("added_p50_us", "cpu_us_per_request", "goodput_rps", "e2e_p99_ms")),
        (ScenarioRecord(kind="stream"), ("added_p50_us", "cpu_us_per_event", "goodput_rps", "transit_event_p99_us")),
        (ScenarioRecord(primary=["added_p99_us", "goodput_rps"]), ("added_p99_us", "goodput_rps")),
        (ScenarioRecord(primary=["gc_count", "gc_total_ms"]), ("gc_count", "gc_total_ms")),
    ],
)
def test_a_scenario_about_latency_has_its_tail_among_the_primaries(
    scenario: ScenarioRecord, primaries: tuple[str, ...]
) -> None:
    assert scenario.primaries() == primaries


# -------------------------------------------------------------------------------------------------------- capacity
def test_a_capacity_lies_between_the_rate_measured_and_that_rate_over_the_busy_share() -> None:
    facts = []
    for n, wobble in enumerate(QUIET, 1):
        # Sherpa is loaded fully; the generator could load Olla to 90 %, so its capacity is up to 1 / 0.9 of its rate.
        facts.append(fact("chat", n, "sherpa", {"capacity_rps_per_core": 5000 * wobble}, utilisation=1.0))
        facts.append(fact("chat", n, "olla", {"capacity_rps_per_core": 50_000.0}, utilisation=0.9))
    campaign = campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord(primary=["capacity_rps_per_core"])}, 6)
    found = compare(campaign, facts).row("chat", "capacity_rps_per_core", "olla")
    assert found is not None
    assert found.verdict == "faster"
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < 9.0 < found.ci_high
    assert found.ci_low < 10.0 < found.ci_high
    assert found.candidate.ci == pytest.approx((45_000, 50_000))
    assert found.candidate.value == pytest.approx(math.sqrt(45_000 * 50_000))


def test_capacities_whose_bounds_overlap_are_not_called_different() -> None:
    facts = []
    for n, wobble in enumerate(QUIET, 1):
        facts.append(fact("chat", n, "sherpa", {"capacity_rps_per_core": 50_500 * wobble}, utilisation=0.97))
        facts.append(fact("chat", n, "olla", {"capacity_rps_per_core": 53_000 * wobble}, utilisation=0.88))
    campaign = campaign_of(("sherpa", "olla"), {"chat": ScenarioRecord(primary=["capacity_rps_per_core"])}, 6)
    found = compare(campaign, facts).row("chat", "capacity_rps_per_core", "olla")
    assert found is not None
    assert found.verdict == "too-noisy"
    assert found.p == 1.0


# --------------------------------------------------------------------------------------------------------------- CPU
@pytest.mark.parametrize(
    ("factor", "ours", "theirs", "word"),
    [
        (0.2, 0.05, 0.01, "faster"),  # in favour of the less busy, which is the overcharged one: stands
        (0.7, 0.10, 0.07, "too-noisy"),  # within a factor of two: needs both 30 % busy
        (0.7, 0.50, 0.35, "faster"),
        (3.0, 0.10, 0.05, "too-noisy"),  # against the less busy one
        (3.0, 0.10, 0.30, "slower"),
    ],
)
def test_a_cpu_verdict_that_low_load_could_have_made_is_withheld(
    factor: float, ours: float, theirs: float, word: str
) -> None:
    facts: list[Facts] = []
    for n, noise in enumerate([1.0, 1.01, 0.99, 1.0, 1.005, 0.995], 1):
        facts.append(fact("chat", n, "sherpa", {"cpu_us_per_request": 100.0}, utilisation=ours))
        facts.append(fact("chat", n, "olla", {"cpu_us_per_request": 100 * factor * noise}, utilisation=theirs))
    found = compare(campaign_of(("sherpa", "olla"), ONE, 6), facts).row("chat", "cpu_us_per_request", "olla")
    assert found is not None
    assert found.verdict == word
    if word == "too-noisy":
        assert "needs both at 30 %" in found.reason
    assert found.withheld == (word == "too-noisy")


# ------------------------------------------------------------------------------------------------- missing and void
def runs(
    rounds: int, *, void: Mapping[tuple[int, str], tuple[str, str]] | None = None, skip: Sequence[int] = ()
) -> list[Facts]:
    """Olla at half of sherpa's latency; `void[(round, target)]` is (reason, blame)."""
    found = []
    for n in range(1, rounds + 1):
        for target, level in (("sherpa", 2.0), ("olla", 1.0), ("nginx", 1.5)):
            if n in skip:
                continue
            reason, blame = (void or {}).get((n, target), (None, "bench"))
            found.append(fact("chat", n, target, {"e2e_p50_ms": level * QUIET[n % 6]}, void=reason, blame=blame))
    return found


def word(facts: Sequence[Facts], target: str = "olla", *, planned: int = 6, state: str = "complete") -> Row:
    campaign = campaign_of(("sherpa", "olla", "nginx"), alone("e2e_p50_ms"), planned, state)
    found = compare(campaign, facts).row("chat", "e2e_p50_ms", target)
    assert found is not None
    return found


def test_a_run_that_the_bench_spoiled_voids_its_round_for_every_target() -> None:
    spoiled = word(runs(6, void={(2, "nginx"): ("generator lag p99 9 ms over its 2 ms budget", "bench")}))
    assert spoiled.verdict == "void"
    assert "generator lag p99 9 ms over its 2 ms budget" in spoiled.reason
    assert spoiled.rounds == 5


def test_what_a_target_did_wrong_in_one_round_of_eight_stays_counted() -> None:
    facts = runs(8, void={(2, "nginx"): ("0.30% of the requests ended unexpectedly", "target")})
    found = word(facts, "nginx", planned=8)
    assert (found.verdict, found.rounds) == ("faster", 8)
    seen = compare(campaign_of(("sherpa", "olla", "nginx"), ONE, 8), facts)
    blame = seen.blames["chat", "nginx"]
    assert (blame.failed, blame.rounds, blame.word) == (1, 8, None)


def test_a_target_that_fails_in_more_than_one_round_of_eight_is_unreliable() -> None:
    said = "0.30% of the requests ended unexpectedly"
    facts = runs(8, void={(2, "nginx"): (said, "target"), (5, "nginx"): (said, "target")})
    found = word(facts, "nginx", planned=8)
    assert (found.verdict, found.blamed) == ("unreliable", ("nginx",))
    assert found.reason == f"nginx failed in 2 of 8 rounds: {said} (in r02-chat-nginx)"
    assert found.ratio == pytest.approx(0.75, rel=0.02)  # its figures are kept
    assert word(facts, "olla", planned=8).verdict == "faster"


def test_a_failing_baseline_makes_its_rows_unreliable_and_says_whose_fault_it_is() -> None:
    facts = runs(6, void={(2, "sherpa"): ("it crashed", "target")})
    assert word(facts, "olla").blamed == word(facts, "nginx").blamed == ("sherpa",)
    assert word(facts, "olla").verdict == "unreliable"


def broken_runs(target: str, check: str, rounds: Sequence[int], **changes: Any) -> list[Facts]:
    """Eight rounds of `runs`; in some of them this check of this target failed."""
    found = runs(8)
    for facts in found:
        if facts.record.target == target and facts.record.round in rounds:
            failed = Check(check=check, ok=False, blame="target", text="it failed", **changes)
            facts.record.validity.append(failed)
            object.__setattr__(facts, "record", facts.record.model_copy(update={"void_reason": "it failed"}))
    return found


def test_a_target_that_cannot_carry_the_load_is_overloaded_with_its_own_figures() -> None:
    found = word(broken_runs("nginx", "achieved-rate", range(1, 9)), "nginx", planned=8)
    assert (found.verdict, found.blamed, found.rounds) == ("overloaded", ("nginx",), 8)
    assert found.candidate.value == pytest.approx(1.5, rel=0.02)
    assert found.reason == "nginx could not carry the offered load in 8 of 8 rounds: it failed (in r01-chat-nginx)"


def test_one_wrong_reply_is_enough() -> None:
    facts = broken_runs("nginx", "digest", [4], value=1.0)
    found = word(facts, "nginx", planned=8)
    assert found.verdict == "unreliable"
    assert found.reason == "nginx changed 1 reply: it failed (in r04-chat-nginx)"


def test_a_wrong_reply_in_a_round_that_the_bench_spoilt_is_no_less_wrong() -> None:
    facts = broken_runs("nginx", "digest", [4], value=2.0)
    for one in facts:
        if one.record.round == 4:
            one.record.validity.append(Check(check="steal", ok=False, blame="bench"))
            object.__setattr__(one, "record", one.record.model_copy(update={"void_reason": "steal 9 %"}))
    seen = compare(campaign_of(("sherpa", "olla", "nginx"), ONE, 8), facts)
    assert seen.blames["chat", "nginx"].wrong_replies == 2
    assert seen.blame("chat", "nginx") == "unreliable"


def test_a_generator_that_cannot_saturate_its_target_is_nobodys_fault() -> None:
    assert word(broken_runs("nginx", "saturation", range(1, 9)), "nginx", planned=8).verdict == "faster"


def test_a_repeated_round_makes_up_for_a_void_one() -> None:
    repaired = word(runs(7, void={(2, "olla"): ("steal 9 %", "bench")}))
    assert (repaired.verdict, repaired.rounds) == ("faster", 6)


# ------------------------------------------------------------------------------------------------------------- drift
def trends(changes: Sequence[float | None], warned_above: float = 0.10) -> list[list[Check]]:
    return [
        [Check(check="trend", value=change, blame="target", warn=abs(change or 0.0) > warned_above)]
        for change in changes
    ]


def test_a_change_that_every_round_repeats_is_a_drift() -> None:
    said = drift(trends([0.30, 0.25, 0.35, 0.28, 0.31, 0.33]))
    assert said is not None
    assert "latency changes by +30 % within each run, in 6 runs alike" in said
    assert drift(trends([-0.25, -0.22, -0.24, -0.26])) is not None  # a cold start


@pytest.mark.parametrize(
    "changes",
    [
        [0.6, -0.4, 0.5, -0.35, 0.0, 0.02],  # the machine's speed stepped, up and down
        [0.6, 0.0, 0.01, -0.01, 0.02, 0.0],  # once
        [0.09, 0.08, 0.09, 0.085, 0.09, 0.08],  # alike, but small
        [0.9],  # one round
        [None, None, None, None],  # not measured
        [],
    ],
)
def test_what_does_not_repeat_or_is_small_is_no_drift(changes: Sequence[float | None]) -> None:
    assert drift(trends(changes)) is None


def test_a_change_that_no_run_warned_of_is_no_drift() -> None:
    # 30 % of a latency under 50 us, or without an order from bin to bin.
    assert drift(trends([0.30, 0.25, 0.35, 0.28, 0.31, 0.33], warned_above=1.0)) is None


@given(st.lists(st.floats(0.12, 0.9), min_size=2, max_size=6))
def test_a_change_with_its_opposite_in_another_round_is_never_a_drift(changes: list[float]) -> None:
    both = [*changes, *(1 / (1 + change) - 1 for change in changes)]
    assert drift(trends(both)) is None


def drifting(*targets: str) -> list[Facts]:
    facts = runs(6)
    for found in facts:
        if found.record.target in targets:
            found.record.validity.append(Check(check="trend", value=0.4, blame="target", warn=True))
    return facts


def test_a_drifting_target_has_no_one_latency_and_spoils_no_other() -> None:
    facts = drifting("nginx")
    assert word(facts, "nginx").verdict == "unreliable"
    assert "the target does not stand still" in word(facts, "nginx").reason
    assert word(facts, "olla").verdict == "faster"


def test_a_queue_that_grows_is_an_overload_and_no_drift() -> None:
    facts = [
        replace(one, record=one.record.model_copy(update={"outcome": "overloaded", "fault": "35 % were not carried"}))
        if one.record.target == "nginx"
        else one
        for one in drifting("nginx")
    ]
    found = word(facts, "nginx")
    assert found.verdict == "overloaded"
    assert "nginx could not carry the offered load in 6 of 6 rounds: 35 % were not carried" in found.reason


def test_both_arms_of_the_baseline_drift_together_or_not_at_all() -> None:
    facts = drifting("sherpa")
    again = [
        replace(one, record=one.record.model_copy(update={"target": "sherpa@aa", "run": f"{one.record.run}@aa"}))
        for one in runs(6)
        if one.record.target == "sherpa"
    ]
    for one in again:
        one.record.validity.append(Check(check="trend", value=-0.3, blame="target"))
    seen = compare(campaign_of(("sherpa", "olla", "nginx"), ONE, 6), [*facts, *again])
    assert seen.blame("chat", "sherpa") is None
    assert seen.blame("chat", "sherpa@aa") is None


def test_rounds_never_run_after_an_interrupt_are_missing_and_not_void() -> None:
    short = word(runs(3), state="interrupted")
    assert (short.verdict, short.rounds) == ("faster", 3)
    spoiled = word(runs(3, void={(2, "olla"): ("steal 9 %", "bench")}), state="interrupted")
    assert (spoiled.verdict, spoiled.rounds) == ("faster", 2)
    nothing = word(runs(1, void={(1, "olla"): ("steal 9 %", "bench")}), state="interrupted")
    assert nothing.verdict == "void"


def test_a_target_that_did_not_run_is_not_measured() -> None:
    absent = word([one for one in runs(6) if one.record.target != "nginx"], "nginx")
    assert (absent.verdict, absent.reason) == ("not-measured", "nginx did not run in this scenario")


def test_targets_that_never_met_in_a_round_are_not_measured() -> None:
    facts = [one for one in runs(6) if (one.record.round <= 3) == (one.record.target == "sherpa")]
    assert word(facts).reason == "no round in which both targets finished"


def test_a_metric_absent_in_one_valid_round_is_not_measured_and_names_the_run() -> None:
    facts = runs(6)
    broken = fact("chat", 3, "olla", {})
    facts = [broken if (one.record.round, one.record.target) == (3, "olla") else one for one in facts]
    found = word(facts)
    assert found.verdict == "not-measured"
    assert "r03-chat-olla" in found.reason


def test_every_other_target_and_the_second_arm_get_a_row_for_every_metric() -> None:
    found = compare(campaign_of(("sherpa", "olla", "direct"), ONE, 6), runs(6))
    assert {r.candidate.target for r in found.rows} == {"olla", "direct", "nginx", "sherpa@aa"}
    assert len(found.rows) == 4 * len(METRICS)


def test_a_baseline_nobody_knows_is_refused() -> None:
    with pytest.raises(ReportError, match="baseline 'envoy' is none of its targets"):
        compare(campaign_of(("sherpa", "olla"), ONE, 6, baseline="envoy"), runs(6))


def test_without_a_baseline_there_is_nothing_to_compare() -> None:
    assert compare(campaign_of(("direct",), ONE, 6), []).rows == ()


# -------------------------------------------------------------------------------------------------------- calibration
@pytest.mark.parametrize("rounds", [6, 12])
def test_a_campaign_without_effect_calls_any_primary_different_in_at_most_one_of_twenty(rounds: int) -> None:
    found = score(1.0, rounds, campaigns=120)
    assert found.false_alarms <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 120)


def test_large_effects_are_called_by_their_name_and_small_ones_never_by_the_opposite() -> None:
    half = score(0.5, 6, campaigns=20)
    assert half.share("cpu_us_per_request", "faster") == 1.0
    tenth = score(0.9, 8, campaigns=60)
    assert tenth.share("cpu_us_per_request", "faster") >= 0.7
    assert tenth.share("cpu_us_per_request", "slower") == 0


def test_figures_count_the_rounds_that_the_table_compares() -> None:
    costs = {"sherpa": [1.0, 2.0, 3.0, 4.0], "olla": [1.0, 1.0, 1.0, 1.0], "direct": [0.1, 0.1, 0.1, 0.1]}
    facts = [
        fact("chat", n + 1, target, {"cpu_us_per_request": series[n]}, void=void)
        for target, series in costs.items()
        for n in range(4)
        for void in ["steal 9 %" if (target, n) in (("sherpa", 3), ("olla", 0)) else None]
    ]
    seen = compare(campaign_of(["sherpa", "olla", "direct"], ONE, 4), facts)

    def rounds(target: str) -> list[int]:
        return [run.record.round for run in seen.counted("chat", target)]

    assert rounds("sherpa") == rounds("olla") == [2, 3]
    assert rounds("direct") == [2, 3]
    row = seen.row("chat", "cpu_us_per_request", "olla")
    assert row is not None
    assert row.rounds == 2
