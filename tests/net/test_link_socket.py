"""The socket of a link, between two hosts and through a narrower network."""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from support.host import Host, connect
from support.inside import inside, sysctl
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.net import link_socket
from mcastd.net.burst import Offload
from mcastd.net.link import Origin
from mcastd.net.link_socket import LinkSocket, PeerName
from mcastd.net.plain import PlainArena
from mcastd.rows import JoinedRows, listed

pytestmark = pytest.mark.root

ADDRESSES = {4: ("10.9.0.1", "10.9.0.2"), 6: ("2001:db8:9::1", "2001:db8:9::2")}
LARGEST = {4: 1500 - 28, 6: 1500 - 48}


class Pair:
    def __init__(self, version: int, left: Host, right: Host) -> None:
        self.version, self.left, self.right = version, left, right
        here, there = map(ip_address, ADDRESSES[version])
        with inside(left):
            self.here = LinkSocket(version, here)
        with inside(right):
            self.there = LinkSocket(version, None, 9466)
        self.from_here: PeerName = (here, self.here.port)
        self.to_there: PeerName = (there, 9466)

    def receive(self, count: int) -> list[bytes]:
        """Wait for so many messages, and take them all."""
        found: list[bytes] = []

        def take() -> bool:
            for source, rows in self.there.receive():
                assert source == self.from_here
                found.extend(bytes(each.row(at)) for each in rows for at in range(len(each)))
            return len(found) >= count

        wait_for(take, f"{count} messages")
        return found


@pytest.fixture(params=[4, 6])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0", segments=64)
        for host, addresses in ((left, ADDRESSES[4][0]), (right, ADDRESSES[4][1])):
            host.ip(f"addr add {addresses}/24 dev eth0")
        for host, addresses in ((left, ADDRESSES[6][0]), (right, ADDRESSES[6][1])):
            host.ip(f"addr add {addresses}/64 dev eth0 nodad")
        both = Pair(request.param, left, right)
        yield both
        both.here.close()
        both.there.close()


def test_messages_of_any_sizes_arrive_in_order(pair: Pair) -> None:
    sizes = [*[1300] * 100, 200, *[1300] * 3, *[64] * 7, 1301, 1302, 1303]
    messages = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    assert pair.here.send(messages, pair.to_there) == (len(messages), "", 0, {})
    assert pair.receive(len(messages)) == messages
    assert pair.there.overflow == 0


def test_what_does_not_fit_the_interface_is_left_out_and_told(pair: Pair) -> None:
    largest = LARGEST[pair.version]
    messages = [b"a" * largest, b"b" * (largest + 1), b"c" * 100, *[b"d" * (largest + 9)] * 5, b"e" * 100]
    assert pair.here.send(messages, pair.to_there) == (3, "", largest + 1, {"EMSGSIZE": 6})
    assert pair.receive(3) == [messages[0], messages[2], messages[-1]]


def test_what_comes_is_given_on_in_parts() -> None:
    """In order, and what is of one size together; but no more than what stays in the processor's cache."""
    sizes = [1400] * 40 + [100] * 3 + [9000] * 20 + [60_000] * 2 + [7]
    messages = [bytes([at % 251]) * size for at, size in enumerate(sizes)]
    rows = [row for message in messages for row in listed([message])]
    parts = [*link_socket._in_parts(rows)]
    given = [bytes(each.row(at)) for part in parts for each in part for at in range(len(each))]
    assert given == messages
    assert [[(len(each), each.size) for each in part] for part in parts] == [
        [(40, 1400), (3, 100), (20, 9000)],
        [(2, 60_000), (1, 7)],
    ]
    (part,) = link_socket._in_parts(rows[:3])
    assert [len(each) for each in part] == [3]
    small = [*listed([b"small"] * 200), *listed([b"other"] * 200), *listed([b"third"] * 50)]
    assert [[len(each) for each in part] for part in link_socket._in_parts(small)] == [[200], [250]]


