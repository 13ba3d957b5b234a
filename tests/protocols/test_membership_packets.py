"""Which messages of IGMP and MLD a host of the network has sent, by table, and of any packet."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcastd.ip import Prefix
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, IpPacket, alerts_6, build_ip, read_ip, router_alert_6
from mcastd.protocols.membership import (
    GroupRecord,
    MembershipQuery,
    MembershipReport,
    RecordKind,
    Speaks,
)
from mcastd.protocols.membership_packets import is_of_network, read_message

NETWORKS: tuple[Prefix, ...] = (ip_network("192.0.2.0/25"), ip_network("198.51.100.7/32"))
HOST4, HOST6 = ip_address("192.0.2.7"), IPv6Address("fe80::7")
GROUP4, GROUP6 = ip_address("239.1.1.1"), IPv6Address("ff15::1")


def packet4(message: bytes, to: object = igmp.ALL_IGMPV3_ROUTERS, **other: Any) -> IpPacket:
    return replace(IpPacket(HOST4, ip_address(str(to)), IGMP, 1, message, router_alert=True), **other)


def report4(**other: Any) -> IpPacket:
    (message,) = igmp.build_reports([GroupRecord(RecordKind.TO_EXCLUDE, GROUP4)], 100)
    return packet4(message, **other)


def query4(group: Any = None, speaks: Speaks = Speaks.SOURCES, **other: Any) -> IpPacket:
    message = igmp.build_query(MembershipQuery(group, response_seconds=3, speaks=speaks))
    return packet4(message, group or igmp.ALL_SYSTEMS, **other)


def packet6(build: Any, *, source: IPv6Address = HOST6, to: IPv6Address, **other: Any) -> IpPacket:
    return replace(IpPacket(source, to, ICMPV6, 1, build(source, to), router_alert=True), **other)


def report6(**other: Any) -> IpPacket:
    def build(source: IPv6Address, to: IPv6Address) -> bytes:
        records = [GroupRecord(RecordKind.TO_EXCLUDE, GROUP6)]
        return next(iter(mld.build_reports(records, 100, source, to)))

    return packet6(build, to=mld.ALL_MLDV2_ROUTERS, **other)


def query6(speaks: Speaks = Speaks.SOURCES, **other: Any) -> IpPacket:
    query = MembershipQuery(speaks=speaks)
    return packet6(lambda *ends: mld.build_query(query, *ends), to=mld.ALL_NODES, **other)


ELSEWHERE = {"source": ip_address("192.0.2.129")}
BARE = {"router_alert": False}
BELIEVED = {
    "report 4": (report4(), True),
    "report 4 of another network on the link": (report4(**ELSEWHERE), True),
    "report 4 of the other end of a tunnel": (report4(source=ip_address("198.51.100.9")), True),
    "report 4 without Router Alert": (report4(**BARE), True),
    "report 4 of a tunnel's own address without it": (report4(source=NETWORKS[1][0], **BARE), True),
    "report 4 without it, and from elsewhere": (report4(**ELSEWHERE, **BARE), False),
    "report 4 without it, and from no address": (report4(source=ip_address("0.0.0.0"), **BARE), True),
    "report 4 with another TTL": (report4(ttl=7), True),
    "query 4": (query4(), True),
    "query 4 without Router Alert": (query4(**BARE), True),
    "query of IGMPv1, from elsewhere": (query4(speaks=Speaks.JOINS, **ELSEWHERE, **BARE), False),
    "query of IGMPv2 for a group, from elsewhere": (
        query4(GROUP4, Speaks.LEAVES, **ELSEWHERE, **BARE),
        False,
    ),
    "query 4 for a group": (query4(GROUP4), True),
    "query 4 for all groups that goes to one": (query4(destination=GROUP4), False),
    "report 6": (report6(), True),
    "report 6 without Router Alert": (report6(**BARE), False),
    "report 6 with another hop limit": (report6(ttl=255), False),
    "report 6 with none left": (report6(ttl=0), False),
    "report 6 from elsewhere": (report6(source=IPv6Address("2001:db8::7")), False),
    "report 6 from no address yet": (report6(source=IPv6Address("::")), False),
    "query 6": (query6(), True),
    "query of MLDv1": (query6(Speaks.LEAVES), True),
    "query of MLDv1 without Router Alert": (query6(Speaks.LEAVES, **BARE), False),
    "query 6 with another hop limit": (query6(ttl=2), False),
    "query 6 from elsewhere": (query6(source=IPv6Address("2001:db8::7")), False),
}


@pytest.mark.parametrize("name", BELIEVED)
def test_who_is_believed(name: str) -> None:
    packet, expected = BELIEVED[name]
    message = read_message(packet)
    assert isinstance(message, (MembershipQuery, MembershipReport)), "that is another question"
    assert is_of_network(packet, message, iter(NETWORKS)) is expected
    again = read_ip(build_ip(packet))
    assert again == packet, "and it is what the wire has"


def test_what_is_no_whole_message_is_none() -> None:
    for packet in (report4(), report6()):
        assert read_message(replace(packet, fragment=(7, 0, True))) is None
        assert read_message(replace(packet, protocol=17)) is None
        assert read_message(replace(packet, body=packet.body[:-1])) is None
    assert read_message(replace(report4(), protocol=ICMPV6)) is None
    assert read_message(replace(report6(), protocol=IGMP)) is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("0502 0000 0100", True),
        ("0100 0502 0000", True),
        ("0000 0502 0000", True),
        ("0502 0001 0100", False),  # of RSVP: RFC 2711
        ("0502 0000", True),
        ("0502 00", False),
        ("05", False),
        ("0104 0502 0000", False),  # inside the padding
        ("01", False),
        ("1eff 0502 0000", False),
        ("", False),
    ],
)
def test_router_alert_is_that_for_mld(options: str, expected: bool) -> None:
    assert alerts_6(b"\x3a\0" + bytes.fromhex(options)) is expected


def test_the_header_that_we_send_has_it() -> None:
    assert alerts_6(router_alert_6(ICMPV6))


@given(st.binary(max_size=100))
@example(b"\x3a")
def test_any_header_has_it_or_not(header: bytes) -> None:
    assert alerts_6(header) <= (b"\x05\x02\0\0" in header)


@given(
    st.sampled_from([report4(), query4(), report6(), query6()]),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=4),
    st.integers(0, 8),
)
def test_any_damaged_packet_is_read_and_judged(
    packet: IpPacket, damages: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(build_ip(packet))
    for at, value in damages:
        data[at % len(data)] = value
    found = read_ip(bytes(data[: len(data) - cut]))
    message = None if found is None else read_message(found)
    if found is not None and message is not None and is_of_network(found, message, NETWORKS):
        assert found.router_alert or found.version == 4
        assert found.version == 4 or (found.source.is_link_local and found.ttl == 1)
