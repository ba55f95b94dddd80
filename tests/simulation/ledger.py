"""What is known of each request, try and connection, read from the bytes at the proxy's two ends.

`ClientWatch` reads what the proxy is given by a client and writes to it, `UpstreamWatch` what it writes to an endpoint
and is given by it. Both know the moment at which the proxy itself did or could know of a thing, whatever the latency.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from tests.simulation.http import CHUNKED, UNTIL_CLOSE, Garbled, MessageReader, body_length, pattern
from tests.simulation.script import Answer, Ask

SURPLUS = b"surplus\r\n"
"""What the fault of that name sends behind a whole answer."""
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})


class Judge(Protocol):
    """The oracle, as the watches see it."""

    loop: Clock
    retries_all: bool

    def found(self, kind: str, text: str) -> None:
        """An invariant does not hold."""

    def note(self, text: str) -> None:
        """A line of the run's story."""

    def offence(self, endpoint: str, why: str, strikes: bool) -> None:
        """An endpoint did what justifies one failure, and one strike if `strikes`."""

    def attempt_began(self, attempt: Attempt) -> None:
        """A request was written to an endpoint."""

    def client_lost(self, client: ClientWatch) -> None:
        """The proxy was told that a client's connection is over."""


class Clock(Protocol):
    now: float
    passes: int


@dataclass(slots=True, eq=False)
class Attempt:
    """One try: a request that was written to an endpoint, whole or in part."""

    exchange: Exchange
    upstream: UpstreamWatch
    reused: bool
    began_at: float
    plan: Answer
    tag: str
    whole_at: float | None = None  # when the proxy had written all of it
    written: int = 0  # of its body
    given: int = 0  # bytes of the endpoint's answer that the proxy was given
    size: int | None = None  # of the whole valid answer; None: there will be none
    until_end: int | None = None  # of the whole answer, where FIN ends it
    head_size: int = 0
    bad_at: int | None = None  # byte of the answer that makes it invalid
    head_at: float | None = None
    over_at: float | None = None  # the answer was given whole
    blamed: bool = False

    @property
    def invalid(self) -> bool:
        """Whether the proxy was given what no valid answer has."""
        surplus = self.size is not None and self.given > self.size
        return surplus or (self.bad_at is not None and self.given > self.bad_at)

    @property
    def answered(self) -> bool:
        """Whether all of a valid answer reached the proxy."""
        return self.size is not None and self.given >= self.size


@dataclass(slots=True, eq=False)
class Exchange:
    """One request of a client, from its plan to its record in the access log."""

    ask: Ask
    head_at: float | None = None  # when the proxy had its head
    whole_at: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    client: ClientWatch | None = None
    answer: str = ""  # "own" or the tag of the attempt whose answer it is
    status: int = 0
    code: str = ""
    answered_at: float | None = None  # when the proxy had written all of the answer
    answer_end: int = 0  # offset in what the proxy wrote
    records: list[tuple[int, str, str, float]] = field(default_factory=list)  # status, outcome, endpoint, time
    received: bool = False  # the client has the whole answer
    late: bool = False  # found to be so


