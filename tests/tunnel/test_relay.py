"""The relay's side of AMT beside our gateway, beside hosts of older versions, and beside whoever lies."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.protocols import amt, igmp
from mcastd.protocols.internet import IGMP, IpPacket, build_ip, internet_checksum, read_ip
from mcastd.protocols.membership import GroupRecord, MembershipQuery, RecordKind
from mcastd.tunnel.gateway import Gateway, Phase, TunnelMessage, UdpEnd
from mcastd.tunnel.relay import (
    ANSWERS_PER_SECOND,
    CHANGES_PER_SECOND,
    NOT_ALLOWED,
    SOURCES_A_GROUP,
    SOURCES_MAX,
    STRANGER,
    TAKERS_KEPT,
    TOO_MANY_GROUPS,
    TOO_MANY_TUNNELS,
    TOO_OFTEN,
    UNPROVEN,
    UPDATE_BYTES_AT_ONCE,
    UPDATE_BYTES_PER_SECOND,
    WITHOUT_SOURCE,
    AmtRelay,
)
from mcastd.tunnel.relay_limits import RelayLimits
from mcastd.tunnel.relayed import LATE_SECONDS
from mcastd.tunnel.reports import report_packets

HERE, HERE_6 = ip_address("198.51.100.7"), ip_address("2001:db8::7")
HOST: UdpEnd = (ip_address("192.0.2.1"), 2268)
OTHER: UdpEnd = (ip_address("192.0.2.2"), 2268)
GROUP, GROUP_6 = ip_address("233.252.0.1"), ip_address("ff0e::1")
SSM, SSM_6 = ip_address("232.1.1.1"), ip_address("ff3e::1")
S1, S2, S3 = map(ip_address, ("203.0.113.1", "203.0.113.2", "203.0.113.3"))
ALL = ip_network("224.0.0.0/4"), ip_network("ff00::/8")


def include(*sources: Address) -> SourceFilter:
    return SourceFilter(False, sources)


def exclude(*sources: Address) -> SourceFilter:
    return SourceFilter(True, sources)


def _here(end: UdpEnd) -> Address:
    """Where a host asks the relay."""
    return HERE if end[0].version == 4 else HERE_6


class Net:
    """A relay, and gateways at addresses of their own, with a clock of the test."""

    def __init__(self, **limits: Any) -> None:
        self.now = 1000.0
        self.relay = AmtRelay({4: HERE, 6: HERE_6}, RelayLimits(ALL, **limits), self.now)
        self.gateways: dict[UdpEnd, Gateway] = {}

    def gateway(self, end: UdpEnd = HOST) -> Gateway:
        return self.gateways.setdefault(end, Gateway(_here(end), random=Random(7)))

    def carry(self, messages: list[TunnelMessage], end: UdpEnd) -> None:
        for message, _ in messages:
            for answer, to in self.relay.take(message, end, self.now):
                assert to == end
                self.carry(self.gateways[end].take(answer, (_here(end), amt.PORT), self.now), end)

    def want(self, wanted: dict[Address, SourceFilter], end: UdpEnd = HOST) -> None:
        gateway = self.gateway(end)
        self.carry(gateway.want(wanted, self.now), end)
        self.run(0)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            due = min([self.relay.deadline, *(gateway.deadline for gateway in self.gateways.values())])
            if due > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.relay.expire(self.now)
            for at, gateway in self.gateways.items():
                self.carry(gateway.tick(self.now), at)


def asked(
    relay: AmtRelay, end: UdpEnd = HOST, now: float = 1000.0, nonce: bytes = b"Nonc"
) -> amt.TunnelQuery:
    ((message, to),) = relay.take(amt.build(amt.TunnelRequest(nonce, mld=False)), end, now)
    assert to == end
    query = amt.read(message)
    assert isinstance(query, amt.TunnelQuery)
    return query


def update(query: amt.TunnelQuery, *records: GroupRecord) -> bytes:
    (packet,) = report_packets(records, 4)
    return amt.build(amt.TunnelUpdate(query.nonce, query.mac, packet))


def test_what_several_want_is_wanted_together_and_each_gets_its_own() -> None:
    net = Net()
    net.want({GROUP: include(S1), GROUP_6: ANY_SOURCE})
    net.want({GROUP: exclude(S1, S2)}, OTHER)
    relay = net.relay
    assert net.gateway().phase is Phase.OPEN
    assert relay.wanted() == {GROUP: exclude(S2), GROUP_6: ANY_SOURCE}
    assert relay.takers(GROUP, S1) == (HOST,)
    assert relay.takers(GROUP, S2) == ()
    assert relay.takers(GROUP, S3) == (OTHER,)
    assert relay.takers(ip_address("232.9.9.9"), S1) == ()
    net.want({GROUP: include(S1, S3)})
    assert relay.takers(GROUP, S3) == (HOST, OTHER)
    net.want({})
    assert (relay.takers(GROUP, S3), relay.wanted()) == ((OTHER,), {GROUP: exclude(S1, S2)})
    net.want({}, OTHER)
    assert (relay.wanted(), relay.tunnels, relay.deadline) == ({}, {}, math.inf)
    assert not relay.ignored


def test_nothing_is_kept_before_a_host_has_proved_its_address() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    (advertised,) = relay.take(amt.build(amt.RelayDiscovery(b"Nonc")), HOST, 1000.0)
    assert amt.read(advertised.message) == amt.RelayAdvertisement(b"Nonc", HERE)
    query = asked(relay)
    assert relay.tunnels == {}
    inside = read_ip(query.packet)
    assert inside is not None
    assert (inside.router_alert, inside.ttl) == (True, 1)
    found = igmp.read(inside.body)
    assert isinstance(found, MembershipQuery)
    assert (found.group, found.interval_seconds, found.response_seconds) == (None, 125.0, 0.1)
    joins = update(query, GroupRecord(RecordKind.TO_EXCLUDE, GROUP))
    for end in (OTHER, (HOST[0], 4711)):
        assert relay.take(joins, end, 1000.0) == []
    forged = amt.build(amt.TunnelUpdate(b"Nonc", b"MacMac", joins[12:]))
    assert relay.take(forged, HOST, 1000.0) == []
    assert (relay.tunnels, relay.ignored) == ({}, {UNPROVEN: 3})
    relay.take(joins, HOST, 1000.0)
    assert [*relay.tunnels] == [HOST]


@pytest.mark.parametrize("is_mld", [False, True])
def test_an_answer_is_not_much_longer_than_what_asked_for_it(is_mld: bool) -> None:
    relay = AmtRelay({4: HERE, 6: HERE_6}, RelayLimits(ALL), 0.0)
    headers = 20 + 8
    discovery = amt.build(amt.RelayDiscovery(b"Nonc"))
    request = amt.build(amt.TunnelRequest(b"Nonc", mld=is_mld))
    for message in (discovery, request):
        (answer,) = relay.take(message, HOST, 0.0)
        assert (headers + len(answer.message)) / (headers + len(message)) < 3.3


def test_a_proof_holds_for_a_while_and_not_after() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    joins = update(asked(relay), GroupRecord(RecordKind.TO_EXCLUDE, GROUP))
    leaves = update(asked(relay), GroupRecord(RecordKind.TO_INCLUDE, GROUP))
    relay.take(joins, HOST, 1240.0)
    assert relay.tunnels
    relay.take(leaves, HOST, 1241.0)
    asked(relay, OTHER, 1251.0)  # with which the secret is another
    relay.take(joins, HOST, 1490.0)
    assert relay.tunnels, "by the former one"
    relay.take(leaves, HOST, 1491.0)
    relay.take(joins, HOST, 1502.0)
    assert (relay.tunnels, relay.ignored) == ({}, {UNPROVEN: 1})


def test_a_teardown_ends_the_tunnel_and_its_last_update_cannot_be_sent_again() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, teardown=True), 1000.0)
    query = asked(relay)
    assert query.gateway == amt.GatewayAddress(*HOST)
    joins = update(query, GroupRecord(RecordKind.TO_EXCLUDE, GROUP))
    relay.take(joins, HOST, 1000.0)
    elsewhere: UdpEnd = (ip_address("203.0.113.99"), 4711)  # where the host is now
    wrong = amt.TunnelTeardown(query.nonce, b"MacMac", query.gateway)
    relay.take(amt.build(wrong), elsewhere, 1001.0)
    assert relay.tunnels
    relay.take(amt.build(amt.TunnelTeardown(query.nonce, query.mac, query.gateway)), elsewhere, 1001.0)
    assert relay.tunnels == {}
    relay.take(joins, HOST, 1002.0)
    assert (relay.tunnels, relay.ignored) == ({}, {UNPROVEN: 2})
    relay.take(update(asked(relay, nonce=b"Next"), GroupRecord(RecordKind.TO_EXCLUDE, GROUP)), HOST, 1003.0)
    assert relay.tunnels


def test_teardowns_without_end_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the last ones no update can be sent again; each of them had a host that has proved its address."""
    monkeypatch.setattr("mcastd.tunnel.relay.TORN_DOWN_KEPT", 2)
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, teardown=True), 1000.0)
    said: dict[UdpEnd, bytes] = {}
    for number in range(1, 5):
        end = ip_address(f"192.0.2.{number}"), 2268
        query = asked(relay, end)
        said[end] = update(query, GroupRecord(RecordKind.TO_EXCLUDE, GROUP))
        relay.take(said[end], end, 1000.0)
        relay.take(amt.build(amt.TunnelTeardown(query.nonce, query.mac, query.gateway)), end, 1000.0)
    assert relay.tunnels == {}
    for end, message in said.items():
        relay.take(message, end, 1001.0)
    assert [*relay.tunnels] == [*said][:2]


