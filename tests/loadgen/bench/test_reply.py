"""No right answer, no measurement."""

from __future__ import annotations

import dataclasses

import pytest

from loadgen.bench.reply import Received, what_is_wrong
from loadgen.workload.job import Expect, Template

DIGEST = "sha256=" + "a" * 64
OTHER = "sha256=" + "b" * 64
RIGHT = Received(status=200, digest=DIGEST, events=3, stated_digest=DIGEST, stated_events=3)
TEMPLATE = Template(path="/v1/chat/completions", expect=Expect(200, DIGEST, 3))


def test_the_expected_reply_is_right() -> None:
    assert what_is_wrong(RIGHT, TEMPLATE, from_mock=True) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": 502}, "answered with 502 instead of 200"),
        ({"stated_digest": None}, "does not carry X-Mock-Digest"),
        ({"digest": OTHER}, "not the one the mock sent"),
        ({"digest": OTHER, "stated_digest": OTHER}, "the scenario pins"),
        ({"events": 2}, "2 events came where the mock sent 3"),
        ({"events": 2, "stated_events": 2}, "2 events came where the scenario expects 3"),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, object], said: str) -> None:
    wrong = what_is_wrong(dataclasses.replace(RIGHT, **changes), TEMPLATE, from_mock=True)  # type: ignore[arg-type]
    assert wrong is not None
    assert said in wrong
    assert wrong.startswith("POST /v1/chat/completions")


def test_a_remade_reply_is_held_to_its_status_only() -> None:
    remade = dataclasses.replace(RIGHT, digest=OTHER, stated_digest=None, events=0)
    assert what_is_wrong(remade, TEMPLATE, from_mock=False) is None
    assert what_is_wrong(dataclasses.replace(remade, status=500), TEMPLATE, from_mock=False) is not None
