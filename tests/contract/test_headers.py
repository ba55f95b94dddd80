"""Which fields cross the proxy, in both directions, and which it adds (RFC 9110 sections 7.6 and 17)."""

from __future__ import annotations

import re

import pytest

from tests.contract.peers import Message

HOP_BY_HOP = [
    "Keep-Alive: timeout=5",
    "Proxy-Authenticate: Basic",
    "Proxy-Authorization: Basic QQ==",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: X-T",
]


def forwarded(start, endpoint, *fields, target="/", version="1.1", **settings) -> Message:
    """What the endpoint is sent for a GET with these field lines."""
    proxy = start(endpoint, **settings)
    with proxy.client() as client:
        client.get(target, *fields, version=version)
        peer = endpoint.accept()
        request = peer.request()
        peer.respond()
        assert client.response().status == 200
    return request


def returned(start, endpoint, *fields, status="200 OK", request=(), **settings) -> Message:
    """What the client is sent for a response with these field lines."""
    proxy = start(endpoint, **settings)
    with proxy.client() as client:
        client.get("/", *request)
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"ok", *fields, status=status)
        return client.response()


@pytest.mark.promise("HDR-HOP")
@pytest.mark.parametrize("line", [*HOP_BY_HOP, "Upgrade: foo"])
def test_hop_by_hop_fields_of_a_request_are_not_forwarded(start, endpoint, line):
    name = line.split(":")[0]
    request = forwarded(start, endpoint, line, "X-After: kept")
    assert request.all(name) == []
    assert request.get("X-After") == "kept"


@pytest.mark.promise("HDR-HOP")
@pytest.mark.parametrize("line", [*HOP_BY_HOP, "Upgrade: h2c", "Connection: X-Whatever"])
def test_hop_by_hop_fields_of_a_response_are_not_forwarded(start, endpoint, line):
    name = line.split(":")[0]
    answer = returned(start, endpoint, line, "X-After: kept")
    assert answer.all(name) in ([], ["close"], ["keep-alive"])
    assert answer.get("X-After") == "kept"


@pytest.mark.promise("HDR-HOP")
def test_connection_is_not_forwarded_and_the_client_s_close_is_its_own(start, endpoint):
    request = forwarded(start, endpoint, "Connection: close")
    assert request.all("Connection") == []


@pytest.mark.promise("HDR-NOMINATED")
@pytest.mark.parametrize("nominate", ["X-Hop", "x-hop", "close, X-Hop", " X-HOP ,keep-alive", "X-Other, ,x-hop,"])
def test_fields_that_connection_names_are_dropped_from_requests(start, endpoint, nominate):
    request = forwarded(start, endpoint, "X-Hop: 1", f"Connection: {nominate}", "X-Hop: 2", "X-End: 3")
    assert request.all("X-Hop") == []
    assert request.get("X-End") == "3"


@pytest.mark.promise("HDR-NOMINATED")
def test_fields_that_connection_names_are_dropped_from_responses(start, endpoint):
    answer = returned(start, endpoint, "X-Hop: 1", "Connection: x-hop", "X-End: 3")
    assert answer.all("X-Hop") == []
    assert answer.get("X-End") == "3"


@pytest.mark.promise("HDR-NOMINATED")
def test_several_connection_fields_nominate_together(start, endpoint):
    request = forwarded(start, endpoint, "Connection: X-A", "X-A: 1", "X-B: 2", "Connection: X-B")
    assert request.all("X-A") == request.all("X-B") == []


@pytest.mark.promise("HDR-NEVER-NOMINATED")
@pytest.mark.parametrize("name", ["Host", "Via"])
def test_connection_cannot_strip_host_and_via(start, endpoint, name):
    request = forwarded(start, endpoint, f"Connection: {name}")
    assert request.get("Host") == f"127.0.0.1:{endpoint.port}"
    assert request.get("Via") is not None


@pytest.mark.promise("HDR-NEVER-NOMINATED")
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded"])
def test_connection_cannot_strip_the_trail_of_an_outer_proxy(start, endpoint, name):
    request = forwarded(start, endpoint, f"{name}: outer", f"Connection: {name}")
    assert request.get(name).startswith("outer")


