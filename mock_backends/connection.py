"""One client connection: finds requests in what arrives and answers them. Its hot path matters as `player`'s does.

What a request costs is mostly the kernel's one read and one write. So: one object per connection, reused from request
to request; a request equal to the one before it is recognised by comparing bytes; clocks are joined between ready
pieces; no task, future or timer per request.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import cast

from pydantic_core import from_json

from mock_backends.dialects import DIALECTS, JSON, TEXT, BadRequest, Fields
from mock_backends.faults import Ending, Fault
from mock_backends.player import END_OF_HEAD, SENT, head_of, monotonic_ns
from mock_backends.prefixes import PrefixCache
from mock_backends.spoiler import SpoilingPlayer
from mock_backends.stage import Stage
from mock_backends.tape import EMPTY_TAPE
from mock_backends.wire import BadMessage, ChunkedBody, Head, Likeness, find_head, read_head, response_head

_KEPT_BODY = 64 * 1024  # a longer one is not remembered for comparison
_READ_AHEAD = 256 * 1024  # a client that pipelines more than this is not read until its replies are out
_HEALTH = b"/health"
_METRICS = b"/metrics"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, for 0 s


class Connection(asyncio.Protocol):
    """One client connection. `connections` is the set of its backend's open ones, which it keeps true."""

    __slots__ = (
        "_block", "_buffer", "_chunked", "_close_after", "_connections", "_counts", "_head", "_idle_until", "_last",
        "_last_body", "_last_head", "_player", "_recv", "_seen", "_stage", "_straight", "_tape", "_transport", "_write",
    )  # fmt: skip

    _transport: asyncio.Transport
    _player: SpoilingPlayer

    def __init__(self, stage: Stage, connections: set[Connection]) -> None:
        self._stage = stage
        self._counts = stage.counts
        self._connections = connections
        self._buffer = bytearray()
        self._block = b""  # the head that was read last, as bytes
        self._last_head: Head | None = None  # and as it was understood
        self._last: Likeness | None = None  # of the last request
        self._last_body: bytes | None = None  # its body, if it asked for `_tape`
        self._tape = EMPTY_TAPE  # what the last request was answered by
        self._seen: Likeness | None = None  # `_last`, while the same request would be answered by `_tape` now
        self._straight = False  # and at once, in one piece
        self._head: Head | None = None  # of the request whose body is still arriving
        self._chunked: ChunkedBody | None = None
        self._recv = 0  # when the head was complete
        self._close_after = False
        self._idle_until = 0

    # --- the connection --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came. High water is the usual 64 KiB; writing resumes when all is out, as a reply ends then."""
        self._transport = cast(asyncio.Transport, transport)
        self._write = self._transport.write
        self._transport.set_write_buffer_limits(high=65536, low=0)
        self._player = SpoilingPlayer(self._stage, self._write, self._played, self._spoilt)
        self._connections.add(self)
        self._counts.connections += 1
        faults = self._stage.faults
        if faults is not None and (fault := faults.for_connection(monotonic_ns())):
            self._counts.struck(fault.fault)
            self._reset()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we closed."""
        self._connections.discard(self)
        self._counts.connections -= 1
        if self._player.busy:
            self._player.disconnected(self._last_head.path.decode("latin-1") if self._last_head else "")

    def pause_writing(self) -> None:
        """More than the high-water mark is waiting for the client."""
        self._player.pause()

    def resume_writing(self) -> None:
        """Everything is out."""
        self._player.resume()

    def abort(self) -> None:
        """Ends the connection now."""
        self._transport.abort()

    def close_if_idle(self) -> None:
        """Ends the connection unless a request is on its way."""
        if not self._player.busy and not self._buffer and self._head is None:
            self._transport.close()

    def forget(self) -> None:
        """The behaviour changed: what was remembered of the last request holds no longer."""
        self._seen = self._last_body = None

    def _reset(self) -> None:
        """Ends the connection with RST; what the kernel took before still arrives."""
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    # --- requests --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """`data` is ours to keep (bytes never change)."""
        seen = self._seen
        if seen is not None and seen.whole(data):
            recv = monotonic_ns()
            tape = self._tape
            if not self._straight:
                self._play(recv, recv)
                return
            counts = self._counts
            counts.requests += 1
            counts.events += 1
            counts.body_bytes += tape.body_bytes
            sent = b"%020d" % monotonic_ns()
            self._write(
                b"".join(
                    (
                        tape.head,
                        self._stage.stamp,
                        b"%020d" % recv,
                        SENT,
                        sent,
                        END_OF_HEAD,
                        tape.starts[0],
                        sent,
                        tape.last_tail,
                    )
                )
            )
            if self._player.paused:  # a reply larger than the buffers: it is over when it has left
                self._seen = None
                self._player.drain(tape)
            return
        buffer = self._buffer
        if self._player.busy:
            buffer += data
            if len(buffer) > _READ_AHEAD:
                self._transport.pause_reading()
            return
        self._seen = None
        self._idle_until = 0
        if buffer:
            buffer += data
            self._read_request(buffer)
        else:
            self._read_request(data)

    def _keep(self, data: bytes | bytearray, used: int) -> None:
        """Leaves in the buffer what of `data` was not used. `data` is the buffer, or came while that was empty."""
        if data is self._buffer:
            del self._buffer[:used]
        elif used < len(data):
            self._buffer += data[used:]

    def _read_request(self, data: bytes | bytearray) -> None:
        """Reads one request from `data` (see `_keep`), if it is all there, and begins its reply."""
        head, at = self._head, 0
        arrived = monotonic_ns()
        try:
            if head is None:
                self._recv = arrived
                while data.startswith(b"\r\n", at):  # left by clients that end a body with an empty line
                    at += 2
                end = find_head(data, at)
                if not end:
                    self._keep(data, 0)
                    return
                self._block = block = bytes(data[at:end])
                at = end
                if self._last is not None and self._last_head is not None and self._last.head(block):
                    head = self._last_head
                else:
                    head = read_head(block)
                    self._last = self._last_body = None
                    self._last_head = head
                self._chunked = ChunkedBody() if head.length < 0 else None
                if head.expects_continue and at == len(data):
                    self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._chunked is not None:
                size = self._chunked.feed(data[at:] if at else data)
                body = bytes(self._chunked.body) if size else None
            else:
                size = head.length
                body = bytes(data[at : at + size]) if len(data) - at >= size else None
        except BadMessage as exc:
            self._buffer.clear()
            self._close_after = True
            self._player.dialect = None
            self._refuse(exc.status, json.dumps({"error": {"message": str(exc)}}).encode())
            return
        if body is None:
            self._head = head
            self._keep(data, at)
            return
        self._keep(data, at + size)
        self._head = self._chunked = None
        # An HTTP/1.0 client that asks to stay is told that it cannot.
        self._close_after = not head.keep_alive or head.http10
        if body == self._last_body and self._stage.faults is None:
            self._play(self._recv, arrived)
        else:
            self._last_body = None
            self._answer(head, body, arrived)

    def _answer(self, head: Head, body: bytes, arrived: int) -> None:
        """Finds the reply to a request unlike the one before it. The time that takes counts as lateness."""
        self._player.dialect = dialect = DIALECTS.get(head.path)
        if dialect is None:
            self._answer_plainly(head)
            return
        if head.method != dialect.method and not (head.method == b"HEAD" and dialect.method == b"GET"):
            message = f"{head.path.decode()} takes {dialect.method.decode()}"
            self._refuse(405, dialect.error(405, message), b"Allow: " + dialect.method)
            return
        stage = self._stage
        try:
            fields = _fields(body) if dialect.generates else {}
            ask = dialect.read(fields, head.path, stage.profile.models[0], head.options)
            tape = stage.library.tape(ask, chunked=not head.http10, close=self._close_after)
        except BadRequest as exc:
            self._refuse(exc.status, dialect.error(exc.status, str(exc)))
            return
        if head.method == b"HEAD":
            self._counts.requests += 1
            self._write(head_of(tape, self._stage.stamp, self._recv, monotonic_ns()))
            self._done()
            return
        faults = self._stage.faults
        if faults is not None:
            fault = faults.for_request(monotonic_ns(), health=False, stream=tape.stream and not head.http10)
            if self._struck_at_once(fault):
                return
        self._tape = tape
        if stage.prefixes is not None:  # each request is asked about anew
            self._play(self._recv, arrived, self._known_ns(stage.prefixes, fields))
            return
        self._straight = tape.one_piece and stage.pace is None and not self._close_after
        if len(body) <= _KEPT_BODY:
            self._last_body = body
            self._last = Likeness(self._block, body)
        self._play(self._recv, arrived)

    def _known_ns(self, prefixes: PrefixCache, fields: Fields) -> int:
        """How much earlier the reply comes because the beginning of its prompt is known."""
        prompt = fields.get("messages", fields.get("prompt"))
        if prompt is None:
            return 0
        found = prefixes.serve(prompt)
        if found.hit:
            self._counts.prefix_hits += 1
        else:
            self._counts.prefix_misses += 1
        return self._stage.profile.prefill_per_token * found.tokens

    def _answer_plainly(self, head: Head) -> None:
        """The paths that belong to no dialect."""
        faults = self._stage.faults
        if faults is not None:
            fault = faults.for_request(monotonic_ns(), health=head.path == _HEALTH, stream=False)
            if self._struck_at_once(fault):
                return
        head_only = head.method == b"HEAD"
        if head.path not in (_HEALTH, _METRICS):
            known = ", ".join(path.decode() for path in DIALECTS)
            message = f"no such path; this mock knows {known}, /health, /metrics"
            self._refuse(404, json.dumps({"error": {"message": message, "type": "not_found", "code": 404}}).encode())
        elif head.method not in (b"GET", b"HEAD"):
            self._refuse(405, json.dumps({"error": {"message": "GET only"}}).encode(), b"Allow: GET, HEAD")
        elif head.path == _HEALTH:
            self._reply(200, JSON, b'{"status":"ok"}', head_only=head_only)
        else:
            self._reply(200, TEXT, self._stage.metrics(), head_only=head_only)

    # --- replies ---------------------------------------------------------------------------------

    def _play(self, recv: int, now: int, ahead: int = 0) -> None:
        """Answers with the tape, whose offsets count from `now`, `ahead` ns earlier."""
        self._seen = None
        if not self._player.begin(self._tape, recv, now, ahead):
            self._turn_away()

    def _turn_away(self) -> None:
        """The queue is full."""
        self._player.fault = None
        dialect = self._player.dialect
        assert dialect is not None  # only its paths are queued for
        message = "the server is busy: its queue of waiting requests is full"
        self._refuse(dialect.busy, dialect.error(dialect.busy, message), b"Retry-After: 1")

    def _reply(self, status: int, kind: bytes, body: bytes, *fields: bytes, head_only: bool = False) -> None:
        """Answers at once with a reply that no tape has, and that has no clocks in its body."""
        self._counts.requests += 1
        head = response_head(status, kind, len(body), *fields, close=self._close_after)
        head = b"%b%b%020d%b%020d%b" % (head, self._stage.stamp, self._recv, SENT, monotonic_ns(), END_OF_HEAD)
        fault = self._player.fault
        if fault is None:
            self._write(head if head_only else head + body)
            self._done()
        else:
            self._player.strike_plain(fault, head, body)

    def _refuse(self, status: int, body: bytes, *fields: bytes) -> None:
        self._counts.refused += 1
        self._reply(status, JSON, body, *fields)

    def _struck_at_once(self, fault: Fault | None) -> bool:
        """Answers in place of the request if its fault needs no reply to spoil; any other is left to the player."""
        if fault is None or fault.fault not in ("error", "rate-limit"):
            self._player.fault = fault
            return False
        self._counts.struck(fault.fault)
        self._player.fault = None
        status = 429 if fault.fault == "rate-limit" else fault.status
        retry_after = 10**9 if fault.retry_after is None and status == 429 else fault.retry_after
        fields = [] if retry_after is None else [b"Retry-After: %d" % -(-retry_after // 10**9)]
        message = f"a mock's fault: {fault.fault}"
        dialect = self._player.dialect
        body = dialect.error(status, message) if dialect else json.dumps({"error": {"message": message}}).encode()
        self._reply(status, JSON, body, *fields)
        return True

    # --- after a reply ---------------------------------------------------------------------------

    def _played(self) -> None:
        """The whole reply is out."""
        if self._last_body is not None and not self._buffer and self._stage.faults is None:
            self._seen = self._last
        self._done()

    def _spoilt(self, ending: Ending) -> None:
        """A fault ended the reply."""
        self._last_body = None
        if ending is Ending.RESET:
            self._reset()
        elif ending is Ending.CLOSE:
            self._transport.close()
        else:
            self._done()

    def _done(self) -> None:
        """A reply of any kind is out: close, or see what else arrived meanwhile."""
        if self._close_after:
            self._transport.close()
        elif self._buffer:
            # Not at once: a pipelining client must not make us recurse.
            self._stage.loop.call_soon(self._next_request)
        elif self._stage.faults is not None:
            self._maybe_close_idle()

    def _next_request(self) -> None:
        """Reads the request that arrived during the last reply."""
        if not self._player.busy and not self._transport.is_closing():
            self._transport.resume_reading()
            self._seen = None
            self._read_request(self._buffer)

    def _maybe_close_idle(self) -> None:
        """Closes the idle connection now or later, if a fault says so."""
        faults = self._stage.faults
        now = monotonic_ns()
        fault = faults.for_idle(now) if faults else None
        if fault is None:
            return
        self._counts.struck(fault.fault)
        if not fault.idle:
            self._transport.close()
            return
        self._idle_until = now + fault.idle
        self._stage.schedule(self._idle_until, self._close_idle)

    def _close_idle(self, now: int) -> None:
        if self._idle_until and now >= self._idle_until:
            self.close_if_idle()


def _fields(body: bytes) -> Fields:
    """The JSON object that a request's body is. Raises `BadRequest`."""
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise BadRequest("the body must be a JSON object")
    return fields
