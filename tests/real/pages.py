"""What the servers of `tls.py` serve: `/FRAMING/SIZE` is that many known bytes, framed so. Standard library only.

`application` is for WSGI, `asgi` for ASGI, and `python pages.py PORT CERTIFICATE KEY` is http.server behind TLS.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 10_000


def body(size: int) -> bytes:
    """The known bytes."""
    return (bytes(range(97, 123)) * (size // 26 + 1))[:size]


def _asked(path: str) -> tuple[str, int]:
    _, framing, size = path.split("/")
    return framing, int(size)


def _pieces(data: bytes) -> list[bytes]:
    return [data[i : i + PIECE] for i in range(0, len(data), PIECE)]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI. Without a length its servers use chunks."""
    framing, size = _asked(environ["PATH_INFO"])
    data = body(size)
    start_response("200 OK", [("Content-Length", str(size))] if framing == "length" else [])
    return _pieces(data)


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI. Without a length its servers use chunks."""
    if scope["type"] != "http":
        return
    framing, size = _asked(scope["path"])
    headers = [(b"content-length", str(size).encode())] if framing == "length" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in _pieces(body(size)):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


class Handler(BaseHTTPRequestHandler):
    """http.server, which closes after each answer, and without close_notify."""

    def do_GET(self) -> None:
        framing, size = _asked(self.path)
        data = body(size)
        self.protocol_version = "HTTP/1.1" if framing == "chunked" else "HTTP/1.0"
        self.send_response(200)
        if framing == "length":
            self.send_header("Content-Length", str(size))
        elif framing == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(data)) + b"0\r\n\r\n"
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


if __name__ == "__main__":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
