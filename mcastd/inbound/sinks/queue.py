"""A queue of records for a slow reader, bounded by the memory that they take."""

from __future__ import annotations

from collections import deque
from itertools import islice, repeat

from mcastd.inbound.sinks.records import Made, Record, size_of, whole
from mcastd.net.link import IOV_MAX

# Memory of a queued record beside its content, so that empty ones count.
RECORD_OVERHEAD_BYTES = 64


class RecordQueue:
    """Records in order. The first may be written in part: then it stays until it is written whole.

    Each method that removes records returns how many datagrams end with them.
    """

    __slots__ = ("_datagrams", "datagrams", "records", "size", "started")

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.datagrams = 0  # datagrams that end with these records
        self.size = 0  # bytes of memory, less what is written of the first record
        self.started = 0  # bytes of the first record that are written
        self._datagrams: deque[int] = deque()  # for each record, how many datagrams end with it

    def add(self, records: Made, started: int) -> None:
        """Queue records. ``started`` bytes of the first are written already."""
        count = len(records.payloads)
        self.records.extend(records.payloads)
        self._datagrams.extend(repeat(1, count) if records.datagrams is None else records.datagrams)
        self.datagrams += len(records)
        self.started = started or self.started
        self.size += size_of(records.payloads) + count * RECORD_OVERHEAD_BYTES - started

    def keep(self, count: int) -> None:
        """Copy the last ``count`` records out of the batch's buffers, so that they stay valid."""
        stay = [bytes(self.records.pop()) for _ in range(min(count, len(self.records)))]
        self.records.extend(reversed(stay))

    def next(self) -> list[Record]:
        """Return what is to be written next, at most as many buffers as one writev(2) takes."""
        buffers = list(islice(self.records, IOV_MAX))
        buffers[0] = memoryview(buffers[0])[self.started :]
        return buffers

    def wrote(self, buffers: list[Record], written: int) -> int:
        """Remove the records that a write of ``written`` bytes of these buffers has written whole."""
        count, size = whole(buffers, written)
        self.started = written - size + (0 if count else self.started)
        self.size -= written + count * RECORD_OVERHEAD_BYTES
        return self._take_off(count)

    def begin_with(self, head: Record) -> None:
        """Have a head before all records, none of which is written in part. It is in place of other heads."""
        for at in [at for at, count in enumerate(self._datagrams) if not count][::-1]:
            self.size -= len(self.records[at]) + RECORD_OVERHEAD_BYTES
            del self.records[at], self._datagrams[at]
        self.records.appendleft(head)
        self._datagrams.appendleft(0)
        self.size += len(head) + RECORD_OVERHEAD_BYTES

    def give_up_started(self) -> int:
        """Remove the first record if it is written in part."""
        if not self.started:
            return 0
        self.size += self.started
        self.started = 0
        return self.give_up_first()

    def give_up_first(self) -> int:
        """Remove the first record, of which nothing is written."""
        self.size -= len(self.records[0]) + RECORD_OVERHEAD_BYTES
        return self._take_off(1)

    def evict(self, limit: int, *, oldest: bool) -> int:
        """Remove records, the oldest or the newest first, until the queue has no more than ``limit`` bytes.

        A record that is partly written stays, and so do heads, and one whole record, however large.
        """
        evicted = 0
        keep = 2 if self.started else 1
        at, step = (keep - 1, 1) if oldest else (-1, -1)
        while self.size > limit and len(self.records) > keep:
            if not self._datagrams[at]:
                at, keep = at + step, keep + 1
                continue
            self.size -= len(self.records[at]) + RECORD_OVERHEAD_BYTES
            evicted += self._datagrams[at]
            del self.records[at], self._datagrams[at]
        self.datagrams -= evicted
        return evicted

    def clear(self) -> int:
        """Remove all records, one that is partly written too."""
        dropped = self.datagrams
        self.records.clear()
        self._datagrams.clear()
        self.size = self.started = self.datagrams = 0
        return dropped

    def _take_off(self, count: int) -> int:
        records, datagrams = self.records, self._datagrams
        ended = 0
        for _ in range(count):
            records.popleft()
            ended += datagrams.popleft()
        self.datagrams -= ended
        return ended
