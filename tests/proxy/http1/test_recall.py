"""What an endpoint and a client are sent of a head, and which heads are recognised."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.errors import ProxyError
from proxy.http1 import recall
from proxy.http1.heads import CHUNKED, UNTIL_CLOSE, Limits
from proxy.http1.recall import Request, RequestReader, Response, ResponseReader, Traits
from tests.proxy.http1.cases import REFUSED, answer, head


def reader(**changes: Any) -> RequestReader:
    limits = Limits(
        head=changes.pop("head", 65536),
        fields=changes.pop("fields", 100),
        target=changes.pop("target", 8192),
        field=changes.pop("field", 16384),
    )
    return RequestReader(limits, peer=b"10.1.2.3", via=b"olla-abc", strip_credentials=changes.pop("strip", False))


def read(*fields: str, **kwargs: Any) -> Request:
    return reader().read(head(*fields, **kwargs))


def upstream_fields(request: Request) -> list[str]:
    return (request.kept + request.traits.suffix).decode("latin-1").split("\r\n")[1:]


# -- requests: what is forwarded


def test_fields_are_forwarded_as_they_came_and_ours_follow() -> None:
    request = read("user-AGENT: x", "Accept:  a ,b", "Accept: c", "Content-Length: 12", "X-B:")
    assert upstream_fields(request) == [
        "user-AGENT: x",
        "Accept:  a ,b",
        "Accept: c",
        "Content-Length: 12",
        "X-B:",
        "X-Forwarded-For: 10.1.2.3",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: me:8080",
        "Via: 1.1 olla-abc",
        "X-Request-ID: ",
    ]
    assert (request.traits.method, request.target, request.length) == (b"POST ", b"/v1/chat", 12)
    assert request.request_id is None


@pytest.mark.parametrize(
    "name",
    [
        "Connection",
        "keep-alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "Proxy-Connection",
        "TE",
        "Trailer",
        "UPGRADE",
    ],
)
def test_hop_by_hop_fields_stay_here(name: str) -> None:
    request = read("A: 1", f"{name}: x-other", "B: 2")
    assert upstream_fields(request)[:2] == ["A: 1", "B: 2"]


def test_a_field_called_trailers_is_an_ordinary_one() -> None:
    assert "Trailers: yes" in upstream_fields(read("Trailers: yes"))


def test_fields_that_connection_names_are_dropped_but_never_host_or_framing() -> None:
    request = read(
        "X-Secret: a:1",
        "Connection: x-secret, Content-Length,host , via",
        "x-secret: 2",
        "Content-Length: 3",
        "X-C: 3",
    )
    assert upstream_fields(request)[:3] == ["Content-Length: 3", "X-C: 3", "X-Forwarded-For: 10.1.2.3"]
    assert request.length == 3


def test_forwarded_fields_are_appended_to() -> None:
    request = read(
        "X-Forwarded-For: 1.1.1.1",
        "X-Forwarded-For: 2.2.2.2",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: front",
        "Via: 1.0 a, 1.1 b",
    )
    assert upstream_fields(request) == [
        "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.1.2.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: front",
        "Via: 1.0 a, 1.1 b, 1.1 olla-abc",
        "X-Request-ID: ",
    ]


def test_blanks_at_the_end_of_a_value_are_not_part_of_it() -> None:
    request = read(
        "Connection:  close , x-a\t",
        "Connection: x-b",
        "X-A: 1",
        "X-B: 2",
        "Via: 1.0 a \t",
        "Via: 1.1 b \t",
        "X-Forwarded-For: 1.1.1.1\t",
        "X-Forwarded-Proto: https ",
        "X-Forwarded-Host: front \t",
        "Expect: 100-continue \t",
        "X-Request-ID: id-1",
        "Content-Length: " + "9" * 18 + " \t",
        host="me \t",
    )
    assert upstream_fields(request) == [
        "X-Request-ID: id-1",
        "Content-Length: " + "9" * 18 + " \t",
        "X-Forwarded-For: 1.1.1.1, 10.1.2.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: front",
        "Via: 1.0 a, 1.1 b, 1.1 olla-abc",
    ]
    traits = request.traits
    assert (traits.keep_alive, traits.expects_continue, traits.authority) == (False, True, b"me")
    assert (request.length, request.request_id) == (10**18 - 1, b"id-1")
    assert not read("A: 1").traits.expects_continue


def test_a_request_that_passed_here_before_is_a_loop() -> None:
    assert read("Via: 1.1 other, 1.1 olla-abc").traits.looped
    assert read("Via: 1.1 olla-abc (comment)").traits.looped
    assert not read("Via: 1.1 olla-abcd").traits.looped
    assert not read().traits.looped


@pytest.mark.parametrize(
    ("value", "kept"), [("abc-123", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("", False)]
)
def test_a_sane_request_id_is_kept_and_any_other_replaced(value: str, kept: bool) -> None:
    request = read(f"X-Request-ID: {value}")
    assert request.request_id == (value.encode() if kept else None)
    assert sum("request-id" in field.lower() for field in upstream_fields(request)) == 1


def test_of_two_request_ids_the_first_is_kept() -> None:
    request = read("X-Request-ID: one", "X-Request-ID: two")
    assert request.request_id == b"one"
    assert "X-Request-ID: two" not in upstream_fields(request)


def test_connection_cannot_make_us_drop_the_request_id() -> None:
    assert "X-Request-ID: one" in upstream_fields(read("X-Request-ID: one", "Connection: x-request-id"))


def test_credentials_pass_unless_they_are_to_be_stripped() -> None:
    data = head("Authorization: Bearer s", "X-Api-Key: k", "Cookie: c=1", "X-D: 1")
    assert upstream_fields(reader().read(data))[:4] == [
        "Authorization: Bearer s",
        "X-Api-Key: k",
        "Cookie: c=1",
        "X-D: 1",
    ]
    assert upstream_fields(reader(strip=True).read(data))[0] == "X-D: 1"


def test_expect_is_answered_here_and_only_for_http_1_1() -> None:
    request = read("Expect: 100-Continue", "Content-Length: 5")
    assert request.traits.expects_continue
    assert not any(field.startswith("Expect") for field in upstream_fields(request))
    assert not read("Expect: 100-continue", line="POST / HTTP/1.0").traits.expects_continue


@pytest.mark.parametrize(
    ("line", "tokens", "keep"),
    [
        ("GET / HTTP/1.1", "", True),
        ("GET / HTTP/1.1", "Connection: close", False),
        ("GET / HTTP/1.1", "Connection: x, CLOSE", False),
        ("GET / HTTP/1.0", "", False),
        ("GET / HTTP/1.0", "Connection: Keep-Alive", True),
        ("GET / HTTP/1.0", "Connection: keep-alive, close", False),
    ],
)
def test_keep_alive_follows_version_and_connection(line: str, tokens: str, keep: bool) -> None:
    request = read(*([tokens] if tokens else []), line=line)
    assert request.traits.keep_alive is keep
    assert request.traits.plain is (keep and line.endswith("1.1"))
    assert request.traits.http10 is line.endswith("1.0")


@pytest.mark.parametrize(
    ("method", "idempotent"),
    [("GET", True), ("HEAD", True), ("PUT", True), ("DELETE", True), ("POST", False), ("PATCH", False)],
)
def test_which_methods_may_be_sent_twice(method: str, idempotent: bool) -> None:
    request = read(line=f"{method} / HTTP/1.1")
    assert request.traits.idempotent is idempotent
    assert request.traits.is_head is (method == "HEAD")


def test_target_forms() -> None:
    assert read(line="GET /a?b=%20&c=/../d HTTP/1.1").target == b"/a?b=%20&c=/../d"
    assert read(line="OPTIONS * HTTP/1.1").target == b"*"
    absolute = read(line="GET http://other:99/x?y HTTP/1.1")
    assert (absolute.target, absolute.traits.authority) == (b"/x?y", b"other:99")
    assert "X-Forwarded-Host: other:99" in upstream_fields(absolute)
    assert read(line="GET HTTP://other HTTP/1.1").target == b"/"
    assert read(line="GET http://other?q HTTP/1.1").target == b"/?q"


def test_all_fields_but_host_are_told_as_text_with_the_request_id() -> None:
    made = read("Accept: a:b ", "X-Name: \t\u00a0X\t".encode().decode("latin-1"), host="me").text_fields("id-1")
    assert made == [
        ("Accept", "a:b"),
        ("X-Name", "\u00a0X"),  # only blanks and tabs around a value are none of it
        ("X-Forwarded-For", "10.1.2.3"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "me"),
        ("Via", "1.1 olla-abc"),
        ("X-Request-ID", "id-1"),
    ]
    kept = read("X-Request-ID: theirs", "Accept: a").text_fields("id-1")
    assert kept[:2] == [("X-Request-ID", "theirs"), ("Accept", "a")]
    assert kept[-1] == ("Via", "1.1 olla-abc")


def test_fields_that_are_no_utf_8_cannot_be_told_as_text() -> None:
    with pytest.raises(ProxyError) as refused:
        read("X-A: \xe9").text_fields("id-1")
    assert (refused.value.kind.code, refused.value.detail) == ("bad_request", "a field holds bytes that are not UTF-8")


def test_requests_of_one_connection_share_what_they_have_in_common() -> None:
    requests = reader()
    first, second = (requests.read(head(f"A: {'a' * size}")) for size in (1, 2))
    assert first.traits is second.traits
    other = requests.read(head("A: 1", line="GET / HTTP/1.1"))
    assert (other.traits.method, first.traits.method) == (b"GET ", b"POST ")


def test_a_chunked_upload_is_framed_anew() -> None:
    request = read("Transfer-Encoding: Chunked", "A: 1")
    assert request.length == CHUNKED
    assert upstream_fields(request)[:2] == ["A: 1", "Transfer-Encoding: chunked"]


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_head_is_refused_on_a_connection_with_a_past_too(case: str) -> None:
    data, _ = REFUSED[case]
    used = reader()
    used.read(head("A: 1", "Content-Length: 1"))
    with pytest.raises(ProxyError):
        used.read(data)


def test_a_head_like_the_last_one_is_held_to_the_same_limits() -> None:
    requests = reader(head=400, field=200)
    requests.read(head("A: 1", "B: 1"))
    for lines in (["A: " + "b" * 300, "B: 1"], ["A: " + "b" * 190, "B: " + "b" * 190]):
        with pytest.raises(ProxyError):
            requests.read(head(*lines))


# -- kinds

FIELD_LINES = st.sampled_from(
    [
        "Content-Length: {}",
        "X-Request-ID: req-{}",
        "X-Trace: {}-{}",
        "Traceparent: 00-{}-01",
        "Accept: */*",
        "Connection: keep-alive",
        "X-Forwarded-For: 9.{}.1.1",
        "Authorization: Bearer {}",
        "Connection: x-{}",
        "X-{}: a",
        "Expect: {}-continue",
        "X-Request-ID: {}",
        "Via: 1.{} x",
        "Transfer-Encoding: chunked",
    ]
)


# Of three bytes but for a few: those make heads of one size, of which each teaches, or must not be recalled.
FILLERS = [
    "100",
    "101",
    "abc",
    "cde",
    "b-c",
    "x y",
    "a\x01c",
    "1\r2",
    "1\n2",
    "\x80bc",
    "+12",
    "1_0",
    "",
    "7",
    "9" * 20,
]


@st.composite
def request_variants(draw: st.DrawFn) -> list[bytes]:
    """Heads that differ in words, in how long those are, in signs between them, and sometimes not at all."""
    lines = ["{} /v{}/x HTTP/1.{}", "Host: h{}:80{}", *draw(st.lists(FIELD_LINES, max_size=6, unique=True))]
    few = st.sampled_from(FILLERS)  # so that heads of one kind are common
    method = draw(st.sampled_from(["POST", "GET"]))

    def one() -> bytes:
        first = lines[0].format(method, draw(st.integers(0, 99)), draw(st.sampled_from([1, 1, 1, 0])))
        rest = [re.sub(r"\{\}", lambda _: draw(few), line) for line in lines[1:]]
        return "\r\n".join([first, *rest]).encode() + b"\r\n\r\n"

    return [one() for _ in range(draw(st.integers(2, 8)))]


def next_request(requests: RequestReader, data: bytes) -> Request:
    """As a connection asks: what it knows first, then the judge."""
    request, rest = requests.recall(data + b"next") or (requests.read(data), b"next")
    assert rest == b"next"
    return request


def outcome(requests: RequestReader, data: bytes) -> object:
    try:
        request = next_request(requests, data)
    except ProxyError as error:
        return error.kind.code
    values = {name: getattr(request, name) for name in Request.__slots__ if name != "traits"}
    return values | {name: getattr(request.traits, name) for name in Traits.__slots__}


@given(request_variants())
@settings(max_examples=400, deadline=None)
def test_a_connection_with_a_past_reads_every_head_as_a_fresh_one_does(heads: list[bytes]) -> None:
    used = reader()
    for data in heads:
        assert outcome(used, data) == outcome(reader(), data)


def test_an_equal_head_is_read_once() -> None:
    requests = reader()
    data = head("Content-Length: 7")
    assert requests.recall(data) is None
    request = requests.read(data)
    assert requests.recall(data + b"body") == (request, b"body")
    assert requests.recall(data[:-1]) is None


def test_an_equal_response_head_is_read_once_unless_it_answers_a_head_request() -> None:
    responses = ResponseReader()
    head = answer("Content-Length: 9")
    read = responses.read(head, False)
    assert responses.recall(head + b"the body.", False) == (read, b"the body.")
    assert responses.recall(head[:-1], False) is None
    assert responses.recall(head, True) is None


def test_a_head_that_differs_where_two_differed_before_is_recalled() -> None:
    def one(path: str, length: int, request_id: str, trace: str) -> bytes:
        fields = (f"Content-Length: {length}", f"X-Request-ID: {request_id}", f"Traceparent: 00-{trace}-01")
        return head(*fields, line=f"POST /api/{path} HTTP/1.1")

    requests = reader()
    for variant in (one("show", 17, "a-1", "0af7651916"), one("pull", 18, "b-2", "b7ad6b7169")):
        assert requests.recall(variant) is None
        requests.read(variant)
    last = one("chat", 23, "c-3", "00f067aa0b")
    recalled = requests.recall(last + b"body")
    assert recalled is not None
    request, rest = recalled
    assert (request.target, request.length, request.request_id, rest) == (b"/api/chat", 23, b"c-3", b"body")
    assert b"\r\nTraceparent: 00-00f067aa0b-01" in request.kept
    assert request.size == len(last)


@pytest.mark.parametrize(
    ("fields", "line", "host"),
    [
        (["Content-Length: 17"], "POST /v1/chat HTTP/1.1", "me:8081"),
        (["Content-Length: 17"], "POST /v1/chat HTTP/1.0", "me:8080"),
        (["Content-Length: 17"], "PUTT /v1/chat HTTP/1.1", "me:8080"),
        (["Content-Length: 17"], "GOST /v1/chat HTTP/1.1", "me:8080"),
        (["Content-Length: 1a"], "POST /v1/chat HTTP/1.1", "me:8080"),
        (["Content-Length: +1"], "POST /v1/chat HTTP/1.1", "me:8080"),
        (["Content-Langth: 17"], "POST /v1/chat HTTP/1.1", "me:8080"),
        (["Content-Length: 17"], "POST /v1\x00chat HTTP/1.1", "me:8080"),
    ],
)
def test_what_judging_looks_at_is_never_free(fields: list[str], line: str, host: str) -> None:
    requests = reader()
    for path in ("/v1/chat", "/v2/show"):
        for length in (17, 18):
            requests.read(head(f"Content-Length: {length}", line=f"POST {path} HTTP/1.1"))
    assert requests.recall(head("Content-Length: 23", line="POST /v7/abcd HTTP/1.1")) is not None
    assert requests.recall(head(*fields, line=line, host=host)) is None


@pytest.mark.parametrize("value", ["b\r9", "b\n9", "b\x009", "b 9", "b\x809", "\r\n:"])
def test_a_free_word_is_letters_and_digits(value: str) -> None:
    responses = ResponseReader()
    for word in ("a01", "a02", "b03"):
        responses.read(answer("Content-Length: 17", f"X-Id: {word}"), False)
    assert responses.recall(answer("Content-Length: 17", "X-Id: c9z"), False) is not None
    assert responses.recall(answer("Content-Length: 17", f"X-Id: {value}"), False) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Connection: close", "Connection: abcde"),
        ("Expect: 100-continue", "Expect: 200-continue"),
        ("Via: 1.1 olla-abc", "Via: 1.1 olla-abd"),
        ("X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.9"),
        ("X-Forwarded-Host: front1", "X-Forwarded-Host: front2"),
        ("X-Forwarded-Proto: https", "X-Forwarded-Proto: httpx"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunkee"),
    ],
)
def test_a_field_that_decides_something_of_a_request_is_never_free(one: str, other: str) -> None:
    requests = reader()
    for turn, field in enumerate([one, other, one, other, one]):
        # What differs beside it is free, and must not make it so: a target before it, a long name behind it.
        data = head(field, f"X-Identifier-Of-A-Trace: {turn}", line=f"POST /v1/{turn} HTTP/1.1")
        assert outcome(requests, data) == outcome(reader(), data)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Connection: close", "Connection: abcde"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunkee"),
        ("X-Olla-Endpoint: a", "X-Olla-Endpoint: b"),
    ],
)
def test_a_field_that_decides_something_of_a_response_is_never_free(one: str, other: str) -> None:
    responses = ResponseReader()
    for turn, field in enumerate([one, other, one, other, one]):
        data = answer(f"X-Before: {turn}", field, f"X-Identifier-Of-A-Trace: {turn}")
        assert response_outcome(responses, data, False) == response_outcome(ResponseReader(), data, False)


def test_a_colon_in_the_target_makes_no_field_of_the_request_line() -> None:
    requests = reader()
    for version in "10101":
        data = head(line=f"GET /a:b HTTP/1.{version}")
        assert outcome(requests, data) == outcome(reader(), data)


def test_all_words_of_a_value_with_colons_are_free() -> None:
    responses = ResponseReader()
    for date in ("Mon, 23 Nov 2026 23:59:59 GMT", "Tue, 24 Nov 2026 00:00:00 GMT"):
        responses.read(answer(f"Date: {date}"), False)
    assert responses.recall(answer("Date: Wed, 25 Nov 2026 12:34:56 GMT"), False) is not None


def test_a_word_that_never_differed_is_not_free() -> None:
    responses = ResponseReader()
    for word in ("a01", "b02", "c03"):
        responses.read(answer("Content-Length: 17", f"X-Id: {word}", "X-Other: abc"), False)
    assert responses.recall(answer("Content-Length: 17", "X-Id: d04", "X-Other: abc"), False) is not None
    assert responses.recall(answer("Content-Length: 18", "X-Id: d04", "X-Other: abc"), False) is None
    assert responses.recall(answer("Content-Length: 17", "X-Id: d04", "X-Other: abd"), False) is None


@pytest.mark.parametrize(("words", "one_kind"), [(recall.WORDS, True), (recall.WORDS + 1, False)])
def test_heads_that_differ_in_too_many_words_are_kinds_of_their_own(words: int, one_kind: bool) -> None:
    responses = ResponseReader()
    first, second, third = (answer("X-Ids: " + " ".join([letter] * words)) for letter in "abc")
    responses.read(first, False)
    responses.read(second, False)
    assert responses.recall(first, False) is not None
    assert responses.recall(second, False) is not None
    assert (responses.recall(third, False) is not None) is one_kind


def test_a_target_with_the_servers_name_is_sent_without_it_each_time() -> None:
    requests = reader()
    for path in ("a1", "b2", "c3", "d4"):
        request = next_request(requests, head(line=f"GET http://other/{path} HTTP/1.1"))
        assert (request.target, request.traits.authority) == (f"/{path}".encode(), b"other")


@pytest.mark.parametrize("secret", ["X-Secret: {}", "x-secret: a:{}"])
def test_a_field_that_connection_names_is_dropped_each_time(secret: str) -> None:
    requests, responses = reader(), ResponseReader()
    for turn in range(4):
        lines = ("Connection: x-secret", secret.format(turn), "A: 1")
        assert next_request(requests, head(*lines)).kept == b"\r\nA: 1"
        data = answer(*lines)
        response, _ = responses.recall(data, False) or (responses.read(data, False), b"")
        assert response.fields == b"A: 1\r\n\r\n"


def test_heads_of_one_size_with_fields_elsewhere_are_other_kinds() -> None:
    responses = ResponseReader()
    for number in (17, 18, 29, 30):
        lines = [f"X-Identifier: {number}{number}", f"Content-Length: {number}", f"A: {number}"]
        for order in (lines, lines[::-1], [lines[1], lines[2], lines[0]]):
            data = answer(*order)
            assert response_outcome(responses, data, False) == response_outcome(ResponseReader(), data, False)
    assert responses.recall(answer("X-Identifier: 7654", "Content-Length: 32", "A: 10"), False) is not None


# -- responses


def test_a_response_is_forwarded_without_hop_by_hop_and_forged_fields() -> None:
    response = ResponseReader().read(
        answer(
            "Server: x",
            "Connection: keep-alive, X-Named",
            "Keep-Alive: timeout=5",
            "X-Named: 1",
            "X-Olla-Endpoint: forged",
            "x-olla-Any: 1",
            "X-Served-By: forged",
            "Set-Cookie: a",
            "Set-Cookie: b",
            "Content-Length: 3",
            "Trailer: z",
            "Upgrade: h2c",
        ),
        False,
    )
    assert response.fields == b"Server: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n\r\n"
    assert (response.line, response.status, response.length, response.keep_alive) == (
        b"HTTP/1.1 200 OK\r\n",
        200,
        3,
        True,
    )


def test_framing_of_responses() -> None:
    reads = ResponseReader()
    chunked = reads.read(answer("Transfer-Encoding: chunked"), False)
    assert (chunked.length, chunked.line) == (CHUNKED, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
    assert reads.read(answer(), False).length == UNTIL_CLOSE
    assert reads.read(answer("Content-Length: 0"), False).length == 0
    for line in ("HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified"):
        assert reads.read(answer(line=line), False).length == 0
    to_head = reads.read(answer("Content-Length: 9"), True)
    assert (to_head.length, to_head.fields) == (0, b"Content-Length: 9\r\n\r\n")
    assert reads.read(answer("Transfer-Encoding: chunked"), True).length == 0
    assert reads.read(answer("Content-Length: 9"), False).length == 9
    old = reads.read(answer("Content-Length: 9", line="HTTP/1.0 200 OK"), False)
    assert (old.line, old.keep_alive) == (b"HTTP/1.1 200 OK\r\n", False)
    assert reads.read(answer("Connection: close"), False).keep_alive is False
    assert reads.read(answer("Content-Length: 9", "Connection: keep-alive", line="HTTP/1.0 200 OK"), False).keep_alive
    assert reads.read(b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\n", False).line == b"HTTP/1.1 200 \r\n"


def test_framing_that_a_response_may_not_have_is_not_repeated() -> None:
    coded = answer("Transfer-Encoding: chunked", line="HTTP/1.1 204 No Content")
    for data, to_head in ((coded, False), (answer("Transfer-Encoding: chunked"), True)):
        response = ResponseReader().read(data, to_head)
        assert (response.length, b"\r\n" in response.line[:-2]) == (0, False)


def test_blanks_around_framing_and_connection_mean_nothing() -> None:
    blank = ResponseReader().read(answer("Connection:  x ,\tclose\t", "Connection: y", "X: 1", "Y: 1"), False)
    assert (blank.keep_alive, blank.fields) == (False, b"\r\n")
    assert ResponseReader().read(answer("Transfer-Encoding: chunked \t"), False).length == CHUNKED
    assert ResponseReader().read(answer("Content-Length: 5 \t"), False).length == 5
    assert ResponseReader().read(answer("Content-Length: " + "9" * 18), False).length == 10**18 - 1


ORIGINS = ("http://model:8080", "http://model")


@pytest.mark.parametrize("line", ["HTTP/1.1 201 Created", "HTTP/1.1 302 Found"])
def test_a_redirect_to_the_endpoint_leads_back_to_the_proxy_each_time(line: str) -> None:
    responses = ResponseReader(ORIGINS)
    for job in (b"job1", b"job2", b"j\xe9b3", b"job4"):
        data = answer("A: 1", "location:  HTTP://model:8080/" + job.decode("latin-1"), "B: 1", line=line)
        assert responses.recall(data, False) is None
        assert responses.read(data, False).fields == b"A: 1\r\nlocation:  /" + job + b"\r\nB: 1\r\n\r\n"


def test_a_redirect_elsewhere_and_a_location_that_means_nothing_stay_as_they_are() -> None:
    for line, location in (("HTTP/1.1 302 Found", "http://other/a"), ("HTTP/1.1 200 OK", "http://model/a")):
        response = ResponseReader(ORIGINS).read(answer(f"Location: {location}", line=line), False)
        assert response.fields == f"Location: {location}\r\n\r\n".encode()
    found = answer("Location: http://model/a", line="HTTP/1.1 302 Found")
    assert ResponseReader().read(found, False).fields == b"Location: http://model/a\r\n\r\n"


INTERIM = answer("Link: </a>", line="HTTP/1.1 103 Early Hints")
FINAL = answer("Content-Length: 9")


@pytest.mark.parametrize("to_head", [False, True])
@pytest.mark.parametrize("interim", range(3))
def test_the_final_head_is_read_behind_interim_ones(interim: int, to_head: bool) -> None:
    before = INTERIM * interim
    response, start = ResponseReader().read_final(before + FINAL + b"body\r\n\r\n", to_head, 0, 0)
    assert response is not None
    assert (response.status, response.length, response.size) == (200, 0 if to_head else 9, len(FINAL))
    assert start == len(before)


@pytest.mark.parametrize("data", [FINAL[:-1], INTERIM + FINAL[:-1], INTERIM + INTERIM, INTERIM])
def test_of_a_final_head_that_is_not_whole_the_start_is_told(data: bytes) -> None:
    assert ResponseReader().read_final(data, False, 0, 0) == (None, len(INTERIM) * data.count(INTERIM))


@pytest.mark.parametrize("heads", [FINAL, INTERIM + FINAL, FINAL[:-1], INTERIM + FINAL[:-1]])
@pytest.mark.parametrize("before", [0, 7])
def test_all_heads_of_one_response_have_one_limit_and_the_body_does_not_count(heads: bytes, before: int) -> None:
    size = before + len(heads)
    data = heads + b"body" * 100 if heads.endswith(FINAL) else heads
    ResponseReader().read_final(data, False, size, before)
    with pytest.raises(ProxyError) as refused:
        ResponseReader().read_final(data, False, size - 1, before)
    assert (refused.value.kind.code, refused.value.detail) == ("upstream_invalid", "its heads are too large")


def test_the_smallest_limit_of_heads_is_a_limit() -> None:
    with pytest.raises(ProxyError):
        ResponseReader().read_final(FINAL, False, 1, 0)


def test_interim_responses_are_told_apart() -> None:
    assert not ResponseReader().read(answer("Content-Length: 0"), False).interim
    assert ResponseReader().read(answer(line="HTTP/1.1 100 Continue"), False).interim
    assert ResponseReader().read(answer(line="HTTP/1.1 103 Early Hints"), False).interim


RESPONSE_LINES = st.sampled_from(
    [
        "Content-Length: {}",
        "Date: Mon, 23 Nov 2026 {}:{}:{} GMT",
        "X-Ns: {}",
        "Connection: close",
        "Connection: x-{}",
        "X-{}: a",
        "X-Olla-{}: forged",
        "Transfer-Encoding: chunked",
    ]
)


@st.composite
def response_variants(draw: st.DrawFn) -> list[tuple[bytes, bool]]:
    lines = draw(st.lists(RESPONSE_LINES, max_size=6, unique=True))

    def one() -> tuple[bytes, bool]:
        version, status = (
            draw(st.sampled_from([1, 1, 1, 0])),
            draw(st.sampled_from([200, 200, 201, 204, 304, 103, 500])),
        )
        filler = st.sampled_from(FILLERS)
        rest = [re.sub(r"\{\}", lambda _: draw(filler), line) for line in lines]
        return answer(*rest, line=f"HTTP/1.{version} {status} Fine"), draw(st.sampled_from([False, False, True]))

    return [one() for _ in range(draw(st.integers(2, 8)))]


def response_outcome(responses: ResponseReader, data: bytes, to_head: bool) -> object:
    try:
        response, rest = responses.recall(data + b"body", to_head) or (responses.read(data, to_head), b"body")
    except ProxyError as error:
        return error.kind.code
    assert rest == b"body"
    return [getattr(response, name) for name in Response.__slots__]


@given(response_variants())
@settings(max_examples=400, deadline=None)
def test_an_upstream_with_a_past_is_read_as_a_fresh_one(heads: list[tuple[bytes, bool]]) -> None:
    used = ResponseReader()
    for data, to_head in heads:
        assert response_outcome(used, data, to_head) == response_outcome(ResponseReader(), data, to_head)


# -- what both readers remember


class Requests:
    def __init__(self) -> None:
        self._reader = reader()

    def read(self, *fields: str) -> Request:
        return self._reader.read(head(*fields))

    def recall(self, *fields: str) -> Request | None:
        recalled = self._reader.recall(head(*fields) + b"body")
        return None if recalled is None else recalled[0]


class Responses:
    def __init__(self) -> None:
        self._reader = ResponseReader()

    def read(self, *fields: str) -> Response:
        return self._reader.read(answer(*fields), False)

    def recall(self, *fields: str) -> Response | None:
        recalled = self._reader.recall(answer(*fields) + b"body", False)
        return None if recalled is None else recalled[0]


def plainly(message: Request | Response | None) -> dict[str, object]:
    assert message is not None
    made = {name: getattr(message, name) for name in type(message).__slots__ if name != "traits"}
    if isinstance(message, Request):
        made |= {name: getattr(message.traits, name) for name in Traits.__slots__}
    return made


either = pytest.mark.parametrize("past", [Requests, Responses])
HOP = "Keep-Alive: timeout=5"


@either
@pytest.mark.parametrize(
    "lines",
    [
        ["A: {}"],
        ["Content-Length: {}", "A: {}"],
        ["A: {}", HOP, "B: {}", "Content-Length: {} "],
        ["Content-Length: {}", HOP, "X-Request-ID: a-{}"],
    ],
)
def test_a_recalled_head_is_what_the_judge_makes_of_it(past: Any, lines: list[str]) -> None:
    known = past()
    known.read(*(line.format(17) for line in lines))
    known.read(*(line.format(18) for line in lines))
    third = [line.format(23) for line in lines]
    assert plainly(known.recall(*third)) == plainly(past().read(*third))


def test_what_a_response_to_head_taught_holds_for_responses_to_head_only() -> None:
    responses = ResponseReader()
    data = answer("Content-Length: 9")
    responses.read(data, True)
    assert responses.recall(data, False) is None
    assert responses.read(data, False).length == 9
    for to_head, length in ((True, 0), (False, 9)):
        recalled = responses.recall(data, to_head)
        assert recalled is not None and recalled[0].length == length


def test_a_recalled_304_has_no_body_whatever_length_it_names() -> None:
    responses = ResponseReader()
    line = "HTTP/1.1 304 Not Modified"
    responses.read(answer("Content-Length: 17", line=line), False)
    recalled = responses.recall(answer("Content-Length: 17", line=line), False)
    assert recalled is not None and recalled[0].length == 0
    assert responses.read(answer("Content-Length: 1234", line=line), False).length == 0


@either
def test_heads_that_resemble_none_are_remembered_no_more_but_now_and_then(past: Any) -> None:
    def remembered(n: int) -> bool:
        known = past()
        for i in range(1, n + 1):
            known.read(f"X-{'a' * i}: 1")
        return known.recall(f"X-{'a' * n}: 1") is not None

    assert [remembered(n) for n in range(1, recall.MISSES + 3)] == [True] * recall.MISSES + [False] * 2
    later = [n for n in range(recall.MISSES + 3, 2 * recall.PATIENCE + 1) if remembered(n)]
    assert later == [recall.PATIENCE, 2 * recall.PATIENCE]


@either
@pytest.mark.parametrize("digit", [2, 3], ids=["equal", "of a kind"])
def test_a_recalled_head_starts_the_count_of_misses_again(past: Any, digit: int) -> None:
    known = past()
    for turn in range(2):
        names = [f"X-{turn}{'a' * i}" for i in range(recall.MISSES - 1)]
        for name in names:
            known.read(f"{name}: 1")
        known.read(f"{names[-1]}: 2")
        assert known.recall(f"{names[-1]}: {digit}") is not None


def test_an_interim_response_leaves_the_memory_as_it_is() -> None:
    responses = ResponseReader()
    responses.read(answer("Content-Length: 9"), False)
    responses.read(answer(line="HTTP/1.1 103 Early Hints"), False)
    assert responses.recall(answer("Content-Length: 9"), False) is not None


def kinds_named(*numbers: int) -> list[str]:
    """Fields of which each makes a kind of its own, by size."""
    return [f"X-Kind-{'a' * number}: 1" for number in numbers]


@either
def test_several_kinds_are_remembered_and_the_one_learnt_first_goes(past: Any) -> None:
    known = past()
    kinds = kinds_named(*range(recall.KINDS + 1))
    for field in kinds:
        known.read(field)
    assert [known.recall(field) is not None for field in kinds] == [False] + [True] * recall.KINDS


@either
@pytest.mark.parametrize("digit", [1, 3], ids=["equal", "of a kind"])
def test_the_kind_that_was_seen_last_stays_longest(past: Any, digit: int) -> None:
    known = past()
    first, *others = kinds_named(*range(2 * recall.KINDS - 1))
    name = first.removesuffix("1")
    for field in (f"{name}2", first, *others[: recall.KINDS - 1]):
        known.read(field)
    assert known.recall(f"{name}{digit}") is not None
    for field in others[recall.KINDS - 1 :]:
        known.read(field)
    assert known.recall(first) is not None
    assert [known.recall(field) is not None for field in others] == [False] * (recall.KINDS - 1) + [True] * (
        recall.KINDS - 1
    )


@either
def test_heads_of_one_kind_take_one_place(past: Any) -> None:
    known = past()
    first, second, *others = kinds_named(*range(recall.KINDS))
    known.read(first)
    for digit in "234":
        known.read(second.removesuffix("1") + digit)
    for field in others:
        known.read(field)
    assert known.recall(first) is not None
