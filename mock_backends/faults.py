"""What goes wrong, when, and to whom (pure, the clock is an argument). The table of faults is in README.md.

A `Fault` is data. A `FaultPlan` is the state of one backend's faults: it decides for each request, connection or idle
moment which fault strikes. The first in the list that wants to, does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from mock_backends.distribution import Count, Duration
from mock_backends.strict import Refused, Strict, nearest, sentences

Kind = Literal[
    "refuse", "hang-head", "hang-stream", "reset-head", "reset-body", "reset-chunk", "truncate", "garbage",
    "rate-limit", "error", "drip", "malformed-chunk", "idle-close", "error-event", "no-end", "corrupt",
]  # fmt: skip
Scope = Literal["traffic", "health", "all"]

ONLY_STREAMS = frozenset({"malformed-chunk", "error-event", "no-end", "reset-chunk"})


class Window(Strict):
    """A stretch of time; without `lasts`, for good."""

    at: Duration = 0
    lasts: Duration = 0


class Fault(Strict):
    """One thing that goes wrong. Clocks count from when the faults were set."""

    fault: Kind
    endpoint: str | None = None  # the backend it is for; None: all of them
    scope: Scope = "traffic"  # traffic is everything but /health

    # When. All conditions must hold.
    probability: float = Field(default=1.0, gt=0, le=1)
    skip: Count = 0  # leave this many alone first
    count: Count | None = None  # strike this often, then never again
    at: Duration = 0
    lasts: Duration = 0  # 0: for good
    every: Duration = 0  # the same again each period: flapping
    schedule: tuple[Window, ...] = ()  # instead of at, lasts and every

    # How.
    status: int = Field(default=503, ge=400, le=599)  # error
    retry_after: Duration | None = (
        None  # rate-limit (1s unless given) and error: the Retry-After field, in whole seconds
    )
    after_events: Count = 1  # faults inside a stream: events sent before
    after_bytes: Count | None = None  # faults inside a head or body: bytes of it sent before; None: half
    interval: Duration = 10_000_000  # drip: between two pieces
    piece: int = Field(default=1, ge=1, le=65_536)  # drip: bytes of a piece
    idle: Duration = 0  # idle-close: after being idle for so long
    hold: Duration = 0  # hang: then the connection is closed; 0: never

    @model_validator(mode="after")
    def _conditions_that_can_hold(self) -> Self:
        if self.schedule and (self.at or self.lasts or self.every):
            raise ValueError("give either schedule or at, lasts and every")
        if self.every and not 0 < self.lasts < self.every:
            raise ValueError("with every, lasts must be given and be shorter")
        if self.fault in ("refuse", "idle-close") and self.scope != "traffic":
            raise ValueError(f"{self.fault} strikes connections, which have no scope")
        return self

    def active(self, elapsed: int) -> bool:
        """Whether its time has come, `elapsed` ns after the faults were set."""
        if self.schedule:
            return any(elapsed - w.at >= 0 and (not w.lasts or elapsed - w.at < w.lasts) for w in self.schedule)
        since = elapsed - self.at
        if since < 0:
            return False
        if self.every:
            since %= self.every
        return not self.lasts or since < self.lasts

    def next_edge(self, elapsed: int) -> int | None:
        """When `active` changes next, in ns after the faults were set; None: never again."""
        if self.every:
            since = elapsed - self.at
            if since < 0:
                return self.at
            period = elapsed - since % self.every
            return period + self.lasts if since % self.every < self.lasts else period + self.every
        windows = self.schedule or (Window(at=0, lasts=0).model_copy(update={"at": self.at, "lasts": self.lasts}),)
        edges = [edge for w in windows for edge in (w.at, w.at + w.lasts if w.lasts else -1)]
        return min((edge for edge in edges if edge > elapsed), default=None)

    @property
    def closes_the_port(self) -> bool:
        """Whether it can be known beforehand that nobody gets in: then the port is really closed while it lasts.

        By probability or count a connection cannot be refused before it came: it is accepted and reset.
        """
        return self.fault == "refuse" and self.probability == 1 and not self.skip and self.count is None


class Ending(Enum):
    """What follows the bytes of a fault."""

    RESET = 1  # RST
    CLOSE = 2  # FIN
    HOLD = 3  # silence
    OVER = 4  # nothing: the reply is over, the connection lives
    GO_ON = 5  # the rest of the reply


GARBAGE = b"\x16\x03\x01\x00 this is not HTTP \xff\xfe\r\n\r\n"


def spoil(fault: Fault, head: bytes, piece: bytes, error_event: bytes, *, streamed: bool) -> tuple[bytes, Ending]:
    """What is sent in place of `head` and `piece`, and then.

    `head` is empty if it was sent before; `piece` is the next chunk of a stream, frame and all, or else the whole body.
    """

    def part(whole: bytes) -> bytes:
        return whole[: len(whole) // 2 if fault.after_bytes is None else fault.after_bytes]

    match fault.fault:
        case "hang-head":
            return b"", Ending.HOLD
        case "hang-stream":
            return head + (b"" if streamed else part(piece)), Ending.HOLD
        case "reset-head":
            return part(head), Ending.RESET
        case "reset-body":
            return head + (b"" if streamed else part(piece)), Ending.RESET
        case "reset-chunk":
            return head + part(piece), Ending.RESET
        case "truncate":
            return head + (b"" if streamed else part(piece)), Ending.CLOSE
        case "garbage":
            return GARBAGE, Ending.CLOSE
        case "malformed-chunk":
            return head + b"zz\r\n" + piece.partition(b"\r\n")[2], Ending.CLOSE
        case "error-event":
            return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(error_event), error_event), Ending.OVER
        case "no-end":
            return head + b"0\r\n\r\n", Ending.OVER
        case "corrupt":
            middle = len(piece) // 2
            wrong = bytes([piece[middle] ^ 1])
            return head + piece[:middle] + wrong + piece[middle + 1 :], Ending.GO_ON
        case _:
            raise AssertionError(f"{fault.fault} does not spoil bytes")


class _Turn:
    """How often one fault could have struck, and did."""

    __slots__ = ("fault", "rng", "seen", "struck")

    def __init__(self, fault: Fault, rng: Random) -> None:
        self.fault = fault
        self.rng = rng
        self.seen = self.struck = 0

    def strikes(self, elapsed: int) -> bool:
        fault = self.fault
        if not fault.active(elapsed):
            return False
        self.seen += 1
        if self.seen <= fault.skip or (fault.count is not None and self.struck >= fault.count):
            return False
        if fault.probability < 1 and self.rng.random() >= fault.probability:
            return False
        self.struck += 1
        return True


class FaultPlan:
    """The faults of one backend and how often each struck. Owned by that backend; equal seeds strike equally."""

    def __init__(self, faults: Iterable[Fault], endpoint: str, seed: int, start: int) -> None:
        mine = [fault for fault in faults if fault.endpoint in (None, endpoint)]
        self._start = start
        turns = [_Turn(fault, Random(f"{seed} {endpoint} {i}")) for i, fault in enumerate(mine)]
        self._port = [turn.fault for turn in turns if turn.fault.closes_the_port]
        self._connections = [turn for turn in turns if turn.fault.fault == "refuse" and turn.fault not in self._port]
        self._idle = [turn for turn in turns if turn.fault.fault == "idle-close"]
        self._requests = [turn for turn in turns if turn.fault.fault not in ("refuse", "idle-close")]

    def __bool__(self) -> bool:
        return bool(self._port or self._connections or self._idle or self._requests)

    def for_request(self, now: int, *, health: bool, stream: bool) -> Fault | None:
        """The fault that strikes this request, if any."""
        wrong_scope = "traffic" if health else "health"
        for turn in self._requests:
            fault = turn.fault
            if fault.scope == wrong_scope or (fault.fault in ONLY_STREAMS and not stream):
                continue
            if turn.strikes(now - self._start):
                return fault
        return None

    def for_connection(self, now: int) -> Fault | None:
        """The fault that resets this new connection, if any."""
        return _first(self._connections, now - self._start)

    def for_idle(self, now: int) -> Fault | None:
        """The fault that will close this connection, which has just become idle, if any."""
        return _first(self._idle, now - self._start)

    def port_closed(self, now: int) -> bool:
        """Whether the port should be closed now."""
        return any(fault.active(now - self._start) for fault in self._port)

    def next_port_edge(self, now: int) -> int | None:
        """When to ask `port_closed` again, on the clock of `now`; None: never."""
        edges = [fault.next_edge(now - self._start) for fault in self._port]
        return min((self._start + edge for edge in edges if edge is not None), default=None)


def _first(turns: Sequence[_Turn], elapsed: int) -> Fault | None:
    return next((turn.fault for turn in turns if turn.strikes(elapsed)), None)


_FAULTS = TypeAdapter(tuple[Fault, ...])


def read_faults(data: Any, source: str, endpoints: Sequence[str] = ()) -> tuple[Fault, ...]:
    """Faults from plain data: a list. With `endpoints`, one that names another is refused. Raises `Refused`."""
    if not isinstance(data, list):
        raise Refused(f"{source}: expected a list of faults, got {type(data).__name__}")
    try:
        faults = _FAULTS.validate_python(data)
    except ValidationError as exc:
        raise Refused(sentences(exc, source)) from exc
    for i, fault in enumerate(faults):
        if endpoints and fault.endpoint is not None and fault.endpoint not in endpoints:
            raise Refused(f"{source}: {i}.endpoint: no {fault.endpoint!r}; {nearest(fault.endpoint, list(endpoints))}")
    return faults


def load_faults(file: str, endpoints: Sequence[str]) -> tuple[Fault, ...]:
    """The faults of a YAML file: a list of them. A `schedule` may be the name of another file, beside it."""
    path = Path(file)
    data = _yaml(path)
    if isinstance(data, list):
        for row in data:
            if isinstance(row, dict) and isinstance(row.get("schedule"), str):
                row["schedule"] = _yaml(path.parent / row["schedule"])
    return read_faults(data, file, endpoints)


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except OSError as exc:
        raise Refused(f"{path}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise Refused(f"{path}: not YAML: {' '.join(str(exc).split())}") from exc