def test_more_groups_may_be_begun_at_once_where_more_are_allowed() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, max_groups=1, max_per_address=1), 1000.0)
    relay.limit(RelayLimits(ALL, max_groups=9, max_per_address=1))
    groups = [ip_address(f"233.252.0.{number}") for number in range(1, 10)]
    records = [GroupRecord(RecordKind.TO_EXCLUDE, group) for group in groups]
    relay.take(update(asked(relay), *records), HOST, 1000.0)
    assert {*relay.wanted()} == {*groups}


def test_who_reports_no_more_is_forgotten() -> None:
    net = Net()
    net.want({GROUP: include(S1), GROUP_6: ANY_SOURCE})
    net.run(1000)
    assert net.relay.wanted() == {GROUP: include(S1), GROUP_6: ANY_SOURCE}, "it reports each 25 s"
    net.gateways.clear()
    net.run(230)
    assert net.relay.tunnels
    net.run(31)
    assert (net.relay.tunnels, net.relay.takers(GROUP, S1)) == ({}, ())


def test_icmp_ends_nothing_while_a_gateway_goes_on_asking() -> None:
    """It may be forged at any time; a gateway that is there asks in time, and one that is gone does not."""
    net = Net(query_seconds=125.0)
    net.want({GROUP: include(S1), GROUP_6: ANY_SOURCE})
    for _ in range(300):  # ours asks each 25 s
        net.run(1)
        assert not net.relay.tunnels[HOST].is_overdue(net.now, 125.0)
    heard = net.relay.tunnels[HOST].heard
    assert net.now - 25 < heard
    del net.gateways[HOST]
    net.run(25 + LATE_SECONDS)
    assert not net.relay.tunnels[HOST].is_overdue(heard + 24 + LATE_SECONDS, 125.0)
    assert net.relay.tunnels[HOST].is_overdue(heard + 26 + LATE_SECONDS, 125.0)


