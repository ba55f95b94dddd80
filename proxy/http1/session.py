"""Which session a request belongs to, for `load_balancer: consistent-hash`. Pure.

The value is looked up in each request's own fields and kept nowhere: a remembered head (`recall.py`) has fields of its
own too, so that no request gets the session of another.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.config import ProxyConfig
from proxy.http1.recall import Request


def session_reader(proxy: ProxyConfig) -> Callable[[Request], bytes] | None:
    """What reads the value of `hash_header`, empty where a request has none; None if the balancer needs no session.

    The first of several counts. A field that is not sent on, because `Connection` names it, is not seen.
    """
    if proxy.load_balancer != "consistent-hash":
        return None
    find = re.compile(rb"\r\n(?i:" + re.escape(proxy.hash_header.encode()) + rb"):[ \t]*([^\r]*)").search

    def session_of(request: Request) -> bytes:
        found = find(request.kept)
        return found[1].rstrip(b" \t") if found else b""

    return session_of
