r"""What an engine does not have yet, in order: in memory, or in the spool, where there is one.

```
   add ---> spool ---> take         what the disk does not take stays in memory, behind what it took
       \--> memory -/
```
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from mcastd import clock
from mcastd.engines.segments import READ_BYTES, KeptMessage, Segments, SpoolGoneError

# Memory of a message beside its content.
MESSAGE_OVERHEAD_BYTES = 128
# A disk that took nothing is tried again after so long.
RETRY_SECONDS = 1.0


class BacklogBounds(NamedTuple):
    """How much is held, in bytes, and whether the oldest messages go where there is more."""

    memory: int
    spool: int
    drop_oldest: bool


class Backlog:
    """One thread uses it. Messages are known by numbers, which ascend. No method raises anything."""

    def __init__(self, bounds: BacklogBounds, segments: Segments | None, first: int) -> None:
        """``first`` is the number of the first message, where no spool knows better."""
        self.trouble: OSError | None = None  # why the spool takes nothing
        self.taken_up = 0 if segments is None else segments.unread  # messages that were left there before
        self.first = first if segments is None else segments.next  # the number of the first new message
        self._bounds = bounds
        self._segments = segments
        self._numbers = count(self.first)
        self._counted_from = 0
        self._memory: deque[KeptMessage] = deque()
        self._memory_bytes = 0
        self._retry_at = 0.0  # monotonic seconds
        self._lost_up_to = 0  # the last number of the files that were given up
        self._gone: list[tuple[int, int]] = []  # of files that others have removed: see Segments.give_up()
        self._unspooled: set[int] = set()  # numbers that were taken and are not on the disk

    @property
    def waiting(self) -> int:
        """Messages that were not taken."""
        return len(self._memory) + (0 if self._segments is None else self._segments.unread)

    @property
    def spool_bytes(self) -> int:
        return 0 if self._segments is None else self._segments.size

    def number(self, many: int) -> list[int]:
        """Numbers for new messages."""
        return [next(self._numbers) for _ in range(many)]

    def add(self, messages: Sequence[KeptMessage], counted_from: int = 0) -> int:
        """Returns how many were given up, of these or others, since there is no room.

        Those with numbers below ``counted_from`` are not among them.
        """
        self._counted_from = counted_from
        self._memory.extend(messages)
        self._memory_bytes += sum(len(one) for _, one in messages) + len(messages) * MESSAGE_OVERHEAD_BYTES
        dropped = self._spool()
        while self._memory_bytes > self._bounds.memory and len(self._memory) > 1:
            _, one = self._memory.popleft() if self._bounds.drop_oldest else self._memory.pop()
            self._memory_bytes -= len(one) + MESSAGE_OVERHEAD_BYTES
            dropped += 1
        return dropped

    def take(self) -> list[KeptMessage]:
        """The oldest messages, some hundred KiB of them; none if there are none."""
        if self._segments is not None and self._segments.unread:
            try:
                if spooled := self._read(self._segments):
                    return spooled
            except OSError as error:
                self._failed(error)
                return []
        taken: list[KeptMessage] = []
        room = READ_BYTES
        while self._memory and room > 0:
            taken.append(self._memory.popleft())
            room -= len(taken[-1][1]) + MESSAGE_OVERHEAD_BYTES
        self._memory_bytes -= sum(len(one) for _, one in taken) + len(taken) * MESSAGE_OVERHEAD_BYTES
        if self._segments is not None:
            self._unspooled.update([number for number, _ in taken])
        return taken

    def _read(self, segments: Segments) -> list[KeptMessage]:
        """The oldest messages of the spool that are there. Raises OSError."""
        while segments.unread:
            try:
                return segments.read()
            except SpoolGoneError:
                self._gone.append(segments.give_up())
                self._lost_up_to = self._gone[-1][1]
        return []

    def collect_gone(self, counted_from: int) -> int:
        """How many messages that were not handed over somebody has removed from the disk since the last call.

        Those with numbers below ``counted_from`` are not among them.
        """
        gone, self._gone = self._gone, []
        return sum(unread for unread, last in gone if last >= counted_from)

    def is_kept(self, number: int) -> bool:
        """Return True if a message that was taken, and not forgotten, is on the disk."""
        return self._segments is not None and number > self._lost_up_to and number not in self._unspooled

    def forget(self, number: int) -> None:
        """The engine has all messages up to this one."""
        if self._unspooled:
            self._unspooled = {one for one in self._unspooled if one > number}
        if self._segments is not None:
            try:
                self._segments.forget(number)
            except OSError as error:
                self._failed(error)

    def close(self) -> int:
        """Returns how many messages are lost with it: those that were not taken, and are in memory alone."""
        self._retry_at = 0.0
        dropped = self._spool()
        if self._segments is not None:
            self._segments.close()
        return dropped + len(self._memory)

    def _spool(self) -> int:
        """Move what is in memory to the disk. Returns how many messages were given up for that."""
        segments = self._segments
        if segments is None or clock.monotonic() < self._retry_at:
            return 0
        if not self._memory:
            self.trouble = None
            return 0
        dropped = 0
        try:
            while segments.size + self._memory_bytes > self._bounds.spool and segments.size:
                if not self._bounds.drop_oldest:
                    return dropped + self._drop_memory()
                unread, self._lost_up_to = segments.drop_oldest()
                # A file has messages of one opening only, and so has what is counted
                dropped += unread if self._lost_up_to >= self._counted_from else 0
            segments.append([*self._memory])
        except OSError as error:
            self._failed(error)
            return dropped
        self._memory.clear()
        self._memory_bytes = 0
        self.trouble = None
        return dropped

    def _drop_memory(self) -> int:
        dropped = len(self._memory)
        self._memory.clear()
        self._memory_bytes = 0
        return dropped

    def _failed(self, error: OSError) -> None:
        self.trouble = error
        self._retry_at = clock.monotonic() + RETRY_SECONDS
