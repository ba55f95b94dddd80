"""Active health checks against scripted servers on loopback."""

import asyncio
import gc
import logging
import socket
import ssl
import subprocess
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.control import checks
from proxy.control.checks import CheckResult, HealthChecker, check
from proxy.core.discovery import DiscoveryService
from proxy.core.endpoint import EndpointSpec
from proxy.net.dial import Dialer
from proxy.net.tls import tls_context

FAST = {"health_interval": 0.02, "health_timeout": 5.0, "unhealthy_after": 2}
SLOW = {"health_interval": 3600.0, "health_timeout": 5.0, "unhealthy_after": 1}


@asynccontextmanager
async def server(answer, **kwargs):
    """Answers each head with `answer` (bytes, or a callable of the head); yields its spec and the heads."""
    heads = []

    async def connected(reader, writer):
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer(heads[-1]) if callable(answer) else answer)
            await reader.read()  # until the checker hangs up
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, **kwargs)
    spec = EndpointSpec("a", "http", "127.0.0.1", listening.sockets[0].getsockname()[1])
    try:
        yield spec, heads
    finally:
        listening.close()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event to offer
            await asyncio.sleep(0.002)


def status_line(status):
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (status_line(200), None),
        (status_line(204), None),
        (status_line(401), None),
        (status_line(403), None),
        (status_line(429), None),
        (status_line(500), "status 500 at /health"),
        (status_line(404), "status 404 at /health; set health.path to one that this server has"),
        (status_line(405), "status 405 at /health; set health.path to one that this server has"),
        (b"HTTP/1.0 200\r\n\r\n", None),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n", "the answer is not HTTP"),
        (b"\r\n", "the answer is not HTTP"),
        (b"x" * 5000, "the answer is not HTTP"),
    ],
)
def test_a_check_judges_the_status_and_says_what_is_wrong(answer, problem):
    async def main():
        async with server(answer) as (spec, _):
            return await check(replace(spec, health_path="/health"), Dialer())

    assert asyncio.run(main()).problem == problem


def test_a_check_asks_for_the_health_path_below_the_prefix_with_the_endpoints_own_host():
    async def main():
        async with server(status_line(200)) as (spec, heads):
            await check(replace(spec, prefix="/ollama", health_path="/up?x=1"), Dialer())
            return spec.authority, heads

    authority, (head,) = asyncio.run(main())
    assert head.startswith(b"GET /ollama/up?x=1 HTTP/1.1\r\nHost: " + authority.encode() + b"\r\n")


def only(*paths, otherwise=404):
    """Answers 200 at these paths."""
    return lambda head: status_line(200 if head.split()[1].decode() in paths else otherwise)


@pytest.mark.parametrize(
    ("answer", "prefix", "asked", "path"),
    [
        (only("/health"), "", ["/health"], "/health"),  # vLLM, llama.cpp
        (only("/v1/models", "/api/version"), "", ["/health", "/v1/models"], "/v1/models"),
        (only("/api/version", otherwise=405), "", ["/health", "/v1/models", "/api/version"], "/api/version"),
        (only("/v1/models"), "/v1", ["/v1/health", "/v1/models"], "/v1/models"),  # not /v1/v1/models
    ],
)
def test_without_a_path_the_first_that_is_there_is_found(answer, prefix, asked, path):
    async def main():
        async with server(answer) as (spec, heads):
            result = await check(replace(spec, prefix=prefix), Dialer())
            return result, [head.split()[1].decode() for head in heads]

    assert asyncio.run(main()) == (CheckResult(None, path), asked)


def test_a_server_that_is_there_and_not_well_is_not_asked_elsewhere():
    async def main():
        async with server(only("/v1/models", otherwise=503)) as (spec, heads):
            return await check(spec, Dialer()), len(heads)

    assert asyncio.run(main()) == (CheckResult("status 503 at /health", "/health"), 1)


def test_the_path_that_was_found_is_asked_first_and_the_others_when_it_is_gone():
    async def main():
        async with server(only("/health")) as (spec, heads):
            result = await check(spec, Dialer(), "/api/version")
            return result, [head.split()[1].decode() for head in heads]

    assert asyncio.run(main()) == (CheckResult(None, "/health"), ["/api/version", "/health"])


def test_a_server_that_has_none_of_the_paths_is_unhealthy_and_the_sentence_says_what_to_do():
    async def main():
        async with server(status_line(404)) as (spec, _):
            return await check(spec, Dialer())

    assert asyncio.run(main()) == CheckResult(
        "status 404 at /health, /v1/models and /api/version; set health.path to one that this server has"
    )


