"""Conversations in front of three servers that each have a prefix cache: what a balancer makes of their caches."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from proxy.engines import ENGINES
from tests.end_to_end.serving import Serve
from tests.mock_backends.conftest import Running, mock_process

CONVERSATIONS, TURNS = 24, 16


def converse(proxy: Serve) -> None:
    """All conversations, each turn of whichever comes to speak. A prompt begins with the one before and its reply."""
    order = [number for number in range(CONVERSATIONS) for _ in range(TURNS)]
    Random(1).shuffle(order)
    said: list[list[dict[str, str]]] = [[] for _ in range(CONVERSATIONS)]
    connection = proxy.connect()
    for number in order:
        messages = said[number]
        messages.append({"role": "user", "content": f"question {len(messages)} of conversation {number}"})
        body = json.dumps({"messages": messages, "max_tokens": 1, "seed": 1})
        connection.request("POST", "/v1/chat/completions", body, {"X-Session-ID": f"conversation-{number:03}"})
        reply = connection.getresponse()
        assert reply.status == 200
        messages.append(json.loads(reply.read())["choices"][0]["message"])
    connection.close()


def hit_share(engine: str, balancer: str, folder: Path, mocks: Running) -> float:
    """The share of prompts whose turn before was served by the same server."""
    mocks.control("reset")
    endpoints = [{"name": f"mock-{i}", "url": url} for i, url in enumerate(mocks.urls)]
    settings = {"engine": engine, "load_balancer": balancer}
    proxy = Serve(folder, {"server": {"port": 0}, "admin": {"port": 0}, "proxy": settings, "endpoints": endpoints})
    try:
        converse(proxy)
    finally:
        proxy.close()
    rows = [mocks.stats(i) for i in range(3)]
    hits, misses = (sum(row[name] for row in rows) for name in ("prefix_hits", "prefix_misses"))
    assert hits + misses == CONVERSATIONS * TURNS
    return float(hits / (hits + misses))


@pytest.mark.parametrize("engine", ENGINES)
def test_consistent_hash_keeps_conversations_where_their_prefix_is_and_round_robin_does_not(
    engine: str, tmp_path: Path
) -> None:
    with mock_process("--count", "3", "--profile", "chat-8b-cached") as mocks:
        instant = {"like": "chat-8b-cached", "name": "instant-cached", "time_to_first_token": "0s", "token_gap": "0s"}
        mocks.control("behaviour", {"profile": {**instant, "prefill_per_token": "0s"}})
        assert hit_share(engine, "consistent-hash", tmp_path, mocks) == 1 - 1 / TURNS, "all but the first turns"
        assert hit_share(engine, "round-robin", tmp_path, mocks) < 0.4
