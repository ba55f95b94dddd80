"""The clients that people use, as they use them: through each engine to a mock, streamed and not, no token lost."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import ollama
import openai
import pytest
import requests

from proxy.engines import ENGINES
from tests.contract.peers import free_port
from tests.contract.running import ProcessProxy, settled

ROOT = Path(__file__).parents[2]
TOKENS = 20
ASK = [{"role": "user", "content": "Tell me about proxies."}]


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    """The URL of a mock backend."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mock_backends", "--port", "0", "--control-port", "0", "--profile", "instant"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module", params=list(ENGINES))
def running(request: pytest.FixtureRequest, mock: str) -> Iterator[ProcessProxy]:
    """`python -m proxy serve` with each engine."""
    proxy = ProcessProxy(request.param, [{"name": "mock", "url": mock}], {})
    yield proxy
    stats = settled(proxy.stats, failed=0, client_disconnected=0)
    assert stats["proxy.requests.total"] > 0
    proxy.close()


@pytest.fixture
def url(running: ProcessProxy) -> str:
    """Where the engine listens."""
    return f"http://127.0.0.1:{running.port}"


def test_openai_not_streamed(url, mock):
    direct, proxied = (openai.OpenAI(base_url=f"{base}/v1", api_key="sk-test", max_retries=0) for base in (mock, url))
    asked = {"model": "m", "messages": ASK, "max_tokens": TOKENS, "seed": 7}
    answer = proxied.chat.completions.create(**asked)
    assert answer.usage.completion_tokens == TOKENS
    assert answer.choices[0].message.content == direct.chat.completions.create(**asked).choices[0].message.content


def test_openai_streamed(url, mock):
    def text(base: str) -> str:
        with openai.OpenAI(base_url=f"{base}/v1", api_key="sk-test", max_retries=0) as client:
            events = client.chat.completions.create(
                model="m",
                messages=ASK,
                max_tokens=TOKENS,
                seed=7,
                stream=True,
                stream_options={"include_usage": True},
            )
            parts = list(events)
        assert parts[-1].usage.completion_tokens == TOKENS
        return "".join(part.choices[0].delta.content or "" for part in parts if part.choices)

    assert text(url) == text(mock) != ""


def test_openai_asynchronously_many_at_once(url):
    async def run() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as client:

            async def one(seed: int) -> int:
                stream = await client.chat.completions.create(
                    model="m", messages=ASK, max_tokens=TOKENS, seed=seed, stream=True
                )
                return len([part async for part in stream if part.choices and part.choices[0].delta.content])

            return await asyncio.gather(*[one(seed) for seed in range(10)])

    assert asyncio.run(run()) == [TOKENS] * 10


def test_openai_embeddings_and_models(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-test", max_retries=0) as client:
        assert client.embeddings.create(model="m", input="hello").data[0].embedding
        assert client.models.list().data


def test_openai_raises_its_own_exception_for_an_error_of_the_proxy(running):
    """An SDK finds the error's type and code where it looks for them."""
    proxy = ProcessProxy(running.engine, [{"name": "dead", "url": f"http://127.0.0.1:{free_port()}"}], {})
    try:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key="sk-test", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError) as error:
                client.chat.completions.create(model="m", messages=ASK)
            assert (error.value.status_code, error.value.code) == (502, "upstream_unreachable")
            assert error.value.type == "upstream_error"
    finally:
        proxy.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_ollama_chat(url, streamed):
    client = ollama.Client(host=url)
    options = {"num_predict": TOKENS, "seed": 7}
    if streamed:
        parts = list(client.chat(model="m", messages=ASK, stream=True, options=options))
        assert parts[-1].done
        assert parts[-1].eval_count == TOKENS
        assert "".join(part.message.content or "" for part in parts)
    else:
        answer = client.chat(model="m", messages=ASK, options=options)
        assert answer.done
        assert answer.eval_count == TOKENS


@pytest.mark.parametrize("streamed", [False, True])
def test_ollama_generate(url, streamed):
    client = ollama.Client(host=url)
    if streamed:
        assert list(client.generate(model="m", prompt="hi", stream=True, options={"num_predict": TOKENS}))[-1].done
    else:
        assert client.generate(model="m", prompt="hi", options={"num_predict": TOKENS}).response


@pytest.mark.parametrize("streamed", [False, True])
def test_anthropic_messages(url, streamed):
    with anthropic.Anthropic(base_url=url, api_key="sk-ant-test", max_retries=0) as client:
        if streamed:
            with client.messages.stream(model="m", max_tokens=TOKENS, messages=ASK) as stream:
                text = "".join(stream.text_stream)
                final = stream.get_final_message()
            assert final.content[0].text == text != ""
            assert final.usage.output_tokens == TOKENS
        else:
            answer = client.messages.create(model="m", max_tokens=TOKENS, messages=ASK)
            assert answer.usage.output_tokens == TOKENS


def body(*, stream: bool) -> dict[str, object]:
    """A plain request to the OpenAI path."""
    return {"model": "m", "messages": ASK, "max_tokens": TOKENS, "stream": stream}


def count(sse: str) -> int:
    """The events with a clock in a stream that came to its end."""
    assert sse.rstrip().endswith("data: [DONE]")
    return len(re.findall(r'"mock":\{"seq":\d+', sse))


def test_httpx(url):
    with httpx.Client(base_url=url) as client:
        assert client.post("/v1/chat/completions", json=body(stream=False)).json()["usage"]
        with client.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert count("".join(answer.iter_text())) == int(answer.headers["X-Mock-Events"])


def test_requests(url):
    with requests.Session() as session:
        address = f"{url}/v1/chat/completions"
        assert session.post(address, json=body(stream=False), timeout=30).json()["usage"]
        with session.post(address, json=body(stream=True), stream=True, timeout=30) as answer:
            text = "".join(part.decode() for part in answer.iter_content(None))
            assert count(text) == int(answer.headers["X-Mock-Events"])


@pytest.mark.parametrize("options", [[], ["--http1.0"], ["-H", "Expect: 100-continue"], ["-H", "Connection: close"]])
def test_curl(url, options):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")

    def run(*, stream: bool) -> str:
        command = [
            curl,
            "-sSfN",
            "-m",
            "30",
            *options,
            f"{url}/v1/chat/completions",
            "-d",
            json.dumps(body(stream=stream)),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert json.loads(run(stream=False))["usage"]["completion_tokens"] == TOKENS
    assert count(run(stream=True)) > TOKENS


def test_curl_uploads_a_file_of_unknown_length(url, tmp_path):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    asked = tmp_path / "body.json"
    asked.write_text(json.dumps({**body(stream=False), "messages": [{"role": "user", "content": "x" * 300_000}]}))
    command = [curl, "-sSf", "-m", "30", "-H", "Transfer-Encoding: chunked", f"{url}/v1/chat/completions"]
    said = subprocess.run([*command, "--data-binary", f"@{asked}"], capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["usage"]["completion_tokens"] == TOKENS
