"""The mock backends of one bench: started fresh each round, told how to behave, asked what they did."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadgen.child import Child, ChildError
from loadgen.scenario import Mock

_READY_S = 30.0
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the mocks reach alone on one core, by their own self-test."""

    requests_per_s: float | None
    events_per_s: float | None


class Backends:
    """Running mocks. Owns their process; `behave` and `stats` use their control listener, which no fault touches."""

    def __init__(self, child: Child, urls: tuple[str, ...], control: str) -> None:
        self.child = child
        self.urls = urls
        self._control = control

    @classmethod
    def start(cls, count: int, seed: int, folder: Path, cores: tuple[int, ...] | None) -> Backends:
        """`count` mocks in one process, each on a port of its own. Raises ChildError with its last words."""
        command = [sys.executable, "-m", "mock_backends", "--count", str(count), "--port", "0", "--seed", str(seed)]
        child = Child("mocks", command, folder, cores=cores)
        try:
            line = child.wait_ready(_READY_S)
            return cls(child, tuple(line["urls"]), line["admin"])
        except BaseException:
            child.stop(grace_s=0.5)
            raise

    def alive(self) -> bool:
        """Whether they still run."""
        return self.child.alive()

    def what_happened(self) -> str:
        """One sentence about their end."""
        words = self.child.last_words()
        return f"the mocks' process {self.child.how_it_ended()}" + (f": {words}" if words else "")

    def behave(self, mock: Mock) -> None:
        """Sets the profiles a scenario wants, without its faults. Raises ChildError if refused."""
        self._ask("POST", "/_mock/behaviour", {"profile": mock.profile, "faults": []})
        for name, profile in mock.profiles.items():
            self._ask("POST", "/_mock/behaviour", {"endpoint": name, "profile": profile})

    def fail(self, mock: Mock) -> None:
        """Sets the faults a scenario wants; their clocks start now. Raises ChildError if refused."""
        if mock.faults:
            self._ask("POST", "/_mock/behaviour", {"faults": list(mock.faults)})

    def forget(self) -> None:
        """Zeroes their counts and restarts the clocks of what changes over time."""
        self._ask("POST", "/_mock/reset")

    def stats(self) -> dict[str, Any]:
        """What they counted since `behave`; empty if they do not answer."""
        with contextlib.suppress(ChildError):
            return self._ask("GET", "/_mock/stats")
        return {}

    def stop(self) -> None:
        """Ends them."""
        self.child.stop()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        answer = ask(self._control, method, path, body)
        return answer if isinstance(answer, dict) else {}


def ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None, wait_s: float = _ASK_S) -> Any:
    """One JSON exchange with a control or admin listener. Raises ChildError with what went wrong."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=wait_s)
    try:
        connection.request(
            method,
            parts.path.rstrip("/") + path,
            None if body is None else json.dumps(body),
            {"Content-Type": "application/json", "Connection": "close"},
        )
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if answer.status >= 300:
            raise ChildError(f"{method} {url}{path}: {answer.status} {text[:300].strip()}")
        return json.loads(text)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise ChildError(f"{method} {url}{path}: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()


@functools.cache
def ceiling(cores: tuple[int, ...] | None) -> Ceiling:
    """Runs the mocks' self-test once. Unknown figures are None, and the check that needs them says so."""
    command = [sys.executable, "-m", "mock_backends", "--self-test", "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        data = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return Ceiling(None, None)
    return Ceiling(data.get("requests_per_s"), data.get("events_per_s"))
