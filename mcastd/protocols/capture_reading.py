"""Captures that are read: the UDP datagrams of pcap and pcapng files, which are fed in pieces of any size.

pcap is draft-ietf-opsawg-pcap: a head, and records after it. pcapng is draft-ietf-opsawg-pcapng: see
pcapng.py, but here each section says its byte order. Between two pieces at most a part of one record or block
is kept.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from mcastd.clock import NANO
from mcastd.protocols.captured_packets import LINKS, Fault, Link, Unusable

# A packet or a description that claims to be longer makes the file a damaged one: nothing so long is kept.
RECORD_MAX_BYTES = 1 << 20
# Of one section.
INTERFACES_MAX = 65_536
# Reasons to skip a packet, beside those of captured_packets.Unusable.
LINK_TYPE = "link-type"  # its link type is not one of captured_packets.LINKS
NO_INTERFACE = "no-interface"  # the interface that it names was not described
REASONS = (*Unusable, LINK_TYPE, NO_INTERFACE)

# By the first bytes of a file: its byte order, and the nanoseconds in a unit of its fractions of a second.
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAP_HEAD_BYTES = 24
_PCAP_RECORD_BYTES = 16  # before the packet
_PCAP_LINK_MASK = 0xFFFF  # above that are flags

_SECTION_TYPE = b"\n\r\r\n"  # in either byte order
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_BLOCK_MIN_BYTES = 12  # type, length, and length again
_PACKET_HEAD_BYTES = 28  # of a packet's block, before the packet
_PACKET_BYTES = _PACKET_HEAD_BYTES + 4  # the least that its block has
# The blocks that are read, each kept until it is whole: the least and the most bytes of it.
_BLOCK_BYTES = {
    kind: (least, RECORD_MAX_BYTES)
    for kind, least in {
        _SECTION: 28,
        _INTERFACE: 20,
        _OLD_PACKET: _PACKET_BYTES,
        _SIMPLE_PACKET: 16,
        _PACKET: _PACKET_BYTES,
    }.items()
}
# All others are skipped as they come.
_OTHER_BLOCK_BYTES = _BLOCK_MIN_BYTES, 1 << 32
_BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_RESOLUTION, _OFFSET = 9, 14  # options of an interface
_MICROSECONDS = 6  # the resolution where none is given: 10 to the power of minus 6 seconds
_POWER_OF_TWO = 0x80  # set in a resolution that is one
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4", b"BZh": "bzip2"}

# A datagram of a capture: when it was captured, in nanoseconds since the epoch; its payload; the address that
# it went to, of 4 or 16 bytes, and the port.
Recorded = tuple[int, memoryview, bytes, int]
# A packet: its time as above; None if its link type is not known; where it begins and ends in the data.
_Captured = tuple[int, Link | None, int, int]


class Break(StrEnum):
    """Why a capture cannot be read to its end."""

    CUT = "cut"  # it ends within a block
    DAMAGED = "damaged"
    NO_CAPTURE = "no-capture"  # it is something else


class BrokenCapture(NamedTuple):
    reason: Break
    offset: int  # bytes: all before it was read
    cause: str


class Selection(NamedTuple):
    """Which datagrams of a capture are wanted."""

    destination: bytes | None = None  # an address of 4 or 16 bytes; None: any
    port: int | None = None  # None: any


ALL = Selection()


def is_capture(head: bytes) -> bool:
    """Return True if a file that begins with these bytes, four or more, is a capture."""
    return _Pcap.is_begun(head) or _Pcapng.is_begun(head)


class CaptureReader:
    """Reads a capture, of the format that its first bytes show."""

    def __init__(self, selection: Selection = ALL, skipped: Counter[str] | None = None) -> None:
        """``skipped`` counts packets by reason: those of a wanted stream, as far as that is known."""
        self.skipped = Counter[str]() if skipped is None else skipped
        self.others = 0  # packets that are not of UDP
        self.compressed_by = ""  # which program, if that is why it is no capture
        self.broken: BrokenCapture | None = None  # all that could be read was returned, nothing else will be
        self.selection = selection
        self._format: _Pcap | _Pcapng | None = None  # None: the first bytes have not come
        self._rest = b""  # what was not used of the last piece
        self._offset = 0  # of that in the file
        self._skip = 0  # bytes that follow, and that nobody needs

    def feed(self, data: bytes) -> list[Recorded]:
        """Return the datagrams that the next piece completes, in the order of the file."""
        if self.broken is not None:
            return []
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip, self._offset, data = self._skip - skipped, self._offset + skipped, data[skipped:]
            if self._skip:
                return []
        data = self._rest + data
        if self._format is None and not self._begin(data):
            self._rest = data
            return []
        assert self._format is not None
        recorded = self._read(data, self._format)
        used = self._format.used
        self._skip = max(0, used - len(data))
        self._rest = data[used:]
        self._offset += min(used, len(data))
        if self._format.damage:
            self.broken = BrokenCapture(Break.DAMAGED, self._offset, self._format.damage)
            self._rest = b""
        return recorded

    def finish(self) -> BrokenCapture | None:
        """The file has ended. Returns what keeps it from being whole; None: nothing does."""
        if self.broken is None and (self._rest or self._skip or self._format is None):
            if self._format is None and not is_capture(self._rest):
                self.broken = BrokenCapture(Break.NO_CAPTURE, 0, "it is too short to be a capture")
            else:
                self.broken = BrokenCapture(Break.CUT, self._offset, "the last block is cut")
        return self.broken

    def _begin(self, data: bytes) -> bool:
        """Find the format. Returns False as long as it does not show."""
        if len(data) < _PCAP_HEAD_BYTES:  # a section header is longer
            return False
        if _Pcap.is_begun(data):
            self._format = _Pcap(data)
        elif _Pcapng.is_begun(data):
            self._format = _Pcapng()
        else:
            known = (name for magic, name in _COMPRESSED.items() if data.startswith(magic))
            compressed = self.compressed_by = next(known, "")
            cause = f"it is compressed by {compressed}" if compressed else "it is neither pcap nor pcapng"
            self.broken = BrokenCapture(Break.NO_CAPTURE, 0, cause)
        return self._format is not None

    def _read(self, data: bytes, format: _Pcap | _Pcapng) -> list[Recorded]:
        wanted, wanted_port = self.selection
        view = memoryview(data)
        recorded: list[Recorded] = []
        for time, link, start, stop in format.packets(data, self.skipped):
            if link is None:
                self.skipped[LINK_TYPE] += 1
                continue
            found = link.datagram(data, start, stop)
            if found is None:
                self.others += 1
            elif isinstance(found, Fault):
                if wanted is None or found.destination in {wanted, b""}:
                    self.skipped[found.reason] += 1
            else:
                begin, end, destination, port = found
                if (wanted is None or destination == wanted) and (wanted_port is None or port == wanted_port):
                    recorded.append((time, view[begin:end], destination, port))
        return recorded


class _DamagedError(Exception):
    """A length or a count that no capture has."""


class _Pcap:
    """The records of a pcap file."""

    @staticmethod
    def is_begun(data: bytes) -> bool:
        return data[:4] in _PCAP

    def __init__(self, head: bytes) -> None:
        self.damage = ""
        self.used = 0
        order, self._unit = _PCAP[head[:4]]
        (link,) = struct.unpack_from(f"{order}I", head, 20)
        self._link = LINKS.get(link & _PCAP_LINK_MASK)
        self._record = struct.Struct(f"{order}IIII")
        self._begins_at = _PCAP_HEAD_BYTES

    def packets(self, data: bytes, _: Counter[str]) -> Iterator[_Captured]:
        """The packets that are whole in ``data``; afterwards ``used`` says how many bytes they took."""
        at, size, unpack, unit, link = (
            self._begins_at,
            len(data),
            self._record.unpack_from,
            self._unit,
            self._link,
        )
        self._begins_at = 0
        while size - at >= _PCAP_RECORD_BYTES:
            seconds, fraction, length, _length_on_wire = unpack(data, at)
            if length > RECORD_MAX_BYTES:
                self.damage = f"a packet of {length:,} bytes"
                break
            end = at + _PCAP_RECORD_BYTES + length
            if end > size:
                break
            yield seconds * NANO + fraction * unit, link, at + _PCAP_RECORD_BYTES, end
            at = end
        self.used = at


# Its link, None if that is not known; to how many bytes packets were cut, 0 if they were not; how many
# nanoseconds a unit of its times is, divided by the next number; and the nanoseconds to be added to them.
_Interface = tuple[Link | None, int, int, int, int]


class _Pcapng:
    """The blocks of a pcapng file."""

    @staticmethod
    def is_begun(data: bytes) -> bool:
        return data[:4] == _SECTION_TYPE

    def __init__(self) -> None:
        self.damage = ""
        self.used = 0
        self._interfaces: list[_Interface] = []
        self._time = 0  # of the last packet that has one
        self._set_order(next(iter(_BYTE_ORDERS)))  # the first section says it anew

    def packets(self, data: bytes, skipped: Counter[str]) -> Iterator[_Captured]:
        """The packets that are whole in ``data``; afterwards ``used`` says how many bytes to go on after.

        That may be more than there are: the rest of a block that has nothing of interest.
        """
        at, size, interfaces = 0, len(data), self._interfaces
        while size - at >= _BLOCK_MIN_BYTES:
            if size - at >= _PACKET_HEAD_BYTES:  # what almost all blocks are takes no call
                kind, length, number, high, low, captured = self._packet(data, at)
                end = at + length
                if (
                    kind == _PACKET
                    and captured <= length - _PACKET_BYTES
                    and end <= size
                    and not length % 4
                    and number < len(interfaces)
                ):
                    link, _, unit, divisor, offset = interfaces[number]
                    ticks = high << 32 | low
                    self._time = ticks * unit + offset if divisor == 1 else ticks * unit // divisor + offset
                    start = at + _PACKET_HEAD_BYTES
                    yield self._time, link, start, start + captured
                    at = end
                    continue
            try:
                end, packet = self._block(data, at, skipped)
            except _DamagedError as error:
                self.damage = str(error)
                break
            if packet is not None:
                yield packet
            if end == at:
                break
            at = end
        self.used = at

    def _block(self, data: bytes, at: int, skipped: Counter[str]) -> tuple[int, _Captured | None]:
        """The end of a block of any type, and the packet in it. The end is ``at`` if the block is not whole.

        Raises _DamagedError.
        """
        kind, length = self._head(data, at)
        if kind == _SECTION:
            self._set_order(data[at + 8 : at + 12])
            kind, length = self._head(data, at)
        least, most = _BLOCK_BYTES.get(kind, _OTHER_BLOCK_BYTES)
        if length % 4 or not least <= length <= most:
            raise _DamagedError(f"a block of type {kind:#x} with {length:,} bytes")
        end = at + length
        if kind in _BLOCK_BYTES and end > len(data):
            return at, None
        if kind == _SECTION:
            self._interfaces.clear()
        elif kind == _INTERFACE:
            self._describe(data[at + 8 : end - 4])
        elif kind in _BLOCK_BYTES:
            return end, self._captured(self._packet_fields(data, at, kind, length), end - 4, skipped)
        return end, None

    def _captured(
        self, fields: tuple[int, int | None, int, int], stop: int, skipped: Counter[str]
    ) -> _Captured | None:
        """The packet of a block with these fields that has room up to ``stop`` for it."""
        number, time, start, captured = fields
        if number >= len(self._interfaces):
            skipped[NO_INTERFACE] += 1
        elif start + captured > stop:
            skipped[Unusable.MALFORMED] += 1
        else:
            link, _, unit, divisor, offset = self._interfaces[number]
            if time is not None:
                self._time = time * unit // divisor + offset
            return self._time, link, start, start + captured
        return None

    def _packet_fields(
        self, data: bytes, at: int, kind: int, length: int
    ) -> tuple[int, int | None, int, int]:
        """Of a block of a packet: the interface's number, the time, where the packet begins, and its bytes.

        A simple packet block has no time, and tells how long the packet was on the wire.
        """
        if kind == _SIMPLE_PACKET:
            (on_wire,) = struct.unpack_from(f"{self._order}I", data, at + 8)
            snap = self._interfaces[0][1] if self._interfaces else 0
            return 0, None, at + 12, min(on_wire, length - 16, snap or on_wire)
        _, _, number, high, low, captured = self._packet(data, at)
        if kind == _OLD_PACKET:
            (number,) = struct.unpack_from(f"{self._order}H", data, at + 8)
        return number, high << 32 | low, at + _PACKET_HEAD_BYTES, captured

    def _set_order(self, magic: bytes) -> None:
        """Read on in the byte order in which ``magic`` was written. Raises _DamagedError."""
        if magic not in _BYTE_ORDERS:
            raise _DamagedError("a section of no known byte order")
        self._order = order = _BYTE_ORDERS[magic]
        self._head = struct.Struct(f"{order}II").unpack_from  # type, length
        self._packet = struct.Struct(f"{order}IIIIII").unpack_from  # and interface, time high and low, bytes

    def _describe(self, description: bytes) -> None:
        """Take note of an interface, which packets name by its number. Raises _DamagedError."""
        if len(self._interfaces) == INTERFACES_MAX:
            raise _DamagedError(f"more than {INTERFACES_MAX:,} interfaces")
        link, snap = struct.unpack_from(f"{self._order}HxxI", description)
        resolution, offset = _MICROSECONDS, 0
        for code, value in self._options(description[8:]):
            if code == _RESOLUTION and len(value) == 1:
                (resolution,) = value
            elif code == _OFFSET and len(value) == 8:
                (offset,) = struct.unpack(f"{self._order}q", value)
        exponent = resolution & ~_POWER_OF_TWO
        per_second = 2**exponent if resolution & _POWER_OF_TWO else 10**exponent
        whole = NANO % per_second == 0
        unit, divisor = (NANO // per_second, 1) if whole else (NANO, per_second)
        self._interfaces.append((LINKS.get(link), snap, unit, divisor, offset * NANO))

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        option = struct.Struct(f"{self._order}HH")
        at = 0
        while at + option.size <= len(data):
            code, length = option.unpack_from(data, at)
            at += option.size
            yield code, data[at : at + length]
            at += length + -length % 4
