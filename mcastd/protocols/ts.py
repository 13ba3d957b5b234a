"""MPEG transport streams, packet by packet (ITU-T H.222.0 = ISO/IEC 13818-1, section 2.4.3).

```
   0      1                2          3                               4
   0x47   E U P PID(5)     PID(8)     scrambling(2) A D counter(4)    adaptation field, then payload
          E: it was damaged on its way (transport_error_indicator)    U: a unit begins in it
          A: it has an adaptation field                               D: it has a payload
```

A packet is named by the place ``at`` of its first byte in ``data``, which has all of it. No function reads
further than its end, whatever a length in the packet says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

PACKET_BYTES = 188
SYNC = b"\x47"
# Packets that are there to fill up have no counter.
NULL_PID = 0x1FFF
# Ticks per second, and the number of ticks after which they begin at 0 again: of the program clock (PCR), and
# of the times of presentation and decoding (PTS, DTS).
PCR_HZ, PCR_MODULUS = 27_000_000, (1 << 33) * 300
PTS_HZ, PTS_MODULUS = 90_000, 1 << 33
# Packets of other formats: with a time of 4 bytes before each (.m2ts), or with 16 bytes of parity behind it.
TIMED_PACKET_BYTES, PROTECTED_PACKET_BYTES = 192, 204
# This many packets in a row with a sync byte each are a transport stream.
SYNC_PACKETS = 5

# In byte 3 of a packet.
_ADAPTATION, _PAYLOAD, _COUNTER = 0x20, 0x10, 0x0F
# In byte 5, the flags of an adaptation field.
_DISCONTINUITY, _PCR = 0x80, 0x10
# Bytes of an adaptation field that has flags and a PCR.
_PCR_FIELD_BYTES = 7
# By byte 3: 1 if there is an adaptation field. By byte 1: 1 if a unit begins.
_IS_ADAPTED = bytes(byte & _ADAPTATION and 1 for byte in range(256))
_BEGINS_UNIT = bytes(byte >> 6 & 1 for byte in range(256))
_PES_START = b"\0\0\1"
# Stream ids whose PES packets have no header with times (table 2-21): maps, padding, private 2, ECM, EMM, ...
_PES_WITHOUT_TIMES = frozenset((0xBC, 0xBE, 0xBF, 0xF0, 0xF1, 0xF2, 0xF8, 0xFF))
# Stream ids of sound and pictures, and the one that stands for further ones.
_MEDIA = frozenset((*range(0xC0, 0xF0), 0xFD))

Bytes = bytes | bytearray | memoryview


class PacketHeader(NamedTuple):
    """The four bytes that a packet begins with."""

    pid: int
    is_damaged: bool  # the demodulator could not correct it (transport_error_indicator)
    starts_unit: bool  # a PES packet or a section begins in it
    scrambling: int  # 0: not scrambled
    has_adaptation: bool
    has_payload: bool
    counter: int  # continuity_counter, 0 to 15: one more with each packet of its PID that has a payload


class ClockSample(NamedTuple):
    """A packet that has a PCR."""

    at: int  # where it begins
    pid: int
    pcr: int  # ticks of 27 MHz, less than PCR_MODULUS
    is_discontinuous: bool  # the clock begins anew here (discontinuity_indicator)


class Unit(NamedTuple):
    """A PES packet with times."""

    pid: int
    pts_at: int  # where its PTS stands
    dts_at: int | None  # where its DTS stands; None: it has none
    decoded: int  # ticks of 90 kHz: its DTS, or its PTS if it has no other
    is_media: bool  # sound or pictures, by its stream id


def header_at(data: Bytes, at: int) -> PacketHeader:
    first, low, control = data[at + 1], data[at + 2], data[at + 3]
    return PacketHeader(
        (first & 0x1F) << 8 | low,
        bool(first & 0x80),
        bool(first & 0x40),
        control >> 6,
        bool(control & _ADAPTATION),
        bool(control & _PAYLOAD),
        control & _COUNTER,
    )


def pid_at(data: Bytes, at: int) -> int:
    return (data[at + 1] & 0x1F) << 8 | data[at + 2]


def is_discontinuous_at(data: Bytes, at: int) -> bool:
    """Return True if clock or counter of the packet's PID go on elsewhere, which is announced so."""
    return bool(data[at + 3] & _ADAPTATION and data[at + 4] and data[at + 5] & _DISCONTINUITY)


def pcr_at(data: Bytes, at: int) -> int | None:
    """The PCR of a packet, in ticks of 27 MHz; None if it has none."""
    if not (
        data[at + 3] & _ADAPTATION
        and _PCR_FIELD_BYTES <= data[at + 4] <= PACKET_BYTES - 5
        and data[at + 5] & _PCR
    ):
        return None
    value = int.from_bytes(data[at + 6 : at + 12])
    return ((value >> 15) * 300 + (value & 0x1FF)) % PCR_MODULUS


