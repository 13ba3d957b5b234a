"""Announcements of sessions: packets of SAP (RFC 2974 section 6), and the groups that they go to.

```
   0               1          2        4
   V=1 A R T E C | auth len | msg id | origin | authentication data | "application/sdp", NUL | SDP
```

With A the origin has 16 bytes, else 4. T is a deletion. With C all that follows the authentication data is
compressed; with E it is encrypted, and refused, since no standard says how. Authentication data is skipped.
"""

from __future__ import annotations

import struct
import zlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import NamedTuple

from mcastd.ip import Address
from mcastd.protocols import sdp
from mcastd.protocols.lct import Malformed

PORT = 9875
# RFC 2974 section 3: what all announcements to one group may take.
LIMIT_BITS_PER_SECOND = 4000
# The shortest time in which a listener forgets a session that is no longer announced (section 4).
LIFETIME_MIN_SECONDS = 3600.0
# The same in times of the interval at which it was announced.
LIFETIME_INTERVALS = 10

_HEAD = struct.Struct(">BBH")
_VERSION_1 = 0x20
_VERSION_BITS = 0xE0
_IPV6, _DELETION, _ENCRYPTED, _COMPRESSED = 0x10, 0x04, 0x02, 0x01
_WORD_BYTES = 4
_TYPE = sdp.MEDIA_TYPE.encode() + b"\0"
# Bytes of the longest type of a payload that is looked at.
_TYPE_MAX_BYTES = 256
# Bytes of a payload at most, with its type.
_PAYLOAD_MAX_BYTES = sdp.DESCRIPTION_MAX_BYTES + _TYPE_MAX_BYTES

# Where sessions of a scope are announced: at its highest address (RFC 2974 section 3; scopes: RFC 2365, and
# RFC 5771 section 4 for the link).
_GLOBAL = IPv4Address("224.2.127.254")
_SCOPES = {
    IPv4Network("224.0.0.0/24"): IPv4Address("224.0.0.255"),  # the link
    IPv4Network("239.192.0.0/14"): IPv4Address("239.195.255.255"),  # the organization
    # "Local" is 239.255.0.0/16. All else of 239.0.0.0/8 has no scope of its own, and is announced here, too
    IPv4Network("239.0.0.0/8"): IPv4Address("239.255.255.255"),
}
# Scopes of IPv6 beyond one interface: link, realm, admin, site, organization, global (RFC 7346).
_IPV6_SCOPES = (0x2, 0x3, 0x4, 0x5, 0x8, 0xE)


def _of_ipv6_scope(scope: int) -> IPv6Address:
    """FF0x::2:7FFE, RFC 2974 section 3."""
    return IPv6Address(bytes([0xFF, scope]) + bytes(10) + b"\x00\x02\x7f\xfe")


# The groups of all scopes in which something may be announced.
GROUPS: tuple[Address, ...] = (_GLOBAL, *_SCOPES.values(), *map(_of_ipv6_scope, _IPV6_SCOPES))


def group_for(group: Address) -> Address:
    """Where a session is announced that sends to ``group``."""
    if isinstance(group, IPv6Address):
        return _of_ipv6_scope(group.packed[1] & 0x0F)
    return next((where for scope, where in _SCOPES.items() if group in scope), _GLOBAL)


class SapPacket(NamedTuple):
    origin: Address  # that the packet says; no program has to believe it
    message: int  # with the origin it names one version of a description; 0: it does not
    deletion: bool
    payload: bytes  # the description; of a deletion, its line ``o=``


def message_of(description: bytes) -> int:
    """A number for a version of a description, never 0."""
    checksum = zlib.crc32(description)
    return (checksum ^ checksum >> 16) & 0xFFFF or 1


def build(origin: Address, message: int, payload: bytes, *, deletion: bool = False) -> bytes:
    flags = _VERSION_1 | (_IPV6 if origin.version == 6 else 0) | (_DELETION if deletion else 0)
    return _HEAD.pack(flags, 0, message) + origin.packed + _TYPE + payload


def parse(packet: bytes) -> SapPacket:
    """Read a packet, which may be compressed. Raises Malformed; ``encrypted`` is among its reasons."""
    if len(packet) < _HEAD.size:
        raise Malformed("too-short", "the packet is shorter than a header of SAP")
    flags, words, message = _HEAD.unpack_from(packet)
    if flags & _VERSION_BITS != _VERSION_1:
        raise Malformed("version", f"the packet is of version {flags >> 5}, not 1")
    start = _HEAD.size + (16 if flags & _IPV6 else 4)
    if len(packet) < start + words * _WORD_BYTES:
        raise Malformed("too-short", "the packet ends before its header does")
    if flags & _ENCRYPTED:
        raise Malformed("encrypted", "the packet is encrypted")
    raw = packet[_HEAD.size : start]
    origin: Address = IPv6Address(raw) if flags & _IPV6 else IPv4Address(raw)
    content = packet[start + words * _WORD_BYTES :]
    if flags & _COMPRESSED:
        content = _decompress(content)
    if len(content) > _PAYLOAD_MAX_BYTES:
        raise Malformed("too-long", f"the payload is longer than {_PAYLOAD_MAX_BYTES} bytes")
    return SapPacket(origin, message, bool(flags & _DELETION), _without_type(content))


def _without_type(content: bytes) -> bytes:
    """The payload of a content that may begin with its type. Raises Malformed if that is not SDP."""
    if content.startswith((b"v=0", b"o=")):
        return content
    kind, nul, payload = content.partition(b"\0")
    if not nul or kind[:_TYPE_MAX_BYTES].strip().lower() != sdp.MEDIA_TYPE.encode():
        raise Malformed("payload-type", f"the payload is not {sdp.MEDIA_TYPE}")
    return payload


def _decompress(data: bytes) -> bytes:
    """What zlib has compressed, of which no more is made than a payload may have. Raises Malformed."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, _PAYLOAD_MAX_BYTES + 1)
    except zlib.error:
        raise Malformed("compression", "the payload cannot be decompressed") from None
    if not inflater.eof and len(content) <= _PAYLOAD_MAX_BYTES:
        raise Malformed("compression", "the payload ends before its compression does")
    return content
