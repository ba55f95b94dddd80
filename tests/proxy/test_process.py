"""Orders to stop and how far they go, reloads by signal, and the loop that was asked for."""

import asyncio
import logging
import os
import signal

import pytest

from proxy.config import ConfigError
from proxy.process import PERSON_GAP, Stop, reload_logged, run_on_loop


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def stopping(*orders):
    """A Stop after orders, each a method's name and the seconds that passed before it."""
    clock = Clock()
    stop = Stop(clock)
    for name, seconds in orders:
        clock.now += seconds
        getattr(stop, name)()
    return stop


@pytest.mark.parametrize(
    ("orders", "code", "cut"),
    [
        ([("order", 0)], 0, False),
        ([("interrupt", 0)], 130, False),
        ([("order", 0), ("order", 0), ("order", 0.001)], 0, False),  # dumb-init, timeout, systemd: to the whole group
        ([("order", 0), ("order", 60), ("order", 60)], 0, False),
        ([("interrupt", 0), ("interrupt", 0.01)], 130, False),  # one key press that a wrapper passed on
        ([("interrupt", 0), ("interrupt", PERSON_GAP)], 130, False),
        ([("interrupt", 0), ("interrupt", PERSON_GAP + 0.01)], 130, True),
        ([("order", 0), ("interrupt", 0.1)], 0, False),
        ([("order", 0), ("interrupt", 2)], 0, True),
        ([("interrupt", 0), ("order", 5)], 130, False),
        ([("cut", 0)], 0, True),
        ([("cut", 0), ("cut", 1), ("order", 1)], 0, True),
    ],
)
def test_one_order_however_often_and_only_a_person_s_later_one_cuts(orders, code, cut):
    stop = stopping(*orders)
    assert (stop.asked.is_set(), stop.code, stop.at_once.is_set()) == (True, code, cut)


def test_signals_are_orders_sigterm_a_machine_s_and_sigint_a_person_s():
    async def main():
        clock = Clock()
        stop = Stop(clock)
        stop.listen(interrupts=True)
        for number in (signal.SIGTERM, signal.SIGTERM):
            clock.now += 5
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.01)
        await stop.asked.wait()
        assert not stop.at_once.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        clock.now += 5
        await asyncio.wait_for(stop.graceful(asyncio.sleep(3600)), 20)
        return stop.code

    assert asyncio.run(main()) == 0


def test_a_graceful_stop_waits_for_what_is_in_flight_and_passes_on_its_failure():
    async def main():
        stop, done = Stop(), []

        async def stopping():
            await asyncio.sleep(0)
            done.append(True)

        await stop.graceful(stopping())

        async def failing():
            raise ValueError("cannot stop")

        with pytest.raises(ValueError, match="cannot stop"):
            await stop.graceful(failing())
        return done

    assert asyncio.run(main()) == [True]


def test_waiting_for_an_order_ends_with_it_or_with_the_time():
    async def main():
        stop = Stop()
        before = await stop.asked_within(0.001)
        stop.order()
        return before, await stop.asked_within(60)

    assert asyncio.run(main()) == (False, True)


def test_a_refused_config_is_logged_sentence_by_sentence_and_nothing_is_raised(caplog):
    def refused():
        raise ConfigError("f.yaml: a\nf.yaml: b")

    reload_logged(refused, Stop())
    assert caplog.messages == [
        "config refused, the old one stays: f.yaml: a",
        "config refused, the old one stays: f.yaml: b",
    ]


def test_a_reload_logs_what_needs_a_restart(caplog):
    caplog.set_level(logging.INFO)
    reload_logged(lambda: ["server.port: ..."], Stop())
    assert caplog.messages == ["server.port: ...", "config reloaded"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_loop_is_the_one_that_was_asked_for(loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")

    async def main():
        name = type(asyncio.get_running_loop()).__module__
        return 0 if (loop == "uvloop") == name.startswith("uvloop") else 1

    assert run_on_loop(main, loop) == 0
