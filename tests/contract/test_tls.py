"""Endpoints behind https: whom the proxy believes, and that nothing is sent to one it does not."""

from __future__ import annotations

import contextlib
import shutil
import ssl
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.peers import PATIENCE, Cut, Endpoint, Peer, answering
from tests.contract.running import connect, settled

# Made for these tests and good for nothing else: for 127.0.0.1 and localhost, signed by itself.
CERTIFICATE = Path(__file__).parent / "certificates" / "certificate.pem"
KEY = CERTIFICATE.with_name("key.pem")
OTHER = CERTIFICATE.with_name("other.pem")  # an authority that signed nothing


class SecureEndpoint(Endpoint):
    """An endpoint that speaks TLS."""

    def __init__(self, name: str) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE, KEY)
        self.alpn: list[str | None] = []
        self._context.set_alpn_protocols(["h2", "http/1.1"])
        super().__init__(name)

    def accept(self, within: float = 8.0) -> Peer:
        """The next connection whose handshake succeeds."""
        peer = super().accept(within)
        peer.sock = self._context.wrap_socket(peer.sock, server_side=True)
        self.alpn.append(peer.sock.selected_alpn_protocol())
        return peer

    def settings(self, host: str = "127.0.0.1", **tls: object) -> dict[str, object]:
        """This endpoint as the config has it."""
        return {"name": self.name, "url": f"https://{host}:{self.port}", "tls": tls}


@pytest.fixture
def secure() -> Iterator[SecureEndpoint]:
    """One endpoint behind https."""
    with SecureEndpoint("a") as endpoint:
        yield endpoint


@pytest.mark.promise("TLS")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_endpoint_that_the_given_authority_signed_is_believed(start, secure, host):
    secure.serve(answering(b"secure"))
    proxy = start(secure.settings(host, ca_file=str(CERTIFICATE)))
    with proxy.client() as client:
        for _ in range(3):
            assert client.post(b"x" * 100_000).response().body == b"secure"
    assert secure.accepted == 1
    assert secure.alpn[0] in (None, "http/1.1"), "h2 is not spoken here"
    settled(proxy.stats, success=3)


@pytest.mark.promise("TLS")
def test_an_endpoint_that_nobody_known_signed_is_502_and_is_sent_nothing(start, secure):
    proxy = start(secure.settings())
    with proxy.client() as client:
        client.post(b"secret")
        with pytest.raises((ssl.SSLError, OSError)):
            secure.accept().request()
        assert client.response().status == 502
    settled(proxy.stats, failed=1)


@pytest.mark.promise("TLS")
def test_verification_can_be_switched_off(start, secure):
    secure.serve(answering(b"believed"))
    proxy = start(secure.settings(verify=False))
    with proxy.client() as client:
        assert client.get().response().body == b"believed"


@pytest.mark.promise("TLS")
def test_a_response_that_ends_without_the_end_of_tls_is_cut(start, secure):
    """A FIN without close_notify may be anybody's."""
    proxy = start(secure.settings(ca_file=str(CERTIFICATE)))
    with proxy.client() as client:
        client.get()
        peer = secure.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        client.response_head()
        peer.sock.close()
        with pytest.raises(Exception, match="after"):
            client.receive(100)


@pytest.mark.promise("TLS")
def test_a_large_body_passes_both_ways(start, secure):
    body = bytes(range(256)) * 8192

    def play(peer: Peer) -> None:
        assert peer.request().body == body
        peer.respond(body)

    secure.serve(play)
    proxy = start(secure.settings(ca_file=str(CERTIFICATE)))
    with proxy.client() as client:
        assert client.post(body).response().body == body


def end(peer: Peer, notify: bool) -> None:
    """Close as servers do: with close_notify, which waits for nobody, or without it."""
    assert isinstance(peer.sock, ssl.SSLSocket)
    if notify:
        peer.sock.settimeout(0)
        with contextlib.suppress(OSError):  # the proxy's own close_notify is not awaited
            peer.sock.unwrap()
    peer.close()


def framed(framing: str, body: bytes) -> bytes:
    """A response with `body`."""
    match framing:
        case "length":
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        case "chunked":
            chunks = [body[i : i + 10_000] for i in range(0, len(body), 10_000)]
            coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"
        case _:
            return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


