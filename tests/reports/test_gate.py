"""The gate's verdicts: what turns red, what cannot, which exit code wins, and what is written about it."""

from __future__ import annotations

import math
import random
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports import gate
from reports.compare import Comparison, compare
from reports.gate import CountLimit, GateRow, GateRun, LoadTime, Side, TimeLimit, Times, Tried
from reports.schema import METRICS, Check, ScenarioRecord
from reports.store import ReportError
from tests.reports.synthetic import campaign_of, fact

LIMIT = CountLimit(limit=0.02, floor=0, why="for these tests")
FLOORED = CountLimit(limit=0.02, floor=3, why="for these tests")
CPU, ADDED, GOODPUT = "cpu_us_per_request", "added_p50_us", "goodput_rps"
TIMES = Times(
    rounds=6,
    pilot_rounds=0,
    half_width=0.02,
    idle_s=0.5,
    budget_s=100,
    scenarios={"chat": LoadTime(duration_s=1, warmup_s=0, metrics=(CPU, ADDED, GOODPUT))},
    metrics={
        CPU: TimeLimit(margin=0.03, blind=0.3, why="for these tests"),
        ADDED: TimeLimit(margin=0.05, blind=0.5, why="for these tests"),
        GOODPUT: TimeLimit(margin=0.01, blind=0.05, why="for these tests"),
    },
)
QUIET = [0.995, 1.004, 1.0, 0.998, 1.003, 1.0]
LOUD = [0.5, 2.2, 0.8, 1.9, 0.6, 1.4]


def count(base: Sequence[float], head: Sequence[float], limit: CountLimit = LIMIT) -> GateRow:
    return gate.judge_count("olla", "instructions_per_request", base, head, limit)


def scaled(series: Sequence[float], by: float) -> list[float]:
    return [value * by for value in series]


def measured(
    head: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]], again: Mapping[str, Sequence[float]]
) -> Comparison:
    sides = {"base": base, "head": head, "base@aa": again}
    facts = [
        fact("chat", number + 1, side, {m: series[number] for m, series in metrics.items()})
        for side, metrics in sides.items()
        for number in range(max(len(series) for series in metrics.values()))
    ]
    return compare(campaign_of(["base", "head"], {"chat": ScenarioRecord()}, 6, baseline="base"), facts)


def timed(head: Sequence[float], again: Sequence[float] = QUIET, metric: str = CPU, by: float = 100.0) -> GateRow:
    comparison = measured({metric: scaled(head, by)}, {metric: scaled(QUIET, by)}, {metric: scaled(again, by)})
    (row,) = (r for r in gate.judge_times("olla", comparison, TIMES) if r.metric == metric)
    return row


def run_of(*rows: GateRow, **more: Any) -> GateRun:
    return GateRun(id="20260801T120000Z-gate", started="2026-08-01T12:00:00+00:00", **more).judged(rows)


def row_of(word: str, **more: Any) -> GateRow:
    return GateRow.model_validate({"level": "L1", "subject": "olla", "metric": "x", "word": word, **more})


# ------------------------------------------------------------------------------------------------------------- policy
def test_every_limit_in_force_is_justified_and_names_something_that_is_measured() -> None:
    policy = gate.policy()
    assert set(policy.counts) == set(gate.UNITS)
    assert set(policy.times.metrics) <= set(METRICS)
    assert all(limit.why for limit in (*policy.counts.values(), *policy.times.metrics.values()))
    assert all(limit.limit <= 0.02 for name, limit in policy.counts.items() if not name.startswith("gc_"))


# ------------------------------------------------------------------------------------------------------------- counts
def test_a_count_two_percent_above_every_count_of_base_is_a_regression() -> None:
    assert count([1000, 1001], [1022, 1023]).word == "regression"


def test_a_count_within_two_percent_passes() -> None:
    found = count([1000, 1001], [1019, 1018])
    assert found.word == "pass"
    assert found.change == pytest.approx(0.018, abs=0.001)


def test_a_lower_count_is_called_better() -> None:
    assert count([1000], [900]).word == "improvement"


def test_counts_that_differ_among_themselves_by_as_much_are_unsteady_not_red() -> None:
    found = count([1000, 1060, 1000], [1050, 1050, 1000])
    assert found.word == "could-not-measure"
    assert "unsteady" in found.reason


