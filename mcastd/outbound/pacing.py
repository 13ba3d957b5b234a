"""When the next datagram may go: a pure schedule of absolute deadlines, so that being late is not drift."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol

from mcastd.config.outbound import DEFAULT_BURST

# Where no burst is set and one thread sends for many channels, up to this many datagrams of one size go
# together, as far as none of them goes more than GATHERED_SECONDS before it is due.
GATHERED_DATAGRAMS = 3
GATHERED_SECONDS = 0.003
# The most bursts of a timetable.
TIMETABLE_BURSTS = 32
# A datagram that goes no later than the first after its deadline is not late; one of a file, no later than
# the second: a block is read and hashed in between.
TOLERANCE_SECONDS = 0.001
FILES_TOLERANCE_SECONDS = 0.1
# A product of seconds and a rate may be that much too small for the whole number of bits that it is.
ROUNDING_BITS = 1e-3
# A backlog is sent at this multiple of the rate.
CATCH_UP_FACTOR = 2
# A sender that is further behind than this does not catch up.
STALL_SECONDS = 1.0
# Of a source that is not fast, this much is read at once.
READ_BYTES = 65_536
# Of a source with a rate, what it sends in this time is read at once, up to these bytes: what is done once
# for each read costs less so.
PACED_READ_SECONDS = 0.15
PACED_READ_BYTES = 131_072


class Timetable(NamedTuple):
    """When the next bursts are due. All times are in seconds, deadlines in those of the monotonic clock."""

    begins_at: float  # the first one goes then, or later
    deadlines: Sequence[float]  # when the first datagram of each burst is due
    burst: int  # datagrams in each of them; the last one may have fewer
    datagrams: int  # in all bursts
    rest: float  # from one burst to the next at least, however late it is; after several at once as many
    period: float  # from the deadline of one datagram to that of the next
    tolerance: float  # what goes that much after its deadline is not late
    together: int = 1  # bursts that may go at once where all of them are late

    def sent(self, bursts: int) -> int:
        """How many datagrams the first ``bursts`` have."""
        return min(bursts * self.burst, self.datagrams)

    @property
    def punctual_seconds(self) -> float:
        """Nothing of a burst is late that goes no later than this after its deadline."""
        return max(self.tolerance, self.period)

    def late(self, burst: int, delay: float) -> int:
        """How many datagrams of a burst were late, counted from 0, that went ``delay`` seconds after its
        deadline."""
        past_tolerance = math.ceil((delay - self.tolerance) / self.period)
        past_period = math.ceil(delay / self.period) - 1
        return max(0, min(past_tolerance, past_period, self.sent(burst + 1) - self.sent(burst)))


class Schedule(Protocol):
    """When datagrams are due, as a channel sees it: a :class:`Pacer`, or a source's own."""

    late: int  # datagrams sent more than a millisecond and more than one period after their deadline

    @property
    def deadline(self) -> float:
        """When the next datagram may go, in monotonic seconds: ``-inf`` is at once, ``inf`` never."""

    def __str__(self) -> str:
        """For people."""

    def targets(self, now: float, sizes: Sequence[int]) -> Sequence[float]:
        """When the next datagrams, of ``sizes`` bytes, are due, in monotonic seconds, if not at ``now``."""

    def due(self, now: float, sizes: Sequence[int]) -> int:
        """How many of the next datagrams, of ``sizes`` bytes of payload, may go now."""

    def sent(self, now: float, sizes: Sequence[int]) -> None:
        """Datagrams of ``sizes`` bytes have gone, all of them due at ``now``."""

    def timetable(self, now: float, sizes: Sequence[int], gather: bool) -> Timetable | None:
        """When the next datagrams, of ``sizes`` bytes, are due; None: ask :meth:`due`.

        With ``gather``, some may go a little early, along with others.
        """

    def followed(self, timetable: Timetable, sent: int, last_at: float, late: int) -> None:
        """The first bursts of the last timetable have gone, with ``sent`` datagrams, of which ``late`` were
        late; the last of them at ``last_at``, in monotonic seconds."""

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
        burst: float | None = None,
        *,
        tolerance: float = TOLERANCE_SECONDS,
    ) -> None:
        """One of ``interval`` in seconds and ``rate`` in bits of payload per second. At a rate, what is due
        within ``burst`` seconds may go along with what is due now; None: within DEFAULT_BURST, and more of
        them may gather. What is sent up to ``tolerance`` seconds after its deadline is not late."""
        if (interval is None) == (rate is None):
            raise ValueError("pacing takes an interval or a rate")
        self.late = 0  # datagrams sent after the tolerance, and more than one period after their deadline
        self._tolerance = tolerance
        self._interval = interval
        self._rate = rate
        self._burst = DEFAULT_BURST if burst is None else burst
        self._may_gather = burst is None
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

    def targets(self, now: float, sizes: Sequence[int]) -> Sequence[float]:
        if self._interval == 0 or now - self._due_at > self._stall:
            return [now] * len(sizes)
        return [self._at(spent) for spent in self._line_up(sizes)[:-1]]

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
        """As due(), once the first is known to be. Usually no other is, so sizes are not summed up first."""
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
        before = self._spent
        if len(sizes) == 1:
            was_due, self._spent = self._due_at, self._spent + (1 if self._interval else 8 * sizes[0])
            self._due_at = self._at(self._spent)
            if (
                was_due < now - self._tolerance and self._due_at < now
            ):  # the period ends at the next one's deadline
                self.late += 1
        else:
            spent = self._line_up(sizes)
            if self._due_at < now - self._tolerance:  # else not even the first is late
                past_tolerance = bisect_left(spent, now - self._tolerance, hi=len(sizes), key=self._at)
                past_period = bisect_left(spent, now, lo=1, key=self._at) - 1
                self.late += min(past_tolerance, past_period)
            self._spent = spent[-1]
            self._due_at = self._at(self._spent)
        self.deadline = self._due_at
        if self._rate:
            took = min(self._burst, (self._spent - before) / self._rate)  # seconds of the rate
            self._resting_until = now + took / CATCH_UP_FACTOR
            self.deadline = max(self._due_at, self._resting_until)

    def timetable(self, now: float, sizes: Sequence[int], gather: bool) -> Timetable | None:
        if not -math.inf < self._due_at >= now - self._stall or not sizes:
            return None
        spent, start, rate, rest = self._spent, self._start, self._rate, 0.0
        if self._interval:
            burst, period = 1, self._interval
            total = min(len(sizes), TIMETABLE_BURSTS)
            deadlines = [start + (spent + index) * period for index in range(total)]
        elif rate and (bits := 8 * sizes[0]):
            period = bits / rate
            burst = max(1, int(self._burst * rate + ROUNDING_BITS) // bits)
            if gather and self._may_gather:
                burst = max(burst, min(GATHERED_DATAGRAMS, 1 + int(GATHERED_SECONDS / period)))
            total = min(len(sizes), TIMETABLE_BURSTS * burst)
            if sizes[:total].count(sizes[0]) != total:
                return None
            rest = burst * period / CATCH_UP_FACTOR
            deadlines = [start + at / rate for at in range(spent, spent + total * bits, burst * bits)]
        else:
            return None
        return Timetable(self.deadline, deadlines, burst, total, rest, period, self._tolerance)

    def followed(self, timetable: Timetable, sent: int, last_at: float, late: int) -> None:
        units = 1 if self._interval else round(timetable.period * (self._rate or 0))
        self._spent += sent * units
        self.late += late
        self.deadline = self._due_at = self._at(self._spent)
        if self._rate:
            self._resting_until = last_at + timetable.rest
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
        if (bits := 8 * sizes[0]) and sizes.count(sizes[0]) == len(sizes):
            return range(self._spent, self._spent + (len(sizes) + 1) * bits, bits)
        return list(accumulate((8 * size for size in sizes), initial=self._spent))

    def _at(self, spent: int) -> float:
        return self._start + (spent * self._interval if self._interval else spent / (self._rate or 1))


def paced_read_bytes(rate: float) -> int:
    """How many bytes are best read at once of a source that is sent at ``rate`` bits per second."""
    return min(int(rate / 8 * PACED_READ_SECONDS), PACED_READ_BYTES)