@pytest.mark.promise("HDR-NEVER-NOMINATED")
@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_connection_cannot_strip_the_framing_of_a_request(start, endpoint, name):
    proxy = start(endpoint)
    framing = "Content-Length: 5" if name == "Content-Length" else "Transfer-Encoding: chunked"
    body = b"hello" if name == "Content-Length" else b"5\r\nhello\r\n0\r\n\r\n"
    with proxy.client() as client:
        client.send(f"POST / HTTP/1.1\r\nHost: h\r\nConnection: {name}\r\n{framing}\r\n\r\n".encode() + body)
        peer = endpoint.accept()
        assert peer.request().body == b"hello"
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("HDR-NEVER-NOMINATED")
@pytest.mark.parametrize("name", ["Content-Length", "Transfer-Encoding"])
def test_connection_cannot_strip_the_framing_of_a_response(start, endpoint, name):
    proxy = start(endpoint)
    framing = "Content-Length: 5" if name == "Content-Length" else "Transfer-Encoding: chunked"
    body = b"hello" if name == "Content-Length" else b"5\r\nhello\r\n0\r\n\r\n"
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(f"HTTP/1.1 200 OK\r\nConnection: {name}\r\n{framing}\r\n\r\n".encode() + body)
        assert client.response().body == b"hello"


@pytest.mark.promise("HDR-TRAILERS-IS-ORDINARY")
def test_a_field_that_is_really_called_trailers_is_forwarded(start, endpoint):
    """The seed's list has RFC 2616's misprint; RFC 9110 6.6.2 calls the hop-by-hop field `Trailer`."""
    assert forwarded(start, endpoint, "Trailers: mine").get("Trailers") == "mine"


@pytest.mark.promise("HDR-FORWARDED")
def test_x_forwarded_fields_are_added(start, endpoint):
    request = forwarded(start, endpoint)
    assert request.get("X-Forwarded-For") == "127.0.0.1"
    assert request.get("X-Forwarded-Proto") == "http"
    assert request.get("X-Forwarded-Host") == "proxy.test"


@pytest.mark.promise("HDR-FORWARDED")
def test_x_forwarded_for_is_appended_to_and_the_others_are_kept(start, endpoint):
    request = forwarded(
        start,
        endpoint,
        "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
        "X-Forwarded-For: 10.0.0.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: outside.test",
    )
    assert ", ".join(request.all("X-Forwarded-For")) == "10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1"
    assert request.get("X-Forwarded-Proto") == "https"
    assert request.get("X-Forwarded-Host") == "outside.test"


@pytest.mark.promise("HDR-VIA")
def test_via_is_added_after_those_of_earlier_proxies(start, endpoint):
    """RFC 9110 7.6.3."""
    request = forwarded(start, endpoint, "Via: 1.0 fred, 1.1 p.example.net (Apache/1.1)")
    via = ", ".join(request.all("Via"))
    assert via.startswith("1.0 fred, 1.1 p.example.net (Apache/1.1), 1.1 ")
    assert len(via.split(", ")) == 3


@pytest.mark.promise("HDR-REQUEST-ID")
@pytest.mark.parametrize("given", ["abc-123", "4f6d3e2a-0b1c-4d5e-8f90-1234567890ab", "a" * 128])
def test_a_sane_request_id_is_kept(start, endpoint, given):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/", f"X-Request-ID: {given}")
        peer = endpoint.accept()
        assert peer.request().get("X-Request-ID") == given
        peer.respond()
        assert client.response().get("X-Olla-Request-ID") == given


@pytest.mark.promise("HDR-REQUEST-ID")
@pytest.mark.parametrize("given", [None, "", "a b", 'x","status":200', "a" * 129, "<script>", "a\tb"])
def test_a_request_id_that_is_missing_or_not_sane_is_made(start, endpoint, given):
    proxy = start(endpoint)
    with proxy.client() as client:
        for target in ("/1", "/2"):
            client.get(target, *([f"X-Request-ID: {given}"] if given is not None else []))
        peer = endpoint.accept()
        seen = []
        for _ in range(2):
            seen.append(peer.request().get("X-Request-ID"))
            peer.respond()
            assert client.response().get("X-Olla-Request-ID") == seen[-1]
    assert all(re.fullmatch(r"[A-Za-z0-9._:=+/@-]{8,128}", made) for made in seen)
    assert seen[0] != seen[1] != given


@pytest.mark.promise("HDR-OWN")
def test_the_response_says_who_served_it(start, endpoint):
    answer = returned(start, endpoint)
    assert answer.get("X-Olla-Endpoint") == answer.get("X-Served-By") == "a"
    assert answer.get("X-Olla-Request-ID")


