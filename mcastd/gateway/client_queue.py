"""What waits for one client of a stream: bounded, and never a part of a datagram is left out.

What was received together is a block: whole datagrams, one after another, whose bytes all clients share. A
client that takes less than comes would lose some of it all the time; so a queue that is full gives up half of
what it has, at once: one gap that a player gets over, instead of many small ones.

```
   blocks    [#### | ......] [.........] [.........] ... [.........]    "#" has gone
              the first one stays whole     these may be given up
```
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

# Buffers that one sendmsg(2) takes.
BUFFERS_MAX = 1024
# Memory of a block beside its content, which clients share.
OVERHEAD_BYTES = 64


class StreamBlock(NamedTuple):
    """Whole datagrams, one after another."""

    data: bytes  # not empty
    datagrams: int  # 0: the head of an answer, without which the others are nothing


class ClientQueue:
    """Blocks for one client, in order."""

    __slots__ = ("_gone", "_limit", "_waiting", "dropped", "sent", "sent_bytes", "size")

    def __init__(self, limit: int) -> None:
        """``limit`` in bytes; the newest block is kept, however long it is."""
        self._limit = limit
        self._waiting: deque[StreamBlock] = deque()
        self._gone = 0  # bytes of the first one that have gone
        self.size = 0  # bytes of memory of what waits; 0: nothing does
        self.sent = 0  # datagrams that have gone whole
        self.sent_bytes = 0
        self.dropped = 0  # datagrams that were given up

    def __len__(self) -> int:
        """Blocks that wait, one of which a part has gone included."""
        return len(self._waiting)

    def add(self, block: StreamBlock) -> None:
        self._waiting.append(block)
        self.size += len(block.data) + OVERHEAD_BYTES
        if self.size > self._limit:
            self._give_up()

    def buffers(self) -> list[bytes | memoryview]:
        """What is to be sent next, in as many buffers as one call takes."""
        buffers: list[bytes | memoryview] = [block.data for block in islice(self._waiting, BUFFERS_MAX)]
        if self._gone:
            buffers[0] = memoryview(buffers[0])[self._gone :]
        return buffers

    def passed(self, block: StreamBlock) -> None:
        """A block has gone whole and at once, while nothing waited."""
        self.sent += block.datagrams
        self.sent_bytes += len(block.data)

    def went(self, size: int) -> None:
        """``size`` bytes of these were taken."""
        self.sent_bytes += size
        waiting, gone = self._waiting, self._gone + size
        while waiting and gone >= len(waiting[0].data):
            first = waiting.popleft()
            gone -= len(first.data)
            self.size -= len(first.data) + OVERHEAD_BYTES
            self.sent += first.datagrams
        self._gone = gone

    def _give_up(self) -> None:
        """Give up the oldest until half is free, but for one that has gone in part, a head and the newest."""
        waiting = self._waiting
        first = waiting.popleft() if self._gone or not waiting[0].datagrams else None
        while len(waiting) > 1 and self.size > self._limit // 2:
            oldest = waiting.popleft()
            self.size -= len(oldest.data) + OVERHEAD_BYTES
            self.dropped += oldest.datagrams
        if first is not None:
            waiting.appendleft(first)
