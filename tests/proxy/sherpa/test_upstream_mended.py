"""Notices when aiohttp is as promised: each test shows, on plain aiohttp, what Sherpa's code or BEHAVIOUR.md is for.

A failure here after an update is good news: take the code out, and this test with it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientRequest, ClientSession, web
from aiohttp.client_exceptions import ClientOSError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpRequestParser, HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import _serialize_headers
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict
from yarl import URL

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
QUIET = 0.3


async def _plain(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write_eof(b"ok")
    return response


def talk(handler: Handler, *segments: bytes) -> tuple[bytes, bool]:
    """What a plain aiohttp server says to these segments until it is silent, and whether it then closed."""

    async def run() -> tuple[bytes, bool]:
        server = web.Server(handler)
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(server, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        said = b""
        closed = False
        for segment in segments:
            writer.write(segment)
            await asyncio.sleep(0.05)
        while not closed:
            try:
                data = await asyncio.wait_for(reader.read(65536), QUIET)
            except TimeoutError:
                break
            said += data
            closed = not data
        writer.close()
        listener.close()
        await server.shutdown(0.05)
        return said, closed

    return asyncio.run(run())


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def client_protocol() -> ResponseHandler:
    """aiohttp's client protocol, connected, with an exchange begun. Needs a running loop."""
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.connection_made(_Transport())
    protocol.set_response_params(read_until_eof=True)
    return protocol


