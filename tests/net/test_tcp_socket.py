"""What the kernel does with connections whose peer takes nothing."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from support.wait import wait_for

from mcastd.net.tcp_socket import be_watchful, close_at_once, listening


@contextlib.contextmanager
def connection(address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends, of which the second one has a small receive buffer; the first does not block."""
    with ExitStack() as stack:
        listener = stack.enter_context(listening(ip_address(address), 0))
        listener.settimeout(30)
        peer = stack.enter_context(socket.socket(listener.family))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(30)
        peer.connect(listener.getsockname()[:2])
        sock, _ = listener.accept()
        stack.enter_context(sock)
        sock.setblocking(False)
        yield sock, peer


def fill(sock: socket.socket) -> int:
    """How many bytes it takes now, if nobody reads."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            size += sock.send(bytes(65536))
    return size


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_peer_that_is_there_and_takes_nothing_is_given_up(address: str) -> None:
    """TCP_USER_TIMEOUT counts from when its window was closed, though it answers each probe."""
    with connection(address) as (sock, _):
        be_watchful(sock, 1000)
        fill(sock)

        def failed() -> int:
            try:
                sock.send(b"x")
            except BlockingIOError:
                return 0
            except OSError as error:
                return error.errno or 0
            return 0

        assert wait_for(failed, "the end") == errno.ETIMEDOUT


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_is_closed_at_once_leaves_nothing(address: str) -> None:
    with connection(address) as (sock, peer):
        size, got = fill(sock), 0
        close_at_once(sock)
        with contextlib.suppress(ConnectionResetError):
            while data := peer.recv(65536):
                got += len(data)
            pytest.fail("it was closed in order")
        assert got < size


def test_what_is_written_goes_at_once_and_a_peer_that_is_no_more_is_found() -> None:
    with connection("127.0.0.1") as (sock, _):
        be_watchful(sock)
        options = socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL
        found = [sock.getsockopt(socket.IPPROTO_TCP, option) for option in options]
        assert found == [1, 30_000, 10, 10]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_port_is_had_again_at_once_and_by_each_ip_version() -> None:
    with connection("::1") as (sock, peer):
        port = sock.getsockname()[1]
        sock.close()  # this end first: then the kernel keeps it for a while (TIME_WAIT)
        assert peer.recv(9) == b""
    with listening(ip_address("::"), port), listening(ip_address("0.0.0.0"), port):
        pass