def test_a_small_count_must_also_rise_by_its_floor() -> None:
    assert count([10], [12], FLOORED).word == "pass"
    assert count([10], [14], FLOORED).word == "regression"


def test_a_count_that_was_zero_is_judged_by_its_floor() -> None:
    assert count([0, 0], [2, 2], FLOORED).word == "pass"
    found = count([0, 0], [5, 6], FLOORED)
    assert found.word == "regression"
    assert not found.relative
    assert found.change == 5.5


def test_what_base_lacks_is_not_measured() -> None:
    found = count([], [1000])
    assert found.word == "not-measured"
    assert "base" in found.reason


# ----------------------------------------------------------------------------------------------------------- promises
KEPT, LOST, UNTRIED = Tried(True), Tried(False, "it broke"), Tried(None, "no admin listener")


@pytest.mark.parametrize(
    ("base", "head", "grave", "word"),
    [
        (KEPT, KEPT, True, "pass"),
        (KEPT, LOST, True, "void"),
        (KEPT, LOST, False, "regression"),
        (LOST, KEPT, True, "could-not-measure"),
        (LOST, KEPT, False, "improvement"),
        (LOST, LOST, True, "void"),
        (LOST, LOST, False, "pass"),
        (UNTRIED, KEPT, True, "pass"),
        (UNTRIED, LOST, True, "void"),
        (KEPT, UNTRIED, True, "not-measured"),
    ],
)
def test_a_promise_is_judged_by_what_its_loss_means(base: Tried, head: Tried, grave: bool, word: str) -> None:
    assert gate.judge_promise("olla", "right-replies", base, head, grave=grave).word == word


# -------------------------------------------------------------------------------------------------------------- times
def test_a_slow_down_beyond_the_margin_is_red() -> None:
    found = timed(scaled(QUIET, 1.10))
    assert found.word == "regression"
    assert found.change == pytest.approx(0.10, abs=0.01)


def test_an_interval_that_reaches_into_the_margin_is_not_red() -> None:
    assert timed(scaled(QUIET, 1.02)).word == "pass"


def test_a_slow_down_beside_an_unclean_second_base_could_not_be_measured() -> None:
    found = timed(scaled(QUIET, 1.30), again=scaled(QUIET, 1.10))
    assert found.word == "could-not-measure"
    assert "A/A" in found.reason


def test_noise_that_hides_everything_is_never_passed() -> None:
    found = timed(LOUD)
    assert found.word == "could-not-measure"
    assert "not visible" in found.reason


def test_a_speed_up_is_called_better() -> None:
    assert timed(scaled(QUIET, 0.8)).word == "improvement"


def test_fewer_right_replies_are_worse() -> None:
    assert timed(scaled(QUIET, 0.9), metric=GOODPUT).word == "regression"
    assert timed(scaled(QUIET, 1.1), metric=GOODPUT).word == "improvement"


def test_added_time_is_judged_as_a_share_however_small_it_is() -> None:
    base, again = [100.0, 101, 99, 100, 101, 99], [100.0, 99, 101, 100, 99, 101]
    for more, word in ((1.0, "pass"), (1.5, "regression")):
        comparison = measured({ADDED: [value * more for value in base]}, {ADDED: base}, {ADDED: again})
        (row,) = (r for r in gate.judge_times("olla", comparison, TIMES) if r.metric == ADDED)
        assert (row.word, row.relative) == (word, True)


def test_a_scenario_that_never_ran_could_not_be_measured() -> None:
    nothing = compare(campaign_of(["base", "head"], {"chat": ScenarioRecord()}, 6, baseline="base"), [])
    assert {row.word for row in gate.judge_times("olla", nothing, TIMES)} == {"could-not-measure"}


def test_a_metric_that_is_judged_needs_its_limits() -> None:
    with pytest.raises(ValueError, match="gc_count has no limits"):
        Times.model_validate(
            {
                **TIMES.model_dump(),
                "scenarios": {"chat": {**TIMES.scenarios["chat"].model_dump(), "metrics": ["gc_count"]}},
            }
        )