def clock_at(data: bytes, at: int) -> tuple[int, int | None, bool, bool]:
    """What a packet with an adaptation field says of a clock, in one call, which is what a packet costs.

    Returns its PID, its PCR or None, whether it is discontinuous, and whether it is damaged.
    """
    _, first, low, _, length, flags = data[at : at + 6]
    pcr = None
    if flags & _PCR and _PCR_FIELD_BYTES <= length <= PACKET_BYTES - 5:
        value = int.from_bytes(data[at + 6 : at + 12])
        pcr = ((value >> 15) * 300 + (value & 0x1FF)) % PCR_MODULUS
    is_discontinuous = length > 0 and flags & _DISCONTINUITY > 0
    return (first & 0x1F) << 8 | low, pcr, is_discontinuous, first & 0x80 > 0


def pcr_bytes(pcr: int) -> bytes:
    """The six bytes of a PCR, which stand at 6 in a packet."""
    base, extension = divmod(pcr % PCR_MODULUS, 300)
    return (base << 15 | 0x7E00 | extension).to_bytes(6)


def clocks(data: bytes | bytearray, start: int = 0) -> Iterator[ClockSample]:
    """The packets that have a PCR, of the whole ones from ``start`` on."""
    stop = start + (len(data) - start) // PACKET_BYTES * PACKET_BYTES
    adapted = data[start + 3 : stop : PACKET_BYTES].translate(_IS_ADAPTED)
    found = adapted.find(1)
    while found >= 0:
        at = start + found * PACKET_BYTES
        if data[at + 5] & _PCR and (pcr := pcr_at(data, at)) is not None:
            yield ClockSample(at, pid_at(data, at), pcr, is_discontinuous_at(data, at))
        found = adapted.find(1, found + 1)


def payload_at(data: Bytes, at: int) -> int:
    """Where the payload of a packet begins; the end of the packet if it has none."""
    control, end = data[at + 3], at + PACKET_BYTES
    if not control & _PAYLOAD:
        return end
    return min(at + 5 + data[at + 4], end) if control & _ADAPTATION else at + 4


def pes_times_at(data: Bytes, at: int) -> tuple[int | None, int | None]:
    """Where PTS and DTS stand, 5 bytes each, of the PES packet that begins in this packet; None: it has none.

    They are not found in what is scrambled, nor if the PES header goes on in another packet, which it hardly
    ever does.
    """
    if not data[at + 1] & 0x40 or data[at + 3] & 0xC0:
        return None, None
    start, end = payload_at(data, at), at + PACKET_BYTES
    if start + 9 > end or data[start : start + 3] != _PES_START or data[start + 3] in _PES_WITHOUT_TIMES:
        return None, None
    flags, length = data[start + 7] >> 6, data[start + 8]
    if data[start + 6] >> 6 != 2 or not flags & 2 or length < 5 or start + 14 > end:
        return None, None
    has_dts = flags == 3 and length >= 10 and start + 19 <= end
    return start + 9, start + 14 if has_dts else None


def units(data: bytes | bytearray) -> Iterator[Unit]:
    """The whole packets in which a PES packet begins that has times."""
    stop = len(data) // PACKET_BYTES * PACKET_BYTES
    begins = data[1:stop:PACKET_BYTES].translate(_BEGINS_UNIT)
    found = begins.find(1)
    while found >= 0:
        at = found * PACKET_BYTES
        pts, dts = pes_times_at(data, at)
        if pts is not None:
            is_media = data[payload_at(data, at) + 3] in _MEDIA
            yield Unit(pid_at(data, at), pts, dts, time_at(data, dts or pts), is_media)
        found = begins.find(1, found + 1)


def time_at(data: Bytes, at: int) -> int:
    """A PTS or DTS of 5 bytes: ticks of 90 kHz, less than PTS_MODULUS."""
    value = int.from_bytes(data[at : at + 5])
    return value >> 3 & 0x7 << 30 | value >> 2 & 0x7FFF << 15 | value >> 1 & 0x7FFF


def set_time(data: bytearray, at: int, time: int) -> None:
    """Put another time in the place of a PTS or DTS. The four bits that tell which it is stay."""
    value = (
        (data[at] & 0xF0) << 32 | (time & 0x7 << 30) << 3 | (time & 0x7FFF << 15) << 2 | (time & 0x7FFF) << 1
    )
    data[at : at + 5] = (value | 0x01_00_01_00_01).to_bytes(5)


def find_packets(data: bytes | bytearray, start: int = 0) -> int:
    """Where the first of SYNC_PACKETS packets in a row begins, from ``start`` on; -1 if there are none."""
    run = SYNC_PACKETS * PACKET_BYTES
    at = data.find(SYNC, start)
    while 0 <= at <= len(data) - run:
        if data[at : at + run : PACKET_BYTES] == SYNC * SYNC_PACKETS:
            return at
        at = data.find(SYNC, at + 1)
    return -1


def packet_length(data: bytes) -> int | None:
    """How long the packets in ``data`` are: 188, 192 or 204 bytes; None if it is no transport stream."""
    for length in (PACKET_BYTES, TIMED_PACKET_BYTES, PROTECTED_PACKET_BYTES):
        for start in range(length):
            if data[start : start + SYNC_PACKETS * length : length] == SYNC * SYNC_PACKETS:
                return length
    return None
