"""The peers of a proxy, played by the test itself on blocking sockets: a client, and an endpoint that obeys.

A test reads as a dialogue. The engine runs in a thread or process of its own, so the test's thread can be both sides:

    client.send(b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n")
    peer = endpoint.accept()
    request = peer.request()
    peer.send(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
    assert client.response().body == b"hi"

Nothing here is lenient: what is not HTTP/1.1 is `Broken`, what ends early is `Cut`, what does not come is `Silence`.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

# Long enough for a noisy machine; a test that waits as long fails.
PATIENCE = 8.0

_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~]*)?")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2}) ([\t -~\x80-\xff]*)")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*?)[ \t]*")


class Cut(Exception):
    """The other side ended the connection before its message was complete; `got` is what had come."""

    def __init__(self, got: bytes, how: str) -> None:
        super().__init__(f"{how} after {got[-200:]!r}")
        self.got = got
        self.how = how


class _Closed(Cut):
    """Cut by an ordinary close."""


class Silence(Exception):
    """The other side said nothing for as long as the test would wait."""


class Broken(Exception):
    """What came is not HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response as it came over the wire. `fields` keep order, case and repeats; text is Latin-1."""

    start: str
    fields: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    head: bytes = b""

    @property
    def status(self) -> int:
        """The status of a response."""
        return int(self.start.split(" ")[1])

    @property
    def method(self) -> str:
        """The method of a request."""
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        """The target of a request."""
        return self.start.split(" ")[1]

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for n, value in self.fields if n.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The only value of a field, None without it. Raises Broken when there are several."""
        values = self.all(name)
        if len(values) > 1:
            raise Broken(f"{name} is there {len(values)} times")
        return values[0] if values else None


