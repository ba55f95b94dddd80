"""The mock backends of one scenario: started fresh each round, told how to behave, asked what they did."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib.util
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadgen.bench import machine
from loadgen.bench.child import Child, ChildError
from loadgen.workload.scenario import Mock

_READY_S = 30.0
_ASK_S = 5.0


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the mocks reach alone on one core, by their own self-test."""

    requests_per_s: float | None
    events_per_s: float | None


class Backends:
    """Running mocks at `urls`. Owns their process; what it is told goes to `control`, which no fault touches."""

    def __init__(self, child: Child, urls: tuple[str, ...], control: str) -> None:
        self.child = child
        self.urls = urls
        self.control = control

    @classmethod
    def start(cls, count: int, folder: Path, cores: tuple[int, ...] | None) -> Backends:
        """`count` mocks in one process, each on a port of its own. Raises ChildError with its last words."""
        command = [sys.executable, "-m", "mock_backends", "--count", str(count), "--port", "0"]
        child = Child("mocks", command, folder, cores=cores)
        try:
            line = child.wait_ready(_READY_S)
            child.raise_priority(machine.MOCK_PRIORITY)
            return cls(child, tuple(line["urls"]), line["admin"])
        except BaseException:
            child.stop(grace_s=0.5)
            raise

    @property
    def pids(self) -> list[int]:
        """Whose CPU is theirs."""
        return [self.child.pid]

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

    def fail(self, mock: Mock, since_ns: int) -> None:
        """Sets the faults a scenario wants; their clocks count from `since_ns` (monotonic). Raises ChildError if
        refused."""
        if mock.faults:
            self._ask("POST", "/_mock/behaviour", {"faults": list(mock.faults), "since_ns": since_ns})

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
        answer = ask(self.control, method, path, body)
        return answer if isinstance(answer, dict) else {}


class NoBackends(Backends):
    """In place of mocks where real servers answer: nothing runs, nothing can be told, nothing was counted."""

    def __init__(self) -> None:
        self.urls = ()
        self.control = ""

    @property
    def pids(self) -> list[int]:
        """None."""
        return []

    def alive(self) -> bool:
        """What is not there does not end."""
        return True

    def behave(self, mock: Mock) -> None:
        """Real servers behave as they do."""

    def fail(self, mock: Mock, since_ns: int) -> None:
        """Nor do they fail when asked."""

    def forget(self) -> None:
        """They have counted nothing for us."""

    def stats(self) -> dict[str, Any]:
        """Nothing is known."""
        return {}

    def stop(self) -> None:
        """Nothing of ours runs."""


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


def ceiling(cache: Path) -> Ceiling:
    """What the mocks reach, by their self-test; from the file `cache` if it was measured here with the same code.

    The figures are per second of the mocks' own CPU, so that a busy machine does not make them look slower than they
    are. Unknown ones are None, and the check that needs them says so.
    """
    key = _ceiling_key()
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        known = json.loads(cache.read_text(encoding="utf-8"))
        if known.get("key") == key:
            return Ceiling(known["requests_per_s"], known["events_per_s"])
    command = [sys.executable, "-P", "-m", "mock_backends", "--self-test", "--json", "--seconds", "0.5"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        data = json.loads(done.stdout)
        found = Ceiling(float(data["requests_per_cpu_s"]), float(data["events_per_cpu_s"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return Ceiling(None, None)
    with contextlib.suppress(OSError):
        cache.write_text(json.dumps({"key": key, **asdict(found)}) + "\n", encoding="utf-8")
    return found


def _ceiling_key() -> str:
    """Changes with the machine, the interpreter and the mocks' code."""
    digest = hashlib.sha256(f"{machine.cpu_model()} {platform.python_version()}".encode())
    package = importlib.util.find_spec("mock_backends")
    if package is not None and package.origin is not None:
        for path in sorted(Path(package.origin).parent.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
