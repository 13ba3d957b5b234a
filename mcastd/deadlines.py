"""When each of many is due, so that a turn looks at those alone that are."""

from __future__ import annotations

import heapq
import math
from itertools import count
from typing import Generic, TypeVar

# Entries of the heap that may be out of date, beside as many as are not.
STALE_MAX = 64

T = TypeVar("T")


class Deadlines(Generic[T]):
    """A heap whose entries hold as long as the table has the same time. For one thread."""

    def __init__(self) -> None:
        self._at: dict[T, float] = {}  # monotonic seconds
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()  # so that no two entries are compared by what is due

    def set(self, one: T, at: float) -> None:
        """It is due then, in monotonic seconds, and not when it was before; ``inf``: never."""
        if at == math.inf:
            self._at.pop(one, None)
        elif self._at.get(one) != at:
            self._at[one] = at
            heapq.heappush(self._heap, (at, next(self._order), one))
        if len(self._heap) > 2 * len(self._at) + STALE_MAX:
            self._heap = [(at, next(self._order), one) for one, at in self._at.items()]
            heapq.heapify(self._heap)

    def hasten(self, one: T, at: float) -> None:
        """It is due then, in monotonic seconds, if it is not before.

        A deadline that moves on, as with each piece that a slow player takes, changes nothing so: whoever
        looks finds that it is too early, and says when to look again.
        """
        if at < self._at.get(one, math.inf):
            self.set(one, at)

    def __len__(self) -> int:
        """Times that are held, those that count no more included."""
        return len(self._heap)

    @property
    def first(self) -> float:
        """When the first one is due, in monotonic seconds; ``inf``: none ever is."""
        while self._heap and self._at.get(self._heap[0][-1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> list[T]:
        """Those that are due, the longest one first. They are not due again before they are set."""
        found: list[T] = []
        while (at := self.first) <= now and at < math.inf:
            one = heapq.heappop(self._heap)[-1]
            del self._at[one]
            found.append(one)
        return found
