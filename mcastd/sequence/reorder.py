"""Holds back what comes after a gap, until the gap is filled, or has been waited for long enough.

```
  next = 7      8  9     11        7 comes: 7, 8 and 9 go on; 10 is waited for
                ^ held   ^ held
```

Anybody may send a number that is far ahead. It is held as others are, but while these go on before it, it is
not its turn.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mcastd.sequence.order import LATE_SECONDS, MAX_DROPOUT, MAX_MISORDER

# What may be held of all streams together. Of more, that of which most is held waits no longer.
HELD_MAX = 10_000
HELD_MAX_BYTES = 16 << 20
# When there is no room for more, what is implausible goes until so much of the room is free.
FREED_SHARE = 0.25
# Datagrams that are remembered by their time at most, beside twice those that are held.
KEPT_GONE_MAX = 64

Item = TypeVar("Item")


class Turn(enum.Enum):
    """Whether it is a datagram's turn to go on."""

    NOW = enum.auto()
    LATER = enum.auto()  # others have to go before it
    PAST = enum.auto()  # others have gone that come after it


@dataclass(slots=True)
class HeldRoom:
    """What is held of all streams."""

    number: int = 0
    bytes: int = 0
    strays: int = 0  # datagrams that were given up, and are not counted yet: their numbers are far off
    holders: set[Reorder[Any]] = field(default_factory=set, compare=False)

    @property
    def is_overfull(self) -> bool:
        return self.number > HELD_MAX or self.bytes > HELD_MAX_BYTES

    def take_strays(self) -> int:
        """How many datagrams were given up since this was last asked."""
        strays, self.strays = self.strays, 0
        return strays

    def has_free(self, share: float) -> bool:
        """Return True if at least this share of the room is free."""
        return self.number <= (1 - share) * HELD_MAX and self.bytes <= (1 - share) * HELD_MAX_BYTES


@dataclass(slots=True)
class _Held(Generic[Item]):
    item: Item
    begin: int
    end: int  # the number after its last one
    size: int  # bytes
    since: float  # monotonic seconds


