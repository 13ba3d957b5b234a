"""What a sender left to its network card, done here: checksums, and long packets cut into datagrams.

The kernel says so of a packet by a ``struct virtio_net_hdr`` (linux/virtio_net.h), as between virtual
machines: the sender is on this host, in a container or a machine of it, and no card has touched its packets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mcastd.protocols.internet import internet_checksum

_ONES = 0xFFFF
_UDP_BYTES, _UDP_CHECKSUM_AT = 8, 6
_IPV6_BYTES = 40
_IDENTIFICATION_AT, _IPV4_CHECKSUM_AT = 4, 10
# Where source and destination stand in the header of each version.
_ADDRESSES = {4: slice(12, 20), 6: slice(8, 40)}
_LENGTHS = struct.Struct("!HH")
_UDP = 17


def complete_checksum(packet: bytearray, start: int, offset: int) -> None:
    """Fill in the checksum of what begins at ``start``; it stands ``offset`` bytes behind that.

    There, the sum of the pseudo-header stands already (CHECKSUM_PARTIAL, linux/skbuff.h). Raises IndexError
    or struct.error if the packet is shorter.
    """
    at = start + offset
    struct.pack_into("!H", packet, at, internet_checksum(bytes(packet[start:])) or _ONES)


def datagrams_of(packet: bytes, start: int, size: int) -> Iterator[bytes]:
    """Cut a packet whose UDP header is at ``start`` into packets with ``size`` bytes of payload each.

    So does UDP_SEGMENT. Identifications count up, and the last packet may be shorter. Raises struct.error if
    the packet is shorter than its headers.
    """
    version = packet[0] >> 4
    (identification,) = struct.unpack_from("!H", packet, _IDENTIFICATION_AT)
    payload = start + _UDP_BYTES
    ports = packet[start : start + 4]
    pseudo = packet[_ADDRESSES[version]]
    for number, at in enumerate(range(payload, len(packet), size)):
        body = packet[at : at + size]
        length = _UDP_BYTES + len(body)
        header = bytearray(packet[:start])
        if version == 4:
            struct.pack_into("!H", header, 2, start + length)
            struct.pack_into("!H", header, _IDENTIFICATION_AT, (identification + number) & _ONES)
            struct.pack_into("!H", header, _IPV4_CHECKSUM_AT, 0)
            struct.pack_into("!H", header, _IPV4_CHECKSUM_AT, internet_checksum(bytes(header)))
        else:
            struct.pack_into("!H", header, 4, start - _IPV6_BYTES + length)
        udp = ports + length.to_bytes(2)
        checksum = internet_checksum(b"".join((pseudo, _LENGTHS.pack(_UDP, length), udp, body))) or _ONES
        yield b"".join((header, udp, checksum.to_bytes(2), body))
