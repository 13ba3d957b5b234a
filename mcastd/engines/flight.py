"""Messages that were sent and have no answer yet. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from mcastd.engines.segments import KeptMessage


class Flight:
    """In the order in which they were sent. A server may answer in another."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self.last = 0  # number of the last message that was ever sent
        # Up to this number what the server has last does not tell what it has before
        self.doubted = 0
        self._messages: deque[KeptMessage] = deque()
        self._answered: set[int] = set()  # behind the first that is not

    def __len__(self) -> int:
        """Messages without an answer."""
        return len(self._messages) - len(self._answered)

    def add(self, messages: Sequence[KeptMessage]) -> None:
        self._messages.extend(messages)
        self.last = messages[-1][0] if messages else self.last
        self.size += sum(len(message) for _, message in messages)

    @property
    def is_out_of_order(self) -> bool:
        """The server has a message, and said nothing of one before it: it may never have had that."""
        return bool(self._answered)

    def doubt(self) -> None:
        """The server may have some of these, and not have others before them."""
        if self._messages:
            self.doubted = self._messages[-1][0]

    def left(self) -> list[KeptMessage]:
        """Those without an answer."""
        answered = self._answered
        return [one for one in self._messages if one[0] not in answered]

    def answer(self, numbers: Sequence[int]) -> list[KeptMessage]:
        """Messages have their answers. Returns all that are answered without one before them that is not.

        An answer to no message, or a second one, changes nothing.
        """
        messages, answered = self._messages, self._answered
        done = 0
        if not answered and [number for number, _ in islice(messages, len(numbers))] == numbers:
            done = len(numbers)  # in order, as a rule
        else:
            answered |= {number for number, _ in messages}.intersection(numbers)
            for number, _ in messages:
                if number not in answered:
                    break
                answered.remove(number)
                done += 1
        first = [messages.popleft() for _ in range(done)]
        self.size -= sum(len(message) for _, message in first)
        return first
