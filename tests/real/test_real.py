"""Each engine in front of real model servers: what a client gets is what the server said, and what it leaves stops."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from proxy.engines import ENGINES
from tests.contract.peers import Cut, Message, Silence
from tests.contract.running import ProcessProxy, connect, settled
from tests.real import servers
from tests.real.servers import MODEL, Server, asked, generated, generating

pytestmark = [
    pytest.mark.skipif(servers.missing() is not None, reason=str(servers.missing())),
    pytest.mark.timeout(400),  # LiteLLM starts slowly
]

CHAT = "/v1/chat/completions"
JSON = "Content-Type: application/json"
PATIENCE = 60.0
# What differs between two answers to the same request, whoever is asked.
OF_ONE_ANSWER = ("id", "created", "timings", "prompt_tokens_details")
# Fields of a head, by how they begin, that are a connection's own or the proxy's.
OF_ONE_CONNECTION = ("connection", "keep-alive", "date", "transfer-encoding", "via", "x-olla", "x-served-by")
# Fields, by how they begin, whose values differ from one answer to the next: LiteLLM tells its ids and times.
OF_ONE_RESPONSE = ("x-litellm", "llm_provider", "x-request-id", "content-length")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers keep their files and logs."""
    return tmp_path_factory.mktemp("real")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Iterator[Server]:
    """llama.cpp."""
    with servers.serving(servers.llama_cpp(folder)) as server:
        yield server


@pytest.fixture(scope="module")
def litellm(folder: Path, llama: Server) -> Iterator[Server]:
    """LiteLLM in front of it."""
    with servers.serving(servers.litellm(folder, llama)) as server:
        yield server