@pytest.mark.promise("HDR-OWN")
def test_an_endpoint_cannot_forge_what_the_proxy_says(start, endpoint):
    answer = returned(
        start,
        endpoint,
        "X-Olla-Endpoint: evil",
        "x-olla-request-id: evil",
        "X-OLLA-Anything: evil",
        "X-Served-By: evil",
        "X-Ollama: fine",
    )
    assert b"evil" not in answer.head
    assert answer.get("X-Ollama") == "fine"
    assert answer.get("X-Olla-Endpoint") == "a"


@pytest.mark.promise("HDR-ORDER")
def test_order_case_and_repeats_of_request_fields_are_kept(start, endpoint):
    lines = ["x-lower: 1", "X-UPPER: 2", "X-Multi: a", "X-Between: -", "X-Multi: b", "x-multi: c, d", "X-Empty:"]
    request = forwarded(start, endpoint, *lines)
    sent = [tuple(part.strip() for part in line.split(":")) for line in lines]
    assert [pair for pair in request.fields if pair in sent] == sent


@pytest.mark.promise("HDR-ORDER")
def test_order_case_and_repeats_of_response_fields_are_kept(start, endpoint):
    lines = ["Set-Cookie: a=1; Path=/", "x-lower: 1", "Set-Cookie: b=2", "SET-COOKIE: c=3, d=4", "Vary: a", "Vary: b"]
    answer = returned(start, endpoint, *lines)
    sent = [tuple(line.split(": ", 1)) for line in lines]
    assert [pair for pair in answer.fields if pair in sent] == sent


@pytest.mark.promise("HDR-CREDENTIALS")
def test_credentials_are_forwarded_by_default(start, endpoint):
    request = forwarded(start, endpoint, "Authorization: Bearer k", "X-Api-Key: k", "Cookie: a=1; b=2")
    assert request.get("Authorization") == "Bearer k"
    assert request.get("X-Api-Key") == "k"
    assert request.get("Cookie") == "a=1; b=2"


@pytest.mark.promise("HDR-CREDENTIALS")
def test_strip_credentials_takes_them_out(start, endpoint):
    request = forwarded(
        start,
        endpoint,
        "Authorization: Bearer k",
        "x-api-key: k",
        "Cookie: a=1",
        "X-Other: k",
        proxy__strip_credentials=True,
    )
    assert request.all("Authorization") == request.all("X-Api-Key") == request.all("Cookie") == []
    assert request.get("X-Other") == "k"


@pytest.mark.promise("HDR-HOST")
def test_host_is_the_endpoint_s_authority(start, endpoint):
    assert forwarded(start, endpoint).get("Host") == f"127.0.0.1:{endpoint.port}"


@pytest.mark.promise("NOTHING-INVENTED")
def test_nothing_is_added_to_a_request_but_what_is_promised(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"POST /v1/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi")
        peer = endpoint.accept()
        request = peer.request()
        peer.respond()
        client.response()
    names = [name.lower() for name, _ in request.fields]
    assert sorted(names) == sorted(
        [
            "host",
            "content-length",
            "via",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
        ]
    )


@pytest.mark.promise("NOTHING-INVENTED")
def test_nothing_is_added_to_a_response_but_what_is_promised(start, endpoint):
    """RFC 9110 6.6.1 lets a recipient with a clock add a missing Date."""
    answer = returned(start, endpoint)
    assert {name.lower() for name, _ in answer.fields} - {"date"} == {
        "content-length",
        "x-olla-request-id",
        "x-olla-endpoint",
        "x-served-by",
    }


@pytest.mark.promise("NOTHING-INVENTED")
def test_fields_that_were_sent_are_not_changed(start, endpoint):
    lines = ["User-Agent: me", "Accept: x/y", "Accept-Encoding: zz", "Content-Type: a/b; c=d", "Accept-Language:  de "]
    request = forwarded(start, endpoint, *lines)
    assert [request.get(name) for name in ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")] == [
        "me",
        "x/y",
        "zz",
        "a/b; c=d",
    ]
    assert request.get("Accept-Language") == "de"


@pytest.mark.promise("NOTHING-INVENTED")
def test_encoded_bodies_pass_untouched(start, endpoint):
    import gzip

    packed = gzip.compress(b"hello" * 100)
    answer_body = {}
    proxy = start(endpoint)
    with proxy.client() as client:
        client.post(packed, "/", "Content-Encoding: gzip")
        peer = endpoint.accept()
        request = peer.request()
        assert (request.body, request.get("Content-Encoding")) == (packed, "gzip")
        peer.respond(packed, "Content-Encoding: gzip")
        answer = client.response()
        answer_body["x"] = answer.body
        assert (answer.body, answer.get("Content-Encoding")) == (packed, "gzip")


