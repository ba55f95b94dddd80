"""(profile, seed, request) decides every byte and every time of a reply; nothing else does."""

from __future__ import annotations

import hashlib
import json
import statistics
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mock_backends.dialects import DIALECTS, MAX_TOKENS, SSE, WORDS, ZEROS, Ask, BadRequest, filler
from mock_backends.profile import Profile, load_profile, read_profile
from mock_backends.script import Script, ScriptWriter

STREAMED = [path for path, dialect in DIALECTS.items() if dialect.stream]
CHAT = b"/v1/chat/completions"


@cache
def ready_made(name: str) -> Profile:
    return load_profile(name)


@cache
def writer(name: str, seed: int) -> ScriptWriter:
    return ScriptWriter(ready_made(name), seed)


def write(ask: Ask, profile: str | Profile = "chat-8b", seed: int = 0) -> Script:
    return (writer(profile, seed) if isinstance(profile, str) else ScriptWriter(profile, seed)).write(ask)


def objects(script: Script) -> list[dict[str, Any]]:
    """The JSON of every event, by the rules of its stream type."""
    lines = []
    for event in script.events:
        text = event.decode()
        if script.content_type == SSE:
            (data,) = [line for line in text.splitlines() if line.startswith("data: ")]
            assert text.endswith("\n\n")
            lines.append(data.removeprefix("data: "))
        else:
            lines.append(text)
    return [json.loads(line) for line in lines]


asks = st.builds(
    Ask,
    path=st.sampled_from(sorted(DIALECTS)),
    model=st.text(min_size=1, max_size=40).filter(lambda s: not any("\ud800" <= c <= "\udfff" for c in s)),
    stream=st.booleans(),
    tokens=st.none() | st.integers(1, 300),
    seed=st.none() | st.integers(-5, 5),
    prompt_tokens=st.integers(0, 5000),
    inputs=st.integers(1, 3),
    dimensions=st.none() | st.integers(1, 32),
    base64=st.booleans(),
    options=st.just((None,) * 4),
)


