"""Copying fields in one pass gives what core/headers.py says one rule after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core import headers as rules
from proxy.sherpa import heads

NAMES = sorted(
    rules.HOP_BY_HOP
    | rules.RESTATED
    | rules.CREDENTIALS
    | rules.OWN_RESPONSE_NAMES
    | {"content-length", "x-a", "x-b", "x-olla-endpoint", "x-ollama", "accept", "trailers", "set-cookie"}
)


def in_some_case(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name.title(), name.upper()])


FIELDS = st.lists(
    st.tuples(
        st.sampled_from(NAMES).flatmap(in_some_case),
        st.one_of(
            st.sampled_from(["", "close", "x-a", "X-B, Via", "host, x-a,close", "1.1 p"]), st.sampled_from(NAMES)
        ),
    ),
    max_size=12,
)


@given(FIELDS, st.booleans())
def test_requests(fields, strip):
    given = {"authority": "e:1", "peer": "10.0.0.1", "via": "me", "request_id": "id", "strip_credentials": strip}
    assert heads.request_headers(fields, **given) == rules.request_headers(fields, **given)


@given(FIELDS)
def test_responses(fields):
    given = {"request_id": "id", "endpoint": "e"}
    assert heads.response_headers(fields, **given) == rules.response_headers(fields, **given)
