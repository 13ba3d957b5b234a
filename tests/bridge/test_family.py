"""The kernel's table of one IP version as the rules want it: over a kernel in memory."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from mcastd import clock
from mcastd.bridge.family import RETRY_SECONDS, FamilyRoutes, open_family
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.members import RETRY_SECONDS as LISTEN_SECONDS
from mcastd.bridge.rules import SENDER_ELSEWHERE, Rule
from mcastd.counters import BridgeCounters
from mcastd.errors import LinkError
from mcastd.ip import ANY_SOURCE, Address
from mcastd.net import _abi
from mcastd.net.fake import FakeJoins, FakeQuerySender, FakeRoutingTable
from mcastd.net.interfaces import Host, Interface
from mcastd.net.membership import Memberships
from mcastd.net.mroute import Heard
from mcastd.net.routing import INTERFACES_MAX, InterfaceCount, KeptTable
from mcastd.protocols.internet import IGMP, IpPacket

LEFT, RIGHT, DOWN, LATE = 3, 5, 8, 13
SOURCE, NEWS, FILMS = ip_address("10.1.0.2"), ip_address("239.1.1.1"), ip_address("239.2.0.9")
FLAGS = _abi.IFF_UP | _abi.IFF_MULTICAST | _abi.IFF_RUNNING


class Table(FakeRoutingTable):
    """Notes what it is asked for; an interface may be deleted behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, ...]] = []
        self.deleted: set[int] = set()
        self.room = INTERFACES_MAX

    def add(self, ifindex: int) -> None:
        if len(self.interfaces) >= self.room:
            raise LinkError("cannot route by one more", "too many", errno=errno.ENFILE)
        super().add(ifindex)
        self.calls.append(("add", ifindex))

    def remove(self, ifindex: int) -> None:
        super().remove(ifindex)
        self.deleted.discard(ifindex)
        self.calls.append(("remove", ifindex))

    def route(self, source: Address, group: Address, came_by: int, to: Mapping[int, int]) -> None:
        super().route(source, group, came_by, to)
        self.calls.append(("route", came_by, set(to)))

    def interface_count(self, ifindex: int) -> InterfaceCount | None:
        return None if ifindex in self.deleted else super().interface_count(ifindex)


class Lab:
    def __init__(self) -> None:
        self.table, self.joins = Table(), FakeJoins()
        self.family = FamilyRoutes(4, self.table, FakeQuerySender(), self.joins)
        self.flags = FLAGS

    def host(self, *ifindices: int) -> Host:
        own = {i: (ip_address(f"10.{i}.0.1"), ip_address("192.0.2.1")) for i in ifindices}
        return Host(
            {
                i: Interface(i, f"eth{i}", self.flags, 1, addresses, prefix_lengths=(16, 32))
                for i, addresses in own.items()
            },
            0.0,
        )

    def rule(self, *groups: str, to: tuple[int, ...] = (RIGHT, DOWN), joined: bool = False) -> Rule:
        prefixes = tuple(map(ip_network, groups or ("239.1.0.0/16",)))
        return Rule(frozenset({LEFT}), dict.fromkeys(to, 1), prefixes, (), joined)


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.family.close()


