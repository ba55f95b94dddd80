"""Heads for the tests of everything that reads heads: what they say, or why they are refused."""

from __future__ import annotations

from proxy.http1.heads import CHUNKED, UNTIL_CLOSE, Limits

LIMITS = Limits(head=65536, fields=100, target=8192, field=16384)


def head(*fields: str, line: str = "POST /v1/chat HTTP/1.1", host: str | None = "me:8080") -> bytes:
    """A request's head."""
    lines = [line, *([f"Host: {host}"] if host is not None else []), *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def answer(*fields: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    """A response's head."""
    return "\r\n".join([line, *fields]).encode("latin-1") + b"\r\n\r\n"


# request head -> method, target, authority, length, keep_alive
ACCEPTED = {
    "a plain GET": (head(line="GET /a?b HTTP/1.1"), (b"GET", b"/a?b", b"me:8080", 0, True)),
    "a length": (head("Content-Length: 3"), (b"POST", b"/v1/chat", b"me:8080", 3, True)),
    "a length with blanks": (head("content-length:\t3 "), (b"POST", b"/v1/chat", b"me:8080", 3, True)),
    "chunked": (head("Transfer-Encoding: Chunked"), (b"POST", b"/v1/chat", b"me:8080", CHUNKED, True)),
    "the last request": (head("Connection: x, CLOSE"), (b"POST", b"/v1/chat", b"me:8080", 0, False)),
    "HTTP/1.0": (head(line="GET / HTTP/1.0", host=None), (b"GET", b"/", b"", 0, False)),
    "HTTP/1.0 kept alive": (
        head("Connection: keep-alive", line="GET / HTTP/1.0"), (b"GET", b"/", b"me:8080", 0, True)
    ),
    "an absolute target": (head(line="GET HTTP://other:99?q HTTP/1.1"), (b"GET", b"/?q", b"other:99", 0, True)),
    "an absolute server": (head(line="OPTIONS http://other:99 HTTP/1.1"), (b"OPTIONS", b"*", b"other:99", 0, True)),
    "the whole server": (head(line="OPTIONS * HTTP/1.1"), (b"OPTIONS", b"*", b"me:8080", 0, True)),
    "two empty lines before": (b"\r\n\r\n" + head(), (b"POST", b"/v1/chat", b"me:8080", 0, True)),
    "an upgrade": (
        head("Upgrade: h2c", "Connection: upgrade", "Content-Length: 3"), (b"POST", b"/v1/chat", b"me:8080", 3, True)
    ),
}  # fmt: skip

# request head -> the code of the error, or all that the log says of it
REFUSED = {
    "no version": (b"GET /\r\nHost: a\r\n\r\n", "bad_request: request line"),
    "HTTP/0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", "version_not_supported: request line"),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "version_not_supported"),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version_not_supported"),
    "HTTP/11": (b"GET / HTTP/11\r\nHost: a\r\n\r\n", "bad_request"),
    "a method that is no token": (b"GE{T / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "a method nobody knows": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "not_implemented: method"),
    "a lower-case method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", "not_implemented"),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", "not_implemented: CONNECT"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "a relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "a fragment in the target": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "* without OPTIONS": (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request: target"),
    "ftp": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "userinfo in the target": (b"GET http://u@h/ HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request: authority"),
    "an empty authority": (b"GET http:/// HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
    "no Host": (head(host=None), "bad_request: Host"),
    "two Hosts": (head("Host: b"), "bad_request"),
    "two Hosts in 1.0": (head("Host: b", line="GET / HTTP/1.0"), "bad_request"),
    "an empty Host": (head(host=""), "bad_request"),
    "a Host with a path": (head(host="a/b"), "bad_request: Host"),
    "a Host with userinfo": (head(host="u@a"), "bad_request"),
    "a Host with a space": (head(host="a b"), "bad_request"),
    "a Host with a bad port": (head(host="a:x"), "bad_request"),
    "Content-Length with Transfer-Encoding": (head("Content-Length: 1", "Transfer-Encoding: chunked"), "bad_request"),
    "Transfer-Encoding with Content-Length": (head("Transfer-Encoding: chunked", "Content-Length: 1"), "bad_request"),
    "two Content-Lengths": (head("Content-Length: 1", "Content-Length: 1"), "bad_request"),
    "a list of Content-Lengths": (head("Content-Length: 1, 1"), "bad_request"),
    "a signed Content-Length": (head("Content-Length: +1"), "bad_request"),
    "a negative Content-Length": (head("Content-Length: -1"), "bad_request"),
    "a hex Content-Length": (head("Content-Length: 0x1"), "bad_request"),
    "an underscored Content-Length": (head("Content-Length: 1_0"), "bad_request"),
    "an empty Content-Length": (head("Content-Length:"), "bad_request"),
    "a huge Content-Length": (head("Content-Length: " + "9" * 19), "bad_request: Content-Length"),
    "a non-ASCII digit": (head("Content-Length: \xb2"), "bad_request"),
    "xchunked": (head("Transfer-Encoding: xchunked"), "not_implemented"),
    "gzip, chunked": (head("Transfer-Encoding: gzip, chunked"), "not_implemented: transfer coding"),
    "a comma before chunked": (head("Transfer-Encoding: ,chunked"), "not_implemented"),
    "chunked twice": (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "not_implemented"),
    "identity": (head("Transfer-Encoding: identity"), "not_implemented"),
    "Transfer-Encoding in 1.0": (
        head("Transfer-Encoding: chunked", line="POST / HTTP/1.0"), "bad_request: Transfer-Encoding in HTTP/1.0"
    ),
    "a space before the colon": (head("A : 1"), "bad_request: Invalid header token"),
    "a folded line": (head("A: 1", " 2"), "bad_request"),
    "a field without a name": (head(": 1"), "bad_request"),
    "a field without a colon": (head("abc"), "bad_request"),
    "NUL": (head("A: 1\x002"), "bad_request"),
    "a control byte": (head("A: 1\x012"), "bad_request"),
    "a bare CR": (head("A: 1\r2"), "bad_request"),
    "a bare LF": (head("A: 1\nB: 2"), "bad_request"),
}  # fmt: skip

# response head -> status, length, keep_alive
ACCEPTED_RESPONSES = {
    "a length": (answer("Content-Length: 5 \t"), (200, 5, True)),
    "chunked": (answer("Transfer-Encoding: chunked"), (200, CHUNKED, True)),
    "no length": (answer(), (200, UNTIL_CLOSE, True)),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 9\r\n\r\n", (200, 9, True)),
    "no content": (answer(line="HTTP/1.1 204 No Content"), (204, 0, True)),
    "not modified": (answer("Content-Length: 9", line="HTTP/1.1 304 Not Modified"), (304, 0, True)),
    "the last response": (answer("Connection: close", "Content-Length: 0"), (200, 0, False)),
    "HTTP/1.0": (answer("Content-Length: 9", line="HTTP/1.0 200 OK"), (200, 9, False)),
}

REFUSED_RESPONSES = [
    b"garbage\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 099 OK\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/2 200\r\n\r\n",
    b"ICY 200 OK\r\n\r\n",
    answer(line="HTTP/1.1 101 Switching Protocols"),
    answer("Upgrade: websocket", "Connection: upgrade", line="HTTP/1.1 101 Switching Protocols"),
    answer("Content-Length: x"),
    answer("Content-Length: 1", "Content-Length: 2"),
    answer("Content-Length: 1", "Content-Length: 1"),
    answer("Content-Length: 1", "Transfer-Encoding: chunked"),
    answer("Transfer-Encoding: gzip, chunked"),
    answer("Transfer-Encoding: gzip"),
    answer("Transfer-Encoding: chunked", line="HTTP/1.0 200 OK"),
    answer("A: \x00"),
    answer("A : 1"),
    answer("A: 1", " folded"),
    answer("Content-Length: " + "9" * 20),
]
