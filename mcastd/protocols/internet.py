"""The IP packets that IGMP and MLD travel in, and what AMT carries: headers read, checked and built.

IPv4 is RFC 791, IPv6 RFC 8200, Router Alert RFC 2113 and RFC 2711, the checksum RFC 1071.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from mcastd.ip import Address
from mcastd.rows import RowBytes

IGMP, UDP, ICMPV6 = 2, 17, 58
# Messages about memberships go no further than the link, at a precedence of their own: RFC 3376 section 4.
MEMBERSHIP_TTL = 1
MEMBERSHIP_TOS = 0xC0

_ONES = 0xFFFF
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_MORE_FRAGMENTS, _FRAGMENT_OFFSET = 0x2000, 0x1FFF
_DO_NOT_FRAGMENT = 0x4000
ROUTER_ALERT_4 = bytes.fromhex("94040000")
_ALERT_OPTION_4, _END_4, _NO_OPERATION_4 = 0x94, 0, 1
# Hop-by-hop options: the next header, its length beyond 8 bytes, Router Alert for MLD, and PadN without data.
_HOP_BY_HOP_OPTIONS = struct.Struct("!BB4sBB")
_ALERT_6 = bytes.fromhex("05020000")  # its value is that of MLD: RFC 2711 section 2.1
_PAD_6 = 0
_HOP_BY_HOP = 0
# Extension headers with a length in units of 8 bytes beyond the first: hop-by-hop, routing, destination.
_EXTENSIONS = {_HOP_BY_HOP, 43, 60}
_FRAGMENT_HEADER = 44
# Extension headers that are followed in one packet: hosts send fewer.
_EXTENSIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class IpPacket:
    """A whole IP packet, or a fragment of one."""

    source: Address
    destination: Address
    protocol: int  # of the body: IANA's protocol numbers
    ttl: int
    body: bytes  # behind all headers, as long as the header says
    router_alert: bool = False  # of IPv6, that for MLD
    fragment: tuple[int, int, bool] | None = None  # identification, offset in bytes, and whether more follow

    @property
    def version(self) -> int:
        return self.source.version


def internet_checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071): 0 over data that has a right one in it.

    The one's complement sum of 16-bit words is the number that all of them make, modulo 65535: that takes
    Python a quarter of the time that adding words does.
    """
    number = int.from_bytes(data + bytes(len(data) % 2))
    return _ONES - (number % _ONES or (_ONES if number else 0))


def pseudo_header(source: IPv6Address, destination: IPv6Address, length: int, protocol: int) -> bytes:
    """Return what the checksums of IPv6's upper layers count before their message: RFC 8200 section 8.1."""
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


def read_ip(packet: bytes) -> IpPacket | None:
    """Read a packet. Returns None if it is shorter than it says, or its IPv4 header's checksum is wrong."""
    if not packet:
        return None
    try:
        match packet[0] >> 4:
            case 4:
                return _read_ipv4(packet)
            case 6:
                return _read_ipv6(packet)
    except (IndexError, struct.error):  # the end came before a header's
        pass
    return None


def length_of(packet: RowBytes) -> int:
    """Return how long a packet says it is, in bytes; 0: it is none."""
    match packet[0] >> 4 if len(packet) >= _IPV4.size else 0:
        case 4:
            return int.from_bytes(packet[2:4])
        case 6:
            return _IPV6.size + int.from_bytes(packet[4:6])
    return 0


def _read_ipv4(packet: bytes) -> IpPacket | None:
    first, _, length, identification, cut, ttl, protocol, _, source, to = _IPV4.unpack_from(packet)
    header = 4 * (first & 0x0F)
    if not _IPV4.size <= header <= length <= len(packet) or internet_checksum(packet[:header]):
        return None
    offset, more = 8 * (cut & _FRAGMENT_OFFSET), bool(cut & _MORE_FRAGMENTS)
    return IpPacket(
        IPv4Address(source),
        IPv4Address(to),
        protocol,
        ttl,
        packet[header:length],
        router_alert=_alerts_4(packet[_IPV4.size : header]),
        fragment=(identification, offset, more) if offset or more else None,
    )


def _alerts_4(options: bytes) -> bool:
    at = 0
    while at < len(options) and options[at] != _END_4:
        if options[at] == _ALERT_OPTION_4:
            return True
        at += 1 if options[at] == _NO_OPERATION_4 else max(2, options[at + 1])
    return False


def _read_ipv6(packet: bytes) -> IpPacket | None:
    _, length, following, hops, source, to = _IPV6.unpack_from(packet)
    start, end = _IPV6.size, _IPV6.size + length
    if end > len(packet):
        return None
    router_alert, fragment = False, None
    for _ in range(_EXTENSIONS_MAX):
        if following in _EXTENSIONS:
            size = 8 * (packet[start + 1] + 1)
            if following == _HOP_BY_HOP:
                router_alert = alerts_6(packet[start : start + size])
        elif following == _FRAGMENT_HEADER:
            cut, identification = struct.unpack_from("!2xHI", packet, start)
            offset, more, size = cut & 0xFFF8, bool(cut & 1), 8
            fragment = (identification, offset, more) if offset or more else None
        else:
            break
        following, start = packet[start], start + size
        if start > end:
            return None
        if fragment is not None and fragment[1]:
            break  # what follows is the middle of something
    body = packet[start:end]
    return IpPacket(IPv6Address(source), IPv6Address(to), following, hops, body, router_alert, fragment)


def alerts_6(header: bytes) -> bool:
    """Return True if a hop-by-hop header has Router Alert for MLD; it may be cut."""
    at = 2  # behind the next header and the length
    while at < len(header):
        if header[at : at + len(_ALERT_6)] == _ALERT_6:
            return True
        at += 1 if header[at] == _PAD_6 else 2 + int.from_bytes(header[at + 1 : at + 2])
    return False


def router_alert_6(following: int) -> bytes:
    """Return the hop-by-hop header with Router Alert for MLD; ``following`` is the next header."""
    return _HOP_BY_HOP_OPTIONS.pack(following, 0, _ALERT_6, 1, 0)


def build_ip(packet: IpPacket, tos: int = 0) -> bytes:
    """Build a whole packet. Its body has the checksum of its own protocol already."""
    source, destination = packet.source, packet.destination
    if isinstance(source, IPv4Address):
        options = ROUTER_ALERT_4 if packet.router_alert else b""
        size = _IPV4.size + len(options)
        fields = (0x40 | size // 4, tos, size + len(packet.body), 0, _DO_NOT_FRAGMENT, packet.ttl)
        ends = source.packed, destination.packed
        header = _IPV4.pack(*fields, packet.protocol, 0, *ends) + options
        checksum = internet_checksum(header)
        return _IPV4.pack(*fields, packet.protocol, checksum, *ends) + options + packet.body
    options = router_alert_6(packet.protocol) if packet.router_alert else b""
    following = _HOP_BY_HOP if packet.router_alert else packet.protocol
    first = 6 << 28 | tos << 20
    length = len(options) + len(packet.body)
    header = _IPV6.pack(first, length, following, packet.ttl, source.packed, destination.packed)
    return header + options + packet.body


def address(packed: bytes) -> Address:
    """Return the address of 4 or 16 bytes."""
    return ipaddress.ip_address(packed)
