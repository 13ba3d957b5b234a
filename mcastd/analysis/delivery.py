"""How evenly the datagrams of a stream arrive: its bit rate, and the delay factor of RFC 4445 section 3.1.

```
  full     .     /|      /|      a buffer that each arrival fills, and that drains at the stream's own rate:
           .    / |   /| / |     the delay factor is how long what is between its highest and its lowest
  empty    . __/  |__/ |/  |     takes to drain
```
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import sub

from mcastd.clock import NANO

INTERVAL_NANOS = NANO
# An arrival that is so much later than the one before it does not go on from that.
SILENT_NANOS = 10 * NANO


class Delivery:
    """Takes the sizes of datagrams with their arrivals, in nanoseconds. It tells of the last interval."""

    def __init__(self) -> None:
        self.bit_rate: float | None = None  # as it arrived; None: not known yet
        self.delay_factor: float | None = None  # seconds; None: not known yet
        self.most_delay_factor = 0.0  # that it ever was
        self._drain: float | None = None  # nanoseconds a byte, in this interval
        self._since: int | None = None  # arrival of the last datagram before this interval
        self._until = 0  # where it ends
        self._last = 0  # arrival of its last datagram
        self._bytes = 0  # that came in it
        self._lowest = self._highest = 0.0  # of the buffer, in nanoseconds

    def feed(self, sizes: Sequence[int], arrivals: Sequence[int], nominal: float | None) -> None:
        """Take datagrams. ``nominal`` is the stream's own bit rate; None: it is not known."""
        begin, number = 0, len(arrivals)
        if self._since is None or not -INTERVAL_NANOS < arrivals[0] - self._last < SILENT_NANOS:
            self._begin(arrivals[0], nominal)
            self._until = arrivals[0] + INTERVAL_NANOS
            begin = 1
        while begin < number:
            if (arrival := arrivals[begin]) >= self._until:
                self._end(nominal)
                self._until = max(self._until + INTERVAL_NANOS, arrival + 1)
            stop = number
            if arrivals[-1] >= self._until:
                stop = max(begin + 1, bisect_left(arrivals, self._until, begin))
            self._take(sizes[begin:stop], arrivals[begin:stop])
            begin = stop

    def begin_anew(self) -> None:
        """The clock of arrivals has been set."""
        self._since = None

    def _begin(self, since: int, nominal: float | None) -> None:
        self._since = self._last = since
        self._drain = 8 * NANO / nominal if nominal else None
        self._bytes, self._lowest, self._highest = 0, 0.0, 0.0

    def _end(self, nominal: float | None) -> None:
        """End the interval. One without a datagram tells nothing, and the next begins where the last came."""
        assert self._since is not None
        if self._bytes:
            self.bit_rate = 8 * NANO * self._bytes / max(self._last - self._since, 1)
            if self._drain is not None:
                self.delay_factor = (self._highest - self._lowest) / NANO
                self.most_delay_factor = max(self.most_delay_factor, self.delay_factor)
        self._begin(self._last, nominal)

    def _take(self, sizes: Sequence[int], arrivals: Sequence[int]) -> None:
        """Take datagrams of this interval: how full the buffer is before and after each of them."""
        since, drain, before = self._since, self._drain, self._bytes
        assert since is not None
        self._last = arrivals[-1]
        number, size = len(sizes), sizes[0]
        if drain is None:
            self._bytes += sum(sizes)
            return
        if sizes.count(size) == number:
            self._bytes += number * size
            step, begin = max(1, round(size * drain)), since + round(before * drain)
            levels = [*map(sub, range(begin, begin + number * step, step), arrivals)]
            lowest, highest = min(levels), max(levels) + size * drain
        else:
            filled = [*accumulate(sizes, initial=before)]
            self._bytes = filled.pop()
            befores = [full * drain - (at - since) for full, at in zip(filled, arrivals, strict=True)]
            lowest = min(befores)
            highest = max(level + size * drain for level, size in zip(befores, sizes, strict=True))
        self._lowest, self._highest = min(self._lowest, lowest), max(self._highest, highest)
