"""Heads of requests and responses that are not HTTP although aiohttp lets them pass. Copying is core/headers.py's."""

from __future__ import annotations

import re

from aiohttp import ClientResponse, web
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, LineTooLong

from proxy.core.errors import ProxyError
from proxy.core.headers import Pairs

_HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#]+)(.*)")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_CONTROL_IN_REASON = re.compile(_CONTROL.pattern.decode())
# How aiohttp's message shows a request line that begins with a token: a method, though not one that it knows.
_UNKNOWN_METHOD = re.compile(r"""\n\n  b['"][!#$%&'*+.^_`|~0-9A-Za-z-]+ """)


def check_request(request: web.BaseRequest) -> tuple[Pairs, str]:
    """The fields and the path with its query, as received, of a request that is valid HTTP. Raises ProxyError."""
    headers, version, target = request.headers, request.version, request.raw_path
    if request.method == "CONNECT":
        raise ProxyError("not_implemented", "CONNECT")
    coding = headers.get("Transfer-Encoding")
    if coding is not None:
        if version.minor == 0:  # RFC 9112 6.1: faulty framing, whatever it says
            raise ProxyError("bad_request", "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != "chunked":  # llhttp takes any list that ends in chunked
            raise ProxyError("not_implemented", "Transfer-Encoding")
    fields = _decoded(request.raw_headers, "bad_request")
    host = headers.get("Host")
    if host is not None and not _HOST.fullmatch(host):
        raise ProxyError("bad_request", "Host is not valid")
    if not target.startswith("/"):
        if absolute := _ABSOLUTE.fullmatch(target):
            # RFC 9112 3.2.2: the target's authority replaces Host. Where to connect to stays the config's business.
            host, target = absolute[1], absolute[2]
            if not _HOST.fullmatch(host):
                raise ProxyError("bad_request", "the target's authority is not valid")
            target = target if target.startswith("/") else "/" + target
            fields = [(name, host if name.lower() == "host" else value) for name, value in fields]
        elif target != "*" or request.method != "OPTIONS":
            raise ProxyError("bad_request", "the target is neither a path nor a URL")
    if "#" in target or not target.isascii():
        raise ProxyError("bad_request", "the target holds bytes that no URL has")
    return fields, target


def check_response(upstream: ClientResponse) -> Pairs:
    """The fields of a response as received, if they are valid. aiohttp's client parses leniently. Raises ProxyError."""
    if upstream.status < 200:
        raise ProxyError("upstream_invalid", f"an unasked {upstream.status}")
    if upstream.version is None or upstream.version.major != 1:
        raise ProxyError("upstream_invalid", f"version {upstream.version}")
    if _CONTROL.search(b"".join([value for _, value in upstream.raw_headers])):
        raise ProxyError("upstream_invalid", "control bytes in a field")
    if upstream.reason and _CONTROL_IN_REASON.search(upstream.reason):
        raise ProxyError("upstream_invalid", "control bytes in the reason")
    codings = upstream.headers.getall("Transfer-Encoding", ())
    if codings and ([coding.lower() for coding in codings] != ["chunked"] or upstream.version.minor == 0):
        # Another coding would be passed on as content, since the field is not.
        raise ProxyError("upstream_invalid", "Transfer-Encoding")
    return _decoded(upstream.raw_headers, "upstream_invalid")


def refusal(exc: BaseException, max_target: int) -> str:
    """The code in the error table for what aiohttp's parser found wrong with a request's head."""
    message = str(getattr(exc, "message", exc))
    if isinstance(exc, BadHttpMethod):
        return "not_implemented" if _UNKNOWN_METHOD.search(message) else "bad_request"
    if isinstance(exc, LineTooLong):  # the limit tells which line: guard.py gives targets one of their own
        return "target_too_long" if str(exc.args[1]) == str(max_target) else "headers_too_large"
    if isinstance(exc, BadStatusLine) and "Invalid HTTP version" in message:
        return "version_not_supported"
    if message.startswith("Too many headers"):
        return "headers_too_large"
    if message.startswith("Request has invalid `Transfer-Encoding`"):
        return "not_implemented"
    return "bad_request"


def _decoded(raw: tuple[tuple[bytes, bytes], ...], code: str) -> Pairs:
    # `headers` of aiohttp has canonical names and lone surrogates, which it drops when it writes them (aiohttp#3279).
    try:
        return [(name.decode("ascii"), value.decode()) for name, value in raw]
    except UnicodeDecodeError as exc:
        raise ProxyError(code, "a field holds bytes that are not UTF-8") from exc
