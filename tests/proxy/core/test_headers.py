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


def request(pairs, **kwargs):
    asked = next(iter(values(pairs, "host")), "")
    given_ = {"nominated": named(pairs), "asked": asked, "authority": "up:1", "peer": "10.0.0.9", "via": "me"} | kwargs
    return headers.request_headers(pairs, **given_, request_id="id-1")


def response(pairs):
    return headers.response_headers(pairs, nominated=named(pairs), request_id="id-1", endpoint="gpu-1")


def values(pairs, name):
    return [v for n, v in pairs if n.lower() == name.lower()]


def without(pairs, names):
    return [(n, v) for n, v in pairs if n.lower() not in names]


def ordinary(pairs):
    """The seed's `sanitizeHeaders`: hop-by-hop fields go, and those that `Connection` names."""
    return without(pairs, headers.HOP_BY_HOP | named(pairs))


@given(fields, st.booleans())
@example([("Connection", "X-A"), ("x-a", "1"), ("Accept", "a")], False)
def test_one_pass_over_a_request_gives_what_the_rules_say_one_after_the_other(pairs, strip):
    left = ordinary(pairs)
    kept = without(left, headers.RESTATED | (headers.CREDENTIALS if strip else frozenset()))
    host = (values(left, "x-forwarded-host") + values(left, "host") + [""])[0]
    assert request(pairs, strip_credentials=strip) == [
        ("Host", "up:1"),
        *kept,
        ("X-Forwarded-For", ", ".join([*values(left, "x-forwarded-for"), "10.0.0.9"])),
        ("X-Forwarded-Proto", [*values(left, "x-forwarded-proto"), "http"][0]),
        ("X-Forwarded-Host", host),
        ("Via", ", ".join([*values(left, "via"), "1.1 me"])),
        ("X-Request-ID", "id-1"),
    ]


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
        assert request(pairs)[1:2] == response(pairs)[3:] == [("Accept", "y")]


def test_a_field_really_called_trailers_is_an_ordinary_one():
    pairs = [("Trailers", "x"), ("Trailer", "y")]
    assert response(pairs)[3:] == [("Trailers", "x")]
    assert values(request(pairs), "trailers") == ["x"] and not values(request(pairs), "trailer")


def test_connection_can_never_strip_host_framing_or_via():
    pairs = [("Connection", "Host, Content-Length, Via, X-A"), ("Content-Length", "3"), ("Via", "1.1 b"), ("X-A", "")]
    assert response(pairs)[3:] == [("Content-Length", "3"), ("Via", "1.1 b")]
    sent = request([("Host", "h"), *pairs])
    assert sent[1] == ("Content-Length", "3")
    assert values(sent, "via") == ["1.1 b, 1.1 me"] and values(sent, "x-forwarded-host") == ["h"]


def test_the_proxy_states_who_asked_and_by_which_way():
    sent = request([("Host", "api.example"), ("Accept", "*/*")])
    assert sent == [
        ("Host", "up:1"),
        ("Accept", "*/*"),
        ("X-Forwarded-For", "10.0.0.9"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "api.example"),
        ("Via", "1.1 me"),
        ("X-Request-ID", "id-1"),
    ]


def test_what_earlier_proxies_said_is_appended_to_in_one_field():
    sent = request(
        [
            ("Host", "mine"),
            ("X-Forwarded-For", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2, 3.3.3.3"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "first"),
            ("Via", "1.1 a"),
            ("via", "1.0 b"),
        ]
    )
    assert values(sent, "x-forwarded-for") == ["1.1.1.1, 2.2.2.2, 3.3.3.3, 10.0.0.9"]
    assert values(sent, "x-forwarded-proto") == ["https"]
    assert values(sent, "x-forwarded-host") == ["first"]
    assert values(sent, "via") == ["1.1 a, 1.0 b, 1.1 me"]


def test_nothing_is_invented():
    names = {name.lower() for name, _ in request([("Host", "h")])}
    assert not names & {"user-agent", "accept", "accept-encoding", "content-type", "expect"}


def test_what_the_proxy_states_itself_is_never_passed_on_twice():
    pairs = [("Host", "h"), ("Expect", "100-continue"), ("X-Request-ID", "theirs"), ("Accept", "a")]
    sent = request(pairs)
    assert values(sent, "x-request-id") == ["id-1"]
    assert values(sent, "expect") == []
    assert values(sent, "accept") == ["a"]


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X-Api-Key"])
def test_each_credential_is_stripped_on_request_and_only_then(name):
    assert values(request([("Host", "h"), (name, "secret")]), name) == ["secret"]
    assert values(request([("Host", "h"), (name, "secret")], strip_credentials=True), name) == []


def test_credentials_pass_unless_they_are_to_be_stripped():
    pairs = [("Host", "h"), ("Authorization", "Bearer x"), ("X-API-Key", "k"), ("Cookie", "c=1"), ("X-Other", "o")]
    assert {"Authorization", "X-API-Key", "Cookie"} <= {n for n, _ in request(pairs)}
    stripped = {n.lower() for n, _ in request(pairs, strip_credentials=True)}
    assert not stripped & headers.CREDENTIALS
    assert "x-other" in stripped


@given(fields)
def test_an_upstream_is_always_sent_exactly_one_host_its_own(pairs):
    assert values(request(pairs), "host") == ["up:1"]


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
