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
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes of a slot: neither a UDP datagram nor a coalesced packet is longer.
SLOT = 1 << 16
# Bytes from slot to slot: starts that are all at the same place in a page share few cache lines.
STRIDE = SLOT + 64
# Packets in a batch.
SLOTS = 256
# A batch of more bytes touches more of the memory than should stay touched.
LARGE_BATCH_BYTES = SLOTS * 8192


class Slots:
    """The memory. An anonymous mapping: pages that no datagram has touched cost nothing."""

    def __init__(self) -> None:
        # Private: pages of a shared mapping, which is Python's default, could not be given back
        self.memory = mmap.mmap(-1, STRIDE * SLOTS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        view = memoryview(self.memory)
        self.views = [view[start : start + SLOT] for start in range(0, STRIDE * SLOTS, STRIDE)]
        self.swollen = False  # some of the batches were of many large datagrams

    def shrink(self) -> None:
        """Give back to the kernel what a burst of large datagrams needed."""
        if self.swollen:
            self.swollen = False
            self.memory.madvise(mmap.MADV_DONTNEED)


@dataclass(slots=True)
class Senders:
    """The senders that one receiver has heard, as far as its batches were asked for their sources."""

    last: str = ""  # address of the last one that was looked at
    last_name: bytes = b""  # its struct sockaddr
    several: bool = False  # there are several addresses


def segments(slot: memoryview, length: int, size: int) -> Iterator[memoryview]:
    """The datagrams of one packet: ``size`` bytes each, the last one maybe shorter; 0: it is one datagram."""
    if not 0 < size < length:
        yield slot[:length]
        return
    for start in range(0, length, size):
        yield slot[start : min(start + size, length)]
