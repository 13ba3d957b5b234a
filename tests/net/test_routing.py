"""The kernel's multicast routing, as a bridge has it: a sender and two receivers, each on its own link."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from support.host import Host, connect
from support.inside import ifindex, inside, listener, sender, sysctl, taken
from support.wait import wait_for

from mcastd.errors import LinkError
from mcastd.ip import Address
from mcastd.net import _abi
from mcastd.net.mroute import Heard
from mcastd.net.routing import (
    INTERFACES_MAX,
    KeptRoute,
    KeptTable,
    NoRoute,
    RoutingTable,
    WrongInterface,
)
from mcastd.net.tables import joined_groups
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, internet_checksum, pseudo_header
from mcastd.protocols.membership import GroupRecord, MembershipReport, RecordKind
from mcastd.protocols.membership_packets import read_message

PORT = 9190
GROUPS: dict[int, Address] = {4: ip_address("239.255.9.7"), 6: ip_address("ff15::9:7")}
OTHERS: dict[int, Address] = {4: ip_address("239.255.9.8"), 6: ip_address("ff15::9:8")}
SOURCES: dict[int, Address] = {4: ip_address("10.9.1.9"), 6: ip_address("fd00:9:0:1::9")}


@dataclass(frozen=True)
class Lab:
    router: Host
    sender: Host
    receivers: tuple[Host, Host]

    def index(self, number: int) -> int:
        """The router's interface to the sender (0), or to a receiver."""
        return ifindex(self.router, f"r{number}")

    def sending(self, version: int, ttl: int = 8) -> socket.socket:
        return sender(self.sender, "eth0", str(SOURCES[version]), ttl)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(Host()) for _ in range(4)]
        router, *others = hosts
        for number, host in enumerate(others):
            connect(router, f"r{number}", host, "eth0")
            for one, name, last in ((router, f"r{number}", 1), (host, "eth0", 9)):
                one.ip(f"addr add 10.9.{number + 1}.{last}/24 dev {name}")
                one.ip(f"addr add fd00:9:0:{number + 1}::{last}/64 dev {name} nodad")
            for name in ("all", "eth0"):
                sysctl(host, **{f"ipv4__conf__{name}__rp_filter": 0})
        sysctl(router, ipv4__conf__all__rp_filter=0, ipv6__conf__all__forwarding=1)
        yield Lab(router, others[0], (others[1], others[2]))


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def table(lab: Lab, version: int) -> Iterator[RoutingTable]:
    with inside(lab.router):
        made = RoutingTable(4 if version == 4 else 6)
    for number in range(3):
        made.add(lab.index(number))
    yield made
    made.close()


def until(table: RoutingTable, kind: type) -> object:
    """The next thing of that kind that is said."""
    found: list[object] = []

    def said() -> bool:
        found.extend(one for one in table.take() if isinstance(one, kind))
        return bool(found)

    wait_for(said, kind.__name__)
    return found[0]


def test_a_datagram_without_a_route_tells_and_goes_when_there_is_one(
    lab: Lab, table: RoutingTable, version: int
) -> None:
    group, source = GROUPS[version], SOURCES[version]
    with contextlib.ExitStack() as stack:
        heard = [
            stack.enter_context(listener(host, version, PORT, ("eth0", str(group)))) for host in lab.receivers
        ]
        sock = stack.enter_context(lab.sending(version))
        sock.sendto(b"first", (str(group), PORT))
        assert until(table, NoRoute) == NoRoute(lab.index(0), source, group)
        table.route(source, group, lab.index(0), {lab.index(1): 1})
        sock.sendto(b"second", (str(group), PORT))
        got: list[bytes] = []
        wait_for(lambda: (got.extend(taken(heard[0])), len(got) == 2)[-1], "both, by the route")
        assert got == [b"first", b"second"]
        assert taken(heard[1]) == []
        count = table.count(source, group)
        assert count is not None
        assert (count.packets, count.wrong_interface) == (2, 0)

        table.route(source, group, lab.index(0), {lab.index(1): 1, lab.index(2): 1})
        sock.sendto(b"third", (str(group), PORT))
        wait_for(lambda: taken(heard[1]) == [b"third"], "it, by the new route")
        table.unroute(source, group, lab.index(0))
        assert table.count(source, group) is None


