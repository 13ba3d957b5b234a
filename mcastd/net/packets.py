"""What an IP packet to a group is: a datagram, a fragment of one, a message of IGMP or MLD, a PIM hello.

Pure, and for packets from anybody: what is malformed decodes to None, nothing raises. So does a query that
hosts have to ignore: nobody is to be blamed for not answering it. IGMPv1 (RFC 1112
appendix I), IGMPv2 (RFC 2236), IGMPv3 (RFC 3376), MLDv1 (RFC 2710), MLDv2 (RFC 3810), PIM (RFC 7761).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple

from mcastd.ip import Address
from mcastd.protocols.internet import alerts_6, internet_checksum
from mcastd.protocols.membership import decode_time

IGMP, PIM, ICMPV6, FRAGMENT = socket.IPPROTO_IGMP, 103, socket.IPPROTO_ICMPV6, socket.IPPROTO_FRAGMENT
_EXTENSIONS = (socket.IPPROTO_HOPOPTS, socket.IPPROTO_ROUTING, socket.IPPROTO_DSTOPTS)
_PIM_HELLO = 0
_GENERAL = {4: ipaddress.IPv4Address(0), 6: ipaddress.IPv6Address(0)}  # the group of a query for all groups
# More do not fit into a packet.
_RECORDS_MAX = 8192
# IPv6 extension headers that are followed in one packet: hosts send fewer.
_MAX_EXTENSION_HEADERS = 16
_INCLUDE = (1, 3)  # MODE_IS_INCLUDE, CHANGE_TO_INCLUDE_MODE: without sources nobody wants the group


class Datagram(NamedTuple):
    """A UDP datagram, or the first fragment of one: only that has its ports."""

    source: Address
    group: Address
    port: int
    ttl: int
    size: int  # bytes of payload, all fragments together; of a coalesced packet all datagrams together
    fragmented: bool


class Fragment(NamedTuple):
    """A fragment of UDP that is not the first."""

    source: Address
    group: Address


class MembershipMessage(NamedTuple):
    """An IGMP or MLD message."""

    source: Address
    protocol: Literal["IGMP", "MLD"]
    version: int  # IGMP 1 to 3, MLD 1 or 2
    kind: Literal["query", "report", "leave"]
    groups: tuple[Address, ...]  # a query for all groups has none; of a report those that somebody wants
    within: float = 0.0  # seconds in which a query wants its answers


class Router(NamedTuple):
    """A PIM hello: a multicast router is on the link."""

    source: Address


Packet = Datagram | Fragment | MembershipMessage | Router


def decode(packet: bytes) -> Packet | None:
    """What the packet is that begins with an IP header; it may have been cut behind the UDP header."""
    try:
        if packet[0] >> 4 == 4:
            return _ipv4(packet)
        return _ipv6(packet) if packet[0] >> 4 == 6 else None
    except (IndexError, struct.error, ValueError):  # shorter than it says
        return None


def _ipv4(packet: bytes) -> Packet | None:
    header, end = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
    if header < 20:
        return None
    source, group = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
    protocol, cut = packet[9], int.from_bytes(packet[6:8], "big")
    more, offset = bool(cut & 0x2000), cut & 0x1FFF
    if protocol == socket.IPPROTO_UDP:
        return _udp(packet[header:], source, group, packet[8], offset=offset, more=more)
    if offset or more:
        return None
    body = packet[header:end]
    if protocol == IGMP and len(body) >= 8:
        return _igmp(body, source)
    return Router(source) if protocol == PIM and body[0] & 0xF == _PIM_HELLO else None


def _ipv6(packet: bytes) -> Packet | None:
    source, group = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
    following, start, end = packet[6], 40, 40 + int.from_bytes(packet[4:6], "big")
    offset, more, alert = 0, False, False
    for _ in range(_MAX_EXTENSION_HEADERS):
        if following not in _EXTENSIONS and following != FRAGMENT:
            break
        if following == FRAGMENT:
            cut = int.from_bytes(packet[start + 2 : start + 4], "big")
            offset, more, length = cut >> 3, bool(cut & 1), 8
        else:
            length = (packet[start + 1] + 1) * 8
            alert |= following == socket.IPPROTO_HOPOPTS and alerts_6(packet[start : start + length])
        following, start = packet[start], start + length
        if offset:
            break
    if following == socket.IPPROTO_UDP:
        return _udp(packet[start:], source, group, packet[7], offset=offset, more=more)
    body = packet[start:end]
    if offset or more or not body:
        return None
    if following == ICMPV6:
        return _mld(body, source, group, is_of_link=alert and packet[7] == 1 and source.is_link_local)
    return Router(source) if following == PIM and body[0] & 0xF == _PIM_HELLO else None


def _udp(
    body: bytes, source: Address, group: Address, ttl: int, *, offset: int, more: bool
) -> Datagram | Fragment | None:
    if offset:
        return Fragment(source, group)
    _, port, length, _ = struct.unpack_from("!HHHH", body)
    return Datagram(source, group, port, ttl, length - 8, more) if length >= 8 else None


def _igmp(body: bytes, source: Address) -> MembershipMessage | None:
    kind, code, group = body[0], body[1], ipaddress.IPv4Address(body[4:8])
    match kind:
        case 0x11:
            if (
                internet_checksum(body) or 8 < len(body) < 12
            ):  # RFC 3376 sections 4.1.2 and 7.1: ignored by all
                return None
            version = 3 if len(body) >= 12 else 2 if code else 1
            within = decode_time(code, 4) / 10 if code else 10.0  # RFC 2236 section 4: version 1 has none
            return MembershipMessage(source, "IGMP", version, "query", _asked(group), within)
        case 0x12 | 0x16:
            return MembershipMessage(source, "IGMP", 1 if kind == 0x12 else 2, "report", (group,))
        case 0x17:
            return MembershipMessage(source, "IGMP", 2, "leave", (group,))
        case 0x22:
            return MembershipMessage(source, "IGMP", 3, "report", tuple(_wanted(body, 4)))
    return None


def _mld(body: bytes, source: Address, to: Address, *, is_of_link: bool) -> MembershipMessage | None:
    kind = body[0]
    if kind == 143:
        return MembershipMessage(source, "MLD", 2, "report", tuple(_wanted(body, 16)))
    if kind not in (130, 131, 132) or len(body) < 24:
        return None
    group, code = ipaddress.IPv6Address(body[8:24]), int.from_bytes(body[4:6], "big")
    if kind == 130:
        pseudo = source.packed + to.packed + struct.pack("!II", len(body), ICMPV6)
        if not is_of_link or internet_checksum(pseudo + body):  # RFC 3810 section 6.2
            return None
        version = 2 if len(body) >= 28 else 1
        within = (decode_time(code, 12) if version == 2 else code) / 1000
        return MembershipMessage(source, "MLD", version, "query", _asked(group), within)
    return MembershipMessage(source, "MLD", 1, "report" if kind == 131 else "leave", (group,))


def _asked(group: Address) -> tuple[Address, ...]:
    return () if group == _GENERAL[group.version] else (group,)


def _wanted(body: bytes, width: int) -> Iterator[Address]:
    """The groups that a report of IGMPv3 or MLDv2 wants, from any source or some; as far as it is whole."""
    position = 8
    for _ in range(min(_RECORDS_MAX, int.from_bytes(body[6:8], "big"))):
        packed = body[position + 4 : position + 4 + width]
        if len(packed) < width:
            return
        kind, auxiliary, sources = struct.unpack_from("!BBH", body, position)
        if sources or kind not in _INCLUDE:
            yield ipaddress.ip_address(packed)
        position += 4 + width * (1 + sources) + auxiliary * 4
