"""The decoder that other tests see IGMP and MLD through: on hand-made bytes, and beside tshark's."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.host import Host, connect
from support.inside import inside, sysctl
from support.packets import HOST4, HOST6, ip4, ip6, v6
from support.peer import Talker
from support.wire import Message, Record, Wire, decode, pcap, reception


@pytest.mark.parametrize(
    ("to", "body", "protocol", "kind", "records", "response"),
    [
        ("224.0.0.1", "1100 CCCC 00000000", "IGMPv1", "query", [("query", "0.0.0.0", ())], 0),
        ("224.0.0.1", "1164 CCCC 00000000", "IGMPv2", "query", [("query", "0.0.0.0", ())], 10),
        ("239.1.1.1", "110a CCCC ef010101", "IGMPv2", "query", [("query", "239.1.1.1", ())], 1),
        ("239.1.1.1", "1200 CCCC ef010101", "IGMPv1", "report", [("report", "239.1.1.1", ())], 0),
        ("239.1.1.1", "1600 CCCC ef010101", "IGMPv2", "report", [("report", "239.1.1.1", ())], 0),
        ("224.0.0.2", "1700 CCCC ef010101", "IGMPv2", "leave", [("leave", "239.1.1.1", ())], 0),
        ("224.0.0.1", "1164 CCCC 00000000 027d 0000", "IGMPv3", "query", [("query", "0.0.0.0", ())], 10),
        (  # group-and-source-specific, with a Max Resp Code above 127: (0xb | 0x10) << (0 + 3) tenths
            "239.1.1.1",
            "118b CCCC ef010101 0a7d 0002 c0000201 c0000202",
            "IGMPv3",
            "query",
            [("query", "239.1.1.1", ("192.0.2.1", "192.0.2.2"))],
            21.6,
        ),
        (  # as it is seen from any host with mDNS, its checksum written out
            "224.0.0.22",
            "2200 f902 0000 0001 04000000 e00000fb",
            "IGMPv3",
            "report",
            [("TO_EX", "224.0.0.251", ())],
            0,
        ),
        (  # all six types, with no, one and two sources; the second has 4 bytes of auxiliary data
            "224.0.0.22",
            "2200 CCCC 0000 0006"
            "01000001 ef010101 c0000201"
            "02010001 ef010102 c0000201 deadbeef"
            "03000000 ef010103"
            "04000002 ef010104 c0000201 c0000202"
            "05000001 ef010105 c0000203"
            "06000001 ef010106 c0000204",
            "IGMPv3",
            "report",
            [
                ("IS_IN", "239.1.1.1", ("192.0.2.1",)),
                ("IS_EX", "239.1.1.2", ("192.0.2.1",)),
                ("TO_IN", "239.1.1.3", ()),
                ("TO_EX", "239.1.1.4", ("192.0.2.1", "192.0.2.2")),
                ("ALLOW", "239.1.1.5", ("192.0.2.3",)),
                ("BLOCK", "239.1.1.6", ("192.0.2.4",)),
            ],
            0,
        ),
        (
            "ff02::1",
            f"8200 CCCC 2710 0000 {v6('::')}",
            "MLDv1",
            "query",
            [("query", "::", ())],
            10,
        ),
        (
            "ff15::1",
            f"8300 CCCC 0000 0000 {v6('ff15::1')}",
            "MLDv1",
            "report",
            [("report", "ff15::1", ())],
            0,
        ),
        ("ff02::2", f"8400 CCCC 0000 0000 {v6('ff15::1')}", "MLDv1", "leave", [("leave", "ff15::1", ())], 0),
        (  # a Maximum Response Code above 32,767: (0x123 | 0x1000) << (1 + 3) milliseconds
            "ff15::1",
            f"8200 CCCC 9123 0000 {v6('ff15::1')} 0a7d 0001 {v6('fd00::7')}",
            "MLDv2",
            "query",
            [("query", "ff15::1", ("fd00::7",))],
            70.192,
        ),
        (
            "ff02::16",
            f"8f00 CCCC 0000 0003"
            f"04000000 {v6('ff15::1')}"
            f"05010002 {v6('ff15::2')} {v6('fd00::1')} {v6('fd00::2')} 00000000"
            f"06000001 {v6('ff15::3')} {v6('fd00::3')}",
            "MLDv2",
            "report",
            [
                ("TO_EX", "ff15::1", ()),
                ("ALLOW", "ff15::2", ("fd00::1", "fd00::2")),
                ("BLOCK", "ff15::3", ("fd00::3",)),
            ],
            0,
        ),
    ],
)
def test_messages_of_every_kind(  # noqa: PLR0917 - a column of the table each
    to: str,
    body: str,
    protocol: str,
    kind: str,
    records: list[tuple[str, str, tuple[str, ...]]],
    response: float,
) -> None:
    four = ip_address(to).version == 4
    expected = Message(
        protocol,
        kind,
        tuple(Record(*record) for record in records),
        source=HOST4 if four else HOST6,
        destination=to,
        ttl=1,
        router_alert=True,
        max_response=response,
    )
    assert decode(ip4(to, body) if four else ip6(to, body)) == expected


def test_what_stands_around_a_message_is_not_taken_for_it() -> None:
    report = "1600 CCCC ef010101"
    padded = decode(ip4("239.1.1.1", report, trailer=bytes(18)))  # as Ethernet pads to 60 bytes
    assert padded is not None
    assert (padded.protocol, padded.router_alert) == ("IGMPv2", True)
    bare = decode(ip4("239.1.1.1", report, alert=b""))
    assert bare is not None
    assert not bare.router_alert
    after_nop = decode(ip4("239.1.1.1", report, alert=b"\x01\x01\x01\x00"))
    assert after_nop is not None
    assert not after_nop.router_alert
    bare = decode(ip6("ff15::1", f"8300 CCCC 0000 0000 {v6('ff15::1')}", alert=False))
    assert bare is not None
    assert not bare.router_alert


def test_other_packets_are_none_of_its_business() -> None:
    udp = bytearray(ip4("239.1.1.1", "0400 0401 0008 0000"))
    udp[9] = socket.IPPROTO_UDP
    assert decode(bytes(udp)) is None
    assert decode(ip4("224.0.0.5", "1300 CCCC 00000000")) is None  # DVMRP, which is IGMP type 0x13
    assert (
        decode(ip6("ff02::1:ff00:1", f"8700 CCCC 00000000 {v6('fe80::1')}")) is None
    )  # neighbour solicitation
    assert decode(b"") is None


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (ip4("239.1.1.1", "1600 0bad ef010101"), "wrong IGMP checksum"),
        (ip4("239.1.1.1", "1600 CCCC"), "IGMP message of 4 bytes"),
        (ip4("224.0.0.22", "2200 CCCC 0000 0002 04000000 ef010101"), "a record of 0 bytes"),
        (ip4("224.0.0.22", "2200 CCCC 0000 0001 04000002 ef010101 c0000201"), "2 addresses in 4 bytes"),
        (ip4("224.0.0.22", "2200 CCCC 0000 0001 09000000 ef010101"), "record type 9"),
        (ip6("ff15::1", f"8300 0bad 0000 0000 {v6('ff15::1')}"), "wrong MLD checksum"),
        (ip6("ff02::16", f"8f00 CCCC 0000 0001 04000001 {v6('ff15::1')}"), "1 addresses in 0 bytes"),
    ],
)
def test_malformed_messages_are_told(packet: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(packet)


def test_what_a_router_makes_of_the_records_of_one_group() -> None:
    def after(*records: tuple[str, str]) -> tuple[str, set[str]]:
        return reception(Record(kind, "239.1.1.1", tuple(sources.split())) for kind, sources in records)

    assert after() == ("include", set())
    assert after(("ALLOW", "a"), ("ALLOW", "b"), ("BLOCK", "a")) == ("include", {"b"})
    assert after(("TO_EX", ""), ("BLOCK", "a b"), ("ALLOW", "b")) == ("exclude", {"a"})
    assert after(("TO_EX", "a"), ("TO_IN", "")) == ("include", set())
    assert after(("report", ""), ("leave", "")) == ("include", set())
    assert after(("TO_EX", ""), ("TO_IN", "b"), ("ALLOW", "c")) == ("include", {"b", "c"})


# -- the kernel's own messages, by our decoder and by tshark's

MCAST_JOIN_GROUP, MCAST_BLOCK_SOURCE, MCAST_JOIN_SOURCE_GROUP = 42, 43, 46


def sockaddr(address: str) -> bytes:
    packed = ip_address(address).packed
    head = (
        struct.pack("=HH", socket.AF_INET, 0)
        if len(packed) == 4
        else struct.pack("=HHI", socket.AF_INET6, 0, 0)
    )
    return (head + packed).ljust(128, b"\0")


def member(host: Host, option: int, group: str, *sources: str) -> socket.socket:
    """A socket in ``host`` that set a membership ``option`` on its eth0, for each of ``sources`` if any."""
    four = ip_address(group).version == 4
    level = socket.IPPROTO_IP if four else socket.IPPROTO_IPV6
    with inside(host):
        made = socket.socket(socket.AF_INET if four else socket.AF_INET6, socket.SOCK_DGRAM)
        head = struct.pack("@I0L", socket.if_nametoindex("eth0")) + sockaddr(group)
    if option == MCAST_BLOCK_SOURCE:
        made.setsockopt(level, MCAST_JOIN_GROUP, head)
    for source in sources or [""]:
        made.setsockopt(level, option, head + (sockaddr(source) if source else b""))
    return made


@pytest.fixture
def pair(no_fd_leak: None) -> Iterator[tuple[Host, Host]]:
    """Two hosts, eth0 (192.0.2.1, fd00::1) to eth0 (192.0.2.2, fd00::2)."""
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        for number, host in enumerate((left, right), 1):
            host.ip(f"addr add 192.0.2.{number}/24 dev eth0")
            host.ip(f"addr add fd00::{number}/64 dev eth0 nodad")
        yield left, right


def ask(host: Host, packet: bytes) -> None:
    """Send a hand-made IP packet out of the host's eth0."""

    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    with inside(host), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as raw:
        raw.sendto(packet, ("eth0", kind, 0, 0, b"\xff" * 6))


