"""Requests go where the config says, only there, and never round in circles."""

from __future__ import annotations

import pytest

from tests.contract.peers import answering
from tests.contract.running import settled


@pytest.mark.promise("LOOP")
@pytest.mark.one_worker
def test_a_request_that_already_passed_through_this_instance_is_508(start, endpoint):
    """RFC 9110 7.6.3: Via is there to detect this."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/", f"Via: 1.0 other, 1.1 test-{proxy.port}, 1.1 third")
        answer = client.response()
        assert answer.status == 508
        assert b'"loop_detected"' in answer.body
    assert endpoint.untouched(0.05)
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("LOOP")
@pytest.mark.one_worker
def test_a_proxy_in_front_of_itself_ends_with_508(start, endpoint):
    endpoint.serve(answering())
    proxy = start(endpoint)
    proxy.reload([{"name": "self", "url": f"http://127.0.0.1:{proxy.port}"}], {})
    with proxy.client() as client:
        assert client.get().response().status == 508


@pytest.mark.promise("LOOP")
def test_one_engine_behind_another_works(start, start_olla, start_sherpa, endpoint):
    endpoint.serve(answering(b"through"))
    for start_inner in (start_olla, start_sherpa):
        inner = start_inner(endpoint)
        outer = start({"name": "inner", "url": f"http://127.0.0.1:{inner.port}"})
        with outer.client() as client:
            assert client.get().response().body == b"through"


@pytest.mark.promise("LOOP")
@pytest.mark.parametrize("via", ["1.1 test", "1.1 xtest-1", "1.1 other (test-{port})", "test-{port}"])
@pytest.mark.one_worker
def test_other_names_in_via_are_no_loop(start, endpoint, via):
    endpoint.serve(answering())
    proxy = start(endpoint)
    with proxy.client() as client:
        assert client.get("/", "Via: " + via.format(port=proxy.port)).response().status == 200


@pytest.mark.promise("SSRF")
@pytest.mark.parametrize(
    "line",
    [
        "GET http://{other}/x HTTP/1.1",
        "GET //{other}/x HTTP/1.1",
        "GET /x@{other} HTTP/1.1",
        "GET /http://{other}/x HTTP/1.1",
        "GET /..//{other}/x HTTP/1.1",
    ],
)
def test_no_form_of_target_reaches_another_host(start, endpoints, line):
    mine, other = endpoints(2)
    mine.serve(answering(b"mine"))
    proxy = start(mine)
    request = line.format(other=f"127.0.0.1:{other.port}")
    with proxy.client() as client:
        client.send(f"{request}\r\nHost: 127.0.0.1:{other.port}\r\n\r\n".encode())
        assert client.response().body == b"mine"
    assert other.untouched(0.05)


@pytest.mark.promise("SSRF")
@pytest.mark.one_worker
def test_proxies_named_in_the_environment_are_ignored(start, endpoints, monkeypatch):
    mine, other = endpoints(2)
    mine.serve(answering(b"mine"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    monkeypatch.delenv("no_proxy", raising=False)
    proxy = start(mine)
    with proxy.client() as client:
        assert client.get().response().body == b"mine"
    assert other.untouched(0.05)


@pytest.mark.promise("ADMIN-APART")
def test_the_public_port_knows_no_internal_paths(start, endpoint):
    endpoint.serve(answering(b"forwarded"))
    proxy = start(endpoint)
    with proxy.client() as client:
        for target in (
            "/internal/stats",
            "/internal/health",
            "/metrics",
            "/x/../internal/stats",
            "//internal/stats",
            "/%69nternal/stats",
            "/internal/stats?x",
            "http://127.0.0.1/internal/stats",
        ):
            assert client.get(target).response().body == b"forwarded", target