class Reorder(Generic[Item]):
    """The order in which the datagrams of one stream go on."""

    def __init__(self, seconds: float, numbers: int, number: int, room: HeldRoom) -> None:
        """A gap is waited for ``seconds``. Numbers count modulo ``numbers``; ``number`` is the next one."""
        self.seconds = seconds
        self.next = number  # counts on where numbers wrap
        self._numbers = numbers
        self._room = room
        self._held: dict[int, _Held[Item]] = {}  # by number, in the order in which they came
        self._begins: list[int] = []  # a heap of these numbers, and of some that are held no longer
        # The same by time: those that were not far ahead when they came, and those that were
        self._near: deque[_Held[Item]] = deque()
        self._far: deque[_Held[Item]] = deque()
        self._came_at = -math.inf  # monotonic seconds, when the next number came last

    def __len__(self) -> int:
        """Datagrams that are held."""
        return len(self._held)

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: nothing is held."""
        if (near := self._first(self._near)) is not None:
            return near.since + self.seconds
        if (far := self._first(self._far)) is not None:
            patience = LATE_SECONDS + self.seconds
            return min(max(far.since, self._came_at) + self.seconds, far.since + patience)
        return math.inf

    def _first(self, by_time: deque[_Held[Item]]) -> _Held[Item] | None:
        """The first of these that is still held."""
        while by_time and self._held.get(by_time[0].begin) is not by_time[0]:
            by_time.popleft()
        return by_time[0] if by_time else None

    def _ahead(self, number: int) -> int:
        """How far a number is ahead of the next one, as near as can be."""
        half = self._numbers // 2
        return (number - self.next + half) % self._numbers - half

    def turn(self, number: int, count: int) -> Turn:
        """Whose turn is it? A datagram without numbers, as a heartbeat, waits for nothing."""
        ahead = self._ahead(number)
        if not count or -count < ahead <= 0:
            return Turn.NOW
        return Turn.LATER if ahead > 0 else Turn.PAST

    def go_on(self, number: int, count: int, now: float) -> list[Item]:
        """``count`` numbers from ``number`` on go on. Returns what follows them at once."""
        if count:
            self.next += max(0, self._ahead(number) + count)
            self._came_at = now
        return self._following()

    def _lowest(self) -> int:
        """The lowest number that is held."""
        while self._begins[0] not in self._held:
            heapq.heappop(self._begins)
        return self._begins[0]

    def _following(self) -> list[Item]:
        found: list[Item] = []
        # A sender may cut the same numbers otherwise, and so go past some that are held
        while self._held and (begin := self._lowest()) <= self.next:
            held = self._held[begin]
            self._remove(held)
            self.next = max(self.next, held.end)
            found.append(held.item)
        return found

    def _remove(self, held: _Held[Item]) -> None:
        room = self._room
        del self._held[held.begin]
        room.number -= 1
        room.bytes -= held.size
        if not self._held:
            room.holders.discard(self)
            self._begins.clear()

    def hold(self, number: int, count: int, item: Item, size: int, now: float) -> list[Item]:
        """Hold a datagram of ``size`` bytes.

        Returns what goes on since there is no room for more: it may be of another stream, too.
        """
        begin, room = self.next + self._ahead(number), self._room
        found: list[Item] = []
        if (before := self._held.get(begin)) is not None:  # cut otherwise
            now = before.since
            found.append(before.item)
            self._remove(before)
        self._held[begin] = held = _Held(item, begin, begin + count, size, now)
        by_time = self._near if begin - self.next < MAX_DROPOUT else self._far
        by_time.append(held)
        if len(by_time) > 2 * len(self._held) + KEPT_GONE_MAX:
            left = [one for one in by_time if self._held.get(one.begin) is one]
            by_time.clear()
            by_time.extend(left)
        heapq.heappush(self._begins, begin)
        if len(self._begins) > 2 * len(self._held):
            self._begins = sorted(self._held)
        room.number += 1
        room.bytes += size
        room.holders.add(self)
        while room.is_overfull:
            largest = max(room.holders, key=len)
            largest._give_up_implausible()
            if room.is_overfull:
                found += largest._skip()
        return found

    def expire(self, now: float) -> list[Item]:
        """Return what has waited for long enough, in order; at ``inf`` all that is held."""
        found: list[Item] = []
        while self._held and self.deadline <= now:
            patience = LATE_SECONDS + self.seconds
            near, far = self._first(self._near), self._first(self._far)
            if near is not None or far is None or max(far.since, self._came_at) + self.seconds <= now:
                found += self._skip()
            else:  # all before it goes on: its number is far off
                self._give_up([held for held in self._held.values() if held.since + patience <= now])
        return found

    def _skip(self) -> list[Item]:
        """Wait no longer for the gap before what is held."""
        if not self._held:
            return []
        self.next = self._lowest()
        return self._following()

    def _give_up_implausible(self) -> None:
        """Forget the oldest of what is far ahead, while others go on, or are held, that came after it."""
        at, latest, is_far = self.next, self._came_at, False
        implausible: list[_Held[Item]] = []
        for _, held in sorted(self._held.items()):
            is_far = is_far or held.begin - at > MAX_MISORDER
            if not is_far:
                latest = max(latest, held.since)
            elif held.since < latest:
                implausible.append(held)
            at = max(at, held.end)
        implausible.sort(key=lambda held: held.since)
        number, size, given_up = self._room.number, self._room.bytes, list[_Held[Item]]()
        for held in implausible:
            if HeldRoom(number, size).has_free(FREED_SHARE):
                break
            given_up.append(held)
            number, size = number - 1, size - held.size
        self._give_up(given_up)

    def _give_up(self, given_up: list[_Held[Item]]) -> None:
        for held in given_up:
            self._remove(held)
        self._room.strays += len(given_up)