def test_a_gateway_of_which_little_is_known_has_a_whole_interval_to_ask() -> None:
    """What it sends soon after the first time tells nothing of how often it asks; nor does what is forged."""
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, query_seconds=20.0), 1000.0)
    record = GroupRecord(RecordKind.IS_EXCLUDE, GROUP)
    query = asked(relay)
    for now in (1000.0, 1000.5):
        relay.take(update(query, record), HOST, now)
    relay.take(update(replace(query, mac=bytes(6)), record), HOST, 1019.0)
    tunnel = relay.tunnels[HOST]
    assert not tunnel.is_overdue(1000.4 + 20.0 + LATE_SECONDS, 20.0)
    assert tunnel.is_overdue(1000.6 + 20.0 + LATE_SECONDS, 20.0)


def test_hosts_of_version_2_join_and_leave() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    query = asked(relay)

    def old(kind: int) -> bytes:
        body = bytearray(bytes([kind, 0, 0, 0]) + GROUP.packed)
        body[2:4] = internet_checksum(bytes(body)).to_bytes(2)
        packet = IpPacket(ip_address("10.0.0.9"), GROUP, IGMP, 1, bytes(body), router_alert=True)
        return amt.build(amt.TunnelUpdate(query.nonce, query.mac, build_ip(packet)))

    relay.take(old(0x16), HOST, 1000.0)
    assert relay.wanted() == {GROUP: ANY_SOURCE}
    relay.take(old(0x17), HOST, 1000.0)
    assert relay.wanted() == {}


