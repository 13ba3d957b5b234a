"""How many files a directory may have: counted when the limit may be met, since others remove some, too."""

from __future__ import annotations

from collections.abc import Callable

from mcastd.delivery.description import ObjectDescription
from mcastd.delivery.names import shown
from mcastd.delivery.refused import TOO_MANY, RefusedError

# While there is no place for one more file, those that are there are counted again after this long.
RECOUNT_SECONDS = 60.0


class FileLimit:
    """One thread uses it."""

    def __init__(self, most: float, count: Callable[[float], int]) -> None:
        """``count`` returns how many files there are: any number from its argument on if there are more."""
        self._most = most
        self._count = count
        self._there: int | None = None  # at most; None: they were not counted yet
        self._recount_at = 0.0  # monotonic time

    def note_new(self) -> None:
        """Note that there is a file more."""
        if self._there is not None:
            self._there += 1

    def is_met(self, coming: int, now: float) -> bool:
        """Return True if there is no place for one more file beside ``coming`` others. Raises OSError.

        ``now`` is monotonic time.
        """
        if self._there is None or (self._there + coming >= self._most and now >= self._recount_at):
            self._there = self._count(self._most)
            if self._there + coming >= self._most:
                self._recount_at = now + RECOUNT_SECONDS
        return self._there + coming >= self._most


def too_many(description: ObjectDescription, most: float) -> RefusedError:
    """What to raise for a file that has no place among ``most``."""
    return RefusedError(
        shown(description.path),
        f"there are {most:,} files already, and there may be no more",
        "raise max_files, or remove some",
        reason=TOO_MANY,
    )
