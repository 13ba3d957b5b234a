"""What settings and sockets share: addresses, their scope, the size of a datagram, patterns of interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

# An ``interface`` setting: one name, pattern or address, or several; None where the route decides.
Interfaces = str | tuple[str, ...]

ConcernsGroup = Callable[[Address], bool]
# By an ``interface`` setting: the groups whose workers a change of the network concerns there; None: none.
Concerned = Callable[[Interfaces | None], ConcernsGroup | None]

# Payload of a UDP datagram at most: 65,535 less 20 (IPv4 header) less 8 (UDP header).
MAX_DATAGRAM_BYTES = 65_507

# IPv4 groups of source-specific multicast: RFC 4607 section 1.
SOURCE_SPECIFIC = IPv4Network("232.0.0.0/8")

# IPv6 multicast scopes that one interface has for itself: interface-local, link-local (RFC 4291 section 2.7).
SCOPES_OF_ONE_INTERFACE = {1, 2}

# Of an IPv6 address, those by which hosts of a network differ: RFC 4291 section 2.5.1.
INTERFACE_ID_BITS = 64

# The reason for which datagrams of a sender that stays_at_home() go to no other network.
LINK_LOCAL = "link-local"

# This network (RFC 791), the broadcast address, IPv4 inside IPv6.
_NO_SOURCES = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("255.255.255.255/32"),
    IPv6Network("::ffff:0:0/96"),
)

# Characters that make a name of an interface a pattern, glob(7).
_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Which sources of a group are received: all but ``sources`` (EXCLUDE), or these alone (INCLUDE).

    The words of RFC 3376 section 2. Its text is ``any``, ``include ADDRESS, ...``, ``exclude ADDRESS, ...``
    or ``none``.
    """

    exclude: bool = True
    sources: tuple[Address, ...] = ()

    def __str__(self) -> str:
        if not self.sources:
            return "any" if self.exclude else "none"
        mode = "exclude" if self.exclude else "include"
        return f"{mode} {', '.join(map(str, sorted(self.sources, key=int)))}"

    def wants(self, source: Address) -> bool:
        """Return True if datagrams of ``source`` pass."""
        return (source in self.sources) != self.exclude


ANY_SOURCE = SourceFilter()
NO_SOURCE = SourceFilter(exclude=False)


def merged(filters: Iterable[SourceFilter]) -> SourceFilter:
    """Return what lets in each source that one of ``filters`` wants, and no other: RFC 3376 section 3.2."""
    excluded: set[Address] | None = None
    included: set[Address] = set()
    for one in filters:
        if not one.exclude:
            included.update(one.sources)
        elif excluded is None:
            excluded = set(one.sources)
        else:
            excluded.intersection_update(one.sources)
    if excluded is None:
        return SourceFilter(False, tuple(sorted(included, key=int)))
    return SourceFilter(True, tuple(sorted(excluded - included, key=int)))


def named(prefixes: Iterable[Prefix]) -> set[Address]:
    """The addresses that stand by themselves."""
    return {prefix.network_address for prefix in prefixes if prefix.prefixlen == prefix.max_prefixlen}


def limited(wanted: SourceFilter, sources: Sequence[Prefix]) -> SourceFilter:
    """The same filter without what is in none of ``sources``, as far as a filter can say that; none: any."""
    if not sources:
        return wanted
    if not wanted.exclude:
        kept = (one for one in wanted.sources if any(one in prefix for prefix in sources))
        return SourceFilter(False, tuple(kept))
    alone = named(sources)
    if len(alone) < len(sources):
        return wanted
    return SourceFilter(False, tuple(sorted(alone - set(wanted.sources), key=int)))


def stays_on_link(group: Address) -> bool:
    """Return True if no router forwards ``group``, whatever the TTL: RFC 5771 section 4, RFC 4291 2.7."""
    if isinstance(group, IPv4Address):
        return group.packed[:3] == bytes([224, 0, 0])
    return needs_scope_id(group)


def is_source_specific(group: Address) -> bool:
    """Return True for a group of source-specific multicast: 232/8 and ff3x::/32 (RFC 4607)."""
    if isinstance(group, IPv4Address):
        return group in SOURCE_SPECIFIC
    return group.packed[1] >> 4 == 3 and group.packed[2:4] == b"\0\0"


@lru_cache(maxsize=4096)
def stays_at_home(source: Address) -> bool:
    """Return True if no host takes what has this source from another network: RFC 1122 section 3.2.1.3,
    RFC 4291 section 2.5, RFC 3927."""
    return (
        source.is_multicast
        or source.is_unspecified
        or source.is_loopback
        or source.is_link_local
        or any(source.version == prefix.version and source in prefix for prefix in _NO_SOURCES)
    )


def needs_scope_id(group: Address) -> bool:
    """Return True if an IPv6 group means another one on each interface: a socket names that as scope id."""
    return group.version == 6 and group.packed[1] & 0x0F in SCOPES_OF_ONE_INTERFACE


def host_of(address: Address) -> Address:
    """Return what limits are counted by: a host of IPv6 may take any address of its network of 64 bits."""
    if isinstance(address, IPv6Address):
        return IPv6Address(int(address) >> INTERFACE_ID_BITS << INTERFACE_ID_BITS)
    return address


def is_pattern(interface: str) -> bool:
    """Return True if an ``interface`` setting is a pattern of names."""
    return not _WILDCARDS.isdisjoint(interface)