def test_the_path_that_was_found_is_logged_once_and_kept(caplog):
    caplog.set_level(logging.INFO, "proxy.health")

    async def main():
        async with server(only("/v1/models")) as (spec, heads):
            discovery = DiscoveryService([replace(spec, **FAST)], time.monotonic())
            checker = HealthChecker(discovery, Dialer())
            checker.start()
            await until(lambda: len(heads) >= 5)
            await checker.stop()
            return [head.split()[1].decode() for head in heads], discovery.health_path(discovery.endpoints[0])

    asked, path = asyncio.run(main())
    assert asked == ["/health"] + ["/v1/models"] * (len(asked) - 1)
    assert path == "/v1/models"
    assert caplog.messages == ["endpoint a: its health is asked at /v1/models"]


def test_a_failure_during_a_check_has_a_check_of_its_own():
    async def main():
        held, release = asyncio.Event(), asyncio.Event()
        checks_made = []

        async def hanging(spec, dialer, found):
            checks_made.append(spec.name)
            held.set()
            await release.wait()
            return CheckResult(None)

        checks.check = hanging
        discovery = DiscoveryService([EndpointSpec("a", "http", "h", 80, **SLOW)], time.monotonic())
        checker = HealthChecker(discovery, Dialer())
        checker.start()
        await held.wait()
        discovery.report_failure(discovery.endpoints[0], time.monotonic())
        await asyncio.sleep(0.2)
        assert len(checks_made) == 1
        release.set()
        await until(lambda: len(checks_made) == 2)  # the schedule's own next check is an hour away
        await checker.stop()

    usual = checks.check
    try:
        asyncio.run(main())
    finally:
        checks.check = usual


def test_a_check_whose_settings_were_changed_meanwhile_says_nothing():
    async def main():
        async with server(lambda head: status_line(200 if b"/new" in head else 500)) as (spec, heads):
            release = asyncio.Event()
            usual = checks.check

            async def late(spec, dialer, found):
                result = await usual(spec, dialer, found)
                if spec.health_path == "/old":
                    await release.wait()
                return result

            checks.check = late
            try:
                discovery = DiscoveryService([replace(spec, health_path="/old", **SLOW)], time.monotonic())
                checker = HealthChecker(discovery, Dialer())
                checker.start()
                await until(lambda: heads)
                discovery.update([replace(spec, health_path="/new", **SLOW)], time.monotonic())
                release.set()
                await until(lambda: len(heads) == 2)
                await until(lambda: discovery.health_of(discovery.endpoints[0]).successes)
                await checker.stop()
                return discovery.routable
            finally:
                checks.check = usual

    assert len(asyncio.run(main())) == 1


def test_a_check_that_raises_what_nobody_foresaw_is_logged_and_the_next_one_comes(monkeypatch, caplog):
    calls = []

    async def broken(spec, dialer, found):
        calls.append(spec)
        raise ZeroDivisionError

    async def main():
        checker = HealthChecker(
            DiscoveryService([EndpointSpec("a", "http", "h", 80, **FAST)], time.monotonic()), Dialer()
        )
        checker.start()
        await until(lambda: len(calls) >= 3)
        await checker.stop()

    monkeypatch.setattr(checks, "check", broken)
    asyncio.run(main())
    assert "the health check of endpoint a failed in the proxy" in caplog.messages


def test_a_server_that_says_nothing_is_given_up_after_the_timeout():
    async def main():
        async with server(b"") as (spec, _):
            return await check(replace(spec, health_timeout=0.05), Dialer())

    assert asyncio.run(main()).problem == "no answer within 0.05s"


def test_a_server_that_hangs_up_unanswered_is_not_http():
    async def main():
        listening = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        async with listening:
            return await check(EndpointSpec("a", "http", "127.0.0.1", listening.sockets[0].getsockname()[1]), Dialer())

    assert asyncio.run(main()).problem in ("the answer is not HTTP", "cannot connect: Connection reset by peer")


def test_a_port_where_nobody_listens_cannot_be_connected_to():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        problem = asyncio.run(check(EndpointSpec("a", "http", "127.0.0.1", unused.getsockname()[1]), Dialer())).problem
    assert problem.startswith("cannot connect")


def test_an_endpoint_goes_out_after_failed_checks_and_comes_back_by_a_good_one():
    async def main():
        status = [500]
        async with server(lambda head: status_line(status[0])) as (spec, _):
            discovery = DiscoveryService([replace(spec, **FAST)], time.monotonic())
            checker = HealthChecker(discovery, Dialer())
            checker.start()
            await until(lambda: not discovery.routable)
            status[0] = 200
            await until(lambda: discovery.routable)
            await checker.stop()

    asyncio.run(main())


def test_a_passive_failure_is_checked_at_once_and_not_at_the_next_tick():
    async def main():
        status = [200]
        async with server(lambda head: status_line(status[0])) as (spec, heads):
            discovery = DiscoveryService([replace(spec, **SLOW)], time.monotonic())
            checker = HealthChecker(discovery, Dialer())
            checker.start()
            await until(lambda: len(heads) == 1)
            status[0] = 500
            discovery.report_failure(discovery.endpoints[0], time.monotonic())
            await until(lambda: not discovery.routable)  # the schedule's own next check is an hour away
            await checker.stop()

    asyncio.run(main())


