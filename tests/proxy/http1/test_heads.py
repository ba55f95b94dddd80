"""Which heads are valid, what they say, and why others are refused."""

from __future__ import annotations

import pytest

from proxy.core.errors import ProxyError
from proxy.http1 import heads
from proxy.http1.heads import Limits, judge_request, judge_response, nominated, passed_through
from tests.proxy.http1.cases import (
    ACCEPTED,
    ACCEPTED_RESPONSES,
    LIMITS,
    REFUSED,
    REFUSED_RESPONSES,
    answer,
    head,
)


def limits(head: int = 65536, fields: int = 100, target: int = 8192, field: int = 16384) -> Limits:
    return Limits(head, fields, target, field)


def refusal(data: bytes, **changes: int) -> str:
    """What the log says of a refused head: the code of the answer and the reason."""
    with pytest.raises(ProxyError) as caught:
        judge_request(data, limits(**changes))
    return str(caught.value)


# -- requests


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_a_request_head_says(case: str) -> None:
    data, said = ACCEPTED[case]
    judged = judge_request(data.lstrip(b"\r\n"), LIMITS)
    assert (judged.method, judged.target, judged.authority, judged.length, judged.keep_alive) == said


@pytest.mark.parametrize("case", REFUSED)
def test_refused_heads(case: str) -> None:
    data, expected = REFUSED[case]
    said = refusal(data)
    if ": " in expected:
        assert said == expected
    else:
        # llhttp calls some broken codings a bad request before our own check names them: refused either way.
        assert said.partition(": ")[0] in {expected, "bad_request" if expected == "not_implemented" else expected}


def test_limits_have_their_own_errors_and_are_exact() -> None:
    assert refusal(head(line=f"GET /{'a' * 100} HTTP/1.1"), target=100) == "target_too_long"
    assert judge_request(head(line=f"GET /{'a' * 100} HTTP/1.1"), limits(target=101))
    large = head("A: " + "b" * 200)
    assert refusal(large, head=len(large) - 1) == "headers_too_large: all fields"
    assert judge_request(large, limits(head=len(large)))
    assert refusal(head(*[f"A{i}: 1" for i in range(10)]), fields=10) == "headers_too_large: number of fields"
    assert judge_request(head(*[f"A{i}: 1" for i in range(10)]), limits(fields=11))
    for lines in (["A: " + "b" * 98, "Host: a"], ["Host: a", "A: " + "b" * 98]):
        assert refusal(head(*lines, host=None), field=100) == "headers_too_large: one field"
    assert judge_request(head("A: " + "b" * 97), limits(field=100))
    assert judge_request(head("A: " + "b" * 90000), limits(head=0, fields=0, target=0, field=0))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", "bad_request: a bare LF"),
        (b"a" * (LIMITS.target + 65), "target_too_long"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 66000, "headers_too_large: all fields"),
    ],
)
def test_a_partial_head_that_cannot_become_valid_is_refused_early(data: bytes, said: str) -> None:
    with pytest.raises(ProxyError) as caught:
        heads.check_partial_head(data, LIMITS)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"GET / HTTP/1.1\r",
        b"GET / HTTP/1.1\r\nHost: a\r\nB",
        b"a" * (LIMITS.target + 64),
        b"\r\n" + b"a" * (LIMITS.target + 65),  # the empty line before a request is not its target
    ],
)
def test_a_partial_head_is_waited_for(data: bytes) -> None:
    heads.check_partial_head(data, LIMITS)


def test_fields_are_found_by_name_in_any_case_and_by_prefix() -> None:
    finder = heads._field_finder({"via", "content-length"}, "x-olla-")
    head_ = (
        b"GET / HTTP/1.1\r\nVIA:  a \r\nX-Via: b\r\nvia-c: d\r\ncontent-Length:\t1\r\nX-Olla-Any: e\r\nVia|f: g\r\n\r\n"
    )
    found = [(match[1], match[2]) for match in finder.finditer(head_)]
    assert found == [(b"VIA", b"a "), (b"content-Length", b"1"), (b"X-Olla-Any", b"e")]
    assert heads._field_finder({"via"}).search(b"\r\n: a\r\nx-olla-b: c\r\n") is None


def test_fields_that_connection_names_are_nominated_but_never_framing_and_routing() -> None:
    options = judge_request(head("Connection: x-a, Close", "Connection: ,HOST, via ,X-B"), LIMITS).nominated
    assert options == nominated([b"x-a", b"x-b"]) == {b"x-a", b"x-b"}
    for name in (
        "host",
        "content-length",
        "transfer-encoding",
        "via",
        "x-request-id",
        "x-forwarded-for",
        "forwarded",
        "upgrade",
    ):
        assert nominated([name.encode()]) == frozenset()


def test_where_host_stands_is_told() -> None:
    data = head("A: 1", host="me:8080")
    assert judge_request(data, LIMITS).fields.host_at == data.index(b"me:8080")
    assert judge_request(head(line="GET / HTTP/1.0", host=None), LIMITS).fields.host_at == 0


def test_only_blanks_and_tabs_behind_a_value_are_not_part_of_it() -> None:
    fields = [
        f"{name}: aX \t" for name in ("Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Expect")
    ]
    found = judge_request(head(*fields, host="mX \t"), LIMITS).fields
    assert (found.hosts, found.via, found.forwarded_for) == ([b"mX"], [b"aX"], [b"aX"])
    assert (found.forwarded_host, found.forwarded_proto, found.expect) == (b"aX", b"aX", b"ax")
    nothing = judge_request(head(), LIMITS).fields
    assert (nothing.forwarded_host, nothing.forwarded_proto, nothing.expect) == (b"", b"", b"")


def test_a_request_that_passed_here_before_is_a_loop() -> None:
    assert passed_through([b"1.0 a", b"1.1 other, 1.1 me (comment)"], b"me")
    assert not passed_through([b"1.1 me2, 1.1 not-me, me"], b"me")
    assert not passed_through([], b"me")


# -- responses


@pytest.mark.parametrize("case", ACCEPTED_RESPONSES)
def test_what_a_response_head_says(case: str) -> None:
    data, said = ACCEPTED_RESPONSES[case]
    judged = judge_response(data, to_head=False)
    assert (judged.status, judged.length, judged.keep_alive) == said


def test_a_response_to_head_has_no_body() -> None:
    for data in (answer("Content-Length: 9"), answer("Transfer-Encoding: chunked"), answer()):
        assert judge_response(data, to_head=True).length == 0


@pytest.mark.parametrize("data", REFUSED_RESPONSES)
def test_responses_that_are_not_http_are_refused(data: bytes) -> None:
    with pytest.raises(ProxyError) as caught:
        judge_response(data, to_head=False)
    assert caught.value.kind.status == 502


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage\r\n\r\n", "status line"),
        (answer("Upgrade: w", "Connection: upgrade", line="HTTP/1.1 101 S"), "an upgrade nobody asked for"),
        (answer(line="HTTP/1.1 101 S"), "an upgrade nobody asked for"),
        (answer("Content-Length: 1", "Content-Length: 1"), "Duplicate Content-Length"),
        (answer("Transfer-Encoding: gzip"), "transfer coding"),
        (answer("Content-Length: " + "9" * 19), "Content-Length"),
        (answer("A : 1"), "Invalid header token"),
    ],
)
def test_the_log_says_what_was_wrong_with_a_response(data: bytes, reason: str) -> None:
    with pytest.raises(ProxyError) as caught:
        judge_response(data, to_head=False)
    assert str(caught.value) == f"upstream_invalid: {reason}"
