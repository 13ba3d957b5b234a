"""The two clocks: monotonic seconds for deadlines and ages, wall-clock seconds for what users read."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds since some fixed point; pure code takes one, or ``now``, as an argument."""

NANO = 1_000_000_000
"""Nanoseconds in a second."""

monotonic: Clock = time.monotonic
wall: Clock = time.time

# A wall clock that is set by less than this is not noticed.
SET_NANOS = NANO


class ArrivalClock:
    """Tells whether the wall clock that arrivals are taken by was set.

    What has come may wait long before it is read: then its arrival is behind the monotonic clock. It is
    further ahead of that than it ever was only where the wall clock was set forward.
    """

    __slots__ = ("_ahead", "_last")

    def __init__(self) -> None:
        self._last: int | None = None  # the last arrival, in nanoseconds
        self._ahead = 0  # nanoseconds that an arrival was ahead of the monotonic clock, at most

    def was_set(self, arrival: int, now: float) -> bool:
        """Take an arrival, in nanoseconds, that was read ``now``, in monotonic seconds. Returns True if the
        clock was set since the one before.
        """
        ahead, last = arrival - int(now * NANO), self._last
        self._last = arrival
        if last is None:
            self._ahead = ahead
            return False
        was_set = arrival < last - SET_NANOS or ahead > self._ahead + SET_NANOS
        if was_set or ahead > self._ahead:
            self._ahead = ahead
        return was_set
