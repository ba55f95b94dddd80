"""`python -m proxy serve` as a process, and a backend to put behind it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0  # seconds: what hangs ends here; no machine is so slow, a busy one neither


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns as soon as it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)
    return value


class Backend:
    """An LLM server in a thread. `/stream` sends a chunk, then waits for `release`, then ends; the rest is echoed."""

    def __init__(self) -> None:
        self.streaming = 0
        self.seen: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._release = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(PATIENCE)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=1024)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1].decode()
                self.seen.append(target)
                if target.startswith("/stream"):
                    await self._stream(writer)
                else:
                    body = json.dumps({"target": target}).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"5\r\nfirst\r\n")
        self.streaming += 1
        await self._release.wait()
        writer.write(b"4\r\nlast\r\n0\r\n\r\n")

    def release(self) -> None:
        """Let every stream end."""
        self._loop.call_soon_threadsafe(self._release.set)

    def hold(self) -> None:
        """Let streams that come from now on wait for the next `release`."""
        self._loop.call_soon_threadsafe(self._release.clear)

    def close(self) -> None:
        """Listen no more, hang up, and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Serve:
    """A proxy process, `under` another program if need be. `configure` rewrites its config; `log()` are its lines."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        *args: str,
        under: tuple[str, ...] = (),
        start_new_session: bool = False,
    ) -> None:
        self.file = folder / "proxy.yaml"
        self._log = folder / "stderr"
        self.configure(config)
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*under, sys.executable, "-m", "proxy", "serve", "--config", str(self.file), *args],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=start_new_session,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"did not start: {self._log.read_text()}"
        self.ready: dict[str, Any] = json.loads(line)

    def configure(self, config: dict[str, Any]) -> None:
        """Write the config file."""
        self.file.write_text(yaml.safe_dump(config))

    def log(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def said(self, text: str) -> bool:
        """Whether a log line's message holds `text`."""
        return any(text in line["message"] for line in self.log())

    def connect(self) -> http.client.HTTPConnection:
        """A connection to the public port."""
        parts = urlsplit(self.ready["url"])
        return http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)

    def get(self, target: str = "/v1/models") -> tuple[int, bytes]:
        """Status and body of a request on a connection of its own."""
        return _get(self.ready["url"], target)

    def admin(self, target: str) -> Any:
        """The JSON of an admin path, or the text of /metrics."""
        body = _get(self.ready["admin"], target)[1]
        return body.decode() if target == "/metrics" else json.loads(body)

    def stream(self) -> http.client.HTTPResponse:
        """A response whose first chunk has arrived and whose last has not; read() waits for the rest."""
        connection = self.connect()
        connection.request("GET", "/stream")
        response = connection.getresponse()
        assert response.read(5) == b"first"
        return response

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that printed the ready line."""
        os.kill(self.ready["pid"], number)

    def wait(self) -> int:
        """The exit code."""
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _get(url: str, target: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def assert_identity(stats: dict[str, Any]) -> None:
    """total = success + failed + client_disconnected + active."""
    parts = [stats[f"proxy.requests.{name}"] for name in ("success", "failed", "client_disconnected")]
    assert stats["proxy.requests.total"] == sum(parts) + stats["proxy.active_connections"], stats


@contextlib.contextmanager
def backend() -> Iterator[Backend]:
    """A Backend, closed at the end."""
    made = Backend()
    try:
        yield made
    finally:
        made.release()
        made.close()
