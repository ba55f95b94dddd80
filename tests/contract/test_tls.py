"""Endpoints behind https: whom the proxy believes, and that nothing is sent to one it does not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.peers import Endpoint, Peer, answering
from tests.contract.running import settled

# Made for these tests and good for nothing else: for 127.0.0.1 and localhost, signed by itself.
CERTIFICATE = Path(__file__).parent / "certificates" / "certificate.pem"
KEY = CERTIFICATE.with_name("key.pem")


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
