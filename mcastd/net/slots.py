"""What both ways of receiving a batch share: memory with a slot for each packet, and the senders heard.

A slot takes whatever can come in one packet: the largest datagram, or the segments of one sender that the
kernel has coalesced (UDP_GRO, linux/udp.h). So nothing is cut.

```
  memory   | packet      . . . | . | packet packet pac . . | . | ...     256 slots: one mapping
           <------ SLOT ------->   <------ SLOT ----------->
           <-------- STRIDE ------>
```
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mcastd.rows import RowMemory, SpacedRows

# Bytes of a slot: neither a UDP datagram nor a coalesced packet is longer.
SLOT = 1 << 16
# Bytes from slot to slot: starts that are all at the same place in a page share few cache lines.
STRIDE = SLOT + 64
# Packets in a batch.
SLOTS = 256
# Sizes and numbers of batches whose rows are kept.
ALIKE_KEPT = 512
# A batch of more bytes touches more of the memory than should stay touched.
LARGE_BATCH_BYTES = SLOTS * 8192


class Slots:
    """The memory. An anonymous mapping: pages that no datagram has touched cost nothing."""

    def __init__(self) -> None:
        # Private: pages of a shared mapping, which is Python's default, could not be given back
        self.memory = mmap.mmap(-1, STRIDE * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self.memory)
        self._rows = RowMemory(view)
        self.views = [view[start : start + SLOT] for start in range(0, STRIDE * SLOTS, STRIDE)]
        # Of batches in which all are of one length, by that and their number
        self._alike: dict[int, tuple[SpacedRows]] = {}
        self.swollen = False  # some of the batches were of many large datagrams

    def rows(self, lengths: Sequence[int], sizes: Sequence[int] = ()) -> Sequence[SpacedRows]:
        """The datagrams of packets of these lengths, in a slot each.

        ``sizes`` are those of the segments of each packet; 0: it is one datagram.
        """
        memory, count, length = self._rows, len(lengths), lengths[0]
        if not sizes and lengths.count(length) == count:
            if (alike := self._alike.get(length * STRIDE + count)) is None:
                if len(self._alike) == ALIKE_KEPT:
                    self._alike.clear()
                alike = (SpacedRows(memory, 0, STRIDE, size=length, count=count),)
                self._alike[length * STRIDE + count] = alike
            return alike
        rows: list[SpacedRows] = []
        if not any(sizes):
            start = 0
            for length, group in groupby(lengths):
                number = len([*group])
                rows.append(SpacedRows(memory, 0, STRIDE, size=length, count=number, skip=start))
                start += number
            return rows
        for start, length, size in zip(range(0, STRIDE * SLOTS, STRIDE), lengths, sizes, strict=False):
            whole, rest = divmod(length, size) if 0 < size < length else (0, length)
            if whole:
                rows.append(SpacedRows(memory, start, size, size=size, count=whole))
            if rest or not whole:
                rows.append(SpacedRows(memory, start + whole * size, STRIDE, size=rest, count=1))
        return rows

    def shrink(self) -> None:
        """Give back to the kernel what a burst of large datagrams needed."""
        self.swollen = False
        self.memory.madvise(mmap.MADV_DONTNEED)


@dataclass(slots=True)
class Senders:
    """The senders that one receiver has heard, as far as its batches were asked for their sources."""

    last: str = ""  # address of the last one that was looked at
    last_name: bytes = b""  # its struct sockaddr
    several: bool = False  # there are several addresses
    each: bool = False  # that of each datagram is to be known, though one alone was heard so far


def segments(slot: memoryview, length: int, size: int) -> Iterator[memoryview]:
    """The datagrams of one packet: ``size`` bytes each, the last one maybe shorter; 0: it is one datagram."""
    if not 0 < size < length:
        yield slot[:length]
        return
    for start in range(0, length, size):
        yield slot[start : min(start + size, length)]
