from __future__ import annotations

from dataclasses import replace

import pytest

from reports.compare import Row, SideValue
from reports.words import change, confidence, digits, headline, interval, number, percent, sentence, share, shown, title

OLLA = Row(
    "chat",
    "cpu_us_per_request",
    SideValue("sherpa", 100.0, (99.0, 101.0)),
    SideValue("olla", 22.0, (21.0, 23.0)),
    "ratio",
    "faster",
    "interval excludes 1",
    6,
    primary=True,
    ratio=0.22,
    ci_low=0.21,
    ci_high=0.23,
)


def test_the_sentences_are_the_fixed_ones() -> None:
    assert sentence(OLLA) == "Olla is faster: CPU per request -78 % (95 % CI -79..-77), 6 rounds"
    even = replace(OLLA, metric="e2e_p50_ms", verdict="equivalent", ratio=1.004, ci_low=0.998, ci_high=1.012)
    assert sentence(even) == "Equivalent within 5 %: end to end p50 +0.4 % (95 % CI -0.2..+1.2), 6 rounds"
    noisy = replace(OLLA, verdict="too-noisy", reason="effects under 12 % are not visible here")
    assert sentence(noisy) == "Too noisy to tell: CPU per request, effects under 12 % are not visible here"
    void = replace(OLLA, verdict="void", reason="generator lag p99 9 ms over its 2 ms budget")
    assert sentence(void) == "Void: generator lag p99 9 ms over its 2 ms budget"
    absent = replace(OLLA, verdict="not-measured", reason="no CPU samples of the target")
    assert sentence(absent) == "Not measured: CPU per request, no CPU samples of the target"


def test_an_effect_that_was_seen_and_has_no_word_is_not_called_noise() -> None:
    withheld = replace(OLLA, verdict="too-noisy", p_adjusted=0.001, reason="the targets were only 5 % busy")
    said = "No verdict: CPU per request -78 % (95 % CI -79..-77), 6 rounds; the targets were only 5 % busy"
    assert (sentence(withheld), shown(withheld)) == (said, "no verdict")
    assert shown(replace(withheld, p_adjusted=0.4)) == "too noisy"


def test_an_interval_says_its_own_confidence() -> None:
    assert [confidence(level) for level in (0.05, 0.05 / 3, 0.001)] == ["95 % CI", "98.33 % CI", "99.9 % CI"]


def test_memory_and_pauses_are_better_or_worse_not_faster() -> None:
    worse = replace(OLLA, metric="rss_idle_mib", verdict="slower", ratio=1.2, ci_low=1.15, ci_high=1.25, rounds=1)
    assert sentence(worse) == "Olla is worse: memory idle +20 % (95 % CI +15..+25), 1 round"


def test_a_difference_is_said_in_its_unit() -> None:
    row = replace(
        OLLA, metric="gc_total_ms", basis="difference", ratio=None, difference=-11.1, ci_low=-15.5, ci_high=-6.76
    )
    assert change(row) == "-11.1 ms (95 % CI -15.5..-6.76)"
    count = replace(row, metric="gc_count", difference=2.0, ci_low=1.0, ci_high=3.0)
    assert change(count) == "+2.00 (95 % CI +1.00..+3.00)"


def test_there_is_no_percentage_without_an_interval() -> None:
    assert change(replace(OLLA, ci_low=None, ci_high=None)) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12,346"),
        (float("nan"), "–"),
    ],
)
def test_numbers_have_three_honest_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_below_one_two_digits_are_shown_and_zeros_among_them() -> None:
    said = [digits(value) for value in (0.2, 0.0996, 0.804, 0.997, 0, 1.5, 4041.2)]
    assert said == ["0.20", "0.10", "0.80", "0.997", "0", "1.50", "4,041"]


@pytest.mark.parametrize(
    ("value", "text"), [(-0.78, "-78 %"), (0.0004, "0 %"), (0.031, "+3.1 %"), (0.0996, "+10 %"), (11.0, "×12.0")]
)
def test_changes_carry_their_sign(value: float, text: str) -> None:
    assert percent(value) == text


def test_intervals_are_as_fine_as_they_need_to_be() -> None:
    assert interval(-0.79, -0.77) == "-79..-77"
    assert interval(-0.8812, -0.8791) == "-88.1..-87.9"
    assert interval(-0.0001, 0.0001) == "0..0"
    assert interval(8.0, 12.0) == "×9.00..×13.0"
    assert interval(-0.9999, 1e9) == "<×0.01..>×100"


def test_shares_have_no_sign() -> None:
    assert share(0.369) == "36.9 %"


def test_engines_are_proper_nouns_and_other_targets_are_not() -> None:
    assert (title("olla"), title("sherpa"), title("nginx"), title("direct")) == ("Olla", "Sherpa", "nginx", "No proxy")


def test_the_headline_is_what_was_served_then_cpu_then_latency() -> None:
    latency = replace(OLLA, metric="added_p50_us")
    served = replace(OLLA, metric="goodput_rps", verdict="slower")
    even = replace(OLLA, metric="goodput_rps", verdict="equivalent")
    secondary = replace(OLLA, metric="throughput_rps", primary=False)
    assert headline([latency, OLLA, even]) == OLLA
    assert headline([latency, OLLA, served]) == served
    noisy = replace(OLLA, verdict="too-noisy")
    assert headline([even, noisy]) == noisy
    assert headline([even, replace(OLLA, verdict="equivalent")]) == replace(OLLA, verdict="equivalent")
    assert headline([secondary]) is None
