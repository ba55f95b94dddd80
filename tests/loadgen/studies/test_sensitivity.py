"""The proof of sensitivity: what counts as a false alarm, a miss and a void campaign, and what is asked of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from loadgen.errors import BadInput, Missing
from loadgen.studies import sensitivity
from loadgen.studies.sensitivity import EFFECTS, CampaignOutcome, StudySize, findings, found_delay, judged
from reports.compare import Comparison, compare
from reports.schema import ScenarioRecord
from reports.stats import Estimate, estimate
from tests.reports.synthetic import campaign_of, fact

NOISE = (1.0, 1.004, 0.997, 1.002, 0.999, 1.001)
AGAIN = (1.001, 1.0, 1.001, 0.998, 1.002, 0.999)


def comparison(
    levels: Mapping[str, tuple[float, float]],
    *,
    scenario: str = "probe-busy",
    baseline: str = "relay-busy",
    void: Sequence[tuple[int, str]] = (),
) -> Comparison:
    """Six rounds; `levels[target]` is (added microseconds, CPU microseconds a request)."""
    facts = [
        fact(
            scenario,
            number,
            name,
            {
                "added_p50_us": added * noise,
                "cpu_us_per_request": cpu * noise,
                "goodput_rps": 1000.0,
                "e2e_p99_ms": 2.0,
            },
            void="steal 9 %" if (number, name) in void else None,
            utilisation=cpu / 1000 + 0.1,
        )
        for name, (added, cpu) in levels.items()
        for number, noise in enumerate(NOISE if name == baseline else AGAIN, 1)
    ]
    primary = ScenarioRecord(primary=["added_p50_us", "cpu_us_per_request", "goodput_rps"])
    targets = [name for name in levels if not name.endswith("@aa")]
    return compare(campaign_of(targets, {scenario: primary}, 6, baseline=baseline), facts)


LEVELS = {
    "relay-busy": (400.0, 300.0),
    "relay-busy-10-percent": (440.0, 330.0),
    "relay-busy-200us": (600.0, 500.0),
    "relay-busy@aa": (400.0, 300.0),
}


def test_a_campaign_that_sees_what_is_there_and_nothing_else() -> None:
    one = judged(3, comparison(LEVELS))
    assert (one.number, one.void, one.false, one.words) == (3, "", (), ("slower", "slower"))
    assert one.sizes == pytest.approx((0.10, 0.50), abs=0.01)


def test_a_base_that_differs_from_itself_is_a_false_alarm() -> None:
    one = judged(1, comparison({**LEVELS, "relay-busy@aa": (400.0, 330.0)}))
    assert one.false == ("cpu_us_per_request",)


def test_an_effect_that_is_not_there_is_a_miss() -> None:
    one = judged(1, comparison({**LEVELS, "relay-busy-10-percent": (400.0, 300.0)}))
    assert one.words == ("equivalent", "slower")


def test_a_campaign_short_of_rounds_says_nothing() -> None:
    one = judged(1, comparison(LEVELS, void=[(2, "relay-busy")]))
    assert one.void == "steal 9 %"


def test_the_delay_is_the_mean_difference_of_the_rounds() -> None:
    found = found_delay(
        comparison({"relay": (60.0, 50.0), "relay-200us": (262.0, 250.0)}, scenario="probe-delay", baseline="relay")
    )
    assert found is not None
    assert found.mean == pytest.approx(202, abs=1)
    assert found.samples == 6
    assert found_delay(comparison(LEVELS)) is None


def campaigns(*, void: int = 0, false: int = 0, missed: int = 0) -> list[CampaignOutcome]:
    tries = []
    for number in range(20):
        words = ("too-noisy" if number >= 20 - missed else "slower", "slower")
        tries.append(
            CampaignOutcome(
                number + 1,
                void="steal" if number < void else "",
                false=("goodput_rps",) if void <= number < void + false else (),
                words=words,
                sizes=(0.1, 0.5),
            )
        )
    return tries


EXACT = estimate([199.0, 201.0, 202.0, 198.0, 200.0, 203.0])


@pytest.mark.parametrize(
    ("tries", "found", "holds"),
    [
        (campaigns(), EXACT, [True] * 5),
        (campaigns(void=4, false=3, missed=3), EXACT, [True] * 5),
        (campaigns(void=5), EXACT, [False, True, True, True, True]),
        (campaigns(false=4), EXACT, [True, False, True, True, True]),
        (campaigns(missed=5), EXACT, [True, True, False, True, True]),
        (campaigns(void=20), EXACT, [False, True, False, False, True]),
        (campaigns(), estimate([240.0, 241.0]), [True, True, True, True, False]),
        (campaigns(), None, [True, True, True, True, False]),
        ([], None, [False] * 5),
    ],
)
def test_silence_fails_as_false_alarms_do(
    tries: list[CampaignOutcome], found: Estimate | None, holds: list[bool]
) -> None:
    lines = findings(tries, found)
    assert [line.holds for line in lines] == holds
    text = sensitivity.page(lines, tries, "so long")
    assert text.count("\n| ") == len(lines)
    assert text.count("- campaign") == len(tries)


def test_the_whole_proof_fits_into_an_hour() -> None:
    assert StudySize(sensitivity.CAMPAIGNS, sensitivity.ROUNDS).total_s() < 3600


def test_what_was_asked_first_is_asked_again_when_resumed(tmp_path: Path) -> None:
    sensitivity._begin(tmp_path, StudySize(7, 4))
    assert sensitivity._given_before(tmp_path) == StudySize(7, 4)
    with pytest.raises(BadInput, match="go on with --resume"):
        sensitivity._begin(tmp_path, StudySize(7, 4))
    with pytest.raises(Missing, match="no such folder"):
        sensitivity._given_before(tmp_path / "nothing")
    (tmp_path / sensitivity.STATE).write_text('{"schema": 1}')
    with pytest.raises(BadInput, match="does not say what was asked"):
        sensitivity._given_before(tmp_path)


def test_every_effect_is_a_target_that_differs_from_the_base_in_its_knob_only() -> None:
    one = sensitivity.busy(1, 6)
    base, *others = one.targets
    assert [target.name for target in others] == [effect.target for effect in EFFECTS]
    words = [set(target.command) for target in one.targets]  # type: ignore[attr-defined]  # all are processes
    assert [sorted(mine - words[0]) for mine in words[1:]] == [["--extra-cpu", "0.1"], ["--delay-us", "200"]]
    assert [arm.name for arm in one.arms][-1] == f"{base.name}@aa"
