"""Memory for the symbols of one batch that were opened: kept for the next batch, since new memory for each
symbol takes longer than to open it."""

from __future__ import annotations

from collections.abc import Sequence

# Symbols for which memory is made at once, and bytes of all that are kept: as many as a batch has, mostly.
TOGETHER = 64
KEPT_MAX_BYTES = 2 << 20


class OpenedRoom:
    """Places for symbols of one size at a time. Used by one thread."""

    def __init__(self) -> None:
        self._size = 0
        self._places: list[memoryview] = []
        self._taken = 0

    def take(self, size: int, count: int) -> Sequence[memoryview] | None:
        """Places of ``size`` bytes for ``count`` symbols, until clear(); None if it has none for them."""
        start, end = self._taken, self._taken + count
        if size <= 0 or size * end > KEPT_MAX_BYTES or (start and size != self._size):
            return None
        if size != self._size:
            self._size, self._places = size, []
        while (known := len(self._places)) < end:
            memory = memoryview(bytearray(min(TOGETHER, KEPT_MAX_BYTES // size - known) * size))
            self._places += [memory[at : at + size] for at in range(0, len(memory), size)]
        self._taken = end
        return self._places[start:end]

    def clear(self) -> None:
        """Have all places free again. What is in them must be in use no more."""
        self._taken = 0
