"""IGMP and MLD as a router reads and builds them: beside the tests' own decoder, tshark, and any bytes."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import wire
from support.captures import packets
from support.packets import ip4, ip6, v6

from mcastd.ip import Address
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import (
    ICMPV6,
    IGMP,
    MEMBERSHIP_TOS,
    MEMBERSHIP_TTL,
    IpPacket,
    build_ip,
    internet_checksum,
    read_ip,
)
from mcastd.protocols.membership import (
    GroupRecord,
    MembershipQuery,
    MembershipReport,
    RecordKind,
    Speaks,
    decode_time,
    encode_time,
)

SOURCE4, SOURCE6 = IPv4Address("192.0.2.7"), IPv6Address("fe80::7")


def read(packet: bytes) -> MembershipQuery | MembershipReport | None:
    """The message in a packet."""
    found = read_ip(packet)
    assert found is not None
    assert found.router_alert
    assert found.ttl == 1
    if isinstance(found.source, IPv6Address):
        assert isinstance(found.destination, IPv6Address)
        assert found.protocol == ICMPV6
        return mld.read(found.body, found.source, found.destination)
    assert found.protocol == IGMP
    return igmp.read(found.body)


def packed(message: bytes, destination: Address) -> bytes:
    source, protocol = (SOURCE4, IGMP) if destination.version == 4 else (SOURCE6, ICMPV6)
    packet = IpPacket(source, destination, protocol, MEMBERSHIP_TTL, message, router_alert=True)
    return build_ip(packet, MEMBERSHIP_TOS)


def group(text: str, *sources: str, kind: RecordKind = RecordKind.IS_EXCLUDE) -> GroupRecord:
    return GroupRecord(kind, ip_address(text), tuple(map(ip_address, sources)))


TO_INCLUDE = RecordKind.TO_INCLUDE
READ = {
    "igmp 1 query": (
        ip4("224.0.0.1", "1100 CCCC 00000000"),
        MembershipQuery(response_seconds=10.0, speaks=Speaks.JOINS),
    ),
    "igmp 2 query": (
        ip4("224.0.0.1", "1164 CCCC 00000000"),
        MembershipQuery(response_seconds=10.0, speaks=Speaks.LEAVES),
    ),
    "igmp 2 query of a group": (
        ip4("239.1.1.1", "110a CCCC ef010101"),
        MembershipQuery(ip_address("239.1.1.1"), response_seconds=1.0, speaks=Speaks.LEAVES),
    ),
    "igmp 1 report": (
        ip4("239.1.1.1", "1200 CCCC ef010101"),
        MembershipReport((group("239.1.1.1"),), Speaks.JOINS),
    ),
    "igmp 2 report": (
        ip4("239.1.1.2", "1600 CCCC ef010102"),
        MembershipReport((group("239.1.1.2"),), Speaks.LEAVES),
    ),
    "igmp 2 leave": (
        ip4("224.0.0.2", "1700 CCCC ef010103"),
        MembershipReport((group("239.1.1.3", kind=TO_INCLUDE),), Speaks.LEAVES),
    ),
    "igmp 3 query, the longest": (
        ip4("224.0.0.1", "11ff CCCC 00000000 077d 0000"),
        MembershipQuery(response_seconds=3174.4, robustness=7),
    ),
    "igmp 3 query of sources": (
        ip4("239.1.1.4", "118b CCCC ef010104 0a80 0002 c0000201 c0000202"),
        MembershipQuery(
            ip_address("239.1.1.4"),
            (ip_address("192.0.2.1"), ip_address("192.0.2.2")),
            response_seconds=21.6,
            suppress=True,
            robustness=2,
            interval_seconds=128,
        ),
    ),
    "igmp 3 report; auxiliary data and what follows are left out": (
        ip4(
            "224.0.0.22",
            "2200 CCCC 0000 0003 01000001 ef010105 c0000203 06010001 ef010106 c0000204 deadbeef"
            "04000000 ef010107 abcd",
        ),
        MembershipReport(
            (
                group("239.1.1.5", "192.0.2.3", kind=RecordKind.IS_INCLUDE),
                group("239.1.1.6", "192.0.2.4", kind=RecordKind.BLOCK),
                group("239.1.1.7", kind=RecordKind.TO_EXCLUDE),
            )
        ),
    ),
    "igmp 3 report of an unknown kind, of no group, of sources that are none": (
        ip4(
            "224.0.0.22",
            "2200 CCCC 0000 0005 07000000 ef010108 04000000 c0000201 05000001 ef010108 ef010101"
            "05000001 ef010108 00000000 05000001 ef010109 c0000205",
        ),
        MembershipReport((group("239.1.1.9", "192.0.2.5", kind=RecordKind.ALLOW),)),
    ),
    "mld 1 query": (
        ip6("ff02::1", f"8200 CCCC ffff 0000 {v6('::')}"),
        MembershipQuery(response_seconds=65.535, speaks=Speaks.LEAVES),
    ),
    "mld 1 report": (
        ip6("ff15::1", f"8300 CCCC 0000 0000 {v6('ff15::1')}"),
        MembershipReport((group("ff15::1"),), Speaks.LEAVES),
    ),
    "mld 1 done": (
        ip6("ff02::2", f"8400 CCCC 0000 0000 {v6('ff15::2')}"),
        MembershipReport((group("ff15::2", kind=TO_INCLUDE),), Speaks.LEAVES),
    ),
    "mld 2 query of sources": (
        ip6("ff15::3", f"8200 CCCC 9123 0000 {v6('ff15::3')} 0b7e 0001 {v6('fd00::7')}"),
        MembershipQuery(
            ip_address("ff15::3"),
            (ip_address("fd00::7"),),
            response_seconds=(0x123 | 0x1000) * 16 / 1000,
            suppress=True,
            robustness=3,
            interval_seconds=126,
        ),
    ),
    "mld 2 report": (
        ip6(
            "ff02::16",
            f"8f00 CCCC 0000 0002 04000000 {v6('ff15::4')} 03000001 {v6('ff15::5')} {v6('fd00::8')}",
        ),
        MembershipReport(
            (
                group("ff15::4", kind=RecordKind.TO_EXCLUDE),
                group("ff15::5", "fd00::8", kind=TO_INCLUDE),
            )
        ),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_what_a_message_says_is_read(name: str) -> None:
    packet, expected = READ[name]
    assert read(packet) == expected


IGNORED = {
    "an odd length, between the versions": ip4("224.0.0.1", "110a CCCC 00000000 02"),
    "igmp query of no group": ip4("224.0.0.1", "110a CCCC c0000201"),
    "igmp query with more sources than there are": ip4("239.1.1.1", "110a CCCC ef010101 027d 0002 c0000201"),
    "igmp report with more records than there are": ip4(
        "224.0.0.22", "2200 CCCC 0000 0002 04000000 ef010101"
    ),
    "igmp report with more sources than there are": ip4(
        "224.0.0.22", "2200 CCCC 0000 0001 05000002 ef010101 c0000201"
    ),
    "igmp of another kind": ip4("224.0.0.1", "1300 CCCC ef010101"),
    "igmp 2 report of no group": ip4("192.0.2.1", "1600 CCCC c0000201"),
    "igmp that is cut": ip4("224.0.0.1", "1164 CCCC"),
    "wrong igmp checksum": ip4("224.0.0.1", "1164 0001 00000000"),
    "mld query between the versions": ip6("ff02::1", f"8200 CCCC 2710 0000 {v6('::')} 02"),
    "mld query with more sources than there are": ip6(
        "ff02::1", f"8200 CCCC 2710 0000 {v6('ff15::1')} 027d 0001"
    ),
    "mld done of all groups": ip6("ff02::2", f"8400 CCCC 0000 0000 {v6('::')}"),
    "mld report of no group": ip6("ff02::2", f"8300 CCCC 0000 0000 {v6('fd00::1')}"),
    "icmp of another kind": ip6("ff02::1", f"8800 CCCC 0000 0000 {v6('::')}"),
    "mld that is cut": ip6("ff02::2", "8300 CCCC 0000"),
    "wrong mld checksum": ip6("ff02::2", f"8300 0001 0000 0000 {v6('ff15::1')}"),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_no_message_is_ignored(name: str) -> None:
    assert read(IGNORED[name]) is None


@pytest.mark.parametrize("mantissa", [4, 12])
def test_times_are_the_next_shorter_ones_that_have_a_code(mantissa: int) -> None:
    codes = range(1 << (mantissa + 4))
    times = [decode_time(code, mantissa) for code in codes]
    assert times == sorted(times)
    assert [encode_time(time, mantissa) for time in times] == list(codes)
    between = [encode_time(time - 1, mantissa) for time in times[1:]]
    assert between == list(codes[:-1])
    assert encode_time(times[-1] * 9, mantissa) == codes[-1]
    assert encode_time(-5, mantissa) == 0


def address_of(family: int) -> st.SearchStrategy[Address]:
    if family == 4:
        return st.integers(1, 0xDFFFFFFF).map(IPv4Address)
    return st.integers(1, (0xFF << 120) - 1).map(IPv6Address)


def group_of(family: int) -> st.SearchStrategy[Address]:
    if family == 4:
        return st.integers(0xE0000000, 0xEFFFFFFF).map(IPv4Address)
    return st.integers(0xFF << 120, (1 << 128) - 1).map(IPv6Address)


@st.composite
def records_of(draw: st.DrawFn, family: int) -> list[GroupRecord]:
    sources = st.lists(address_of(family), max_size=12, unique=True).map(tuple)
    record = st.builds(GroupRecord, st.sampled_from(RecordKind), group_of(family), sources)
    return draw(st.lists(record, min_size=1, max_size=8))


@given(st.data(), st.sampled_from([4, 6]), st.integers(60, 400))
def test_reports_are_parted_to_fit_and_say_the_same(data: st.DataObject, family: int, max_bytes: int) -> None:
    records = data.draw(records_of(family))
    destination: Address
    if family == 4:
        destination, messages = igmp.ALL_IGMPV3_ROUTERS, list(igmp.build_reports(records, max_bytes))
    else:
        destination = mld.ALL_MLDV2_ROUTERS
        messages = list(mld.build_reports(records, max_bytes, SOURCE6, mld.ALL_MLDV2_ROUTERS))
    assert max(map(len, messages)) <= max_bytes
    told: list[GroupRecord] = []
    seen: list[tuple[str, str, tuple[str, ...]]] = []
    for message in messages:
        packet = packed(message, destination)
        report = read(packet)
        assert isinstance(report, MembershipReport)
        told += report.records
        by_another = wire.decode(packet)
        assert by_another is not None
        seen += [tuple(record) for record in by_another.records]
    assert [(wire.RECORDS[one.kind], str(one.group), tuple(map(str, one.sources))) for one in told] == seen

    room = max((max_bytes - 12 - len(destination.packed)) // len(destination.packed), 1)
    expected: list[GroupRecord] = []
    for record in records:
        whole = record.kind in (RecordKind.IS_EXCLUDE, RecordKind.TO_EXCLUDE)
        sources = record.sources[:room] if whole else record.sources
        parts = range(0, len(sources), room) or (0,)
        expected += [GroupRecord(record.kind, record.group, sources[at : at + room]) for at in parts]
    assert told == expected


@st.composite
def queries_of(draw: st.DrawFn, family: int) -> MembershipQuery:
    asked = draw(st.none() | group_of(family))
    seconds = draw(st.integers(1, 120)) / 10
    if draw(st.booleans()):
        return MembershipQuery(asked, response_seconds=seconds, speaks=Speaks.LEAVES)
    sources = draw(st.lists(address_of(family), max_size=5).map(tuple)) if asked else ()
    return MembershipQuery(
        asked, sources, seconds, draw(st.booleans()), draw(st.integers(1, 7)), draw(st.integers(1, 127))
    )


@given(st.data(), st.sampled_from([4, 6]))
def test_queries_are_read_as_they_were_built(data: st.DataObject, family: int) -> None:
    query = data.draw(queries_of(family))
    asked = query.group
    destination: Address
    if family == 4:
        destination = asked or igmp.ALL_SYSTEMS
        message = igmp.build_query(query)
    else:
        destination = asked or mld.ALL_NODES
        assert isinstance(destination, IPv6Address)
        message = mld.build_query(query, SOURCE6, destination)
    packet = packed(message, destination)
    assert read(packet) == query
    by_another = wire.decode(packet)
    assert by_another is not None
    assert (by_another.kind, by_another.router_alert, by_another.ttl) == ("query", True, 1)
    assert by_another.max_response == pytest.approx(query.response_seconds)


def test_a_query_for_hosts_of_version_1() -> None:
    oldest = igmp.build_query(MembershipQuery(response_seconds=3, speaks=Speaks.JOINS))
    assert oldest == bytes.fromhex("1100eeff00000000")
    assert igmp.read(oldest) == MembershipQuery(response_seconds=10.0, speaks=Speaks.JOINS)


@given(st.binary(max_size=120), st.binary(max_size=40))
def test_any_bytes_are_read_or_ignored(packet: bytes, more: bytes) -> None:
    """The checksum is made right, so that what is behind it is read, too."""
    for start in (b"", b"\x11", b"\x22", b"\x82", b"\x8f"):
        message = bytearray(start + packet)
        if len(message) >= 4:
            message[2:4] = bytes(2)
            right = internet_checksum(bytes(message))
            message[2:4] = right.to_bytes(2)
        igmp.read(bytes(message))
        mld.read(bytes(message), SOURCE6, mld.ALL_NODES)
    read_ip(packet)
    for _, (whole, _) in zip(range(3), READ.values(), strict=False):
        read_ip(whole[: len(more)] + more)


def test_a_packet_is_read_as_long_as_it_says() -> None:
    packet = packed(b"\x16\0\0\0\xef\x01\x01\x01", IPv4Address("239.1.1.1"))
    assert read_ip(packet + b"padding") == read_ip(packet)
    assert read_ip(packet[:-1]) is None
    wrong = bytearray(packet)
    wrong[8] = 7  # the TTL, and not its checksum
    assert read_ip(bytes(wrong)) is None
    assert read_ip(b"") is None
    assert read_ip(b"\x16" + packet[1:]) is None


def test_fragments_are_told() -> None:
    whole = build_ip(IpPacket(SOURCE4, IPv4Address("239.1.1.1"), 17, 9, b"12345678" * 3))
    for cut, expected in (
        (0x2000, (0xABC, 0, True)),
        (0x2003, (0xABC, 24, True)),
        (0x0002, (0xABC, 16, False)),
    ):
        parted = bytearray(whole)
        parted[4:8] = (0xABC).to_bytes(2) + cut.to_bytes(2)
        parted[10:12] = bytes(2)
        parted[10:12] = internet_checksum(bytes(parted[:20])).to_bytes(2)
        found = read_ip(bytes(parted))
        assert found is not None
        assert found.fragment == expected
    header = bytes.fromhex("1100 0019 00000def")  # UDP, offset 24, more to come
    parted6 = (
        bytes.fromhex("6000 0000 0010 2c 09") + SOURCE6.packed + mld.ALL_NODES.packed + header + b"12345678"
    )
    found = read_ip(parted6)
    assert found is not None
    assert (found.fragment, found.protocol, found.body) == ((0xDEF, 24, True), 17, b"12345678")


def test_tshark_reads_what_is_built(tmp_path: Path) -> None:
    """One capture with a message of each kind, in both families."""
    report = [
        group("239.1.1.1", "192.0.2.1", "192.0.2.2", kind=RecordKind.ALLOW),
        group("239.1.1.2", kind=RecordKind.TO_EXCLUDE),
    ]
    report6 = [
        group("ff15::1", "fd00::1", kind=RecordKind.BLOCK),
        group("ff15::2", kind=RecordKind.IS_EXCLUDE),
    ]
    asked = MembershipQuery(ip_address("239.1.1.3"), (ip_address("192.0.2.3"),), 1.5, True, 3, 60)
    asked6 = MembershipQuery(ip_address("ff15::3"), (ip_address("fd00::3"),), 2.5, True, 4, 90)
    group6 = IPv6Address("ff15::3")
    sent = [
        packed(next(igmp.build_reports(report, 500)), igmp.ALL_IGMPV3_ROUTERS),
        packed(next(mld.build_reports(report6, 500, SOURCE6, mld.ALL_MLDV2_ROUTERS)), mld.ALL_MLDV2_ROUTERS),
        packed(igmp.build_query(asked), IPv4Address("239.1.1.3")),
        packed(mld.build_query(asked6, SOURCE6, group6), group6),
    ]
    capture = tmp_path / "messages.pcap"
    capture.write_bytes(wire.pcap(sent))
    fields = (
        *("igmp.num_grp_recs", "igmp.maddr", "igmp.saddr", "igmp.record_type", "igmp.checksum.status"),
        *("igmp.qrv", "igmp.qqic", "igmp.s", "igmp.max_resp"),
        *(
            "icmpv6.mldr.nb_mcast_records",
            "icmpv6.mldr.mar.multicast_address",
            "icmpv6.mldr.mar.source_address",
        ),
        *("icmpv6.checksum.status", "icmpv6.mld.flag.qrv", "icmpv6.mld.qqi", "icmpv6.mld.flag.s"),
        "icmpv6.mld.maximum_response_code",
    )
    told = packets(capture, *fields)
    assert told[0][:5] == ("2", "239.1.1.1,239.1.1.2", "192.0.2.1,192.0.2.2", "5,4", "1")
    assert told[1][9:13] == ("2", "ff15::1,ff15::2", "fd00::1", "1")
    assert told[2][5:9] == ("3", "60", "1", "15")
    assert told[3][13:] == ("4", "90", "1", "2500")
