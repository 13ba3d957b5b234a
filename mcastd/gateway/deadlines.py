"""When which of many connections has to be looked at: the others cost nothing meanwhile.

A heap of times. One of them counts for each connection: the time of its next look. A deadline that moves on,
as with each piece that a slow player takes, leaves that as it is. Whoever looks then finds that it is too
early, and says when to look again.
"""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

# Times that count no more may be as many as those that do, and so many more.
STALE_MAX = 64


class Deadlines:
    """Of connections, by descriptor. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._looks: dict[int, float] = {}  # by descriptor: the time in the heap that counts

    def __len__(self) -> int:
        """Times that are held, those that count no more included."""
        return len(self._heap)

    @property
    def next(self) -> float:
        """When the first look is due; inf: never."""
        heap, looks = self._heap, self._looks
        while heap and looks.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def set(self, fd: int, deadline: float) -> None:
        """Have a look at a connection at its deadline, or before."""
        if deadline >= self._looks.get(fd, math.inf):
            return
        self._looks[fd] = deadline
        heappush(self._heap, (deadline, fd))
        if len(self._heap) > 2 * len(self._looks) + STALE_MAX:
            self._heap = [(when, of) for of, when in self._looks.items()]
            heapify(self._heap)

    def forget(self, fd: int) -> None:
        """It is closed: another may get its number."""
        self._looks.pop(fd, None)

    def due(self, now: float) -> list[int]:
        """Those whose look is due, in the order of their times: once, unless they are set anew."""
        due = []
        while self.next <= now:
            _, fd = heappop(self._heap)
            del self._looks[fd]
            due.append(fd)
        return due
