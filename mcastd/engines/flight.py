"""Messages that were sent and have no answer yet. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mcastd.engines.segments import KeptMessage


class Flight:
    """In the order in which they were sent. A server may answer in another."""

    def __init__(self) -> None:
        self.size = 0  # bytes
        self._messages: deque[KeptMessage] = deque()
        self._answered: set[int] = set()  # behind the first that is not

    def __len__(self) -> int:
        """Messages without an answer."""
        return len(self._messages) - len(self._answered)

    def add(self, messages: Sequence[KeptMessage]) -> None:
        self._messages.extend(messages)
        self.size += sum(len(message) for _, message in messages)

    def left(self) -> list[KeptMessage]:
        """Those without an answer."""
        answered = self._answered
        return [one for one in self._messages if one[0] not in answered]

    def answer(self, number: int) -> list[KeptMessage]:
        """A message has its answer. Returns all that are answered without one before them that is not.

        An answer to no message, or a second one, changes nothing.
        """
        messages, answered = self._messages, self._answered
        if messages and number != messages[0][0]:
            if number not in answered and any(number == each for each, _ in messages):
                answered.add(number)
            return []
        done: list[KeptMessage] = []
        while messages and (messages[0][0] == number or messages[0][0] in answered):
            one = messages.popleft()
            answered.discard(one[0])
            self.size -= len(one[1])
            done.append(one)
        return done

    def answer_up_to(self, number: int) -> list[KeptMessage]:
        """All messages up to a number have their answer. Returns what :meth:`answer` does."""
        done: list[KeptMessage] = []
        while self._messages and self._messages[0][0] <= number:
            done += self.answer(self._messages[0][0])
        return done
