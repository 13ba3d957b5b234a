"""Whole packets of groups as an interface sees them, between two hosts on one wire."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from support.amt_relay import datagram
from support.frames import UdpFrames
from support.host import Host, connect
from support.inside import inside, sender
from support.wait import wait_for

from mcastd.config.groups import ethernet_address
from mcastd.ip import Address
from mcastd.net.interfaces import look
from mcastd.net.packet_memory import PacketMemory
from mcastd.net.packet_tap import GROUPS_MAX, PacketTap
from mcastd.protocols.internet import IpPacket, build_ip, internet_checksum, read_ip
from mcastd.protocols.reassembly import Reassembly

pytestmark = pytest.mark.root
BOTH = pytest.mark.parametrize("version", [4, 6])
GROUPS = {4: ip_address("239.255.7.3"), 6: ip_address("ff15::7:3")}
LEFT = {4: "10.9.1.1", 6: "fd09:1::1"}
PORT, UDP_SEGMENT = 9170, 103


@dataclass(frozen=True)
class Pair:
    left: Host
    right: Host


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0", segments=64)
        for number, host in enumerate((left, right), 1):
            host.ip(f"addr add 10.9.1.{number}/24 dev eth0")
            host.ip(f"addr add fd09:1::{number}/64 dev eth0 nodad")
        yield Pair(left, right)


class Taken:
    """What a tap on a host has taken, as packets."""

    def __init__(self, host: Host, version: int, *groups: Address, buffer: int = 4 << 20) -> None:
        with inside(host):
            (interface,) = (one for one in look().interfaces.values() if one.name == "eth0")
            self.tap = PacketTap(interface, version, PacketMemory(), receive_buffer=buffer)
        self.tap.follow(groups)
        self.packets: list[IpPacket] = []

    def take(self) -> int:
        select.select([self.tap], [], [], 0.05)
        for rows in self.tap.receive():
            for row, length in enumerate(rows.lengths):
                packet = read_ip(bytes(rows.packet(row, length)[2:]))
                assert packet is not None
                self.packets.append(packet)
        return len(self.packets)

    def wait(self, count: int) -> list[IpPacket]:
        wait_for(lambda: self.take() >= count, f"{count} packets")
        return self.packets

    def of_udp(self) -> list[IpPacket]:
        """What was taken by now, of UDP."""
        self.take()
        return [packet for packet in self.packets if packet.protocol == socket.IPPROTO_UDP]

    def close(self) -> None:
        self.tap.close()


def payloads(packets: list[IpPacket]) -> list[bytes]:
    """Those of whole datagrams, whose checksums are right."""
    for packet in packets:
        pseudo = packet.source.packed + packet.destination.packed + struct.pack("!II", len(packet.body), 17)
        assert internet_checksum(pseudo + packet.body) == 0
        assert packet.body[6:8] != bytes(2)
    return [packet.body[8:] for packet in packets]


@BOTH
def test_packets_come_whole_and_with_the_checksum_that_the_card_would_have_made(
    pair: Pair, version: int
) -> None:
    group = str(GROUPS[version])
    other = {4: "239.255.7.2", 6: "ff15::7:2"}[version]
    with (
        closing(Taken(pair.right, version, GROUPS[version])) as right,
        closing(Taken(pair.left, version, GROUPS[version])) as left,
        closing(sender(pair.left, "eth0", LEFT[version])) as sock,
    ):
        sock.sendto(b"other", (other, PORT))
        for port, payload in enumerate((b"", b"odd", bytes(range(256)) * 5), PORT):
            sock.sendto(payload, (group, port))
        sock.setsockopt(17, UDP_SEGMENT, 1000)
        sock.sendto(bytes(range(250)) * 10, (group, PORT))
        expected = [b"", b"odd", bytes(range(256)) * 5, *2 * [bytes(range(250)) * 4], bytes(range(250)) * 2]
        for taken in (right, left):
            packets = taken.wait(6)
            assert payloads(packets) == expected
            assert {(str(one.source), str(one.destination)) for one in packets} == {(LEFT[version], group)}
            assert [int.from_bytes(one.body[2:4]) for one in packets[:4]] == [PORT, PORT + 1, PORT + 2, PORT]
        assert right.take() == left.take() == 6


def framed(packet: bytes, group: Address, *, tag: bytes = b"", to: bytes = b"") -> bytes:
    """A packet in a frame of Ethernet, with nothing left to be done."""
    head = (to or ethernet_address(group)) + bytes.fromhex("020000000001") + tag
    return head + (b"\x08\x00" if group.version == 4 else b"\x86\xdd") + packet


@contextmanager
def frames_from(host: Host) -> Iterator[socket.socket]:
    with inside(host), closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as frames:
        frames.bind(("eth0", 0))
        yield frames


@BOTH
def test_what_a_card_has_made_is_taken_as_it_is(pair: Pair, version: int) -> None:
    group = GROUPS[version]
    with closing(Taken(pair.right, version, group)) as right, frames_from(pair.left) as frames:
        sent = [datagram(b"whole", group), datagram(bytes(1000), group, 5006)]
        for packet in sent:
            frames.send(framed(packet, group))
        assert right.wait(2) == [read_ip(packet) for packet in sent]


@BOTH
def test_fragments_are_packets_of_their_own(pair: Pair, version: int) -> None:
    with (
        closing(Taken(pair.right, version, GROUPS[version])) as right,
        closing(sender(pair.left, "eth0", LEFT[version])) as sock,
    ):
        sock.sendto(bytes(4000), (str(GROUPS[version]), PORT))
        reassembly = Reassembly()
        whole = [reassembly.take(one, 0.0) for one in right.wait(3)]
    assert [one is None for one in whole] == [True, True, False]
    assert payloads([one for one in whole if one is not None]) == [bytes(4000)]


def test_what_is_no_udp_comes_too_and_what_is_for_another_vlan_or_host_does_not(pair: Pair) -> None:
    group, tag = GROUPS[4], bytes.fromhex("81000005")
    packet = build_ip(IpPacket(ip_address(LEFT[4]), group, 253, 9, b"four"))
    with closing(Taken(pair.right, 4, group)) as right, frames_from(pair.left) as frames:
        frames.send(framed(packet, group, tag=tag))
        frames.send(framed(packet, group, to=bytes.fromhex("020000000099")))
        frames.send(framed(packet, group, tag=bytes.fromhex("8100e000")))  # a priority, and no VLAN
        frames.send(framed(packet, group))
        (_, found) = right.wait(2)
        assert (found.protocol, found.ttl, found.body) == (253, 9, b"four")
        assert right.take() == 2


@BOTH
def test_groups_follow_and_may_be_too_many_for_a_filter(pair: Pair, version: int) -> None:
    first = int(GROUPS[version])
    with (
        closing(Taken(pair.right, version)) as right,
        closing(sender(pair.left, "eth0", LEFT[version])) as sock,
    ):
        for number in (1, GROUPS_MAX, 2 * GROUPS_MAX):
            groups = [ip_address(first + one) for one in range(number)]
            right.tap.follow(groups)
            before = len(right.of_udp())
            sock.sendto(b"%d" % number, (str(groups[-1]), PORT))
            # Where there are too many for a filter, what hosts report of their own groups is taken, too
            wait_for(lambda before=before: len(right.of_udp()) > before, "it")  # type: ignore[misc]
            assert payloads(right.of_udp()[before:]) == [b"%d" % number]
        right.tap.follow(())
        with UdpFrames(pair.right, "eth0", str(groups[0])) as frames:
            sock.sendto(b"none", (str(groups[0]), PORT))
            wait_for(frames.all, "what nobody takes")
        right.tap.follow(groups[:1])
        sock.sendto(b"one", (str(groups[0]), PORT))
        wait_for(lambda: len(right.of_udp()) > 3, "it")
        assert payloads(right.of_udp()[3:]) == [b"one"]


def test_what_does_not_fit_into_the_buffer_is_counted(pair: Pair) -> None:
    with (
        closing(Taken(pair.right, 4, GROUPS[4], buffer=1)) as right,
        closing(sender(pair.left, "eth0", LEFT[4])) as sock,
    ):
        for _ in range(500):
            sock.sendto(bytes(1000), (str(GROUPS[4]), PORT))
        wait_for(lambda: right.tap.overflow > 0, "drops")
        wait_for(lambda: right.take() + right.tap.overflow >= 500, "each of them")


def test_an_interface_that_goes_down_and_up_again_is_gone_on_with(pair: Pair) -> None:
    with closing(Taken(pair.right, 4, GROUPS[4])) as right, ExitStack() as stack:
        pair.right.ip("link set eth0 down")
        right.take()
        pair.right.ip("link set eth0 up")
        sock = stack.enter_context(closing(sender(pair.left, "eth0", LEFT[4])))

        def sent() -> int:
            sock.sendto(b"again", (str(GROUPS[4]), PORT))
            return right.take()

        wait_for(sent, "packets")
    assert payloads(right.packets)[0] == b"again"


@pytest.mark.parametrize("ctypes", [True, False])
def test_a_python_without_ctypes_takes_them_as_well(
    pair: Pair, ctypes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.net.packet_memory.HAVE_RECVMMSG", ctypes)
    with (
        closing(Taken(pair.right, 4, GROUPS[4])) as right,
        closing(sender(pair.left, "eth0", LEFT[4])) as sock,
    ):
        for number in range(300):  # more than a batch
            sock.sendto(b"%d" % number, (str(GROUPS[4]), PORT))
        assert payloads(right.wait(300)) == [b"%d" % number for number in range(300)]


def test_without_the_privilege_it_says_what_it_takes() -> None:
    code = "from mcastd.net.packet_tap import check_privilege; check_privilege()"
    command = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", sys.executable, "-c", code]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "peration not permitted; this takes CAP_NET_RAW" in failed.stderr


@BOTH
@pytest.mark.parametrize("ctypes", [True, False])
def test_packets_of_any_length_come_whole(
    pair: Pair, version: int, ctypes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.net.packet_memory.HAVE_RECVMMSG", ctypes)
    for host in (pair.left, pair.right):
        host.ip("link set eth0 mtu 65535")
    sizes = [1, 1316, 9000, 3, 65_507 - (40 if version == 6 else 0), 2048, 5]
    sent = [bytes(number % 251 for number in range(size)) for size in sizes]
    with (
        closing(Taken(pair.right, version, GROUPS[version])) as right,
        closing(sender(pair.left, "eth0", LEFT[version])) as sock,
    ):
        for payload in sent:
            sock.sendto(payload, (str(GROUPS[version]), PORT))
        assert payloads(right.wait(len(sent))) == sent