def test_limits_hold_for_each_address_each_tunnel_and_all() -> None:
    net = Net(max_tunnels=3, max_per_address=2, max_groups=2)
    relay = net.relay
    ends: list[UdpEnd] = [(HOST[0], 1), (HOST[0], 2), (HOST[0], 3), (OTHER[0], 1), (OTHER[0], 2)]
    for end in ends:
        net.want({GROUP: ANY_SOURCE}, end)
    assert [*relay.tunnels] == [ends[0], ends[1], ends[3]]
    assert net.gateway(ends[2]).is_full
    many: dict[Address, SourceFilter] = {ip_address(f"233.252.1.{last}"): ANY_SOURCE for last in range(1, 6)}
    net.want(many, ends[0])
    assert len(relay.tunnels[ends[0]].groups) == 2
    assert relay.ignored[TOO_MANY_GROUPS] >= 3
    net.want(
        {GROUP: include(*(ip_address(f"10.0.{n // 256}.{n % 256}") for n in range(SOURCES_MAX + 1)))}, ends[3]
    )
    assert len(relay.tunnels[ends[3]].groups[GROUP].sources) <= SOURCES_MAX


def test_a_proof_does_not_help_where_there_is_no_room() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, max_tunnels=1), 1000.0)
    first, second = asked(relay), asked(relay, OTHER)
    relay.take(update(first, GroupRecord(RecordKind.TO_EXCLUDE, GROUP)), HOST, 1000.0)
    relay.take(update(second, GroupRecord(RecordKind.TO_EXCLUDE, GROUP)), OTHER, 1000.0)
    assert ([*relay.tunnels], relay.ignored) == ([HOST], {TOO_MANY_TUNNELS: 1})


@pytest.mark.parametrize("group", ["224.0.0.251", "239.1.1.1", "ff02::fb", "ff3e::1"])
def test_only_groups_that_are_allowed_are_served(group: str) -> None:
    relay = AmtRelay({4: HERE}, RelayLimits([ip_network("232.0.0.0/8"), ip_network("224.0.0.0/24")]), 0.0)
    address = ip_address(group)
    query = asked(relay, now=0.0)
    (packet,) = report_packets([GroupRecord(RecordKind.TO_EXCLUDE, address)], address.version)
    relay.take(amt.build(amt.TunnelUpdate(query.nonce, query.mac, packet)), HOST, 0.0)
    assert (relay.tunnels, relay.ignored) == ({}, {NOT_ALLOWED: 1})