def test_routes_leave_an_interface_before_another_one_gets_its_number(lab: Lab) -> None:
    family, table = lab.family, lab.table
    family.set_rules({"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN), 1.0)
    table.send(LEFT, SOURCE, NEWS)
    family.serve(2.0)
    table.calls.clear()
    family.set_rules({"tv": lab.rule(to=(RIGHT, LATE))}, lab.host(LEFT, RIGHT, LATE), 3.0)
    assert table.calls == [
        ("remove", DOWN),
        ("route", LEFT, {RIGHT}),
        ("add", LATE),
        ("route", LEFT, {RIGHT, LATE}),
    ]


def test_an_interface_that_the_kernel_has_deleted_takes_part_anew(lab: Lab) -> None:
    """One with its index was made since."""
    family, table = lab.family, lab.table
    rules, host = {"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN)
    family.set_rules(rules, host, 1.0)
    table.calls.clear()
    family.set_rules(rules, host, 2.0)
    assert table.calls == []
    table.deleted.add(RIGHT)
    family.set_rules(rules, host, 3.0)
    assert table.calls == [("remove", RIGHT), ("add", RIGHT)]


def test_an_interface_that_has_gone_since_the_host_was_asked_is_no_refusal(lab: Lab) -> None:
    """The news of it is under way; what else the kernel does not take is told."""
    family, table = lab.family, lab.table
    table.refused[RIGHT] = LinkError("cannot route", "no such device", errno=errno.ENODEV)
    table.refused[DOWN] = LinkError("cannot route", "too many", errno=errno.ENFILE)
    family.set_rules({"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN), 1.0)
    assert (family.refused, table.interfaces) == ({DOWN: table.refused[DOWN]}, {LEFT})


def test_where_groups_come_from_has_its_place_before_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel routes among few interfaces; without one where groups come from none goes anywhere."""
    monkeypatch.setattr("mcastd.bridge.family.INTERFACES_MAX", 3)
    monkeypatch.setattr(lab.table, "room", 3)
    family, table = lab.family, lab.table
    tunnels, last = (4, 6, 7), LATE

    def rules(came_by: int) -> dict[str, Rule]:
        rule = lab.rule(to=tunnels)
        return {"tv": replace(rule, came_by=frozenset({came_by}))}

    family.set_rules(rules(last), lab.host(last, *tunnels), 1.0)
    assert (table.interfaces, set(family.refused)) == ({4, 6, last}, {7})
    family.set_rules({"tv": replace(rules(last)["tv"], came_by=frozenset())}, lab.host(*tunnels), 2.0)
    assert table.interfaces == set(tunnels)
    family.set_rules(rules(LEFT), lab.host(LEFT, *tunnels), 3.0)
    assert (table.interfaces, set(family.refused)) == ({LEFT, 4, 6}, {7})
    table.calls.clear()
    family.set_rules(rules(LEFT), lab.host(LEFT, *tunnels), 4.0)
    assert table.calls == []


def test_a_group_that_cannot_be_joined_is_forgotten_when_nobody_wants_it(lab: Lab) -> None:
    family, host = lab.family, lab.host(LEFT, RIGHT, DOWN)
    lab.joins.refused[NEWS] = LinkError("cannot join", "no buffer space")
    family.set_rules({"tv": lab.rule("239.1.1.1", "239.2.0.9")}, host, 1.0)
    assert (set(family.unjoined), family.joined) == ({(LEFT, NEWS)}, {FILMS: {LEFT: ANY_SOURCE}})
    assert family.deadline == 1.0 + RETRY_SECONDS
    family.set_rules({"tv": lab.rule("239.3.0.0/16")}, host, 2.0)
    assert (family.unjoined, family.joined, lab.joins.joined) == ({}, {}, {})


def test_what_others_join_meanwhile_delays_no_retry(lab: Lab) -> None:
    family, host = lab.family, lab.host(LEFT, RIGHT, DOWN)
    lab.joins.refused[NEWS] = LinkError("cannot join", "no buffer space")
    family.set_rules({"tv": lab.rule("239.1.1.1")}, host, 1.0)
    lab.joins.refused.clear()
    for now in (2.0, 4.0):
        family._join({FILMS}, now)
    assert family.deadline == 1.0 + RETRY_SECONDS
    family.serve(family.deadline)
    assert (lab.joins.joined, family.unjoined) == ({(LEFT, NEWS): ANY_SOURCE}, {})


def test_an_interface_that_is_gone_already_is_joined_nowhere(lab: Lab) -> None:
    """It may vanish between the look at the host and this."""
    lab.family.set_rules({"tv": lab.rule("239.1.1.1")}, lab.host(RIGHT, DOWN), 1.0)
    assert lab.joins.joined == {}


def test_a_route_that_the_kernel_refuses_is_none(lab: Lab) -> None:
    family, table = lab.family, lab.table
    family.set_rules({"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN), 1.0)
    table.refusal = LinkError("cannot route", "no memory")
    table.send(LEFT, SOURCE, NEWS)
    family.serve(2.0)
    assert (len(family.forwarding), family.refusal) == (0, table.refusal)


class Reports:
    """A member where groups come from reports by IGMPv2, to the group itself: the kernel routes that."""

    def __init__(self, lab: Lab, source: Address = SOURCE) -> None:
        self.lab, self.now = lab, 1.0
        self.message = Heard(LEFT, IpPacket(source, NEWS, IGMP, 1, bytes(8), router_alert=True))
        lab.family.set_rules({"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN), self.now)
        lab.family.forwarding.counters = {"tv": BridgeCounters()}

    def report(self, *, late: bool = False) -> None:
        """As the kernel does: without a route it hands the message over, and holds it until there is one.

        ``late``: a look counts it before it is heard.
        """
        table, (source, group) = self.lab.table, (self.message.packet.source, NEWS)
        if (source, group) in table.routes:
            table.send(LEFT, source, group, ttl=1)
            if late:
                self.look()
            table.say(self.message)
            self.serve()
            return
        table.say(self.message)
        table.send(LEFT, source, group, ttl=1)
        self.serve()
        table.send(LEFT, source, group, ttl=1)  # what was held goes by the route

    def send(self, ttl: int = 8) -> None:
        self.lab.table.send(LEFT, self.message.packet.source, NEWS, ttl=ttl)
        self.serve()

    def serve(self) -> None:
        while self.lab.table.said:
            self.lab.family.serve(self.now)

    def look(self) -> None:
        self.now += 1.0
        self.lab.family.look(self.now)

    @property
    def seen(self) -> tuple[list[int], set[int], int, bool]:
        """Packets of each route, where nothing leaves, packets received, and whether some ever were."""
        family = self.lab.family
        packets = [route.packets for route in family.routes_of("tv")]
        received = family.forwarding.counters["tv"].received
        return packets, family.silent_of("tv"), received, "tv" in family.forwarding.last


def test_reports_of_members_are_no_stream(lab: Lab) -> None:
    """They have a TTL of 1: that nothing of a stream leaves would be told, and that it comes."""
    reports = Reports(lab)
    for _ in range(4):
        reports.report()
        reports.look()
        assert reports.seen == ([], set(), 0, False)
    for count in (1, 2, 3):
        reports.send()
        reports.report()
        reports.look()
        assert reports.seen == ([count], set(), count, True)
    for _ in range(3):  # the stream ends
        reports.report()
        reports.look()
        assert reports.seen == ([3], set(), 3, True)
    reports.send(ttl=1)  # and comes again, and goes no further
    reports.look()
    assert reports.seen == ([4], set(), 4, True)
    reports.look()
    assert reports.seen == ([4], {RIGHT, DOWN}, 4, True)


def test_nothing_is_missed_of_what_came_before_it_was_wanted(lab: Lab) -> None:
    family, table, host = lab.family, lab.table, lab.host(LEFT, RIGHT, DOWN)
    rule, other = lab.rule(to=(RIGHT,)), lab.rule("239.2.0.0/16", to=(DOWN,))
    family.set_rules({"tv": rule, "other": other}, host, 1.0)
    table.send(LEFT, SOURCE, NEWS)
    family.serve(2.0)
    for now in (3.0, 4.0):
        table.send(LEFT, SOURCE, NEWS, ttl=8)
        family.look(now)
    family.set_rules({"tv": rule, "other": lab.rule(to=(DOWN,))}, host, 4.5)
    family.look(5.0)
    assert (family.silent_of("tv"), family.silent_of("other")) == (set(), set())
    for now in (6.0, 7.0, 8.0):
        table.send(LEFT, SOURCE, NEWS, ttl=1)
        family.look(now)
    assert (family.silent_of("tv"), family.silent_of("other")) == ({RIGHT}, {DOWN})


def test_a_report_that_is_heard_after_a_look_is_no_stream(lab: Lab) -> None:
    reports = Reports(lab)
    reports.report()
    reports.look()
    for _ in range(3):
        reports.report(late=True)
        reports.look()
        assert reports.seen[:2] == ([], set())
        reports.look()
        assert reports.seen[:2] == ([], set())


def test_a_report_that_goes_by_a_route_of_its_own_is_none_of_another_sender(lab: Lab) -> None:
    neighbour = ip_address("10.1.0.9")
    reports = Reports(lab, neighbour)
    reports.report()
    lab.table.send(LEFT, SOURCE, NEWS)
    reports.serve()
    for ttl in (8, 8):
        lab.table.send(LEFT, SOURCE, NEWS, ttl)
    reports.look()
    assert reports.seen == ([2], set(), 2, True)
    assert [(one.source, one.is_stream) for one in lab.family.forwarding.routes()] == [
        (neighbour, False),
        (SOURCE, True),
    ]


def test_a_sender_on_the_network_of_another_interface_is_heard_there(lab: Lab) -> None:
    """As long as that has a carrier."""
    family, table = lab.family, lab.table
    neighbour = ip_address(f"10.{DOWN}.7.7")
    rules, host = {"tv": lab.rule()}, lab.host(LEFT, RIGHT, DOWN)
    for source, to in (
        (neighbour, set()),
        (SOURCE, {RIGHT, DOWN}),
        (ip_address(f"10.{LEFT}.7.7"), {RIGHT, DOWN}),
    ):
        family.set_rules(rules, host, 1.0)
        table.send(LEFT, source, NEWS)
        family.serve(2.0)
        assert table.send(LEFT, source, NEWS) == to
    (route,) = (one for one in family.forwarding.routes() if one.source == neighbour)
    assert route.course.bridges == {"tv": SENDER_ELSEWHERE}
    lab.flags = _abi.IFF_UP
    family.set_rules(rules, lab.host(LEFT, RIGHT, DOWN), 3.0)
    assert table.send(LEFT, neighbour, NEWS) == {RIGHT, DOWN}


def test_what_comes_where_it_is_sent_to_is_told_if_it_goes_on(lab: Lab) -> None:
    """Another router sends it there, too, or two make a circle."""
    family, table = lab.family, lab.table
    rules = {"tv": lab.rule(), "other": lab.rule("239.9.0.0/16")}
    family.set_rules(rules, lab.host(LEFT, RIGHT, DOWN), 1.0)
    table.send(LEFT, SOURCE, NEWS)
    family.serve(1.0)
    told = f"{NEWS} of {SOURCE} comes by eth{RIGHT}, too, where it is sent to: another router brings it there"
    for now, is_told in ((2.0, False), (5.0, False), (8.0, True), (11.0, True), (20.0, False), (23.0, False)):
        table.send(RIGHT, SOURCE, NEWS)
        family.serve(now)
        assert [one.startswith(told) for one in family.troubles_of("tv")] == [True] * is_told
        assert family.troubles_of("other") == []
    table.send(LEFT, SOURCE, NEWS)
    family.look(30.0)
    assert family.forwarding.doubled == {}


def test_that_members_are_not_heard_is_told_though_they_are_asked(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(ifindex: int) -> None:
        raise LinkError("cannot hear the members of groups", "too many open files")

    family, now = lab.family, clock.monotonic()
    with monkeypatch.context() as refused:
        refused.setattr(lab.table, "listen", refuse)
        family.set_rules({"tv": lab.rule(to=(RIGHT,), joined=True)}, lab.host(LEFT, RIGHT), now)
        before = family.state(now)
        family.serve(now)
    deaf = f"eth{RIGHT}: cannot hear the members of groups: too many open files"
    assert family.troubles_of("tv") == [deaf]
    assert family.deadline <= now + LISTEN_SECONDS
    family.serve(now + LISTEN_SECONDS)
    assert family.troubles_of("tv") == []
    assert family.state(now) != before


def test_what_was_presumed_once_is_not_presumed_again(lab: Lab) -> None:
    family, table = lab.family, lab.table
    for ifindex in (LEFT, RIGHT, DOWN):
        table.add(ifindex)
    table.route(SOURCE, NEWS, LEFT, {RIGHT: 1})
    family.adopt(0.0)
    rules, host = {"tv": lab.rule(joined=True)}, lab.host(LEFT, RIGHT, DOWN)
    family.set_rules(rules, host, 1.0)
    for now in (1.0, 2.0, 3.1):
        family.serve(now)
    family.set_rules(rules, host, 4.0)
    assert family.members.wanted(RIGHT, NEWS) is None
    assert lab.joins.joined == {}


class GivenBack(KeptTables):
    def __init__(self, table: KeptTable) -> None:
        super().__init__()
        self._left[4] = table


def test_a_kept_table_is_given_back_if_members_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(version: int) -> None:
        raise LinkError("cannot ask for members", "too many open files")

    monkeypatch.setattr("mcastd.bridge.family.QuerySender", refuse)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        table = KeptTable(sock)
        kept = GivenBack(table)
        with pytest.raises(LinkError):
            open_family(4, Memberships(), kept)
        assert kept.take(4) is table
        assert sock.fileno() != -1
