"""What the servers people run understand and say: requests read into an `Ask`, replies as ready bytes (pure).

One `Dialect` per path. Each reply carries its clock as the last member of every JSON object it sends:
`"mock":{"seq":S,"ns":"DDDDDDDDDDDDDDDDDDDD"}`, here with 20 zeros where the player will write the time. Clients of the
real servers ignore it: the tests run the openai, ollama and anthropic packages against these bytes.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

ZEROS = b"0" * 20
MAX_TOKENS = 1_000_000
MAX_EVENT_BYTES = 2**20
MAX_REPLY_BYTES = 2**28
MAX_INPUTS = 2048

JSON = b"application/json"
SSE = b"text/event-stream; charset=utf-8"
NDJSON = b"application/x-ndjson"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"

_CREATED = 1_700_000_000  # a constant: the same request gives the same bytes in any year
_CREATED_AT = b"2023-11-14T22:13:20.000000000Z"


class BadRequest(Exception):
    """A request this server would turn away; the message is for the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


Options = tuple[int | None, int | None, int | None, int | None]


class Ask(NamedTuple):
    """Everything a reply depends on, beside the profile and the seed of the mock. Equal asks get equal bytes."""

    path: bytes
    model: str
    stream: bool = False
    tokens: int | None = None  # output tokens asked for; None: the profile draws
    seed: int | None = None
    prompt_tokens: int = 0
    inputs: int = 1  # embeddings: how many vectors
    dimensions: int | None = None
    base64: bool = False
    options: Options = (None, None, None, None)  # asked for by X-Mock-* headers

    @property
    def body_bytes(self) -> int | None:
        """Exact size of a body that is not streamed."""
        return self.options[0]

    @property
    def event_bytes(self) -> int | None:
        """Exact size of a content event."""
        return self.options[1]

    @property
    def events(self) -> int | None:
        """How many content events."""
        return self.options[2]

    @property
    def chunk_bytes(self) -> int | None:
        """Size of the chunks of a body that is not streamed."""
        return self.options[3]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be said, whatever the dialect: drawn by `script`, rendered here."""

    ask: Ask
    id: str  # hexadecimal, 24 digits
    texts: Sequence[bytes]  # one for each content event: UTF-8, escaped as JSON
    output_tokens: int
    limited: bool  # the request's own limit ended it
    first_ns: int  # when the first content event is due
    total_ns: int  # when the last one is
    rng: Random  # for vectors
    dimensions: int
    models: Sequence[str]

    @property
    def model(self) -> bytes:
        """The model's name as a JSON string, quotes included."""
        return json.dumps(self.ask.model).encode()


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed reply, without its clocks: each part still lacks `"mock":{...}}` and the blank line."""

    opening: Sequence[bytes]
    content: tuple[bytes, bytes]  # what stands before and after the text of each content event
    closing: Sequence[bytes]
    end: bytes  # what ends each event
    trailer: bytes = b""  # raw bytes after the last event, in the same write


Whole = tuple[bytes, bytes]  # what stands before and after the text of a non-streamed reply, likewise


def clock(seq: int) -> bytes:
    """The member that ends every JSON object, its digits still zeros, and the object's closing brace."""
    return b'"mock":{"seq":%d,"ns":"%b"}}' % (seq, ZEROS)


# --- words ----------------------------------------------------------------------------------------

_SYLLABLES = ["ta", "ren", "mo", "li", "sun", "ka", "ver", "no", "pel", "dri", "os", "ing", "ex", "bra", "tion", "ul"]
# 256 tokens: mostly plain, a few that need escapes or more than one byte a letter, as real text does.
_SPECIAL = ["\n", '"', "\\", "\t", ".\n\n", " é", " 東京", " 🙂", " naïve", " <b>", "&", " {", "}", ":", ", ", "."]
WORDS: tuple[bytes, ...] = tuple(
    json.dumps(word, ensure_ascii=False)[1:-1].encode()
    for word in [*_SPECIAL, *(" " + a + b for a in _SYLLABLES for b in _SYLLABLES)][:256]
)
_FILLER = b"the quick brown fox jumps over the lazy dog and sees that it was good, then does so once more. " * 44


