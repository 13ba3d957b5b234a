"""When the network watch acts on changes, and asks again: pure arithmetic, seconds in and out."""

from __future__ import annotations

import math

# After the first change the watch waits this long for others, and acts on all of them.
GATHER_SECONDS = 0.02
# While changes keep coming, the wait doubles up to this: a worker is to be told within 0.1 s.
GATHER_MAX_SECONDS = 0.06
# After this long without a change, the first wait is the short one again.
CALM_SECONDS = 0.5
# The share of a core that the watch may take while changes keep coming, and the CPU time that it may save up.
CPU_SHARE = 0.04
CPU_SAVED_SECONDS = 0.1
# The first delay until the kernel is asked again; doubled each time, up to the first of the two bounds if it
# could not be asked at all, and to the second if it refused one answer.
RETRY_SECONDS = 0.1
RETRY_MAX_SECONDS = 2.0
REFUSED_RETRY_MAX_SECONDS = 60.0


class Pace:
    """How long changes gather, so that a host that changes all day costs a bounded share of a core."""

    def __init__(self, now: float) -> None:
        self._gather = GATHER_SECONDS
        self._free_at = 0.0  # monotonic seconds: earliest time of the next action
        self._saved = CPU_SAVED_SECONDS  # CPU time; negative if it took more than its share
        self._credited_at = now  # up to when its share was added to _saved

    def wait(self, now: float) -> float:
        """Seconds to let changes gather after one that came ``now``, before acting on all of them."""
        calm = now > self._free_at + CALM_SECONDS
        self._gather = GATHER_SECONDS if calm else min(2 * self._gather, GATHER_MAX_SECONDS)
        self._saved = min(CPU_SAVED_SECONDS, self._saved + (now - self._credited_at) * CPU_SHARE)
        self._credited_at = now  # up to when its share was added to _saved
        return max(GATHER_SECONDS, self._free_at - now)

    def note(self, now: float, spent: float) -> None:
        """Note an action that took ``spent`` seconds of CPU time and ended ``now``."""
        self._saved -= spent
        self._free_at = now + max(self._gather, -self._saved / CPU_SHARE)


class Retry:
    """When to ask again for what had no answer: after delays that double, up to ``longest`` seconds."""

    def __init__(self, longest: float) -> None:
        self.at = -math.inf  # monotonic seconds
        self._longest = longest
        self._after = RETRY_SECONDS

    def put_off(self, now: float) -> bool:
        """Ask again after the next delay. Returns True if it is the first one since the last reset."""
        first = self._after == RETRY_SECONDS
        self.at = now + self._after
        self._after = min(2 * self._after, self._longest)
        return first

    def reset(self) -> None:
        self.at, self._after = -math.inf, RETRY_SECONDS
