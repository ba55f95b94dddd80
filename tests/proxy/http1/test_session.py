"""Which session a request belongs to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import ProxyConfig
from proxy.http1.heads import Limits
from proxy.http1.recall import RequestReader
from proxy.http1.session import session_reader

LIMITS = Limits(64 * 1024, 100, 8 * 1024, 16 * 1024)
HASHING = ProxyConfig(load_balancer="consistent-hash")


def reader():
    return RequestReader(LIMITS, b"127.0.0.1", b"me", strip_credentials=False)


def head(*fields):
    return "\r\n".join(["GET / HTTP/1.1", "Host: h", *fields, "", ""]).encode()


def session(*fields, config=HASHING):
    return session_reader(config)(reader().read(head(*fields)))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ((), b""),
        (("X-Session-ID: 7",), b"7"),
        (("A: b", "x-SESSION-id: \t7 8\t ", "C: d"), b"7 8"),
        (("X-Session-ID: first", "X-Session-ID: second"), b"first"),
        (("X-Session-ID:", "X-Session-ID: second"), b""),
        (("X-Session-ID-Too: 7", "Other-X-Session-ID: 8", "A: X-Session-ID: 9"), b""),
        (("Connection: x-session-id", "X-Session-ID: 7"), b""),
    ],
)
def test_the_session_is_the_first_value_of_the_field(fields, wanted):
    assert session(*fields) == wanted


def test_a_name_is_taken_as_it_stands_and_in_any_case():
    config = ProxyConfig(load_balancer="consistent-hash", hash_header="X.Id")
    assert session("x.id: 1", config=config) == b"1"
    assert session("x-id: 1", config=config) == b""


@pytest.mark.parametrize("balancer", ["least-connections", "priority", "round-robin"])
def test_other_balancers_look_nothing_up(balancer):
    assert session_reader(ProxyConfig(load_balancer=balancer)) is None


@given(st.lists(st.integers(0, 999), min_size=2, max_size=20))
def test_a_remembered_head_gives_each_request_its_own_session(numbers):
    session_of = session_reader(HASHING)
    requests = reader()
    for number in numbers:
        data = head(f"X-Session-ID: {number:03}")
        request, _ = requests.recall(data) or (requests.read(data), b"")
        assert session_of(request) == b"%03d" % number
