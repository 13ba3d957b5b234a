"""When the next datagram may go: a pure schedule of absolute deadlines, so that being late is not drift."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

# By default, what is due at a rate within this time may go at once.
BURST_SECONDS = 0.001
# A datagram that goes no later than the first after its deadline is not late; one of a file, no later than
# the second: a block is read and hashed in between.
TOLERANCE_SECONDS = 0.001
FILES_TOLERANCE_SECONDS = 0.1
# A backlog is sent at this multiple of the rate.
CATCH_UP_FACTOR = 2
# A sender that is further behind than this does not catch up.
STALL_SECONDS = 1.0


class Schedule(Protocol):
    """When datagrams are due, as a channel sees it: a :class:`Pacer`, or a source's own."""

    late: int  # datagrams sent more than a millisecond and more than one period after their deadline

    @property
    def deadline(self) -> float:
        """When the next datagram may go, in monotonic seconds: ``-inf`` is at once, ``inf`` never."""

    def __str__(self) -> str:
        """For people."""

    def due(self, now: float, sizes: Sequence[int]) -> int:
        """How many of the next datagrams, of ``sizes`` bytes of payload, may go now."""

    def sent(self, now: float, sizes: Sequence[int]) -> None:
        """Datagrams of ``sizes`` bytes have gone, all of them due at ``now``."""

    def idle(self, now: float) -> None:
        """There was nothing to send until ``now``: deadlines passed are no credit for what comes next."""


class Pacer:
    """A schedule in monotonic seconds: datagram k is due at ``start + k * interval``, or at
    ``start + bits before it / rate``.

    Time is an argument. The first datagram is due at once and starts the schedule. A sender that is a little
    behind catches up: at a rate, in bursts no longer than others, twice as often. One that is behind by more
    than a second and more than an interval (a network that refused, a stopped process) sends a single
    datagram, which starts the schedule anew: a long backlog is never burst. An ``interval`` of 0 does not
    pace; a ``rate`` of 0 pauses.
    """

    def __init__(
        self,
        interval: float | None,
        rate: int | None,
        burst: float = BURST_SECONDS,
        *,
        tolerance: float = TOLERANCE_SECONDS,
    ) -> None:
        """One of ``interval`` in seconds and ``rate`` in bits of payload per second. At a rate, what is due
        within ``burst`` seconds may go along with what is due now. What is sent up to ``tolerance`` seconds
        after its deadline is not late."""
        if (interval is None) == (rate is None):
            raise ValueError("pacing takes an interval or a rate")
        self.late = 0  # datagrams sent after the tolerance, and more than one period after their deadline
        self._tolerance = tolerance
        self._interval = interval
        self._rate = rate
        self._burst = burst
        self._stall = max(STALL_SECONDS, interval or 0)  # seconds
        self._start = -math.inf
        self._resting_until = -math.inf
        self._spent = 0  # datagrams (interval) or bits (rate) sent since the start: whole, so no drift
        self._due_at = -math.inf  # when the schedule has the next datagram
        # When the next datagram may go: ``-inf`` is at once, ``inf`` never
        self.deadline = math.inf if rate == 0 else -math.inf

    def __str__(self) -> str:
        if self._rate is not None:
            return f"{self._rate:,} bit/s" if self._rate else "paused (rate 0)"
        return f"every {self._interval:g} s" if self._interval else "as fast as the kernel takes it"

    def due(self, now: float, sizes: Sequence[int]) -> int:
        """At a rate, those due within the burst go along with one that is due now."""
        if now < self.deadline:
            return 0
        if self._interval == 0:
            return len(sizes)
        if len(sizes) < 2 or now - self._due_at > self._stall:
            return min(1, len(sizes))
        return self._count_due(now, sizes)

    def _count_due(self, now: float, sizes: Sequence[int]) -> int:
        """The same, where the first one is due. Mostly it is alone: then the others are not lined up."""
        if self._interval:
            if self._at(self._spent + 1) > now:
                return 1
            return bisect_right(self._line_up(sizes), now, hi=len(sizes), key=self._at)
        end = self._due_at + self._burst  # of what goes now; a datagram longer than that goes alone
        if self._at(self._spent + 8 * (sizes[0] + sizes[1])) > end:
            return 1
        return bisect_right(self._line_up(sizes), end, key=self._at) - 1

    def sent(self, now: float, sizes: Sequence[int]) -> None:
        if self._interval == 0 or not sizes:
            return
        if now - self._due_at > self._stall:
            self.late += self._start > -math.inf  # the very first is not
            self._restart(now)
        if len(sizes) == 1:
            was_due, self._spent = self._due_at, self._spent + (1 if self._interval else 8 * sizes[0])
            self._due_at = self._at(self._spent)
            if (
                was_due < now - self._tolerance and self._due_at < now
            ):  # the period ends at the next one's deadline
                self.late += 1
        else:
            spent = self._line_up(sizes)
            past_tolerance = bisect_left(spent, now - self._tolerance, hi=len(sizes), key=self._at)
            past_period = bisect_left(spent, now, lo=1, key=self._at) - 1
            self.late += min(past_tolerance, past_period)
            self._spent = spent[-1]
            self._due_at = self._at(self._spent)
        self.deadline = self._due_at
        if self._rate:
            self._resting_until = now + self._burst / CATCH_UP_FACTOR
            self.deadline = max(self._due_at, self._resting_until)

    def idle(self, now: float) -> None:
        if now > self.deadline:
            self._restart(now)
            self.deadline = -math.inf if self._interval == 0 else max(now, self._resting_until)

    def _restart(self, now: float) -> None:
        self._start = self._due_at = now
        self._spent = 0

    def _line_up(self, sizes: Sequence[int]) -> Sequence[int]:
        """What will have been spent before each datagram, and after the last one."""
        if self._interval:
            return range(self._spent, self._spent + len(sizes) + 1)
        if sizes.count(sizes[0]) == len(sizes):
            bits = 8 * sizes[0]
            return range(self._spent, self._spent + (len(sizes) + 1) * bits, bits)
        return list(accumulate((8 * size for size in sizes), initial=self._spent))

    def _at(self, spent: int) -> float:
        return self._start + (spent * self._interval if self._interval else spent / (self._rate or 1))
