"""What became of the files that a command receives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from mcastd.delivery.received import Outcome
from mcastd.delivery.refused import RefusedError


class FileOutcomes:
    """One thread adds to it, and then ``on_outcome`` is called; another one reads."""

    def __init__(self, on_outcome: Callable[[], None]) -> None:
        self.landed = self.landed_bytes = self.unchanged = 0
        self.refused: dict[str, RefusedError] = {}  # by name, until the file lands after all
        self._news: deque[Outcome] = deque()
        self._on_outcome = on_outcome

    def add(self, outcome: Outcome) -> None:
        name = outcome.description.path
        if outcome.refused is not None:
            self.refused[name] = outcome.refused
        else:
            self.refused.pop(name, None)
            self.landed += 1
            self.unchanged += outcome.unchanged
            self.landed_bytes += size_of(outcome)
        self._news.append(outcome)
        self._on_outcome()

    def take(self) -> Iterator[Outcome]:
        """What was added since the last call."""
        while self._news:
            yield self._news.popleft()


def size_of(outcome: Outcome) -> int:
    """Bytes of the file, or of what was sent of it if the sender did not tell."""
    description = outcome.description
    return description.length if description.content_length is None else description.content_length
