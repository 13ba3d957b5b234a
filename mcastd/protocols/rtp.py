"""RTP packets (RFC 3550 section 5): headers read, taken off, and built.

```
  0               1               2               3
  | V=2 P X CC    | M    PT       | sequence                      |
  | timestamp                                                     |
  | SSRC                                                          |
  | CC words of CSRC . . .  | with X: profile, length, that many words . . .
  | payload . . .           | with P: padding, of which the last byte is its length
```
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mcastd.rows import RowBytes, Rows

HEADER_BYTES = 12
VERSION = 2
# The first byte of a packet without padding, extension and CSRC.
PLAIN = VERSION << 6
PADDING_BIT, EXTENSION_BIT, CSRC_COUNT_MASK = 0x20, 0x10, 0x0F
MARKER_BIT, PAYLOAD_TYPE_MASK = 0x80, 0x7F
SEQUENCE_NUMBERS = 1 << 16
TIMESTAMPS = 1 << 32
# MPEG-TS and its clock: RFC 3551 section 6, RFC 2250 section 2.
MPEG_TS_PAYLOAD_TYPE = 33
MPEG_TS_CLOCK_HZ = 90_000
# The second bytes of RTCP packets, which may share the port: RFC 5761 section 4. No payload type is read from
# them, since those from 64 to 95 are kept free for that.
RTCP_TYPES = range(192, 224)

# Clocks of the payload types that RFC 3551 assigns, in Hz: tables 4 and 5.
CLOCKS_HZ = {
    **dict.fromkeys((0, 3, 4, 5, 7, 8, 9, 12, 13, 15, 18), 8_000),
    **dict.fromkeys((10, 11), 44_100),
    **dict.fromkeys((14, 25, 26, 28, 31, 32, MPEG_TS_PAYLOAD_TYPE, 34), MPEG_TS_CLOCK_HZ),
    6: 16_000,
    16: 11_025,
    17: 22_050,
}

_FIXED = struct.Struct(">BBHII")
_EXTENSION = struct.Struct(">2xH")
_SEQUENCES = array("H", range(SEQUENCE_NUMBERS))
if sys.byteorder == "little":
    _SEQUENCES.byteswap()


@dataclass(frozen=True, slots=True)
class RtpPacket:
    """The header of one packet, and where its payload is."""

    marker: bool
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    begin: int  # of the payload: behind CSRC and extension
    end: int  # of the payload: before the padding


def read_packet(packet: RowBytes) -> RtpPacket | None:
    """Read one packet. Returns None if it is not RTP, or is RTCP: see RFC 3550 appendix A.1."""
    if (span := payload_span(packet)) is None or packet[1] in RTCP_TYPES:
        return None
    _, second, sequence, timestamp, ssrc = _FIXED.unpack_from(packet)
    return RtpPacket(bool(second & MARKER_BIT), second & PAYLOAD_TYPE_MASK, sequence, timestamp, ssrc, *span)


def payload_span(packet: RowBytes) -> tuple[int, int] | None:
    """Where the payload of a packet begins and ends. Returns None if it is not RTP.

    It may be empty. RFC 3550 sections 5.1 and 5.3.1: the last byte of padding counts all of it, and the
    length of an extension counts words after its first one.
    """
    length = len(packet)
    if length < HEADER_BYTES or (first := packet[0]) >> 6 != VERSION:
        return None
    if first == PLAIN:
        return HEADER_BYTES, length
    begin = HEADER_BYTES + 4 * (first & CSRC_COUNT_MASK)
    if first & EXTENSION_BIT:
        if begin + _EXTENSION.size > length:
            return None
        begin += 4 + 4 * _EXTENSION.unpack_from(packet, begin)[0]
    if begin > length:
        return None
    if not first & PADDING_BIT:
        return begin, length
    padding = packet[-1]
    return (begin, length - padding) if 0 < padding <= length - begin else None


def ssrc_text(ssrc: int) -> str:
    """An SSRC as people write it, and as the setting ``ssrc`` takes it."""
    return f"0x{ssrc:08X}"


def is_rtcp(packet: RowBytes) -> bool:
    """Return True if it is a packet of RTCP, which may come to the same port (RFC 5761)."""
    return len(packet) >= 4 and packet[0] >> 6 == VERSION and packet[1] in RTCP_TYPES


def payloads(rows: Rows) -> list[RowBytes]:
    """The payloads of packets: headers, extensions and padding are taken off.

    Of what is not RTP, all is payload.
    """
    count = len(rows)
    if rows.size >= HEADER_BYTES and rows.words(0, 0, count)[::4].count(PLAIN) == count:
        return rows.tails(HEADER_BYTES, 0, count)
    packets = [rows.row(index) for index in range(count)]
    return [packet[slice(*(payload_span(packet) or (0, None)))] for packet in packets]


def timestamps(headers: bytes) -> list[int]:
    """The timestamps of fixed headers, one after another."""
    return memoryview(_native(array("I", headers)))[1 :: HEADER_BYTES // 4].tolist()


def _native(column: array[int]) -> array[int]:
    """A column as it was received, in the host's byte order."""
    if sys.byteorder == "little":
        column.byteswap()
    return column


def build_headers(
    payload_type: int, sequence: int, timestamps: Sequence[int], ssrc: int, *, marked: Collection[int] = ()
) -> bytes:
    """Build the headers of consecutive packets, one after another: HEADER_BYTES each.

    ``sequence`` is that of the first one. Sequence numbers and ``timestamps`` are taken modulo their range,
    so they may count on for ever. ``marked`` has the indexes of those with the marker bit.
    """
    count = len(timestamps)
    if not count:
        return b""
    sequence %= SEQUENCE_NUMBERS
    headers = bytearray(_FIXED.pack(PLAIN, payload_type, 0, 0, ssrc) * count)
    cells = memoryview(headers)
    begin = 0
    while begin < count:
        run = min(count - begin, SEQUENCE_NUMBERS - sequence)
        place = 1 + begin * HEADER_BYTES // 2
        columns = cells.cast("H")[place : place + run * HEADER_BYTES // 2 : HEADER_BYTES // 2]
        columns[:] = memoryview(_SEQUENCES)[sequence : sequence + run]
        begin, sequence = begin + run, 0
    stamps = _native(array("I", [timestamp % TIMESTAMPS for timestamp in timestamps]))
    cells.cast("I")[1 :: HEADER_BYTES // 4] = memoryview(stamps)
    for index in marked:
        headers[index * HEADER_BYTES + 1] |= MARKER_BIT
    return bytes(headers)
