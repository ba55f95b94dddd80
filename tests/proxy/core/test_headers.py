"""Which header fields cross the proxy. Fields are pairs; order, case and repeats matter."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core import headers
from proxy.http1.heads import nominated, options_of

NAMES = sorted(
    headers.HOP_BY_HOP
    | headers.RESTATED
    | headers.CREDENTIALS
    | headers.OWN_RESPONSE_NAMES
    | {"content-length", "x-a", "x-b", "x-olla-endpoint", "x-ollama", "accept", "trailers", "set-cookie"}
)
fields = st.lists(
    st.tuples(
        st.sampled_from(NAMES).flatmap(lambda name: st.sampled_from([name, name.title(), name.upper()])),
        st.sampled_from(["", "close", "x-a", "X-B, Via", "host, x-a,close", "1.1 p", *NAMES]),
    ),
    max_size=12,
)


def named(pairs):
    """What the codec says that `Connection` names."""
    options = [option for value in values(pairs, "connection") for option in options_of(value.encode())]
    return {name.decode() for name in nominated(options)}


def response(pairs):
    return headers.response_headers(pairs, nominated=named(pairs), request_id="id-1", endpoint="gpu-1")


def values(pairs, name):
    return [v for n, v in pairs if n.lower() == name.lower()]


def without(pairs, names):
    return [(n, v) for n, v in pairs if n.lower() not in names]


def ordinary(pairs):
    """The seed's `sanitizeHeaders`: hop-by-hop fields go, and those that `Connection` names."""
    return without(pairs, headers.HOP_BY_HOP | named(pairs))


@given(fields)
@example([("Connection", "X-A"), ("x-a", "1"), ("Accept", "a")])
def test_one_pass_over_a_response_gives_what_the_rules_say_one_after_the_other(pairs):
    kept = [(n, v) for n, v in without(ordinary(pairs), {"x-served-by"}) if not n.lower().startswith("x-olla-")]
    ours = [("X-Olla-Request-ID", "id-1"), ("X-Olla-Endpoint", "gpu-1"), ("X-Served-By", "gpu-1")]
    assert response(pairs) == [*ours, *kept]


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer",
        "Transfer-Encoding", "Upgrade",
    ],
)  # fmt: skip
def test_each_hop_by_hop_field_is_dropped_in_any_case(name):
    for spelling in (name, name.lower(), name.upper()):
        pairs = [(spelling, "x"), ("Accept", "y")]
        assert response(pairs)[3:] == [("Accept", "y")]


def test_a_field_really_called_trailers_is_an_ordinary_one():
    pairs = [("Trailers", "x"), ("Trailer", "y")]
    assert response(pairs)[3:] == [("Trailers", "x")]


def test_connection_can_never_strip_host_framing_or_via():
    pairs = [("Connection", "Host, Content-Length, Via, X-A"), ("Content-Length", "3"), ("Via", "1.1 b"), ("X-A", "")]
    assert response(pairs)[3:] == [("Content-Length", "3"), ("Via", "1.1 b")]


def test_a_response_carries_ours_and_never_the_upstreams_own_claims():
    pairs = [
        ("Content-Type", "text/plain"),
        ("X-Olla-Endpoint", "forged"),
        ("x-olla-anything", "forged"),
        ("X-Served-By", "forged"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
    ]
    assert response(pairs) == [
        ("X-Olla-Request-ID", "id-1"),
        ("X-Olla-Endpoint", "gpu-1"),
        ("X-Served-By", "gpu-1"),
        ("Content-Type", "text/plain"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]
