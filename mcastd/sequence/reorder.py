"""Holds back what comes after a gap, until the gap is filled, or has been waited for long enough.

```
  next = 7      8  9     11        7 comes: 7, 8 and 9 go on; 10 is waited for
                ^ held   ^ held
```
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Generic, TypeVar

# What may be held of all streams together. Of more, the oldest gap is waited for no longer.
HELD_MAX = 10_000
HELD_MAX_BYTES = 16 << 20

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

    @property
    def is_overfull(self) -> bool:
        return self.number > HELD_MAX or self.bytes > HELD_MAX_BYTES


@dataclass(slots=True)
class _Held(Generic[Item]):
    item: Item
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
        self._has_counts = False  # a datagram may have several numbers
        self._held: dict[int, _Held[Item]] = {}  # by number, in the order in which they came

    def __len__(self) -> int:
        """Datagrams that are held."""
        return len(self._held)

    @property
    def deadline(self) -> float:
        """When :meth:`expire` is due, in monotonic seconds; ``inf``: nothing is held."""
        for held in self._held.values():
            return held.since + self.seconds  # all came after the same gap
        return math.inf

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

    def go_on(self, number: int, count: int) -> list[Item]:
        """``count`` numbers from ``number`` on go on. Returns what follows them at once."""
        if count:
            self.next += max(0, self._ahead(number) + count)
            self._has_counts = self._has_counts or count != 1
        return self._following()

    def _following(self) -> list[Item]:
        found: list[Item] = []
        while self._held:
            begin = self.next
            if begin not in self._held:
                # A sender may cut the same numbers otherwise, and so go past some that are held
                begin = min(self._held) if self._has_counts else begin
                if begin not in self._held or begin > self.next:
                    break
            found.append(self._pop(begin))
        return found

    def _pop(self, begin: int) -> Item:
        held = self._held.pop(begin)
        self._room.number -= 1
        self._room.bytes -= held.size
        self.next = max(self.next, held.end)
        return held.item

    def hold(self, number: int, count: int, item: Item, size: int, now: float) -> list[Item]:
        """Hold a datagram of ``size`` bytes. Returns what goes on since there is no room for more."""
        begin = self.next + self._ahead(number)
        self._has_counts = self._has_counts or count != 1
        found: list[Item] = []
        if begin in self._held:  # cut otherwise
            now = self._held[begin].since
            next_before = self.next
            found.append(self._pop(begin))
            self.next = next_before
        self._held[begin] = _Held(item, begin + count, size, now)
        self._room.number += 1
        self._room.bytes += size
        while self._room.is_overfull and self._held:
            found += self._skip()
        return found

    def expire(self, now: float) -> list[Item]:
        """Return what has waited for long enough, in order; at ``inf`` all that is held."""
        found: list[Item] = []
        while self._held and self.deadline <= now:
            found += self._skip()
        return found

    def _skip(self) -> list[Item]:
        """Wait no longer for the gap before what is held."""
        self.next = min(self._held)
        return self._following()
