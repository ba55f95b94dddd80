"""What happens in one run, as plain data: made by `generate.py`, played by `world.py`, made shorter by `shrink.py`.

Times are seconds of the simulated clock, sizes bytes. Whatever is left to chance while a part is played comes from that
part's own `seed`, so that a part does the same whatever else is dropped from the script.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Answer:
    """What an endpoint does with one try of a request."""

    seed: int = 0
    delay: float = 0.0
    early: bool = False  # answers when the head came, not when the body did
    status: int = 200
    framing: str = "length"  # length, chunked, close
    size: int = 20
    pieces: int = 1  # sends of the whole answer
    gap: float = 0.0  # between them
    interims: int = 0
    keeps: bool = True  # without `Connection: close`
    fault: str = (
        ""  # fin, rst, silence (all of them `at` bytes of the answer), bad-head, bad-chunk, huge-head, surplus, upgrade
    )
    at: int = 0
    closes_after: float | None = None  # the idle connection, so long after the answer
    reading_stops: float = 0.0  # of the request's body, for so long


@dataclass(slots=True)
class Ask:
    """One request of a client. Its tag is in its target and its body."""

    tag: str
    seed: int = 0
    method: str = "GET"
    framing: str = "none"  # none, length, chunked
    size: int = 0
    pieces: int = 1  # sends of the whole request
    gap: float = 0.0
    think: float = 0.0  # seconds before it
    http10: bool = False
    expects: bool = False  # sends Expect: 100-continue, and waits for nothing
    last: bool = False  # sends Connection: close
    fault: str = ""  # bad-head, bad-chunk, stalls (in the middle)
    leaves: str = ""  # fin, rst, half: how the client leaves, `leaves_after` seconds after it began to send
    leaves_after: float = 0.0
    answers: list[Answer] = field(default_factory=list)  # for its first try, its second ...


@dataclass(slots=True)
class Client:
    """A client: one connection after the other, until all is asked."""

    name: str
    seed: int
    at: float
    asks: list[Ask]
    pipelines: bool = False
    takes: int = 0  # bytes it reads every `every` seconds; 0: all at once
    every: float = 0.0
    stops_after: int | None = None  # bytes after which it reads nothing for `stops_for`
    stops_for: float = 0.0


@dataclass(slots=True)
class Mode:
    """How an endpoint takes connects from `at` on."""

    endpoint: str
    at: float
    connects: str  # accept, refuse, hang
    delay: float = 0.0


@dataclass(slots=True)
class Reload:
    """A new config: values by dotted key; `endpoints` is a list of names."""

    at: float
    changes: dict[str, Any]


@dataclass(slots=True)
class Check:
    """The result of a health check."""

    at: float
    endpoint: str
    ok: bool


@dataclass(slots=True)
class Script:
    """One run."""

    seed: int
    config: dict[str, Any]  # by dotted key
    endpoints: list[str]
    clients: list[Client]
    modes: list[Mode]
    reloads: list[Reload]
    checks: list[Check]
    stop_at: float | None  # None: when all clients are done
    grace: float
    polls_first: bool
    reads_on: bool
    high_water: int
    kernel: int
    linger: int  # passes that a cancelled connect still needs, at most

    @property
    def asks(self) -> int:
        """Requests in it."""
        return sum(len(client.asks) for client in self.clients)