@pytest.mark.parametrize("size", [1300, 60])
def test_joined_messages_arrive_as_each_by_itself(pair: Pair, size: int) -> None:
    """More of them than the kernel cuts out of one string; and others before and after them."""
    messages = [bytes([number % 251]) * size for number in range(150)]
    joined = JoinedRows(b"".join(messages), size, len(messages))
    assert pair.here.send([b"before"] * 2, pair.to_there) == (2, "", 0, {})
    assert pair.here.send(joined, pair.to_there) == (150, "", 0, {})
    assert pair.here.send([b"", b"", b"after"], pair.to_there) == (3, "", 0, {})
    assert pair.receive(155) == [b"before"] * 2 + messages + [b"", b"", b"after"]


def test_joined_messages_that_do_not_fit_are_left_out(pair: Pair) -> None:
    size = LARGEST[pair.version] + 1
    joined = JoinedRows(bytes(5 * size), size, 5)
    assert pair.here.send(joined, pair.to_there) == (0, "", size, {"EMSGSIZE": 5})
    assert pair.here.send(JoinedRows(b"fits", 1, 4), pair.to_there) == (4, "", 0, {})
    assert pair.receive(4) == [b"f", b"i", b"t", b"s"]


def test_joined_messages_go_without_the_help_of_the_kernel(pair: Pair) -> None:
    pair.here._offload, pair.here._offload_until = Offload(segments=0), math.inf
    assert pair.here.send(JoinedRows(b"onetwosix", 3, 3), pair.to_there) == (3, "", 0, {})
    assert pair.receive(3) == [b"one", b"two", b"six"]


def test_an_answer_goes_where_the_question_came_from(pair: Pair) -> None:
    pair.here.send([b"question"], pair.to_there)
    pair.receive(1)
    pair.there.send([b"answer"], pair.from_here)
    answers: list[Any] = []
    wait_for(lambda: answers.extend(pair.here.receive()) or answers)
    ((source, rows),) = answers
    assert source == pair.to_there
    assert bytes(rows[0].row(0)) == b"answer"


@pytest.mark.parametrize("reads_by", ["recvmmsg", "recvmsg"])
def test_an_answer_comes_from_the_address_that_was_asked(pair: Pair, reads_by: str) -> None:
    """Which may be another one than the kernel would choose: no firewall lets that through."""
    if reads_by == "recvmsg":
        pair.there._arena = PlainArena()
    second = ip_address({4: "10.9.0.77", 6: "2001:db8:9::77"}[pair.version])
    length, more = (24, "") if pair.version == 4 else (64, "nodad")
    pair.right.ip(f"addr add {second}/{length} dev eth0 {more}")

    def asked(to: Any) -> list[PeerName]:
        """Where answers come from, one alone, and many together."""
        pair.here.send([b"question"] * 3, (to, 9466))
        pair.receive(3)
        pair.there.send([b"answer", *[b"many answers"] * 3], pair.from_here)
        found: list[PeerName] = []

        def take() -> bool:
            for source, rows in pair.here.receive():
                found.extend([source] * sum(map(len, rows)))
            return len(found) == 4

        wait_for(take)
        return found

    first = pair.to_there[0]
    for to in (second, first, second):
        assert asked(to) == [(to, 9466)] * 4
    if reads_by == "recvmmsg":  # whatever strangers send, the one that is answered keeps its place
        for number in range(2 * link_socket.ANSWERED_MAX):
            pair.there._met(Origin(f"10.7.{number // 250}.{number % 250}", 4711, 1, -1, str(first)))
        assert len(pair.there._locals) == link_socket.ANSWERED_MAX
        pair.there.send([b"an answer"], pair.from_here)
        came: list[Any] = []
        wait_for(lambda: came.extend(pair.here.receive()) or came)
        assert [source for source, _ in came] == [(second, 9466)]
    pair.right.ip(f"addr del {second}/{length} dev eth0")
    pair.there.send([b"an answer"], pair.from_here)
    found: list[Any] = []
    wait_for(lambda: found.extend(pair.here.receive()) or found)
    assert [source for source, _ in found] == [(first, 9466)], "where it has that address no more"


