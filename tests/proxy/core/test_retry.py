"""The retry rule of both engines (RFC 9110 9.2.2), and its budget."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.retry import IDEMPOTENT, Next, RetryLimits, after

FAILURE: dict[str, Any] = {
    "sent": True, "heard": False, "stale": False, "replayable": True, "idempotent": True, "asked": 1, "elapsed": 1.0,
    "limits": RetryLimits(attempts=3, seconds=30.0),
}  # fmt: skip


def test_an_idempotent_request_that_got_no_byte_back_goes_to_another_endpoint():
    assert after(**FAILURE) is Next.OTHER_ENDPOINT


@pytest.mark.parametrize(
    "known, following",
    [
        ({"idempotent": False}, Next.GIVE_UP),
        ({"idempotent": False, "sent": False}, Next.OTHER_ENDPOINT),
        ({"heard": True}, Next.GIVE_UP),
        ({"replayable": False}, Next.GIVE_UP),
        ({"replayable": False, "sent": False}, Next.GIVE_UP),
        ({"stale": True}, Next.SAME_ENDPOINT),
        ({"stale": True, "idempotent": False}, Next.GIVE_UP),
        ({"asked": 2}, Next.OTHER_ENDPOINT),
        ({"asked": 3}, Next.GIVE_UP),
        ({"asked": 3, "stale": True}, Next.SAME_ENDPOINT),  # nobody was asked once more
        ({"elapsed": 29.9}, Next.OTHER_ENDPOINT),
        ({"elapsed": 30.0}, Next.GIVE_UP),
        ({"elapsed": 30.0, "stale": True}, Next.GIVE_UP),
        ({"elapsed": 9999.0, "limits": RetryLimits(3, 0)}, Next.OTHER_ENDPOINT),
        ({"asked": 9999, "limits": RetryLimits(0, 30.0)}, Next.OTHER_ENDPOINT),
        ({"limits": RetryLimits(1, 30.0)}, Next.GIVE_UP),
    ],
)
def test_b19_what_follows(known, following):
    assert after(**{**FAILURE, **known}) is following


@given(
    sent=st.booleans(),
    heard=st.booleans(),
    stale=st.booleans(),
    replayable=st.booleans(),
    idempotent=st.booleans(),
    asked=st.integers(1, 5),
    elapsed=st.floats(0, 60),
)
def test_what_may_have_been_acted_on_is_never_sent_again(**known):
    following = after(**known, limits=RetryLimits(3, 30.0))
    if following is not Next.GIVE_UP:
        assert known["replayable"] and not known["heard"] and (known["idempotent"] or not known["sent"])


def test_the_idempotent_methods_are_those_of_the_rfc():
    assert set(IDEMPOTENT) == {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}
