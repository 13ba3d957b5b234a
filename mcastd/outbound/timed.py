"""The schedule of a source that knows the time of each of its datagrams, as by a clock in them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Literal

from mcastd.config.outbound import DEFAULT_BURST
from mcastd.outbound.pacing import (
    CATCH_UP_FACTOR,
    STALL_SECONDS,
    TIMETABLE_BURSTS,
    TOLERANCE_SECONDS,
    Timetable,
)

# Where no burst is set, what is due within this many seconds goes at once.
DEFAULT_TIMED_BURST = 0.0001
# With late = "resume" a sender that is further behind than this goes on from there.
RESUME_SECONDS = 0.1

Late = Literal["catch-up", "resume"]


class TimedSchedule:
    """A :class:`~mcastd.outbound.pacing.Schedule` by times that a source gives with its datagrams.

    The source's times are in seconds, from any beginning, and do not decrease. The first datagram is due at
    once. A sender that is behind sends at CATCH_UP_FACTOR times the pace. One that is too far behind sends a
    single datagram, and all after it go that much later: by ``late`` that is a second ("catch-up"), or
    RESUME_SECONDS ("resume").
    """

    def __init__(self, burst: float | None = None, late: Late = "catch-up") -> None:
        """What is due within ``burst`` seconds goes at once; None: within DEFAULT_TIMED_BURST."""
        self.late = 0  # datagrams sent after the tolerance, and after the one that follows was due
        self._burst = DEFAULT_TIMED_BURST if burst is None else burst
        # What is late goes at once as far as a rate's would: a sleep for each would not catch up.
        self._late_burst = DEFAULT_BURST if burst is None else burst
        self._stall = STALL_SECONDS if late == "catch-up" else RESUME_SECONDS
        # Times of the datagrams of the last read, and when that after them would be due
        self._times: Sequence[float] = ()
        self._next = 0  # index of the next one
        self._start: float | None = None  # monotonic seconds of the time 0; None: nothing has gone yet
        self._resting_until = -math.inf  # monotonic seconds
        self._idle_until = -math.inf  # monotonic seconds
        self.deadline = -math.inf

    def __str__(self) -> str:
        return "at the times of its source"

    def expect(self, times: Sequence[float]) -> None:
        """The source has given as many datagrams, due at these times, and the last time is that when another
        would be due. Those before them are all done with."""
        self._times, self._next = times, 0
        if self._start is not None:
            self._start = max(self._start, self._idle_until - times[0])
        self._set_deadline()

    def restart(self) -> None:
        """What was expected does not come; the next datagram is due at once."""
        self._times, self._next, self._start, self.deadline = (), 0, None, -math.inf

    def targets(self, now: float, sizes: Sequence[int]) -> Sequence[float]:
        start = self._start
        if start is None or now - self._due_at > self._stall:
            start = now - self._times[self._next]
        return [start + time for time in self._times[self._next : self._next + len(sizes)]]

    def due(self, now: float, sizes: Sequence[int]) -> int:
        if now < self.deadline or not sizes:
            return 0
        if self._start is None or now - self._due_at > self._stall:
            return 1
        late = min(now - self._due_at, self._late_burst)
        return self._count_within(max(self._burst, late), self._next, len(sizes))

    def _count_within(self, burst: float, first: int, most: int) -> int:
        """How many go along from ``first`` on within ``burst`` seconds, with that one: at least 1."""
        end = self._times[first] + burst
        return max(1, bisect_right(self._times, end, first, first + most) - first)

    def sent(self, now: float, sizes: Sequence[int]) -> None:
        if not sizes:
            return
        times, first, count = self._times, self._next, len(sizes)
        if self._start is None:
            self._start = now - times[first]
        elif now - self._due_at > self._stall:
            self.late += 1
            self._start = now - times[first]
        else:
            now_there = now - self._start
            past_tolerance = bisect_left(times, now_there - TOLERANCE_SECONDS, first, first + count) - first
            past_next = bisect_left(times, now_there, first + 1, first + 1 + count) - first - 1
            self.late += min(past_tolerance, past_next)
        self._advance(count, now)

    def timetable(self, now: float, sizes: Sequence[int], gather: bool) -> Timetable | None:
        if self._start is None or not sizes or self._due_at < now - self._stall:
            return None
        times, first = self._times, self._next
        burst = self._count_within(self._burst, first, len(sizes))
        total = min(len(sizes), TIMETABLE_BURSTS * burst)
        if burst > 1:
            if sizes[:total].count(sizes[0]) != total:
                return None
            for begin in range(first, first + total, burst):  # as far as the pace is no slower
                # Summed as _count_within() does: else rounding may leave nothing
                if times[min(begin + burst, first + total) - 1] > times[begin] + self._burst:
                    total = begin - first
                    break
        period = (times[first + total] - times[first]) / total
        if period <= 0:
            return None
        deadlines = [self._start + time for time in times[first : first + total : burst]]
        rest = burst * period / CATCH_UP_FACTOR
        together = max(1, int(self._late_burst / (burst * period)))
        return Timetable(self.deadline, deadlines, burst, total, rest, period, TOLERANCE_SECONDS, together)

    def followed(self, timetable: Timetable, sent: int, last_at: float, late: int) -> None:
        self.late += late
        self._advance(sent, last_at, timetable.rest)

    def idle(self, now: float) -> None:
        """What comes next is not due before ``now``: nothing is made up for."""
        self._idle_until = now
        if self._start is not None and self._next < len(self._times) - 1:
            self._start = max(self._start, now - self._times[self._next])
            self._set_deadline()

    @property
    def _due_at(self) -> float:
        """When the next datagram is due by its time."""
        return (self._start or 0.0) + self._times[self._next]

    def _advance(self, count: int, at: float, rest: float | None = None) -> None:
        """``count`` datagrams have gone, the last of them ``at`` that time; nothing for ``rest`` seconds."""
        first, self._next = self._next, self._next + count
        if rest is None:
            rest = (self._times[self._next] - self._times[first]) / CATCH_UP_FACTOR
        self._resting_until = at + rest
        self._set_deadline()

    def _set_deadline(self) -> None:
        if self._start is not None:
            self.deadline = max(self._due_at, self._resting_until)