def voided(side: str, check: Check) -> Comparison:
    """Every run of `side` failed `check`; the others are fine."""
    facts = []
    for name in ("base", "head", "base@aa"):
        for number, factor in enumerate(QUIET, 1):
            one = fact("chat", number, name, {CPU: 100.0 * factor})
            if name == side:
                record = one.record.model_copy(update={"validity": [check], "void_reason": check.text})
                one = replace(one, record=record)
            facts.append(one)
    return compare(campaign_of(["base", "head"], {"chat": ScenarioRecord()}, 6, baseline="base"), facts)


def words(comparison: Comparison) -> set[str]:
    return {row.word for row in gate.judge_times("olla", comparison, TIMES) if row.metric == CPU}


def test_wrong_replies_of_head_are_void() -> None:
    assert words(voided("head", Check(check="digest", ok=False, blame="target", text="wrong bytes"))) == {"void"}


def test_a_head_that_cannot_carry_what_base_carries_is_a_regression() -> None:
    check = Check(check="achieved-rate", ok=False, blame="target", text="rate not reached")
    assert words(voided("head", check)) == {"regression"}


def spoilt(side: str, check: Check, rounds: Sequence[int]) -> set[str]:
    """The words of six rounds in which head costs what base does and this check of one side failed in some of them."""
    facts = []
    for number in range(1, 7):
        for name in ("base", "head", "base@aa"):
            one = fact("chat", number, name, {CPU: QUIET[number - 1], ADDED: QUIET[number - 1]})
            if name == side and number in rounds:
                record = one.record.model_copy(update={"validity": [check], "outcome": "failed", "fault": check.text})
                one = replace(one, record=record)
            facts.append(one)
    found = compare(campaign_of(["base", "head"], {"chat": ScenarioRecord()}, 6, baseline="base"), facts)
    return {row.word for row in gate.judge_times("olla", found, TIMES) if row.metric in (CPU, ADDED)}


def test_one_changed_reply_of_head_in_one_round_is_void_however_good_its_times_are() -> None:
    check = Check(check="digest", value=1.0, ok=False, blame="target", text="1 of 6,000 replies was wrong")
    assert spoilt("head", check, [4]) == {"void"}


def test_a_head_that_fails_in_two_rounds_of_six_is_a_regression_and_in_none_it_passes() -> None:
    check = Check(check="errors", ok=False, blame="target", text="0.3 % ended unexpectedly")
    assert spoilt("head", check, [2, 5]) == {"regression"}
    assert spoilt("head", check, []) == {"pass"}


def test_where_base_itself_fails_nothing_can_be_said_of_head() -> None:
    check = Check(check="errors", ok=False, blame="target", text="0.3 % ended unexpectedly")
    assert spoilt("base", check, [2, 5]) == {"could-not-measure"}


LATE = Check(check="generator-lag", ok=False, blame="bench", text="generator lag p99 90 ms over its 2 ms budget")
BEHIND = Check(check="achieved-rate", ok=False, blame="target", text="99 % were not carried")


def checked(failed: Mapping[tuple[str, int], Sequence[Check]], outcome: str) -> set[str]:
    """The words of six rounds with equal costs in which these checks failed, by side and round."""
    facts = []
    for number in range(1, 7):
        for name in ("base", "head", "base@aa"):
            one = fact("chat", number, name, {CPU: 100 * QUIET[number - 1]})
            if checks := failed.get((name, number)):
                said = {"void_reason": LATE.text} if outcome == "void" else {"fault": BEHIND.text}
                record = one.record.model_copy(update={"validity": list(checks), "outcome": outcome, **said})
                one = replace(one, record=record)
            facts.append(one)
    return words(compare(campaign_of(["base", "head"], {"chat": ScenarioRecord()}, 6, baseline="base"), facts))


def test_falling_behind_in_one_round_may_be_the_machine_and_in_two_it_is_head() -> None:
    assert checked({("head", 3): [BEHIND]}, "overloaded") == {"pass"}
    assert checked({("base", 3): [BEHIND]}, "overloaded") == {"pass"}
    assert checked({("head", 3): [BEHIND], ("head", 5): [BEHIND]}, "overloaded") == {"regression"}


