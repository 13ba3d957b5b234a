"""Sockets of TCP for outputs and sources: tcp(7). None of them blocks."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from mcastd.ip import Address
from mcastd.net import _abi

# A peer that does not answer for so long is gone.
TIMEOUT_MILLISECONDS = 30_000
KEEPALIVE_SECONDS = 10


def connecting(to: Address, port: int) -> socket.socket:
    """A socket on its way to a peer: it is writable once it is there, or cannot be. Raises OSError."""
    with _kept(to) as sock:
        with contextlib.suppress(BlockingIOError):
            sock.connect(_abi.socket_name(to, port))
        return sock


def connected(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to one of the addresses of a host; this may wait, ``seconds`` for each. Raises OSError."""
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.create_connection((host, port), timeout=seconds))
        be_watchful(sock)
        sock.setblocking(False)
        undo.pop_all()
    return sock


def listening(at: Address, port: int, waiting: int = 1) -> socket.socket:
    """A socket that peers connect to, one after the other; up to ``waiting`` of them wait. Raises OSError."""
    with _kept(at) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if at.version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((str(at), port))
        sock.listen(waiting)
        return sock


def be_watchful(sock: socket.socket, timeout: int = TIMEOUT_MILLISECONDS) -> None:
    """Send at once what is written, and find out that the peer is no more. Raises OSError.

    ``timeout``, in milliseconds, is how long it may answer nothing, or be there and take nothing, before the
    kernel ends the connection (tcp(7), TCP_USER_TIMEOUT).
    """
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_USER_TIMEOUT, timeout),
        (socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS),
        (socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS),
    ):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def close_at_once(sock: socket.socket) -> None:
    """Close a connection, and throw away what its peer has not taken, which the kernel would keep (RST)."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextlib.contextmanager
def _kept(address: Address) -> Iterator[socket.socket]:
    """A new socket, which is closed if the block raises."""
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(_abi.family_of(address), socket.SOCK_STREAM))
        sock.setblocking(False)
        yield sock
        undo.pop_all()
