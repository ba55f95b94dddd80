from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reports.compare import Comparison, Row, compare, drift, estimate, holm, sign_flip_p, visible_text
from reports.schema import Check, Scenario
from reports.store import ReportError
from reports.summarise import Facts
from tests.reports.calibrate import score
from tests.reports.synthetic import campaign_of, fact

QUIET = [0.99, 1.01, 1.0, 0.995, 1.005, 1.0]
ONE = {"chat": Scenario(primary=["cpu_us_per_request", "added_p50_us", "goodput_rps"])}


def compared(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    state: str = "complete",
    planned: int | None = None,
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
    return compare(campaign_of(targets, ONE, rounds, state), facts)


def row(metric: str, ours: Sequence[float], theirs: Sequence[float], **more: Any) -> Row:
    values = {"sherpa": {metric: ours}, "olla": {metric: theirs}}
    found = compared(values, **more).row("chat", metric, "olla")
    assert found is not None
    return found


def times(series: Sequence[float], factor: float) -> list[float]:
    return [value * factor for value in series]


# -------------------------------------------------------------------------------------------------------- statistics
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=12).filter(lambda v: np.std(v) > 1e-6))
def test_interval_and_p_are_those_of_a_t_test(samples: list[float]) -> None:
    found = estimate(samples)
    expected = stats.ttest_1samp(samples, 0.0)
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.interval() == pytest.approx((low, high))


def test_one_sample_has_an_estimate_and_no_interval() -> None:
    found = estimate([0.3])
    assert (found.mean, found.interval(), found.p) == (0.3, None, None)


def test_equal_samples_have_an_interval_of_no_width() -> None:
    assert estimate([0.0] * 5).p == 1.0
    assert estimate([0.2] * 5).p == 0.0
    assert estimate([0.2] * 5).interval() == pytest.approx((0.2, 0.2))


def test_the_exact_sign_flip_p_of_one_sided_samples_is_two_in_all_flips() -> None:
    assert sign_flip_p(np.array([1.0, 2, 3, 4, 5, 6])) == pytest.approx(2 / 64)
    assert sign_flip_p(np.array([1.0, -1.0])) == 1.0
    assert sign_flip_p(np.arange(1.0, 17)) < 0.001


def test_holm_steps_down_and_stops() -> None:
    assert holm({1: 0.001, 2: 0.03, 3: 0.02}) == {1: (True, 0.05 / 3), 3: (True, 0.025), 2: (True, 0.05)}
    assert holm({1: 0.001, 2: 0.03, 3: 0.04}) == {1: (True, 0.05 / 3), 2: (False, 0.025), 3: (False, 0.025)}
    assert holm({}) == {}


@given(st.dictionaries(st.integers(), st.floats(0, 1), max_size=8))
def test_holm_rejects_what_bonferroni_does_and_nothing_above_the_level(p_values: dict[int, float]) -> None:
    for key, (rejected, _) in holm(p_values).items():
        assert rejected or p_values[key] > 0.05 / len(p_values)
        assert not rejected or p_values[key] <= 0.05


def test_the_smallest_visible_effect_is_found_four_times_in_five() -> None:
    rng = np.random.default_rng(5)
    sd, rounds = 0.05, 8
    # The effect that 80 % power promises for this spread, put in as truth.
    effect = (stats.t.ppf(0.975, rounds - 1) + stats.t.ppf(0.8, rounds - 1)) * sd / math.sqrt(rounds)
    hits = sum((estimate(rng.normal(effect, sd, rounds)).p or 1) <= 0.05 for _ in range(2000))
    assert hits / 2000 == pytest.approx(0.8, abs=0.04)


def test_the_95_percent_interval_covers_the_truth_95_times_in_100() -> None:
    rng = np.random.default_rng(7)
    for rounds in (4, 6, 12):
        inside = 0
        for _ in range(3000):
            ends = estimate(rng.normal(0.1, 0.1, rounds)).interval()
            assert ends is not None
            inside += ends[0] <= 0.1 <= ends[1]
        assert inside / 3000 == pytest.approx(0.95, abs=0.02)


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


def test_a_primary_row_is_never_faster_with_an_interval_that_crosses_one() -> None:
    rng = np.random.default_rng(11)
    for _ in range(150):
        noise = rng.normal(0, 0.03, (3, 6))
        shift = rng.uniform(-0.08, 0.08, 3)
        metrics = ("cpu_us_per_request", "e2e_p50_ms", "goodput_rps")
        ours = {m: [100.0] * 6 for m in metrics}
        theirs = {m: list(100 * np.exp(noise[i] + shift[i])) for i, m in enumerate(metrics)}
        for found in compared({"sherpa": ours, "olla": theirs}).rows:
            if found.verdict in ("faster", "slower"):
                assert found.ci_low is not None
                assert found.ci_high is not None
                assert found.ci_high < 1 or found.ci_low > 1
            if found.verdict == "too-noisy" and found.ci_low is not None and found.ci_high is not None:
                assert found.ci_low <= 1 <= found.ci_high