@pytest.fixture(scope="module", params=["llama", "litellm"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of them."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


@pytest.fixture(scope="module", params=[(engine, workers) for workers in (1, 2) for engine in ENGINES], ids=str)
def proxy(request: pytest.FixtureRequest, server: Server) -> Iterator[ProcessProxy]:
    """An engine, with one worker and with two, in front of the server."""
    engine, workers = request.param
    settings: dict[str, Any] = {"health.enabled": True, "health.interval": "1s"}
    if server.name == "LiteLLM":
        settings["health.path"] = "/health/liveliness"  # its /health asks each of its models something
    proxy = ProcessProxy(engine, [{"name": "real", "url": server.url}], settings, workers)
    if server.name == "llama.cpp":
        let_it_learn(proxy, 8 * workers)
    yield proxy
    proxy.close()


def let_it_learn(proxy: ProcessProxy, streams: int) -> None:
    """llama.cpp closes the connection behind each stream without saying so: until a worker saw two closes, a POST that
    is sent at once can cross one, and is then 502."""
    for _ in range(streams):
        assert ask(url_of(proxy), asked(2, stream=True)).status == 200
        time.sleep(0.1)


def until(condition: Any, what: str) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)


def ask(url: str, body: bytes, path: str = CHAT) -> Message:
    """The answer to a request on a connection of its own."""
    with connect(int(url.rsplit(":", 1)[1])) as client:
        client.sock.settimeout(PATIENCE)
        return client.post(body, path, JSON).response()


def url_of(proxy: ProcessProxy) -> str:
    """Where the engine listens."""
    return f"http://127.0.0.1:{proxy.port}"


def lasting(value: Any) -> Any:
    """An answer without what is of this one only."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in OF_ONE_ANSWER}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def events(body: bytes) -> list[Any]:
    """The data of each event of a stream, `[DONE]` as text. Raises AssertionError for what is not such an event."""
    *whole, rest = body.replace(b"\r\n", b"\n").split(b"\n\n")
    assert rest == b"", rest
    assert all(event.startswith(b"data: ") for event in whole), body
    return ["[DONE]" if event == b"data: [DONE]" else json.loads(event[6:]) for event in whole]


def fields(message: Message) -> list[tuple[str, str | None]]:
    """Names of the fields in order, with the values that are the same for each answer."""
    own = [(name, value) for name, value in message.fields if not name.lower().startswith(OF_ONE_CONNECTION)]
    return [(name, None if name.lower().startswith(OF_ONE_RESPONSE) else value) for name, value in own]


def test_an_answer_that_is_not_streamed_is_the_servers_own(proxy, server):
    body = asked(40)
    direct, proxied = ask(server.url, body), ask(url_of(proxy), body)
    assert direct.status == proxied.status == 200
    assert fields(proxied) == fields(direct)
    assert lasting(json.loads(proxied.body)) == lasting(json.loads(direct.body))


def test_a_stream_is_the_servers_own_event_by_event(proxy, server):
    body = asked(200, stream=True, stream_options={"include_usage": True})
    direct, proxied = ask(server.url, body), ask(url_of(proxy), body)
    assert direct.status == proxied.status == 200
    assert fields(proxied) == fields(direct)
    assert proxied.get("Transfer-Encoding") == "chunked"
    got = lasting(events(proxied.body))
    assert got[-1] == "[DONE]"
    assert got == lasting(events(direct.body))
    assert len([event for event in got if event != "[DONE]" and event["choices"]]) >= 200


@pytest.mark.parametrize(
    ("path", "body", "statuses"),
    [("/v1/nothing", b"{}", (404,)), (CHAT, b"{", (400,)), (CHAT, b'{"model": "tiny"}', (400, 422, 500))],
    ids=["no such path", "not JSON", "no messages"],
)
def test_an_error_is_the_servers_own(proxy, server, path, body, statuses):
    direct, proxied = ask(server.url, body, path), ask(url_of(proxy), body, path)
    assert direct.status in statuses
    assert (proxied.status, proxied.body) == (direct.status, direct.body)
    assert fields(proxied) == fields(direct)


def test_a_long_prompt_arrives_whole(proxy, server):
    """llama.cpp makes a token of each byte, and tells how many: too many for its context."""
    prompt = "x" * 40_000
    body = asked(4, prompt=prompt)
    direct, proxied = ask(server.url, body), ask(url_of(proxy), body)
    counted = re.search(rb"request \((\d+) tokens\) exceeds", direct.body)
    assert counted is not None, direct.body
    assert int(counted[1]) > len(prompt)
    assert direct.status == proxied.status == 400
    assert proxied.body == direct.body


def test_requests_share_a_connection(proxy, server):
    """llama.cpp closes a connection after a hundred requests, which a client of the proxy need not know."""
    count = 120 if server.name == "llama.cpp" else 4
    with connect(proxy.port) as client:
        client.sock.settimeout(PATIENCE)
        for i in range(count):
            assert client.post(asked(2, stream=i % 2 == 0), CHAT, JSON).response().status == 200


def test_the_openai_client_streamed_and_not(proxy, server):
    def said(base: str) -> tuple[str, str, int]:
        with openai.OpenAI(base_url=f"{base}/v1", api_key="sk-test", max_retries=0, timeout=PATIENCE) as client:
            question: Any = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "hello"}],
                "max_tokens": 30,
                "temperature": 0,
            }
            whole = client.chat.completions.create(**question)
            parts = client.chat.completions.create(**question, stream=True)
            text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
            assert client.models.list().data[0].id == MODEL
            return whole.choices[0].message.content or "", text, whole.usage.completion_tokens

    whole, streamed, tokens = said(url_of(proxy))
    assert whole == streamed != ""
    assert tokens == 30
    assert (whole, streamed, tokens) == said(server.url)


def test_a_client_that_leaves_stops_the_generation(proxy, llama):
    asked_for = 12_000
    until(lambda: not generating(llama), "nothing is generated")
    before, left = generated(llama), proxy.stats()["proxy.requests.client_disconnected"]
    with connect(proxy.port) as client:
        client.sock.settimeout(PATIENCE)
        client.post(asked(asked_for, stream=True), CHAT, JSON)
        client.receive_until(b"data: ")
        assert generating(llama)
    until(lambda: not generating(llama), "the server stops")
    assert generated(llama) - before < asked_for
    settled(proxy.stats, client_disconnected=left + 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_health_is_found_without_a_path(engine, server):
    """At /health of both. LiteLLM's takes as long as its models' answers."""
    checks = {"health.enabled": True, "health.interval": "20s", "health.timeout": "20s"}
    proxy = ProcessProxy(engine, [{"name": "real", "url": server.url}], checks)
    try:
        until(lambda: "its health is asked at /health" in proxy.stderr(), "a path that is there")
        assert proxy.healthy() == {"real": True}
        assert ask(url_of(proxy), asked(4)).status == 200
    finally:
        proxy.close()


def test_a_restart_under_traffic_is_over_when_the_server_is_back(proxy, llama):
    """In between each answer is whole, an honest error, or a stream that is cut in a way that the client can tell."""
    going = True

    def client() -> list[str]:
        seen = []
        while going:
            try:
                message = ask(url_of(proxy), asked(100, stream=True))
            except (Cut, Silence):
                seen.append("cut")
                continue
            if message.status == 200:
                assert events(message.body)[-1] == "[DONE]" or b'"error"' in message.body
            else:
                assert "error" in json.loads(message.body)
            seen.append(str(message.status))
        return seen

    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(client) for _ in range(4)]
        try:
            until(lambda: generating(llama), "traffic")
            llama.stop()
            time.sleep(1)
            llama.start()
            until(lambda: proxy.healthy() == {"real": True}, "each worker finds the server again")
            until(lambda: ask(url_of(proxy), asked(4)).status == 200, "an answer after the restart")
        finally:
            going = False
        seen = [answer for done in clients for answer in done.result(PATIENCE)]
    assert "200" in seen
    assert set(seen) <= {"200", "cut", "500", "502", "503"}, seen
    assert ask(url_of(proxy), asked(4)).status == 200
