"""The access log: one line a request, for those who ask for it with `server.access_log: true`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from proxy.control.logs import line, redact, timestamp

# A line must stay below PIPE_BUF (4096): then several workers can share one pipe without cutting each other's lines. An
# escaped character takes up to twelve bytes.
_LONGEST_TARGET = 256


class AccessLog:
    """Writes one JSON line a finished request to stderr.

    Each line is one write(2). It blocks when the reader of stderr does, as any log to a pipe does: that is what asking
    for a line a request costs. A reader that went away costs the lines, not the requests.
    """

    def __init__(self, engine: str, write: Callable[[bytes], object] | None = None) -> None:
        self._engine = engine
        self._write = write or _to_stderr

    def record(
        self,
        *,
        client: str,
        method: str,
        target: str,
        status: int,
        outcome: str,
        endpoint: str,
        seconds: float,
        request_id: str,
    ) -> None:
        """One request ended. `outcome`: success, failed or client_disconnected; `endpoint`: empty if none was asked."""
        if len(target) > _LONGEST_TARGET:
            target = target[:_LONGEST_TARGET] + "..."
        text = line(
            {
                "time": timestamp(time.time()),
                "logger": "proxy.access",
                "engine": self._engine,
                "pid": os.getpid(),
                "client": client,
                "method": method,
                "target": redact(target),
                "status": status,
                "outcome": outcome,
                "endpoint": endpoint,
                "seconds": round(seconds, 6),
                "request_id": request_id,
            }
        )
        self._write(text.encode("ascii") + b"\n")


def _to_stderr(data: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, data)
