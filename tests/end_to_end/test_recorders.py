"""A stall and a collection that the test itself causes inside a running engine, followed into the report's join.

The machine may put a pause of its own anywhere, so each is caused again until one attempt went undisturbed; what is
asserted of that one is exact. How many attempts it takes says something about the machine, not about the recorders.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
import pytest
import uvloop

from loadgen.campaign.judge import recorded_pauses, runtime_table
from proxy.config import parse
from proxy.control.recorders import PERIOD_NS
from proxy.worker import Worker, new_instance
from reports import store, summarise
from reports.schema import REQUESTS, RunRecord, ScenarioRecord
from tests.end_to_end.serving import PATIENCE, Backend, until

MS = 1_000_000
ATTEMPTS = 25
BEFORE, DURING, AFTER = 3, 4, 2
# A beat is due a period after the last one; uvloop's timers have whole milliseconds and may round up.
BRACKET_NS = PERIOD_NS + 1 * MS


class RunningWorker:
    """A whole worker in a thread, with its recorders on and the collector as CPython has it."""

    def __init__(self, loop: str, backend: Backend) -> None:
        config = {
            "server": {"loop": loop},
            "health": {"enabled": False},
            "runtime": {"gc": {"freeze_after_start": False}},
            "endpoints": [{"name": "a", "url": f"http://127.0.0.1:{backend.port}"}],
        }
        self._loop = uvloop.new_event_loop() if loop == "uvloop" else asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.worker = self.inside(lambda: Worker(parse(json.dumps(config)).config, new_instance()))
        asyncio.run_coroutine_threadsafe(self.worker.start(sock), self._loop).result(PATIENCE)

    def inside(self, work: Callable[[], Any]) -> Any:
        """Do `work` as one callback of the engine's loop."""

        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(PATIENCE)

    def close(self) -> None:
        """Stop it and end its thread."""
        asyncio.run_coroutine_threadsafe(self.worker.stop(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()


@pytest.fixture
def backend() -> Iterator[Backend]:
    one = Backend()
    yield one
    one.close()


@pytest.fixture(params=["uvloop", "asyncio"])
def running(request: pytest.FixtureRequest, backend: Backend) -> Iterator[RunningWorker]:
    one = RunningWorker(request.param, backend)
    yield one
    one.close()


def ask(url: str) -> tuple[int, int]:
    """One request; when it was sent and when its answer had ended, CLOCK_MONOTONIC ns."""
    sent = time.monotonic_ns()
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        answer.read()
    return sent, time.monotonic_ns()


def seen_around(running: RunningWorker, backend: Backend, cause: Callable[[], Any]) -> tuple[Any, Any, Any]:
    """Requests before, during and after `cause` happens in the engine's loop: its result, request rows, runtime rows.

    The requests before have ended two beats before it begins, those after begin two beats after it ended.
    """
    spans = [ask(running.url) for _ in range(BEFORE)]
    opened = backend.streaming
    with ThreadPoolExecutor(DURING) as pool:
        streams = [pool.submit(ask, running.url + "/stream") for _ in range(DURING)]
        until(lambda: backend.streaming == opened + DURING, "streams to be open")
        time.sleep(3 * PERIOD_NS / 1e9)
        result = running.inside(cause)
        time.sleep(3 * PERIOD_NS / 1e9)
        backend.release()
        spans += [stream.result(PATIENCE) for stream in streams]
    backend.hold()
    spans += [ask(running.url) for _ in range(AFTER)]
    inside = running.inside(lambda: running.worker.runtime(spans[0][0]))
    return result, spans, runtime_table(recorded_pauses(inside))


def joined(spans: list[tuple[int, int]], rows: pd.DataFrame) -> summarise.Facts:
    """What the report makes of these requests and of these rows of the recorders."""
    nothing = {field.name: None for field in REQUESTS}
    requests = pd.DataFrame(
        [
            nothing
            | {"request_id": number, "worker": 0, "scenario": "s", "sent_ns": sent, "end_ns": end, "outcome": "ok"}
            | {"first_byte_ns": sent + 1, "mock_recv_ns": sent, "mock_sent_ns": sent, "warmup": False, "status": 200}
            | {"bytes_in": 1, "bytes_out": 1, "events": 0, "digest_ok": True}
            for number, (sent, end) in enumerate(spans)
        ]
    )
    record = RunRecord(
        run="r", scenario="s", target="olla", round=1, window_ns=(spans[0][0], max(end for _, end in spans) + 1)
    )
    tables = {"requests": store.as_read("requests", requests), "runtime": store.as_read("runtime", rows)}
    return summarise.measure(record, ScenarioRecord(kind="request", loop="closed"), tables)


def block() -> tuple[int, int]:
    """Keep the loop's thread busy for 30 ms; when it began and when it ended."""
    begin = time.monotonic_ns()
    while time.monotonic_ns() < begin + 30 * MS:
        pass
    return begin, time.monotonic_ns()


def collect() -> tuple[int, int]:
    """A full collection between a pair of clocks."""
    begin = time.monotonic_ns()
    gc.collect(2)
    return begin, time.monotonic_ns()


def test_a_call_that_blocks_for_30_ms_is_bracketed_to_a_beat_labelled_and_joined_to_the_requests_in_flight(
    running: RunningWorker, backend: Backend
) -> None:
    tried = []
    for _ in range(ATTEMPTS):
        (begin, end), spans, rows = seen_around(running, backend, block)
        stalls = rows[(rows["kind"] == "stall") & (rows["start_ns"] <= begin) & (rows["end_ns"] >= end)]
        assert len(stalls) == 1  # found, always
        (stall,) = stalls.itertuples(index=False)
        tried.append((stall.cause, begin - stall.start_ns, stall.end_ns - end))
        facts = joined(spans, stalls)
        assert facts.stalls is not None and facts.stall_join is not None
        exactly = (facts.stall_join.with_pause, facts.stall_join.without) == (DURING, BEFORE + AFTER)
        if stall.cause == "cpu" and stall.end_ns - stall.start_ns <= (end - begin) + BRACKET_NS and exactly:
            assert list(facts.stalls.cause) == ["cpu"]
            return
    pytest.fail(f"no undisturbed attempt: (cause, ns too early, ns too late) {tried}")


def test_a_forced_collection_is_timed_to_a_fifth_of_a_millisecond_and_joined_to_the_requests_in_flight(
    running: RunningWorker, backend: Backend
) -> None:
    heap = [[number] for number in range(300_000)]  # long enough to make a beat late
    tried = []
    for _ in range(ATTEMPTS):
        (begin, end), spans, rows = seen_around(running, backend, collect)
        inside = (rows["start_ns"] >= begin) & (rows["end_ns"] <= end)
        pauses = rows[(rows["kind"] == "gc") & inside & (rows["generation"] == 2)]
        stalls = rows[(rows["kind"] == "stall") & (rows["start_ns"] <= begin) & (rows["end_ns"] >= end)]
        assert len(pauses) == 1  # found, always
        (pause,) = pauses.itertuples(index=False)
        apart = (end - begin) - (pause.end_ns - pause.start_ns)
        facts = joined(spans, pd.concat([pauses, stalls]))
        assert facts.join is not None and facts.stall_join is not None
        counts = [(join.with_pause, join.without) for join in (facts.join, facts.stall_join)]
        tried.append((list(stalls["cause"]), apart, counts))
        if list(stalls["cause"]) == ["gc"] and apart < 0.2 * MS and counts == [(DURING, BEFORE + AFTER)] * 2:
            assert len(heap) == 300_000
            return
    pytest.fail(f"no undisturbed attempt: (cause, ns apart, joins) {tried}")
