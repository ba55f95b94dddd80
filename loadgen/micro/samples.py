"""The messages that benchmarks work on: what the official OpenAI client and a model server really send."""

from __future__ import annotations

REQUEST_FIELDS: tuple[tuple[str, str], ...] = (
    ("Host", "127.0.0.1:8080"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Connection", "keep-alive"),
    ("Accept", "application/json"),
    ("Content-Type", "application/json"),
    ("User-Agent", "OpenAI/Python 1.90.0"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-Package-Version", "1.90.0"),
    ("X-Stainless-OS", "Linux"),
    ("X-Stainless-Arch", "x64"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.11.7"),
    ("X-Stainless-Async", "false"),
    ("X-Stainless-Retry-Count", "0"),
    ("X-Stainless-Read-Timeout", "600"),
    ("Authorization", "Bearer sk-0000000000000000000000000000000000000000000000"),
)

BODY = b'{"model":"mock-model","messages":[{"role":"user","content":"' + b"word " * 190 + b'"}],"max_tokens":64}'

RESPONSE_FIELDS: tuple[tuple[str, str], ...] = (
    ("Date", "Mon, 03 Aug 2026 10:11:12 GMT"),
    ("Server", "uvicorn"),
    ("Content-Type", "application/json"),
    ("Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("X-Request-ID", "req-0123456789"),
    ("X-Ratelimit-Remaining-Requests", "9999"),
    ("Openai-Processing-Ms", "412"),
)

REPLY = b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"message":{"content":"' + b"word " * 280 + b'"}}]}'

EVENT = (
    b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1700000000,"model":"mock-model",'
    b'"choices":[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}]}\n\n'
)
EVENTS = 32


def head(start_line: str, fields: tuple[tuple[str, str], ...], *more: tuple[str, str]) -> bytes:
    """A message's head, the empty line included."""
    lines = [start_line, *(f"{name}: {value}" for name, value in (*fields, *more)), "", ""]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


REQUEST_HEAD = head("POST /v1/chat/completions HTTP/1.1", REQUEST_FIELDS, ("Content-Length", str(len(BODY))))
REQUEST = REQUEST_HEAD + BODY
RESPONSE_HEAD = head("HTTP/1.1 200 OK", RESPONSE_FIELDS, ("Content-Length", str(len(REPLY))))
RESPONSE = RESPONSE_HEAD + REPLY
STREAM_HEAD = head(
    "HTTP/1.1 200 OK", (("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")),
    ("Transfer-Encoding", "chunked"),
)  # fmt: skip
STREAM = (STREAM_HEAD, *[chunk(EVENT)] * EVENTS, b"0\r\n\r\n")