def test_a_route_to_nowhere_keeps_the_kernel_quiet(lab: Lab, table: RoutingTable, version: int) -> None:
    group, source = OTHERS[version], SOURCES[version]
    with lab.sending(version) as sock:
        sock.sendto(b"x", (str(group), PORT))
        until(table, NoRoute)
        table.route(source, group, lab.index(0), {})
        sock.sendto(b"y", (str(group), PORT))
        wait_for(lambda: (found := table.count(source, group)) is not None and found.packets == 2)
        assert not [one for one in table.take() if isinstance(one, NoRoute)]


def test_what_comes_by_another_interface_is_told(lab: Lab, table: RoutingTable, version: int) -> None:
    group, source = GROUPS[version], SOURCES[version]
    for to in ({}, {lab.index(2): 1}, {lab.index(0): 1}):
        table.route(source, group, lab.index(1), to)
        with lab.sending(version) as sock:
            sock.sendto(b"x", (str(group), PORT))
            assert until(table, WrongInterface) == WrongInterface(lab.index(0), source, group)
        wait_for(lambda: (found := table.count(source, group)) is not None and found.wrong_interface == 1)
        count = table.count(source, group)
        assert count is not None
        assert (count.packets, count.bytes) == (0, 29 if version == 4 else 49)
        table.unroute(source, group, lab.index(1))


def test_a_ttl_has_to_exceed_what_an_interface_asks_for(lab: Lab) -> None:
    group, source = GROUPS[4], SOURCES[4]
    with contextlib.ExitStack() as stack:
        with inside(lab.router):
            table = stack.enter_context(contextlib.closing(RoutingTable(4)))
        for number in range(3):
            table.add(lab.index(number))
        table.route(source, group, lab.index(0), {lab.index(1): 5, lab.index(2): 2})
        heard = [stack.enter_context(listener(host, 4, PORT, ("eth0", str(group)))) for host in lab.receivers]
        for ttl in (2, 3, 5, 6):
            with lab.sending(4, ttl) as sock:
                sock.sendto(b"%d" % ttl, (str(group), PORT))
        got: tuple[list[bytes], list[bytes]] = ([], [])

        def arrived() -> bool:
            for sock, so_far in zip(heard, got, strict=True):
                so_far.extend(taken(sock))
            return [len(one) for one in got] == [1, 3]

        wait_for(arrived)
        assert got == ([b"6"], [b"3", b"5", b"6"])


def test_members_are_heard_as_they_report(lab: Lab, table: RoutingTable, version: int) -> None:
    group = GROUPS[version]
    joined = GroupRecord(RecordKind.TO_EXCLUDE, group)
    with inside(lab.router):
        for _ in range(2):
            table.listen(lab.index(1))
    with listener(lab.receivers[0], version, PORT, ("eth0", str(group))):
        heard: list[Heard] = []

        def reported() -> bool:
            heard.extend(one for one in table.take() if isinstance(one, Heard) and joined in _records(one))
            return bool(heard)

        wait_for(reported, "the kernel of the receiver reports")
    assert heard[0].ifindex == lab.index(1)
    packet = heard[0].packet
    assert (packet.ttl, packet.router_alert) == (1, True)
    if version == 4:
        assert (packet.source, packet.destination) == (ip_address("10.9.2.9"), igmp.ALL_IGMPV3_ROUTERS)
    else:
        assert packet.source.is_link_local or packet.source.is_unspecified  # RFC 3810 section 5.2.13
        assert packet.destination == mld.ALL_MLDV2_ROUTERS


def _records(heard: Heard) -> tuple[GroupRecord, ...]:
    found = read_message(heard.packet)
    return found.records if isinstance(found, MembershipReport) else ()