@given(asks, st.sampled_from(["instant", "chat-8b", "code-completion", "embedding"]), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_same_inputs_give_the_same_script_and_every_event_is_json_with_its_clock(
    ask: Ask, profile: str, seed: int
) -> None:
    script = write(ask, profile, seed)
    assert script == write(ask, profile, seed)
    assert [o["mock"] for o in objects(script)] == [{"seq": i, "ns": ZEROS.decode()} for i in range(len(script.events))]
    assert all(event.endswith(ZEROS + script.tail) for event in script.events)
    assert list(script.offsets) == sorted(script.offsets)
    body = b"".join(part for _, part in script.steps)
    assert hashlib.sha256(body).hexdigest() == script.digest


@pytest.mark.parametrize("path", STREAMED)
def test_each_token_asked_for_is_an_event_and_all_count_in_the_usage(path: bytes) -> None:
    script = write(Ask(path, "m", True, tokens=37, prompt_tokens=11))
    last = json.dumps(objects(script)[-2:])
    assert "37" in last
    assert len(script.events) - 37 in (1, 2, 3, 6)  # what each dialect says before and after


def test_another_seed_or_prompt_size_or_model_changes_the_reply() -> None:
    base = Ask(CHAT, "m", True, tokens=30, seed=1, prompt_tokens=100)
    others = [
        base._replace(seed=2),
        base._replace(prompt_tokens=101),
        base._replace(model="n"),
        base._replace(tokens=31),
        base._replace(path=b"/v1/completions"),
    ]
    digests = {write(ask).digest for ask in [base, *others]} | {write(base, seed=9).digest}
    assert len(digests) == len(others) + 2


def test_streamed_and_whole_say_the_same_and_take_as_long() -> None:
    stream = write(Ask(CHAT, "m", True, tokens=50))
    whole = write(Ask(CHAT, "m", False, tokens=50))
    text = "".join(c["delta"].get("content", "") for o in objects(stream) for c in o["choices"])
    assert text == objects(whole)[0]["choices"][0]["message"]["content"]
    assert stream.offsets[-1] == whole.offsets[0]


def test_without_a_limit_lengths_follow_the_profile_from_seed_to_seed() -> None:
    lengths = [len(write(Ask(CHAT, "m", True, seed=i)).events) - 3 for i in range(300)]
    assert 100 < statistics.median(lengths) < 170  # the trace's p50 is 129
    assert min(lengths) < 60 < 380 < max(lengths)


def test_gaps_and_first_tokens_follow_the_profile() -> None:
    profile = load_profile("chat-8b")
    firsts, gaps = [], []
    for i in range(150):
        offsets = write(Ask(CHAT, "m", True, tokens=101, seed=i, prompt_tokens=1000)).offsets[1:-2]
        firsts.append(offsets[0])
        gaps += [b - a for a, b in pairwise(offsets)]
    assert statistics.fmean(gaps) == pytest.approx(6.5e6, rel=0.01)
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(0.15, rel=0.05)
    assert statistics.median(firsts) == pytest.approx(12e6 + 1000 * profile.prefill_per_token, rel=0.06)


def test_several_tokens_can_come_in_one_event_and_none_is_lost() -> None:
    profile = read_profile({"name": "p", "tokens_per_event": {"percentiles": {0: 1, 100: 5}}}, "test")
    script = write(Ask(CHAT, "m", True, tokens=100), profile)
    assert 20 < len(script.events) - 3 < 100
    assert objects(script)[-1]["usage"]["completion_tokens"] == 100


@pytest.mark.parametrize("path", STREAMED)
@pytest.mark.parametrize("size", [350, 1000, 5000])
def test_events_and_bodies_have_exactly_the_size_asked_for(path: bytes, size: int) -> None:
    stream = write(Ask(path, "m", True, options=(None, size, 12, None)))
    assert sum(len(event) == size for event in stream.events) >= 12
    whole = write(Ask(path, "m", False, options=(size + 400, None, None, None)))
    assert len(whole.events[0]) == size + 400
    objects(stream)
    objects(whole)


def test_a_profile_can_fix_sizes_too() -> None:
    profile = read_profile({"name": "p", "event_bytes": 512, "body_bytes": 2048}, "test")
    assert {len(e) for e in write(Ask(CHAT, "m", True, tokens=9), profile).events[1:-2]} == {512}
    assert len(write(Ask(CHAT, "m", False, tokens=9), profile).events[0]) == 2048


@pytest.mark.parametrize(
    "ask",
    [
        Ask(CHAT, "m", True, options=(None, 10, None, None)),
        Ask(CHAT, "m", True, options=(None, 2**20, 1_000_000, None)),
        Ask(CHAT, "m", False, options=(10, None, None, None)),
        Ask(b"/v1/models", "m", options=(1000, None, None, None)),
    ],
)
def test_a_size_that_cannot_be_is_refused(ask: Ask) -> None:
    with pytest.raises(BadRequest):
        write(ask, "instant")


def test_words_are_json_text_and_some_need_escapes_or_many_bytes() -> None:
    assert len(WORDS) == 256
    decoded = [json.loads(b'"' + word + b'"') for word in WORDS]
    assert {"\n", '"', " 東京", " 🙂"} <= set(decoded)


@pytest.mark.parametrize("n", [0, 1, 4000, 100_000])
def test_filler_is_exactly_as_long_as_asked(n: int) -> None:
    assert len(filler(n)) == n


@pytest.mark.parametrize(
    ("path", "fields", "why"),
    [
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"max_tokens": MAX_TOKENS + 1}, "max_tokens"),
        (CHAT, {"max_tokens": True}, "max_tokens"),
        (CHAT, {"max_tokens": 1.5}, "max_tokens"),
        (CHAT, {"stream": "yes"}, "stream"),
        (CHAT, {"model": 5}, "model"),
        (CHAT, {"model": "x" * 300}, "model"),
        (CHAT, {"seed": 2**64}, "seed"),
        (CHAT, {"n": 2}, "one choice"),
        (b"/api/chat", {"options": []}, "options"),
        (b"/v1/embeddings", {"input": []}, "input"),
        (b"/v1/embeddings", {"input": "a", "dimensions": 0}, "dimensions"),
        (b"/v1/embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_name(path: bytes, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        DIALECTS[path].read(fields, path, "m", (None,) * 4)


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 9}]}, 3),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "é" * 4}]}]}, 2),
        (CHAT, {"messages": None}, 0),
        (b"/v1/completions", {"prompt": ["abcd", "efgh"]}, 2),
        (b"/v1/completions", {"prompt": [1, 2, 3]}, 3),
        (b"/v1/messages", {"system": "abcd", "messages": [{"content": "abcd"}]}, 2),
        (b"/api/generate", {"system": "abcd", "prompt": "abcd"}, 2),
        (b"/v1/embeddings", {"input": ["abcd", "ab"]}, 2),
    ],
)
def test_prompt_tokens_are_the_text_at_four_bytes_each(path: bytes, fields: dict[str, Any], tokens: int) -> None:
    assert DIALECTS[path].read(fields, path, "m", (None,) * 4).prompt_tokens == tokens
