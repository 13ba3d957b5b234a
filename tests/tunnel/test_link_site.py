"""Sites with several links, over a network that is made up: each datagram once, and none goes round."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("cryptography")

from support.link_wire import LinkWire, WiredEnd

from mcastd.ip import ANY_SOURCE, LINK_LOCAL, Prefix, SourceFilter
from mcastd.protocols.link_control import DISTANCE_MAX, CarriedStream, GroupWant
from mcastd.protocols.link_frames import SEQUENCES
from mcastd.tunnel.link.site import (
    AHEAD,
    DUPLICATE,
    HOME_SECONDS,
    HOPS_MAX,
    OWN_STREAM,
    STREAMS_MAX,
    TOO_FAR,
    TTL_TOO_LOW,
    LinkSite,
    SiteLink,
)
from mcastd.tunnel.link.step import CarriedRun, LinkStep

GROUP = ip_address("239.1.2.3")
ALL = (ip_network("239.0.0.0/8"),)
SENDER = ip_address("10.1.0.9")
WANT = GroupWant(ip_network("239.1.2.3"), ANY_SOURCE, 0)
TTL = 16


class Site:
    """A site with its links: what its daemon does, less the sockets."""

    def __init__(self, wire: LinkWire, number: int) -> None:
        self.wire = wire
        self.number = number
        self.site = LinkSite(origin=100 + number)
        self.ends: dict[str, WiredEnd] = {}
        self.own: list[GroupWant] = []
        self.given: list[bytes] = []  # to the network here
        self.dropped: Counter[str] = Counter()
        self.ttls: Counter[int] = Counter()

    def link(self, other: Site, *, connects: bool, transit: bool, **settings: Any) -> None:
        name = f"to-{other.number}-{len(self.ends)}"
        ours, theirs = (
            (ip_address(f"192.0.2.{one.number}"), 9000 + 20 * two.number + len(one.ends))
            for one, two in ((self, other), (other, self))
        )
        wired = self.wire.add(ours, theirs if connects else None, origin=self.site.origin, **settings)
        self.ends[name] = wired
        self.site.links[name] = SiteLink(wired.end, ALL, transit)
        wired.on_step = lambda step: self.after(name, step)

    def after(self, name: str, step: LinkStep) -> None:
        for run in step.runs:
            for new in self.site.admitted(run, name, self.dropped, self.wire.now):
                self.given += new.payloads
                self.ttls[new.ttl] += len(new.payloads)
                self.forward(new, name)
        if step.wants_changed:
            self.want_of_links()

    def forward(self, run: CarriedRun, came_by: str | None) -> None:
        takers = self.site.takers(run.stream.group, run.stream.source, came_by)
        onward = run if came_by is None or not takers else self.site.onward(run)
        if isinstance(onward, CarriedRun):
            for name in takers:
                self.wire.send(self.ends[name], [onward])

    def want(self, *wants: GroupWant) -> None:
        self.own = [*wants]
        self.want_of_links()

    def want_of_links(self) -> None:
        for name, wired in self.ends.items():
            wanted = self.site.wanted_of(name, self.own)
            self.wire.carry(wired, wired.end.want(wanted, self.wire.now))

    def emit(self, payloads: list[bytes], ttl: int = TTL) -> None:
        run = self.site.taken((SENDER, 4000 + self.number), (GROUP, 5004), ttl, payloads)
        if isinstance(run, CarriedRun):
            self.forward(run, None)


def payloads(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def sites(count: int, pairs: list[tuple[int, int]], *, transit: bool = False, **settings: Any) -> list[Site]:
    """Sites by number from 1 on, and links between pairs of them: the first one connects."""
    wire = LinkWire(seed=count)
    all_sites = [Site(wire, number) for number in range(1, count + 1)]
    for one, two in pairs:
        first, second = all_sites[one - 1], all_sites[two - 1]
        first_name = len(first.ends)
        first.link(second, connects=True, transit=transit, **settings)
        second.link(first, connects=False, transit=transit, **settings)
        # The addresses that each had for the other before it was there
        ours, theirs = [*first.ends.values()][first_name], [*second.ends.values()][-1]
        ours.end.meet(theirs.address)
    wire.run(5)
    assert all(wired.end.is_up for site in all_sites for wired in site.ends.values())
    return all_sites


MESH = [*combinations(range(1, 6), 2)]
STAR = [(spoke, 1) for spoke in range(2, 6)]
RING = [(1, 2), (2, 3), (3, 4), (4, 5), (5, 1)]
SHAPES = {"mesh": (MESH, False), "star": (STAR, True), "ring": (RING, True)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", [0.0, 0.03])
def test_each_site_gets_each_datagram_once(shape: str, loss: float) -> None:
    pairs, transit = SHAPES[shape]
    all_sites = sites(5, pairs, transit=transit, repair_seconds=1.0)
    wire = all_sites[0].wire
    for site in all_sites:
        site.want(WANT)
    wire.run(3)
    wire.faults.loss = loss
    for part in range(100):
        all_sites[1].emit(payloads(400)[4 * part : 4 * part + 4])
        wire.run(0.02)
    wire.run(5)
    for site in all_sites:
        expected = [] if site is all_sites[1] else payloads(400)
        assert sorted(site.given, key=int) == expected
    if shape == "ring":  # it goes both ways round
        assert sum(site.dropped[DUPLICATE] for site in all_sites) > 0


def test_a_hub_that_is_killed_costs_a_mesh_nothing() -> None:
    all_sites = sites(5, MESH)
    wire = all_sites[0].wire
    for site in all_sites:
        site.want(WANT)
    wire.run(3)
    for part in range(100):
        if part == 50:
            for wired in all_sites[0].ends.values():
                del wire.ends[wired.address]
        all_sites[1].emit(payloads(400)[4 * part : 4 * part + 4])
        wire.run(0.02)
    wire.run(3)
    for site in all_sites[2:]:
        assert site.given == payloads(400)
    assert site.given[: len(all_sites[0].given)] == all_sites[0].given


def test_what_nobody_wants_goes_nowhere() -> None:
    one, two = sites(2, [(1, 2)])
    one.emit(payloads(3))
    two.want(WANT._replace(groups=ip_network("239.9.0.0/16")))
    one.wire.run(1)
    one.emit(payloads(3))
    one.wire.run(1)
    assert two.given == []
    two.want(WANT._replace(groups=ip_network("239.1.0.0/16"), sources=SourceFilter(False, (SENDER,))))
    one.wire.run(1)
    one.emit(payloads(3))
    one.wire.run(1)
    assert two.given == payloads(3)
    assert [*two.ttls] == [TTL - 1]


def test_without_transit_nothing_goes_on() -> None:
    all_sites = sites(3, [(1, 2), (2, 3)])
    for site in all_sites:
        site.want(WANT)
    all_sites[0].wire.run(3)
    all_sites[0].emit(payloads(3))
    all_sites[0].wire.run(1)
    assert all_sites[1].given == payloads(3)
    assert all_sites[2].given == []


def test_a_hub_takes_what_others_want_of_it_and_no_more() -> None:
    hub, sender, receiver = sites(3, [(2, 1), (3, 1)], transit=True)
    receiver.want(WANT)
    hub.wire.run(3)
    (to_sender,) = hub.site.links["to-2-0"].end.peer_wants.wants or [None]
    assert to_sender is None
    (wanted,) = sender.site.links["to-1-0"].end.peer_wants.wants
    assert wanted == WANT._replace(distance=1)
    sender.emit(payloads(5))
    hub.wire.run(1)
    assert receiver.given == payloads(5)
    assert [*receiver.ttls] == [TTL - 2]
    receiver.want()
    hub.wire.run(3)
    assert not sender.site.links["to-1-0"].end.peer_wants.wants


def test_wants_do_not_go_round_for_ever() -> None:
    """Each site of a ring hears from both sides that somebody wants it."""
    all_sites = sites(5, RING, transit=True)
    wire = all_sites[0].wire
    all_sites[2].want(WANT)
    wire.run(5)
    for site in all_sites:
        assert site is all_sites[2] or all(one.end.peer_wants.wants for one in site.ends.values())
    all_sites[2].want()
    wire.run(15)
    for site in all_sites:
        assert not any(one.end.peer_wants.wants for one in site.ends.values())


def test_two_links_with_one_peer_are_two_legs() -> None:
    one, two = sites(2, [(1, 2), (1, 2)])
    two.want(WANT)
    one.wire.run(2)
    cut = next(iter(one.ends.values())).address
    for part in range(100):
        if part == 40:
            one.wire.tap = lambda message, source, to: cut not in (source, to)
        one.emit(payloads(100)[part : part + 1])
        one.wire.run(0.02)
    one.wire.run(1)
    assert two.given == payloads(100)
    assert two.dropped[DUPLICATE] == 40


def test_what_has_come_back_is_dropped() -> None:
    site = LinkSite(origin=5)
    run = site.taken((SENDER, 1), (GROUP, 2), 5, [b"x", b"y"])
    dropped: Counter[str] = Counter()
    assert site.admitted(run, "link", dropped, 1.0) == []
    assert dropped == {OWN_STREAM: 2}


def test_a_ttl_that_is_used_up_goes_nowhere() -> None:
    site = LinkSite(origin=5)
    assert site.taken((SENDER, 1), (GROUP, 2), 1, [b"x", b"y"]) == TTL_TOO_LOW
    run = site.taken((SENDER, 1), (GROUP, 2), 2, [b"x"])
    assert (run.ttl, run.hops, run.sequence) == (1, HOPS_MAX, 0)
    assert site.onward(run) == TTL_TOO_LOW
    assert site.onward(run._replace(ttl=2, hops=2)) == run._replace(ttl=1, hops=1)
    assert site.onward(run._replace(ttl=2, hops=1)) == TOO_FAR


def test_a_source_of_the_network_here_goes_nowhere() -> None:
    site = LinkSite(origin=5)
    assert site.taken((ip_address("fe80::7"), 1), (ip_address("ff05::7"), 2), 9, [b"x"]) == LINK_LOCAL


def test_each_stream_of_a_site_has_numbers_of_its_own() -> None:
    site = LinkSite(origin=5)
    ends = [((SENDER, 1), (GROUP, 2)), ((SENDER, 3), (GROUP, 2)), ((SENDER, 1), (GROUP, 4))]
    runs = [site.taken(*end, 9, [b"x", b"y"]) for end in ends * 2]
    assert [(run.stream.number, run.sequence) for run in runs] == [
        (1, 0), (2, 0), (3, 0), (1, 2), (2, 2), (3, 2)
    ]  # fmt: skip
    for port in range(STREAMS_MAX):
        site.taken((SENDER, 5), (GROUP, 10 + port), 9, [b"x"])
    again = site.taken(*ends[0], 9, [b"x"])
    assert (again.stream.number, again.sequence) == (4 + STREAMS_MAX, 0)


def carried(sequence: int, *payloads: bytes, number: int = 1) -> CarriedRun:
    stream = CarriedStream(9, number, SENDER, 1, GROUP, 2)
    return CarriedRun(stream, sequence, 8, 9, [*payloads])


def test_numbers_that_have_come_are_dropped_though_they_go_round() -> None:
    site = LinkSite(origin=5)
    dropped: Counter[str] = Counter()

    def admitted(run: CarriedRun, came_by: str = "one") -> list[CarriedRun]:
        return site.admitted(run, came_by, dropped, 1.0)

    first = carried(SEQUENCES - 2, b"a", b"b", b"c")
    assert admitted(first) == [first]
    assert admitted(carried(0, b"c", b"d", b"e")) == [carried(1, b"d", b"e")]
    assert admitted(carried(SEQUENCES - 3, b"before", b"a")) == [carried(SEQUENCES - 3, b"before")]
    other = carried(1, b"d", number=2)
    assert admitted(other) == [other]
    assert admitted(carried(0, b"at first", number=2)) == [carried(0, b"at first", number=2)]
    assert dropped == {DUPLICATE: 2}
    assert admitted(carried(SEQUENCES - 4, b"more", b"before", b"a", b"b"), "two") == [
        carried(SEQUENCES - 4, b"more")
    ]
    assert admitted(carried(1, b"d", b"e", b"f"), "three") == [carried(3, b"f")]
    assert admitted(carried(0, b"c", b"d", b"e", b"f", b"g"), "two") == [carried(4, b"g")]
    assert dropped == {DUPLICATE: 2 + 3 + 2 + 4}


def test_a_number_far_ahead_by_one_link_makes_those_of_another_none_too_old() -> None:
    """A peer may make it up, to have what another one brings dropped."""
    site, dropped = LinkSite(origin=5), Counter[str]()
    for came_by, run in (
        ("true", carried(7, b"a")),
        ("false", carried(7 + 2**30, b"x")),
        ("true", carried(8, b"b", b"c")),
        ("false", carried(2**31 + 6, b"y")),
        ("true", carried(10, b"d")),
    ):
        assert site.admitted(run, came_by, dropped, 1.0) == [run]
    assert site.admitted(carried(8, b"b"), "false", dropped, 1.0) == []
    assert dropped == {DUPLICATE: 1}


def site_with(**origins: int | None) -> LinkSite:
    """With links whose peers say to be these sites; None: they are not connected."""
    site = LinkSite(origin=5)
    for name, origin in origins.items():
        end: Any = SimpleNamespace(peer_origin=origin)
        site.links[name] = SiteLink(end, ALL, transit=True)
    return site


def test_what_a_site_sends_by_its_own_link_others_bring_only_where_it_is_lost() -> None:
    """So nobody sends in the name of another site what that is about to send."""
    site = site_with(home=9, other=10, late=None)
    dropped: Counter[str] = Counter()

    def admitted(came_by: str, run: CarriedRun, now: float = 1.0) -> list[bytes]:
        return [payload for one in site.admitted(run, came_by, dropped, now) for payload in one.payloads]

    assert admitted("other", carried(SEQUENCES - 2, b"first")) == [b"first"], "the stream is new"
    assert admitted("home", carried(SEQUENCES - 1, b"a", b"b", b"c")) == [b"a", b"b", b"c"]
    assert admitted("other", carried(5, b"f")) == []
    assert admitted("other", carried(2**30, b"x")) == []
    assert dropped == {AHEAD: 2}
    assert admitted("home", carried(3, b"e")) == [b"e"]
    assert admitted("other", carried(1, b"c", b"d", b"e", b"f")) == [b"d"]
    assert dropped == {AHEAD: 3, DUPLICATE: 2}
    site.links["late"].end.peer_origin = 9
    assert admitted("late", carried(4, b"false")) == [], "it may be anybody that has seen the number"
    assert admitted("home", carried(4, b"f")) == [b"f"]
    assert admitted("other", carried(SEQUENCES - 70_000, b"of long ago")) == []
    assert dropped == {AHEAD: 4, DUPLICATE: 3}
    silent = 1.0 + HOME_SECONDS
    assert admitted("other", carried(5, b"g"), silent) == [b"g"]
    assert admitted("home", carried(5, b"g", b"h"), silent) == [b"h"]


def test_a_link_that_brings_ever_new_streams_has_nothing_of_others_forgotten() -> None:
    """Neither what has come of them, nor which link is the one to their site."""
    site = site_with(home=9, other=10)
    dropped: Counter[str] = Counter()
    assert site.admitted(carried(1, b"a"), "home", dropped, 1.0) == [carried(1, b"a")]
    for number in range(2 * STREAMS_MAX):
        made_up = CarriedRun(CarriedStream(100 + number, 1, SENDER, 1, GROUP, 2), 0, 8, 9, [b"x"])
        assert site.admitted(made_up, "other", dropped, 1.0) == [made_up]
    assert len(site._seen) == len(site._origins) == STREAMS_MAX + 1
    site.links["other"].end.peer_origin = 9
    assert site.admitted(carried(2, b"false"), "other", dropped, 1.0) == []
    assert site.admitted(carried(1, b"a"), "other", dropped, 1.0) == []
    assert dropped == {AHEAD: 1, DUPLICATE: 1}
    for name in ("other", "home", "nobody"):
        site.forget_link(name)
    assert not site._seen
    assert not site._origins
    assert not site._brought


def test_of_its_own_streams_a_link_has_those_known_that_it_brought_last() -> None:
    site, dropped = site_with(one=None), Counter[str]()
    for number in range(STREAMS_MAX):
        site.admitted(carried(5, b"x", number=number), "one", dropped, 1.0)
    site.admitted(carried(6, b"x", number=0), "one", dropped, 1.0)
    site.admitted(carried(5, b"x", number=STREAMS_MAX), "one", dropped, 1.0)
    assert site.admitted(carried(6, b"x", number=0), "one", dropped, 1.0) == []
    again = carried(5, b"x", number=1)
    assert site.admitted(again, "one", dropped, 1.0) == [again], "it is not known any more"
    assert dropped == {DUPLICATE: 1}


def test_two_links_to_one_site_both_bring_what_it_sends() -> None:
    site, dropped = site_with(one=9, two=9), Counter[str]()
    for came_by, run in (("one", carried(1, b"a")), ("two", carried(2, b"b")), ("one", carried(3, b"c"))):
        assert site.admitted(run, came_by, dropped, 1.0) == [run]
    assert site.admitted(carried(2, b"b"), "one", dropped, 1.0) == []
    assert dropped == {DUPLICATE: 1}


@pytest.mark.parametrize(
    ("wanted", "sends", "expected"),
    [
        ("239.1.2.3/32", "239.0.0.0/8", "239.1.2.3/32"),
        ("224.0.0.0/4", "239.1.0.0/16", "239.1.0.0/16"),
        ("239.1.2.3/32", "239.2.0.0/16", None),
        ("ff3e::1/128", "239.0.0.0/8", None),
        ("224.0.0.251/32", "224.0.0.0/4", None),
        ("ff05::/16", "ff00::/8", "ff05::/16"),
    ],
)
def test_what_a_peer_may_have_bounds_what_it_wants(wanted: str, sends: str, expected: str | None) -> None:
    site = sites(2, [(1, 2)])
    (name,) = site[0].site.links
    site[0].site.links[name].send = (ip_network(sends),)
    site[1].want(GroupWant(ip_network(wanted), ANY_SOURCE, 0))
    site[0].wire.run(1)
    found: list[Prefix] = [want.groups for want in site[0].site.wanted_here([name])]
    assert found == ([] if expected is None else [ip_network(expected)])


def test_of_the_wants_of_several_peers_each_has_its_turn() -> None:
    """So that one that wants very much leaves room for what the others want."""
    site = site_with(one=None, two=None, resting=None)
    names = {"one": ("239.1.0.1", "239.1.0.2", "239.1.0.3"), "two": ("239.2.0.1",), "resting": ("239.3.0.1",)}
    for name, groups in names.items():
        wanted = [GroupWant(ip_network(group), ANY_SOURCE, 0) for group in groups]
        site.links[name].end.peer_wants = SimpleNamespace(wants=wanted)
    site.links["resting"].rests = True
    order = ["239.1.0.1", "239.2.0.1", "239.1.0.2", "239.1.0.3"]
    assert [str(want.groups.network_address) for want in site.wanted_here(names)] == order


def test_wants_of_several_are_one() -> None:
    other = ip_address("10.1.0.10")
    hub, *others = sites(4, [(2, 1), (3, 1), (4, 1)], transit=True)
    for site, source, distance in zip(others, (SENDER, other, other), (0, 3, DISTANCE_MAX), strict=True):
        site.want(WANT._replace(sources=SourceFilter(False, (source,)), distance=distance))
    hub.wire.run(3)
    hub.own = [WANT._replace(sources=SourceFilter(False, (ip_address("10.9.9.9"),)))]
    found = {name: hub.site.wanted_of(name, hub.own) for name in hub.site.links}
    for name, sources, distance in (
        ("to-2-0", {"10.9.9.9", "10.1.0.10"}, 0),
        ("to-3-1", {"10.9.9.9", "10.1.0.9"}, 0),
        ("to-4-2", {"10.9.9.9", "10.1.0.9", "10.1.0.10"}, 0),
    ):
        (want,) = found[name]
        assert {*map(str, want.sources.sources)} == sources
        assert want.distance == distance
    assert [want.distance for want in hub.site.wanted_of("to-4-2", [])] == [1]
