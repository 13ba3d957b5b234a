"""What the kernel dropped, of all sockets together: the same as each socket says of itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mcastd.net import _abi, drops
from mcastd.net.drops import FRESH, Drops


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"])
def full(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A socket that has lost some."""
    family, address = request.param
    with socket.socket(family, socket.SOCK_DGRAM) as sock, socket.socket(family, socket.SOCK_DGRAM) as sender:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((address, 0))
        sender.connect(sock.getsockname())
        for _ in range(50):
            sender.send(b"x" * 1000)
        yield sock


def own(sock: socket.socket) -> int:
    meminfo = sock.getsockopt(socket.SOL_SOCKET, _abi.SO_MEMINFO, _abi.sk_meminfo.size)
    lost: int = _abi.sk_meminfo.unpack(meminfo)[_abi.SK_MEMINFO_DROPS]
    return lost


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def test_it_is_what_the_socket_says_itself(full: socket.socket) -> None:
    assert own(full) > 0
    assert Drops().of(inode(full)) == own(full)


def test_hundreds_are_told_apart() -> None:
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(300)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        told = drops.by_inode()
        assert {inode(sock) for sock in sockets} <= told.keys()
    finally:
        for sock in sockets:
            sock.close()


def test_the_kernel_is_asked_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    now = 100.0

    def answer() -> dict[int, int]:
        asked.append(now)
        return {7: len(asked)}

    monkeypatch.setattr(drops, "by_inode", answer)
    shared = Drops(lambda: now)
    assert [shared.of(7), shared.of(7), shared.of(8)] == [1, 1, None]
    now += FRESH
    assert shared.of(7) == 2
    assert asked == [100.0, 100.0 + FRESH]


def test_a_kernel_that_cannot_tell_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket
) -> None:
    monkeypatch.setattr(_abi, "NETLINK_SOCK_DIAG", 31)  # nobody answers for it
    assert drops.by_inode() == {}
    assert Drops().of(inode(full)) is None
