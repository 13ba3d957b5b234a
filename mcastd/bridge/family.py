"""The routing of one IP version: rules in, the kernel's table as they want it. For one thread at a time."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Collection, Iterable, Mapping

from mcastd import clock
from mcastd.bridge.forwarding import (
    CROWDED_SECONDS,
    DOUBLED_MIN,
    ROUTES_MAX,
    BridgedRoute,
    Forwarding,
    RouteChange,
    WayBack,
)
from mcastd.bridge.kept import KeptTables
from mcastd.bridge.members import Members
from mcastd.bridge.rules import Rule
from mcastd.bridge.upstream import changes, upstream
from mcastd.errors import CannotAskError, LinkError, first_told
from mcastd.ip import Address, Prefix, SourceFilter, named
from mcastd.net.interfaces import Host
from mcastd.net.joins import Joins, JoinsGroups
from mcastd.net.membership import Memberships
from mcastd.net.mroute import Heard
from mcastd.net.query_sender import QuerySender, SendsQueries
from mcastd.net.routes import route_to
from mcastd.net.routing import (
    INTERFACES_MAX,
    MulticastRouting,
    NoRoute,
    RoutingTable,
    Version,
    WrongInterface,
)

# Between two attempts to join what could not be joined.
RETRY_SECONDS = 5.0
# What one turn takes at most, but for its last message: what is left is served in the next one.
TURN_SECONDS = 0.005


class FamilyRoutes:
    """The kernel's table of one IP version, and the members that it is to serve, for all bridges by name."""

    def __init__(
        self,
        version: Version,
        table: MulticastRouting,
        sender: SendsQueries,
        joins: JoinsGroups,
        way_back: WayBack = lambda _: 0,
    ) -> None:
        self.version = version
        self.table = table
        self.members = Members(version, table, sender)
        self.forwarding = Forwarding(table.count, self.members.wants, self._may_come_by, way_back)
        self.rules: Mapping[str, Rule] = {}  # as they are set, whatever takes part
        # Interfaces that the kernel does not take, by index.
        self.refused: dict[int, LinkError] = {}
        # Why it has not taken the last route; None: it has.
        self.refusal: LinkError | None = None
        # Interfaces by which nothing has gone out, though datagrams came that are routed there.
        self.silent: frozenset[int] = frozenset()
        # What is joined where groups come from, and what could not be, and why.
        self.joined: dict[Address, dict[int, SourceFilter]] = {}
        self.unjoined: dict[tuple[int, Address], LinkError] = {}
        self._joins = joins
        self._adopting = False
        self._presumed: set[tuple[int, Address, Address]] = set()  # interface, source, group
        self._retry_at = math.inf
        self._host = Host({}, 0.0)
        self._active: dict[str, Rule] = {}  # the rules, as far as their interfaces take part
        self._networks: list[tuple[int, Prefix]] = []  # of interfaces that take part and have a carrier
        self._packets_out: dict[int, int] = {}  # by interface, at the last look
        self._quiet: frozenset[int] = frozenset()  # interfaces by which nothing had gone out at that look
        # Where each source and group was routed at that look
        self._led: dict[tuple[Address, Address], Mapping[int, int]] = {}
        # Of messages of IGMP in this turn for which there was no route, each source and group
        self._unrouted: set[tuple[Address, Address]] = set()

    def __repr__(self) -> str:
        return f"<FamilyRoutes IPv{self.version}, {self.forwarding!r}>"

    def set_rules(self, rules: Mapping[str, Rule], host: Host, now: float) -> None:
        """Go over to other rules, or to the interfaces as they are by now."""
        self.rules, self._host = rules, host
        wanted = {ifindex for rule in rules.values() for ifindex in rule.interfaces}
        if self._adopting:
            wanted |= self.table.interfaces
        came_by = {ifindex for rule in rules.values() for ifindex in rule.came_by}
        for ifindex in self._leaving(wanted, came_by):
            self.table.remove(ifindex)
            self._packets_out.pop(ifindex, None)
        # Before others get the numbers of those that have gone: routes would lead there
        self._follow(now)
        self.refused = {}
        for ifindex in sorted(wanted - self.table.interfaces, key=lambda one: (one not in came_by, one)):
            try:
                self.table.add(ifindex)
            except LinkError as error:
                if error.errno != errno.ENODEV:  # gone since the host was asked: that will be told
                    self.refused[ifindex] = error
        self._follow(now)
        if self._adopting:
            self._presume(now)
        for (ifindex, group), lost in self._joins.keep(host).items():
            self.unjoined[ifindex, group] = lost
            self.joined.get(group, {}).pop(ifindex, None)
        groups = {group for rule in rules.values() for group in named(rule.groups)}
        groups |= {group for _, group in self.unjoined}
        self._join(groups | self.members.groups() | self.joined.keys(), now)

    def _leaving(self, wanted: Collection[int], came_by: Collection[int]) -> list[int]:
        """The interfaces that take part no more: some make room for those without which nothing comes."""
        interfaces, table = self.table.interfaces, self.table
        leaving = [one for one in interfaces if one not in wanted or table.interface_count(one) is None]
        staying = interfaces.difference(leaving)
        lacking = len(staying.union(came_by)) - max(INTERFACES_MAX, len(staying))
        return leaving + sorted(staying.difference(came_by))[-lacking:] if lacking > 0 else leaving

    def adopt(self, now: float) -> None:
        """Take over the routes of a run before. They stay as they are until :meth:`settle`."""
        self._adopting = True
        for route in self.table.kept_routes():
            self.forwarding.adopt(route.source, route.group, route.ifindex, route.to, now)

    def settle(self, now: float) -> None:
        """All bridges have had their chance to say what they want: nothing else is routed from here on."""
        if self._adopting:
            self._adopting = False
            self.forwarding.release()
            self.set_rules(self.rules, self._host, now)

    def serve(self, now: float) -> None:
        """Take what the kernel and members have said, and do what is due."""
        changed: set[Address] = set()
        before, self._unrouted = self._unrouted, set()
        for said in self.table.take():
            match said:
                case NoRoute(ifindex, source, group):
                    key = source, group
                    is_message = key in self._unrouted or key in before
                    self._apply(self.forwarding.arrived(ifindex, *key, now, is_message=is_message))
                case WrongInterface(ifindex, source, group):
                    self._apply(self.forwarding.came_elsewhere(ifindex, source, group, now))
                case Heard():
                    self._note_message(said)
                    changed |= self.members.hear(said, now)
            if clock.monotonic() - now > TURN_SECONDS:
                break
        if self.members.deadline <= now:
            changed |= self.members.tick(now)
        if changed:
            self._join(changed, now)
            self._apply(self.forwarding.members_changed(changed, now))
        if now >= self._retry_at:
            self._retry_at = math.inf
            self._join({group for _, group in self.unjoined}, now)

    def state(self, now: float) -> tuple[object, ...]:
        """What differs when something else is to be told, but for what a look shows."""
        networks = self.members.networks.values()
        others = tuple(
            (one.querier.other, one.failure, one.deafness, one.is_crowded(now)) for one in networks
        )
        return self.refusal is None, len(self.unjoined), others

    @property
    def deadline(self) -> float:
        """When serve() is to be called next, in monotonic seconds, whatever is said."""
        return min(self.members.deadline, self._retry_at)

    def look(self, now: float) -> None:
        """Count what has gone by all routes, and remove those that are in use no more."""
        self._apply(self.forwarding.look(now))
        leads_to: set[int] = set()
        routed: set[int] = set()
        led, self._led = self._led, {}
        for route in self.forwarding.routes():
            key, to = (route.source, route.group), route.course.to
            if route.is_stream:
                leads_to.update(to)
            if route.streams:  # only where they were routed already: what came before that was not sent there
                routed.update(to.keys() & led.get(key, {}).keys())
            self._led[key] = to
        quiet: set[int] = set()
        up = {ifindex for ifindex, one in self._host.interfaces.items() if one.up}
        silent = {*self.silent} & up
        # Asked for after the routes: so what has gone by them is in it
        for ifindex in self.table.interfaces:
            if (count := self.table.interface_count(ifindex)) is None:
                continue
            if count.packets_out != self._packets_out.get(ifindex, 0):
                silent.discard(ifindex)
            else:
                quiet.add(ifindex)
            self._packets_out[ifindex] = count.packets_out
        # What was routed came before the last look
        silent |= routed & quiet & self._quiet & up
        self._quiet = frozenset(quiet)
        self.silent = frozenset(silent & leads_to)

    def routes_of(self, name: str) -> Iterable[BridgedRoute]:
        """The routes that a bridge has a part in, as far as a stream goes by them, or may."""
        routes = self.forwarding.routes()
        return (route for route in routes if name in route.course.bridges and route.is_stream)

    def silent_of(self, name: str) -> set[int]:
        """The interfaces by which nothing has gone out, though a bridge has something routed there."""
        silent = self.silent & self.rules[name].to.keys()
        return {one for one in silent if any(one in route.course.to for route in self.routes_of(name))}

    def troubles_of(self, name: str) -> list[str]:
        """Why some of what a bridge is to do does not work."""
        rule, now = self.rules[name], clock.monotonic()
        refused = (f"{self.name(i)}: {error}" for i, error in self.refused.items() if i in rule.interfaces)
        told = first_told(refused, "interfaces")
        if self.refusal is not None:
            told.append(str(self.refusal))
        if now - self.forwarding.evicted_at < CROWDED_SECONDS:
            told.append(
                f"more than {ROUTES_MAX} pairs of sender and group come by interfaces of bridges: each new"
                " one takes the route of another; find out who sends so many"
            )
        silent = (
            f"nothing of what comes goes out by {self.name(ifindex)}: its TTL does not exceed"
            f" {rule.to[ifindex]}, or it is larger than the interface's MTU; have its sender set a higher TTL"
            for ifindex in sorted(self.silent_of(name))
        )
        told += first_told(silent, "interfaces")
        doubled = (
            f"{route.group} of {route.source} comes by {self.name(route.doubled_by)}, too, where it is sent"
            " to: another router brings it there as well, or it goes in a circle; let one of them forward it"
            for route in self.forwarding.doubled.values()
            if name in route.course.bridges and route.doubled >= DOUBLED_MIN
        )
        told += first_told(doubled, "groups")
        for ifindex, network in self.members.networks.items() if rule.joined else ():
            if ifindex not in rule.to:
                continue
            told += filter(None, (network.failure, network.deafness))
            if (other := network.querier.other) is not None:
                told.append(
                    f"{other} asks for members on {self.name(ifindex)}, and forwards there in place of this"
                    ' host: to have this one do it, set querier = "always", or give it a lower address there'
                )
            if network.is_crowded(now):
                told.append(f"members on {self.name(ifindex)} want more groups or sources than are kept")
        unjoined = (str(error) for (i, _), error in self.unjoined.items() if i in rule.came_by)
        return told + first_told(unjoined, "groups")

    def name(self, ifindex: int) -> str:
        return self._host.name(ifindex)

    def close(self) -> None:
        self._joins.close()
        self.members.close()
        self.table.close()

    def _note_message(self, heard: Heard) -> None:
        """Have the forwarding know a message that the kernel may route, as it does those of IGMP, not of MLD.

        If it has no route for one, it says so next.
        """
        if self.version == 4:
            key = heard.packet.source, heard.packet.destination
            if not self.forwarding.heard(*key):
                self._unrouted.add(key)

    def _may_come_by(self, ifindex: int, source: Address) -> bool:
        """Return False if the sender is on the network of another interface that takes part.

        Then what comes here was brought by another router, and would go back there, in a circle.
        """
        near = {one for one, network in self._networks if source in network}
        return not near or ifindex in near

    def _follow(self, now: float) -> None:
        """Have members and routes be those of the interfaces that take part."""
        present = self.table.interfaces
        self._active = {name: rule.among(present) for name, rule in self.rules.items()}
        with_carrier = (one for i, one in self._host.interfaces.items() if i in present and one.carrier)
        self._networks = [(one.index, net) for one in with_carrier for net in one.networks(self.version)]
        groups: dict[int, frozenset[Prefix]] = {}
        for rule in self._active.values():
            for ifindex in rule.to if rule.joined else ():
                groups[ifindex] = groups.get(ifindex, frozenset()).union(rule.groups)
        interfaces = {i: one for i, one in self._host.interfaces.items() if i in groups}
        insisting = {i for rule in self._active.values() if rule.insists for i in rule.to}
        changed = self.members.follow(interfaces, groups, now, insisting)
        self._apply(self.forwarding.set_rules(self._active, now))
        self._apply(self.forwarding.members_changed(changed, now))

    def _presume(self, now: float) -> None:
        """Take it that members want what they were sent before, and ask them whether they still do."""
        for route in self.forwarding.routes():
            for ifindex in route.course.to.keys() & self.members.networks.keys():
                if (presumed := (ifindex, route.source, route.group)) not in self._presumed:
                    self._presumed.add(presumed)
                    self.members.presume(ifindex, route.source, route.group, now)

    def _join(self, groups: Collection[Address], now: float) -> None:
        """Be a member, where they come from, of what is wanted of these groups."""
        for group in groups:
            have = self.joined.setdefault(group, {})
            want = upstream(self._active.values(), group, self.members.wanted)
            for ifindex in {one for one, of in self.unjoined if of == group} - want.keys():
                del self.unjoined[ifindex, group]
            for ifindex, source_filter in list(changes(have, want)):
                self.unjoined.pop((ifindex, group), None)
                interface = self._host.interfaces.get(ifindex)
                if source_filter is None or interface is None:
                    self._joins.leave(ifindex, group)
                    have.pop(ifindex, None)
                    continue
                try:
                    self._joins.join(interface, group, source_filter)
                    have[ifindex] = source_filter
                except LinkError as error:
                    self.unjoined[ifindex, group] = error
            if not have:
                del self.joined[group]
        # Not later for what is joined meanwhile, which may go on all the time
        self._retry_at = min(self._retry_at, now + RETRY_SECONDS) if self.unjoined else math.inf

    def _apply(self, route_changes: list[RouteChange]) -> None:
        for change in route_changes:
            if change.to is None:
                self.table.unroute(change.source, change.group, change.came_by)
                continue
            try:
                self.table.route(change.source, change.group, change.came_by, change.to)
                self.refusal = None
            except LinkError as error:
                self.forwarding.forget(change.source, change.group)
                self.refusal = error


def _way_back(source: Address) -> int:
    with contextlib.suppress(CannotAskError):
        return route_to(source).ifindex
    return 0


def open_family(version: Version, memberships: Memberships, kept: KeptTables) -> FamilyRoutes:
    """Open the kernel's table, or take over that of the run before. Raises LinkError: see RoutingTable."""
    before = kept.take(version)
    table = RoutingTable(version, before)
    try:
        sender = QuerySender(version)
    except LinkError:
        if before is not None:
            kept.give_back(version, before)
        else:
            table.close()
        raise
    kept.opened(version, table.fileno())
    family = FamilyRoutes(version, table, sender, Joins(memberships), _way_back)
    if before is not None:
        family.adopt(clock.monotonic())
    return family
