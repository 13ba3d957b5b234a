"""How an object is cut into source blocks and symbols, and how packets and descriptions say so (RFC 5052).

```
  object   | block 0                      | block 1                      | ...   by source block number (SBN)
           | symbol 0 | 1 | ... | K - 1   | symbol 0 | 1 | ...           | ...   by encoding symbol ID (ESI)
                                  K, K + 1, ...                            repair symbols, made of a block
```

Source symbols are pieces of the object, of one size but for the last. How repair symbols are made, and how
wide the numbers are in a packet, is a matter of the FEC scheme: no code and "small block systematic" (RFC
5445), Reed-Solomon (RFC 5510), RaptorQ (RFC 6330).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mcastd.protocols.lct import EXT_FTI, Malformed, extension

# FEC encoding ids.
NO_CODE = 0
REED_SOLOMON = 5
RAPTORQ = 6
SMALL_BLOCK = 129
# RaptorQ: source symbols of the largest block (K'_max in RFC 6330 section 5.1.2), and blocks at most: their
# number is told in 8 bits, and is at least 1.
RAPTORQ_BLOCK_SYMBOLS = 56_403
RAPTORQ_BLOCKS = 255
# RaptorQ: bytes of which the size of symbols is a multiple, where we send them.
RAPTORQ_ALIGNMENT_BYTES = 8
# Symbols that are taken of one packet, at most: each costs as much as a packet.
PACKET_SYMBOLS_MAX = 64

# Source symbols of a block, at most, that we send: the codec takes some 4 ms for one.
BLOCK_SYMBOLS = 1024
# Bytes of EXT_FTI and of a payload ID as we send them: with no code, and with RaptorQ.
EXT_FTI_BYTES = 16
SHORT_ID_BYTES = 4

SymbolBytes = bytes | memoryview

_SHORT_ID = struct.Struct(">I")
_LONG_ID = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Scheme:
    """What the packets and descriptions of a FEC scheme have room for.

    A FEC payload ID is one unsigned number: SBN, then ESI. If it has 64 bits, the number of source symbols of
    the block stands between them.
    """

    name: str
    payload_id: struct.Struct
    esi_bits: int
    block_symbols: int  # at most, source symbols in a block
    length_bytes: int  # of an object's length in EXT_FTI
    fti: struct.Struct  # the content of EXT_FTI: the length, and then ...
    fti_fields: tuple[str, ...]  # ... these fields of an Oti

    @property
    def blocks(self) -> int:
        """At most, source blocks in an object."""
        return 1 << (32 - self.esi_bits if self.payload_id is _SHORT_ID else 32)

    def identify(self, sbn: int, esi: int, block_symbols: int = 0) -> bytes:
        """The payload ID of a symbol, in a block of ``block_symbols``.

        Raises ValueError for numbers that it has no room for.
        """
        if not (0 <= sbn < self.blocks and 0 <= esi < 1 << self.esi_bits and 0 <= block_symbols < 1 << 16):
            raise ValueError(f"{self.name} has no symbol {esi} of block {sbn}")
        upper = sbn if self.payload_id is _SHORT_ID else sbn << 16 | block_symbols
        return self.payload_id.pack(upper << self.esi_bits | esi)

    def locate(self, payload_id: int) -> tuple[int, int, int | None]:
        """SBN and ESI, and the number of source symbols of the block if a payload ID has it."""
        upper, esi = payload_id >> self.esi_bits, payload_id & (1 << self.esi_bits) - 1
        return (upper, esi, None) if self.payload_id is _SHORT_ID else (upper >> 16, esi, upper & 0xFFFF)


SCHEMES: Mapping[int, Scheme] = {
    # RFC 5445 section 3. The bits before the symbol size are reserved.
    NO_CODE: Scheme(
        "no code",
        payload_id=_SHORT_ID,
        esi_bits=16,
        block_symbols=1 << 16,
        length_bytes=6,
        fti=struct.Struct(">6sxxHI"),
        fti_fields=("symbol_size", "block_symbols"),
    ),
    # RFC 5510 section 5.
    REED_SOLOMON: Scheme(
        "Reed-Solomon",
        payload_id=_SHORT_ID,
        esi_bits=8,
        block_symbols=255,
        length_bytes=6,
        fti=struct.Struct(">6sHBB"),
        fti_fields=("symbol_size", "block_symbols", "max_symbols"),
    ),
    # RFC 6330 section 3, filled up to whole words.
    RAPTORQ: Scheme(
        "RaptorQ",
        payload_id=_SHORT_ID,
        esi_bits=24,
        block_symbols=RAPTORQ_BLOCK_SYMBOLS,
        length_bytes=5,
        fti=struct.Struct(">5sxHBHBxx"),
        fti_fields=("symbol_size", "blocks", "sub_blocks", "alignment"),
    ),
    # RFC 5445 section 5.
    SMALL_BLOCK: Scheme(
        "small block systematic",
        payload_id=_LONG_ID,
        esi_bits=16,
        block_symbols=(1 << 16) - 1,
        length_bytes=6,
        fti=struct.Struct(">6sHHHH"),
        fti_fields=("instance", "symbol_size", "block_symbols", "max_symbols"),
    ),
}


def scheme_of(encoding_id: int) -> Scheme:
    """Raises Malformed if the scheme is not known here."""
    if (scheme := SCHEMES.get(encoding_id)) is None:
        known = ", ".join(map(str, SCHEMES))
        raise Malformed("fec-scheme", f"FEC encoding id {encoding_id} is not known (have: {known})")
    return scheme


@dataclass(frozen=True, slots=True)
class Oti:
    """FEC object transmission information but for the length of the object (RFC 5052 section 6.2).

    Raises Malformed for what no object can have.
    """

    scheme: int  # FEC encoding id
    symbol_size: int  # bytes
    block_symbols: int  # at most, source symbols in a block; with RaptorQ it follows from ``blocks``
    blocks: int = 0  # RaptorQ only: source blocks of the object
    sub_blocks: int = 1  # RaptorQ only: in a block; if several, symbols are no pieces of the object
    alignment: int = 8  # RaptorQ only: bytes, of which the symbol size is a multiple
    max_symbols: int = 0  # at most, source and repair symbols in a block; 0: not told
    instance: int = 0  # FEC instance id, which says more of a scheme that leaves much open

    def __post_init__(self) -> None:
        scheme_of(self.scheme)
        for name, value, least, most in (
            ("symbol size", self.symbol_size, 1, 0xFFFF),
            ("block length", self.block_symbols, 1, 0xFFFFFFFF),
            (
                "number of symbols in a block",
                self.max_symbols or self.block_symbols,
                self.block_symbols,
                0xFFFFFFFF,
            ),
            ("FEC instance", self.instance, 0, 0xFFFF),
        ):
            if not least <= value <= most:
                raise Malformed("oti", f"the {name} is {value}, and must be {least} to {most}")
        if self.scheme == RAPTORQ and not (
            1 <= self.blocks <= RAPTORQ_BLOCKS
            and 1 <= self.alignment <= 0xFF
            and self.symbol_size % self.alignment == 0
            and 1 <= self.sub_blocks <= self.symbol_size // self.alignment
        ):
            raise Malformed(
                "oti",
                f"RaptorQ has no {self.blocks} blocks of {self.sub_blocks} sub-blocks with symbols of"
                f" {self.symbol_size} bytes aligned to {self.alignment}",
            )


class Blocks:
    """The source blocks of an object, as equal as they can be: the first ones have one symbol more.

    Their number follows from the size of the largest (RFC 5052 section 9.1), or is told (RaptorQ, RFC 6330
    section 4.4.1.2: 9 symbols in 4 blocks are 3, 2, 2 and 2). An empty object has none.
    """

    __slots__ = ("_larger", "_least_symbols", "count", "length", "symbol_size", "total")

    def __init__(self, oti: Oti, length: int) -> None:
        """Cut ``length`` bytes. Raises Malformed if the scheme has no numbers for so many."""
        scheme = scheme_of(oti.scheme)
        self.length = length
        self.symbol_size = oti.symbol_size
        self.total = _ceil(length, oti.symbol_size)  # source symbols of the object
        if oti.scheme == RAPTORQ:
            self.count = min(oti.blocks, self.total)
        else:
            self.count = _ceil(self.total, oti.block_symbols)
        self._least_symbols, self._larger = divmod(self.total, self.count) if self.count else (0, 0)
        if (
            not 0 <= length < 1 << 8 * scheme.length_bytes
            or self.count > scheme.blocks
            or self.largest > scheme.block_symbols
        ):
            raise Malformed(
                "oti", f"{scheme.name} has no {length} bytes in {self.count} blocks of {self.largest} symbols"
            )

    @property
    def largest(self) -> int:
        """Source symbols of the largest block; 0 if there is none."""
        return self._least_symbols + (self._larger > 0)

    def symbols(self, sbn: int) -> int:
        """Source symbols of a block."""
        self._check(sbn)
        return self._least_symbols + (sbn < self._larger)

    def first(self, sbn: int) -> int:
        """Where a block begins, in source symbols of the object."""
        self._check(sbn)
        return sbn * self._least_symbols + min(sbn, self._larger)

    def offset(self, sbn: int) -> int:
        """Where a block begins, in bytes of the object."""
        return self.first(sbn) * self.symbol_size

    def size(self, sbn: int) -> int:
        """Bytes of the object in a block: of the last block, without what fills up its last symbol."""
        return min(self.symbols(sbn) * self.symbol_size, self.length - self.offset(sbn))

    def _check(self, sbn: int) -> None:
        if not 0 <= sbn < self.count:
            raise IndexError(f"no block {sbn} of {self.count}")


class JoinedBlocks(Blocks):
    """The source blocks of several objects that are one file, numbered through."""

    __slots__ = ("_firsts", "_parts", "_symbols_before")

    def __init__(self, parts: Sequence[tuple[int, Oti]]) -> None:
        """``parts`` are the length of each object, and how it is cut.

        Raises Malformed unless all symbols but the last are whole, and of one size and scheme.
        """
        if not parts:
            raise Malformed("oti", "a file has no parts")
        first = parts[0][1]
        self._parts = [Blocks(oti, length) for length, oti in parts]
        if any((oti.scheme, oti.symbol_size) != (first.scheme, first.symbol_size) for _, oti in parts):
            raise Malformed("oti", "parts of a file are cut into symbols of different kinds")
        if any(not length or length % first.symbol_size for length, _ in parts[:-1]) or not parts[-1][0]:
            raise Malformed("oti", "a part of a file is empty, or ends within a symbol")
        self.symbol_size = first.symbol_size
        self.length = sum(length for length, _ in parts)
        self._firsts = [0, *accumulate(part.count for part in self._parts)]
        self._symbols_before = [0, *accumulate(part.total for part in self._parts)]
        self.count, self.total = self._firsts.pop(), self._symbols_before.pop()

    @property
    def largest(self) -> int:
        return max(part.largest for part in self._parts)

    def symbols(self, sbn: int) -> int:
        part = self._part(sbn)
        return self._parts[part].symbols(sbn - self._firsts[part])

    def first(self, sbn: int) -> int:
        part = self._part(sbn)
        return self._symbols_before[part] + self._parts[part].first(sbn - self._firsts[part])

    def _part(self, sbn: int) -> int:
        self._check(sbn)
        return bisect_right(self._firsts, sbn) - 1


def source_symbols(oti: Oti, block: SymbolBytes) -> list[SymbolBytes]:
    """The source symbols of a block. The last one of an object may be short; RaptorQ's is filled up.

    It is filled up with zeros, RFC 6330 section 4.4.1.2.
    """
    size = oti.symbol_size
    symbols: list[SymbolBytes] = [block[start : start + size] for start in range(0, len(block), size)]
    if symbols and oti.scheme == RAPTORQ:
        symbols[-1] = bytes(symbols[-1]).ljust(size, b"\0")
    return symbols


def parted(blocks: Blocks, sbn: int, esi: int, payload: SymbolBytes) -> list[SymbolBytes]:
    """The symbols in the payload of one packet, of which the first has the number ``esi``.

    A packet may have any number of them (RFC 6330 section 4.4.2). All are whole but the last one of the
    object, which is filled up if it is short. Raises Malformed for others, and for more than
    PACKET_SYMBOLS_MAX.
    """
    size = blocks.symbol_size
    if len(payload) > PACKET_SYMBOLS_MAX * size:
        raise Malformed("symbols", f"a packet has more than {PACKET_SYMBOLS_MAX} symbols")
    symbols: list[SymbolBytes] = [payload[start : start + size] for start in range(0, len(payload), size)]
    if symbols and (missing := size - len(symbols[-1])):
        count = blocks.symbols(sbn)
        is_last = (sbn, esi + len(symbols)) == (blocks.count - 1, count)
        if not is_last or missing != count * size - blocks.size(sbn):
            raise Malformed("symbols", f"a packet has {len(payload)} bytes of symbols of {size}")
        symbols[-1] = bytes(symbols[-1]) + bytes(missing)
    return symbols


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def raptorq(
    length: int, symbol_size: int, block_symbols: int, alignment: int = RAPTORQ_ALIGNMENT_BYTES
) -> Oti:
    """How to send ``length`` bytes with RaptorQ, in blocks of at most ``block_symbols``.

    Raises Malformed if that takes more than 255 blocks, or if the symbol size is not aligned.
    """
    blocks = max(1, _ceil(_ceil(length, symbol_size), block_symbols))
    told = {"symbol_size": symbol_size, "blocks": blocks, "alignment": alignment}
    return oti_of(RAPTORQ, length, told)


def oti_of(scheme: int, length: int, told: Mapping[str, int]) -> Oti:
    """The Oti of an object of ``length`` bytes, by the fields that are told of it. Raises Malformed.

    Only fields that the scheme has in EXT_FTI are taken. With RaptorQ the largest block follows from their
    number.
    """
    fields = {name: told[name] for name in scheme_of(scheme).fti_fields if name in told}
    if scheme == RAPTORQ:
        total = _ceil(length, max(1, fields["symbol_size"]))
        fields["block_symbols"] = max(1, _ceil(total, max(1, fields["blocks"])))
    oti = Oti(scheme, **fields)
    Blocks(oti, length)
    return oti


def build_fti(oti: Oti, length: int) -> bytes:
    """EXT_FTI (RFC 5775 section 4.2) of an object of ``length`` bytes.

    Raises ValueError for numbers that it has no room for.
    """
    scheme = SCHEMES[oti.scheme]
    try:
        size = length.to_bytes(scheme.length_bytes, "big")
        content = scheme.fti.pack(size, *(getattr(oti, name) for name in scheme.fti_fields))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"no EXT_FTI has {length} bytes as {oti}: {error}") from None
    return extension(EXT_FTI, content)


def parse_fti(encoding_id: int, content: bytes) -> tuple[Oti, int]:
    """The Oti and the length of an object, from the content of an EXT_FTI. Raises Malformed."""
    scheme = scheme_of(encoding_id)
    if len(content) != scheme.fti.size:
        raise Malformed("fti", f"EXT_FTI of {scheme.name} has {scheme.fti.size} bytes, not {len(content)}")
    size, *values = scheme.fti.unpack(content)
    length = int.from_bytes(size, "big")
    return oti_of(encoding_id, length, dict(zip(scheme.fti_fields, values, strict=True))), length
