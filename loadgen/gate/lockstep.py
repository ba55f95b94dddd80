"""A client and a backend in one thread that take turns, so that a proxy between them does the same work every time.

Counting is exact only if nothing depends on time: whether two events arrive in one read, how often a loop wakes up, in
which order connections become readable. So nothing here is sent before the proxy has passed on what came before: the
backend answers when it has the whole request, and says the next event when the client has the last one. And, of a proxy
whose process is known, not before it waits in its loop again: what it does after its last write would else share a pass
of the loop with what comes next, or not, as the machine's load decides (gross allocations of 2,000 exchanges through
Sherpa: 15,000 apart without, 2,000 with). What the backend says was recorded from `mock_backends`, with fixed digits in
place of its clocks; each reply is checked by its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import selectors
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self
from urllib.parse import urlsplit

from loadgen.wire.stream import BodyScanner, ResponseReader, Truncated, WrongReply

_READ = 1 << 18
_SETTLE_S = 1.0
_CLOCKS = re.compile(rb'(X-Mock-(?:Recv|Sent)-Ns: |"ns":")\d{20}')
_ZEROS = re.compile(rb"(?<=-Ns: )0{20}")
_DATE = re.compile(rb"\r\nDate: [^\r]*")
_DIGEST = re.compile(rb"\r\nX-Mock-Digest: ([^\s]+)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.I)


class WrongAnswer(Exception):
    """The proxy did not pass on what it was given: what was counted means nothing."""


class Changed(WrongAnswer):
    """The reply came whole, and its body is not the one that the backend sent."""


class CutShort(WrongAnswer):
    """The reply ended before it was whole."""


class HeldBack(WrongAnswer):
    """Bytes that were sent alone did not come out within the time they were given."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A request and the mock's reply to it, cut into what is sent alone: the head with the first event, each event.

    `sizes`: bytes of body that have been sent with each piece and those before it.
    """

    request: bytes
    pieces: tuple[bytes, ...]
    sizes: tuple[int, ...]
    digest: bytes

    @property
    def events(self) -> int:
        """How many pieces there are."""
        return len(self.pieces)


def record(url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Recording:
    """Ask a mock at `url` directly and keep what it says, its clocks zeroed. Raises WrongAnswer or OSError."""
    parts = urlsplit(url)
    request = make_request(path, body, headers or {})
    reader = ResponseReader()
    raw: list[bytes] = []
    with socket.create_connection((parts.hostname or "", parts.port or 80), 10.0) as sock:
        sock.sendall(request)
        while not reader.complete:
            data = sock.recv(_READ)
            raw.append(data)
            reader.feed(data)
    reply = _DATE.sub(b"\r\nDate: Mon, 03 Aug 2026 10:11:12 GMT", b"".join(raw))
    reply = _CLOCKS.sub(rb"\g<1>00000000000000000000", reply)
    digest = _DIGEST.search(reply)
    if digest is None or not reply.startswith(b"HTTP/1.1 200 "):
        raise WrongAnswer(f"the mock answered {reply[:100]!r}")
    pieces, sizes = zip(*_pieces(reply), strict=True)
    return Recording(request, pieces, tuple(accumulate(sizes)), digest[1])


def differing(recording: Recording, number: int) -> Recording:
    """The same with another count and another id in the reply's head, in the place of its clocks: as servers do it."""
    head, end, body = recording.pieces[0].partition(b"\r\n\r\n")
    values = iter((b"%020d" % number, hashlib.sha256(b"%d" % number).hexdigest()[:20].encode()))
    head, found = _ZEROS.subn(lambda _: next(values), head, count=2)
    assert found == 2, head  # `record` leaves both
    return replace(recording, pieces=(head + end + body, *recording.pieces[1:]))


