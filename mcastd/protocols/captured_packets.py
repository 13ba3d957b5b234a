"""The UDP datagram in a packet of a capture: where its payload lies, behind the headers of link and IP.

Link types are numbers of https://www.tcpdump.org/linktypes.html. IPv4 is RFC 791, IPv6 and its extension
headers are RFC 8200, and RFC 4302 for the authentication header. Before IP there may be VLAN tags, PPPoE
(RFC 2516), as on the line of a subscriber, and labels of MPLS (RFC 3032).
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

ETHERNET, LINUX_COOKED, LINUX_COOKED_2 = 1, 113, 276
RAW_IP, IPV4, IPV6 = 101, 228, 229
# The same as raw IP, by the numbers that some systems have for it: programs have written these to files.
RAW_IP_HOST, RAW_IP_OPENBSD = 12, 14
NULL, LOOP = 0, 108


class Unusable(StrEnum):
    """Why there is no whole datagram in a packet that should have one, or a part of one."""

    FRAGMENT = "fragment"  # of an IP packet
    SNAPPED = "snapped"  # the capture has the beginning of the packet alone
    MALFORMED = "malformed"  # the lengths in its headers contradict each other


# Where a payload begins and ends in the bytes that were given; the address that it went to, of 4 or 16 bytes,
# and the port.
UdpPayload = tuple[int, int, bytes, int]


class Fault(NamedTuple):
    reason: Unusable
    destination: bytes  # 4 or 16; none if the packet is cut before it


_IPV4_TYPE, _IPV6_TYPE = b"\x08\x00", b"\x86\xdd"
# Tags of VLANs, each of 4 bytes: IEEE 802.1Q, 802.1ad, and one that was used before that.
_TAGS = {b"\x81\x00", b"\x88\xa8", b"\x91\x00"}
_TAG_BYTES = 4
_PPPOE_SESSION = b"\x88\x64"
_PPPOE_BYTES = 8  # with the protocol of PPP, which stands at 6
_OF_PPP = {b"\x00\x21": _IPV4_TYPE, b"\x00\x57": _IPV6_TYPE}
_MPLS = {b"\x88\x47", b"\x88\x48"}
_LABEL_BYTES = 4

_UDP = 17
_UDP_BYTES = 8
_IPV4_BYTES = 20
_IPV6_BYTES = 40
_FRAGMENT = 0x3FFF  # MF and the offset, in IPv4
# Version and header length, total length, fragment, protocol, destination
_IPV4 = ">BxHxxHxBxx4x4s"
_PLAIN_IPV4 = 0x45  # version 4, no options
_IPV6 = struct.Struct(">4xHBx16x16s")  # payload length, next header, destination
_UDP_HEADER = "xxHHxx"  # port, length
_FIND_IPV4 = struct.Struct(_IPV4)
_FIND_UDP = struct.Struct(f">{_UDP_HEADER}")

# Extension headers of IPv6 with a length in units of 8 bytes, less the first: hop-by-hop, routing,
# destination options, mobility, HIP and shim6.
_OPTIONS = {0, 43, 60, 135, 139, 140}
_FRAGMENT_HEADER = 44
_FRAGMENT_HEADER_BYTES = 8
_MORE_FRAGMENTS = 0xFFF9  # the offset and M of a fragment header: 0 is a whole packet (RFC 6946)
_AUTHENTICATION = 51


class Link:
    """What packets of one link type have before their IP header."""

    def __init__(self, header: int, type_at: int | None = None) -> None:
        """``header`` is in bytes; the EtherType is at ``type_at`` of them. None: there is none."""
        self._header = header
        self._type_at = type_at
        before = f"0s{header}x" if type_at is None else f"{type_at}x2s{header - type_at - 2}x"
        self._plain = struct.Struct(f">{before}{_IPV4[1:]}{_UDP_HEADER}")
        self._plain_type = b"" if type_at is None else _IPV4_TYPE

    def datagram(self, data: bytes, start: int, stop: int) -> UdpPayload | Fault | None:
        """The datagram in the packet of ``data`` from ``start`` up to ``stop``; None: it is not of UDP."""
        plain = self._plain
        at = start + plain.size
        if at <= stop:
            kind, first, size, fragment, protocol, destination, port, length = plain.unpack_from(data, start)
            if (
                first == _PLAIN_IPV4
                and protocol == _UDP
                and not fragment & _FRAGMENT
                and _UDP_BYTES <= length <= size - _IPV4_BYTES
                and kind == self._plain_type
                and (end := at + length - _UDP_BYTES) <= stop
            ):
                return at, end, destination, port
        return self._find(data, start, stop)

    def _find(self, data: bytes, start: int, stop: int) -> UdpPayload | Fault | None:
        """The same, of any packet."""
        at = start + self._header
        if self._type_at is not None and at <= stop:
            type_at = start + self._type_at
            kind = data[type_at : type_at + 2]
            while kind in _TAGS and at + _TAG_BYTES <= stop:
                kind = data[at + 2 : at + 4]
                at += _TAG_BYTES
            if kind == _PPPOE_SESSION and at + _PPPOE_BYTES <= stop:
                kind = _OF_PPP.get(data[at + 6 : at + 8], b"")
                at += _PPPOE_BYTES
            elif kind in _MPLS:
                is_last = False
                while not is_last and at + _LABEL_BYTES <= stop:
                    is_last = bool(data[at + 2] & 1)
                    at += _LABEL_BYTES
                kind = _IPV4_TYPE if is_last else kind
            if kind in _TAGS or kind == _PPPOE_SESSION or kind in _MPLS:
                return Fault(Unusable.SNAPPED, b"")
            if kind not in {_IPV4_TYPE, _IPV6_TYPE}:
                return None
        if at >= stop:
            return Fault(Unusable.SNAPPED, b"")
        match data[at] >> 4:
            case 4:
                return _in_ipv4(data, at, stop)
            case 6:
                return _in_ipv6(data, at, stop)
        return None


# By link type.
LINKS = {
    NULL: Link(4),
    LOOP: Link(4),
    RAW_IP: Link(0),
    RAW_IP_HOST: Link(0),
    RAW_IP_OPENBSD: Link(0),
    IPV4: Link(0),
    IPV6: Link(0),
    ETHERNET: Link(14, 12),
    LINUX_COOKED: Link(16, 14),
    LINUX_COOKED_2: Link(20, 0),
}


def _in_ipv4(data: bytes, at: int, stop: int) -> UdpPayload | Fault | None:
    if at + _IPV4_BYTES > stop:
        return Fault(Unusable.SNAPPED, b"")
    first, size, fragment, protocol, destination = _FIND_IPV4.unpack_from(data, at)
    if protocol != _UDP:
        return None
    if fragment & _FRAGMENT:
        return Fault(Unusable.FRAGMENT, destination)
    header = 4 * (first & 0x0F)
    if header < _IPV4_BYTES:
        return Fault(Unusable.MALFORMED, destination)
    return _in_udp(data, at + header, at + size, stop, destination)


def _in_ipv6(data: bytes, at: int, stop: int) -> UdpPayload | Fault | None:
    if at + _IPV6_BYTES > stop:
        return Fault(Unusable.SNAPPED, b"")
    size, kind, destination = _IPV6.unpack_from(data, at)
    at += _IPV6_BYTES
    end = at + size
    while kind != _UDP:
        is_header = kind in _OPTIONS or kind in {_FRAGMENT_HEADER, _AUTHENTICATION}
        if is_header and at + _FRAGMENT_HEADER_BYTES > stop:
            return Fault(Unusable.SNAPPED, destination)
        if kind in _OPTIONS:
            length = 8 * (data[at + 1] + 1)
        elif kind == _AUTHENTICATION:
            length = 4 * (data[at + 1] + 2)
        elif kind == _FRAGMENT_HEADER:
            if int.from_bytes(data[at + 2 : at + 4]) & _MORE_FRAGMENTS:
                return Fault(Unusable.FRAGMENT, destination)
            length = _FRAGMENT_HEADER_BYTES
        else:
            return None
        kind, at = data[at], at + length
    return _in_udp(data, at, end, stop, destination)


def _in_udp(data: bytes, at: int, end: int, stop: int, destination: bytes) -> UdpPayload | Fault:
    """The datagram at ``at``, of a packet that ends at ``end``, and whose capture ends at ``stop``."""
    if at + _UDP_BYTES > end:
        return Fault(Unusable.MALFORMED, destination)
    if at + _UDP_BYTES > stop:
        return Fault(Unusable.SNAPPED, destination)
    port, length = _FIND_UDP.unpack_from(data, at)
    if length < _UDP_BYTES or at + length > end:
        return Fault(Unusable.MALFORMED, destination)
    if at + length > stop:
        return Fault(Unusable.SNAPPED, destination)
    return at + _UDP_BYTES, at + length, destination, port
