"""Conversations: prompts that begin with the prompt before, when each turn is sent, and whose turn a row of a trace is.

Pure.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from loadgen.workload.job import PROMPT_MARK, SEED_MARK

GROWING = f"conversation {SEED_MARK}: {PROMPT_MARK}"
"""A prompt of a trace's conversation: a longer one begins with a shorter one, and no two conversations begin alike."""
HEADERS = {"X-Session-ID": f"conversation-{SEED_MARK}"}
"""By which a proxy knows whose turn it is (`proxy.hash_header`)."""

_WORDS = "the quick brown fox jumps over the lazy dog while llamas and mountain guides carry packets uphill "


def messages(turn: int, text_bytes: int) -> str:
    """The prompt of a turn (0 is the first) as JSON: every question so far, with a reply after each but the last.

    Each text has `text_bytes` bytes or a few more. Texts differ between conversations by `{{seed}}`.
    """
    said = [{"role": role, "content": _text(role, n, text_bytes)} for n in range(turn + 1) for role in _ROLES]
    return json.dumps(said[:-1], separators=(",", ":"))


_ROLES = ("user", "assistant")


def _text(role: str, turn: int, size: int) -> str:
    begin = f"{role} in turn {turn} of conversation {SEED_MARK}: "
    return begin + (_WORDS * (size // len(_WORDS) + 1))[: max(0, size - len(begin))]


def turns(
    *, users: int, turns: int, think_s: float, total_s: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """When each turn is due in `total_s` seconds (ns, sorted), which turn it is, and of which conversation.

    Each user holds one conversation after the other, and is anywhere in its first when time begins. Between two turns
    lies half of `think_s` and a random time, `think_s` on average: a user reads before it writes.
    """
    rng = np.random.default_rng([seed, 0x7475726E])
    most = int(2 * total_s / think_s) + 2  # a user that never thinks longer than it must
    gaps = think_s / 2 + rng.exponential(think_s / 2, (users, most))
    gaps[:, 0] = rng.uniform(0, think_s, users)
    at = np.cumsum(gaps, axis=1)
    sent = rng.integers(0, turns, (users, 1)) + np.arange(most)
    conversation = np.arange(users)[:, None] + users * (sent // turns)
    order = np.argsort(at, axis=None, kind="stable")
    order = order[at.ravel()[order] < total_s]
    due = np.rint(at.ravel()[order] * 1e9).astype(np.int64)
    return due, (sent % turns).ravel()[order].astype(np.int32), conversation.ravel()[order].astype(np.int64)


def grouped(sessions: Sequence[str | None], before: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Which conversation each row is a turn of, numbered from 0 in the order of their first rows.

    Rows are of one conversation if their sessions are the same, or lead to the same one by `before` (session -> the one
    of the turn before). A row without a session is a conversation of its own.
    """
    first: dict[str, str] = {}
    numbers: dict[str | int, int] = {}
    return np.array(
        [
            numbers.setdefault(row if session is None else _first(session, before, first), len(numbers))
            for row, session in enumerate(sessions)
        ],
        dtype=np.int64,
    )


def _first(session: str, before: Mapping[str, str], known: dict[str, str]) -> str:
    """The session that a conversation began with. `known`: what was found so far. A circle ends where it closes."""
    way: dict[str, None] = {}
    while session not in known and session not in way and session in before:
        way[session] = None
        session = before[session]
    found = known.get(session, session)
    known.update(dict.fromkeys((*way, session), found))
    return found
