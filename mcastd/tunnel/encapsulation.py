"""Packets of multicast made messages of AMT that carry them: RFC 7450 section 5.3.3.6.

A relay is a router, so a packet has lost one of its TTL when it is sent into a tunnel (RFC 1812 section
5.3.1, RFC 8200 section 3). All else of it stays: its identification, options, and the checksum of UDP.
The packets are changed where they lie, by columns: one step of Python for all of them.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from operator import le
from typing import NamedTuple

from mcastd.protocols.amt import DATA_HEADER
from mcastd.protocols.fragmenting import fragments
from mcastd.protocols.packet_rows import ROOM_BYTES, PacketRows

# Reasons to drop what came.
MALFORMED = "malformed"  # no IP packet, or one that is shorter than it says
TTL_TOO_LOW = "ttl"

assert len(DATA_HEADER) == ROOM_BYTES


class _Header(NamedTuple):
    """Where things stand in the header of an IP version, in bytes."""

    size: int  # of the shortest
    first: bytes  # values that the first byte may have
    key: slice  # source and destination


_HEADERS = {
    4: _Header(20, bytes(range(0x45, 0x50)), slice(12, 20)),
    6: _Header(40, bytes(range(0x60, 0x70)), slice(8, 40)),
}
# Of IPv4, the word that begins with the TTL and ends with the checksum.
_TTL_WORD_AT = 8
_HOP_LIMIT_AT = 7
_MAY_GO_ON = bytes(range(2, 256))
_ONE_LESS = bytes([0, *range(255)])
_ONE_MORE = bytes([*range(1, 256), 0])
# A checksum that begins so may carry when 0x0100 is added to it.
_MAY_CARRY = 0xFE
_MAY_NOT_CARRY = bytes(range(_MAY_CARRY))


class FlowMessages(NamedTuple):
    """Messages of what a sender sent to a group, in order."""

    key: bytes  # both addresses, packed, one behind the other
    messages: list[memoryview]
    size: int = 0  # bytes of each; 0: they may differ


def encapsulate(packets: PacketRows, dropped: Counter[str]) -> list[FlowMessages]:
    """Make a message of each packet, and count those of which none is made."""
    header = _HEADERS[packets.version]
    length = _common_length(packets, header)
    lengths = [] if length else _lengths(packets, header)
    ttls = _count_down_4(packets) if packets.version == 4 else _count_down_6(packets)
    may_go_on = not ttls.translate(None, _MAY_GO_ON)
    packets.fill_room(DATA_HEADER)
    key_at, width = header.key.start, header.key.stop - header.key.start
    if length and may_go_on:
        if key := packets.same(key_at, width):  # as a rule: one sender, whose datagrams are of one size
            return [FlowMessages(key, packets.packets(length), length + ROOM_BYTES)]
        messages: Sequence[memoryview | None] = packets.packets(length)
    else:
        messages = [*_messages(packets, lengths or [length] * len(packets), ttls, dropped)]
    keys = packets.cells(key_at, width)
    flows: dict[bytes, list[memoryview]] = {}
    for row, message in enumerate(messages):
        if message is not None:
            flows.setdefault(keys[row * width : (row + 1) * width], []).append(message)
    return [FlowMessages(key, found, length and length + ROOM_BYTES) for key, found in flows.items()]


def _common_length(packets: PacketRows, header: _Header) -> int:
    """The length that all packets have, as they say themselves; 0: they differ, or are not whole."""
    word = packets.same(0 if packets.version == 4 else 4, 4)
    firsts = word[:1] if packets.version == 4 else packets.column(0)
    if not word or firsts.translate(None, header.first):
        return 0
    (said,) = _unpack_lengths(packets.version, 1)(word)
    length = said + header.size if packets.version == 6 else said
    return length if header.size <= length <= packets.shortest else 0


def _lengths(packets: PacketRows, header: _Header) -> list[int]:
    """How long each packet is, as it says itself; 0: it is none, or is not whole."""
    unpack = _unpack_lengths(packets.version, len(packets))
    said = list(unpack(packets.cells(0 if packets.version == 4 else 4, 4)))
    if packets.version == 6:  # it counts what follows the header
        said = [header.size + one for one in said]
    firsts = packets.column(0)
    is_sound = not firsts.translate(None, header.first)
    if is_sound and min(said) >= header.size and all(map(le, said, packets.lengths)):
        return said
    return [
        one if first in header.first and header.size <= one <= came else 0
        for one, first, came in zip(said, firsts, packets.lengths, strict=True)
    ]


@lru_cache(maxsize=2 * 256)
def _unpack_lengths(version: int, count: int) -> Callable[[bytes], tuple[int, ...]]:
    """Unpacks the lengths in words of as many headers."""
    return struct.Struct("!" + ("2xH" if version == 4 else "H2x") * count).unpack


def _messages(
    packets: PacketRows, lengths: Sequence[int], ttls: bytes, dropped: Counter[str]
) -> Iterator[memoryview | None]:
    for row, (length, ttl) in enumerate(zip(lengths, ttls, strict=True)):
        if length and ttl > 1:
            yield packets.packet(row, length)
        else:
            dropped[TTL_TOO_LOW if length else MALFORMED] += 1
            yield None


def _count_down_4(packets: PacketRows) -> bytes:
    """Take one from the TTL of each packet; returns what they were.

    In a sum of 16 bits the TTL is an upper byte, so one less of it is 0x0100 more in the checksum: RFC 1141.
    """
    words = bytearray(packets.words(_TTL_WORD_AT))  # TTL, protocol, and the two bytes of the checksum
    ttls, uppers = bytes(words[0::4]), words[2::4]
    words[0::4], words[2::4] = ttls.translate(_ONE_LESS), uppers.translate(_ONE_MORE)
    if uppers.translate(None, _MAY_NOT_CARRY):
        for row in (row for row, upper in enumerate(uppers) if upper >= _MAY_CARRY):
            at = 4 * row + 2
            checksum = uppers[row] << 8 | words[at + 1]
            words[at : at + 2] = ((checksum + 0x0100) % 0xFFFF).to_bytes(2)  # one's complement: 0xFFFF is 0
    packets.set_words(_TTL_WORD_AT, words)
    return ttls


def _count_down_6(packets: PacketRows) -> bytes:
    """The same of the hop limit, which no checksum covers."""
    ttls = packets.column(_HOP_LIMIT_AT)
    packets.set_column(_HOP_LIMIT_AT, ttls.translate(_ONE_LESS))
    return ttls


class Fitting(NamedTuple):
    """Messages as they fit into a tunnel."""

    messages: list[bytes | memoryview]
    cut: int  # packets that were cut into several of these
    left_out: list[bytes | memoryview]  # too long, and must not be cut


def fitting(messages: Sequence[bytes | memoryview], most: int) -> Fitting:
    """Fit messages into a tunnel whose packets have ``most`` bytes at most.

    What is longer is cut into fragments, if it may be.
    """
    found: list[bytes | memoryview] = []
    left_out: list[bytes | memoryview] = []
    cut = 0
    for message in messages:
        if len(message) <= most + len(DATA_HEADER):
            found.append(message)
            continue
        packet = bytes(message[len(DATA_HEADER) :])
        pieces = fragments(packet, most) if packet[0] >> 4 == 4 else None
        if pieces is None:
            left_out.append(message)
        else:
            cut += 1
            found += [DATA_HEADER + piece for piece in pieces]
    return Fitting(found, cut, left_out)
