"""The batched model has a true knee, the same on every machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from mock_backends.knee import draw, knee_of, simulate, sweep
from mock_backends.profile import load_profile, read_profile
from mock_backends.strict import Refused

SMALL = read_profile(
    {
        "name": "small",
        "output_tokens": 30,
        "time_to_first_token": "20ms",
        "token_gap": "10ms",
        "batch": {"slots": 8, "free": 2, "growth": 0.5, "queue": 16},
    },
    "test",
)


def test_below_the_knee_nothing_waits_and_beyond_it_everything_does() -> None:
    points = sweep(SMALL, 0, points=6)
    knee = knee_of(points)
    assert points[0] is not knee is not points[-1]
    assert points[0].ttft_p50 == pytest.approx(20, rel=0.1)
    assert points[-1].ttft_p50 > 10 * points[0].ttft_p50
    assert points[0].refused == 0 < points[-1].refused
    assert points[-1].in_flight == pytest.approx(8, rel=0.1)
    # With all slots taken a step takes 10 ms * (1 + 0.5 * 6), so 8 sequences give 200 tokens/s.
    assert points[-1].tokens_per_s == pytest.approx(200, rel=0.1)


def test_a_simulation_is_repeated_exactly() -> None:
    assert simulate(SMALL, 3, 5.0, 60) == simulate(SMALL, 3, 5.0, 60)


def test_it_is_drawn_to_a_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mock_backends.knee.REQUESTS", 40)
    table = draw(SMALL, 0, tmp_path / "knee.png")
    assert "<- knee" in table
    assert (tmp_path / "knee.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_without_a_batch_has_none() -> None:
    with pytest.raises(Refused, match="no `batch`"):
        sweep(load_profile("instant"), 0)
