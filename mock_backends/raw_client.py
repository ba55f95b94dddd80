"""The self-test's driver: raw sockets and epoll, one process, nothing of ours imported.

All replies to one request are equally long (clocks have a fixed width), so checking one is counting its bytes. Run as
`python -m mock_backends.raw_client JOB`, where JOB is JSON: host, port, request (text), connections, seconds, ramp
(over how many seconds the connections send their first request), cpu (or null). Prints one line of JSON.
"""

from __future__ import annotations

import gc
import json
import os
import select
import socket
import sys
import time
from typing import Any


def reply_length(host: str, port: int, request: bytes) -> int:
    """The length of one whole reply, head included, learnt from an exchange."""
    closing = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    with socket.create_connection((host, port), timeout=60) as sock:
        sock.sendall(closing)
        received = b"".join(iter(lambda: sock.recv(65536), b""))
    if not received.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"not a proper reply: {received[:200]!r}")
    return len(received) - len(b"Connection: close\r\n")


def drive(job: dict[str, Any]) -> dict[str, Any]:
    """Every connection sends its request again as soon as the reply is there, until the time is over."""
    request: bytes = job["request"].encode()
    address = (job["host"], job["port"])
    expected = reply_length(*address, request)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    for _ in range(job["connections"]):
        sock = socket.create_connection(address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        sockets[sock.fileno()] = sock
        poll.register(sock.fileno(), select.EPOLLIN)
    calls = {fd: (sock.recv_into, sock.send) for fd, sock in sockets.items()}
    missing = dict.fromkeys(sockets, expected)
    room = bytearray(1 << 20)
    gc.collect()
    gc.freeze()
    gc.disable()

    clock = time.monotonic
    begin = clock()
    waiting = list(sockets)
    pause = job["ramp"] / len(waiting)
    first = {fd: begin + i * pause for i, fd in enumerate(waiting)}
    waiting.reverse()
    replies, end, cpu = 0, begin + job["ramp"] + job["seconds"], time.process_time_ns()
    now = begin
    while now < end:
        while waiting and first[waiting[-1]] <= now:
            calls[waiting.pop()][1](request)
        for fd, _ in poll.poll(min(end - now, first[waiting[-1]] - now if waiting else 0.1), 4096):
            receive, send = calls[fd]
            left = missing[fd] - receive(room)
            if left:
                if left == missing[fd] or left < 0:
                    raise SystemExit("the mock closed a connection, or sent more than a reply")
                missing[fd] = left
            else:
                replies += 1
                missing[fd] = expected
                send(request)
        now = clock()
    result = {"replies": replies, "seconds": now - begin, "cpu_ns": time.process_time_ns() - cpu}
    for sock in sockets.values():
        sock.close()
    return result


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.get("cpu") is not None:
        os.sched_setaffinity(0, {given["cpu"]})
    print(json.dumps(drive(given)))