def test_what_is_no_message_of_a_member_is_heard_as_it_came(
    lab: Lab, table: RoutingTable, version: int
) -> None:
    """With another TTL, and without Router Alert: by that it is told apart."""
    with inside(lab.router):
        table.listen(lab.index(1))
    member = lab.receivers[0]
    index = ifindex(member, "eth0")
    with inside(member):
        family, protocol = (socket.AF_INET, IGMP) if version == 4 else (socket.AF_INET6, ICMPV6)
        raw = socket.socket(family, socket.SOCK_RAW, protocol)
    with raw:
        if version == 4:
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=8xi", index))
            raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 7)
            message, to = bytes.fromhex("1600fafdef000001"), str(igmp.ALL_ROUTERS)
        else:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 7)
            message, to = bytes([143]) + bytes(7), str(mld.ALL_ROUTERS)
        found: list[Heard] = []

        def came() -> bool:
            raw.sendto(message, (to, 0))
            found.extend(one for one in table.take() if isinstance(one, Heard) and one.packet.ttl == 7)
            return bool(found)

        wait_for(came, "it is heard")
    assert not found[0].packet.router_alert
    assert found[0].packet.body[0] == message[0]


RECEIVER = ip_address("fd00:9:0:2::9")


def said_by_kernel(kind: int) -> bytes:
    """As the kernel has it of the first interface, whose number stands where ICMPv6 has the checksum."""
    message = _abi.mrt6msg.pack(0, kind, 0, 0, SOURCES[6].packed, GROUPS[6].packed)
    pseudo = pseudo_header(RECEIVER, ip_address("ff02::1"), len(message), socket.IPPROTO_ICMPV6)
    filling = internet_checksum(pseudo + message)  # with it the checksum is 0
    return message[:4] + filling.to_bytes(2) + message[6:]


def test_nobody_on_the_network_can_speak_for_the_kernel(lab: Lab) -> None:
    """What it says of IPv6 looks like ICMPv6 of type 0, which a host might send."""
    with inside(lab.router), contextlib.closing(RoutingTable(6)) as table:
        for number in range(3):
            table.add(lab.index(number))
        index = ifindex(lab.receivers[0], "eth0")
        with inside(lab.receivers[0]):
            raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        with raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            raw.bind((str(RECEIVER), 0))
            heard: list[object] = []

            def reported() -> bool:
                for kind in (_abi.IGMPMSG_NOCACHE, _abi.IGMPMSG_WRONGVIF):
                    raw.sendto(said_by_kernel(kind), ("ff02::1", 0))
                raw.sendto(bytes([143]) + bytes(7), ("ff02::1", 0))
                heard.extend(table.take())
                return len([one for one in heard if isinstance(one, Heard) and len(one.packet.body) == 8]) > 2

            wait_for(reported, "what is sent after it")
    assert not [one for one in heard if not isinstance(one, Heard)]


def test_members_are_heard_on_all_interfaces_that_take_part(version: int) -> None:
    """A socket has 20 IPv4 memberships at most (net.ipv4.igmp_max_memberships); each interface takes two."""
    with Host() as host, contextlib.ExitStack() as stack:
        for number in range(12):
            host.ip(f"link add d{number} type veth peer name p{number}")
            host.ip(f"link set d{number} up")
        with inside(host):
            table = stack.enter_context(contextlib.closing(RoutingTable(4 if version == 4 else 6)))
            indices = [socket.if_nametoindex(f"d{number}") for number in range(12)]
            for index in indices:
                table.add(index)
                table.listen(index)
            groups = joined_groups(version)
            report = ip_address("224.0.0.22" if version == 4 else "ff02::16")
            assert {one.ifindex for one in groups if one.group == report} == set(indices)
            table.ignore(indices[0])
            table.remove(indices[1])
            left = {one.ifindex for one in joined_groups(version) if one.group == report}
            assert left == set(indices[2:])
            with pytest.raises(LinkError, match="cannot hear the members of groups"):
                table.listen(60_000)


def test_what_has_gone_by_an_interface(lab: Lab, table: RoutingTable, version: int) -> None:
    group, source = GROUPS[version], SOURCES[version]
    before = [table.interface_count(lab.index(number)) for number in range(3)]
    table.route(source, group, lab.index(0), {lab.index(2): 1})
    with lab.sending(version) as sock:
        for _ in range(3):
            sock.sendto(b"x", (str(group), PORT))
    with lab.sending(version, ttl=1) as sock:
        sock.sendto(b"x", (str(group), PORT))
    wait_for(lambda: (found := table.count(source, group)) is not None and found.packets == 4)
    after = [table.interface_count(lab.index(number)) for number in range(3)]
    gone = []
    for one, other in zip(before, after, strict=True):
        assert one is not None
        assert other is not None
        gone.append((other.packets_in - one.packets_in, other.packets_out - one.packets_out))
    assert gone == [(4, 0), (0, 0), (0, 3)]
    assert table.interface_count(60_000) is None