@pytest.mark.parametrize("group", [SSM, SSM_6])
def test_source_specific_groups_are_not_served_of_any_source(group: Address) -> None:
    net = Net()
    net.want({group: ANY_SOURCE})
    assert (net.relay.tunnels, {*net.relay.ignored}) == ({}, {WITHOUT_SOURCE})
    source = S1 if group.version == 4 else ip_address("2001:db8::1")
    net.want({group: include(source)})
    assert net.relay.takers(group, source) == (HOST,)


def test_sources_are_limited_for_each_and_for_all() -> None:
    net = Net(sources=[ip_network("203.0.113.2/31")])
    net.want({SSM: include(S1, S2), GROUP: ANY_SOURCE})
    assert net.relay.wanted() == {SSM: include(S2), GROUP: ANY_SOURCE}, "as far as a filter can say it"
    assert [net.relay.takers(GROUP, source) for source in (S1, S2)] == [(), (HOST,)]
    net.want({ip_address("232.2.2.2"): include(S1)}, OTHER)
    assert [*net.relay.tunnels] == [HOST]
    assert net.relay.ignored[NOT_ALLOWED] > 0


def test_strangers_are_not_answered() -> None:
    net = Net(gateways=[ip_network(f"{HOST[0]}/32")])
    net.want({GROUP: ANY_SOURCE})
    net.want({GROUP: ANY_SOURCE}, OTHER)
    assert net.relay.takers(GROUP, S1) == (HOST,)
    assert net.relay.ignored[STRANGER] > 0


def test_other_limits_hold_for_what_there_is_too() -> None:
    net = Net()
    net.want({GROUP: ANY_SOURCE, SSM: include(S1)})
    net.want({GROUP: ANY_SOURCE}, OTHER)
    edition = net.relay.edition
    net.relay.limit(RelayLimits([ip_network("232.0.0.0/8")]))
    assert net.relay.edition > edition
    assert (net.relay.wanted(), [*net.relay.tunnels]) == ({SSM: include(S1)}, [HOST])
    net.relay.limit(RelayLimits([ip_network("232.0.0.0/8")], gateways=[ip_network("198.51.100.0/24")]))
    assert (net.relay.tunnels, net.relay.takers(SSM, S1)) == ({}, ())


def test_of_tunnels_and_groups_that_are_too_many_by_now_the_last_end() -> None:
    net = Net()
    many: dict[Address, SourceFilter] = {ip_address(f"233.252.1.{last}"): ANY_SOURCE for last in range(1, 6)}
    third = ip_address("192.0.2.77"), 1
    ends: list[UdpEnd] = [(HOST[0], 1), (HOST[0], 2), (OTHER[0], 1), third]
    for end in ends:
        net.want(many, end)
    net.relay.limit(RelayLimits(ALL, max_tunnels=2, max_per_address=1, max_groups=3))
    for _ in range(2):
        assert [*net.relay.tunnels] == [ends[0], ends[2]]
        assert [[*tunnel.groups] for tunnel in net.relay.tunnels.values()] == 2 * [[*many][:3]]
        net.run(300)
    net.relay.limit(RelayLimits(ALL, max_tunnels=3, max_per_address=1, max_groups=3))
    net.run(300)
    assert third in net.relay.tunnels, "there is room again"


def test_what_is_said_again_is_no_change() -> None:
    net = Net()
    net.want({GROUP: exclude(S1), SSM: include(S1)})
    edition = net.relay.edition
    net.run(1000)
    assert (net.relay.edition, len(net.relay.wanted())) == (edition, 2)
    assert net.relay.deadline > net.now


def test_groups_that_nobody_wants_are_not_kept_whatever_is_said_of_them() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    query = asked(relay)
    relay.take(update(query, GroupRecord(RecordKind.TO_EXCLUDE, GROUP)), HOST, 1000.0)
    for number in range(1000):
        group = ip_address(0xE9FC0100 + number)
        relay.take(update(query, GroupRecord(RecordKind.TO_INCLUDE, group)), HOST, 1000.0)
    assert [*relay.tunnels[HOST].groups] == [GROUP]