def make_request(path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """A POST with a JSON body, as SDKs send it."""
    data = json.dumps(body, separators=(",", ":")).encode()
    lines = [
        f"POST {path} HTTP/1.1", "Host: 127.0.0.1:8080", "Accept-Encoding: gzip, deflate", "Connection: keep-alive",
        "Accept: application/json", "Content-Type: application/json", "User-Agent: OpenAI/Python 1.90.0",
        "X-Stainless-Lang: python", "X-Stainless-Retry-Count: 0", "Authorization: Bearer sk-0123456789abcdef",
        *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(data)}", "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + data


def _pieces(reply: bytes) -> Iterator[tuple[bytes, int]]:
    """Pieces and how much body each has: chunk by chunk, the head with the first and the end with the last."""
    at = reply.index(b"\r\n\r\n") + 4
    if b"\r\nTransfer-Encoding: chunked\r\n" not in reply[:at]:
        yield reply, len(reply) - at
        return
    begin = 0
    while at < len(reply):
        eol = reply.index(b"\r\n", at)
        size = int(reply[at:eol], 16)
        at = eol + 2 + size + 2
        if reply.startswith(b"0\r\n\r\n", at):
            at += 5
        yield reply[begin:at], size
        begin = at


class Lockstep:
    """Both ends of a proxy. `backend` listens before the proxy starts; `connect` the client when it is ready.

    `patience`: seconds until something that must come is missing. A context manager: leaving it closes all sockets.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._upstreams = selectors.DefaultSelector()
        self._upstreams.register(self._listener, selectors.EVENT_READ)
        self._clients: list[socket.socket] = []
        self._state: int | None = None
        self.accepted = 0

    @property
    def backend(self) -> str:
        """The URL a proxy's config names."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def connect(self, url: str, clients: int = 1, pid: int | None = None) -> None:
        """So many client connections to the proxy. `pid`: the process whose main thread runs its loop, if known."""
        if pid is not None:
            self._state = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
        parts = urlsplit(url)
        for _ in range(clients):
            sock = socket.create_connection((parts.hostname or "", parts.port or 80), self._patience)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.append(sock)

    def exchange(self, recording: Recording, times: int = 1) -> None:
        """That many exchanges, one after the other, on the first connection. Raises WrongAnswer."""
        for _ in range(times):
            self._exchange(self._clients[0], recording)

    def transits(self, recording: Recording) -> list[float]:
        """Seconds from sending each piece of a stream but the first to the moment the client had it."""
        waits: list[float] = []
        self._exchange(self._clients[0], recording, waits)
        return waits[1:]

    def cut(self, recording: Recording, after: int) -> None:
        """The backend closes after so many pieces; raises WrongAnswer if the client takes the reply for whole."""
        client, reader, scanner = self._begin(recording, after)[1:]
        try:
            while not reader.complete:
                self._take(client, reader, scanner)
        except (CutShort, ConnectionError):
            return
        raise WrongAnswer("a stream that its backend cut was ended as if it were whole")

    def leave(self, recording: Recording, after: int) -> float | None:
        """The client closes after so many pieces; seconds until the backend's connection ended, None if it did not."""
        upstream, client, _, _ = self._begin(recording, after, close_backend=False)
        client.close()
        self._clients.remove(client)
        left = time.monotonic()
        try:
            while upstream.recv(_READ):
                pass
        except TimeoutError:
            return None
        except ConnectionError:
            pass
        return time.monotonic() - left

    def _begin(
        self, recording: Recording, after: int, close_backend: bool = True
    ) -> tuple[socket.socket, socket.socket, ResponseReader, BodyScanner]:
        client, reader, scanner = self._clients[0], ResponseReader(), BodyScanner()
        client.sendall(recording.request)
        upstream = self._receive_request()
        for piece, size in zip(recording.pieces[:after], recording.sizes[:after], strict=True):
            upstream.sendall(piece)
            while scanner.size < size:
                self._take(client, reader, scanner)
        if close_backend:
            self._upstreams.unregister(upstream)
            upstream.close()
        return upstream, client, reader, scanner

    def waves(self, recording: Recording, times: int) -> None:
        """Exchanges on all connections at once: the backend answers when it has every request. Raises WrongAnswer."""
        for _ in range(times):
            upstreams = []
            for client in self._clients:
                client.sendall(recording.request)
                upstreams.append(self._receive_request())
                self._settle()
            for client, upstream in zip(self._clients, upstreams, strict=True):
                self._answer(client, upstream, recording)

    def _exchange(self, client: socket.socket, recording: Recording, waits: list[float] | None = None) -> None:
        client.sendall(recording.request)
        upstream = self._receive_request()
        self._settle()
        self._answer(client, upstream, recording, waits)

    def _answer(
        self, client: socket.socket, upstream: socket.socket, recording: Recording, waits: list[float] | None = None
    ) -> None:
        reader, scanner = ResponseReader(), BodyScanner()
        for piece, size in zip(recording.pieces, recording.sizes, strict=True):
            sent = time.monotonic()
            upstream.sendall(piece)
            while scanner.size < size and not reader.complete:
                self._take(client, reader, scanner)
            if waits is not None:
                waits.append(time.monotonic() - sent)
            self._settle()
        while not reader.complete:
            self._take(client, reader, scanner)
        self._settle()
        self._check(reader, scanner, recording)

    def _settle(self) -> None:
        """Until the proxy's main thread sleeps. A send wakes it before it returns, so this cannot come too early."""
        if self._state is None:
            return
        until = time.monotonic() + _SETTLE_S
        while True:
            line = os.pread(self._state, 512, 0)
            if line[line.rindex(b")") + 2 :][:1] == b"S" or time.monotonic() > until:
                return
            time.sleep(0)  # gives up the core, which may be the one it needs

    def _take(self, client: socket.socket, reader: ResponseReader, scanner: BodyScanner) -> None:
        try:
            data = client.recv(_READ)
        except TimeoutError:
            held = f"nothing came for {self._patience:g} s after the backend had sent it"
            raise HeldBack(f"{held} ({scanner.events} events were passed on)") from None
        try:
            if not data:
                reader.eof()
            else:
                body = reader.feed(data)
                if body:
                    scanner.feed(body, 0, 0)
        except Truncated as exc:
            raise CutShort(str(exc)) from exc
        except WrongReply as exc:
            raise WrongAnswer(str(exc)) from exc

    def _check(self, reader: ResponseReader, scanner: BodyScanner, recording: Recording) -> None:
        if reader.status != 200:
            raise WrongAnswer(f"the proxy answered {reader.status}: {reader.head[:200]!r}")
        if scanner.digest() != recording.digest:
            raise Changed("the reply is not the one the backend sent (its digest differs)")
        if not reader.keep_alive:
            raise WrongAnswer("the proxy ended a connection that should stay open")

    def _receive_request(self) -> socket.socket:
        """The upstream connection on which the next whole request came."""
        until = time.monotonic() + self._patience
        while True:
            ready = self._upstreams.select(max(until - time.monotonic(), 0.0))
            if not ready:
                raise HeldBack(f"no request reached the backend within {self._patience:g} s")
            for key, _ in ready:
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif self._read_request(sock):
                    return sock

    def _accept(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(self._patience)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._upstreams.register(sock, selectors.EVENT_READ)
        self.accepted += 1

    def _read_request(self, sock: socket.socket) -> bool:
        """True for a whole request, False when the connection ended."""
        data = b""
        while True:
            try:
                more = sock.recv(_READ)
            except TimeoutError:
                raise HeldBack(f"half a request reached the backend within {self._patience:g} s") from None
            except ConnectionError:
                more = b""
            if not more:
                self._upstreams.unregister(sock)
                sock.close()
                return False
            data += more
            end = data.find(b"\r\n\r\n") + 4
            if end > 3:
                length = _LENGTH.search(data[:end])
                if len(data) >= end + (int(length[1]) if length else 0):
                    return True

    def close(self) -> None:
        """Close every socket; safe to call twice."""
        for sock in self._clients:
            sock.close()
        for key in list((self._upstreams.get_map() or {}).values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._upstreams.close()
        if self._state is not None:
            os.close(self._state)
            self._state = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def recordings(url: str) -> tuple[Recording, Recording]:
    """What counts are taken with: a 1 KiB request with a 1.5 KiB reply, and a stream of 64 tokens."""
    message = {"role": "user", "content": "word " * 186}
    ask: dict[str, Any] = {"model": "mock-model", "messages": [message], "max_tokens": 64, "seed": 7}
    whole = record(url, "/v1/chat/completions", ask, {"X-Mock-Body-Bytes": "1536"})
    stream = record(url, "/v1/chat/completions", {**ask, "stream": True})
    return whole, stream