def conversation(left: Host, right: Host) -> list[bytes]:
    """What two hosts say in all the protocols; the packets."""
    with ExitStack() as stack:
        wire = stack.enter_context(Wire(right))
        for group, join, source in (
            ("239.1.1.1", MCAST_JOIN_GROUP, ()),
            ("239.1.1.2", MCAST_JOIN_SOURCE_GROUP, ("192.0.2.7", "192.0.2.8")),
            ("239.1.1.3", MCAST_BLOCK_SOURCE, ("192.0.2.6",)),
            ("ff15::1", MCAST_JOIN_GROUP, ()),
            ("ff15::2", MCAST_JOIN_SOURCE_GROUP, ("fd00::7", "fd00::8")),
            ("ff15::3", MCAST_BLOCK_SOURCE, ("fd00::6",)),
        ):
            stack.enter_context(member(left, join, group, *source))
            wire.wait(group, "ALLOW", "TO_EX")
        for group in ("239.1.1.4", "ff15::4"):
            member(left, MCAST_JOIN_GROUP, group).close()
            wire.wait(group, "TO_IN")
        for group, source in (("239.1.1.2", "192.0.2.9"), ("ff15::2", "fd00::9")):
            member(left, MCAST_JOIN_SOURCE_GROUP, group, source).close()
            wire.wait(group, "BLOCK")
        ask(right, ip4("224.0.0.1", "1101 CCCC 00000000 027d 0000"))  # answered within 0.1 s
        ask(right, ip6("ff02::1", f"8200 CCCC 0064 0000 {v6('::')} 027d 0000"))
        wire.wait("239.1.1.2", "IS_IN")
        wire.wait("ff15::2", "IS_IN")
        for version in (2, 1):
            sysctl(left, ipv4__conf__eth0__force_igmp_version=version)
            group = f"239.1.2.{version}"
            joined = member(left, MCAST_JOIN_GROUP, group)
            wire.wait(group, "report")
            joined.close()
            if version == 2:
                wire.wait(group, "leave")
        sysctl(left, ipv6__conf__eth0__force_mld_version=1)
        joined = member(left, MCAST_JOIN_GROUP, "ff15::5")
        wire.wait("ff15::5", "report")
        joined.close()
        wire.wait("ff15::5", "leave")
        with Talker(right, "eth0", "239.1.1.1", 9, source="192.0.2.2") as talker:
            talker.send(3)  # which is not for the observer
        wire.mark()
        assert wire.malformed == []
        return list(wire.packets)


