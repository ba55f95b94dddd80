"""The clients people use take these replies for the real thing."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import ollama
import openai
import pytest

from tests.mock_backends.conftest import Running

SAY = [{"role": "user", "content": "hello"}]


@pytest.fixture
def openai_client(mock: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=mock.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(mock: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=mock.url, api_key="none", max_retries=0) as client:
        yield client


def test_openai_chat_says_the_same_streamed_and_whole(openai_client: openai.OpenAI) -> None:
    whole = openai_client.chat.completions.create(model="m", messages=SAY, max_tokens=40)  # type: ignore[call-overload]  # plain dicts
    assert whole.object == "chat.completion"
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 40
    assert whole.usage.prompt_tokens == 2
    chunks = list(openai_client.chat.completions.create(model="m", messages=SAY, max_tokens=40, stream=True))  # type: ignore[call-overload]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert len(chunks) == 40 + 3
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert {chunk.id for chunk in chunks} == {whole.id}


def test_openai_completions_says_the_same_streamed_and_whole(openai_client: openai.OpenAI) -> None:
    whole = openai_client.completions.create(model="m", prompt="hello", max_tokens=9)
    chunks = list(openai_client.completions.create(model="m", prompt="hello", max_tokens=9, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_openai_embeddings_come_as_floats_and_as_base64(openai_client: openai.OpenAI) -> None:
    coded = openai_client.embeddings.create(model="m", input=["one", "two"], dimensions=64)
    floats = openai_client.embeddings.create(model="m", input=["one", "two"], dimensions=64, encoding_format="float")
    assert [len(row.embedding) for row in coded.data] == [64, 64]
    assert coded.data[0].embedding != coded.data[1].embedding
    for a, b in zip(coded.data, floats.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding)


def test_openai_lists_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["mock-model"]


def test_openai_sees_errors_as_its_own(openai_client: openai.OpenAI, mock: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        openai_client.chat.completions.create(model="m", messages=SAY, max_tokens=0)  # type: ignore[call-overload]
    mock.control("behaviour", {"faults": [{"fault": "rate-limit"}]})
    try:
        with pytest.raises(openai.RateLimitError):
            openai_client.chat.completions.create(model="m", messages=SAY)  # type: ignore[call-overload]
        mock.control("behaviour", {"faults": [{"fault": "error-event"}]})
        with pytest.raises(openai.APIError):
            list(openai_client.chat.completions.create(model="m", messages=SAY, stream=True))  # type: ignore[call-overload]
    finally:
        mock.control("behaviour", {"faults": []})


def test_anthropic_says_the_same_streamed_and_whole(anthropic_client: anthropic.Anthropic) -> None:
    whole = anthropic_client.messages.create(model="m", max_tokens=12, messages=SAY)  # type: ignore[arg-type]  # plain dicts
    assert whole.stop_reason == "max_tokens"
    with anthropic_client.messages.stream(model="m", max_tokens=12, messages=SAY) as stream:  # type: ignore[arg-type]
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert final.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 12


def test_anthropic_sees_errors_as_its_own(anthropic_client: anthropic.Anthropic, mock: Running) -> None:
    mock.control("behaviour", {"faults": [{"fault": "error", "status": 529}]})
    try:
        with pytest.raises(anthropic.InternalServerError) as caught:
            anthropic_client.messages.create(model="m", max_tokens=12, messages=SAY)  # type: ignore[arg-type]
    finally:
        mock.control("behaviour", {"faults": []})
    assert caught.value.status_code == 529


def test_ollama_chat_and_generate_say_the_same_streamed_and_whole(mock: Running) -> None:
    client = ollama.Client(host=mock.url)
    whole = client.chat(model="m", messages=SAY, options={"num_predict": 8})
    parts = list(client.chat(model="m", messages=SAY, options={"num_predict": 8}, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done is True
    assert parts[-1].eval_count == whole.eval_count == 8
    assert parts[-1].done_reason == "length"
    told = client.generate(model="m", prompt="hello")
    pieces = list(client.generate(model="m", prompt="hello", stream=True))
    assert "".join(piece.response for piece in pieces) == told.response
    assert told.done_reason == "stop"


def test_ollama_embeds_lists_and_sees_errors_as_its_own(mock: Running) -> None:
    client = ollama.Client(host=mock.url)
    assert [len(row) for row in client.embed(model="m", input=["one", "two"]).embeddings] == [768, 768]
    assert [model.model for model in client.list().models] == ["mock-model"]
    with pytest.raises(ollama.ResponseError, match="num_predict"):
        client.chat(model="m", messages=SAY, options={"num_predict": -7})
