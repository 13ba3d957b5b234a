"""One stream of numbers out of several copies of it: each number goes on once, by whichever copy comes first.

```
  leg A   7  8  9     11 12
  leg B   7  8  9  10
          gone     ^  ^ held until 10 has come, by whichever leg, or was waited for long enough
                   next
```

What comes is taken in runs of numbers, since most of what is lost leaves long ones.

Anybody may send numbers that are far ahead. They are held as others are, but not in place of these; and what
they leave out counts as lost when a datagram goes on after it, as in order.py.
"""

from __future__ import annotations

import bisect
import enum
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic

from mcastd.counters import SequenceCounters
from mcastd.sequence.order import GAPS_MAX, KNOWN_MIN, LATE_SECONDS, MAX_DROPOUT, MAX_MISORDER
from mcastd.sequence.reorder import FREED_SHARE, HeldRoom, Item

# Runs that are remembered by their time at most, beside twice those that are held.
KEPT_GONE_MAX = 64


class Fate(enum.Enum):
    """What becomes of numbers that have come."""

    NEW = enum.auto()  # they go on
    EARLY = enum.auto()  # they are held: others have to go before them
    COPY = enum.auto()  # another leg had them first
    LATE = enum.auto()  # later ones have gone on, and these were given up


@dataclass(slots=True)
class _Hole:
    """Numbers that later ones went before."""

    begin: int
    end: int
    since: float  # monotonic seconds
    lost: bool  # they count as lost


@dataclass(slots=True)
class _HeldRun(Generic[Item]):
    begin: int
    end: int
    items: Item
    datagrams: int
    size: int  # bytes
    since: float  # monotonic seconds
    is_held: bool = True


