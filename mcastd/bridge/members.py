"""Who wants what on the networks that bridges forward to, in one IP version: a querier for each interface."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address

from mcastd.errors import LinkError
from mcastd.ip import Address, Prefix, SourceFilter, stays_on_link
from mcastd.net.interfaces import Interface
from mcastd.net.mroute import Heard
from mcastd.net.query_sender import SendsQueries, asking_address, is_back
from mcastd.net.routing import MulticastRouting
from mcastd.protocols import igmp, mld
from mcastd.protocols.membership import GroupRecord, MembershipQuery, MembershipReport, RecordKind
from mcastd.querier.querier import Querier
from mcastd.querier.timing import Timing

TIMING = Timing()
# Between two attempts to hear members where that was refused, as without a descriptor.
RETRY_SECONDS = 5.0


@dataclass(slots=True)
class MemberNetwork:
    """A network with members."""

    version: int  # of IP
    interface: Interface
    groups: frozenset[Prefix]  # that are forwarded there
    address: Address | None  # that this host asks from
    querier: Querier
    refusal: str = ""  # why the last query could not be sent, in words
    deafness: str = ""  # why its members cannot be heard
    listen_at: float = math.inf  # when that is tried again, in monotonic seconds

    @property
    def forwards(self) -> bool:
        """Return True if this host forwards there: the one that asks does (RFC 4605 section 4.2)."""
        return self.querier.other is None

    @property
    def failure(self) -> str:
        """Why its members are not asked, in words; "": they are, or another router is to."""
        if self.querier.other is not None:
            return ""
        if self.address is not None:
            return self.refusal
        return f"{self.interface.name} has no IPv{self.version} address to ask from"

    def is_crowded(self, now: float) -> bool:
        return self.querier.listeners.is_crowded(now)

    def has_group_of(self, record: GroupRecord) -> bool:
        group = record.group
        return not stays_on_link(group) and any(group in prefix for prefix in self.groups)


class Members:
    """For one thread at a time. Sets of groups that are returned: something else is wanted of them now."""

    def __init__(self, version: int, table: MulticastRouting, sender: SendsQueries) -> None:
        self._version = version
        self._table = table
        self._sender = sender
        self.networks: dict[int, MemberNetwork] = {}  # by the index of the interface

    def __repr__(self) -> str:
        return f"<Members of IPv{self._version} on {len(self.networks)} interfaces>"

    def follow(
        self,
        interfaces: Mapping[int, Interface],
        groups: Mapping[int, frozenset[Prefix]],
        now: float,
        insisting: Collection[int] = (),
    ) -> set[Address]:
        """Have a querier on each of these interfaces, for the groups that go there, and on no other one.

        On those of ``insisting``, by their indices, it asks whoever else does.
        """
        changed: set[Address] = set()
        for ifindex in self.networks.keys() - interfaces.keys():
            changed |= _groups(self.networks.pop(ifindex))
            self._table.ignore(ifindex)
        for ifindex, interface in interfaces.items():
            address = asking_address(interface, self._version)
            if (network := self.networks.get(ifindex)) is None:
                querier = Querier(TIMING, address, now)
                network = MemberNetwork(self._version, interface, groups[ifindex], address, querier)
                self.networks[ifindex] = network
            elif groups[ifindex] - network.groups or is_back(interface, network.interface):
                network.querier.begin_anew(now)  # what members have said meanwhile was not heard
            forwarded = network.forwards
            network.interface, network.groups, network.address = interface, groups[ifindex], address
            network.querier.move(address, now)
            network.querier.insist(ifindex in insisting, now)
            changed |= _groups(network) if network.forwards != forwarded else set()
            self._listen(ifindex, network, now)
        return changed

    def _listen(self, ifindex: int, network: MemberNetwork, now: float) -> None:
        network.listen_at = math.inf
        try:
            self._table.listen(ifindex)
        except LinkError as error:
            network.deafness = f"{network.interface.name}: {error}"
            network.listen_at = now + RETRY_SECONDS
        else:
            if network.deafness:
                network.deafness = ""
                network.querier.begin_anew(now)

    def hear(self, heard: Heard, now: float) -> set[Address]:
        """Take what came of IGMP or MLD.

        What does not come from the network itself is left out. So are groups that are not forwarded there, as
        those of the link, of which each IPv6 host has some: they would take the room of others.
        """
        network, packet = self.networks.get(heard.ifindex), heard.packet
        if (
            network is None
            or not packet.destination.is_multicast
            or packet.source in network.interface.addresses
        ):
            return set()
        message = network.querier.read(packet, network.interface.networks(self._version))
        if message is None:
            return set()
        if isinstance(message, MembershipReport):
            message = replace(message, records=tuple(filter(network.has_group_of, message.records)))
        forwarded = network.forwards
        changed = network.querier.hear(packet.source, message, now)
        return changed if network.forwards == forwarded else _groups(network)

    def presume(self, ifindex: int, source: Address, group: Address, now: float) -> set[Address]:
        """Take it that members want a source, and ask them for it: as if one of several had left."""
        if (network := self.networks.get(ifindex)) is None:
            return set()
        changed: set[Address] = set()
        for kind in (RecordKind.ALLOW, RecordKind.BLOCK):
            report = MembershipReport((GroupRecord(kind, group, (source,)),))
            changed |= network.querier.listeners.hear(report, now)
        return changed

    @property
    def deadline(self) -> float:
        """When tick() is to be called next, in monotonic seconds: never after something is due."""
        networks = self.networks.values()
        return min((min(one.querier.deadline, one.listen_at) for one in networks), default=math.inf)

    def tick(self, now: float) -> set[Address]:
        """Do what is due, and send the queries that are."""
        changed: set[Address] = set()
        for ifindex, network in self.networks.items():
            if network.listen_at <= now:
                self._listen(ifindex, network, now)
            if network.querier.deadline > now:
                continue
            forwarded = network.forwards
            wanted, queries = network.querier.tick(now)
            changed |= wanted if network.forwards == forwarded else _groups(network)
            for query in queries:
                self._ask(ifindex, network, query, now)
        return changed

    def wanted(self, ifindex: int, group: Address) -> SourceFilter | None:
        """What members on an interface want of a group, if this host is to forward it; None: nothing."""
        network = self.networks.get(ifindex)
        return network.querier.listeners.filter(group) if network is not None and network.forwards else None

    def wants(self, ifindex: int, source: Address, group: Address) -> bool:
        found = self.wanted(ifindex, group)
        return found is not None and found.wants(source)

    def groups(self) -> set[Address]:
        """All groups of which something is wanted."""
        return {group for network in self.networks.values() for group in _groups(network)}

    def close(self) -> None:
        self._sender.close()

    def _ask(self, ifindex: int, network: MemberNetwork, query: MembershipQuery, now: float) -> None:
        source = network.address
        if source is None:
            return
        try:
            if isinstance(source, IPv6Address):
                to = query.group or mld.ALL_NODES
                assert isinstance(to, IPv6Address)
                self._sender.send(ifindex, source, to, mld.build_query(query, source, to))
            else:
                self._sender.send(ifindex, source, query.group or igmp.ALL_SYSTEMS, igmp.build_query(query))
            network.refusal = ""
        except LinkError as error:
            network.refusal = f"{network.interface.name}: {error}"
            network.querier.retry(query, now)


def _groups(network: MemberNetwork) -> set[Address]:
    return {group for group, _ in network.querier.listeners.filters()}
