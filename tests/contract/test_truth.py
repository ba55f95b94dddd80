"""A response that its upstream cut short is cut for the client too; the framing says so (RFC 9112 section 8)."""

from __future__ import annotations

import time

import pytest

from tests.contract.peers import Cut
from tests.contract.running import settled


@pytest.mark.promise("TRUTH-CUT")
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it", id="by its length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nhalf of it", id="inside a chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n", id="between chunks"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n0\r\n", id="in the end"),
    ],
)
def test_a_response_cut_short_stays_incomplete(start, endpoint, answer, end):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(answer)
        head, _, _ = client.response_head()
        assert head.startswith("HTTP/1.1 200")
        getattr(peer, end)()
        with pytest.raises(Cut):
            while True:
                client.receive_some()
    # What was received never held the end of a chunked body: response() below would have accepted it.
    settled(proxy.stats, total=1, failed=1)


@pytest.mark.promise("TRUTH-CUT")
@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_incomplete_response_is_seen_as_such_by_a_strict_client(start, endpoint, framing):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nhello\r\n".encode())
        assert client.response_head()
        peer.close()
        with pytest.raises(Cut) as cut:
            client._chunked() if "chunked" in framing else client.receive(1000)
        assert b"hello" in cut.value.got, "what had come was passed on"


@pytest.mark.promise("TRUTH-CUT")
def test_a_silent_upstream_is_cut_after_the_idle_timeout(start, endpoint):
    proxy = start(endpoint, proxy__idle_timeout="300ms")
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"hello")
        assert client.response_head()
        with pytest.raises(Cut):
            client._chunked()
        assert peer.ended() in ("closed", "reset")


@pytest.mark.promise("TRUTH-CUT")
def test_a_chunked_response_that_breaks_its_framing_is_cut(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"hello")
        assert client.response_head()
        assert client.receive(10) == b"5\r\nhello\r\n"
        peer.send(b"no chunk size\r\n")
        with pytest.raises(Cut):
            client._chunked()


@pytest.mark.promise("TRUTH-CUT-1.0")
@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"],
)
def test_an_http_1_0_client_sees_a_reset_where_a_close_would_look_complete(start, endpoint, answer):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get(version="1.0")
        peer = endpoint.accept()
        peer.request()
        peer.send(answer)
        assert client.response_head()
        assert client.receive(5) == b"hello"
        peer.close()
        with pytest.raises(Cut) as cut:
            client.receive_to_end()
        assert cut.value.how == "reset"


@pytest.mark.promise("TRUTH-CUT-1.0")
def test_a_close_delimited_response_that_is_reset_is_not_ended_cleanly(start, endpoint):
    """RFC 9112 section 8: a close-delimited response is complete only if the close was."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
        assert client.response_head()
        client.receive_until(b"hello")
        peer.reset()
        with pytest.raises(Cut) as cut:
            while True:
                client.receive_some()
        assert b"0\r\n\r\n" not in cut.value.got


@pytest.mark.promise("TRUTH-CUT-1.0")
@pytest.mark.parametrize("then", ["stays", "reset"])
def test_an_answer_that_a_fin_ends_is_whole_though_nobody_takes_the_rest_of_the_request(start, endpoint, then):
    """RFC 9112 section 6.3: such a body is whole at the FIN. What happens to the request later says nothing of it."""
    proxy = start(endpoint)
    with proxy.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: proxy.test\r\nContent-Length: 90000000\r\n\r\n")
        client.send_what_fits(b"x" * 80_000_000, within=0.5)
        peer = endpoint.accept()
        peer.request_head()
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello")
        assert client.response_head()
        client.receive_until(b"hello")
        peer.finish_sending()
        if then == "reset":
            time.sleep(0.2)  # in which the proxy reads the FIN: a reset throws away what was not read
            peer.reset()
        assert client.receive_to_end() in (b"", b"\r\n0\r\n\r\n")
    assert settled(proxy.stats, success=1)["endpoints"]["a"]["failed"] == 0


@pytest.mark.promise("TRUTH-FRAMING")
def test_a_length_stays_a_length(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"hello")
        answer = client.response()
        assert (answer.get("Content-Length"), answer.get("Transfer-Encoding"), answer.body) == ("5", None, b"hello")
        client.get()
        peer.request()
        peer.respond(b"")
        assert client.response().get("Content-Length") == "0"


@pytest.mark.promise("TRUTH-FRAMING")
def test_chunked_stays_chunked(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get()
        peer = endpoint.accept()
        peer.request()
        peer.begin_chunked().chunk(b"hello ").chunk(b"world").chunk(b"")
        answer = client.response()
        assert (answer.get("Content-Length"), answer.get("Transfer-Encoding")) == (None, "chunked")
        assert answer.body == b"hello world"
        client.get()  # and the connection goes on
        peer.request()
        peer.respond()
        assert client.response().status == 200


@pytest.mark.promise("TRUTH-FRAMING")
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_response_that_ends_by_closing_is_re_made_for_its_client(start, endpoint, version):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get(version=version)
        peer = endpoint.accept()
        peer.request()
        peer.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello")
        peer.close()
        answer = client.response()
        assert (answer.status, answer.body) == (200, b"hello")
        if answer.get("Transfer-Encoding") is None:
            assert client.ended() == "closed"
    settled(proxy.stats, success=1)


@pytest.mark.promise("TRUTH-FRAMING")
@pytest.mark.parametrize("keep_alive", [False, True])
def test_an_http_1_0_client_gets_a_chunked_response_that_ends_by_closing(start, endpoint, keep_alive):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/", *(["Connection: keep-alive"] if keep_alive else []), version="1.0")
        peer = endpoint.accept()
        assert "1.1" in peer.request().start
        peer.begin_chunked().chunk(b"hello ").chunk(b"world").chunk(b"")
        answer = client.response()
        assert (answer.body, answer.get("Transfer-Encoding")) == (b"hello world", None)


@pytest.mark.promise("TRUTH-FRAMING")
def test_an_http_1_0_client_that_asks_for_it_keeps_its_connection_where_there_is_a_length(start, endpoint):
    proxy = start(endpoint)
    with proxy.client() as client:
        client.get("/1", "Connection: keep-alive", version="1.0")
        peer = endpoint.accept()
        peer.request()
        peer.respond(b"one")
        answer = client.response()
        assert (answer.body, str(answer.get("Connection")).lower()) == (b"one", "keep-alive")
        client.get("/2", version="1.0")
        peer.request()
        peer.respond(b"two")
        assert client.response().body == b"two"
        assert client.ended() == "closed"
