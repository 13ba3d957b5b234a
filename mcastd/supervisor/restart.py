"""When to try again: pure arithmetic, seconds in and out."""

from __future__ import annotations

from dataclasses import dataclass

# After this long at work the next failure counts as the first.
CALM_SECONDS = 10.0


@dataclass(slots=True)
class Backoff:
    """Doubling delays from ``first`` to ``longest``, without end: causes go away, sooner or later."""

    first: float = 0.1
    longest: float = 5.0
    failures: int = 0

    def delay(self, worked_for: float) -> float:
        """Seconds to wait after a run that failed, having been at work for ``worked_for`` seconds."""
        if worked_for >= CALM_SECONDS:
            self.failures = 0
        self.failures += 1
        return float(min(self.longest, self.first * 2.0 ** min(self.failures - 1, 32)))
