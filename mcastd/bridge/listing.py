"""What the status has of a bridge beside its settings: routes, members, queriers, memberships of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice

from mcastd.bridge.family import FamilyRoutes
from mcastd.bridge.forwarding import BridgedRoute
from mcastd.status import BridgedGroupStatus, JoinStatus, QuerierStatus, RouteStatus

# Of each list.
LISTED_MAX = 100


@dataclass(frozen=True, slots=True)
class BridgeListing:
    silent: tuple[str, ...] = ()  # interfaces, as FamilyRoutes.silent_of() has them
    routes: tuple[RouteStatus, ...] = ()  # those that were in use last
    queriers: tuple[QuerierStatus, ...] = ()
    members: tuple[BridgedGroupStatus, ...] = ()
    joins: tuple[JoinStatus, ...] = ()


NOTHING_LISTED = BridgeListing()


def list_of(name: str, families: Iterable[FamilyRoutes], now: float) -> BridgeListing:
    """As much as LISTED_MAX says. ``families`` are those in which the bridge has a rule."""
    families = list(families)
    found = ((route, family) for family in families for route in family.routes_of(name))
    last = nlargest(LISTED_MAX, found, key=lambda one: one[0].last)
    silent = {family.name(one) for family in families for one in family.silent_of(name)}
    return BridgeListing(
        tuple(sorted(silent)),
        tuple(_route(route, family, now) for route, family in last),
        tuple(one for family in families for one in _queriers(name, family, now)),
        tuple(islice((one for family in families for one in _members(name, family)), LISTED_MAX)),
        tuple(islice((one for family in families for one in _joins(name, family)), LISTED_MAX)),
    )


def _route(route: BridgedRoute, family: FamilyRoutes, now: float) -> RouteStatus:
    return RouteStatus(
        source=str(route.source),
        group=str(route.group),
        comes_by=family.name(route.came_by),
        goes_to=tuple(sorted(map(family.name, route.course.to))),
        packets=route.packets,
        bytes=route.count.bytes,
        wrong_interface=route.count.wrong_interface,
        age=now - route.since,
        last_age=now - route.last,
    )


def _queriers(name: str, family: FamilyRoutes, now: float) -> Iterable[QuerierStatus]:
    rule = family.rules[name]
    for ifindex, network in family.members.networks.items():
        if rule.joined and ifindex in rule.to:
            yield network.querier.status(network.interface.name, family.version, now)


def _members(name: str, family: FamilyRoutes) -> Iterable[BridgedGroupStatus]:
    rule = family.rules[name]
    for ifindex, network in family.members.networks.items():
        if not rule.joined or ifindex not in rule.to:
            continue
        for group, wanted in network.querier.listeners.filters():
            if rule.has_group(group):
                yield BridgedGroupStatus(
                    interface=network.interface.name, group=str(group), wanted=str(wanted)
                )


def _joins(name: str, family: FamilyRoutes) -> Iterable[JoinStatus]:
    rule = family.rules[name]
    for group, by_interface in family.joined.items():
        if rule.has_group(group):
            for ifindex, wanted in by_interface.items():
                if ifindex in rule.came_by:
                    yield JoinStatus(
                        interface=family.name(ifindex), group=str(group), wanted=str(wanted), refused=None
                    )
    for (ifindex, group), error in family.unjoined.items():
        if ifindex in rule.came_by and rule.has_group(group):
            yield JoinStatus(
                interface=family.name(ifindex), group=str(group), wanted="", refused=error.trouble
            )
