"""Source blocks on air: their symbols in memory, and the headers of the datagrams that these go in.

```
  Room    headers   h0 | h1 | h2 | ...        a header for each place
          bodies    symbol | symbol | ...     what is read, block after block, and the repair symbols of each

  Placed  places 0..15, 1090..1105, ...       datagrams in the order of sending
```

The room is used for one stripe of blocks after another. So a block is one read, its headers are a few columns
of bytes, and a datagram costs nothing of Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcastd.delivery.catalog import Catalog
from mcastd.delivery.scan import SourceFile
from mcastd.protocols import alc, fec, lct
from mcastd.protocols.seal import (
    OBJECT_OVERHEAD_BYTES,
    BlockMemory,
    HashedBlock,
    MakeRepair,
    ObjectSealer,
)

# Bytes before each symbol: LCT header and FEC payload ID.
HEADER_BYTES = lct.BUILT_BYTES + fec.SHORT_ID_BYTES

# What seals the packets of a file.
Seal = Callable[[SourceFile], ObjectSealer]


class Room:
    """Memory for the symbols of the blocks on air, and for a header of each."""

    def __init__(self, symbol_size: int) -> None:
        """``symbol_size``: bytes of each, as it is sent."""
        self.symbol_size = symbol_size
        self.blocks = BlockMemory()  # for what is sealed from there into the room
        self.short: dict[int, int] = {}  # bytes of symbols that are shorter, by their places
        self.headers = self.bodies = memoryview(bytearray())
        self._symbols: list[memoryview] = []  # views of bodies, once some were asked for

    def clear(self, places: int) -> None:
        """Have room for as many symbols. What is in it is lost."""
        self.short.clear()
        if places * self.symbol_size > len(self.bodies):
            self.bodies = memoryview(bytearray(places * self.symbol_size))
            self.headers = memoryview(bytearray(places * HEADER_BYTES))
            self._symbols = []

    def close(self) -> None:
        """Give the memory back."""
        self.blocks.clear()
        self.short.clear()
        self.headers = self.bodies = memoryview(bytearray())
        self._symbols = []

    def block(self, first: int, size: int) -> memoryview:
        """The memory of ``size`` bytes of symbols, of which the first is at the place ``first``."""
        start = first * self.symbol_size
        return self.bodies[start : start + size]

    def end_block(self, first: int, size: int, *, filled: bool) -> None:
        """Have the last symbol of such a block ``filled`` up with zeros, or else be shorter."""
        whole, rest = divmod(size, self.symbol_size)
        if rest and filled:
            missing = self.symbol_size - rest
            self.block(first, size + missing)[size:] = bytes(missing)
        elif rest:
            self.short[first + whole] = rest

    def symbols(self, first: int, size: int) -> list[memoryview]:
        """The memory of each symbol of such a block. The last one may be shorter."""
        if not self._symbols:
            step = self.symbol_size
            self._symbols = [self.bodies[at : at + step] for at in range(0, len(self.bodies), step)]
        symbols = self._symbols[first : first - (-size // self.symbol_size)]
        if rest := size % self.symbol_size:
            symbols[-1] = symbols[-1][:rest]
        return symbols

    def write_headers(self, first: int, head: bytes, encoding_id: int, sbn: int, esis: range) -> None:
        """Write the headers of the symbols ``esis`` of a block, of which the first is at ``first``."""
        place = self.headers[first * HEADER_BYTES : (first + len(esis)) * HEADER_BYTES]
        alc.write_headers(place, head, encoding_id, sbn, esis)


class Placed:
    """Datagrams in the order of sending, by the places that they have in a room."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.runs: list[tuple[int, int]] = []  # of each the first place, and that behind the last
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, first: int, end: int) -> None:
        """Add those from place ``first`` up to ``end``."""
        if first < end:
            self.runs.append((first, end))
            self._count += end - first


Datagrams = Placed | Sequence[bytes]
"""Those of symbols; or packets that describe them, of any length."""


@dataclass(slots=True)
class BlockOnAir:
    """A source block on air."""

    file: SourceFile
    sbn: int
    head: bytes  # the LCT header of each of its packets
    source_count: int
    repair_count: int
    skip: int  # repair symbols that were sent before
    sealer: ObjectSealer | None = None  # None: it is sent for all to read
    place: int = 0  # in the room, of its first symbol; repair symbols follow the source
    data: HashedBlock | memoryview | None = None  # until the repair symbols are made
    is_read: bool = False
    is_encoded: bool = False

    @property
    def places(self) -> int:
        """Of all its symbols."""
        return self.source_count + self.repair_count

    def load(self, catalog: Catalog, room: Room) -> None:
        """Read the source symbols. Raises ChangedError, SourceError."""
        # Without a code the last symbol is sent as it is
        filled = self.file.oti.scheme == fec.RAPTORQ
        size = self.file.blocks.size(self.sbn)
        if self.sealer is None:
            place = room.block(self.place, size)
            catalog.read_into(place, self.file, self.sbn)
            self.data = place  # only now: of what was read if the file has changed no repair symbol is made
        else:
            self.data = hashed = catalog.read(self.file, self.sbn, room.blocks)
            count = self.source_count
            size = count * room.symbol_size if filled else size + count * OBJECT_OVERHEAD_BYTES
            places = room.symbols(self.place, size)
            sealed = self.sealer.source(self.sbn, hashed, 0, count, places)
            if sealed is not places:
                room.block(self.place, size)[:] = b"".join(sealed)
        room.end_block(self.place, size, filled=filled)
        self._write_headers(room, self.place, range(self.source_count))
        self.is_read = True
        if not self.repair_count:
            self._let_go(room)  # the next block has the same memory, which is in the processor's cache

    def encode(self, make_repair: MakeRepair, room: Room) -> None:
        """Make the repair symbols, if there are any, and let go of the block.

        Raises CodecError, NotInstalledError.
        """
        data, count = self.data, self.repair_count
        if data is None:
            return
        if isinstance(data, memoryview):
            symbols = make_repair(data, self.file.oti.symbol_size, count, self.skip)
        else:
            assert self.sealer is not None
            symbols = self.sealer.repair(self.sbn, data, count, self.skip)
        first, esi = self.place + self.source_count, self.source_count + self.skip
        room.block(first, count * room.symbol_size)[:] = b"".join(symbols)
        self._write_headers(room, first, range(esi, esi + count))
        self.is_encoded = True
        self._let_go(room)

    def _let_go(self, room: Room) -> None:
        data, self.data = self.data, None
        if isinstance(data, HashedBlock):
            data.let_go(room.blocks)

    def _write_headers(self, room: Room, first: int, esis: range) -> None:
        room.write_headers(first, self.head, self.file.oti.scheme, self.sbn, esis)
