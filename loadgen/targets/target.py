"""What load can be pointed at, and what one start of it needs to know. What differs between proxies is data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from loadgen.bench.child import Child
from reports import schema

Passes = Literal["everything", "replies", "nothing"]
"""everything: requests and replies pass byte for byte, so a pinned digest must come back. replies: requests are made
anew, so the reply is another one than pinned, but must be what the mock says it sent. nothing: status and framing."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one start of a target is told: the same for every target of a round, so that all do equal work.

    - ``backends``: base URLs of the mocks, `http://127.0.0.1:PORT`.
    - ``folder``: where its config and its output are kept.
    - ``cores``: the cores it may use, None for all.
    - ``recorders``: record GC pauses and loop stalls inside, where the target can.
    - ``settings``: config keys of our own engines that the scenario asks for (dotted), e.g. `runtime.gc.ballast`.
    """

    backends: tuple[str, ...]
    folder: Path
    cores: tuple[int, ...] | None = None
    recorders: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Running:
    """A target that answers. ``child`` is None where the process is not ours (direct, a URL the user started).

    - ``url``: where load goes; ``admin``: its `/internal/...` address, None if it has none.
    - ``pid``: root of the process tree whose CPU counts, None if there is nothing to count.
    - ``config``: the config text it runs with; ``config_hash``: of the same text without ports and paths.
    """

    url: str
    pid: int | None = None
    admin: str | None = None
    child: Child | None = None
    command: str = ""
    config: str | None = None
    config_hash: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request; with keys, so they are printed and written nowhere."""
    ca: str | None = None
    """For https: a file of certificates to trust instead of the system's."""

    def alive(self) -> bool:
        """False once a process of ours has ended."""
        return self.child is None or self.child.alive()

    def what_happened(self) -> str:
        """One sentence about the end of a process of ours, with its last words."""
        if self.child is None:
            return "the target is not ours to watch"
        words = self.child.last_words()
        return f"the target {self.child.how_it_ended()}" + (f": {words}" if words else "")

    def stop(self) -> None:
        """Ends the process if it is ours."""
        if self.child is not None:
            self.child.stop()


class Target(Protocol):
    """Something load can be pointed at."""

    @property
    def name(self) -> str:
        """As typed after `--targets`."""

    @property
    def start_s(self) -> float:
        """How long a start takes here, in seconds, for the announced duration."""

    @property
    def passes(self) -> Passes:
        """What goes through it unchanged, and so how far its replies can be checked."""

    @property
    def is_engine(self) -> bool:
        """Whether it is one of our own engines, as it is or with switches changed."""

    @property
    def has_process(self) -> bool:
        """Whether it has a process tree whose CPU and memory can be watched."""

    @property
    def gc_trace(self) -> bool:
        """Whether it is a Go program that writes its GC pauses to stderr (GODEBUG=gctrace=1)."""

    def describe(self) -> schema.TargetRecord:
        """Its entry in campaign.json."""

    def missing(self) -> str | None:
        """None if it can be started here; otherwise what is not there and how to get it, one sentence."""

    def start(self, wiring: Wiring) -> Running:
        """Starts it and returns once it accepts connections. Raises ChildError with its last words if it does not."""


def hash_of(text: str) -> str:
    """A short digest of a config text, for comparing and for reading."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
