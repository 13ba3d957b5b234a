"""The observer on a real wire: two hosts, ``left eth0 ---- eth0 right``; it looks from the right one."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from typing import NamedTuple

import pytest
from support.host import Host, connect
from support.inside import inside, join, listener, sender
from support.wire import Wire

from mcastd.errors import LinkError
from mcastd.net import tables
from mcastd.net.packets import MembershipMessage
from mcastd.net.tap import FlowKey, Tap, Traffic, program

UDP_SEGMENT = 103
PORT = 9190
GROUPS = {4: ip_address("239.255.7.1"), 6: ip_address("ff15::7:1")}
LEFT = {4: "10.9.1.1", 6: "fd09:1::1"}
BOTH = pytest.mark.parametrize("version", [4, 6])


class Pair(NamedTuple):
    left: Host
    right: Host


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0", segments=65535)
        for number, host in enumerate((left, right), 1):
            host.ip(f"addr add 10.9.1.{number}/24 dev eth0")
            host.ip(f"addr add fd09:1::{number}/64 dev eth0 nodad")
        yield Pair(left, right)


def tap(host: Host, *groups: object) -> Tap:
    with inside(host):
        return Tap(ip_address(str(group)) for group in groups)


def until(observer: Tap, packets: int) -> Traffic:
    """What was seen when ``packets`` of them were; less after a minute."""
    return observer.watch(60, lambda seen: sum(flow.packets for flow in seen.flows.values()) >= packets)


def key(version: int, **differences: object) -> FlowKey:
    plain = FlowKey("eth0", False, GROUPS[version], PORT, ip_address(LEFT[version]), 0)
    return plain._replace(**differences)  # type: ignore[arg-type] # as the tests say


@BOTH
def test_the_datagrams_of_a_group_are_counted_by_flow_in_both_directions(pair: Pair, version: int) -> None:
    group = str(GROUPS[version])
    other = {4: "239.255.7.2", 6: "ff15::7:2"}[version]
    with (
        tap(pair.right, group) as right,
        tap(pair.left, group) as left,
        closing(sender(pair.left, "eth0", LEFT[version])) as sock,
    ):
        for size in (0, 10, 700):
            sock.sendto(bytes(size), (other, PORT))
            sock.sendto(bytes(size), (group, PORT))
        hops = socket.IP_MULTICAST_TTL if version == 4 else socket.IPV6_MULTICAST_HOPS
        sock.setsockopt(socket.IPPROTO_IP if version == 4 else socket.IPPROTO_IPV6, hops, 9)
        sock.sendto(b"xyz", (group, PORT))
        sock.sendto(b"xyz", (group, PORT + 1))
        arrived, left_host = until(right, 5), until(left, 5)
    assert arrived.flows.keys() == {key(version), key(version, port=PORT + 1)}
    assert left_host.flows.keys() == {key(version, outgoing=True), key(version, port=PORT + 1, outgoing=True)}
    flow = arrived.flows[key(version)]
    assert (flow.packets, flow.size, flow.ttls) == (4, 713, {1, 9})
    assert arrived.began <= flow.first <= flow.last <= arrived.ended
    assert (arrived.missed, arrived.untold, arrived.malformed, flow.fragmented, flow.not_ours) == (0,) * 5


@BOTH
def test_a_datagram_in_fragments_counts_once_and_whole(pair: Pair, version: int) -> None:
    with tap(pair.right, GROUPS[version]) as right, closing(sender(pair.left, "eth0", LEFT[version])) as sock:
        sock.sendto(bytes(4000), (str(GROUPS[version]), PORT))
        seen = until(right, 3)
    flow, rest = seen.flows[key(version)], seen.flows[key(version, port=0)]
    assert (flow.packets, flow.size, flow.fragmented) == (1, 4000, 1)
    assert rest.packets == 2


@BOTH
def test_what_is_coalesced_has_all_of_its_bytes(pair: Pair, version: int) -> None:
    with tap(pair.right, GROUPS[version]) as right, closing(sender(pair.left, "eth0", LEFT[version])) as sock:
        sock.setsockopt(17, UDP_SEGMENT, 1000)
        sock.sendto(bytes(40_000), (str(GROUPS[version]), PORT))
        seen = right.watch(60, lambda seen: sum(flow.size for flow in seen.flows.values()) >= 40_000)
    flow = seen.flows[key(version)]
    assert flow.size == 40_000
    assert 1 <= flow.packets <= 40  # a veth hands on in one what the sender gave in one


@BOTH
def test_memberships_are_seen_and_none_is_made(pair: Pair, version: int) -> None:
    group = str(GROUPS[version])
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(pair.left))
        before = tables_of(pair.right, version)
        with inside(pair.right):
            index = socket.if_nametoindex("eth0")
            right = stack.enter_context(Tap([GROUPS[version]], all_multicast=[index]))
        assert tables_of(pair.right, version) == before
        mine = stack.enter_context(closing(listener(pair.right, version, PORT, ("eth0", group))))
        theirs = stack.enter_context(closing(listener(pair.left, version, PORT)))
        with inside(pair.left):
            join(theirs, socket.if_nametoindex("eth0"), group)

        def both(seen: Traffic) -> bool:
            return {each.outgoing for each in seen.messages if reports(each.message)} == {True, False}

        def reports(message: object) -> bool:
            return isinstance(message, MembershipMessage) and GROUPS[version] in message.groups

        traffic = right.watch(60, both)
        assert both(traffic)
        wire.wait(group, "TO_EX", "IS_EX")
        named = {record.group for message in wire.messages for record in message.records}
        assert named <= {group, "ff02::16", "ff02::2"} | solicited(pair)
        mine.close()


def solicited(pair: Pair) -> set[str]:
    """The solicited-node groups of both, which IPv6 joins of itself."""
    groups: set[str] = set()
    for host in pair:
        groups |= {str(group) for group in tables_of(host, 6) if str(group).startswith("ff02:")}
    return groups


def tables_of(host: Host, version: int) -> set[object]:
    with inside(host):
        return {joined.group for joined in tables.joined_groups(version)}


def frame(destination: str, *, vlan: int = 0) -> bytes:
    """An Ethernet frame with a datagram to the IPv4 group, all made by hand."""
    packed = ip_address("10.9.1.1").packed + GROUPS[4].packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, 0, 1, 17, 0) + packed
    total = sum(struct.unpack("!10H", head))
    head = head[:10] + struct.pack("!H", ~(total % 0xFFFF) & 0xFFFF) + head[12:]
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    ethernet = bytes.fromhex(destination) + bytes.fromhex("020000000001") + tag + b"\x08\x00"
    return ethernet + head + struct.pack("!HHHH", 5, PORT, 12, 0) + b"abcd"


def test_a_tag_and_a_wrong_mac_address_are_noted(pair: Pair) -> None:
    with ExitStack() as stack:
        right = stack.enter_context(tap(pair.right, GROUPS[4]))
        with inside(pair.left):
            raw = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            raw.bind(("eth0", 0))
        raw.send(frame("01005e7f0701", vlan=5))
        raw.send(frame("020000000099"))
        raw.send(frame("01005e7f0701"))
        seen = until(right, 3)
    assert seen.flows[key(4, vlan=5)].packets == 1
    untagged = seen.flows[key(4)]
    assert (untagged.packets, untagged.not_ours) == (2, 1)


def test_a_flood_costs_no_more_than_its_share_and_what_was_missed_is_told(pair: Pair) -> None:
    with tap(pair.right, GROUPS[4]) as right, closing(sender(pair.left, "eth0", LEFT[4])) as sock:
        right._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        sent = 5000
        for _ in range(sent):
            sock.sendto(b"x", (str(GROUPS[4]), PORT))
        seen = right.watch(0.1)
    taken = sum(flow.packets for flow in seen.flows.values())
    assert 0 < taken < sent
    assert taken + seen.missed >= sent  # more: MLD of the fresh interfaces passes the filter, too


@BOTH
def test_groups_too_many_for_a_filter_are_seen_all_the_same(pair: Pair, version: int) -> None:
    many = [GROUPS[version] + n for n in range(2000)]
    assert len(program(many)) < 100 < len(program(many[:100]))
    with tap(pair.right, *many) as right, closing(sender(pair.left, "eth0", LEFT[version])) as sock:
        sock.sendto(b"x", (str(many[-1]), PORT))
        assert key(version, group=many[-1]) in until(right, 1).flows
    with tap(pair.right, *many[:100]) as right, closing(sender(pair.left, "eth0", LEFT[version])) as sock:
        for group in (many[100], many[0], many[99]):
            sock.sendto(b"x", (str(group), PORT))
        assert {flow.group for flow in until(right, 2).flows} == {many[0], many[99]}


@pytest.mark.root
def test_without_the_privilege_it_says_what_it_takes() -> None:
    code = "from mcastd.net.tap import Tap; Tap([])"
    command = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", code]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "peration not permitted; it takes root, or CAP_NET_RAW" in failed.stderr
    assert LinkError.__name__ in failed.stderr
