"""Members of networks, as they are heard: over a kernel in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest

from mcastd.bridge.members import RETRY_SECONDS, TIMING, Members
from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address, Prefix, SourceFilter
from mcastd.net import _abi
from mcastd.net.fake import FakeQuerySender, FakeRoutingTable
from mcastd.net.interfaces import Interface
from mcastd.net.mroute import Heard
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, MEMBERSHIP_TTL, IpPacket
from mcastd.protocols.membership import GroupRecord, MembershipQuery, RecordKind

RIGHT, DOWN = 5, 8
OWN: dict[int, tuple[Address, ...]] = {
    4: (ip_address("10.9.2.5"),),
    6: (ip_address("fd00::5"), ip_address("fe80::5")),
}
ASKING = {4: OWN[4][0], 6: OWN[6][1]}
HOSTS = {4: ip_address("10.9.2.9"), 6: ip_address("fe80::9")}
LOWER = {4: ip_address("10.9.2.1"), 6: ip_address("fe80::1")}
GROUPS = {4: ip_address("239.1.1.1"), 6: ip_address("ff15::1")}
OTHERS = {4: ip_address("239.2.1.1"), 6: ip_address("ff18::1")}
SERVED = {4: ip_network("239.1.0.0/16"), 6: ip_network("ff15::/16")}
ALL = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}
REPORTS: dict[int, Address] = {4: igmp.ALL_IGMPV3_ROUTERS, 6: mld.ALL_MLDV2_ROUTERS}


class Lab:
    def __init__(self, version: int) -> None:
        self.version = version
        self.table, self.sender = FakeRoutingTable(), FakeQuerySender()
        self.members = Members(version, self.table, self.sender)
        self.interfaces = {
            index: Interface(index, name, _abi.IFF_UP, 1, addresses=OWN[version])
            for index, name in ((RIGHT, "right"), (DOWN, "down"))
        }

    def follow(
        self,
        interfaces: Mapping[int, Interface],
        now: float,
        insisting: Collection[int] = (),
        groups: Mapping[int, Prefix] = SERVED,
    ) -> set[Address]:
        served = dict.fromkeys(interfaces, frozenset({groups[self.version]}))
        return self.members.follow(interfaces, served, now, insisting)

    def report(
        self,
        kind: RecordKind,
        source: Address | None = None,
        to: Address | None = None,
        groups: Mapping[int, Address] = GROUPS,
        sources: tuple[Address, ...] = (),
    ) -> Heard:
        source, to = source or HOSTS[self.version], to or REPORTS[self.version]
        records = [GroupRecord(kind, groups[self.version], sources)]
        if self.version == 4:
            (message,) = igmp.build_reports(records, 1000)
        else:
            assert isinstance(source, IPv6Address)
            assert isinstance(to, IPv6Address)
            (message,) = mld.build_reports(records, 1000, source, to)
        return self.heard(source, to, message)

    def query(self, source: Address) -> Heard:
        if isinstance(source, IPv4Address):
            return self.heard(source, igmp.ALL_SYSTEMS, igmp.build_query(MembershipQuery()))
        return self.heard(source, mld.ALL_NODES, mld.build_query(MembershipQuery(), source, mld.ALL_NODES))

    def heard(self, source: Address, to: Address, message: bytes) -> Heard:
        protocol = IGMP if self.version == 4 else ICMPV6
        return Heard(RIGHT, IpPacket(source, to, protocol, MEMBERSHIP_TTL, message, router_alert=True))


def changed(heard: Heard, **packet: Any) -> Heard:
    return replace(heard, packet=replace(heard.packet, **packet))


@pytest.fixture(params=[4, 6])
def lab(request: pytest.FixtureRequest) -> Lab:
    made = Lab(request.param)
    assert made.follow(made.interfaces, 100.0) == set()
    return made


def test_each_network_is_asked_by_its_own_address(lab: Lab) -> None:
    assert lab.table.listening == {RIGHT, DOWN}
    assert lab.members.deadline == 100.0
    lab.members.tick(100.0)
    to = igmp.ALL_SYSTEMS if lab.version == 4 else mld.ALL_NODES
    assert [sent[:3] for sent in lab.sender.sent] == [
        (index, ASKING[lab.version], to) for index in (RIGHT, DOWN)
    ]
    assert lab.members.deadline > 100.0


def test_what_a_host_reports_is_wanted_there_until_it_leaves(lab: Lab) -> None:
    group, source = GROUPS[lab.version], ip_address("192.0.2.7" if lab.version == 4 else "fd00::7")
    assert lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 101.0) == {group}
    assert lab.members.wants(RIGHT, source, group)
    assert not lab.members.wants(DOWN, source, group)
    assert not lab.members.wants(99, source, group)
    assert lab.members.wanted(RIGHT, group) == ANY_SOURCE
    assert lab.members.groups() == {group}
    lab.members.hear(lab.report(RecordKind.TO_INCLUDE), 102.0)
    lab.sender.sent.clear()
    for now in (102.0, 103.0):
        assert lab.members.tick(now) == set()
    assert group in {to for _, _, to, _ in lab.sender.sent}, "it is asked whether anybody is left"
    assert lab.members.tick(104.1) == {group}
    assert lab.members.wanted(RIGHT, group) is None


def test_what_is_no_news_of_a_member(lab: Lab) -> None:
    joins = RecordKind.TO_EXCLUDE
    ours = lab.report(joins, source=ASKING[lab.version])
    unicast = lab.report(joins, to=HOSTS[lab.version])
    broken = changed(lab.report(joins), body=b"\x22")
    elsewhere = replace(lab.report(joins), ifindex=99)
    for heard in (ours, unicast, broken, elsewhere):
        assert lab.members.hear(heard, 101.0) == set()
    if lab.version == 6:
        for source in ("fd00::9", "::"):
            assert lab.members.hear(lab.report(joins, source=ip_address(source)), 101.0) == set()
    querier = lab.members.networks[RIGHT].querier
    assert querier.disbelieved == (1 if lab.version == 6 else 0), "that from :: is no wonder"


def test_what_no_host_of_the_network_seems_to_have_sent_is_not_believed(lab: Lab) -> None:
    """Neither a report nor a query, which would end all forwarding there."""
    interface = replace(lab.interfaces[RIGHT], prefix_lengths=(24, 64))
    lab.follow({**lab.interfaces, RIGHT: interface}, 101.0)
    query = lab.query(LOWER[lab.version])
    if lab.version == 4:
        far = ip_address("10.8.2.1")
        others = {"router_alert": False, "source": far}, {"destination": GROUPS[4]}
    else:
        others = {"router_alert": False}, {"ttl": 2}
    for number, other in enumerate(others, 1):
        assert lab.members.hear(changed(query, **other), 101.0) == set()
        network = lab.members.networks[RIGHT]
        assert (network.querier.other, network.querier.disbelieved) == (None, number)
    assert lab.members.hear(changed(lab.report(RecordKind.TO_EXCLUDE), **others[0]), 101.0) == set()
    if lab.version == 4:  # IGMPv1 and early IGMPv2 have no Router Alert
        near = changed(lab.report(RecordKind.TO_EXCLUDE), router_alert=False)
        assert lab.members.hear(near, 101.0) == {GROUPS[4]}


def test_groups_that_are_not_forwarded_there_take_no_room(lab: Lab) -> None:
    """Nor do those of the link: each address of an IPv6 host has one."""
    joins = RecordKind.TO_EXCLUDE
    lab.members.tick(100.0)
    of_link = {4: ip_address("224.0.0.251"), 6: ip_address("ff02::1:ff00:9")}
    for groups in (OTHERS, of_link):
        assert lab.members.hear(lab.report(joins, groups=groups), 101.0) == set()
    assert len(lab.members.networks[RIGHT].querier.listeners) == 0
    lab.sender.sent.clear()
    lab.follow(lab.interfaces, 110.0, groups=ALL)
    lab.members.tick(110.0)
    assert [sent[0] for sent in lab.sender.sent] == [RIGHT, DOWN], "who wants the others is asked for at once"
    assert lab.members.hear(lab.report(joins, groups=of_link), 111.0) == set()
    assert lab.members.hear(lab.report(joins, groups=OTHERS), 111.0) == {OTHERS[lab.version]}
    lab.sender.sent.clear()
    lab.follow(lab.interfaces, 112.0, groups=ALL)
    lab.members.tick(112.0)
    assert lab.sender.sent == []


def test_that_more_is_wanted_than_is_kept_is_known_for_as_long_as_a_membership(lab: Lab) -> None:
    network = lab.members.networks[RIGHT]
    network.querier.listeners._groups_max = 0
    assert not network.is_crowded(100.0)
    assert lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 101.0) == set()
    over = 101.0 + TIMING.membership
    assert [network.is_crowded(now) for now in (101.0, over - 0.1, over)] == [True, True, False]


def test_members_are_asked_again_when_a_carrier_is_back(lab: Lab) -> None:
    """What they have said meanwhile was lost, and a switch may have forgotten who wants what."""
    down = {i: replace(one, carrier_changes=2) for i, one in lab.interfaces.items()}
    running = _abi.IFF_UP | _abi.IFF_RUNNING
    up = {i: replace(one, flags=running, carrier_changes=3) for i, one in lab.interfaces.items()}
    unseen = {i: replace(one, carrier_changes=5) for i, one in up.items()}
    now = 100.0
    for interfaces, is_asked in ((up, True), (up, False), (down, False), (up, True), (unseen, True)):
        lab.members.tick(now)
        now += 5
        lab.sender.sent.clear()
        lab.follow(interfaces, now)
        lab.members.tick(now)
        assert [sent[0] for sent in lab.sender.sent] == ([RIGHT, DOWN] if is_asked else [])


def test_where_another_one_asks_it_forwards_as_well(lab: Lab) -> None:
    """RFC 4605 section 4.2; and what members have reported is known when it has gone."""
    group = GROUPS[lab.version]
    lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 101.0)
    assert lab.members.hear(lab.query(LOWER[lab.version]), 102.0) == {group}
    assert lab.members.wanted(RIGHT, group) is None
    assert lab.members.hear(lab.query(LOWER[lab.version]), 103.0) == set()
    lab.members.hear(lab.report(RecordKind.IS_EXCLUDE), 300.0)
    assert group in lab.members.tick(360.0), "it has gone"
    assert lab.members.wanted(RIGHT, group) == ANY_SOURCE


def test_one_that_insists_forwards_whoever_else_asks(lab: Lab) -> None:
    """It may be a switch, which forwards nothing."""
    group = GROUPS[lab.version]
    lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 101.0)
    assert lab.members.hear(lab.query(LOWER[lab.version]), 102.0) == {group}
    assert lab.follow(lab.interfaces, 103.0, {RIGHT}) == {group}
    assert lab.members.wanted(RIGHT, group) == ANY_SOURCE
    lab.sender.sent.clear()
    lab.members.tick(103.0)
    assert RIGHT in {sent[0] for sent in lab.sender.sent}
    assert lab.members.hear(lab.query(LOWER[lab.version]), 104.0) == set()
    assert lab.members.wanted(RIGHT, group) == ANY_SOURCE
    assert lab.follow(lab.interfaces, 105.0) == set()
    assert lab.members.hear(lab.query(LOWER[lab.version]), 106.0) == {group}
    assert lab.members.wanted(RIGHT, group) is None


def test_an_address_that_changes_and_an_interface_that_goes(lab: Lab) -> None:
    group = GROUPS[lab.version]
    lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 101.0)
    lab.members.hear(lab.query(LOWER[lab.version]), 102.0)
    lower = ip_address("10.9.2.0" if lab.version == 4 else "fe80::")
    moved = {RIGHT: replace(lab.interfaces[RIGHT], addresses=(lower,))}
    assert lab.follow(moved, 103.0) == {group}, "this host has the lowest address now"
    lab.sender.sent.clear()
    lab.members.tick(103.0)
    assert [sent[:2] for sent in lab.sender.sent] == [(RIGHT, lower)]
    assert lab.table.listening == {RIGHT}
    assert lab.follow({}, 104.0) == {group}
    assert (lab.table.listening, lab.members.networks) == (set(), {})


def test_what_keeps_members_from_being_asked_or_heard(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = lab.members.networks
    lab.sender.refusal = LinkError("cannot ask for members", "network is down")
    lab.members.tick(100.0)
    assert networks[RIGHT].failure == "right: cannot ask for members: network is down"
    lab.sender.refusal = None
    lab.members.tick(networks[RIGHT].querier.deadline)
    assert networks[RIGHT].failure == ""
    none = {RIGHT: replace(lab.interfaces[RIGHT], addresses=())}
    lab.follow(none, 200.0)
    assert networks[RIGHT].failure == f"right has no IPv{lab.version} address to ask from"
    lab.sender.sent.clear()
    lab.members.tick(1000.0)
    assert lab.sender.sent == []

    def refuse(ifindex: int) -> None:
        raise LinkError("cannot hear the members of groups", "no buffer space")

    lab.follow({}, 1000.0)
    with monkeypatch.context() as refused:
        refused.setattr(lab.table, "listen", refuse)
        lab.follow(lab.interfaces, 1001.0)
        lab.members.tick(1001.0)
        assert {sent[0] for sent in lab.sender.sent} == {RIGHT, DOWN}
        assert networks[RIGHT].failure == ""
        assert networks[RIGHT].deafness == "right: cannot hear the members of groups: no buffer space"
        assert lab.members.deadline == 1001.0 + RETRY_SECONDS
        lab.members.tick(1006.0)
    assert (lab.table.listening, lab.members.deadline) == (set(), 1011.0)
    lab.sender.sent.clear()
    lab.members.tick(1011.0)
    assert (lab.table.listening, networks[RIGHT].deafness) == ({RIGHT, DOWN}, "")
    assert {sent[0] for sent in lab.sender.sent} == {RIGHT, DOWN}, "what they said meanwhile was not heard"


def test_a_query_that_cannot_be_sent_is_sent_again_soon(lab: Lab) -> None:
    """Also one of a group, by which a member that stays was to be found."""
    group = GROUPS[lab.version]
    lab.sender.refusal = LinkError("cannot ask for members", "network is down")
    lab.members.tick(100.0)
    assert lab.members.deadline == 105.0
    lab.sender.refusal = None
    lab.members.tick(105.0)
    assert [sent[0] for sent in lab.sender.sent] == [RIGHT, DOWN]
    lab.members.hear(lab.report(RecordKind.TO_EXCLUDE), 110.0)
    lab.members.hear(lab.report(RecordKind.TO_INCLUDE), 110.0)
    lab.sender.refusal = LinkError("cannot ask for members", "network is down")
    lab.members.tick(110.0)
    lab.sender.refusal = None
    lab.sender.sent.clear()
    assert lab.members.tick(112.0) == set(), "one that stays was not asked"
    assert lab.members.tick(115.0) == set()
    assert lab.members.wants(RIGHT, HOSTS[lab.version], group)
    assert [sent[:3] for sent in lab.sender.sent if sent[2] != group] == [
        (RIGHT, ASKING[lab.version], igmp.ALL_SYSTEMS if lab.version == 4 else mld.ALL_NODES)
    ]
    assert lab.members.tick(119.0) == {group}
    # And one of a source, to which its members listen
    sources = (LOWER[lab.version],)
    for kind in (RecordKind.ALLOW, RecordKind.BLOCK):
        lab.members.hear(lab.report(kind, sources=sources), 200.0)
    lab.sender.refusal = LinkError("cannot ask for members", "network is down")
    lab.members.tick(200.0)
    lab.sender.refusal = None
    lab.members.tick(203.0)
    assert lab.members.wanted(RIGHT, group) == SourceFilter(False, sources)
    assert lab.members.tick(209.0) == {group}


def test_a_query_that_was_refused_is_told_until_one_is_sent_or_another_router_asks(lab: Lab) -> None:
    network = lab.members.networks[RIGHT]
    lab.sender.refusal = LinkError("cannot ask for members", "network is down")
    lab.members.tick(100.0)
    refused = "right: cannot ask for members: network is down"
    lab.follow(lab.interfaces, 101.0)
    assert network.failure == refused, "nothing was sent meanwhile"
    network.querier.hear(LOWER[lab.version], MembershipQuery(), 102.0)
    assert network.failure == ""
    lab.follow({RIGHT: replace(lab.interfaces[RIGHT], addresses=())}, 103.0)
    assert network.failure == f"right has no IPv{lab.version} address to ask from"
