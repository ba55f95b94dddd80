"""The phases of an exchange, and what each event does in each of them. Pure: names and one table.

    ARRIVING -> QUEUED -> CONNECTING -> SENT -> HEARD -> STREAMING | TO_CLOSE -> DRAINING -> (over)
                  ^           |           |       |
                  +-- RETRYING <----------+-------+

A try on an endpoint may skip QUEUED and CONNECTING (an idle connection is at hand), an answer that came in one read
HEARD and STREAMING, one that the client took at once DRAINING.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

# Integers in this order: `phase < STREAMING` is "the client got nothing yet", once for each read of an answer.
(
    OVER,  # in the pool, without a request
    ARRIVING,  # the head parsed, the body is being gathered; no endpoint was chosen
    RETRYING,  # a try failed; the next one begins in the loop's next pass
    QUEUED,  # waits for a place among the endpoint's connections
    CONNECTING,  # a connection is being opened
    SENT,  # the request is written, as much of it as is here; not a byte came back
    HEARD,  # some of the response's head, or an interim response, came
    STREAMING,  # the head is passed on, the body comes
    TO_CLOSE,  # so does one that ends where the endpoint's connection ends
    DRAINING,  # the answer is whole, and some of it waits in our memory until the client takes it
) = range(10)
PHASE_NAMES = (
    "over", "arriving", "retrying", "queued", "connecting", "sent", "heard", "streaming", "to-close", "draining",
)  # fmt: skip


class Event(Enum):
    """What can happen to an exchange from outside. (Bytes of the response are read below STREAMING, else forwarded.)"""

    DEADLINE = auto()  # the phase took as long as it may
    CAPPED = auto()  # the whole exchange did (`max_duration`)
    CONNECT_FAILED = auto()
    UPSTREAM_CLOSED = auto()  # by FIN
    UPSTREAM_RESET = auto()
    UPSTREAM_INVALID = auto()  # its bytes are not HTTP
    CLIENT_GONE = auto()
    CLIENT_FAILED = auto()  # its body is late, too long or broken
    CLIENT_CUT = auto()  # it does not take its answer, or the grace of a stop is over


class Action(Enum):
    """What an event does. `Exchange` has one method for each."""

    RETRY = auto()  # the attempt failed: the retry rule says what follows
    CUT = auto()  # the attempt failed, and a started answer cannot be ended: abort the client
    FINISH = auto()  # the answer is whole
    REFUSE = auto()  # the attempt, if there is one, is withdrawn; the client reads an error
    ABORT = auto()  # the attempt, if there is one, is withdrawn; the client is aborted
    LEAVE = auto()  # the attempt, if there is one, is withdrawn; nobody is left to tell


class Step(NamedTuple):
    """One cell of the table: what to do, and the error it is done with unless the event brings its own."""

    action: Action
    code: str = ""
    detail: str = ""


_RETRY, _CUT, _FINISH, _REFUSE, _ABORT, _LEAVE = map(Step, Action)
_LATE = "upstream_timeout"
_CLOSED, _INVALID = "upstream_closed", "upstream_invalid"
_BODY = "in the middle of the body"
_CAP = "max_duration"

_OPEN = (ARRIVING, RETRYING, QUEUED, CONNECTING, SENT, HEARD)  # the client got nothing yet
_ANSWERED = (STREAMING, TO_CLOSE, DRAINING)


# A pair that is not here cannot happen; that it does is a fault of ours, and `step` raises.
TABLE: dict[Event, dict[int, Step]] = {
    Event.DEADLINE: {
        QUEUED: Step(Action.REFUSE, "pool_timeout"),
        CONNECTING: Step(Action.RETRY, _LATE, "no connection"),
        SENT: Step(Action.RETRY, _LATE, "no response head"),
        HEARD: Step(Action.RETRY, _LATE, "no whole response head"),
        STREAMING: Step(Action.CUT, _LATE, f"silent {_BODY}"),
        TO_CLOSE: Step(Action.CUT, _LATE, f"silent {_BODY}"),
    },
    Event.CAPPED: {
        ARRIVING: Step(Action.REFUSE, "request_timeout", _CAP),
        **dict.fromkeys((RETRYING, QUEUED, CONNECTING, SENT, HEARD), Step(Action.REFUSE, _LATE, _CAP)),
        **dict.fromkeys(_ANSWERED, Step(Action.ABORT, _LATE, _CAP)),
    },
    Event.CONNECT_FAILED: {CONNECTING: Step(Action.RETRY, "upstream_unreachable")},
    Event.UPSTREAM_CLOSED: {
        SENT: Step(Action.RETRY, _CLOSED, "FIN"),
        HEARD: Step(Action.RETRY, _CLOSED, "FIN in the head"),
        STREAMING: Step(Action.CUT, _CLOSED, _BODY),
        TO_CLOSE: _FINISH,
    },
    Event.UPSTREAM_RESET: {
        SENT: Step(Action.RETRY, _CLOSED, "reset"),
        HEARD: Step(Action.RETRY, _CLOSED, "reset in the head"),
        **dict.fromkeys((STREAMING, TO_CLOSE), Step(Action.CUT, _CLOSED, _BODY)),
    },
    Event.UPSTREAM_INVALID: {HEARD: Step(Action.RETRY, _INVALID), STREAMING: Step(Action.CUT, _INVALID)},
    Event.CLIENT_GONE: dict.fromkeys(_OPEN + _ANSWERED, _LEAVE),
    Event.CLIENT_FAILED: {**dict.fromkeys(_OPEN, _REFUSE), **dict.fromkeys(_ANSWERED, _ABORT)},
    Event.CLIENT_CUT: dict.fromkeys(_OPEN + _ANSWERED, _ABORT),
}


class ImpossibleEvent(Exception):
    """An event that cannot happen in this phase: a callback came to an exchange that it does not concern."""


def step(event: Event, phase: int) -> Step:
    """What `event` does in `phase`. Raises ImpossibleEvent."""
    found = TABLE[event].get(phase)
    if found is None:
        raise ImpossibleEvent(f"{event.name} while {PHASE_NAMES[phase]}")
    return found
