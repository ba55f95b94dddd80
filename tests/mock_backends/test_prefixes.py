"""What a server with a prefix cache knows of a prompt."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mock_backends.dialects import prompt_tokens
from mock_backends.prefixes import Found, PrefixCache
from tests.mock_backends.conftest import Running, mock_process


def conversation(turns: int, name: str = "c", words: int = 10) -> list[dict[str, str]]:
    """The messages of the prompt of a turn: one, three, five ... of 4 * `words` bytes each."""
    roles = ["user", "assistant"] * turns
    return [{"role": role, "content": f"{name}{i:03}".ljust(4) * words} for i, role in enumerate(roles)][:-1]


def test_the_next_turn_finds_the_whole_turn_before() -> None:
    cache = PrefixCache(10)
    assert cache.serve(conversation(1)) == Found(0, False)
    assert cache.serve(conversation(2)) == Found(10, True)
    assert cache.serve(conversation(3)) == Found(30, True)


def test_a_turn_whose_turn_before_was_served_elsewhere_misses_but_finds_an_earlier_one() -> None:
    cache = PrefixCache(10)
    cache.serve(conversation(1))
    assert cache.serve(conversation(4)) == Found(10, False)


def test_another_conversation_finds_nothing_however_alike() -> None:
    cache = PrefixCache(10)
    cache.serve(conversation(2, "a"))
    assert cache.serve(conversation(3, "b")) == Found(0, False)


def test_a_prompt_that_is_one_text_is_known_as_a_whole_only() -> None:
    cache = PrefixCache(10)
    assert cache.serve("abcd") == Found(0, False)
    assert cache.serve("abcd") == Found(1, True)
    assert cache.serve("abcdefgh") == Found(0, False)


def test_the_least_recently_used_prompt_is_forgotten_first() -> None:
    cache = PrefixCache(2)
    cache.serve("a")
    cache.serve("b")
    cache.serve("a")
    cache.serve("c")
    assert cache.serve("a").hit
    assert not cache.serve("b").hit


@given(
    st.lists(st.lists(st.sampled_from(["x", "yy", {"role": "assistant", "content": "z"}, 7, None]), max_size=6)),
    st.integers(1, 4),
)
def test_it_holds_no_more_than_it_may_and_finds_no_more_than_there_is(prompts: list[list[object]], most: int) -> None:
    cache = PrefixCache(most)
    for prompt in prompts:
        found = cache.serve(prompt)
        assert len(cache) <= most
        assert 0 <= found.tokens <= prompt_tokens(prompt)
        assert not prompt or cache.serve(prompt).hit


@pytest.fixture(scope="module")
def cached() -> Iterator[Running]:
    """Two backends that prefill 100 tokens in 0.3 s."""
    with mock_process("--count", "2", "--profile", "chat-8b-cached") as running:
        times = {"prefill_per_token": "3ms", "time_to_first_token": "0s", "token_gap": "0s"}
        running.control("behaviour", {"profile": {"like": "chat-8b-cached", "name": "slow", **times}})
        yield running


def ask(url: str, turn: int, name: str) -> float:
    """Seconds until the reply to a turn of 100 tokens a message."""
    begun = time.monotonic()
    body = {"messages": conversation(turn, name, words=100), "max_tokens": 1}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
    return time.monotonic() - begun


def test_a_server_prefills_only_what_it_does_not_know_and_counts_hits_and_misses(cached: Running) -> None:
    cached.control("reset")
    assert ask(cached.urls[0], 1, "s") >= 0.3
    assert ask(cached.urls[0], 2, "s") >= 0.6, "of 300 tokens 100 are known"
    assert ask(cached.urls[1], 3, "s") >= 1.5, "the other server knows nothing of it"
    assert min(ask(cached.urls[1], 3, "s") for _ in range(5)) < 1.5, "now it knows all"
    counted = [(row["prefix_hits"], row["prefix_misses"]) for row in map(cached.stats, range(2))]
    assert counted == [(1, 1), (5, 1)]


def test_equal_requests_over_one_connection_are_each_asked_about(cached: Running) -> None:
    cached.control("reset")
    with httpx.Client(base_url=cached.url) as client:
        for _ in range(3):
            client.post("/v1/completions", json={"prompt": "hello", "max_tokens": 1})
    assert (cached.stats()["prefix_hits"], cached.stats()["prefix_misses"]) == (2, 1)


def test_a_reset_empties_the_cache(cached: Running) -> None:
    ask(cached.url, 1, "r")
    cached.control("reset")
    ask(cached.url, 2, "r")
    assert (cached.stats()["prefix_hits"], cached.stats()["prefix_misses"]) == (0, 1)