class ClientWatch:
    """One connection of a client, at the proxy's end."""

    def __init__(self, judge: Judge, name: str) -> None:
        self.judge = judge
        self.name = name
        self.sent: deque[tuple[int, str, Exchange]] = deque()  # offset, head or whole: what the client sends
        self.waiting: deque[Exchange] = deque()  # heads the proxy has, unanswered
        self.exchanges: list[Exchange] = []
        self.delivered_bytes = 0
        self.written_bytes = 0
        self.ended: bool | None = None  # the client's FIN (True) or RST was told
        self.slow = False  # it takes its answers in its own time
        self.left = False  # the client is gone, whether the proxy knows or not
        self.is_closing = False
        self.is_lost = False
        self.reading_since = 0.0
        self.reading = True
        self.last_in = 0.0  # when a byte came
        self.last_out = 0.0
        self.opened_at = self.last_answered = judge.loop.now
        self.write_paused_at: float | None = None
        self.marks: deque[tuple[int, Exchange, bool]] = deque()  # answers, for the client: end offset, keep-alive
        self._reader = MessageReader(self._head, self._body, self._end)
        self._present: Exchange | None = None
        self._expected = b""
        self._at = 0
        self._keeps = True
        self._until_close = False

    # -- Watch

    def delivered(self, data: bytes) -> None:
        now = self.judge.loop.now
        self.delivered_bytes += len(data)
        self.last_in = now
        while self.sent and self.sent[0][0] <= self.delivered_bytes:
            _, what, exchange = self.sent.popleft()
            if what == "head":
                exchange.head_at = now
                exchange.client = self
                self.judge.note(f"{self.name}: the proxy has the head of {exchange.ask.tag} ({exchange.ask.method})")
                self.waiting.append(exchange)
                self.exchanges.append(exchange)
            else:
                exchange.whole_at = now

    def end_delivered(self, clean: bool) -> None:
        if self.ended is None:
            self.ended = clean

    def paused(self, reading: bool) -> None:
        self.reading = reading
        self.reading_since = self.judge.loop.now

    def writing_paused(self, paused: bool) -> None:
        self.write_paused_at = self.judge.loop.now if paused else None

    def wrote(self, data: bytes) -> None:
        self.written_bytes += len(data)
        self.last_out = self.judge.loop.now
        try:
            self._reader.feed(data)
        except Garbled as exc:
            self.judge.found("garbled-to-client", f"{self.name}: {exc}")

    def closing(self) -> None:
        self.is_closing = True

    def lost(self) -> None:
        self.is_lost = True
        self.judge.client_lost(self)

    @property
    def present(self) -> Exchange | None:
        """The request that is being answered."""
        return self._present

    @property
    def half_answered(self) -> Exchange | None:
        """The request whose answer was begun and not ended, if its end can be told."""
        return None if self._until_close else self._present

    def until_close_ended(self) -> bool:
        """Whether the answer that ends by FIN was written whole."""
        return self._until_close and self._at == len(self._expected)

    # -- what the proxy writes

    def _head(self, first: bytes, fields: dict[bytes, bytes]) -> int:
        status = int(first.split()[1])
        if status < 200:
            if status != 100:
                self.judge.found("interim-forwarded", f"{self.name}: {first!r}")
            self._present = None
            return 0
        exchange = self.waiting.popleft() if self.waiting else None
        self._present = exchange
        tag = fields.get(b"x-tag", b"").decode()
        self._keeps = fields.get(b"connection", b"").lower() != b"close"
        self._at = 0
        if exchange is None:
            self._expected = b""
            if tag or status not in (400, 408, 413, 414, 431, 501, 503, 505):
                self.judge.found("unasked-answer", f"{self.name} gets {first!r} for {tag or 'nothing'}")
            return body_length(fields, 0)
        exchange.status = status
        if not tag:
            exchange.answer = "own"
            self._expected = b""
        else:
            exchange.answer = tag
            if tag.rpartition("/")[0] != exchange.ask.tag:
                self.judge.found("anothers-answer", f"{self.name} asked {exchange.ask.tag} and gets {tag}")
            attempt = next((a for a in exchange.attempts if a.tag == tag), None)
            if attempt is None:
                self.judge.found("anothers-answer", f"{exchange.ask.tag} gets an answer of no attempt, {tag}")
            size = attempt.plan.size if attempt is not None else 0
            self._expected = pattern(tag, size)
        bodiless = exchange.ask.method == "HEAD" or status in (204, 304)
        length = 0 if bodiless else body_length(fields, UNTIL_CLOSE)
        self._until_close = length == UNTIL_CLOSE
        if bodiless:
            self._expected = b""
        elif tag and length >= 0 and length != len(self._expected):
            self.judge.found("wrong-length", f"{exchange.ask.tag}: {length} instead of {len(self._expected)}")
        return length

    def _body(self, data: bytes) -> None:
        exchange = self._present
        if exchange is None or exchange.answer == "own":
            if exchange is not None and b'"code": "' in data:
                exchange.code = data.partition(b'"code": "')[2].partition(b'"')[0].decode()
            return
        end = self._at + len(data)
        if data != self._expected[self._at : end]:
            self.judge.found("wrong-body", f"{exchange.ask.tag} at {self._at}: {data[:60]!r}")
        self._at = end

    def _end(self) -> None:
        exchange, self._present = self._present, None
        if exchange is None:
            return
        if exchange.answer != "own" and self._at != len(self._expected):
            self.judge.found("short-body", f"{exchange.ask.tag}: {self._at} of {len(self._expected)}, ended cleanly")
        exchange.answered_at = self.last_answered = self.judge.loop.now
        exchange.answer_end = self._reader.position
        self.marks.append((exchange.answer_end, exchange, self._keeps))