@pytest.mark.promise("TLS-END")
@pytest.mark.promise("TRUTH-CUT-1.0")
@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("notify", [False, True], ids=["without close_notify", "with close_notify"])
@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("size", [1_000, 300_000, 3_000_000])
def test_an_answer_is_whole_if_its_framing_says_so_however_tls_ends(start, secure, size, framing, notify, slow):
    """uvloop#661: what the loop has received and not handed over is lost when TCP ends."""
    body = bytes(range(250)) * (size // 250)
    proxy = start(secure.settings(ca_file=str(CERTIFICATE)))

    def play() -> None:
        peer = secure.accept()
        peer.request()
        peer.send(framed(framing, body))
        end(peer, notify)

    playing = threading.Thread(target=play)
    playing.start()
    with connect(proxy.port, receive_buffer=4096 if slow else None) as client:
        client.get()
        if slow:
            time.sleep(0.5)  # until everything on the way is full, and the endpoint has closed behind it
        if framing == "close" and not notify:
            with pytest.raises(Cut):  # nobody can know that it is whole
                client.response()
            settled(proxy.stats, failed=1, success=0)
        else:
            assert client.response().body == body
            settled(proxy.stats, success=1)
    playing.join(PATIENCE)


@pytest.mark.promise("GONE-100MS")
@pytest.mark.one_worker
def test_an_upstream_behind_https_is_cancelled_within_100_ms(start, secure):
    """The median of nine, as in test_client_gone. uvloop's own TLS reads on for 30 s (uvloop#471)."""
    proxy = start(secure.settings(ca_file=str(CERTIFICATE)))
    delays = []
    for _ in range(9):
        client = proxy.client()
        client.get()
        peer = secure.accept()
        peer.request()
        peer.begin_chunked().chunk(b"token")
        client.response_head()
        client.close()
        since = time.monotonic()
        peer.ended(3)
        delays.append(time.monotonic() - since)
    assert statistics.median(delays) < 0.1, delays
    settled(proxy.stats, client_disconnected=9)


@pytest.mark.promise("GONE-CANCELS")
def test_an_endpoint_behind_https_that_sends_and_sends_is_not_read_for_nobody(start, secure):
    proxy = start(secure.settings(ca_file=str(CERTIFICATE)))
    client = proxy.client()
    client.get()
    peer = secure.accept()
    peer.request()
    peer.begin_chunked().chunk(b"x" * 100_000)
    client.response_head()
    client.close()
    with pytest.raises(OSError):
        for _ in range(2_000):  # 200 MB
            peer.chunk(b"x" * 100_000)
    settled(proxy.stats, client_disconnected=1)


@pytest.mark.promise("TLS-RELOAD")
def test_a_replaced_authority_is_read_by_a_reload(start, secure, tmp_path):
    authority = tmp_path / "authority.pem"
    shutil.copy(OTHER, authority)
    settings = secure.settings(ca_file=str(authority))
    proxy = start(settings)
    with proxy.client() as client:
        client.post(b"x")
        with pytest.raises(OSError):
            secure.accept().request()
        assert client.response().status == 502
        shutil.copy(CERTIFICATE, authority)
        proxy.reload([settings], {"server.max_in_flight": 100})
        secure.serve(answering(b"believed"))
        assert client.post(b"x").response().body == b"believed"


@pytest.mark.promise("TLS-RELOAD")
def test_a_withdrawn_authority_is_believed_no_more_not_even_on_open_connections(start, secure, tmp_path):
    authority = tmp_path / "authority.pem"
    shutil.copy(CERTIFICATE, authority)
    settings = secure.settings(ca_file=str(authority))
    proxy = start(settings)
    with proxy.client() as idle, proxy.client() as busy:
        peers = {}
        for client, target in ((idle, "/idle"), (busy, "/busy")):
            client.get(target)
            peers[target] = secure.accept()
            assert peers[target].request().target == target
        peers["/idle"].respond(b"ok")
        assert idle.response().body == b"ok"
        shutil.copy(OTHER, authority)
        proxy.reload([settings], {"server.max_in_flight": 100})
        peers["/busy"].respond(b"to its end")
        assert busy.response().body == b"to its end"
        for client in (idle, busy):
            client.post(b"x")
            with pytest.raises(OSError):
                secure.accept().request()
            assert client.response().status == 502
        for peer in peers.values():
            peer.ended()


@pytest.mark.promise("TLS-RELOAD")
def test_a_reload_that_leaves_the_authority_leaves_its_connections(start, secure):
    settings = secure.settings(ca_file=str(CERTIFICATE))
    proxy = start(settings)
    secure.serve(answering(b"ok"))
    with proxy.client() as client:
        assert client.get().response().body == b"ok"
        proxy.reload([settings], {"server.max_in_flight": 100})
        assert client.get().response().body == b"ok"
    assert secure.accepted == 1
