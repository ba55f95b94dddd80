"""TLS over a TCP connection that the test plays: every byte arrives once, in order, however it is cut and paused."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.net.tls_stream import TlsStream, Truncated

CERTIFICATES = Path(__file__).parents[2] / "contract" / "certificates"


_CLOSED = asyncio.new_event_loop()  # futures belong to a loop; nobody awaits these
_CLOSED.close()


class Loop:
    """Runs what was scheduled when it is told to."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def create_future(self) -> asyncio.Future[None]:
        return _CLOSED.create_future()

    def run(self) -> None:
        while self.soon:
            self.soon.pop(0)()


class Tcp:
    """The transport below: what was written, and whether it may read."""

    def __init__(self) -> None:
        self.written = b""
        self.reading = True
        self.closed: str | None = None
        self.unsent = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = self.closed or "aborted"


class Reader(asyncio.Protocol):
    """Notes what it hears; `pauses` says after which calls it pauses."""

    def __init__(self, pauses: list[bool] | None = None) -> None:
        self.heard: list[str] = []
        self.data = b""
        self.paused = False
        self.pauses = pauses or []
        self.transport: Any = None
        self.lost_with: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.heard.append("made")

    def data_received(self, data: bytes) -> None:
        assert not self.paused, "nothing is handed over while it does not want to read"
        self.data += data
        if self.pauses and self.pauses.pop(0):
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def eof_received(self) -> None:
        assert not self.paused
        self.heard.append("eof")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost_with = exc
        self.heard.append("lost")


