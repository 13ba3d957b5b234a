"""Members of a network whom links ask what they want: queries, reports, and whatever else may come."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd import clock
from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.net import _abi
from mcastd.net.interfaces import Interface
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import (
    ICMPV6,
    IGMP,
    MEMBERSHIP_TOS,
    MEMBERSHIP_TTL,
    IpPacket,
    build_ip,
)
from mcastd.protocols.link_control import GroupWant
from mcastd.protocols.membership import GroupRecord, MembershipQuery, RecordKind
from mcastd.querier.querier import RETRY_SECONDS
from mcastd.querier.timing import Timing
from mcastd.tunnel.link.members import InterfaceMembers, is_about_members

LOWER = ip_address("10.1.0.1")
HERE, HERE_6 = ip_address("10.1.0.5"), ip_address("fe80::5")
LAN = Interface(7, "lan", 0x1043, 0, (HERE, HERE_6))
MEMBER, MEMBER_6 = ip_address("10.1.0.9"), ip_address("fe80::9")
GROUPS = {4: ip_address("239.1.2.3"), 6: ip_address("ff15::123")}
SOURCE = ip_address("203.0.113.7")
SOURCE_6 = ip_address("fd00:9::7")


class Asked:
    """Queries, instead of a socket."""

    def __init__(self) -> None:
        self.queries: list[tuple[Address, Address, MembershipQuery]] = []
        self.refuses = False

    def __call__(self, version: int) -> Asked:
        return self

    def send(self, ifindex: int, source: Address, destination: Address, message: bytes) -> None:
        if self.refuses:
            raise LinkError("cannot ask for members of IPv4", "on purpose")
        assert ifindex == LAN.index
        read: Any = igmp.read(message) if source.version == 4 else mld.read(message, source, destination)
        self.queries.append((source, destination, read))

    def close(self) -> None:
        pass


def report(
    kind: RecordKind, group: Address, *sources: Address, source: Address | None = None, alert: bool = True
) -> bytes:
    """The packet by which a member says what it wants."""
    record = GroupRecord(kind, group, sources)
    origin = source or (MEMBER if group.version == 4 else MEMBER_6)
    if group.version == 4:
        to, protocol = igmp.ALL_IGMPV3_ROUTERS, IGMP
        (body,) = igmp.build_reports([record], 1400)
    else:
        to, protocol = mld.ALL_MLDV2_ROUTERS, ICMPV6
        (body,) = mld.build_reports([record], 1400, origin, to)
    packet = IpPacket(origin, to, protocol, MEMBERSHIP_TTL, body, router_alert=alert)
    return build_ip(packet, MEMBERSHIP_TOS)


def want(group: Address, sources: SourceFilter = ANY_SOURCE) -> GroupWant:
    return GroupWant(ip_network(group), sources, 0)


def run(members: InterfaceMembers, now: float, until: float) -> bool:
    """Let time pass. Returns True if something else was wanted meanwhile."""
    changed = False
    while members.deadline <= until:
        now = max(now, members.deadline)
        changed |= members.tick(now)
    return changed


@pytest.mark.parametrize("version", [4, 6])
def test_members_are_asked_and_believed_until_nobody_answers(version: int) -> None:
    asked = Asked()
    members = InterfaceMembers(LAN, 100.0, asked)
    assert not run(members, 100.0, 100.0)
    assert {(source, query.group) for source, _, query in asked.queries} == {(HERE, None), (HERE_6, None)}
    group = GROUPS[version]
    joined = report(RecordKind.TO_EXCLUDE, group)
    assert is_about_members(joined)
    assert members.hear(joined, 101.0)
    assert not members.hear(joined, 102.0)
    assert [*members.wanted()] == [want(group)]
    asked.queries.clear()
    members.hear(report(RecordKind.TO_INCLUDE, group), 110.0)
    assert run(members, 110.0, 115.0)
    assert {query.group for _, _, query in asked.queries} == {group}
    assert [*members.wanted()] == []


def test_sources_are_wanted_by_themselves() -> None:
    members = InterfaceMembers(LAN, 100.0, Asked())
    assert members.hear(report(RecordKind.ALLOW, GROUPS[4], SOURCE), 101.0)
    assert [*members.wanted()] == [want(GROUPS[4], SourceFilter(False, (SOURCE,)))]


def test_what_this_host_says_and_what_stays_on_the_link_is_nobodys_want() -> None:
    members = InterfaceMembers(LAN, 100.0, Asked())
    assert not members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[4], source=HERE), 101.0)
    assert not members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[6], source=HERE_6), 101.0)
    members.hear(report(RecordKind.TO_EXCLUDE, ip_address("224.0.0.251")), 101.0)
    # RFC 3810 section 5.2.13: from a host that has no address yet
    members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[6], source=ip_address("::")), 101.0)
    assert [*members.wanted()] == []


def test_what_no_host_of_the_network_has_sent_is_nobodys_want() -> None:
    """Else somebody far away could have any group fetched."""
    lan = Interface(7, "lan", 0x1043, 0, (HERE, HERE_6), (24, 64))
    members = InterfaceMembers(lan, 100.0, Asked())
    elsewhere = ip_address("10.2.0.9")
    for group, source in ((GROUPS[4], elsewhere), (GROUPS[6], MEMBER_6)):
        forged = report(RecordKind.TO_EXCLUDE, group, source=source, alert=False)
        is_about_members(forged)
        assert not members.hear(forged, 101.0)
    assert [*members.wanted()] == []
    assert members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[4], source=elsewhere), 101.0)
    assert members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[6]), 101.0)


def test_why_nobody_is_asked_is_told() -> None:
    asked = Asked()
    asked.refuses = True
    members = InterfaceMembers(LAN, 100.0, asked)
    members.tick(100.0)
    assert members.troubles[0] == "lan: cannot ask for members of IPv4: on purpose"
    query = igmp.build_query(MembershipQuery(response_seconds=10.0, robustness=2, interval_seconds=125.0))
    packet = IpPacket(LOWER, igmp.ALL_SYSTEMS, IGMP, MEMBERSHIP_TTL, query, router_alert=True)
    assert len(members.troubles) == 2
    members.hear(build_ip(packet), 101.0)
    assert len(members.troubles) == 1, "another router asks by IGMP"
    without = Interface(8, "lan2", 0x1043, 0, ())
    members = InterfaceMembers(without, 100.0, Asked())
    members.tick(100.0)
    assert members.troubles == (
        "lan2 has no IPv4 address to ask members from",
        "lan2 has no IPv6 address to ask members from",
    )


def asked_since(asked: Asked, members: InterfaceMembers, now: float) -> set[Address | None]:
    """Let what is due be done. Returns who asks by a general query since the last call."""
    asked.queries.clear()
    members.tick(now)
    return {source for source, _, query in asked.queries if query.group is None}


def test_members_are_asked_again_when_a_carrier_is_back() -> None:
    """What they have said meanwhile was lost, and a switch may have forgotten who wants what."""
    asked = Asked()
    up = replace(LAN, carrier_changes=3)
    down = replace(LAN, flags=LAN.flags & ~_abi.IFF_RUNNING, carrier_changes=4)
    again, unseen = (replace(LAN, carrier_changes=changes) for changes in (5, 7))
    members, now = InterfaceMembers(up, 100.0, asked), 100.0
    assert asked_since(asked, members, now) == {HERE, HERE_6}
    for interface, is_asked in ((up, False), (down, False), (again, True), (again, False), (unseen, True)):
        now += 5
        members.move(interface, now)
        assert asked_since(asked, members, now) == ({HERE, HERE_6} if is_asked else set())


def test_a_query_that_cannot_be_sent_is_sent_again_soon() -> None:
    """Not only when the next one is due, which is half a minute later, or two minutes."""
    asked = Asked()
    asked.refuses = True
    members = InterfaceMembers(LAN, 100.0, asked)
    members.tick(100.0)
    assert members.deadline == 100.0 + RETRY_SECONDS
    assert asked_since(asked, members, 105.0) == set()
    asked.refuses = False
    assert asked_since(asked, members, 109.9) == set()
    assert len(members.troubles) == 2
    assert asked_since(asked, members, 110.0) == {HERE, HERE_6}
    assert {query.response_seconds for _, _, query in asked.queries} == {2.0}, "as at the start"
    assert members.troubles == ()
    # One of a group, by which a member that stays was to be found
    members.hear(report(RecordKind.TO_EXCLUDE, GROUPS[4]), 120.0)
    members.hear(report(RecordKind.TO_INCLUDE, GROUPS[4]), 120.0)
    asked.refuses = True
    members.tick(120.0)
    members.tick(121.0)
    asked.refuses = False
    assert asked_since(asked, members, 124.9) == set()
    assert asked_since(asked, members, 125.0) == {HERE}
    assert [*members.wanted()], "one that stays was not asked"
    members.tick(125.0 + 2.0 + Timing().last_member)
    assert [*members.wanted()] == []
    # And one of a source, to which a member listens
    for kind in (RecordKind.ALLOW, RecordKind.BLOCK):
        members.hear(report(kind, GROUPS[6], SOURCE_6), 300.0)
    asked.refuses = True
    members.tick(300.0)
    asked.refuses = False
    members.tick(303.0)
    assert [*members.wanted()] == [want(GROUPS[6], SourceFilter(False, (SOURCE_6,)))]
    members.tick(303.0 + RETRY_SECONDS + 2.0 + Timing().last_member)
    assert [*members.wanted()] == []


def test_groups_of_the_link_take_no_room_and_that_there_is_none_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    members = InterfaceMembers(LAN, 100.0, Asked())
    monkeypatch.setattr(clock, "monotonic", lambda: 102.0)
    for querier in members._queriers.values():
        querier.listeners._groups_max = 1
    for group in (ip_address("224.0.0.251"), ip_address("ff02::1:ff00:9")):
        assert not members.hear(report(RecordKind.TO_EXCLUDE, group), 101.0)
    for group in GROUPS.values():
        assert members.hear(report(RecordKind.TO_EXCLUDE, group), 101.0)
    assert members.troubles == ()
    for _ in range(2):
        assert not members.hear(report(RecordKind.TO_EXCLUDE, ip_address("239.1.2.4")), 101.0)
    members.hear(report(RecordKind.TO_EXCLUDE, ip_address("232.1.2.3")), 101.0)
    assert members.troubles == ("members on lan want more groups or sources than are kept",)
    four, six = members.statuses()
    assert (four.interface, four.version, four.asks, four.querier) == ("lan", 4, True, "10.1.0.5")
    assert (four.groups, four.refused, four.crowded, four.without_source) == (1, 2, True, 1)
    assert (six.version, six.querier, six.groups, six.refused, six.crowded) == (6, "fe80::5", 1, 0, False)
    monkeypatch.setattr(clock, "monotonic", lambda: 101.0 + Timing().membership)
    assert members.troubles == (), "nobody has said it lately"


@settings(max_examples=300)
@given(st.binary(max_size=80), st.sampled_from([b"", b"\x45", b"\x60"]))
def test_any_packet_is_heard(rest: bytes, first: bytes) -> None:
    members = InterfaceMembers(LAN, 100.0, Asked())
    is_about_members(first + rest)
    members.hear(first + rest, 101.0)


@settings(max_examples=200)
@given(st.data())
def test_any_damaged_report_is_heard(data: st.DataObject) -> None:
    members = InterfaceMembers(LAN, 100.0, Asked())
    group = GROUPS[data.draw(st.sampled_from([4, 6]))]
    packet = bytearray(report(RecordKind.TO_EXCLUDE, group))
    for _ in range(3):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    members.hear(bytes(packet[: data.draw(st.integers(0, len(packet)))]), 101.0)
