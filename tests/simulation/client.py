"""A client: asks what the script says, one connection after the other, and leaves when it says so."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.simulation.endpoint import cut
from tests.simulation.http import chunked, pattern
from tests.simulation.ledger import ClientWatch, Exchange, Judge
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.script import Ask, Client
from tests.simulation.transport import Transport


class ClientActor:
    """Plays one client of the script. `exchanges` are those of its asks, in order; `done` when all are over.

    `moved_at` is when bytes last came to it, or it last connected or asked.
    """

    def __init__(
        self,
        plan: Client,
        exchanges: list[Exchange],
        loop: SimulatedLoop,
        network: Network,
        judge: Judge,
        opened: Callable[[ClientWatch], None],
    ) -> None:
        self.plan = plan
        self.done = not exchanges
        self.moved_at = plan.at
        self._loop = loop
        self._network = network
        self._judge = judge
        self._opened = opened
        self._to_ask = list(exchanges)
        self._number = 0
        self._connection: ClientConnection | None = None
        loop.after(plan.at, self._connect)

    def _connect(self) -> None:
        if not self._to_ask:
            self.done = True
            return
        self.moved_at = self._loop.now
        self._number += 1
        watch = ClientWatch(self._judge, f"{self.plan.name}:{self._number}")
        watch.slow = bool(self.plan.takes) or self.plan.stops_after is not None or self.plan.pipelines
        connection = ClientConnection(self, watch, self._loop)
        self._opened(watch)
        self._network.dial(connection, watch, connection.connected)

    # -- from its connection

    def take_ask(self) -> Exchange | None:
        """The next thing to ask."""
        self.moved_at = self._loop.now
        return self._to_ask.pop(0) if self._to_ask else None

    @property
    def next_ask(self) -> Exchange | None:
        return self._to_ask[0] if self._to_ask else None

    def over(self, refused: bool) -> None:
        """The connection ended."""
        if refused:
            self._to_ask.clear()
        self._loop.after(0.0, self._connect)


class ClientConnection:
    """One connection of a client."""

    def __init__(self, actor: ClientActor, watch: ClientWatch, loop: SimulatedLoop) -> None:
        self.watch = watch
        self._actor = actor
        self._loop = loop
        self._transport: Transport | None = None
        self._over = False
        self._offset = 0
        self._sending_until = 0.0
        self._unanswered: list[Exchange] = []
        self._stopped = False
        self._half = False  # it sent FIN and still reads

    def connected(self, transport: Transport | None) -> None:
        """The proxy accepted, or (None) nobody does."""
        if transport is None:
            self._over = True
            self._actor.over(refused=True)
            return
        self._transport = transport
        plan = self._actor.plan
        if plan.takes:
            transport.window = 0
            self._loop.after(plan.every, self._take)
        elif plan.stops_after is not None:
            transport.window = plan.stops_after
            self._stopped = bool(plan.stops_after)
            if not self._stopped:
                self._loop.after(plan.stops_for, self._read_on)
        self._ask_next()

    # -- Peer

    def arrived(self, total: int) -> None:
        transport = self._transport
        assert transport is not None
        self._actor.moved_at = self._loop.now
        marks = self.watch.marks
        while marks and marks[0][0] <= total:
            _, exchange, keeps = marks.popleft()
            exchange.received = True
            if exchange in self._unanswered:
                self._unanswered.remove(exchange)
            if not keeps or exchange.ask.last or exchange.ask.http10:
                self._close()
            elif not self._actor.plan.pipelines:
                self._ask_next()
        if self._stopped and transport.window == 0:
            self._stopped = False
            self._loop.after(self._actor.plan.stops_for, self._read_on)

    def ended(self, clean: bool) -> None:
        if clean and self.watch.until_close_ended() and self.watch.present is not None:
            self.watch.present.received = True
        self._finish(rst=False)

    # -- inside

    def _take(self) -> None:
        if self._transport is not None and not self._over:
            self._transport.window = self._actor.plan.takes
            self._transport.pump()
            self._loop.after(self._actor.plan.every, self._take)

    def _read_on(self) -> None:
        if self._transport is not None:
            self._transport.window = None
            self._transport.pump()

    def _ask_next(self) -> None:
        exchange = self._actor.next_ask
        if self._over:
            return
        if exchange is None:
            if not self._unanswered:
                self._close()
            return
        self._loop.after(exchange.ask.think if self._offset else 0.0, self._ask, exchange)

    def _ask(self, exchange: Exchange) -> None:
        if self._over or self._half or self._actor.next_ask is not exchange:
            return
        self._actor.take_ask()
        transport = self._transport
        assert transport is not None
        ask = exchange.ask
        self._unanswered.append(exchange)
        raw, head_end, whole_end = render(ask)
        random = Random(ask.seed)
        self.watch.sent.append((self._offset + head_end, "head", exchange))
        if whole_end is not None:
            self.watch.sent.append((self._offset + whole_end, "whole", exchange))
        self._offset += len(raw)
        delay = max(0.0, self._sending_until - self._loop.now)
        pieces = cut(raw, ask.pieces, random)
        if ask.fault == "stalls":
            pieces = pieces[:-1]
        for piece in pieces:
            self._loop.after(delay, self._send, piece)
            delay += ask.gap
        self._sending_until = self._loop.now + delay
        if ask.leaves:
            self._loop.after(ask.leaves_after, self._leave, ask.leaves)
        if self._actor.plan.pipelines and not ask.fault:
            self._loop.after(delay, self._ask_next)

    def _send(self, piece: bytes) -> None:
        if not self._over and not self._half and self._transport is not None:
            self._transport.send(piece)

    def _leave(self, how: str) -> None:
        if self._over or self._transport is None:
            return
        self.watch.left = True
        if how == "half":
            self._transport.send_fin()
            self._half = True
        else:
            self._finish(rst=how == "rst")

    def _close(self) -> None:
        self._finish(rst=False)

    def _finish(self, rst: bool) -> None:
        if self._over:
            return
        self._over = True
        assert self._transport is not None
        if rst:
            self._transport.send_rst()
        else:
            self._transport.peer_closes()
        self._actor.over(refused=False)


def render(ask: Ask) -> tuple[bytes, int, int | None]:
    """The bytes of a request, where its head ends, and where it ends if it does."""
    version = b"1.0" if ask.http10 else b"1.1"
    lines = [b"%b /%b HTTP/%b" % (ask.method.encode(), ask.tag.encode(), version), b"Host: proxy.test"]
    body = pattern(ask.tag, ask.size)
    if ask.framing == "length":
        lines.append(b"Content-Length: %d" % ask.size)
    elif ask.framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        body = chunked(body, max(2, ask.pieces))
    if ask.expects:
        lines.append(b"Expect: 100-continue")
    if ask.last:
        lines.append(b"Connection: close")
    if ask.fault == "bad-head":
        lines.append(b"Bad Field: x")
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    if ask.fault == "bad-chunk" and ask.framing == "chunked":
        body = body[:-5] + b"zz\r\n" + body[-5:]
        return head + body, len(head), None
    if ask.fault == "bad-head":
        return head + body, len(head + body) + 1, None
    return head + body, len(head), len(head) + len(body)
