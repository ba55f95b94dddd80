"""Host and the forms of a target (RFC 9112 section 3)."""

from __future__ import annotations

import pytest

from tests.contract.test_framing_requests import refused, served


@pytest.mark.promise("HOST-ONE")
@pytest.mark.parametrize(
    "hosts",
    [
        pytest.param([], id="none"),
        pytest.param([b"a", b"b"], id="two"),
        pytest.param([b"a", b"a"], id="twice the same"),
        pytest.param([b""], id="empty"),
        pytest.param([b"a b"], id="blank"),
        pytest.param([b"a/b"], id="slash"),
        pytest.param([b"a:b"], id="port that is none"),
        pytest.param([b"user@a"], id="user"),
        pytest.param([b"a:80:80"], id="two ports"),
        pytest.param([b"[::1"], id="half a bracket"),
        pytest.param([b"http://a"], id="a URL"),
        pytest.param(["ä".encode()], id="non-ASCII"),
        pytest.param([b"a#b"], id="fragment"),
        pytest.param([b"a?b"], id="query"),
        pytest.param(["a:\u0665".encode()], id="port of other digits"),
    ],
)
def test_http_1_1_needs_exactly_one_valid_host(start, endpoint, hosts):
    """RFC 9112 3.2."""
    lines = b"".join(b"Host: %b\r\n" % host for host in hosts)
    assert refused(start, endpoint, b"GET / HTTP/1.1\r\n" + lines + b"\r\n") == {400}


@pytest.mark.promise("HOST-ONE")
@pytest.mark.parametrize("host", [b"a", b"a.b-c.test:8080", b"127.0.0.1", b"[::1]:80", b"a:", b"xn--bcher-kva.test"])
def test_valid_hosts_are_accepted(start, endpoint, host):
    request = served(start, endpoint, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert request.get("X-Forwarded-Host") == host.decode()


@pytest.mark.promise("HOST-1.0")
def test_http_1_0_needs_no_host(start, endpoint):
    request = served(start, endpoint, b"GET / HTTP/1.0\r\n\r\n")
    assert request.get("Host") == f"127.0.0.1:{endpoint.port}"


@pytest.mark.promise("HOST-1.0")
def test_http_1_0_with_two_hosts_is_refused(start, endpoint):
    refused(start, endpoint, b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")


@pytest.mark.promise("HOST-1.0")
@pytest.mark.parametrize("host", [b"", b"a b"])
def test_http_1_0_with_an_invalid_host_is_refused(start, endpoint, host):
    """RFC 9112 3.2; an http URL has no empty host (RFC 9110 4.2.1)."""
    refused(start, endpoint, b"GET / HTTP/1.0\r\nHost: " + host + b"\r\n\r\n")


@pytest.mark.promise("HOST-ONE")
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("host", [b":h", b"a b", b""])
def test_an_invalid_host_is_refused_beside_an_absolute_target_too(start, endpoint, host, version):
    """RFC 9112 3.2. Found by fuzzing: the target's authority replaces Host, but does not make it valid."""
    refused(start, endpoint, b"GET http://h/ HTTP/" + version + b"\r\nHost: " + host + b"\r\n\r\n")


@pytest.mark.promise("HOST-ABSOLUTE")
@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://elsewhere.test/x?y=z", "/x?y=z"),
        ("http://elsewhere.test", "/"),
        ("http://elsewhere.test?q=1", "/?q=1"),
        ("HTTP://elsewhere.test:81/%2e%2e/", "/%2e%2e/"),
        ("https://elsewhere.test/", "/"),
    ],
)
def test_the_authority_of_an_absolute_target_replaces_host_and_is_never_connected_to(start, endpoint, target, path):
    """RFC 9112 3.2.2; where to connect to comes from the config only."""
    request = served(start, endpoint, f"GET {target} HTTP/1.1\r\nHost: ignored.test\r\n\r\n".encode())
    assert request.target == path
    assert request.get("Host") == f"127.0.0.1:{endpoint.port}"
    assert str(request.get("X-Forwarded-Host")).split(":")[0] == "elsewhere.test"


@pytest.mark.promise("HOST-ABSOLUTE")
@pytest.mark.parametrize("target", ["ftp://h/x", "http:///x", "http://", "h/x", "x", "*", "http://user@h/", "//"])
def test_targets_of_no_known_form_are_refused_or_stay_paths(start, endpoint, target):
    if target == "//":
        assert served(start, endpoint, b"GET // HTTP/1.1\r\nHost: h\r\n\r\n").target == "//"
    else:
        refused(start, endpoint, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), allowed=(400, 501))


@pytest.mark.promise("HOST-ABSOLUTE")
@pytest.mark.parametrize(
    ("target", "sent"), [(b"*", "*"), (b"http://h", "*"), (b"http://h/", "/"), (b"http://h?x", "/?x")]
)
def test_options_of_the_whole_server_are_forwarded_with_an_asterisk(start, endpoint, target, sent):
    """RFC 9112 3.2.4: an absolute target without path and query, too."""
    assert served(start, endpoint, b"OPTIONS %b HTTP/1.1\r\nHost: h\r\n\r\n" % target).target == sent


@pytest.mark.promise("HOST-ABSOLUTE")
@pytest.mark.parametrize("target", ["/a#b", "/a?b#c"])
def test_a_fragment_in_a_target_is_refused(start, endpoint, target):
    """RFC 9110 4.2.5: never sent."""
    refused(start, endpoint, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())


@pytest.mark.promise("HOST-ABSOLUTE")
def test_bytes_beyond_ascii_in_a_target_are_refused(start, endpoint):
    """RFC 3986 2."""
    refused(start, endpoint, b"GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n")
