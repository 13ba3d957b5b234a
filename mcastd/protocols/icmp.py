"""What a router tells the sender of a packet that is too long for the way on, and must not be cut.

IPv4: "fragmentation needed" (RFC 792, RFC 1191 section 4); IPv6: "packet too big" (RFC 4443 section 3.2).
"""

from __future__ import annotations

import struct

from mcastd.ip import Address
from mcastd.protocols.internet import ICMPV6, internet_checksum, read_ip

ICMP = 1

# Types and codes.
_UNREACHABLE, _FRAGMENTATION_NEEDED = 3, 4
_PACKET_TOO_BIG, _NO_CODE = 2, 0
_MESSAGE = struct.Struct("!BBHI")  # type, code, checksum, MTU: of IPv4 that is the lower half of the word
_CHECKSUM = slice(2, 4)
# Bytes of a packet with such a message at most (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c)), and of
# the headers before what it quotes.
_LONGEST = {4: 576, 6: 1280}
_HEADERS = {4: 20 + _MESSAGE.size, 6: 40 + _MESSAGE.size}


def too_big(packet: bytes, mtu: int) -> bytes | None:
    """Return the message to the sender of ``packet``, which is longer than the ``mtu`` bytes that go on.

    It is no longer than ``packet`` with its headers. The checksum of IPv6 is left to the kernel, which knows
    the address that it goes from. None: nobody may be told of such a packet (RFC 1812 section 4.3.2.7, RFC
    4443 section 2.4 (e)), as of one that is ICMP itself, or comes from no single host.
    """
    read = read_ip(packet)
    if read is None or read.protocol in (ICMP, ICMPV6) or not _is_one_host(read.source):
        return None
    if read.fragment is not None and read.fragment[1]:  # only the first one has ports, by which it is known
        return None
    version = read.version
    quoted = packet[: max(0, min(_LONGEST[version], len(packet)) - _HEADERS[version])]
    if version == 6:
        return _MESSAGE.pack(_PACKET_TOO_BIG, _NO_CODE, 0, mtu) + quoted
    message = bytearray(_MESSAGE.pack(_UNREACHABLE, _FRAGMENTATION_NEEDED, 0, mtu) + quoted)
    message[_CHECKSUM] = internet_checksum(bytes(message)).to_bytes(2)
    return bytes(message)


def _is_one_host(source: Address) -> bool:
    if source.is_multicast or source.is_unspecified or source.is_loopback:
        return False
    # Of IPv6 a link-local address says nothing without its link, of IPv4 a reserved one may be all hosts
    return not (source.is_link_local if source.version == 6 else source.is_reserved)
