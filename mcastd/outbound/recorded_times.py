"""When the datagrams of a recording are due: from the times in it to those of a TimedSchedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mcastd.clock import NANO

# What is further back in time than this is by another clock: it is due at once, and what follows is as far
# behind it as it was recorded. What is less far back was overtaken: it is due at once, that is all; but after
# this many in a row the clock has been set back,
STEP_BACK_NANOSECONDS = NANO
OVERTAKEN_MAX = 16
# unless time has gone on in one step by as much, lately. A recording in order (reorder, legs, FEC) has what
# came late before all that has waited for it, and these run back to where the late one should have been:
# they are due at once, as they went on.
#
#   number      8    9   10   11   12   13 ...
#   came at     8    9   60   11   12   13 ...
STEP_KEPT_NANOSECONDS = NANO
# From the last datagram of a round to the first of the next, where a round has no distances.
ROUND_GAP_NANOSECONDS = NANO


class RecordedTimes:
    """Datagrams are as far apart as they were recorded, ``speed`` times as fast; times never run back.

    What is longer than ``max_gap`` seconds of the recording is shortened to it: what follows comes earlier.
    """

    def __init__(self, speed: float = 1.0, max_gap: float | None = None) -> None:
        self._per_second = NANO * speed  # nanoseconds of the recording
        self._max_gap = math.inf if max_gap is None else round(max_gap * NANO)  # nanoseconds of it, too
        self.restart()

    def restart(self) -> None:
        """What comes next has nothing to do with what was before."""
        # In nanoseconds:
        self._latest = 0  # when the last datagram is due; 0 is the first one
        self._shift = 0  # what is added to the times of the recording
        self._overtaken = 0  # datagrams in a row that were before the last of the others
        self._step = 0  # the longest from one datagram to the next, lately
        self._step_until = 0  # when it is forgotten, if nothing runs back until then
        self._began = 0  # when the first datagram of this round is due
        self._count = 0  # datagrams of this round
        self._gap = 0  # from the last datagram of the round before this one to its first

    def begin_round(self) -> None:
        """The recording begins anew: its first datagram follows after the mean distance of the others."""
        if self._count:
            self._gap = self._distance() or ROUND_GAP_NANOSECONDS
        self._count = 0

    def seconds(self, times: Sequence[int]) -> list[float]:
        """When the next datagrams are due, one or more, which came at ``times`` in nanoseconds, and when one
        after them would be, by their mean distance."""
        if not self._count:
            self._latest = self._began = self._latest + self._gap
            self._shift = self._latest - times[0]
        latest, shift, max_gap, overtaken = self._latest, self._shift, self._max_gap, self._overtaken
        longest, until = self._step, self._step_until
        due: list[int] = []
        for recorded in times:
            time = recorded + shift
            if (step := time - latest) < 0:
                overtaken += 1
                if -step > STEP_BACK_NANOSECONDS or (overtaken > OVERTAKEN_MAX and -step > longest):
                    shift -= step
                    overtaken = 0
                elif -step <= longest:
                    until = latest + STEP_KEPT_NANOSECONDS
                time = latest
            else:
                overtaken = 0
                if step > max_gap:
                    shift -= step - int(max_gap)
                    step = int(max_gap)
                    time = latest + step
                if step >= longest or latest > until:
                    longest, until = step, time + STEP_KEPT_NANOSECONDS
            latest = time
            due.append(time)
        self._latest, self._shift, self._overtaken = latest, shift, overtaken
        self._step, self._step_until = longest, until
        self._count += len(due)
        due.append(latest + self._distance())
        return [time / self._per_second for time in due]

    def _distance(self) -> int:
        """The mean distance of the datagrams of this round."""
        return (self._latest - self._began) // max(1, self._count - 1)