def test_a_head_that_fails_in_every_round_is_a_regression_however_late_the_generator_was() -> None:
    late = {(name, number): [LATE] for name in ("base", "base@aa") for number in range(1, 7)}
    behind = {("head", number): [LATE, BEHIND] for number in range(1, 7)}
    assert checked(late | behind, "void") == {"regression"}
    once_not = behind | {("head", 2): [LATE]}
    assert checked(late | once_not, "void") == {"could-not-measure"}
    base_too = late | behind | {("base@aa", 4): [LATE, BEHIND]}
    assert checked(base_too, "void") == {"could-not-measure"}


def test_a_round_that_the_bench_spoilt_takes_nothing_from_the_others() -> None:
    assert checked({("head", 3): [LATE]}, "void") == {"pass"}
    assert checked({("head", number): [LATE] for number in (1, 2, 3)}, "void") == {"could-not-measure"}


def test_a_base_that_seems_unlike_itself_matters_where_head_is_called_slower_or_where_it_is_beyond_doubt() -> None:
    unlike = scaled(QUIET[::-1], 1.032)  # its interval leaves out 0, and is not wholly beyond the margin of 3 %
    assert timed(QUIET, again=unlike).word == "pass"
    assert timed(scaled(QUIET, 1.30), again=unlike).word == "could-not-measure"
    assert timed(QUIET, again=scaled(QUIET, 1.10)).word == "could-not-measure"


def test_five_percent_more_cpu_is_red_where_the_planned_precision_is_had() -> None:
    def of(series: Sequence[float]) -> list[float]:
        return [1 + (value - 1) * 4 for value in series]  # half width near 2 %

    found = timed(scaled(of([1.002, 0.997, 1.003, 0.999, 1.001, 0.998]), 1.05), again=of(QUIET[::-1]))
    assert found.word == "regression", found


def test_what_could_not_be_decided_says_what_it_would_take() -> None:
    comparison = measured({CPU: scaled(LOUD, 100)}, {CPU: scaled(QUIET, 100)}, {CPU: scaled(QUIET, 100)})
    rows = gate.judge_times("olla", comparison, TIMES, {("chat", CPU): "+-2.0% would take 12 min here"})
    (row,) = (r for r in rows if r.metric == CPU)
    assert row.word == "could-not-measure"
    assert row.reason.endswith("not visible here; +-2.0% would take 12 min here")


def test_a_reply_changed_before_the_first_counted_run_is_void_for_head_and_a_doubt_about_base() -> None:
    wrong = Check(check="digest", value=2.0, ok=False, blame="target", text="2 of 900 replies were wrong")
    records = [
        fact("chat", 1, name, {}).record.model_copy(update={"validity": [wrong], "outcome": "failed", "fault": "x"})
        for name in ("head", "base")
    ]
    assert [row.word for row in gate.judge_before("olla", records)] == ["void", "could-not-measure"]
    assert gate.judge_before("olla", [fact("chat", 1, "head", {}).record]) == []


def test_a_machine_that_could_not_measure_is_never_red() -> None:
    check = Check(check="generator-lag", ok=False, blame="bench", text="generator lag p99 9 ms")
    assert words(voided("head", check)) == {"could-not-measure"}


def test_equal_code_is_hardly_ever_red() -> None:
    rng = random.Random(11)

    def noise() -> list[float]:
        return [100 * math.exp(rng.gauss(0, 0.03)) for _ in range(6)]

    found = [timed(noise(), again=noise(), by=1.0).word for _ in range(300)]
    assert found.count("regression") <= 3


# --------------------------------------------------------------------------------------------------------- exit codes
@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], 0),
        (["pass", "improvement", "not-measured"], 0),
        (["pass", "regression"], 1),
        (["could-not-measure", "pass"], 2),
        (["could-not-measure", "regression"], 1),
        (["could-not-measure", "regression", "void"], 3),
    ],
)
def test_three_beats_one_beats_two(found: list[str], code: int) -> None:
    assert gate.exit_code(row_of(word) for word in found) == code


