"""When a try that failed is repeated, and where: one rule for both engines. Pure.

RFC 9110 9.2.2: a request that was never sent may go anywhere. One that was sent, and got no byte back, may have been
acted on: it is repeated only if acting twice does no harm. After a byte of the answer nothing is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 9.2.2


class Next(Enum):
    """What follows a try that failed."""

    SAME_ENDPOINT = auto()  # once more, on a fresh connection
    OTHER_ENDPOINT = auto()
    GIVE_UP = auto()


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How much one request may cost its endpoints; 0 is no limit.

    `attempts`: endpoints that it is sent to. `seconds` from its head on: later than that no further try begins. Without
    limits ten endpoints that do not answer would cost ten times `connect_timeout`, and every one of them a request.
    """

    attempts: int
    seconds: float


def after(
    *,
    sent: bool,
    heard: bool,
    stale: bool,
    replayable: bool,
    idempotent: bool,
    asked: int,
    elapsed: float,
    limits: RetryLimits,
) -> Next:
    """What follows a try that failed before the client got a byte.

    `sent`: bytes of the request were written. `heard`: a byte came back. `stale`: a reused connection was closed, which
    says nothing of the endpoint. `replayable`: the whole body can be sent again. `asked`: endpoints that were tried,
    this one included. `elapsed`: seconds since the request's head.
    """
    if heard or not replayable or (sent and not idempotent):
        return Next.GIVE_UP
    if limits.seconds and elapsed >= limits.seconds:
        return Next.GIVE_UP
    if stale:
        return Next.SAME_ENDPOINT
    if limits.attempts and asked >= limits.attempts:
        return Next.GIVE_UP
    return Next.OTHER_ENDPOINT
