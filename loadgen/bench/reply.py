"""One reply, asked for and checked before anything is timed: no right answer, no measurement."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadgen.wire.stream import BodyScanner
from loadgen.workload.job import MAX_TOKENS_MARK, PROMPT_MARK, SEED_MARK, Template

_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Received:
    """What came back: status, digest of the body with clock digits zeroed, events, and what the mock said of it."""

    status: int
    digest: str
    events: int
    stated_digest: str | None
    stated_events: int | None


def ask_once(
    url: str, template: Template, prompt_bytes: int = 64, max_tokens: int = 8, ca: str | None = None
) -> Received:
    """Sends one request of this template. Raises OSError or http.client.HTTPException when no reply comes.

    `ca`: for https, a file of certificates to trust instead of the system's.
    """
    parts = urlsplit(url)
    body = template.body.replace(PROMPT_MARK, "x" * prompt_bytes)
    body = body.replace(MAX_TOKENS_MARK, str(max_tokens)).replace(SEED_MARK, "0")
    host, port = parts.hostname or "", parts.port
    if parts.scheme == "https":
        how = ssl.create_default_context(cafile=ca)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=_WAIT_S, context=how)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_WAIT_S)
    try:
        headers = {name: value.replace(SEED_MARK, "0") for name, value in template.headers.items()}
        headers["Connection"] = "close"
        connection.request(template.method, parts.path.rstrip("/") + template.path, body.encode() or None, headers)
        answer = connection.getresponse()
        scanner = BodyScanner()
        scanner.feed(answer.read(), time.monotonic_ns(), 0)
        stated_events = answer.headers.get("X-Mock-Events")
        return Received(
            status=answer.status,
            digest=scanner.digest().decode(),
            events=scanner.events,
            stated_digest=answer.headers.get("X-Mock-Digest"),
            stated_events=None if stated_events is None else int(stated_events),
        )
    finally:
        connection.close()


def what_is_wrong(reply: Received, template: Template, *, from_mock: bool) -> str | None:
    """Pure: the sentence about the first difference from what was expected, None if there is none.

    `from_mock`: the reply must carry the mock's own statements; false for targets that re-make replies.
    """
    expect = template.expect
    what = f"{template.method} {template.path}"
    if reply.status != expect.status:
        return f"{what} was answered with {reply.status} instead of {expect.status}"
    if not from_mock:
        return None
    if reply.stated_digest is None:
        return (
            f"{what}: the reply does not carry X-Mock-Digest: it is not from a mock of this campaign. "
            "Let compare start the proxy (--target NAME=COMMAND), or measure without mocks (--real)"
        )
    if reply.digest != reply.stated_digest:
        return f"{what}: the reply is not the one the mock sent (its digest differs)"
    if expect.digest is not None and reply.digest != expect.digest:
        return f"{what}: the mock sent {reply.digest}, the scenario pins {expect.digest}"
    if reply.stated_events is not None and reply.events != reply.stated_events:
        return f"{what}: {reply.events} events came where the mock sent {reply.stated_events}"
    if expect.events is not None and reply.events != expect.events:
        return f"{what}: {reply.events} events came where the scenario expects {expect.events}"
    return None
