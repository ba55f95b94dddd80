"""Both alarms ring once for each setting, not early, and the last setting counts."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
import uvloop

from mock_backends.alarm import _LoopTimer, _TimerFd


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(_TimerFd, marks=pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")),
        _LoopTimer,
    ],
)
def test_an_alarm_rings_once_not_early_and_at_the_time_set_last(kind: type[_TimerFd] | type[_LoopTimer]) -> None:
    async def rings() -> tuple[list[int], int]:
        rang: list[int] = []
        once = asyncio.Event()

        def ring() -> None:
            rang.append(time.monotonic_ns())
            once.set()

        alarm = kind(asyncio.get_running_loop(), ring)
        alarm.set(time.monotonic_ns() + 3600 * 10**9)
        due = time.monotonic_ns() + 5_000_000
        alarm.set(due)
        await asyncio.wait_for(once.wait(), 10)
        await asyncio.sleep(0.01)  # long enough for an alarm that was not taken back to ring again
        alarm.close()
        return rang, due

    rang, due = uvloop.run(rings())
    assert len(rang) == 1
    assert rang[0] >= due - 1_000_000  # libuv's own timers count in whole milliseconds