class Merge(Generic[Item]):
    """What of a stream has gone on, what is held, and what is missing. Items are runs that are held."""

    def __init__(
        self, seconds: float, numbers: int, number: int, room: HeldRoom, total: SequenceCounters
    ) -> None:
        """What is missing is waited for ``seconds``; at 0 the first copy of each number goes on at once.

        Numbers count modulo ``numbers``; ``number`` is the first one. It counts in ``total``.
        """
        self.seconds = seconds
        self.next = number  # after the last one that has gone on; counts on where numbers wrap
        self._numbers = numbers
        self._room = room
        self._total = total
        self.known_lost = 0  # numbers lost behind KNOWN_MIN that had come
        self._lost = 0
        self._first = number
        self._whole_from = number  # all from here to the next one have gone on
        self._holes: list[_Hole] = []  # before the next one, in order
        self._held: list[_HeldRun[Item]] = []  # behind the next one, in order of their numbers
        self._begins: list[int] = []  # the first number of each
        self._by_time: deque[_HeldRun[Item]] = deque()  # in order of arrival; some may be held no longer
        self._waiting_since = math.inf  # monotonic seconds: since when the next one is missing
        # The same, when the next one came last. If others are held then, those before them still come: the
        # leg that brought them is ahead
        self._came_at = -math.inf
        self._confirmed = number  # holes before this number are confirmed: datagrams have gone on after them

    @property
    def missing(self) -> int:
        """Numbers that have not come, and still may."""
        holes = [hole for hole in [*self._holes] if not hole.lost and self._counts(hole)]
        found, at = sum(hole.end - hole.begin for hole in holes), self.next
        for held in [*self._held]:
            if held.begin - at >= MAX_DROPOUT:
                break
            found += max(0, held.begin - at)
            at = max(at, held.end)
        return found

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds."""
        due = (hole.since + LATE_SECONDS for hole in self._holes if not hole.lost and self._counts(hole))
        lost_at = next(due, math.inf)
        return min(lost_at, self.waits_until, self._waiting_since + self.seconds + LATE_SECONDS)

    @property
    def waits_until(self) -> float:
        """How long what is missing is waited for now, in monotonic seconds; ``inf``: nothing is held."""
        return max(self._waiting_since, self._came_at) + self.seconds

    def is_missed(self, number: int) -> bool:
        """Return True if a number has not gone on, but later ones have."""
        begin = self.next + self.ahead(number)
        return begin < self.next and any(hole.begin <= begin < hole.end for hole in [*self._holes])

    def wait_until(self, at: float) -> None:
        """Wait for what is missing at least so long."""
        self._waiting_since = max(self._waiting_since, at - self.seconds)

    def go_to(self, end: int) -> bool:
        """All up to before this number goes on, unless something is held. Returns True if it does."""
        if self._held:
            return False
        if self._holes:
            self._confirmed = end
        self.next = end
        return True

    def ahead(self, number: int) -> int:
        """How far a number is ahead of the next one, as near as can be."""
        half = self._numbers // 2
        return (number - self.next + half) % self._numbers - half

    def has_all(self, begin: int, end: int) -> bool:
        """Return True if all numbers from ``begin`` to before ``end`` have surely gone on."""
        return end <= self.next and begin >= self._whole_from

    def fates(self, begin: int, end: int, now: float) -> Iterator[tuple[int, int, Fate]]:
        """What becomes of the numbers from ``begin`` to before ``end``, part by part.

        Before it is asked for the next part, :meth:`go_on` has to be called with those that are NEW, and
        :meth:`hold` with those that are EARLY.
        """
        while begin < end:
            stop, fate = self._fate(begin, end, now)
            yield begin, stop, fate
            begin = stop

    def fate(self, begin: int, end: int, now: float) -> Fate:
        """What becomes of one datagram that has all these numbers. If some of them are new, it is."""
        fates = []
        while begin < end:
            begin, fate = self._fate(begin, end, now)
            fates.append(fate)
        return next(fate for fate in (Fate.NEW, Fate.EARLY, Fate.LATE, Fate.COPY) if fate in fates)

    def _fate(self, begin: int, end: int, now: float) -> tuple[int, Fate]:
        """What becomes of these numbers, up to the first one with another fate."""
        if begin < self.next:
            return self._fate_of_past(begin, min(end, self.next))
        held = self._held
        behind = bisect.bisect_right(self._begins, begin)
        if behind and held[behind - 1].end > begin:
            return min(end, held[behind - 1].end), Fate.COPY
        stop = min(end, self._begins[behind]) if behind < len(held) else end
        if begin == self.next:
            self._came_at = now
            return stop, Fate.NEW
        if self.seconds or held:
            return stop, Fate.EARLY
        self._leave_out(begin, now, lost=False)
        return stop, Fate.NEW

    def _fate_of_past(self, begin: int, end: int) -> tuple[int, Fate]:
        if begin < self._first:
            return min(end, self._first), Fate.LATE
        for hole in self._holes if begin < self._whole_from else ():
            if begin < hole.begin:
                return min(end, hole.begin), Fate.COPY
            if begin < hole.end:
                return min(end, hole.end), Fate.LATE if self.seconds else Fate.NEW
        return end, Fate.COPY

    def go_on(self, begin: int, end: int, datagrams: int = 1) -> list[Item]:
        """These numbers, of so many datagrams, go on. Returns what follows them at once."""
        if begin < self.next:
            self._fill(begin, end)
        if end <= self.next:
            self._total.reordered += datagrams
            return []
        if self._holes and (datagrams > 1 or begin > self._holes[-1].end):
            self._confirmed = end
        self.next = end
        return self._following() if self._held else []

    def _following(self) -> list[Item]:
        found: list[Item] = []
        held, behind = self._held, 0
        for one in held:
            if one.begin > self.next:
                break
            if self._holes and (one.datagrams > 1 or one.begin > self._holes[-1].end):
                self._confirmed = one.end
            self.next = max(self.next, one.end)
            self._room.number -= one.datagrams
            self._room.bytes -= one.size
            found.append(one.items)
            one.is_held = False
            behind += 1
        if behind:
            del held[:behind], self._begins[:behind]
            self._waiting_since = self._oldest_since()
        return found

    def _oldest_since(self) -> float:
        """Since when something is held, in monotonic seconds; ``inf``: nothing is."""
        by_time = self._by_time
        while by_time and not by_time[0].is_held:
            by_time.popleft()
        return by_time[0].since if by_time else math.inf

    def hold(self, begin: int, end: int, items: Item, now: float, *, datagrams: int, size: int) -> list[Item]:
        """Hold a run of datagrams of ``size`` bytes. Returns what goes on since there is no room for more."""
        at = bisect.bisect_right(self._begins, begin)
        self._begins.insert(at, begin)
        self._held.insert(at, one := _HeldRun(begin, end, items, datagrams, size, now))
        self._by_time.append(one)
        if len(self._by_time) > 2 * len(self._held) + KEPT_GONE_MAX:
            self._by_time = deque(one for one in self._by_time if one.is_held)
        self._waiting_since = min(self._waiting_since, now)
        self._room.number += datagrams
        self._room.bytes += size
        found: list[Item] = []
        if self._room.is_overfull:
            self._give_up_implausible()
        while self._room.is_overfull and self._held:
            found += self._wait_no_longer(now)
        return found

    def _give_up_implausible(self) -> None:
        """Forget the oldest of what is far ahead, while others go on, or are held, that came after it."""
        at, latest, is_far = self.next, self._came_at, False
        implausible: list[_HeldRun[Item]] = []
        for one in self._held:
            is_far = is_far or one.begin - at > MAX_MISORDER
            if not is_far:
                latest = max(latest, one.since)
            elif one.since < latest:
                implausible.append(one)
            at = max(at, one.end)
        implausible.sort(key=lambda one: -one.since)
        room, given_up = self._room, list[_HeldRun[Item]]()
        while implausible and not room.has_free(FREED_SHARE):
            given_up.append(one := implausible.pop())
            room.number -= one.datagrams
            room.bytes -= one.size
        self._forget(given_up)

    def _forget(self, runs: list[_HeldRun[Item]]) -> None:
        """Hold these, which have left the room, no longer."""
        if runs:
            for one in runs:
                one.is_held = False
            self._held = [one for one in self._held if one.is_held]
            self._begins = [one.begin for one in self._held]
            self._waiting_since = self._oldest_since()
            self._room.strays += sum(one.datagrams for one in runs)

    def expire(self, now: float) -> list[Item]:
        """Return what has waited for long enough, in order; at ``inf`` all that is held."""
        for hole in self._holes:
            if hole.since + LATE_SECONDS <= now and self._counts(hole):
                self._lose(hole)
        found: list[Item] = []
        while self._held and self.waits_until <= now:
            found += self._wait_no_longer(now)
        return found

    def give_up_strays(self, now: float) -> None:
        """Forget what is held for long while all before it goes on: its numbers are far off. If it is of the
        stream after all, another leg brings it in its turn."""
        since = now - LATE_SECONDS - self.seconds
        if self._held and self._came_at >= since:
            strays = [one for one in self._held if one.since <= since]
            for one in strays:
                self._room.number -= one.datagrams
                self._room.bytes -= one.size
            self._forget(strays)

    def _wait_no_longer(self, now: float) -> list[Item]:
        """Go on without what is missing before what is held."""
        self._leave_out(self._held[0].begin, now, lost=True)
        return self._following()

    def _leave_out(self, end: int, now: float, *, lost: bool) -> None:
        """Go on with number ``end``, without those before it."""
        hole = _Hole(self.next, end, now, lost=False)
        if lost and self._counts(hole):
            self._lose(hole)
        self._holes.append(hole)
        self.next = self._whole_from = end
        if len(self._holes) > GAPS_MAX and self._counts(hole := self._holes.pop(0)):
            self._lose(hole)

    def _counts(self, hole: _Hole) -> bool:
        """Return True if the numbers of a hole may count as lost."""
        return hole.end <= self._confirmed or hole.end - hole.begin < MAX_DROPOUT

    def _lose(self, hole: _Hole) -> None:
        """Count the numbers of a hole as lost, once."""
        if not hole.lost:
            hole.lost = True
            number = hole.end - hole.begin
            self._total.lost += number
            if hole.begin - self._first - self._lost >= KNOWN_MIN:
                self.known_lost += number
            self._lost += number

    def _fill(self, begin: int, end: int) -> None:
        """These numbers have come after later ones."""
        left: list[_Hole] = []
        for hole in self._holes:
            if hole.begin < begin:
                left.append(_Hole(hole.begin, min(hole.end, begin), hole.since, hole.lost))
            if end < hole.end:
                left.append(_Hole(max(hole.begin, end), hole.end, hole.since, hole.lost))
        self._holes = left
        self._whole_from = left[-1].end if left else self._first