def test_senders_without_end_take_no_more_memory() -> None:
    net = Net()
    net.want({GROUP: exclude(S1)})
    for number in range(2 * TAKERS_KEPT):
        assert net.relay.takers(GROUP, ip_address(0x0B000000 + number)) == (HOST,)
    assert len(net.relay._takers) <= TAKERS_KEPT


def test_a_flood_of_questions_is_not_answered_and_others_are() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 0.0)
    answers = sum(
        len(relay.take(amt.build(amt.TunnelRequest(b"Nonc", mld=False)), HOST, number / 1000))
        for number in range(2000)
    )
    assert answers <= 3 * ANSWERS_PER_SECOND
    assert relay.ignored[TOO_OFTEN] == 2000 - answers
    assert asked(relay, OTHER, 2.0)
    for number in range(10_000):
        end = ip_address(0x0B000000 + number), 1
        relay.take(amt.build(amt.RelayDiscovery(b"Nonc")), end, 3.0)
    assert len(relay._answers) <= 4096
    assert relay.tunnels == {}


def test_a_network_of_ipv6_has_no_more_than_one_address() -> None:
    """A host may take any of its addresses."""
    net = Net(max_per_address=2)
    first = ip_address("2001:db8:1:2::1")
    ends: list[UdpEnd] = [(first + (number << 40), 2268) for number in range(4)]
    other: UdpEnd = (ip_address("2001:db8:1:3::1"), 2268)
    for end in (*ends, other):
        net.want({GROUP: ANY_SOURCE}, end)
    assert [*net.relay.tunnels] == [*ends[:2], other]
    assert net.gateway(ends[2]).is_full
    questions = [(first + number, 1) for number in range(1000)]
    answers = sum(
        len(net.relay.take(amt.build(amt.RelayDiscovery(b"Nonc")), end, net.now + 60)) for end in questions
    )
    assert answers == ANSWERS_PER_SECOND
    net.relay.forget(ends[0])
    assert not asked(net.relay, ends[3], net.now + 100).full


def test_one_that_keeps_changing_its_mind_is_heard_at_a_bounded_rate() -> None:
    net = Net(max_groups=8, max_per_address=2)
    relay = net.relay
    several = [ip_address(f"232.1.2.{last}") for last in range(1, 9)]
    query = asked(relay)
    joined = 0
    for _ in range(100):  # in a second
        net.now += 0.01
        edition = relay.edition
        joins = [GroupRecord(RecordKind.ALLOW, group, (S1,)) for group in several]
        relay.take(update(query, *joins), HOST, net.now)
        joined += len(relay.wanted()) if relay.edition != edition else 0
        leaves = [GroupRecord(RecordKind.BLOCK, group, (S1,)) for group in several]
        relay.take(update(query, *leaves), HOST, net.now)
        assert relay.tunnels == {}, "whoever leaves is believed"
    assert 2 * 8 <= joined <= 2 * 8 + CHANGES_PER_SECOND + 1
    assert relay.ignored[TOO_OFTEN] == 800 - joined
    other = asked(relay, OTHER, net.now)
    relay.take(update(other, GroupRecord(RecordKind.ALLOW, SSM, (S1,))), OTHER, net.now)
    assert [*relay.tunnels] == [OTHER]
    net.now += 10
    for _ in range(100):
        relay.take(update(query, GroupRecord(RecordKind.ALLOW, SSM, (S1,))), HOST, net.now)
    assert HOST in relay.tunnels
    assert relay.ignored[TOO_OFTEN] == 800 - joined, "what is said again costs nothing"