class Buffers(Reader, asyncio.BufferedProtocol):
    """The same, by buffers of a size that is no record's."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self._buffer = bytearray(1000)
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._buffer[:nbytes]))


class Server:
    """The other end, in memory."""

    def __init__(self, version: ssl.TLSVersion) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATES / "certificate.pem", CERTIFICATES / "key.pem")
        context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def take(self, data: bytes) -> None:
        self.incoming.write(data)

    def shake(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def say(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def notify(self) -> bytes:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        return self.outgoing.read()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(CERTIFICATES / "certificate.pem"))


class Connection:
    """A stream whose handshake is done, and both its ends."""

    def __init__(
        self, reader: Reader, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, host: str = "localhost"
    ) -> None:
        self.loop, self.tcp, self.reader, self.server = Loop(), Tcp(), reader, Server(version)
        self.stream = TlsStream(trusting(), host, reader, self.loop)  # type: ignore[arg-type]  # all it asks of a loop
        self.stream.connection_made(self.tcp)  # type: ignore[arg-type]  # as above
        while said := self.tcp.written:  # the last is the server's session tickets
            self.tcp.written = b""
            self.server.take(said)
            self.stream.data_received(self.server.shake())
        assert self.stream.ready.done()
        self.loop.run()

    def end(self) -> None:
        """TCP ends, as both loops report it."""
        self.stream.eof_received()
        self.loop.run()

    def gone(self, exc: Exception | None = None) -> None:
        """What a loop says after the transport was closed."""
        if self.tcp.closed:
            self.stream.connection_lost(exc)

    def received(self) -> bytes:
        """What the server can read of what was written."""
        self.server.take(self.tcp.written)
        self.tcp.written = b""
        found = b""
        with contextlib.suppress(ssl.SSLError):
            while data := self.server.tls.read(2**16):
                found += data
        return found


@pytest.fixture(params=[Reader, Buffers], ids=["data_received", "buffers"])
def kind(request):
    return request.param


@given(
    pieces=st.lists(st.integers(1, 40_000), max_size=6),
    cuts=st.lists(st.integers(1, 20_000), max_size=40),
    pauses=st.lists(st.booleans(), max_size=60),
    notified=st.booleans(),
    tls13=st.booleans(),
    buffered=st.booleans(),
)
def test_all_that_came_is_handed_over_once_and_in_order_and_then_the_end(
    pieces, cuts, pauses, notified, tls13, buffered
):
    reader = (Buffers if buffered else Reader)(pauses)
    connection = Connection(reader, ssl.TLSVersion.TLSv1_3 if tls13 else ssl.TLSVersion.TLSv1_2)
    sent = b"".join(bytes([i % 256]) * size for i, size in enumerate(pieces))
    wire = b"".join(connection.server.say(bytes([i % 256]) * size) for i, size in enumerate(pieces))
    wire += connection.server.notify() if notified else b""
    while wire:
        size = cuts.pop(0) if cuts else len(wire)
        assert connection.tcp.reading
        connection.stream.data_received(wire[:size])
        wire = wire[size:]
        connection.loop.run()
        while not connection.tcp.reading and connection.tcp.closed is None:
            reader.resume()
            connection.loop.run()
    connection.end()
    while reader.paused:
        reader.resume()
        connection.loop.run()
    connection.gone()
    assert reader.data == sent
    assert reader.heard == (["made", "eof", "lost"] if notified else ["made", "lost"])
    assert isinstance(reader.lost_with, Truncated) is not notified


def test_an_end_is_not_heard_of_before_the_rest_was_wanted(kind):
    """The bytes and TCP's end are here, and the reader is paused: both loops' own TLS loses bytes then."""
    reader = kind([True])
    connection = Connection(reader)
    wire = b"".join(connection.server.say(b"x" * 16_000) for _ in range(4))
    connection.stream.data_received(wire[:20_000])
    connection.stream.data_received(wire[20_000:])  # a transport may still have had it
    connection.end()
    before = len(reader.data)
    assert before < 64_000 and reader.heard == ["made"] and connection.tcp.closed is None
    reader.resume()
    connection.loop.run()
    assert reader.data == b"x" * 64_000
    connection.gone()
    assert reader.heard == ["made", "lost"] and isinstance(reader.lost_with, Truncated)


def test_what_is_written_arrives_and_close_says_so(kind):
    connection = Connection(kind())
    connection.stream.write(b"a" * 100_000)
    connection.stream.writelines([b"b", b"c"])
    assert connection.received() == b"a" * 100_000 + b"bc"
    connection.stream.close()
    assert connection.stream.is_closing() and connection.tcp.closed == "closed"
    connection.server.take(connection.tcp.written)
    assert connection.server.tls.read(10) == b"", "close_notify"
    connection.stream.write(b"late")
    connection.gone()
    assert connection.reader.heard == ["made", "lost"] and connection.reader.lost_with is None


def test_after_a_close_nothing_is_read_and_nobody_is_waited_for(kind):
    connection = Connection(kind())
    connection.stream.close()
    connection.stream.data_received(connection.server.say(b"for nobody"))
    assert connection.reader.data == b"" and connection.tcp.closed == "closed"


def test_a_reset_is_told_as_it_is(kind):
    connection = Connection(kind())
    connection.stream.abort()
    connection.stream.connection_lost(ConnectionResetError("reset"))
    assert isinstance(connection.reader.lost_with, ConnectionResetError)


def test_a_record_that_was_tampered_with_ends_the_connection_after_what_came_before(kind):
    connection = Connection(kind())
    good, bad = connection.server.say(b"good"), bytearray(connection.server.say(b"bad"))
    bad[-1] ^= 1
    connection.stream.data_received(good + bytes(bad))
    connection.gone()
    assert connection.reader.data == b"good" and isinstance(connection.reader.lost_with, ssl.SSLError)


def test_a_peer_that_takes_nothing_does_not_hold_up_the_end(kind):
    connection = Connection(kind())
    connection.tcp.unsent = 1
    connection.end()
    assert connection.tcp.closed == "aborted"


@pytest.mark.parametrize("host", ["localhost", "localhost.", "127.0.0.1"])
def test_a_certificate_is_held_against_the_name_without_its_last_dot(host):
    assert Connection(Reader(), host=host).reader.heard == ["made"]


def test_a_certificate_of_another_name_fails_the_handshake_and_nothing_is_connected():
    reader = Reader()
    loop, tcp, server = Loop(), Tcp(), Server(ssl.TLSVersion.TLSv1_3)
    stream = TlsStream(trusting(), "elsewhere.test", reader, loop)  # type: ignore[arg-type]  # as in Connection
    stream.connection_made(tcp)  # type: ignore[arg-type]  # as in Connection
    server.take(tcp.written)
    stream.data_received(server.shake())
    assert tcp.closed
    stream.connection_lost(None)
    assert isinstance(stream.ready.exception(), ssl.SSLCertVerificationError) and reader.heard == []


def test_an_end_in_the_middle_of_the_handshake_is_an_error_of_the_connection():
    reader, loop, tcp = Reader(), Loop(), Tcp()
    stream = TlsStream(trusting(), "localhost", reader, loop)  # type: ignore[arg-type]  # as in Connection
    stream.connection_made(tcp)  # type: ignore[arg-type]  # as in Connection
    stream.eof_received()
    stream.connection_lost(None)
    assert isinstance(stream.ready.exception(), ConnectionResetError) and reader.heard == []
