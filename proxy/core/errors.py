"""Every error a proxy answers by itself: who is to blame, the status, and what the client reads.

`ERRORS` is the one table. Bodies are OpenAI-style JSON, so that an SDK raises its own typed exception. A message never
holds an upstream's address, a header's value or a stack trace.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the table. `blame` is client, endpoint or proxy; `close`: the client's connection cannot go on."""

    code: str
    status: int
    type: str
    blame: str
    message: str
    close: bool = False
    retry_after: int | None = None


_CLIENT, _SERVER, _BUSY = "invalid_request_error", "upstream_error", "server_busy"

ERRORS: dict[str, ErrorKind] = {
    kind.code: kind
    for kind in (
        ErrorKind("bad_request", 400, _CLIENT, "client", "The request is not valid HTTP/1.1.", close=True),
        ErrorKind("request_timeout", 408, _CLIENT, "client", "The request did not arrive in time.", close=True),
        ErrorKind("body_too_large", 413, _CLIENT, "client", "The request body is larger than allowed.", close=True),
        ErrorKind("target_too_long", 414, _CLIENT, "client", "The request target is longer than allowed.", close=True),
        ErrorKind("headers_too_large", 431, _CLIENT, "client", "The request head is larger than allowed.", close=True),
        ErrorKind("not_implemented", 501, _CLIENT, "client", "The method or transfer coding is not known.", close=True),
        ErrorKind("version_not_supported", 505, _CLIENT, "client", "Only HTTP/1.0 and HTTP/1.1 are known.", close=True),
        ErrorKind("loop_detected", 508, _CLIENT, "client", "The request already passed through this proxy."),
        ErrorKind("upstream_unreachable", 502, _SERVER, "endpoint", "The model server could not be reached."),
        ErrorKind("upstream_closed", 502, _SERVER, "endpoint", "The model server closed the connection unanswered."),
        ErrorKind("upstream_invalid", 502, _SERVER, "endpoint", "The model server's answer is not valid HTTP."),
        ErrorKind("upstream_timeout", 504, _SERVER, "endpoint", "The model server did not answer in time."),
        ErrorKind("no_endpoint", 503, _BUSY, "proxy", "No model server is available.", retry_after=5),
        ErrorKind("pool_timeout", 503, _BUSY, "proxy", "All connections to the model servers are busy.", retry_after=1),
        ErrorKind("too_many_requests_in_flight", 503, _BUSY, "proxy", "The proxy is at its limit.", retry_after=1),
        ErrorKind("internal_error", 500, "server_error", "proxy", "The proxy failed on this request.", close=True),
    )
}  # fmt: skip


class ProxyError(Exception):
    """An error of the table on its way to the client. `detail` is for logs only, never for the client."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.kind = ERRORS[code]
        self.detail = detail


def error_body(kind: ErrorKind) -> bytes:
    """The JSON body of an error, UTF-8."""
    error = {"message": kind.message, "type": kind.type, "code": kind.code, "param": None}
    return json.dumps({"error": error}).encode()


def render_error(kind: ErrorKind) -> tuple[bytes, bytes]:
    """An error's head up to its last fields, and its body."""
    body = error_body(kind)
    phrase = HTTPStatus(kind.status).phrase
    retry = f"Retry-After: {kind.retry_after}\r\n" if kind.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {kind.status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{retry}"
    )
    return head.encode(), body