def test_routing_has_one_owner(lab: Lab, table: RoutingTable, version: int) -> None:
    with pytest.raises(LinkError) as refused, inside(lab.router):
        RoutingTable(4 if version == 4 else 6)
    assert refused.value.errno == errno.EADDRINUSE
    assert "another program routes multicast on this host" in str(refused.value)
    assert len(table.interfaces) == 3


def test_a_kept_descriptor_keeps_the_routes(lab: Lab, version: int) -> None:
    group, source = GROUPS[version], SOURCES[version]
    with inside(lab.router):
        before = RoutingTable(4 if version == 4 else 6)
    for number in range(3):
        before.add(lab.index(number))
    before.route(source, group, lab.index(0), {lab.index(1): 1})
    kept = os.dup(before.fileno())
    before.close()
    with inside(lab.router):
        table = KeptTable.of(4 if version == 4 else 6, kept)
        assert table is not None
        after = RoutingTable(4 if version == 4 else 6, table)
        assert list(after.kept_routes()) == [KeptRoute(source, group, lab.index(0), {lab.index(1): 1})]
    assert after.interfaces == {lab.index(number) for number in range(3)}
    with (
        contextlib.closing(after),
        listener(lab.receivers[0], version, PORT, ("eth0", str(group))) as heard,
        lab.sending(version) as sock,
    ):
        sock.sendto(b"still", (str(group), PORT))
        wait_for(lambda: taken(heard) == [b"still"], "the route of before")
    with inside(lab.router):
        RoutingTable(4 if version == 4 else 6).close()  # it was given up with the last descriptor


def test_a_kept_descriptor_of_an_older_version_tells_whom_to_believe() -> None:
    with Host() as host, inside(host), contextlib.closing(RoutingTable(6)) as before:
        kept = os.dup(before.fileno())
        options = (socket.IPV6_RECVHOPLIMIT, socket.IPV6_RECVHOPOPTS)
        with socket.socket(fileno=os.dup(kept)) as sock:
            for option in options:
                sock.setsockopt(socket.IPPROTO_IPV6, option, 0)
            table = KeptTable.of(6, kept)
            assert table is not None
            with contextlib.closing(RoutingTable(6, table)):
                assert [sock.getsockopt(socket.IPPROTO_IPV6, option) for option in options] == [1, 1]


def test_interfaces_that_have_gone_make_room(version: int) -> None:
    with Host() as host, contextlib.ExitStack() as stack:
        with inside(host):
            table = stack.enter_context(contextlib.closing(RoutingTable(4 if version == 4 else 6)))
        for number in range(INTERFACES_MAX + 1):
            host.ip(f"link add d{number} type veth peer name p{number}")
            host.ip(f"link set d{number} up")
        indices = [ifindex(host, f"d{number}") for number in range(INTERFACES_MAX + 1)]
        for index in indices[:-1]:
            table.add(index)
        table.add(indices[3])
        with pytest.raises(LinkError, match=f"the kernel routes among {INTERFACES_MAX} interfaces"):
            table.add(indices[-1])
        host.ip("link del d3")
        table.remove(indices[3])
        table.remove(indices[3])
        table.add(indices[-1])
        assert table.interfaces == set(indices) - {indices[3]}
        table.remove(indices[4])
        with pytest.raises(LinkError) as gone:
            table.add(60_000)
        assert gone.value.errno == errno.ENODEV
        with pytest.raises(LinkError) as too_large:
            table.add(70_000)
        assert too_large.value.errno == (errno.ERANGE if version == 6 else gone.value.errno)


def test_without_the_capability_it_says_what_is_missing() -> None:
    code = (
        "import os, mcastd.net.routing as r\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: r.RoutingTable(4)\n"
        "except r.LinkError as error: print(error.errno, error)\n"
    )
    with Host() as host:
        said = host.python("-c", code, stdout=-1).communicate(timeout=60)[0].decode()
    assert said.startswith(
        f"{errno.EPERM} cannot route IPv4 multicast: operation not permitted; this takes CAP_NET_RAW"
    )
