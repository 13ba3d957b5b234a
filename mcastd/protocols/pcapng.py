"""pcapng, the file format of packet captures (draft-ietf-opsawg-pcapng): its blocks as bytes.

A file is a row of sections. Each begins with a section header; then come descriptions of interfaces, each
before the first packet that names it by its number in the section, and packets. All is little-endian here. A
block has its length, in bytes, at its beginning and at its end.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

from mcastd.ip import Address

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_BYTE_ORDER = 0x1A2B3C4D
_LENGTH_UNKNOWN = -1  # of a section, which ends where the file does or the next one begins
_RAW_IP = 101  # LINKTYPE_RAW: packets begin with their IP header, of either version
_NANOSECONDS = 9  # the unit of times: 10 to the power of minus 9 seconds

# Options: first those of any block, then of a section, an interface, a packet, and statistics.
_COMMENT = 1
_OS, _PROGRAM = 3, 4
_NAME, _DESCRIPTION, _RESOLUTION = 2, 3, 9
_PACKETS_DROPPED = 4
_DROPPED_BY_OS = 7

_HEAD = struct.Struct("<II")  # type and length of a block
_LENGTH = struct.Struct("<I")
_OPTION = struct.Struct("<HH")  # code and length, before the value
_COUNT = struct.Struct("<Q")
# Of a packet, up to its bytes: the block's head, interface, time (two halves), bytes here, bytes it had.
_PACKET_HEAD = struct.Struct("<IIIIIII")
# Where the time stands in that.
_TIME_AT = 12
# Room for blocks in a row is made for a multiple of so many.
_RUN_STEP = 32
_WORD_BYTES = 4

_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
_PROTOCOL_UDP = 17
_DONT_FRAGMENT = 0x4000

Endpoint = tuple[Address, int]  # an address and a port

# Bytes of a comment on a section: the length of an option is 16 bits.
COMMENT_MAX_BYTES = 1 << 15
# Bytes of the longest block that is written: a packet with a comment.
BLOCK_MAX_BYTES = 1 << 17


def section(os_name: str, program: str, comment: str = "") -> bytes:
    """The header that a section begins with, with a comment on all of it, cut after COMMENT_MAX_BYTES."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER, 1, 0, _LENGTH_UNKNOWN)
    options = [(_OS, os_name.encode()), (_PROGRAM, program.encode())]
    if comment:
        cut = comment.encode(errors="replace")[:COMMENT_MAX_BYTES].decode(errors="ignore")
        options.insert(0, (_COMMENT, cut.encode()))
    return _block(_SECTION, fixed, *options)


def interface(name: str, description: str) -> bytes:
    """The description of an interface: its packets begin with the IP header, their times are nanoseconds."""
    return _block(
        _INTERFACE,
        struct.pack("<HHI", _RAW_IP, 0, 0),
        (_NAME, name.encode(errors="replace")),
        (_DESCRIPTION, description.encode(errors="replace")),
        (_RESOLUTION, bytes([_NANOSECONDS])),
    )


def statistics(number: int, time: int, dropped: int) -> bytes:
    """How many packets the kernel has dropped so far, on the interface of ``number``; ``time`` in ns."""
    fixed = struct.pack("<III", number, time >> 32, time & 0xFFFFFFFF)
    return _block(_STATISTICS, fixed, (_DROPPED_BY_OS, _COUNT.pack(dropped)))


class Frame:
    """What stands before and after the payloads of one length that one sender sends to one group.

    ``number`` is the interface's in its section; ``headers`` are those of :func:`udp_headers`.
    """

    __slots__ = ("_headers", "_number", "_of_payload", "_size", "_total", "after")

    def __init__(self, number: int, headers: bytes, payload_size: int) -> None:
        self._number = number
        self._headers = headers
        self._size = len(headers) + payload_size
        # None: the headers are complete
        self._of_payload = None if headers[0] >> 4 == 4 else _pseudo_sum(headers)
        self.after = self._after(b"")
        self._total = _PACKET_HEAD.size + self._size + len(self.after)

    @property
    def is_complete(self) -> bool:
        """Return True if what stands before a payload does not depend on it."""
        return self._of_payload is None

    @property
    def total(self) -> int:
        """Bytes of a block."""
        return self._total

    def before(self, time: int, payload: bytes | memoryview) -> bytes:
        """The block up to its payload; ``time`` in nanoseconds since the epoch."""
        return self._before(time, payload, self._total)

    def noted(self, time: int, payload: bytes | memoryview, dropped: int) -> tuple[bytes, bytes]:
        """Before and after a payload that ``dropped`` packets are missing before, which the block says."""
        comment = f"the kernel dropped {dropped} before this: the receive buffer was full"
        options = _options((_PACKETS_DROPPED, _COUNT.pack(dropped)), (_COMMENT, comment.encode()))
        after = self._after(options)
        return self._before(time, payload, self._total + len(options)), after

    def _before(self, time: int, payload: bytes | memoryview, total: int) -> bytes:
        size, headers = self._size, self._headers
        if self._of_payload is not None:
            checksum = _complement(self._of_payload + _sum(payload)) or 0xFFFF
            headers = headers[:-2] + checksum.to_bytes(2)
        head = _PACKET_HEAD.pack(_PACKET, total, self._number, time >> 32, time & 0xFFFFFFFF, size, size)
        return head + headers

    def _after(self, options: bytes) -> bytes:
        padding = bytes(-self._size % 4)
        length = _PACKET_HEAD.size + self._size + len(padding) + len(options) + _LENGTH.size
        return padding + options + _LENGTH.pack(length)


