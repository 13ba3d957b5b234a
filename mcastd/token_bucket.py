"""How much may go by now, where a rate is set: a token bucket. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

# What may go at once after a pause: so much of a second's.
BURST_SECONDS = 0.1
# And at least this many bytes, or no large datagram would ever go at a low rate.
BURST_MIN_BYTES = 65_536


class TokenBucket:
    """For ``rate`` bits per second."""

    def __init__(self, rate: int) -> None:
        self._bytes_per_second = rate / 8
        self._most = max(BURST_MIN_BYTES, self._bytes_per_second * BURST_SECONDS)
        self._left = self._most
        self._at = -math.inf  # monotonic seconds

    def take(self, sizes: Sequence[int], now: float) -> int:
        """Return how many of these datagrams may go now, of ``sizes`` bytes each, the first ones."""
        self._left = min(self._most, self._left + (now - self._at) * self._bytes_per_second)
        self._at = now
        if (total := sum(sizes)) <= self._left:
            self._left -= total
            return len(sizes)
        sums = list(accumulate(sizes))
        count = bisect_right(sums, self._left)
        if count:
            self._left -= sums[count - 1]
        return count
