"""`compare --real`: what is planned for servers that are no mocks, and what is refused (U9, U11)."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.bench.mocks import NoBackends
from loadgen.campaign.plan import Asked, plan
from loadgen.campaign.real import PRIMARY, Real, unseen
from loadgen.errors import Missing, Refusal, UsageRefusal
from loadgen.targets.direct import Given
from loadgen.workload import timetable
from loadgen.workload.job import Job
from loadgen.workload.payload import Payloads
from loadgen.workload.plan import make_plan


@pytest.fixture
def url() -> Iterator[str]:
    """Something listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_u9_real_servers_get_chats_of_the_model_and_nothing_of_mocks(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-1")
    asked = Asked(given=(f"a={url}", f"b={url}"), real=Real(model="llama", rate_rps=3), headers=("X: $KEY",))
    planned = plan(asked)
    assert [arm.name for arm in planned.arms] == ["a", "b", "a@aa"]
    (one,) = planned.scenarios
    assert (one.id, one.primary, one.rate_rps()) == ("real-chat", PRIMARY, 3)
    body = json.loads(one.requests[0].text().replace("{{max_tokens}}", "64"))
    assert (body["model"], body["stream"], body["max_tokens"]) == ("llama", True, 64)
    for target in planned.targets:
        assert isinstance(target, Given)
        assert (target.passes, dict(target.headers), target.has_process) == ("nothing", {"X": "sk-1"}, False)
    assert "sk-1" not in asked.model_dump_json()


@pytest.mark.parametrize(("rate", "seconds"), [(0.5, 80), (1, 40), (2, 20), (8, 20)])
def test_a_run_lasts_until_it_has_enough_streams_for_a_median(url: str, rate: float, seconds: float) -> None:
    asked = Asked(given=(f"a={url}", f"b={url}"), real=Real(model="llama", rate_rps=rate))
    assert plan(asked).scenarios[0].duration_s == seconds
    assert plan(asked.model_copy(update={"duration_s": 5.0})).scenarios[0].duration_s == 5.0


def test_u9_a_trace_is_replayed_to_real_servers(url: str, tmp_path: Path) -> None:
    from loadgen.workload.scenario import Replay

    file = tmp_path / "t.csv"
    rows = "2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n"
    file.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    replay = Replay(kind="trace", file=str(file))
    (one,) = plan(Asked(given=(f"a={url}", f"b={url}"), real=Real(model="llama"), trace=replay)).scenarios
    assert '"model":"llama"' in one.requests[0].text()
    assert one.id == "trace-t"


def test_no_two_requests_begin_alike_so_no_prefix_cache_serves_what_another_target_asked(url: str) -> None:
    (one,) = plan(Asked(given=(f"a={url}", f"b={url}"), real=Real(model="llama", rate_rps=50))).scenarios
    made = timetable.make(one, timetable.seed_for(1, one.id, 1))
    assert made is not None
    payloads = Payloads(Job("x", "http://127.0.0.1:1", Path("out"), tuple(one.templates(pinned=False)), plan=Path("p")))
    prompts = []
    for arm in ("a", "b", "a@aa"):
        own = unseen(made, arm)
        columns = (own.template, own.prompt_bytes, own.output_tokens, own.request_seed)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        sent = [payloads.build(number, *row)[0].partition(b"\r\n\r\n")[2] for number, row in enumerate(rows)]
        prompts += [json.loads(body)["messages"][0]["content"] for body in sent]
    assert len({prompt[:20] for prompt in prompts}) == len(prompts) == 3 * len(made)


def test_the_turns_of_a_conversation_stay_together_with_each_target() -> None:
    made = make_plan(np.arange(4), request_seed=np.array([3, 5, 3, 5]))
    seeds = [unseen(made, arm).request_seed.tolist() for arm in ("a", "b")]
    assert all(one[:2] == one[2:] and min(one) >= 0 for one in seeds)
    assert set(seeds[0]).isdisjoint(seeds[1])


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"given": ("a={url}",)}, UsageRefusal),
        ({"given": ("a={url}", "b={url}"), "targets": ("olla",)}, UsageRefusal),
        ({"given": ("a={url}", "b={url}"), "scenarios": ("chat-small",)}, UsageRefusal),
        ({"given": ("a={url}", "b=/bin/true {{port}}")}, UsageRefusal),
        ({"given": ("a={url}", "b={url}"), "ca": "/no/such.pem"}, Missing),
        ({"given": ("a={url}", "b={url}"), "headers": ("X: typed",)}, UsageRefusal),
    ],
)
def test_u9_what_real_servers_cannot_be_asked_is_refused(url: str, more: dict[str, Any], error: type[Refusal]) -> None:
    more["given"] = tuple(text.format(url=url) for text in more["given"])
    with pytest.raises(error):
        plan(Asked(real=Real(model="m"), **more))


def test_headers_without_a_server_that_runs_already_are_refused() -> None:
    with pytest.raises(UsageRefusal, match="--header and --ca"):
        plan(Asked(headers=("X: $PATH",)))


def test_in_place_of_mocks_nothing_runs_and_nothing_is_known() -> None:
    nothing = NoBackends()
    assert (nothing.alive(), nothing.pids, nothing.stats(), nothing.urls) == (True, [], {}, ())
    nothing.stop()
