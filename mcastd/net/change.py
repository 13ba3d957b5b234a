"""The difference between two looks at the host, and which workers it concerns.

A worker's ``interface`` setting means certain interfaces (Interface.is_meant_by) or, if it is left out, the
interface of the route to its group. A change concerns the worker if one of those interfaces came, went, or is
not equal to what it was, or if the route is another. So whatever makes a difference to a worker has to be a
field of Interface or Route, and whether a setting means an interface must depend on that interface alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from mcastd import clock
from mcastd.errors import CannotAskError, LinkError
from mcastd.ip import Address, ConcernsGroup, Interfaces
from mcastd.net.interfaces import Host, Interface, as_address, look, look_at
from mcastd.net.netlink import Netlink
from mcastd.net.news import Notices
from mcastd.net.routes import Question, Route, Routes, route_to


class Change:
    """The difference between two looks at the host."""

    def __init__(
        self, before: Host, after: Host, old_routes: dict[Question, Route], *, overrun: bool = False
    ) -> None:
        pairs = [
            (before.interfaces.get(index), after.interfaces.get(index))
            for index in before.interfaces.keys() | after.interfaces.keys()
        ]
        # Each interface that differs, as it was and as it is
        self._changed = [one for pair in pairs if pair[0] != pair[1] for one in pair if one is not None]
        indices = {interface.index for interface in self._changed}
        self._routes = None if after.routes is before.routes else after.routes.known()
        moved = [
            question
            for question, route in old_routes.items()
            if route.ifindex in indices or (self._routes is not None and self._routes.get(question) != route)
        ]
        self._moved = {question.destination for question in moved if not question.by}
        self._moved_by: dict[Address, set[int]] = {}
        for question in moved:
            if question.by:
                self._moved_by.setdefault(question.destination, set()).add(question.by)
        self._after = after
        self._overrun = overrun

    def __bool__(self) -> bool:
        return bool(self._changed or self._routes is not None or self._overrun)

    def concerned(self, setting: Interfaces | None) -> ConcernsGroup | None:
        """See ``Concerned``. Workers with one setting are decided on together: thousands have but a few."""
        if setting is None:
            return None if self._routes is None and not self._moved else self._is_moved
        if any(interface.is_meant_by(setting) for interface in self._changed):
            return lambda _: True
        if not (self._moved or self._moved_by or self._overrun):
            return None
        shared = bool(self._moved) and self._is_shared(setting)
        # Notices were lost: an interface may have been deleted and made anew, and look the same
        remade = [one.index for one in self._meant(setting)] if self._overrun else []

        def concerns(group: Address) -> bool:
            return (
                (shared and group in self._moved)
                or (bool(self._moved_by) and self._has_other_source(setting, group))
                or (bool(remade) and self._has_lost(group, remade))
            )

        return concerns

    def _is_moved(self, group: Address) -> bool:
        # A worker that asked for its route meanwhile may have been given the old one
        unknown = self._routes is not None and Question(group) not in self._routes
        return unknown or group in self._moved

    def _meant(self, setting: Interfaces) -> list[Interface]:
        return [one for one in self._after.interfaces.values() if one.is_meant_by(setting)]

    def _has_other_source(self, setting: Interfaces, group: Address) -> bool:
        """Return True if a route by one of its interfaces prefers another source address."""
        found = (self._after.interfaces.get(index) for index in self._moved_by.get(group, ()))
        return any(one is not None and one.is_meant_by(setting) for one in found)

    def _is_shared(self, setting: Interfaces) -> bool:
        """Return True if the setting is, or has in its list, an address that several interfaces have."""
        addresses = map(as_address, setting if isinstance(setting, tuple) else (setting,))
        return any(
            sum(address in one.addresses for one in self._after.interfaces.values()) > 1
            for address in addresses
        )

    def _has_lost(self, group: Address, indices: list[int]) -> bool:
        """Return True if this host is no member of the group on one of these interfaces."""
        joined = self._after.groups(group.version)
        return any(group not in joined.get(index, ()) for index in indices)


class Renewed(NamedTuple):
    """What came of asking the kernel for what had changed."""

    host: Host  # as it is now
    old_routes: dict[Question, Route]  # to groups, as they were known before
    refused: Notices  # what the kernel would not say: the host has that as it was
    refusal: LinkError | None  # the first one


def renewed(before: Host, notices: Notices, netlink: Netlink, doubted: Iterable[Question] = ()) -> Renewed:
    """Ask the kernel for what ``notices`` are about, and the ``doubted`` routes. Raises CannotAskError."""
    asked = clock.monotonic()
    interfaces = before.interfaces.copy()
    found: dict[int, Interface | None] = {}
    refused, refusal = Notices(), None
    for index in notices.links | notices.routed:
        try:
            found[index] = look_at(index, netlink.ask)
        except CannotAskError:
            raise
        except LinkError as error:
            refusal = refusal or error
            refused.put_off(notices, index)
    if notices.overrun:
        try:
            found = dict.fromkeys(interfaces) | look(netlink.ask).interfaces
        except CannotAskError:
            raise
        except LinkError as error:
            refusal = refusal or error
            refused.overrun = True
    for index, interface in found.items():
        was = interfaces.pop(index, None)
        if interface is not None:
            edition = (was.edition if was else 0) + notices.shows_nothing_of(index)
            interfaces[index] = replace(interface, edition=edition)
    old_routes = before.routes.known()
    changed = {index for index in found if interfaces.get(index) != before.interfaces.get(index)}
    stale = {
        question
        for question, route in old_routes.items()
        if notices.overrun
        or question.destination.version in notices.routes
        or not changed.isdisjoint({question.by, route.ifindex})
    }
    fresh = {
        question: route_to(question.destination, netlink.ask, by=question.by, as_added=question.as_added)
        for question in stale.union(doubted)
    }
    routes = before.routes
    if any(old_routes.get(question) != route for question, route in fresh.items()):
        routes = Routes(netlink.ask, old_routes | fresh)
    return Renewed(Host(interfaces, asked, routes), old_routes, refused, refusal)
