"""A running mock to talk to, started as a user starts it: `python -m mock_backends`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

import pytest


@dataclass(frozen=True)
class Running:
    """A mock process that said it is ready."""

    urls: list[str]
    admin: str
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return self.urls[0]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def control(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> dict[str, Any]:
        """One exchange with the control listener. Raises urllib's HTTPError for 4xx."""
        data = None if method == "GET" else json.dumps(body or {}).encode()
        with urlopen(Request(f"{self.admin}/_mock/{path}", data=data, method=method), timeout=5) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer

    def stats(self, index: int = 0) -> dict[str, Any]:
        backend: dict[str, Any] = self.control("stats", method="GET")["backends"][index]
        return backend


@contextmanager
def mock_process(*arguments: str) -> Iterator[Running]:
    """`python -m mock_backends --port 0 ...` until the block ends."""
    command = [sys.executable, "-m", "mock_backends", "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                assert process.stderr
                raise AssertionError(f"the mock did not start: {process.stderr.read()}")
            ready = json.loads(line)
            assert ready["ready"] is True
            yield Running(ready["urls"], ready["admin"], process)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def mock() -> Iterator[Running]:
    """Two instant backends, shared by the tests of a module."""
    with mock_process("--count", "2") as running:
        yield running
