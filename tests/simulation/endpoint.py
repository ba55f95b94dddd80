"""An endpoint: answers each try as the script says, whole, broken, late or never."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.simulation.http import chunked, pattern
from tests.simulation.ledger import SURPLUS, Attempt, Exchange, Judge, UpstreamWatch
from tests.simulation.loop import SimulatedLoop
from tests.simulation.transport import Transport


class Endpoint:
    """One model server: makes a peer for each connection."""

    def __init__(self, name: str, loop: SimulatedLoop, judge: Judge, find: Callable[[str], Exchange | None]) -> None:
        self.name = name
        self._loop = loop
        self._judge = judge
        self._find = find

    def accept(self, name: str) -> tuple[EndpointPeer, UpstreamWatch]:
        watch = UpstreamWatch(self._judge, self.name, name, self._find)
        return EndpointPeer(self._loop, watch, self._judge), watch

    def connected(self, peer: EndpointPeer, transport: Transport) -> None:
        peer.transport = transport
        peer.arrived(0)


class EndpointPeer:
    """The endpoint's side of one connection."""

    transport: Transport

    def __init__(self, loop: SimulatedLoop, watch: UpstreamWatch, judge: Judge) -> None:
        self._loop = loop
        self._watch = watch
        self._judge = judge
        self._gone = False
        self._may_leave = True

    # -- Peer

    def arrived(self, total: int) -> None:
        marks = self._watch.marks
        while marks and marks[0][0] <= total and not self._gone:
            _, what, attempt = marks.popleft()
            plan = attempt.plan
            if what == "head" and plan.reading_stops:
                self.transport.window = 0
                self._loop.after(plan.reading_stops, self._read_on)
            if what == ("head" if plan.early else "whole"):
                self._loop.after(plan.delay, self._answer, attempt)

    def ended(self, clean: bool) -> None:
        self._judge.note(f"{self._watch.name}: the proxy's {'FIN' if clean else 'RST'} comes")
        if not self._gone:
            self._gone = True
            self.transport.peer_closes()

    # -- inside

    def _read_on(self) -> None:
        self.transport.window = None
        self.transport.pump()

    def _answer(self, attempt: Attempt) -> None:
        if self._gone:
            return
        plan = attempt.plan
        raw = render(attempt)
        random = Random(plan.seed)
        fault = plan.fault
        if fault in ("fin", "rst", "silence"):
            if plan.at < len(raw):
                attempt.size = attempt.until_end = None
            raw = raw[: plan.at]
        delay = 0.0
        self._judge.note(
            f"{self._watch.name}: answers {attempt.tag} with {len(raw)} bytes{' and ' * bool(fault)}{fault}"
        )
        for piece in cut(raw, plan.pieces, random):
            self.transport.send(piece, delay)
            delay += plan.gap
        self._end(attempt, delay, random)

    def _end(self, attempt: Attempt, delay: float, random: Random) -> None:
        plan = attempt.plan
        if plan.fault == "silence" and plan.framing == "close":
            self._may_leave = False  # the FIN would make the part that was sent a whole answer
        if plan.fault == "rst":
            self._gone = True
            self.transport.send_rst(delay)
        elif plan.fault in ("fin", "bad-head", "bad-chunk") or (plan.framing == "close" and plan.fault != "silence"):
            self._gone = True
            self.transport.peer_closes(delay)
        elif not plan.keeps and not plan.fault:
            self._loop.after(delay, self._leave)
        elif plan.closes_after is not None and not plan.fault:
            self._loop.after(delay + plan.closes_after, self._leave)

    def _leave(self) -> None:
        if self._may_leave and not self._gone:
            self._gone = True
            self._judge.note(f"{self._watch.name}: the endpoint closes")
            self.transport.peer_closes()


def render(attempt: Attempt) -> bytes:
    """The bytes of an answer; tells the attempt where it ends and where it is wrong."""
    plan, ask = attempt.plan, attempt.exchange.ask
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * plan.interims
    bodiless = ask.method == "HEAD" or plan.status in (204, 304)
    body = pattern(attempt.tag, plan.size)
    fields = [b"HTTP/1.1 %d Some" % plan.status, b"X-Tag: " + attempt.tag.encode(), b"Content-Type: text/plain"]
    if plan.framing == "chunked" and plan.status != 204:
        fields.append(b"Transfer-Encoding: chunked")
        framed = chunked(body, max(plan.pieces, 2))
    else:
        if plan.framing == "length" and plan.status != 204:
            fields.append(b"Content-Length: %d" % len(body))
        framed = body
    if not plan.keeps:
        fields.append(b"Connection: close")
    if plan.fault == "bad-head":
        fields[0] = b"HTTP/1.1 2x0 Some"
    elif plan.fault == "huge-head":
        fields.append(b"X-Huge: " + b"h" * 70_000)
    elif plan.fault == "upgrade":
        fields[0] = b"HTTP/1.1 101 Switching"
    head = b"\r\n".join(fields) + b"\r\n\r\n"
    if plan.fault == "bad-chunk" and not bodiless and plan.framing == "chunked":
        framed = framed[:-5] + b"zz\r\n" + framed[-5:]
        attempt.bad_at = len(interim) + len(head) + len(framed) - 10
    if bodiless:
        framed = b""
    raw = interim + head + framed
    attempt.head_size = len(interim) + len(head)
    _tell(attempt, raw, bodiless)
    if plan.fault == "surplus" and attempt.size is not None:
        raw += SURPLUS
    return raw


def _tell(attempt: Attempt, raw: bytes, bodiless: bool) -> None:
    plan = attempt.plan
    if plan.fault in ("bad-head", "upgrade"):
        attempt.bad_at = 0
    elif plan.fault == "huge-head" or plan.interims > 1000:
        attempt.bad_at = 60_000
    if attempt.bad_at is None:
        if bodiless or plan.framing != "close":
            attempt.size = len(raw)
        else:
            attempt.until_end = len(raw)


def cut(data: bytes, pieces: int, random: Random) -> list[bytes]:
    """`data` in so many pieces at random, without empty ones."""
    if pieces < 2 or len(data) < 2:
        return [data] if data else []
    at = sorted({random.randrange(1, len(data)) for _ in range(pieces - 1)})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]
