"""Listening sockets, bound before anything else starts: a taken port is one sentence, never a half-started proxy."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable

BACKLOG = 4096  # the kernel caps it at net.core.somaxconn (4096 since Linux 5.4); asyncio's 100 drops a burst's SYNs
ACCEPTS_AT_ONCE = 64

# An engine that stops waits so long, in seconds, for the request of a connection that it has just accepted. Its client
# did nothing wrong, and in a proxy with several workers the others go on: without it such a stop under load lost
# requests. Requests follow within milliseconds; a client that connects ahead of its need may be cut off.
ARRIVAL_TIME = 1.0

# What a peer may have sent that we have not read, in the kernel's memory. Linux lets a receive window grow to
# `net.ipv4.tcp_rmem`'s maximum (32 MiB here): a fast endpoint behind a slow client would fill it for each stream. 4 MiB
# still allow 400 MiB/s at a round trip of 10 ms. SO_RCVBUF would switch the kernel's tuning off altogether.
MAX_WINDOW = 4 * 2**20

# What was written to a client, not sent yet, and is in the kernel's memory. Without a bound it takes 2.5 MB on loopback
# (measured: an answer of 1 MiB for a client with a receive buffer of 20 bytes vanished in it, and was a success). The
# rest stays with us, where it is counted, stops the endpoint, and has its time limit.
MAX_UNSENT = 128 * 2**10


class CannotListen(Exception):
    """The address cannot be listened on: one sentence with what to do."""


def listen(host: str, port: int, *, key: str, shared: bool = False) -> socket.socket:
    """A bound, listening, non-blocking TCP socket; port 0 takes a free one. Raises CannotListen.

    `key` is the config section named in the sentence. `shared` sockets (SO_REUSEPORT) may be bound once per worker; the
    kernel then deals new connections out among them.
    """
    family, address = _resolve(host, port, key)
    if shared and port:
        # Two processes of one user that both set SO_REUSEPORT share a port without a word. Ask without it first.
        _bind(family, address, key, shared=False).close()
    return _bind(family, address, key, shared=shared)


def listen_again(sock: socket.socket) -> socket.socket:
    """One more socket on the address of `sock`, which was made with `shared=True`. Raises CannotListen."""
    return _bind(sock.family, sock.getsockname(), "server", shared=True)


async def accept_on(
    sock: socket.socket, factory: Callable[[], asyncio.BaseProtocol], write_timeout: float
) -> asyncio.Server:
    """Serve connections of a listening socket with the running loop; `write_timeout` in seconds, 0 is none."""
    bound_window(sock)
    bound_unsent(sock)
    set_user_timeout(sock, write_timeout)
    # The plain loop takes `backlog` for two things: the queue, and how often it tries to accept in one go, without
    # stopping when descriptors run out: each failure writes a complaint and arms a timer. 4096 of them were 3 s of CPU.
    server = await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=ACCEPTS_AT_ONCE)
    sock.listen(BACKLOG)
    return server


async def requests_arrived(arriving: Callable[[], bool], grace: float) -> None:
    """Wait while a request is under way on a connection that was accepted just now: for ARRIVAL_TIME, or `grace` if
    that is less."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + min(grace, ARRIVAL_TIME)
    while (left := ends - loop.time()) > 0:
        await asyncio.sleep(min(left, 0.02))  # first: what was accepted may have no protocol yet
        if not arriving():
            break


def bound_window(sock: socket.socket | None) -> None:
    """Bound a socket's receive window, or that of all connections a listening socket will accept. Linux only."""
    if sock is not None and sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_WINDOW_CLAMP, MAX_WINDOW)


def bound_unsent(sock: socket.socket) -> None:
    """Bound what the kernel holds for a client that does not read, for all connections that will be accepted here."""
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT)


def set_user_timeout(sock: socket.socket, write_timeout: float) -> None:
    """Let the kernel drop accepted connections whose client acknowledges nothing or keeps its window shut.

    This covers a connection that looks idle to the engine, or that it has closed, while the kernel still holds bytes.
    The kernel's limit is longer than `write_timeout`, so that the engine cuts first and counts what it cut. Linux only.
    """
    if sys.platform == "linux" and sock.family in (socket.AF_INET, socket.AF_INET6):
        milliseconds = min(round(1250 * write_timeout + 500), 2**31 - 1) if write_timeout else 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """Let the connection end by a reset: where its end is the end of a message, a FIN would look like a whole one."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def url_of(sock: socket.socket) -> str:
    """The URL by which this machine reaches `sock`; a wildcard address is shown as loopback."""
    host, port = sock.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if sock.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolve(host: str, port: int, key: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise CannotListen(f"{key}.host: {host!r} is not an address or name of this machine ({exc})") from exc
    # `localhost` has both families; clients that try ::1 first fall back to 127.0.0.1, seldom the other way round.
    found.sort(key=lambda info: info[0] != socket.AF_INET)
    family, _, _, _, address = found[0]
    return family, (str(address[0]), int(address[1]))


def _bind(family: int, address: tuple[str, int], key: str, *, shared: bool) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise CannotListen(_sentence(address, key, exc)) from exc
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit it: a token must not wait for the client's delayed ACK.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise CannotListen(_sentence(address, key, exc)) from exc
    return sock


def _sentence(address: tuple[str, int], key: str, exc: OSError) -> str:
    host, port = address[:2]
    match exc.errno:
        case errno.EADDRINUSE:
            return f"{key}.port: {port} on {host} is in use; stop that program or take another port (0: a free one)"
        case errno.EACCES:
            return f"{key}.port: {port} on {host} needs more rights than this user has; choose a port above 1023"
        case errno.EAFNOSUPPORT:
            return f"{key}.host: {host} is an IPv6 address, and this machine has no IPv6; 0.0.0.0 is all of IPv4"
        case errno.EADDRNOTAVAIL:
            return f"{key}.host: {host} is not an address of this machine"
        case _:
            return f"{key}: cannot listen on {host}:{port}: {os.strerror(exc.errno or 0)}"
