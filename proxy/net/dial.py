"""Reaches an endpoint: its name, its addresses, TLS. The engines and the health checks share one Dialer in a worker.

An IP literal goes straight to the loop: no look-up, no race.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import aiohappyeyeballs

from proxy.net.names import Address, Names
from proxy.net.tls_stream import TlsStream

ATTEMPT_DELAY = 0.25
"""Seconds after which the next address is tried beside the one before: RFC 8305 section 5 recommends them."""

ProtocolT = TypeVar("ProtocolT")  # of asyncio


class Dialer:
    """Opens connections. It has no time limit of its own: the caller's covers look-up, addresses and handshake."""

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()

    async def connect(
        self, host: str, port: int, context: ssl.SSLContext | None, make: Callable[[], ProtocolT]
    ) -> ProtocolT:
        """Connect and let `make` make the protocol; with a context it is connected when the handshake is over.

        Raises OSError, of which name look-ups and TLS have their own kinds.
        """
        if context is None:
            return cast("ProtocolT", await self._open(host, port, make))
        protocol = make()
        stream = TlsStream(context, host, cast("asyncio.BaseProtocol", protocol), asyncio.get_running_loop())
        try:
            await self._open(host, port, lambda: stream)
            await stream.ready
        except BaseException:
            stream.abort()
            raise
        return protocol

    async def _open(self, host: str, port: int, make: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        if is_address(host):
            _, protocol = await loop.create_connection(make, host, port)
        else:
            sock = await self._reach(host, port)
            _, protocol = await loop.create_connection(make, sock=sock)
        return protocol

    async def _reach(self, host: str, port: int) -> socket.socket:
        """A socket connected to one of the addresses of `host`."""
        known = await self._names.addresses(host)
        try:
            return await self._race(host, port, known)
        except asyncio.CancelledError:  # the time was over, or whoever wanted it left
            self._names.forget(host)
            raise
        except OSError:
            # It may have moved since the name was looked up.
            self._names.forget(host)
            found = await self._names.addresses(host)
            if set(found) == set(known):
                raise
        return await self._race(host, port, found)

    async def _race(self, host: str, port: int, addresses: Sequence[Address]) -> socket.socket:
        """RFC 8305: the next address is tried while the one before is silent, and the first that answers wins."""
        targets = [(*address[:4], (address[4][0], port, *address[4][2:])) for address in addresses]
        try:
            sock = await aiohappyeyeballs.start_connection(targets, happy_eyeballs_delay=ATTEMPT_DELAY, interleave=1)
        except RuntimeError as exc:  # uvloop's word for a descriptor that it still knows
            raise OSError(str(exc)) from exc
        if len(targets) > 1 and (peer := sock.getpeername())[0] != targets[0][4][0]:
            self._names.prefer(host, peer)
        return sock


@lru_cache(maxsize=1024)
def is_address(host: str) -> bool:
    """Whether `host` is an IP address, with a zone or without."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
