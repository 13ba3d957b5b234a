"""Records as they come: put in order, if lost ones are waited for, and what is missing of them.

```
   counters   ... 7  8  9  .  11  12  .  .  15  16            . missing
        gone on --------^  |  held ------------^  ^ top
                           next: until it comes, or for as long as is waited for it
```
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from itertools import count, islice

from mcastd.counters import LinkCounters
from mcastd.protocols.link_frames import OpenedFrames
from mcastd.tunnel.link.window import ranges_of

# Records that only overtook each other come by themselves within this share of the time that is waited; or
# within so many seconds, if that is shorter.
OVERTAKEN_SHARE, OVERTAKEN_MAX_SECONDS = 0.1, 0.005
# What is missing is asked for again after so many round trips, and no sooner than after so many seconds.
ASK_ROUND_TRIPS, ASK_MIN_SECONDS = 1.25, 0.01
# What is held, and missing, at most. With a longer gap the peer was away, or is too fast: it is given up.
HELD_MAX_BYTES = 32 << 20
MISSING_MAX = 8192
# What Python takes for a frame, beside its bytes.
_FRAME_OVERHEAD_BYTES = 128


class RecordReception:
    """Of one session. Each counter is given to it once."""

    def __init__(
        self,
        repair_seconds: float,
        held_max_bytes: int = HELD_MAX_BYTES,
        counts: LinkCounters | None = None,
    ) -> None:
        """Lost records are waited for as long as that; 0: they are not, and nothing is held.

        ``counts`` is what is counted of all sessions of the link.
        """
        self.received = 0  # records
        self.lost = 0  # that were given up
        self.late = 0  # that came after they were given up
        self.repaired = 0  # that were asked for, and came
        self.top = 0  # the highest counter that came, and one
        self._counts = LinkCounters() if counts is None else counts
        self._seconds = repair_seconds
        self._held_max_bytes = held_max_bytes
        self._next = 0  # the first counter that has not gone on: it is missing, or is top
        self._held: dict[int, bytes] = {}
        self._held_bytes = 0
        self._missing: dict[int, float] = {}  # since when, in monotonic seconds; in ascending order
        # When counters are to be asked for, in monotonic seconds
        self._asks: list[tuple[float, int, list[int]]] = []
        self._asked: set[int] = set()
        self._order = count()

    def take(self, counters: Sequence[int], frames: OpenedFrames, now: float) -> OpenedFrames:
        """Take frames by their counters: a range, if they ascend one by one, is taken as a whole.

        Returns those that go on, in order if lost ones are waited for.
        """
        first, count = counters[0], len(counters)
        self.received += count
        self._counts.records += count
        is_next = first == self.top and counters == range(first, first + count)
        if not self._seconds:
            if is_next:
                self.top += count
            else:
                self._note_top(max(counters) + 1)
            return frames
        if is_next and first == self._next:
            self.top = self._next = first + count
            return frames
        onward: list[bytes] = []
        for counter, frame in zip(counters, frames, strict=True):
            if counter < self._next:
                self._come_late(1)
                onward.append(frame)
                continue
            if counter >= self.top:
                onward += self._miss(counter, now)
                self.top = counter + 1
            else:
                del self._missing[counter]
                if counter in self._asked:
                    self._asked.remove(counter)
                    self.repaired += 1
                    self._counts.repaired += 1
            self._held[counter] = frame
            self._held_bytes += len(frame) + _FRAME_OVERHEAD_BYTES
        onward += self._go_on()
        while self._held_bytes > self._held_max_bytes:
            onward += self._give_up(1)
        return onward

    def reveal(self, end: int, now: float) -> list[bytes]:
        """The peer has sent all counters before ``end``: others are missing. Returns what goes on."""
        if end <= self.top:
            return []
        if not self._seconds:
            self._note_top(end)
            return []
        onward = self._miss(end, now)
        self.top = end
        return onward

    def expire(self, now: float) -> list[bytes]:
        """Give up what was waited for too long. Returns what goes on."""
        given_up = 0
        for since in self._missing.values():
            if since + self._seconds > now:
                break
            given_up += 1
        return self._give_up(given_up)

    def ask(self, now: float, round_trip: float) -> list[tuple[int, int]]:
        """What the peer is to be asked for now, as ranges of counters in ascending order."""
        due: set[int] = set()
        while self._asks and self._asks[0][0] <= now:
            counters = heapq.heappop(self._asks)[-1]
            due.update(counter for counter in counters if counter in self._missing)
        if not due:
            return []
        self._asked |= due
        counters = sorted(due)
        self._ask_at(now + max(ASK_MIN_SECONDS, ASK_ROUND_TRIPS * round_trip), counters)
        return ranges_of(counters)

    def end(self) -> list[bytes]:
        """The session is over: nothing is waited for any more. Returns what goes on."""
        return self._give_up(len(self._missing))

    @property
    def held(self) -> int:
        """Records that wait for those before them."""
        return len(self._held)

    @property
    def deadline(self) -> float:
        """When :meth:`expire` or :meth:`ask` is due, in monotonic seconds; ``inf``: never."""
        if not self._missing:
            return math.inf
        given_up = next(iter(self._missing.values())) + self._seconds
        return min(given_up, self._asks[0][0])

    # -- inside

    def _lose(self, records: int) -> None:
        self.lost += records
        self._counts.lost += records

    def _come_late(self, records: int) -> None:
        self.late += records
        self._counts.late += records

    def _note_top(self, top: int) -> None:
        """Without repair, what has not come is lost; it may still come, late."""
        self.top = max(self.top, top)
        absent = self.top - self.received
        if absent > self.lost - self.late:
            self._lose(absent + self.late - self.lost)
        else:
            self._come_late(self.lost - absent - self.late)

    def _miss(self, end: int, now: float) -> list[bytes]:
        """The counters from top to before ``end`` are missing. Returns what goes on, if they are too many."""
        first = self.top
        if first == end:
            return []
        onward: list[bytes] = []
        if (excess := len(self._missing) + end - first - MISSING_MAX) > 0:
            onward = self._give_up(min(excess, len(self._missing)))
            if (beyond := end - first - MISSING_MAX) > 0:  # then nothing before is missing or held
                self._lose(beyond)
                first += beyond
                self._next = first
        self._missing.update(dict.fromkeys(range(first, end), now))
        wait = min(OVERTAKEN_MAX_SECONDS, OVERTAKEN_SHARE * self._seconds)
        self._ask_at(now + wait, [*range(first, end)])
        return onward

    def _ask_at(self, when: float, counters: list[int]) -> None:
        heapq.heappush(self._asks, (when, next(self._order), counters))

    def _give_up(self, number: int) -> list[bytes]:
        """The first ``number`` that are missing are lost. Returns what goes on."""
        onward: list[bytes] = []
        for counter in [*islice(self._missing, number)]:
            del self._missing[counter]
            self._asked.discard(counter)
            self._lose(1)
            self._next = counter + 1
            onward += self._go_on()
        return onward

    def _go_on(self) -> list[bytes]:
        """All that is held, up to what is missing."""
        onward: list[bytes] = []
        held, at = self._held, self._next
        while (frame := held.pop(at, None)) is not None:
            onward.append(frame)
            at += 1
        self._next = at
        self._held_bytes -= sum(map(len, onward)) + len(onward) * _FRAME_OVERHEAD_BYTES
        return onward
