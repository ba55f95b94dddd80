"""Credentials and control bytes never reach a log, a status or an error; one request is one line."""

from __future__ import annotations

import json

import pytest

from tests.contract.peers import answering, free_port
from tests.contract.running import ProcessProxy, settled

SECRETS = ["sk-header-secret", "key-header-secret", "cookie-secret", "query-secret", "token-secret"]


@pytest.mark.promise("SECRETS")
def test_credentials_are_nowhere_at_any_level(engine, endpoint):
    endpoint.serve(answering())
    dead = {"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}
    proxy = ProcessProxy(engine, [endpoint, dead], {"server.access_log": True, "server.log_level": "debug"})
    try:
        fields = ("Authorization: Bearer sk-header-secret", "X-Api-Key: key-header-secret", "Cookie: s=cookie-secret")
        with proxy.client() as client:
            for target in ("/v1?api_key=query-secret", "/v1?a=b&access_token=token-secret&c=d"):
                for _ in range(3):
                    assert client.get(target, *fields).response().status == 200
        with proxy.client() as client:
            broken = client.send(b"GET / HTTP/1.1\r\nAuthorization: Bearer sk-header-secret\r\n\r\n").response()
            assert broken.status == 400
        settled(proxy.stats, success=6)
        shown = [proxy.stderr(), broken.body.decode(), str(broken.fields)]
        shown += [proxy.admin_get(path).decode() for path in ("/internal/status", "/internal/stats", "/metrics")]
        for secret in SECRETS:
            assert not any(secret in text for text in shown), secret
        lines = [json.loads(line) for line in shown[0].splitlines() if '"proxy.access"' in line]
        assert len(lines) == 6
    finally:
        proxy.close()


@pytest.mark.promise("LOG-ONE-LINE")
def test_one_request_is_one_line_whatever_it_holds(engine, endpoint):
    endpoint.serve(answering())
    proxy = ProcessProxy(engine, [endpoint], {"server.access_log": True})
    try:
        with proxy.client() as client:
            for target in ("/a%0d%0aevil", '/"quoted"', "/<script>", "/\\n", "/" + "x" * 5000):
                assert client.get(target, "User-Agent: a\tb").response().status == 200
        settled(proxy.stats, success=5)
        lines = [line for line in proxy.stderr().splitlines() if '"proxy.access"' in line]
        assert len(lines) == 5
        for line in lines:
            entry = json.loads(line)
            assert line.isascii() and line.isprintable()
            assert (entry["status"], entry["outcome"], entry["endpoint"]) == (200, "success", "a")
            assert len(line) < 4096
    finally:
        proxy.close()


@pytest.mark.promise("METRICS")
def test_metrics_have_the_seed_s_names_and_no_label_from_a_client(engine, endpoint):
    """Dots become underscores, counters end in _total."""
    endpoint.serve(answering())
    proxy = ProcessProxy(engine, [endpoint], {})
    try:
        with proxy.client() as client:
            for i in range(5):
                client.get(f"/made-up-by-a-client-{i}", f"X-Request-ID: client-{i}").response()
        settled(proxy.stats, success=5)
        text = proxy.admin_get("/metrics").decode()
        assert "made-up" not in text
        assert "client-1" not in text
        for name in ("proxy_requests_total", "proxy_requests_success_total", "proxy_requests_failed_total"):
            assert name in text
        assert "proxy_active_connections" in text
        assert "proxy_latency" in text
        assert f'engine="{engine}"' in text
    finally:
        proxy.close()
