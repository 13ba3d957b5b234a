"""IPv4 packets cut into fragments: RFC 791 sections 2.3 and 3.2."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mcastd.protocols.internet import internet_checksum

_FIXED_BYTES = 20
_CUT = struct.Struct("!H")  # flags and offset, at byte 6
_CUT_AT, _LENGTH_AT, _CHECKSUM_AT = 6, 2, 10
_DO_NOT_FRAGMENT, _MORE, _OFFSET, _FLAGS = 0x4000, 0x2000, 0x1FFF, 0xE000
# Offsets count units of so many bytes: so the body of each fragment but the last is a multiple of it.
_UNIT = 8
# An option that is to stand in each fragment has this bit; the first two have no length.
_COPIED = 0x80
_END, _NO_OPERATION = 0, 1


def fragments(packet: bytes, most: int) -> list[bytes] | None:
    """Cut an IPv4 packet into packets of ``most`` bytes at most.

    Returns None if it must not be cut (DF), or there is no room for a body. It may be a fragment itself.
    """
    header = 4 * (packet[0] & 0x0F)
    (cut,) = _CUT.unpack_from(packet, _CUT_AT)
    room = (most - header) // _UNIT * _UNIT
    if cut & _DO_NOT_FRAGMENT or room <= 0:
        return None
    return [*_fragments(packet, header, cut, room)]


def _fragments(packet: bytes, header: int, cut: int, room: int) -> Iterator[bytes]:
    first = packet[:header]
    other = packet[:_FIXED_BYTES] + _copied(packet[_FIXED_BYTES:header])
    for at in range(header, len(packet), room):
        body = packet[at : at + room]
        more = cut & _MORE if at + room >= len(packet) else _MORE
        offset = (cut & _OFFSET) + (at - header) // _UNIT
        yield _with(first if at == header else other, len(body), cut & _FLAGS | more | offset) + body


def _with(header: bytes, length: int, cut: int) -> bytes:
    """A header for a body of ``length`` bytes, with these flags and this offset."""
    changed = bytearray(header)
    changed[0] = 0x40 | len(header) // 4
    struct.pack_into("!H", changed, _LENGTH_AT, len(header) + length)
    _CUT.pack_into(changed, _CUT_AT, cut)
    struct.pack_into("!H", changed, _CHECKSUM_AT, 0)
    struct.pack_into("!H", changed, _CHECKSUM_AT, internet_checksum(bytes(changed)))
    return bytes(changed)


def _copied(options: bytes) -> bytes:
    """Those options that stand in each fragment, padded to whole words."""
    kept = b""
    at = 0
    while at < len(options) and options[at] != _END:
        size = 1 if options[at] == _NO_OPERATION else max(2, options[at + 1] if at + 1 < len(options) else 2)
        if options[at] & _COPIED:
            kept += options[at : at + size]
        at += size
    return kept + bytes(-len(kept) % 4)
