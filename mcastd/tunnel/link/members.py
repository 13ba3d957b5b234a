"""What members on the network here want: they are asked by IGMP and MLD, and their reports heard."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Literal

from mcastd import clock
from mcastd.errors import LinkError
from mcastd.ip import Address, stays_on_link
from mcastd.net.interfaces import Interface
from mcastd.net.query_sender import QuerySender, SendsQueries, asking_address, is_back
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import IGMP, read_ip
from mcastd.protocols.link_control import GroupWant
from mcastd.protocols.membership import MembershipQuery, MembershipReport
from mcastd.querier.querier import Querier
from mcastd.querier.timing import Timing
from mcastd.status import QuerierStatus

OpenQuerySender = Callable[[Literal[4, 6]], SendsQueries]
_VERSIONS: tuple[Literal[4, 6], ...] = (4, 6)
# Places in a packet: the protocol behind IPv4's header, and what is behind IPv6's, where it is options first.
_PROTOCOL_4_AT, _NEXT_6_AT, _HOP_BY_HOP = 9, 6, 0


def is_about_members(packet: bytes) -> bool:
    """Return True for a packet that may be of IGMP or MLD."""
    if len(packet) <= _PROTOCOL_4_AT:
        return False
    if packet[0] >> 4 == 4:
        return packet[_PROTOCOL_4_AT] == IGMP
    return packet[_NEXT_6_AT] == _HOP_BY_HOP


class InterfaceMembers:
    """Of one interface, in both IP versions. For one thread.

    If another router asks there, it is left to it: reports are heard all the same.
    """

    def __init__(self, interface: Interface, now: float, open_sender: OpenQuerySender = QuerySender) -> None:
        self._interface = interface
        self._open_sender = open_sender
        self._senders: dict[int, SendsQueries] = {}
        self._queriers: dict[int, Querier] = {
            version: Querier(Timing(), asking_address(interface, version), now) for version in _VERSIONS
        }
        self._troubles: dict[int, str] = {}  # by IP version

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why members are not asked, or not all that they want is known, in words. For any thread."""
        now, kept = clock.monotonic(), self._troubles.copy()
        troubles = [kept[version] for version in kept if self._queriers[version].other is None]
        if any(querier.listeners.is_crowded(now) for querier in self._queriers.values()):
            troubles.append(f"members on {self._interface.name} want more groups or sources than are kept")
        return tuple(troubles)

    def statuses(self) -> list[QuerierStatus]:
        """Who asks, and what members want in all. For any thread."""
        name, now = self._interface.name, clock.monotonic()
        return [querier.status(name, version, now) for version, querier in self._queriers.items()]

    @property
    def disbelieved(self) -> int:
        """Messages that no host of the network seems to have sent, so far."""
        return sum(querier.disbelieved for querier in self._queriers.values())

    @property
    def deadline(self) -> float:
        """When :meth:`tick` is due, in monotonic seconds; ``inf``: never."""
        return min((querier.deadline for querier in self._queriers.values()), default=math.inf)

    def move(self, interface: Interface, now: float) -> None:
        """The interface may have changed, as by another address, or by a carrier that is back."""
        before, self._interface = self._interface, interface
        for version, querier in self._queriers.items():
            querier.move(asking_address(interface, version), now)
            if is_back(interface, before):
                querier.begin_anew(now)

    def begin_anew(self, version: int, now: float) -> None:
        """Ask as at the start: what members said until now was not heard."""
        self._queriers[version].begin_anew(now)

    def wanted(self) -> Iterator[GroupWant]:
        for querier in self._queriers.values():
            for group, sources in querier.listeners.filters():
                yield GroupWant(ipaddress.ip_network(group), sources, 0)

    def hear(self, packet: bytes, now: float) -> bool:
        """Take a packet of the network. Returns True if something else is wanted now.

        What this host says itself is left out: it joins what is wanted far away. So are groups of the link,
        of which each IPv6 host has some: they go nowhere, and would take the room of others.
        """
        found = read_ip(packet)
        if found is None or found.source in self._interface.addresses:
            return False
        querier = self._queriers[found.version]
        message = querier.read(found, self._interface.networks(found.version))
        if isinstance(message, MembershipReport):
            records = (record for record in message.records if not stays_on_link(record.group))
            message = replace(message, records=tuple(records))
        return message is not None and bool(querier.hear(found.source, message, now))

    def tick(self, now: float) -> bool:
        """Ask what is to be asked. Returns True if something else is wanted now."""
        is_changed = False
        for version in _VERSIONS:
            querier = self._queriers[version]
            if querier.deadline <= now:
                changed, queries = querier.tick(now)
                is_changed |= bool(changed)
                for query in queries:
                    self._ask(version, query, now)
        return is_changed

    def close(self) -> None:
        for sender in self._senders.values():
            sender.close()
        self._senders = {}

    def _ask(self, version: Literal[4, 6], query: MembershipQuery, now: float) -> None:
        name, source = self._interface.name, asking_address(self._interface, version)
        self._troubles.pop(version, None)
        if source is None:
            if version in self._interface.versions:
                self._troubles[version] = f"{name} has no IPv{version} address to ask members from"
            return
        try:
            if version not in self._senders:
                self._senders[version] = self._open_sender(version)
            to, message = _message(query, source)
            self._senders[version].send(self._interface.index, source, to, message)
        except LinkError as error:
            self._troubles[version] = f"{name}: {error.trouble}"
            self._queriers[version].retry(query, now)


def _message(query: MembershipQuery, source: Address) -> tuple[Address, bytes]:
    """Whom a query goes to, and the message."""
    if isinstance(source, IPv6Address):
        group = query.group or mld.ALL_NODES
        assert isinstance(group, IPv6Address)
        return group, mld.build_query(query, source, group)
    return query.group or igmp.ALL_SYSTEMS, igmp.build_query(query)
