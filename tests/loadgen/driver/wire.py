"""A scripted server for tests of the client, and replies as a mock writes them."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

Script = Callable[[socket.socket, int], None]


class ScriptedServer:
    """Listens on a free port; runs `script(socket, number of the connection)` in a thread for each connection."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.requests: list[bytes] = []  # heads, in the order they came
        self._acceptor = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._acceptor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            sock.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            self._script(sock, number)
        except (OSError, EOFError):
            pass
        finally:
            sock.close()

    def read_request(self, sock: socket.socket) -> bytes:
        """Reads a whole request and returns its body. EOFError when the client has gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                raise EOFError
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        self.requests.append(head)
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.I)
        while length and len(body) < int(length[1]):
            more = sock.recv(65536)
            if not more:
                raise EOFError
            body += more
        return body


def reset(sock: socket.socket) -> None:
    """Closes with a TCP reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for_close(sock: socket.socket) -> bool:
    """Whether the client closes its side within the socket's timeout."""
    try:
        return not sock.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True


def digest_of(body: bytes) -> str:
    return "sha256=" + hashlib.sha256(re.sub(rb'(?<=,"ns":")\d{20}(?="\})', b"0" * 20, body)).hexdigest()


def mock_headers(body: bytes, events: int) -> bytes:
    return (
        f"X-Mock-Events: {events}\r\nX-Mock-Digest: {digest_of(body)}\r\nX-Mock-Endpoint: mock-1\r\n"
        f"X-Mock-Recv-Ns: {time.monotonic_ns():020}\r\nX-Mock-Sent-Ns: {time.monotonic_ns():020}\r\n"
    ).encode()


def plain(text: bytes = b"hello", *, headers: bytes | None = None, status: bytes = b"200 OK") -> bytes:
    """A whole reply that is no stream."""
    body = b'{"text":"%b","mock":{"seq":0,"ns":"%020d"}}' % (text, time.monotonic_ns())
    said = mock_headers(body, 1) if headers is None else headers
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, said, len(body), body)


def sse_event(seq: int, text: bytes = b"word") -> bytes:
    return b'data: {"choices":[{"delta":{"content":"%b"}}],"mock":{"seq":%d,"ns":"%020d"}}\n\n' % (
        text,
        seq,
        time.monotonic_ns(),
    )


def sse(numbers: Sequence[int], *, stated: Sequence[int] | None = None) -> tuple[bytes, list[bytes]]:
    """The head of a stream and its chunks: a role event, then content. `stated` is what the mock says it sends."""
    stated = numbers if stated is None else stated
    events = [sse_event(seq, b"" if seq == 0 else b"word") for seq in numbers]
    meant = b"".join(sse_event(seq, b"" if seq == 0 else b"word") for seq in stated) + b"data: [DONE]\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bTransfer-Encoding: chunked\r\n\r\n" % mock_headers(
        meant, len(stated)
    )
    return head, [chunk(event) for event in events] + [chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
