"""The gateway's side of AMT beside a relay of the test: what it sends when, and what it takes from whom."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from ipaddress import ip_address
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.amt_relay import general_query

from mcastd.ip import ANY_SOURCE, Address, SourceFilter
from mcastd.protocols import amt, igmp, mld
from mcastd.protocols.internet import read_ip
from mcastd.protocols.membership import MembershipReport, RecordKind
from mcastd.tunnel.gateway import FULL_SECONDS, Gateway, Phase, TunnelMessage

ANYCAST, RELAY, OTHER = map(ip_address, ("192.52.193.1", "198.51.100.7", "198.51.100.8"))
GROUP, GROUP_6 = ip_address("232.1.1.1"), ip_address("ff3e::1")
S1, S2, S3 = map(ip_address, ("203.0.113.1", "203.0.113.2", "203.0.113.3"))
MAC = b"MacMac"
OURS = amt.GatewayAddress(ip_address("192.0.2.1"), 2268)


def include(*sources: Address) -> SourceFilter:
    return SourceFilter(exclude=False, sources=sources)


def exclude(*sources: Address) -> SourceFilter:
    return SourceFilter(exclude=True, sources=sources)


class Relay:
    """A relay for one gateway (RFC 7450 section 5.3). It believes reports as RFC 3376 section 6.4 has it."""

    def __init__(self) -> None:
        self.is_up = True
        self.takes_p_flag = amt.P_FLAG
        self.offers = {}  # further fields of queries
        self.asks = {}  # of the general query inside
        self.heard: list[amt.AmtMessage] = []
        self.members: dict[Address, SourceFilter] = {}
        self.reports: list[tuple[RecordKind, Address, set[Address]]] = []
        self.nonces: set[bytes] = set()
        self.former: set[bytes] = set()  # of the process before

    def start_again(self) -> None:
        """It is another process, with another secret."""
        self.members.clear()
        self.former |= self.nonces
        self.nonces.clear()

    def take(self, message: bytes) -> list[tuple[bytes, tuple[Address, int]]]:
        if not self.is_up:
            return []
        read = amt.read(message)
        assert read is not None
        self.heard.append(read)
        match read:
            case amt.RelayDiscovery(nonce):
                return [(amt.build(amt.RelayAdvertisement(nonce, RELAY)), (ANYCAST, amt.PORT))]
            case amt.TunnelRequest(nonce, mld_):
                if mld_ and message[1] != self.takes_p_flag:
                    return []
                self.nonces.add(nonce)
                packet = general_query(mld_, **self.asks)
                return [(amt.build(amt.TunnelQuery(nonce, MAC, packet, **self.offers)), (RELAY, amt.PORT))]
            case amt.TunnelUpdate(nonce) if nonce in self.former:
                pass
            case amt.TunnelUpdate(nonce, mac, packet):
                assert (nonce in self.nonces, mac) == (True, MAC)
                self._believe(packet)
            case amt.TunnelTeardown():
                self.members.clear()
        return []

    def _believe(self, data: bytes) -> None:
        packet = read_ip(data)
        assert packet is not None
        assert (packet.ttl, packet.router_alert, packet.destination.is_multicast) == (1, True, True)
        if packet.version == 4:
            report = igmp.read(packet.body)
        else:
            report = mld.read(packet.body, packet.source, packet.destination)  # type: ignore[arg-type]
        assert isinstance(report, MembershipReport)
        for record in report.records:
            sources = {*record.sources}
            self.reports.append((record.kind, record.group, sources))
            had = self.members.get(record.group, include())
            known = {*had.sources}
            match record.kind:
                case RecordKind.IS_INCLUDE | RecordKind.TO_INCLUDE:
                    new = include(*sources)
                case RecordKind.IS_EXCLUDE | RecordKind.TO_EXCLUDE:
                    new = exclude(*sources)
                case RecordKind.ALLOW:
                    new = exclude(*(known - sources)) if had.exclude else include(*(known | sources))
                case RecordKind.BLOCK:
                    new = exclude(*(known | sources)) if had.exclude else include(*(known - sources))
            self.members[record.group] = SourceFilter(new.exclude, tuple(sorted(new.sources, key=int)))
            if not new.exclude and not new.sources:
                del self.members[record.group]


class Net:
    """A gateway and its relay, with a clock of the test; ``loses`` says which messages do not arrive."""

    def __init__(self, loses: Callable[[], bool] = lambda: False, **keys: Any) -> None:
        self.now = 1000.0
        self.loses = loses
        self.relay = Relay()
        numbers = itertools.count(1)
        self.gateway = Gateway(
            ANYCAST, **{"random": Random(7), "nonce": lambda: next(numbers).to_bytes(4, "big"), **keys}
        )
        self.sent: list[tuple[float, TunnelMessage]] = []

    def carry(self, outgoing: list[TunnelMessage]) -> None:
        for one in outgoing:
            self.sent.append((self.now, one))
            assert one.to in {(ANYCAST, amt.PORT), (RELAY, amt.PORT)}
            for message, peer in [] if self.loses() else self.relay.take(one.message):
                if not self.loses():
                    self.carry(self.gateway.take(message, peer, self.now))

    def want(self, wanted: dict[Address, SourceFilter]) -> None:
        self.carry(self.gateway.want(wanted, self.now))

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        for _ in range(100_000):
            if (due := self.gateway.deadline) > end:
                self.now = end
                return
            self.now = max(self.now, due)
            self.carry(self.gateway.tick(self.now))
        pytest.fail("it never rests")

    def kinds(self, since: float = -math.inf) -> list[int]:
        return [one.message[0] for at, one in self.sent if at >= since]


DISCOVERY, REQUEST, UPDATE, TEARDOWN = 1, 3, 5, 7


def test_it_finds_the_relay_and_asks_it_for_what_is_wanted() -> None:
    net = Net()
    assert (net.gateway.phase, net.gateway.deadline) == (Phase.IDLE, math.inf)
    net.want({GROUP: include(S1)})
    assert net.gateway.phase is Phase.DISCOVERING
    net.run(0)
    assert net.kinds() == [DISCOVERY, REQUEST, UPDATE]
    assert net.relay.reports == [(RecordKind.IS_INCLUDE, GROUP, {S1})]
    assert (net.gateway.phase, net.gateway.relay, net.gateway.round_trip) == (Phase.OPEN, RELAY, 0)
    assert net.gateway.admit(b"\x06\x00packet", (RELAY, amt.PORT), net.now) == b"packet"


def test_data_is_taken_from_the_relay_alone() -> None:
    net = Net()
    for peer in ((RELAY, amt.PORT), (ANYCAST, amt.PORT)):
        assert net.gateway.admit(b"\x06\x00packet", peer, net.now) is None, "nothing was asked for"
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    for peer in ((OTHER, amt.PORT), (RELAY, amt.PORT + 1), (ANYCAST, amt.PORT)):
        assert net.gateway.admit(b"\x06\x00packet", peer, net.now) is None
    for message in (b"", b"\x16\x00packet", b"\x05\x00packet"):
        assert net.gateway.admit(message, (RELAY, amt.PORT), net.now) is None


def test_both_families_go_by_one_tunnel() -> None:
    net = Net()
    net.want({GROUP: include(S1), GROUP_6: ANY_SOURCE})
    net.run(0)
    assert net.kinds() == [DISCOVERY, REQUEST, REQUEST, UPDATE, UPDATE] or net.kinds() == [
        *(DISCOVERY, REQUEST, UPDATE, REQUEST, UPDATE)
    ]
    assert net.relay.members == {GROUP: include(S1), GROUP_6: ANY_SOURCE}


def test_a_relay_that_knows_the_flag_of_linux_alone_is_asked_with_it_from_then_on() -> None:
    net = Net()
    net.relay.takes_p_flag = amt.LINUX_P_FLAG
    net.want({GROUP_6: ANY_SOURCE})
    net.run(30)
    assert net.relay.members == {GROUP_6: ANY_SOURCE}
    flags = [one.message[1] for _, one in net.sent if one.message[0] == REQUEST]
    assert flags == [amt.P_FLAG, amt.LINUX_P_FLAG, amt.LINUX_P_FLAG]


@pytest.mark.parametrize(
    ("before", "after", "records"),
    [
        (include(S1), include(S1, S2), [(RecordKind.ALLOW, {S2})]),
        (include(S1, S2), include(S2, S3), [(RecordKind.ALLOW, {S3}), (RecordKind.BLOCK, {S1})]),
        (exclude(S1), exclude(S2), [(RecordKind.ALLOW, {S1}), (RecordKind.BLOCK, {S2})]),
        (include(S1), exclude(S2), [(RecordKind.TO_EXCLUDE, {S2})]),
        (exclude(S1), include(S2), [(RecordKind.TO_INCLUDE, {S2})]),
        (None, exclude(), [(RecordKind.TO_EXCLUDE, set())]),
        (None, include(S1), [(RecordKind.ALLOW, {S1})]),
        (exclude(), None, [(RecordKind.TO_INCLUDE, set())]),
        (include(S1), None, [(RecordKind.BLOCK, {S1})]),
    ],
)
def test_a_change_is_told_at_once_as_often_as_the_relay_says(
    before: SourceFilter | None, after: SourceFilter | None, records: list[Any]
) -> None:
    net = Net()
    net.relay.asks = {"robustness": 3}
    always: dict[Address, SourceFilter] = {ip_address("232.9.9.9"): ANY_SOURCE}
    net.want({**always, **({GROUP: before} if before else {})})
    net.run(0)
    net.relay.reports.clear()
    net.want({**always, **({GROUP: after} if after else {})})
    assert net.relay.reports == [(kind, GROUP, sources) for kind, sources in records]
    net.run(10)
    assert net.relay.reports == 3 * [(kind, GROUP, sources) for kind, sources in records]


def test_changes_in_a_row_are_told_so_that_whoever_heard_any_of_them_knows_the_last() -> None:
    net = Net()
    net.want({GROUP: include(S1)})
    net.run(0)
    net.want({GROUP: include(S1, S2)})
    net.want({GROUP: include(S3)})
    assert net.relay.reports[-2:] == [(RecordKind.ALLOW, GROUP, {S3}), (RecordKind.BLOCK, GROUP, {S1, S2})]
    assert net.relay.members == {GROUP: include(S3)}
    net.want({GROUP: ANY_SOURCE})
    net.want({GROUP: include(S1)})
    net.want({GROUP: include(S2)})
    assert net.relay.members == {GROUP: include(S2)}
    net.want({GROUP: exclude(S3)})
    net.want({GROUP: exclude()})
    assert net.relay.reports[-1] == (RecordKind.TO_EXCLUDE, GROUP, set())
    net.run(3)
    assert net.relay.members == {GROUP: exclude()}


def test_it_asks_again_when_the_relay_says_or_sooner_for_a_nat() -> None:
    for interval, seconds in ((125.0, 25.0), (10.0, 10.0)):
        net = Net()
        net.relay.asks = {"interval_seconds": interval}
        net.want({GROUP: ANY_SOURCE})
        net.run(4 * seconds + 1)
        assert net.kinds() == [DISCOVERY, *5 * [REQUEST, UPDATE]]
        nonces = [one.nonce for one in net.relay.heard if isinstance(one, amt.TunnelRequest)]
        assert len({*nonces}) == 5, "a new one for each"


def test_a_relay_that_wants_to_be_asked_all_the_time_is_asked_once_a_second() -> None:
    net = Net()
    net.relay.asks = {"interval_seconds": 0.0}
    net.want({GROUP: ANY_SOURCE})
    net.run(60)
    assert 55 <= len([one for one in net.relay.heard if isinstance(one, amt.TunnelRequest)]) <= 61


def test_what_comes_again_ends_the_patience_with_silence() -> None:
    """After a pause it is soon asked about once more; and who waits for an answer does not ask twice."""
    net = Net()
    net.want({GROUP: ANY_SOURCE})
    net.run(0)

    def requests_within(seconds: float) -> int:
        before = len(net.relay.heard)
        net.run(seconds)
        return len([one for one in net.relay.heard[before:] if isinstance(one, amt.TunnelRequest)])

    for _ in range(2):
        assert net.gateway.note_data((RELAY, amt.PORT), net.now)
        assert requests_within(1.9) == 0
        assert requests_within(0.2) == 1
        assert requests_within(3.7) == 0
        assert requests_within(0.5) == 1
        net.run(40)
    net.gateway.note_data((RELAY, amt.PORT), net.now)
    net.relay.is_up = False
    sent = len(net.sent)
    net.run(2.5)
    assert len(net.sent) == sent + 1
    (cycle,) = (one for one in net.gateway._cycles.values() if one.wanted)
    due = cycle.deadline
    cycle.renew(net.now)
    assert cycle.deadline == due


def test_silence_is_bridged_with_patience_and_a_relay_that_comes_back_is_found() -> None:
    net = Net()
    net.relay.is_up = False
    net.want({GROUP: ANY_SOURCE})
    net.run(200)
    assert {*net.kinds()} == {DISCOVERY}
    assert len({one.message for _, one in net.sent}) == 1, "the same nonce"
    assert net.gateway.tries == len(net.sent)
    waits = [b - a for (a, _), (b, _) in itertools.pairwise(net.sent)]
    assert 1 <= min(waits) <= max(waits) <= 4
    net.run(2000)
    assert net.sent[-1][0] - net.sent[-2][0] > 4, "after a while more seldom"
    net.relay.is_up = True
    net.run(121)
    assert net.relay.members == {GROUP: ANY_SOURCE}


def test_a_relay_that_was_started_again_is_told_anew_within_five_seconds() -> None:
    net = Net()
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    for _ in range(50):
        net.run(0.1)
        net.gateway.admit(b"\x06\x00packet", (RELAY, amt.PORT), net.now)
    net.relay.start_again()
    net.run(5)
    assert net.relay.members == {GROUP: ANY_SOURCE}
    since = net.now
    net.run(600)
    assert 24 <= net.kinds(since).count(REQUEST) <= 35, "though nothing comes, it asks no more often"


@given(st.floats(0, 280), st.integers(0, 1 << 32))
def test_however_long_a_relay_was_away_it_is_used_again_within_five_seconds(away: float, seed: int) -> None:
    net = Net(random=Random(seed))
    net.want({GROUP: ANY_SOURCE})
    for _ in range(30):
        net.run(0.1)
        net.gateway.admit(b"\x06\x00packet", (RELAY, amt.PORT), net.now)
    net.relay.is_up = False
    net.run(away)
    net.relay.start_again()
    net.relay.is_up = True
    net.run(5)
    assert net.relay.members == {GROUP: ANY_SOURCE}


def test_a_relay_that_falls_silent_is_given_up_for_another() -> None:
    net = Net()
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    net.relay.is_up = False
    since = net.now + 1
    net.run(25 + 15)
    assert net.gateway.phase is Phase.DISCOVERING
    assert net.kinds(since)[:4] == 4 * [REQUEST]
    net.relay.is_up = True
    net.run(5)
    assert (net.gateway.phase, net.relay.members) == (Phase.OPEN, {GROUP: ANY_SOURCE})


def test_a_relay_that_is_full_is_left_alone_for_a_while() -> None:
    net = Net()
    net.relay.offers = {"full": True}
    net.want({GROUP: ANY_SOURCE})
    net.run(FULL_SECONDS / 2)
    assert (net.kinds(), net.gateway.is_full, net.relay.members) == ([DISCOVERY, REQUEST], True, {})
    net.relay.offers = {}
    net.run(FULL_SECONDS)
    assert (net.gateway.is_full, net.relay.members) == (False, {GROUP: ANY_SOURCE})
    net.relay.offers = {"full": True}
    net.run(60)
    assert net.gateway.phase is Phase.OPEN, "it is full for others"


def test_a_relay_that_takes_no_new_gateways_serves_one_that_it_has_in_both_families() -> None:
    net = Net()
    net.want({GROUP: ANY_SOURCE})
    net.run(1)
    net.relay.offers = {"full": True}
    net.want({GROUP: ANY_SOURCE, GROUP_6: ANY_SOURCE})
    net.run(30)
    assert (net.gateway.phase, net.gateway.is_full) == (Phase.OPEN, False)
    assert net.relay.members == {GROUP: ANY_SOURCE, GROUP_6: ANY_SOURCE}
    assert net.kinds().count(DISCOVERY) == 1


def test_a_relay_that_has_sent_something_and_is_full_is_left_alone_as_well() -> None:
    net = Net()
    net.relay.offers = {"full": True}
    net.relay.takes_p_flag = amt.LINUX_P_FLAG  # so it answers the second request
    net.want({GROUP_6: ANY_SOURCE})
    net.run(0)
    assert net.gateway.note_data((RELAY, amt.PORT), net.now), "as to a run before"
    net.run(FULL_SECONDS / 2)
    assert (net.kinds(), net.gateway.is_full) == ([DISCOVERY, REQUEST, REQUEST], True)
    assert net.gateway.deadline > net.now


def test_an_address_that_has_changed_is_torn_down() -> None:
    net = Net()
    net.relay.offers = {"gateway": OURS}
    net.want({GROUP: ANY_SOURCE})
    net.run(26)
    assert TEARDOWN not in net.kinds()
    net.relay.offers = {"gateway": amt.GatewayAddress(OURS.address, 4711)}
    net.run(25)
    (torn,) = [one for one in net.relay.heard if isinstance(one, amt.TunnelTeardown)]
    assert torn.gateway == OURS
    assert net.relay.members == {GROUP: ANY_SOURCE}, "and told again from the new one"


@pytest.mark.parametrize("offers", [{}, {"gateway": OURS}])
def test_it_takes_leave_when_nothing_is_wanted_and_when_it_ends(offers: dict[str, Any]) -> None:
    net = Net()
    net.relay.offers = offers
    net.want({GROUP: include(S1), GROUP_6: ANY_SOURCE})
    net.run(0)
    net.want({})
    net.run(5)
    assert (net.relay.members, net.gateway.phase, net.gateway.deadline) == ({}, Phase.IDLE, math.inf)
    assert net.gateway.admit(b"\x06\x00packet", (RELAY, amt.PORT), net.now) is None
    net.want({GROUP: include(S1)})
    net.run(0)
    assert net.relay.members == {GROUP: include(S1)}
    net.carry(net.gateway.end())
    assert (net.relay.members, net.gateway.deadline) == ({}, math.inf)


@pytest.mark.parametrize(
    "address",
    ["224.0.0.1", "255.255.255.255", "0.0.0.0", "127.0.0.1", "169.254.1.1", "ff02::1", "::", "fe80::1"],
)
def test_a_relay_that_names_no_host_elsewhere_is_not_believed(address: str) -> None:
    """What it names would be sent to again and again."""
    net = Net()
    net.relay.is_up = False
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    nonce = net.sent[0][1].message[4:8]
    peer = ANYCAST, amt.PORT
    bad = amt.RelayAdvertisement(nonce, ip_address(address))
    assert net.gateway.take(amt.build(bad), peer, net.now) == []
    assert net.gateway.phase is Phase.DISCOVERING
    assert net.gateway.take(amt.build(amt.RelayAdvertisement(nonce, RELAY)), peer, net.now)


def test_what_a_stranger_says_is_not_believed() -> None:
    net = Net()
    net.relay.is_up = False
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    (sent,) = net.sent
    nonce = sent[1].message[4:8]
    gateway = net.gateway
    for advertised, peer in (
        (amt.RelayAdvertisement(b"wron", OTHER), (ANYCAST, amt.PORT)),
        (amt.RelayAdvertisement(nonce, OTHER), (OTHER, amt.PORT)),
        (amt.RelayAdvertisement(nonce, OTHER), (ANYCAST, 4711)),
    ):
        assert gateway.take(amt.build(advertised), peer, net.now) == []
    advertised = amt.RelayAdvertisement(nonce, RELAY)
    (request,) = gateway.take(amt.build(advertised), (ANYCAST, amt.PORT), net.now)
    assert gateway.take(amt.build(amt.RelayAdvertisement(nonce, OTHER)), (ANYCAST, amt.PORT), net.now) == []
    nonce = request.message[4:8]
    good = general_query(False)
    for query, peer in (
        (amt.TunnelQuery(b"wron", MAC, good), (RELAY, amt.PORT)),
        (amt.TunnelQuery(nonce, MAC, good), (OTHER, amt.PORT)),
        (amt.TunnelQuery(nonce, MAC, good), (RELAY, 4711)),
        (amt.TunnelQuery(nonce, MAC, good[:-1]), (RELAY, amt.PORT)),
        (amt.TunnelQuery(nonce, MAC, general_query(True)), (RELAY, amt.PORT)),
        (amt.TunnelQuery(nonce, MAC, general_query(False, group=GROUP)), (RELAY, amt.PORT)),
    ):
        assert gateway.take(amt.build(query), peer, net.now) == []
    (update,) = gateway.take(amt.build(amt.TunnelQuery(nonce, MAC, good)), (RELAY, amt.PORT), net.now)
    assert update.message[0] == UPDATE
    assert gateway.take(amt.build(amt.TunnelQuery(nonce, MAC, good)), (RELAY, amt.PORT), net.now) == []


GROUPS = [GROUP, GROUP_6, ip_address("239.1.1.1")]
FILTERS = st.builds(
    lambda exclude_, sources: SourceFilter(exclude_, tuple(sorted(sources, key=int))),
    st.booleans(),
    st.sets(st.sampled_from([S1, S2, S3])),
).filter(lambda one: one.exclude or bool(one.sources))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.dictionaries(st.sampled_from(GROUPS[::2]), FILTERS), st.floats(0, 40)), max_size=8),
    st.randoms(use_true_random=False),
)
def test_whatever_is_lost_the_relay_knows_in_the_end_what_is_wanted(changes: Any, random: Random) -> None:
    net = Net(lambda: random.random() < 0.3)
    for wanted, seconds in changes:
        net.want(wanted)
        net.run(seconds)
        if random.random() < 0.1:
            net.relay.members.clear()
    wanted = {GROUP: include(S1), GROUPS[2]: exclude(S2)}
    net.want(wanted)
    net.loses = lambda: False
    net.run(60)
    asked = {group: one for group, one in net.relay.members.items() if group in wanted}
    assert asked == wanted
    net.want({})
    net.run(10)
    assert (net.gateway.deadline, {group for group in net.relay.members if group in wanted}) == (
        math.inf,
        set(),
    )


@given(st.binary(max_size=120), st.integers(0, 8))
def test_any_bytes_are_taken_and_change_nothing(tail: bytes, kind: int) -> None:
    net = Net()
    net.want({GROUP: ANY_SOURCE})
    net.run(0)
    before = net.gateway.deadline
    for peer in ((RELAY, amt.PORT), (ANYCAST, amt.PORT), (OTHER, 1)):
        assert net.gateway.take(bytes([kind]) + tail, peer, net.now) == []
    assert net.gateway.deadline == before
