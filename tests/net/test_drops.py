"""What the kernel dropped, of all sockets together: the same as each socket says of itself."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from mcastd.net import _abi, drops
from mcastd.net.drops import FRESH_SECONDS, Drops
from mcastd.net.tables import udp_errors


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
    told = Drops()
    told.look()
    assert told.of(inode(full)) == own(full)


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


class Kernel:
    """What it counts, and how often it was asked for all sockets; ``now`` is a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.errors: tuple[int, int] | None = (5, 0)
        self.lost = {7: 1}
        self.asked = 0
        self.told = Drops(lambda: self.now)
        monkeypatch.setattr(drops, "by_inode", self._answer)
        monkeypatch.setattr(drops, "udp_errors", lambda: self.errors)

    def _answer(self) -> dict[int, int]:
        self.asked += 1
        return self.lost.copy()

    def look(self) -> int:
        """A second later."""
        self.now += FRESH_SECONDS
        return self.told.look()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


def test_it_is_not_asked_while_nothing_is_lost(kernel: Kernel) -> None:
    first = kernel.look()
    assert kernel.look() > first, "news at the first look: it is made sure of"
    assert [kernel.look() for _ in range(9)] == [kernel.told.edition] * 9
    assert (kernel.asked, kernel.told.of(7)) == (2, 1)


def test_news_is_asked_for_and_made_sure_of(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.look()
    kernel.errors = (6, 0)  # counted, and not yet in the socket's account
    assert (kernel.look(), kernel.asked, kernel.told.of(7)) == (3, 3, 1)
    kernel.lost[7] = 2
    assert (kernel.look(), kernel.asked, kernel.told.of(7)) == (4, 4, 2)
    assert (kernel.look(), kernel.asked) == (4, 4)
    kernel.errors = (6, 1)  # over IPv6
    assert (kernel.look(), kernel.asked) == (5, 5)


def test_a_new_socket_is_asked_for(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.look()
    kernel.lost[8] = 0
    assert kernel.told.of(8) is None
    assert (kernel.look(), kernel.told.of(8)) == (3, 0)


def test_it_is_asked_once_a_second_where_it_does_not_show_its_errors(kernel: Kernel) -> None:
    kernel.errors = None
    for edition in range(1, 6):
        assert kernel.look() == kernel.asked == edition
    kernel.now += FRESH_SECONDS / 2
    assert kernel.told.look() == 5


def test_the_hosts_errors_grow_with_a_sockets_drops(full: socket.socket) -> None:
    before, lost = udp_errors(), own(full)
    assert before is not None
    with socket.socket(full.family, socket.SOCK_DGRAM) as sender:
        sender.connect(full.getsockname())
        for _ in range(20):
            sender.send(b"x" * 1000)
    after, more = udp_errors(), own(full) - lost
    assert after is not None
    assert more > 0
    assert sum(after) - sum(before) >= more


def test_a_kernel_that_cannot_tell_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, full: socket.socket
) -> None:
    monkeypatch.setattr(_abi, "NETLINK_SOCK_DIAG", 31)  # nobody answers for it
    assert drops.by_inode() == {}
    told = Drops()
    told.look()
    assert told.of(inode(full)) is None