# -------------------------------------------------------------------------------------------------------------- files
FULL = run_of(
    row_of("pass", base=1000.0, head=1001.0, change=0.001, ci_low=0.0005, ci_high=0.0015, limit="+2 %"),
    row_of("regression", metric="y", base=10.0, head=20.0, change=1.0, reason="every count | is `above`"),
    row_of("not-measured", metric="z", reason="base has no such count"),
    row_of("could-not-measure", metric="w", level="L2", visible="12 %"),
    sides={"base": Side(name="HEAD^", revision="a" * 40, subject="Add <script>"), "head": Side(name="HEAD")},
    notes=["not counted: strace is not installed"],
    machine_class="linux-x86_64",
)


def test_the_summary_says_the_verdict_first_and_keeps_markup_of_others_out() -> None:
    text = gate.summary(FULL)
    assert text.splitlines()[0] == "## Performance gate: Regression: olla y +100.00 %: every count \\| is 'above'"
    assert "&lt;script>" in text and "<script>" not in text
    assert "strace is not installed" in text
    assert "12 %" in text


def test_junit_tells_failures_from_errors_from_skips() -> None:
    suites = {suite.get("name"): suite for suite in ET.fromstring(gate.junit(FULL))}
    assert suites["gate L1"].get("failures") == "1"
    assert suites["gate L1"].get("skipped") == "1"
    assert suites["gate L2"].get("errors") == "1"
    assert {case.get("name") for case in suites["gate L1"].iter("testcase")} == {"x", "y", "z"}


def test_a_run_that_measured_nothing_says_why() -> None:
    nothing = run_of(notes=["HEAD has no parent"]).model_copy(update={"exit_code": gate.COULD_NOT_MEASURE})
    assert gate.headline(nothing) == "Could not measure: HEAD has no parent"


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    gate.write_run(tmp_path, FULL)
    assert gate.GateRun.model_validate_json((tmp_path / "gate.json").read_bytes()) == FULL
    assert "NaN" not in (tmp_path / "gate.json").read_text()


# --------------------------------------------------------------------------------------------------------- own limits
def test_u18_own_limits_replace_ours_and_each_difference_is_said(tmp_path: Path) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text("counts: {instructions_per_request: {limit: 0.05}}\ntimes: {rounds: 8, budget_s: 150}\n")
    policy, said = gate.own_policy(file)
    assert policy.counts["instructions_per_request"].limit == 0.05
    assert policy.counts["instructions_per_event"] == gate.policy().counts["instructions_per_event"]
    assert policy.times.rounds == 8
    assert said == [
        f"limit counts.instructions_per_request.limit: 0.05 instead of 0.02 ({file})",
        f"limit times.rounds: 8 instead of 5 ({file})",
    ]
    assert gate.policy().times.rounds == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("counts: {instructions: {limit: 0.05}}", r"counts\.instructions\.limit: is no limit"),
        ("counts: {instructions_per_request: {limt: 1}}", "known here are limit, floor, why"),
        ("counts: {instructions_per_request: {limit: 7}}", r"instructions_per_request\.limit: 7: "),
        ("counts: {instructions_per_request: {limit: .nan}}", "nan"),
        ("times: {rounds: many}", r"times\.rounds: 'many'"),
        ("- 1", "holds no limits"),
        ("{", "not YAML"),
    ],
)
def test_u18_wrong_limits_are_refused_with_file_key_and_value(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "limits.yaml"
    file.write_text(text)
    with pytest.raises(ReportError, match=says) as refused:
        gate.own_policy(file)
    assert str(file) in str(refused.value)
    assert refused.value.exit_code == 65


def test_u18_a_metric_that_nobody_measured_counts_only_where_all_must_be() -> None:
    rows = [row_of("pass"), row_of("not-measured")]
    assert gate.exit_code(rows) == gate.PASSED
    assert gate.exit_code(rows, all_measured=True) == gate.COULD_NOT_MEASURE


def test_u18_the_comment_is_marked_and_short_enough_for_a_server(tmp_path: Path) -> None:
    gate.write_run(tmp_path, run_of(row_of("regression", reason="more")))
    text = (tmp_path / "comment.md").read_text()
    assert text.splitlines()[0] == gate.COMMENT_MARK
    assert "## Performance gate: Regression" in text
    many = run_of(*[row_of("regression", reason="x" * 500)] * 300)
    assert len(gate.comment(many)) < 65_536
    assert gate.comment(many).endswith("Cut here; all rows are in summary.md.\n")
