"""What a server with a prefix cache need not compute again (pure).

A conversation's next prompt begins with the prompt before. A server that keeps what it computed for that one (vLLM's
automatic prefix caching, SGLang's RadixAttention) computes only the rest. Real caches keep blocks of tokens; this one
keeps whole prompts, so that equal requests in equal order find the same on any machine.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from mock_backends.dialects import prompt_tokens


class Found(NamedTuple):
    """What a prompt found in the cache. `tokens`: of its longest beginning that was a prompt itself.

    `hit`: the turn before it was served here; of a first turn, the very same prompt.
    """

    tokens: int
    hit: bool


class PrefixCache:
    """The prompts that one server served, at most `prompts` of them; the least recently used is forgotten first."""

    def __init__(self, prompts: int) -> None:
        self._most = prompts
        self._known: dict[bytes, None] = {}  # digests, the one used last at the end

    def serve(self, prompt: Any) -> Found:
        """What is known of `prompt`, which is known from now on: a list of messages, or anything else as a whole."""
        messages = prompt if isinstance(prompt, list) else [prompt]
        digests = _digests(messages)
        known = next((n for n in range(len(digests), 0, -1) if digests[n - 1] in self._known), 0)
        for digest in (*digests[known - 1 : known], *digests[-1:]):
            self._known.pop(digest, None)
            self._known[digest] = None
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return Found(prompt_tokens(messages[:known]), 0 < known >= _turn_before(messages))

    def __len__(self) -> int:
        return len(self._known)


def _digests(messages: list[Any]) -> list[bytes]:
    """Of the first message, of the first two, and so on."""
    running = hashlib.blake2b(digest_size=16)
    digests = []
    for message in messages:
        running.update(repr(message).encode("utf-8", "surrogatepass") + b"\n")
        digests.append(running.digest())
    return digests


def _turn_before(messages: list[Any]) -> int:
    """How many messages the prompt of the turn before had: those before the last reply. All, if there was none."""
    for n in range(len(messages) - 1, -1, -1):
        message = messages[n]
        if isinstance(message, dict) and message.get("role") == "assistant":
            return n
    return len(messages)