def test_the_kernels_messages_and_tshark_agrees(pair: tuple[Host, Host], tmp_path: Path) -> None:
    packets = conversation(*pair)
    ours = [message for packet in packets if (message := decode(packet))]
    assert {message.protocol for message in ours} == {"IGMPv1", "IGMPv2", "IGMPv3", "MLDv1", "MLDv2"}
    kinds = {record.kind for message in ours for record in message.records}
    assert {"query", "report", "leave", "IS_IN", "IS_EX", "TO_IN", "TO_EX", "ALLOW", "BLOCK"} == kinds
    assert all(message.router_alert and message.ttl == 1 for message in ours)
    capture = tmp_path / "wire.pcap"
    capture.write_bytes(pcap(packets))
    assert [by_tshark(packet) for packet in tshark(capture)] == [
        (
            (message.source, message.destination),
            {"IGMPv1": 1, "IGMPv2": 2, "IGMPv3": 3}.get(message.protocol),
            [record.kind for record in message.records],
            [record.group for record in message.records],
            [len(record.sources) for record in message.records],
            [source for record in message.records for source in record.sources],
        )
        for message in ours
    ]


FIELDS = (
    *("ip.src", "ip.dst", "igmp.version", "igmp.type", "igmp.maddr", "igmp.record_type", "igmp.num_src"),
    *("igmp.saddr", "igmp.checksum.status", "ipv6.src", "ipv6.dst", "icmpv6.type"),
    *("icmpv6.mld.multicast_address", "icmpv6.mld.nb_sources", "icmpv6.mld.source_address"),
    *("icmpv6.mldr.mar.record_type", "icmpv6.mldr.mar.multicast_address", "icmpv6.mldr.mar.nb_sources"),
    *("icmpv6.mldr.mar.source_address", "icmpv6.checksum.status"),
)


