"""What a long run leaves behind in a target: open descriptors, requests nobody counted, complaints on stderr."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loadgen.bench import watch
from loadgen.bench.child import ChildError
from loadgen.bench.mocks import ask
from loadgen.targets.target import Running

SETTLE_S: Final = 20.0
"""Within this descriptors must be as before the load: the scenario's `idle_conn_timeout`, and time for health checks
to be between two."""
_LOOK_S: Final = 0.1
_KEPT: Final = 20

# What CPython and asyncio say about a task, a coroutine or an exception that nobody took care of.
COMPLAINTS: Final = (
    "Task was destroyed",
    "never retrieved",
    "was never awaited",
    "Exception ignored in",
    "Exception in callback",
    "Unhandled exception",
    "Unclosed ",
    "ResourceWarning",
    "Traceback",
    "Fatal ",
)

_COUNTS: Final = {
    "total": "proxy.requests.total",
    "success": "proxy.requests.success",
    "failed": "proxy.requests.failed",
    "client_disconnected": "proxy.requests.client_disconnected",
    "active": "proxy.active_connections",
}


@dataclass(slots=True)
class Before:
    """A target that nobody has asked for anything yet."""

    fds: int | None
    counts: Mapping[str, int] = field(default_factory=dict)
    """Its own counts right before the load, the checked replies among them."""


def before(running: Running) -> Before:
    """Looks at a fresh target."""
    return Before(descriptors(running))


def look(running: Running, start: Before, sent: int | None, settle_s: float = SETTLE_S) -> dict[str, Any]:
    """Waits until the target is quiet, at most `settle_s`, and says what is left; `sent`: requests of the driver."""
    began = time.monotonic()
    counts = counted(running)
    while counts.get("active") and time.monotonic() - began < settle_s:
        time.sleep(_LOOK_S)
        counts = counted(running)
    fds = descriptors(running)  # not while it is asked for its counts: that is a descriptor, too
    while start.fds is not None and fds is not None and fds > start.fds and time.monotonic() - began < settle_s:
        time.sleep(_LOOK_S)
        fds = descriptors(running)
    grown = {name: value - start.counts.get(name, 0) for name, value in counts.items()}
    return {
        "fds": {"before": start.fds, "after": fds, "settled_s": time.monotonic() - began},
        "accounting": {**grown, "sent": sent} if grown else {},
    }


def counted(running: Running) -> dict[str, int]:
    """The target's own counts of requests; empty if it has none."""
    if running.admin is not None:
        with contextlib.suppress(ChildError, KeyError, TypeError, ValueError):
            said = ask(running.admin, "GET", "/internal/stats")
            return {name: int(said[key]) for name, key in _COUNTS.items()}
    return {}


def descriptors(running: Running) -> int | None:
    """Open descriptors of its whole process tree; None where they cannot be seen."""
    if running.pid is None:
        return None
    rows = [watch.sample(pid, "target", 0) for pid in watch.tree(running.pid)]
    counts = [row.fds for row in rows if row is not None and row.fds is not None]
    return sum(counts) if counts else None


def complaints(stderr: str) -> dict[str, Any]:
    """What a target's stderr says that it should not: a count, and the first of them, a line each."""
    found = [line.strip() for line in stderr.splitlines() if _complains(line)]
    return {"count": len(found), "first": [line[:500] for line in found[:_KEPT]]}


def _complains(line: str) -> bool:
    """Also an error in the engines' own log; what it says about endpoints that fail is a warning."""
    if any(word in line for word in COMPLAINTS):
        return True
    with contextlib.suppress(ValueError):
        fields = json.loads(line)
        return isinstance(fields, dict) and fields.get("level") in ("error", "critical")
    return False
