"""IP packets of one version that lie at equal distances in one memory, read and changed by columns.

```
  row 0   | room | IP header | . . . |        room: for what is to stand before a packet
  row 1   | room | IP header | . . . |        a column: one byte of all headers
                 ^ start
```
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mcastd.rows import HALF_BYTES, WORD_BYTES, RowMemory, SpacedRows

# Bytes before each packet, to be written by whoever takes it.
ROOM_BYTES = HALF_BYTES


@dataclass(frozen=True, slots=True)
class PacketRows:
    """Packets as they came: nothing of them is checked."""

    memory: RowMemory
    start: int  # of the first packet, in bytes; a whole number of words
    stride: int  # from packet to packet, the same
    version: int  # of IP
    lengths: Sequence[int]  # bytes that came of each: a frame may be longer than the packet in it

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def shortest(self) -> int:
        """Bytes that came of the shortest."""
        lengths = self.lengths
        return lengths[0] if lengths.count(lengths[0]) == len(lengths) else min(lengths)

    def rows(self, length: int) -> SpacedRows:
        """All packets as rows: ``length`` is that of one packet."""
        return SpacedRows(self.memory, self.start, self.stride, size=length, count=len(self))

    def cells(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at`` of all packets, one after another. Both are whole words."""
        return self.rows(0).cells(at, size)

    def same(self, at: int, size: int) -> bytes:
        """``size`` bytes from ``at``, if all packets have the same; else none. Both are whole words."""
        first, count = self.start + at, len(self)
        found = bytes(self.memory.bytes[first : first + size])
        for word in range(0, size, WORD_BYTES):
            if self.words(at + word) != found[word : word + WORD_BYTES] * count:
                return b""
        return found

    def words(self, at: int) -> bytes:
        """The 4 bytes from ``at``, a whole word, of all packets."""
        return self._spaced(self.memory.words, at, WORD_BYTES).tobytes()

    def set_words(self, at: int, values: bytes | bytearray) -> None:
        self._spaced(self.memory.words, at, WORD_BYTES)[:] = memoryview(values).cast("I")

    def fill_room(self, header: bytes) -> None:
        """Have ``header``, of ROOM_BYTES, before each packet."""
        room = self._spaced(self.memory.halves, -ROOM_BYTES, HALF_BYTES)
        room[:] = memoryview(header * len(self)).cast("H")

    def column(self, at: int) -> bytes:
        """Byte ``at`` of all packets; those of the room before them are -1 and -2."""
        return self._spaced(self.memory.bytes, at, 1).tobytes()

    def set_column(self, at: int, values: bytes) -> None:
        self._spaced(self.memory.bytes, at, 1)[:] = values

    def _spaced(self, items: memoryview, at: int, size: int) -> memoryview:
        """Of memory as items of ``size`` bytes, the one at ``at`` of each packet."""
        first, step = (self.start + at) // size, self.stride // size
        return items[first : first + (len(self) - 1) * step + 1 : step]

    def packet(self, row: int, length: int) -> memoryview:
        """The first bytes of a packet, with the room before it."""
        at = self.start + row * self.stride
        return self.memory.bytes[at - ROOM_BYTES : at + length]

    def packets(self, length: int) -> list[memoryview]:
        """All packets, the room before each included: ``length`` is that of one packet."""
        columns = slice(0, ROOM_BYTES + length)
        return self.memory.views(self.start - ROOM_BYTES, self.stride, columns, 0, len(self))


def rows_of(packets: Sequence[bytes], memory: RowMemory, stride: int, version: int) -> Iterator[PacketRows]:
    """Lay packets into memory, as many at a time as it has room for; each time anew."""
    start = 24  # where the packets of a tap begin, too: the views of rows are kept for both
    at_once = (len(memory.bytes) - start) // stride
    for first in range(0, len(packets), at_once):
        some = packets[first : first + at_once]
        for place, packet in zip(range(start, len(memory.bytes), stride), some, strict=False):
            memory.bytes[place : place + len(packet)] = packet
        yield PacketRows(memory, start, stride, version, list(map(len, some)))
