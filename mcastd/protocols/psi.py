"""Program-specific information of a transport stream: which programs there are, and of which PIDs each is.

H.222.0 section 2.4.4: tables in sections, which lie in the payloads of packets of a PID. The program
association table (PID 0) has the PID of each program's map; a map has the PIDs of its streams and its clock.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from mcastd.protocols.ts import Bytes

PAT_PID, PAT_TABLE, PMT_TABLE = 0, 0, 2
# A section is no longer than this; those of PAT and PMT are shorter.
SECTION_MAX_BYTES = 4096
_STUFFING = 0xFF  # where no further section begins, until the end of a payload
_HEAD_BYTES = 3  # of a section, up to its length
_LONG_HEAD_BYTES = 8
_CRC_BYTES = 4
# No table has shorter sections: with a CRC, and without (that of the time is the shortest, ETSI EN 300 468
# section 5.2.5). What follows a shorter one in a packet is not looked at.
_LONG_MIN_BYTES, _SHORT_MIN_BYTES = _LONG_HEAD_BYTES + _CRC_BYTES, 8
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class MalformedTableError(ValueError):
    """A section that is not as H.222.0 has it. ``reason`` is one of REASONS."""

    REASONS = ("crc", "short", "table", "length")

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Association(NamedTuple):
    """A section of the program association table (section 2.4.4.3)."""

    stream: int  # transport_stream_id
    version: int
    is_current: bool  # False: it holds later
    number: int  # of this section
    last_number: int  # of the last section of the table
    programs: dict[int, int]  # the PID of the map by the number of the program; 0: of the network's table


class ProgramMap(NamedTuple):
    """The map of a program (section 2.4.4.8)."""

    program: int
    version: int
    is_current: bool
    clock_pid: int  # that has its PCRs; NULL_PID: none has
    streams: dict[int, int]  # the type of the stream by its PID


class Sections:
    """Puts the sections of one PID together. It keeps less than a section and a payload."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_within = False  # a section has begun, and what follows belongs to it

    @property
    def is_idle(self) -> bool:
        """Return True if nothing has begun."""
        return not self._is_within

    def feed(self, payload: Bytes, starts_unit: bool) -> list[bytes]:
        """Take the payload of the next packet. Returns the sections that are complete, not checked yet."""
        if starts_unit:
            if not payload:
                return []
            begins = 1 + payload[0]  # pointer_field
            done = self._take(payload[1:begins]) if self._is_within else []
            self._begun.clear()
            self._is_within = True
            return done + self._take(payload[begins:])
        return self._take(payload) if self._is_within else []

    def lost(self) -> None:
        """A packet of the PID is missing: what has begun is given up."""
        self._begun.clear()
        self._is_within = False

    def _take(self, data: Bytes) -> list[bytes]:
        begun = self._begun
        begun += data
        done: list[bytes] = []
        at, end = 0, len(begun)
        while end - at >= _HEAD_BYTES and begun[at] != _STUFFING:
            length = _HEAD_BYTES + _length(begun, at + 1)
            if length > SECTION_MAX_BYTES:
                self.lost()
                return done
            if end - at < length:
                break
            done.append(bytes(begun[at : at + length]))
            if length < (_LONG_MIN_BYTES if begun[at + 1] & 0x80 else _SHORT_MIN_BYTES):
                self.lost()  # 60 of these in a packet would cost as much as 60 tables
                return done
            at += length
        del begun[:at]
        if begun and begun[0] == _STUFFING:
            self.lost()
        return done


def crc32(section: bytes) -> int:
    """The CRC of H.222.0 annex A; 0 for a section with the CRC at its end, if it is right.

    zlib has it with the bits of each byte, and those of the result, the other way round.
    """
    mirrored = zlib.crc32(section.translate(_REVERSED)) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_REVERSED))


def parse_association(section: bytes) -> Association:
    """Raises MalformedTableError."""
    body = _body(section, PAT_TABLE)
    if len(body) % 4:
        raise MalformedTableError("length")
    programs = {
        int.from_bytes(body[at : at + 2]): int.from_bytes(body[at + 2 : at + 4]) & 0x1FFF
        for at in range(0, len(body), 4)
    }
    stream, version, is_current = _identity(section)
    return Association(stream, version, is_current, section[6], section[7], programs)


def parse_map(section: bytes) -> ProgramMap:
    """Raises MalformedTableError."""
    body = _body(section, PMT_TABLE)
    if len(body) < 4:
        raise MalformedTableError("short")
    at = 4 + _length(body, 2)  # behind what describes the program
    streams = {}
    while at + 5 <= len(body):
        streams[int.from_bytes(body[at + 1 : at + 3]) & 0x1FFF] = body[at]
        at += 5 + _length(body, at + 3)
    if at != len(body):
        raise MalformedTableError("length")
    program, version, is_current = _identity(section)
    return ProgramMap(program, version, is_current, int.from_bytes(body[:2]) & 0x1FFF, streams)


def _length(data: Bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2]) & 0xFFF


def _identity(section: bytes) -> tuple[int, int, bool]:
    """The number of what it is about, its version, and if it holds now."""
    return int.from_bytes(section[3:5]), section[5] >> 1 & 0x1F, bool(section[5] & 1)


def _body(section: bytes, table: int) -> bytes:
    """What stands between header and CRC of a section of this table."""
    if len(section) < _LONG_HEAD_BYTES + _CRC_BYTES:
        raise MalformedTableError("short")
    if section[0] != table or not section[1] & 0x80:
        raise MalformedTableError("table")
    if len(section) != _HEAD_BYTES + _length(section, 1):
        raise MalformedTableError("length")
    if crc32(section):
        raise MalformedTableError("crc")
    return section[_LONG_HEAD_BYTES:-_CRC_BYTES]
