"""Conversations: growing prompts, and turns in their order."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loadgen.workload import conversation, scenario, timetable
from loadgen.workload.job import SEED_MARK

SESSIONS = scenario.catalogue()["sessions"]


@given(st.integers(0, 20), st.integers(1, 500))
def test_a_prompt_begins_with_the_whole_prompt_before_and_a_reply(turn: int, size: int) -> None:
    now = json.loads(conversation.messages(turn + 1, size))
    before = json.loads(conversation.messages(turn, size))
    assert now[: len(before)] == before
    assert [message["role"] for message in now] == ["user", "assistant"] * (turn + 1) + ["user"]
    assert all(len(message["content"]) >= size and SEED_MARK in message["content"] for message in now)


@given(st.integers(1, 30), st.integers(2, 12), st.floats(0.1, 3), st.floats(0.5, 20), st.integers(0, 2**32))
def test_turns_of_a_conversation_come_in_order_with_a_pause_and_users_hold_one_at_a_time(
    users: int, turns: int, think_s: float, total_s: float, seed: int
) -> None:
    due, turn, number = conversation.turns(users=users, turns=turns, think_s=think_s, total_s=total_s, seed=seed)
    assert np.all(np.diff(due) >= 0)
    assert np.all((due >= 0) & (due <= total_s * 1e9))
    for user in range(users):
        mine = number % users == user
        steps = np.diff(number[mine] // users * turns + turn[mine])
        assert np.all(steps == 1), "the next turn, or the first of the next conversation"
        assert np.all(np.diff(due[mine]) >= think_s / 2 * 1e9 - 2)


def test_the_rate_is_what_users_and_their_pauses_make() -> None:
    due, _, _ = conversation.turns(users=100, turns=10, think_s=2.0, total_s=100.0, seed=3)
    assert abs(len(due) / 100.0 - 50.0) < 2.5


def test_a_plan_of_sessions_names_the_turn_and_the_conversation_of_each_request() -> None:
    plan = timetable.make(SESSIONS, seed=1)
    assert plan is not None
    assert set(plan.template.tolist()) == set(range(24))
    templates = SESSIONS.templates()
    assert [len(json.loads(one.body.replace(SEED_MARK, "7"))["messages"]) for one in templates] == list(range(1, 48, 2))
    assert templates[0].headers["X-Session-ID"] == f"conversation-{SEED_MARK}"
    starts = len({(t, n) for t, n in zip(plan.template.tolist(), plan.request_seed.tolist(), strict=True)})
    assert starts == len(plan), "no turn is sent twice"
    conversations = len(set(plan.request_seed.tolist()))
    assert conversations / len(plan) < 0.1, "the first turn of each must miss; more than nine in ten can hit"


@given(st.lists(st.integers(0, 30)), st.integers(0, 2**32))
def test_rows_whose_sessions_lead_to_one_are_turns_of_one_conversation(parents: list[int], seed: int) -> None:
    """Row n follows row `parents[n]` if that came before it, else begins a conversation; some rows are not there."""
    before = {str(row): str(parent) for row, parent in enumerate(parents) if parent < row}
    begun = []
    for row, parent in enumerate(parents):
        begun.append(begun[parent] if parent < row else row)
    there = np.flatnonzero(np.random.default_rng(seed).random(len(parents)) < 0.7)
    numbers = conversation.grouped([str(row) for row in there], before)
    for one, its in zip(there, numbers, strict=True):
        assert [bool(number == its) for number in numbers] == [begun[other] == begun[one] for other in there]


def test_a_row_without_a_session_is_a_conversation_of_its_own_and_a_circle_of_sessions_is_one() -> None:
    assert conversation.grouped([None, "a", None, "a"], {}).tolist() == [0, 1, 2, 1]
    assert conversation.grouped(["a", "b", "c"], {"a": "b", "b": "a", "c": "c"}).tolist()[2] == 1
