"""Datagrams in packets that are alike, as those of one busy stream, read by columns.

```
  row 0   | IP header: length . TTL UDP . source destination | ports length . | payload . . . |
  row 1   | the same . . . . . . . . . . . . . . . . . . . . . the same . . . | payload . . . |
```
What is not like that goes by inner.py. Of checksums the sums are added up, so that one division tells of all:
a wrong one shows, and two of them hide each other as seldom as one is right by chance.
"""

from __future__ import annotations

from operator import or_
from typing import NamedTuple

from mcastd.protocols.internet import UDP, address
from mcastd.protocols.packet_rows import PacketRows
from mcastd.tunnel.link.local import TakenDatagrams

_HEADER_4, _HEADER_6, _UDP_HEADER = 20, 40, 8
# Where source and destination begin; they end with the header.
_ENDS_4, _ENDS_6 = 12, 8
# Of IPv4 without options; all that a byte with the version of IPv6 may be.
_FIRST_4, _FIRST_6 = 0x45, bytes(range(0x60, 0x70))
# The upper byte of flags and fragment offset, of what is no fragment: nothing, or DF.
_WHOLE = b"\x00\x40"
_ONES = 0xFFFF


class _Headers(NamedTuple):
    """What all headers say."""

    size: int  # bytes of a header
    ends: int  # where source and destination begin in it
    length: int  # bytes of each packet
    ttl: int


def datagrams_alike(packets: PacketRows) -> TakenDatagrams | None:
    """The datagrams in packets, of which there is one at least: of one sender and one size, and all right.

    None: they are not, and each is to be looked at by itself.
    """
    headers = _headers_4(packets) if packets.version == 4 else _headers_6(packets)
    if headers is None:
        return None
    size, begin, length, ttl = headers
    if not size + _UDP_HEADER <= length <= packets.shortest:
        return None
    ends, ports = packets.same(begin, size - begin), packets.same(size, 4)
    said = packets.column(size + 4) + packets.column(size + 5)
    upper, lower = divmod(length - size, 256)
    if not ends or not ports or said != bytes([upper]) * len(packets) + bytes([lower]) * len(packets):
        return None
    half = len(ends) // 2
    group = address(ends[half:])
    if not group.is_multicast or not _has_checksums(packets, headers):
        return None
    payloads = [*map(bytes, _views(packets, size + _UDP_HEADER, length))]
    source_port, port = int.from_bytes(ports[:2]), int.from_bytes(ports[2:])
    return TakenDatagrams((address(ends[:half]), source_port), (group, port), ttl, payloads)


def _headers_4(packets: PacketRows) -> _Headers | None:
    first = packets.same(0, 4)
    if not first or first[0] != _FIRST_4:
        return None
    if packets.column(6).translate(None, _WHOLE) or any(packets.column(7)):
        return None
    ttls, count = packets.column(8), len(packets)
    if ttls.count(ttls[0]) != count or packets.column(9).count(UDP) != count:
        return None
    if sum(map(int.from_bytes, _views(packets, 0, _HEADER_4))) % _ONES:
        return None
    return _Headers(_HEADER_4, _ENDS_4, int.from_bytes(first[2:]), ttls[0])


def _headers_6(packets: PacketRows) -> _Headers | None:
    second = packets.same(4, 4)
    if not second or second[2] != UDP or packets.column(0).translate(None, _FIRST_6):
        return None
    return _Headers(_HEADER_6, _ENDS_6, _HEADER_6 + int.from_bytes(second[:2]), second[3])


def _has_checksums(packets: PacketRows, headers: _Headers) -> bool:
    """Return True if there is a checksum in each datagram, and it is right: RFC 768, RFC 8200 section 8.1.

    The sum over source, destination, protocol, length, and datagram is a multiple of 65535. The first two
    stand before the datagram; behind an odd number of bytes there is one of 0.
    """
    size, begin, length, _ = headers
    if 0 in map(or_, packets.column(size + 6), packets.column(size + 7)):
        return False
    total = sum(map(int.from_bytes, _views(packets, begin, length)))
    return not ((total << 8 * ((length - begin) % 2)) + len(packets) * (UDP + length - size)) % _ONES


def _views(packets: PacketRows, start: int, stop: int) -> list[memoryview]:
    """Bytes from ``start`` to ``stop`` of all packets."""
    return packets.memory.views(packets.start, packets.stride, slice(start, stop), 0, len(packets))
