"""Source blocks on air: their symbols in memory, and the datagrams that these go in.

```
  Room         | symbol | symbol | symbol | ...      what is read, block after block, in one piece of memory
                  ^view    ^view    ^view
  Datagrams    [header, view, header, view, ...]     what a system call takes, for many datagrams at once
```

The room is used for one stripe of blocks after another, and its views are made once. So a block is one read
and one list, and a datagram costs nothing of Python but two places in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcastd.delivery.catalog import Catalog
from mcastd.delivery.scan import SourceFile
from mcastd.protocols import alc, fec
from mcastd.protocols.seal import (
    OBJECT_OVERHEAD_BYTES,
    BlockMemory,
    HashedBlock,
    MakeRepair,
    ObjectSealer,
)

# What seals the packets of a file.
Seal = Callable[[SourceFile], ObjectSealer]


class Datagrams(NamedTuple):
    """Datagrams in order: a header and what follows it, for each; and the bytes of both together."""

    pieces: list[bytes | memoryview]
    sizes: list[int]

    def add(self, others: Datagrams, first: int, end: int) -> None:
        """Add others, from ``first`` up to ``end``."""
        self.pieces.extend(others.pieces[2 * first : 2 * end])
        self.sizes.extend(others.sizes[first:end])


def none() -> Datagrams:
    """No datagrams, to which some can be added."""
    return Datagrams([], [])


def headed(headers: Sequence[bytes], bodies: Sequence[bytes | memoryview]) -> Datagrams:
    """Datagrams of headers, all of one length, and bodies, all of one length but for the last."""
    pieces: list[bytes | memoryview] = [b""] * (2 * len(headers))
    pieces[::2], pieces[1::2] = headers, bodies
    sizes = [len(headers[0]) + len(bodies[0])] * len(headers) if headers else []
    if sizes:
        sizes[-1] = len(headers[-1]) + len(bodies[-1])
    return Datagrams(pieces, sizes)


def whole(packets: Sequence[bytes]) -> Datagrams:
    """Packets of any length."""
    pieces: list[bytes | memoryview] = [b""] * (2 * len(packets))
    pieces[::2] = packets
    return Datagrams(pieces, [*map(len, packets)])


class Room:
    """Memory for the source symbols of the blocks on air."""

    def __init__(self, symbol_size: int) -> None:
        """``symbol_size``: bytes of each, as it is sent."""
        self.symbol_size = symbol_size
        self.blocks = BlockMemory()  # for what is sealed from there into the room
        self._memory = memoryview(bytearray())
        self._symbols: list[memoryview] = []

    def grow(self, symbols: int) -> None:
        """Have room for as many symbols. What is in it is lost."""
        if symbols > len(self._symbols):
            size = self.symbol_size
            self._memory = memory = memoryview(bytearray(symbols * size))
            self._symbols = [memory[at : at + size] for at in range(0, len(memory), size)]

    def close(self) -> None:
        """Give the memory back."""
        self.blocks.clear()
        self._memory, self._symbols = memoryview(bytearray()), []

    def block(self, first: int, size: int) -> memoryview:
        """The place of a block of ``size`` bytes whose first symbol is the one at ``first``."""
        start = first * self.symbol_size
        return self._memory[start : start + size]

    def symbols(self, first: int, size: int, *, filled: bool) -> list[memoryview]:
        """The symbols of such a block. The last one is ``filled`` up with zeros, or else shorter."""
        count = -(-size // self.symbol_size)
        symbols = self._symbols[first : first + count]
        if rest := size % self.symbol_size:
            if filled:
                symbols[-1][rest:] = bytes(self.symbol_size - rest)
            else:
                symbols[-1] = symbols[-1][:rest]
        return symbols


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
    place: int = 0  # of its first symbol in the room
    data: HashedBlock | memoryview | None = None  # until the repair symbols are made
    source: Datagrams | None = None  # once it is read
    repair: Datagrams | None = None

    def load(self, catalog: Catalog, room: Room) -> None:
        """Read the source symbols. Raises ChangedError, SourceError."""
        # Without a code the last symbol is sent as it is
        filled = self.file.oti.scheme == fec.RAPTORQ
        size = self.file.blocks.size(self.sbn)
        if self.sealer is not None:
            self.data = hashed = catalog.read(self.file, self.sbn, room.blocks)
            places = room.symbols(self.place, size + self.source_count * OBJECT_OVERHEAD_BYTES, filled=filled)
            self.source = self._headed(0, self.sealer.source(self.sbn, hashed, 0, self.source_count, places))
            return
        self.data = place = room.block(self.place, size)
        catalog.read_into(place, self.file, self.sbn)
        self.source = self._headed(0, room.symbols(self.place, size, filled=filled))

    def encode(self, make_repair: MakeRepair, room: Room) -> None:
        """Make the repair symbols, and let go of the block. Raises CodecError, NotInstalledError."""
        data, self.data = self.data, None
        if data is None:
            return
        if self.repair_count:
            if isinstance(data, memoryview):
                symbols = make_repair(data, self.file.oti.symbol_size, self.repair_count, self.skip)
            else:
                assert self.sealer is not None
                symbols = self.sealer.repair(self.sbn, data, self.repair_count, self.skip)
            self.repair = self._headed(self.source_count + self.skip, symbols)
        if isinstance(data, HashedBlock):
            data.let_go(room.blocks)

    def _headed(self, esi: int, symbols: Sequence[bytes | memoryview]) -> Datagrams:
        """The datagrams of the symbols ``esi`` and on."""
        esis = range(esi, esi + len(symbols))
        return headed(alc.symbol_headers(self.head, self.file.oti.scheme, self.sbn, esis), symbols)
