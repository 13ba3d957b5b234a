"""What settings and sockets share: addresses, their scope, the size of a datagram, patterns of interfaces."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address

# An ``interface`` setting: one name, pattern or address, or several; None where the route decides.
Interfaces = str | tuple[str, ...]

ConcernsGroup = Callable[[Address], bool]
# By an ``interface`` setting: the groups whose workers a change of the network concerns there; None: none.
Concerned = Callable[[Interfaces | None], ConcernsGroup | None]

# Payload of a UDP datagram at most: 65,535 less 20 (IPv4 header) less 8 (UDP header).
MAX_DATAGRAM_BYTES = 65_507

# IPv6 multicast scopes that one interface has for itself: interface-local, link-local (RFC 4291 section 2.7).
SCOPES_OF_ONE_INTERFACE = {1, 2}

# Characters that make a name of an interface a pattern, glob(7).
_WILDCARDS = frozenset("*?[")


def stays_on_link(group: Address) -> bool:
    """Return True if no router forwards ``group``, whatever the TTL: RFC 5771 section 4, RFC 4291 2.7."""
    if isinstance(group, IPv4Address):
        return group.packed[:3] == bytes([224, 0, 0])
    return needs_scope_id(group)


def needs_scope_id(group: Address) -> bool:
    """Return True if an IPv6 group means another one on each interface: a socket names that as scope id."""
    return group.version == 6 and group.packed[1] & 0x0F in SCOPES_OF_ONE_INTERFACE


def is_pattern(interface: str) -> bool:
    """Return True if an ``interface`` setting is a pattern of names."""
    return not _WILDCARDS.isdisjoint(interface)
