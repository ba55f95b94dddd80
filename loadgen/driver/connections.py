"""Keep-alive connections to one address: raw non-blocking sockets with a watcher of gevent's loop each.

The last connection used is used next, as it is the least likely to be stale; one the server has closed meanwhile is
not used at all. With a limit, greenlets wait their turn.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import gevent
from gevent import monkey
from greenlet import getcurrent

from loadgen.driver.tls import TlsSocket

# Locust has patched these modules by now; our sockets and polls are the kernel's own.
_Socket: Any = monkey.get_original("socket", "socket")
_getaddrinfo: Any = monkey.get_original("socket", "getaddrinfo")
_poll: Any = monkey.get_original("select", "poll")

READ: Final = 1  # libev's event mask
WRITE: Final = 2
_UNEXPECTED: Final = select.POLLIN | getattr(select, "POLLRDHUP", 0)  # errors and hang-ups are always reported


class Connection:
    """A connected socket with its watcher: used by one exchange at a time, or idle in the pool.

    The watcher runs all the time (starting and stopping it costs a system call); `watch` and `rest` say whom it wakes.
    """

    __slots__ = ("_poll", "_sock", "_watcher", "fd", "number", "recv", "send", "uses", "when_idle")

    when_idle: Callable[[], object]

    def __init__(self, sock: Any, number: int, loop: Any) -> None:
        self._sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.uses = 0
        self.recv = sock.recv
        self.send = sock.send
        self._watcher = loop.io(self.fd, READ)
        self._poll = _poll()
        self._poll.register(self.fd, _UNEXPECTED)

    def watch(self, wake: Callable[[], object]) -> None:
        """From now on `wake` is called whenever there is something to read."""
        if self._watcher.active:
            self._watcher.callback = wake
        else:
            self._watcher.start(wake)

    def rest(self) -> None:
        """Nobody is woken until `watch`."""
        self._watcher.stop()

    def usable(self) -> bool:
        """Whether it is open and silent: an idle connection has nothing to say but that it was closed."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Closes the socket; with unread bytes, the server gets a reset."""
        self._watcher.stop()
        self._watcher.close()
        self._sock.close()
        del self.when_idle  # which refers to us


class Pool:
    """All connections to `host`:`port`, at most `limit` (0: any number). Mutable state of one hub.

    Raises OSError (socket.gaierror) if the address cannot be resolved.
    """

    def __init__(self, host: str, port: int, limit: int, how: ssl.SSLContext | None = None) -> None:
        """`how`: speak TLS."""
        self._limit = limit
        self._host = host
        self._tls = how
        self._hub = gevent.get_hub()
        self._idle: list[Connection] = []
        self._open = 0
        self._made = 0
        self._waiting: deque[_Turn] = deque()
        found = _getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._family, self._address = found[0], found[4]

    def acquire(self, receive_buffer: int | None = None) -> Connection:
        """An idle connection or a new one; waits if all that are allowed are busy. Raises OSError.

        With `receive_buffer` always a new one, whose kernel buffer has about that many bytes.
        """
        while True:
            while self._idle and receive_buffer is None:
                connection = self._idle.pop()
                if connection.usable():
                    return connection
                self._forget(connection)
            if not self._limit or self._open < self._limit:
                return self._connect(receive_buffer)
            if self._idle:  # room is made for the new one
                self._forget(self._idle.pop())
                continue
            turn = _Turn(getcurrent())
            self._waiting.append(turn)
            try:
                self._hub.switch()
            finally:
                turn.waits = False

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Takes a connection back."""
        if reusable:
            connection.watch(connection.when_idle)
            self._idle.append(connection)
            self._let_one_in()
        else:
            self._forget(connection)

    def close(self) -> None:
        """Closes the idle connections. Those in use stay with their users."""
        while self._idle:
            self._forget(self._idle.pop())

    def _spoke(self, connection: Connection) -> None:
        """An idle connection became readable: the server has closed it, or says what nobody asked for."""
        self._idle.remove(connection)
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        self._open -= 1
        self._let_one_in()

    def _let_one_in(self) -> None:
        if self._waiting:
            self._hub.loop.run_callback(self._resume)

    def _resume(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if turn.waits:  # else it was stopped meanwhile
                turn.greenlet.switch()
                return

    def _connect(self, receive_buffer: int | None) -> Connection:
        self._open += 1
        sock = None
        try:
            sock = _Socket(self._family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            code = sock.connect_ex(self._address)
            if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                wait(sock.fileno(), WRITE)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if self._tls is not None:
                fd, plain = sock.fileno(), sock
                sock = TlsSocket(plain, self._tls, self._host)
                sock.handshake(partial(wait, fd, READ), partial(wait, fd, WRITE))
        except BaseException:  # a time limit may be thrown in here too: the socket must not stay open
            if sock is not None:
                sock.close()
            self._open -= 1
            self._let_one_in()
            raise
        self._made += 1
        connection = Connection(sock, self._made, self._hub.loop)
        connection.when_idle = partial(self._spoke, connection)
        return connection


class _Turn:
    """A greenlet that waits for a connection."""

    __slots__ = ("greenlet", "waits")

    def __init__(self, greenlet: Any) -> None:
        self.greenlet = greenlet
        self.waits = True


def wait(fd: int, events: int) -> None:
    """Lets other greenlets run until the kernel reports one of `events` (READ, WRITE) for `fd`."""
    hub = gevent.get_hub()
    watcher = hub.loop.io(fd, events)
    watcher.start(getcurrent().switch)
    try:
        hub.switch()
    finally:
        watcher.stop()
        watcher.close()