class FrameRun:
    """Blocks in a row whose payloads have one length, made in one go: only their times differ.

    ```
      | before 0 | payload 0 | after, before 1 | payload 1 | after, before 2 | payload 2 | ... | after |
    ```
    """

    def __init__(self, frame: Frame) -> None:
        """The frame is complete."""
        self.length = frame.total  # bytes of each
        self._after = frame.after
        # So that times, and what is between payloads, are whole words
        self._skip = -len(self._after) % _WORD_BYTES
        self._unit = bytes(self._skip) + self._after + frame.before(0, b"")
        self._count = 0  # blocks that there is room for
        self._between: list[memoryview] = []  # before each payload, and after the one before it
        self._high = self._low = memoryview(b"")

    def pieces(
        self, times: Sequence[int], payloads: Sequence[bytes | memoryview]
    ) -> list[bytes | memoryview]:
        """What the blocks consist of, valid until the next call; ``times`` in nanoseconds since the epoch."""
        if (count := len(times)) > self._count:
            self._make(-(-count // _RUN_STEP) * _RUN_STEP)
        halves = array("Q", times)
        if sys.byteorder == "big":
            halves.byteswap()
        words = memoryview(halves).cast("B").cast("I")
        self._low[:count], self._high[:count] = words[::2], words[1::2]
        pieces: list[bytes | memoryview] = [self._after] * (2 * count + 1)
        pieces[:-1:2] = self._between[:count]
        pieces[1::2] = payloads
        return pieces

    def _make(self, count: int) -> None:
        unit = len(self._unit)
        memory = memoryview(bytearray(self._unit * count))
        self._between = [memory[start + self._skip : start + unit] for start in range(0, count * unit, unit)]
        self._between[0] = memory[self._skip + len(self._after) : unit]
        words, step = memory.cast("I"), unit // _WORD_BYTES
        high = (self._skip + len(self._after) + _TIME_AT) // _WORD_BYTES
        self._high, self._low = words[high::step], words[high + 1 :: step]
        self._count = count


def udp_headers(sender: Endpoint, to: Endpoint, hops: int, size: int) -> bytes:
    """The IP and UDP headers of a datagram of ``size`` bytes, as far as its receiver knows them.

    ``hops`` is the TTL or hop limit that was left. A UDP checksum of 0 is none, for IPv4; IPv6 requires one
    (RFC 8200 section 8.1), which depends on the payload, and 0 stands in its place.
    """
    (source, port), (group, group_port) = sender, to
    udp = _UDP.pack(port, group_port, _UDP.size + size, 0)
    if isinstance(source, IPv4Address):
        length = _IPV4.size + len(udp) + size
        fields = (0x45, 0, length, 0, _DONT_FRAGMENT, hops, _PROTOCOL_UDP)
        checksum = _complement(_sum(_IPV4.pack(*fields, 0, source.packed, group.packed)))
        return _IPV4.pack(*fields, checksum, source.packed, group.packed) + udp
    return _IPV6.pack(6 << 28, len(udp) + size, _PROTOCOL_UDP, hops, source.packed, group.packed) + udp


def whole(read: Callable[[int, int], bytes], size: int) -> int | None:
    """Return where the blocks of a file of ``size`` bytes end that are whole; a crash may have cut the last.

    ``read`` takes an offset and a number of bytes. None: it is no file of these blocks, or it is damaged
    before its end.
    """
    if not _SECTION.to_bytes(4).startswith(read(0, 4)):
        return None
    if size >= _LENGTH.size:
        (length,) = _LENGTH.unpack(read(size - _LENGTH.size, _LENGTH.size))
        if _HEAD.size < length <= size and _LENGTH.unpack(read(size - length + 4, 4)) == (length,):
            return size
    return _scan(read, size)


def _scan(read: Callable[[int, int], bytes], size: int) -> int | None:
    """The same, block by block from the beginning."""
    end = 0
    while size - end >= 3 * _LENGTH.size:
        kind, length, order = struct.unpack("<III", read(end, 12))
        if kind == _SECTION and order != _BYTE_ORDER:
            return None
        if length < 3 * _LENGTH.size or length % 4 or end + length > size:
            break
        end += length
    return end if size - end <= BLOCK_MAX_BYTES else None


def _block(kind: int, fixed: bytes, *options: tuple[int, bytes]) -> bytes:
    body = fixed + _options(*options)
    length = _HEAD.size + len(body) + _LENGTH.size
    return _HEAD.pack(kind, length) + body + _LENGTH.pack(length)


def _options(*options: tuple[int, bytes]) -> bytes:
    """Options, and what ends them."""
    made = (_OPTION.pack(code, len(value)) + value + bytes(-len(value) % 4) for code, value in options)
    return b"".join(made) + bytes(_OPTION.size)


def _sum(data: bytes | memoryview) -> int:
    """The one's complement sum of 16-bit words (RFC 1071), not yet folded: 2 to the 16th is 1 in it."""
    return (int.from_bytes(data) << 8 * (len(data) % 2)) % 0xFFFF


def _complement(total: int) -> int:
    return 0xFFFF - total % 0xFFFF


def _pseudo_sum(headers: bytes) -> int:
    """The sum of the pseudo header (RFC 8200 section 8.1) and the UDP header that end these headers."""
    udp = headers[_IPV6.size :]
    return _sum(headers[8 : _IPV6.size]) + _sum(udp) + int.from_bytes(udp[4:6]) + _PROTOCOL_UDP
