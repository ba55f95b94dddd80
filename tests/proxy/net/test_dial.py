"""Reaching an endpoint: which addresses are tried, when a name is asked for again, and that nothing stays open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from proxy.net.dial import Dialer, is_address
from proxy.net.names import Names
from tests.proxy.net.test_names import System


@contextlib.asynccontextmanager
async def listening(host: str, port: int = 0) -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda reader, writer: None, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Peer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.address = transport.get_extra_info("peername")[0]
        transport.close()


async def reached(system: System, port: int, names: Names | None = None) -> str:
    return (await Dialer(names or Names(system)).connect("a", port, None, Peer)).address


def test_an_address_is_never_looked_up():
    async def main():
        system = System()
        async with listening("127.0.0.1") as port:
            await Dialer(Names(system)).connect("127.0.0.1", port, None, Peer)
        assert system.asked == []

    asyncio.run(main())


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%eth0", "localhost", "10.0.0.1.test", "10.1"])
def test_addresses_are_told_from_names(host):
    assert is_address(host) is (host in ("10.0.0.1", "::1", "fe80::1%eth0"))


def test_after_an_address_that_refuses_comes_the_next_which_is_first_from_then_on():
    async def main():
        system = System(a="127.0.0.2 127.0.0.3")
        names = Names(system)
        async with listening("127.0.0.3") as port:
            assert await reached(system, port, names) == "127.0.0.3"
        assert [address[4][0] for address in await names.addresses("a")] == ["127.0.0.3", "127.0.0.2"]

    asyncio.run(main())


def test_where_all_known_addresses_refuse_the_name_is_asked_for_again_and_new_ones_are_tried():
    async def main():
        system = System(a="127.0.0.2")
        names = Names(system)
        await names.addresses("a")
        async with listening("127.0.0.3") as port:
            system.known["a"] = "127.0.0.3"
            assert await reached(system, port, names) == "127.0.0.3"
        assert system.asked == ["a", "a"]

    asyncio.run(main())


def test_where_the_name_has_no_new_address_the_failure_stands():
    async def main():
        system = System(a="127.0.0.2")
        with pytest.raises(ConnectionRefusedError):
            await reached(system, unused_port())
        assert system.asked == ["a", "a"]

    asyncio.run(main())


def test_an_attempt_that_was_given_up_has_the_name_asked_for_again():
    async def main():
        system = System(a="127.0.0.1")
        names = Names(system)
        with socket.socket() as full:  # its queue takes one connection, and nobody accepts any
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            fillers = [socket.socket() for _ in range(4)]
            for sock in fillers:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            await asyncio.sleep(0.05)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await reached(system, port, names)
            for sock in fillers:
                sock.close()
        await names.addresses("a")
        assert system.asked == ["a", "a"]

    asyncio.run(main())