def filler(n: int) -> bytes:
    """Exactly `n` bytes of plain text that needs no escapes."""
    return _FILLER[:n] if n <= len(_FILLER) else (_FILLER * (n // len(_FILLER) + 1))[:n]


# --- reading requests ------------------------------------------------------------------------------

Fields = Mapping[str, Any]  # the JSON object a client sent


def _string(fields: Fields, key: str, default: str) -> str:
    value = fields.get(key)
    if value is None:
        return default
    if type(value) is not str or not 0 < len(value) <= 256:
        raise BadRequest(f"{key!r} must be a string of 1 to 256 characters")
    return value


def _flag(fields: Fields, key: str, default: bool) -> bool:
    value = fields.get(key)
    if value is None:
        return default
    if type(value) is not bool:
        raise BadRequest(f"{key!r} must be true or false")
    return value


def _number(fields: Fields, key: str, low: int, high: int) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{key!r} must be a whole number from {low} to {high}")
    return value


def _seed(fields: Fields) -> int | None:
    return _number(fields, "seed", -(2**63), 2**63 - 1)


def _text_bytes(value: Any) -> int:
    """The bytes of all text in a prompt: a string, or parts, messages and lists of them."""
    kind = type(value)
    if kind is str:
        return len(value) if value.isascii() else len(value.encode())
    if kind is dict:
        return _text_bytes(value.get("content", value.get("text")))
    if kind is list:
        if value and type(value[0]) is int:  # token numbers: about 4 bytes of text each
            return 4 * len(value)
        total = 0
        for part in value:
            total += _text_bytes(part)
        return total
    return 0


def _tokens(text_bytes: int) -> int:
    """Prompt tokens, at 4 bytes each."""
    return (text_bytes + 3) // 4


def prompt_tokens(prompt: Any) -> int:
    """The tokens of a prompt: a string, or parts, messages and lists of them."""
    return _tokens(_text_bytes(prompt))


def _openai(fields: Fields, path: bytes, model: str, options: Options) -> Ask:
    if fields.get("n") not in (None, 1):
        raise BadRequest("this mock gives one choice: leave 'n' out or make it 1")
    tokens = _number(fields, "max_completion_tokens", 1, MAX_TOKENS)
    return Ask(
        path,
        _string(fields, "model", model),
        _flag(fields, "stream", False),
        _number(fields, "max_tokens", 1, MAX_TOKENS) if tokens is None else tokens,
        _seed(fields),
        _tokens(_text_bytes(fields.get("messages", fields.get("prompt")))),
        options=options,
    )


def _anthropic(fields: Fields, path: bytes, model: str, options: Options) -> Ask:
    return Ask(
        path,
        _string(fields, "model", model),
        _flag(fields, "stream", False),
        _number(fields, "max_tokens", 1, MAX_TOKENS),
        _seed(fields),
        _tokens(_text_bytes(fields.get("system")) + _text_bytes(fields.get("messages"))),
        options=options,
    )


def _ollama(fields: Fields, path: bytes, model: str, options: Options) -> Ask:
    settings = fields.get("options")
    if settings is None:
        settings = {}
    elif type(settings) is not dict:
        raise BadRequest("'options' must be an object")
    tokens = _number(settings, "num_predict", -2, MAX_TOKENS)
    seed = _seed(settings)
    prompt = _text_bytes(fields.get("messages", fields.get("prompt")))
    return Ask(
        path,
        _string(fields, "model", model),
        _flag(fields, "stream", True),
        tokens if tokens is not None and tokens > 0 else None,  # -1 and -2 ask for no limit
        _seed(fields) if seed is None else seed,
        _tokens(_text_bytes(fields.get("system")) + prompt),
        options=options,
    )


def _embedding(fields: Fields, path: bytes, model: str, options: Options) -> Ask:
    given = fields.get("input")
    if type(given) is str or (type(given) is list and given and type(given[0]) is int):
        inputs = 1
    elif type(given) is list and 0 < len(given) <= MAX_INPUTS:
        inputs = len(given)
    else:
        raise BadRequest(f"'input' must be a string or a list of 1 to {MAX_INPUTS} of them")
    coding = fields.get("encoding_format", "float")
    if coding not in ("float", "base64"):
        raise BadRequest("'encoding_format' must be float or base64")
    settings = fields.get("options")
    return Ask(
        path,
        _string(fields, "model", model),
        seed=_seed(settings if type(settings) is dict else fields),
        prompt_tokens=_tokens(_text_bytes(given)),
        inputs=inputs,
        dimensions=_number(fields, "dimensions", 1, 65_536),
        base64=coding == "base64",
        options=options,
    )


def _nothing(fields: Fields, path: bytes, model: str, options: Options) -> Ask:
    """For paths without a body."""
    return Ask(path, model, options=options)


# --- OpenAI ---------------------------------------------------------------------------------------


def _openai_usage(a: Answer) -> bytes:
    prompt, output = a.ask.prompt_tokens, a.output_tokens
    return b'"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d},' % (prompt, output, prompt + output)


def _openai_finish(a: Answer) -> bytes:
    return b"length" if a.limited else b"stop"


def _chat_stream(a: Answer) -> Stream:
    start = b'data: {"id":"chatcmpl-%b","object":"chat.completion.chunk","created":%d,"model":%b,' % (
        a.id.encode(),
        _CREATED,
        a.model,
    )
    choice = start + b'"choices":[{"index":0,"delta":'
    return Stream(
        opening=[choice + b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'],
        content=(choice + b'{"content":"', b'"},"logprobs":null,"finish_reason":null}],'),
        closing=[
            choice + b'{},"logprobs":null,"finish_reason":"%b"}],' % _openai_finish(a),
            start + b'"choices":[],' + _openai_usage(a),
        ],
        end=b"\n\n",
        trailer=b"data: [DONE]\n\n",
    )


def _chat_whole(a: Answer) -> Whole:
    return (
        b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,"message":'
        b'{"role":"assistant","content":"' % (a.id.encode(), _CREATED, a.model),
        b'","refusal":null},"logprobs":null,"finish_reason":"%b"}],%b' % (_openai_finish(a), _openai_usage(a)),
    )


def _completion_stream(a: Answer) -> Stream:
    start = b'data: {"id":"cmpl-%b","object":"text_completion","created":%d,"model":%b,' % (
        a.id.encode(),
        _CREATED,
        a.model,
    )
    choice = start + b'"choices":[{"index":0,"text":"'
    return Stream(
        opening=[],
        content=(choice, b'","logprobs":null,"finish_reason":null}],'),
        closing=[
            choice + b'","logprobs":null,"finish_reason":"%b"}],' % _openai_finish(a),
            start + b'"choices":[],' + _openai_usage(a),
        ],
        end=b"\n\n",
        trailer=b"data: [DONE]\n\n",
    )


def _completion_whole(a: Answer) -> Whole:
    return (
        b'{"id":"cmpl-%b","object":"text_completion","created":%d,"model":%b,"choices":[{"index":0,"text":"'
        % (a.id.encode(), _CREATED, a.model),
        b'","logprobs":null,"finish_reason":"%b"}],%b' % (_openai_finish(a), _openai_usage(a)),
    )


def _models(a: Answer) -> Whole:
    row = b'{"id":%b,"object":"model","created":%d,"owned_by":"mock"}'
    rows = b",".join(row % (json.dumps(name).encode(), _CREATED) for name in a.models)
    return b'{"object":"list","data":[%b],' % rows, b""


# --- vectors --------------------------------------------------------------------------------------

_VALUES = [round((i - 127.5) / 2048, 6) for i in range(256)]  # a vector draws its numbers from these
_AS_TEXT = [repr(value).encode() for value in _VALUES]
_AS_FLOAT32 = [struct.pack("<f", value) for value in _VALUES]


def _vector(a: Answer) -> bytes:
    draws = a.rng.randbytes(a.ask.dimensions or a.dimensions)
    if a.ask.base64:
        return b'"%b"' % base64.b64encode(b"".join([_AS_FLOAT32[i] for i in draws]))
    return b"[%b]" % b",".join([_AS_TEXT[i] for i in draws])


def _openai_embedding(a: Answer) -> Whole:
    rows = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (i, _vector(a)) for i in range(a.ask.inputs))
    usage = b'"usage":{"prompt_tokens":%d,"total_tokens":%d},' % (a.ask.prompt_tokens, a.ask.prompt_tokens)
    return b'{"object":"list","data":[%b],"model":%b,%b' % (rows, a.model, usage), b""


def _ollama_embedding(a: Answer) -> Whole:
    rows = b",".join(_vector(a) for _ in range(a.ask.inputs))
    return (
        b'{"model":%b,"embeddings":[%b],"total_duration":%d,"load_duration":0,"prompt_eval_count":%d,'
        % (a.model, rows, a.total_ns, a.ask.prompt_tokens),
        b"",
    )


# --- Ollama ---------------------------------------------------------------------------------------


def _ollama_done(a: Answer) -> bytes:
    return (
        b'"done_reason":"%b","done":true,"total_duration":%d,"load_duration":0,"prompt_eval_count":%d,'
        b'"prompt_eval_duration":%d,"eval_count":%d,"eval_duration":%d,'
        % (
            _openai_finish(a),
            a.total_ns,
            a.ask.prompt_tokens,
            a.first_ns,
            a.output_tokens,
            a.total_ns - a.first_ns,
        )
    )


def _ollama_says(before: bytes, after: bytes) -> tuple[Callable[[Answer], Stream], Callable[[Answer], Whole]]:
    """Both replies of an Ollama endpoint, which differ only in what stands around the text."""

    def start(a: Answer) -> bytes:
        return b'{"model":%b,"created_at":"%b",%b' % (a.model, _CREATED_AT, before)

    def stream(a: Answer) -> Stream:
        return Stream(
            opening=[],
            content=(start(a), after + b'"done":false,'),
            closing=[start(a) + after + _ollama_done(a)],
            end=b"\n",
        )

    def whole(a: Answer) -> Whole:
        return start(a), after + _ollama_done(a)

    return stream, whole


def _tags(a: Answer) -> Whole:
    row = (
        b'{"name":%b,"model":%b,"modified_at":"%b","size":4661224676,"digest":"%b","details":{"parent_model":"",'
        b'"format":"gguf","family":"mock","families":["mock"],"parameter_size":"8.0B","quantization_level":"Q4_0"}}'
    )
    names = [json.dumps(name).encode() for name in a.models]
    return b'{"models":[%b],' % b",".join(row % (n, n, _CREATED_AT, b"0" * 64) for n in names), b""


# --- Anthropic ------------------------------------------------------------------------------------


def _anthropic_stop(a: Answer) -> bytes:
    return b"max_tokens" if a.limited else b"end_turn"


def _message(a: Answer, content: bytes, stop: bytes, output_tokens: int) -> bytes:
    return (
        b'"id":"msg_%b","type":"message","role":"assistant","model":%b,"content":[%b],"stop_reason":%b,'
        b'"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":%d}'
        % (a.id.encode(), a.model, content, stop, a.ask.prompt_tokens, output_tokens)
    )


def _messages_stream(a: Answer) -> Stream:
    def named(name: bytes, members: bytes) -> bytes:
        return b'event: %b\ndata: {"type":"%b",%b' % (name, name, members)

    return Stream(
        opening=[
            named(b"message_start", b'"message":{%b},' % _message(a, b"", b"null", 1)),
            named(b"content_block_start", b'"index":0,"content_block":{"type":"text","text":""},'),
            named(b"ping", b""),
        ],
        content=(named(b"content_block_delta", b'"index":0,"delta":{"type":"text_delta","text":"'), b'"},'),
        closing=[
            named(b"content_block_stop", b'"index":0,'),
            named(
                b"message_delta",
                b'"delta":{"stop_reason":"%b","stop_sequence":null},"usage":{"output_tokens":%d},'
                % (_anthropic_stop(a), a.output_tokens),
            ),
            named(b"message_stop", b""),
        ],
        end=b"\n\n",
    )


def _messages_whole(a: Answer) -> Whole:
    marked = _message(a, b'{"type":"text","text":"\0"}', b'"%b"' % _anthropic_stop(a), a.output_tokens)
    before, _, after = marked.partition(b"\0")  # a NUL cannot stand in JSON otherwise
    return b"{" + before, after + b","


# --- errors ---------------------------------------------------------------------------------------


def _openai_error(status: int, message: str) -> bytes:
    kind = {400: "invalid_request_error", 404: "invalid_request_error", 429: "rate_limit_exceeded"}.get(status)
    return json.dumps(
        {"error": {"message": message, "type": kind or "server_error", "param": None, "code": status}}
    ).encode()


def _ollama_error(status: int, message: str) -> bytes:
    return json.dumps({"error": message}).encode()


def _anthropic_error(status: int, message: str) -> bytes:
    kind = {400: "invalid_request_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
    return json.dumps({"type": "error", "error": {"type": kind.get(status, "api_error"), "message": message}}).encode()


def error_event(error: bytes, stream_type: bytes) -> bytes:
    """How a stream of this type says, after it began with 200, that it failed."""
    if stream_type == NDJSON:
        return error + b"\n"
    return (b"event: error\n" if error.startswith(b'{"type"') else b"") + b"data: " + error + b"\n\n"


# --- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one path understands and answers. `stream` is None where nothing is streamed."""

    method: bytes
    read: Callable[[Fields, bytes, str, Options], Ask]  # of fields, path, default model, options; may raise BadRequest
    whole: Callable[[Answer], Whole] | None
    stream: Callable[[Answer], Stream] | None
    stream_type: bytes
    error: Callable[[int, str], bytes]
    busy: int  # the status with which such a server says that its queue is full

    @property
    def generates(self) -> bool:
        """Whether answering takes the model's time (and a profile's)."""
        return self.method == b"POST"


_OLLAMA_CHAT = _ollama_says(b'"message":{"role":"assistant","content":"', b'"},')
_OLLAMA_GENERATE = _ollama_says(b'"response":"', b'",')

DIALECTS: dict[bytes, Dialect] = {
    b"/v1/chat/completions": Dialect(b"POST", _openai, _chat_whole, _chat_stream, SSE, _openai_error, 503),
    b"/v1/completions": Dialect(b"POST", _openai, _completion_whole, _completion_stream, SSE, _openai_error, 503),
    b"/v1/embeddings": Dialect(b"POST", _embedding, _openai_embedding, None, JSON, _openai_error, 503),
    b"/v1/models": Dialect(b"GET", _nothing, _models, None, JSON, _openai_error, 503),
    b"/v1/messages": Dialect(b"POST", _anthropic, _messages_whole, _messages_stream, SSE, _anthropic_error, 529),
    b"/api/chat": Dialect(b"POST", _ollama, _OLLAMA_CHAT[1], _OLLAMA_CHAT[0], NDJSON, _ollama_error, 503),
    b"/api/generate": Dialect(b"POST", _ollama, _OLLAMA_GENERATE[1], _OLLAMA_GENERATE[0], NDJSON, _ollama_error, 503),
    b"/api/embed": Dialect(b"POST", _embedding, _ollama_embedding, None, JSON, _ollama_error, 503),
    b"/api/tags": Dialect(b"GET", _nothing, _tags, None, JSON, _ollama_error, 503),
}