def test_an_endpoint_added_by_a_reload_is_checked_at_once():
    async def main():
        async with server(status_line(500)) as (bad, _), server(status_line(200)) as (good, heads):
            discovery = DiscoveryService([replace(good, **SLOW)], time.monotonic())
            checker = HealthChecker(discovery, Dialer())
            checker.start()
            await until(lambda: heads)
            discovery.update([replace(good, **SLOW), replace(bad, name="b", **SLOW)], time.monotonic())
            await until(lambda: len(discovery.routable) == 1)
            await checker.stop()
            return [e.name for e in discovery.routable]

    assert asyncio.run(main()) == ["a"]


def test_one_endpoint_never_has_two_checks_at_once_and_all_together_no_more_than_the_limit(monkeypatch):
    running, most, per_endpoint = {}, [0], [0]
    release = asyncio.Event()

    async def hanging(spec, dialer, found):
        running[spec.name] = running.get(spec.name, 0) + 1
        most[0] = max(most[0], sum(running.values()))
        per_endpoint[0] = max(per_endpoint[0], running[spec.name])
        await release.wait()
        running[spec.name] -= 1
        return CheckResult(None)

    async def main():
        specs = [EndpointSpec(f"e{i}", "http", "h", 80, **FAST) for i in range(checks.CONCURRENT + 8)]
        discovery = DiscoveryService(specs, time.monotonic())
        checker = HealthChecker(discovery, Dialer())
        checker.start()
        await until(lambda: sum(running.values()) == checks.CONCURRENT)
        await asyncio.sleep(0.1)  # several intervals: time for a second check to be wrongly started
        release.set()
        await until(lambda: len(running) == len(specs))
        await checker.stop()

    monkeypatch.setattr(checks, "check", hanging)
    asyncio.run(main())
    assert (most[0], per_endpoint[0]) == (checks.CONCURRENT, 1)


def test_checks_that_are_switched_off_and_on_again_during_one_end_well(monkeypatch):
    troubles, asked = [], []

    async def main():
        release = asyncio.Event()

        async def hanging(spec, dialer, found):
            asked.append(spec)
            await release.wait()
            return CheckResult(None)

        monkeypatch.setattr(checks, "check", hanging)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        spec = EndpointSpec("a", "http", "h", 80, **SLOW)
        discovery = DiscoveryService([spec], time.monotonic())
        checker = HealthChecker(discovery, Dialer())
        checker.start()
        await until(lambda: len(asked) == 1)
        discovery.update([replace(spec, health_enabled=False)], time.monotonic())
        discovery.update([spec], time.monotonic())
        await until(lambda: len(asked) == 2)
        release.set()
        await until(lambda: discovery.health_of(discovery.endpoints[0]).successes)
        await asyncio.sleep(0)
        gc.collect()  # a task whose exception nobody fetched says so when it is freed
        await checker.stop()

    asyncio.run(main())
    assert troubles == []


def test_stopping_gives_up_checks_in_flight():
    async def main():
        async with server(b"") as (spec, heads):
            checker = HealthChecker(DiscoveryService([replace(spec, **SLOW)], time.monotonic()), Dialer())
            checker.start()
            await until(lambda: heads)
            await asyncio.wait_for(checker.stop(), 5)

    asyncio.run(main())


def test_without_checks_nothing_is_asked():
    async def main():
        async with server(status_line(200)) as (spec, heads):
            checker = HealthChecker(DiscoveryService([replace(spec, health_enabled=False)], time.monotonic()), Dialer())
            checker.start()
            await asyncio.sleep(0.02)
            await checker.stop()
            return heads

    assert asyncio.run(main()) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
            check=True,
            capture_output=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs the openssl command to make a certificate")
    return cert, key


@pytest.mark.parametrize(
    ("trust", "word"), [({"tls_verify": False}, None), ({}, "certificate verify failed"), ({"tls_ca_file": True}, None)]
)
def test_https_endpoints_are_trusted_as_the_config_says(certificate, trust, word):
    cert, key = certificate
    if "tls_ca_file" in trust:
        trust = {"tls_ca_file": str(cert)}

    async def main():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        async with server(status_line(200), ssl=context) as (spec, _):
            return await check(replace(spec, scheme="https", **trust), Dialer())

    problem = asyncio.run(main()).problem
    assert problem is None if word is None else word in problem


def test_contexts_are_shared_and_plain_http_has_none():
    spec = EndpointSpec("a", "https", "h", 443)
    assert tls_context(spec) is tls_context(replace(spec, name="b"))
    assert tls_context(spec) is not tls_context(replace(spec, tls_verify=False))
    assert tls_context(EndpointSpec("a", "http", "h", 80)) is None
