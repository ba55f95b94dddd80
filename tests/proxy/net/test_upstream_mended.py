"""Notices when uvloop's own TLS no longer loses bytes, which is what proxy/net/tls_stream.py is for.

A failure here after an update is good news.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import uvloop

CERTIFICATES = Path(__file__).parents[2] / "contract" / "certificates"
SENT = b"x" * 200_000  # less than it reads ahead


class Pausing(asyncio.Protocol):
    """Reads, pauses until all of the other end's bytes and its FIN are here, and reads on."""

    def __init__(self) -> None:
        self.received = 0
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
            asyncio.get_running_loop().call_later(0.3, self.transport.resume_reading)  # type: ignore[attr-defined]  # as above
        self.received += len(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


def serve(listener: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATES / "certificate.pem", CERTIFICATES / "key.pem")
    sock, _ = listener.accept()
    with context.wrap_socket(sock, server_side=True) as tls:
        tls.sendall(SENT)  # and then closes without close_notify


def test_what_uvloop_received_and_did_not_hand_over_is_lost_when_tcp_ends():
    """uvloop#661."""

    async def main(port: int) -> int:
        context = ssl.create_default_context(cafile=str(CERTIFICATES / "certificate.pem"))
        _, protocol = await asyncio.get_running_loop().create_connection(Pausing, "127.0.0.1", port, ssl=context)
        async with asyncio.timeout(10):
            await protocol.lost
        return protocol.received

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            received = runner.run(main(listener.getsockname()[1]))
        serving.join(10)
    assert received != len(SENT)