def test_primaries_share_one_budget_so_their_intervals_are_wider_than_those_of_secondaries() -> None:
    noisy = [0.90, 0.95, 0.97, 0.91, 0.99, 0.93]
    ours, theirs = [1.0] * 6, noisy
    values = {
        "sherpa": {"cpu_us_per_request": ours, "added_p50_us": ours, "e2e_p50_ms": ours},
        "olla": {"cpu_us_per_request": theirs, "added_p50_us": [1.0, 1.1, 0.9, 1.05, 0.95, 1.0], "e2e_p50_ms": theirs},
    }
    found = compared(values)
    primary, secondary = (found.row("chat", metric, "olla") for metric in ("cpu_us_per_request", "e2e_p50_ms"))
    assert primary is not None
    assert secondary is not None
    assert primary.primary
    assert not secondary.primary
    assert primary.level < secondary.level == 0.05
    assert primary.ci_low is not None
    assert secondary.ci_low is not None
    assert primary.ci_low < secondary.ci_low


# ------------------------------------------------------------------------------------------------------- differences
def test_a_zero_in_a_round_turns_the_ratio_into_a_difference() -> None:
    found = row("gc_total_ms", [10, 12, 11, 10, 9, 11], [0, 1, 0, 0, 1, 0])
    assert found.basis == "difference"
    assert found.ratio is None
    assert found.verdict == "faster"
    assert found.ci_high is not None
    assert found.ci_high < 0
    assert found.difference == pytest.approx(np.mean([0, 1, 0, 0, 1, 0]) - np.mean([10, 12, 11, 10, 9, 11]))


def test_zero_everywhere_on_both_sides_is_equivalent() -> None:
    assert row("error_ratio", [0.0] * 6, [0.0] * 6).verdict == "equivalent"
    assert row("error_ratio", [0.0] * 6, [0.1, 0.12, 0.1, 0.11, 0.09, 0.1]).verdict == "slower"


def test_added_time_near_the_noise_floor_is_judged_as_a_difference_of_50_us() -> None:
    ours, again, theirs = [20, 25, 22, 28, 21, 24], [30, 15, 32, 18, 31, 14], [40, 44, 42, 48, 41, 45]
    values = {"sherpa": {"added_p50_us": ours}, "olla": {"added_p50_us": theirs}, "sherpa@aa": {"added_p50_us": again}}
    found = compared(values).row("chat", "added_p50_us", "olla")
    assert found is not None
    assert found.basis == "difference"
    assert found.verdict == "equivalent"
    assert "50 µs" in found.reason


def test_added_time_far_above_the_noise_floor_is_judged_as_a_ratio() -> None:
    ours = [400, 405, 398, 402, 401, 399]
    values = {
        "sherpa": {"added_p50_us": ours},
        "olla": {"added_p50_us": times(ours, 0.25)},
        "sherpa@aa": {"added_p50_us": [401, 404, 399, 400, 402, 400]},
    }
    found = compared(values).row("chat", "added_p50_us", "olla")
    assert found is not None
    assert (found.basis, found.verdict) == ("ratio", "faster")


def test_added_time_without_a_known_noise_floor_is_a_difference() -> None:
    assert row("added_p50_us", [400.0] * 6, [100.0, 101, 99, 100, 100, 100]).basis == "difference"


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
        assert "needs both at 30%" in found.reason


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
    campaign = campaign_of(("sherpa", "olla", "nginx"), ONE, planned, state)
    found = compare(campaign, facts).row("chat", "e2e_p50_ms", target)
    assert found is not None
    return found


def test_a_run_that_the_bench_spoiled_voids_its_round_for_every_target() -> None:
    spoiled = word(runs(6, void={(2, "nginx"): ("generator lag p99 9 ms over its 2 ms budget", "bench")}))
    assert spoiled.verdict == "void"
    assert "generator lag p99 9 ms over its 2 ms budget" in spoiled.reason
    assert spoiled.rounds == 5


def test_a_run_that_its_target_spoiled_voids_only_that_targets_rows() -> None:
    facts = runs(6, void={(2, "nginx"): ("rate not reached", "target")})
    assert word(facts, "nginx").verdict == "void"
    assert word(facts, "olla").verdict == "faster"


def test_a_voided_baseline_run_voids_that_round_for_all_its_candidates() -> None:
    facts = runs(6, void={(2, "sherpa"): ("a wrong digest", "target")})
    assert word(facts, "olla").verdict == word(facts, "nginx").verdict == "void"


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
    assert "latency changes by +30% within each run, in 6 rounds alike" in said
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


def test_a_drifting_target_voids_its_rows_and_no_others() -> None:
    facts = runs(6)
    for found in facts:
        if found.record.target == "nginx":
            found.record.validity.append(Check(check="trend", value=0.4, blame="target", warn=True))
    assert word(facts, "nginx").verdict == "void"
    assert "the target does not stand still" in word(facts, "nginx").reason
    assert word(facts, "olla").verdict == "faster"


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
    assert len(found.rows) == 4 * 27


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
        fact("chat", n + 1, target, {"cpu_us_per_request": series[n]}, void=void, blame="target")
        for target, series in costs.items()
        for n in range(4)
        for void in ["trend" if (target, n) in (("sherpa", 3), ("olla", 0)) else None]
    ]
    seen = compare(campaign_of(["sherpa", "olla", "direct"], ONE, 4), facts)

    def rounds(target: str) -> list[int]:
        return [run.record.round for run in seen.counted("chat", target)]

    assert rounds("sherpa") == rounds("olla") == [2, 3]
    assert rounds("direct") == [1, 2, 3]
    row = seen.row("chat", "cpu_us_per_request", "olla")
    assert row is not None
    assert row.rounds == 2