@pytest.mark.promise("NOTHING-SHARED")
def test_redirects_are_passed_on(start, endpoint):
    for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
        assert status  # the codes a following client would follow
    answer = returned(start, endpoint, "Location: http://elsewhere.test/", status="302 Found")
    assert (answer.status, answer.get("Location")) == (302, "http://elsewhere.test/")
    assert endpoint.untouched(0.05)


@pytest.mark.promise("HDR-LOCATION")
@pytest.mark.parametrize("status", ["201 Created", "301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("{origin}/v1/models/?a=b#c", "/v1/models/?a=b#c"),
        ("{upper}/a", "/a"),
        ("{origin}", "/"),
        ("{origin}?a", "/?a"),
        ("{origin}//elsewhere.test/", "/.//elsewhere.test/"),
        ("{origin}0/other-port", "{origin}0/other-port"),
        ("{origin}.elsewhere.test/", "{origin}.elsewhere.test/"),
        ("https{rest}/other-scheme", "https{rest}/other-scheme"),
        ("http://elsewhere.test/", "http://elsewhere.test/"),
        ("/relative", "/relative"),
        ("", ""),
    ],
)
def test_a_redirect_does_not_name_the_endpoints_address(start, endpoint, status, location, seen):
    """Servers make it of Host, which is the endpoint's authority; clients may not reach that."""
    urls = {"origin": endpoint.url, "upper": endpoint.url.upper(), "rest": endpoint.url.removeprefix("http")}
    answer = returned(start, endpoint, f"LOCATION: {location.format(**urls)}", "X-After: 1", status=status)
    assert (answer.get("Location"), answer.get("X-After")) == (seen.format(**urls), "1")


@pytest.mark.promise("HDR-LOCATION")
def test_a_location_that_does_not_redirect_stays(start, endpoint):
    answer = returned(start, endpoint, f"Location: {endpoint.url}/a", status="200 OK")
    assert answer.get("Location") == f"{endpoint.url}/a"


@pytest.mark.promise("HDR-LOCATION")
def test_redirects_that_differ_in_digits_only_are_told_apart(start, endpoint):
    """Olla remembers heads but for their digits, and a port is digits."""
    other = endpoint.url[:-1] + str((endpoint.port + 1) % 10)
    proxy = start(endpoint)
    endpoint_says = [f"{other}/1", f"{endpoint.url}/2", f"{other}/3", f"{endpoint.url}/4"]
    with proxy.client() as client:
        peer = None
        seen = []
        for location in endpoint_says:
            client.get()
            peer = peer or endpoint.accept()
            peer.request()
            peer.respond(b"", f"Location: {location}", status="302 Found")
            seen.append(client.response().get("Location"))
    assert seen == [f"{other}/1", "/2", f"{other}/3", "/4"]


@pytest.mark.promise("NOTHING-SHARED")
def test_cookies_of_one_client_do_not_reach_the_next(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as first, proxy.client() as second:
        first.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"ok", "Set-Cookie: session=1; Path=/", "Set-Cookie: other=2")
        assert first.response().all("Set-Cookie") == ["session=1; Path=/", "other=2"]
        for client in (second, first):
            client.get()
            assert peer.request().all("Cookie") == []
            peer.respond()
            client.response()


@pytest.mark.promise("HDR-BYTES")
def test_utf_8_in_a_value_passes_byte_for_byte(start, endpoint):
    """RFC 9110 5.5: obs-text is opaque."""
    value = "grüße, 世界"
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(f"GET / HTTP/1.1\r\nHost: h\r\nX-Text: {value}\r\n\r\n".encode())
        peer = endpoint.accept()
        assert f"X-Text: {value}\r\n".encode() in peer.request().head
        peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Text: {value}\r\n\r\n".encode())
        assert f"X-Text: {value}\r\n".encode() in client.response().head


@pytest.mark.promise("HDR-BYTES")
def test_other_bytes_in_a_value_pass_or_are_refused_but_are_never_cut_out(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\nX-Text: gr\xfc\xdfe\r\n\r\n")
        try:
            peer = endpoint.accept(within=0.3)
        except Exception:
            assert client.response().status == 400
        else:
            assert b"X-Text: gr\xfc\xdfe\r\n" in peer.request().head
            peer.respond()
            assert client.response().status == 200
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept() if endpoint.accepted == 0 else peer
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Text: gr\xfc\xdfe\r\n\r\n")
        answer = client.response()
        assert answer.status == 502 or b"X-Text: gr\xfc\xdfe\r\n" in answer.head
