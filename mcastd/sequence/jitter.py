"""The jitter of a stream of RTP: RFC 3550 section 6.4.1 and appendix A.8."""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub

from mcastd.clock import NANO, ArrivalClock

# The weight of a new difference in the estimate.
GAIN = 1 / 16
HALF_TIMESTAMPS = 1 << 31


class Jitter:
    """The estimate, its mean, and its most since the stream began. All in seconds."""

    def __init__(self, clock_hz: int) -> None:
        self.value = 0.0
        self.most = 0.0
        self.differences = 0  # that are in it
        self._sum = 0.0
        self._unit = 1 / clock_hz  # seconds of a step of the timestamp
        self._time = 0  # nanoseconds, of the last datagram; 0: there was none
        self._clock = ArrivalClock()
        self._timestamp = 0

    @property
    def mean(self) -> float:
        """The mean of the estimates after each datagram."""
        return self._sum / self.differences if self.differences else 0.0

    def feed(self, timestamps: Sequence[int], times: Sequence[int], now: float) -> None:
        """Take datagrams in the order in which they came, with their kernel times in nanoseconds.

        A time of 0 is not known. They are read ``now``, in monotonic seconds: if the kernel's clock was set
        meanwhile, the last of them has none before it.
        """
        if not all(times):
            known = [pair for pair in zip(timestamps, times, strict=True) if pair[1]]
            timestamps, times = [pair[0] for pair in known], [pair[1] for pair in known]
        if not times:
            return
        if self._clock.was_set(times[-1], now):
            self.begin_anew()
            timestamps, times = timestamps[-1:], times[-1:]
        if not self._time:
            self._time, self._timestamp = times[0], timestamps[0]
            timestamps, times = timestamps[1:], times[1:]
            if not times:
                return
        gone = map(sub, times, (self._time, *times[:-1]))
        sent = [*map(sub, timestamps, (self._timestamp, *timestamps[:-1]))]
        if min(sent) < -HALF_TIMESTAMPS or max(sent) >= HALF_TIMESTAMPS:  # they have wrapped
            sent = [(one + HALF_TIMESTAMPS) % (2 * HALF_TIMESTAMPS) - HALF_TIMESTAMPS for one in sent]
        value, unit = self.value, self._unit
        values = [
            value := value + (abs(nano / NANO - step * unit) - value) * GAIN
            for nano, step in zip(gone, sent, strict=True)
        ]
        self.value, self._time, self._timestamp = value, times[-1], timestamps[-1]
        self.differences += len(values)
        self._sum += sum(values)
        if (most := max(values)) > self.most:
            self.most = most

    def begin_anew(self) -> None:
        """The timestamps have begun anew: the next datagram has none before it."""
        self._time = 0
