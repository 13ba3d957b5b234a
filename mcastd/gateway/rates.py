"""How much came of a group in the last minutes, for people to look at. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

INTERVAL_SECONDS = 2.0
# Two minutes of these.
INTERVALS_MAX = 60


class RecentRates:
    """Bits per second, an interval after the other. Times are monotonic seconds."""

    def __init__(self, now: float, counted: int = 0) -> None:
        """``counted``: bytes of all that came before."""
        self._since = now
        self._counted = counted  # before this interval
        self._rates: deque[float] = deque(maxlen=INTERVALS_MAX)

    def note(self, now: float, counted: int) -> None:
        """``counted``: bytes of all that has ever come. To be called often; an interval may be longer."""
        if (elapsed := now - self._since) >= INTERVAL_SECONDS:
            self._rates.append(8 * (counted - self._counted) / elapsed)
            self._since, self._counted = now, counted

    def listed(self) -> Sequence[float]:
        """Oldest first; none before the first interval is over."""
        return tuple(self._rates)
