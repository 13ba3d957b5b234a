"""Which routes the kernel is to have, by the rules of all bridges. Pure.

The kernel has one route for a source and a group, whoever wants it: so the rules of all bridges are looked
at together. A datagram that no rule takes gets a route as well, to nowhere: without it the kernel would hold
each one, and ask again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from mcastd.bridge.rules import FORWARDED, SENDER_ELSEWHERE, WRONG_INTERFACE, Course, Rule, Wants, decide
from mcastd.counters import BridgeCounters
from mcastd.ip import Address
from mcastd.net.routing import RouteCount

# Returns False if what comes by an interface, by its index, is a copy of what its source sent on another.
MayComeBy = Callable[[int, Address], bool]
# Returns the interface, by its index, by which this host's route to a source leads out; 0: none.
WayBack = Callable[[Address], int]

# Routes of one family at most. One more takes the place of one that was not in use for long.
ROUTES_MAX = 65_536
# How many of those that were looked at longest ago are asked for, to find one that was not in use since.
TRIED_MAX = 16
# How long it is told that routes made room for others.
CROWDED_SECONDS = 60.0
# A route is removed when nothing has come by it for so long: what is wanted still gets another one at once.
IDLE_SECONDS = 300.0
# After this long without a datagram by its interface, a route goes over to another one by which they come.
MOVED_SECONDS = 1.0
# What comes by another interface is told of each 3 s at most: MFC_ASSERT_THRESH in linux/mroute_base.h.
TOLD_SECONDS = 4.0
# So many times in a row, it has come by an interface that it is sent to for long enough to be told of.
DOUBLED_MIN = 3
DOUBLED_MAX = 1000  # that are told of


@dataclass(frozen=True, slots=True)
class RouteChange:
    """A route that the kernel is to have. ``to`` is as in Course; None: it is to have none."""

    source: Address
    group: Address
    came_by: int
    to: Mapping[int, int] | None


@dataclass(slots=True)
class BridgedRoute:
    """A route that the kernel has."""

    source: Address
    group: Address
    came_by: int
    course: Course
    since: float  # monotonic seconds
    last: float  # the same, when datagrams of it were seen last
    count: RouteCount = field(default_factory=lambda: RouteCount(0, 0, 0))
    # Messages of IGMP among its packets, and those that were heard since the count was looked at last
    messages: int = 0
    heard: int = 0
    looked: int = 0  # packets without messages at the last look
    # How many more these were than at the look before. Below 0: messages were counted before they were heard.
    fresh: int = 0
    streams: bool = False  # some of what had come by the look before the last were no messages
    alone: bool = False  # it comes by no other interface, though its sender seems to be on another network
    elsewhere: int = 0  # another interface by which some came, and when the kernel said so
    elsewhere_at: float = -math.inf
    # How often in a row the kernel said that it comes by an interface that it is sent to, and which it was
    doubled: int = 0
    doubled_by: int = 0
    doubled_at: float = -math.inf

    @property
    def packets(self) -> int:
        """Those that are no messages of IGMP."""
        return max(0, self.count.packets - self.messages)

    @property
    def is_stream(self) -> bool:
        """Return False if nothing has gone by it but messages of IGMP."""
        return self.packets > 0 or not self.messages + self.heard


class Forwarding:
    """The routes of one family: what the kernel has, as far as what is returned here was done.

    ``count`` says what has gone by a route so far; None: the kernel has none. ``counters`` are those of the
    bridges, by name.
    """

    def __init__(
        self,
        count: Callable[[Address, Address], RouteCount | None],
        wants: Wants = lambda *_: True,
        may_come_by: MayComeBy = lambda *_: True,
        way_back: WayBack = lambda _: 0,
        *,
        routes_max: int = ROUTES_MAX,
    ) -> None:
        self.counters: dict[str, BridgeCounters] = {}
        self.last: dict[str, float] = {}  # monotonic seconds when something came last, by bridge
        self.evicted_at = -math.inf  # when a route made room for another one
        self._count = count
        self._wants = wants
        self._may_come_by = may_come_by
        self._way_back = way_back
        self._routes_max = routes_max
        self.doubled: dict[tuple[Address, Address], BridgedRoute] = {}  # that come where they are sent to
        self._rules: dict[str, Rule] = {}
        self._lasting: dict[tuple[Address, Address], int] = {}  # routes that stay, and from where
        self._adopted: set[tuple[Address, Address]] = set()  # routes that stay as they are, for now
        self._routes: dict[tuple[Address, Address], BridgedRoute] = {}  # in the order of their last use
        self._of_group: dict[Address, dict[tuple[Address, Address], BridgedRoute]] = {}

    def __repr__(self) -> str:
        return f"<Forwarding {len(self._routes)} routes of {len(self._rules)} bridges>"

    def __len__(self) -> int:
        return len(self._routes)

    def routes(self) -> Iterable[BridgedRoute]:
        """All routes, the one that was in use last at the end."""
        return self._routes.values()

    def set_rules(self, rules: Mapping[str, Rule], now: float) -> list[RouteChange]:
        """Go over to other rules. A route from an interface that takes part no more is removed.

        Routes of which all is said by a rule are made now: so their first datagram waits for nothing.
        """
        self._rules = dict(rules)
        taking_part = {ifindex for rule in rules.values() for ifindex in rule.interfaces}
        gone = [
            route
            for key, route in self._routes.items()
            if route.came_by not in taking_part and key not in self._adopted
        ]
        changes = [self._remove(route, now) for route in gone] + self._renew(self._routes.values(), now)
        self._lasting = {key: came_by for rule in rules.values() for key, came_by in rule.lasting()}
        for key, came_by in self._lasting.items():
            route = self._routes.get(key)
            if (route is None or route.came_by != came_by) and key not in self._adopted:
                changes += self.arrived(came_by, *key, now)
        return changes

    def adopt(self, source: Address, group: Address, came_by: int, to: Mapping[int, int], now: float) -> None:
        """Take over a route that the kernel has. It stays as it is until :meth:`release`, whatever the rules.

        What has gone by it is not counted again.
        """
        key = source, group
        route = BridgedRoute(source, group, came_by, Course(to, {}), now, now)
        route.count = self._count(source, group) or route.count
        route.messages = route.count.packets  # what came so far is no sign of a stream
        self._routes[key] = self._of_group.setdefault(group, {})[key] = route
        self._adopted.add(key)

    def release(self) -> None:
        """Let what was adopted go by the rules, from the next call of set_rules() on."""
        self._adopted.clear()

    def members_changed(self, groups: Iterable[Address], now: float) -> list[RouteChange]:
        """Go over to what members want of these groups by now."""
        found = (route for group in groups for route in self._of_group.get(group, {}).values())
        return self._renew(found, now)

    def heard(self, source: Address, group: Address) -> bool:
        """A message of IGMP came. Returns False if there is no route that it may have gone by.

        The kernel routes one to a group as a datagram of a stream, where this host is a member of the group.
        One that it did not route takes the place of a datagram in what is counted: that is rare, and of one.
        """
        if (route := self._routes.get((source, group))) is None:
            return False
        route.heard += 1
        return True

    def arrived(
        self, came_by: int, source: Address, group: Address, now: float, *, is_message: bool = False
    ) -> list[RouteChange]:
        """A datagram, or a message of IGMP, came for which the kernel has no route."""
        changes = []
        key = source, group
        if (before := self._routes.get(key)) is not None:
            self._forget(before)
        elif len(self._routes) >= self._routes_max:
            self.evicted_at = now
            changes.append(self._remove(self._least_used(now), now))
        course = self._decide(came_by, source, group)
        route = BridgedRoute(source, group, came_by, course, now, now, heard=int(is_message))
        self._routes[key] = route
        self._of_group.setdefault(group, {})[key] = route
        return [*changes, RouteChange(source, group, came_by, course.to)]

    def came_elsewhere(self, came_by: int, source: Address, group: Address, now: float) -> list[RouteChange]:
        """A datagram came by another interface than its route says: that may be where it is to come from.

        It is, if no bridge takes it where the route says: what came there was a copy, or of somebody else who
        has the sender's address. Or if the route leads there, and so does the way back to the sender: then it
        goes in a circle. Otherwise look() sees whether it comes there alone.
        """
        route = self._routes.get((source, group))
        if route is None or route.came_by == came_by or (source, group) in self._adopted:
            return []
        if came_by in route.course.to:
            route.doubled = route.doubled + 1 if now - route.doubled_at <= TOLD_SECONDS else 1
            route.doubled_by, route.doubled_at = came_by, now
            if len(self.doubled) < DOUBLED_MAX:
                self.doubled[source, group] = route
        if route.alone:
            route.alone = False
            changes = self._renew([route], now)
        else:
            changes = []
        takes = self._decide(came_by, source, group).is_taken
        if takes or now - route.elsewhere_at > TOLD_SECONDS:
            route.elsewhere, route.elsewhere_at = came_by, now
        if takes and (not route.course.is_taken or self._goes_round(route, came_by)):
            changes += self._move(route, now)
        return changes

    def look(self, now: float) -> list[RouteChange]:
        """Count what has gone by all routes, and remove those that are in use no more.

        What comes by another interface alone gets another route, from there.
        """
        changes, used = [], []
        self.doubled = {key: one for key, one in self.doubled.items() if now - one.doubled_at <= TOLD_SECONDS}
        for route in list(self._routes.values()):
            before = route.count
            if not self._account(route, now):
                self._forget(route)
                continue
            # What _renew() and others have accounted since the last look is in it, too
            packets = route.count.packets - route.messages
            fresh, route.looked = packets - route.looked, packets
            route.streams, route.fresh = route.fresh > max(0, -fresh), fresh
            if route.fresh > 0:
                used.append(route)
                changes += self._take_alone(route, now)
            key = route.source, route.group
            if route.fresh > 0 or self._lasting.get(key) == route.came_by:
                continue
            if route.count.wrong_interface != before.wrong_interface:
                if now - route.last >= MOVED_SECONDS and key not in self._adopted:
                    changes += self._move(route, now)
            elif now - route.last >= IDLE_SECONDS:
                changes.append(self._remove(route, now))
        for route in used:
            self._to_the_end(route)
        return changes

    def forget(self, source: Address, group: Address) -> None:
        """The kernel has not taken a route."""
        if (route := self._routes.get((source, group))) is not None:
            self._forget(route)

    def _goes_round(self, route: BridgedRoute, came_by: int) -> bool:
        return came_by in route.course.to and self._way_back(route.source) == came_by

    def _take_alone(self, route: BridgedRoute, now: float) -> list[RouteChange]:
        """Take what comes by no other interface, though its sender seems to be on the network of one.

        Networks may have the same addresses, as those of two homes.
        """
        is_copy = bool(route.course.bridges) and not route.course.is_taken
        if not is_copy or route.count.wrong_interface or now - route.since < MOVED_SECONDS:
            return []
        route.alone = True
        return self._renew([route], now)

    def _decide(self, came_by: int, source: Address, group: Address, *, alone: bool = False) -> Course:
        course = decide(self._rules, came_by, source, group, self._wants)
        if course.is_taken and not alone and not self._may_come_by(came_by, source):
            return Course({}, dict.fromkeys(course.bridges, SENDER_ELSEWHERE))
        return course

    def _renew(self, routes: Iterable[BridgedRoute], now: float) -> list[RouteChange]:
        changes = []
        for route in list(routes):
            if (route.source, route.group) in self._adopted:
                continue
            course = self._decide(route.came_by, route.source, route.group, alone=route.alone)
            if course == route.course:
                continue
            self._account(route, now)
            other = course.to != route.course.to
            route.course = course
            if other:
                changes.append(RouteChange(route.source, route.group, route.came_by, course.to))
        return changes

    def _least_used(self, now: float) -> BridgedRoute:
        """One that had nothing but its first datagram since it was looked at, among those of long ago."""
        for _ in range(TRIED_MAX):
            oldest = next(iter(self._routes.values()))
            before = oldest.packets
            self._account(oldest, now)
            if oldest.packets <= max(before, 1):
                return oldest
            self._to_the_end(oldest)
        return next(iter(self._routes.values()))

    def _to_the_end(self, route: BridgedRoute) -> None:
        key = route.source, route.group
        self._routes[key] = self._routes.pop(key)

    def _move(self, route: BridgedRoute, now: float) -> list[RouteChange]:
        """Have a route come from where its datagrams come by now, if a bridge takes them there.

        If the kernel has not said where that is, the next datagram does.
        """
        if now - route.elsewhere_at > TOLD_SECONDS:
            return [self._remove(route, now)]
        course = self._decide(route.elsewhere, route.source, route.group)
        if not course.is_taken:
            return []
        self._account(route, now)
        route.came_by, route.course = route.elsewhere, course
        return [RouteChange(route.source, route.group, route.came_by, course.to)]

    def _remove(self, route: BridgedRoute, now: float) -> RouteChange:
        self._account(route, now)
        self._forget(route)
        return RouteChange(route.source, route.group, route.came_by, None)

    def _forget(self, route: BridgedRoute) -> None:
        key = route.source, route.group
        self._adopted.discard(key)
        del self._routes[key]
        of_group = self._of_group[route.group]
        del of_group[key]
        if not of_group:
            del self._of_group[route.group]

    def _account(self, route: BridgedRoute, now: float) -> bool:
        """Count what has gone by a route since the last time. Returns False if the kernel has none."""
        if (count := self._count(route.source, route.group)) is None:
            return False
        packets = count.packets - route.count.packets
        size = count.bytes - route.count.bytes
        wrong = count.wrong_interface - route.count.wrong_interface
        # No more than what has come since the look before the last, without those that were heard meanwhile
        messages = min(route.heard, count.packets - route.messages - route.looked + max(0, route.fresh))
        route.count, route.heard = count, 0
        route.messages += messages
        if messages:
            size -= size * messages // (max(messages, packets) + wrong)
            packets = max(0, packets - messages)
        if packets:
            route.last = now
        if not packets and not wrong:
            return True
        size_here = size * packets // (packets + wrong)  # the kernel does not tell them apart
        for name, became in route.course.bridges.items():
            if (counters := self.counters.get(name)) is None:
                continue
            counters.received += packets
            counters.received_bytes += size_here
            if packets:
                self.last[name] = now
            if became == FORWARDED:
                counters.forwarded += packets
                counters.forwarded_bytes += size_here
            elif packets:
                counters.dropped[became] += packets
            rule = self._rules.get(name)
            if wrong and rule is not None and len(rule.came_by) > 1:
                # Of one bridge with several ways in: the kernel does not say by which of them
                counters.received += wrong
                counters.received_bytes += size - size_here
                counters.dropped[WRONG_INTERFACE] += wrong
        return True