class UpstreamWatch:
    """One connection to an endpoint, at the proxy's end."""

    def __init__(self, judge: Judge, endpoint: str, name: str, find: Callable[[str], Exchange | None]) -> None:
        self.judge = judge
        self.endpoint = endpoint
        self.name = name
        self.attempt: Attempt | None = None  # the last one, over or not
        self.attempts = 0
        self.idle_since = judge.loop.now
        self.ended: bool | None = None
        self.is_closing = False
        self.closed_in: int | None = None  # pass in which the proxy closed it
        self.reading = True
        self.wait_since = judge.loop.now  # of the last byte, or since reading went on
        self.write_paused_at: float | None = None
        self.spoiled = False  # bytes came that belong to no answer
        self.owed = 0  # bytes of that kind that are still on their way, behind an answer that is over
        self.marks: deque[tuple[int, str, Attempt]] = deque()  # for the endpoint: offset, head or whole
        self._died = ""  # how it ended, if by the endpoint's doing
        self._find = find
        self._reader = MessageReader(self._head, self._body, self._end)

    # -- Watch

    def wrote(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except Garbled as exc:
            self.judge.found("garbled-to-endpoint", f"{self.name}: {exc}")

    def delivered(self, data: bytes) -> None:
        now = self.judge.loop.now
        self.wait_since = now
        attempt, late = self.attempt, min(self.owed, len(data))
        self.owed -= late
        if attempt is None or attempt.over_at is not None:
            self.spoiled = True
            return
        if late:  # the proxy can only take them for this answer's
            attempt.bad_at = attempt.given
        attempt.given += len(data)
        if attempt.head_at is None and attempt.head_size and attempt.given >= attempt.head_size:
            attempt.head_at = now
        if attempt.answered:
            attempt.over_at = self.idle_since = now
            surplus = 0 if attempt.size is None else attempt.given - attempt.size
            self.spoiled = self.spoiled or surplus > 0
            self.owed = len(SURPLUS) - surplus if attempt.plan.fault == "surplus" else 0
            if attempt.plan.status >= 500:
                self.judge.offence(self.endpoint, "5xx", strikes=True)

    def end_delivered(self, clean: bool) -> None:
        if self.ended is not None:
            return
        self.ended = clean
        attempt = self.attempt
        if attempt is None or attempt.over_at is not None or self.is_closing:
            return
        if clean and attempt.until_end is not None and attempt.given >= attempt.until_end:
            attempt.over_at = self.judge.loop.now
            if attempt.plan.status >= 500:
                self.judge.offence(self.endpoint, "5xx", strikes=True)
            return
        self._died = "stale" if attempt.reused and not attempt.given else "ended in the middle"

    def paused(self, reading: bool) -> None:
        self.reading = reading
        self.wait_since = self.judge.loop.now

    def writing_paused(self, paused: bool) -> None:
        self.write_paused_at = self.judge.loop.now if paused else None

    def closing(self) -> None:
        self.is_closing = True
        self.closed_in = self.judge.loop.passes

    def lost(self) -> None:
        died, self._died = self._died, ""
        attempt = self.attempt
        if not died or attempt is None or attempt.blamed:
            return
        # The exchange hears of it now, as what was written had to go out before; unless it ended meanwhile.
        records = attempt.exchange.records
        if not records or (records[-1][1] == "failed" and records[-1][3] == self.judge.loop.now):
            attempt.blamed = True
            self.judge.offence(self.endpoint, died, strikes=died != "stale")

    @property
    def dying(self) -> bool:
        """Whether its end was told, and what was written still has to go out."""
        return bool(self._died)

    @property
    def busy(self) -> bool:
        """Whether a try is under way on it."""
        return self.attempt is not None and self.attempt.over_at is None and not self.is_closing

    # -- what the proxy writes

    def _head(self, first: bytes, fields: dict[bytes, bytes]) -> int:
        method, target, _ = first.decode().split(" ")
        exchange = self._find(target[1:])
        if exchange is None or method != exchange.ask.method:
            self.judge.found("unknown-request", f"{self.name}: {first!r}")
            return body_length(fields, 0)
        last = self.attempt
        if last is not None and (last.over_at is None or last.whole_at is None or self.spoiled):
            self.judge.found("busy-connection", f"{exchange.ask.tag} is written behind {last.tag} on {self.name}")
        plans = exchange.ask.answers
        number = len(exchange.attempts)
        attempt = Attempt(
            exchange=exchange,
            upstream=self,
            reused=self.attempts > 0,
            began_at=self.judge.loop.now,
            plan=plans[min(number, len(plans) - 1)],
            tag=f"{exchange.ask.tag}/{number}",
        )
        self.judge.attempt_began(attempt)
        exchange.attempts.append(attempt)
        self.attempts += 1
        self.attempt = attempt
        self.marks.append((self._reader.position, "head", attempt))
        length = body_length(fields, 0)
        if length not in (CHUNKED, exchange.ask.size):
            self.judge.found("wrong-length", f"{attempt.tag}: {length} instead of {exchange.ask.size}")
        return length

    def _body(self, data: bytes) -> None:
        attempt = self.attempt
        if attempt is None:
            return
        end = attempt.written + len(data)
        ask = attempt.exchange.ask
        if data != pattern(ask.tag, ask.size)[attempt.written : end]:
            self.judge.found("wrong-body-to-endpoint", f"{attempt.tag} at {attempt.written}: {data[:60]!r}")
        attempt.written = end

    def _end(self) -> None:
        attempt = self.attempt
        if attempt is None:
            return
        attempt.whole_at = self.judge.loop.now
        if attempt.written != attempt.exchange.ask.size:
            self.judge.found("short-request", f"{attempt.tag}: {attempt.written} of {attempt.exchange.ask.size}")
        self.marks.append((self._reader.position, "whole", attempt))
