"""What an endpoint's URL may be, and what is made of it."""

import pytest

from proxy.core.endpoint import Endpoint, EndpointSpec, parse_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://gpu-1:9001", ("http", "gpu-1", 9001, "")),
        ("http://gpu-1", ("http", "gpu-1", 80, "")),
        ("https://gpu-1", ("https", "gpu-1", 443, "")),
        ("https://gpu-1/ollama/", ("https", "gpu-1", 443, "/ollama")),
        ("http://[::1]:8000/v1", ("http", "::1", 8000, "/v1")),
        ("HTTP://GPU-1:1", ("http", "gpu-1", 1, "")),
    ],
)
def test_a_url_is_split_into_scheme_host_port_and_prefix(url, expected):
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("ftp://h", "http://"),
        ("gpu-1:9001", "http://"),
        ("http://", "host"),
        ("http://u:p@h", "credentials"),
        ("http://h?x=1", "query"),
        ("http://h#x", "fragment"),
        ("http://h/a b", "blanks"),
        ("http://h\x7f", "control"),
        ("http://hé", "ASCII"),
        ("http://h:0", "port 0"),
        ("http://h:99999", "not a URL"),
        ("http://h:secret@x", "credentials"),
        ("http://[::1", "not a URL"),
    ],
)
def test_a_url_that_cannot_be_an_endpoint_is_refused_with_a_reason(url, word):
    with pytest.raises(ValueError, match=word):
        parse_url(url)


@pytest.mark.parametrize("url", ["http://h:top-secret", "http://u:top-secret/x@h"])
def test_the_reason_does_not_repeat_what_may_be_a_secret(url):
    with pytest.raises(ValueError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "authority"),
    [
        (EndpointSpec("a", "http", "h", 80), "h"),
        (EndpointSpec("a", "http", "h", 443), "h:443"),
        (EndpointSpec("a", "https", "h", 443), "h"),
        (EndpointSpec("a", "http", "::1", 8000), "[::1]:8000"),
        (EndpointSpec("a", "https", "::1", 443), "[::1]"),
    ],
)
def test_the_authority_names_the_port_only_where_it_is_not_the_schemes_own(spec, authority):
    assert spec.authority == authority


def test_an_endpoint_shows_itself_for_assertions():
    endpoint = Endpoint(EndpointSpec("a", "http", "h", 80, prefix="/x"))
    assert repr(endpoint) == "<Endpoint a http://h/x healthy active=0>"


@pytest.mark.parametrize(
    ("prefix", "target", "asked"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/v1", "/models", "/v1/models"),
        ("/v1", "/v1/models", "/v1/models"),
        ("/v1", "/v1", "/v1"),
        ("/v1", "/v1?x", "/v1?x"),
        ("/v1", "/v10/models", "/v1/v10/models"),
        ("/v1", "/V1/models", "/v1/V1/models"),
        ("/v1", "/", "/v1/"),
        ("/v1", "/?x", "/v1/?x"),
        ("/a/b", "/a/c", "/a/b/a/c"),
        ("/v1", "*", "*"),
    ],
)
def test_the_prefix_goes_before_a_target_that_does_not_begin_with_it(prefix, target, asked):
    spec = EndpointSpec("a", "http", "h", 80, prefix=prefix)
    assert spec.prefix_for(target) + target == asked