def on_a_loop(function: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return function()

    return asyncio.run(run())


def test_the_server_makes_up_server_and_content_type():
    """aiohttp#1958, aiohttp#4612; guard._Plain."""
    said, _ = talk(_plain, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"\r\nServer: Python" in said
    assert b"\r\nContent-Type: application/octet-stream" in said


def test_an_http_1_0_client_that_asked_for_keep_alive_never_sees_the_end_of_a_response_without_length():
    """RelayedResponse closes."""
    said, closed = talk(_plain, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert said.endswith(b"ok")
    assert not closed


def test_what_follows_an_upgrade_in_its_segment_is_lost():
    """The gate: aiohttp sees no Upgrade."""
    upgrade = b"GET /1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    said, closed = talk(_plain, upgrade + b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
    assert said.count(b"HTTP/1.1 200") == 1
    assert not closed


def test_the_last_trailer_becomes_a_field_of_the_next_request():
    """The gate: aiohttp sees no trailers."""
    seen = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        seen.append(dict(request.headers))
        return await _plain(request)

    chunked = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-T: evil\r\n\r\n"
    talk(handler, chunked, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert seen[1] == {"X-T": "evil", "Host": "h"}


def test_a_body_that_breaks_after_its_head_lets_the_handler_hang():
    """The gate: aiohttp sees no broken chunks."""

    async def read(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return await _plain(request)

    head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    said, closed = talk(read, head, b"5\r\nhelloXX\r\n")
    assert said == b""
    assert not closed


def test_a_broken_request_makes_the_server_forget_the_good_one_before_it():
    """The gate: aiohttp sees one request at a time."""
    said, _ = talk(_plain, b"GET /good HTTP/1.1\r\nHost: h\r\n\r\nBROKEN\r\n\r\n")
    assert b"200 OK" not in said


@pytest.mark.parametrize("word", ["header_timeout", "head_timeout", "read_timeout", "write_timeout"])
def test_the_server_has_no_limit_in_time_for_heads_and_writes(word):
    """ClientConnection and WriteTimeout."""
    assert word not in inspect.signature(RequestHandler.__init__).parameters


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\r\nHost: h\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"OPTIONS / RTSP/1.0\r\nHost: h\r\n\r\n",
        b"SOURCE / ICE/1.0\r\nHost: h\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
        b"\n\r\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
)
def test_the_server_takes_heads_that_are_not_http_1_1(head):
    """The gate: aiohttp sees plain heads."""

    def feed() -> Any:
        loop = asyncio.get_running_loop()
        protocol = RequestHandler(web.Server(_plain, loop=loop), loop=loop)
        return HttpRequestParser(protocol, loop, 2**16).feed_data(head)

    messages, _, _ = on_a_loop(feed)
    assert len(messages) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\n\r\n",
        b"RTSP/1.0 200 OK\r\n\r\n",
        b"ICE/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: a\n\n",
        b"\n\rHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_the_client_takes_heads_that_are_not_http_1_1(head):
    """The gate: aiohttp sees judged heads."""

    def feed() -> Any:
        return HttpResponseParser(client_protocol(), asyncio.get_running_loop(), 2**16).feed_data(head)

    messages, _, _ = on_a_loop(feed)
    assert len(messages) == 1


def test_bytes_that_are_not_utf_8_are_cut_out_of_fields():
    """aiohttp#3279; refused in service.py and endpoints.py."""
    value = b"gr\xfc\xdfe".decode("utf-8", "surrogateescape")
    assert _serialize_headers("HTTP/1.1 200 OK", CIMultiDict({"X": value})).endswith(b"X: gre\r\n\r\n")


def test_the_session_loses_repeated_fields_in_mixed_case():
    """endpoints.sending."""

    async def run() -> Any:
        async with ClientSession() as session:
            return session._prepare_headers(CIMultiDict([("X-A", "1"), ("x-a", "2")]))

    assert list(asyncio.run(run()).items()) == [("x-a", "2")]


def test_a_delete_gains_a_length():
    """endpoints.sending."""

    def headers() -> Any:
        return ClientRequest("DELETE", URL("http://h/"), loop=asyncio.get_running_loop()).headers

    assert on_a_loop(headers)["Content-Length"] == "0"


def test_not_chunked_is_chunked():
    """aiohttp#13739; endpoints.sending."""
    assert "if self.chunked is not None" in inspect.getsource(ClientRequest.send)


def test_an_empty_query_is_lost():
    """yarl#293; relay.py builds its URLs in a way that keeps it."""
    assert URL("http://h/path?", encoded=True).raw_path_qs == "/path"
    assert URL.build(scheme="http", authority="h", path="/path?", encoded=True).raw_path_qs == "/path?"


def test_the_retry_of_the_session_cannot_be_switched_off():
    """aiohttp#10790; avoided by UpstreamConnection.set_exception."""
    assert not [name for name in inspect.signature(ClientSession.__init__).parameters if "retry" in name]


def test_an_idle_connection_that_received_a_response_is_taken_for_usable():
    """aiohttp#13656; UpstreamConnection."""

    def receive() -> bool:
        protocol = client_protocol()
        protocol.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL")
        return protocol.is_connected() and protocol.should_close

    assert on_a_loop(receive)


def test_a_chunked_response_that_breaks_lets_its_reader_wait():
    """UpstreamConnection.set_exception."""

    def receive() -> Any:
        protocol = client_protocol()
        protocol.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        payload = protocol._payload
        assert payload is not None
        protocol.data_received(b"broken\r\n")
        protocol.connection_lost(None)
        return payload.exception(), payload.is_eof()

    assert on_a_loop(receive) == (None, False)


def test_a_reset_is_taken_for_the_end_of_a_response():
    """UpstreamConnection.connection_lost."""

    def receive() -> Any:
        protocol = client_protocol()
        protocol.data_received(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
        payload = protocol._payload
        assert payload is not None
        protocol.connection_lost(ClientOSError(104, "reset"))
        return payload.exception(), payload.is_eof()

    assert on_a_loop(receive) == (None, True)


def test_an_interim_response_ends_the_wait_for_the_final_one():
    """Mended by UpstreamConnection.data_received: silence after it would last for ever."""

    def receive() -> Any:
        protocol = client_protocol()
        protocol.read_timeout = 5.0
        protocol.start_timeout()
        waited = protocol._read_timeout_handle is not None
        protocol.data_received(b"HTTP/1.1 102 Processing\r\n\r\n")
        return waited, protocol._read_timeout_handle

    assert on_a_loop(receive) == (True, None)


def test_garbage_after_a_response_takes_the_response_with_it():
    """BEHAVIOUR.md."""

    def feed() -> None:
        parser = HttpResponseParser(client_protocol(), asyncio.get_running_loop(), 2**16)
        parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokGARBAGE")

    with pytest.raises(HttpProcessingError):
        on_a_loop(feed)


def test_the_length_of_a_304_is_dropped():
    """BEHAVIOUR.md."""

    async def unchanged(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=304, headers={"Content-Length": "5"})

    said, _ = talk(unchanged, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"Content-Length" not in said