def test_one_that_says_long_updates_all_the_time_is_read_at_a_bounded_rate() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    query, other = asked(relay), asked(relay, OTHER)
    records = [GroupRecord(RecordKind.IS_EXCLUDE, ip_address(0xE8000100 + number)) for number in range(8000)]
    (body,) = igmp.build_reports(records, 65_000)
    packet = build_ip(IpPacket(HOST[0], igmp.ALL_IGMPV3_ROUTERS, IGMP, 1, body, router_alert=True))
    long = amt.build(amt.TunnelUpdate(query.nonce, query.mac, packet))
    at_once, a_second = UPDATE_BYTES_AT_ONCE // len(packet), len(packet) / UPDATE_BYTES_PER_SECOND
    for _ in range(100):
        relay.take(long, HOST, 1000.0)
    assert relay.ignored == {WITHOUT_SOURCE: 8000 * at_once, TOO_OFTEN: 100 - at_once}
    forged = amt.build(amt.TunnelUpdate(other.nonce, query.mac, packet))
    for _ in range(10):
        relay.take(forged, OTHER, 1000.0)
    relay.take(update(other, GroupRecord(RecordKind.ALLOW, SSM, (S1,))), OTHER, 1000.0)
    assert [*relay.tunnels] == [OTHER], "what is forged takes nothing of what it may say"
    relay.take(long, HOST, 1000.1 + a_second)
    assert relay.ignored[WITHOUT_SOURCE] == 8000 * (at_once + 1)


def test_what_ends_at_many_times_is_looked_at_once_a_second() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, query_seconds=20.0), 1000.0)
    query, looks, now = asked(relay), 0, 1000.0
    for number in range(100):  # in a second
        source = ip_address(0x0B000000 + number)
        relay.take(update(query, GroupRecord(RecordKind.ALLOW, SSM, (source,))), HOST, now + number / 100)
    while relay.tunnels:
        looks, now = looks + 1, relay.deadline
        relay.expire(now)
        assert now < 1100.0
    assert looks <= 3
    assert 1051.0 <= now < 1052.1, "the last was wanted until 1050.99"


def test_sources_of_all_groups_of_a_tunnel_are_bounded_together() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, max_groups=10), 1000.0)
    query = asked(relay)

    def ask(last: int, count: int) -> int:
        """Want so many sources of a group; how many are wanted of it now."""
        group, sources = ip_address(f"232.1.1.{last}"), tuple(S1 + number for number in range(count))
        relay.take(update(query, GroupRecord(RecordKind.ALLOW, group, sources)), HOST, 1000.0)
        found = relay.tunnels[HOST].groups.get(group)
        return 0 if found is None else len(found.sources)

    assert [ask(1, SOURCES_MAX), ask(2, 10 * SOURCES_A_GROUP - SOURCES_MAX)] == [128, 32]
    assert [ask(3, 1), ask(1, SOURCES_MAX), ask(2, 33)] == [0, 128, 32]
    assert relay.ignored == {TOO_MANY_GROUPS: 2}
    relay.take(update(query, GroupRecord(RecordKind.TO_INCLUDE, ip_address("232.1.1.2"))), HOST, 1000.0)
    relay.take(update(query, GroupRecord(RecordKind.BLOCK, ip_address("232.1.1.1"), (S1,))), HOST, 1000.0)
    assert [ask(3, 1), ask(4, 1)] == [1, 0]


@pytest.mark.parametrize("limits", [{"max_per_address": 2}, {"max_tunnels": 2}])
def test_one_that_roams_takes_the_place_that_it_had(limits: dict[str, int]) -> None:
    """A NAT has given it another port, and nobody takes leave for the one before."""
    relay = AmtRelay({4: HERE}, RelayLimits(ALL, query_seconds=100.0, **limits), 1000.0)
    record, now = GroupRecord(RecordKind.IS_EXCLUDE, GROUP), 1000.0

    def refresh(port: int, now: float) -> bool:
        """Ask, and say what is wanted, as far as there is room. Returns True if it is served."""
        end = HOST[0], port
        query = asked(relay, end, now)
        if not query.full:
            relay.take(update(query, record), end, now)
        return end in relay.tunnels

    while now < 1150.0:  # both ask every 25 seconds
        assert [refresh(1, now), refresh(2, now + 1.0)] == [True, True]
        now += 25.0
    assert refresh(2, now + 1.0)
    assert not refresh(3, now + 2.0), "the one before may only be late"
    assert refresh(3, now + LATE_SECONDS + 1.0)
    assert [port for _, port in relay.tunnels] == [2, 3]
    assert not refresh(4, now + LATE_SECONDS + 2.0)
    other = asked(relay, OTHER, now + 500.0)
    assert other.full is ("max_tunnels" in limits), "a host gives up its own place, and no other's"


