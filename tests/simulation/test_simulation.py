"""A part of the simulation with fixed seeds. All of it: `python -m tests.simulation`."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.simulation.generate import make_script
from tests.simulation.http import UNTIL_CLOSE, MessageReader, body_length, chunked, pattern
from tests.simulation.loop import SimulatedLoop
from tests.simulation.runner import sweep, table
from tests.simulation.script import Answer, Ask, Client, Script
from tests.simulation.shrink import describe, shrink
from tests.simulation.world import run

EXCHANGES = 10_000
PATCHES = Path(__file__).parent / "patches"


def test_nothing_is_found_in_ten_thousand_exchanges() -> None:
    tally = sweep(seed=1, exchanges=EXCHANGES)

    assert not tally.kinds, table(tally)


@pytest.mark.parametrize("world", [8000001034, 8000002755, 8000004494])
def test_worlds_of_a_million_exchanges_that_found_something_find_nothing(world: int) -> None:
    """A refused body that started an exchange, surplus that came late (the judge's own), a stop while one connects."""
    assert not run(make_script(world)).findings


def test_the_simulation_reaches_every_outcome() -> None:
    tally = sweep(seed=2, exchanges=2_000)

    for outcome in ("success", "failed", "left"):
        assert tally.outcomes[outcome] > 20, tally.outcomes


def test_a_seed_repeats_its_run_to_the_byte() -> None:
    for world in (11, 12, 13):
        first, second = (run(make_script(world), tell=True) for _ in range(2))

        assert first.story == second.story
        assert first == second


def test_a_client_that_reads_slowly_for_minutes_is_not_stuck() -> None:
    slow = Client("c0", 1, 0.0, [_ask_for("c0.0", 90_000)], takes=25, every=0.05)
    patient = {"server.write_timeout": "1000s", "proxy.idle_timeout": "1000s"}

    outcome = run(_script(slow, patient))

    assert not outcome.findings
    assert outcome.counts["success"] == 1
    assert outcome.seconds > 170  # 500 bytes a second


def test_a_client_that_gets_nothing_for_ever_is_stuck() -> None:
    waiting = Client("c0", 1, 0.0, [_ask_for("c0.0", 90_000, fault="silence")])
    patient = {"proxy.response_header_timeout": "1000s", "proxy.idle_timeout": "1000s"}

    kinds = [finding.kind for finding in run(_script(waiting, patient)).findings]

    assert kinds[0] == "stuck"


def _ask_for(tag: str, size: int, fault: str = "") -> Ask:
    return Ask(tag, answers=[Answer(size=size, fault=fault)])


def _script(client: Client, config: dict[str, Any]) -> Script:
    return Script(
        seed=1,
        config=config,
        endpoints=["a"],
        clients=[client],
        modes=[],
        reloads=[],
        checks=[],
        stop_at=None,
        grace=3.0,
        polls_first=True,
        reads_on=False,
        high_water=4096,
        kernel=4096,
        linger=0,
    )


def test_a_shrunk_script_is_shorter_and_still_shows_its_finding(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(
        "tests.simulation.client.pattern", lambda tag, size: b"x" * size
    )  # a client that sends wrong bytes
    script = make_script(3)
    assert "wrong-body-to-endpoint" in {finding.kind for finding in run(script).findings}

    short = shrink(script, "wrong-body-to-endpoint", runs=300)

    assert "wrong-body-to-endpoint" in {finding.kind for finding in run(short).findings}
    assert short.asks == 1
    assert len(describe(short)) < len(describe(script)) / 10


def test_a_callback_added_in_a_pass_runs_in_the_next_one() -> None:
    loop = SimulatedLoop(Random(1), polls_first=True)
    seen: list[tuple[str, int]] = []

    def first() -> None:
        seen.append(("first", loop.passes))
        loop.call_soon(lambda: seen.append(("second", loop.passes)))

    loop.call_soon(first)
    loop.run_once()
    loop.run_once()

    assert seen == [("first", 1), ("second", 2)]


def test_the_clock_jumps_to_the_next_timer() -> None:
    loop = SimulatedLoop(Random(1), polls_first=False)
    fired: list[float] = []
    loop.call_later(7.5, lambda: fired.append(loop.time()))
    loop.call_later(5.0, lambda: fired.append(loop.time())).cancel()

    loop.run_until(lambda: bool(fired), 100.0)

    assert fired == [7.5]


def test_tasks_and_sleeps_are_asyncios_own() -> None:
    loop = SimulatedLoop(Random(1), polls_first=True)

    async def nap() -> float:
        await asyncio.sleep(3)
        return loop.time()

    asyncio.events._set_running_loop(loop)
    try:
        task = loop.create_task(nap())
        loop.run_until(task.done, 10.0)
    finally:
        asyncio.events._set_running_loop(None)

    assert task.result() == 3.0


def test_a_message_is_read_in_any_pieces() -> None:
    body = pattern("t", 100)
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, 7)
    for step in range(1, len(raw)):
        got: list[bytes] = []
        ends: list[int] = []
        reader = MessageReader(
            lambda first, fields: body_length(fields, UNTIL_CLOSE), got.append, lambda ends=ends: ends.append(1)
        )
        for at in range(0, len(raw), step):
            reader.feed(raw[at : at + step])

        assert b"".join(got) == body
        assert ends == [1]
        assert reader.position == len(raw)


@pytest.mark.parametrize("patch", sorted(PATCHES.glob("*.patch")), ids=lambda path: path.stem)
def test_a_bug_that_is_kept_as_a_patch_can_still_be_put_back(patch: Path) -> None:
    root = PATCHES.parents[2]
    done = subprocess.run(
        ["git", "apply", "--check", str(patch)], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"make {patch.name} anew, against the code as it is: {done.stderr}"
