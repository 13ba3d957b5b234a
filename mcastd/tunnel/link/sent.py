"""Records that were sent a moment ago, which the peer may ask for again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from mcastd.counters import LinkCounters

# What is kept at most: a second of 250 Mbit/s.
KEPT_MAX_BYTES = 32 << 20


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
        self._batches: deque[tuple[float, int]] = deque()  # when they went, and the counter after the last

    def keep(self, records: Sequence[bytes], now: float) -> None:
        """Note records that go now, whose counters follow those before."""
        if not self._seconds:
            self._first += len(records)
            return
        self._records.extend(records)
        self._bytes += sum(map(len, records))
        self._batches.append((now, self._first + len(self._records)))
        self.expire(now)

    def again(self, ranges: Iterable[tuple[int, int]], now: float) -> list[bytes]:
        """Those of these counters that are kept still."""
        self.expire(now)
        end = self._first + len(self._records)
        found = [
            self._records[counter - self._first]
            for first, count in ranges
            for counter in range(max(first, self._first), min(first + count, end))
        ]
        self._counts.resent += len(found)
        return found

    def expire(self, now: float) -> None:
        """Forget what is too old, or too much."""
        while self._batches and (self._batches[0][0] < now - self._seconds or self._bytes > self._max_bytes):
            _, end = self._batches.popleft()
            while self._first < end:
                self._bytes -= len(self._records.popleft())
                self._first += 1

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: never."""
        return self._batches[0][0] + self._seconds if self._batches else math.inf
