"""A server as fast as Python can be: answers every request with the same ready bytes. For measuring the driver alone.

    python -m tests.loadgen.driver.canned BODY_BYTES

Prints its port. It does not read what it is asked beyond the blank line, so requests must fit in one read.
"""

from __future__ import annotations

import hashlib
import select
import socket
import sys


def reply(body_bytes: int) -> bytes:
    """A mock's reply to a request without streaming. Its clock stands still, which no digest notices."""
    begin, end = b'{"text":"', b'","mock":{"seq":0,"ns":"00000000000000000000"}}'
    body = begin + b"x" * (body_bytes - len(begin) - len(end)) + end
    head = (
        "HTTP/1.1 200 OK",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "X-Mock-Events: 1",
        f"X-Mock-Digest: sha256={hashlib.sha256(body).hexdigest()}",
        "X-Mock-Endpoint: canned",
        "X-Mock-Recv-Ns: 00000000000000000001",
        "X-Mock-Sent-Ns: 00000000000000000002",
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def main() -> None:
    data = reply(int(sys.argv[1]))
    server = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server.setblocking(False)
    poll = select.epoll()
    poll.register(server.fileno(), select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    print(server.getsockname()[1], flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd == server.fileno():
                client, _address = server.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client.fileno(), select.EPOLLIN)
                continue
            try:
                asked = clients[fd].recv(65536)
                if asked:
                    clients[fd].sendall(data)
                    continue
            except OSError:
                pass
            poll.unregister(fd)
            clients.pop(fd).close()


if __name__ == "__main__":
    main()
