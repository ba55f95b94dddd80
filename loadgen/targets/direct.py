"""Targets without a process of ours: the backend itself, and a URL that the user started."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loadgen.targets.target import Passes, Running, Wiring
from reports import schema

_NOT_OURS = "started by the user once for all rounds, not pinned as ours are"


@dataclass(frozen=True, slots=True)
class Direct:
    """No proxy at all: load goes straight to the first backend. The floor of every figure; shown, never subtracted."""

    name: str = "direct"
    start_s: float = 0.0
    passes: Passes = "everything"
    gc_trace: bool = False
    is_engine: bool = False
    has_process: bool = False

    def describe(self) -> schema.TargetRecord:
        """Its entry in campaign.json."""
        return schema.TargetRecord(name=self.name, kind="floor", label="no proxy")

    def missing(self) -> str | None:
        """Always there."""
        return None

    def start(self, wiring: Wiring) -> Running:
        """Nothing to start."""
        return Running(url=wiring.backends[0])


@dataclass(frozen=True, slots=True)
class Given:
    """`--target NAME=URL[,pid=N]`: a proxy the user runs; it must forward to the backends it finds by itself.

    Its CPU and memory are those of the tree below ``pid``, and `not measured` without one. It is not restarted between
    rounds, so its rounds are no independent process starts; the report's label says so.
    """

    name: str
    url: str
    pid: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: str | None = None
    start_s: float = 0.0
    passes: Passes = "everything"
    gc_trace: bool = False
    is_engine: bool = False

    @property
    def has_process(self) -> bool:
        """If the user told its process id."""
        return self.pid is not None

    def describe(self) -> schema.TargetRecord:
        """Its entry in campaign.json."""
        return schema.TargetRecord(name=self.name, kind="peer", label=f"{self.url}, {_NOT_OURS}")

    def missing(self) -> str | None:
        """Whether something listens there now."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname or "", port), 2.0):
            return None
        return f"nothing listens at {self.url}: start it, then try again"

    def start(self, wiring: Wiring) -> Running:
        """Nothing to start."""
        return Running(url=self.url, pid=self.pid, headers=self.headers, ca=self.ca)
