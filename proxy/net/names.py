"""Addresses of endpoints' names: cached for a short time, at most one look-up in flight for a name.

A look-up is the system's `getaddrinfo`, which knows what no DNS library does (hosts file, mDNS, the container's and the
cluster's search domains), and which cannot be cancelled: with a name server that is silent it takes 10 s and more. So
each runs in a thread of its own. In the loop's pool it would keep one of a few threads from every other name: uvloop
has four, and two endpoints whose checks and requests ask for a silent name hold them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

KEPT = 10.0
"""Seconds for which an answer is used without asking again; a connection that fails ends them at once."""

Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""As `socket.getaddrinfo` has it: family, type, protocol, canonical name, socket address."""

LookUp: TypeAlias = Callable[[str], Sequence[Address]]


def look_up(host: str) -> Sequence[Address]:
    """Ask the system, for as long as it takes. Raises OSError."""
    try:
        return socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except UnicodeError as exc:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from exc


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[Address, ...]
    until: float  # the loop's clock


class Names:
    """Owner of the answers and of the look-ups in flight. Used on one loop only."""

    def __init__(self, ask: LookUp = look_up) -> None:
        self._ask = ask
        self._answers: dict[str, _Answer] = {}
        self._in_flight: dict[str, asyncio.Future[tuple[Address, ...]]] = {}

    async def addresses(self, host: str) -> tuple[Address, ...]:
        """All addresses of `host`, the system's preference first; their port is 0. Raises OSError.

        Cancelled, the look-up goes on, and serves whoever asks next.
        """
        answer = self._answers.get(host)
        if answer is not None and answer.until > asyncio.get_running_loop().time():
            return answer.addresses
        in_flight = self._in_flight.get(host) or self._start(host)
        return await asyncio.shield(in_flight)

    def forget(self, host: str) -> None:
        """Ask again next time: a connection to the known addresses failed."""
        self._answers.pop(host, None)

    def prefer(self, host: str, sockaddr: tuple[Any, ...]) -> None:
        """Put the address that was reached before the others (RFC 8305 section 4), while the answer is kept."""
        answer = self._answers.get(host)
        if answer is not None:
            ordered = sorted(answer.addresses, key=lambda address: address[4][0] != sockaddr[0])
            self._answers[host] = _Answer(tuple(ordered), answer.until)

    def _start(self, host: str) -> asyncio.Future[tuple[Address, ...]]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[tuple[Address, ...]] = loop.create_future()

        def run() -> None:
            try:
                found: Sequence[Address] | OSError = self._ask(host)
            except OSError as exc:
                found = exc
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._settle, host, found)

        self._in_flight[host] = answered
        try:
            # A daemon, so that a silent name server does not hold up the end of the process.
            threading.Thread(target=run, name=f"look up {host}", daemon=True).start()
        except RuntimeError as exc:
            self._settle(host, OSError(f"no thread for the look-up of {host}: {exc}"))
        return answered

    def _settle(self, host: str, found: Sequence[Address] | OSError) -> None:
        answered = self._in_flight.pop(host)
        if isinstance(found, OSError):
            answered.set_exception(found)
            answered.exception()  # seen, even if everybody who waited has left
        else:
            addresses = tuple(found)
            self._answers[host] = _Answer(addresses, asyncio.get_running_loop().time() + KEPT)
            answered.set_result(addresses)
