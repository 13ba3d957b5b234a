"""When the network watch acts on changes, and asks again: pure arithmetic, seconds in and out."""

from __future__ import annotations

import math

# Changes are taken together for as long as this, those of a calm host too
GATHER_SECONDS = 0.02
# The same while they keep coming: no worker is told later than 0.1 s after a change
GATHER_MAX_SECONDS = 0.06
# Without a change for this long the host is calm again
CALM_SECONDS = 0.5
# The share of a core that this thread may take while changes keep coming, and what it may take at once
CPU_SHARE = 0.04
CPU_SAVED_SECONDS = 0.1
# Until the kernel is asked again, if it could not be asked, or refused an answer; doubled each time
RETRY_SECONDS = 0.1
RETRY_MAX_SECONDS = 2.0
REFUSED_RETRY_MAX_SECONDS = 60.0


class Pace:
    """How long changes gather, so that a host that changes all day costs a bounded share of a core."""

    def __init__(self, now: float) -> None:
        self._gather = GATHER_SECONDS
        self._free_at = 0.0  # when it may act again
        self._saved = CPU_SAVED_SECONDS  # of CPU time; negative: it took more than its share
        self._began = now

    def wait(self, now: float) -> float:
        """Let changes gather for this long after one that came ``now``, and then act."""
        calm = now > self._free_at + CALM_SECONDS
        self._gather = GATHER_SECONDS if calm else min(2 * self._gather, GATHER_MAX_SECONDS)
        self._saved = min(CPU_SAVED_SECONDS, self._saved + (now - self._began) * CPU_SHARE)
        self._began = now
        return max(GATHER_SECONDS, self._free_at - now)

    def note(self, now: float, spent: float) -> None:
        """It has acted, which took so much CPU time."""
        self._saved -= spent
        self._free_at = now + max(self._gather, -self._saved / CPU_SHARE)


class Retry:
    """When to ask again what had no answer: seconds in and out."""

    def __init__(self, longest: float) -> None:
        self.at = -math.inf  # monotonic seconds
        self._longest = longest
        self._after = RETRY_SECONDS

    def put_off(self, now: float) -> bool:
        """Returns True the first time."""
        first = self._after == RETRY_SECONDS
        self.at = now + self._after
        self._after = min(2 * self._after, self._longest)
        return first

    def reset(self) -> None:
        self.at, self._after = -math.inf, RETRY_SECONDS
