"""Listening sockets and the sentences when an address cannot be had."""

import errno
import socket

import pytest

from proxy.net.listen import CannotListen, listen, listen_again, url_of


@pytest.fixture
def taken():
    with listen("127.0.0.1", 0, key="server") as sock:
        yield sock.getsockname()[1]


def test_a_socket_listens_without_blocking_or_delay():
    with listen("127.0.0.1", 0, key="server") as sock:
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with socket.create_connection(sock.getsockname()[:2], timeout=5):
            pass


def test_a_taken_port_is_one_sentence_with_what_to_do(taken):
    with pytest.raises(CannotListen) as caught:
        listen("127.0.0.1", taken, key="server")
    assert str(caught.value) == (
        f"server.port: {taken} on 127.0.0.1 is in use; stop that program or take another port (0: a free one)"
    )


def test_a_port_that_another_program_shares_is_not_shared_silently():
    with (
        listen("127.0.0.1", 0, key="server", shared=True) as other,
        pytest.raises(CannotListen, match="in use"),
    ):
        listen("127.0.0.1", other.getsockname()[1], key="server", shared=True)


def test_workers_sockets_share_one_port():
    with listen("127.0.0.1", 0, key="server", shared=True) as first, listen_again(first) as second:
        assert first.getsockname() == second.getsockname()
        assert first.fileno() != second.fileno()


@pytest.mark.parametrize("host", ["203.0.113.77", "no such name", "a" * 80 + ".example"])
def test_an_address_that_is_not_ours_names_the_key_and_the_host(host):
    with pytest.raises(CannotListen, match=r"admin\.host: ") as caught:
        listen(host, 0, key="admin")
    assert host in str(caught.value)


def test_a_machine_without_ipv6_is_one_sentence(monkeypatch):
    def no_ipv6(family, kind):
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", no_ipv6)
    with pytest.raises(CannotListen, match=r"^server\.host: :: is an IPv6 address, and this machine has no IPv6"):
        listen("::", 8080, key="server")


def test_localhost_is_ipv4_first():
    with listen("localhost", 0, key="server") as sock:
        assert sock.family == socket.AF_INET


def test_a_wildcard_is_shown_as_an_address_that_can_be_opened():
    with listen("0.0.0.0", 0, key="server") as sock:
        assert url_of(sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6_is_bracketed_in_the_url():
    try:
        sock = listen("::1", 0, key="server")
    except CannotListen as exc:
        pytest.skip(f"no IPv6 loopback here: {exc}")
    with sock:
        assert url_of(sock) == f"http://[::1]:{sock.getsockname()[1]}"
