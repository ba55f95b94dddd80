"""nginx in place of a mock: the mock's reply, checked as such, and counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.bench import canned
from loadgen.bench.canned import Canned
from loadgen.bench.reply import ask_once, what_is_wrong
from loadgen.workload.scenario import catalogue

W1 = catalogue()["w1"]


def test_a_reply_that_nginx_cannot_hold_is_refused_and_quotes_are_kept() -> None:
    assert canned._quoted(b'{"a": "b\\n"}') == '{\\"a\\": \\"b\\\\n\\"}'
    with pytest.raises(canned.ChildError, match="variable"):
        canned._quoted(b"costs $5")


@pytest.mark.skipif(not canned.installed(), reason=canned.HOW_TO_GET)
def test_nginx_gives_the_reply_that_is_pinned_and_counts_what_it_gave(tmp_path: Path) -> None:
    running = Canned.begin(W1, tmp_path, None)
    try:
        running.forget()
        template = W1.requests[0].template()
        for _ in range(5):
            reply = ask_once(running.urls[0], template, W1.prompt_bytes or 64)
            assert what_is_wrong(reply, template, from_mock=True) is None
        (one,) = running.stats()["backends"]
        assert 5 <= one["requests"] <= 8  # and those that ask for the count
        assert one["body_bytes"] / one["requests"] == pytest.approx(1536, rel=0.2)
        assert running.alive()
    finally:
        running.stop()
    assert not running.alive()
