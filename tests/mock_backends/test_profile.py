"""Profiles are data: the ready-made ones load, wrong ones are refused in sentences, the fitted ones fit."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mock_backends.distribution import Sampler
from mock_backends.profile import Profile, known_profiles, load_profile, read_profile
from mock_backends.strict import Refused

TRACES = Path(os.environ.get("PROXY_ENGINES_TRACES") or Path(__file__).parents[3] / "shared" / "traces")


def test_the_promised_profiles_are_there_and_load() -> None:
    promised = {"instant", "chat-70b", "chat-8b", "code-completion", "embedding", "cold-start", "overloaded"}
    assert promised <= set(known_profiles())
    for name in known_profiles():
        assert load_profile(name).name == name


@pytest.mark.parametrize(("profile", "trace"), [("chat-8b", "conv"), ("code-completion", "code")])
def test_fitted_profiles_reproduce_the_token_counts_of_the_azure_trace(profile: str, trace: str) -> None:
    file = TRACES / "azure-2023" / f"AzureLLMInferenceTrace_{trace}.csv"
    if not file.exists():
        pytest.skip(f"no Azure trace at {TRACES} (set PROXY_ENGINES_TRACES)")
    fitted = load_profile(profile)
    with file.open(encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    for column, distribution in (("ContextTokens", fitted.prompt_tokens), ("GeneratedTokens", fitted.output_tokens)):
        real = sorted(int(row[column]) for row in rows)
        drawn = sorted(Sampler(distribution).draw(Random(0), len(real)))
        for share in (0.5, 0.99):
            i = int(share * len(real))
            assert drawn[i] == pytest.approx(real[i], rel=0.05, abs=1), (column, share)


def test_like_takes_every_other_key_from_a_ready_made_profile() -> None:
    mine = read_profile({"name": "mine", "like": "overloaded", "batch": None}, "test")
    theirs = load_profile("overloaded")
    assert mine.token_gap == theirs.token_gap
    assert mine.batch is None
    assert mine.name == "mine"


def test_what_the_control_listener_shows_is_read_back_the_same() -> None:
    for name in known_profiles():
        profile = load_profile(name)
        assert read_profile(profile.model_dump(mode="json", exclude_defaults=True), "dump") == profile


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"name": "x", "tokn_gap": "5ms"}, "f: unknown key 'tokn_gap'; did you mean 'token_gap'?"),
        ({"name": "x", "token_gap": 5}, "f: token_gap.constant: 5 is not a duration"),
        ({"name": "x", "batch": {"slots": 0}}, "f: batch.slots: "),
        ({"name": "x", "over_time": [{"shape": "stp", "factor": 2}]}, "f: over_time.0.shape: "),
        ({"name": "x", "event_bytes": 2**30}, "f: event_bytes: "),
        ({"name": "<script>"}, "f: name: "),
        ({}, "f: name: Field required"),
        ({"like": "chat-8"}, "f: like: no profile 'chat-8'; did you mean 'chat-8b'?"),
        ([], "f: expected keys and values, got list"),
    ],
)
def test_a_profile_that_cannot_be_is_refused_with_file_key_and_reason(data: Any, why: str) -> None:
    with pytest.raises(Refused) as caught:
        read_profile(data, "f")
    assert why in str(caught.value)


def test_a_profile_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\nlike: chat-8b\ntoken_gap: 1ms\n")
    assert load_profile(str(file)).token_gap.constant == 1_000_000
    file.write_text("name: [")
    with pytest.raises(Refused, match="not YAML"):
        load_profile(str(file))
    with pytest.raises(Refused, match="No such file"):
        load_profile(str(tmp_path / "other.yaml"))
    with pytest.raises(Refused, match="did you mean 'instant'"):
        load_profile("instnt")


def test_equal_data_make_equal_profiles() -> None:
    assert Profile(name="a") == Profile(name="a")
