"""Packets to groups, decoded: beside the tests' own decoder, and bytes that may be anything."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import wire
from support.packets import HOST6, checksum, ip4, ip6, v6

from mcastd.net.packets import Datagram, Fragment, MembershipMessage, Router, decode
from mcastd.net.tap import Traffic

MESSAGES = [
    ip4("224.0.0.1", "1100 CCCC 00000000"),
    ip4("224.0.0.1", "1164 CCCC 00000000"),
    ip4("239.1.1.1", "110a CCCC ef010101"),
    ip4("239.1.1.1", "1200 CCCC ef010101"),
    ip4("239.1.1.1", "1600 CCCC ef010101"),
    ip4("224.0.0.2", "1700 CCCC ef010101"),
    ip4("224.0.0.1", "11ff CCCC 00000000 027d 0000"),
    ip4("239.1.1.1", "118b CCCC ef010101 0a7d 0002 c0000201 c0000202"),
    ip4(
        "224.0.0.22",
        "2200 CCCC 0000 0004 01000001 ef010101 c0000201 02010001 ef010102 c0000201 deadbeef"
        "03000000 ef010103 04000000 ef010104",
    ),
    ip6("ff02::1", f"8200 CCCC 2710 0000 {v6('::')}"),
    ip6("ff15::1", f"8200 CCCC 9123 0000 {v6('ff15::1')} 0a7d 0001 {v6('fd00::7')}"),
    ip6("ff15::1", f"8300 CCCC 0000 0000 {v6('ff15::1')}"),
    ip6("ff02::2", f"8400 CCCC 0000 0000 {v6('ff15::1')}"),
    ip6("ff02::16", f"8f00 CCCC 0000 0002 04000000 {v6('ff15::1')} 03000000 {v6('ff15::2')}"),
]


@pytest.mark.parametrize("packet", MESSAGES)
def test_a_message_is_what_another_decoder_sees_in_it(packet: bytes) -> None:
    found, expected = decode(packet), wire.decode(packet)
    assert isinstance(found, MembershipMessage)
    assert expected is not None
    assert f"{found.protocol}v{found.version}" == expected.protocol
    assert found.kind == expected.kind
    assert str(found.source) == expected.source
    named = [record.group for record in expected.records if wire.reception([record]) != ("include", set())]
    if found.kind == "query":
        named = [record.group for record in expected.records if record.group not in ("0.0.0.0", "::")]
        assert found.within == pytest.approx(expected.max_response or 10)
    elif found.kind == "leave":
        named = [record.group for record in expected.records]
    assert [str(group) for group in found.groups] == named


GENERAL6 = ip6("ff02::1", f"8200 CCCC 2710 0000 {v6('::')}")


@pytest.mark.parametrize(
    "packet",
    [
        ip4("224.0.0.1", "1164 1234 00000000"),  # its checksum is 0xee9b
        ip4("224.0.0.1", "1164 0000 00000000"),
        ip4("224.0.0.1", "1164 CCCC 00000000 02"),  # neither IGMPv2 nor IGMPv3
        ip4("224.0.0.1", "1164 CCCC 00000000 027d00"),
        ip6("ff02::1", f"8200 1234 2710 0000 {v6('::')}"),
        GENERAL6[:7] + b"\x02" + GENERAL6[8:],  # a hop limit of 2
        ip6("ff02::1", f"8200 CCCC 2710 0000 {v6('::')}", alert=False),
        # a source that is not of the link, by the same sum
        GENERAL6.replace(ip_address(HOST6).packed, ip_address("fd00:180::9").packed),
    ],
)
def test_a_query_that_hosts_ignore_is_none(packet: bytes) -> None:
    """Or one packet of anybody had the doctor say that this host does not answer."""
    assert decode(packet) is None


def udp4(*, port: int = 9190, length: int = 12, cut: int = 0, ttl: int = 7) -> bytes:
    packed = ip_address("192.0.2.1").packed + ip_address("239.1.1.1").packed
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 32, 1, cut, ttl, 17, 0)
        + packed
        + struct.pack("!HHHH", 5, port, length, 0)
    )


def udp6(*extensions: bytes, first: int = 17) -> bytes:
    packed = ip_address("2001:db8::1").packed + ip_address("ff15::1").packed
    body = b"".join(extensions) + struct.pack("!HHHH", 5, 9190, 12, 0)
    return struct.pack("!IHBB", 6 << 28, len(body), first, 9) + packed + body


SOURCE4, GROUP4 = ip_address("192.0.2.1"), ip_address("239.1.1.1")
SOURCE6, GROUP6 = ip_address("2001:db8::1"), ip_address("ff15::1")


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (udp4(), Datagram(SOURCE4, GROUP4, 9190, 7, 4, fragmented=False)),
        (udp4(cut=0x2000), Datagram(SOURCE4, GROUP4, 9190, 7, 4, fragmented=True)),
        (udp4(cut=0x2001), Fragment(SOURCE4, GROUP4)),
        (udp4(cut=0x0010), Fragment(SOURCE4, GROUP4)),
        (udp4(length=7), None),
        (udp6(), Datagram(SOURCE6, GROUP6, 9190, 9, 4, fragmented=False)),
        (udp6(bytes([17, 0] + [0] * 6), first=60), Datagram(SOURCE6, GROUP6, 9190, 9, 4, fragmented=False)),
        (
            udp6(bytes([17, 0, 0, 1] + [0] * 4), first=44),
            Datagram(SOURCE6, GROUP6, 9190, 9, 4, fragmented=True),
        ),
        (udp6(bytes([17, 0, 0, 9] + [0] * 4), first=44), Fragment(SOURCE6, GROUP6)),
        (udp6(bytes([60, 0] + [0] * 6), bytes([6, 0] + [0] * 6), first=60), None),  # TCP, whatever for
    ],
)
def test_a_datagram_and_its_fragments(packet: bytes, expected: object) -> None:
    assert decode(packet) == expected


def test_a_pim_hello_is_a_router() -> None:
    packed = SOURCE4.packed + ip_address("224.0.0.13").packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 24, 1, 0, 1, 103, 0) + packed
    assert decode(head + bytes([0x20, 0, 0, 0])) == Router(SOURCE4)
    assert decode(head + bytes([0x23, 0, 0, 0])) is None  # a join/prune: of no interest


@given(
    st.one_of(
        st.binary(),
        st.builds(
            lambda packet, cut, at, byte: (packet[:at] + bytes([byte]) + packet[at + 1 :])[:cut],
            st.sampled_from([*MESSAGES, udp4(), udp6(), udp6(bytes(8), first=0)]),
            st.integers(0, 100),
            st.integers(0, 60),
            st.integers(0, 255),
        ),
    )
)
@example(b"")
@example(ip4("224.0.0.22", "2200 CCCC 0000 ffff" + "02000000 ef010101" * 3))
def test_no_packet_is_too_odd(packet: bytes) -> None:
    traffic = Traffic(0.0)
    traffic.take(packet, "eth0", socket.PACKET_MULTICAST, 0, 1.0)
    assert len(traffic.flows) + len(traffic.messages) + traffic.malformed == 1


def test_of_reports_only_the_groups_in_question_are_kept() -> None:
    ours, asked = ip_address("239.1.2.3"), ip_address("239.9.9.9")
    traffic = Traffic(0.0, groups=frozenset([ours]))
    records = [f"239.0.{number // 250}.{number % 250}" for number in range(180)] + [str(ours)]
    body = (
        b"\x22\0\0\0\0\0"
        + len(records).to_bytes(2)
        + b"".join(b"\x04\0\0\0" + ip_address(record).packed for record in records)
    )
    query = b"\x11\x64" + checksum(b"\x11\x64\0\0" + asked.packed) + asked.packed
    for message in (body, query):
        header = b"\x45\0" + (20 + len(message)).to_bytes(2) + bytes(4) + b"\x01\x02\0\0"
        packet = header + ip_address("10.0.0.9").packed + ip_address("224.0.0.22").packed + message
        traffic.take(packet, "eth0", 0, 0, 1.0)
    report, question = (seen.message for seen in traffic.messages)
    assert (report.kind, report.groups) == ("report", (ours,))  # type: ignore[union-attr]
    assert (question.kind, question.groups) == ("query", (asked,))  # type: ignore[union-attr]
