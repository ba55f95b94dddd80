"""Heads of answers that say more than the endpoint's."""

from __future__ import annotations

import pytest

from proxy.http1.heads import CHUNKED, UNTIL_CLOSE, Limits
from proxy.http1.recall import RequestReader, ResponseReader
from proxy.olla.answer import make_answer

OWN = b"X-Olla-Request-ID: 1\r\n"


def traits(version: str = "1.1", *fields: str):
    head = "\r\n".join([f"GET / HTTP/{version}", "Host: h", *fields, "", ""]).encode()
    return RequestReader(Limits(0, 0, 0, 0), b"192.0.2.1", b"via", False).read(head).traits


def response(*fields: str, status: str = "200 OK"):
    return ResponseReader().read("\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode(), False)


def test_a_connection_that_stays_open_says_nothing_in_http_1_1():
    answer = make_answer(response("Content-Length: 2", "X: y"), traits(), OWN, may_stay_open=True)
    assert answer == (b"HTTP/1.1 200 OK\r\n" + OWN + b"Content-Length: 2\r\nX: y\r\n\r\n", 2, False, True)


@pytest.mark.parametrize(
    "request_, fields, may_stay_open",
    [
        (("1.1", "Connection: close"), ("Content-Length: 2",), True),
        (("1.0",), ("Content-Length: 2",), True),
        (("1.1",), ("Content-Length: 2",), False),
        (("1.1",), (), True),
    ],
    ids=["asked to", "1.0", "stopping or not whole", "ends by close"],
)
def test_one_that_does_not_says_so(request_, fields, may_stay_open):
    answer = make_answer(response(*fields), traits(*request_), OWN, may_stay_open)
    assert answer.head.startswith(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + OWN)
    assert (answer.keep_alive, answer.decoded) == (False, False)
    assert answer.length == (2 if fields else UNTIL_CLOSE)


def test_http_1_0_is_told_that_it_stays_open():
    answer = make_answer(response("Content-Length: 2"), traits("1.0", "Connection: keep-alive"), OWN, True)
    assert answer.head.startswith(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n" + OWN)
    assert answer.keep_alive


def test_http_1_0_knows_no_chunks():
    chunked = response("Transfer-Encoding: chunked")
    answer = make_answer(chunked, traits("1.0", "Connection: keep-alive"), OWN, True)
    assert answer == (b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + OWN + b"\r\n", UNTIL_CLOSE, True, False)
    assert make_answer(chunked, traits(), OWN, True).length == CHUNKED
