"""The head of an answer where it cannot be passed on as it came. Pure.

Most answers need nothing but the proxy's own fields, and the exchange joins those itself. Here are the others: HTTP/1.0
clients, connections that must close, answers before the request's end.
"""

from __future__ import annotations

from typing import NamedTuple

from proxy.http1.heads import CHUNKED, UNTIL_CLOSE
from proxy.http1.recall import Response, Traits


class Answer(NamedTuple):
    """How an answer is sent."""

    head: bytes
    length: int  # of the body as the client gets it: bytes, CHUNKED or UNTIL_CLOSE
    decoded: bool  # the body comes chunked and goes out without chunks
    keep_alive: bool  # the client's connection can serve another request afterwards


def make_answer(response: Response, traits: Traits, own_fields: bytes, may_stay_open: bool) -> Answer:
    """The answer to a request with these traits.

    `own_fields`: whole lines of the proxy. `may_stay_open`: the request arrived whole and the engine is not stopping.
    """
    line, length = response.line, response.length
    decoded = traits.http10 and length == CHUNKED
    if decoded:  # such a client knows no chunks: its body ends when we close
        line = line.replace(b"Transfer-Encoding: chunked\r\n", b"")
        length = UNTIL_CLOSE
    keep_alive = traits.keep_alive and may_stay_open and length != UNTIL_CLOSE
    connection = b""
    if not keep_alive:
        connection = b"Connection: close\r\n"
    elif traits.http10:
        connection = b"Connection: keep-alive\r\n"
    return Answer(b"".join((line, connection, own_fields, response.fields)), length, decoded, keep_alive)
