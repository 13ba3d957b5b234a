"""Properties of a group by its address: how far it may go, whose it is, how Ethernet carries it. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

from mcastd.ip import SOURCE_SPECIFIC, Address

# Protocols of the link itself (RFC 5771 section 4).
LINK_CONTROL = IPv4Network("224.0.0.0/24")
# Groups that belong to an AS (RFC 3180), or to a prefix (RFC 6034).
OWNED = (IPv4Network("233.0.0.0/8"), IPv4Network("234.0.0.0/8"))
# Groups that an organization uses as it likes (RFC 2365).
ADMINISTRATIVE = IPv4Network("239.0.0.0/8")


def _scope(group: IPv6Address) -> int:
    return group.packed[1] & 0x0F


def is_bounded(group: Address) -> bool:
    """Return True if boundaries of networks keep the group within an organization (RFC 2365, RFC 7346)."""
    return group in ADMINISTRATIVE if isinstance(group, IPv4Address) else _scope(group) <= 8


def is_public(group: Address) -> bool:
    """Return True if routers forward the group world-wide, and IANA alone assigns it."""
    if isinstance(group, IPv6Address):
        by_prefix = bool(group.packed[1] & 0x20)  # flag P: it belongs to the owner of the prefix (RFC 3306)
        return _scope(group) == 0xE and not by_prefix
    return not any(group in network for network in (LINK_CONTROL, SOURCE_SPECIFIC, *OWNED, ADMINISTRATIVE))


def ethernet_address(group: Address) -> bytes:
    """The MAC address that ``group`` is sent to: RFC 1112 section 6.4, RFC 2464 section 7."""
    if isinstance(group, IPv4Address):
        return b"\x01\x00\x5e" + (int(group) & 0x7F_FFFF).to_bytes(3)
    return b"\x33\x33" + group.packed[12:]