def tshark(capture: Path) -> list[dict[str, list[str]]]:
    """The FIELDS of each packet of a capture, those that are there."""
    command = ["tshark", "-n", "-r", str(capture), "-T", "json"]
    for field in FIELDS:
        command += ["-e", field]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [packet["_source"]["layers"] for packet in json.loads(ran.stdout)]


def by_tshark(fields: dict[str, list[str]]) -> tuple[object, ...]:
    """tshark's fields in the shape that ours are compared in."""
    names = dict(enumerate(("IS_IN", "IS_EX", "TO_IN", "TO_EX", "ALLOW", "BLOCK"), 1))
    assert fields.get("igmp.checksum.status", fields.get("icmpv6.checksum.status")) == ["1"]  # good
    if "ip.src" in fields:
        addresses, version = (fields["ip.src"][0], fields["ip.dst"][0]), int(fields["igmp.version"][0])
        kinds = {0x11: "query", 0x12: "report", 0x16: "report", 0x17: "leave"}
        kind = kinds.get(int(fields["igmp.type"][0], 0))
        types, groups = fields.get("igmp.record_type", []), fields["igmp.maddr"]
        counts, sources = fields.get("igmp.num_src", ["0"]), fields.get("igmp.saddr", [])
    else:
        addresses, version = (fields["ipv6.src"][0], fields["ipv6.dst"][0]), None
        kind = {130: "query", 131: "report", 132: "leave"}.get(int(fields["icmpv6.type"][0]))
        part = "icmpv6.mld." if kind else "icmpv6.mldr.mar."
        types, groups = fields.get("icmpv6.mldr.mar.record_type", []), fields[part + "multicast_address"]
        counts, sources = fields.get(part + "nb_sources", ["0"]), fields.get(part + "source_address", [])
    said = [kind] if kind else [names[int(number)] for number in types]
    return addresses, version, said, groups, [int(count) for count in counts], sources
