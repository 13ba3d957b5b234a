"""The next bursts of a channel, made ready, so that each costs one call when it is due.

While a thread sends for many channels, nothing of the next one is in the processor's caches: what there is to
be done for each burst should be short. What a channel can do for many bursts at once it does when it makes a
plan, and when the plan has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mcastd.counters import OutboundCounters
from mcastd.outbound.pacing import Timetable


class BurstPlan:
    """Bursts that are ready to be sent when they are due, by whoever keeps the timetable.

    ``waiting`` has those that have not gone, the next one last, each with the time when that after it is due
    (infinity if it is the last). ``sent_at`` gets the time of each that has gone. Times are in monotonic
    seconds. The plan ends when all have gone, or with an ``error``, which a burst met that has not gone.
    """

    __slots__ = ("_before", "error", "rest", "send", "sent_at", "sizes", "timetable", "together", "waiting")

    def __init__(
        self,
        timetable: Timetable,
        sizes: Sequence[int],
        buffers: Sequence[bytes | memoryview],
        send: Callable[[bytes | memoryview], object],
        counters: OutboundCounters,
    ) -> None:
        """``buffers`` has one for each burst of the timetable, ``sizes`` the bytes of each datagram. ``send``
        sends a buffer without blocking; if it raises OSError, nothing of it has gone. ``counters`` are those
        of the channel, which do not change until the plan has ended."""
        self.timetable = timetable
        self.sizes = sizes
        self.send = send
        self.rest = timetable.rest  # seconds from one burst to the next at least
        self.together = timetable.together  # bursts that may go at once, if all are late
        self.waiting = [*zip(buffers, (*timetable.deadlines[1:], math.inf), strict=True)]
        self.waiting.reverse()
        self.sent_at: list[float] = []
        self.error: OSError | None = None
        self._before = counters.sent, counters.sent_bytes, counters.late

    @property
    def sent(self) -> int:
        """Datagrams that have gone."""
        return self.timetable.sent(len(self.sent_at))

    def add_to(self, counters: OutboundCounters) -> None:
        """Count what has gone by now. The counters may have it already: nothing is counted twice."""
        sent_at = self.sent_at[:]  # another thread may send meanwhile
        sent, sent_bytes, late = self._before
        count = self.timetable.sent(len(sent_at))
        counters.sent = max(counters.sent, sent + count)
        counters.sent_bytes = max(counters.sent_bytes, sent_bytes + sum(self.sizes[:count]))
        counters.late = max(counters.late, late + self.timetable.late(sent_at))
