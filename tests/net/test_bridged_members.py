"""Topology "Three bridges in a row" (see README.md here): groups go where members have joined them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.frames import UdpFrames
from support.host import Host
from support.inside import ifindex, inside, sender, sysctl
from support.inside import join as join_by
from support.meanwhile import meanwhile
from support.switch import QUERIER, SNOOPING, Switch
from support.wait import wait_for
from support.wire import Wire

from mcastd.net import _abi

PORT = 9190
ROUTERS = 3
GROUPS = {4: "239.255.9.5", 6: "ff15::9:5"}
SPECIFIC = {4: "232.1.9.5", 6: "ff35::9:5"}
SENDERS = {4: ("10.9.0.100", "10.9.0.101"), 6: ("fd00:9::100", "fd00:9::101")}
BRIDGE = """
[bridge.row]
from = "left"
to = "right"
groups = ["224.0.0.0/4", "ff00::/8"]
"""
# Between two datagrams of a sender, which has two groups.
INTERVAL_SECONDS = 0.01


@dataclass(frozen=True)
class Row:
    sender: Host
    routers: Sequence[Host]
    daemons: Sequence[RunningDaemon]
    member: Host

    @contextlib.contextmanager
    def sending(self, version: int, *groups: str) -> Iterator[None]:
        """Both senders send their address to each of the groups, again and again."""
        with contextlib.ExitStack() as stack:
            socks = {
                address.encode(): stack.enter_context(sender(self.sender, "eth0", address, 8))
                for address in SENDERS[version]
            }

            def send() -> None:
                for payload, sock in socks.items():
                    for group in groups:
                        sock.sendto(payload, (group, PORT))

            stack.enter_context(meanwhile(send, INTERVAL_SECONDS, "sender"))
            yield

    def member_of(self, version: int, group: str, source: str = "") -> socket.socket:
        """A socket of the last host, which has joined."""
        index = ifindex(self.member, "eth0")
        with inside(self.member), contextlib.ExitStack() as undo:
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            sock = undo.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((group, PORT))
            if source:
                level = socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6
                request = _abi.group_source_req(index, ip_address(group), ip_address(source))
                sock.setsockopt(level, _abi.MCAST_JOIN_SOURCE_GROUP, request)
            else:
                join_by(sock, index, group)
            sock.settimeout(60)
            undo.pop_all()
        return sock

    def status(self, number: int) -> dict[str, Any]:
        """With its lists: while its thread is at work, the status does without them."""

        def listed() -> dict[str, Any] | None:
            status: dict[str, Any] = self.daemons[number].worker("bridge/row")["status"]
            return status if status["queriers"] else None

        status = wait_for(listed, "the lists of the status")
        assert status is not None
        return status

    def listed(self, number: int, what: str, group: str) -> list[dict[str, Any]]:
        """The members, joins or routes of a group at a router."""
        return [one for one in self.status(number)[what] if one["group"] == group]

    def wait_end(self, number: int, group: str) -> None:
        """Wait until a router forwards nothing more of a group."""
        wait_for(lambda: not any(one["goes_to"] for one in self.listed(number, "routes", group)), "it ends")

    def wait_more(self, number: int, group: str) -> None:
        """Wait until more of a group has come to a router."""

        def packets() -> int:
            return sum(one["packets"] for one in self.listed(number, "routes", group))

        before = packets()
        wait_for(lambda: packets() > before + 20, "more comes")


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Switch()) for _ in range(ROUTERS + 1)]
        sending, member = stack.enter_context(Host()), stack.enter_context(Host())
        links[0].plug(
            sending, "eth0", *(f"{one}/24" for one in SENDERS[4]), *(f"{one}/64" for one in SENDERS[6])
        )
        links[-1].plug(member, "eth0", f"10.9.{ROUTERS}.9/24", f"fd00:9:0:{ROUTERS}::9/64")
        member.ip(f"route add 10.9.0.0/24 via 10.9.{ROUTERS}.2")
        routers, daemons = [], []
        for number in range(1, ROUTERS + 1):
            router = stack.enter_context(Host())
            left, right = number - 1, number
            links[left].plug(router, "left", f"10.9.{left}.3/24", f"fd00:9:0:{left}::3/64")
            links[right].plug(router, "right", f"10.9.{right}.2/24", f"fd00:9:0:{right}::2/64")
            if left:
                router.ip(f"route add 10.9.0.0/24 via 10.9.{left}.2")
            directory = tmp_path_factory.mktemp(f"r{number}")
            routers.append(router)
            daemons.append(stack.enter_context(RunningDaemon(directory, BRIDGE, enter=router.enter([]))))
        yield Row(sending, routers, daemons, member)


def frames(row: Row, number: int, group: str) -> UdpFrames:
    return UdpFrames(row.routers[number], "right", group)


@pytest.mark.parametrize("version", [4, 6])
def test_a_group_comes_when_it_is_joined_and_ends_when_it_is_left(row: Row, version: int) -> None:
    """Through three routers: each joins it at the one before, and forwards where it is wanted."""
    group = GROUPS[version]
    with row.sending(version, group), contextlib.ExitStack() as stack:
        first = stack.enter_context(frames(row, 0, group))
        wait_for(lambda: len(row.listed(0, "routes", group)) == 2, "both come to the first router")
        assert first.all() == []
        began = time.monotonic()
        sock = row.member_of(version, group)
        sock.recv(100)
        joined = time.monotonic() - began
        for number in range(ROUTERS):
            (member,) = row.listed(number, "members", group)
            (join,) = row.listed(number, "joins", group)
            assert (member["interface"], member["wanted"]) == ("right", "any")
            assert (join["interface"], join["wanted"]) == ("left", "any")
        began = time.monotonic()
        sock.close()

        row.wait_end(0, group)
        left = time.monotonic() - began
        before = len(first.all())
        row.wait_more(0, group)
        assert len(first.all()) == before
        print(f"IPv{version}: {joined:.3f} s to the first datagram, {left:.1f} s to silence behind the first")
        assert not row.listed(0, "joins", group)
        assert row.status(0)["counters"]["dropped"].keys() == {"unwanted"}


@pytest.mark.parametrize("version", [4, 6])
def test_a_source_is_forwarded_and_no_other(row: Row, version: int) -> None:
    """On no link: the wish goes through all routers."""
    group = SPECIFIC[version]
    wanted, other = SENDERS[version]
    with row.sending(version, group), contextlib.ExitStack() as stack:
        links = [stack.enter_context(frames(row, number, group)) for number in range(ROUTERS)]
        sock = stack.enter_context(row.member_of(version, group, wanted))
        for _ in range(20):
            assert sock.recv(100) == wanted.encode()
        for number, link in enumerate(links):
            assert {frame.payload for frame in link.all()} == {wanted.encode()}
            (joined,) = row.listed(number, "joins", group)
            assert (joined["interface"], joined["wanted"]) == ("left", f"include {wanted}")
        both = stack.enter_context(row.member_of(version, group, other))
        assert both.recv(100) in (wanted.encode(), other.encode())
        wait_for(lambda: both.recv(100) == other.encode(), "the other one, too")


@pytest.mark.parametrize("version", [4, 6])
def test_a_host_of_an_older_version(row: Row, version: int) -> None:
    """IGMPv2 and MLDv1 have no sources, and a leave of their own."""
    group = GROUPS[version]
    if version == 4:
        sysctl(row.member, ipv4__conf__eth0__force_igmp_version=2)
    else:
        sysctl(row.member, ipv6__conf__eth0__force_mld_version=1)
    try:
        with row.sending(version, group), contextlib.ExitStack() as stack:
            wire = stack.enter_context(Wire(row.routers[-1]))
            last = stack.enter_context(frames(row, ROUTERS - 1, group))
            sock = row.member_of(version, group)
            sock.recv(100)

            def spoken() -> set[str]:
                return {one.protocol for one in wire.messages if not one.outgoing and one.kind == "report"}

            wait_for(lambda: ("IGMPv2" if version == 4 else "MLDv1") in spoken(), "its report")
            sock.close()

            row.wait_end(ROUTERS - 1, group)
            before = len(last.all())
            row.wait_more(0, group)
            assert len(last.all()) == before
    finally:
        sysctl(row.member, ipv4__conf__eth0__force_igmp_version=0, ipv6__conf__eth0__force_mld_version=0)


def test_two_bridges_side_by_side_forward_once(tmp_path: Path) -> None:
    """The one with the lower address does, beside a switch that asks as well and has no address for it."""
    group = GROUPS[4]
    with contextlib.ExitStack() as stack:
        left, right = stack.enter_context(Switch()), stack.enter_context(Switch(SNOOPING, QUERIER))
        sending, member = stack.enter_context(Host()), stack.enter_context(Host())
        left.plug(sending, "eth0", *(f"{one}/24" for one in SENDERS[4]))
        right.plug(member, "eth0", "10.9.1.9/24")
        member.ip("route add 10.9.0.0/24 via 10.9.1.2")
        routers, daemons = [], []
        for last in (3, 2):  # the one that is to yield comes first
            router = stack.enter_context(Host())
            left.plug(router, "left", f"10.9.0.{last}/24")
            right.plug(router, "right", f"10.9.1.{last}/24")
            directory = tmp_path / str(last)
            directory.mkdir()
            routers.append(router)
            daemons.append(stack.enter_context(RunningDaemon(directory, BRIDGE, enter=router.enter([]))))
        two = Row(sending, routers, daemons, member)

        def agreed() -> bool:
            queriers = [two.status(number)["queriers"] for number in (0, 1)]
            asking = [[(q["asks"], q["querier"]) for q in one if q["version"] == 4] for one in queriers]
            return asking == [[(False, "10.9.1.2")], [(True, "10.9.1.2")]]

        wait_for(agreed, "they agree who asks")
        told = "; 10.9.1.2 asks for members on right, and forwards there in place of this host"
        wait_for(lambda: told in daemons[0].worker("bridge/row")["detail"], "the worker to say it")
        with two.sending(4, group), two.member_of(4, group) as sock:
            sock.recv(100)
            outgoing = [stack.enter_context(frames(two, number, group)) for number in (0, 1)]
            two.wait_more(1, group)
            assert [any(frame.outgoing for frame in one.all()) for one in outgoing] == [False, True]


def test_the_kernels_own_querier_with_a_lower_address_asks_until_it_is_silent(tmp_path: Path) -> None:
    """A Linux bridge that asks, and has an address for it: the lower one asks (RFC 3376 section 6.6.2)."""
    with contextlib.ExitStack() as stack:
        left, right = stack.enter_context(Switch()), stack.enter_context(Switch(SNOOPING))
        right.ip("address add 10.9.1.1/24 dev br0")
        right.set("mcast_query_use_ifaddr 1")
        right.set(QUERIER)
        router = stack.enter_context(Host())
        left.plug(router, "left", "10.9.0.2/24")
        right.plug(router, "right", "10.9.1.2/24")
        daemon = stack.enter_context(RunningDaemon(tmp_path, BRIDGE, enter=router.enter([])))

        def asking() -> list[tuple[bool, str]]:
            queriers = daemon.worker("bridge/row")["status"]["queriers"]
            return [(q["asks"], q["querier"]) for q in queriers if q["version"] == 4]

        wait_for(lambda: asking() == [(False, "10.9.1.1")], "the bridge that asks")
        told = "; 10.9.1.1 asks for members on right, and forwards there in place of this host"
        wait_for(lambda: told in daemon.worker("bridge/row")["detail"], "the worker to say it")
        right.set("mcast_querier 0")
        wait_for(lambda: asking() == [(True, "10.9.1.2")], "the daemon that asks again")
        wait_for(lambda: "10.9.1.1" not in daemon.worker("bridge/row")["detail"], "the worker to say so")
