"""The last seconds of what a subscription received, as copies in memory, bounded by time and by bytes."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mcastd.net.legs import LegBatch
from mcastd.net.link import Batch, ListBatch, Origin

# Memory in bytes that a batch takes beside its datagrams, a datagram beside its payload, and each origin of a
# batch that has several, at most: senders of a flood may all differ.
BATCH_BYTES = 600
DATAGRAM_BYTES = 20
ORIGIN_BYTES = 240


class RecentBatch(NamedTuple):
    """A copy of a batch, taken apart only when it is written."""

    at: float  # monotonic seconds when it was taken
    payloads: bytes  # one after another
    sizes: array[int]  # of the payloads
    origins: Sequence[Origin]  # one if all are the same, else one for each payload
    times: array[int]
    overflow: int  # datagrams that the kernel had dropped by then
    leg: int  # the place of the link that it came by; 0: the only one

    @property
    def memory(self) -> int:
        """Bytes that it takes, at most."""
        origins = 0 if len(self.origins) == 1 else len({*map(id, self.origins)})
        return len(self.payloads) + DATAGRAM_BYTES * len(self.sizes) + ORIGIN_BYTES * origins + BATCH_BYTES

    def unpacked(self) -> ListBatch:
        origins = self.origins if len(self.origins) > 1 else [*self.origins] * len(self.sizes)
        return ListBatch([*self._apart()], origins, self.times)

    def _apart(self) -> Iterator[memoryview]:
        payloads, start = memoryview(self.payloads), 0
        for size in self.sizes:
            yield payloads[start : start + size]
            start += size


class Recent:
    """The copies, oldest first. For the thread with the turn; any thread may read ``memory`` and counts."""

    def __init__(self, seconds: float, memory_max: int) -> None:
        """``memory_max`` in bytes."""
        self.memory = 0  # bytes
        self.datagrams = 0
        self._seconds = seconds
        self._memory_max = memory_max
        self._batches: deque[RecentBatch] = deque()

    def bound(self, seconds: float, memory_max: int) -> None:
        """Other bounds hold from now on."""
        self._seconds, self._memory_max = seconds, memory_max
        self._let_go(self._batches[-1].at if self._batches else 0.0)

    def add(self, batch: Batch, now: float, overflow: int) -> None:
        """Copy a batch that has metadata; one without cannot be written, and is left out."""
        origins = batch.origins
        if not origins:
            return
        payloads = batch.payloads
        if origins.count(origins[0]) == len(origins):
            origins = origins[:1]
        copied = RecentBatch(
            now,
            b"".join(payloads),
            array("H", [*map(len, payloads)]),
            origins,
            array("Q", batch.times),
            overflow,
            batch.leg if isinstance(batch, LegBatch) else 0,
        )
        self._batches.append(copied)
        self.memory += copied.memory
        self.datagrams += len(copied.sizes)
        self._let_go(now)

    def all(self) -> Sequence[RecentBatch]:
        """Return what there is now."""
        return tuple(self._batches)

    def clear(self) -> None:
        self._batches.clear()
        self.memory = self.datagrams = 0

    def _let_go(self, now: float) -> None:
        since, batches = now - self._seconds, self._batches
        while batches and (batches[0].at < since or self.memory > self._memory_max):
            old = batches.popleft()
            self.memory -= old.memory
            self.datagrams -= len(old.sizes)
