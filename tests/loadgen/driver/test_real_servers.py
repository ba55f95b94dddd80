"""The driver in front of servers that are not ours: https, keys that are in no file, streams judged by end and content.

U9 and U11 of the review are pinned here, each by its id.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loadgen.bench.reply import ask_once
from loadgen.targets.keys import handed_over
from loadgen.workload.job import Template
from tests.loadgen.driver.test_driver import run, write_job
from tests.loadgen.driver.wire import chunk

CERTIFICATES = Path(__file__).parents[2] / "contract" / "certificates"
CA = str(CERTIFICATES / "certificate.pem")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ROLE = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
WORD = b'data: {"choices":[{"delta":{"content":"word"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
DONE = b"data: [DONE]\n\n"


def reply(*events: bytes) -> bytes:
    return HEAD + b"".join(map(chunk, events)) + b"0\r\n\r\n"


WHOLE = reply(ROLE, WORD, WORD, WORD, USAGE, DONE)


class Server:
    """A thread a connection; answers every request with `answer`, whatever it is, and keeps the heads."""

    def __init__(self, answer: bytes) -> None:
        self.heads: list[bytes] = []
        self._answer = answer
        self._how = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._how.load_cert_chain(CERTIFICATES / "certificate.pem", CERTIFICATES / "key.pem")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), self._how.wrap_socket(sock, server_side=True) as tls:
            data = b""
            while more := tls.recv(65536):
                data += more
                while b"\r\n\r\n" in data:
                    head, _, rest = data.partition(b"\r\n\r\n")
                    sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                    size = int(sizes[0].split(b":")[1]) if sizes else 0
                    if len(rest) < size:
                        break
                    self.heads.append(head)
                    data = rest[size:]
                    tls.sendall(self._answer)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def served(answer: bytes = WHOLE) -> Iterator[Server]:
    server = Server(answer)
    try:
        yield server
    finally:
        server.close()


def driven(
    folder: Path, url: str, n: int = 20, environment: dict[str, str] | None = None, **changes: object
) -> dict[str, list[object]]:
    """The rows of a job of streams in front of `url`."""
    template = Template("/v1/chat/completions", body='{"x":1}', stream=True)
    job = write_job(folder, url, n, requests=(template,), expected_events=False, tokens=True, **changes)
    done = run(job, env={**os.environ, **(environment or {})})
    assert done.returncode == 0, done.stderr
    (shard,) = sorted((folder / "out").glob("requests-*.parquet"))
    found: dict[str, list[object]] = pq.read_table(shard).to_pydict()
    return found


def test_u11_https_is_driven_on_connections_that_are_kept(tmp_path: Path) -> None:
    with served() as server:
        rows = driven(tmp_path, server.url, ca=CA)
    assert set(rows["outcome"]) == {"ok"}, rows["error"]
    assert rows["events"] == [3] * 20  # events with content: not the role, not the usage, not the end
    assert all(
        row["first_event_ns"] is not None for row in [{"first_event_ns": value} for value in rows["first_event_ns"]]
    )
    assert len(server.heads) == 20


def test_u11_long_requests_and_long_replies_pass_whole(tmp_path: Path) -> None:
    many = reply(ROLE, *[WORD] * 20_000, DONE)
    body = json.dumps({"x": "y" * 400_000})
    template = Template("/v1/chat/completions", body=body, stream=True)
    with served(many) as server:
        job = write_job(tmp_path, server.url, 3, requests=(template,), expected_events=False, tokens=True, ca=CA,
                        timeout_s=30.0)  # fmt: skip
        assert run(job).returncode == 0
    rows = pq.read_table(next((tmp_path / "out").glob("requests-*.parquet"))).to_pydict()
    assert rows["outcome"] == ["ok"] * 3, rows["error"]
    assert rows["events"] == [20_000] * 3
    assert rows["bytes_out"] == [len(body)] * 3


def test_u11_a_certificate_nobody_vouches_for_is_refused_and_said(tmp_path: Path) -> None:
    with served() as server:
        rows = driven(tmp_path, server.url, 2)
    assert rows["outcome"] == ["refused"] * 2
    assert "CERTIFICATE_VERIFY_FAILED" in str(rows["error"])


def test_u11_a_key_reaches_the_server_and_no_file(tmp_path: Path) -> None:
    with served() as server:
        driven(tmp_path, server.url, 3, handed_over({"Authorization": "Bearer sk-secret"}), ca=CA)
    assert all(b"\r\nAuthorization: Bearer sk-secret\r\n" in head + b"\r\n" for head in server.heads)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"sk-secret" not in path.read_bytes(), path


def test_u11_one_reply_is_asked_for_by_https_too() -> None:
    with served() as server:
        template = Template("/v1/chat/completions", body="{}", stream=True)
        assert ask_once(server.url, template, ca=CA).status == 200
        with pytest.raises(ssl.SSLError):
            ask_once(server.url, template)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (reply(ROLE, WORD, WORD), "without data: [DONE]"),
        (reply(ROLE, USAGE, DONE), "no event of the stream carried content"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "status 401"),
        (HEAD + chunk(WORD), ""),
    ],
)
def test_u9_a_stream_that_does_not_end_as_it_should_is_no_ok(tmp_path: Path, answer: bytes, says: str) -> None:
    with served(answer) as server:
        rows = driven(tmp_path, server.url, 2, ca=CA, timeout_s=1.0)
    assert "ok" not in rows["outcome"]
    assert says in str(rows["error"])
