"""The table: what each event does in each phase."""

from __future__ import annotations

import pytest

from proxy.core.errors import ERRORS
from proxy.olla import phases
from proxy.olla.phases import (
    ARRIVING,
    CONNECTING,
    DRAINING,
    HEARD,
    OVER,
    PHASE_NAMES,
    QUEUED,
    RETRYING,
    SENT,
    STREAMING,
    TO_CLOSE,
    Action,
    Event,
    ImpossibleEvent,
    step,
)

UNANSWERED = (ARRIVING, RETRYING, QUEUED, CONNECTING, SENT, HEARD)
ANSWERED = (STREAMING, TO_CLOSE, DRAINING)
LATE, CLOSED = "upstream_timeout", "upstream_closed"
BODY = "in the middle of the body"

ROWS = [
    (Event.DEADLINE, (QUEUED,), Action.REFUSE, "pool_timeout", ""),
    (Event.DEADLINE, (CONNECTING,), Action.RETRY, LATE, "no connection"),
    (Event.DEADLINE, (SENT,), Action.RETRY, LATE, "no response head"),
    (Event.DEADLINE, (HEARD,), Action.RETRY, LATE, "no whole response head"),
    (Event.DEADLINE, (STREAMING, TO_CLOSE), Action.CUT, LATE, f"silent {BODY}"),
    (Event.CAPPED, (ARRIVING,), Action.REFUSE, "request_timeout", "max_duration"),
    (Event.CAPPED, UNANSWERED[1:], Action.REFUSE, LATE, "max_duration"),
    (Event.CAPPED, ANSWERED, Action.ABORT, LATE, "max_duration"),
    (Event.CONNECT_FAILED, (CONNECTING,), Action.RETRY, "upstream_unreachable", ""),
    (Event.UPSTREAM_CLOSED, (SENT,), Action.RETRY, CLOSED, "FIN"),
    (Event.UPSTREAM_CLOSED, (HEARD,), Action.RETRY, CLOSED, "FIN in the head"),
    (Event.UPSTREAM_CLOSED, (STREAMING,), Action.CUT, CLOSED, BODY),
    (Event.UPSTREAM_CLOSED, (TO_CLOSE,), Action.FINISH, "", ""),
    (Event.UPSTREAM_RESET, (SENT,), Action.RETRY, CLOSED, "reset"),
    (Event.UPSTREAM_RESET, (HEARD,), Action.RETRY, CLOSED, "reset in the head"),
    (Event.UPSTREAM_RESET, (STREAMING, TO_CLOSE), Action.CUT, CLOSED, BODY),
    (Event.UPSTREAM_INVALID, (HEARD,), Action.RETRY, "upstream_invalid", ""),
    (Event.UPSTREAM_INVALID, (STREAMING,), Action.CUT, "upstream_invalid", ""),
    (Event.CLIENT_GONE, UNANSWERED + ANSWERED, Action.LEAVE, "", ""),
    (Event.CLIENT_FAILED, UNANSWERED, Action.REFUSE, "", ""),
    (Event.CLIENT_FAILED, ANSWERED, Action.ABORT, "", ""),
    (Event.CLIENT_CUT, UNANSWERED + ANSWERED, Action.ABORT, "", ""),
]
EXPECTED = {(event, phase): rest for event, phases, *rest in ROWS for phase in phases}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("phase", range(10), ids=PHASE_NAMES)
def test_each_event_in_each_phase(event, phase):
    if (event, phase) in EXPECTED:
        assert list(step(event, phase)) == EXPECTED[event, phase]
    else:
        with pytest.raises(ImpossibleEvent, match=f"{event.name} while {PHASE_NAMES[phase]}"):
            step(event, phase)


@pytest.mark.parametrize("event", Event)
def test_what_is_over_hears_of_nothing(event):
    with pytest.raises(ImpossibleEvent):
        step(event, OVER)


def test_an_answer_that_began_is_never_retried_nor_answered_again():
    for steps in phases.TABLE.values():
        for phase, (action, _, _) in steps.items():
            assert action not in (Action.RETRY, Action.REFUSE) or phase < STREAMING
            assert action not in (Action.CUT, Action.FINISH) or phase >= STREAMING


def test_b2_the_cap_ends_every_phase_and_never_by_a_retry():
    assert set(phases.TABLE[Event.CAPPED]) == set(UNANSWERED + ANSWERED)
    assert {action for action, _, _ in phases.TABLE[Event.CAPPED].values()} == {Action.REFUSE, Action.ABORT}


def test_every_error_is_one_of_the_table_of_errors():
    assert all(not s.code or s.code in ERRORS for steps in phases.TABLE.values() for s in steps.values())


def test_the_phases_are_in_the_order_in_which_they_are_passed():
    assert OVER < ARRIVING < RETRYING < QUEUED < CONNECTING < SENT < HEARD < STREAMING < TO_CLOSE < DRAINING
    assert len(PHASE_NAMES) == DRAINING + 1
    assert (PHASE_NAMES[OVER], PHASE_NAMES[HEARD], PHASE_NAMES[DRAINING]) == ("over", "heard", "draining")
