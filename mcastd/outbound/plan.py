"""The next bursts of a channel, made ready, so that each costs one step when it is due.

While a thread sends for many channels, nothing of the next one is in the processor's caches: what there is to
be done for each burst should be short. What a channel can do for many bursts at once it does when it makes a
plan, and when the plan has ended.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from mcastd import clock
from mcastd.counters import OutboundCounters
from mcastd.net.link import LastBurst
from mcastd.outbound.pacing import Timetable


class BurstPlan:
    """Bursts that are ready to be sent when they are due, by whoever keeps the timetable.

    Iterate over it, once: each step sends the next burst, and with it those after it that are late and may go
    along. It gives when the next step is due, in monotonic seconds: infinity if all have gone. The steps end
    with an ``error``, which a burst met that has not gone, or after a burst that is the LastBurst to go so.
    """

    __slots__ = ("_before", "_buffers", "_send", "bursts", "error", "last_at", "late", "sizes", "timetable")

    def __init__(
        self,
        timetable: Timetable,
        sizes: Sequence[int],
        buffers: Iterable[bytes | memoryview],
        send: Callable[[bytes | memoryview], object],
        counters: OutboundCounters,
    ) -> None:
        """``buffers`` has one for each burst of the timetable, ``sizes`` the bytes of each datagram. ``send``
        sends a buffer as what a Sender has prepared does. ``counters`` are those of the channel, which do not
        change until the plan has ended."""
        self.timetable = timetable
        self.sizes = sizes
        self._buffers = buffers
        self._send = send
        self.bursts = 0  # that have gone
        self.late = 0  # datagrams of them that were late
        self.last_at = -math.inf  # when the last one went, in monotonic seconds
        self.error: OSError | None = None
        self._before = counters.sent, counters.sent_bytes, counters.late

    def __iter__(self) -> Iterator[float]:
        timetable, send = self.timetable, self._send
        deadlines, rest, together = timetable.deadlines, timetable.rest, timetable.together
        punctual, now = timetable.punctual_seconds, clock.monotonic
        due_at, at_once, ends = deadlines[0], 0, False
        try:
            for data, next_at in zip(self._buffers, (*deadlines[1:], math.inf), strict=True):
                at = now()
                try:
                    send(data)
                except LastBurst:
                    ends = True
                if at - due_at > punctual:
                    self.late += timetable.late(self.bursts, at - due_at)
                self.last_at = at
                self.bursts += 1
                at_once += 1
                if ends:
                    return
                if next_at > at or at_once == together:
                    rested_at = at + at_once * rest
                    at_once = 0
                    yield next_at if next_at > rested_at else rested_at
                due_at = next_at
        except OSError as error:
            self.error = error
        except MemoryError:
            self.error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    @property
    def sent(self) -> int:
        """Datagrams that have gone."""
        return self.timetable.sent(self.bursts)

    def add_to(self, counters: OutboundCounters) -> None:
        """Count what has gone by now. The counters may have it already: nothing is counted twice."""
        count, late_count = self.sent, self.late  # another thread may send meanwhile
        sent, sent_bytes, late = self._before
        counters.sent = max(counters.sent, sent + count)
        counters.sent_bytes = max(counters.sent_bytes, sent_bytes + sum(self.sizes[:count]))
        counters.late = max(counters.late, late + late_count)
