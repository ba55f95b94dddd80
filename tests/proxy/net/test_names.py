"""Addresses of names: what is remembered, for how long, and who waits for whom."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence

import pytest

from proxy.net import names
from proxy.net.names import KEPT, Address, Names


def at(*addresses: str) -> list[Address]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


class System:
    """Answers by name, an error if there is none; a name that is `held` gets its answer when it is let go."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.asked: list[str] = []
        self.held: dict[str, threading.Event] = {}

    def __call__(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        if host in self.held:
            self.held[host].wait(10)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return at(*self.known[host].split())


class Clock:
    """The loop's clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loop: asyncio.AbstractEventLoop) -> None:
        self.later = 0.0
        usual = loop.time
        monkeypatch.setattr(loop, "time", lambda: usual() + self.later)


def hosts(found: Sequence[Address]) -> list[str]:
    return [address[4][0] for address in found]


def test_an_answer_is_kept_for_a_while_and_then_asked_for_again(monkeypatch):
    async def main():
        clock, system = Clock(monkeypatch, asyncio.get_running_loop()), System(a="10.0.0.1")
        known = Names(system)
        assert hosts(await known.addresses("a")) == ["10.0.0.1"]
        system.known["a"] = "10.0.0.2"
        clock.later = KEPT * 0.9
        assert hosts(await known.addresses("a")) == ["10.0.0.1"]
        clock.later = KEPT * 1.1
        assert hosts(await known.addresses("a")) == ["10.0.0.2"]
        assert system.asked == ["a", "a"]

    asyncio.run(main())


def test_a_forgotten_answer_is_asked_for_at_once():
    async def main():
        system = System(a="10.0.0.1")
        known = Names(system)
        await known.addresses("a")
        system.known["a"] = "10.0.0.2"
        known.forget("a")
        known.forget("never heard of")
        assert hosts(await known.addresses("a")) == ["10.0.0.2"]

    asyncio.run(main())


def test_an_error_is_everybodys_who_waits_and_is_not_kept():
    async def main():
        system = System()
        known = Names(system)
        results = await asyncio.gather(*(known.addresses("a") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [socket.gaierror] * 3
        assert system.asked == ["a"]
        system.known["a"] = "10.0.0.1"
        assert hosts(await known.addresses("a")) == ["10.0.0.1"]

    asyncio.run(main())


def test_one_name_that_is_not_answered_delays_no_other_and_has_one_look_up_however_many_give_up():
    async def main():
        system = System(**{f"n{i}": "10.0.0.1" for i in range(20)}, silent="10.0.0.9")
        system.held["silent"] = threading.Event()
        known = Names(system)
        for _ in range(10):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await known.addresses("silent")
        for i in range(20):
            assert await known.addresses(f"n{i}")
        assert system.asked.count("silent") == 1
        waiting = asyncio.ensure_future(known.addresses("silent"))
        await asyncio.sleep(0)
        system.held["silent"].set()
        assert hosts(await waiting) == ["10.0.0.9"], "who asks last has what who asked first began"
        assert system.asked.count("silent") == 1

    asyncio.run(main())


def test_an_answer_that_comes_after_the_loop_was_closed_is_nobodys():
    system = System(late="10.0.0.1")
    system.held["late"] = threading.Event()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Names(system).addresses("late")

    asyncio.run(main())
    system.held["late"].set()
    for thread in threading.enumerate():
        if thread.name == "look up late":
            thread.join(5)


def test_the_address_that_was_reached_is_first_while_the_answer_is_kept():
    async def main():
        known = Names(System(a="10.0.0.1 10.0.0.2 10.0.0.3"))
        await known.addresses("a")
        known.prefer("a", ("10.0.0.2", 80))
        known.prefer("unknown", ("10.0.0.2", 80))
        assert hosts(await known.addresses("a")) == ["10.0.0.2", "10.0.0.1", "10.0.0.3"]

    asyncio.run(main())


def test_without_a_thread_the_look_up_fails_and_the_next_one_is_tried(monkeypatch):
    async def main():
        known = Names(System(a="10.0.0.1"))

        def none_left(thread):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(OSError, match="no thread"):
                await known.addresses("a")
        assert hosts(await known.addresses("a")) == ["10.0.0.1"]

    asyncio.run(main())


def test_a_name_that_is_none_is_not_known():
    with pytest.raises(socket.gaierror):
        names.look_up("a" * 70 + ".test")
