"""Whether connections to an endpoint are worth keeping: judged by what it does with them, not by what it says. Pure.

llama.cpp's server closes the connection after each streamed answer, and does not say so (it even sends Keep-Alive). A
request that comes at once crosses that close, and a POST is not sent twice: with four clients that asked back to back
one in ten was 502, in both engines. After answers with a length it keeps the connection. So chunked answers are judged
apart from all others.

    KEEP    --CLOSINGS connections in a row are closed SOON after an answer-->  CLOSE
    CLOSE   at first, then every WATCH_EVERY seconds, for one connection-->     WATCH
    WATCH   --it is still open SOON after its answer-->                         KEEP

"In a row" ends with each connection that served another request, or was closed later than SOON. So reuse goes on with
an endpoint that closes connections after some time, or after some number of requests. What a restart closes together
counts once. A connection that is watched is lent to nobody, so that the watch costs no request. The first watch is at
once: a wrong suspicion is over after SOON.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

CLOSINGS: Final = 2
# Seconds. llama.cpp's FIN comes within 1 ms of the answer; servers close idle connections after 2 s (gunicorn) or more.
SOON: Final = 0.5
WATCH_EVERY = 10.0  # seconds; a watch costs a place in the pool for SOON
# For the log: the endpoint's name, and "chunked" or "other".
CLOSES_UNSAID: Final = "endpoint %s closes connections after %s answers without saying so: they are not reused"


class Freed(Enum):
    """What to do with a connection that came free."""

    KEEP = auto()
    WATCH = auto()  # keep it, lend it to nobody, and say after SOON whether it was `kept`
    CLOSE = auto()


class _Answers:
    """What was seen after answers of one framing."""

    __slots__ = ("closed_at", "closings", "watch_at")

    def __init__(self) -> None:
        self.closings = 0  # in a row
        self.closed_at = float("-inf")  # when the last of them was seen
        self.watch_at = 0.0  # from when on the next connection is watched; counts from CLOSINGS on


class KeepAlive:
    """One endpoint's way with connections, as one worker saw it. Times are seconds of one monotonic clock.

    `suspect`: a closing counts. While it is False every connection is kept and nothing need be told of reuse, so that
    a request on the hot path costs one look at it.
    """

    __slots__ = ("_after", "suspect")

    def __init__(self) -> None:
        self.suspect = False
        self._after = {chunked: _Answers() for chunked in (False, True)}

    def closed(self, chunked: bool, freed_at: float, now: float) -> bool:
        """The endpoint closed a connection without a byte since the answer that freed it, which was `chunked` or not.

        Returns whether connections are not kept after such answers from now on, and were until now.
        """
        if now - freed_at > SOON:
            self.kept(chunked)
            return False
        after = self._after[chunked]
        if freed_at < after.closed_at:  # not "or at the same time": uvloop's clock has whole milliseconds
            return False  # it was idle when the last one was closed: both may have ended by the same restart
        after.closings += 1
        after.closed_at = now
        self.suspect = True
        if after.closings != CLOSINGS:
            return False
        after.watch_at = now
        return True

    def kept(self, chunked: bool) -> None:
        """A connection was open SOON after an answer that was `chunked` or not, or served another request after it."""
        self._after[chunked].closings = 0
        self.suspect = any(after.closings for after in self._after.values())

    def freed(self, chunked: bool, now: float, *, watchable: bool) -> Freed:
        """What to do with a connection that a `chunked` (or other) answer has freed.

        `watchable`: it may stay open and be lent to nobody. One that may not leaves the turn to watch to the next.
        """
        after = self._after[chunked]
        if after.closings < CLOSINGS:
            return Freed.KEEP
        if now < after.watch_at or not watchable:
            return Freed.CLOSE
        after.watch_at = now + WATCH_EVERY
        return Freed.WATCH
