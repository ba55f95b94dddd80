"""Request bytes: marks are filled in, lengths are right, nothing else changes from request to request."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loadgen.workload.job import Job, Template
from loadgen.workload.payload import Payloads

CHAT = '{"max_tokens":{{max_tokens}},"seed":{{seed}},"messages":[{"role":"user","content":"{{prompt}}"}]}'


def payloads(*templates: Template, seed: int = 0) -> Payloads:
    return Payloads(Job("s", "http://[::1]:81/pre/", Path(), templates, seed=seed, plan=Path()))


def split(data: bytes) -> tuple[list[str], bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode().split("\r\n"), body


@given(prompt=st.integers(0, 300_000), tokens=st.integers(0, 10**6), seed=st.integers(0, 2**62))
def test_marks_are_filled_with_a_prompt_of_that_many_bytes_and_the_numbers(prompt: int, tokens: int, seed: int) -> None:
    data, size = payloads(Template("/v1", body=CHAT)).build(9, 0, prompt, tokens, seed)
    lines, body = split(data)
    asked = json.loads(body)
    assert asked["max_tokens"] == tokens
    assert asked["seed"] == seed
    assert len(asked["messages"][0]["content"].encode()) == prompt
    assert f"Content-Length: {len(body)}" in lines
    assert size == len(body)


def test_a_body_without_marks_is_sent_as_it_stands_with_its_length() -> None:
    data, size = payloads(Template("/v1", body='{"text":"ä"}'), seed=-1).build(12, 0)
    lines, body = split(data)
    assert body == '{"text":"ä"}'.encode()
    assert size == len(body)
    assert lines == [
        "POST /pre/v1 HTTP/1.1",
        "Host: [::1]:81",
        "Content-Type: application/json",
        "X-Request-ID: ffffffffffffffff-12",
        f"Content-Length: {len(body)}",
    ]


def test_a_mark_may_come_twice_and_a_content_type_of_the_template_is_kept() -> None:
    template = Template("/", headers={"content-type": "text/plain"}, body="{{seed}}-{{prompt}}-{{seed}}")
    lines, body = split(payloads(template).build(0, 0, 3, -1, 5)[0])
    assert body == b"5-the-5"
    assert [line for line in lines if "type" in line.lower()] == ["content-type: text/plain"]


def test_a_get_has_no_body_and_says_nothing_of_one() -> None:
    data, size = payloads(Template("/health", "GET")).build(0, 0)
    assert size == 0
    assert split(data) == (["GET /pre/health HTTP/1.1", "Host: [::1]:81", "X-Request-ID: 0-0"], b"")
    empty_post = payloads(Template("/health", "POST")).build(0, 0)[0]
    assert b"Content-Length: 0\r\n" in empty_post


def test_a_header_may_hold_the_seed_whether_or_not_the_body_has_marks() -> None:
    headers = {"X-Session-ID": "conversation-{{seed}}"}
    for body in ("{{seed}}", "plain"):
        lines, sent = split(payloads(Template("/", headers=headers, body=body)).build(0, 0, -1, -1, 42)[0])
        assert "X-Session-ID: conversation-42" in lines
        assert sent == body.replace("{{seed}}", "42").encode()
        assert f"Content-Length: {len(sent)}" in lines
