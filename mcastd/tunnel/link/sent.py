"""Records that were sent a moment ago, which the peer may ask for again."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from mcastd.counters import LinkCounters
from mcastd.rows import JoinedRows
from mcastd.tunnel.link.step import MayGo

# What is kept at most: a second of 250 Mbit/s. Of each record Python takes some bytes more.
KEPT_MAX_BYTES, RECORD_OVERHEAD_BYTES = 32 << 20, 64
# What is sent again is at most so many times what was sent, or so many bytes: who asks again and again gets
# no more.
AGAIN_TIMES, AGAIN_BYTES = 2, 64 << 10


class _Batch(NamedTuple):
    """Records that went together."""

    at: float  # monotonic seconds
    first: int  # counter of the first one
    records: list[bytes] | JoinedRows
    held: int  # bytes that they count for


_first = attrgetter("first")


class SentRecords:
    """Of one session. A record that is sent again is the same bytes, with the counter that is missing."""

    def __init__(
        self, seconds: float, max_bytes: int = KEPT_MAX_BYTES, counts: LinkCounters | None = None
    ) -> None:
        """Keep them for ``seconds``; 0: none. ``counts`` is of all sessions of the link."""
        self._counts = LinkCounters() if counts is None else counts
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._next = 0  # counter of the next record
        self._bytes = 0
        self._again_bytes = AGAIN_BYTES  # that may be sent again by now
        self._batches: deque[_Batch] = deque()

    def keep(self, records: list[bytes] | JoinedRows, now: float) -> None:
        """Note records that go now, whose counters follow those before."""
        count = len(records)
        first = self._next
        self._next = first + count
        if not self._seconds:
            return
        size = sum(map(len, records)) if isinstance(records, list) else len(records.joined)
        held = size + count * RECORD_OVERHEAD_BYTES
        self._batches.append(_Batch(now, first, records, held))
        self._bytes += held
        self.expire(now)
        most = max(AGAIN_BYTES, AGAIN_TIMES * self._bytes)
        self._again_bytes = min(most, self._again_bytes + AGAIN_TIMES * size)

    def again(self, ranges: Sequence[tuple[int, int]], now: float, allow: MayGo | None = None) -> list[bytes]:
        """Those of these counters that are kept still, as far as they may go by now; what may not is counted.

        ``ranges`` ascend, and do not overlap.
        """
        self.expire(now)
        found: list[bytes] = []
        sizes: list[int] = []
        left = self._again_bytes
        for record in self._kept(ranges):
            if (left := left - len(record)) < 0:
                break
            found.append(record)
            sizes.append(len(record))
        going = len(found) if allow is None else allow(sizes, now)
        self._again_bytes -= sum(sizes[:going])
        self._counts.resent += going
        self._counts.withheld += sum(count for _, count in ranges) - going
        return found[:going]

    def _kept(self, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """Those of these counters that are kept."""
        batches = self._batches
        for start, count in ranges:
            place = max(0, bisect_right(batches, start, key=_first) - 1)
            while place < len(batches) and (batch := batches[place]).first < start + count:
                yield from batch.records[max(0, start - batch.first) : start + count - batch.first]
                place += 1

    def expire(self, now: float) -> None:
        """Forget what is too old, or too much."""
        batches = self._batches
        while batches and (batches[0].at < now - self._seconds or self._bytes > self._max_bytes):
            self._bytes -= batches.popleft().held

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return self._batches[0].at + self._seconds if self._batches else math.inf