class Wire:
    """One end of a TCP connection and what was read from it but not used yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unread = bytearray()
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes, *, split: str = "whole") -> Self:
        """Send `data` whole, byte by byte (`bytes`), or in a segment per line (`lines`)."""
        match split:
            case "whole":
                self.sock.sendall(data)
            case "bytes" | "lines":
                parts = [data[i : i + 1] for i in range(len(data))] if split == "bytes" else data.splitlines(True)
                for part in parts:
                    self.sock.sendall(part)
                    time.sleep(0.0002 if split == "bytes" else 0.002)  # lets the other side read it alone
            case _:
                raise ValueError(split)
        return self

    def send_what_fits(self, data: bytes, *, within: float) -> int:
        """Send what is taken of `data` until nothing is taken for `within` seconds; returns how much that was."""
        sent = 0
        self.sock.settimeout(within)
        try:
            with contextlib.suppress(TimeoutError):
                while sent < len(data):
                    sent += self.sock.send(data[sent : sent + 2**16])
        finally:
            self.sock.settimeout(PATIENCE)
        return sent

    def finish_sending(self) -> None:
        """Half-close: nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close in the ordinary way."""
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset, as a killed process on a busy machine does."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def receive(self, count: int) -> bytes:
        """Exactly `count` bytes. Raises Cut, Silence."""
        while len(self._unread) < count:
            self._more()
        return self._take(count)

    def receive_until(self, end: bytes) -> bytes:
        """Everything up to and including `end`. Raises Cut, Silence."""
        while (at := self._unread.find(end)) < 0:
            self._more()
        return self._take(at + len(end))

    def receive_some(self, limit: int = 2**16) -> bytes:
        """Whatever is there, at least a byte. Raises Cut, Silence."""
        if not self._unread:
            self._more(limit)
        return self._take(limit)

    def receive_to_end(self) -> bytes:
        """Everything until the other side closes cleanly. Raises Cut for a reset, Silence."""
        with contextlib.suppress(_Closed):
            while True:
                self._more()
        return self._take(len(self._unread))

    def ended(self, within: float = PATIENCE) -> str:
        """How the other side ended it, `closed` or `reset`. Raises Silence if it did not, Broken if bytes came."""
        if self._unread:
            raise Broken(f"not the end: {bytes(self._unread[:200])!r}")
        self.sock.settimeout(within)
        try:
            data = self.sock.recv(2**16)
        except TimeoutError as exc:
            raise Silence(f"still open after {within} s") from exc
        except OSError:
            return "reset"
        finally:
            self.sock.settimeout(PATIENCE)
        if data:
            raise Broken(f"not the end: {data[:200]!r}")
        return "closed"

    def silent(self, during: float) -> bool:
        """Whether nothing comes `during` so many seconds, not even an end."""
        if self._unread:
            return False
        self.sock.settimeout(during)
        try:
            self._unread += self.sock.recv(2**16)
        except (TimeoutError, BlockingIOError):
            return True
        except OSError:
            return False
        finally:
            self.sock.settimeout(PATIENCE)
        return False

    def _take(self, count: int) -> bytes:
        data = bytes(self._unread[:count])
        del self._unread[:count]
        return data

    def _more(self, limit: int = 2**16) -> None:
        had = bytes(self._unread[-200:])
        try:
            data = self.sock.recv(limit)
        except TimeoutError as exc:
            raise Silence(f"nothing more after {had!r}") from exc
        except OSError as exc:
            raise Cut(bytes(self._unread), "reset") from exc
        if not data:
            raise _Closed(bytes(self._unread), "closed")
        self._unread += data

    def _head(self) -> tuple[str, list[tuple[str, str]], bytes]:
        head = self.receive_until(b"\r\n\r\n")
        start, *lines = head[:-4].split(b"\r\n")
        return start.decode("latin-1"), [_field(line) for line in lines], head

    def _chunked(self) -> tuple[list[bytes], list[tuple[str, str]]]:
        chunks: list[bytes] = []
        try:
            while True:
                line = self.receive_until(b"\r\n")[:-2]
                match = _CHUNK_SIZE.fullmatch(line)
                if match is None:
                    raise Broken(f"chunk size {line!r}")
                size = int(match[1], 16)
                if size == 0:
                    break
                chunks.append(self.receive(size))
                if self.receive(2) != b"\r\n":
                    raise Broken("a chunk does not end where it should")
            trailers = []
            while line := self.receive_until(b"\r\n")[:-2]:
                trailers.append(_field(line))
        except Cut as exc:
            raise Cut(b"".join(chunks) + exc.got, exc.how) from exc
        return chunks, trailers


def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Broken(f"field line {line!r}")
    return match[1].decode("latin-1"), match[2].decode("latin-1")


def _length(fields: list[tuple[str, str]]) -> int | str | None:
    codings = [value for name, value in fields if name.lower() == "transfer-encoding"]
    lengths = [value for name, value in fields if name.lower() == "content-length"]
    if codings and lengths:
        raise Broken("Transfer-Encoding and Content-Length")
    if codings:
        if codings != ["chunked"]:
            raise Broken(f"Transfer-Encoding: {codings}")
        return "chunked"
    if not lengths:
        return None
    if len(lengths) > 1 or not re.fullmatch("[0-9]+", lengths[0]):
        raise Broken(f"Content-Length: {lengths}")
    return int(lengths[0])


class Client(Wire):
    """A client's connection to the proxy."""

    def get(self, target: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> Self:
        """Send a request without a body; `fields` are lines."""
        lines = [f"{method} {target} HTTP/{version}", "Host: proxy.test", *fields, "", ""]
        return self.send("\r\n".join(lines).encode("latin-1"))

    def post(self, body: bytes, target: str = "/", *fields: str, method: str = "POST") -> Self:
        """Send a request with a body and its length."""
        lines = [f"{method} {target} HTTP/1.1", "Host: proxy.test", f"Content-Length: {len(body)}", *fields, "", ""]
        return self.send("\r\n".join(lines).encode("latin-1") + body)

    def response(self, method: str = "GET") -> Message:
        """One final response, whole. Raises Cut, Silence, Broken."""
        start, fields, head = self.response_head()
        status = int(start.split(" ")[1])
        if method == "HEAD" or status in (204, 304):
            return Message(start, fields, b"", head=head)
        length = _length(fields)
        if length == "chunked":
            if start.startswith("HTTP/1.0"):
                raise Broken("chunked in HTTP/1.0")
            chunks, trailers = self._chunked()
            return Message(start, fields, b"".join(chunks), chunks, trailers, head)
        if isinstance(length, int):
            return Message(start, fields, self.receive(length), head=head)
        return Message(start, fields, self.receive_to_end(), head=head)

    def response_head(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """The head of the next final response; 100 is skipped."""
        while True:
            start, fields, head = self._head()
            if not _STATUS_LINE.fullmatch(start.encode("latin-1")):
                raise Broken(f"status line {start!r}")
            if start.split(" ")[1] != "100":
                return start, fields, head


class Peer(Wire):
    """A connection that the proxy made to an endpoint."""

    def request(self) -> Message:
        """One request, whole. Raises Cut, Silence, Broken."""
        start, fields, head = self.request_head()
        length = _length(fields)
        if length == "chunked":
            chunks, trailers = self._chunked()
            return Message(start, fields, b"".join(chunks), chunks, trailers, head)
        return Message(start, fields, self.receive(length) if isinstance(length, int) else b"", head=head)

    def request_head(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """The head of the next request."""
        start, fields, head = self._head()
        if not _REQUEST_LINE.fullmatch(start.encode("latin-1")):
            raise Broken(f"request line {start!r}")
        return start, fields, head

    def respond(self, body: bytes = b"ok", *fields: str, status: str = "200 OK") -> Self:
        """Send a response with a body and its length."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]
        return self.send("\r\n".join(lines).encode("latin-1") + body)

    def begin_chunked(self, *fields: str) -> Self:
        """Send the head of a chunked response."""
        lines = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *fields, "", ""]
        return self.send("\r\n".join(lines).encode("latin-1"))

    def chunk(self, data: bytes) -> Self:
        """Send one chunk; an empty one is the last."""
        return self.send(b"%x\r\n%b\r\n" % (len(data), data))


class Endpoint:
    """An LLM server as far as the proxy can tell: a listening socket whose connections the test plays."""

    def __init__(self, name: str = "", *, backlog: int = 128, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._sock = socket.create_server(address, backlog=backlog)
        self._sock.settimeout(PATIENCE)
        self.port = int(self._sock.getsockname()[1])
        self.name = name or f"e{self.port}"
        self.accepted = 0
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.failures: list[BaseException] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def accept(self, within: float = PATIENCE) -> Peer:
        """The next connection that the proxy makes. Raises Silence."""
        self._sock.settimeout(within)
        try:
            sock, _ = self._sock.accept()
        except TimeoutError as exc:
            raise Silence(f"no connection to {self.name} within {within} s") from exc
        self.accepted += 1
        peer = Peer(sock)
        self._peers.append(peer)
        return peer

    def untouched(self, during: float = 0.1) -> bool:
        """Whether no connection is made `during` so many seconds."""
        try:
            self.accept(during)
        except Silence:
            return True
        return False

    def serve(self, play: Callable[[Peer], object]) -> Self:
        """From now on let a thread per connection `play` it, again and again until it ends."""

        def connection(peer: Peer) -> None:
            try:
                with peer:
                    while True:
                        play(peer)
            except (Cut, Silence, OSError):
                pass  # the proxy closed it, or the test is over
            except BaseException as exc:  # shown when the endpoint is closed
                self.failures.append(exc)

        def accept() -> None:
            while not self._closing:
                try:
                    peer = self.accept(within=0.2)
                except Silence:
                    continue
                except OSError:
                    return
                thread = threading.Thread(target=connection, args=(peer,), daemon=True)
                thread.start()
                self._threads.append(thread)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def close(self) -> None:
        """Stop listening and close every connection. Raises what a thread of `serve` ran into."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits in accept
        self._sock.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
            peer.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        if self.failures:
            raise self.failures[0]


def answering(body: bytes = b"ok", *fields: str, status: str = "200 OK") -> Callable[[Peer], object]:
    """For `Endpoint.serve`: take a request, answer it."""

    def play(peer: Peer) -> None:
        peer.request()
        peer.respond(body, *fields, status=status)

    return play


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port where connecting gets no answer at all: its queue of connections is full, so SYNs are dropped."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = int(listener.getsockname()[1])
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield port
