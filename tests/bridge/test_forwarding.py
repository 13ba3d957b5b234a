"""What goes from where to where: by table, and beside a plain account of the same datagrams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcastd.bridge.forwarding import IDLE_SECONDS, MOVED_SECONDS, TRIED_MAX, Forwarding, RouteChange
from mcastd.bridge.rules import (
    FORWARDED,
    NO_INTERFACE,
    SENDER_ELSEWHERE,
    UNWANTED,
    WRONG_INTERFACE,
    Rule,
    decide,
)
from mcastd.counters import BridgeCounters
from mcastd.ip import LINK_LOCAL, Address
from mcastd.net.routing import RouteCount

LEFT, RIGHT, UP, DOWN = 3, 5, 8, 13
SOURCE, OTHER_SOURCE = ip_address("10.1.0.2"), ip_address("10.7.0.3")
NEWS, FILMS, LOCAL = ip_address("239.1.1.1"), ip_address("239.2.0.9"), ip_address("224.0.0.251")
BYTES = 1344


def rule(
    came_by: set[int],
    to: Mapping[int, int],
    *groups: str,
    sources: tuple[str, ...] = (),
    joined: bool = False,
) -> Rule:
    return Rule(
        frozenset(came_by),
        to,
        tuple(map(ip_network, groups)),
        tuple(map(ip_network, sources)),
        joined,
    )


class Kernel:
    """Routes datagrams as the kernel does, by what it was told."""

    def __init__(self, *, tells: bool = True, home: int = 0, **options: int) -> None:
        self.way_back = 0  # to all senders
        self.home = home  # all senders are on its network, if it is not 0
        self.tells = tells  # of what comes by another interface than its route says
        self.routes: dict[tuple[Address, Address], tuple[int, dict[int, int]]] = {}
        self.counts: dict[tuple[Address, Address], RouteCount] = {}
        self.members: set[tuple[int, Address, Address]] = set()
        self.forwarding = Forwarding(
            lambda source, group: self.counts.get((source, group)),
            lambda *one: one in self.members,
            lambda came_by, _: self.home in (0, came_by),
            lambda _: self.way_back,
            **options,
        )
        self.asked = 0

    def apply(self, changes: list[RouteChange]) -> None:
        for change in changes:
            key = change.source, change.group
            if change.to is None:
                del self.routes[key], self.counts[key]
            else:
                self.routes[key] = change.came_by, dict(change.to)
                self.counts.setdefault(key, RouteCount(0, 0, 0))

    def send(self, came_by: int, source: Address, group: Address, now: float) -> set[int]:
        """Returns the interfaces that it goes to."""
        key = source, group
        if key not in self.routes:
            self.asked += 1
            self.apply(self.forwarding.arrived(came_by, source, group, now))
        from_there, to = self.routes[key]
        packets, size, wrong = (getattr(self.counts[key], name) for name in RouteCount.__slots__)
        if from_there != came_by:
            self.counts[key] = RouteCount(packets, size + BYTES, wrong + 1)
            if self.tells:
                self.apply(self.forwarding.came_elsewhere(came_by, source, group, now))
            return set()
        self.counts[key] = RouteCount(packets + 1, size + BYTES, wrong)
        return set(to)

    def look(self, now: float) -> None:
        self.apply(self.forwarding.look(now))


RULES = {
    "tv": rule({LEFT}, {RIGHT: 5, DOWN: 1}, "239.1.0.0/16"),
    "also": rule({LEFT, UP}, {RIGHT: 3}, "239.1.1.0/24", "239.2.0.0/16", sources=("10.1.0.0/24",)),
    "wanted": rule({UP}, {DOWN: 1, RIGHT: 1}, "224.0.0.0/4", joined=True),
    "nowhere": rule({DOWN}, {}, "239.1.1.1/32"),
    "both": rule({RIGHT, DOWN}, {RIGHT: 1, DOWN: 1}, "239.2.0.0/16"),
}
MEMBERS = {(DOWN, OTHER_SOURCE, NEWS), (RIGHT, SOURCE, FILMS)}


@pytest.mark.parametrize(
    ("came_by", "source", "group", "to", "bridges"),
    [
        (LEFT, SOURCE, NEWS, {RIGHT: 3, DOWN: 1}, {"tv": FORWARDED, "also": FORWARDED}),
        (LEFT, OTHER_SOURCE, NEWS, {RIGHT: 5, DOWN: 1}, {"tv": FORWARDED}),
        (LEFT, OTHER_SOURCE, FILMS, {}, {}),
        (UP, OTHER_SOURCE, NEWS, {DOWN: 1}, {"wanted": FORWARDED}),
        (UP, SOURCE, NEWS, {RIGHT: 3}, {"also": FORWARDED, "wanted": UNWANTED}),
        (UP, SOURCE, FILMS, {RIGHT: 1}, {"also": FORWARDED, "wanted": FORWARDED}),
        (UP, SOURCE, LOCAL, {}, {}),
        (DOWN, SOURCE, NEWS, {}, {"nowhere": NO_INTERFACE}),
        (DOWN, SOURCE, FILMS, {RIGHT: 1}, {"both": FORWARDED}),
        (RIGHT, SOURCE, FILMS, {DOWN: 1}, {"both": FORWARDED}),
        (99, SOURCE, NEWS, {}, {}),
    ],
)
def test_where_a_datagram_goes(
    came_by: int, source: Address, group: Address, to: dict[int, int], bridges: dict[str, str]
) -> None:
    course = decide(RULES, came_by, source, group, lambda *one: one in MEMBERS)
    assert (course.to, course.bridges) == (to, bridges)


def test_the_lowest_threshold_of_several_bridges_counts() -> None:
    for names in (["tv", "also"], ["also", "tv"]):
        rules = {name: RULES[name] for name in names}
        assert decide(rules, LEFT, SOURCE, NEWS, lambda *_: True).to == {RIGHT: 3, DOWN: 1}


def test_ipv6_goes_by_the_same_rules() -> None:
    rules = {"six": rule({LEFT}, {RIGHT: 1}, "ff15::/64", sources=("fd00:9::/64",))}
    source, group = ip_address("fd00:9::2"), ip_address("ff15::9:7")
    assert decide(rules, LEFT, source, group, lambda *_: False).to == {RIGHT: 1}
    assert not decide(rules, LEFT, ip_address("fd00:8::2"), group, lambda *_: False).bridges
    everything = {"six": rule({LEFT}, {RIGHT: 1}, "ff00::/8")}
    assert not decide(everything, LEFT, source, ip_address("ff02::fb"), lambda *_: False).bridges


@pytest.mark.parametrize(
    ("source", "group"),
    [
        ("169.254.3.7", NEWS),
        ("127.0.0.7", NEWS),
        ("0.0.0.0", NEWS),
        ("239.3.0.7", NEWS),
        ("fe80::3:7", ip_address("ff15::9:7")),
        ("::1", ip_address("ff15::9:7")),
        ("::", ip_address("ff15::9:7")),
        ("ff15::3:7", ip_address("ff15::9:7")),
    ],
)
def test_no_source_of_a_link_or_of_no_host_goes_on(source: str, group: Address) -> None:
    """RFC 3927 section 7, RFC 4291 sections 2.5 and 2.7. Of what nobody wants, that is the reason."""
    wanted = rule({LEFT}, {RIGHT: 1}, str(group), joined=True)
    rules = {"always": replace(wanted, joined=False), "joined": wanted, "nowhere": replace(wanted, to={})}
    course = decide(rules, LEFT, ip_address(source), group, lambda *_: False)
    bridges = {"always": LINK_LOCAL, "joined": UNWANTED, "nowhere": NO_INTERFACE}
    assert (course.to, course.bridges) == ({}, bridges)
    kernel = Kernel(home=UP)  # that it would be a copy is not the reason, either
    kernel.forwarding.counters["always"] = BridgeCounters()
    kernel.apply(kernel.forwarding.set_rules({"always": rules["always"]}, 0.0))
    for now in range(1, 4):
        assert kernel.send(LEFT, ip_address(source), group, now) == set()
        kernel.look(now + 0.5)
    counters = kernel.forwarding.counters["always"]
    assert (counters.received, counters.dropped) == (3, {LINK_LOCAL: 3})
    assert kernel.asked == 1


def test_what_a_run_before_forwarded_of_a_link_goes_no_further() -> None:
    source = ip_address("169.254.3.7")
    kernel = Kernel()
    kernel.routes[source, NEWS], kernel.counts[source, NEWS] = (LEFT, {RIGHT: 5}), RouteCount(0, 0, 0)
    kernel.forwarding.adopt(source, NEWS, LEFT, {RIGHT: 5}, 0.0)
    kernel.apply(kernel.forwarding.set_rules(RULES, 1.0))
    assert kernel.send(LEFT, source, NEWS, 2.0) == {RIGHT}
    kernel.forwarding.release()
    kernel.apply(kernel.forwarding.set_rules(RULES, 3.0))
    assert kernel.send(LEFT, source, NEWS, 4.0) == set()


def test_what_no_rule_takes_is_asked_for_once() -> None:
    kernel = Kernel()
    for now in range(3):
        assert kernel.send(LEFT, SOURCE, NEWS, now) == set()
    assert (kernel.asked, kernel.routes) == (1, {(SOURCE, NEWS): (LEFT, {})})


def test_other_rules_and_members_change_the_routes_that_there_are() -> None:
    kernel = Kernel()
    forwarding = kernel.forwarding
    counters = forwarding.counters["tv"] = BridgeCounters()
    kernel.apply(forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16", joined=True)}, 0))
    assert kernel.send(LEFT, SOURCE, NEWS, 1) == set()
    kernel.members.add((RIGHT, SOURCE, NEWS))
    assert kernel.send(LEFT, SOURCE, NEWS, 2) == set()
    kernel.apply(forwarding.members_changed({NEWS}, 3))
    assert kernel.send(LEFT, SOURCE, NEWS, 4) == {RIGHT}
    kernel.apply(forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1, DOWN: 1}, "239.1.0.0/16")}, 5))
    assert kernel.send(LEFT, SOURCE, NEWS, 6) == {RIGHT, DOWN}
    kernel.apply(forwarding.set_rules({"tv": rule({LEFT}, {DOWN: 1}, "239.1.0.0/16")}, 7))
    assert kernel.send(LEFT, SOURCE, NEWS, 8) == {DOWN}
    kernel.look(9)
    assert (counters.received, counters.forwarded, counters.dropped) == (5, 3, {UNWANTED: 2})
    assert (counters.received_bytes, counters.forwarded_bytes) == (5 * BYTES, 3 * BYTES)
    assert kernel.asked == 1


def test_a_route_from_an_interface_that_takes_part_no_more_is_removed() -> None:
    """The kernel may give its number to another one."""
    kernel = Kernel()
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, UP}, {RIGHT: 1}, "239.0.0.0/8")}, 0))
    counters = kernel.forwarding.counters["tv"] = BridgeCounters()
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.send(UP, SOURCE, FILMS, 1)
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({UP}, {RIGHT: 1}, "239.0.0.0/8")}, 2))
    assert set(kernel.routes) == {(SOURCE, FILMS)}
    assert counters.forwarded == 1, "what had gone by it was counted"


def test_a_route_without_datagrams_is_removed_and_comes_back() -> None:
    kernel = Kernel()
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.send(LEFT, OTHER_SOURCE, NEWS, 1)
    kernel.look(2)
    kernel.send(LEFT, SOURCE, NEWS, 200)
    kernel.look(201)
    kernel.look(2 + IDLE_SECONDS)
    assert set(kernel.routes) == {(SOURCE, NEWS)}
    assert kernel.send(LEFT, OTHER_SOURCE, NEWS, 400) == {RIGHT}


def test_a_route_of_which_all_is_said_is_there_before_the_first_datagram_and_stays() -> None:
    kernel = Kernel()
    forwarding = kernel.forwarding
    named = rule({LEFT}, {RIGHT: 1}, "239.1.1.1/32", "239.2.0.0/16", sources=("10.1.0.2/32", "10.7.0.0/16"))
    kernel.apply(forwarding.set_rules({"tv": named}, 0))
    assert kernel.routes == {(SOURCE, NEWS): (LEFT, {RIGHT: 1})}
    kernel.look(2 * IDLE_SECONDS)
    assert kernel.send(LEFT, SOURCE, NEWS, 601) == {RIGHT}
    assert kernel.asked == 0
    kernel.apply(forwarding.set_rules({"tv": replace(named, came_by=frozenset({UP}))}, 602))
    assert kernel.routes == {(SOURCE, NEWS): (UP, {RIGHT: 1})}
    kernel.apply(forwarding.set_rules({"tv": replace(named, joined=True)}, 603))
    kernel.look(603 + IDLE_SECONDS)
    assert kernel.routes == {}


@pytest.mark.parametrize("tells", [True, False])
def test_a_source_that_moves_gets_another_route(tells: bool) -> None:
    kernel = Kernel(tells=tells)
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, UP}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    counters = kernel.forwarding.counters["tv"] = BridgeCounters()
    assert kernel.send(LEFT, SOURCE, NEWS, 1) == {RIGHT}
    assert kernel.send(UP, SOURCE, NEWS, 1) == set(), "the same by two ways goes on once"
    kernel.look(2)
    assert kernel.routes[SOURCE, NEWS][0] == LEFT
    assert kernel.send(UP, SOURCE, NEWS, 3) == set()
    kernel.look(4)
    assert kernel.send(UP, SOURCE, NEWS, 5) == {RIGHT}
    kernel.look(6)
    assert (counters.received, counters.forwarded, counters.dropped) == (4, 2, {WRONG_INTERFACE: 2})
    assert (counters.received_bytes, counters.forwarded_bytes) == (4 * BYTES, 2 * BYTES)


@pytest.mark.parametrize("members_change", [False, True])
def test_what_is_counted_between_two_looks_is_part_of_the_next(members_change: bool) -> None:
    """As when members change: of a stream, and of a report that was counted before it was heard."""
    kernel = Kernel()
    kernel.apply(kernel.forwarding.set_rules({"wanted": RULES["wanted"]}, 100.0))
    kernel.send(UP, SOURCE, FILMS, 100.0)
    (route,) = kernel.forwarding.routes()

    def look(now: float) -> tuple[int, bool]:
        if members_change:
            kernel.members ^= {(DOWN, SOURCE, FILMS)}
            kernel.apply(kernel.forwarding.members_changed({FILMS}, now - 0.1))
        kernel.look(now)
        return route.fresh, route.streams

    assert look(101.0) == (1, False)
    kernel.forwarding.heard(SOURCE, FILMS)
    assert look(102.0) == (-1, False)
    for now, streams in ((103.0, False), (104.0, True), (105.0, True)):
        kernel.send(UP, SOURCE, FILMS, now - 0.5)
        kernel.send(UP, SOURCE, FILMS, now - 0.2)
        assert look(now) == (2, streams)
    assert look(106.0) == (0, True)
    assert look(107.0) == (0, False)
    kernel.send(UP, SOURCE, FILMS, 107.3)  # a report, which is heard after it was accounted
    if members_change:
        kernel.members ^= {(DOWN, SOURCE, FILMS)}
        kernel.apply(kernel.forwarding.members_changed({FILMS}, 107.4))
    kernel.forwarding.heard(SOURCE, FILMS)
    assert look(108.0) == (0, False)


def test_a_route_that_was_taken_over_is_a_stream_once_more_comes() -> None:
    """What the kernel has counted may have been reports of members alone."""
    kernel = Kernel()
    kernel.apply([RouteChange(SOURCE, NEWS, LEFT, {DOWN: 1})])
    kernel.counts[SOURCE, NEWS] = RouteCount(7, 7 * BYTES, 0)
    kernel.forwarding.adopt(SOURCE, NEWS, LEFT, {DOWN: 1}, 100.0)
    (route,) = kernel.forwarding.routes()
    assert not route.is_stream
    kernel.send(LEFT, SOURCE, NEWS, 101.0)
    kernel.look(101.0)
    assert (route.is_stream, route.packets) == (True, 1)


def test_a_source_that_was_seen_first_where_nothing_is_taken() -> None:
    """A route to nowhere does not hold it when the kernel tells that it comes by another interface."""
    kernel = Kernel()
    forwarding = kernel.forwarding
    counters = forwarding.counters["tv"] = BridgeCounters()
    kernel.apply(forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    kernel.send(RIGHT, SOURCE, NEWS, 1)
    assert forwarding.came_elsewhere(LEFT, SOURCE, FILMS, 2) == []
    assert forwarding.came_elsewhere(RIGHT, SOURCE, NEWS, 2) == []
    kernel.send(LEFT, SOURCE, NEWS, 2)
    assert kernel.send(LEFT, SOURCE, NEWS, 3) == {RIGHT}
    for now in (4, 5, 6):
        assert kernel.send(RIGHT, SOURCE, NEWS, now) == set()
        kernel.look(now)
    assert kernel.send(LEFT, SOURCE, NEWS, 7) == {RIGHT}, "a pause does not give its route to others"
    kernel.look(8)
    assert (counters.received, counters.received_bytes) == (2, 2 * BYTES)


def test_what_another_router_has_brought_is_taken_where_its_sender_is_alone() -> None:
    """Two hosts side by side with the same bridge, or one there and one back: it would go round and round."""
    kernel = Kernel(home=LEFT)
    both = {LEFT: 1, RIGHT: 1, DOWN: 1}
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, RIGHT}, both, "239.1.0.0/16")}, 0))
    counters = kernel.forwarding.counters["tv"] = BridgeCounters()
    assert kernel.send(RIGHT, SOURCE, NEWS, 1) == set()
    kernel.send(LEFT, SOURCE, NEWS, 1)
    assert kernel.send(LEFT, SOURCE, NEWS, 1) == {RIGHT, DOWN}
    for now in (5, 6, 7):
        assert kernel.send(RIGHT, SOURCE, NEWS, now) == set()
        kernel.look(now)
    assert kernel.routes[SOURCE, NEWS][0] == LEFT
    assert counters.dropped == {SENDER_ELSEWHERE: 1, WRONG_INTERFACE: 4}
    kernel.home = 0  # its carrier is lost
    kernel.send(RIGHT, SOURCE, NEWS, 8)
    kernel.look(8)
    assert kernel.send(RIGHT, SOURCE, NEWS, 9) == {LEFT, DOWN}
    kernel.home = LEFT
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, RIGHT}, both, "239.1.0.0/16")}, 10))
    assert kernel.send(RIGHT, SOURCE, NEWS, 11) == set()
    kernel.send(LEFT, SOURCE, NEWS, 12)
    assert kernel.send(LEFT, SOURCE, NEWS, 12) == {RIGHT, DOWN}


def test_what_comes_nowhere_else_is_taken_whatever_the_address_of_its_sender() -> None:
    """Networks may have the same addresses, as those of two homes."""
    kernel = Kernel(home=UP)
    rules = {"tv": rule({LEFT}, {RIGHT: 1, UP: 1}, "239.1.0.0/16")}
    kernel.apply(kernel.forwarding.set_rules(rules, 0))
    counters = kernel.forwarding.counters["tv"] = BridgeCounters()
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.look(1 + MOVED_SECONDS / 2)
    assert kernel.send(LEFT, SOURCE, NEWS, 2) == set()
    kernel.look(2)
    assert counters.dropped == {SENDER_ELSEWHERE: 2}
    assert kernel.send(LEFT, SOURCE, NEWS, 3) == {RIGHT, UP}
    kernel.apply(kernel.forwarding.set_rules(rules, 4))
    assert kernel.send(LEFT, SOURCE, NEWS, 4) == {RIGHT, UP}
    kernel.send(UP, SOURCE, NEWS, 5)  # there it is: what came was a copy
    for now in (6, 8, 10):
        assert kernel.send(LEFT, SOURCE, NEWS, now) == set()
        kernel.look(now)


@pytest.mark.parametrize("way_back", [LEFT, RIGHT, UP])
def test_what_goes_in_a_circle_is_taken_where_the_way_leads_back_to_its_sender(way_back: int) -> None:
    """Two hosts forward it, one there and one back: what is heard first may be the copy."""
    kernel = Kernel()
    kernel.way_back = way_back
    sides = {LEFT: 1, RIGHT: 1}
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, RIGHT, UP}, sides, "239.1.0.0/16")}, 0))
    assert kernel.send(RIGHT, SOURCE, NEWS, 1) == {LEFT}
    for came_by in (UP, LEFT):
        kernel.send(came_by, SOURCE, NEWS, 1)
    assert kernel.routes[SOURCE, NEWS] == ((LEFT, {RIGHT: 1}) if way_back == LEFT else (RIGHT, {LEFT: 1}))
    kernel.look(2)
    assert kernel.send(LEFT, SOURCE, NEWS, 3) == ({RIGHT} if way_back == LEFT else set())


def test_what_comes_elsewhere_no_more_is_no_place_to_move_to() -> None:
    kernel = Kernel()
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT, UP}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.send(UP, SOURCE, NEWS, 1)
    kernel.look(2)
    kernel.send(RIGHT, SOURCE, NEWS, 7)
    kernel.look(8)
    assert kernel.routes[SOURCE, NEWS] == (LEFT, {RIGHT: 1})


def test_a_route_that_was_taken_over_is_not_moved_before_the_rules_are_known() -> None:
    kernel = Kernel()
    kernel.routes[SOURCE, NEWS] = LEFT, {RIGHT: 1}
    kernel.counts[SOURCE, NEWS] = RouteCount(7, 7 * BYTES, 0)
    kernel.forwarding.adopt(SOURCE, NEWS, LEFT, {RIGHT: 1}, 0)
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({UP}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    assert kernel.send(UP, SOURCE, NEWS, 1) == set()
    kernel.look(9)
    assert kernel.routes[SOURCE, NEWS] == (LEFT, {RIGHT: 1})


def test_a_route_that_was_taken_over_and_lost_goes_by_the_rules() -> None:
    kernel = Kernel()
    kernel.routes[SOURCE, NEWS] = LEFT, {RIGHT: 1}
    kernel.counts[SOURCE, NEWS] = RouteCount(7, 7 * BYTES, 0)
    kernel.forwarding.adopt(SOURCE, NEWS, LEFT, {RIGHT: 1}, 0)
    kernel.routes.clear()
    kernel.counts.clear()
    kernel.look(1)
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16")}, 2))
    assert kernel.send(LEFT, SOURCE, NEWS, 3) == {RIGHT}
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT}, {DOWN: 1}, "239.1.0.0/16")}, 4))
    assert kernel.send(LEFT, SOURCE, NEWS, 5) == {DOWN}


def test_one_route_too_many_takes_the_place_of_the_one_that_was_in_use_longest_ago() -> None:
    kernel = Kernel(routes_max=2)
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.send(LEFT, SOURCE, FILMS, 2)
    kernel.look(3)
    kernel.send(LEFT, SOURCE, NEWS, 4)
    kernel.look(5)
    kernel.send(LEFT, OTHER_SOURCE, NEWS, 6)
    assert set(kernel.routes) == {(SOURCE, NEWS), (OTHER_SOURCE, NEWS)}
    assert (kernel.forwarding.evicted_at, len(kernel.forwarding)) == (6, 2)


def test_a_flood_of_senders_takes_no_route_that_is_in_use() -> None:
    """However many come between two looks."""
    kernel = Kernel(routes_max=3)
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    counters = kernel.forwarding.counters["tv"] = BridgeCounters()
    kernel.send(LEFT, SOURCE, NEWS, 1)
    for number in range(100):
        kernel.send(LEFT, SOURCE, NEWS, 2)
        kernel.send(LEFT, ip_address("10.66.0.0") + number, NEWS, 2)
    assert kernel.asked == 101
    kernel.look(3)
    assert (counters.received, counters.forwarded) == (201, 201)


def test_of_routes_that_are_all_in_use_one_makes_room() -> None:
    kernel = Kernel(routes_max=2)
    for source in (SOURCE, OTHER_SOURCE, SOURCE, OTHER_SOURCE):
        kernel.send(LEFT, source, NEWS, 1)
    for number in range(2 * TRIED_MAX):
        kernel.send(LEFT, ip_address("10.66.0.0") + number, NEWS, 2)
        assert len(kernel.forwarding) == 2


def test_a_route_that_the_kernel_has_lost_or_not_taken_is_made_anew() -> None:
    kernel = Kernel()
    kernel.apply(kernel.forwarding.set_rules({"tv": rule({LEFT}, {RIGHT: 1}, "239.1.0.0/16")}, 0))
    kernel.send(LEFT, SOURCE, NEWS, 1)
    kernel.routes.clear()
    kernel.counts.clear()
    assert kernel.send(LEFT, SOURCE, NEWS, 2) == {RIGHT}
    kernel.routes.clear()
    kernel.counts.clear()
    kernel.look(3)
    assert len(kernel.forwarding) == 0
    kernel.send(LEFT, SOURCE, NEWS, 4)
    kernel.forwarding.forget(SOURCE, NEWS)
    kernel.forwarding.forget(SOURCE, NEWS)
    assert len(kernel.forwarding) == 0


# -- beside a plain account

INTERFACES = [LEFT, RIGHT, UP]
SOURCES = [SOURCE, OTHER_SOURCE]
GROUPS = [NEWS, FILMS, LOCAL]
HOME = {SOURCE: LEFT, OTHER_SOURCE: UP}
rules = st.builds(
    rule,
    st.sets(st.sampled_from(INTERFACES), min_size=1),
    st.dictionaries(st.sampled_from(INTERFACES), st.integers(1, 3)),
    st.sampled_from(["239.1.0.0/16", "239.0.0.0/8", "224.0.0.0/4"]),
    sources=st.sampled_from([(), ("10.1.0.0/24",)]),
    joined=st.booleans(),
)
steps = st.one_of(
    st.tuples(st.just("rules"), st.dictionaries(st.sampled_from("abc"), rules)),
    st.tuples(
        st.just("member"),
        st.tuples(st.sampled_from(INTERFACES), st.sampled_from(SOURCES), st.sampled_from(GROUPS)),
    ),
    st.tuples(st.just("send"), st.tuples(st.sampled_from(SOURCES), st.sampled_from(GROUPS))),
    st.tuples(st.just("look"), st.sampled_from([1.0, IDLE_SECONDS])),
)


@given(st.lists(steps, max_size=40))
def test_each_datagram_goes_where_the_rules_of_that_moment_say(script: list[tuple[str, object]]) -> None:
    kernel = Kernel(routes_max=3)
    forwarding = kernel.forwarding
    counters = {name: BridgeCounters() for name in "abc"}
    forwarding.counters = dict(counters)
    current: dict[str, Rule] = {}
    plain = {name: Counter[str]() for name in "abc"}
    now = 0.0
    for kind, what in script:
        now += 0.1
        if kind == "rules":
            assert isinstance(what, dict)
            current = what
            kernel.apply(forwarding.set_rules(current, now))
        elif kind == "member":
            kernel.members ^= {what}  # type: ignore[arg-type]
            assert isinstance(what, tuple)
            kernel.apply(forwarding.members_changed({what[2]}, now))
        elif kind == "look":
            assert isinstance(what, float)
            now += what
            kernel.look(now)
        else:
            assert isinstance(what, tuple)
            source, group = what
            went: set[int] = set()
            for name, one in current.items():
                prefix = one.groups[0]
                if HOME[source] not in one.came_by or group not in prefix or group == LOCAL:
                    continue
                if one.sources and source != SOURCE:
                    continue
                others = [i for i in one.to if i != HOME[source]]
                to = [i for i in others if not one.joined or (i, source, group) in kernel.members]
                went.update(to)
                plain[name][FORWARDED if to else UNWANTED if others else NO_INTERFACE] += 1
            assert kernel.send(HOME[source], source, group, now) == went
    kernel.look(now)
    for name, of_bridge in counters.items():
        expected = plain[name]
        assert of_bridge.forwarded == expected.pop(FORWARDED, 0)
        assert of_bridge.dropped == expected
        assert of_bridge.received == of_bridge.forwarded + sum(of_bridge.dropped.values())
