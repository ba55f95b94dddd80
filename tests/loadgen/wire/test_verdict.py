"""The verdict on a complete reply: each thing that can be wrong is told, and only what was asked for is judged."""

from __future__ import annotations

import pytest

from loadgen.wire.rows import OK, REFUSED, WRONG_REPLY
from loadgen.wire.stream import NEVER, MockHead
from loadgen.wire.verdict import Judge
from loadgen.workload.job import Expect, Template

RIGHT, WRONG = b"sha256=" + b"a" * 64, b"sha256=" + b"b" * 64
SAID = MockHead(RIGHT, 3, 1, 2, b"mock-0")
NOTHING = MockHead(None, NEVER, NEVER, NEVER, None)


def judge(expect: Expect, *, from_mock: bool = True) -> Judge:
    return Judge(Template("/", expect=expect), from_mock=from_mock)


def test_a_reply_as_stated_and_as_pinned_is_good() -> None:
    expect = Expect(200, RIGHT.decode(), 3)
    assert judge(expect).judge(200, SAID, 3, RIGHT, None) == (OK, None, 1)


@pytest.mark.parametrize(
    ("expect", "said", "events", "digest", "order", "error"),
    [
        (Expect(), SAID, 3, WRONG, None, "the digest is not the one in X-Mock-Digest"),
        (Expect(digest=WRONG.decode()), SAID, 3, RIGHT, None, "the digest is not the one the scenario pins"),
        (Expect(), NOTHING, 3, RIGHT, None, "no X-Mock-Digest or X-Mock-Events header"),
        (Expect(), SAID._replace(events=NEVER), 3, RIGHT, None, "no X-Mock-Digest or X-Mock-Events header"),
        (Expect(), SAID, 3, RIGHT, "events: disorder", "events: disorder"),
        (Expect(events=4), SAID, 3, RIGHT, None, "3 events, not the 4 the scenario expects"),
    ],
)
def test_each_fault_is_a_wrong_reply_and_told(
    expect: Expect, said: MockHead, events: int, digest: bytes, order: str | None, error: str
) -> None:
    verdict = judge(expect).judge(200, said, events, digest, order)
    assert (verdict.outcome, verdict.error) == (WRONG_REPLY, error)
    assert verdict.digest_ok in (0, NEVER)


def test_all_faults_are_told_at_once() -> None:
    verdict = judge(Expect(events=9)).judge(200, SAID, 3, WRONG, "events: disorder")
    assert verdict.error is not None
    assert verdict.error.count(";") == 2


@pytest.mark.parametrize(
    ("status", "outcome"), [(503, REFUSED), (404, REFUSED), (201, WRONG_REPLY), (302, WRONG_REPLY)]
)
def test_another_status_ends_the_judging(status: int, outcome: int) -> None:
    verdict = judge(Expect(200)).judge(status, SAID, 0, WRONG, "events: disorder")
    assert verdict == (outcome, f"status {status}, not 200", NEVER)


def test_what_a_stranger_says_in_mock_headers_is_not_believed() -> None:
    stranger = judge(Expect(), from_mock=False)
    assert stranger.judge(200, SAID, 0, WRONG, "events: disorder") == (OK, None, NEVER)
    pinned = judge(Expect(digest=RIGHT.decode()), from_mock=False)
    assert pinned.judge(200, NOTHING, 0, RIGHT, None) == (OK, None, 1)
    assert pinned.judge(200, NOTHING, 0, WRONG, None).digest_ok == 0
