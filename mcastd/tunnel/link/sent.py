"""Records that were sent a moment ago, which the peer may ask for again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from mcastd.counters import LinkCounters
from mcastd.tunnel.link.step import MayGo

# What is kept at most: a second of 250 Mbit/s. Of each record Python takes some bytes more.
KEPT_MAX_BYTES, RECORD_OVERHEAD_BYTES = 32 << 20, 64
# What is sent again is at most so many times what was sent, or so many bytes: who asks again and again gets
# no more.
AGAIN_TIMES, AGAIN_BYTES = 2, 64 << 10


class SentRecords:
    """Of one session. A record that is sent again is the same bytes, with the counter that is missing."""

    def __init__(
        self, seconds: float, max_bytes: int = KEPT_MAX_BYTES, counts: LinkCounters | None = None
    ) -> None:
        """Keep them for ``seconds``; 0: none. ``counts`` is of all sessions of the link."""
        self._counts = LinkCounters() if counts is None else counts
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._records: deque[bytes] = deque()
        self._first = 0  # counter of the oldest that is kept
        self._bytes = 0
        self._again_bytes = AGAIN_BYTES  # that may be sent again by now
        self._batches: deque[tuple[float, int]] = deque()  # when they went, and the counter after the last

    def keep(self, records: Sequence[bytes], now: float) -> None:
        """Note records that go now, whose counters follow those before."""
        if not self._seconds:
            self._first += len(records)
            return
        self._records.extend(records)
        size = sum(map(len, records))
        self._bytes += size + len(records) * RECORD_OVERHEAD_BYTES
        self._batches.append((now, self._first + len(self._records)))
        self.expire(now)
        most = max(AGAIN_BYTES, AGAIN_TIMES * self._bytes)
        self._again_bytes = min(most, self._again_bytes + AGAIN_TIMES * size)

    def again(self, ranges: Sequence[tuple[int, int]], now: float, allow: MayGo | None = None) -> list[bytes]:
        """Those of these counters that are kept still, as far as they may go by now; what may not is counted.

        ``ranges`` ascend, and do not overlap.
        """
        self.expire(now)
        end = self._first + len(self._records)
        kept = (
            self._records[counter - self._first]
            for first, count in ranges
            for counter in range(max(first, self._first), min(first + count, end))
        )
        found: list[bytes] = []
        sizes: list[int] = []
        left = self._again_bytes
        for record in kept:
            if (left := left - len(record)) < 0:
                break
            found.append(record)
            sizes.append(len(record))
        going = len(found) if allow is None else allow(sizes, now)
        self._again_bytes -= sum(sizes[:going])
        self._counts.resent += going
        self._counts.withheld += sum(count for _, count in ranges) - going
        return found[:going]

    def expire(self, now: float) -> None:
        """Forget what is too old, or too much."""
        while self._batches and (self._batches[0][0] < now - self._seconds or self._bytes > self._max_bytes):
            _, end = self._batches.popleft()
            while self._first < end:
                self._bytes -= len(self._records.popleft()) + RECORD_OVERHEAD_BYTES
                self._first += 1

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return self._batches[0][0] + self._seconds if self._batches else math.inf