def test_messages_of_several_are_told_apart(pair: Pair) -> None:
    with inside(pair.left):
        other = LinkSocket(pair.version, ip_address(ADDRESSES[pair.version][0]))
    for sock, message in ((pair.here, b"1" * 50), (other, b"2" * 50), (pair.here, b"3" * 50)):
        sock.send([message], pair.to_there)
    found: list[tuple[int, bytes]] = []

    def take() -> bool:
        for (_, port), rows in pair.there.receive():
            found.extend((port, bytes(each.row(at))) for each in rows for at in range(len(each)))
        return len(found) == 3

    wait_for(take)
    assert found == [(pair.here.port, b"1" * 50), (other.port, b"2" * 50), (pair.here.port, b"3" * 50)]
    other.close()


def test_without_segments_all_goes_one_by_one(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        """A socket of a kernel without UDP_SEGMENT."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.tries = 0

        def sendmsg(self, *_: object) -> int:
            self.tries += 1
            raise OSError(errno.EIO, "no checksum offload")

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    refusing = Refusing(pair.here._sock)
    monkeypatch.setattr(pair.here, "_sock", refusing)
    messages = [bytes([number]) * 900 for number in range(40)]
    assert pair.here.send(messages, pair.to_there) == (40, "", 0, {})
    assert refusing.tries == 2
    assert pair.receive(40) == messages
    assert pair.here.send(messages, pair.to_there) == (40, "", 0, {})
    assert refusing.tries == 2
    monkeypatch.setattr(link_socket.clock, "monotonic", lambda: 1e12)
    pair.here.send(messages, pair.to_there)
    assert refusing.tries == 4


def test_a_peer_that_cannot_be_reached_is_told(pair: Pair) -> None:
    nowhere = ip_address("192.0.2.1" if pair.version == 4 else "2001:db8:ffff::1")
    sent, refusal, _, refused = pair.here.send([b"a", b"b"], (nowhere, 9466))
    assert (sent, refusal, refused) == (0, "network is unreachable", {"ENETUNREACH": 2})


def test_a_port_that_is_taken_is_named() -> None:
    with Host() as host, inside(host):
        taken = LinkSocket(4, None, 9466)
        with pytest.raises(LinkError, match="any address, UDP port 9466"):
            LinkSocket(4, None, 9466)
        taken.close()


def test_a_router_with_a_narrower_network_cuts_nothing() -> None:
    """It is dropped there: the sender is not told by the kernel, whatever ICMP says."""
    with Host() as left, Host() as router, Host() as right:
        connect(left, "eth0", router, "eth0")
        connect(router, "eth1", right, "eth0")
        left.ip("addr add 10.9.1.1/24 dev eth0")
        router.ip("addr add 10.9.1.254/24 dev eth0")
        router.ip("addr add 10.9.2.254/24 dev eth1")
        right.ip("addr add 10.9.2.2/24 dev eth0")
        left.ip("route add default via 10.9.1.254")
        right.ip("route add default via 10.9.2.254")
        router.ip("link set eth1 mtu 1400")
        sysctl(router, ipv4__ip_forward=1)
        with inside(left):
            here = LinkSocket(4, ip_address("10.9.1.1"))
        with inside(right):
            there = LinkSocket(4, None, 9466)
        to = ip_address("10.9.2.2"), 9466
        for _ in range(3):
            assert here.send([b"a" * 1373], to) == (1, "", 0, {})
        assert here.send([b"b" * 1372], to) == (1, "", 0, {})
        found: list[bytes] = []
        wait_for(lambda: found.extend(bytes(rows[0].row(0)) for _, rows in there.receive()) or found)
        assert found == [b"b" * 1372]
        here.close()
        there.close()
