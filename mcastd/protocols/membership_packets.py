"""IGMP and MLD messages in IP packets, and which of them a host of the network itself has sent. Pure.

What comes from elsewhere could have a router send groups to where nobody is a member, and forward nothing
where somebody is.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address

from mcastd.ip import Prefix
from mcastd.protocols import igmp, mld
from mcastd.protocols.internet import ICMPV6, IGMP, MEMBERSHIP_TTL, IpPacket
from mcastd.protocols.membership import MembershipQuery, MembershipReport


def read_message(packet: IpPacket) -> MembershipQuery | MembershipReport | None:
    """Read the message in a packet, whoever has sent it. Returns None if there is none, or only a part."""
    if packet.fragment is not None:
        return None
    source, destination = packet.source, packet.destination
    if packet.protocol == IGMP and packet.version == 4:
        return igmp.read(packet.body)
    if packet.protocol == ICMPV6 and isinstance(source, IPv6Address) and isinstance(destination, IPv6Address):
        return mld.read(packet.body, source, destination)
    return None


def is_of_network(
    packet: IpPacket, message: MembershipQuery | MembershipReport, networks: Iterable[Prefix]
) -> bool:
    """Return True if a host of the network has sent ``message``, as far as its packet shows.

    ``networks`` are those of the interface. MLD has a link-local source, a hop limit of 1, and Router Alert
    (RFC 3810 sections 6.2, 7.4 and 7.6); that of version 1, too (RFC 2710 section 3).

    IGMP has two marks, and RFC 3376 section 9.2 says whom a router shuts out that insists on one: Router
    Alert, which hosts of IGMPv1 and early ones of IGMPv2 do not send; and an address of a network of the
    interface, which hosts of another network on the same link do not have, nor those at the other end of a
    tunnel. So either is enough: no router hands on what has the one, and the other cannot be had from afar
    where routers look at sources. 0.0.0.0 is always right (section 4.2.13). The TTL shows nothing: who is far
    away sends with so much that 1 is left. A query for all groups goes to 224.0.0.1 alone, which no router
    forwards (section 9.1).
    """
    if packet.version == 6:
        return packet.source.is_link_local and packet.ttl == MEMBERSHIP_TTL and packet.router_alert
    is_general = isinstance(message, MembershipQuery) and message.group is None
    if is_general and packet.destination != igmp.ALL_SYSTEMS:
        return False
    source = packet.source
    return packet.router_alert or source.is_unspecified or any(source in network for network in networks)
