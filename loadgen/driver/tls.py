"""TLS over a non-blocking socket, for servers that are not ours (`https`): reads and writes like the socket itself.

By memory BIOs and not by `SSLSocket`: Locust has patched the ssl module, and what is patched waits with gevent's own
watchers, while our client waits with its own. Certificates are checked, always.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

_CHUNK: Final = 65536


def context(ca: str | None) -> ssl.SSLContext:
    """A client's context that trusts the system's authorities, or those in the file `ca` only."""
    found = ssl.create_default_context(cafile=ca)
    found.set_alpn_protocols(["http/1.1"])
    return found


class TlsSocket:
    """The part of a socket's interface that a Connection uses. `wait_readable`, `wait_writable` switch to the hub."""

    def __init__(self, sock: Any, how: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = how.wrap_bio(self._in, self._out, server_hostname=host)

    def fileno(self) -> int:
        """Of the socket below."""
        number: int = self._sock.fileno()
        return number

    def handshake(self, wait_readable: Callable[[], object], wait_writable: Callable[[], object]) -> None:
        """Raises OSError (ssl.SSLError for a certificate that is not trusted)."""
        self._wait_writable = wait_writable
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                wait_readable()
                self._pull()
            else:
                self._flush()
                return

    def recv(self, size: int) -> bytes:
        """All that can be read now, whatever `size`: what stays in here makes no socket readable. b"" at the end.

        Raises BlockingIOError if there is nothing yet.
        """
        found: list[bytes] = []
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                if found:
                    return b"".join(found)
                self._pull()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # how it ends says nothing: framing decides
                return b"".join(found)
            else:
                if not data:
                    return b"".join(found)
                found.append(data)

    def send(self, data: bytes | memoryview) -> int:
        """Sends all of it; waits where the kernel takes no more."""
        self._tls.write(data)
        self._flush()
        return len(data)

    def close(self) -> None:
        """Closes the socket below, without TLS's own good-bye: nobody waits for it."""
        self._sock.close()

    def _pull(self) -> None:
        data = self._sock.recv(_CHUNK)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def _flush(self) -> None:
        rest = memoryview(self._out.read())
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                self._wait_writable()
