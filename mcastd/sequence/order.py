"""The order of one sender's datagrams by their numbers: what was lost, doubled, out of order, restarted.

The rules of RFC 3550 appendix A.1, for numbers of any size. A number that is missing may still come: it
counts as lost when it is MAX_MISORDER behind, or after LATE_SECONDS, and what is lost stays so.

One datagram far ahead, whoever sent it, shows nothing: a gap of MAX_DROPOUT numbers or more counts when it is
confirmed, as A.1 has it of jumps, by a datagram that goes on where the gap ended.

```
  100   101   |  gap: 102 ... 2^40 - 1  |   2^40     2^40 + 1   confirms it
                                                     102        shows that there was none
```
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mcastd.counters import SequenceCounters

# RFC 3550 appendix A.1.
MAX_DROPOUT = 3000
MAX_MISORDER = 100
# Of numbers that never wrap in practice, a jump ahead is an outage, and only a very large one a restart.
WIDE_DROPOUT = 1 << 20
# A missing number is lost when it has not come for so long.
LATE_SECONDS = 1.0
# A stream of which so many numbers have come is known: what it loses after that is no stranger's doing alone.
KNOWN_MIN = 8
# Gaps that are kept at a time; of more, the oldest are lost.
GAPS_MAX = 128


class Arrival(enum.Enum):
    """How a datagram has arrived, by its number."""

    NEXT = enum.auto()  # goes on from the last one, maybe after a gap
    LATE = enum.auto()  # fills a gap
    DUPLICATE = enum.auto()  # was there before
    STRAY = enum.auto()  # far off: if its successor comes, the sender has begun anew
    RESTART = enum.auto()  # is that successor


@dataclass(frozen=True, slots=True)
class Numbering:
    """How numbers count."""

    numbers: int  # modulo this
    dropout: int  # a jump ahead that is at least so large is no gap
    misorder: int  # a number that is further behind is none that comes late

    @classmethod
    def of_size(cls, numbers: int) -> Numbering:
        dropout = MAX_DROPOUT if numbers <= 1 << 16 else WIDE_DROPOUT
        return cls(numbers, min(dropout, numbers // 4), min(MAX_MISORDER, numbers // 4))


@dataclass(slots=True)
class Gap:
    """Numbers that are missing."""

    begin: int
    end: int
    since: float  # monotonic seconds
    lost: bool = False  # they count as lost: what still comes of them is late, and new


class Order:
    """The order of one stream of numbers. It counts for the stream, and in ``total`` for all."""

    def __init__(self, numbering: Numbering, number: int, total: SequenceCounters) -> None:
        """``number`` is the first one that is expected."""
        self.counters = SequenceCounters()
        self.next = number  # expected; it counts on where numbers wrap
        self._numbering = numbering
        self._total = total
        self.gaps: list[Gap] = []  # in order, so also by time
        self._confirmed = number  # gaps before this number are confirmed
        # Indices of the last walk at which a number was not the one after the one before it
        self.breaks: list[int] = []
        self._suspected = -1  # the number that would confirm a restart; -1: none would
        self._suspected_from = number  # the number before that, which would be the first one
        self.known_lost = 0  # numbers lost behind KNOWN_MIN that had come
        self._first = number  # since the numbers began, or began anew
        self._lost = 0  # since then
        self.is_confirmed = False  # a datagram has gone on where another one ended
        self.went_on = -math.inf  # monotonic seconds when the number that was expected, or a later one, came

    @property
    def deadline(self) -> float:
        """When the next missing number counts as lost, in monotonic seconds."""
        if not self.gaps:  # as a rule
            return math.inf
        due = (gap.since + LATE_SECONDS for gap in self.gaps if not gap.lost and self._counts(gap, gap.end))
        return next(due, math.inf)

    @property
    def missing(self) -> int:
        """Numbers that have not come, and still may."""
        gaps = [gap for gap in [*self.gaps] if not gap.lost and self._counts(gap, gap.end)]
        return sum(gap.end - gap.begin for gap in gaps)

    def unwrap(self, number: int) -> int:
        """The number that is meant, as near as can be to the one that is expected."""
        numbers = self._numbering.numbers
        return self.next + (number - self.next + numbers // 2) % numbers - numbers // 2

    def begin(self, count: int) -> None:
        """The first datagram of all has come, with so many numbers."""
        self.next += count

    def advance(self, count: int) -> None:
        """``count`` numbers have come in order. While there are no gaps it does no more than to count."""
        if count:
            self.is_confirmed = True
            if self.gaps:
                self._confirmed = self.next
        self.next += count
        if self.gaps:
            self._settle(self.next - self._numbering.misorder)

    def _go_to(self, number: int) -> None:
        self.next = number
        if self.gaps:
            self._settle(number - self._numbering.misorder)

    def place(self, number: int, count: int, now: float) -> Arrival:
        """Take a datagram with ``count`` numbers from ``number`` on, at monotonic time ``now``."""
        place = self._place(number, count, now)
        if place is Arrival.DUPLICATE:
            self.counters.duplicated += 1
            self._total.duplicated += 1
        elif place is Arrival.LATE:
            self.counters.reordered += 1
            self._total.reordered += 1
        elif place is Arrival.RESTART:
            self.counters.restarts += 1
            self._total.restarts += 1
        return place

    def _place(self, number: int, count: int, now: float) -> Arrival:
        numbering = self._numbering
        begin = self.unwrap(number)
        ahead = begin - self.next
        if 0 <= ahead < numbering.dropout - 1:
            self.went_on = now
            if ahead:
                self.gaps.append(Gap(self.next, begin, now))
                if len(self.gaps) > GAPS_MAX:
                    self._end(self.gaps.pop(0))
            else:
                self._confirmed, self.is_confirmed = begin, True
            self._go_to(begin + count)
            return Arrival.NEXT
        if -numbering.misorder <= ahead < 0:
            return self._place_behind(number, begin, count, now)
        if number == self._suspected:
            return self._restart(self._suspected_from, number + count)
        self._suspected, self._suspected_from = (number + count) % numbering.numbers, begin
        return Arrival.STRAY

    def _place_behind(self, number: int, begin: int, count: int, now: float) -> Arrival:
        if begin + count > self.next:  # the end of it is new
            self.went_on = now
            self._fill(begin, self.next)
            self._confirmed = self.next
            self._go_to(begin + count)
            return Arrival.NEXT
        if not count:
            return Arrival.NEXT
        is_far = begin < self.next - MAX_MISORDER
        if not self._fill(begin, begin + count):
            return Arrival.DUPLICATE
        if is_far and now >= self.went_on + LATE_SECONDS:
            # Only such ones come: one datagram was far ahead, whoever sent it, and the stream is still here
            return self._restart(begin, number + count)
        return Arrival.LATE

    def _restart(self, begin: int, number: int) -> Arrival:
        """The stream is at ``begin``, wherever it was, and goes on with ``number``."""
        for gap in self.gaps:
            # If it is in what one datagram has left out, that was not of this stream
            self._end(gap, gap.end if gap.end <= self._confirmed else min(gap.end, begin))
        self.gaps.clear()
        self._first, self._lost = number, 0
        self.next, self._confirmed, self._suspected = number, number, -1
        return Arrival.RESTART

    def _fill(self, begin: int, end: int) -> bool:
        """These numbers have come. Returns True if one of them was missing."""
        filled = False
        left: list[Gap] = []
        for gap in self.gaps:
            if gap.end <= begin or end <= gap.begin:
                left.append(gap)
                continue
            filled = True
            if gap.begin < begin:
                left.append(Gap(gap.begin, begin, gap.since, gap.lost))
            if end < gap.end:
                left.append(Gap(end, gap.end, gap.since, gap.lost))
        self.gaps = left
        return filled

    def restore(self, number: int, now: float) -> bool:
        """Take a number that did not come, and was made of others. Returns True if it was missing."""
        begin = self.unwrap(number)
        if begin >= self.next:
            return self._place(number, 1, now) is Arrival.NEXT
        return self._fill(begin, begin + 1)

    def walk(
        self, numbers: Sequence[int], counts: Sequence[int] | None, now: float
    ) -> list[tuple[int, Arrival]]:
        """Take datagrams in a row. Returns the index and the place of those that are not NEXT.

        ``counts`` are those of :meth:`place`; None: each has one number.
        """
        found: list[tuple[int, Arrival]] = []
        self.breaks = breaks = []
        if counts is not None:
            for index, (number, count) in enumerate(zip(numbers, counts, strict=True)):
                if (place := self.place(number, count, now)) is not Arrival.NEXT:
                    found.append((index, place))
            return found
        mask, begin = self._numbering.numbers - 1, 0
        expected = self.next & mask
        for index, number in enumerate(numbers):
            if number == expected:
                expected = number + 1 & mask
                continue
            breaks.append(index)
            self.advance(index - begin)
            if (place := self.place(number, 1, now)) is not Arrival.NEXT:
                found.append((index, place))
            expected, begin = self.next & mask, index + 1
        if begin < len(numbers):
            self.went_on = now
        self.advance(len(numbers) - begin)
        return found

    def expire(self, now: float) -> None:
        """Count as lost what has been missing for LATE_SECONDS; at ``inf``, all that is missing."""
        for gap in self.gaps:
            if gap.since + LATE_SECONDS > now:
                break
            self._end(gap)

    def _counts(self, gap: Gap, end: int) -> bool:
        """Return True if the numbers of a gap, up to ``end``, may count as lost."""
        return gap.end <= self._confirmed or end - gap.begin < MAX_DROPOUT

    def _end(self, gap: Gap, end: int | None = None) -> None:
        """Count the numbers of a gap as lost, up to ``end``, if they may."""
        end = gap.end if end is None else end
        if end > gap.begin and self._counts(gap, end):
            self._lose(gap, end)

    def _lose(self, gap: Gap, end: int) -> None:
        """Count the numbers of a gap as lost, up to ``end``."""
        if not gap.lost:
            number = end - gap.begin
            self.counters.lost += number
            self._total.lost += number
            if gap.begin - self._first - self._lost >= KNOWN_MIN:
                self.known_lost += number
            self._lost += number
            gap.lost = end == gap.end

    def _settle(self, number: int) -> None:
        """Count as lost what is missing before ``number``, and do not wait for it any longer."""
        gaps = self.gaps
        while gaps and (gap := gaps[0]).begin < number and gap.end <= self._confirmed:
            end = min(gap.end, number)
            self._lose(gap, end)
            if end == gap.end:
                del gaps[0]
            else:
                gap.begin = end