def test_in_parts_a_report_is_as_good_as_in_one() -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 1000.0)
    query = asked(relay)
    sources = [ip_address(f"10.0.0.{last}") for last in range(1, 101)]
    for part in (sources[:60], sources[60:]):
        relay.take(update(query, GroupRecord(RecordKind.IS_INCLUDE, GROUP, tuple(part))), HOST, 1000.0)
    assert relay.wanted() == {GROUP: include(*sources)}
    relay.take(update(query, GroupRecord(RecordKind.BLOCK, GROUP, tuple(sources[10:]))), HOST, 1000.0)
    assert relay.wanted() == {GROUP: include(*sources[:10])}
    relay.take(update(query, GroupRecord(RecordKind.TO_EXCLUDE, GROUP, (S1,))), HOST, 1000.0)
    relay.take(update(query, GroupRecord(RecordKind.ALLOW, GROUP, (S1,))), HOST, 1000.0)
    assert relay.wanted() == {GROUP: ANY_SOURCE}
    relay.take(update(query, GroupRecord(RecordKind.BLOCK, GROUP, (S2,))), HOST, 1000.0)
    assert relay.wanted() == {GROUP: exclude(S2)}
    relay.take(update(query, GroupRecord(RecordKind.IS_INCLUDE, GROUP, (S3,))), HOST, 1000.0)
    assert relay.wanted() == {GROUP: include(S3)}


FILTERS = st.builds(
    lambda is_exclude, sources: SourceFilter(is_exclude, tuple(sorted(sources, key=int))),
    st.booleans(),
    st.sets(st.sampled_from([S1, S2, S3])),
).filter(lambda one: one.exclude or bool(one.sources))
GROUPS = [GROUP, ip_address("239.1.1.1")]
WANTED = st.dictionaries(st.sampled_from(GROUPS), FILTERS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([HOST, OTHER]), WANTED, st.floats(0, 30)), max_size=10))
def test_whatever_they_want_each_gets_what_it_wants(changes: Any) -> None:
    net = Net()
    last: dict[UdpEnd, dict[Address, SourceFilter]] = {}
    for end, wanted, seconds in changes:
        last[end] = wanted
        net.want(wanted, end)
        net.run(seconds)
        for at, wants in last.items():
            for group in GROUPS:
                for source in (S1, S2, S3):
                    is_wanted = group in wants and wants[group].wants(source)
                    assert (at in net.relay.takers(group, source)) is is_wanted


def test_what_is_left_after_changes_in_a_row_is_left() -> None:
    net = Net()
    for wanted in ({GROUP: ANY_SOURCE}, {GROUP: include(S1)}, {}):
        net.want(wanted)
    assert (net.relay.wanted(), net.relay.tunnels) == ({}, {})


@given(st.binary(max_size=120), st.integers(0, 8))
def test_any_bytes_are_taken_and_keep_nothing(tail: bytes, kind: int) -> None:
    relay = AmtRelay({4: HERE}, RelayLimits(ALL), 0.0)
    message = bytes([kind]) + tail
    answers = relay.take(message, HOST, 0.0)
    assert sum(len(one.message) for one in answers) <= 100
    assert relay.tunnels == {}
    assert bool(answers) or relay.ignored.total() == 1
