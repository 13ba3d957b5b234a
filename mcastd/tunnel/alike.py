"""Datagrams in packets that are alike, as those of one busy stream, read by columns.

```
  row 0   | before | IP header: length . TTL UDP . source destination | ports length . | payload . . . |
  row 1   | before | the same, but for identification and checksum  . | the same     . | payload . . . |
```
The first is read by inner.py: what all have in common is looked at there. What is not like that goes there,
too.
Of checksums the sums are added up, so that one division tells of all: a wrong one shows, and two of them hide
each other as seldom as one is right by chance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import or_
from typing import NamedTuple

from mcastd.protocols.internet import UDP, length_of
from mcastd.protocols.packet_rows import ROOM_BYTES, PacketRows
from mcastd.rows import WORD_BYTES, ListedRows, RowBytes, Rows
from mcastd.tunnel.inner import TunnelledDatagram, whole_datagram

_UDP_HEADER = 8
_ONES = 0xFFFF


class _PlainHeader(NamedTuple):
    """Where things stand in an IP header without options, in bytes."""

    size: int
    protocol: int  # of the body
    ends: int  # source and destination begin; they end with the header
    differing: Sequence[int]  # words of 2 bytes that each packet has its own of


_IPV4, _IPV6 = _PlainHeader(20, 9, 12, (4, 10)), _PlainHeader(40, 6, 8, ())
_DESTINATIONS = {4: slice(16, 20), 6: slice(24, 40)}  # by version
_HEADERS = {0x45: _IPV4, **dict.fromkeys(range(0x60, 0x70), _IPV6)}  # by the first byte


Alike = tuple[TunnelledDatagram, list[RowBytes]]
"""The first datagram, and the payloads of all."""


def datagrams_alike(rows: Rows, before: int = 0) -> Alike | None:
    """The datagrams in packets, if there are several: of one sender and one size, and all right.

    ``before`` bytes stand before each packet, the same before all, and none behind it. None: they are not
    like that, and each is to be looked at by itself.
    """
    if len(rows) < 2:
        return None
    first = bytes(rows.row(0))[before:]
    header = _HEADERS.get(first[0]) if first else None
    if header is None or (datagram := _only_datagram(first, header)) is None:
        return None
    if not _have_heads_alike(rows, before, header) or not _have_checksums(rows, before, header):
        return None
    return datagram, rows.tails(before + header.size + _UDP_HEADER, 0, len(rows))


def by_group(rows: Rows, before: int) -> list[tuple[Rows, Sequence[int]]]:
    """Packets by the group that they go to, those of each in order, with their numbers among all."""
    count, destination = len(rows), _DESTINATIONS.get(rows.row(0)[before] >> 4 if rows.size > before else 0)
    if count < 2 or destination is None or rows.size < before + destination.stop:
        return [(rows, range(count))]
    size = destination.stop - destination.start
    cells = rows.cells(before + destination.start, size)
    if cells == cells[:size] * count:
        return [(rows, range(count))]
    found = defaultdict[bytes, list[int]](list)
    for number in range(count):
        found[cells[number * size : (number + 1) * size]].append(number)
    return [(ListedRows([*map(rows.row, numbers)]), numbers) for numbers in found.values()]


def packets_alike(packets: PacketRows) -> Alike | None:
    """The same of packets as they came in frames, which may have something behind them."""
    length = length_of(packets.packet(0, packets.lengths[0])[ROOM_BYTES:])
    return datagrams_alike(packets.rows(length)) if 0 < length <= packets.shortest else None


def _only_datagram(packet: bytes, header: _PlainHeader) -> TunnelledDatagram | None:
    """The datagram that is all of a packet behind such a header; None: there is none."""
    datagram = whole_datagram(packet)
    if datagram is None or packet[header.protocol] != UDP:  # behind extension headers
        return None
    return datagram if len(datagram.payload) == len(packet) - header.size - _UDP_HEADER else None


def _have_heads_alike(rows: Rows, before: int, header: _PlainHeader) -> bool:
    """Return True if all have the headers of the first, but for what is each one's own, and that is right."""
    body, count = before + header.size + _UDP_HEADER, len(rows)
    width = -(-body // WORD_BYTES) * WORD_BYTES
    if rows.size < width:
        return False
    heads = rows.cells(0, width)
    checksum, differing = body - 2, [before + at for at in header.differing]
    same = bytearray(heads)
    for at in (checksum, *differing):
        same[at::width] = same[at + 1 :: width] = bytes(count)
    for at in range(body, width):
        same[at::width] = bytes(count)
    if same != same[:width] * count or 0 in map(or_, heads[checksum::width], heads[checksum + 1 :: width]):
        return False  # a checksum of 0 is none: RFC 768
    # If the checksums of the headers are right, what differs adds up to the same in each
    first = heads[:width]
    return not sum(_sum(heads, at, width) - count * _sum(first, at, width) for at in differing) % _ONES


def _have_checksums(rows: Rows, before: int, header: _PlainHeader) -> bool:
    """Return True if the datagrams' checksums are right: RFC 768, RFC 8200 section 8.1.

    The sum over source, destination, protocol, length, and datagram is a multiple of 65535. The first two
    stand before the datagram; behind an odd number of bytes there is one of 0.
    """
    count, length = len(rows), rows.size - before - header.size
    total = sum(map(int.from_bytes, rows.tails(before + header.ends, 0, count)))
    return not ((total << 8 * (length % 2)) + count * (UDP + length)) % _ONES


def _sum(data: bytes, at: int, step: int) -> int:
    """The sum of the words of 2 bytes at ``at`` and each ``step`` bytes further."""
    return (sum(data[at::step]) << 8) + sum(data[at + 1 :: step])
