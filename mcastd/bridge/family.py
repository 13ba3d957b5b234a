"""The routing of one IP version: rules in, the kernel's table as they want it. For one thread at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from mcastd.bridge.forwarding import Forwarding, RouteChange, Rule
from mcastd.errors import LinkError
from mcastd.net.routing import MulticastRouting, NoRoute, WrongInterface

Version = Literal[4, 6]


class FamilyRoutes:
    """The kernel's table of one IP version, for the rules of all bridges by name."""

    def __init__(self, version: Version, table: MulticastRouting) -> None:
        self.version = version
        self.table = table
        self.forwarding = Forwarding(table.count)
        # Interfaces that the kernel does not take, by index.
        self.refused: dict[int, LinkError] = {}
        # Why it has not taken the last route; None: it has.
        self.refusal: LinkError | None = None
        # Interfaces by which nothing has gone out, though datagrams came that are routed there.
        self.silent: frozenset[int] = frozenset()
        self.rules: Mapping[str, Rule] = {}
        self._packets_out: dict[int, int] = {}  # by interface, at the last look

    def __repr__(self) -> str:
        return f"<FamilyRoutes IPv{self.version}, {self.forwarding!r}>"

    def set_rules(self, rules: Mapping[str, Rule], now: float) -> None:
        """Go over to other rules, or to the interfaces that there are by now."""
        self.rules = rules
        wanted = {ifindex for rule in rules.values() for ifindex in rule.interfaces}
        for ifindex in self.table.interfaces:
            if ifindex not in wanted or self.table.interface_count(ifindex) is None:
                self.table.remove(ifindex)
                self._packets_out.pop(ifindex, None)
        # Before others get the numbers of those that have gone: routes would lead there
        self._apply(self.forwarding.set_rules(_among(rules, self.table.interfaces), now))
        self.refused = {}
        for ifindex in sorted(wanted - self.table.interfaces):
            try:
                self.table.add(ifindex)
            except LinkError as error:
                self.refused[ifindex] = error
        self._apply(self.forwarding.set_rules(_among(rules, self.table.interfaces), now))

    def serve(self, now: float) -> None:
        """Take what the kernel has said."""
        for said in self.table.take():
            match said:
                case NoRoute(ifindex, source, group):
                    self._apply(self.forwarding.arrived(ifindex, source, group, now))
                case WrongInterface(ifindex, source, group):
                    self._apply(self.forwarding.came_elsewhere(ifindex, source, group, now))

    def look(self, now: float) -> None:
        """Count what has gone by all routes, and remove those that are in use no more."""
        self._apply(self.forwarding.look(now))
        leads_to: set[int] = set()
        routed: set[int] = set()
        for route in self.forwarding.routes():
            leads_to.update(route.course.to)
            if route.fresh:
                routed.update(route.course.to)
        silent = set(self.silent)
        # Asked for after the routes: so what has gone by them is in it
        for ifindex in self.table.interfaces:
            if (count := self.table.interface_count(ifindex)) is None:
                continue
            if count.packets_out != self._packets_out.get(ifindex, 0):
                silent.discard(ifindex)
            elif ifindex in routed:
                silent.add(ifindex)
            self._packets_out[ifindex] = count.packets_out
        self.silent = frozenset(silent & leads_to)

    def close(self) -> None:
        self.table.close()

    def _apply(self, changes: list[RouteChange]) -> None:
        for change in changes:
            if change.to is None:
                self.table.unroute(change.source, change.group, change.came_by)
                continue
            try:
                self.table.route(change.source, change.group, change.came_by, change.to)
                self.refusal = None
            except LinkError as error:
                self.forwarding.forget(change.source, change.group)
                self.refusal = error


def _among(rules: Mapping[str, Rule], interfaces: Collection[int]) -> dict[str, Rule]:
    """The rules, as far as these interfaces take part."""
    return {name: rule.among(interfaces) for name, rule in rules.items()}
