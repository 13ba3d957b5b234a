"""LCT headers (RFC 5651 section 5): any legal one is parsed, and one form of them is built.

What is built has C=0, S=1, O=1 and H=0, so that all packets of an object have headers of one length:

```
   0      1     2        3
   V,C    S,O   HDR_LEN  codepoint          V=1; A and B are in byte 1
   congestion control information           0
   TSI                                      32 bits
   TOI                                      32 bits
   header extensions ...
```
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

VERSION = 1
# Header extension types: RFC 5651 section 5.2, RFC 5775 section 4.2, RFC 6726 section 3.4.
EXT_TIME = 2
EXT_FTI = 64
EXT_FDT = 192
EXT_CENC = 193
# Extensions from this type on are one word, and have no length field.
FIXED_EXTENSIONS = 128
# Bytes of the longest header: HDR_LEN counts words in 8 bits.
HEADER_MAX_BYTES = 255 * 4
# Bytes of the first word and the shortest congestion control information, which every header has.
HEADER_MIN_BYTES = 8
# Bytes of what is built, without extensions.
BUILT_BYTES = 16

_BUILT = struct.Struct(">BBBBIII")
_CLOSE_SESSION = 0x02
_CLOSE_OBJECT = 0x01


class Malformed(ValueError):
    """Bytes that are not what they have to be. ``reason`` is a code for programs, as "header-length"."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason


class LctHeader(NamedTuple):
    """A header; ``tsi`` and ``toi`` are None where it has no such field."""

    tsi: int | None
    toi: int | None
    codepoint: int
    size: int  # bytes, with extensions
    close_session: bool  # the A flag
    close_object: bool  # the B flag
    extensions: Mapping[int, bytes]  # by type, without type and length; the first of each type


def parse(packet: bytes | memoryview) -> LctHeader:
    """The header at the beginning of a packet. Raises Malformed.

    Congestion control information and reserved bits are skipped.
    """
    if len(packet) < HEADER_MIN_BYTES:
        raise Malformed("short", f"{len(packet)} bytes are too few for an LCT header")
    first, second, words, codepoint = packet[:4]
    if first >> 4 != VERSION:
        raise Malformed("version", f"LCT version {first >> 4} is not {VERSION}")
    size = words * 4
    halfword = second >> 4 & 1
    tsi_at = 8 + 4 * (first >> 2 & 3)
    toi_at = tsi_at + 4 * (second >> 7) + 2 * halfword
    extensions_at = toi_at + 4 * (second >> 5 & 3) + 2 * halfword
    if not extensions_at <= size <= len(packet):
        raise Malformed(
            "header-length",
            f"a header of {size} bytes has fields of {extensions_at}, in a packet of {len(packet)}",
        )
    return LctHeader(
        _number(packet[tsi_at:toi_at]),
        _number(packet[toi_at:extensions_at]),
        codepoint,
        size,
        bool(second & _CLOSE_SESSION),
        bool(second & _CLOSE_OBJECT),
        _extensions(packet[extensions_at:size]),
    )


def _number(field: bytes | memoryview) -> int | None:
    return int.from_bytes(field, "big") if len(field) else None


def _extensions(field: bytes | memoryview) -> Mapping[int, bytes]:
    """By type, from a field that is a whole number of words (RFC 5651 section 5.2.1)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(field):
        kind = field[at]
        start, size = (1, 4) if kind >= FIXED_EXTENSIONS else (2, 4 * field[at + 1])
        if not 0 < size <= len(field) - at:
            raise Malformed("extension-length", f"extension {kind} says that it has {size} bytes")
        found.setdefault(kind, bytes(field[at + start : at + size]))
        at += size
    return found


def build(
    tsi: int,
    toi: int,
    codepoint: int,
    extensions: bytes = b"",
    *,
    close_session: bool = False,
    close_object: bool = False,
) -> bytes:
    """A header of 16 bytes and the ``extensions``, which are made by :func:`extension`.

    Raises ValueError for a TSI or TOI of more than 32 bits, and for too many extensions.
    """
    size = BUILT_BYTES + len(extensions)
    if len(extensions) % 4 or size > HEADER_MAX_BYTES:
        raise ValueError(f"extensions of {len(extensions)} bytes do not fit into an LCT header")
    flags = _CLOSE_SESSION * close_session | _CLOSE_OBJECT * close_object
    try:
        return _BUILT.pack(VERSION << 4, 0xA0 | flags, size // 4, codepoint, 0, tsi, toi) + extensions
    except struct.error as error:
        raise ValueError(f"TSI {tsi}, TOI {toi} or codepoint {codepoint} does not fit: {error}") from None


def extension(kind: int, content: bytes) -> bytes:
    """A header extension: with ``content`` of 3 bytes for types from 128 on, else of any length.

    It is filled up with zeros to whole words.
    """
    if kind >= FIXED_EXTENSIONS:
        if len(content) != 3:
            raise ValueError(f"extension {kind} has 3 bytes, not {len(content)}")
        return bytes((kind,)) + content
    words = -(-(2 + len(content)) // 4)
    return (bytes((kind, words)) + content).ljust(4 * words, b"\0")
